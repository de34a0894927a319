"""The front-end in float64, one frame after the other, written to be read beside Kaldi: what the others are checked by.

Formulas follow src/feat/feature-window.cc, mel-computations.cc, feature-spectrogram.cc, feature-fbank.cc and
feature-mfcc.cc. Two things stay as they are elsewhere: mel weights and window are Kaldi's float32 values (they
define the features), and dither is ours.
"""

import numpy as np

from kws.features import dither, tables
from kws.features.framing import first_sample, n_frames, reflect
from kws.features.options import MelOptions, MfccOptions, Options, SpectrogramOptions


def compute(samples: np.ndarray, options: Options, warp: float = 1.0, utterance: int = 0) -> np.ndarray:
    """Samples (n,) in int16 units to frames (m, dim) float64; `warp` and `utterance` as in `FeatureExtractor`."""
    samples = np.asarray(samples, np.float64)
    rows = [frame_features(samples, i, options, warp, utterance) for i in range(n_frames(len(samples), options))]
    return np.array(rows).reshape(-1, options.dim)


def frame_features(samples: np.ndarray, frame: int, o: Options, warp: float, utterance: int) -> np.ndarray:
    """One frame (dim,) of a wave."""
    # ExtractWindow: the samples, mirrored where the frame leaves the wave
    start = first_sample(frame, o)
    x = np.array([samples[reflect(i, len(samples))] for i in range(start, start + o.window_samples)])

    # ProcessWindow: dither, DC, raw energy, pre-emphasis, window, energy
    if o.dither:
        counters = np.arange(o.window_samples)
        x = x + o.dither * dither.noise(np.int64(dither.key(o.dither_seed, utterance)), np.int64(frame), counters)
    if o.remove_dc_offset:
        x = x - x.mean()
    raw_energy = log_energy(x)
    previous = np.concatenate([x[:1], x[:-1]])
    x = x - o.preemphasis_coefficient * previous
    x = x * tables.window(o)
    energy = raw_energy if o.raw_energy else log_energy(x)
    if o.energy_floor > 0:
        energy = max(energy, np.log(o.energy_floor))

    spectrum = transform(x, o.fft_samples)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    if isinstance(o, SpectrogramOptions):  # SpectrogramComputer::Compute
        if o.return_raw_fft:
            between = np.stack([spectrum.real, spectrum.imag], axis=1)[1:-1].ravel()
            return np.concatenate([[spectrum[0].real, spectrum[-1].real], between])
        return np.concatenate([[energy], floored_log(power)[1:]])
    assert isinstance(o, MelOptions)
    if isinstance(o, MfccOptions):  # MfccComputer::Compute
        cepstra = floored_log(mel_energies(power, o, warp)) @ lifted_dct(o)
        if o.use_energy:
            cepstra[0] = energy
        return np.roll(cepstra, -1) if o.htk_compat else cepstra
    mel = mel_energies(power if o.use_power else np.sqrt(power), o, warp)
    if o.use_log_fbank:  # FbankComputer::Compute
        mel = floored_log(mel)
    if not o.use_energy:
        return mel
    return np.append(mel, energy) if o.htk_compat else np.insert(mel, 0, energy)


def transform(x: np.ndarray, size: int) -> np.ndarray:
    """The discrete Fourier transform (size // 2 + 1,) of x, zeros behind it, by its definition."""
    turns = np.outer(np.arange(size // 2 + 1), np.arange(len(x))) % size  # whole turns left out, for accuracy
    return np.exp(-2j * np.pi * turns / size) @ x


def mel_energies(power: np.ndarray, o: MelOptions, warp: float) -> np.ndarray:
    """MelBanks::Compute."""
    mel = power @ tables.mel_filters(o, warp).astype(np.float64)
    return np.maximum(mel, 1.0) if o.htk_mode else mel


def log_energy(x: np.ndarray) -> float:
    return np.log(max(np.sum(np.square(x)), tables.FLT_EPSILON))


def floored_log(x: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(x, tables.FLT_EPSILON))


def lifted_dct(o: MfccOptions) -> np.ndarray:
    """The cosine transform (num_mel_bins, num_ceps), each column times its lifter 1 + Q/2 sin(πk/Q), and sqrt(2) in
    the first for HTK. Kaldi: ComputeDctMatrix, ComputeLifterCoeffs."""
    n = o.num_mel_bins
    matrix = np.array([[np.sqrt((2 if k else 1) / n) * np.cos(np.pi / n * (b + 0.5) * k) for k in range(o.num_ceps)]
                       for b in range(n)])  # fmt: skip
    if o.cepstral_lifter:
        matrix *= 1 + 0.5 * o.cepstral_lifter * np.sin(np.pi * np.arange(o.num_ceps) / o.cepstral_lifter)
    if o.htk_compat:
        matrix[:, 0] *= np.sqrt(2)
    return matrix
