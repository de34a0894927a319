"""Sound files in, samples out. Every error of reading and writing sound is raised here, and names the file.

Samples are float32 in **int16 units** (full scale is 32768, as Kaldi has it), whatever the file holds.
"""

import functools
import io
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

FULL_SCALE = 32768.0
SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64"}
# Lengths that a program writes when it pipes a wav and cannot know its length: read to the end.
OPEN_LENGTHS = {0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF - 36, 0xFFFFFFFF - 36, 0x7FFFF000, 0xFFFFF000}
MAX_CHANNELS, MAX_RATE = 1024, 384_000
UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count for a FLAC that was written to a pipe
_PCM = {8: "PCM_U8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}
_FLOAT = {32: "FLOAT", 64: "DOUBLE"}
_EXTENSIBLE = 0xFFFE


class AudioError(ValueError):
    """A sound that cannot be used: which file, what was found, what was expected."""


@dataclass(frozen=True)
class _Wav:
    """What a RIFF header says: encoding as libsndfile names it, and where its samples lie."""

    subtype: str
    rate: int
    channels: int
    start: int
    n_bytes: int
    declared: int
    frame_bytes: int


def _walk_riff(data: bytes, path) -> _Wav | None:
    """The wav header of `data`; None when the encoding is one for libsndfile to decode (ADPCM, big endian)."""
    fmt, position = None, 12
    while position + 8 <= len(data):
        chunk, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if chunk == b"fmt ":
            if size < 16 or position + size > len(data):
                raise AudioError(f"{path}: the wav's fmt chunk is {size} bytes; at least 16 are needed")
            tag, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", data, position)
            if tag == _EXTENSIBLE and size >= 26:
                tag = struct.unpack_from("<H", data, position + 24)[0]
            fmt = tag, channels, rate, frame_bytes, bits
        elif chunk == b"data":
            if fmt is None:
                raise AudioError(f"{path}: the wav has samples but no fmt chunk before them")
            tag, channels, rate, frame_bytes, bits = fmt
            if not 1 <= channels <= MAX_CHANNELS:
                raise AudioError(f"{path}: the wav's header says {channels} channels")
            if not 1 <= rate <= MAX_RATE:
                raise AudioError(f"{path}: the wav's header says a rate of {rate} Hz")
            subtype = {1: _PCM, 3: _FLOAT, 6: {8: "ALAW"}, 7: {8: "ULAW"}}.get(tag, {}).get(bits)
            if subtype is None:
                if tag in (1, 3):
                    raise AudioError(f"{path}: the wav's header says {bits}-bit samples (format tag {tag})")
                return None
            if frame_bytes != channels * bits // 8:
                raise AudioError(f"{path}: the wav's header says {frame_bytes} bytes for {channels} x {bits} bits")
            present = len(data) - position
            n_bytes = present if size in OPEN_LENGTHS else min(size, present)
            declared = n_bytes if size in OPEN_LENGTHS else size
            return _Wav(subtype, rate, channels, position, n_bytes // frame_bytes * frame_bytes, declared, frame_bytes)
        position += size + (size & 1)
    raise AudioError(f"{path}: the wav ends before its samples (no data chunk)")


def _decode_wav(data: bytes, wav: _Wav) -> np.ndarray:
    if wav.subtype == "PCM_16":
        samples = np.frombuffer(data, "<i2", wav.n_bytes // 2, wav.start).astype(np.float32)
        return samples.reshape(-1, wav.channels)
    body = io.BytesIO(memoryview(data)[wav.start : wav.start + wav.n_bytes])
    samples, _ = soundfile.read(
        body, dtype="float32", always_2d=True, format="RAW", subtype=wav.subtype, samplerate=wav.rate,
        channels=wav.channels, endian="LITTLE",
    )  # fmt: skip
    return samples * np.float32(FULL_SCALE)


def read(
    path: str | Path, channel: int | None = None, rate: int | None = None, allow_truncated: bool = False
) -> tuple[np.ndarray, int]:
    """One channel of a sound file.

    Args:
        path: wav (8 to 32 bit, float, A-law, µ-law), flac, ogg, mp3 and whatever else libsndfile decodes.
        channel: which channel, from 0; None takes a mono file's only one and refuses others.
        rate: resample to this rate in Hz; None keeps the file's.
        allow_truncated: keep what is there of a file that ends before its header says.

    Returns:
        samples (n,) float32 in int16 units, and their rate in Hz.

    Raises:
        AudioError: naming the file, for anything that is not usable sound.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror or error}") from None
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large or no number is named below
        samples, file_rate = _decode(data, path, allow_truncated)
    n_channels = samples.shape[1]
    if channel is None and n_channels > 1:
        raise AudioError(f"{path}: {n_channels} channels; say which with channel=0 to {n_channels - 1}")
    if channel is not None and not 0 <= channel < n_channels:
        raise AudioError(f"{path}: has no channel {channel}, only 0 to {n_channels - 1}")
    samples = np.ascontiguousarray(samples[:, channel or 0])
    if not len(samples):
        raise AudioError(f"{path}: holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: sample {int(np.argmin(np.isfinite(samples)))} is not a finite number")
    if rate is not None and rate != file_rate:
        try:
            samples, file_rate = resample(samples, file_rate, rate), rate
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from None
    return samples, file_rate


class _Seekable:
    """A damaged file may ask for a place before its start; an exception could not pass through libsndfile."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OSError):
            return self.tell()


class _Bytes(_Seekable, io.BytesIO): ...


class _File(_Seekable, io.FileIO): ...


class _Sequential(soundfile.SoundFile):
    """A sound file read straight on. soundfile seeks after every block it reads: that spoils MP3, whose frames need
    those before them, and fails at the end of a FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


def _decode(data: bytes, path: Path, allow_truncated: bool) -> tuple[np.ndarray, int]:
    """All channels of an encoded file: samples (n, channels) in int16 units, and the rate."""
    if not data:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    declared, damaged = None, False
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE" and (wav := _walk_riff(data, path)):
        samples, rate = _decode_wav(data, wav), wav.rate
        declared = wav.declared // wav.frame_bytes
    else:
        # a lying header may promise any number of frames: nothing is allocated on its word
        blocks, rate = [], None
        try:
            with _Sequential(_Bytes(data)) as file:
                rate = file.samplerate
                if file.format == "FLAC" and file.frames != UNKNOWN_FRAMES:
                    declared = file.frames  # other formats' counts are estimates, or of what is there
                # 4096: FLAC's own block, so that damage costs the block it is in and no more
                while len(block := file.read(4096, dtype="float32", always_2d=True)):
                    blocks.append(block)
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            if rate is None:
                raise AudioError(f"{path}: not a sound file that can be read ({_reason(error)})") from None
            damaged = True
        samples = np.concatenate(blocks) * np.float32(FULL_SCALE) if blocks else np.zeros((0, 1), np.float32)
    if (damaged or len(samples) < (declared or 0)) and not allow_truncated:
        what = "truncated or damaged" if damaged else "truncated"
        count = f"{len(samples)} of {declared or 'an unknown number of'} samples"
        raise AudioError(f"{path}: {what}, {count} are there (kws.extract keeps them with allow_truncated=true)")
    return samples, rate


def _reason(error: Exception) -> str:
    """What libsndfile says, without soundfile's repetition of the file's name."""
    return str(getattr(error, "error_string", error)).rstrip(".")


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


# A lying header may say 1 Hz or 383 999: neither 16000 samples for each nor a table of gigabytes is worth it.
MAX_FACTOR, MAX_TABLE = 64, 1 << 22
BLOCK = 256  # outputs worked on at a time: their inputs stay in the cache


@functools.lru_cache(maxsize=8)
def _sinc_table(from_rate: int, to_rate: int, zeros: int) -> tuple[int, int, int, np.ndarray]:
    """up, down, taps on each side of an output (in input samples), and the taps of every phase (up, 2 · half)."""
    if from_rate <= 0 or to_rate <= 0 or not 1 / MAX_FACTOR <= to_rate / from_rate <= MAX_FACTOR:
        raise AudioError(f"cannot resample from {from_rate} to {to_rate} Hz: a factor beyond {MAX_FACTOR}")
    divisor = math.gcd(from_rate, to_rate)
    up, down = to_rate // divisor, from_rate // divisor
    rolloff, beta = 0.95, 9.0  # of the lower Nyquist: flat to 0.83, -6 dB at 0.95, -90 dB from 1.07 on
    cutoff = rolloff * min(1.0, up / down)  # as a fraction of the input's Nyquist frequency
    half = math.ceil(zeros / cutoff)
    if 2 * half * up > MAX_TABLE:
        raise AudioError(f"cannot resample from {from_rate} to {to_rate} Hz: {up}/{down} is no simple ratio")
    phase = (np.arange(up) * down % up) / up
    t = np.arange(-half + 1, half + 1)[None, :] - phase[:, None]
    window = np.i0(beta * np.sqrt(np.clip(1 - (t / half) ** 2, 0, None))) / np.i0(beta)
    return up, down, half, cutoff * np.sinc(cutoff * t) * window


class Resampler:
    """Band-limited resampling of a stream by a rational factor, exact under any cutting of the input.

    Output n is the input convolved with a Kaiser-windowed sinc at time n·from/to (Smith, "Digital Audio Resampling",
    CCRMA); the past before the first sample and the future after the last are zeros. Each output is one dot product
    in float64 over the same samples however they arrived, so chunks give the bits of the whole.

    Args:
        from_rate, to_rate: in Hz.
        zeros: zero crossings of the sinc on each side; sets the width of the transition band.
    """

    def __init__(self, from_rate: int, to_rate: int, zeros: int = 24):
        self.up, self.down, self.half, self.table = _sinc_table(from_rate, to_rate, zeros)
        self.reset()

    def reset(self) -> None:
        self._buffer = np.zeros(self.half - 1)  # the past of zeros; its first sample has index -(half - 1)
        self._first = -(self.half - 1)
        self._n_in = self._n_out = 0

    def push(self, samples: np.ndarray, flush: bool = False) -> np.ndarray:
        """Input samples (n,) to the output samples (m,) float32 that are now determined; `flush` ends the stream."""
        self._n_in += len(samples)
        self._buffer = np.concatenate([self._buffer, np.asarray(samples, np.float64)])
        if flush:
            self._buffer = np.concatenate([self._buffer, np.zeros(self.half)])
            until = -(-self._n_in * self.up // self.down)
        else:  # output n reads input up to floor(n·down/up) + half
            until = max(-(-(self._n_in - self.half) * self.up // self.down), self._n_out)
        out = np.empty(until - self._n_out, np.float32)
        if len(out):
            windows = np.lib.stride_tricks.sliding_window_view(self._buffer, 2 * self.half)
        for at in range(0, len(out), BLOCK):
            index = np.arange(self._n_out + at, min(self._n_out + at + BLOCK, until))
            starts = index * self.down // self.up - self.half + 1 - self._first
            out[at : at + BLOCK] = np.einsum("ij,ij->i", windows[starts], self.table[index % self.up])
        self._n_out = until
        keep = max(self._n_out * self.down // self.up - self.half + 1 - self._first, 0)
        self._buffer, self._first = self._buffer[keep:], self._first + keep
        if flush:
            self.reset()
        return out


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Samples (n,) at `from_rate` Hz to (⌈n·to/from⌉,) float32 at `to_rate` Hz, through a fresh `Resampler`."""
    if from_rate == to_rate:
        return samples
    resampler = Resampler(from_rate, to_rate)
    step = 1 << 18  # memory stays near the size of the result, however long the sound
    parts = [resampler.push(samples[at : at + step]) for at in range(0, len(samples), step)]
    return np.concatenate([*parts, resampler.push(samples[:0], flush=True)])


def duration(path: str | Path) -> float:
    """A sound file's length in seconds, from its header; one whose header does not know is read."""
    try:
        with _File(path) as file:  # soundfile refuses names that are not UTF-8
            info = soundfile.info(file)
        if 0 < info.frames < UNKNOWN_FRAMES:
            return info.frames / info.samplerate
        samples, rate = _decode(Path(path).read_bytes(), Path(path), allow_truncated=True)
        return len(samples) / rate
    except OSError as error:
        raise AudioError(f"{path}: {error.strerror or error}") from None
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise AudioError(f"{path}: not a sound file that can be read ({_reason(error)})") from None
