"""Figures of an evaluation. No torch here."""

import math
from collections.abc import Sequence

import numpy as np


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), as shares of 1; (0, 1) without data."""
    if total == 0:
        return 0.0, 1.0
    p, n = correct / total, total
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def difference_interval(a: np.ndarray, b: np.ndarray, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of how much more of the same clips `b` knows than `a`, both (clips,) bool (Bonett and Price 2012,
    Journal of Educational and Behavioral Statistics 37), as shares of 1."""
    n, more, fewer = len(a) + 2, int((b & ~a).sum()) + 1, int((a & ~b).sum()) + 1
    difference = (more - fewer) / n
    half = z * math.sqrt(((more + fewer) / n - difference**2) / n)
    return max(-1.0, difference - half), min(1.0, difference + half)


def binomial_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a proportion (Clopper and Pearson 1934, Biometrika 26), as shares of 1; (0, 1) without data."""

    def at_most(k: int, p: float) -> float:
        if k == total:
            return 1.0
        i = np.arange(k + 1)
        return float(np.exp(logs[: k + 1] + i * math.log(p) + (total - i) * math.log1p(-p)).sum())

    logs = np.array([-math.lgamma(i + 1) - math.lgamma(total - i + 1) for i in range(total + 1)])
    logs += math.lgamma(total + 1)
    return _exact_interval(at_most, count, 1.0, level)


def poisson_interval(count: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of the mean of a Poisson variable that was `count` (Garwood 1936, Biometrika 28)."""

    def at_most(k: int, mean: float) -> float:
        return float(np.exp(np.arange(k + 1) * math.log(mean) - mean - logs[: k + 1]).sum())

    logs = np.array([math.lgamma(i + 1) for i in range(count + 1)])
    return _exact_interval(at_most, count, count + 10 * math.sqrt(count) + 20, level)


def _exact_interval(at_most, count: int, highest: float, level: float) -> tuple[float, float]:
    """The parameters at which `count` or more, and `count` or fewer, have a chance of half of 1 - level each.

    Args:
        at_most: the chance of k or fewer at a parameter, which it falls with.
    """

    def solve(k: int, chance: float) -> float:
        low, high = 0.0, highest
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(k, middle) > chance else (low, middle)
        return high

    tail = (1 - level) / 2
    return solve(count - 1, 1 - tail) if count else 0.0, solve(count, tail)


def confusion_matrix(truth, predicted, n_classes: int) -> np.ndarray:
    """(n_classes, n_classes) counts; row: what was said, column: what was heard."""
    matrix = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(matrix, (np.asarray(truth, int), np.asarray(predicted, int)), 1)
    return matrix


def accuracy(matrix: np.ndarray, alike: Sequence[int] = ()) -> float:
    """Share of the clips on the diagonal, classes that are `alike` being one answer; 0 without clips."""
    mixed = matrix[np.ix_(alike, alike)]
    return float((np.trace(matrix) + mixed.sum() - np.trace(mixed)) / max(1, matrix.sum()))


def per_word(matrix: np.ndarray, labels: list[str]) -> dict[str, dict[str, float]]:
    """Clips, recall and precision of every label."""
    rows = {}
    for i, label in enumerate(labels):
        said, heard = int(matrix[i].sum()), int(matrix[:, i].sum())
        hit = int(matrix[i, i])
        rows[label] = {"clips": said, "recall": hit / said if said else 0.0, "precision": hit / heard if heard else 0.0}
    return rows
