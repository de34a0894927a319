"""Every threshold on scores that were computed once, decided as `kws.decision.Decision` decides. No torch here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kws.alarms.labels import FALSE, Recording, match, negative_seconds
from kws.compilation import compiled
from kws.decision import Decision

# evenly spaced on the logistic curve, as posteriors crowd at both ends; from 0.018 to 0.9999
THRESHOLDS = np.round(1 / (1 + np.exp(-np.linspace(-4, 9, 261))), 5)


@dataclass
class Heard:
    """A recording and its smoothed scores (steps, words), 8 bytes each: 110 MB for ten hours of 15 words at 40 ms."""

    recording: Recording
    seconds: float
    words: list[str]
    smoothed: np.ndarray


@dataclass
class Alarms:
    """Of one recording, in the order of time."""

    heard: Heard
    times: np.ndarray  # (n,) seconds
    words: np.ndarray  # (n,) columns of the scores
    scores: np.ndarray  # (n,)
    answers: np.ndarray  # (n,) see `match`


def smooth(scores: np.ndarray, decision: Decision) -> np.ndarray:
    """Scores (steps, labels) to what `decision` holds against its thresholds (steps, words), to the bit."""
    out, n = np.zeros((len(scores), len(decision.words))), decision.smoothing
    scores = scores[:, decision.words]
    for back in reversed(range(min(n, len(scores)))):  # the oldest first, as the decision adds
        out[back:] += scores[: len(scores) - back]
    return out / np.minimum(np.arange(len(out)) + 1, n)[:, None]


def alarms(heard: Heard, decision: Decision, tolerance: float) -> Alarms:
    """What `decision` detects in a recording; its own state is not used."""
    limits = np.array([(decision.threshold[i], decision.release[i]) for i in decision.words])
    steps, columns = _fired(heard.smoothed, *limits.T, decision.refractory, decision.warm_up)
    times = (steps + 1) * (decision.step_ms / 1000) + decision.offset_ms / 1000
    answers = match(heard.recording.labels, np.array(heard.words)[columns], times, tolerance)
    return Alarms(heard, times, columns, heard.smoothed[steps, columns], answers)


@compiled
def _fired(smoothed, threshold, release, refractory, warm_up):
    """`Decision.push` on means (steps, words): the steps at which a word was detected, and its columns."""
    n, width = smoothed.shape
    steps, columns, found = np.empty(n, np.int64), np.empty(n, np.int64), 0
    active, quiet_until = np.zeros(width, np.bool_), warm_up
    for t in range(n):
        best = 0
        for j in range(width):
            if smoothed[t, j] < release[j]:
                active[j] = False
            if smoothed[t, j] > smoothed[t, best]:
                best = j
        if t + 1 >= quiet_until and smoothed[t, best] >= threshold[best] and not active[best]:
            active[best] = True
            quiet_until = t + 1 + refractory
            steps[found], columns[found] = t, best
            found += 1
    return steps[:found].copy(), columns[:found].copy()


@dataclass
class Sweep:
    """Counts at each threshold, the same for every word."""

    thresholds: np.ndarray  # (n,) rising
    words: list[str]
    hits: np.ndarray  # (n, words) labels that were answered
    false: dict[str, np.ndarray]  # by kind of recording (n, words): alarms outside every label's window


def sweep(heard: Sequence[Heard], machine: Callable, tolerance: float, thresholds=THRESHOLDS) -> Sweep:
    """Args: machine: from a threshold to the `Decision` that has it."""
    words = heard[0].words
    hits = np.zeros((len(thresholds), len(words)), int)
    false = {one.recording.kind: np.zeros_like(hits) for one in heard}
    for row, threshold in enumerate(thresholds):
        decision = machine(float(threshold))
        for one in heard:
            found = alarms(one, decision, tolerance)
            hits[row] += np.bincount(found.words[found.answers >= 0], minlength=len(words))
            wrong = np.bincount(found.words[found.answers == FALSE], minlength=len(words))
            false[one.recording.kind][row] += wrong
    return Sweep(np.asarray(thresholds), words, hits, false)


def best_within(counts: np.ndarray, hits: np.ndarray, allowed: float) -> int | None:
    """Which of rising thresholds (n,) has the most hits, the lowest if several have, among those with no more counts
    than `allowed`; None if none is. Counts need not fall: what is sure of itself too late for a label is false."""
    kept = np.flatnonzero(counts <= allowed)
    return int(kept[hits[kept].argmax()]) if len(kept) else None


def hours_by_kind(heard: Sequence[Heard], tolerance: float) -> dict[str, float]:
    """Hours outside every label's window."""
    hours: dict[str, float] = {}
    for one in heard:
        seconds = negative_seconds(one.recording.labels, tolerance, one.seconds)
        hours[one.recording.kind] = hours.get(one.recording.kind, 0.0) + seconds / 3600
    return hours


def choose(heard: Sequence[Heard], swept: Sweep, machine: Callable, tolerance: float, budget: float, lowest: float):
    """Thresholds by word with which the spotter makes at most `budget` false alarms per hour of all the negatives.

    Each word is given some of the alarms that the budget allows, so that the fewest labels are missed (a knapsack),
    and has the best threshold, `lowest` at least, that keeps to them. As the words share a machine, the choice is
    tried as a whole, with fewer alarms until it holds, and at last with one threshold for all.

    Returns:
        {word: threshold}, or None where no threshold keeps to the budget.
    """
    hours = sum(hours_by_kind(heard, tolerance).values())
    use = swept.thresholds >= lowest
    thresholds, hits, false = swept.thresholds[use], swept.hits[use], sum(swept.false.values())[use]
    allowed = min(int(budget * hours), int(false.sum(axis=1).max()))
    best, rows, shares = np.zeros(allowed + 1), [], []  # most hits by the alarms allowed, and how they are shared
    for j in range(len(swept.words)):
        rows.append([best_within(false[:, j], hits[:, j], n) for n in range(allowed + 1)])
        gain = np.array([-np.inf if row is None else hits[row, j] for row in rows[j]])
        table = np.full((allowed + 1, allowed + 1), -np.inf)
        for n in range(allowed + 1):
            table[n, : n + 1] = best[n::-1] + gain[: n + 1]
        shares.append(table.argmax(axis=1))
        best = table.max(axis=1)
    for total in reversed(np.flatnonzero(np.isfinite(best))):
        left, chosen = total, {}
        for word, row, share in reversed(list(zip(swept.words, rows, shares, strict=True))):
            n = share[left]
            chosen[word], left = float(thresholds[row[n]]), left - n
        found = [alarms(one, machine(chosen), tolerance) for one in heard]
        if sum(int((one.answers == FALSE).sum()) for one in found) <= budget * hours:
            return {word: chosen[word] for word in swept.words}
    row = best_within(false.sum(axis=1), hits.sum(axis=1), budget * hours)
    return None if row is None else dict.fromkeys(swept.words, float(thresholds[row]))
