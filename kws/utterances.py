"""What there is to extract features of: the sound files of a folder, in the order of their keys."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from kws import audio

BATCH_FILES, BATCH_BYTES = 32, 8 << 20  # of one task, whichever is reached first


class Item(NamedTuple):
    """A file to do. One that needs no reading to be refused comes with the reason."""

    key: str
    path: str
    reason: str | None = None


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
