"""Sound files in, samples out. Every error of reading and writing sound is raised here, and names the file.

    samples, rate = audio.read("speech.wav")
    with audio.Sound("ten_hours.flac") as sound:
        for block in sound.blocks(rate=16000): ...          # in memory that does not grow with the sound

Samples are float32 in **int16 units** (full scale is 32768, as Kaldi has it), whatever the file holds.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from kws.audio.pipes import Pipe, output_of
from kws.audio.sndfile import Decoded
from kws.audio.wav import FULL_SCALE, MAX_CHANNELS, MAX_RATE, OPEN_LENGTHS, Wav, open_wav
from kws.errors import AudioError, KwsError, TruncatedError
from kws.resampling import Resampler, resample, resampled

__all__ = [
    "FULL_SCALE", "MAX_CHANNELS", "MAX_RATE", "OPEN_LENGTHS", "SUFFIXES", "AudioError", "Pipe", "Resampler",
    "Sound", "duration", "files", "is_sound", "read", "resample", "write",
]  # fmt: skip

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64"}
BLOCK = 1 << 18  # samples
SMALL = 1 << 20  # bytes: a file of so many is read at once, which saves calls of the system


class Sound:
    """An open sound file: wav (8 to 32 bit, float, A-law, µ-law), flac, ogg, mp3, whatever else libsndfile decodes.

    Args:
        path: of the file, or a `Pipe`, whose program is run.
        file: what to read instead, as the end of a pipe; `path` names it in errors. It is closed with the sound.

    Attributes:
        rate: in Hz.
        channels: how many.
        n_samples: of each channel, that are there; None where only reading tells, an estimate for MP3.

    Raises:
        AudioError: naming the file, for anything that is no sound.
    """

    def __init__(self, path: str | Path, file: BinaryIO | None = None):
        self.path = path
        try:
            file = file or (output_of(path) if isinstance(path, Pipe) else io.FileIO(path))
        except (OSError, ValueError) as error:  # a path may hold what no path can
            raise AudioError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        try:
            self._decoder = _open(path, file)
        except OSError as error:
            raise AudioError(f"{path}: {error.strerror or error}") from None
        self.rate, self.channels = self._decoder.rate, self._decoder.channels
        self.n_samples: int | None = self._decoder.n_samples
        if not 1 <= self.rate <= MAX_RATE:
            raise AudioError(f"{path}: the header says a rate of {self.rate} Hz")

    def __enter__(self) -> "Sound":
        return self

    def __exit__(self, *_) -> None:
        self._decoder.close()

    def blocks(
        self, channel: int | None = None, rate: int | None = None, allow_truncated: bool = False, size: int = BLOCK
    ) -> Iterator[np.ndarray]:
        """The samples of one channel, once, in arrays (n,) of about `size`. For the other arguments see `read`.

        Raises:
            AudioError: naming the file, for anything that is not usable sound; maybe after many blocks that were.
        """
        if channel is None and self.channels > 1:
            raise AudioError(f"{self.path}: {self.channels} channels; say which with channel=0 to {self.channels - 1}")
        if channel is not None and not 0 <= channel < self.channels:
            raise AudioError(f"{self.path}: has no channel {channel}, only 0 to {self.channels - 1}")
        blocks = self._checked(channel or 0, allow_truncated, max(size // self.channels, 1))
        if rate is None or rate == self.rate:
            return blocks
        try:
            return resampled(blocks, Resampler(self.rate, rate), size)
        except AudioError as error:
            raise AudioError(f"{self.path}: {error}") from None

    def _checked(self, channel: int, allow_truncated: bool, size: int) -> Iterator[np.ndarray]:
        """Blocks of finite samples of a sound that is whole."""
        if not allow_truncated:
            self._check_length(self.n_samples)
        count = 0
        while len(block := self._read(size, channel)):
            if self._decoder.may_be_infinite and not np.isfinite(block).all():
                at = count + int(np.argmin(np.isfinite(block)))
                raise AudioError(f"{self.path}: sample {at} is not a finite number")
            count += len(block)
            yield block
        if not allow_truncated:
            self._check_length(count)
        if not count:
            raise AudioError(f"{self.path}: holds no samples")

    def _read(self, size: int, channel: int) -> np.ndarray:
        try:
            return self._decoder.read(size, channel)
        except OSError as error:
            raise AudioError(f"{self.path}: {error.strerror or error}") from None

    def _check_length(self, count: int | None) -> None:
        """Refuses less than the header promises; `count` is None where that is not known yet."""
        declared, damaged = self._decoder.declared, self._decoder.damaged
        if damaged or (declared is not None and count is not None and count < declared):
            raise TruncatedError(
                f"{self.path}: {'truncated or damaged' if damaged else 'truncated'}, {count or 0} of"
                f" {declared or 'an unknown number of'} samples are there"
            )


def _open(path: str | Path, file: BinaryIO) -> Wav | Decoded:
    """What turns the file into samples; the file is closed where that does not need it."""
    needed = False
    try:
        if not file.seekable():  # a pipe, of any length: decoders go back and forth
            with file as pipe:
                file = tempfile.TemporaryFile()  # noqa: SIM115
                shutil.copyfileobj(pipe, file)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes)")
        source = io.BytesIO(file.read(size)) if size <= SMALL else file
        decoder = open_wav(source, size, path)
        if decoder is None:
            source.seek(0)
            decoder = Decoded(source, path)
        needed = source is file
        return decoder
    finally:
        if not needed:
            file.close()


def read(
    path: str | Path, channel: int | None = None, rate: int | None = None, allow_truncated: bool = False,
    file: BinaryIO | None = None,
) -> tuple[np.ndarray, int]:  # fmt: skip
    """One channel of a sound file.

    Args:
        path: anything that `Sound` takes.
        channel: which channel, from 0; None takes a mono file's only one and refuses others.
        rate: resample to this rate in Hz; None keeps the file's.
        allow_truncated: keep what is there of a file that ends before its header says.
        file: see `Sound`.

    Returns:
        samples (n,) float32 in int16 units, and their rate in Hz.

    Raises:
        AudioError: naming the file, for anything that is not usable sound.
    """
    with Sound(path, file) as sound:
        blocks = list(sound.blocks(channel, rate, allow_truncated, SMALL))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), rate or sound.rate


def duration(path: str | Path) -> float:
    """A sound file's length in seconds, from its header; one whose header does not know is read."""
    with Sound(path) as sound:
        n_samples = sound.n_samples
        if n_samples is None:
            n_samples = sum(len(block) for block in sound.blocks(0, allow_truncated=True))
        return n_samples / sound.rate


def is_sound(path: str | Path) -> bool:
    """Whether a file is sound by its suffix, and not hidden (as what macOS puts beside each file is)."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def files(key: str, given: str | Path) -> list[Path]:
    """A sound file, or those in a folder and below, sorted.

    Raises:
        KwsError: naming the setting `key`, where there are none.
    """
    path = Path(given)
    found = [path] if path.is_file() else sorted(filter(is_sound, path.rglob("*")))
    if not found:
        raise KwsError(f"{key}={given}: no sound files there")
    return found


def write(path: str | Path, samples: np.ndarray, rate: int) -> None:
    """Writes samples (n,) in int16 units as 16-bit sound (wav or flac by suffix), rounding and clipping."""
    samples = np.asarray(samples, np.float64)
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: not written, sample {int(np.argmin(np.isfinite(samples)))} is not a finite number")
    pcm = np.clip(np.rint(samples), -32768, 32767).astype(np.int16)
    try:
        soundfile.write(os.fsencode(path), pcm, rate, subtype="PCM_16")
    except (soundfile.LibsndfileError, TypeError, ValueError, OSError) as error:
        raise AudioError(f"{path}: cannot be written ({error})") from None
