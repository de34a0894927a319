"""What happens to a clip between its file and the model: on the wave in NumPy, on the frames in torch.

Every draw comes from the generator given, which the data set seeds with (seed, epoch, index): the same clip in the same
epoch is changed in the same way whoever loads it, in whatever order.
"""

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from torch import Tensor

from kws import audio
from kws.compilation import compiled
from kws.errors import KwsError
from kws.resampling import resample

# telephones (G.711, 64 kbit/s; GSM 06.10, 13) and the strongest of what libsndfile compresses: format, subtype, Hz
CODECS = {
    "ulaw": ("WAV", "ULAW", 8000), "gsm": ("WAV", "GSM610", 8000), "opus": ("OGG", "OPUS", 16000),
    "vorbis": ("OGG", "VORBIS", 16000), "mp3": ("MP3", "MPEG_LAYER_III", 16000),
}  # fmt: skip


@dataclass
class Augment:
    """Chances are per clip; levels in dB; times in ms. Everything is off by default.

    Args:
        onset_ms: a clip begins anywhere that leaves it in its window, or up to this much outside; None: in the middle.
        lead_ms: background before a clip at least, less onset_ms, where there is room for it: in a stream a word
            follows something.
        neighbour_chance: clips of `_unknown_` fill what the window has before and after a clip; of a word's clip with
            silence around it the word alone then stays.
        piece_chance: of the clips of `_unknown_`, how many are a beginning or end of a word instead: three tenths
            to two thirds of it.
        speed: range of factors on the speed (pitch moves with it).
        gain: range of the level added.
        noise_chance, noise_snr: background at a signal-to-noise ratio drawn from the range.
        crowd_chance: of the background so added, how much is one to six clips of `_unknown_` at once instead.
        room_chance, room_t60_ms, rooms: a measured impulse response of the folder `rooms`, or a made one of a
            reverberation time in the range.
        tilt_chance, tilt: equalisation: a smooth curve over frequency within ± `tilt` dB.
        codec_chance, codecs: the window goes through one of `CODECS` and back, at some ten times the work of the rest.
        time_masks, time_mask_ms, frequency_masks, frequency_mask_share: SpecAugment (Park et al. 2019,
            arXiv:1904.08779), each mask up to that long or that share of the columns; what is masked takes the mean.

    Raises:
        KwsError: `rooms` holds no sound, or there is no such codec.
    """

    onset_ms: float | None = None
    lead_ms: float = 0.0
    neighbour_chance: float = 0.0
    piece_chance: float = 0.0
    speed: tuple[float, float] = (1.0, 1.0)
    gain: tuple[float, float] = (0.0, 0.0)
    noise_chance: float = 0.0
    noise_snr: tuple[float, float] = (0.0, 30.0)
    crowd_chance: float = 0.0
    room_chance: float = 0.0
    room_t60_ms: tuple[float, float] = (100.0, 600.0)
    rooms: str | None = None
    tilt_chance: float = 0.0
    tilt: float = 6.0
    codec_chance: float = 0.0
    codecs: tuple[str, ...] = tuple(CODECS)
    time_masks: int = 0
    time_mask_ms: float = 200.0
    frequency_masks: int = 0
    frequency_mask_share: float = 0.15

    def __post_init__(self):
        self._responses: dict[int, list[np.ndarray]] = {}
        self._rooms = audio.files("augment.rooms", self.rooms) if self.rooms else []
        self.left_out: list[str] = []  # rooms that cannot be used, and why; for whoever can say it to empty
        if not self.codecs or not set(self.codecs) <= CODECS.keys():
            raise KwsError(f"augment.codecs=[{','.join(self.codecs)}]: choose of {', '.join(CODECS)}")

    def shape(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Speed of a clip (n,) alone."""
        low, high = self.speed
        return change_speed(wave, rng.uniform(low, high)) if low != high else wave

    def start(self, room: int, rate: int, rng: np.random.Generator) -> int:
        """The sample at which a clip begins in a window that is `room` samples longer; negative where it is cut."""
        if self.onset_ms is None:
            return room // 2
        outside, lead = round(self.onset_ms * rate / 1000), round(self.lead_ms * rate / 1000)
        return int(rng.integers(min(lead, room) - outside, room + outside + 1))

    def filter(self, wave: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        """Room and equalisation of a window (n,); length and level stay."""
        response = self._room(rate, rng) if rng.random() < self.room_chance else None
        tilt = rng.uniform(-self.tilt, self.tilt, 6) if rng.random() < self.tilt_chance else None
        if response is not None or tilt is not None:
            wave = _filtered(wave, response, tilt)
        return wave

    def loudness(self, rng: np.random.Generator) -> np.float32:
        """The factor on the whole window, background included."""
        return np.float32(10 ** (rng.uniform(*self.gain) / 20))

    def transmit(self, wave: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
        """The whole window (n,), through a codec or as it is."""
        if self.codec_chance and rng.random() < self.codec_chance:
            return coded(wave, rate, self.codecs[rng.integers(len(self.codecs))])
        return wave

    def snr(self, rng: np.random.Generator) -> float | None:
        """The ratio at which background is added to this clip, in dB; None for no background."""
        return rng.uniform(*self.noise_snr) if rng.random() < self.noise_chance else None

    def masks(self, n_frames: int, dim: int, shift_ms: float, rng: np.random.Generator) -> np.ndarray:
        """Stretches to mask (masks, 3) of [axis, first, last + 1]; axis 0 is time."""
        drawn = []
        longest = min(int(self.time_mask_ms / shift_ms), n_frames), int(self.frequency_mask_share * dim)
        for axis, (count, size) in enumerate(((self.time_masks, n_frames), (self.frequency_masks, dim))):
            for _ in range(count):
                width = rng.integers(longest[axis] + 1)
                first = rng.integers(size - width + 1)
                drawn.append((axis, first, first + width))
        return np.array(drawn, np.int64).reshape(-1, 3)

    def _room(self, rate: int, rng: np.random.Generator) -> np.ndarray:
        if not self._rooms:
            return made_room(rate, rng.uniform(*self.room_t60_ms), rng)
        if rate not in self._responses:
            self._responses[rate] = self._read_rooms(rate)
        responses = self._responses[rate]
        return responses[rng.integers(len(responses))]

    def _read_rooms(self, rate: int) -> list[np.ndarray]:
        responses = []
        for path in self._rooms:
            try:
                responses.append(audio.read(path, channel=0, rate=rate)[0])
            except audio.AudioError as error:
                self.left_out.append(str(error))
        if not responses:
            raise audio.AudioError(f"augment.rooms={self.rooms}: none can be used, {self.left_out[-1]}")
        return responses


def change_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """(n,) to (round(n / factor),), by cubic interpolation between four samples."""
    out = np.empty(round(len(wave) / factor), np.float32)
    _interpolate(np.pad(wave, (1, 3), mode="edge"), factor, out)
    return out


@compiled
def _interpolate(x, factor, out):
    """Catmull and Rom's cubic (1974) through the samples around each place; x begins one sample early."""
    for i in range(len(out)):
        index = int(i * factor)
        t = np.float32(i * factor - index)
        a, b, c, d = x[index], x[index + 1], x[index + 2], x[index + 3]
        cubic = np.float32(3) * (b - c) + d - a
        square = np.float32(2) * a - np.float32(5) * b + np.float32(4) * c - d
        out[i] = b + np.float32(0.5) * t * (c - a + t * (square + t * cubic))


def made_room(rate: int, t60_ms: float, rng: np.random.Generator) -> np.ndarray:
    """An impulse response (n,): the direct sound, then noise that decays by 60 dB within `t60_ms`."""
    n = int(rate * t60_ms / 1000)
    response = rng.standard_normal(n).astype(np.float32) * 10 ** (-3 * np.arange(n, dtype=np.float32) / n)
    response[: int(rate * 0.003)] = 0  # nothing is reflected in the first metre
    response *= np.float32(10 ** (rng.uniform(-15, 3) / 20) / np.sqrt(np.square(response).sum() + 1e-9))
    response[0] = 1
    return response


def _filtered(wave: np.ndarray, response: np.ndarray | None, tilt: np.ndarray | None) -> np.ndarray:
    """The wave through a room and a smooth gain curve (dB at points evenly spaced over the mel-like root of
    frequency), at the level it had."""
    n = len(wave)
    size = -(-(n + (0 if response is None else len(response))) // 2048) * 2048  # small factors: a fast transform
    spectrum = np.fft.rfft(wave, size)
    if response is not None:
        spectrum *= np.fft.rfft(response, size)
    if tilt is not None:
        at = np.sqrt(np.arange(len(spectrum)) / len(spectrum)) * (len(tilt) - 1)
        spectrum *= np.exp(np.interp(at, np.arange(len(tilt)), tilt * (np.log(10) / 20)).astype(np.float32))
    out = np.fft.irfft(spectrum, size)[:n].astype(np.float32)
    return out * np.float32(level(wave) / max(level(out), 1e-6))


def coded(wave: np.ndarray, rate: int, codec: str) -> np.ndarray:
    """(n,) to (n,): what one of `CODECS` leaves of it."""
    form, subtype, own = CODECS[codec]
    with io.BytesIO() as file:
        inside = np.clip(resample(wave, rate, own) / 32768, -1, 32767 / 32768)
        lossy = {} if form == "WAV" else {"compression_level": 1.0 if form == "OGG" else 0.9}
        soundfile.write(file, inside, own, format=form, subtype=subtype, **lossy)
        file.seek(0)
        out = resample(soundfile.read(file, dtype="float32")[0] * np.float32(32768), own, rate)[: len(wave)]
    return np.pad(out, (0, len(wave) - len(out)))


def level(wave: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(wave)))) if len(wave) else 0.0


def mix(wave: np.ndarray, noise: np.ndarray, snr: float, speech_level: float) -> np.ndarray:
    """Adds noise so that `speech_level` (root mean square of the clip alone) stands `snr` dB above it."""
    return wave + noise * np.float32(speech_level / max(level(noise), 1e-6) * 10 ** (-snr / 20))


def mask(frames: Tensor, masks: Tensor, value: Tensor) -> Tensor:
    """SpecAugment's stretches (batch, masks, 3) of [axis, first, last + 1] set to `value` (dim,)."""
    for axis in (0, 1):
        at = torch.arange(frames.shape[1 + axis], device=frames.device)
        inside = (at >= masks[..., 1:2]) & (at < masks[..., 2:3]) & (masks[..., :1] == axis)
        hidden = inside.any(dim=1)  # (batch, positions)
        frames = torch.where(hidden[:, :, None] if axis == 0 else hidden[:, None, :], value, frames)
    return frames
