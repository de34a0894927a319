"""Kaldi's archives of matrices (ark), and the scripts (scp) that point into them. NumPy alone.

A record of an ark is `key`, a space, `\\0BFM `, then rows and columns as `\\4` and an int32, then the float32 values
row by row. Kaldi: WriteToken and Matrix::Write in kaldi-matrix.cc, KaldiObjectHolder in kaldi-holder-inl.h.
"""

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
