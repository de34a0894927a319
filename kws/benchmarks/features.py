"""Measures the front-end beside its peers on this machine: speed, a stream's cost, error, memory, files to disk.

    python -m kws.benchmarks.features                                     everything, in about three minutes
    python -m kws.benchmarks.features parts=[speed,stream] repeats=25 json=figures.json
    python -m kws.benchmarks.features parts=[memory] long_s=36000 only=[kws,kws-numpy]

Contenders: kws (torch), kws-numpy (streams without torch), torchaudio (compliance.kaldi), knf (kaldi-native-fbank),
lhotse (its Kaldi layers), librosa, kaldifeat, asrfront. `pip install 'kws[bench]'` brings those that have wheels.

Each is called before it is measured. Every round measures every contender once, in an order drawn anew, so that a
busy machine hits all alike. Figures are medians over the rounds, ± half the interquartile range in percent; a ratio is
the median of the rounds' ratios. All run in one thread, under torch.inference_mode, and are charged the CPU time of the
whole process, but for files to disk, where the clock on the wall counts. The sound is made: like speech, at 16 kHz.
There is no dither.
"""

import os

if __name__ == "__main__":  # NumPy reads them when it is imported
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import functools
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from kws.benchmarks.disk import files, memory
from kws.benchmarks.peers import CONTENDERS, KINDS, NOTES, contenders, options_of, scaled
from kws.benchmarks.rounds import RATE, cell, interleaved, ratio, show, sound
from kws.config import command
from kws.errors import KwsError
from kws.features import reference
from kws.progress import progress

HOP = RATE // 100
SPEED_ASKED = {"torchaudio": (4, 5.5), "knf": (8, 11)}  # times as fast: utterances one by one, all else
STREAM_ASKED = {1: 1.5, 10: 0.6, 100: 0.25}  # of knf's cost at most, by hops a call


def speed(cfg: DictConfig, names: list[str]) -> list[dict]:
    seconds = sound(max(cfg.utterances, cfg.batch)).reshape(-1, RATE)
    cases = (  # the arrays of waves that are given one after another, and the rounds
        ("1 s", [seconds[i : i + 1] for i in range(cfg.utterances)], cfg.repeats),
        (f"{cfg.batch} x 1 s", [seconds[: cfg.batch]], cfg.batch_repeats),
        (f"{cfg.file_s:g} s", [sound(cfg.file_s)[None]], cfg.repeats),
        (f"{cfg.long_s:g} s", [sound(cfg.long_s)[None]], cfg.long_repeats),
    )
    figures, bar = [], progress(total=len(cfg.kinds) * len(cases), desc="speed")
    for kind in cfg.kinds:
        found, _ = contenders(kind, names)
        for i, (length, waves, repeats) in enumerate(cases):
            starts = {}
            for name, compute in found.items():
                given = [scaled(name, wave) for wave in waves]
                starts[name] = lambda compute=compute, given=given: lambda: [compute(wave) for wave in given]
            passed = interleaved(starts, repeats, cfg.seed)
            rates = {name: sum(wave.size for wave in waves) / RATE / values for name, values in passed.items()}
            asked = {peer: goals[min(i, 1)] for peer, goals in SPEED_ASKED.items()}
            ratios = {peer: ratio(peer, "kws", passed) for peer in asked}
            figures.append({"kind": kind, "length": length, "rates": rates, "ratios": ratios, "asked": asked})
            bar.update()
    bar.close()
    rows = [
        [f"{row['kind']}, {row['length']}", *(row["rates"].get(name) for name in names)]
        + [value for peer in SPEED_ASKED for value in (row["ratios"][peer], row["asked"][peer])]
        for row in figures
    ]
    head = ["", *names, *(text for peer in SPEED_ASKED for text in (f"kws/{peer}", "asked"))]
    show("Speed: seconds of sound a second, on one core", head, rows)
    return figures


def push_all(push: Callable, chunks: list[np.ndarray]) -> None:
    for chunk in chunks:
        push(chunk)


def stream(cfg: DictConfig, names: list[str]) -> list[dict]:
    options, wave, figures = options_of("fbank-80"), sound(cfg.stream_s), []
    begins = {name: CONTENDERS[name].stream(options) for name in names if CONTENDERS[name].stream}
    for hops in cfg.hops:
        chunks, starts = np.split(wave, range(hops * HOP, len(wave), hops * HOP)), {}
        for name, begin in begins.items():
            starts[name] = lambda begin=begin, chunks=chunks: functools.partial(push_all, begin(), chunks)
        interleaved(starts, 1, cfg.seed)  # the first calls of their size
        passed = interleaved(starts, cfg.repeats, cfg.seed)
        costs = {name: 1e6 * values * HOP / len(wave) for name, values in passed.items()}
        ratios = {name: ratio(name, "knf", passed) for name in passed if name != "knf"}
        figures.append({"hops": hops, "costs_us": costs, "ratios": ratios, "asked": STREAM_ASKED.get(hops)})
    rows = [
        [str(row["hops"]), *(cell(cost, 1) for cost in row["costs_us"].values()), *row["ratios"].values(), row["asked"]]
        for row in figures
    ]
    head = ["hops a call", *begins, *(f"{name}/knf" for name in begins if name != "knf"), "asked"]
    show("Streams of fbank-80: microseconds for a hop of 10 ms", head, rows)
    return figures


def error(cfg: DictConfig, names: list[str]) -> list[dict]:
    wave, figures = sound(cfg.error_s), []
    for kind in cfg.kinds:
        found, expected = contenders(kind, names)[0], {}
        for name, compute in found.items():
            if window := CONTENDERS[name].window_type:
                if window not in expected:
                    expected[window] = reference.compute(wave, options_of(kind, window))
                frames = np.asarray(compute(scaled(name, wave[None]))[0])
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
    torch.set_num_threads(1)
    sys.stdout.reconfigure(errors="replace")
    with torch.inference_mode():
        found, missing = contenders("fbank-80", [name for name in CONTENDERS if name in (cfg.only or CONTENDERS)])
        figures = {"machine": machine(), "missing": missing}
        print(", ".join(f"{name} {text}" for name, text in figures["machine"].items()))
        for part in cfg.parts:
            figures[part] = PARTS[part](cfg, list(found))
    notes = [*(f"{name}: {reason}" for name, reason in missing.items()), *(NOTES[n] for n in found if n in NOTES)]
    print("".join(f"\n{note}" for note in notes))
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(figures, indent=2, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
