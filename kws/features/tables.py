"""The constants of a front-end: window, mel filters, cosine transform, lifter. NumPy alone, float32 as in Kaldi.

All follow Kaldi's own order of float32 arithmetic where that decides a weight (mel), and float64 elsewhere.
"""

import numpy as np

from kws.errors import OptionError
from kws.features.options import FrameOptions, MelOptions, MfccOptions

FLT_EPSILON = float(np.finfo(np.float32).eps)  # Kaldi's floor under every logarithm


def window(options: FrameOptions) -> np.ndarray:
    """(window_samples,) float32. Kaldi: FeatureWindowFunction in feature-window.cc."""
    n = options.window_samples
    a = 2 * np.pi / (n - 1)
    i = np.arange(n, dtype=np.float64)
    hann = 0.5 - 0.5 * np.cos(a * i)
    b = options.blackman_coeff
    values = {
        "povey": lambda: hann**0.85,
        "hanning": lambda: hann,
        "hamming": lambda: 0.54 - 0.46 * np.cos(a * i),
        "sine": lambda: np.sin(0.5 * a * i),
        "rectangular": lambda: np.ones(n),
        "blackman": lambda: b - 0.5 * np.cos(a * i) + (0.5 - b) * np.cos(2 * a * i),
    }[options.window_type]()
    return values.astype(np.float32)


def mel_scale(hz):
    """Mel of a frequency in Hz: 1127 ln(1 + f / 700). Kaldi: MelBanks::MelScale."""
    return np.float32(1127.0) * np.log(np.float32(1.0) + np.asarray(hz, np.float32) / np.float32(700.0))


def hz_of_mel(mel):
    """The frequency in Hz of a mel. Kaldi: MelBanks::InverseMelScale."""
    return np.float32(700.0) * (np.exp(np.asarray(mel, np.float32) / np.float32(1127.0)) - np.float32(1.0))


def vtln_warped(hz, options: MelOptions, warp: float):
    """Frequencies in Hz (n,) warped by a vocal tract's length: divided by `warp` in the middle, and bent towards the
    ends so that the lowest and the highest stay. Kaldi: MelBanks::VtlnWarpFreq.

    Raises:
        OptionError: the bends do not lie between the lowest and the highest frequency.
    """
    f = np.float32
    low, high, warp = f(options.low_freq), f(options.high_hz), f(warp)
    vtln_low, vtln_high = f(options.vtln_low), f(options.vtln_high)
    if vtln_high < 0:
        vtln_high += f(options.sample_frequency / 2)
    lower, upper = vtln_low * max(f(1), warp), vtln_high * min(f(1), warp)
    if not (warp > 0 and low < vtln_low < high and vtln_low < vtln_high < high):
        raise OptionError(
            f"warp={warp:g}, vtln_low={vtln_low:g}, vtln_high={vtln_high:g}: expected a warp above 0 and"
            f" {low:g} < vtln_low < vtln_high < {high:g} Hz"
        )
    scale = f(1) / warp
    left = (scale * lower - low) / (lower - low)
    right = (high - scale * upper) / (high - upper)
    hz = np.asarray(hz, f)
    bent = np.where(hz < lower, low + left * (hz - low), np.where(hz < upper, scale * hz, high + right * (hz - high)))
    return np.where((hz < low) | (hz > high), hz, bent).astype(f)


def mel_filters(options: MelOptions, warp: float = 1.0) -> np.ndarray:
    """(fft_samples // 2 + 1, num_mel_bins) float32; the Nyquist row is 0. Kaldi: MelBanks::MelBanks.

    Raises:
        OptionError: a filter covers no point of the FFT, as Kaldi refuses it; or `vtln_warped`'s.
    """
    n_bins, fft = options.num_mel_bins, options.fft_samples
    hz_per_bin = np.float32(options.sample_frequency) / np.float32(fft)
    low, high = mel_scale(options.low_freq), mel_scale(options.high_hz)
    delta = (high - low) / np.float32(n_bins + 1)
    mel = mel_scale(hz_per_bin * np.arange(fft // 2, dtype=np.float32))[:, None]
    edges = [low + np.arange(i, n_bins + i, dtype=np.float32) * delta for i in range(3)]
    if warp != 1.0:
        edges = [mel_scale(vtln_warped(hz_of_mel(edge), options, warp)) for edge in edges]
    left, center, right = edges
    rising = (mel - left) / (center - left)
    falling = (right - mel) / (right - center)
    inside = (mel > left) & (mel < right)
    weights = np.where(inside, np.where(mel <= center, rising, falling), np.float32(0)).astype(np.float32)
    if empty := np.flatnonzero(~inside.any(axis=0)).tolist():
        raise OptionError(
            f"num_mel_bins={n_bins}: filters {empty} cover no point of a {fft}-point FFT; fewer bins or longer frames"
        )
    if options.htk_mode and options.low_freq != 0:
        weights[np.argmax(inside[:, 0]), 0] = 0
    return np.concatenate([weights, np.zeros((1, n_bins), np.float32)])


def dct(options: MfccOptions) -> np.ndarray:
    """(num_mel_bins, num_ceps) float32 with the lifter folded in. Kaldi: ComputeDctMatrix, ComputeLifterCoeffs."""
    n, ceps = options.num_mel_bins, options.num_ceps
    k, bins = np.arange(ceps)[None, :], np.arange(n)[:, None]
    matrix = np.sqrt(2.0 / n) * np.cos(np.pi / n * (bins + 0.5) * k)
    matrix[:, 0] = np.sqrt(1.0 / n)
    q = options.cepstral_lifter
    lifter = 1.0 + 0.5 * q * np.sin(np.pi * np.arange(ceps) / q) if q != 0 else np.ones(ceps)
    if options.htk_compat:
        lifter[0] *= np.sqrt(2.0)  # HTK scales C0 so
    return (matrix * lifter).astype(np.float32)
