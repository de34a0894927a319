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
CHUNK = 1 << 18  # samples of one sound that are worked on at a time; a sound of more is long
TOGETHER = 1 << 19  # samples of short sounds that are held for each other
ROOM = 64 << 20  # bytes: for so many the system gives pages as they are written to, and more of them without a copy


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

        Short sounds of one length are computed together, which is faster and changes no bit of them; a long one as it
        is read, in memory that does not grow with it.
        """
        results, short, held = {}, defaultdict(dict), 0
        for item in items:
            try:
                with self._open(item) as sound:
                    blocks, resampled = self._blocks(sound)
                    begin = list(_until_long(blocks))
                    n_samples = sum(map(len, begin))
                    if n_samples > CHUNK:
                        results[item] = self._stream(itertools.chain(begin, blocks), resampled)
                    else:
                        self._check_length(n_samples)
                        short[n_samples][item] = np.concatenate(begin), resampled
                        held += n_samples
            except self.ERRORS as error:
                results[item] = _said(error, item)
            if held > TOGETHER:
                results |= self._together(short)
                short, held = defaultdict(dict), 0
        results |= self._together(short)
        return [results[item] for item in items]

    def _open(self, item: Item) -> audio.Sound:
        if item.reason:
            raise ValueError(item.reason)
        if os.path.exists(item.path) and not os.path.isfile(item.path):
            raise ValueError("not a regular file")  # reading a pipe would wait for ever
        return audio.Sound(item.path)

    def _blocks(self, sound: audio.Sound) -> tuple[Iterator[np.ndarray], bool]:
        """The blocks of a sound at the options' rate, and whether they are resampled."""
        wanted = self.options.sample_frequency
        if sound.rate == wanted:
            return sound.blocks(**self.reading, size=CHUNK), False
        if not self.resample:
            raise ValueError(f"its rate is {sound.rate} Hz, not {wanted:g}; resample=true changes it")
        return sound.blocks(**self.reading, rate=int(wanted), size=CHUNK), True

    def _check_length(self, n_samples: int) -> None:
        if n_frames(n_samples, self.options) == 0:
            needed = self.options.window_samples if self.options.snip_edges else -(-self.options.shift_samples // 2)
            raise ValueError(f"0 frames: {n_samples} samples, a window needs {needed}")

    def _together(self, short: dict[int, dict[Item, tuple[np.ndarray, bool]]]) -> dict[Item, Features | str]:
        """Of sounds (samples, resampled), given by their length."""
        results = {}
        for n_samples, group in short.items():
            try:
                waves = np.stack([samples for samples, _ in group.values()])
                with self.torch.inference_mode():
                    frames = self.extractor.stream(self.torch.from_numpy(waves), flush=True)[0].numpy()
                for (item, (samples, resampled)), rows in zip(group.items(), frames, strict=True):
                    features = Features(rows, n_samples / self.options.sample_frequency, resampled)
                    results[item] = features if np.isfinite(rows).all() else _not_finite(np.abs(samples).max())
            except self.ERRORS as error:
                results |= {item: _said(error, item) for item in group}
        return results

    def _stream(self, blocks: Iterator[np.ndarray], resampled: bool) -> Features:
        """Of a long sound, block by block; nothing is held but the result."""
        frames = np.empty((ROOM // (4 * self.options.dim), self.options.dim), np.float32)
        state, n, n_samples, loudest = None, 0, 0, 0.0
        for block in itertools.chain(blocks, [np.zeros(0, np.float32)]):
            n_samples += len(block)
            loudest = max(loudest, np.abs(block).max(initial=0))
            with self.torch.inference_mode():
                part, state = self.extractor.stream(self.torch.from_numpy(block)[None], state, flush=not len(block))
            if not self.torch.isfinite(part).all():
                raise ValueError(_not_finite(loudest))
            if n + part.shape[1] > len(frames):
                frames.resize((n + part.shape[1], self.options.dim), refcheck=False)
            frames[n : n + part.shape[1]] = part[0]
            n += part.shape[1]
        self._check_length(n_samples)
        frames.resize((n, self.options.dim), refcheck=False)
        return Features(frames, n_samples / self.options.sample_frequency, resampled)


def _until_long(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The first blocks, up to where they are more than CHUNK samples."""
    n_samples = 0
    while n_samples <= CHUNK and (block := next(blocks, None)) is not None:
        n_samples += len(block)
        yield block


def _said(error: Exception, item: Item) -> str:
    """What is wrong with a file, which is named beside it."""
    return str(error).removeprefix(f"{item.path}: ") or type(error).__name__


def _not_finite(loudest: float) -> str:
    return f"the features are not finite: the loudest sample is {loudest:.3g}"


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
