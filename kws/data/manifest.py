"""Clips listed in JSONL files, wherever the sound lies."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from kws.config import check_labels
from kws.data.source import SPLITS, Clip, Source, hash_split, speaker_of, split_paths
from kws.errors import KwsError


class Manifest(Source):
    """One JSONL file for each split, or one for all that a hash of the speaker splits (the file's name up to
    `_nohash_`, else its path from the manifest's folder without the suffix).

    Args:
        path: the file for all splits; or else
        train, validation, test: the files of the splits, those that there are.
        noise: background, as a manifest or a folder of recordings; cut by time into splits.
        words, unknown, silence, unknown_share, silence_share: see `Source`.
    """

    def __init__(
        self, path=None, train=None, validation=None, test=None, noise=None,
        words=None, unknown=None, silence=None, unknown_share=None, silence_share=0.1,
    ):  # fmt: skip
        self.paths, self.where = split_paths("path", path, train=train, validation=validation, test=test)
        self.background = noise
        super().__init__(words, unknown, silence, unknown_share, silence_share)

    def listed(self) -> dict[str, list[Clip]]:
        clips = {split: [] for split in SPLITS}
        for split, path in self.paths.items():
            folder = Path(path).parent
            for clip in read_manifest(path):
                at = Path(clip.path)
                name = at.relative_to(folder).as_posix() if at.is_relative_to(folder) else clip.path
                clips[split or hash_split(speaker_of(name))].append(clip)
        return clips

    def recordings(self) -> list[Clip]:
        if self.background is None or os.path.isdir(self.background):
            return super().recordings()
        return read_manifest(self.background)


def read_manifest(path: str | Path) -> list[Clip]:
    """Clips of a JSONL file: one object a line with `path`, `label` and optionally `start`, `end` in seconds.

    Relative paths are taken from the manifest's folder. A file or line that cannot be used is a KwsError.
    """
    path = Path(path)
    clips = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: JSON strings may hold U+2028
    except OSError as error:
        raise KwsError(f"{path}: the manifest cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise KwsError(f"{path}: the manifest is not UTF-8 text ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            start, end = float(row.get("start") or 0.0), row.get("end")
            end = math.inf if end is None else float(end)
            clip = Clip(str(path.parent / row["path"]), row["label"], start, None if end == math.inf else end)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise KwsError(
                f'{path}, line {number}: expected {{"path": …, "label": …, "start": …, "end": …}} ({error!r})'
            ) from None
        if not 0 <= start < end:
            raise KwsError(f"{path}, line {number}: a clip from {start} to {end} s; expected 0 <= start < end")
        check_labels([clip.label], f"{path}, line {number}")
        clips.append(clip)
    return clips


def write_manifest(path: str | Path, clips: Iterable[Clip]) -> None:
    """Writes what `read_manifest` reads: paths inside the manifest's folder relative to it, others absolute."""
    folder = os.path.abspath(Path(path).parent)
    rows = [asdict(clip) for clip in clips]
    for row in rows:
        row["path"] = os.path.abspath(row["path"]).removeprefix(folder.rstrip(os.sep) + os.sep)
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
