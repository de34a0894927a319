"""What a data set is to the rest of kws: labelled clips and background noise, for three splits.

A source is one class with one yaml under `conf/data`. It lists clips; it reads no sound. No torch here.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from kws import audio
from kws.config import KwsError, check_labels

SPLITS = ("train", "validation", "test")
UNKNOWN, SILENCE = "_unknown_", "_silence_"


@dataclass(frozen=True)
class Clip:
    """A labelled stretch of a sound file: `start` to `end` in seconds, to the file's end where `end` is None."""

    path: str
    label: str
    start: float = 0.0
    end: float | None = None


class Source:
    """Base of every data source.

    Args:
        words: the words to spot, in the order of the labels.
        unknown, silence: whether the labels also hold `_unknown_` (other words) and `_silence_` (background).
    """

    def __init__(self, words: Iterable[str], unknown: bool = True, silence: bool = True):
        self.words = check_labels(words, "data.words")
        if not self.words:
            raise KwsError("data.words is empty: name at least one word")
        if reserved := {UNKNOWN, SILENCE} & set(self.words):
            raise KwsError(f"data.words: {sorted(reserved)} are added by data.unknown and data.silence")
        self.labels = self.words + [UNKNOWN] * bool(unknown) + [SILENCE] * bool(silence)

    def prepare(self) -> None:
        """Makes the clips exist (download, synthesise). Called once, by one process, before the rest."""

    def clips(self, split: str) -> list[Clip]:
        """Every clip of a split, each labelled with one of `labels`, in an order that never changes."""
        raise NotImplementedError(f"{type(self).__name__} lists no clips")

    def noise(self, split: str) -> list[Clip]:
        """Recordings of background of a split, to add to clips; empty where the source has none."""
        return []


def hash_split(key: str, validation: float = 10.0, testing: float = 10.0) -> str:
    """The split of a clip by the SHA-1 of its speaker, as Speech Commands defines it (percentages).

    Warden, "Speech Commands", section 7: the same speaker falls into the same split as the corpus grows.
    """
    largest = 2**27 - 1
    percentage = (int(hashlib.sha1(key.encode()).hexdigest(), 16) % (largest + 1)) * (100.0 / largest)
    if percentage < validation:
        return "validation"
    return "test" if percentage < validation + testing else "train"


def split_by_time(path: str | Path, split: str, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Clip:
    """The part of a long recording that belongs to a split: the first 80 % trains, the next 10 % validates."""
    seconds = audio.duration(path)
    at = SPLITS.index(split)
    return Clip(str(path), SILENCE, seconds * sum(shares[:at]), seconds * sum(shares[: at + 1]))


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
    for recording in noise:
        room = max(recording.end - recording.start - seconds, 0.0)
        step = room / max(per_recording - 1, 1)
        starts = [recording.start + i * step for i in range(per_recording)]
        cuts += [Clip(recording.path, SILENCE, at, min(at + seconds, recording.end)) for at in starts]
    return cuts[:count]


def read_manifest(path: str | Path) -> list[Clip]:
    """Clips of a JSONL file: one object a line with `path`, `label` and optionally `start`, `end` in seconds.

    Relative paths are taken from the manifest's folder.
    """
    path = Path(path)
    clips = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise KwsError(f"{path}: the manifest cannot be read ({error.strerror})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            start, end = float(row.get("start") or 0.0), row.get("end")
            clip = Clip(str(path.parent / row["path"]), row["label"], start, None if end is None else float(end))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise KwsError(
                f'{path}, line {number}: expected {{"path": …, "label": …, "start": …, "end": …}} ({error!r})'
            ) from None
        check_labels([clip.label], f"{path}, line {number}")
        clips.append(clip)
    return clips


def write_manifest(path: str | Path, clips: Iterable[Clip]) -> None:
    Path(path).write_text("".join(json.dumps(asdict(clip)) + "\n" for clip in clips), encoding="utf-8")
