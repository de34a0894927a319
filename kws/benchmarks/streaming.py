"""Measures what listening costs: our runtime beside other wake-word engines, each alone on one core.

    python -m kws.benchmarks.streaming                                  a ghost model with weights of no training
    python -m kws.benchmarks.streaming checkpoint=runs/ghost-synthetic
    python -m kws.benchmarks.streaming peers_python=/some/venv/bin/python     where the peers are installed
    python -m kws.benchmarks.streaming 'forms=[null,int8,int8_static]'        our cost against how the file is quantised
    python -m kws.benchmarks.streaming 'sizes=[ghost_10k,ghost,ghost_100k]'   our cost against the model's size

Every figure is from a fresh process, which takes turns with the others; CPU is the best of several passes over made
sound, the median over rounds. Memory is what the process holds beyond NumPy (and ONNX Runtime, where it is used);
what of it is not private are pages of the engines' own libraries.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from kws.benchmarks import listeners
from kws.benchmarks.rounds import interleaved, show, sound
from kws.benchmarks.untrained import settings, untrained
from kws.config import command
from kws.errors import KwsError, check_list
from kws.exporting.spotter import export
from kws.runtime import Spotter
from kws.training.trained import Trained, open_checkpoint

ASKED = {20: 1.3, 100: 1 / 3}  # of pymicro-wakeword's CPU, by chunk


@command("streaming")
def main(cfg: DictConfig) -> None:
    for name in ("engines", "sizes"):
        check_list(name, cfg[name])
    if wrong := sorted(set(cfg.engines) - set(listeners.ENGINES)):
        raise KwsError(f"no engine {', '.join(wrong)}; there are {', '.join(listeners.ENGINES)}")
    models = {size: settings(size, "sizes") for size in cfg.sizes}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    core = cores[-1] if cfg.core is None and cores else cfg.core
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "sound.npy"
        np.save(wave, sound(cfg.seconds).astype(np.int16))
        trained = open_checkpoint(cfg.checkpoint) if cfg.checkpoint else untrained(cfg.model, cfg.features)
        name = f"kws, {_thousands(trained)} parameters"
        files = {chunk: _exported(trained, f"{folder}/{chunk}.onnx", chunk) for chunk in cfg.chunks}
        turns = {(engine, chunk): (engine, chunk, files[chunk]) for engine in cfg.engines for chunk in cfg.chunks}
        figures, missing = _measure(cfg, core, wave, turns)
        _report(name, cfg, figures, missing, core)
        if own := [f"{c} ms in {n:g}" for c, path in files.items() if (n := Spotter(path).chunk_ms) != c]:
            print(f"  its steps are of {trained.model.stride * trained.options.frame_shift:g} ms, so it works"
                  f" {', '.join(own)}")  # fmt: skip
        sizes = _sizes(cfg, core, wave, folder, models)
        forms = _forms(cfg, core, wave, folder, trained)
    if cfg.json:
        rows = {f"{engine} {chunk}": values for (engine, chunk), values in figures.items()}
        Path(cfg.json).write_text(
            json.dumps({"engines": rows, "sizes": sizes, "forms": forms, "missing": missing}, indent=2) + "\n"
        )


def _thousands(trained: Trained) -> str:
    return f"{sum(p.numel() for p in trained.model.parameters()) / 1000:.0f}k"


def _exported(trained: Trained, path: str, chunk: int, form: str | None = None) -> str:
    export(trained, path, chunk, quantise=form, heard=[sound(10, seed=1)])
    return path


def _measure(cfg: DictConfig, core: int | None, wave: Path, turns: dict[tuple, tuple]) -> tuple[dict, dict]:
    """Medians over rounds of each of `turns`, an (engine, chunk, model file); why engines are missing."""
    missing = {}

    def measure(engine: str, chunk: int, model: str) -> dict | None:
        if engine in missing:
            return None
        python = cfg.peers_python if engine != "kws" and cfg.peers_python else sys.executable
        found = _run(python, core, engine, chunk, wave, model)
        if isinstance(found, str):
            missing[engine] = found
            return None
        return found

    measured = interleaved({key: partial(measure, *turn) for key, turn in turns.items()}, cfg.rounds, 0)
    medians = {
        key: {name: float(np.median([row[name] for row in rows])) for name in rows[0]} for key, rows in measured.items()
    }
    return medians, missing


def _run(python: str, core: int | None, engine: str, chunk: int, wave: Path, model: str) -> dict | str:
    """One process's figures, or why it has none."""
    arguments = [python, listeners.__file__, engine, str(chunk), str(wave), model]
    pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, preexec_fn=pin, env=environment)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it died"])[-1][:150]
    return json.loads(done.stdout.splitlines()[-1])


def _report(name: str, cfg: DictConfig, figures: dict, missing: dict, core: int | None) -> None:
    head = ["engine", "chunk ms", "CPU ms/s", "p99 ms", "import s", "load s", "MB", "private MB"]
    rows = []
    for engine, chunk in sorted(figures, key=lambda key: (key[1], cfg.engines.index(key[0]))):
        values = figures[engine, chunk]
        columns = ("cpu_ms_per_second", "p99_ms", "base_s", "load_s", "mb", "private_mb")
        rows.append([name if engine == "kws" else engine, chunk, *(values[column] for column in columns)])
    show(f"listening, core {core}, {cfg.seconds} s of sound, median of {cfg.rounds} rounds", head, rows)
    for engine, reason in missing.items():
        print(f"  {engine}: {reason}")
    for chunk in cfg.chunks:
        ours, peer = (figures.get((engine, chunk)) for engine in ("kws", "pymicro-wakeword"))
        if ours and peer:
            share = ours["cpu_ms_per_second"] / peer["cpu_ms_per_second"]
            asked = f" (asked: at most {ASKED[chunk]:g})" if chunk in ASKED else ""
            print(f"  at {chunk} ms ours takes {share:.2f} of pymicro-wakeword's CPU{asked}")


def _sizes(cfg: DictConfig, core: int | None, wave: Path, folder: str, models: dict[str, DictConfig]) -> list[list]:
    """Our cost by model and chunk."""
    if not models:
        return []
    trained = {size: untrained(model, cfg.features) for size, model in models.items()}
    files = {
        (size, chunk): _exported(trained[size], f"{folder}/{size}-{chunk}.onnx", chunk)
        for size in models for chunk in cfg.chunks
    }  # fmt: skip
    turns = {(size, chunk): ("kws", chunk, path) for (size, chunk), path in files.items()}
    figures, missing = _measure(cfg, core, wave, turns)
    if missing:
        raise KwsError(f"sizes: our own engine does not run: {missing['kws']}")
    rows = [
        [size, _thousands(trained[size]), *(figures[size, chunk]["cpu_ms_per_second"] for chunk in cfg.chunks),
         os.path.getsize(files[size, cfg.chunks[-1]]) // 1000]
        for size in models
    ]  # fmt: skip
    show("CPU ms per second of sound", ["model", "weights", *(f"{c} ms" for c in cfg.chunks), "kB"], rows)
    return rows


def _forms(cfg: DictConfig, core: int | None, wave: Path, folder: str, trained: Trained) -> list[list]:
    """Our cost by how the file is quantised, and by chunk."""
    files = {
        (form, chunk): _exported(trained, f"{folder}/{form}-{chunk}.onnx", chunk, form)
        for form in cfg.forms for chunk in cfg.chunks
    }  # fmt: skip
    figures, missing = _measure(cfg, core, wave, {key: ("kws", key[1], path) for key, path in files.items()})
    if missing:
        raise KwsError(f"forms: our own engine does not run: {missing['kws']}")
    rows = [
        [form or "float32", *(figures[form, chunk]["cpu_ms_per_second"] for chunk in cfg.chunks),
         os.path.getsize(files[form, cfg.chunks[-1]]) // 1000]
        for form in cfg.forms
    ]  # fmt: skip
    if rows:
        show("CPU ms per second of sound, by quantise=", ["weights", *(f"{c} ms" for c in cfg.chunks), "kB"], rows)
    return rows


if __name__ == "__main__":
    main()
