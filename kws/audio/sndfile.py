"""FLAC, Ogg, MP3, AIFF and all that libsndfile decodes, in blocks, straight on. https://libsndfile.github.io/libsndfile"""

import io
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from kws.audio.wav import from_float
from kws.errors import AudioError

UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count for a FLAC that was written to a pipe
STEP = 4096  # samples decoded at once, FLAC's own block: damage costs the block that it is in and no more
MP3_SLACK = 2 * 1152  # samples: editors that cut MP3 frames are forgiven two of them
# libsndfile cuts the lengths of headers down to what is there, and says so in its log alone
_CUT_SHORT = re.compile(r"^ *(?:SSND|Data Size|data|BODY) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_OPEN_AU = 2**32 - 1
_XING = re.compile(rb"(?:Xing|Info)\0\0\0[\1\3\5\7\11\13\15\17]")  # an MP3's header, with its number of frames


class _Sequential(soundfile.SoundFile):
    """A sound file read straight on. soundfile seeks after every block it reads: that spoils MP3, whose frames need
    those before them, and fails at the end of a FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


class _Tolerant:
    """A file for libsndfile, which asks for places before the start too; an exception could not pass through it."""

    def __init__(self, file: BinaryIO):
        self.file, self.tell, self.close = file, file.tell, file.close

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self.file.seek(offset, whence)
        except (ValueError, OSError):
            return self.file.tell()

    def readinto(self, buffer) -> int:
        try:
            return self.file.readinto(buffer)
        except OSError:
            return 0


class Decoded:
    """The samples of an open sound file.

    Attributes:
        rate: in Hz.
        channels: how many.
        n_samples: of each channel; None where nothing tells. An estimate, unless the format is lossless.
        declared: of each channel, that there must be; None where the header cannot promise any.
        damaged: whether something was met that cannot be decoded; there is no more to read then.

    Raises:
        AudioError: naming `path`; libsndfile knows no such sound.
    """

    may_be_infinite = True  # of floats, and of what damage does to decoders

    def __init__(self, file: BinaryIO, path: str | Path):
        head = _behind_tag(file)
        file.seek(0)
        self._source = file
        try:
            self._file = _Sequential(_Tolerant(file))
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            raise AudioError(f"{path}: not a sound file that can be read ({_reason(error)})") from None
        self.rate, self.channels, frames = self._file.samplerate, self._file.channels, self._file.frames
        self.n_samples = frames if 0 < frames < UNKNOWN_FRAMES else None
        self.declared, self._sync = None, b""
        if self._file.format == "FLAC":
            self.declared = self.n_samples
        elif self._file.format == "MP3" and self.n_samples:
            if _XING.search(head):
                self.declared = max(self.n_samples - MP3_SLACK, 0)
            self._sync = head[head.find(0xFF) :][:2]
        self.damaged = any(
            int(there) < int(said) != _OPEN_AU for said, there in _CUT_SHORT.findall(self._file.extra_info)
        )
        self._step = min(STEP, (1 << 20) // self.channels)
        self._left = frames  # what follows them may be no sound: a tag behind a FLAC

    def read(self, n: int, channel: int) -> np.ndarray:
        """The next samples (n,) of a channel, float32 in int16 units; none at the end.

        They are up to STEP more than n: damage then costs the same samples, whatever is asked for at once.
        """
        parts = [np.zeros(0, np.float32)]
        while n > 0 and self._left > 0:
            try:
                part = self._file.read(min(self._step, self._left), dtype="float32", always_2d=True)
            except (soundfile.LibsndfileError, RuntimeError, TypeError):
                self._left, self.damaged = 0, True
                break
            self._left = self._left - len(part) if len(part) else 0
            n -= len(part)
            parts.append(from_float(part[:, channel]))
        if self._left <= 0 and self._sync:
            # of an MP3 that does not say how long it is, or of several in one, libsndfile gives a part
            self.damaged, self._sync = self.damaged or self._source.read(1 << 14).count(self._sync) > 1, b""
        return np.concatenate(parts)

    def close(self) -> None:
        self._file.close()
        self._source.close()


def _behind_tag(file: BinaryIO) -> bytes:
    """The first 16 KiB, behind a tag if there is one (ID3v2.4, section 3.1: seven bits a byte are its length)."""
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        file.seek(10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)))
        head = b""
    return head + file.read(1 << 14)


def _reason(error: Exception) -> str:
    """What libsndfile says, without soundfile's repetition of the file's name."""
    said = str(getattr(error, "error_string", error)).rstrip(".")
    return "it begins as an MP3 does, but is none" if said.startswith("File does not exist") else said
