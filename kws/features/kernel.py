"""Kaldi's front-end for processors, compiled by numba: from samples to frames in one pass, as many frames at a time as
a vector has lanes.

The layout is [row][lane]: a row is a sample, a point of the spectrum, a filter; a lane is a frame. No frame meets
another, so a frame's bits depend on nothing but its samples: not on the chunk, the batch or its place in either.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kws.compilation import compiled
from kws.features import dither, tables
from kws.features.options import MelOptions, MfccOptions, Options
from kws.features.simd import LANES, fma, load, log, maximum, splat, sqrt, store, transpose

NOISY_FRAMES = 256  # that dither makes noise for at a time


class Tables(NamedTuple):
    """What the compiled code reads of a front-end: sizes, switches and constants."""

    size: int  # samples of a window
    half: int  # points of the complex transform: half of the real one's
    radices: np.ndarray  # of its passes
    cos: np.ndarray  # of -2π k / (2 half), k below 2 half
    sin: np.ndarray
    window: np.ndarray
    emphasis: np.float32
    centred: bool  # whether a window's mean is taken from it
    raw_fft: bool
    magnitude: bool
    first: np.ndarray  # point of each filter
    count: np.ndarray  # points of each filter; no filter at all: a spectrogram
    weights: np.ndarray  # of all filters, one after the other
    floor: np.float32  # under the filters' energies
    logarithm: bool
    dct: np.ndarray  # (cepstra, filters), or (0, 0)
    energy_at: int  # column of the energy, or -1
    energy_raw: bool
    energy_floor: np.float32
    shifted: int  # columns that the rest stands further right


@lru_cache(maxsize=64)
def of(options: Options, warp: float = 1.0) -> Tables:
    """The tables of a front-end; `warp`: VTLN factor.

    Raises:
        OptionError: of `tables.mel_filters`.
    """
    o, fft = options, options.fft_samples
    turns = -2 * np.pi * np.arange(fft) / fft
    first, count, weights = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    matrix, shifted, energy_at = np.zeros((0, 0), np.float32), 0, -1
    if isinstance(o, MelOptions):
        filters = tables.mel_filters(o, warp)
        spans = [np.flatnonzero(column) for column in filters.T]
        first, last = (np.array([span[end] if len(span) else 0 for span in spans]) for end in (0, -1))
        count = last - first + 1
        weights = np.concatenate([c[a : a + n] for c, a, n in zip(filters.T, first, count, strict=True)])
        shifted = int(o.use_energy and not o.htk_compat)
    if isinstance(o, MfccOptions):
        matrix, shifted = np.ascontiguousarray(tables.dct(o).T), -int(o.htk_compat)
    if o.use_energy:
        energy_at = o.dim - 1 if isinstance(o, MelOptions) and o.htk_compat else 0
    return Tables(
        size=o.window_samples, half=fft // 2, radices=_radices(fft // 2),
        cos=np.cos(turns).astype(np.float32), sin=np.sin(turns).astype(np.float32), window=tables.window(o),
        emphasis=np.float32(o.preemphasis_coefficient), centred=o.remove_dc_offset, raw_fft=o.return_raw_fft,
        magnitude=not o.use_power, first=first, count=count, weights=weights,
        floor=np.float32(1 if o.htk_mode else tables.FLT_EPSILON if o.use_log_fbank else -np.inf),
        logarithm=o.use_log_fbank, dct=matrix, energy_at=energy_at, energy_raw=o.raw_energy,
        energy_floor=np.float32(max(tables.FLT_EPSILON, o.energy_floor)), shifted=shifted,
    )  # fmt: skip


def _radices(n: int) -> np.ndarray:
    """Factors of n: fours first, then primes."""
    factors = []
    for radix in (4, *range(2, n + 1)):
        while n % radix == 0:
            factors.append(radix)
            n //= radix
    return np.array(factors, np.int64)


def frames(
    waves: np.ndarray, begin: int, count: int, o: Options, t: Tables, keys: Sequence[int] | None = None
) -> np.ndarray:
    """Frames `begin` to `begin + count` (waves, count, dim) of the samples (waves, n) float32 that they cover; `keys`:
    of each wave's dither."""
    out = np.empty((len(waves), count, o.dim), np.float32)
    if not o.dither or not count:
        compute(np.ascontiguousarray(waves), o.shift_samples, out, t)
        return out
    windows = np.lib.stride_tricks.sliding_window_view(waves, o.window_samples, axis=1)[:, :: o.shift_samples]
    keys, samples = np.array(keys, np.int64)[:, None, None], np.arange(o.window_samples)
    for i in range(0, count, NOISY_FRAMES):
        numbers = np.arange(begin + i, begin + min(i + NOISY_FRAMES, count))[:, None]
        noisy = windows[:, i : i + len(numbers)] + o.dither * dither.noise(keys, numbers, samples)
        noisy = noisy.astype(np.float32).reshape(1, -1)  # windows that share no sample any more
        part = np.empty((1, len(waves) * len(numbers), o.dim), np.float32)
        compute(noisy, o.window_samples, part, t)
        out[:, i : i + len(numbers)] = part.reshape(len(waves), len(numbers), o.dim)
    return out


@compiled
def compute(samples, shift, out, t):
    """Frames of waves.

    Args:
        samples: (waves, n) float32 in int16 units.
        shift: samples from one frame's start to the next's.
        out: (waves, frames, dim) float32, written; the frames lie within n.
        t: `Tables`.
    """
    frames, dim = out.shape[1], out.shape[2]
    blocks = (t.size - 1) // shift + 1  # stretches of `shift` samples that a window covers
    wide = ((LANES + blocks - 2) // LANES + 1) * LANES  # and LANES windows, in whole vectors
    used = min(shift, t.size)
    tall = ((used - 1) // LANES + 1) * LANES
    stretches = np.empty(tall * wide, np.float32)
    ending = np.zeros((wide - 1) * shift + tall, np.float32)
    n_signal = 2 * t.half * LANES
    signal, a, b = np.zeros(n_signal, np.float32), np.empty(n_signal, np.float32), np.empty(n_signal, np.float32)
    spectrum, mel = np.empty((t.half + 1) * LANES, np.float32), np.empty(len(t.first) * LANES, np.float32)
    result = np.empty(dim * LANES, np.float32)
    for wave in range(len(samples)):
        x, y = samples[wave], out[wave].reshape(-1)
        for frame in range(0, frames, LANES):
            start = frame * shift
            part = x[start : start + len(ending)]
            if len(part) < len(ending):
                for i in range(len(ending)):
                    ending[i] = part[i] if i < len(part) else 0
                part = ending
            _part(part, shift, stretches, wide, tall)
            energy = _window(stretches, wide, shift, signal, t)
            transformed = _transform(signal, a, b, t)
            if t.raw_fft:
                _raw(transformed, result, t)
            elif len(t.first) == 0:
                _power(transformed, spectrum, t)
                floor = splat(t.floor)
                for i in range(dim):
                    store(result, i * LANES, log(maximum(load(spectrum, i * LANES), floor)))
            elif len(t.dct) == 0:
                _power(transformed, spectrum, t)
                _mel(spectrum, result[t.shifted * LANES :], t)
            else:
                _power(transformed, spectrum, t)
                _mel(spectrum, mel, t)
                _cepstra(mel, result, t)
            if t.energy_at >= 0:
                store(result, t.energy_at * LANES, log(maximum(energy, splat(t.energy_floor))))
            _write(result, y, frame, min(LANES, frames - frame), dim)


@compiled
def _part(x, shift, stretches, wide, tall):
    """Samples to rows: stretches[j * wide + k] = x[k * shift + j]."""
    for k in range(0, wide, LANES):
        for j in range(0, tall, LANES):
            transpose(x, k * shift + j, shift, stretches, j * wide + k, wide)


@compiled
def _window(stretches, wide, shift, y, t):
    """DC removal, pre-emphasis and window, and the energy. Kaldi: ProcessWindow in feature-window.cc.

    Sample i of frame f is in stretch f + i // shift, so a row's vector from column i // shift on has it for all frames.
    """
    mean, other = splat(np.float32(0)), splat(np.float32(0))
    if t.centred:
        for begin in range(0, t.size, shift):
            k, m = begin // shift, min(shift, t.size - begin)
            for j in range(0, m - 1, 2):  # two sums at a time: neither waits for the other
                mean = mean + load(stretches, j * wide + k)
                other = other + load(stretches, (j + 1) * wide + k)
            if m % 2:
                mean = mean + load(stretches, (m - 1) * wide + k)
        mean = (mean + other) * splat(np.float32(1) / np.float32(t.size))
    left = mean * splat(np.float32(1) - t.emphasis)  # what pre-emphasis leaves of a constant
    minus = splat(-t.emphasis)
    energy, before = splat(np.float32(0)), load(stretches, 0)
    for begin in range(0, t.size, shift):
        k = begin // shift
        for j in range(min(shift, t.size - begin)):
            now = load(stretches, j * wide + k)
            if t.energy_at >= 0 and t.energy_raw:
                energy = fma(now - mean, now - mean, energy)
            value = (now + minus * before - left) * splat(t.window[begin + j])
            store(y, (begin + j) * LANES, value)
            before = now
            if t.energy_at >= 0 and not t.energy_raw:
                energy = fma(value, value, energy)
    return energy


@compiled
def _transform(signal, a, b, t):
    """The transform of 2 half real samples, taken as half complex ones: Stockham's passes, each from one array to
    another, in order at the end without sorting. `signal` is read, `a` or `b` returned."""
    source, target, other = signal, a, b
    m, s = t.half, np.int64(1)
    for radix in t.radices:
        m //= radix
        if radix == 4:
            _pass_of_4(source, target, t.cos, t.sin, m, s)
        else:
            _pass_of_any(source, target, t.cos, t.sin, m, s, radix)
        s *= radix
        source, target, other = target, other, target
    return source


@compiled
def _pass_of_4(x, y, cos, sin, m, s):
    apart, next_ = 2 * LANES * s * m, 2 * LANES * s
    for p in range(m):
        i1, i2, i3 = 2 * p * s, 4 * p * s, 6 * p * s
        cos1, sin1, cos2, sin2 = splat(cos[i1]), splat(sin[i1]), splat(cos[i2]), splat(sin[i2])
        cos3, sin3 = splat(cos[i3]), splat(sin[i3])
        for q in range(s):
            i, o = 2 * LANES * (q + s * p), 2 * LANES * (q + 4 * s * p)
            ar, ai = load(x, i), load(x, i + LANES)
            br, bi = load(x, i + apart), load(x, i + apart + LANES)
            cr, ci = load(x, i + 2 * apart), load(x, i + 2 * apart + LANES)
            dr, di = load(x, i + 3 * apart), load(x, i + 3 * apart + LANES)
            sum_r, sum_i, difference_r, difference_i = ar + cr, ai + ci, ar - cr, ai - ci
            other_r, other_i, turned_r, turned_i = br + dr, bi + di, bi - di, dr - br
            store(y, o, sum_r + other_r)
            store(y, o + LANES, sum_i + other_i)
            re, im = difference_r + turned_r, difference_i + turned_i
            store(y, o + next_, re * cos1 - im * sin1)
            store(y, o + next_ + LANES, re * sin1 + im * cos1)
            re, im = sum_r - other_r, sum_i - other_i
            store(y, o + 2 * next_, re * cos2 - im * sin2)
            store(y, o + 2 * next_ + LANES, re * sin2 + im * cos2)
            re, im = difference_r - turned_r, difference_i - turned_i
            store(y, o + 3 * next_, re * cos3 - im * sin3)
            store(y, o + 3 * next_ + LANES, re * sin3 + im * cos3)


@compiled
def _pass_of_any(x, y, cos, sin, m, s, radix):
    for p in range(m):
        for q in range(s):
            for k in range(radix):
                re, im = splat(np.float32(0)), splat(np.float32(0))
                for j in range(radix):
                    i = 2 * LANES * (q + s * (p + m * j))
                    turn = 2 * (k * s * (p + m * j) % (radix * m * s))
                    c, d = splat(cos[turn]), splat(sin[turn])
                    u, v = load(x, i), load(x, i + LANES)
                    re, im = re + (u * c - v * d), im + (u * d + v * c)
                o = 2 * LANES * (q + s * (radix * p + k))
                store(y, o, re)
                store(y, o + LANES, im)


@compiled
def _point(z, k, t):
    """Points k and half - k (re, im, re, im) of the real samples' transform, of that of half as many complex ones:
    even and odd samples are taken apart by symmetry, and put together with the odd ones turned."""
    half, c, s = splat(np.float32(0.5)), splat(t.cos[k]), splat(t.sin[k])
    i, mirrored = 2 * LANES * k, 2 * LANES * (t.half - k)
    ar, ai, br, bi = load(z, i), load(z, i + LANES), load(z, mirrored), load(z, mirrored + LANES)
    even_r, even_i, odd_r, odd_i = half * (ar + br), half * (ai - bi), half * (ai + bi), half * (br - ar)
    re, im = odd_r * c - odd_i * s, odd_r * s + odd_i * c
    return even_r + re, even_i + im, even_r - re, im - even_i


@compiled
def _power(z, power, t):
    """|X|² of points 0 to half, or |X|."""
    first, nyquist = load(z, 0) + load(z, LANES), load(z, 0) - load(z, LANES)
    store(power, 0, first * first)
    store(power, t.half * LANES, nyquist * nyquist)
    for k in range(1, t.half // 2 + 1):
        ar, ai, br, bi = _point(z, k, t)
        store(power, k * LANES, fma(ar, ar, ai * ai))
        store(power, (t.half - k) * LANES, fma(br, br, bi * bi))
    if t.magnitude:
        for k in range(t.half + 1):
            store(power, k * LANES, sqrt(load(power, k * LANES)))


@compiled
def _raw(z, out, t):
    """The transform as Kaldi packs it: Re 0, Re Nyquist, then Re and Im of each point."""
    store(out, 0, load(z, 0) + load(z, LANES))
    store(out, LANES, load(z, 0) - load(z, LANES))
    for k in range(1, t.half // 2 + 1):
        ar, ai, br, bi = _point(z, k, t)
        i, mirrored = 2 * LANES * k, 2 * LANES * (t.half - k)
        store(out, mirrored, br)
        store(out, mirrored + LANES, bi)
        store(out, i, ar)
        store(out, i + LANES, ai)


@compiled
def _mel(power, out, t):
    """Filters' energies or their logarithms. Kaldi: MelBanks::Compute, FbankComputer::Compute."""
    floor, at = splat(t.floor), 0
    for b in range(len(t.first)):
        total, begin = splat(np.float32(0)), t.first[b] * LANES
        for i in range(t.count[b]):
            total = fma(splat(t.weights[at + i]), load(power, begin + i * LANES), total)
        at += t.count[b]
        total = maximum(total, floor)
        store(out, b * LANES, log(total) if t.logarithm else total)


@compiled
def _cepstra(mel, out, t):
    """Kaldi: MfccComputer::Compute."""
    n = len(t.dct)
    for c in range(n):
        total = splat(np.float32(0))
        for b in range(len(t.first)):
            total = fma(splat(t.dct[c, b]), load(mel, b * LANES), total)
        store(out, (c + t.shifted) % n * LANES, total)


@compiled
def _write(rows, y, frame, count, dim):
    """The first `count` lanes of `dim` rows to frames of y."""
    done = 0
    if count == LANES:
        done = dim // LANES * LANES
        for row in range(0, done, LANES):
            transpose(rows, row * LANES, LANES, y, frame * dim + row, dim)
    for lane in range(count):
        for row in range(done, dim):
            y[(frame + lane) * dim + row] = rows[row * LANES + lane]
