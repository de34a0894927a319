"""What is done to frames after the front-end: Kaldi's numbers, PCEN's formula, and the laws of streams and of time."""

import warnings

import kaldi_native_fbank as knf
import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.errors import KwsError, OptionError
from kws.features.cmvn import Cmvn, apply_stats, compute_stats, stats_by_key
from kws.features.deltas import Deltas, Splice, add_deltas, splice
from kws.features.pcen import Pcen, PcenOptions, pcen, smoothing
from kws.features.sliding import SlidingCmvn, sliding_cmvn

DIMS = [1, 7]
# (cmn_window, min_cmn_window): as usual, causal, a window of one, and two of Kaldi's corners: a first window longer
# than all others, and one that is never full
WINDOWS = [(10, 4), (7, 1), (1, 1), (4, 9), (3, 40)]
STREAMS = {
    "cmvn": lambda dim: Cmvn(compute_stats(energies(50, dim, 9)), norm_vars=True),
    "cmvn reversed": lambda dim: Cmvn(compute_stats(energies(50, dim, 9)), norm_vars=True, reverse=True),
    **{f"sliding {w}": lambda dim, w=w: SlidingCmvn(*w) for w in WINDOWS},
    **{f"sliding {w} norm_vars": lambda dim, w=w: SlidingCmvn(*w, norm_vars=True) for w in WINDOWS},
    "deltas": lambda dim: Deltas(),
    "deltas (3, 1)": lambda dim: Deltas(delta_order=3, delta_window=1),
    "deltas (0, 2)": lambda dim: Deltas(delta_order=0),
    "splice": lambda dim: Splice(),
    "splice (0, 3)": lambda dim: Splice(0, 3),
    "splice (2, 0)": lambda dim: Splice(2, 0),
    "pcen": lambda dim: Pcen(),
    "pcen r=0.3": lambda dim: Pcen(PcenOptions(r=0.3, s=0.2, alpha=0.6)),
}


def energies(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """(n, dim) float32 above 0, of speech-like spread."""
    return np.exp(np.random.default_rng(seed).normal(2, 1, (n, dim))).astype(np.float32)


def log_energies(n: int, dim: int = 23, seed: int = 0) -> np.ndarray:
    """(n, dim) float32 as an fbank has them, slowly wandering."""
    rng = np.random.default_rng(seed)
    return (12 + 3 * rng.standard_normal((n, dim)) + np.cumsum(rng.normal(0, 0.1, (n, 1)), axis=0)).astype(np.float32)


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max(initial=0))


# Laws


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 25), max_size=12), n=st.integers(0, 120))
def test_any_cutting_gives_the_bits_of_the_whole(name, dim, cuts, n):
    frames = energies(n, dim)
    whole = STREAMS[name](dim).push(frames, flush=True)
    assert len(whole) == n
    stream, got, at = STREAMS[name](dim), [], 0
    for cut in cuts:
        part = frames[at : at + cut].copy()
        got.append(stream.push(part))
        part[:] = np.nan  # the caller's memory is the caller's
        at = min(at + cut, n)
        assert sum(map(len, got)) >= at - stream.look_ahead
    got.append(stream.push(frames[at:], flush=True))
    np.testing.assert_array_equal(np.concatenate(got), whole)
    np.testing.assert_array_equal(stream.push(frames, flush=True), whole)  # a flush begins another stream


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", STREAMS)
def test_later_frames_change_no_earlier_one(name, dim):
    frames = energies(90, dim)
    changed = frames.copy()
    changed[60:] = 1000 * energies(30, dim, seed=1)
    for mine in (frames, changed):
        stream = STREAMS[name](dim)
        early = stream.push(mine[:60])
        assert len(early) >= 60 - stream.look_ahead
        np.testing.assert_array_equal(early, STREAMS[name](dim).push(frames, flush=True)[: len(early)])


@pytest.mark.parametrize("name", STREAMS)
def test_reset_and_short_streams(name):
    stream = STREAMS[name](3)
    for n in (0, 1, 2):
        stream.push(energies(5, 3, seed=3))
        stream.reset()
        frames = energies(n, 3)
        out = stream.push(frames, flush=True)
        assert out.shape == (n, stream.push(frames, flush=True).shape[1])
        assert np.isfinite(out).all()
        assert out.dtype == np.float32
        assert stream.push(frames.astype(np.float64), flush=True).dtype == np.float64


@pytest.mark.parametrize("name", STREAMS)
def test_other_shapes_are_refused_and_the_stream_goes_on(name):
    stream, frames = STREAMS[name](3), energies(40, 3)
    got = [stream.push(frames[:20])]
    for wrong in (np.zeros(3), np.zeros((1, 1, 3)), np.zeros((5, 4))):
        with pytest.raises(OptionError, match=r"expected frames of shape"):
            stream.push(wrong)
    got.append(stream.push(frames[20:], flush=True))
    np.testing.assert_array_equal(np.concatenate(got), STREAMS[name](3).push(frames, flush=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_would_stay_in_a_state_is_refused(value):
    frames = energies(20, 3)
    bad = frames.copy()
    bad[4, 2] = value
    for name in ("sliding (10, 4)", "pcen"):
        stream = STREAMS[name](3)
        got = [stream.push(frames[:10])]
        with pytest.raises(KwsError, match=r"frame 4 holds .* in column 2"):
            stream.push(bad)
        got.append(stream.push(frames[10:], flush=True))
        np.testing.assert_array_equal(np.concatenate(got), STREAMS[name](3).push(frames, flush=True))
    with pytest.raises(KwsError, match="frame 4"):
        sliding_cmvn(bad, center=True, min_cmn_window=1)
    with pytest.raises(KwsError, match="frame 4"):
        compute_stats(bad)


def test_what_needs_the_whole_is_refused_by_name():
    with pytest.raises(OptionError, match="center=true does not stream"):
        SlidingCmvn(center=True)
    with pytest.raises(OptionError, match="utterance does not stream"):
        Cmvn(None)


# Statistics


@pytest.mark.parametrize("norm_vars", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cmvn_is_kaldis(norm_vars, reverse):
    frames = log_energies(3000)
    stats = compute_stats(frames)
    theirs = knf.compute_cmvn_stats(frames)
    assert stats.shape == theirs.shape == (2, 24)
    assert stats[0, -1] == 3000
    np.testing.assert_allclose(stats, theirs, rtol=1e-7)
    options = knf.CmvnOptions(norm_vars=norm_vars, reverse=reverse)
    ours = apply_stats(stats, frames, norm_vars=norm_vars, reverse=reverse)
    assert apart(ours, knf.apply_cmvn(theirs, options, frames)) < 5e-5


def test_cmvn_worked_out():
    """Columns 1, 2, 6 (mean 3, variance 14/3) and 5, 5, 5, by ApplyCmvn's formula."""
    frames = np.array([[1, 5], [2, 5], [6, 5]], np.float32)
    stats = compute_stats(frames)
    np.testing.assert_array_equal(stats, [[9, 15, 3], [41, 75, 0]])
    np.testing.assert_array_equal(apply_stats(stats, frames), [[-2, 0], [-1, 0], [3, 0]])
    np.testing.assert_array_equal(apply_stats(stats, frames, norm_means=False), frames)
    with pytest.warns(UserWarning, match=r"columns \[1\]"):
        normal = apply_stats(stats, frames, norm_vars=True)
    np.testing.assert_allclose(normal, [[-0.9258201, 0], [-0.46291005, 0], [1.3887301, 0]], rtol=1e-6)
    for skip_dims in ([1], "1"):
        skipped = apply_stats(stats, frames, norm_vars=True, skip_dims=skip_dims)
        np.testing.assert_array_equal(skipped, np.stack([normal[:, 0], frames[:, 1]], axis=1))
    back = apply_stats(stats, normal, norm_vars=True, reverse=True, skip_dims="1")
    np.testing.assert_allclose(back[:, 0], frames[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(apply_stats(stats[:1], frames), apply_stats(stats, frames))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 3000), cut=st.integers(0, 3000), weighted=st.booleans())
def test_merged_statistics_are_those_of_all(n, cut, weighted):
    frames = log_energies(n, 3)
    weights = np.random.default_rng(1).choice([0, 0.5, 1, 3], n) if weighted else None
    parts = (slice(0, cut), slice(cut, n))
    merged = sum(compute_stats(frames[p], None if weights is None else weights[p]) for p in parts)
    np.testing.assert_allclose(merged, compute_stats(frames, weights), rtol=1e-12)
    exact = frames.astype(np.float64) * (1.0 if weights is None else weights[:, None])
    np.testing.assert_allclose(merged[0, :3], exact.sum(axis=0), rtol=1e-12)


def test_weights_are_kaldis():
    frames, weights = log_energies(50, 3), np.linspace(0, 2, 50)
    theirs = knf.CmvnAccumulator(3)
    for frame, weight in zip(frames, weights, strict=True):
        theirs.add(3, frame.tolist(), float(weight))
    np.testing.assert_allclose(compute_stats(frames, weights), np.asarray(theirs.stats).reshape(2, 4), rtol=1e-6)
    frames[0] = np.nan  # of weight 0
    assert np.isfinite(compute_stats(frames, weights)).all()


def test_statistics_by_speaker_and_utterance():
    features = [(f"u{i}", log_energies(10 + i, 2, i)) for i in range(4)]
    speakers = {"u0": "anna", "u1": "bert", "u2": "anna", "u3": "bert"}
    by_speaker, by_utterance = stats_by_key(features, speakers), stats_by_key(features)
    assert list(by_speaker) == ["anna", "bert"]
    np.testing.assert_array_equal(by_speaker["bert"], by_utterance["u1"] + by_utterance["u3"])
    everything = compute_stats(np.concatenate([frames for _, frames in features]))
    np.testing.assert_allclose(sum(by_speaker.values()), everything, rtol=1e-12)
    with pytest.raises(KwsError, match="u3: utt2spk has no speaker"):
        stats_by_key(features, {"u0": "a", "u1": "a", "u2": "a"})
    with pytest.raises(KwsError, match="odd: frames have 3 columns, those of u0 2"):
        stats_by_key([*features, ("odd", log_energies(1, 3))])
    with pytest.raises(KwsError, match="odd: frame 0 holds nan"):
        stats_by_key([*features, ("odd", np.full((1, 2), np.nan))])


def test_mistakes_with_statistics_are_named():
    stats = compute_stats(log_energies(5, 3))
    with pytest.raises(KwsError, match="count 0 frames"):
        Cmvn(compute_stats(np.zeros((0, 3))))
    with pytest.raises(KwsError, match=r"count 0\.5 frames"):
        Cmvn(compute_stats(np.ones((1, 3)), np.array([0.5])))
    with pytest.raises(KwsError, match="NaN"):
        Cmvn(np.where(stats == stats[0, 1], np.nan, stats))
    for wrong, options, words in (
        (stats[0], {}, r"\(2, dim \+ 1\), got \(4,\)"),
        (stats[:1], {"norm_vars": True}, "2 rows"),
        (stats, {"norm_vars": True, "norm_means": False}, "norm_means"),
        (stats, {"skip_dims": "0:3"}, r"\[3\] are no columns of frames of 3"),
        (stats, {"skip_dims": "0,1"}, "13:14:15"),
    ):
        with pytest.raises(OptionError, match=words):
            Cmvn(wrong, **options)
    with pytest.raises(OptionError, match=r"\(frames, 3\), got \(2, 4\)"):
        apply_stats(stats, np.zeros((2, 4)))
    with pytest.raises(OptionError, match="one weight for each of 5"):
        compute_stats(log_energies(5, 3), np.ones(4))


# Sliding windows


def window_by_kaldi(t: int, n: int, cmn_window: int, min_cmn_window: int, center: bool) -> slice:
    """The frames by which frame t of n is normalised, step by step as SlidingWindowCmnInternal finds them."""
    start = t - cmn_window // 2 if center else t - cmn_window
    end = start + cmn_window if center else t + 1
    if start < 0:
        start, end = 0, end - start
    if not center and end > t:
        end = max(t + 1, min_cmn_window)
    if end > n:
        start, end = max(start - (end - n), 0), n
    return slice(start, end)


def by_kaldi(frames, cmn_window, min_cmn_window, norm_vars, center) -> np.ndarray:
    frames = frames.astype(np.float64)
    out = np.empty_like(frames)
    for t in range(len(frames)):
        x = frames[window_by_kaldi(t, len(frames), cmn_window, min_cmn_window, center)]
        out[t] = frames[t] - x.sum(axis=0) / len(x)
        if norm_vars and len(x) == 1:
            out[t] = 0
        elif norm_vars:
            out[t] *= np.maximum((x**2).sum(axis=0) / len(x) - x.sum(axis=0) ** 2 / len(x) ** 2, 1e-10) ** -0.5
    return out


@pytest.mark.parametrize("norm_vars", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("window", [*WINDOWS, (5, 5), (8, 3), (600, 100)])
def test_sliding_cmvn_is_kaldis(window, center, norm_vars):
    window = (window[0], min(window)) if center else window
    for n in [*range(1, 16), 30, 50, 1500]:
        frames = log_energies(n, 3, n)
        ours = sliding_cmvn(frames, *window, norm_vars, center)
        assert apart(ours, by_kaldi(frames, *window, norm_vars, center)) < 2e-6
        # torchaudio floors no variance, and its running sum in float32 drifts: float64, and frames that vary
        if n > 1 and min(window) > 1:
            theirs = torchaudio.functional.sliding_window_cmn(
                torch.from_numpy(frames).double(), *window, center, norm_vars
            )
            assert apart(sliding_cmvn(frames.astype(np.float64), *window, norm_vars, center), theirs.numpy()) < 1e-9


def test_sliding_cmvn_worked_out():
    """Four frames 1, 2, 4, 8; a window to the left of 2 holds 3, as Kaldi counts."""
    frames = np.array([[1.0], [2.0], [4.0], [8.0]])
    for options, means in (
        ({"cmn_window": 2, "min_cmn_window": 1}, [1, 3 / 2, 7 / 3, 14 / 3]),
        ({"cmn_window": 2, "min_cmn_window": 3}, [7 / 3, 7 / 3, 7 / 3, 14 / 3]),
        ({"cmn_window": 2, "min_cmn_window": 1, "center": True}, [3 / 2, 3 / 2, 6 / 2, 12 / 2]),
        ({"cmn_window": 3, "min_cmn_window": 1, "center": True}, [7 / 3, 7 / 3, 14 / 3, 14 / 3]),
        ({}, [15 / 4] * 4),
    ):
        np.testing.assert_allclose(sliding_cmvn(frames, **options), frames - np.array(means)[:, None], atol=1e-15)


def test_a_stream_waits_for_its_first_window_only():
    stream, frames = SlidingCmvn(cmn_window=50, min_cmn_window=20), log_energies(60, 2)
    assert stream.look_ahead == 19
    counts = [len(stream.push(frame[None])) for frame in frames]
    assert counts == [0] * 19 + [20] + [1] * 40
    assert SlidingCmvn(min_cmn_window=1).look_ahead == SlidingCmvn(min_cmn_window=0).look_ahead == 0


def test_what_left_the_window_leaves_no_trace():
    frames = log_energies(500, 3)
    loud = frames.copy()
    loud[40] = 1e30
    ours = [SlidingCmvn(30, 5, norm_vars=True).push(x, flush=True) for x in (frames, loud)]
    np.testing.assert_array_equal(ours[0][71:], ours[1][71:])


def test_frames_that_never_vary():
    for value in (0.0, 3.0, 1 / 3):
        frames = np.full((40, 2), value, np.float32)
        assert apart(sliding_cmvn(frames, 10, 4), np.zeros((40, 2))) < 1e-6
        with pytest.warns(UserWarning, match="hardly vary"):
            assert apart(sliding_cmvn(frames, 10, 4, norm_vars=True), np.zeros((40, 2))) < 1e-6
        deltas = add_deltas(frames)
        np.testing.assert_array_equal(deltas[:, :2], frames)
        assert apart(deltas[:, 2:], np.zeros((40, 4))) < 1e-6
        assert apart(Pcen().push(frames), np.repeat(Pcen().push(frames[:1]), 40, axis=0)) < 1e-6


def test_floored_variances_warn_so_many_times():
    frames = np.ones((40, 2), np.float32)
    for allowed, expected in ((2, 2), (0, 0), (-1, 39)):
        stream = SlidingCmvn(10, 1, norm_vars=True, max_warnings=allowed)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            for frame in frames:
                stream.push(frame[None])
        assert len(heard) == expected


def test_windows_that_cannot_be_are_named():
    for options, words in (
        ({"cmn_window": 0}, "cmn_window=0"),
        ({"cmn_window": 50, "center": True}, "min_cmn_window=100: expected 1 to cmn_window=50"),
        ({"min_cmn_window": 0, "center": True}, "min_cmn_window=0"),
    ):
        with pytest.raises(OptionError, match=words):
            sliding_cmvn(np.zeros((5, 2)), **options)


# Neighbours


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_deltas_are_kaldis(order, window):
    for n in (1, 2, 3, 5, 9, 200):
        frames = log_energies(n, 5, n)
        theirs = knf.compute_deltas(knf.DeltaOptions(order=order, window=window), frames)
        assert apart(add_deltas(frames, order, window), theirs) < 5e-6
    assert Deltas(order, window).look_ahead == order * window


def test_deltas_are_torchaudios_away_from_the_ends():
    """torchaudio repeats the first delta at the ends where Kaldi repeats the first frame: order 2 differs there."""
    frames = log_energies(100, 5)
    first = torchaudio.functional.compute_deltas(torch.from_numpy(frames.T)[None])
    second = torchaudio.functional.compute_deltas(first)
    ours = add_deltas(frames)
    assert apart(ours[:, 5:10], first[0].T.numpy()) < 5e-6
    assert apart(ours[4:-4, 10:], second[0].T.numpy()[4:-4]) < 5e-6
    assert apart(ours[:, 10:], second[0].T.numpy()) > 0.01


def test_deltas_and_splicing_worked_out():
    frames = np.array([[1], [2], [4]], np.float32)
    np.testing.assert_allclose(add_deltas(frames, 2, 1), [[1, 0.5, 0.75], [2, 1.5, 0.25], [4, 1.0, -0.75]], rtol=1e-6)
    np.testing.assert_array_equal(splice(frames, 1, 2), [[1, 1, 2, 4], [1, 2, 4, 4], [2, 4, 4, 4]])


@pytest.mark.parametrize(("left", "right"), [(4, 4), (0, 0), (3, 0), (0, 2), (1, 7)])
def test_splicing_is_kaldis(left, right):
    for n in (1, 2, 3, 5, 9, 50):
        frames = log_energies(n, 5, n)
        theirs = knf.splice_frames(frames, knf.SpliceOptions(left_context=left, right_context=right))
        np.testing.assert_array_equal(splice(frames, left, right), theirs)
    assert Splice(left, right).look_ahead == right


def test_contexts_that_cannot_be_are_named():
    for make, options, words in (
        (Deltas, {"delta_order": -1}, "delta_order=-1"),
        (Deltas, {"delta_window": 0}, "delta_window=0"),
        (Splice, {"left_context": -1}, "left_context=-1"),
    ):
        with pytest.raises(OptionError, match=words):
            make(**options)


# PCEN

PCEN_OPTIONS = [
    {},
    {"r": 0.25, "alpha": 0.8, "delta": 10.0},
    {"alpha": 0.0, "s": 1.0, "r": 1.0},
    {"s": 0.1, "eps": 1.0},
]


def by_formula(energy: np.ndarray, o: PcenOptions) -> np.ndarray:
    energy = energy.astype(np.float64)
    out, smoothed = np.empty_like(energy), energy[:1]
    for t, e in enumerate(energy):
        smoothed = (1 - o.s) * smoothed + o.s * e
        out[t] = (e / (o.eps + smoothed) ** o.alpha + o.delta) ** o.r - o.delta**o.r
    return out


def loud_and_silent(n: int, dim: int) -> np.ndarray:
    """Mel energies of sound in int16 units: up to 1e11, with digital silence."""
    energy = np.exp(np.random.default_rng(n).normal(15, 4, (n, dim))).clip(max=1e11).astype(np.float32)
    energy[n // 4 : n // 2] = 0
    return energy


@pytest.mark.parametrize("chosen", PCEN_OPTIONS, ids=str)
def test_pcen_is_the_formula_in_numpy_and_torch(chosen):
    options = PcenOptions(**chosen)
    for n in (1, 2, 63, 64, 65, 129, 500, 2500):
        energy = loud_and_silent(n, 5)
        exact = by_formula(energy, options)
        ours = Pcen(options).push(energy, flush=True)
        batch = pcen(torch.from_numpy(energy)[None], options)[0].numpy()
        scale = 1 + np.abs(exact)
        assert apart(ours / scale, exact / scale) < 2e-6
        assert apart(batch / scale, ours / scale) < 1e-5
    assert pcen(torch.zeros(2, 0, 5)).shape == (2, 0, 5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dim", [1, 23, 80])
def test_pcen_alone_is_pcen_in_a_batch(dim, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        lengths = [300, 64, 1, 131, 65, 299] * 4
        batch = torch.stack([torch.from_numpy(loud_and_silent(300, dim)) * (i + 1) for i in range(len(lengths))])
        for options in (PcenOptions(), PcenOptions(r=0.3)):
            together = pcen(batch, options)
            for i, n in enumerate(lengths):
                assert torch.equal(pcen(batch[i : i + 1, :n], options)[0], together[i, :n])
    finally:
        torch.set_num_threads(before)


def test_pcen_learns():
    energy = torch.from_numpy(energies(70, 2).astype(np.float64))[None].requires_grad_()
    assert torch.autograd.gradcheck(pcen, (energy,))


def test_a_steady_background_goes_and_an_onset_stays():
    energy = np.ones((400, 2), np.float32) * np.array([1e4, 1e8], np.float32)
    energy[300:310] *= 100
    out = Pcen().push(energy)
    assert (out[200:300] < 0.45).all()
    assert (out[300] > 4).all()
    assert apart(out[200, :1], out[200, 1:]) < 0.1  # a channel's level hardly matters


def test_pcen_options():
    assert smoothing(395) == pytest.approx(0.025, rel=1e-3)
    for wrong in ({"s": 0.0}, {"s": 1.1}, {"eps": 0.0}, {"r": 0.0}, {"alpha": -0.1}, {"delta": 0.0}, {"eps": np.nan}):
        with pytest.raises(OptionError, match=f"PCEN's {next(iter(wrong))}"):
            PcenOptions(**wrong)
    with pytest.raises(OptionError, match="time_constant_ms=0"):
        smoothing(0)
    with pytest.raises(KwsError, match="use_log_fbank=false"):
        Pcen().push(np.array([[1.0, -0.5]]))
    with pytest.raises(OptionError, match=r"\(batch, frames, dim\), got \(5, 3\)"):
        pcen(torch.ones(5, 3))
