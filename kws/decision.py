"""Scores to detections: a small machine with hysteresis. NumPy alone.

A word is detected when its smoothed score rises to `threshold` and is the highest of the words. It can be detected
again once its score has fallen below `release` and `refractory_ms` have passed since any detection. A smoothed score
that rises to `release` and falls again while no word is detected is a near miss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kws.errors import is_number

THRESHOLD = 0.7
DEFAULT = "_default_"  # the key of the other words' threshold: no word begins with "_"


@dataclass(frozen=True)
class Detection:
    """A word heard, or nearly, and why. In seconds of the stream `start` is when its score began to rise, often not
    before the word's end, and `end` the moment of the decision (of a near miss: when it came closest)."""

    word: str
    start: float
    end: float
    score: float  # the mean over the last scores, which is held against the threshold
    peak: float  # the highest of those scores
    threshold: float
    steps_above: int  # how many of those scores are at the threshold or above


class Decision:
    """One stream's machine. Milliseconds become steps here, once.

    Args:
        labels: names of the scores' columns; those that begin with "_" are never detected.
        step_ms: from one score to the next.
        offset_ms: the first step ends this much later than a step after the stream's start.
        threshold: one for all words, or by word, as {"left": 0.8, "_default_": 0.6}: words without one of their own
            have that of `_default_`, or 0.7.
        release: the smoothed score below which a word is over, as a share of its threshold.
        smoothing_ms: span of the mean over scores.
        refractory_ms: silence after a detection.
        warm_up_ms: silence at the start of a stream, until a step in it looks like a step in training.

    Attributes:
        missed: the near misses that were over by the last `push`.

    Raises:
        ValueError: a threshold that is none, or of a word that there is not; another argument that cannot be.
    """

    def __init__(
        self, labels: Sequence[str], step_ms: float, offset_ms: float = 0.0, *,
        threshold: float | dict[str, float] = THRESHOLD, release: float = 0.6, smoothing_ms: float = 200.0,
        refractory_ms: float = 700.0, warm_up_ms: float = 500.0,
    ):  # fmt: skip
        self.labels, self.step_ms, self.offset_ms = list(labels), step_ms, offset_ms
        self.words = [i for i, label in enumerate(labels) if not label.startswith("_")]
        if not self.words:
            raise ValueError(f"none of the labels is a word to detect: {', '.join(self.labels)}")
        if not is_number(release, lambda share: 0 <= share <= 1):
            raise ValueError(f"release={release}: expected a share of the threshold, 0 to 1")
        for name, ms in (("smoothing", smoothing_ms), ("refractory", refractory_ms), ("warm_up", warm_up_ms)):
            if not is_number(ms, lambda ms: ms >= 0):
                raise ValueError(f"{name}_ms={ms}: expected milliseconds, 0 or more")
        limits = threshold if isinstance(threshold, dict) else {DEFAULT: threshold}
        words = [self.labels[i] for i in self.words]
        for key, limit in limits.items():
            if key not in (DEFAULT, *words):
                raise ValueError(f"threshold names {key!r}, which is no word here: {', '.join(words)} (or {DEFAULT})")
            if not is_number(limit, lambda score: 0 < score < 2):
                raise ValueError(f"threshold of {key}: expected a score above 0, not {limit!r} (above 1: never)")
        limits = {**dict.fromkeys(words, limits.get(DEFAULT, THRESHOLD)), **limits}
        self.threshold = [float(limits.get(label, np.inf)) for label in self.labels]
        self.release = [release * limit for limit in self.threshold]
        self.floor = [0.5 * limit for limit in self.release]  # below it nothing is being said
        self._floors = np.array(self.floor)
        self.smoothing = max(1, round(smoothing_ms / step_ms))
        self.refractory = round(refractory_ms / step_ms)
        self.warm_up = round(warm_up_ms / step_ms)
        self.reset()

    def reset(self) -> None:
        self.step = 0
        self.quiet_until = self.warm_up
        self.active = [False] * len(self.labels)
        self.risen = [0] * len(self.labels)  # step at which each score last left its floor
        self._recent = [np.zeros((self.smoothing, len(self.labels)))]  # the last scores, and maybe some before
        self._calm = self.smoothing  # steps since a score was above its floor
        self.missed: list[Detection] = []
        self._rising: dict[int, Detection] = {}  # words above their release: how close each came

    @property
    def smoothed(self) -> np.ndarray:
        """The mean (labels,) over the last steps."""
        recent = np.concatenate(self._recent)[-self.smoothing :]
        return recent.sum(axis=0, dtype=np.float64) / max(1, min(self.step, self.smoothing))

    def push(self, scores: np.ndarray) -> list[Detection]:
        """Scores (steps, labels), each row a probability by label, to the words now detected."""
        steps, self.missed = len(scores), []
        if not steps:
            return []
        self._recent.append(scores)
        if len(self._recent) > self.smoothing + 1:
            del self._recent[0]
        calm = bool((scores < self._floors).all())
        if calm and self._calm >= self.smoothing:  # so is their mean: nothing to look at, which is most of the time
            self.step += steps
            self.active, self.risen = [False] * len(self.labels), [self.step] * len(self.labels)
            return []
        self._calm = self._calm + steps if calm else 0
        found, windows = [], self._windows(steps)
        # row after row, so a mean has the same bits however the scores came
        means = np.add.reduce(windows, axis=1)
        if self.step < self.smoothing:  # fewer have been seen
            means /= np.minimum(self.step + 1 + np.arange(steps), self.smoothing)[:, None]
        else:
            means /= self.smoothing
        for window, smoothed in zip(windows, means.tolist(), strict=True):  # Python's own numbers: quicker one by one
            self.step += 1
            for i in self.words:
                if smoothed[i] < self.release[i]:
                    self.active[i] = False
                    if i in self._rising:
                        self.missed.append(self._rising.pop(i))
                if smoothed[i] < self.floor[i]:
                    self.risen[i] = self.step
            if self.step < self.quiet_until:
                continue
            word = max(self.words, key=smoothed.__getitem__)
            if smoothed[word] >= self.threshold[word] and not self.active[word]:
                self.active[word] = True
                self.quiet_until = self.step + self.refractory
                found.append(self._detection(word, smoothed[word], window))
                self._rising.clear()
                continue
            for i in self.words:
                closest = self._rising[i].score if i in self._rising else 0.0
                if smoothed[i] >= self.release[i] and smoothed[i] > closest and not self.active[i]:
                    self._rising[i] = self._detection(i, smoothed[i], window)
        return found

    def _detection(self, word: int, score: float, window: np.ndarray) -> Detection:
        start, end = (step * (self.step_ms / 1000) + self.offset_ms / 1000 for step in (self.risen[word], self.step))
        scores, limit = window[:, word], self.threshold[word]
        above = int((scores >= limit).sum())
        return Detection(self.labels[word], start, end, score, float(scores.max()), limit, above)

    def _windows(self, steps: int) -> np.ndarray:
        """The scores (steps, smoothing, labels) that the mean at each of the last steps is over."""
        n, width = self.smoothing, len(self.labels)
        rows = np.concatenate(self._recent, dtype=np.float64)
        self._recent = [rows[-n:]]
        rows = rows[-(steps + n - 1) :]
        return np.ndarray((steps, n, width), np.float64, rows, 0, (8 * width, 8 * width, 8))
