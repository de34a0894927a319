"""Measures what listening costs: our runtime beside other wake-word engines, each alone on one core.

    python -m kws.benchmarks.streaming                                  a ghost model with weights of no training
    python -m kws.benchmarks.streaming checkpoint=runs/ghost-synthetic
    python -m kws.benchmarks.streaming peers_python=/some/venv/bin/python     where the peers are installed
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
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from kws.benchmarks import listeners
from kws.benchmarks.rounds import show, sound
from kws.config import command, conf_dir
from kws.errors import KwsError
from kws.exporting.spotter import export
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.spotter import Trained, open_checkpoint

LABELS = ["_unknown_", "_silence_", *(f"word{i}" for i in range(10))]
ASKED = {20: 1.3, 100: 0.5}  # of pymicro-wakeword's CPU, by chunk


@command("streaming")
def main(cfg: DictConfig) -> None:
    if wrong := sorted(set(cfg.engines) - set(listeners.ENGINES)):
        raise KwsError(f"no engine {', '.join(wrong)}; there are {', '.join(listeners.ENGINES)}")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    core = cores[-1] if cfg.core is None and cores else cfg.core
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "sound.npy"
        np.save(wave, sound(cfg.seconds).astype(np.int16))
        trained = open_checkpoint(cfg.checkpoint) if cfg.checkpoint else _untrained(cfg.model, cfg.features)
        name = f"kws, {sum(p.numel() for p in trained.model.parameters()) / 1000:.0f}k parameters"
        models = {chunk: _exported(trained, chunk, folder) for chunk in cfg.chunks}
        figures, missing = _measure(cfg, core, wave, models)
        _report(name, cfg, figures, missing, core)
        sizes = _sizes(cfg, core, wave, folder)
    if cfg.json:
        rows = {f"{engine} {chunk}": values for (engine, chunk), values in figures.items()}
        Path(cfg.json).write_text(json.dumps({"engines": rows, "sizes": sizes, "missing": missing}, indent=2) + "\n")


def _untrained(model: DictConfig, features: DictConfig) -> Trained:
    """A model whose input is normalised and whose weights are as they were drawn: it costs what a trained one does."""
    options = make_options(**features)
    extractor = FeatureExtractor(options)
    net = instantiate(model, n_features=options.dim, n_classes=len(LABELS), shift_ms=options.frame_shift).eval()
    net.normalise_by(extractor(torch.from_numpy(sound(5))[None])[0][0])
    return Trained(net, extractor, LABELS, options, {"model": {}})


def _exported(trained: Trained, chunk: int, folder: str) -> str:
    path = f"{folder}/{id(trained)}-{chunk}.onnx"
    export(trained, path, chunk)
    return path


def _measure(cfg: DictConfig, core: int | None, wave: Path, models: dict[int, str]) -> tuple[dict, dict]:
    """Figures by (engine, chunk), each a list over rounds; why others are missing."""
    figures, missing = {}, {}
    turns = [(engine, chunk) for engine in cfg.engines for chunk in cfg.chunks]
    for number in range(cfg.rounds):
        for engine, chunk in np.random.default_rng(number).permutation(np.array(turns, object)).tolist():
            if engine not in missing:
                python = cfg.peers_python if engine != "kws" and cfg.peers_python else sys.executable
                found = _run(python, core, engine, chunk, wave, models[chunk])
                if isinstance(found, str):
                    missing[engine] = found
                else:
                    figures.setdefault((engine, chunk), []).append(found)
    medians = {
        key: {name: float(np.median([row[name] for row in rows])) for name in rows[0]} for key, rows in figures.items()
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


def _sizes(cfg: DictConfig, core: int | None, wave: Path, folder: str) -> list[list]:
    """Our cost by model and chunk."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    rows = []
    GlobalHydra.instance().clear()
    for size in cfg.sizes:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            model = compose("cost", overrides=[f"model={size}"]).model
        trained, row = _untrained(model, cfg.features), [size]
        row.append(f"{sum(p.numel() for p in trained.model.parameters()) / 1000:.0f}k")
        for chunk in cfg.chunks:
            path = _exported(trained, chunk, folder)
            found = [_run(sys.executable, core, "kws", chunk, wave, path) for _ in range(cfg.rounds)]
            row.append(float(np.median([f["cpu_ms_per_second"] for f in found])))
        rows.append([*row, os.path.getsize(path) // 1000])
    if rows:
        show("CPU ms per second of sound", ["model", "weights", *(f"{c} ms" for c in cfg.chunks), "kB"], rows)
    return rows


if __name__ == "__main__":
    main()
