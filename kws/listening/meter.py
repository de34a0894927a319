"""One line that is drawn over: level, each word's score, how far behind."""

import os
import sys
import time
import unicodedata

import numpy as np

from kws.audio import FULL_SCALE

EVERY_S = 0.05


class Meter:
    def __init__(self, shown: bool):
        self.shown, self._width, self._drawn = shown, 0, 0.0

    def draw(self, block: np.ndarray, seconds: float, scores: dict[str, float], lag: tuple[float, float]) -> None:
        """After a block (n,) in int16 units. `lag`: seconds that wait, and seconds dropped."""
        if not self.shown or time.monotonic() - self._drawn < EVERY_S:
            return
        self._drawn = time.monotonic()
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns
        except OSError:  # no terminal
            columns = 80
        line = picture(block, seconds, scores, lag, columns - 1)
        sys.stderr.write("\r" + line + " " * (self._width - _width(line)))
        sys.stderr.flush()
        self._width = _width(line)

    def clear(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0


def picture(block: np.ndarray, seconds: float, scores: dict[str, float], lag: tuple[float, float], columns: int) -> str:
    """The line, of at most so many columns: where not every word has room, those with most score, in their order."""
    peak = 20 * np.log10(max(float(np.abs(block).max(initial=0)), 1.0) / FULL_SCALE)
    level = "█" * round((90 + max(peak, -90)) / 6)
    late = f"  {lag[0]:.1f} s behind" * (lag[0] > 0.3) + f"  {lag[1]:.1f} s dropped" * (lag[1] > 0)
    begin = f"{seconds:8.1f} s {level:<15} {peak:4.0f} dB"
    room, chosen = columns - len(begin) - len(late), set()
    for word in sorted(scores, key=scores.get, reverse=True):
        room -= _width(f"  {word} 0.00")
        if room < 0:
            break
        chosen.add(word)
    return (begin + "".join(f"  {word} {scores[word]:.2f}" for word in scores if word in chosen) + late)[:columns]


def _width(text: str) -> int:
    """Columns of a terminal."""
    return sum(1 + (unicodedata.east_asian_width(char) in "WF") for char in text)
