"""Several spotters on one stream as if they were one: a word counts when enough of them hear it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from kws.decision import Detection
from kws.errors import KwsError, check_number

LATE_S = 0.5  # a spotter tells later than another by so much, or by its chunk


class Together:
    """Samples in, detections out.

    A word is detected when `require` spotters detect it within `agree_ms`; it then begins with the first of them, ends
    with the last, and has the score, and the reason, of the least sure. Detections that do not find enough others are
    near misses, as are the spotters' own.

    Args:
        spotters: `kws.spotter.Spotter` or `kws.runtime.Stream`, all at the beginning of a stream at one rate.
        rate: of the samples that will be fed, in Hz.

    Raises:
        KwsError: `require` is no number of them, no word is known to so many, or `agree_ms` is no time.
    """

    def __init__(self, spotters: Sequence, rate: int, require: int = 1, agree_ms: float = 500.0):
        check_number("agree_ms", agree_ms, lambda ms: ms >= 0, "milliseconds")
        self.spotters, self.rate, self.require, self.agree_s = list(spotters), rate, require, agree_ms / 1000
        if require not in range(1, len(self.spotters) + 1):
            raise KwsError(
                f"require={require}: expected 1 to {len(self.spotters)}, the number of spotters in checkpoint="
            )
        known = [[d.labels[i] for i in d.words] for d in (spotter.decision for spotter in self.spotters)]
        self.words = [w for w in dict.fromkeys(chain(*known)) if sum(w in own for own in known) >= require]
        if not self.words:
            raise KwsError(f"require={require}: of {len(known)} spotters no word is known to so many")
        self._seconds, self._late_s = 0.0, LATE_S + max(s.chunk_s for s in self.spotters)
        self._waiting: list[tuple[int, Detection]] = []  # of a spotter, not joined by enough others yet
        self._told: dict[str, tuple[float, set[int]]] = {}  # when each word was last detected, and by which spotters

    def push(self, samples: np.ndarray, flush: bool = False) -> tuple[list[Detection], list[Detection]]:
        """The next samples (n,) in int16 units to the words now detected, and the near misses now over."""
        self._seconds += len(samples) / self.rate
        heard = [(i, d) for i, spotter in enumerate(self.spotters) for d in spotter.push(samples, flush)]
        missed = [d for spotter in self.spotters for d in spotter.decision.missed if d.word in self.words]
        found = []
        for i, detection in sorted(heard, key=lambda each: each[1].end):
            word, end = detection.word, detection.end
            told, by = self._told.get(word, (-np.inf, set()))
            if word not in self.words:
                continue
            if abs(end - told) <= self.agree_s and i not in by:
                by.add(i)  # it agrees too, only later
                continue
            agreed = {j: d for j, d in self._waiting if d.word == word and abs(end - d.end) <= self.agree_s}
            agreed[i] = detection
            if len(agreed) < self.require:
                self._waiting.append((i, detection))
                continue
            self._waiting = [(j, d) for j, d in self._waiting if agreed.get(j) is not d]
            last = max(d.end for d in agreed.values())
            self._told[word] = last, set(agreed)
            least = min(agreed.values(), key=lambda d: d.score)
            found.append(replace(least, start=min(d.start for d in agreed.values()), end=last))
        oldest = np.inf if flush else self._seconds - self.agree_s - self._late_s
        missed += [d for _, d in self._waiting if d.end < oldest]
        self._waiting = [(i, d) for i, d in self._waiting if d.end >= oldest]
        return found, missed

    def scores(self) -> dict[str, float]:
        """Each word's smoothed score, of those that `require` spotters reach."""
        each = [dict(zip(d.labels, d.smoothed.tolist(), strict=True)) for d in (s.decision for s in self.spotters)]
        return {word: sorted(own.get(word, 0.0) for own in each)[-self.require] for word in self.words}
