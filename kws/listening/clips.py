"""Two seconds around each word heard, kept as the next training's data.

    DIR/<word>/<time>.wav                   what was heard: data=folder data.root=DIR takes it as it is
    DIR/_near_misses_/<word>/<time>.wav     what was nearly heard: no data until a person has moved it

Where listening was wrong, a person moves a clip: what was the word to DIR/<word>, what was not to DIR/_unknown_.
"""

import io
import sys
import wave
from datetime import datetime
from pathlib import Path

import numpy as np

from kws.errors import KwsError
from kws.files import make_folder, replacing

NEAR = "_near_misses_"  # holds folders alone, so data=folder finds no clip in it
BEFORE_S, AFTER_S = 1.5, 0.5  # of the moment of the decision, which is at a word's end
KEPT_S = 10.0  # sound that is remembered: a near miss is over some time after it was closest
APART_S = 1.0  # of one word's near misses


class Clips:
    """Writes clips. What cannot be written is said, and no reason to stop.

    Raises:
        KwsError: `folder` cannot be made, or a word is no name for a folder.
    """

    def __init__(self, folder: str | Path, words: list[str]):
        self.saved = 0
        for word in words:
            if not word or word.startswith(".") or any(char in word for char in "/\\\0"):
                raise KwsError(f"save={folder}: the word {word!r} cannot be the name of a folder")
        self.folder = make_folder("save", folder)
        self._waiting: list[tuple[Path, int, int]] = []  # until the sound after the moment has come

    def begin(self, rate: int) -> None:
        """A stream of another rate, or after an interruption."""
        self.rate, self._recent, self._end = rate, np.zeros(0, np.float32), 0
        self._last: dict[str, float] = {}  # the moment of each word's last clip

    def push(self, block: np.ndarray) -> None:
        """The next samples (n,) in int16 units."""
        keep = round(KEPT_S * self.rate) + len(block)
        self._recent = np.concatenate([self._recent, block])[-keep:]
        self._end += len(block)
        ready = [clip for clip in self._waiting if clip[2] <= self._end]
        self._waiting = [clip for clip in self._waiting if clip[2] > self._end]
        for clip in ready:
            self._write(*clip)

    def keep(self, word: str, seconds: float, clock: float, near: bool = False) -> None:
        """Writes the sound around a moment of the stream, now or when it has come.

        Args:
            clock: when that was, in seconds since 1970.
            near: a near miss; left out if the word has a clip of the same second.
        """
        if near and abs(seconds - self._last.get(word, -np.inf)) < APART_S:
            return
        self._last[word] = seconds
        folder = self.folder / NEAR / word if near else self.folder / word
        name = datetime.fromtimestamp(clock).isoformat(timespec="milliseconds").replace(":", "-")
        oldest = self._end - len(self._recent)  # of a plateau that was longest ago the end is kept
        start = max(round((seconds - BEFORE_S) * self.rate), oldest, 0)
        self._waiting.append((folder / f"{name}.wav", start, start + round((BEFORE_S + AFTER_S) * self.rate)))

    def flush(self) -> None:
        """Writes what waits, though the sound ended."""
        for clip in self._waiting:
            self._write(*clip)
        self._waiting = []

    def _write(self, path: Path, start: int, end: int) -> None:
        begin = self._end - len(self._recent)
        samples = self._recent[max(start - begin, 0) : end - begin]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part:  # hidden: no data set takes it
                part.write_bytes(_wav(samples, self.rate))
            self.saved += 1
        except OSError as error:
            print(f"not saved: {path} ({error.strerror})", file=sys.stderr, flush=True)


def _wav(samples: np.ndarray, rate: int) -> bytes:
    """16-bit; in memory, because libsndfile does not say why it could not write."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, rate, 0, "NONE", None))
        wav.writeframes(np.rint(samples).clip(-32768, 32767).astype("<i2").tobytes())
    return file.getvalue()
