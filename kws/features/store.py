"""Features on disk that can be gone on with after a stop at any byte: tables, and the folder around one. NumPy alone.

A table's data is written before the line of its index that points to it. Opening it again drops what no whole line
points to, so that the next append goes on as if nothing had happened.
"""

import contextlib
import errno
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kws.config import differences_between
from kws.errors import KwsError
from kws.features.kaldi_io import HEADER_BYTES, write_matrix

try:
    import fcntl
except ImportError:  # Windows: a second run on the same folder is not noticed
    fcntl = None


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


class _Table:
    """Files in a folder that matrices (rows, dim) are appended to.

    Attributes:
        keys: of the matrices that were there.

    Raises:
        ValueError: the files are no such table.
    """

    NAMES: tuple[str, ...]  # the data first, the index last

    def __init__(self, folder: str | Path, dim: int):
        self.paths, self.dim, self.keys = [Path(folder, name) for name in self.NAMES], dim, set()
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

    def append(self, rows: list[tuple[str, np.ndarray]]) -> None:
        """Adds matrices (n, dim) under their keys."""
        raise NotImplementedError

    def close(self) -> None:
        for file in self.files:
            file.close()


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
        counted = lines = ""
        for key, frames in rows:
            offset = write_matrix(self.files[0], key, frames)
            counted += f"{key} {len(frames)}\n"
            lines += f"{key} {self.paths[0]}:{offset}\n"
        self.files[1].write(os.fsencode(counted))
        self.files[2].write(os.fsencode(lines))


class NpyTable(_Table):
    """feats.npy (total frames, dim) float32, and utts.jsonl with every utterance's key, first row and frames."""

    NAMES = ("feats.npy", "utts.jsonl")

    def __init__(self, folder: str | Path, dim: int):
        super().__init__(folder, dim)
        self._write_header()

    def _recover(self, size: int) -> list[int]:
        self.rows, index, start = 0, 0, len(self._header(0))
        for line in whole_lines(self.paths[1]):
            row = json.loads(line)
            rows = row["start"] + row["frames"]
            if start + 4 * rows * self.dim > size:
                break
            self.keys.add(row["key"])
            self.rows, index = rows, index + len(line)
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

    def append(self, rows: list[tuple[str, np.ndarray]]) -> None:
        lines = ""
        for key, frames in rows:
            self.files[0].write(np.ascontiguousarray(frames, "<f4").data)
            lines += json.dumps({"key": key, "start": self.rows, "frames": len(frames)}) + "\n"
            self.rows += len(frames)
        self.files[1].write(lines.encode())
        self._write_header()


TABLES = {"ark": ArkTable, "npy": NpyTable}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _said(error: OSError) -> str:
    advice = "; once there is room the same command goes on" if error.errno in _NO_ROOM else ""
    return f"{error.strerror or error}{advice}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock, whose file has the process's number in it and is gone at the end.

    The lock itself is the system's, which frees it when the process ends, however: a file that was left says nothing.

    Raises:
        ValueError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    while True:
        file = open(path, "a+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = f"process {pid}" if (pid := file.read().strip()) else "another process"
            file.close()
            raise ValueError(f"in use by {who}: wait for its end, or choose another output") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
        file.close()  # the one before ended just now, and took its file away
    with file:
        file.truncate(0)
        try:
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)


class FeatureFolder:
    """A table, failed.jsonl with what could not be added to it, and options.json with what it was made with; locked.

    Args:
        folder: made where it is not there.
        dim: columns of every matrix.
        settings: all that the content depends on, `format` among it, as options.json can hold it.
        retry_failed: forget the failures of an earlier run.

    Attributes:
        done: the keys that are in the table and the paths that failed.
        n_failed: how many failed.

    Raises:
        KwsError: the folder is in use, was made with other settings or by something else, or cannot be written.
    """

    def __init__(self, folder: str | Path, dim: int, settings: dict, retry_failed: bool = False):
        self.folder = Path(folder)
        self.failures = self.folder / "failed.jsonl"
        try:
            with contextlib.ExitStack() as opened:
                self.folder.mkdir(parents=True, exist_ok=True)
                opened.enter_context(_locked(self.folder / ".lock"))
                self.failures.touch()
                self._take_over(settings)
                self.table = TABLES[settings["format"]](folder, dim)
                opened.callback(self.table.close)
                lines = [] if retry_failed else list(whole_lines(self.failures))
                os.truncate(self.failures, sum(map(len, lines)))
                failed = [json.loads(line)["path"] for line in lines]
                self.close = opened.pop_all().close
        except OSError as error:
            raise KwsError(f"{folder}: {_said(error)}") from None
        except ValueError as error:
            raise KwsError(f"{folder}: {error}") from None
        self.n_failed, self.done = len(failed), self.table.keys.union(failed)  # paths begin with /, keys do not

    def _take_over(self, settings: dict) -> None:
        """Refuses what was made with other settings; begins anew where nothing was made yet."""
        options = self.folder / "options.json"
        files = [self.folder / name for table in TABLES.values() for name in table.NAMES]
        filled = [path.name for path in files if path.exists() and path.stat().st_size]
        if options.exists():
            changes = differences_between(json.loads(options.read_bytes()), settings)
            if not changes:
                return
            if any(table.NAMES[-1] in filled for table in TABLES.values()):
                raise ValueError(f"made with other settings ({', '.join(changes)}): choose another output")
        elif filled:
            raise ValueError(f"{filled[0]} is there, but no options.json: choose another output")
        for path in files:
            path.unlink(missing_ok=True)
        os.truncate(self.failures, 0)
        part = options.with_suffix(".part")
        part.write_text(json.dumps(settings, indent=2) + "\n")
        part.replace(options)

    def write(self, rows: list[tuple[str, np.ndarray]], failed: list[tuple[str, str]]) -> None:
        """Adds (key, matrix (n, dim)) to the table and (path, reason) to the failures.

        Raises:
            KwsError: the disk is full, or fails. What was written before stays.
        """
        try:
            self.table.append(rows)
            if failed:
                with open(self.failures, "a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in failed)
        except OSError as error:
            raise KwsError(f"{self.folder}: {_said(error)}") from None
        self.n_failed += len(failed)
