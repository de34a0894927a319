"""Pictures where a person would rather look than read."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def confusion(matrix: np.ndarray, labels: list[str], path: str | Path, title: str = "") -> None:
    """Draws a confusion matrix (rows said, columns heard) with its counts, coloured by the share of the row."""
    n = len(labels)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.42 * n + 2)
    figure = Figure(figsize=(side, side * 0.92), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n), labels, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), labels)
    axes.set(xlabel="heard", ylabel="said", title=title)
    for i, j in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if shares[i, j] > 0.5 else "black"
        axes.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(shown, ax=axes, label="share of what was said", shrink=0.8)
    figure.savefig(path, dpi=110)


def learning_curves(steps: list[dict], epochs: list[dict], path: str | Path, title: str = "") -> None:
    """Draws training loss (each step and a running mean) beside the accuracy on the validation clips."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    x, loss = [row["step"] for row in steps], np.array([row["loss"] for row in steps])
    left.plot(x, loss, linewidth=0.4, alpha=0.4, color="tab:blue")
    width = max(1, len(loss) // 50)
    if len(loss) >= width:
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        left.plot(x[width - 1 :], smooth, color="tab:blue", label=f"training, mean of {width} steps")
    if epochs:
        at = [row["step"] for row in epochs]
        left.plot(at, [row["validation_loss"] for row in epochs], "o-", color="tab:orange", ms=3, label="validation")
        accuracy = np.array([100 * row["validation_accuracy"] for row in epochs])
        best = int(accuracy.argmax())
        right.plot([row["epoch"] for row in epochs], accuracy, "o-", color="tab:orange", ms=3)
        right.annotate(
            f"best {accuracy[best]:.1f} %", (epochs[best]["epoch"], accuracy[best]), xytext=(0, -18),
            textcoords="offset points", ha="center",
        )  # fmt: skip
    left.set(xlabel="step", ylabel="loss (nats)", title=title)
    left.legend()
    right.set(xlabel="epoch", ylabel="accuracy on validation clips (%)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
