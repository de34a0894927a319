"""Cepstral mean and variance normalisation with Kaldi's numbers, from statistics.

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
    frames = checked_shape(frames)
    n, dim = frames.shape
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        if weights.shape != (n,):
            raise OptionError(f"expected one weight for each of {n} frames, got weights of shape {weights.shape}")
        frames, weights = frames[weights != 0], weights[weights != 0]
    check_finite(frames)
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
        frames = checked_shape(frames, self.dim)
        out = np.empty(frames.shape, dtype_of(frames))
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


def _columns(skip_dims: Sequence[int] | str, dim: int) -> list[int]:
    try:
        columns = [int(d) for d in (skip_dims.split(":") if isinstance(skip_dims, str) else skip_dims) if d != ""]
    except (TypeError, ValueError):
        raise OptionError(f"skip_dims={skip_dims!r}: expected column numbers, as 13:14:15") from None
    if wrong := [d for d in columns if not 0 <= d < dim]:
        raise OptionError(f"skip_dims={skip_dims!r}: {wrong} are no columns of frames of {dim}")
    return columns


def dtype_of(frames: np.ndarray) -> type:
    return np.float64 if frames.dtype == np.float64 else np.float32


def checked_shape(frames: np.ndarray, dim: int | None = None) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.ndim != 2 or frames.shape[1] != (dim or frames.shape[1]):
        raise OptionError(f"expected frames of shape (frames, {dim or 'dim'}), got {frames.shape}")
    return frames


def check_finite(frames: np.ndarray) -> None:
    finite = np.isfinite(frames)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise KwsError(f"frame {row} holds {frames[row, column]} in column {column}; CMVN needs finite values")
