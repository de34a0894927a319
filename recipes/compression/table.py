"""The table and the picture of what run.sh compressed: table.py RUNS."""

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure


def row(name: str, figures: dict) -> str:
    after = figures["after"]
    tuned = f"{100 * figures['tuned']['accuracy']:.1f} %" if "tuned" in figures else ""
    bits = f"{after['bits_per_weight']:.2f}" if after["compressed_weights"] else "32"
    return (
        f"| {name} | {bits} | {after['compressed_bytes'] + after['other_bytes']:,.0f} | {after['file_bytes']:,} |"
        f" {after['macs_per_second'] / 1e6:.2f}M | {100 * after['accuracy']:.1f} % | {tuned} |"
    )


def main(runs: Path) -> None:
    found = {path.stem: json.loads(path.read_text()) for path in runs.glob("*.json")}
    found = dict(sorted(found.items(), key=lambda item: -item[1]["after"]["file_bytes"]))
    print("| method | bits a weight | bytes of tensors | bytes of the file | MACs/s | compressed | trained on |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, figures in found.items():
        print(row(name, figures))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, figures in found.items():
        x, y = figures["after"]["file_bytes"] / 1000, 100 * figures["after"]["accuracy"]
        axes.plot(x, y, "o", color="0.6", ms=4)
        if "tuned" in figures:
            better = 100 * figures["tuned"]["accuracy"]
            axes.annotate("", (x, better), (x, y), arrowprops={"arrowstyle": "->", "color": "tab:blue", "lw": 0.8})
            y = better
        axes.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7, rotation=25)
    first = next(iter(found.values()))["before"]
    axes.axhline(100 * first["accuracy"], color="0.8", zorder=0)
    axes.set(xscale="log", xlabel="bytes of the file (kB)", ylabel="accuracy on validation clips (%)",
             title="compressed (dots), and trained on through it (arrows)", ylim=(0, 100))  # fmt: skip
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(which="minor", labelsize=7)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(runs / "compression.png", dpi=110)
    print(f"\npicture: {runs / 'compression.png'}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
