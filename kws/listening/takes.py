"""Words in a stream, found by their energy, and whether they are good enough to train on."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kws.audio import FULL_SCALE

FRAME_S = 0.01
FLOOR_S = 5.0  # the room's level is that of the quietest tenth of so much sound …
KNOWN_S = 0.3  # … and known after so much
QUIETEST_DB = -60.0  # nothing below is a word, however quiet the room
BEGIN_DB, END_DB = 10.0, 6.0  # above the room: where a word begins, and where it ends
RANGE_DB = 35.0  # below its loudest frame nothing is of a word, but breath
BEGIN_S, PAUSE_S = 0.04, 0.45  # how long it is above or below that
CLIPPED = 0.998 * FULL_SCALE


@dataclass(frozen=True)
class Take:
    """A word with the sound around it.

    Attributes:
        samples: (n,) float32 in int16 units, margins included.
        seconds: of the word, without the margins.
        level: of its loudest frames, in dB of full scale.
        snr: how far that is above the room, in dB.
        clipped: whether it was louder than the recording can tell.
    """

    samples: np.ndarray
    seconds: float
    level: float
    snr: float
    clipped: bool


@dataclass(frozen=True)
class Limits:
    """What a take must keep to; in s and dB."""

    shortest: float
    longest: float
    level: float
    snr: float

    def complaint(self, take: Take) -> str | None:
        """What is wrong, and what to do about it; None: nothing."""
        if take.clipped:
            return "too loud, the recording is clipped: speak more softly, or move away a little"
        if take.seconds < self.shortest:
            return f"too short ({take.seconds:.2f} s, at least {self.shortest:g}): say the whole word"
        if take.seconds > self.longest:
            return (
                f"too long ({take.seconds:.2f} s, at most {self.longest:g}): say the word alone, with quiet around it"
            )
        if take.level < self.level:
            return f"too quiet ({take.level:.0f} dB, at least {self.level:g}): come closer, or turn the microphone up"
        if take.snr < self.snr:
            return (
                f"too noisy ({take.snr:.0f} dB above the room, at least {self.snr:g}): come closer, or quieten the room"
            )
        return None


class Finder:
    """Cuts a stream into takes.

    Args:
        rate: in Hz.
        margin: s of sound that is kept on both sides of a word.
        longest: s after which a word is ended, come what may.
        floor: level of the room in dB; None: found out, and followed.
    """

    def __init__(self, rate: int, margin: float, longest: float, floor: float | None = None):
        self.rate, self.margin, self.longest = rate, margin, longest
        self._size = round(rate * FRAME_S)
        self._fixed, self._levels = floor, deque(maxlen=round(FLOOR_S / FRAME_S))
        self._rest = np.zeros(0, np.float32)
        self._frames: list[np.ndarray] = []  # the margin before a word, or all since then
        self._begin = self._last = None  # of the word: first and last loud frame in `_frames`
        self._loud = 0  # frames in a row

    @property
    def floor(self) -> float | None:
        """The room's level in dB; None: not known yet."""
        if self._fixed is not None:
            return self._fixed
        return float(np.percentile(self._levels, 10)) if len(self._levels) >= KNOWN_S / FRAME_S else None

    def push(self, block: np.ndarray) -> Iterator[Take]:
        """The next samples (n,) in int16 units; the words that ended in them."""
        block = np.concatenate([self._rest, block])
        used = len(block) // self._size * self._size
        self._rest = block[used:]
        for frame in block[:used].reshape(-1, self._size):
            if take := self._frame(frame):
                yield take

    def flush(self) -> Take | None:
        """The word under way where the sound ends."""
        return self._take() if self._begin is not None else None

    def _frame(self, frame: np.ndarray) -> Take | None:
        level, floor = levels(frame, self._size)[0], self.floor
        self._frames.append(frame)
        if self._begin is None:
            self._levels.append(level)
            loud = floor is not None and level > max(floor + BEGIN_DB, QUIETEST_DB)
            self._loud = self._loud + 1 if loud else 0
            if self._loud * FRAME_S >= BEGIN_S:
                self._begin, self._last = len(self._frames) - self._loud, len(self._frames) - 1
                self._loudest = level
            else:
                self._frames = self._frames[-round((self.margin + BEGIN_S) / FRAME_S) :]
            return None
        self._loudest = max(self._loudest, level)
        if level > max(floor + END_DB, QUIETEST_DB, self._loudest - RANGE_DB):
            self._last = len(self._frames) - 1
        quiet = len(self._frames) - 1 - self._last
        over = (self._last - self._begin) * FRAME_S > self.longest + PAUSE_S
        return self._take() if over or quiet * FRAME_S >= max(PAUSE_S, self.margin) else None

    def _take(self) -> Take:
        margin = round(self.margin / FRAME_S)
        begin, end = self._begin, self._last + 1
        word = np.concatenate(self._frames[begin:end])
        kept = np.concatenate(self._frames[max(begin - margin, 0) : end + margin])
        level = float(np.percentile(levels(word, self._size), 90))
        take = Take(
            kept, (end - begin) * FRAME_S, level, level - self.floor, bool((np.abs(word) >= CLIPPED).sum() >= 3)
        )
        self._levels.extend(levels(np.concatenate(self._frames[begin:]), self._size))  # a fan that starts is no word
        self._frames, self._begin, self._loud = self._frames[end:][-margin:], None, 0
        return take


def levels(samples: np.ndarray, size: int) -> np.ndarray:
    """RMS of each whole frame of `size` samples, in dB of full scale, at least -90."""
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    rms = np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1))
    return 20 * np.log10(np.maximum(rms, 1.0) / FULL_SCALE)


def floor_of(samples: np.ndarray, rate: int) -> float:
    """The room's level in a whole recording, in dB."""
    found = levels(samples, round(rate * FRAME_S))
    return float(np.percentile(found, 10)) if len(found) else -90.0
