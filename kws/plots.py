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
        best = int(np.flatnonzero(accuracy == accuracy.max())[-1])
        right.plot([row["epoch"] for row in epochs], accuracy, "o-", color="tab:orange", ms=3)
        right.annotate(
            f"best {accuracy[best]:.1f} %", (epochs[best]["epoch"], accuracy[best]), xytext=(0, -18),
            textcoords="offset points", ha="right" if 2 * best >= len(epochs) else "left",
        )  # fmt: skip
        right.set_ylim(top=min(right.get_ylim()[1], 100.5))
    right.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="step", ylabel="loss (nats)", title=title)
    left.legend()
    right.set(xlabel="epoch", ylabel="accuracy on validation clips (%)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def weights(layers: dict[str, tuple], path: str | Path, title: str = "") -> None:
    """Draws what each layer's weights became over what they were, a dot a weight.

    Args:
        layers: by name, arrays before and after.
    """
    columns = min(5, len(layers))
    rows = -(-len(layers) // columns)
    figure = Figure(figsize=(max(5, 2.6 * columns), 0.6 + 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, (before, after)) in zip(panels, layers.items(), strict=False):
        axes.plot(np.ravel(before), np.ravel(after), ",", color="tab:blue")
        axes.set_title(name.removesuffix(".weight"), fontsize=7)
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    for axes in panels[len(layers) :]:
        axes.set_axis_off()
    figure.supxlabel("before", fontsize=8)
    figure.supylabel("after", fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=90)


def det(curves: list[dict], path: str | Path) -> None:
    """Draws misses over false alarms an hour, a panel for each kind of negatives: at each rate those of the best
    threshold that keeps to it with every higher one. Where nothing was said, false alarms an hour over the threshold.

    Args:
        curves: lines with a "name", the "kind" of negatives, their "hours", how many words were "said", and by rising
            "threshold" "per_hour" and "frr", which is None where nothing was said.
    """
    kinds = list(dict.fromkeys(curve["kind"] for curve in curves)) or [""]
    figure = Figure(figsize=(2.5 + 4.5 * len(kinds), 4.6), layout="constrained")
    said = any(curve["frr"] for curve in curves)
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        axes.grid(alpha=0.3, which="both")
        if here := [curve for curve in curves if curve["kind"] == kind]:
            (_missed_by_alarms if said else _alarms_by_threshold)(axes, here)
            axes.set(title=f"{kind}, {here[0]['hours']:.2f} h", yscale="log")
            axes.yaxis.set_major_formatter("{x:g}")
        axes.label_outer()
    if curves:
        lowest = min(line.get_ydata().min() for axes in panels for line in axes.lines)
        panels[0].set_ylim(lowest / 1.4, 110 if said else None)
        figure.legend(*panels[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=110)


def _missed_by_alarms(axes, curves: list[dict]) -> None:
    hours, said = curves[0]["hours"], curves[0]["said"]
    least, fewest = 0.5 / hours, 50 / said  # where none at all is drawn
    for curve in curves:
        worst = np.maximum.accumulate(curve["per_hour"][::-1])[::-1]
        missed = np.maximum(100 * np.minimum.accumulate(curve["frr"][::-1])[::-1], fewest)
        axes.step(np.maximum(worst, least), missed, where="pre", label=curve["name"], linewidth=1.4)
    axes.axvspan(least / 1.3, 3 / hours, color="0.92", zorder=0)
    axes.text(3 / hours, 0.02, "too few hours ", ha="right", fontsize=8, transform=axes.get_xaxis_transform())
    axes.set(xscale="log", xlabel="false alarms an hour", ylabel="missed (%)", xlim=(least / 1.3, 2000 * least))
    axes.xaxis.set_major_formatter("{x:g}")


def _alarms_by_threshold(axes, curves: list[dict]) -> None:
    hours = curves[0]["hours"]
    least = 0.5 / hours  # where none at all is drawn
    for curve in curves:
        axes.step(
            curve["threshold"], np.maximum(curve["per_hour"], least), where="post", label=curve["name"], linewidth=1.4
        )
    axes.axhspan(least / 1.3, 3 / hours, color="0.92", zorder=0)
    axes.text(0.02, 3 / hours, "too few hours", va="top", fontsize=8, transform=axes.get_yaxis_transform())
    axes.set(xlabel="threshold", ylabel="false alarms an hour", xlim=(0, 1))


def score_histograms(scores: dict[str, dict], path: str | Path) -> None:
    """Draws how far apart the scores of what was said and of other sound are, a panel for each checkpoint.

    Args:
        scores: by name "said", the highest score of each label's word, and "others", by kind of recording the highest
            score of any word in each second.
    """
    figure = Figure(figsize=(9, 0.6 + 3 * len(scores)), layout="constrained")
    bins = np.linspace(0, 1, 51)
    for axes, (name, each) in zip(figure.subplots(len(scores), 1, squeeze=False)[:, 0], scores.items(), strict=True):
        rows = {f"said, {len(each['said'])} words": each["said"]}
        rows |= {f"{kind} negatives, {len(values)} s": values for kind, values in each["others"].items()}
        for label, values in rows.items():
            if len(values):
                axes.hist(values, bins, weights=np.full(len(values), 100 / len(values)), histtype="step", label=label)
        axes.set(yscale="log", xlim=(0, 1), xlabel="highest smoothed score", ylabel="share (%)", title=name)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)
