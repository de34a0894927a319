"""Waves to frames in NumPy, for streams: what a device that has no torch computes its frames with."""

import numpy as np

from kws.features import dither, tables
from kws.features.framing import first_sample, n_frames, reflect
from kws.features.options import MelOptions, MfccOptions, Options, SpectrogramOptions

FLOOR = np.float32(tables.FLT_EPSILON)
BLOCK_FRAMES = 32  # worked on at a time: small enough that malloc reuses their memory


class OnlineExtractor:
    """One stream of Kaldi's spectrogram, fbank or MFCC: what `FeatureExtractor` gives, to 1e-4.

    Every step is done on each frame by itself or, for the mel filters, in one order of additions, so that any cutting
    gives the bits of the whole. (A BLAS rounds by the number of rows.)

    Args:
        warp: VTLN factor.
        utterance: a number that dither's noise is a function of.
    """

    def __init__(self, options: Options, warp: float = 1.0, utterance: int = 0):
        self.options = o = options
        self.size, self.shift, self.emphasis = o.window_samples, o.shift_samples, np.float32(o.preemphasis_coefficient)
        self.fft, self.window = o.fft_samples, tables.window(o)
        self.window_after_first = self.window[1:].copy()
        self.of_constant = self.window * (1 - self.emphasis)  # what pre-emphasis leaves of a mean, or a first sample
        self.of_mean = self.of_constant / np.float32(self.size)
        if isinstance(o, MelOptions):
            self.points, self.starts, self.weights = _stretches(tables.mel_filters(o, warp))
        if isinstance(o, MfccOptions):
            self.dct = np.ascontiguousarray(tables.dct(o).T)
        self.of_power, self.log = getattr(o, "use_power", True), getattr(o, "use_log_fbank", True)
        self.with_energy = getattr(o, "use_energy", True) and not getattr(o, "return_raw_fft", False)
        self.key = np.int64(dither.key(o.dither_seed, utterance))
        self.reset()

    @property
    def dim(self) -> int:
        return self.options.dim

    def reset(self) -> None:
        self._samples = np.zeros(0, np.float32)  # from index `_first` on: what coming frames will read again
        self._first = self._n_samples = self._n_frames = 0

    def push(self, samples: np.ndarray, flush: bool = False) -> np.ndarray:
        """The next samples (n,) in int16 units to the frames (m, dim) float32 that they determine; `flush` says that
        none follows, and makes ready for another stream."""
        o = self.options
        x = np.concatenate([self._samples, samples], dtype=np.float32)
        self._n_samples += len(samples)
        begin, end = self._n_frames, max(n_frames(self._n_samples, o, flush), self._n_frames)
        blocks = []
        if end > begin:
            covered = self._covered(x, begin, end)
            for at in range(0, end - begin, BLOCK_FRAMES):
                n = min(BLOCK_FRAMES, end - begin - at)
                part = covered[at * self.shift :][: (n - 1) * self.shift + self.size]
                blocks.append(self._block(part, begin + at, n))
        if flush:
            self.reset()
        else:
            keep = min(max(first_sample(end, o) - 1, self._first, 0), self._n_samples)
            self._samples, self._first, self._n_frames = x[keep - self._first :], keep, end
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.empty((0, o.dim), np.float32)

    def _covered(self, x: np.ndarray, begin: int, end: int) -> np.ndarray:
        """What frames begin..end read, with reflected ends."""
        start = first_sample(begin, self.options)
        stop = first_sample(end - 1, self.options) + self.options.window_samples
        if start >= 0 and stop <= self._n_samples:
            return x[start - self._first : stop - self._first]
        index = [reflect(i, self._n_samples) - self._first for i in range(start, stop)]
        return x[index]

    def _block(self, x: np.ndarray, first: int, n: int) -> np.ndarray:
        """Frames `first` to `first + n` of the samples that they cover, (n, dim)."""
        o, size = self.options, self.size
        frames = self._framed(x, size, n)
        if o.dither:
            noise = dither.noise(self.key, np.arange(first, first + n)[:, None], np.arange(size))
            frames = (frames + o.dither * noise).astype(np.float32)
            emphasised = frames[:, 1:] - frames[:, :-1] * self.emphasis
        else:  # once for all frames that share the samples
            emphasised = self._framed(x[1:] - x[:-1] * self.emphasis, size - 1, n)
        y = np.empty((n, size), np.float32)
        np.multiply(emphasised, self.window_after_first, out=y[:, 1:])
        y[:, 0] = frames[:, 0] * self.of_constant[0] if self.of_constant[0] else 0
        if o.remove_dc_offset:
            total = np.add.reduce(frames, axis=1, keepdims=True)
            y -= total * self.of_mean
        energy = None
        if self.with_energy:
            centred = frames - total / np.float32(size) if o.raw_energy and o.remove_dc_offset else frames
            energy = np.add.reduce(np.square(centred if o.raw_energy else y), axis=1)
            energy = np.log(np.maximum(energy, np.float32(max(float(FLOOR), o.energy_floor))))
        spectrum = np.fft.rfft(y, self.fft)
        if isinstance(o, SpectrogramOptions):
            return _spectrogram(spectrum, energy)
        return self._mel(_power(spectrum), energy)

    def _framed(self, x: np.ndarray, size: int, n: int) -> np.ndarray:
        """A view (n, size) of windows that overlap."""
        return np.ndarray((n, size), np.float32, x, 0, (4 * self.shift, 4)) if n > 1 else x[None]

    def _mel(self, power: np.ndarray, energy: np.ndarray | None) -> np.ndarray:
        """Power spectra (n, points) to mel energies or cepstra (n, dim)."""
        o = self.options
        if not self.of_power:
            power = np.sqrt(power)
        sides = np.add.reduceat(power.T.take(self.points, axis=0) * self.weights, self.starts, axis=0)
        mel = sides[: o.num_mel_bins] + sides[o.num_mel_bins :]
        if o.htk_mode:
            np.maximum(mel, np.float32(1), out=mel)
        if self.log:
            np.log(np.maximum(mel, FLOOR, out=mel), out=mel)
        if isinstance(o, MfccOptions):
            alone = mel.shape[1] == 1  # NumPy would add up one column in another order than several
            both = np.repeat(mel, 2, axis=1) if alone else mel
            cepstra = np.add.reduce(self.dct[:, :, None] * both, axis=1).T[: mel.shape[1]]
            if o.use_energy:
                cepstra[:, 0] = energy
            return np.roll(cepstra, -1, axis=1) if o.htk_compat else cepstra
        if not o.use_energy:
            return mel.T
        return np.column_stack([mel.T, energy] if o.htk_compat else [energy, mel.T])


def _stretches(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangular filters (points, bins) as two sides each: a stretch of points where it rises, then one where it falls,
    which is where the next filter rises. Sums over them are cheaper than a product with the matrix, and their order
    does not depend on the number of frames.

    Returns:
        points (m,): the rising sides of all filters, then the falling ones; where each side begins; weights (m, 1).
    """
    n, stretch, members = filters.shape[1], 0, [[] for _ in range(filters.shape[1] + 1)]
    for point, weights in enumerate(filters):
        if (covering := np.flatnonzero(weights)).size:
            stretch = max(stretch, int(covering[-1]))  # one filter alone: it rises, unless it has begun to fall
            members[stretch].append(point)
    sides = [(b, members[b + side] or [0]) for side in (0, 1) for b in range(n)]  # an empty side: point 0 weighs 0
    starts = np.cumsum([0, *(len(points) for _, points in sides)])[:-1]
    weights = np.concatenate([filters[points, b] for b, points in sides])
    return np.concatenate([points for _, points in sides]), starts, weights[:, None]


def _power(spectrum: np.ndarray) -> np.ndarray:
    """Re² + Im² (n, points) of a spectrum."""
    squares = np.square(spectrum.view(np.float32))
    return squares[:, ::2] + squares[:, 1::2]


def _spectrogram(spectrum: np.ndarray, energy: np.ndarray | None) -> np.ndarray:
    if energy is None:
        ends = np.stack([spectrum[:, 0].real, spectrum[:, -1].real], axis=1)
        between = np.ascontiguousarray(spectrum[:, 1:-1]).view(spectrum.real.dtype)
        return np.concatenate([ends, between], axis=1)
    out = np.log(np.maximum(_power(spectrum), FLOOR))
    out[:, 0] = energy
    return out
