"""The parts of kws.benchmarks.features that take files and processes: memory, and files to features on disk."""

import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from omegaconf import DictConfig

from kws import audio
from kws.benchmarks.peers import CONTENDERS, contenders, options_of, scaled
from kws.benchmarks.rounds import RATE, interleaved, ratio, show, sound
from kws.errors import KwsError
from kws.extract import extract
from kws.progress import progress

MIB_ASKED = 20  # at most, beyond the output
FILES_ASKED = {0: 4.5, 2: 9.0}  # times as fast as the recipe, by workers
EXTRACT, RECIPE = "kws.extract", "soundfile + torchaudio + kaldiio"


def recipe(wavs: Path, output: Path) -> None:
    """Files to an ark as a user of the peers would write it."""
    kaldi, kaldiio = importlib.import_module("torchaudio.compliance.kaldi"), importlib.import_module("kaldiio")
    output.mkdir()
    with kaldiio.WriteHelper(f"ark,scp:{output}/feats.ark,{output}/feats.scp") as write:
        for path in sorted(wavs.iterdir()):
            samples, _ = soundfile.read(path, dtype="int16")
            wave = torch.from_numpy(samples.astype(np.float32))[None]
            write(path.stem, kaldi.fbank(wave, num_mel_bins=80).numpy())


def extraction(wavs: Path, output: Path) -> None:
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
        extract(str(wavs), str(output), options_of("fbank-80"))


def file_tasks() -> dict[str, Callable]:
    """Functions from a folder of wavs to a new folder with their fbank-80 as ark and scp."""
    return {EXTRACT: extraction} | ({RECIPE: recipe} if importlib.util.find_spec("kaldiio") else {})


def memory(cfg: DictConfig, names: Iterable[str]) -> list[dict]:
    if not Path("/proc/self/clear_refs").exists():
        raise KwsError("memory is measured through Linux's /proc: leave it out of parts=")
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for name, wave in (("long", sound(cfg.long_s)), ("first", sound(1))):
            np.save(f"{folder}/{name}.npy", wave)
            Path(folder, name).mkdir()
            audio.write(f"{folder}/{name}/{name}.wav", wave, RATE)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        for name in progress([*names, *file_tasks()], desc="memory"):
            code = f"from kws.benchmarks.disk import peak; peak({name!r}, {folder!r})"
            ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
            died = None if ran.returncode == 0 else f"exit code {ran.returncode} {ran.stderr.strip()[-150:]}"
            grown = {} if died else json.loads(ran.stdout.splitlines()[-1])
            figures.append({"name": name, "asked": MIB_ASKED if "kws" in name else None, "died": died} | grown)
    rows = []
    for row in figures:
        name = row["name"] + ("" if row["name"] in CONTENDERS else ", wav to ark")
        rows.append([name, row.get("mib"), row["asked"], row.get("output_mib"), row["died"] or ""])
    what = f"fbank-80 of {cfg.long_s:g} s, MiB that the process grows by less the output"
    show(f"Memory: {what}; the wave is there before, but from wav to ark", ["", "MiB", "asked", "output", ""], rows)
    return figures


def peak(name: str, folder: str) -> None:
    """Prints how far a process, this one, grows for the long sound after it has worked on the first."""

    def kib(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    def on_files(wavs: Path) -> list[np.ndarray]:
        output = Path(folder, f"{os.getpid()}-{wavs.name}")
        file_tasks()[name](wavs, output)
        return [np.memmap(output / "feats.ark", np.uint8)]

    torch.set_num_threads(1)
    with torch.inference_mode():
        if name in CONTENDERS:
            compute = contenders("fbank-80", [name])[0][name]
            first, long = (scaled(name, np.load(f"{folder}/{which}.npy")[None]) for which in ("first", "long"))
        else:
            compute, first, long = on_files, Path(folder, "first"), Path(folder, "long")
        compute(first)
        before = kib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until here
        output = sum(frames.nbytes for frames in compute(long)) / 2**20
        print(json.dumps({"mib": (kib("VmHWM") - before) / 2**10 - output, "output_mib": output}))


def files(cfg: DictConfig, names: Iterable[str]) -> list[dict]:
    def two_workers(wavs: Path, output: Path) -> None:
        """The command, as its processes would import this one's main module. Notes also how long a file takes once
        there are rows on disk: until then they start."""

        def watch() -> None:
            while not over.wait(0.001):
                if scp.exists() and (rows := scp.read_bytes().count(b"\n")):
                    first.extend((rows, time.time()))
                    return

        scp, first, over = output / "feats.scp", [], threading.Event()
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            command = [sys.executable, "-m", "kws.extract", f"input={wavs}", f"output={output}", "workers=2"]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            options = ["features.num_mel_bins=80", "features.use_energy=false", "features.dither=0"]
            subprocess.run([*command, *options], env=environment, check=True, capture_output=True)
        finally:
            over.set()
            watcher.join()
        rows = first[0] if first else 0
        if 0 < rows < cfg.files and (seconds := scp.stat().st_mtime - first[1]) > 0:
            begun.append(seconds / (cfg.files - rows) * cfg.files)
        else:
            begun.append(np.nan)

    def measure(name: str) -> tuple[float, float]:
        """Seconds on the wall, and of the processors: this process's and those it waited for."""
        output = Path(folder, str(len(os.listdir(folder))))
        began = time.perf_counter(), sum(os.times()[:4])
        tasks[name](wavs, output)
        passed = time.perf_counter() - began[0], sum(os.times()[:4]) - began[1]
        bar.update()
        return passed

    tasks, begun = file_tasks(), []
    tasks[f"{EXTRACT}, 2 workers"] = two_workers
    with tempfile.TemporaryDirectory() as folder, progress(total=len(tasks) * cfg.files_repeats, desc="files") as bar:
        wavs, few = Path(folder, "wavs"), Path(folder, "few")
        for path, count in ((wavs, cfg.files), (few, 2)):
            path.mkdir()
            for i, wave in enumerate(np.resize(sound(60), (count, RATE))):
                audio.write(path / f"{i:06}.wav", wave, RATE)
        for run in file_tasks().values():
            run(few, Path(folder, str(len(os.listdir(folder)))))
        both = interleaved({name: partial(measure, name) for name in tasks}, cfg.files_repeats, cfg.seed)
    passed, cpu = ({name: values[:, i] for name, values in both.items()} for i in (0, 1))
    passed[f"{EXTRACT}, 2 workers, once begun"] = np.array(begun)
    figures, asked = [], {EXTRACT: FILES_ASKED[0], f"{EXTRACT}, 2 workers, once begun": FILES_ASKED[2]}
    for name, seconds in passed.items():
        row = {
            "name": name,
            "rates": cfg.files / seconds,
            "ratio": ratio(RECIPE, name, passed),
            "asked": asked.get(name),
        }
        used = {"cpu_us": 1e6 * cpu[name] / cfg.files if name in cpu else None, "cpu_ratio": ratio(RECIPE, name, cpu)}
        figures.append(row | used)
    rows = [list(row.values()) for row in figures]
    head = ["", "files/s", "x recipe", "asked", "CPU us/file", "x recipe"]
    show(f"Files: {cfg.files} wavs of 1 s to fbank-80 as ark", head, rows)
    return figures
