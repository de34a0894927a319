"""Long audio as it is, with background, or in a room: block by block, so its length does not matter."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws import audio
from kws.augment import level
from kws.errors import KwsError

ACTIVE = 10 ** (-15.9 / 20)  # ITU-T P.56: speech is what lies within 15.9 dB
PIECE_S = 0.1  # of sound whose level is looked at


@dataclass
class Condition:
    """What is done to the sound; nothing by default."""

    name: str = "clean"
    snr: float | None = None  # dB from the level of the recording's speech down to the background
    background: np.ndarray | None = None  # (n,) of level 1, repeated
    response: np.ndarray | None = None  # (n,) of a room

    def blocks(self, path: str, rate: int, seed: int = 0) -> Iterator[np.ndarray]:
        """The first channel at `rate` Hz in blocks of samples (n,). The background is the same at every SNR and begins
        somewhere that `seed` draws."""
        if self.snr is None:
            blocks = _blocks(path, rate)
            yield from blocks if self.response is None else convolved(blocks, self.response)
            return
        gain = speech_level(_blocks(path, rate), rate) * 10 ** (-self.snr / 20)
        at = int(np.random.default_rng(seed).integers(len(self.background)))
        for block in _blocks(path, rate):
            noise = self.background.take(np.arange(at, at + len(block)), mode="wrap")
            yield block + noise * np.float32(gain)
            at = (at + len(block)) % len(self.background)


def _blocks(path: str, rate: int) -> Iterator[np.ndarray]:
    with audio.Sound(path) as sound:
        yield from sound.blocks(channel=0, rate=rate)


def speech_level(blocks: Iterator[np.ndarray], rate: int) -> float:
    """Root mean square of a sound's pieces of 100 ms that are speech: within 15.9 dB of itself (after ITU-T P.56).

    It is looked for from the loudest down, whatever share of the sound is speech; what lasts less than half a second
    (of short sounds a twentieth) does not count as the loudest.
    """
    size, levels = round(PIECE_S * rate), []
    for block in blocks:
        pieces = [block[at : at + size] for at in range(0, len(block), size)]
        levels += [level(piece) for piece in pieces]
    levels = np.sort(levels)
    active = levels[-min(round(0.5 / PIECE_S), -(-len(levels) // 20))]
    levels, before = levels.clip(max=active), np.inf
    while active < before:
        before, active = active, level(levels[levels >= ACTIVE * active])
    return float(active)


def convolved(blocks: Iterator[np.ndarray], response: np.ndarray) -> Iterator[np.ndarray]:
    """A sound in a room, as long as the sound, by overlapping the transforms of its blocks. The level is that of white
    noise without the room."""
    response = response / np.sqrt(np.square(response).sum())
    tail = np.zeros(len(response) - 1)
    for block in blocks:
        n = len(block) + len(tail)
        size = 1 << n.bit_length()
        whole = np.fft.irfft(np.fft.rfft(block, size) * np.fft.rfft(response, size), size)[:n]
        whole[: len(tail)] += tail
        yield whole[: len(block)].astype(np.float32)
        tail = whole[len(block) :]


def conditions(snrs: list[float], noise: str | None, rooms: str | None, rate: int) -> list[Condition]:
    """Clean sound, then one condition an SNR, with all recordings of `noise` one after the other, and one a room."""
    found = [Condition()]
    if snrs:
        if noise is None:
            raise KwsError("snr= with labels= needs noise=FOLDER, recordings of background")
        recordings = [audio.read(path, channel=0, rate=rate)[0] for path in audio.files("noise", noise)]
        background = np.concatenate([each / np.float32(max(level(each), 1e-6)) for each in recordings])
        found += [Condition(f"{snr:g} dB", snr, background) for snr in snrs]
    for path in audio.files("rooms", rooms) if rooms is not None else []:
        name = str(path.relative_to(rooms).with_suffix("")) if Path(rooms).is_dir() else path.stem
        response = audio.read(path, channel=0, rate=rate)[0]
        if name in {each.name for each in found} or not response.any():
            raise KwsError(f"rooms: {path} is silent, or there is a condition of its name")
        found.append(Condition(name, response=response))
    return found
