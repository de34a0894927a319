"""Speech in which no word to spot is said: folders of recordings of any length."""

import math
import os
from collections.abc import Iterable
from pathlib import Path

from kws import audio
from kws.data.source import SPLITS, UNKNOWN, Clip, hash_split, speaker_of
from kws.errors import AudioError, KwsError, check_list


def check_folders(folders: Iterable[str | Path], key: str) -> list[str]:
    """Paths of what `data.<key>` names."""
    check_list(f"data.{key}", folders)
    return [str(folder) for folder in folders]


def other_speech(folders: Iterable[str], cut_seconds: float = 2.0, long_times: int = 1) -> dict[str, list[Clip]]:
    """Clips of `_unknown_` by split: of every sound file below `folders`, but for folders whose names begin with "_".

    A hash of the speaker (the file's name up to `_nohash_`) or of its path in the folder splits them. A recording that
    is longer than twice `cut_seconds` stands for as many clips as it has such stretches: for training that is the
    whole, from which each is drawn anew every epoch, and `long_times` as often.
    """
    clips = {split: [] for split in SPLITS}
    for folder in folders:
        for path in _below(folder):
            split = hash_split(speaker_of(Path(path).relative_to(folder).as_posix()))
            try:
                count = math.floor(audio.duration(path) / cut_seconds)
            except AudioError:  # named and left out by whoever reads it
                count = 0
            if count < 2:
                clips[split].append(Clip(path, UNKNOWN))
            elif split == "train":
                clips[split] += [Clip(path, UNKNOWN)] * (count * long_times)
            else:
                clips[split] += [Clip(path, UNKNOWN, i * cut_seconds, (i + 1) * cut_seconds) for i in range(count)]
    return clips


def _below(folder: str) -> list[str]:
    """Every sound file below a folder, sorted; folders whose names begin with "_" or "." are left out."""
    if not os.path.isdir(folder):
        raise KwsError(f"{folder}: data.others is not a folder")
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        found += [str(Path(at, name)) for name in sorted(names) if audio.is_sound(name)]
    if not found:
        raise KwsError(f"{folder}: no sound files at any depth")
    return found
