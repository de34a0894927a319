"""The samples of a clip, and where its word is in them."""

import math
from collections import OrderedDict

import numpy as np

from kws import audio
from kws.audio.recording import OVERSHOOT
from kws.data.source import Clip


class Recordings:
    """Recordings that are cut again and again, decoded once: the last ones, as many as `room` samples hold."""

    def __init__(self, room: int):
        self.room, self._kept, self._held = room, OrderedDict(), 0

    def read(self, path: str, rate: int, least: int = 0) -> np.ndarray:
        """The first channel (n,) of a file; kept where it has more than `least` samples."""
        key = path, rate
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        wave = audio.read(path, channel=0, rate=rate)[0]
        if len(wave) > least:
            self._kept[key] = wave
            self._held += len(wave)
            while len(self._kept) > 1 and self._held > self.room:
                self._held -= len(self._kept.popitem(last=False)[1])
        return wave


RECORDINGS = Recordings(1 << 28)  # 1 GB of this process


def read_clip(clip: Clip, rate: int, keep: float = math.inf) -> np.ndarray:
    """A clip's samples (n,) at `rate` Hz in int16 units, of its file's first channel, not to be written to; a clip that
    is a whole file of more than `keep` samples is kept for the next time.

    Raises:
        AudioError: the file cannot be used, or ends before the clip does (0.5 s are forgiven, as by Kaldi).
    """
    if clip.start == 0 and clip.end is None:
        return RECORDINGS.read(clip.path, rate, keep)
    wave = RECORDINGS.read(clip.path, rate)
    part = wave[round(clip.start * rate) : None if clip.end is None else round(clip.end * rate)]
    if not len(part) or (clip.end is not None and clip.end > len(wave) / rate + OVERSHOOT):
        raise audio.AudioError(
            f"{clip.path}: the clip is {clip.start} to {clip.end} s, the file has {len(wave) / rate:.2f} s"
        )
    return part


def word_span(wave: np.ndarray, rate: int) -> tuple[int, int]:
    """Where the word is in a clip (n,) with silence around it: samples (begin, end) of the loudest sound, in which
    pauses of up to 200 ms are closures of its consonants.

    Sound is what stands above the middle between the quiet tenth and the loudest of the clip's levels (in dB, each of
    20 ms), and at most 25 dB below the loudest.
    """
    size = rate // 50
    n = len(wave) // size
    if n < 2:
        return 0, len(wave)
    levels = 10 * np.log10(np.square(wave[: n * size]).reshape(n, size).mean(axis=1) + 1)
    quiet, top = np.percentile(levels, 10), levels.max()
    loud = np.flatnonzero(levels >= max(top - 25, quiet + 0.4 * (top - quiet)))
    pauses = np.flatnonzero(np.diff(loud) > 10)
    at = np.searchsorted(loud[pauses], int(levels.argmax()))
    begin, end = (loud[pauses[at - 1] + 1] if at else loud[0]), (loud[pauses[at]] if at < len(pauses) else loud[-1])
    return int(begin) * size, min(int(end) + 1, n) * size
