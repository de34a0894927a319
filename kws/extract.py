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
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator

from omegaconf import DictConfig

from kws import audio
from kws.computer import Computer, Features
from kws.config import command
from kws.errors import KwsError
from kws.features import FbankOptions, describe, make_options
from kws.features.store import TABLES, FeatureFolder
from kws.progress import progress
from kws.utterances import Item, batches, walk
from kws.workers import cores, ordered_map


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
