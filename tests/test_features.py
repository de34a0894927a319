"""Frames: Kaldi's numbers, and the laws of streams, of time and of batches."""

import warnings

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch
import torchaudio
from conftest import RATE, speechlike
from hypothesis import given, settings
from hypothesis import strategies as st

from kws import audio
from kws.features import describe, from_file, make_options, n_frames, plot
from kws.features.extractor import FeatureExtractor
from kws.features.framing import first_sample
from kws.features.options import WINDOW_TYPES
from kws.features.tables import mel_filters

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


def by_knf(samples: np.ndarray, options) -> np.ndarray:
    """The same frames by kaldi-native-fbank, Kaldi's code in a library of its own."""
    settings = describe(options)
    kind = settings.pop("type")
    other = knf.FbankOptions() if kind == "fbank" else knf.MfccOptions()
    frame, mel = other.frame_opts, other.mel_opts
    frame.samp_freq, frame.frame_length_ms = settings["sample_frequency"], settings["frame_length"]
    frame.frame_shift_ms, frame.preemph_coeff = settings["frame_shift"], settings["preemphasis_coefficient"]
    mel.num_bins = settings["num_mel_bins"]
    for name, value in settings.items():
        for part in (frame, mel, other):
            if hasattr(part, name):
                setattr(part, name, value)
    computer = (knf.OnlineFbank if kind == "fbank" else knf.OnlineMfcc)(other)
    computer.accept_waveform(settings["sample_frequency"], samples.tolist())
    computer.input_finished()
    rows = [computer.get_frame(i) for i in range(computer.num_frames_ready)]
    return np.stack(rows) if rows else np.zeros((0, options.dim), np.float32)


def compute(samples, options) -> np.ndarray:
    return FeatureExtractor(options)(torch.from_numpy(samples)[None])[0][0].numpy()


@pytest.mark.parametrize(("kind", "chosen"), OPTION_SETS, ids=str)
def test_frames_are_kaldis(kind, chosen):
    options = make_options(kind, **chosen)
    difference = []
    for seed in range(6):
        samples = speechlike(RATE + 37 * seed, seed)
        ours, theirs = compute(samples, options), by_knf(samples, options)
        assert ours.shape == theirs.shape
        scale = 1.0 if kind == "mfcc" or options.use_log_fbank else theirs.max()
        difference.append(np.abs(ours - theirs).ravel() / scale)
    difference = np.concatenate(difference)
    most, mean = (2e-3, 5e-5) if kind == "mfcc" else (3e-4, 5e-6)
    assert np.quantile(difference, 0.999) <= most
    assert difference.mean() <= mean


def test_frames_are_torchaudios_too():
    samples = speechlike(RATE)
    theirs = torchaudio.compliance.kaldi.fbank(torch.from_numpy(samples)[None], num_mel_bins=80, dither=0.0)
    difference = np.abs(compute(samples, make_options("fbank", num_mel_bins=80)) - theirs.numpy())
    assert np.quantile(difference, 0.999) <= 5e-4
    assert difference.mean() <= 1e-5


def by_float64(samples: np.ndarray, options) -> np.ndarray:
    """Log mel energies in float64 by the definition of the transform, for frames that do not leave the wave."""
    n, size = options.window_samples, options.fft_samples
    a = 2 * np.pi * np.arange(n) / (n - 1)
    window = (0.5 - 0.5 * np.cos(a)) ** 0.85
    rows = []
    for frame in range(n_frames(len(samples), options)):
        x = samples[first_sample(frame, options) :][:n].astype(np.float64)
        x = x - x.mean()
        x = (x - 0.97 * np.concatenate([x[:1], x[:-1]])) * window
        turns = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(n)) / size)
        power = np.abs(turns @ x) ** 2
        rows.append(np.log(np.maximum(power @ mel_filters(options).astype(np.float64), 2.0**-23)))
    return np.array(rows)


def test_error_against_float64_is_no_more_than_kaldis():
    options = make_options("fbank", num_mel_bins=80)
    samples = speechlike(RATE)
    exact = by_float64(samples, options)
    ours = np.abs(compute(samples, options) - exact)
    assert ours.mean() <= 1.1 * np.abs(by_knf(samples, options) - exact).mean()
    assert np.quantile(ours, 0.999) <= 3e-4


GOLDEN = [20.498, 24.321, 21.358, 9.386, 6.246, 4.201, 2.571, 1.146, -0.178, -1.495]


def test_golden_frame():
    """Frame 10 of a 440 Hz sine of amplitude 8000, by real Kaldi's arithmetic as kaldi-native-fbank 1.23.0 has it."""
    samples = (8000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    frame = compute(samples, make_options("fbank", num_mel_bins=10))[10]
    np.testing.assert_allclose(frame, GOLDEN, atol=2e-3)


@pytest.mark.parametrize("chosen", [{}, {"snip_edges": False}, {"snip_edges": False, "frame_shift": 5.0}], ids=str)
def test_short_waves_have_kaldis_number_of_frames(chosen):
    options = make_options("fbank", **chosen)
    for n in [*range(1, 130), 399, 400, 401, 559, 560, 561, 719, 720, 1000, 1041]:
        samples = speechlike(n)
        theirs = by_knf(samples, options)
        assert n_frames(n, options) == len(theirs), n
        np.testing.assert_allclose(compute(samples, options), theirs, atol=2e-2, err_msg=str(n))


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
    with pytest.raises(ValueError, match="dither"):
        FeatureExtractor(make_options("fbank", dither=1.0))
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
