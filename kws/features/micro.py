"""The front-end of ESPHome's micro_wake_word in whole numbers: TensorFlow's microfrontend, bit for bit.

Window, FFT of 16-bit numbers, mel filters, square root, noise reduction, PCAN (per-channel automatic normalisation) and
logarithm, in the order and with the constants of tensorflow/lite/experimental/microfrontend/lib (its files are named
where they are followed; the FFT is kissfft's with FIXED_POINT=16) and the settings of micro_wake_word's
preprocessor_settings.h. Frames are its uint16 values / 25.6, as microWakeWord trains on them.

The noise estimate remembers everything since the stream began; `frames` is given it and alters it.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kws.compilation import compiled
from kws.features.options import MicroOptions

POINTS, CHANNELS = 512, 40
LOW_HZ, HIGH_HZ = 125.0, 7500.0
FILTER_BITS, WINDOW_BITS, NOISE_BITS, SMOOTHING_BITS = 12, 12, 14, 10
EVEN_SMOOTHING, ODD_SMOOTHING, LEAST_SIGNAL = (int(part * (1 << NOISE_BITS)) for part in (0.025, 0.06, 0.05))
PCAN_STRENGTH, PCAN_OFFSET, GAIN_BITS, SNR_BITS, PCAN_BITS = 0.95, 80.0, 21, 12, 6
CORRECTION_BITS = POINTS.bit_length() - 1 - FILTER_BITS // 2
LOG_SHIFT, LOG_SEGMENTS, LN_2 = 6, 128, 45426  # ln 2 in 1/65536
UNIT = np.float32(1 / 25.6)


class Tables(NamedTuple):
    """What the compiled code reads."""

    window: np.ndarray  # (window,) in 1 / 2^12
    cos: np.ndarray  # of -2π k / 256, k below 256, in 1 / 32767
    sin: np.ndarray
    super_cos: np.ndarray  # that turn the points of the odd samples, k from 1 to 128
    super_sin: np.ndarray
    order: np.ndarray  # of the complex samples before the FFT's passes
    first: int  # point of the spectrum that has a weight
    channel: np.ndarray  # of each point from `first` on: the filter that falls there; the one before it rises
    weight: np.ndarray  # of the filter that falls, in 1 / 2^12
    unweight: np.ndarray  # of the filter that rises
    gain: np.ndarray  # (33, 3) a parabola for each length of the noise estimate in bits
    log: np.ndarray  # (129,) of log2(1 + x) - x, in 1 / 65536


@lru_cache(maxsize=1)
def tables() -> Tables:
    half = POINTS // 2
    turns = -2 * np.pi * np.arange(half) / half
    super_turns = -np.pi * (np.arange(1, half // 2 + 1) / half + 0.5)  # kiss_fftr.c
    cos, sin, super_cos, super_sin = (
        np.floor(0.5 + 32767 * wave(angle)).astype(np.int64)
        for angle in (turns, super_turns) for wave in (np.cos, np.sin)
    )  # fmt: skip
    digits = np.arange(half)
    order = sum((digits >> 2 * i & 3) << 2 * (3 - i) for i in range(4))  # its digits to the base 4, turned round
    segments = np.arange(LOG_SEGMENTS + 1) / LOG_SEGMENTS
    log = np.rint((np.log2(1 + segments) - segments) * 65536).astype(np.int64)  # log_lut.c
    return Tables(_window(), cos, sin, super_cos, super_sin, order, *_filters(), _gain(), log)


def _window() -> np.ndarray:
    """window_util.c: Hann, at the middles of its samples. All is rounded to float32, which decides one of them."""
    angles = np.float32(2 * np.pi / MicroOptions.window_samples) * (
        np.arange(MicroOptions.window_samples, dtype=np.float32) + np.float32(0.5)
    )
    cosine = np.cos(angles.astype(np.float64)).astype(np.float32)
    return np.floor((np.float32(0.5) - np.float32(0.5) * cosine) * np.float32(1 << WINDOW_BITS) + 0.5).astype(np.int64)


def _filters() -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """filterbank_util.c: triangles over the mel scale; a point between two centres belongs to both, with weights that
    sum to 1."""

    def mel(hz):
        return (1127.0 * np.log1p(np.asarray(hz, np.float32) / 700.0)).astype(np.float32)

    hz_per_point = np.float32(MicroOptions.sample_frequency / POINTS)
    low = mel(LOW_HZ)
    spacing = (mel(HIGH_HZ) - low) / np.float32(CHANNELS + 1)
    edges = np.concatenate([[low], low + spacing * np.arange(1, CHANNELS + 2, dtype=np.float32)]).astype(np.float32)
    first = int(1.5 + LOW_HZ / hz_per_point)
    points = mel(np.arange(first, POINTS // 2) * hz_per_point)
    points = points[points <= edges[-1]]
    channel = np.searchsorted(edges[1:], points)
    weight = (edges[channel + 1] - points) / (edges[channel + 1] - edges[channel])
    one = 1 << FILTER_BITS
    falling = np.floor(weight * np.float32(one) + 0.5).astype(np.int64)
    rising = np.floor((1.0 - weight.astype(np.float64)) * one + 0.5).astype(np.int64)
    return first, channel, falling, rising


def _gain() -> np.ndarray:
    """pcan_gain_control_util.c: (noise + offset)^-strength over lengths in bits, each with a parabola."""

    def gain(x: int) -> int:
        noise = np.float32(x) / np.float32(1 << SMOOTHING_BITS - CORRECTION_BITS)
        value = np.float32(1 << GAIN_BITS) * np.power(noise + np.float32(PCAN_OFFSET), np.float32(-PCAN_STRENGTH))
        return int(min(value + np.float32(0.5), 32767))

    rows = [(gain(0), 0, 0), (gain(1), 0, 0)]
    for bits in range(2, 33):
        begin = 1 << bits - 1
        end = 2 * begin - (bits == 32)
        y0, y1, y2 = gain(begin), gain(begin + begin // 2), gain(end)
        slope = 4 * (y1 - y0) - (y2 - y0)
        rows.append((y0, slope, y2 - y0 - slope))
    return np.array(rows, np.int64)


def frames(waves: np.ndarray, count: int, noise: np.ndarray) -> np.ndarray:
    """Frames (waves, count, 40) float32 of the samples (waves, n) that they cover, in int16 units: they are rounded to
    whole numbers and clipped. `noise` (waves, 40) int64 is the estimate, 0 before a stream's first frame; altered."""
    out = np.empty((len(waves), count, CHANNELS), np.float32)
    samples = np.clip(np.rint(waves), -32768, 32767).astype(np.int16)
    for wave in range(len(waves) if count else 0):
        compute(samples[wave], MicroOptions.shift_samples, out[wave], noise[wave], tables())
    return out


@compiled
def compute(samples, shift, out, noise, t):
    """frontend.c: samples (n,) int16 to frames (m, 40) float32, written; `noise` (40,) int64 goes on."""
    half = POINTS // 2
    packed, re, im = np.zeros(POINTS, np.int16), np.empty(half, np.int16), np.empty(half, np.int16)
    for frame in range(len(out)):
        start, loudest = frame * shift, 0
        for i in range(len(t.window)):
            value = samples[start + i] * t.window[i] >> WINDOW_BITS
            packed[i] = value
            if value != -32768:  # has no opposite of 16 bits
                loudest = max(loudest, abs(value))
        scale = 15 - _bits(loudest)
        for i in range(half):
            re[i], im[i] = packed[2 * t.order[i]] << scale, packed[2 * t.order[i] + 1] << scale
        _fft(re, im, t)
        work = _energies(re, im, t)
        for c in range(CHANNELS):
            signal = _reduced(_root(work[c + 1]) >> scale, noise, c)
            out[frame, c] = np.float32(_log(_shrunk(signal, noise[c], t), t)) * UNIT


@compiled
def _bits(x):
    """How many bits a number has that is not negative."""
    n = 0
    while x > 0:
        x, n = x >> 1, n + 1
    return n


@compiled
def _int16(x):
    return (x + 32768 & 65535) - 32768


@compiled
def _scaled(x, factor):
    """kissfft's S_MUL with sround: a product in 1 / 2^15, rounded."""
    return _int16(x * factor + 16384 >> 15)


@compiled
def _turned(r, i, cos, sin):
    """kissfft's C_MUL."""
    return _int16(r * cos - i * sin + 16384 >> 15), _int16(r * sin + i * cos + 16384 >> 15)


@compiled
def _fft(re, im, t):
    """kiss_fft.c: kf_bfly4 over 1, 4, 16 and 64, each dividing by 4; samples come in the order of its kf_work. Sums
    that leave 16 bits wrap, as there."""
    n = len(re)
    m = 1
    while m < n:
        step = n // (4 * m)
        for block in range(0, n, 4 * m):
            for k in range(m):
                a, b, c, d = block + k, block + k + m, block + k + 2 * m, block + k + 3 * m
                ar, ai = _scaled(re[a], 8191), _scaled(im[a], 8191)  # 32767 // 4
                w = k * step
                br, bi = _turned(_scaled(re[b], 8191), _scaled(im[b], 8191), t.cos[w], t.sin[w])
                cr, ci = _turned(_scaled(re[c], 8191), _scaled(im[c], 8191), t.cos[2 * w], t.sin[2 * w])
                dr, di = _turned(_scaled(re[d], 8191), _scaled(im[d], 8191), t.cos[3 * w], t.sin[3 * w])
                re[a], im[a] = ar + cr + br + dr, ai + ci + bi + di
                re[c], im[c] = ar + cr - br - dr, ai + ci - bi - di
                re[b], im[b] = ar - cr + bi - di, ai - ci - br + dr
                re[d], im[d] = ar - cr - bi + di, ai - ci + br - dr
        m *= 4


@compiled
def _energies(re, im, t):
    """kiss_fftr.c, which takes even and odd samples apart, and filterbank.c: each filter's energy, from place 1 on."""
    n = len(re)
    work = np.zeros(CHANNELS + 2, np.int64)
    for i in range(len(t.channel)):
        point = t.first + i
        k = min(point, n - point)
        pr, pi = _scaled(re[k], 16383), _scaled(im[k], 16383)  # 32767 // 2
        qr, qi = _scaled(re[n - k], 16383), _scaled(_int16(-np.int64(im[n - k])), 16383)
        tr, ti = _turned(_int16(pr - qr), _int16(pi - qi), t.super_cos[k - 1], t.super_sin[k - 1])
        sr, si = _int16(pr + qr), _int16(pi + qi)
        if point < n // 2:  # the middle is written twice there
            r, j = sr + tr >> 1, si + ti >> 1
        else:
            r, j = sr - tr >> 1, ti - si >> 1
        energy = np.int64(np.int32(r * r + j * j))
        work[t.channel[i]] += t.weight[i] * energy
        work[t.channel[i] + 1] += t.unweight[i] * energy
    return work


@compiled
def _root(x):
    """Sqrt64 in filterbank.c: the square root, rounded, but for what would leave 16 or 32 bits."""
    root = np.int64(np.sqrt(np.float64(x)))
    while root * root > x:
        root -= 1
    while (root + 1) * (root + 1) <= x:
        root += 1
    return root + 1 if x - root * root > root and root != 65535 else root


@compiled
def _reduced(signal, noise, c):
    """noise_reduction.c: the signal less the noise estimate, which takes it in first."""
    mask = 0xFFFFFFFF
    smoothing = EVEN_SMOOTHING if c % 2 == 0 else ODD_SMOOTHING
    large = signal << SMOOTHING_BITS & mask
    noise[c] = (large * smoothing + noise[c] * ((1 << NOISE_BITS) - smoothing) >> NOISE_BITS) & mask
    left = large - min(noise[c], large) >> SMOOTHING_BITS
    return max(left, signal * LEAST_SIGNAL >> NOISE_BITS)


@compiled
def _shrunk(signal, noise, t):
    """pcan_gain_control.c: the signal over the noise, its root compressed."""
    bits = noise if noise < 2 else _bits(noise)
    gain = t.gain[bits, 0]
    if noise > 2:
        place = (noise << 11 - bits if bits < 11 else noise >> bits - 11) & 1023
        gain += ((t.gain[bits, 2] * place >> 5) + (t.gain[bits, 1] << 5)) * place + 16384 >> 15
    snr = (signal * gain >> GAIN_BITS - CORRECTION_BITS - SNR_BITS) & 0xFFFFFFFF
    if snr < 2 << SNR_BITS:
        return snr * snr >> 2 + 2 * SNR_BITS - PCAN_BITS
    return (snr >> SNR_BITS - PCAN_BITS) - (1 << PCAN_BITS)


@compiled
def _log(x, t):
    """log_scale.c: the natural logarithm in 1 / 2^6, by straight lines between the points of a table."""
    x = x << CORRECTION_BITS & 0xFFFFFFFF
    if x < 2:
        return np.int64(0)
    whole = _bits(x) - 1
    part = x - (1 << whole)
    part = part << 16 - whole if whole < 16 else part >> whole - 16
    segment = part >> 9
    low, high = t.log[segment], t.log[segment + 1]
    log2 = (whole << 16) + part + low + ((high - low) * (part - (segment << 9)) >> 16)
    return ((LN_2 * log2 + 32768 >> 16) << LOG_SHIFT) + 32768 >> 16
