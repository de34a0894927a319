"""Frames: Kaldi's numbers, and the laws of streams, of time and of batches."""

import os
import subprocess
import sys
import warnings

import numba
import numpy as np
import pytest
import torch
from conftest import RATE, speechlike
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import ROOT

from kws import audio
from kws.features import describe, from_file, make_options, n_frames, read_conf, reference, simd, write_conf
from kws.features.extractor import FeatureExtractor
from kws.features.online import OnlineExtractor
from kws.features.options import WINDOW_TYPES
from kws.features.picture import plot

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


def test_dither_is_a_function_of_utterance_and_frame():
    """Laws 1 and 3 with noise: the same frames in a stream, alone, together, and in NumPy."""
    options = make_options("fbank", dither=1.0, dither_seed=3)
    extractor, samples = FeatureExtractor(options), torch.from_numpy(np.stack([speechlike(5000), speechlike(5000)]))
    together, _ = extractor(samples, utterances=[5, 6])
    assert not torch.equal(together[0], together[1])
    for row, utterance in zip(together, (5, 6), strict=True):
        state, parts = extractor.initial_state(1, [utterance]), []
        for part in samples[:1].split(777, dim=1):
            frames, state = extractor.stream(part, state)
            parts.append(frames[0])
        assert torch.equal(torch.cat(parts), row)
        alike = OnlineExtractor(options, utterance=utterance).push(samples[0].numpy(), flush=True)
        assert np.quantile(np.abs(alike - row.numpy()), 0.999) <= 1e-4
    still = FeatureExtractor(make_options("fbank", dither=1.0, dither_seed=4))(samples[:1])[0]
    silence = torch.zeros(1, 40000)
    assert not torch.equal(still[0], together[0])
    noise = OnlineExtractor(make_options("spectrogram", dither=10.0, preemphasis_coefficient=0.0, raw_energy=True))
    energy = np.exp(noise.push(silence[0].numpy(), flush=True)[:, 0])  # of 400 samples of variance 100 each
    assert abs(energy.mean() / (400 * 100) - 1) < 0.03


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), max_size=12), n=st.integers(0, 6000), which=st.integers(0, 13))
def test_any_cutting_gives_the_bits_of_the_whole_in_numpy(cuts, n, which):
    more = [("spectrogram", {}), ("spectrogram", {"snip_edges": False}), ("fbank", {"dither": 1.0}),
            ("mfcc", {"num_ceps": 5})]  # fmt: skip
    kind, chosen = [*OPTION_SETS, *more][which]
    extractor, samples = OnlineExtractor(make_options(kind, **chosen)), speechlike(n)
    whole, parts, at = extractor.push(samples, flush=True), [], 0
    for cut in cuts:
        parts.append(extractor.push(samples[at : at + cut]))
        at = min(at + cut, n)
    parts.append(extractor.push(samples[at:], flush=True))
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_kaldi_configuration(tmp_path):
    path = tmp_path / "mfcc.conf"
    path.write_text("# high resolution\n--use-energy=false   # only non-default\n--num-mel-bins=40\n--num-ceps=40\n"
                    "--low-freq=20\n--high-freq=-400\n\n--htk-compat\n")  # fmt: skip
    options = read_conf(path, "mfcc")
    assert options == make_options("mfcc", use_energy=False, num_mel_bins=40, num_ceps=40, low_freq=20.0,
                                   high_freq=-400.0, htk_compat=True)  # fmt: skip
    assert make_options("mfcc", conf=path, num_ceps=3) == options
    for kind, chosen in OPTION_SETS:
        write_conf(make_options(kind, **chosen), tmp_path / "again.conf")
        assert read_conf(tmp_path / "again.conf", kind) == make_options(kind, **chosen)
    for line, words in (
        ("--num-cepts=3", r"line 1: mfcc has no option --num-cepts; .*--num-ceps"),
        ("num-ceps=3", "expected --name=value"),
        ("--num-ceps=many", "takes a int"),
        ("--use-energy=perhaps", "takes a bool"),
        ("--vtln-map=x", "give it to kws.extract"),
        ("--num-ceps=90", r"mfcc.conf: num_ceps=90"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=words):
            read_conf(path, "mfcc")
    with pytest.raises(ValueError, match=r"no\.conf: No such file"):
        make_options("fbank", conf=tmp_path / "no.conf")


@pytest.mark.parametrize(("kind", "chosen"), OPTION_SETS, ids=str)
def test_gradients_reach_the_samples(kind, chosen):
    extractor = FeatureExtractor(make_options(kind, **chosen)).double()
    samples = torch.from_numpy(speechlike(700))[None].double().requires_grad_()
    frames, _ = extractor.stream(samples, flush=True)
    (gradient,) = torch.autograd.grad(frames.sum(), samples)
    step = torch.zeros_like(samples)
    step[0, 300] = 1e-3
    with torch.no_grad():
        there, back = (extractor.stream(samples + sign * step, flush=True)[0].sum() for sign in (1, -1))
    assert torch.isclose(gradient[0, 300], (there - back) / 2e-3, rtol=1e-3)


def test_logarithms_of_vectors():
    @numba.njit
    def logs(x, y):
        for i in range(0, len(x), simd.LANES):
            simd.store(y, i, simd.log(simd.load(x, i)))

    exponents = np.random.default_rng(0).uniform(-126, 128, 1 << 16)
    x = np.concatenate([np.exp2(exponents), 1 + exponents * 2**-20]).astype(np.float32)
    special = np.array([np.inf, np.nan, 1.0, np.finfo(np.float32).max], np.float32)
    x[: len(special)] = special
    logs(x, y := np.empty_like(x))
    np.testing.assert_array_equal(y[:3], [np.inf, np.nan, 0])
    expected = np.log(x[3:].astype(np.float64))
    assert (np.abs(y[3:] - expected) <= 1.5 * np.spacing(np.abs(expected.astype(np.float32)))).all()


def test_the_number_of_lanes_changes_no_bit(tmp_path):
    """A processor without AVX-512 has 8."""
    options = make_options("mfcc", num_ceps=13, snip_edges=False)
    samples = speechlike(5000)
    np.save(tmp_path / "here.npy", OnlineExtractor(options).push(samples, flush=True))
    np.save(tmp_path / "samples.npy", samples)
    code = """
import llvmlite.binding
import numpy as np
found, llvmlite.binding.get_host_cpu_features = llvmlite.binding.get_host_cpu_features, lambda: {"avx512f": %s}
from kws.features import make_options, simd
llvmlite.binding.get_host_cpu_features = found  # what numba compiles for stays this processor
from kws.features.online import OnlineExtractor
frames = OnlineExtractor(make_options("mfcc", num_ceps=13, snip_edges=False)).push(np.load("samples.npy"), flush=True)
np.testing.assert_array_equal(frames, np.load("here.npy"))
print(simd.LANES)
"""
    other = simd.LANES != 16
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code % other], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == (16 if other else 8)


def test_no_place_for_compiled_code(tmp_path):
    """A container whose files cannot be written."""
    (tmp_path / "file").touch()
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "file" / "none"), "PYTHONPATH": str(ROOT)}
    code = "from kws.features import from_file; print(from_file('sound.wav').shape)"
    audio.write(tmp_path / "sound.wav", speechlike(RATE), RATE)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "(98, 80)\n", done.stderr


@settings(max_examples=20, deadline=None)
@given(length=st.integers(2, 120), shift=st.integers(1, 130), frames=st.integers(1, 40), padded=st.booleans())
def test_windows_of_any_length(length, shift, frames, padded):
    """Transforms of any even size, windows that overlap or leave samples out, whole vectors of frames and not."""
    options = make_options("spectrogram", sample_frequency=1000.0, frame_length=float(length), frame_shift=float(shift),
                           round_to_power_of_two=padded, return_raw_fft=True)  # fmt: skip
    samples = speechlike(length + (frames - 1) * shift)
    found, expected = OnlineExtractor(options).push(samples, flush=True), reference.compute(samples, options)
    assert found.shape == (frames, options.dim)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("kind", "chosen"), OPTION_SETS, ids=str)
def test_on_a_gpu(kind, chosen):
    options = make_options(kind, **chosen)
    samples = torch.from_numpy(np.stack([speechlike(16000, seed) for seed in range(8)]))
    here, there = FeatureExtractor(options), FeatureExtractor(options).cuda()
    frames = there(samples.cuda())[0].cpu()
    scale = 1.0 if options.use_log_fbank else frames.abs().max()
    difference = ((frames - here(samples)[0]).abs() / scale).flatten()
    assert torch.quantile(difference, 0.999) <= 1e-4
    first, state = there.stream(samples[:, :7777].cuda())
    rest, _ = there.stream(samples[:, 7777:].cuda(), state, flush=True)
    assert torch.quantile((torch.cat([first, rest], dim=1).cpu() - frames).abs() / scale, 0.999) <= 1e-5
