"""Figures of an evaluation. No torch here."""

import math

import numpy as np


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927), as shares of 1; (0, 1) without data."""
    if total == 0:
        return 0.0, 1.0
    p, n = correct / total, total
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion_matrix(truth, predicted, n_classes: int) -> np.ndarray:
    """(n_classes, n_classes) counts; row: what was said, column: what was heard."""
    matrix = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(matrix, (np.asarray(truth, int), np.asarray(predicted, int)), 1)
    return matrix


def accuracy(matrix: np.ndarray) -> float:
    """Share of the clips on the diagonal; 0 without clips."""
    return float(np.trace(matrix) / max(1, matrix.sum()))


def per_word(matrix: np.ndarray, labels: list[str]) -> dict[str, dict[str, float]]:
    """Clips, recall and precision of every label."""
    rows = {}
    for i, label in enumerate(labels):
        said, heard = int(matrix[i].sum()), int(matrix[:, i].sum())
        hit = int(matrix[i, i])
        rows[label] = {"clips": said, "recall": hit / said if said else 0.0, "precision": hit / heard if heard else 0.0}
    return rows
