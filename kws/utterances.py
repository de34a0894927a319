"""What there is to extract features of, in the order of keys: the sound files of a folder, or the utterances of a Kaldi
data directory."""

import contextlib
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kws import audio
from kws.data.kaldi_directory import DataDirectory, read_table
from kws.errors import KwsError

BATCH_FILES, BATCH_BYTES = 32, 8 << 20  # of one task, whichever is reached first
RUN_SECONDS = 1800.0  # of parts of one recording, which are one task however many they are


class Item(NamedTuple):
    """A file to do, or an utterance. One that needs no reading to be refused comes with the reason.

    An utterance goes from `start` to `end` in seconds (None: the recording's end); `at` is the line that says so.
    """

    key: str
    path: str
    reason: str | None = None
    start: float = 0.0
    end: float | None = None
    channel: int | None = None  # None: what the settings say
    warp: float = 1.0  # of the vocal tract's length
    at: str = ""

    @property
    def name(self) -> str:
        """What the failures are known by."""
        return self.key if self.at else self.path

    @property
    def is_part(self) -> bool:
        return self.start > 0 or self.end is not None


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


def utterances(directory: DataDirectory) -> Iterator[Item]:
    """The utterances of a data directory."""
    for key, utterance in directory.utterances.items():
        yield Item(key, utterance.sound, None, utterance.start, utterance.end, utterance.channel, at=utterance.at)


class Warps:
    """Gives items the VTLN factors of their utterances or speakers.

    Args:
        path: a table of `key factor`, in any order; a key is an utterance's or a speaker's.
        speakers: of utterances.

    Raises:
        KwsError: naming the line.
    """

    def __init__(self, path: str | Path, speakers: Mapping[str, str]):
        self.path, self.speakers, self.factors = path, speakers, {}
        for key, (text, at) in read_table(Path(path), in_order=False).items():
            try:
                self.factors[key] = float(text)
            except ValueError:
                self.factors[key] = math.nan
            if not 0 < self.factors[key] < math.inf:
                raise KwsError(f"{at}: expected '{key} <warp factor>', a number about 1, found '{key} {text}'")

    def __call__(self, item: Item) -> Item:
        factor = self.factors.get(item.key, self.factors.get(self.speakers.get(item.key)))
        if factor is None:
            return item._replace(reason=f"{self.path} has no warp factor for {item.key} or its speaker")
        return item._replace(warp=factor)


def read_warps(
    options, directory: DataDirectory | None, vtln_warp: float, vtln_map: str | None, utt2spk: str | None
) -> Callable[[Item], Item] | None:
    """What gives items the factor `vtln_warp`, or those in `vtln_map` if that is given; None: nothing to give.

    Speakers are those of `utt2spk`, or else of the data directory.
    """
    if vtln_map is None and utt2spk is not None:
        raise KwsError(f"utt2spk={utt2spk}: is for the speakers in vtln_map, which is not given")
    if not hasattr(options, "vtln_low") and (vtln_map is not None or vtln_warp != 1.0):
        raise KwsError("vtln_warp and vtln_map warp mel filters, and these features have none")
    if vtln_map is None:
        return None if vtln_warp == 1.0 else lambda item: item._replace(warp=vtln_warp)
    if utt2spk is None:
        return Warps(vtln_map, (directory and directory.speakers) or {})
    table = read_table(Path(utt2spk), in_order=False)
    return Warps(vtln_map, {key: speaker for key, (speaker, _) in table.items()})


def batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Tasks of a size that is worth sending to a process, and that its memory holds. Parts of one recording that follow
    each other stay together, so that it is decoded once."""
    batch, size, run = [], 0, 0.0
    for item in items:
        seconds = 0.0 if item.end is None else item.end - item.start
        same = bool(batch) and bool(item.at) and batch[-1].path == item.path
        run = run + seconds if same else seconds
        if run > RUN_SECONDS if same else len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size, run = [], 0, seconds
        batch.append(item)
        if not same:
            with contextlib.suppress(OSError):  # which the reader will name
                size += os.stat(item.path).st_size
    if batch:
        yield batch
