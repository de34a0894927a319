"""Wav files in blocks: RIFF, RF64 and BW64 (beyond 4 GiB), Sony's Wave64.

Microsoft and IBM, "Multimedia Programming Interface and Data Specifications 1.0"; EBU Tech 3306 (RF64); ITU-R BS.2088
(BW64); ITU-T G.711 (A-law, µ-law). Not left to libsndfile, which takes several times as long for a second of sound,
ends a truncated file early without a word, and takes what follows a Wave64's samples for samples.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kws.errors import AudioError

FULL_SCALE = 32768.0
# Lengths that a program writes when it pipes a wav and cannot know its length: read to the end.
OPEN_LENGTHS = {0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF - 36, 0xFFFFFFFF - 36, 0x7FFFF000, 0xFFFFF000}
LONGEST = 1 << 62  # likewise of lengths in 64 bits
OPEN = -1
MAX_CHANNELS, MAX_RATE = 1024, 384_000
MAX_CHUNKS = 10_000  # gigabytes of empty chunks would be walked for minutes
_KINDS = {b"RIFF", b"RF64", b"BW64"}
_W64_RIFF = bytes.fromhex("726966662E91CF11A5D628DB04C10000")
_W64_WAVE = bytes.fromhex("77617665F3ACD3118CD100C04F8EDB8A")
_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE  # format tags


def open_wav(file: BinaryIO, size: int, path: str | Path) -> "Wav | None":
    """The wav in `file`, which has `size` bytes; None for what is none, or for libsndfile to decode (ADPCM).

    Raises:
        AudioError: naming `path`, and what its header says that cannot be.
    """
    head = file.read(40)
    w64 = head[:16] == _W64_RIFF and head[24:] == _W64_WAVE
    if not w64 and not (head[:4] in _KINDS and head[8:12] == b"WAVE"):
        return None
    fmt = long_length = None
    for name, start, length in _chunks(file, size, path, w64):
        if name == b"fmt ":
            if length < 16 or start + length > size:
                raise AudioError(f"{path}: the wav's fmt chunk is {length} bytes; at least 16 are needed")
            fmt = file.read(min(length, 40))
        elif name == b"ds64":  # the lengths that 32 bits do not hold: of all, and of the samples
            long_length = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"data":
            if fmt is None:
                raise AudioError(f"{path}: the wav has samples but no fmt chunk before them")
            if length == 0xFFFFFFFF and long_length is not None:
                length = long_length
            may_be_open = length in OPEN_LENGTHS and not w64  # whose programs write the longest there is
            if length >= LONGEST or (may_be_open and not (length == 0 and _is_chunk(file.read(8)))):
                length = OPEN
            return _samples(file, size, path, fmt, start, length)
    raise AudioError(f"{path}: the wav ends before its samples (no data chunk)")


def _chunks(file: BinaryIO, size: int, path: str | Path, w64: bool) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, length) of every chunk, the file standing at its first byte. Wave64's names have 16 bytes, of
    which four tell; its lengths count their header too."""
    header, position, alignment = (struct.Struct("<16sQ"), 40, 8) if w64 else (struct.Struct("<4sI"), 12, 2)
    counted = header.size if w64 else 0
    for _ in range(MAX_CHUNKS):
        if position + header.size > size:
            break
        file.seek(position)
        name, length = header.unpack(file.read(header.size))
        if length < counted:
            raise AudioError(f"{path}: the wav has a chunk of {length} bytes; its header alone has {counted}")
        start, length = position + header.size, length - counted
        yield name[:4], start, length
        position = start + length
        position += -position % alignment


def _is_chunk(header: bytes) -> bool:
    """Whether a chunk follows a data chunk of length 0, and not the samples of a length left open."""
    return len(header) == 8 and all(32 <= letter < 127 for letter in header[:4]) and header[7] == 0


def _samples(file: BinaryIO, size: int, path: str | Path, fmt: bytes, start: int, length: int) -> "Wav | None":
    """The samples in the `length` bytes from `start` on, which `fmt` describes."""
    tag, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == _EXTENSIBLE and len(fmt) >= 26:
        (tag,) = struct.unpack_from("<H", fmt, 24)
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{path}: the wav's header says {channels} channels")
    if not 1 <= rate <= MAX_RATE:
        raise AudioError(f"{path}: the wav's header says a rate of {rate} Hz")
    if (tag, bits) not in _ENCODINGS:
        if tag in (_PCM, _FLOAT):
            raise AudioError(f"{path}: the wav's header says {bits}-bit samples (format tag {tag})")
        return None
    if frame_bytes != channels * bits // 8:
        raise AudioError(f"{path}: the wav's header says {frame_bytes} bytes for {channels} x {bits} bits")
    file.seek(start)
    present = (size - start if length == OPEN else min(length, size - start)) // frame_bytes
    return Wav(file, rate, channels, present, present if length == OPEN else length // frame_bytes, tag, bits)


class Wav:
    """The samples of an open wav file.

    Attributes:
        rate: in Hz.
        channels: how many.
        n_samples: of each channel, that are there.
        declared: of each channel, that the header promises.
        may_be_infinite: whether samples are numbers that need not be finite.
    """

    damaged = False

    def __init__(self, file: BinaryIO, rate: int, channels: int, n_samples: int, declared: int, tag: int, bits: int):
        self.rate, self.channels, self.n_samples, self.declared = rate, channels, n_samples, declared
        self._file, self._left = file, n_samples
        self._dtype, self._decode = _ENCODINGS[tag, bits]
        self.may_be_infinite = tag == _FLOAT

    def read(self, n: int, channel: int) -> np.ndarray:
        """The next samples (up to n,) of a channel, float32 in int16 units; none at the end."""
        frame_bytes = self.channels * self._dtype.itemsize
        raw = self._file.read(min(n, self._left) * frame_bytes)
        n = len(raw) // frame_bytes
        self._left -= n
        return self._decode(np.ndarray((n, self.channels), self._dtype, raw)[:, channel])

    def close(self) -> None:
        self._file.close()


def _from_24_bit(x: np.ndarray) -> np.ndarray:
    """Samples (n,) of 3 bytes each, read as the upper three of four."""
    wide = np.ndarray(len(x), "<i4", b"\0" + x.tobytes(), strides=3)
    return (wide & -256).astype(np.float32) / np.float32(65536)


def from_float(x: np.ndarray) -> np.ndarray:
    """Samples of ±1 to float32 in int16 units."""
    with np.errstate(over="ignore", invalid="ignore"):  # who reads names what is too large, or no number
        return x.astype(np.float32) * np.float32(FULL_SCALE)


def _alaw() -> np.ndarray:
    """The 16-bit value of every code (256,). G.711, table 1."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = code >> 4 & 7, code & 15
    value = np.where(exponent, (2 * mantissa + 33) << np.maximum(exponent - 1, 0), 2 * mantissa + 1) << 3
    return np.where(code & 0x80, value, -value).astype(np.float32)


def _ulaw() -> np.ndarray:
    """The 16-bit value of every code (256,). G.711, table 2."""
    code = ~np.arange(256)
    value = (((2 * (code & 15) + 33) << (code >> 4 & 7)) - 33) << 2
    return np.where(code & 0x80, -value, value).astype(np.float32)


# (format tag, bits): a sample in the file, and how samples become float32 in int16 units
_ENCODINGS = {
    (_PCM, 8): (np.dtype("u1"), lambda x: (x.astype(np.float32) - 128) * 256),
    (_PCM, 16): (np.dtype("<i2"), lambda x: x.astype(np.float32)),
    (_PCM, 24): (np.dtype("V3"), _from_24_bit),
    (_PCM, 32): (np.dtype("<i4"), lambda x: x.astype(np.float32) / np.float32(65536)),
    (_FLOAT, 32): (np.dtype("<f4"), from_float),
    (_FLOAT, 64): (np.dtype("<f8"), from_float),
    (_ALAW, 8): (np.dtype("u1"), _alaw().__getitem__),
    (_ULAW, 8): (np.dtype("u1"), _ulaw().__getitem__),
}
