"""Mean and variance normalisation over a sliding window, with Kaldi's numbers. NumPy alone, in float64; frames come
back as float32, or as float64 where they came so."""

import warnings

import numpy as np

from kws.errors import OptionError
from kws.features.cmvn import BLOCK_ROWS, check_finite, checked_shape, dtype_of


class SlidingCmvn:
    """Normalises each frame by the `cmn_window` frames before it and itself: Kaldi's sliding CMVN, as a stream.

    Kaldi: SlidingWindowCmnInternal in feat/feature-functions.cc, apply-cmvn-sliding.cc. Its window to the left holds
    `cmn_window` + 1 frames. The first frames are normalised by the first `min_cmn_window` ones, so that the stream
    begins with a wait for these (or for the end), and from then on gives a frame for a frame: `look_ahead` is
    `min_cmn_window` - 1 at frame 0, one less at the next, and 0 from frame `min_cmn_window` - 1 on.

    Args:
        cmn_window: frames.
        min_cmn_window: frames; 1 makes it causal from the first frame on.
        norm_vars: also divide by the standard deviation (variance floored at 1e-10; a window of one frame gives 0).
        center: true is refused: such a window ends after its frame, at times at the end of the utterance.
        max_warnings: so many pushes of a stream warn that a variance was floored; -1 for all.

    Raises:
        OptionError: an option cannot be, or needs the whole utterance.
    """

    def __init__(
        self,
        cmn_window: int = 600,
        min_cmn_window: int = 100,
        norm_vars: bool = False,
        center: bool = False,
        max_warnings: int = 5,
    ):
        _check_window(cmn_window, min_cmn_window, center)
        if center:
            raise OptionError(
                "sliding CMVN with center=true does not stream: its windows end after the frame; set center=false"
            )
        self.cmn_window, self.min_cmn_window = cmn_window, max(min_cmn_window, 1)
        self.norm_vars, self.max_warnings = norm_vars, max_warnings
        self.look_ahead = self.min_cmn_window - 1
        self.reset()

    def reset(self) -> None:
        """Forgets what was heard: the next frame is the first of a stream."""
        self._sums = _WindowSums(self.cmn_window + 1)
        self._waiting = None  # the first frames, until there are `min_cmn_window`
        self._n = 0  # frames that came out
        self._dim = None
        self._warned = 0

    def push(self, frames: np.ndarray, flush: bool = False) -> np.ndarray:
        """The next frames (n, dim) to the frames (m, dim) that are now determined.

        `flush` says that no frame follows: what waits comes out, and the next push begins another stream.

        Raises:
            KwsError: a frame holds a NaN or an infinity; the stream stays as it was.
            OptionError: frames have another shape.
        """
        frames = checked_shape(frames, self._dim)
        check_finite(frames)
        self._dim = frames.shape[1]
        if self._n == 0:
            frames = frames if self._waiting is None else np.concatenate([self._waiting, frames])
            if len(frames) < self.min_cmn_window and not flush:
                self._waiting = frames.copy()
                return frames[:0].astype(dtype_of(frames))
        out = np.empty(frames.shape, dtype_of(frames))
        at = self._begin(frames, out) if self._n == 0 and len(frames) else 0
        for begin in range(at, len(frames), BLOCK_ROWS):
            x = frames[begin : begin + BLOCK_ROWS].astype(np.float64)
            counts = np.minimum(np.arange(self._n + 1, self._n + len(x) + 1), self.cmn_window + 1)
            out[begin : begin + BLOCK_ROWS] = self._normalise(x, self._sums.push(_powers(x, self.norm_vars)), counts)
            self._n += len(x)
        self._waiting = None
        if flush:
            self.reset()
        return out

    def _begin(self, frames: np.ndarray, out: np.ndarray) -> int:
        """The first `min_cmn_window` frames, or all of a shorter stream: their windows end together."""
        end = min(len(frames), self.min_cmn_window)
        x = frames[:end].astype(np.float64)
        rows = _powers(x, self.norm_vars)
        # Kaldi shifts a window that would end after the last frame to the left; only windows longer than
        # `cmn_window`, as `min_cmn_window` allows them, begin late enough to be shifted
        starts = np.maximum(np.arange(end) - self.cmn_window - (self.min_cmn_window - end), 0)
        sums = np.cumsum(rows[::-1], axis=0)[::-1][starts]
        out[:end] = self._normalise(x, sums, end - starts)
        self._sums.push(rows)
        self._n = end
        return end

    def _normalise(self, x: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        y, floored = _normalise(x, sums, counts, self.norm_vars)
        if floored and not 0 <= self.max_warnings <= self._warned:
            self._warned += 1
            warnings.warn(_flooring(floored), stacklevel=3)
        return y


def sliding_cmvn(
    frames: np.ndarray,
    cmn_window: int = 600,
    min_cmn_window: int = 100,
    norm_vars: bool = False,
    center: bool = False,
    max_warnings: int = 5,
) -> np.ndarray:
    """A whole utterance's frames (n, dim), each normalised by the frames around it. Options as in `SlidingCmvn`.

    With `center` the window is the `cmn_window` frames around a frame, moved inwards at both ends of the utterance;
    Kaldi then does not use `min_cmn_window`, but wants it between 1 and `cmn_window`.
    """
    if not center:
        return SlidingCmvn(cmn_window, min_cmn_window, norm_vars, center, max_warnings).push(frames, flush=True)
    _check_window(cmn_window, min_cmn_window, center)
    frames = checked_shape(frames)
    check_finite(frames)
    n = len(frames)
    window = min(cmn_window, n)
    later = cmn_window - 1 - cmn_window // 2  # frames of a window after its own
    # frame t is normalised by the window that ends with frame last[t]
    last = np.clip(np.arange(n) + later, window - 1, n - 1)
    out = np.empty(frames.shape, dtype_of(frames))
    sums, n_floored = _WindowSums(cmn_window), 0
    for at in range(0, n, BLOCK_ROWS):
        ending = sums.push(_powers(frames[at : at + BLOCK_ROWS].astype(np.float64), norm_vars))
        begin, end = np.searchsorted(last, [at, at + len(ending)])
        x = frames[begin:end].astype(np.float64)
        out[begin:end], floored = _normalise(x, ending[last[begin:end] - at], np.full(end - begin, window), norm_vars)
        n_floored += floored
    if n_floored and max_warnings:
        warnings.warn(_flooring(n_floored), stacklevel=2)
    return out


class _WindowSums:
    """Sums of the last `length` rows at each row, (n, k) to (n, k); of all rows while they are fewer.

    Rows are cut into blocks of `length` by their place in the stream, and a window is the end of one block and the
    beginning of the next, each summed in order from its own values. So a cut changes no bit, and nothing is left
    over of a row that left the window, as it is in Kaldi's running sum. Two additions a row, whatever the length.
    """

    def __init__(self, length: int):
        self.length = length
        self.place = 0  # of the next row in its block
        self.head = 0.0  # sum of the block so far
        self.block = None  # rows before `place`; from there on, sums of the last block's rows after that place

    def push(self, rows: np.ndarray) -> np.ndarray:
        if self.block is None:
            self.block = np.zeros((0, rows.shape[1]))
        out = np.empty_like(rows)
        at = 0
        while at < len(rows):
            part = rows[at : at + self.length - self.place]
            end = self.place + len(part)
            self._hold(end)
            sums = out[at : at + len(part)]
            sums[0] = self.head + part[0]
            sums[1:] = part[1:]
            np.cumsum(sums, axis=0, out=sums)
            self.head = sums[-1].copy()
            sums += self.block[self.place : end]
            self.block[self.place : end] = part
            self.place = end
            if end == self.length:
                self.block[:-1] = np.cumsum(self.block[:0:-1], axis=0)[::-1]
                self.block[-1] = 0.0
                self.place, self.head = 0, 0.0
            at += len(part)
        return out

    def _hold(self, rows: int) -> None:
        """Makes room: a window far longer than the stream takes the memory of the stream."""
        if rows > len(self.block):
            room = np.zeros((min(self.length, max(rows, 2 * len(self.block))), self.block.shape[1]))
            room[: len(self.block)] = self.block
            self.block = room


def _powers(x: np.ndarray, norm_vars: bool) -> np.ndarray:
    return np.concatenate([x, x * x], axis=1) if norm_vars else x


def _normalise(x: np.ndarray, sums: np.ndarray, counts: np.ndarray, norm_vars: bool) -> tuple[np.ndarray, int]:
    """Rows x (n, dim) by the sums (n, dim or 2 dim) of their windows, and how many variances were floored."""
    dim, counts = x.shape[1], counts[:, None]
    mean = sums[:, :dim] / counts
    y = x - mean
    if not norm_vars:
        return y, 0
    variance = sums[:, dim:] / counts - mean * mean
    floored = int(((variance < 1e-10) & (counts > 1)).sum())
    y /= np.sqrt(np.maximum(variance, 1e-10))
    return np.where(counts > 1, y, 0.0), floored


def _flooring(floored: int) -> str:
    return f"{floored} values hardly vary in their window: their variance is floored at 1e-10"


def _check_window(cmn_window: int, min_cmn_window: int, center: bool) -> None:
    """Kaldi: SlidingWindowCmnOptions::Check."""
    if cmn_window < 1:
        raise OptionError(f"cmn_window={cmn_window}: expected at least 1 frame")
    if center and not 1 <= min_cmn_window <= cmn_window:
        raise OptionError(f"min_cmn_window={min_cmn_window}: expected 1 to cmn_window={cmn_window} with center=true")
