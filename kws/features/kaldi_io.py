"""Kaldi's archives (ark) of matrices and vectors, and the scripts (scp) that point into them. NumPy alone.

A record of an ark is `key`, a space and an object. A binary object begins with `\\0B` and a type: `FM ` and `DM ` are
matrices of float32 and float64 (rows and columns as `\\4` and an int32, then the values row by row), `FV ` and `DV `
vectors, `CM `, `CM2 ` and `CM3 ` compressed matrices. Any other object is text: numbers in brackets, a row a line.

Kaldi: WriteToken in io-funcs.cc, Matrix::Read in kaldi-matrix.cc, Vector::Read in kaldi-vector.cc, KaldiObjectHolder
and ParseMatrixRangeSpecifier in kaldi-holder-inl.h and kaldi-holder.cc, ClassifyRxfilename in kaldi-io.cc.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kws.errors import KwsError
from kws.features import compressed

_BINARY = b"\0B"
_TYPES = {b"FM": "<f4", b"DM": "<f8", b"FV": "<f4", b"DV": "<f8"}
_SIZE = struct.Struct("<bi")  # how many bytes an int has, and the int
_MATRIX = struct.Struct("<5sbibi")
HEADER_BYTES = _MATRIX.size  # before the values of a matrix of floats
_LONGEST_KEY = 1 << 16
_TOLERATED = 3  # rows that a range may name behind the last: edges of frames, and rounding in segments


class ArchiveError(KwsError, ValueError):
    """An archive, a script or a record that cannot be read or written: which, what was found, what was expected."""


def write_matrix(
    file: BinaryIO, key: str, matrix: np.ndarray, double: bool = False, compress: str | None = None
) -> int:
    """Writes matrix (rows, columns) under `key`.

    Args:
        double: as float64 instead of float32.
        compress: one of `kws.features.compressed.METHODS`; Kaldi's own default is "auto".

    Returns:
        The offset that an scp gives for it: where the binary mark begins, after the key.

    Raises:
        ArchiveError: the key is empty or holds whitespace, the matrix has no two dimensions or cannot be compressed.
    """
    if matrix.ndim != 2:
        raise ArchiveError(f"{key}: expected a matrix of shape (rows, columns), got {matrix.shape}")
    if compress is not None:
        try:
            body = compressed.compress(matrix, compress)
        except (ValueError, KeyError) as error:
            raise ArchiveError(f"{key}: {error}") from None
        return _write(file, key, _BINARY + body)
    mark = b"DM " if double else b"FM "
    values = np.ascontiguousarray(matrix, "<f8" if double else "<f4")
    return _write(file, key, _MATRIX.pack(_BINARY + mark, 4, matrix.shape[0], 4, matrix.shape[1]), values.data)


def write_vector(file: BinaryIO, key: str, vector: np.ndarray, double: bool = False) -> int:
    """Writes vector (n,) under `key`, as `write_matrix` does."""
    if vector.ndim != 1:
        raise ArchiveError(f"{key}: expected a vector of shape (n,), got {vector.shape}")
    values = np.ascontiguousarray(vector, "<f8" if double else "<f4")
    return _write(file, key, _BINARY + (b"DV " if double else b"FV ") + _SIZE.pack(4, len(vector)), values.data)


def matrix_bytes(rows: int, columns: int, compress: str | None = None) -> int:
    """Bytes that `write_matrix` takes for a float32 or compressed matrix, from the binary mark on."""
    if compress is None:
        return HEADER_BYTES + 4 * rows * columns
    token = compressed.kind(compress, rows if columns else 0)
    body = compressed.body_bytes(token, rows, columns) if rows and columns else 0
    return len(_BINARY) + len(token) + 1 + compressed.HEADER.size + body


def _write(file: BinaryIO, key: str, *parts: bytes) -> int:
    if key.split() != [key]:
        raise ArchiveError(f"{key!r} cannot be a key: it is empty or holds whitespace")
    file.write(os.fsencode(key) + b" ")
    offset = file.tell()
    for part in parts:
        file.write(part)
    return offset


def read_matrix(where: str) -> np.ndarray:
    """The matrix (rows, columns) that an scp names: float64 where it was stored so or is text, else float32.

    Args:
        where: `path:offset`, or `path` of a file that holds nothing else; and behind it a range of rows, or of rows and
            columns, counted from 0 and with both ends: `path:7[0:9]`, `path:7[0:9,2:3]`, `path:7[:,2:3]`. The last row
            may be named up to 3 too high, as in Kaldi.

    Raises:
        ArchiveError: there is no such record or range, or another kind of one.
        OSError: the archive cannot be read.
    """
    return _read_at(where, 2)


def read_vector(where: str) -> np.ndarray:
    """The vector (n,) that an scp names, as `read_matrix` does; a range names elements: `path:7[0:9]`."""
    return _read_at(where, 1)


def read_scp(path: str | Path) -> Iterator[tuple[str, str]]:
    """Lazily, the (key, where) of every line of an scp; `where` is what `read_matrix` takes."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            key, *where = line.split(None, 1)[:2] or [""]
            if not where:
                raise ArchiveError(f"{path}, line {number}: expected KEY ARCHIVE:OFFSET, found {line.strip()!r}")
            yield key, where[0].rstrip()


def read_ark(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Lazily, the key and the matrix (rows, columns) or vector (n,) of every record of an archive.

    Raises:
        ArchiveError: a record is damaged; those before it were given.
    """
    with open(path, "rb") as file:
        while key := _read_key(file, path):
            yield key, _read_object(file, f"{path}, key {key}")


def _read_key(file: BinaryIO, path: str | Path) -> str:
    """The key before the next record; empty at the archive's end."""
    key = bytearray()
    while (byte := file.read(1)) and not (key and byte in b" \t\n"):
        key += byte.strip(b"\r\n")  # ends of lines between records of text
        if len(key) > _LONGEST_KEY:
            raise ArchiveError(f"{path}: no archive, there is no key in {_LONGEST_KEY} bytes")
    if key and not byte:
        raise ArchiveError(f"{path}: the archive ends within the key {bytes(key)!r}")
    return os.fsdecode(bytes(key))


def _read_at(where: str, n_dims: int) -> np.ndarray:
    if where.endswith("|"):
        raise ArchiveError(f"{where}: a pipe runs a program, which is not done here: write its output to an archive")
    path, offset, span = re.fullmatch(r"(.*?)(?::(\d{1,18}))?(?:\[([^\[\]]*)\])?", where, re.DOTALL).groups()
    with open(path, "rb") as file:
        file.seek(int(offset or 0))
        values = _read_object(file, where, n_dims)
    return values if span is None else values[_ranges(span, values.shape, where)].copy()


def _ranges(text: str, shape: tuple[int, ...], where: str) -> tuple[slice, ...]:
    """The slices of a range like `0:9,2:3`."""
    parts = text.split(",")
    if len(parts) > len(shape):
        raise ArchiveError(f"{where}: a range for {len(parts)} dimensions, but this has the shape {shape}")
    slices = []
    for part, size, tolerated in zip(parts, shape, (_TOLERATED, 0), strict=False):
        ends = re.fullmatch(r"(\d*):(\d*)", part)
        first, last = (int(ends[1] or 0), int(ends[2] or size - 1)) if ends else (0, -1)
        if not first <= last <= size - 1 + tolerated or first >= size:
            raise ArchiveError(f"{where}: expected a range FIRST:LAST within 0:{size - 1}, found {part!r}")
        slices.append(slice(first, last + 1))
    return tuple(slices)


def _read_object(file: BinaryIO, where: str, n_dims: int | None = None) -> np.ndarray:
    """The object at the file's position; of `n_dims` dimensions where that is given."""
    mark = file.read(2)
    if mark != _BINARY:
        return _read_text(file, mark, where, n_dims)
    token = file.read(3)
    if token[:2] == b"CM" and token != b"CM ":
        token += file.read(1)
    kind = token[:-1]
    known = (*_TYPES, b"CM", b"CM2", b"CM3")
    if token[-1:] != b" " or kind not in known or n_dims not in (None, 2 if b"M" in kind else 1):
        wanted = {None: "an object", 1: "a vector", 2: "a matrix"}[n_dims]
        raise ArchiveError(f"{where}: expected {wanted} of floats, found one of the type {token!r}")
    if kind in _TYPES:
        shape = [_size(file, where) for _ in range(2 if kind[1:] == b"M" else 1)]
        return _values(file, _TYPES[kind], math.prod(shape), where).reshape(shape)
    header = file.read(compressed.HEADER.size)
    if len(header) < compressed.HEADER.size:
        raise ArchiveError(f"{where}: the archive ends within the record")
    *scale, rows, columns = compressed.HEADER.unpack(header)
    if rows < 0 or columns < 0:
        raise ArchiveError(f"{where}: the header of the matrix is damaged: {rows} rows and {columns} columns")
    if not rows or not columns:
        end = file.tell()
        if file.read(4) != bytes(4):  # Kaldi writes four bytes more of an empty one than it reads
            file.seek(end)
        return np.zeros((0, 0), np.float32)
    body = _values(file, "u1", compressed.body_bytes(kind, rows, columns), where)
    return compressed.decompress(kind, *scale, rows, columns, body)


def _size(file: BinaryIO, where: str) -> int:
    data = file.read(_SIZE.size)
    if len(data) < _SIZE.size:
        raise ArchiveError(f"{where}: the archive ends within the record")
    width, size = _SIZE.unpack(data)
    if width != 4 or size < 0:
        raise ArchiveError(f"{where}: the header is damaged: expected \\4 and a size from 0, found {data!r}")
    return size


def _values(file: BinaryIO, type: str, count: int, where: str) -> np.ndarray:
    """The next `count` numbers; a damaged count allocates nothing."""
    present, needed = os.fstat(file.fileno()).st_size - file.tell(), count * np.dtype(type).itemsize
    if present < needed:
        raise ArchiveError(f"{where}: the archive ends within the record, {present} of {needed} bytes are there")
    return np.fromfile(file, type, count)


def _read_text(file: BinaryIO, start: bytes, where: str, n_dims: int | None) -> np.ndarray:
    """Numbers in brackets, float64: a matrix where the first stands on a line of its own, else a vector."""
    if start.strip() and start.lstrip()[:1] != b"[":
        raise ArchiveError(f"{where}: expected {_BINARY!r} or '[', found {start + file.read(8)!r}")
    lines = [start]
    while b"]" not in lines[-1]:
        lines.append(file.readline())
        if not lines[-1]:
            raise ArchiveError(f"{where}: the archive ends within the record, there is no ]")
    inside, _, behind = b"".join(lines).partition(b"]")
    before, _, inside = inside.partition(b"[")
    first, *rest = inside.split(b"\n")
    rows = [line.split() for line in (first, *rest) if line.strip()]
    if n_dims is None:
        n_dims = 1 if (first.strip() and len(rows) == 1) or not rest else 2
    try:
        if before.strip() or behind.strip():
            raise ValueError(f"{(before + behind).strip()[:20]!r} beside the brackets")
        values = np.array([[float(number) for number in row] for row in rows])
    except ValueError as error:  # not numbers, or rows of several lengths
        raise ArchiveError(f"{where}: not a matrix or vector in text ({error})") from None
    if n_dims == 2:
        return values.reshape(len(rows), -1) if rows else np.zeros((0, 0))
    if len(rows) > 1:
        raise ArchiveError(f"{where}: expected a vector, found a matrix of {len(rows)} rows")
    return values.reshape(-1)
