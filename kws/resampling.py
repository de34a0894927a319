"""Band-limited resampling, of streams and of whole sounds."""

import functools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from kws.errors import AudioError

# A lying header may say 1 Hz or 383 999: neither 16000 samples for each nor a table of gigabytes is worth it.
MAX_FACTOR, MAX_TABLE = 64, 1 << 22
BLOCK = 256  # outputs worked on at a time: their inputs stay in the cache


@functools.lru_cache(maxsize=4)
def _sinc_table(from_rate: int, to_rate: int, zeros: int) -> tuple[int, int, int, np.ndarray]:
    """up, down, taps on each side of an output (in input samples), and the taps of every phase (up, 2 · half)."""
    if from_rate <= 0 or to_rate <= 0 or not 1 / MAX_FACTOR <= to_rate / from_rate <= MAX_FACTOR:
        raise AudioError(f"cannot resample from {from_rate} to {to_rate} Hz: a factor beyond {MAX_FACTOR}")
    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    rolloff, beta = 0.95, 9.0  # of the lower Nyquist: flat to 0.83, -6 dB at 0.95, -90 dB from 1.07 on
    cutoff = rolloff * min(1.0, up / down)  # as a fraction of the input's Nyquist frequency
    half = math.ceil(zeros / cutoff)
    if 2 * half * up > MAX_TABLE:
        raise AudioError(f"cannot resample from {from_rate} to {to_rate} Hz: {up}/{down} is no simple ratio")
    table = np.empty((up, 2 * half))
    for at in range(0, up, BLOCK):  # what is needed on the way is no larger than a small table
        phase = (np.arange(at, min(at + BLOCK, up)) * down % up) / up
        t = np.arange(-half + 1, half + 1)[None, :] - phase[:, None]
        window = np.i0(beta * np.sqrt(np.clip(1 - (t / half) ** 2, 0, None))) / np.i0(beta)
        table[at : at + BLOCK] = cutoff * np.sinc(cutoff * t) * window
    return up, down, half, table


class Resampler:
    """Band-limited resampling of a stream by a rational factor, exact under any cutting of the input.

    Output n is the input convolved with a Kaiser-windowed sinc at time n·from/to (Smith, "Digital Audio Resampling",
    CCRMA); the past before the first sample and the future after the last are zeros. Each output is one dot product
    in float64 over the same samples however they arrived, so chunks give the bits of the whole.

    Args:
        from_rate, to_rate: in Hz.
        zeros: zero crossings of the sinc on each side; sets the width of the transition band.
    """

    def __init__(self, from_rate: int, to_rate: int, zeros: int = 24):
        self.up, self.down, self.half, self.table = _sinc_table(from_rate, to_rate, zeros)
        self.reset()

    def reset(self) -> None:
        self._buffer = np.zeros(self.half - 1)  # the past of zeros; its first sample has index -(half - 1)
        self._first = -(self.half - 1)
        self._n_in = self._n_out = 0

    def push(self, samples: np.ndarray, flush: bool = False) -> np.ndarray:
        """Input samples (n,) to the output samples (m,) float32 that are now determined; `flush` ends the stream."""
        self._n_in += len(samples)
        self._buffer = np.concatenate([self._buffer, np.asarray(samples, np.float64)])
        if flush:
            self._buffer = np.concatenate([self._buffer, np.zeros(self.half)])
            until = -(-self._n_in * self.up // self.down)
        else:  # output n reads input up to floor(n·down/up) + half
            until = max(-(-(self._n_in - self.half) * self.up // self.down), self._n_out)
        out = np.empty(until - self._n_out, np.float32)
        if len(out):
            windows = np.lib.stride_tricks.sliding_window_view(self._buffer, 2 * self.half)
        for at in range(0, len(out), BLOCK):
            index = np.arange(self._n_out + at, min(self._n_out + at + BLOCK, until), dtype=np.int64)
            starts = index * self.down // self.up - self.half + 1 - self._first
            out[at : at + BLOCK] = np.einsum("ij,ij->i", windows[starts], self.table[index % self.up])
        self._n_out = until
        keep = max(self._n_out * self.down // self.up - self.half + 1 - self._first, 0)
        self._buffer, self._first = self._buffer[keep:], self._first + keep
        if flush:
            self.reset()
        return out


def resampled(blocks: Iterable[np.ndarray], resampler: Resampler, size: int = 1 << 18) -> Iterator[np.ndarray]:
    """The blocks of a sound through a fresh `Resampler`, in blocks of about `size` samples at most."""
    step = max(min(size, size * resampler.down // resampler.up), 1)
    for block in blocks:
        for at in range(0, len(block), step):
            if len(out := resampler.push(block[at : at + step])):
                yield out
    yield resampler.push(np.zeros(0, np.float32), flush=True)


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Samples (n,) at `from_rate` Hz to (⌈n·to/from⌉,) float32 at `to_rate` Hz."""
    if from_rate == to_rate:
        return samples
    return np.concatenate(list(resampled([samples], Resampler(from_rate, to_rate))))
