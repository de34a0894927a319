"""micro_wake_word's front-end, against the one that devices have."""

import numpy as np
import pytest
import torch
from conftest import RATE, speechlike, spoken
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.errors import OptionError
from kws.features import describe, make_options, n_frames
from kws.features.extractor import FeatureExtractor
from kws.features.online import OnlineExtractor

OPTIONS = make_options("micro")


def of_a_device(samples: np.ndarray) -> np.ndarray:
    """What pymicro-features, the C code itself, makes of int16 samples: frames (n, 40)."""
    oracle = pytest.importorskip("pymicro_features", reason="pip install pymicro-features").MicroFrontend()
    sound, rows = samples.tobytes(), []
    while len(sound) >= 320:
        result = oracle.process_samples(sound[:320])
        sound = sound[2 * result.samples_read :]
        rows += [result.features] if result.features else []
    return np.array(rows, np.float32).reshape(-1, 40)


def sounds() -> dict[str, np.ndarray]:
    rng, n, t = np.random.default_rng(0), 2 * RATE, np.arange(2 * RATE) / RATE
    words = np.concatenate([spoken(word, rng) for word in ("low", "high", "rise", "fall")])
    made = {
        "words": words, "quiet words": words / 300, "sloped": speechlike(n), "silence": np.zeros(n),
        "loudest noise": rng.integers(-32768, 32768, n), "quietest noise": rng.integers(-1, 2, n),
        "square": 32767 * np.sign(np.sin(2 * np.pi * 440 * t)), "sine": 32767 * np.sin(2 * np.pi * 1000 * t),
        "lowest": np.full(n, -32768), "click": np.eye(1, n, 700)[0] * 20000,
        "onset": np.where(t < 1, 0, 1) * rng.standard_normal(n) * 8000, "chirp": 30000 * np.sin(2000 * t * t),
    }  # fmt: skip
    return {name: np.rint(sound).clip(-32768, 32767).astype(np.int16) for name, sound in made.items()}


@pytest.mark.parametrize("name", sounds())
def test_the_bits_of_the_device(name):
    sound = sounds()[name]
    expected = of_a_device(sound)
    assert len(expected) == n_frames(len(sound), OPTIONS) > 90
    np.testing.assert_array_equal(OnlineExtractor(OPTIONS).push(sound, flush=True), expected)
    batch = FeatureExtractor(OPTIONS)(torch.from_numpy(np.stack([sound, sound[::-1]])).float())[0]
    np.testing.assert_array_equal(batch[0].numpy(), expected)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), max_size=12), n=st.integers(0, 6000))
def test_any_cutting_gives_the_bits_of_the_whole(cuts, n):
    extractor, stream, samples = FeatureExtractor(OPTIONS), OnlineExtractor(OPTIONS), speechlike(n)
    whole = extractor(torch.from_numpy(samples)[None])[0][0].numpy()
    assert whole.shape == (n_frames(n, OPTIONS), 40)
    state, parts, others, at = extractor.initial_state(), [], [], 0
    for end in (*np.cumsum(cuts, dtype=int), n):
        piece, end = samples[at:end], max(at, min(end, n))
        frames, state = extractor.stream(torch.from_numpy(piece)[None], state)
        parts, at = [*parts, frames[0].numpy()], end
        others.append(stream.push(piece))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(np.concatenate(others), whole)


def test_a_state_is_not_altered_and_padding_changes_nothing():
    extractor, samples = FeatureExtractor(OPTIONS), torch.from_numpy(speechlike(8000))[None]
    _, state = extractor.stream(samples[:, :4000])
    first, second = (extractor.stream(samples[:, 4000:], state)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert len(first[0])
    alone = extractor(samples[:, :5000])[0]
    padded = extractor(torch.cat([samples, samples]), lengths=[5000, 8000])[0]
    assert torch.equal(padded[:1, : alone.shape[1]], alone)


def test_what_it_refuses():
    assert make_options(**describe(OPTIONS)) == OPTIONS
    with pytest.raises(OptionError, match="micro has no option frame_length"):
        make_options("micro", frame_length=25.0)
    with pytest.raises(OptionError, match=r"type=micro .* no gradient"):
        FeatureExtractor(OPTIONS)(torch.zeros(1, 800, requires_grad=True))
