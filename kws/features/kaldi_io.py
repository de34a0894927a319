"""Features on disk: Kaldi's archives (ark) with the scripts (scp) that point into them, packed NumPy, and the folder of
an extraction that can be gone on with. NumPy alone.

A record of an ark is `key`, a space, `\\0BFM `, then rows and columns as `\\4` and an int32, then the float32 values
row by row. Kaldi: WriteToken and Matrix::Write in kaldi-matrix.cc, KaldiObjectHolder in kaldi-holder-inl.h.
"""

import fcntl
import io
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

_HEADER = struct.Struct("<5sbibi")  # binary mark and type, then twice a width of 4 bytes and a size
HEADER_BYTES = _HEADER.size
_FLOAT_MATRIX = b"\0BFM "
_LONGEST_KEY = 1 << 16
_NPY_BYTES = 128  # of the header of a .npy, filled up with spaces


def write_matrix(file: BinaryIO, key: str, matrix: np.ndarray) -> int:
    """Writes matrix (rows, columns) as float32 under `key`.

    Returns:
        The offset that an scp gives for it: where the binary mark begins, after the key.

    Raises:
        ValueError: the key is empty or holds whitespace, or the matrix has no two dimensions.
    """
    if key.split() != [key]:
        raise ValueError(f"{key!r} cannot be a key: it is empty or holds whitespace")
    if matrix.ndim != 2:
        raise ValueError(f"{key}: expected a matrix of shape (rows, columns), got {matrix.shape}")
    file.write(os.fsencode(key) + b" ")
    offset = file.tell()
    file.write(_HEADER.pack(_FLOAT_MATRIX, 4, matrix.shape[0], 4, matrix.shape[1]))
    file.write(np.ascontiguousarray(matrix, "<f4").data)
    return offset


def _read_record(file: BinaryIO, where: str) -> np.ndarray:
    """The matrix (rows, columns) float32 at the file's position."""
    header = file.read(HEADER_BYTES)
    if header[:5] != _FLOAT_MATRIX:
        raise ValueError(f"{where}: expected a binary float matrix ({_FLOAT_MATRIX!r}), found {header[:5]!r}")
    if len(header) == HEADER_BYTES:
        _, row_width, rows, column_width, columns = _HEADER.unpack(header)
        if row_width != 4 or column_width != 4 or rows < 0 or columns < 0:
            raise ValueError(f"{where}: the header of the matrix is damaged: {header!r}")
        present = os.fstat(file.fileno()).st_size - file.tell()
        if present >= 4 * rows * columns:  # a damaged size allocates nothing
            return np.fromfile(file, "<f4", rows * columns).reshape(rows, columns)
    raise ValueError(f"{where}: the archive ends within the matrix")


def read_matrix(where: str) -> np.ndarray:
    """The matrix (rows, columns) float32 at `path:offset`, as an scp names it.

    Raises:
        ValueError: there is no such record, or another kind of one.
        OSError: the archive cannot be read.
    """
    path, colon, offset = where.rpartition(":")
    if not colon or not offset.isdecimal():
        raise ValueError(f"{where}: expected ARCHIVE:OFFSET")
    with open(path, "rb") as file:
        file.seek(int(offset))
        return _read_record(file, where)


def read_scp(path: str | Path) -> Iterator[tuple[str, str]]:
    """Lazily, the (key, where) of every line of an scp; `where` is what `read_matrix` takes."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            key, *where = line.split(None, 1)[:2] or [""]
            if not where:
                raise ValueError(f"{path}, line {number}: expected KEY ARCHIVE:OFFSET, found {line.strip()!r}")
            yield key, where[0].rstrip()


def read_ark(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Lazily, the key and matrix (rows, columns) float32 of every record of an archive."""
    with open(path, "rb") as file:
        while key := _read_key(file, path):
            yield key, _read_record(file, f"{path}, key {key}")


def _read_key(file: BinaryIO, path: str | Path) -> str:
    """The key before the next record; empty at the archive's end."""
    key = bytearray()
    while (byte := file.read(1)) not in (b" ", b""):
        key += byte
        if len(key) > _LONGEST_KEY:
            raise ValueError(f"{path}: no archive, there is no key in {_LONGEST_KEY} bytes")
    if key and not byte:
        raise ValueError(f"{path}: the archive ends within the key {bytes(key)!r}")
    return os.fsdecode(bytes(key))


class _Table:
    """Files that matrices (rows, dim) are appended to, and that may stop growing at any byte.

    The data is written before the line that points to it, each straight to the file. Opening the files again drops what
    no whole line points to, so that the next append goes on as if nothing had happened.

    Attributes:
        keys: of the matrices that were there.
    """

    NAMES: tuple[str, ...]  # the data first, the index last

    def __init__(self, folder: str, dim: int):
        self.paths, self.dim, self.keys = [os.path.join(folder, name) for name in self.NAMES], dim, set()
        self.files = [os.fdopen(os.open(p, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) for p in self.paths]
        try:
            for file, size in zip(self.files, self._recover(self.files[0].seek(0, os.SEEK_END)), strict=True):
                file.truncate(size)
                file.seek(size)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.paths[-1]}: not written by this command, or damaged ({error})") from None

    def _recover(self, size: int) -> list[int]:
        """Fills `keys` from the index; returns the sizes that the files should have, of `size` bytes of data."""
        raise NotImplementedError

    def append(self, rows: list[tuple[str, np.ndarray]]) -> None:
        """Adds matrices (n, dim) under their keys."""
        raise NotImplementedError

    def _write(self, *parts: bytes) -> None:
        for file, part in zip(self.files, parts, strict=True):
            left = memoryview(part)
            while left:  # a raw file may take less than it is given
                left = left[file.write(left) :]

    def close(self) -> None:
        for file in self.files:
            file.close()


def whole_lines(path: str) -> Iterator[bytes]:
    """The lines of a file, but for a last one without an end."""
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


class ArkTable(_Table):
    """feats.ark, feats.scp and utt2num_frames, as Kaldi's `copy-feats --write-num-frames` leaves them."""

    NAMES = ("feats.ark", "utt2num_frames", "feats.scp")

    def _recover(self, size: int) -> list[int]:
        ends = [0, 0, 0]
        for counted, line in zip(whole_lines(self.paths[1]), whole_lines(self.paths[2]), strict=False):
            key, frames = counted.split()
            archive, _, offset = line.removeprefix(key + b" ").rpartition(b":")
            if archive != os.fsencode(self.paths[0]):
                raise ValueError(f"it points to {os.fsdecode(archive)}; put the folder back where it was")
            end = int(offset) + HEADER_BYTES + 4 * int(frames) * self.dim
            if end > size:
                break
            self.keys.add(os.fsdecode(key))
            ends = [end, ends[1] + len(counted), ends[2] + len(line)]
        return ends

    def append(self, rows: list[tuple[str, np.ndarray]]) -> None:
        data, counted, lines, start = io.BytesIO(), "", "", self.files[0].tell()
        for key, frames in rows:
            offset = start + write_matrix(data, key, frames)
            counted += f"{key} {len(frames)}\n"
            lines += f"{key} {self.paths[0]}:{offset}\n"
        self._write(data.getbuffer(), os.fsencode(counted), os.fsencode(lines))


class NpyTable(_Table):
    """feats.npy (total frames, dim) float32, and utts.jsonl with every utterance's key, first row and frames."""

    NAMES = ("feats.npy", "utts.jsonl")

    def _recover(self, size: int) -> list[int]:
        self.rows, index = 0, 0
        for line in whole_lines(self.paths[1]):
            row = json.loads(line)
            rows = row["start"] + row["frames"]
            if _NPY_BYTES + 4 * rows * self.dim > size:
                break
            self.keys.add(row["key"])
            self.rows, index = rows, index + len(line)
        os.pwrite(self.files[0].fileno(), self._header(), 0)
        return [_NPY_BYTES + 4 * self.rows * self.dim, index]

    def _header(self) -> bytes:
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({self.rows}, {self.dim}), }}"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", _NPY_BYTES - 10) + text.ljust(_NPY_BYTES - 11).encode() + b"\n"

    def append(self, rows: list[tuple[str, np.ndarray]]) -> None:
        data, lines = io.BytesIO(), ""
        for key, frames in rows:
            data.write(np.ascontiguousarray(frames, "<f4").data)
            lines += json.dumps({"key": key, "start": self.rows, "frames": len(frames)}) + "\n"
            self.rows += len(frames)
        self._write(data.getbuffer(), lines.encode())
        os.pwrite(self.files[0].fileno(), self._header(), 0)


TABLES = {"ark": ArkTable, "npy": NpyTable}


class FeatureFolder:
    """A table, failed.jsonl with what could not be added to it, and options.json with what it was made with; locked.

    Args:
        folder: absolute; made where it is not there.
        dim: columns of every matrix.
        settings: all that the content depends on: `format`, a mapping `features`, and more.
        retry_failed: forget the failures of an earlier run.

    Attributes:
        done: the keys that are in the table and the paths that failed.
        n_failed: how many failed.

    Raises:
        ValueError: the folder is in use, was made with other settings, or by something else.
        OSError: it cannot be read or written.
    """

    def __init__(self, folder: str, dim: int, settings: dict, retry_failed: bool = False):
        self.folder, self.table = folder, None
        self.failures = os.path.join(folder, "failed.jsonl")
        os.makedirs(folder, exist_ok=True)
        self._lock()
        try:
            self._take_over(settings)
            self.table = TABLES[settings["format"]](folder, dim)
            lines = list(whole_lines(self.failures)) if os.path.exists(self.failures) and not retry_failed else []
            with open(self.failures, "ab") as file:
                file.truncate(sum(map(len, lines)))
            self.n_failed = len(lines)
            self.done = self.table.keys | {
                json.loads(line)["path"] for line in lines
            }  # paths begin with /, keys do not
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        """Takes the lock, which the system frees when its holder ends: a file that a kill left behind locks nothing."""
        path = os.path.join(self.folder, "lock")
        while True:
            self.lock = open(path, "a+")  # noqa: SIM115
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.lock.seek(0)
                holder = self.lock.read()
                self.lock.close()
                raise ValueError(f"in use by process {holder}: wait for its end, or choose another output") from None
            if os.path.exists(path) and os.path.samestat(os.fstat(self.lock.fileno()), os.stat(path)):
                break
            self.lock.close()  # its holder removed it between the two calls
        self.lock.truncate(0)
        self.lock.write(str(os.getpid()))
        self.lock.flush()

    def _take_over(self, settings: dict) -> None:
        """Refuses what was made with other settings; begins anew where nothing was made yet."""
        options = os.path.join(self.folder, "options.json")
        tables = [os.path.join(self.folder, name) for table in TABLES.values() for name in table.NAMES]
        filled = [path for path in tables if os.path.exists(path) and os.path.getsize(path)]
        if os.path.exists(options):
            with open(options, encoding="utf-8") as file:
                found, wanted = _flat(json.load(file)), _flat(settings)
            names = [name for name in found | wanted if found.get(name) != wanted.get(name)]
            if not names:
                return
            if any(path.endswith((".scp", ".jsonl")) for path in filled):
                differences = ", ".join(f"{name}={found.get(name)} (now {wanted.get(name)})" for name in names)
                raise ValueError(f"made with {differences}: choose another output")
        elif filled:
            raise ValueError(f"{os.path.basename(filled[0])} is there, but no options.json: choose another output")
        for path in [*tables, self.failures]:
            if os.path.exists(path):
                os.remove(path)
        with open(options + ".part", "w", encoding="utf-8") as file:
            file.write(json.dumps(settings, indent=2) + "\n")
        os.replace(options + ".part", options)

    def write(self, rows: list[tuple[str, np.ndarray]], failed: list[tuple[str, str]]) -> None:
        """Adds (key, matrix (n, dim)) to the table and (path, reason) to the failures."""
        self.table.append(rows)
        if failed:
            with open(self.failures, "a", encoding="utf-8") as file:
                file.write("".join(json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in failed))
        self.n_failed += len(failed)

    def close(self) -> None:
        if self.table is not None:
            self.table.close()
        os.remove(self.lock.name)
        self.lock.close()


def _flat(settings: dict) -> dict:
    features = {f"features.{name}": value for name, value in settings["features"].items()}
    return {name: value for name, value in settings.items() if name != "features"} | features
