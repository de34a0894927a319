"""Kaldi data directories, read, checked and written: wav.scp, segments, utt2spk, spk2utt and text.

What is refused here, utils/validate_data_dir.sh refuses, and what is written it accepts.
https://kaldi-asr.org/doc/data_prep.html
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kws.audio import Pipe
from kws.errors import KwsError
from kws.files import replacing

REPAIR = "utils/fix_data_dir.sh leaves out what not all files have"
# other tables of a directory by what their keys are; copied as they stand
OTHERS = {
    "utterances": ("utt2uniq", "utt2lang", "utt2warp"),
    "speakers": ("spk2gender", "spk2warp"),
    "recordings": ("reco2file_and_channel", "reco2dur"),
}
LONGEST = 1e9  # seconds of a recording
_ILLEGAL = {"<s>", "</s>", "#0"}  # Kaldi's own symbols, which no transcript may hold


class Utterance(NamedTuple):
    """A recording, or the part of one from `start` to `end` in seconds (None: its end), of a channel (None: not said).

    `at` is the line that says so, for errors.
    """

    key: str
    recording: str
    sound: str
    start: float = 0.0
    end: float | None = None
    channel: int | None = None
    at: str = ""


class DataDirectory:
    """A data directory, all of whose files agree.

    Args:
        path: relative paths in its wav.scp are taken from the working directory, as Kaldi does, or else from `path`.
        allow_pipes: take lines of wav.scp that are programs, as `kws.audio.Pipe`; they are refused without.

    Attributes:
        recordings: key to the path of its sound, or to its Pipe.
        utterances: key to `Utterance`; those of segments where that is there, else the recordings.
        texts: key to transcript, or None.
        speakers: key to speaker, or None.
        warnings: what is legal, and probably not meant.

    Raises:
        KwsError: naming the file and the line, what was found and what was expected.
    """

    def __init__(self, path: str | Path, allow_pipes: bool = False):
        self.path, self.warnings = Path(path), []
        if not self.path.is_dir():
            raise KwsError(f"{path}: is not a Kaldi data directory (no such folder)")
        lines = read_table(self.path / "wav.scp")
        self.recordings = self._recordings(lines, allow_pipes)
        self.listing, self._segments = self.path / "segments", None
        if self.listing.exists():
            self._segments = read_table(self.listing)
            self.utterances = {key: self._segment(key, *row) for key, row in self._segments.items()}
        else:
            self.listing = self.path / "wav.scp"
            self.utterances = {key: Utterance(key, key, self.recordings[key], at=at) for key, (_, at) in lines.items()}
        self.texts, self.speakers = self._texts(), self._speakers()
        names = [name for names in OTHERS.values() for name in names if (self.path / name).exists()]
        self._others = {name: read_table(self.path / name) for name in names}

    def _recordings(self, lines: dict[str, tuple[str, str]], allow_pipes: bool) -> dict[str, str]:
        sounds = {}
        for key, (sound, at) in lines.items():
            if not sound:
                raise KwsError(f"{at}: {key} has no path")
            if sound.endswith("|"):
                if not allow_pipes:
                    raise KwsError(
                        f"{at}: {key} is a pipe: pipes run programs; not run without allow_pipes=true (in training "
                        f"data.allow_pipes=true); or write its sound to a file"
                    )
                sound = Pipe(sound)
            elif re.search(r"\.ark:\d+$", sound):
                raise KwsError(f"{at}: {key} is in an archive, which is not read: wav-copy writes its sound to a file")
            sounds[key] = sound
        paths = {key: sound for key, sound in sounds.items() if not isinstance(sound, Pipe)}
        relative = next((path for path in paths.values() if not os.path.isabs(path)), None)
        if relative and not os.path.exists(relative) and (self.path / relative).exists():
            sounds |= {key: os.path.join(self.path, path) for key, path in paths.items()}
        return sounds

    def _segment(self, key: str, row: str, at: str) -> Utterance:
        """A line of segments; an end of -1 is the recording's. Kaldi: extract-segments.cc."""
        try:
            recording, start, end, *channel = row.split()
            start, end = float(start), math.inf if float(end) == -1 else float(end)
            channel = int(*channel) if channel else None
        except (ValueError, TypeError):
            raise KwsError(
                f"{at}: expected '{key} <recording> <start> <end>' in seconds, found '{key} {row}'"
            ) from None
        if recording not in self.recordings:
            raise KwsError(f"{at}: {key} is of recording {recording}, which is not in wav.scp")
        if not 0 <= start < end or LONGEST < max(start, end) < math.inf or (channel or 0) < 0:
            raise KwsError(f"{at}: {key} is from {start} to {end} s; expected 0 <= start < end, or an end of -1")
        end = None if end == math.inf else end
        return Utterance(key, recording, self.recordings[recording], start, end, channel, at)

    def _texts(self) -> dict[str, str] | None:
        path = self.path / "text"
        if not path.exists():
            return None
        table = self._same_keys(read_table(path), path)
        for key, (text, at) in table.items():
            if space := next((letter for letter in text if letter.isspace() and letter not in " \t"), None):
                raise KwsError(f"{at}: {key} holds white space that Kaldi refuses, U+{ord(space):04X}: write a space")
            if illegal := _ILLEGAL & set(text.split()):
                raise KwsError(f"{at}: {key} holds {', '.join(illegal)}, a symbol of Kaldi's own")
        if empty := [key for key, (text, _) in table.items() if not text]:
            self.warnings.append(f"{path}: {len(empty)} utterances have no words, {empty[0]} is the first")
        return {key: text for key, (text, _) in table.items()}

    def _speakers(self) -> dict[str, str] | None:
        """utt2spk, or spk2utt turned round; where both are, they say the same."""
        utt2spk, spk2utt = self.path / "utt2spk", self.path / "spk2utt"
        turned = self._turned(spk2utt) if spk2utt.exists() else None
        if not utt2spk.exists():
            return turned and {key: turned[key][0] for key in self.utterances}
        speakers = {}
        for key, (speaker, at) in self._same_keys(read_table(utt2spk), utt2spk).items():
            if len(speaker.split()) != 1:
                raise KwsError(f"{at}: expected '{key} <speaker>', found '{key} {speaker}'")
            if turned and turned[key][0] != speaker:
                raise KwsError(
                    f"{at}: {key} is of {speaker}, but in {turned[key][1]} of {turned[key][0]}; "
                    "utils/utt2spk_to_spk2utt.pl makes a spk2utt that agrees"
                )
            speakers[key] = speaker
        order = list(speakers.values())
        if order != sorted(order):
            self.warnings.append(
                f"{utt2spk}: sorted by utterance, but not by speaker too, as Kaldi wants it: let the names of "
                "utterances begin with their speaker's"
            )
        return speakers

    def _turned(self, path: Path) -> dict[str, tuple[str, str]]:
        """spk2utt as a table of utterances."""
        table = {}
        for speaker, (utterances, at) in read_table(path).items():
            if not utterances:
                raise KwsError(f"{at}: expected '{speaker} <utterance> ...', found no utterance")
            for key in utterances.split():
                if key in table:
                    raise KwsError(f"{at}: {key} is there twice, the first time in {table[key][1]}")
                table[key] = speaker, at
        return self._same_keys(table, path)

    def _same_keys(self, table: dict[str, tuple[str, str]], path: Path) -> dict[str, tuple[str, str]]:
        """The table, whose keys must be the utterances'."""
        for key, (_, at) in table.items():
            if key not in self.utterances:
                raise KwsError(f"{at}: {key} is not in {self.listing}; {REPAIR}")
        if missing := [key for key in self.utterances if key not in table]:
            raise KwsError(f"{path}: no line for {missing[0]} of {self.listing} ({len(missing)} in all); {REPAIR}")
        return table

    def speaker_of(self, key: str) -> str:
        """An utterance's speaker; where there are none each is its own, as Kaldi advises."""
        return key if self.speakers is None else self.speakers[key]

    def write(self, folder: str | Path, seconds: Mapping[str, float]) -> None:
        """Writes the directory's tables into `folder` for some of its utterances, so that they agree again.

        utt2spk and spk2utt are always there, and segments end where they do: validate_data_dir.sh refuses a -1.

        Args:
            seconds: the utterances, and how long each is.
        """
        kept = [self.utterances[key] for key in self.utterances if key in seconds]
        speakers: dict[str, list[str]] = {}
        for utterance in kept:
            speakers.setdefault(self.speaker_of(utterance.key), []).append(utterance.key)
        recordings = {utterance.recording for utterance in kept}
        tables = {
            "utt2spk": ((utterance.key, self.speaker_of(utterance.key)) for utterance in kept),
            "spk2utt": ((speaker, " ".join(speakers[speaker])) for speaker in sorted(speakers)),
            "wav.scp": ((key, sound) for key, sound in self.recordings.items() if key in recordings),
        }
        if self.texts is not None:
            tables["text"] = ((utterance.key, self.texts[utterance.key]) for utterance in kept)
        if self._segments is not None:
            tables["segments"] = ((u.key, self._ended(u, seconds[u.key])) for u in kept)
        for names, of in zip(OTHERS.values(), (seconds, speakers, recordings), strict=True):
            for name in self._others.keys() & set(names):
                tables[name] = [(key, rest) for key, (rest, _) in self._others[name].items() if key in of]
        for name, rows in tables.items():
            write_table(Path(folder, name), rows)

    def _ended(self, utterance: Utterance, seconds: float) -> str:
        """The line of segments behind the key."""
        row = self._segments[utterance.key][0]
        if utterance.end is not None:
            return row
        recording, start, _, *channel = row.split()
        return " ".join((recording, start, f"{round(utterance.start + seconds, 6)}", *channel))


def read_table(path: Path, in_order: bool = True) -> dict[str, tuple[str, str]]:
    """A Kaldi table: key to (rest of its line, "file, line n" for errors).

    Args:
        in_order: refuse one that is not sorted.

    Raises:
        KwsError: it cannot be read, is empty, no UTF-8, not sorted, has a key twice, an empty line or ends of lines as
            on Windows.
    """
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise KwsError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise KwsError(f"{path}, line {number}: is not UTF-8 text ({error})") from None
    table, last = {}, ""
    for number, line in enumerate(lines, 1):
        key, rest = (*re.split(r"[ \t]+", line.strip(" \t"), maxsplit=1), "")[:2]
        at = f"{path}, line {number}"
        if line.endswith("\r"):
            raise KwsError(f"{at}: ends in CR LF, as on Windows: sed -i 's/\\r$//' {path.name}")
        if not key:
            raise KwsError(f"{at}: the line is empty" if number > 1 or len(lines) > 1 else f"{path}: the file is empty")
        if key in table:
            raise KwsError(f"{at}: {key} is there twice")
        if key.split() != [key]:  # which would be several words to some of Kaldi's tools
            raise KwsError(f"{at}: {key!r} cannot be a key: it holds white space")
        if in_order and key < last:
            raise KwsError(f"{at}: {key} comes after {last}; Kaldi's tables are sorted: LC_ALL=C sort {path.name}")
        table[key], last = (rest, at), key
    return table


def write_table(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Writes what `read_table` reads, all or nothing."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{key} {rest}".rstrip(" ") + "\n" for key, rest in rows)
