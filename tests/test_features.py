"""Frames: Kaldi's numbers, and the laws of streams, of time and of batches."""

import warnings

import numpy as np
import pytest
import torch
from conftest import RATE, speechlike
from hypothesis import given, settings
from hypothesis import strategies as st

from kws import audio
from kws.features import describe, from_file, make_options, n_frames, plot
from kws.features.extractor import FeatureExtractor
from kws.features.framing import first_sample
from kws.features.options import WINDOW_TYPES

OPTION_SETS = [
    ("fbank", {"num_mel_bins": 80}),
    ("fbank", {"num_mel_bins": 40, "snip_edges": False, "window_type": "hamming"}),
    ("fbank", {"use_energy": True, "htk_compat": True, "raw_energy": False, "window_type": "hanning"}),
    ("fbank", {"use_power": False, "use_energy": True, "energy_floor": 1.0, "window_type": "rectangular"}),
    ("fbank", {"use_log_fbank": False, "remove_dc_offset": False, "window_type": "blackman"}),
    ("fbank", {"preemphasis_coefficient": 0.0, "high_freq": -400.0, "low_freq": 60.0, "window_type": "sine"}),
    ("mfcc", {}),
    ("mfcc", {"num_ceps": 40, "num_mel_bins": 40, "use_energy": False, "snip_edges": False}),
    ("mfcc", {"htk_compat": True, "cepstral_lifter": 0.0, "use_energy": False}),
    ("fbank", {"frame_length": 20.0, "frame_shift": 5.0, "snip_edges": False}),
]


def compute(samples, options) -> np.ndarray:
    return FeatureExtractor(options)(torch.from_numpy(samples)[None])[0][0].numpy()


@pytest.mark.parametrize(("kind", "chosen"), OPTION_SETS, ids=str)
@settings(max_examples=12, deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), max_size=12), n=st.integers(0, 6000))
def test_any_cutting_gives_the_bits_of_the_whole(kind, chosen, cuts, n):
    extractor = FeatureExtractor(make_options(kind, **chosen))
    samples = torch.from_numpy(speechlike(n))[None]
    whole, _ = extractor.stream(samples, flush=True)
    state, got, at = extractor.initial_state(), [], 0
    for cut in cuts:
        frames, state = extractor.stream(samples[:, at : at + cut], state)
        got.append(frames)
        at = min(at + cut, n)
        assert sum(f.shape[1] for f in got) == n_frames(at, extractor.options, flush=False)
    got.append(extractor.stream(samples[:, at:], state, flush=True)[0])
    assert torch.equal(torch.cat(got, dim=1), whole)


@pytest.mark.parametrize("snip_edges", [True, False])
def test_later_samples_change_no_earlier_frame(snip_edges):
    extractor = FeatureExtractor(make_options("fbank", snip_edges=snip_edges))
    samples = torch.from_numpy(speechlike(8000))[None]
    before, state = extractor.stream(samples[:, :5000])
    kept = state.tail.clone()
    changed = samples.clone()
    changed[:, 5000:] *= -3
    for wave in (samples, changed):
        whole, _ = extractor.stream(wave, flush=True)
        assert torch.equal(whole[:, : before.shape[1]], before)
        extractor.stream(wave[:, 5000:], state)
    assert torch.equal(state.tail, kept)  # the state given is not altered


@pytest.mark.parametrize("threads", [1, 2])
def test_alone_equals_together(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for kind, chosen in OPTION_SETS:
            extractor = FeatureExtractor(make_options(kind, **chosen))
            lengths = [16000, 400, 7777, 399, 12345, 16000]
            waves = torch.zeros(len(lengths), 16000)
            for i, n in enumerate(lengths):
                waves[i, :n] = torch.from_numpy(speechlike(n, i))
            together, counts = extractor(waves, lengths)
            for i, n in enumerate(lengths):
                alone, _ = extractor(waves[i : i + 1, :n])
                assert counts[i] == alone.shape[1]
                assert torch.equal(together[i, : counts[i]], alone[0])
                assert not together[i, counts[i] :].any()
            many, _ = extractor.stream(waves[:1].repeat(60, 1), flush=True)
            assert torch.equal(many, extractor.stream(waves[:1], flush=True)[0].expand_as(many))
    finally:
        torch.set_num_threads(before)


def test_mistakes_are_named(tmp_path):
    for kind, chosen, words in (
        ("plp", {}, "fbank, mfcc"),
        ("fbank", {"num_bins": 3}, "num_mel_bins"),
        ("fbank", {"window_type": "gauss"}, ", ".join(WINDOW_TYPES)),
        ("fbank", {"high_freq": 9000.0}, "8000"),
        ("mfcc", {"num_ceps": 30}, "num_mel_bins=23"),
    ):
        with pytest.raises(ValueError, match=words):
            make_options(kind, **chosen)
    with pytest.raises(ValueError, match=r"filters \[.*\] cover no point"):
        FeatureExtractor(make_options("fbank", num_mel_bins=128))
    with pytest.warns(UserWarning, match="32768"):
        FeatureExtractor(make_options())(torch.rand(1, 800))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FeatureExtractor(make_options())(torch.zeros(1, 800))


def test_options_survive_a_checkpoint():
    for kind, chosen in OPTION_SETS:
        options = make_options(kind, **chosen)
        assert make_options(**describe(options)) == options


def test_a_path_to_features_and_a_picture(tmp_path):
    path = tmp_path / "sound [1] = é.wav"
    audio.write(path, speechlike(RATE), RATE)
    assert from_file(path, feat_type="fbank", feat_dim=80).shape == (98, 80)
    assert from_file(path, feat_type="mfcc", feat_dim=13).shape == (98, 13)
    np.testing.assert_array_equal(from_file(path), compute(speechlike(RATE), make_options("fbank", num_mel_bins=80)))
    plot(path, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
