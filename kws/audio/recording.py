"""Parts of a recording, each read like a sound of its own. Kaldi: extract-segments.cc."""

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kws import audio
from kws.errors import AudioError
from kws.resampling import Resampler, resampled

KEPT = 1 << 20  # samples behind the place of reading that are held for parts that overlap
SHORTEST, OVERSHOOT = 0.1, 0.5  # seconds: of a part, and that its end may lie behind the recording's


class Recording:
    """A sound that is decoded once for all its parts, if these are read in the order of their beginnings.

    What is wrong with it is found once, and said for each part that needs what cannot be had.
    """

    def __init__(self, path: str | Path):
        self.path, self._sound = path, None
        self._held: deque[tuple[int, np.ndarray]] = deque()  # the last blocks with the indices of their first samples
        self._forget()

    def close(self) -> None:
        if self._sound is not None:
            self._sound.__exit__()
        self._forget()

    def _forget(self) -> None:
        self._sound = self._blocks = self._reading = self._error = None
        self._end = 0  # samples that were decoded
        self._held.clear()

    @property
    def rate(self) -> int:
        """In Hz.

        Raises:
            AudioError: it is no sound.
        """
        if self._sound is None:
            self._sound = self._tried(lambda: audio.Sound(self.path))
        return self._sound.rate

    def part(self, start: float, end: float | None = None) -> "Part":
        """From `start` to `end` in seconds, or to the recording's end."""
        return Part(self, start, end)

    def samples(self, first: int, last: int | None, **reading) -> Iterator[np.ndarray]:
        """Samples `first` to `last`, or as many as there are, in blocks; `reading` as for `Sound.blocks`."""
        if self._blocks is None or reading != self._reading or first < (self._held[0][0] if self._held else self._end):
            self._begin(reading)
        for begin, block in self._blocks_behind(first):
            yield block[max(first - begin, 0) : None if last is None else last - begin]
            if last is not None and begin + len(block) >= last:
                return

    def _begin(self, reading: dict) -> None:
        if self._blocks is not None:  # a sound is read once
            self.close()
        _ = self.rate  # opens it
        self._reading, self._blocks = reading, self._sound.blocks(**reading)

    def _blocks_behind(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """The blocks that hold sample `first` and later ones, with the indices of their first samples."""
        yield from [(begin, block) for begin, block in self._held if begin + len(block) > first]
        while (block := self._tried(lambda: next(self._blocks, None))) is not None:
            self._held.append((self._end, block))
            self._end += len(block)
            while self._end - self._held[0][0] - len(self._held[0][1]) > KEPT:
                self._held.popleft()
            if self._end > first:
                yield self._held[-1]

    def _tried(self, function):
        if self._error is None:
            try:
                return function()
            except AudioError as error:
                self._error = type(error), str(error)  # without its trace, which would hold sound
        kind, reason = self._error
        raise kind(reason)

    @property
    def n_decoded(self) -> int:
        """Samples that were read: all, once a part ended before its end."""
        return self._end


class Part:
    """A stretch of a recording, which can be read as a `Sound` can.

    As in Kaldi an end up to 0.5 s behind the recording's is its end, and 0.1 s is too short.
    """

    def __init__(self, recording: Recording, start: float, end: float | None):
        self.recording, self.start, self.end = recording, start, end

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_) -> None:
        """The recording stays open, for the next part."""

    @property
    def rate(self) -> int:
        return self.recording.rate

    def blocks(
        self, channel: int | None = None, rate: int | None = None, allow_truncated: bool = False,
        size: int = audio.BLOCK,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """As `Sound.blocks`."""
        blocks = self._checked(channel=channel, allow_truncated=allow_truncated, size=size)
        return blocks if rate in (None, self.rate) else resampled(blocks, Resampler(self.rate, rate), size)

    def _checked(self, **reading) -> Iterator[np.ndarray]:
        rate, n = self.rate, 0
        first, last = int(self.start * rate), None if self.end is None else int(self.end * rate)
        until = "its end" if self.end is None else f"{self.end:g} s"
        shortest, which = int(SHORTEST * rate), f"{self.recording.path}: the part from {self.start:g} s to {until}"
        if last is None or last - first > shortest:
            for block in self.recording.samples(first, last, **reading):
                yield block
                n += len(block)
            whole = self.recording.n_decoded
            if n == 0 or (last is not None and first + n < last and last >= whole + int(OVERSHOOT * rate)):
                raise AudioError(f"{which} lies behind the recording's end at {whole / rate:.2f} s")
        if n <= shortest:
            raise AudioError(f"{which} is too short, more than {SHORTEST:g} s are needed")
