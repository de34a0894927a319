"""Measures every model under conf/model without training: size, work, memory, speed.

    python -m kws.benchmarks.models                                       all of them, in some minutes
    python -m kws.benchmarks.models models=[ghost,dscnn,bcresnet] csv=models.csv
    python -m kws.benchmarks.models runs=runs/architectures plot=pareto.png   with what they reached in training

One thread. `clips/s` is forward, backward and update of a batch of one-second clips; `µs` the CPU time of a stream's
100 ms in torch, frames to logits: medians of rounds in which every model is measured once, as a busy machine hits all
alike. `runs=` takes the best validation accuracy from the runs of that folder that are named as the models are;
`plot=` draws it over the multiply-accumulates, with the line of models that none beats in both.
"""

import csv
import json
import statistics
import time
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kws.config import command, conf_dir
from kws.errors import KwsError
from kws.models.acoustic import AcousticModel
from kws.models.cost import cost
from kws.progress import progress

FEATURES, SHIFT_MS = 40, 10.0
COLUMNS = {  # of the table: heading and how a figure is written
    "model": ("model", "{}"),
    "parameters": ("parameters", "{:,}"),
    "macs_per_second": ("MACs/s", "{:,.0f}"),
    "state_bytes": ("state bytes", "{:,}"),
    "receptive_field_ms": ("field ms", "{:.0f}"),
    "step_ms": ("step ms", "{:.0f}"),
    "clips_per_second": ("train clips/s", "{:.0f}"),
    "stream_us": ("µs a 100 ms", "{:.0f}"),
    "accuracy": ("accuracy %", "{:.1f}"),
}


def build(name: str, classes: int) -> AcousticModel:
    """The model of conf/model/NAME.yaml as it stands there."""
    path = conf_dir() / "model" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise KwsError(f"models: there is no {name}; choose from {known}")
    settings = OmegaConf.load(path)
    for base in reversed(settings.pop("defaults", [])):
        if base != "_self_":
            settings = OmegaConf.merge(OmegaConf.load(path.with_name(f"{base}.yaml")), settings)
    torch.manual_seed(0)
    return instantiate(settings, n_features=FEATURES, n_classes=classes, shift_ms=SHIFT_MS)


def training_seconds(model: AcousticModel, batch: int) -> float:
    """Seconds of one update on `batch` clips of a second."""
    frames, labels = torch.randn(batch, 100, FEATURES), torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-6)
    began = time.process_time()
    torch.nn.functional.cross_entropy(model.clip_logits(frames), labels).backward()
    optimizer.step()
    return time.process_time() - began


@torch.inference_mode()
def streaming_seconds(model: AcousticModel, chunks: int) -> float:
    """Seconds that 100 ms of a stream cost."""
    state, frames = model.eval().initial_state(), torch.randn(1, 10, FEATURES)
    began = time.process_time()
    for _ in range(chunks):
        _, state = model.stream(frames, state)
    return (time.process_time() - began) / chunks


def reached(runs: str, name: str) -> float | None:
    """The best validation accuracy in percent of the run of that name, if it is finished."""
    path = Path(runs) / name / "metrics.jsonl"
    if not path.is_file() or not (path.parent / "confusion.png").is_file():
        return None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return 100 * max(row["validation_accuracy"] for row in rows if "validation_accuracy" in row)


def pareto(rows: list[dict]) -> list[dict]:
    """Those that no other beats in accuracy with as few multiply-accumulates."""
    best, line = -1.0, []
    for row in sorted(rows, key=lambda row: (row["macs_per_second"], -row["accuracy"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            line.append(row)
    return line


def draw(rows: list[dict], path: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots()
    axes.scatter([r["macs_per_second"] / 1e6 for r in rows], [r["accuracy"] for r in rows],
                 s=[max(12, r["parameters"] / 700) for r in rows], alpha=0.55)  # fmt: skip
    line = pareto(rows)
    axes.plot([r["macs_per_second"] / 1e6 for r in line], [r["accuracy"] for r in line], color="tab:red", linewidth=1)
    for r in rows:
        at = r["macs_per_second"] / 1e6, r["accuracy"]
        weight = "bold" if r in line else "normal"
        axes.annotate(r["model"], at, fontsize=8, xytext=(4, 3), textcoords="offset points", weight=weight)
    axes.set(xscale="log", xlabel="million multiply-accumulates per second of audio", ylabel="validation accuracy (%)")
    axes.set_title("every model by one recipe; areas are parameters, the line joins those that none beats in both")
    axes.margins(x=0.12)
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis("{x:g}")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


@command("benchmark_models")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(1)
    names = list(cfg.models or sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml")))
    models = {name: build(name, cfg.classes) for name in names}
    training, streaming = {name: [] for name in names}, {name: [] for name in names}
    with progress(total=(cfg.rounds + 1) * len(names), desc="measuring", unit=" models") as bar:
        for turn in range(cfg.rounds + 1):  # the first warms up
            for name, model in models.items():
                update, chunk = training_seconds(model, cfg.batch), streaming_seconds(model, cfg.chunks)
                if turn:
                    training[name].append(update)
                    streaming[name].append(chunk)
                bar.update()
    rows = []
    for name, model in models.items():
        figures = cost(model, SHIFT_MS)
        rows.append({
            "model": name, "parameters": figures.parameters, "macs_per_second": figures.macs_per_second,
            "state_bytes": figures.state_bytes, "receptive_field_ms": figures.receptive_field_ms,
            "step_ms": figures.step_ms, "clips_per_second": cfg.batch / statistics.median(training[name]),
            "stream_us": 1e6 * statistics.median(streaming[name]),
            "accuracy": reached(cfg.runs, name) if cfg.runs else None,
        })  # fmt: skip
    rows.sort(key=lambda row: (-(row["accuracy"] or 0), row["parameters"]))
    shown = {name: how for name, how in COLUMNS.items() if any(row[name] is not None for row in rows)}
    cells = [[heading for heading, _ in shown.values()]]
    cells += [[how.format(row[name]) if row[name] is not None else "–" for name, (_, how) in shown.items()]
              for row in rows]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        first, *others = (cell.ljust(w) if i == 0 else cell.rjust(w)
                          for i, (cell, w) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("  ".join([first, *others]))
    if cfg.csv:
        with open(cfg.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    if cfg.plot:
        trained = [row for row in rows if row["accuracy"] is not None]
        if not trained:
            raise KwsError(f"plot= draws accuracies: give runs=, a folder of finished runs (runs={cfg.runs})")
        draw(trained, cfg.plot)
        print(f"{cfg.plot}: {', '.join(row['model'] for row in pareto(trained))} are beaten by none in both")


if __name__ == "__main__":
    main()
