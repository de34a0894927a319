"""Takes of one's own, as kws.record makes them, beside words that are synthesised."""

import re
import zlib
from itertools import cycle, islice
from pathlib import Path

from kws.data.source import NOISE, UNKNOWN, Clip, sound_files, subfolders
from kws.errors import KwsError

VALIDATES = 5  # every so manieth take of a speaker; mostly there is one, so that speakers cannot be split


class Recordings:
    """A folder of takes: folders of some of `words`, of `_unknown_` or other words, of `_background_noise_`.

    Raises:
        KwsError: none of the words is there.
    """

    def __init__(self, root: str | Path, words: list[str]):
        self.root, self.words = Path(root), words
        self.found = [name for name in subfolders(root) if not name.startswith("_") or name == UNKNOWN]
        if not set(self.found) & set(words):
            raise KwsError(f"data.recordings={root}: expected a folder with a folder of {words[0]!r} in it")
        self.background = self.root / NOISE if (self.root / NOISE).is_dir() else None

    def clips(self, split: str, labels: list[str], count: int) -> list[Clip]:
        """Training clips of each folder, repeated until they are `count`; for validation its takes as they are; for the
        test none."""
        out = []
        for name in self.found:
            label = name if name in self.words else UNKNOWN
            names = sorted(sound_files(self.root / name), key=lambda name: (len(name), name))  # 9 before 10
            takes = [Clip(str(self.root / name / file), label) for file in names] if label in labels else []
            if split == "train":
                takes = [take for take in takes if not _validates(take)]
                out += islice(cycle(takes), max(count, len(takes)))
            elif split == "validation":
                out += filter(_validates, takes)
        return out


def _validates(take: Clip) -> bool:
    """By the take's own number, or by a hash of its name: more takes move none."""
    name = Path(take.path).stem
    number = re.search(r"\d{1,9}$", name)
    return (int(number[0]) if number else zlib.crc32(name.encode())) % VALIDATES == VALIDATES - 1
