"""What a data set is to the rest of kws: labelled clips and background noise, for three splits.

A source is one class with one yaml under `conf/data`. It lists clips; it reads no sound. No torch here.
"""

import functools
import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kws import audio
from kws.config import check_labels
from kws.errors import KwsError, check_list, check_number, check_switches

SPLITS = ("train", "validation", "test")
UNKNOWN, SILENCE = "_unknown_", "_silence_"
NOISE = "_background_noise_"  # the folder of recordings of background, beside those of words
SILENCE_SECONDS = 1.0  # length of a clip of silence that is not for training


@dataclass(frozen=True)
class Clip:
    """A labelled stretch of a sound file: `start` to `end` in seconds, to the file's end where `end` is None. `text` is
    what is said in it, where that is known and is not the label."""

    path: str
    label: str
    start: float = 0.0
    end: float | None = None
    text: str | None = None

    @property
    def said(self) -> str | None:
        return (self.label or None) if self.text is None and not self.label.startswith("_") else self.text


class Source:
    """Base of every data source.

    A source that reads a corpus says what is spoken in it (`listed`) and where background is (`background`); this
    class turns that into the labels of the task. One that makes its clips may override `clips` and `noise` instead.

    Args:
        words: the words to spot, in the order of the labels; None takes every word listed, in order of appearance.
        unknown, silence: whether the labels also hold `_unknown_` (other words) and `_silence_` (background); None:
            where there are clips for it.
        unknown_share: clips of `_unknown_` in a split, as a share of its clips of words; None takes all there are.
        silence_share: clips of `_silence_` in a split, as a share of its clips of words.
    """

    background: str | Path | None = None  # a folder of recordings
    where = "the source"  # what was read and how it was split, for errors

    def __init__(
        self,
        words: Iterable[str] | None,
        unknown: bool | None = True,
        silence: bool | None = True,
        unknown_share: float | None = None,
        silence_share: float = 0.1,
    ):
        check_list("data.words", words)
        for key, share in (("unknown_share", unknown_share), ("silence_share", silence_share)):
            if share is not None or key == "silence_share":
                check_number(f"data.{key}", share, lambda s: s >= 0, "a share of the clips of words, 0 or more")
        self.unknown_share, self.silence_share = unknown_share, silence_share
        self._noise: dict[str, list[Clip]] = {}
        if words is None:
            words = [word for word in self.spoken if word and not word.startswith("_")]
            if not words:
                raise KwsError(f"no words found: {self._sought()}")
        self.words = check_labels(words, "data.words")
        if not self.words:
            raise KwsError("data.words is empty: name at least one word")
        if reserved := {UNKNOWN, SILENCE, NOISE} & set(self.words):
            raise KwsError(f"data.words: {sorted(reserved)} are no words: data.unknown and data.silence add classes")
        unknown = self._has_others() if unknown is None else unknown
        silence = self._has_silence() if silence is None else silence
        check_switches(**{"data.unknown": unknown, "data.silence": silence})
        self.labels = self.words + [UNKNOWN] * unknown + [SILENCE] * silence

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        """Makes the clips of these splits exist (download, synthesise). Called by one process, before the rest."""

    def clips(self, split: str) -> list[Clip]:
        """Every clip of a split, each labelled with one of `labels`, in an order that never changes."""
        self._check(split)
        words, listed = set(self.words), self._listed[split]
        chosen = [clip for clip in listed if clip.label in words]
        n_words = len(chosen)
        if UNKNOWN in self.labels:
            others = [clip for clip in listed if clip.label not in words and clip.label != SILENCE]
            if self.unknown_share is not None:
                others = _subset(others, _count(self.unknown_share, n_words))
            chosen += [Clip(clip.path, UNKNOWN, clip.start, clip.end, clip.said) for clip in others]
        if SILENCE in self.labels:
            silent = [clip for clip in listed if clip.label == SILENCE]
            count = _count(self.silence_share, n_words) - len(silent)
            chosen += silent + silence_clips(self.noise(split) if count > 0 else [], count, SILENCE_SECONDS, split)
        if not chosen:
            raise KwsError(f"there are no {split} clips: {self._sought()}")
        return chosen

    def noise(self, split: str) -> list[Clip]:
        """Recordings of background of a split, to add to clips; empty where the source has none."""
        if split not in self._noise:
            self._noise[split] = [split_by_time(c.path, split, start=c.start, end=c.end) for c in self.recordings()]
        return list(self._noise[split])

    def recordings(self) -> list[Clip]:
        """Recordings of background, each of which is cut by time into the splits."""
        return [] if self.background is None else background_in(self.background)

    def listed(self) -> dict[str, list[Clip]]:
        """For each split all that the corpus holds, labelled with the words spoken, whether or not in `words`."""
        raise NotImplementedError(f"{type(self).__name__} lists no clips")

    @functools.cached_property
    def _listed(self) -> dict[str, list[Clip]]:
        return self.listed()

    @functools.cached_property
    def spoken(self) -> dict[str, None]:
        """All that is spoken in any split, in order of first appearance."""
        return dict.fromkeys(clip.label for split in SPLITS for clip in self._listed[split])

    def _has_others(self) -> bool:
        return bool(self.spoken.keys() - {*self.words, SILENCE})

    def _has_silence(self) -> bool:
        return SILENCE in self.spoken or bool(self.noise("train"))

    def _check(self, split: str) -> None:
        """Refuses an unknown split, and labels that no clip could ever teach."""
        if split not in SPLITS:
            raise KwsError(f"no split is called {split!r}: choose one of {', '.join(SPLITS)}")
        if missing := [word for word in self.words if word not in self.spoken]:
            raise KwsError(f"data.words: no clips of {', '.join(missing)}; there are of {_brief(self.spoken)}")
        if UNKNOWN in self.labels and self.unknown_share != 0 and not self._has_others():
            raise KwsError("data.unknown=true, but there are clips of data.words only: say data.unknown=false")
        if SILENCE in self.labels and self.silence_share > 0 and not self._has_silence():
            raise KwsError("data.silence=true, but there are no recordings of background: say data.silence=false")

    def _sought(self) -> str:
        counts = ", ".join(f"{len(self._listed[split])} {split}" for split in SPLITS)
        hint = "; all of a speaker are in one, and data=synthetic data.recordings= takes in those of one person"
        return f"{self.where} holds {counts} clips of any word{hint * ('by a hash' in self.where)}"


def _brief(names: Iterable[str], most: int = 50) -> str:
    names = [name or "''" for name in names]
    return (", ".join(names[:most]) or "nothing") + f" and {len(names) - most} more" * (len(names) > most)


def _count(share: float, n_words: int) -> int:
    return math.ceil(round(share * n_words, 6))  # rounded: 0.1 * 30 may lie a hair above 3


def _subset(clips: list[Clip], count: int) -> list[Clip]:
    """`count` of the clips, the same ones wherever the corpus lies and in whatever encoding, in their order."""

    def draw(index: int) -> bytes:
        folder, name = os.path.split(clips[index].path)
        key = f"{os.path.basename(folder)}/{os.path.splitext(name)[0]}@{clips[index].start}"
        return hashlib.sha1(key.encode()).digest()

    if count >= len(clips):
        return clips
    return [clips[index] for index in sorted(sorted(range(len(clips)), key=draw)[:count])]


def sound_files(folder: str | Path) -> list[str]:
    """Names of a folder's sound files, by suffix and sorted; hidden files are left out."""
    return sorted(filter(audio.is_sound, os.listdir(folder)))


def background_in(folder: str | Path) -> list[Clip]:
    """The recordings of background of a folder."""
    if not os.path.isdir(folder):
        raise KwsError(f"{folder}: expected a folder of recordings of background; there is none")
    if not (names := sound_files(folder)):
        raise KwsError(f"{folder}: no sound files; they end in {', '.join(sorted(audio.SUFFIXES))}")
    return [Clip(os.path.join(folder, name), SILENCE) for name in names]


def subfolders(folder: str | Path) -> list[str]:
    """Names of a folder's folders, sorted; hidden ones are left out, and there are none of what is no folder."""
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def split_paths(key: str, whole: str | None, **parts: str | None) -> tuple[dict[str, str], str]:
    """What a source is to read: the paths of the splits by name, or one path under "" that a hash is to split; and
    the same in words, for errors."""
    given = {split: str(path) for split, path in parts.items() if path is not None}
    if bool(given) == (whole is not None):
        raise KwsError(f"give either data.{key} or some of {', '.join(f'data.{split}' for split in parts)}")
    if not given:
        return {"": str(whole)}, f"{whole}, split by a hash of the speaker,"
    return given, ", ".join(f"{path} ({split})" for split, path in given.items())


def speaker_of(name: str) -> str:
    """What `hash_split` is given for a file: its name up to `_nohash_`, or all of `name` without the suffix."""
    stem = os.path.splitext(name)[0]
    speaker, nohash, _ = os.path.basename(stem).partition("_nohash_")
    return speaker if nohash else stem


def hash_split(key: str, validation: float = 10.0, testing: float = 10.0) -> str:
    """The split of a clip by the SHA-1 of its speaker, as Speech Commands defines it (percentages).

    Warden, "Speech Commands", section 7: the same speaker falls into the same split as the corpus grows.
    """
    largest = 2**27 - 1
    percentage = (int(hashlib.sha1(key.encode()).hexdigest(), 16) % (largest + 1)) * (100.0 / largest)
    if percentage < validation:
        return "validation"
    return "test" if percentage < validation + testing else "train"


def split_by_time(
    path: str | Path,
    split: str,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
    start: float = 0.0,
    end: float | None = None,
) -> Clip:
    """The part of a long recording (or of its stretch `start` to `end`) that belongs to a split: the first 80 %
    trains, the next 10 % validates."""
    seconds = (audio.duration(path) if end is None else end) - start
    if seconds <= 0:
        raise KwsError(f"{path}: a stretch of background from {start} s, but the recording ends before")
    at = SPLITS.index(split)
    return Clip(str(path), SILENCE, start + seconds * sum(shares[:at]), start + seconds * sum(shares[: at + 1]))


def silence_clips(noise: list[Clip], count: int, seconds: float, split: str) -> list[Clip]:
    """`count` clips of `_silence_` from background recordings.

    For training each is a whole recording, of which a new stretch is drawn every epoch; otherwise evenly spaced cuts
    of `seconds`.
    """
    if not noise or count <= 0:
        return []
    if split == "train":
        return [noise[i % len(noise)] for i in range(count)]
    per_recording = math.ceil(count / len(noise))
    cuts = []
    for i in range(per_recording):  # recordings by turns, so that the first `count` cuts hold some of each
        for recording in noise:
            room = max(recording.end - recording.start - seconds, 0.0)
            start = recording.start + i * room / max(per_recording - 1, 1)
            cuts.append(Clip(recording.path, SILENCE, start, min(start + seconds, recording.end)))
    return cuts[:count]
