"""What is said in recordings, and which alarms answer it. NumPy alone.

**The matching rule.** An alarm answers a label of its own word from the label's start to `tolerance` after its end,
both included. In the order of time each alarm answers the earliest such label that is not answered yet; a label counts
once. Any other alarm is false. One inside some label's window (a second alarm, or another word's) is *extra*: it is
counted, but not among the false alarms per hour, which are those outside every window, over the hours outside.
"""

import csv
import io
import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws import audio
from kws.errors import AudioError, KwsError
from kws.files import replacing

COLUMNS = ("path", "start", "end", "word")
KIND = "kind"  # a fifth column, which may be missing
BEHIND = 0.1  # seconds that a label may end after its recording: times are rounded
EXTRA, FALSE = -1, -2  # instead of the label that an alarm answers


class Label(NamedTuple):
    """`word` is said from `start` to `end` in seconds."""

    word: str
    start: float
    end: float


class Recording(NamedTuple):
    """A sound file; `kind` says what it is (real, joined, synthetic …), `labels` are sorted and do not overlap."""

    path: str
    kind: str
    labels: list[Label]


def windows(labels: Sequence[Label], tolerance: float, seconds: float = math.inf) -> np.ndarray:
    """The stretches (n, 2) of a recording of `seconds` in which an alarm may answer a label: sorted and apart."""
    merged: list[list[float]] = []
    for label in labels:
        begin, end = min(label.start, seconds), min(label.end + tolerance, seconds)
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return np.array(merged).reshape(-1, 2)


def negative_seconds(labels: Sequence[Label], tolerance: float, seconds: float) -> float:
    """How much of a recording of `seconds` lies outside every label's window."""
    return seconds - float(np.diff(windows(labels, tolerance, seconds)).sum())


def match(labels: Sequence[Label], words: Sequence, times: Sequence[float], tolerance: float) -> np.ndarray:
    """Alarms by their words and times (n,), in the order of time, to the label that each answers (n,): its index,
    or EXTRA, or FALSE. See the rule above."""
    found = np.full(len(times), FALSE)
    stretches, times = windows(labels, tolerance), np.asarray(times, float)
    if not len(stretches):
        return found
    at = np.searchsorted(stretches[:, 0], times, side="right") - 1
    found[(at >= 0) & (times <= stretches[at, 1])] = EXTRA
    starts, deadlines = [label.start for label in labels], [label.end + tolerance for label in labels]
    answered = set()
    for i in np.flatnonzero(found == EXTRA):
        for j in range(bisect_left(deadlines, times[i]), bisect_right(starts, times[i])):
            if labels[j].word == words[i] and j not in answered:
                answered.add(j)
                found[i] = j
                break
    return found


def read_labels(path: str | Path, words: Sequence[str]) -> list[Recording]:
    """Recordings of a csv with the columns `path,start,end,word` and maybe `kind` ("audio" without it).

    Relative paths are taken from the csv's folder. A row without start, end and word names a recording in which
    nothing (more) is said.

    Raises:
        KwsError: naming the line, for a label that cannot be, of no word in `words`, or of a recording that is missing.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise KwsError(f"labels={path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise KwsError(f"labels={path}: not UTF-8 text ({error})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
        there = ",".join(reader.fieldnames or []) or "nothing"
        raise KwsError(f"labels={path}: no column {', '.join(missing)}; expected {','.join(COLUMNS)}, found {there}")
    kinds: dict[str, str] = {}
    lengths: dict[str, float] = {}
    rows: dict[str, list[tuple[Label, int]]] = {}
    for row in reader:
        where = f"labels={path}, line {reader.line_num}"
        values = [row[name] for name in COLUMNS]
        if None in values or not values[0] or None in row:
            raise KwsError(f"{where}: expected {','.join(reader.fieldnames)}")
        file, kind = os.path.normpath(path.parent / values[0]), row.get(KIND) or "audio"
        if kinds.setdefault(file, kind) != kind:
            raise KwsError(f"{where}: {values[0]} is {kind} here and {kinds[file]} above")
        said = rows.setdefault(file, [])
        if file not in lengths:
            try:
                lengths[file] = audio.duration(file)
            except AudioError as error:
                raise KwsError(f"{where}: {error}") from None
        if any(values[1:]):
            said.append((_label(values[1:], lengths[file], words, where), reader.line_num))
    if not rows:
        raise KwsError(f"labels={path}: no recordings")
    for said in rows.values():
        said.sort(key=lambda pair: pair[0].start)
        for (before, line), (after, other) in pairwise(said):
            if after.start < before.end:
                raise KwsError(f"labels={path}: the labels of lines {line} and {other} overlap")
    return [Recording(file, kinds[file], [label for label, _ in said]) for file, said in rows.items()]


def _label(values: list[str], seconds: float, words: Sequence[str], where: str) -> Label:
    try:
        start, end = float(values[0]), float(values[1])
    except ValueError:
        raise KwsError(f"{where}: {values[0]!r} to {values[1]!r} are no times in seconds") from None
    if not 0 <= start < end < math.inf:
        raise KwsError(f"{where}: a label from {start:g} to {end:g} s; expected 0 <= start < end")
    if end > seconds + BEHIND:
        raise KwsError(f"{where}: a label up to {end:g} s, the recording has {seconds:.2f} s")
    if values[2] not in words:
        raise KwsError(f"{where}: {values[2]!r} is no word of the checkpoint, which knows {', '.join(words)}")
    return Label(values[2], start, end)


def write_labels(path: str | Path, recordings: Iterable[Recording]) -> None:
    """Writes what `read_labels` reads, whole or not at all; paths as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, KIND])
    for recording in recordings:
        for word, start, end in recording.labels or [("", "", "")]:
            times = [f"{time:.5f}" if word else "" for time in (start, end)]
            writer.writerow([recording.path, *times, word, recording.kind])
    with replacing(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
