"""Measures every model under conf/model without training: size, work, memory, speed.

    python -m kws.benchmarks.models                                       all of them, in some minutes
    python -m kws.benchmarks.models models=[ghost,dscnn,bcresnet] csv=models.csv onnx=false
    python -m kws.benchmarks.models runs=runs/architectures plot=pareto.png   with what they reached in training

One thread. `clips/s` is forward, backward and update of a batch of one-second clips; `µs` the CPU time of a stream's
100 ms: in torch from frames to logits, in ONNX Runtime all that `kws.runtime` does from samples to detections. They are
medians of rounds in which every model is measured once, as a busy machine hits all alike. `onnx=false` saves the second
that a model's export takes. `runs=` takes the best validation accuracy from the runs of that folder that are named as
the models are; `plot=` draws it over the multiply-accumulates, with the line of models that none beats in both.
"""

import csv
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from kws.benchmarks.rounds import RATE, cell, interleaved, show, sound
from kws.benchmarks.untrained import names, settings, untrained
from kws.config import command
from kws.errors import KwsError, check_list
from kws.models.acoustic import AcousticModel
from kws.models.cost import cost
from kws.progress import progress
from kws.runtime import Spotter
from kws.training.log import read_rows
from kws.training.trained import Trained

COLUMNS = {  # of the table: heading and how a figure is written; those of rounds are medians with their spread
    "model": ("model", "{}"),
    "parameters": ("parameters", "{:,}"),
    "macs_per_second": ("MACs/s", "{:,.0f}"),
    "state_bytes": ("state bytes", "{:,}"),
    "receptive_field_ms": ("field ms", "{:.0f}"),
    "step_ms": ("step ms", "{:.0f}"),
    "clips_per_second": ("train clips/s", None),
    "stream_us": ("µs a 100 ms", None),
    "onnx_us": ("in ONNX Runtime", None),
    "accuracy": ("accuracy %", "{:.1f}"),
}


def training_seconds(model: AcousticModel, batch: int) -> float:
    """Seconds of one update on `batch` clips of a second."""
    frames, labels = torch.randn(batch, 100, model.n_features), torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-6)
    began = time.process_time()
    torch.nn.functional.cross_entropy(model.clip_logits(frames), labels).backward()
    optimizer.step()
    return time.process_time() - began


@torch.inference_mode()
def streaming_seconds(model: AcousticModel, chunks: int) -> float:
    """Seconds that 100 ms of a stream cost."""
    state, frames = model.eval().initial_state(), torch.randn(1, 10, model.n_features)
    began = time.process_time()
    for _ in range(chunks):
        _, state = model.stream(frames, state)
    return (time.process_time() - began) / chunks


def exported(models: dict[str, Trained]) -> dict[str, Spotter]:
    """The models as the runtime opens them; none, said with the reason, where its packages are missing."""
    try:
        import onnxruntime  # noqa: F401

        from kws.exporting.spotter import export
    except ImportError as error:
        print(f"no figures of ONNX Runtime: {error.name} is missing (pip install 'kws[export]')")
        return {}
    spotters = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, trained in progress(models.items(), desc="exporting", unit=" models"):
            export(trained, f"{folder}/{name}.onnx")
            spotters[name] = Spotter(f"{folder}/{name}.onnx")
    return spotters


def runtime_seconds(spotter: Spotter, chunks: int) -> float:
    """Seconds that 100 ms of a stream cost, from samples to detections."""
    stream, samples = spotter.stream(), sound(spotter.chunk / RATE).astype(np.int16)
    began = time.process_time()
    for _ in range(chunks):
        stream.push(samples)
    return (time.process_time() - began) / chunks * 100 / spotter.chunk_ms


def reached(runs: str, name: str) -> float | None:
    """The best validation accuracy in percent of the run of that name, if it is finished."""
    path = Path(runs) / name / "metrics.jsonl"
    if not path.is_file() or not (path.parent / "confusion.png").is_file():
        return None
    return 100 * max(row["validation_accuracy"] for row in read_rows(path) if "validation_accuracy" in row)


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
    # the errors' logarithm: models that are close at the top stand apart as far as those that are far off
    axes.set_yscale("function", functions=(lambda a: -np.log(np.maximum(101 - a, 1)), lambda y: 101 - np.exp(-y)))
    axes.set(xscale="log", xlabel="million multiply-accumulates per second of audio", ylabel="validation accuracy (%)")
    axes.margins(x=0.12, y=0.06)
    figure.draw_without_rendering()
    taken = []
    for r in sorted(rows, key=lambda r: (r not in line, -r["accuracy"])):
        x, y = axes.transData.transform((r["macs_per_second"] / 1e6, r["accuracy"]))
        wide = 5.5 * len(r["model"]) * figure.dpi / 72
        for dx, dy in ((5, 3), (5, -11), (-wide - 5, 3), (-wide - 5, -11), (5, 14), (-wide - 5, 14), (5, -22)):
            box = x + dx, y + dy, x + dx + wide, y + dy + 12
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                break
        taken.append(box)
        weight, points = "bold" if r in line else "normal", 72 / figure.dpi
        axes.annotate(r["model"], (r["macs_per_second"] / 1e6, r["accuracy"]), fontsize=8, weight=weight,
                      xytext=(dx * points, dy * points), textcoords="offset points")  # fmt: skip
    axes.set_title("every model by one recipe; areas are parameters, the line joins those that none beats in both")
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis("{x:g}")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


@command("benchmark_models")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(1)
    check_list("models", cfg.models)
    models = {name: untrained(settings(name, "models"), cfg.features, cfg.classes) for name in cfg.models or names()}
    spotters = exported(models) if cfg.onnx else {}
    with progress(total=(cfg.rounds + 1) * len(models), desc="measuring", unit=" models") as bar:

        def measure(name: str) -> list[float]:
            bar.update()
            model = models[name].model
            seconds = [training_seconds(model, cfg.batch), streaming_seconds(model, cfg.chunks)]
            return [*seconds, runtime_seconds(spotters[name], cfg.chunks)] if spotters else seconds

        measured = interleaved({name: partial(measure, name) for name in models}, cfg.rounds + 1, 0)
    rows = []
    for name, trained in models.items():
        figures = cost(trained.model, trained.options.frame_shift, trained.options.frame_length)
        update, chunk, *runtime = measured[name][1:].T  # the first warms up
        rows.append({
            "model": name, "parameters": figures.parameters, "macs_per_second": figures.macs_per_second,
            "state_bytes": figures.state_bytes, "receptive_field_ms": figures.receptive_field_ms,
            "step_ms": figures.step_ms, "clips_per_second": cfg.batch / update, "stream_us": 1e6 * chunk,
            "onnx_us": 1e6 * runtime[0] if runtime else None,
            "accuracy": reached(cfg.runs, name) if cfg.runs else None,
        })  # fmt: skip
    rows.sort(key=lambda row: (-(row["accuracy"] or 0), row["parameters"]))
    cells = [
        [how.format(row[name]) if how and row[name] is not None else cell(row[name])
         for name, (_, how) in COLUMNS.items()]
        for row in rows
    ]  # fmt: skip
    show(f"one thread, medians of {cfg.rounds} rounds", [heading for heading, _ in COLUMNS.values()], cells)
    if cfg.csv:
        with open(cfg.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows:
                medians = {name: np.median(v) for name, v in row.items() if isinstance(v, np.ndarray)}
                writer.writerow(row | medians)
    if cfg.plot:
        trained = [row for row in rows if row["accuracy"] is not None]
        if not trained:
            raise KwsError(f"plot= draws accuracies: give runs=, a folder of finished runs (runs={cfg.runs})")
        draw(trained, cfg.plot)
        print(f"{cfg.plot}: {', '.join(row['model'] for row in pareto(trained))} are beaten by none in both")


if __name__ == "__main__":
    main()
