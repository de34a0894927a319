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
        self.threshold = np.array([limits.get(label, np.inf) for label in self.labels])
        self.release = release * self.threshold
        self.smoothing = max(1, round(smoothing_ms / step_ms))
        self.refractory = round(refractory_ms / step_ms)
        self.warm_up = round(warm_up_ms / step_ms)
        self.reset()

    def reset(self) -> None:
        self.step = 0
        self.quiet_until = self.warm_up
        self.recent = np.zeros((0, len(self.labels)))
        self.active = np.zeros(len(self.labels), bool)
        self.risen = np.zeros(len(self.labels), int)  # step at which each score last left its floor
        self.smoothed = np.zeros(len(self.labels))

    def push(self, scores: np.ndarray) -> list[Detection]:
        """Scores (steps, labels), each row a probability by label, to the words now detected."""
        found = []
        for row in np.asarray(scores, np.float64):
            self.recent = np.concatenate([self.recent, row[None]])[-self.smoothing :]
            self.smoothed = self.recent.mean(axis=0)
            self.step += 1
            self.active &= self.smoothed >= self.release
            self.risen = np.where(self.smoothed >= 0.5 * self.release, self.risen, self.step)
            if self.step < self.quiet_until:
                continue
            word = max(self.words, key=self.smoothed.__getitem__)
            if self.smoothed[word] >= self.threshold[word] and not self.active[word]:
                self.active[word] = True
                self.quiet_until = self.step + self.refractory
                seconds = self.step_ms / 1000
                found.append(
                    Detection(
                        self.labels[word], self.risen[word] * seconds, self.step * seconds, float(self.smoothed[word])
                    )
                )
        return found
