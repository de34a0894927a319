"""Waves to frames, for streams: NumPy arrays in and out, without torch."""

import numpy as np

from kws.features import dither, kernel, micro
from kws.features.framing import advance, joined
from kws.features.options import MicroOptions, Options


class OnlineExtractor:
    """One stream of Kaldi's spectrogram, fbank, MFCC or `micro`: the bits of `FeatureExtractor`, however it is cut.

    Args:
        warp: VTLN factor.
        utterance: a number that dither's noise is a function of.

    Raises:
        OptionError: there are no features with these options.
    """

    def __init__(self, options: Options, warp: float = 1.0, utterance: int = 0):
        self.options = options
        if not isinstance(options, MicroOptions):
            self.tables = kernel.of(options, warp)
        self.keys = [dither.key(options.dither_seed, utterance)]
        self.reset()

    @property
    def dim(self) -> int:
        return self.options.dim

    def reset(self) -> None:
        self._samples = np.zeros(0, np.float32)  # from index `_first` on: what coming frames will read again
        self._first = self._n_samples = self._n_frames = 0
        self._noise = np.zeros((1, self.dim), np.int64)

    def push(self, samples: np.ndarray, flush: bool = False) -> np.ndarray:
        """The next samples (n,) in int16 units to the frames (m, dim) float32 that they determine; `flush` says that
        none follows, and makes ready for another stream."""
        held = np.concatenate([self._samples, samples], dtype=np.float32) if self._n_samples else samples
        self._n_samples += len(samples)
        step = advance(self.options, self._first, self._n_samples, self._n_frames, flush)
        covered = joined(np.asarray(held, np.float32)[None], step.covered, np.concatenate)
        count = step.end - step.begin
        if isinstance(self.options, MicroOptions):
            out = micro.frames(covered, count, self._noise)
        else:
            out = kernel.frames(covered, step.begin, count, self.options, self.tables, self.keys)
        if flush:
            self.reset()
        else:
            self._samples = np.array(held[step.keep :], np.float32)
            self._first, self._n_frames = self._first + step.keep, step.end
        return out[0]
