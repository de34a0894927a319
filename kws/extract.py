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
import os
import re
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from kws import audio
from kws.config import command
from kws.errors import KwsError
from kws.features import FbankOptions, describe, make_options, n_frames
from kws.features.store import TABLES, FeatureFolder
from kws.progress import progress
from kws.workers import cores, ordered_map

BATCH_FILES, BATCH_BYTES = 32, 8 << 20  # of one task, whichever is reached first
CHUNK = 1 << 20  # samples of one sound that are worked on at a time


class Item(NamedTuple):
    """A file to do. One that needs no reading to be refused comes with the reason."""

    key: str
    path: str
    reason: str | None = None


class Features(NamedTuple):
    """Of a file: frames (n, dim) float32, how long it sounds, and whether it was resampled."""

    frames: np.ndarray
    seconds: float
    resampled: bool


def encode_key(name: str) -> str:
    """`name` without whitespace: that, %, and bytes that are no UTF-8 become %XX, so that names stay distinct."""
    return re.sub(r"[\s%\udc80-\udcff]", lambda m: "".join(f"%{byte:02X}" for byte in os.fsencode(m[0])), name)


def _listing(folder: str) -> list[tuple[str, str]]:
    """(key, name) of a folder's sound files and (key/, name) of its folders, in the order of the keys."""
    stems, listed = {}, []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # what systems put beside files
                continue
            stem, suffix = os.path.splitext(entry.name)
            if entry.is_dir():
                listed.append((encode_key(entry.name) + "/", entry.name))
            elif suffix.lower() in audio.SUFFIXES:
                stems[entry.name] = stem
    uses = Counter([*stems, *stems.values()])
    listed += [(encode_key(stem if uses[stem] == 1 else name), name) for name, stem in stems.items()]
    return sorted(listed)


def walk(root: str) -> Iterator[Item]:
    """The sound files under a folder, or a file itself, by the C-locale order of their keys.

    One folder's names are in memory at a time for each level of depth. Links are followed, but not to a folder that
    holds them. A folder that cannot be listed is an item with a reason and no key.
    """
    key = "" if os.path.isdir(root) else encode_key(os.path.splitext(os.path.basename(root))[0])
    left = [(key, root, ("", "", ()))]  # the next one last: (key, name, (the folder's key, path, all folders above))
    while left:
        key, name, (prefix, folder, above) = left.pop()
        path = os.path.join(folder, name)
        if key and not key.endswith("/"):
            yield Item(prefix + key, path)
            continue
        try:
            identity = (info := os.stat(path)).st_dev, info.st_ino
            if identity not in above:
                inside = prefix + key, path, (*above, identity)
                left += [(*entry, inside) for entry in reversed(_listing(path))]
        except OSError as error:
            yield Item("", path, f"the folder cannot be listed ({error.strerror})")


def batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Tasks of a size that is worth sending to a process, and that its memory holds."""
    batch, size = [], 0
    for item in items:
        batch.append(item)
        with contextlib.suppress(OSError):  # which the reader will name
            size += os.stat(item.path).st_size
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Computer:
    """Sound files to features, in one process and one thread.

    Raises:
        KwsError: there are no features with these options.
    """

    ERRORS = (ValueError, OSError, MemoryError, RuntimeError)  # of one file; torch's word for no memory is the last

    def __init__(self, options: FbankOptions, channel: int | None, resample: bool, allow_truncated: bool):
        import torch  # not at the top: the main process of several needs none of it

        from kws.features.extractor import FeatureExtractor

        torch.set_num_threads(1)
        self.torch, self.options, self.resample = torch, options, resample
        self.reading = {"channel": channel, "allow_truncated": allow_truncated}
        try:
            self.extractor = FeatureExtractor(options)
        except ValueError as error:
            raise KwsError(f"features: {error}") from None

    def __call__(self, items: list[Item]) -> list[Features | str]:
        """The features of every file, or the reason why it has none.

        Sounds of one length are computed together, which is faster and changes no bit of them.
        """
        results, by_length = {}, defaultdict(dict)
        for item in items:
            try:
                samples, resampled = self._read(item)
                by_length[len(samples)][item] = samples, resampled
            except self.ERRORS as error:
                results[item] = str(error).removeprefix(f"{item.path}: ") or type(error).__name__
        for group in by_length.values():
            try:
                results |= zip(group, self._features(*zip(*group.values(), strict=True)), strict=True)
            except self.ERRORS as error:
                results |= dict.fromkeys(group, str(error) or type(error).__name__)
        return [results[item] for item in items]

    def _read(self, item: Item) -> tuple[np.ndarray, bool]:
        """Samples (n,) at the options' rate, and whether they were resampled."""
        if item.reason:
            raise ValueError(item.reason)
        if os.path.exists(item.path) and not os.path.isfile(item.path):
            raise ValueError("not a regular file")  # reading a pipe would wait for ever
        samples, rate = audio.read(item.path, **self.reading)
        wanted = self.options.sample_frequency
        if rate != wanted:
            if not self.resample:
                raise ValueError(f"its rate is {rate} Hz, not {wanted:g}; resample=true changes it")
            samples = audio.resample(samples, rate, int(wanted))
        if n_frames(len(samples), self.options) == 0:
            needed = self.options.window_samples if self.options.snip_edges else -(-self.options.shift_samples // 2)
            raise ValueError(f"0 frames: {len(samples)} samples, a window needs {needed}")
        return samples, rate != wanted

    def _features(self, sounds: list[np.ndarray], resampled: list[bool]) -> list[Features | str]:
        """Of sounds of one length, in chunks: the memory that is needed does not grow with the length."""
        waves, state, parts = self.torch.from_numpy(np.stack(sounds)), None, []
        with self.torch.inference_mode():
            for at in range(0, waves.shape[1], CHUNK):
                last = at + CHUNK >= waves.shape[1]
                part, state = self.extractor.stream(waves[:, at : at + CHUNK], state, flush=last)
                parts.append(part)
            frames = self.torch.cat(parts, dim=1).numpy()
        seconds = waves.shape[1] / self.options.sample_frequency
        return [
            Features(rows, seconds, changed) if np.isfinite(rows).all()
            else f"the features are not finite: the loudest sample is {np.abs(samples).max():.3g}"
            for rows, changed, samples in zip(frames, resampled, sounds, strict=True)
        ]  # fmt: skip


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
    with contextlib.closing(FeatureFolder(target, options.dim, settings, retry_failed)) as folder:
        print(f"{settings['features']['type']}, {options.dim} dimensions, {options.sample_frequency:g} Hz, from {root}")
        if folder.done:
            print(f"going on after {len(folder.done)} files")
        _run(root, folder, (options, *reading.values()), workers)
    if format == "ark":
        print(f"read {target}/feats.scp with Kaldi, kaldiio.load_scp or kws.features.kaldi_io.read_scp")
    else:
        print(f"read {target}/feats.npy with numpy.load(..., mmap_mode='r'); utts.jsonl says which rows are whose")
    if folder.n_failed:
        print(f"{folder.n_failed} files failed: {folder.failures} says why; retry_failed=true tries them again")
    return folder.n_failed


def _run(root: str, folder: FeatureFolder, settings: tuple, workers: int) -> None:
    """Does what is not done yet, and says how much that was."""
    began, last, tally = time.monotonic(), max(folder.table.keys, default=""), Counter()

    def pending() -> Iterator[Item]:
        for item in walk(root):
            tally["seen"] += 1
            if item.key not in folder.done and item.path not in folder.done:
                yield item

    work = ordered_map(Computer, settings, batches(pending()), workers)
    bar = progress(desc="extracting", unit=" files", initial=len(folder.done))
    with bar, contextlib.closing(work):
        for items, results in work:
            done, failed = [], []
            for item, result in zip(items, results, strict=True):
                if isinstance(result, Features):
                    done.append((item.key, result.frames))
                    tally["seconds"] += result.seconds
                    tally["resampled"] += result.resampled
                    tally["late"] += item.key < last
                else:
                    failed.append((item.path, str(result)))
            folder.write(done, failed)
            tally["done"] += len(done)
            bar.set_postfix_str(f"{tally['seconds'] / (time.monotonic() - began):.0f} times real time", refresh=False)
            bar.update(len(items))
    if not tally["seen"]:
        raise KwsError(f"{root}: holds no sound files ({', '.join(sorted(audio.SUFFIXES))})")
    took, sound = time.monotonic() - began, tally["seconds"]
    print(f"{tally['done']} files, {sound / 3600:.2f} h, done in {took:.1f} s: {sound / took:.0f} times real time")
    if tally["resampled"]:
        print(f"{tally['resampled']} files were resampled to {settings[0].sample_frequency:g} Hz")
    if tally["late"]:
        print(f"{tally['late']} keys come before others that were there: the table is no longer in their order")


def _stop(number: int, _frame) -> None:
    raise SystemExit(128 + number)


@command("extract")
def main(cfg: DictConfig) -> None:
    for name in ("input", "output"):
        if not isinstance(cfg[name], str):
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
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # for names that are no UTF-8, and pipes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        failed = extract(
            cfg.input, cfg.output, options, cfg.format, cfg.channel, cfg.resample, cfg.allow_truncated,
            cfg.retry_failed, cores() if cfg.workers is None else cfg.workers,
        )  # fmt: skip
    except SystemExit:
        print("stopped; all that was done is kept, and the same command goes on from there")
        raise
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
