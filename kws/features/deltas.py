"""Frames beside their neighbours: time derivatives and splicing, with Kaldi's numbers. NumPy alone.

Both see a few frames to either side, and at the ends of an utterance the first and the last frame again. Frames come
back as float32, or as float64 where they came so.
"""

import numpy as np

from kws.errors import OptionError


class _Context:
    """A stream in which each frame waits for the `right` frames after it, and the `left` before it are kept."""

    def __init__(self, left: int, right: int):
        self.left, self.look_ahead = left, right
        self.reset()

    def reset(self) -> None:
        """Forgets what was heard: the next frame is the first of a stream."""
        self._held = None  # from `left` before the next frame on; None before the first

    def push(self, frames: np.ndarray, flush: bool = False) -> np.ndarray:
        """The next frames (n, dim) to the frames (m, wider) that are now determined.

        `flush` says that no frame follows: what waits comes out, and the next push begins another stream.

        Raises:
            OptionError: frames have another shape than (n, dim).
        """
        frames = np.asarray(frames)
        dim = frames.shape[-1] if self._held is None else self._held.shape[1]
        if frames.ndim != 2 or frames.shape[1] != dim:
            raise OptionError(f"expected frames of shape (frames, {dim or 'dim'}), got {frames.shape}")
        x = frames.astype(np.float64 if frames.dtype == np.float64 else np.float32)
        if self._held is not None:
            x = np.concatenate([self._held, x])
        elif len(x):
            x = np.concatenate([np.repeat(x[:1], self.left, axis=0), x])
        if flush and len(x):
            x = np.concatenate([x, np.repeat(x[-1:], self.look_ahead, axis=0)])
        n = max(len(x) - self.left - self.look_ahead, 0)
        if flush:
            self.reset()
        elif len(x):
            self._held = x[n:].copy()
        return self._widen(x, n)

    def _widen(self, x: np.ndarray, n: int) -> np.ndarray:
        """The results of the n frames of `x` that have all their neighbours; the first is row `left`."""
        raise NotImplementedError


class Deltas(_Context):
    """Appends derivatives over time: (n, dim) to (n, dim * (delta_order + 1)), as a stream.

    The first is the slope of a line fitted to 2 * `delta_window` + 1 frames, each further one the slope of that before,
    by the convolved weights on the frames themselves. `look_ahead` is `delta_order` * `delta_window` frames.
    Kaldi: DeltaFeatures in feat/feature-functions.cc, add-deltas.cc.

    Raises:
        OptionError: an order below 0 or from 1000 on, or a window below 1 or from 1000 on, as in Kaldi.
    """

    def __init__(self, delta_order: int = 2, delta_window: int = 2):
        if not 0 <= delta_order < 1000 or not 0 < delta_window < 1000:
            raise OptionError(
                f"delta_order={delta_order} and delta_window={delta_window}: expected 0 to 999 and 1 to 999"
            )
        slope = np.arange(-delta_window, delta_window + 1, dtype=np.float64)
        slope /= (slope**2).sum()
        self.weights = [np.ones(1)]
        for _ in range(delta_order):
            self.weights.append(np.convolve(self.weights[-1], slope))
        super().__init__(delta_order * delta_window, delta_order * delta_window)

    def _widen(self, x: np.ndarray, n: int) -> np.ndarray:
        dim = x.shape[1]
        out = np.zeros((n, dim * len(self.weights)), x.dtype)
        for order, weights in enumerate(self.weights):
            block = out[:, order * dim : (order + 1) * dim]
            first = self.left - len(weights) // 2
            # one addition after the other, as Kaldi does: a matrix product would round by the number of its rows
            for j, weight in enumerate(weights.tolist()):
                if weight != 0:
                    block += weight * x[first + j : first + j + n]
        return out


class Splice(_Context):
    """Each frame between its neighbours, oldest first: (n, dim) to (n, dim * (left + 1 + right)), as a stream.

    Kaldi: SpliceFrames in feat/feature-functions.cc, splice-feats.cc. No frames give none, where Kaldi ends with an
    error.

    Raises:
        OptionError: a context below 0.
    """

    def __init__(self, left_context: int = 4, right_context: int = 4):
        if left_context < 0 or right_context < 0:
            raise OptionError(f"left_context={left_context} and right_context={right_context}: expected 0 or more")
        super().__init__(left_context, right_context)

    def _widen(self, x: np.ndarray, n: int) -> np.ndarray:
        width = self.left + 1 + self.look_ahead
        out = np.empty((n, width, x.shape[1]), x.dtype)
        for place in range(width):
            out[:, place] = x[place : place + n]
        return out.reshape(n, width * x.shape[1])


def add_deltas(frames: np.ndarray, delta_order: int = 2, delta_window: int = 2) -> np.ndarray:
    """A whole utterance's frames (n, dim) with their derivatives, (n, dim * (delta_order + 1)); see `Deltas`."""
    return Deltas(delta_order, delta_window).push(frames, flush=True)


def splice(frames: np.ndarray, left_context: int = 4, right_context: int = 4) -> np.ndarray:
    """A whole utterance's frames (n, dim) with their neighbours, (n, dim * (left + 1 + right)); see `Splice`."""
    return Splice(left_context, right_context).push(frames, flush=True)
