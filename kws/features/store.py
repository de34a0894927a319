"""Features on disk that can be gone on with after a stop at any byte: tables, and the folder around one. NumPy alone.

A table's data is written before the line of its index that points to it. Opening it again drops what no whole line
points to, so that the next append goes on as if nothing had happened.
"""

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.config import differences_between
from kws.errors import KwsError
from kws.features.kaldi_io import matrix_bytes, write_matrix
from kws.files import locked, replacing


def whole_lines(path: str | Path) -> Iterator[bytes]:
    """The lines of a file, but for a last one without an end."""
    with open(path, "rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


class _Whole(io.FileIO):
    """A file without a buffer, to which all that is given is written, or an error is raised."""

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        left = view.cast("B") if view.nbytes else b""
        while left:  # the system may take less than it is given
            left = left[super().write(left) :]
        return view.nbytes


class Row(NamedTuple):
    """Of an utterance: its key, frames (n, dim), and how many seconds it lasts."""

    key: str
    frames: np.ndarray
    seconds: float


class _Table:
    """Files in a folder that matrices (rows, dim) are appended to.

    Args:
        compress: how `kws.features.kaldi_io.write_matrix` compresses them; None: not.

    Attributes:
        keys: of the matrices that were there.

    Raises:
        ValueError: the files are no such table.
    """

    NAMES: tuple[str, ...]  # the data first, the index last

    def __init__(self, folder: str | Path, dim: int, compress: str | None = None):
        self.paths, self.dim, self.compress = [Path(folder, name) for name in self.NAMES], dim, compress
        self.keys: set[str] = set()
        self._take_sorted()
        filled = self.paths[-1].exists() and self.paths[-1].stat().st_size
        if filled and (missing := [path for path in self.paths if not path.exists()]):
            raise ValueError(f"{missing[0]} is gone, which belongs to {self.paths[-1].name}")
        for path in self.paths:
            path.touch()
        try:
            sizes = self._recover(self.paths[0].stat().st_size)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.paths[-1]}: not written by this command, or damaged ({error})") from None
        self.files = [_Whole(path, "r+") for path in self.paths]
        for file, size in zip(self.files, sizes, strict=True):
            file.truncate(size)
            file.seek(size)

    def _recover(self, size: int) -> list[int]:
        """Fills `keys` from the index; returns the sizes that the files should have, of `size` bytes of data."""
        raise NotImplementedError

    def add(self, rows: list[Row]) -> None:
        """Adds matrices under their keys: all, or none where the disk is full and raises an OSError."""
        sizes = [file.tell() for file in self.files]
        try:
            self.append(rows)
        except OSError:
            for file, size in zip(self.files, sizes, strict=True):
                file.truncate(size)
                file.seek(size)
            raise

    def append(self, rows: list[Row]) -> None:
        """Writes the data, then the index."""
        raise NotImplementedError

    def first_key(self) -> str | None:
        """The key that the index begins with; None where it is empty."""
        return next((os.fsdecode(self._key(line)) for line in whole_lines(self.paths[-1])), None)

    def sort(self) -> bool:
        """Puts the index into the C locale's order of keys and closes the table; whether it was in another.

        A stop at any byte leaves it in one order or the other.
        """
        self.close()
        indices = [list(whole_lines(path)) for path in self.paths[1:]]
        keys = [self._key(line) for line in indices[-1]]
        if keys == (ordered := sorted(keys)):
            return False
        place = {key: i for i, key in enumerate(keys)}
        for path, lines in zip(self.paths[1:], indices, strict=True):
            with replacing(_sorted(path)) as part:  # that of the last file says that all are there
                part.write_bytes(b"".join(lines[place[key]] for key in ordered))
        self._take_sorted()
        return True

    def _take_sorted(self) -> None:
        """Ends what a stop interrupted in `sort`, if it came far enough."""
        whole = _sorted(self.paths[-1]).exists()
        for path in self.paths[1:]:
            if whole and _sorted(path).exists():
                _sorted(path).replace(path)
            _sorted(path).unlink(missing_ok=True)

    @staticmethod
    def _key(line: bytes) -> bytes:
        """The key of a line of the last index."""
        return line.split(b" ", 1)[0]

    def close(self) -> None:
        for file in self.files:
            file.close()


def _sorted(path: Path) -> Path:
    return path.with_name(f"{path.name}.sorted")


class ArkTable(_Table):
    """feats.ark, feats.scp, utt2num_frames and utt2dur (seconds), as Kaldi's steps/make_fbank.sh leaves them."""

    NAMES = ("feats.ark", "utt2num_frames", "utt2dur", "feats.scp")

    def _recover(self, size: int) -> list[int]:
        ends = [0, 0, 0, 0]
        for counted, lasts, line in zip(*map(whole_lines, self.paths[1:]), strict=False):
            key, frames = counted.split()
            archive, _, offset = line.removeprefix(key + b" ").rpartition(b":")
            if archive != os.fsencode(self.paths[0]):
                raise ValueError(f"it points to {os.fsdecode(archive)}; put the folder back where it was")
            end = int(offset) + matrix_bytes(int(frames), self.dim, self.compress)
            if end > size:
                break
            self.keys.add(os.fsdecode(key))
            ends = [max(end, ends[0]), *(n + len(new) for n, new in zip(ends[1:], (counted, lasts, line), strict=True))]
        return ends

    def append(self, rows: list[Row]) -> None:
        counted = lasts = lines = ""
        for key, frames, seconds in rows:
            offset = write_matrix(self.files[0], key, frames, compress=self.compress)
            counted += f"{key} {len(frames)}\n"
            lasts += f"{key} {round(seconds, 6)}\n"
            lines += f"{key} {self.paths[0]}:{offset}\n"
        for file, text in zip(self.files[1:], (counted, lasts, lines), strict=True):
            file.write(os.fsencode(text))


class NpyTable(_Table):
    """feats.npy (total frames, dim) float32, and utts.jsonl with every utterance's key, first row, frames, seconds."""

    NAMES = ("feats.npy", "utts.jsonl")

    def __init__(self, folder: str | Path, dim: int, compress: str | None = None):
        super().__init__(folder, dim, compress)
        self._write_header()

    def _recover(self, size: int) -> list[int]:
        self.rows, index, start = 0, 0, len(self._header(0))
        for line in whole_lines(self.paths[1]):
            row = json.loads(line)
            rows = row["start"] + row["frames"]
            if start + 4 * rows * self.dim > size:
                break
            self.keys.add(row["key"])
            self.rows, index = max(rows, self.rows), index + len(line)
        return [start + 4 * self.rows * self.dim, index]

    def _header(self, rows: int) -> bytes:
        """As long for any number of rows: NumPy leaves room for them to grow."""
        file = io.BytesIO()
        described = {"descr": "<f4", "fortran_order": False, "shape": (rows, self.dim)}
        np.lib.format.write_array_header_1_0(file, described)
        return file.getvalue()

    def _write_header(self) -> None:
        with open(self.files[0].name, "r+b") as file:
            file.write(self._header(self.rows))

    @staticmethod
    def _key(line: bytes) -> bytes:
        return os.fsencode(json.loads(line)["key"])

    def append(self, rows: list[Row]) -> None:
        start, lines = self.rows, ""
        for key, frames, seconds in rows:
            self.files[0].write(np.ascontiguousarray(frames, "<f4").data)
            row = {"key": key, "start": start, "frames": len(frames), "seconds": round(seconds, 6)}
            lines += json.dumps(row) + "\n"
            start += len(frames)
        self.files[1].write(lines.encode())
        self.rows = start
        self._write_header()


TABLES = {"ark": ArkTable, "npy": NpyTable}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _said(error: OSError) -> str:
    advice = "; once there is room the same command goes on" if error.errno in _NO_ROOM else ""
    return f"{error.strerror or error}{advice}"


class FeatureFolder:
    """A table, failed.jsonl with what could not be added to it, and options.json with what it was made with; locked.

    Args:
        folder: made where it is not there.
        dim: columns of every matrix.
        settings: all that the content depends on, `format` and `compress` among it, as options.json can hold it.
        retry_failed: forget the failures of an earlier run.
        beside: names of what else is written there when all is done; it goes when something is added, and a folder
            that has such files of others is refused.

    Attributes:
        failed: the keys of utterances and the paths of files that failed.
        done: these, and the keys that are in the table.
        n_failed: how many failed.

    Raises:
        KwsError: the folder is in use, was made with other settings or by something else, or cannot be written.
    """

    def __init__(
        self, folder: str | Path, dim: int, settings: dict, retry_failed: bool = False, beside: Iterable[str] = ()
    ):
        self.folder, self.beside = Path(folder), tuple(beside)
        self.failures = self.folder / "failed.jsonl"
        try:
            with contextlib.ExitStack() as opened:
                self.folder.mkdir(parents=True, exist_ok=True)
                opened.enter_context(locked(self.folder / ".lock"))
                self.failures.touch()
                self._take_over(settings)
                self.table = TABLES[settings["format"]](folder, dim, settings.get("compress"))
                opened.callback(self.table.close)
                lines = [] if retry_failed else list(whole_lines(self.failures))
                os.truncate(self.failures, sum(map(len, lines)))
                failed = [row.get("key", row["path"]) for row in map(json.loads, lines)]
                self.close = opened.pop_all().close
        except OSError as error:
            raise KwsError(f"{folder}: {_said(error)}") from None
        except ValueError as error:
            raise KwsError(f"{folder}: {error}") from None
        self.n_failed, self.failed = len(failed), set(failed)
        self.done = self.table.keys | self.failed

    def _take_over(self, settings: dict) -> None:
        """Refuses what was made with other settings; begins anew where nothing was made yet."""
        options = self.folder / "options.json"
        files = [self.folder / name for table in TABLES.values() for name in table.NAMES]
        filled = [path.name for path in files if path.exists() and path.stat().st_size]
        others = [name for name in self.beside if (self.folder / name).exists()]
        if options.exists():
            changes = differences_between(json.loads(options.read_bytes()), settings)
            if not changes:
                return
            if any(table.NAMES[-1] in filled for table in TABLES.values()):
                raise ValueError(f"made with other settings ({', '.join(changes)}): choose another output")
        elif filled or others:
            raise ValueError(f"{(filled + others)[0]} is there, but no options.json: choose another output")
        for path in files:
            path.unlink(missing_ok=True)
        os.truncate(self.failures, 0)
        with replacing(options) as part:
            part.write_text(json.dumps(settings, indent=2) + "\n")

    def write(self, rows: list[Row], failed: list[dict[str, str]]) -> None:
        """Adds rows to the table, and to the failures what has a "path", a "reason" and, being an utterance, a "key".

        Raises:
            KwsError: the disk is full, or fails. What was written before stays.
        """
        try:
            if rows:
                for name in self.beside:
                    (self.folder / name).unlink(missing_ok=True)
                self.beside = ()
            self.table.add(rows)
            if failed:
                self._add_failures("".join(json.dumps(row) + "\n" for row in failed))
        except OSError as error:
            raise KwsError(f"{self.folder}: {_said(error)}") from None
        self.n_failed += len(failed)

    def _add_failures(self, lines: str) -> None:
        with _Whole(self.failures, "a") as file:
            size = file.seek(0, os.SEEK_END)
            try:
                file.write(lines.encode())
            except OSError:
                file.truncate(size)
                raise
