"""Measures the front-end beside its peers on this machine: speed, a stream's cost, error, memory, files to disk.

    python -m kws.benchmarks.features                                     everything: three minutes on an idle machine
    python -m kws.benchmarks.features parts=[speed,stream] repeats=25 json=figures.json
    python -m kws.benchmarks.features parts=[memory] long_s=36000 only=[kws,kws-numpy]

Contenders: kws (torch), kws-numpy (streams without torch), torchaudio (compliance.kaldi), knf (kaldi-native-fbank),
lhotse (its Kaldi layers), librosa, kaldifeat, asrfront. `pip install 'kws[bench]'` brings those that have wheels.

Each has a process of its own, with one thread, under torch.inference_mode, and is called before it is measured. Every
round measures every contender once, in an order drawn anew, so that a busy machine hits all alike. Figures are medians
over the rounds, ± half the interquartile range in percent; a ratio is the median of the rounds' ratios. What counts is
the CPU time of the contender's process, but for files to disk, where it is the clock on the wall. The sound is made:
like speech, at 16 kHz. There is no dither.
"""

import os

if __name__ == "__main__":  # NumPy reads them when it is imported
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import contextlib
import json
import platform
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from kws.benchmarks.disk import files, memory
from kws.benchmarks.isolation import HOP, Isolated
from kws.benchmarks.peers import CONTENDERS, KINDS, NOTES, options_of
from kws.benchmarks.rounds import RATE, cell, interleaved, ratio, show, sound
from kws.config import command
from kws.errors import KwsError
from kws.features import reference
from kws.progress import progress

SPEED_ASKED = {"torchaudio": (4, 5.5), "knf": (8, 11)}  # times as fast: utterances one by one, all else
STREAM_ASKED = {1: 1.5, 10: 0.6, 100: 0.25}  # of knf's cost at most, by hops a call


def speed(cfg: DictConfig, peers: dict[str, Isolated]) -> list[dict]:
    n_file, n_long = round(cfg.file_s * RATE), round(cfg.long_s * RATE)
    cases = (  # arrays that are given one after another, waves in each, samples of a wave, rounds
        ("1 s", cfg.utterances, 1, RATE, cfg.repeats),
        (f"{cfg.batch} x 1 s", 1, cfg.batch, RATE, cfg.batch_repeats),
        (f"{cfg.file_s:g} s", 1, 1, n_file, cfg.repeats),
        (f"{cfg.long_s:g} s", 1, 1, n_long, cfg.long_repeats),
    )
    figures, bar = [], progress(total=len(cfg.kinds) * len(cases), desc="speed")
    for kind in cfg.kinds:
        for i, (length, count, batch, n, repeats) in enumerate(cases):
            warm = i < len(cases) - 1  # the long sound is no one's first
            ready = {
                name: peer for name, peer in peers.items() if peer.call("ready_for_waves", kind, count, batch, n, warm)
            }
            measured = interleaved(
                {name: partial(peer.call, "measure") for name, peer in ready.items()}, repeats, cfg.seed
            )
            rates = {name: count * batch * n / RATE / seconds for name, seconds in measured.items()}
            asked = {peer: goals[min(i, 1)] for peer, goals in SPEED_ASKED.items()}
            ratios = {peer: ratio(peer, "kws", measured) for peer in asked}
            figures.append({"kind": kind, "length": length, "rates": rates, "ratios": ratios, "asked": asked})
            bar.update()
    bar.close()
    rows = [
        [f"{row['kind']}, {row['length']}", *(row["rates"].get(name) for name in peers)]
        + [value for peer in SPEED_ASKED for value in (row["ratios"][peer], row["asked"][peer])]
        for row in figures
    ]
    head = ["", *peers, *(text for peer in SPEED_ASKED for text in (f"kws/{peer}", "asked"))]
    show("Speed: seconds of sound a second, on one core", head, rows)
    return figures


def stream(cfg: DictConfig, peers: dict[str, Isolated]) -> list[dict]:
    figures, n = [], round(cfg.stream_s * RATE)
    for hops in cfg.hops:
        ready = {name: peer for name, peer in peers.items() if peer.call("ready_for_stream", "fbank-80", hops, n)}
        measured = interleaved(
            {name: partial(peer.call, "measure") for name, peer in ready.items()}, cfg.repeats, cfg.seed
        )
        costs = {name: 1e6 * seconds * HOP / n for name, seconds in measured.items()}
        ratios = {name: ratio(name, "knf", measured) for name in costs if name != "knf"}
        figures.append({"hops": hops, "costs_us": costs, "ratios": ratios, "asked": STREAM_ASKED.get(hops)})
    names = list(figures[0]["costs_us"]) if figures else []
    rows = [
        [str(row["hops"]), *(cell(cost, 1) for cost in row["costs_us"].values()), *row["ratios"].values(), row["asked"]]
        for row in figures
    ]
    head = ["hops a call", *names, *(f"{name}/knf" for name in names if name != "knf"), "asked"]
    show("Streams of fbank-80: microseconds for a hop of 10 ms", head, rows)
    return figures


def error(cfg: DictConfig, peers: dict[str, Isolated]) -> list[dict]:
    wave, figures = sound(cfg.error_s), []
    for kind in cfg.kinds:
        expected = {}
        for name, peer in peers.items():
            window = CONTENDERS[name].window_type
            if window is None or (frames := peer.call("frames", kind, wave)) is None:
                continue
            if window not in expected:
                expected[window] = reference.compute(wave, options_of(kind, window))
            wrong = np.abs(frames - expected[window])
            sizes = {"mean": wrong.mean(), "p99.9": np.quantile(wrong, 0.999), "max": wrong.max()}
            figures.append({"kind": kind, "name": name} | {key: float(size) for key, size in sizes.items()})
    rows = [[f"{row['kind']}, {row['name']}", row["mean"], row["p99.9"], row["max"]] for row in figures]
    show(f"Error against float64, {cfg.error_s:g} s, in units of the logarithm", ["", "mean", "p99.9", "max"], rows)
    return figures


PARTS = {"speed": speed, "stream": stream, "error": error, "memory": memory, "files": files}


def machine() -> dict[str, str]:
    packages = {"torch", "torchaudio", "numpy", *(contender.package for contender in CONTENDERS.values())} - {"kws"}
    found = {}
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return {"processor": f"{model}, {os.cpu_count()} cores{load}", "Python": platform.python_version(), **found}


@command("benchmark_features")
def main(cfg: DictConfig) -> None:
    for setting, known in (("parts", PARTS), ("kinds", KINDS), ("only", CONTENDERS)):
        if wrong := [str(name) for name in cfg[setting] or [] if name not in known]:
            raise KwsError(f"{setting}: {', '.join(wrong)}; choose from {', '.join(known)}")
    sys.stdout.reconfigure(errors="replace")
    torch.set_num_threads(1)
    figures = {"machine": machine()}
    print(", ".join(f"{name} {text}" for name, text in figures["machine"].items()), flush=True)
    with contextlib.ExitStack() as opened, torch.inference_mode():
        minute, found = sound(60), {}
        for name in CONTENDERS:
            if name in (cfg.only or CONTENDERS):
                found[name] = opened.enter_context(contextlib.closing(Isolated(name, minute)))
                found[name].ask("missing")  # they begin side by side
        missing = {name: peer.answer() for name, peer in found.items()}
        missing = figures["missing"] = {name: reason for name, reason in missing.items() if reason != ""}
        found = {name: peer for name, peer in found.items() if name not in missing}
        for part in cfg.parts:
            figures[part] = PARTS[part](cfg, found)
    notes = [*(f"{name}: {reason}" for name, reason in missing.items()), *(NOTES[n] for n in found if n in NOTES)]
    print("".join(f"\n{note}" for note in notes))
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(figures, indent=2, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
