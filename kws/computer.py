"""Sounds to features, in one process: what each worker of an extraction does."""

import itertools
import os
import zlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kws import audio
from kws.audio.recording import Part, Recording
from kws.errors import KwsError
from kws.features import FbankOptions, n_frames
from kws.utterances import Item

CHUNK = 81_920  # samples worked on at a time, 512 frames of 10 ms at 16 kHz; a sound of more is long
TOGETHER = 1 << 19  # samples of short sounds that are held for each other


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

    ERRORS = (ValueError, OSError, MemoryError, RuntimeError)  # of one file; torch's word for no memory is the last

    def __init__(
        self, options: FbankOptions, channel: int | None, resample: bool, allow_truncated: bool,
        subtract_mean: bool = False, min_duration: float = 0.0,
    ):  # fmt: skip
        import torch  # not at the top: the main process of several needs none of it

        from kws.features.extractor import FeatureExtractor

        torch.set_num_threads(1)
        self.torch, self.options, self.resample = torch, options, resample
        self.channel, self.reading = channel, {"allow_truncated": allow_truncated}
        self.allowed = options.allow_upsample, options.allow_downsample
        self.subtract_mean, self.min_duration = subtract_mean, min_duration
        self.recording = Recording("")  # whose parts are read
        try:
            self.extractor = FeatureExtractor(options)
        except ValueError as error:
            raise KwsError(f"features: {error}") from None

    def __call__(self, items: list[Item]) -> list[Features | str]:
        """The features of every file, or the reason why it has none.

        Short sounds of one length are computed together, which is faster and changes no bit of them; a long one as it
        is read, in memory that does not grow with it.
        """
        results, short, held = {}, defaultdict(dict), 0
        for item in _as_recorded(items):
            try:
                with self._open(item) as sound:
                    blocks, resampled = self._blocks(sound, item)
                    begin = list(_until_long(blocks))
                    n_samples = sum(map(len, begin))
                    if n_samples > CHUNK:
                        results[item] = self._stream(itertools.chain(begin, blocks), resampled, item)
                    else:
                        self._check_length(n_samples)
                        short[n_samples, item.warp][item] = np.concatenate(begin), resampled
                        held += n_samples
            except self.ERRORS as error:
                results[item] = _said(error, item)
            if held > TOGETHER:
                results |= self._together(short)
                short, held = defaultdict(dict), 0
        results |= self._together(short)
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

    def _blocks(self, sound: audio.Sound | Part, item: Item) -> tuple[Iterator[np.ndarray], bool]:
        """The blocks of a sound at the options' rate, and whether they are resampled."""
        wanted = self.options.sample_frequency
        reading = {**self.reading, "channel": self.channel if item.channel is None else item.channel, "size": CHUNK}
        if sound.rate == wanted:
            return sound.blocks(**reading), False
        if not (self.resample or self.allowed[sound.rate > wanted]):
            raise ValueError(f"its rate is {sound.rate} Hz, not {wanted:g}; resample=true changes it")
        return sound.blocks(**reading, rate=int(wanted)), True

    def _check_length(self, n_samples: int) -> None:
        if (seconds := n_samples / self.options.sample_frequency) < self.min_duration:
            raise ValueError(f"{seconds:.3g} s of sound, less than min_duration={self.min_duration:g}")
        if n_frames(n_samples, self.options) == 0:
            needed = self.options.window_samples if self.options.snip_edges else -(-self.options.shift_samples // 2)
            raise ValueError(f"0 frames: {n_samples} samples, a window needs {needed}")

    def _together(
        self, short: dict[tuple[int, float], dict[Item, tuple[np.ndarray, bool]]]
    ) -> dict[Item, Features | str]:
        """Of sounds (samples, resampled), given by their length and warp."""
        results = {}
        for (_, warp), group in short.items():
            try:
                waves = np.stack([samples for samples, _ in group.values()])
                state = self._begin(*group)
                with self.torch.inference_mode():
                    frames, _ = self.extractor.stream(self.torch.from_numpy(waves), state, flush=True, warp=warp)
                for (item, (samples, resampled)), rows in zip(group.items(), frames.numpy(), strict=True):
                    if np.isfinite(rows).all():
                        results[item] = self._done(rows, len(samples), resampled)
                    else:
                        results[item] = _said(ValueError(_not_finite(np.abs(samples).max())), item)
            except self.ERRORS as error:
                results |= {item: _said(error, item) for item in group}
        return results

    def _stream(self, blocks: Iterator[np.ndarray], resampled: bool, item: Item) -> Features:
        """Of a long sound, block by block; nothing is held but the result."""
        values = bytearray()  # it grows in place, where an array would need room for two of it
        state, n_samples, loudest = self._begin(item), 0, 0.0
        for block in itertools.chain(blocks, [np.zeros(0, np.float32)]):
            n_samples += len(block)
            loudest = max(loudest, np.abs(block).max(initial=0))
            with self.torch.inference_mode():
                part, state = self.extractor.stream(
                    self.torch.from_numpy(block)[None], state, flush=not len(block), warp=item.warp
                )
            if not self.torch.isfinite(part).all():
                raise ValueError(_not_finite(loudest))
            values += memoryview(np.ascontiguousarray(part))
        self._check_length(n_samples)
        frames = np.frombuffer(values, np.float32).reshape(-1, self.options.dim)
        return self._done(frames, n_samples, resampled)

    def _begin(self, *items: Item):
        """The state of streams that have not begun; their dither is a function of their keys."""
        return self.extractor.initial_state(len(items), [zlib.crc32(os.fsencode(item.key)) for item in items])

    def _done(self, frames: np.ndarray, n_samples: int, resampled: bool) -> Features:
        if self.subtract_mean:  # as compute-fbank-feats.cc does it at last
            frames -= frames.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Features(frames, n_samples / self.options.sample_frequency, resampled)


def _as_recorded(items: list[Item]) -> list[Item]:
    """The items, parts of one recording in the order of their beginnings."""
    place = {}
    for item in items:
        place.setdefault(item.path, len(place))
    return sorted(items, key=lambda item: (place[item.path], item.channel or 0, item.start))


def _until_long(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The first blocks, up to where they are more than CHUNK samples."""
    n_samples = 0
    while n_samples <= CHUNK and (block := next(blocks, None)) is not None:
        n_samples += len(block)
        yield block


def _said(error: Exception, item: Item) -> str:
    """What is wrong with a file, which is named beside it."""
    reason = str(error).removeprefix(f"{item.path}: ") or type(error).__name__
    return f"{reason} ({item.at})" if item.at else reason


def _not_finite(loudest: float) -> str:
    return f"the features are not finite: the loudest sample is {loudest:.3g}"
