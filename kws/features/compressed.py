"""Kaldi's compressed matrices, of one or two bytes a value, with Kaldi's bits. NumPy alone.

`CM` keeps four percentiles of every column, and a byte a value that lies between two of them; `CM2` two bytes and `CM3`
one byte a value on an even scale over the whole matrix. Kaldi: compressed-matrix.cc and .h, whose float32 arithmetic is
followed step by step.
"""

import struct

import numpy as np

HEADER = struct.Struct("<ffii")  # smallest value, range of values, rows, columns
METHODS = ("auto", "speech_feature", "two_byte_auto", "one_byte_auto")
# of CM's bytes: the first that lies above a percentile, and how many steps there are to the next one
_PIECES = ((0, 64), (64, 128), (192, 63))
_EVEN = {b"CM2": ("<u2", 65535), b"CM3": ("<u1", 255)}
f32, f64 = np.float32, np.float64


def body_bytes(token: bytes, rows: int, columns: int) -> int:
    """Bytes behind the header of a matrix of this kind (CompressedMatrix::DataSize)."""
    return columns * (8 + rows) if token == b"CM" else rows * columns * np.dtype(_EVEN[token][0]).itemsize


def kind(method: str, rows: int) -> bytes:
    """The token of what `method` makes of a matrix (CompressedMatrix::ComputeGlobalHeader)."""
    if method == "auto":
        method = "speech_feature" if rows > 8 else "two_byte_auto"
    if rows == 0:  # an empty matrix is a CM, whatever was asked for
        method = "speech_feature"
    return {"speech_feature": b"CM", "two_byte_auto": b"CM2", "one_byte_auto": b"CM3"}[method]


def compress(matrix: np.ndarray, method: str = "auto") -> bytes:
    """A matrix (rows, columns) as its token, header and values (CompressedMatrix::CopyFromMat and ::Write).

    Raises:
        ValueError: a value is not finite.
    """
    matrix = np.asarray(matrix, f32)
    token = kind(method, len(matrix))
    if not matrix.size:
        return token + b" " + HEADER.pack(0.0, 0.0, 0, 0)
    if not np.isfinite(matrix).all():
        raise ValueError("a matrix with infinite values or NaN cannot be compressed")
    low, high = matrix.min(), matrix.max()
    if low == high:
        high = f32(float(low) + (1.0 + abs(float(low))))
    span = high - low
    header = HEADER.pack(low, span, *matrix.shape)
    if token == b"CM":
        percentiles = _percentiles(_levels(np.sort(matrix, axis=0), low, span, 65535))
        body = percentiles.astype("<u2").tobytes() + _codes(matrix, _spread(percentiles, low, span)).tobytes()
    else:
        type, steps = _EVEN[token]
        body = _levels(matrix, low, span, steps).astype(type).tobytes()
    return token + b" " + header + body


def decompress(token: bytes, low: float, span: float, rows: int, columns: int, body: bytes) -> np.ndarray:
    """The matrix (rows, columns) float32 of a header and what stands behind it (CompressedMatrix::CopyToMat)."""
    low, span = f32(low), f32(span)
    if token != b"CM":
        type, steps = _EVEN[token]
        levels = np.frombuffer(body, type).reshape(rows, columns)
        return low + levels.astype(f32) * f32(float(span) * (1.0 / steps))
    percentiles = np.frombuffer(body, "<u2", 4 * columns).reshape(columns, 4)
    codes = np.frombuffer(body, np.uint8, rows * columns, 8 * columns).reshape(columns, rows)
    return np.ascontiguousarray(np.take_along_axis(_tables(_spread(percentiles, low, span)), codes, axis=1).T)


def _levels(values: np.ndarray, low, span, steps: int) -> np.ndarray:
    """Values to whole numbers from 0 to `steps` (FloatToUint16, FloatToUint8)."""
    share = np.clip((values - low) / span, f32(0), f32(1))
    return ((share * f32(steps)).astype(f64) + 0.499).astype(np.int64)


def _percentiles(levels: np.ndarray) -> np.ndarray:
    """Levels (rows, columns), sorted down each column, to four rising ones of each, (columns, 4) (ComputeColHeader)."""
    rows = len(levels)
    quarter = rows // 4
    places = (0, quarter, 3 * quarter, rows - 1) if rows >= 5 else range(rows)
    chosen = np.zeros((levels.shape[1], 4), np.int64)
    chosen[:, : len(places)] = levels[list(places)].T
    for i in range(4):
        if i:
            chosen[:, i] = np.maximum(chosen[:, i], chosen[:, i - 1] + 1)
        chosen[:, i] = np.minimum(chosen[:, i], 65532 + i)
    return chosen


def _spread(percentiles: np.ndarray, low, span) -> np.ndarray:
    """Levels of 0 to 65535 to values, float32 (Uint16ToFloat)."""
    return low + span * f32(1.52590218966964e-05) * percentiles.astype(f32)


def _codes(matrix: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bytes (columns, rows) of values (rows, columns) between their columns' edges (columns, 4) (FloatToChar)."""
    values, codes = matrix.T, []
    for (first, steps), low, high in zip(_PIECES, edges.T[:3, :, None], edges.T[1:, :, None], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):  # edges that differ by less than float32 can tell
            share = (values - low) / (high - low)
        step = (share * f32(steps)).astype(f64) + 0.5
        codes.append(first + np.clip(np.where(np.isfinite(step), step, 0), 0, steps).astype(np.uint8))
    _, p25, p75, _ = edges.T[:, :, None]
    return np.select([values < p25, values < p75], codes[:2], codes[2])


def _tables(edges: np.ndarray) -> np.ndarray:
    """The values (columns, 256) that a byte stands for in each column (CharToFloat)."""
    parts = []
    for (first, steps), low, high in zip(_PIECES, edges.T[:3, :, None], edges.T[1:, :, None], strict=True):
        code = np.arange(1 if first else 0, steps + 1, dtype=f32)  # a piece's first byte belongs to the one before
        parts.append((low + ((high - low) * code).astype(f64) * (1.0 / steps)).astype(f32))
    return np.concatenate(parts, axis=1)
