"""Scores to detections: a small machine with hysteresis. NumPy alone.

A word is detected when its smoothed score rises to `threshold` and is the highest of the words. It can be detected
again once its score has fallen below `release` and `refractory_ms` have passed since any detection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detection:
    """A word heard: `start` and `end` in seconds of the stream, `end` the moment of the decision."""

    word: str
    start: float
    end: float
    score: float


class Decision:
    """One stream's machine. Milliseconds become steps here, once.

    Args:
        labels: names of the scores' columns; those that begin with "_" are never detected.
        step_ms: from one score to the next.
        threshold: one for all words, or one by word.
        release: the smoothed score below which a word is over, as a share of its threshold.
        smoothing_ms: span of the mean over scores.
        refractory_ms: silence after a detection.
        warm_up_ms: silence at the start of a stream, until a step in it looks like a step in training.
    """

    def __init__(
        self, labels: Sequence[str], step_ms: float, threshold: float | dict[str, float] = 0.7, release: float = 0.6,
        smoothing_ms: float = 200.0, refractory_ms: float = 700.0, warm_up_ms: float = 500.0,
    ):  # fmt: skip
        self.labels, self.step_ms = list(labels), step_ms
        self.words = [i for i, label in enumerate(labels) if not label.startswith("_")]
        if not self.words:
            raise ValueError(f"none of the labels is a word to detect: {', '.join(self.labels)}")
        limits = threshold if isinstance(threshold, dict) else dict.fromkeys(self.labels, threshold)
        if missing := [self.labels[i] for i in self.words if self.labels[i] not in limits]:
            raise ValueError(f"no threshold for {', '.join(missing)}")
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

    @property
    def smoothed(self) -> np.ndarray:
        """The mean (labels,) over the last steps."""
        recent = np.concatenate(self._recent)[-self.smoothing :]
        return recent.sum(axis=0) / max(1, min(self.step, self.smoothing))

    def push(self, scores: np.ndarray) -> list[Detection]:
        """Scores (steps, labels), each row a probability by label, to the words now detected."""
        steps = len(scores)
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
        found = []
        for smoothed in self._means(steps).tolist():  # numbers of Python's own are quicker one by one
            self.step += 1
            for i in self.words:
                if smoothed[i] < self.release[i]:
                    self.active[i] = False
                if smoothed[i] < self.floor[i]:
                    self.risen[i] = self.step
            if self.step < self.quiet_until:
                continue
            word = max(self.words, key=smoothed.__getitem__)
            if smoothed[word] >= self.threshold[word] and not self.active[word]:
                self.active[word] = True
                self.quiet_until = self.step + self.refractory
                seconds = self.step_ms / 1000
                start, end = self.risen[word] * seconds, self.step * seconds
                found.append(Detection(self.labels[word], start, end, smoothed[word]))
        return found

    def _means(self, steps: int) -> np.ndarray:
        """Of the scores up to each of the last steps (steps, labels)."""
        n, width = self.smoothing, len(self.labels)
        rows = np.concatenate(self._recent, dtype=np.float64)
        self._recent = [rows[-n:]]
        rows = rows[-(steps + n - 1) :]
        windows = np.ndarray((steps, n, width), np.float64, rows, 0, (8 * width, 8 * width, 8))
        total = np.add.reduce(windows, axis=1)  # row after row, so a mean has the same bits however the scores came
        if self.step < n:  # fewer have been seen
            return total / np.minimum(self.step + 1 + np.arange(steps), n)[:, None]
        return total / n
