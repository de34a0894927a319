"""Computes the features of a folder of sound files, of any depth and size, or of one file.

    python -m kws.extract input=wavs output=feats                          40-bin fbank at 16 kHz, Kaldi ark and scp
    python -m kws.extract input=wavs output=feats features=mfcc format=npy
    python -m kws.extract input=wavs output=feats features.num_mel_bins=80 resample=true channel=0

wav, flac, ogg, mp3 and more are read. An utterance's key is the file's path within the folder without its suffix;
whitespace, % and bytes that are no UTF-8 are written as %20, and files that differ by their suffix alone keep it.
A file that cannot be used is named with the reason in failed.jsonl, and the rest is done. The same command goes on with
what was stopped or killed, and ends with the same bytes. options.json holds what the features were made with.

Exit codes: 0 all done, 1 some files failed, 2 a mistake that the message names, 130 and 143 stopped by Ctrl-C or
SIGTERM, with all saved.
"""

import contextlib
import itertools
import os
import re
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import connection, get_context
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from kws import audio
from kws.config import KwsError, command
from kws.features import FbankOptions, describe, make_options, n_frames
from kws.features.kaldi_io import TABLES, FeatureFolder
from kws.progress import progress

BATCH_FILES, BATCH_BYTES = 32, 8 << 20  # of one task, whichever is reached first
CHUNK = 1 << 20  # samples of one sound that are worked on at a time
IN_FLIGHT = 4  # tasks for each worker, under way or waiting for an earlier one's turn


class Item(NamedTuple):
    """A file to do. One that needs no reading to be refused comes with the reason."""

    key: str
    path: str
    reason: str | None = None


class Result(NamedTuple):
    """Frames (n, dim) float32, or the reason why there are none; seconds of sound, and whether it was resampled."""

    frames: np.ndarray | None
    reason: str | None = None
    seconds: float = 0.0
    resampled: bool = False


def encode_key(name: str) -> str:
    """`name` without whitespace: that, %, and bytes that are no UTF-8 become %XX, so that names stay distinct."""
    return re.sub(r"[\s%\udc80-\udcff]", lambda m: "".join(f"%{byte:02X}" for byte in os.fsencode(m[0])), name)


def _listing(folder: str) -> list[tuple[str, str]]:
    """(key, name) of a folder's sound files and (key/, name) of its folders, in the order of the keys."""
    files, listed = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                listed.append((encode_key(entry.name) + "/", entry.name))
            elif os.path.splitext(entry.name)[1].lower() in audio.SUFFIXES:
                files.append(entry.name)
    stems = Counter(os.path.splitext(name)[0] for name in files)
    names = set(files)
    for name in files:
        stem = os.path.splitext(name)[0]
        listed.append((encode_key(name if stems[stem] > 1 or stem in names else stem), name))
    return sorted(listed)


def walk(root: str) -> Iterator[Item]:
    """The sound files under a folder, or a file itself, by the C-locale order of their keys.

    One folder's names are in memory at a time for each level of depth. Links are followed, but not to a folder that
    holds them. A folder that cannot be listed is an item with a reason and no key.
    """
    if not os.path.isdir(root):
        yield Item(encode_key(os.path.splitext(os.path.basename(root))[0]), root)
        return
    levels = []

    def enter(prefix: str, path: str) -> None:
        identity = (info := os.stat(path)).st_dev, info.st_ino
        if all(identity != level[0] for level in levels):
            levels.append((identity, prefix, path, iter(_listing(path))))

    enter("", root)
    while levels:
        _, prefix, folder, entries = levels[-1]
        key, name = next(entries, (None, None))
        if key is None:
            levels.pop()
        elif not key.endswith("/"):
            yield Item(prefix + key, os.path.join(folder, name))
        else:
            path = os.path.join(folder, name)
            try:
                enter(prefix + key, path)
            except OSError as error:
                yield Item("", path, f"the folder cannot be listed ({error.strerror})")


def batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Items in tasks that are worth sending to a process, and not too large for its memory."""
    batch, size = [], 0
    for item in items:
        try:
            info = os.stat(item.path)
            size += info.st_size
            if item.reason is None and not stat.S_ISREG(info.st_mode):  # reading a pipe would wait for ever
                item = item._replace(reason="not a regular file")
        except OSError:
            pass  # the reader will name it
        batch.append(item)
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Computer:
    """Sound files to features, in one process and one thread."""

    ERRORS = (ValueError, OSError, MemoryError, RuntimeError)  # of one file; torch's word for no memory is the last

    def __init__(self, options: FbankOptions, channel: int | None, resample: bool, allow_truncated: bool):
        import torch

        from kws.features.extractor import FeatureExtractor

        torch.set_num_threads(1)
        self.torch, self.extractor = torch, FeatureExtractor(options)
        self.options, self.resample = options, resample
        self.reading = {"channel": channel, "allow_truncated": allow_truncated}

    def __call__(self, items: list[Item]) -> list[Result]:
        """A result for each item. Sounds of one length are computed together, which changes no bit of them."""
        results, waves = [], {}
        for index, item in enumerate(items):
            try:
                samples, seconds, resampled = self._read(item)
                waves.setdefault(len(samples), []).append((index, samples))
                results.append(Result(None, None, seconds, resampled))
            except self.ERRORS as error:
                results.append(_failure(item, error))
        for group in waves.values():
            try:
                frames = self._frames(np.stack([samples for _, samples in group]))
            except self.ERRORS as error:
                frames = [error] * len(group)
            for (index, samples), rows in zip(group, frames, strict=True):
                if not isinstance(rows, Exception) and not np.isfinite(rows).all():
                    rows = ValueError(f"the features are not finite: the loudest sample is {np.abs(samples).max():.3g}")
                failed = isinstance(rows, Exception)
                results[index] = _failure(items[index], rows) if failed else results[index]._replace(frames=rows)
        return results

    def _read(self, item: Item) -> tuple[np.ndarray, float, bool]:
        """Samples (n,) at the options' rate, their seconds, and whether they were resampled."""
        if item.reason:
            raise ValueError(item.reason)
        samples, rate = audio.read(item.path, **self.reading)
        seconds, wanted = len(samples) / rate, self.options.sample_frequency
        if rate != wanted:
            if not self.resample:
                raise ValueError(f"its rate is {rate} Hz, not {wanted:g}; resample=true changes it")
            samples = audio.resample(samples, rate, int(wanted))
        if n_frames(len(samples), self.options) == 0:
            needed = self.options.window_samples if self.options.snip_edges else -(-self.options.shift_samples // 2)
            raise ValueError(f"0 frames: {len(samples)} samples, a window needs {needed}")
        return samples, seconds, rate != wanted

    def _frames(self, waves: np.ndarray) -> np.ndarray:
        """Waves (batch, samples) to frames (batch, frames, dim)."""
        waves, state, parts = self.torch.from_numpy(waves), None, []
        with self.torch.inference_mode():
            for at in range(0, waves.shape[1], CHUNK):
                last = at + CHUNK >= waves.shape[1]
                part, state = self.extractor.stream(waves[:, at : at + CHUNK], state, flush=last)
                parts.append(part)
            return self.torch.cat(parts, dim=1).numpy()


def _failure(item: Item, error: Exception) -> Result:
    return Result(None, str(error).removeprefix(f"{item.path}: ") or type(error).__name__)


def _serve(tasks: connection.Connection, settings: tuple) -> None:
    """A worker process: says whether it can begin ("" or why not), then turns lists of items into results."""
    try:
        try:
            compute = Computer(*settings)
        except ValueError as error:
            tasks.send(str(error))
            return
        tasks.send("")
        while True:
            tasks.send(compute(tasks.recv()))
    except (EOFError, OSError):
        pass  # the main process is gone


class Pool:
    """Worker processes, each at the end of a pipe of its own: they end with the main process, however that ends, and
    one that dies (out of memory, a crash in a decoder) takes nothing with it but the file that it died of."""

    def __init__(self, count: int, settings: tuple):
        self.settings, self.processes = settings, {}
        self._start(count)

    def _start(self, count: int) -> list[connection.Connection]:
        context, started = get_context("spawn"), []
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what workers inherit: Ctrl-C is for this process
        try:
            for _ in range(count):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, self.settings), daemon=True)
                process.start()
                there.close()
                self.processes[here] = process
                started.append(here)
        finally:
            signal.signal(signal.SIGINT, handler)
        for pipe in started:
            try:
                problem = pipe.recv()
            except (EOFError, OSError):
                problem = "a worker process ended before it began; workers=0 works without"
            if problem:
                raise KwsError(problem)
        return started

    def map(self, tasks: Iterator[list[Item]]) -> Iterator[tuple[list[Item], list[Result]]]:
        """Every task with its results, in the order of the tasks."""
        tasks, running, finished, turn = enumerate(tasks), {}, {}, 0
        idle, limit = list(self.processes), IN_FLIGHT * len(self.processes)
        while True:
            while idle and len(running) + len(finished) < limit and (task := next(tasks, None)):
                pipe = idle.pop()
                try:
                    pipe.send(task[1])
                except OSError:  # it died idle
                    pipe = self._replace(pipe)[0]
                    pipe.send(task[1])
                running[pipe] = task
            if turn in finished:
                yield finished.pop(turn)
                turn += 1
            elif not running:
                return
            else:
                for pipe in connection.wait(list(running)):
                    index, items = running.pop(pipe)
                    try:
                        results = pipe.recv()
                    except (EOFError, OSError):
                        pipe, results = self._one_by_one(pipe, items)
                    finished[index] = items, results
                    idle.append(pipe)

    def _replace(self, pipe: connection.Connection) -> tuple[connection.Connection, str]:
        """A new worker for one that died, and what it died of."""
        process = self.processes.pop(pipe)
        pipe.close()
        process.join()
        code = process.exitcode
        return self._start(1)[0], f"exit code {code}" if code >= 0 else f"signal {-code}; out of memory?"

    def _one_by_one(self, pipe: connection.Connection, items: list[Item]) -> tuple[connection.Connection, list[Result]]:
        """The results of items that a worker died of, each tried alone, and a living worker."""
        pipe, cause = self._replace(pipe)
        if len(items) == 1:
            return pipe, [Result(None, f"the process that worked on it died ({cause})")]
        results = []
        for item in items:
            try:
                pipe.send([item])
                results += pipe.recv()
            except (EOFError, OSError):
                pipe, failed = self._one_by_one(pipe, [item])
                results += failed
        return pipe, results

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join()


def extract(
    input: str, output: str, options: FbankOptions, format: str = "ark", channel: int | None = None,
    resample: bool = False, allow_truncated: bool = False, retry_failed: bool = False, workers: int = 0,
) -> int:  # fmt: skip
    """Features of the sound files in `input` into the folder `output`; conf/extract.yaml explains the arguments.

    Returns:
        How many files failed; failed.jsonl names them.

    Raises:
        KwsError: a mistake in the arguments, or an output that cannot be written; what was done is kept.
    """
    root, target = os.path.abspath(input), os.path.abspath(output)
    if not os.access(root, os.R_OK):
        raise KwsError(f"{root}: {'cannot be read' if os.path.exists(root) else 'there is no such file or folder'}")
    if resample and options.sample_frequency % 1:
        raise KwsError(f"features.sample_frequency={options.sample_frequency}: resampling needs a whole number of Hz")
    reading = {"channel": channel, "resample": resample, "allow_truncated": allow_truncated}
    settings = {"input": root, "format": format, **reading, "features": describe(options)}
    try:
        folder = FeatureFolder(target, options.dim, settings, retry_failed)
    except (ValueError, OSError) as error:
        raise KwsError(f"{target}: {getattr(error, 'strerror', None) or error}") from None
    with contextlib.closing(folder):
        _say(f"{settings['features']['type']}, {options.dim} dimensions, {options.sample_frequency:g} Hz, from {root}")
        if folder.done:
            _say(f"going on after {len(folder.done)} files")
        _run(root, folder, (options, *reading.values()), workers)
    if format == "ark":
        _say(f"read {target}/feats.scp with Kaldi, kaldiio.load_scp or kws.features.kaldi_io.read_scp")
    else:
        _say(f"read {target}/feats.npy with numpy.load(..., mmap_mode='r'); utts.jsonl says which rows are whose")
    if folder.n_failed:
        _say(f"{folder.n_failed} files failed: {folder.failures} says why; retry_failed=true tries them again")
    return folder.n_failed


def _say(text: str) -> None:
    print(text, flush=True)


def _run(root: str, folder: FeatureFolder, settings: tuple, workers: int) -> None:
    """Does what is not done yet, and says how much that was."""
    began, last, count = time.monotonic(), max(folder.table.keys, default=""), Counter()

    def pending() -> Iterator[Item]:
        for item in walk(root):
            count["seen"] += 1
            if item.key not in folder.done and item.path not in folder.done:
                yield item

    tasks = batches(pending())
    first = list(itertools.islice(tasks, workers + 1))  # one task is not worth a process
    if not count["seen"]:
        raise KwsError(f"{root}: holds no sound files ({', '.join(sorted(audio.SUFFIXES))})")
    computed = _compute(itertools.chain(first, tasks), min(workers, len(first)) if len(first) > 1 else 0, settings)
    bar = progress(desc="extracting", unit=" files", initial=len(folder.done))
    with bar, contextlib.closing(computed):
        for items, results in computed if first else ():
            pairs = list(zip(items, results, strict=True))
            rows = [(item.key, result.frames) for item, result in pairs if result.frames is not None]
            try:
                folder.write(rows, [(item.path, result.reason) for item, result in pairs if result.frames is None])
            except OSError as error:
                raise KwsError(
                    f"{folder.folder}: {error.strerror}; once there is room the same command goes on"
                ) from None
            count["done"] += len(rows)
            count["late"] += sum(key < last for key, _ in rows)
            count["resampled"] += sum(result.resampled for result in results)
            count["seconds"] += sum(result.seconds for result in results)
            bar.set_postfix_str(f"{count['seconds'] / (time.monotonic() - began):.0f} times real time", refresh=False)
            bar.update(len(items))
    seconds, hours = time.monotonic() - began, count["seconds"] / 3600
    _say(f"{count['done']} files, {hours:.2f} h, done in {seconds:.1f} s: {3600 * hours / seconds:.0f} times real time")
    if count["resampled"]:
        _say(f"{count['resampled']} files were resampled to {settings[0].sample_frequency:g} Hz")
    if count["late"]:
        _say(f"{count['late']} keys come before others that were there: the table is no longer in their order")


def _compute(tasks: Iterator[list[Item]], workers: int, settings: tuple) -> Iterator[tuple[list[Item], list[Result]]]:
    """Every task with its results, in the order of the tasks, from worker processes or this one."""
    if workers:
        with contextlib.closing(Pool(workers, settings)) as pool:
            yield from pool.map(tasks)
        return
    try:
        compute = Computer(*settings)
    except ValueError as error:
        raise KwsError(str(error)) from None
    for items in tasks:
        yield items, compute(items)


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, with the number of the signal."""


def _stop(number: int, _frame) -> None:
    raise Stopped(number)


@command("extract")
def main(cfg: DictConfig) -> None:
    for name in ("input", "output"):
        if not isinstance(cfg[name], str | int | float):
            raise KwsError(f"{name}={cfg[name]}: expected a path (see conf/extract.yaml)")
    if cfg.format not in TABLES:
        raise KwsError(f"format={cfg.format}: choose one of {', '.join(TABLES)}")
    for name in ("channel", "workers"):
        if cfg[name] is not None and (type(cfg[name]) is not int or cfg[name] < 0):
            raise KwsError(f"{name}={cfg[name]}: expected a whole number from 0, or null")
    for name in ("resample", "allow_truncated", "retry_failed"):
        if not isinstance(cfg[name], bool):  # "no" would count as true
            raise KwsError(f"{name}={cfg[name]}: expected true or false")
    try:
        options = make_options(**cfg.features)
    except (ValueError, TypeError) as error:
        raise KwsError(f"features: {error}") from None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    sys.stdout.reconfigure(errors="backslashreplace")  # names that are no UTF-8
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        failed = extract(
            str(cfg.input), str(cfg.output), options, cfg.format, cfg.channel, cfg.resample, cfg.allow_truncated,
            cfg.retry_failed, cores if cfg.workers is None else cfg.workers,
        )  # fmt: skip
    except Stopped as stop:
        _say("stopped; all that was done is kept, and the same command goes on from there")
        raise SystemExit(128 + stop.args[0]) from None
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
