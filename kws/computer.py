"""Sounds to features, in one process: what each worker of an extraction does."""

import os
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kws import audio
from kws.audio.recording import Part, Recording
from kws.errors import KwsError, TruncatedError
from kws.features import FbankOptions
from kws.utterances import Item

CHUNK = 81_920  # samples worked on at a time, 512 frames of 10 ms at 16 kHz


class Features(NamedTuple):
    """Of a file: frames (n, dim) float32, how long it sounds, and whether it was resampled."""

    frames: np.ndarray
    seconds: float
    resampled: bool


class Computer:
    """Sounds to features, in one process and one thread.

    Args:
        channel: of sounds that do not say which; None takes that of a mono file and refuses others.
        resample, allow_truncated: use sounds at other rates, and what is there of those that end too soon.
        subtract_mean: take every utterance's mean from its frames.
        min_duration: seconds; shorter sounds are refused.

    Raises:
        KwsError: there are no features with these options.
    """

    ERRORS = (ValueError, OSError, MemoryError)  # of one file

    def __init__(
        self, options: FbankOptions, channel: int | None, resample: bool, allow_truncated: bool,
        subtract_mean: bool = False, min_duration: float = 0.0,
    ):  # fmt: skip
        from kws.features.online import OnlineExtractor  # not at the top: the main process of several needs none of it

        self.options, self.resample, self.extractor = options, resample, OnlineExtractor
        self.channel, self.reading = channel, {"allow_truncated": allow_truncated}
        self.subtract_mean, self.min_duration = subtract_mean, min_duration
        self.recording = Recording("")  # whose parts are read
        try:
            OnlineExtractor(options)
        except ValueError as error:
            raise KwsError(f"features: {error}") from None

    def __call__(self, items: list[Item]) -> list[Features | str]:
        """The features of every file, or the reason why it has none."""
        results = {}
        for item in _as_recorded(items):
            try:
                with self._open(item) as sound:
                    results[item] = self._features(sound, item)
            except self.ERRORS as error:
                results[item] = _said(error, item)
        self.recording.close()
        return [results[item] for item in items]

    def _open(self, item: Item) -> audio.Sound | Part:
        if item.reason:
            raise ValueError(item.reason)
        if not (isinstance(item.path, audio.Pipe) or os.path.isfile(item.path)) and os.path.exists(item.path):
            raise ValueError("not a regular file")  # reading a pipe would wait for ever
        if not item.is_part:
            return audio.Sound(item.path)
        if item.path != self.recording.path:
            self.recording.close()
            self.recording = Recording(item.path)
        return self.recording.part(item.start, item.end)

    def _features(self, sound: audio.Sound | Part, item: Item) -> Features:
        """Of a sound as it is read, block by block: nothing is held but the result."""
        wanted, values = self.options.sample_frequency, bytearray()  # which grows in place; an array would need two
        resampled = sound.rate != wanted
        if resampled and not self.resample:
            try:
                self.options.resamples(sound.rate)
            except ValueError as error:
                raise ValueError(f"{error}; resample=true changes it") from None
        extractor = self.extractor(self.options, item.warp, zlib.crc32(os.fsencode(item.key)))
        n_samples, loudest = 0, 0.0
        channel = self.channel if item.channel is None else item.channel
        blocks = sound.blocks(**self.reading, channel=channel, size=CHUNK, rate=int(wanted) if resampled else None)
        for block, last in _with_last(blocks):
            n_samples += len(block)
            loudest = max(loudest, np.abs(block).max(initial=0))
            frames = extractor.push(block, flush=last)
            if not np.isfinite(frames).all():
                raise ValueError(f"the features are not finite: the loudest sample is {loudest:.3g}")
            values += frames.tobytes()
        if (seconds := n_samples / wanted) < self.min_duration:
            raise ValueError(f"{seconds:.3g} s of sound, less than min_duration={self.min_duration:g}")
        if not values:
            needed = self.options.window_samples if self.options.snip_edges else -(-self.options.shift_samples // 2)
            raise ValueError(f"0 frames: {n_samples} samples, a window needs {needed}")
        frames = np.frombuffer(values, np.float32).reshape(-1, self.options.dim)
        if self.subtract_mean:  # as compute-fbank-feats.cc does it at last
            frames -= frames.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Features(frames, seconds, resampled)


def _with_last(blocks: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, bool]]:
    """Each block, and whether no other follows; one at least."""
    held = next(blocks, np.zeros(0, np.float32))
    for block in blocks:
        yield held, False
        held = block
    yield held, True


def _as_recorded(items: list[Item]) -> list[Item]:
    """The items, parts of one recording in the order of their beginnings."""
    place = {}
    for item in items:
        place.setdefault(item.path, len(place))
    return sorted(items, key=lambda item: (place[item.path], item.channel or 0, item.start))


def _said(error: Exception, item: Item) -> str:
    """What is wrong with a file, which is named beside it."""
    reason = str(error).removeprefix(f"{item.path}: ") or type(error).__name__
    if isinstance(error, TruncatedError):
        reason += "; allow_truncated=true keeps them"
    return f"{reason} ({item.at})" if item.at else reason
