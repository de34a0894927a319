"""Kaldi data directories: wav.scp, text, and segments and utt2spk where they are.

https://kaldi-asr.org/doc/data_prep.html
"""

import math
import os
from pathlib import Path

from kws.data.source import SPLITS, Clip, Source, hash_split, split_paths
from kws.errors import KwsError


class Kaldi(Source):
    """One data directory for each split, or one for all that a hash of the speaker splits (by utt2spk, else the
    utterance's name up to `_nohash_`). An utterance's transcript, word or phrase, is its label.

    Args:
        root: the directory for all splits; or else
        train, validation, test: the directories of the splits, those that there are.
        noise: background, a folder of recordings; cut by time into splits.
        words, unknown, silence, unknown_share, silence_share: see `Source`.
    """

    def __init__(
        self, root=None, train=None, validation=None, test=None, noise=None,
        words=None, unknown=None, silence=None, unknown_share=None, silence_share=0.1,
    ):  # fmt: skip
        self.paths, self.where = split_paths("root", root, train=train, validation=validation, test=test)
        self.background = noise
        super().__init__(words, unknown, silence, unknown_share, silence_share)

    def listed(self) -> dict[str, list[Clip]]:
        clips = {split: [] for split in SPLITS}
        for split, path in self.paths.items():
            for clip, speaker in read_directory(path):
                clips[split or hash_split(speaker)].append(clip)
        return clips


def read_table(path: Path) -> dict[str, tuple[str, str]]:
    """A Kaldi table: key to (rest of its line, "file, line n" for errors). Keys must be sorted and unique."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise KwsError(f"{path}: cannot be read ({error.strerror}); a Kaldi data directory holds it") from None
    except UnicodeDecodeError as error:
        raise KwsError(f"{path}: is not UTF-8 text ({error})") from None
    table, last = {}, ""
    for number, line in enumerate(lines, 1):
        key, rest = (*line.split(None, 1), "", "")[:2]
        at = f"{path}, line {number}"
        if not key:
            raise KwsError(f"{at}: the line is empty" if number > 1 or len(lines) > 1 else f"{path}: the file is empty")
        if key in table:
            raise KwsError(f"{at}: {key} is there twice")
        if key < last:
            raise KwsError(f"{at}: {key} comes after {last}; Kaldi's tables are sorted: LC_ALL=C sort {path.name}")
        table[key], last = (rest.strip(), at), key
    return table


def read_directory(path: str | Path) -> list[tuple[Clip, str]]:
    """The utterances of a data directory with their speakers, in its order.

    Relative paths in wav.scp are taken from the working directory, as Kaldi does, or else from the data directory.
    """
    path = Path(path)
    if not path.is_dir():
        raise KwsError(f"{path}: is not a Kaldi data directory (no such folder)")
    sounds = {}
    for key, (sound, at) in read_table(path / "wav.scp").items():
        if sound.endswith("|"):
            raise KwsError(f"{at}: {key} is a pipe: pipes run programs; not run here: write its sound to a file")
        if not sound:
            raise KwsError(f"{at}: {key} has no path")
        sounds[key] = sound
    relative = next((sound for sound in sounds.values() if not os.path.isabs(sound)), "")
    base = "" if os.path.exists(relative) or not (path / relative).exists() else str(path)

    segments = path / "segments"
    if segments.exists():
        listing, spans = segments, {key: _segment(key, *row, sounds) for key, row in read_table(segments).items()}
    else:
        listing, spans = path / "wav.scp", {key: (sound, 0.0, None) for key, sound in sounds.items()}
    texts = read_table(path / "text")
    speakers = read_table(path / "utt2spk") if (path / "utt2spk").exists() else None
    for key, (_, at) in texts.items():
        if key not in spans:
            raise KwsError(f"{at}: {key} is not in {listing}")
        if speakers is not None and not speakers.get(key, ("",))[0]:
            raise KwsError(f"{at}: {key} has no speaker in {path / 'utt2spk'}")
    if untold := [key for key in spans if key not in texts]:
        raise KwsError(f"{path / 'text'}: no line for {untold[0]} of {listing} ({len(untold)} in all)")
    utterances = []
    for key, (text, _) in texts.items():
        sound, start, end = spans[key]
        speaker = key.partition("_nohash_")[0] if speakers is None else speakers[key][0]
        utterances.append((Clip(os.path.join(base, sound), " ".join(text.split()), start, end), speaker))
    return utterances


def _segment(key: str, row: str, at: str, sounds: dict[str, str]) -> tuple[str, float, float | None]:
    """(sound, start, end) of a line of segments; an end of -1 is the recording's, as in Kaldi."""
    try:
        recording, start, end = row.split()
        start, end = float(start), math.inf if float(end) == -1 else float(end)
    except ValueError:
        raise KwsError(f"{at}: expected '{key} <recording> <start> <end>' in seconds, found '{key} {row}'") from None
    if recording not in sounds:
        raise KwsError(f"{at}: {key} is of recording {recording}, which is not in wav.scp")
    if not 0 <= start < end:
        raise KwsError(f"{at}: {key} is from {start} to {end} s; expected 0 <= start < end, or an end of -1")
    return sounds[recording], start, None if end == math.inf else end
