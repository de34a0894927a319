"""Cepstral mean and variance normalisation with Kaldi's numbers: from statistics, or over a sliding window.

Statistics are Kaldi's matrix, (2, dim + 1) float64: sums and count, then sums of squares and 0. Those of everything,
of a speaker and of an utterance are the same array under other keys, and two merge by `+`. NumPy alone, in float64;
frames come back as float32, or as float64 where they came so.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kws.errors import KwsError, OptionError

BLOCK_ROWS = 1024  # frames held in float64 at a time: memory stays at the output's size


def compute_stats(frames: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Statistics (2, dim + 1) float64 of frames (n, dim). Kaldi: AccCmvnStats in transform/cmvn.cc.

    Args:
        weights: (n,), how much each frame counts; one of weight 0 is not looked at.

    Raises:
        KwsError: a frame holds a NaN or an infinity, which no later frame would ever wash out.
        OptionError: frames or weights have another shape.
    """
    frames = _checked_shape(frames)
    n, dim = frames.shape
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        if weights.shape != (n,):
            raise OptionError(f"expected one weight for each of {n} frames, got weights of shape {weights.shape}")
        frames, weights = frames[weights != 0], weights[weights != 0]
    _check_finite(frames)
    stats = np.zeros((2, dim + 1))
    stats[0, dim] = len(frames) if weights is None else weights.sum()
    for at in range(0, len(frames), BLOCK_ROWS):
        x = frames[at : at + BLOCK_ROWS].astype(np.float64)
        w = 1.0 if weights is None else weights[at : at + BLOCK_ROWS, None]
        stats[0, :dim] += (w * x).sum(axis=0)
        stats[1, :dim] += (w * x * x).sum(axis=0)
    return stats


def stats_by_key(
    features: Iterable[tuple[str, np.ndarray]], utt2spk: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Statistics of (utterance, frames (n, dim)) pairs: a speaker's where `utt2spk` is given, else an utterance's.

    The global ones are the sum of the values. Kaldi: compute-cmvn-stats.cc, with its `spk2utt` turned round.

    Raises:
        KwsError: an utterance has no speaker, other columns than the ones before, or a NaN or an infinity.
    """
    stats = {}
    dim, first = None, None
    for utterance, frames in features:
        if utt2spk is not None and utterance not in utt2spk:
            raise KwsError(f"{utterance}: utt2spk has no speaker for this utterance")
        try:
            own = compute_stats(frames)
        except KwsError as error:
            raise KwsError(f"{utterance}: {error}") from None
        if dim is None:
            dim, first = own.shape[1] - 1, utterance
        if own.shape[1] - 1 != dim:
            raise KwsError(f"{utterance}: frames have {own.shape[1] - 1} columns, those of {first} {dim}")
        key = utterance if utt2spk is None else utt2spk[utterance]
        stats[key] = stats[key] + own if key in stats else own
    return stats


class Cmvn:
    """Normalises by statistics known beforehand, each frame by itself: it streams, and looks at no other frame.

    Kaldi: apply-cmvn.cc, ApplyCmvn, ApplyCmvnReverse and FakeStatsForSomeDims in transform/cmvn.cc.

    Args:
        stats: (2, dim + 1), or (1, dim + 1) where variances are left alone. None stands for those of the utterance
            that is still being heard, which no stream has: it is refused.
        norm_means: false changes nothing at all, as in Kaldi.
        norm_vars: also divide by the standard deviation (variance floored at 1e-20).
        reverse: give normalised frames the statistics' mean, and variance with `norm_vars`.
        skip_dims: columns to leave alone: numbers, or Kaldi's "13:14:15".

    Raises:
        KwsError: the statistics count less than one frame, or are not finite.
        OptionError: an option or a shape cannot be.
    """

    look_ahead = 0

    def __init__(
        self,
        stats: np.ndarray | None,
        norm_means: bool = True,
        norm_vars: bool = False,
        reverse: bool = False,
        skip_dims: Sequence[int] | str = (),
    ):
        if stats is None:
            raise OptionError(
                "CMVN of the utterance does not stream: its statistics are known when it is over; use statistics"
                " computed beforehand (global or the speaker's) or sliding CMVN"
            )
        stats = np.asarray(stats, np.float64)
        if stats.ndim != 2 or len(stats) not in (1, 2) or stats.shape[1] < 2:
            raise OptionError(f"expected statistics of shape (2, dim + 1), got {stats.shape}")
        if norm_vars and not norm_means:
            raise OptionError("norm_vars=true needs norm_means=true: variances are taken around the mean")
        if norm_vars and len(stats) == 1:
            raise OptionError("norm_vars=true needs sums of squares: expected statistics of 2 rows, got 1")
        count, self.dim = stats[0, -1], stats.shape[1] - 1
        if not count >= 1:
            raise KwsError(f"the statistics count {count:g} frames; CMVN needs at least 1")
        if not np.isfinite(stats).all():
            raise KwsError("the statistics hold a NaN or an infinity; compute them anew from finite frames")
        skip = _columns(skip_dims, self.dim)
        self.mean, self.deviation = np.zeros(self.dim), np.ones(self.dim)
        if norm_means:
            self.mean = stats[0, :-1] / count
        if norm_vars:
            variance = stats[1, :-1] / count - self.mean**2
            variance[skip] = 1.0
            if floored := np.flatnonzero(variance < 1e-20).tolist():
                warnings.warn(f"columns {floored} hardly vary: their variance is floored at 1e-20", stacklevel=2)
            self.deviation = np.sqrt(np.maximum(variance, 1e-20))
        self.mean[skip] = 0.0
        self.reverse = reverse

    def reset(self) -> None:
        """Nothing is kept from frame to frame."""

    def push(self, frames: np.ndarray, flush: bool = False) -> np.ndarray:
        """Frames (n, dim) to as many normalised ones."""
        frames = _checked_shape(frames, self.dim)
        out = np.empty(frames.shape, _dtype(frames))
        for at in range(0, len(frames), BLOCK_ROWS):
            x = frames[at : at + BLOCK_ROWS].astype(np.float64)
            if self.reverse:
                out[at : at + BLOCK_ROWS] = x * self.deviation + self.mean
            else:
                out[at : at + BLOCK_ROWS] = (x - self.mean) / self.deviation
        return out


def apply_stats(stats: np.ndarray, frames: np.ndarray, **options) -> np.ndarray:
    """Frames (n, dim) normalised by `stats`; `options` are those of `Cmvn`.

    With `compute_stats(frames)` for `stats` this is the CMVN of the utterance.
    """
    return Cmvn(stats, **options).push(frames)


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
        frames = _checked_shape(frames, self._dim)
        _check_finite(frames)
        self._dim = frames.shape[1]
        if self._n == 0:
            frames = frames if self._waiting is None else np.concatenate([self._waiting, frames])
            if len(frames) < self.min_cmn_window and not flush:
                self._waiting = frames.copy()
                return frames[:0].astype(_dtype(frames))
        out = np.empty(frames.shape, _dtype(frames))
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
    frames = _checked_shape(frames)
    _check_finite(frames)
    n = len(frames)
    window = min(cmn_window, n)
    later = cmn_window - 1 - cmn_window // 2  # frames of a window after its own
    # frame t is normalised by the window that ends with frame last[t]
    last = np.clip(np.arange(n) + later, window - 1, n - 1)
    out = np.empty(frames.shape, _dtype(frames))
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


def _columns(skip_dims: Sequence[int] | str, dim: int) -> list[int]:
    try:
        columns = [int(d) for d in (skip_dims.split(":") if isinstance(skip_dims, str) else skip_dims) if d != ""]
    except (TypeError, ValueError):
        raise OptionError(f"skip_dims={skip_dims!r}: expected column numbers, as 13:14:15") from None
    if wrong := [d for d in columns if not 0 <= d < dim]:
        raise OptionError(f"skip_dims={skip_dims!r}: {wrong} are no columns of frames of {dim}")
    return columns


def _dtype(frames: np.ndarray) -> type:
    return np.float64 if frames.dtype == np.float64 else np.float32


def _checked_shape(frames: np.ndarray, dim: int | None = None) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 2 or frames.shape[1] != (dim or frames.shape[1]):
        raise OptionError(f"expected frames of shape (frames, {dim or 'dim'}), got {frames.shape}")
    return frames


def _check_finite(frames: np.ndarray) -> None:
    finite = np.isfinite(frames)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise KwsError(f"frame {row} holds {frames[row, column]} in column {column}; CMVN needs finite values")
