"""Computes the features of a folder of sound files, of one file, or of a Kaldi data directory.

    python -m kws.extract input=wavs output=feats                          40-bin fbank at 16 kHz, Kaldi ark and scp
    python -m kws.extract input=wavs output=feats features=mfcc format=npy
    python -m kws.extract input=wavs output=feats features.num_mel_bins=80 resample=true channel=0
    python -m kws.extract input=data/train output=fbank/train compressed=true manifest=lhotse

wav, flac, ogg, mp3 and more are read, at any depth. An utterance's key is the file's path within the folder without its
suffix; whitespace, % and bytes that are no UTF-8 are written as %20; files that differ by their suffix alone keep it.

A folder with a wav.scp is a Kaldi data directory: its utterances are those of segments, or else the recordings, under
their own keys. The output is a data directory too, of the utterances that could be used, with feats.scp, utt2dur,
utt2num_frames and every speaker's statistics in cmvn.scp. Pipes in wav.scp run programs: only with allow_pipes=true.

What cannot be used is named with the reason in failed.jsonl, and the rest is done. The same command goes on with what
was stopped or killed, and ends with the same bytes. options.json holds what the features were made with.

Exit codes: 0 all done, 1 some files failed, 2 a mistake that the message names, 130 and 143 stopped by Ctrl-C or
SIGTERM, with all saved.
"""

import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from kws import audio
from kws.computer import Computer, Features
from kws.config import command
from kws.data import lhotse
from kws.data.kaldi_directory import DataDirectory
from kws.errors import KwsError, check_number, check_switches
from kws.features import FbankOptions, describe, make_options
from kws.features.store import TABLES, FeatureFolder, Row
from kws.outputs import DIRECTORY, check_keys, write_directory, write_lhotse
from kws.progress import progress
from kws.utterances import Item, batches, read_warps, utterances, walk
from kws.workers import cores, ordered_map


def extract(
    input: str, output: str, options: FbankOptions, format: str = "ark", channel: int | None = None,
    resample: bool = False, allow_truncated: bool = False, retry_failed: bool = False, workers: int = 0,
    compressed: bool = False, subtract_mean: bool = False, min_duration: float = 0.0, vtln_map: str | None = None,
    utt2spk: str | None = None, allow_pipes: bool = False, manifest: str | None = None, vtln_warp: float = 1.0,
    plot: bool = False,
) -> int:  # fmt: skip
    """Features of the sound in `input` into the folder `output`; conf/extract.yaml explains the arguments.

    Returns:
        How many files or utterances failed; failed.jsonl names them.

    Raises:
        KwsError: a mistake in the arguments or in the data directory, or an output that cannot be written; what was
            done is kept.
    """
    root, target = os.path.abspath(input), os.path.abspath(output)
    if not os.access(root, os.R_OK):
        raise KwsError(f"{root}: {'cannot be read' if os.path.exists(root) else 'there is no such file or folder'}")
    if (resample or options.allow_downsample or options.allow_upsample) and options.sample_frequency % 1:
        raise KwsError(f"features.sample_frequency={options.sample_frequency}: resampling needs a whole number of Hz")
    if format != "ark" and (compressed or manifest):
        raise KwsError(f"format={format}: compressed=true and manifest=lhotse are of Kaldi's archives: format=ark")
    directory = DataDirectory(root, allow_pipes) if os.path.isfile(os.path.join(root, "wav.scp")) else None
    if directory and os.path.realpath(target) == os.path.realpath(root):
        raise KwsError(f"output={target}: is the data directory that is read; choose another folder")
    reading = {"channel": channel, "resample": resample, "allow_truncated": allow_truncated}
    reading |= {"subtract_mean": subtract_mean, "min_duration": min_duration}
    maps = {"vtln_map": vtln_map and os.path.abspath(vtln_map), "utt2spk": utt2spk and os.path.abspath(utt2spk)}
    settings = {"input": root, "format": format, "compress": "auto" if compressed else None, **reading, **maps}
    settings |= {"vtln_warp": vtln_warp, "features": describe(options)}
    warps = read_warps(options, directory, vtln_warp, **maps)
    # what is written when all is done; gone while it is not
    beside = (*(DIRECTORY if directory and format == "ark" else ()), *lhotse.NAMES)
    with contextlib.closing(FeatureFolder(target, options.dim, settings, retry_failed, beside)) as folder:
        kind, where = settings["features"]["type"], f"the data directory {root}" if directory else root
        print(f"{kind}, {options.dim} dimensions, {options.sample_frequency:g} Hz, from {where}")
        if directory:
            check_keys(directory, folder.table.keys, folder.folder)
            for warning in directory.warnings:
                print(f"warning: {warning}")
        noun = "utterances" if directory else "files"
        if folder.done:
            print(f"going on after {len(folder.done)} {noun}")
        if not _run(_items(root, directory, warps), folder, (options, *reading.values()), workers, noun):
            raise KwsError(f"{root}: holds no sound files ({', '.join(sorted(audio.SUFFIXES))})")
        try:
            if folder.table.sort():
                print("the keys that were added come before others: the index is sorted anew")
            if format == "ark" and os.path.getsize(folder.folder / "feats.scp"):
                if directory:
                    write_directory(folder.folder, directory)
                if manifest:
                    write_lhotse(folder.folder, options, _items(root, directory), directory, channel)
        except OSError as error:
            raise KwsError(f"{target}: {error.strerror}; all features are there, the same command goes on") from None
    if plot:
        _draw(root, directory, folder, channel)
    if format == "npy":
        print(f"read {target}/feats.npy with numpy.load(..., mmap_mode='r'); utts.jsonl says which rows are whose")
    elif manifest:
        print(f"read {target}/cuts.jsonl.gz with lhotse.CutSet.from_file")
    else:
        print(f"read {target}/feats.scp with Kaldi, kaldiio.load_scp or kws.features.kaldi_io.read_scp")
    if folder.n_failed:
        print(f"{folder.n_failed} {noun} failed: {folder.failures} says why; retry_failed=true tries them again")
    return folder.n_failed


def _draw(root: str, directory: DataDirectory | None, folder: FeatureFolder, channel: int | None) -> None:
    """A picture of the first file that has features."""
    from kws.features.picture import plot  # matplotlib takes a second to import

    first = folder.table.first_key()
    item = next((item for item in _items(root, directory) if item.key == first), None)
    if item is None or item.is_part or isinstance(item.path, audio.Pipe):
        print(f"plot=true draws whole files; {first} is none")
        return
    picture = folder.folder / "first.png"
    plot(item.path, picture, channel=channel if item.channel is None else item.channel)
    print(f"{picture} shows {item.key}: waveform, fbank, MFCC and deltas")


def _items(root: str, directory: DataDirectory | None, warps: Callable[[Item], Item] | None = None) -> Iterator[Item]:
    items = utterances(directory) if directory else walk(root)
    return items if warps is None else map(warps, items)


def _run(listed: Iterator[Item], folder: FeatureFolder, settings: tuple, workers: int, noun: str) -> int:
    """Does what is not done yet, and says how much that was; returns how many items were listed."""
    began, tally = time.monotonic(), Counter()

    def pending() -> Iterator[Item]:
        for item in listed:
            tally["seen"] += 1
            if item.key not in folder.table.keys and item.name not in folder.failed:
                yield item

    work = ordered_map(Computer, settings, batches(pending()), workers)
    bar = progress(desc="extracting", unit=f" {noun}", initial=len(folder.done))
    with bar, contextlib.closing(work):
        for items, results in work:
            done, failed = [], []
            for item, result in zip(items, results, strict=True):
                if isinstance(result, Features):
                    done.append(Row(item.key, result.frames, result.seconds))
                    tally["seconds"] += result.seconds
                    tally["resampled"] += result.resampled
                else:
                    key = {"key": item.key} if item.at else {}
                    failed.append({**key, "path": item.path, "reason": str(result)})
            folder.write(done, failed)
            tally["done"] += len(done)
            done.clear()  # there is room for the next ones, which are made now
            results.clear()
            bar.set_postfix_str(f"{tally['seconds'] / (time.monotonic() - began):.0f} times real time", refresh=False)
            bar.update(len(items))
    took, sound = time.monotonic() - began, tally["seconds"]
    if tally["seen"]:
        print(f"{tally['done']} {noun}, {sound / 3600:.2f} h, done in {took:.1f} s: {sound / took:.0f} times real time")
    if tally["resampled"]:
        print(f"{tally['resampled']} {noun} were resampled to {settings[0].sample_frequency:g} Hz")
    return tally["seen"]


def _stop(number: int, _frame) -> None:
    raise SystemExit(128 + number)


@command("extract")
def main(cfg: DictConfig) -> None:
    for name in ("input", "output"):
        if not isinstance(cfg[name], str):
            raise KwsError(f"{name}={cfg[name]}: expected a path (see conf/extract.yaml)")
    for name, choices in (("format", TABLES), ("manifest", ("lhotse",))):
        if cfg[name] not in choices and (name, cfg[name]) != ("manifest", None):
            raise KwsError(f"{name}={cfg[name]}: choose one of {', '.join(choices)}")
    for name in ("channel", "workers"):
        if cfg[name] is not None:
            check_number(name, cfg[name], lambda n: n >= 0, "a whole number from 0, or null", int)
    for name, what in (("min_duration", "seconds, 0 or more"), ("vtln_warp", "about 1")):
        check_number(name, cfg[name], lambda n: n >= 0, f"a number, {what}")
    switches = ("resample", "allow_truncated", "retry_failed", "compressed", "subtract_mean", "allow_pipes", "plot")
    check_switches(**{name: cfg[name] for name in switches})
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
            cfg.retry_failed, cores() if cfg.workers is None else cfg.workers, cfg.compressed, cfg.subtract_mean,
            float(cfg.min_duration), cfg.vtln_map, cfg.utt2spk, cfg.allow_pipes, cfg.manifest,
            float(cfg.vtln_warp), cfg.plot,
        )  # fmt: skip
    except SystemExit:
        print("stopped; all that was done is kept, and the same command goes on from there")
        raise
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
