"""Sound files to features, in one process: what each worker of an extraction does."""

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kws import audio
from kws.errors import KwsError
from kws.features import FbankOptions, n_frames
from kws.utterances import Item

CHUNK = 1 << 18  # samples of one sound that are worked on at a time; a sound of more is long
TOGETHER = 1 << 19  # samples of short sounds that are held for each other
ROOM = 64 << 20  # bytes: for so many the system gives pages as they are written to, and more of them without a copy


class Features(NamedTuple):
    """Of a file: frames (n, dim) float32, how long it sounds, and whether it was resampled."""

    frames: np.ndarray
    seconds: float
    resampled: bool


class Computer:
    """Sound files to features, in one process and one thread.

    Raises:
        KwsError: there are no features with these options.
    """

    ERRORS = (ValueError, OSError, MemoryError, RuntimeError)  # of one file; torch's word for no memory is the last

    def __init__(self, options: FbankOptions, channel: int | None, resample: bool, allow_truncated: bool):
        import torch  # not at the top: the main process of several needs none of it

        from kws.features.extractor import FeatureExtractor

        torch.set_num_threads(1)
        self.torch, self.options, self.resample = torch, options, resample
        self.reading = {"channel": channel, "allow_truncated": allow_truncated}
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
        for item in items:
            try:
                with self._open(item) as sound:
                    blocks, resampled = self._blocks(sound)
                    begin = list(_until_long(blocks))
                    n_samples = sum(map(len, begin))
                    if n_samples > CHUNK:
                        results[item] = self._stream(itertools.chain(begin, blocks), resampled)
                    else:
                        self._check_length(n_samples)
                        short[n_samples][item] = np.concatenate(begin), resampled
                        held += n_samples
            except self.ERRORS as error:
                results[item] = _said(error, item)
            if held > TOGETHER:
                results |= self._together(short)
                short, held = defaultdict(dict), 0
        results |= self._together(short)
        return [results[item] for item in items]

    def _open(self, item: Item) -> audio.Sound:
        if item.reason:
            raise ValueError(item.reason)
        if os.path.exists(item.path) and not os.path.isfile(item.path):
            raise ValueError("not a regular file")  # reading a pipe would wait for ever
        return audio.Sound(item.path)

    def _blocks(self, sound: audio.Sound) -> tuple[Iterator[np.ndarray], bool]:
        """The blocks of a sound at the options' rate, and whether they are resampled."""
        wanted = self.options.sample_frequency
        if sound.rate == wanted:
            return sound.blocks(**self.reading, size=CHUNK), False
        if not self.resample:
            raise ValueError(f"its rate is {sound.rate} Hz, not {wanted:g}; resample=true changes it")
        return sound.blocks(**self.reading, rate=int(wanted), size=CHUNK), True

    def _check_length(self, n_samples: int) -> None:
        if n_frames(n_samples, self.options) == 0:
            needed = self.options.window_samples if self.options.snip_edges else -(-self.options.shift_samples // 2)
            raise ValueError(f"0 frames: {n_samples} samples, a window needs {needed}")

    def _together(self, short: dict[int, dict[Item, tuple[np.ndarray, bool]]]) -> dict[Item, Features | str]:
        """Of sounds (samples, resampled), given by their length."""
        results = {}
        for n_samples, group in short.items():
            try:
                waves = np.stack([samples for samples, _ in group.values()])
                with self.torch.inference_mode():
                    frames = self.extractor.stream(self.torch.from_numpy(waves), flush=True)[0].numpy()
                for (item, (samples, resampled)), rows in zip(group.items(), frames, strict=True):
                    features = Features(rows, n_samples / self.options.sample_frequency, resampled)
                    results[item] = features if np.isfinite(rows).all() else _not_finite(np.abs(samples).max())
            except self.ERRORS as error:
                results |= {item: _said(error, item) for item in group}
        return results

    def _stream(self, blocks: Iterator[np.ndarray], resampled: bool) -> Features:
        """Of a long sound, block by block; nothing is held but the result."""
        frames = np.empty((ROOM // (4 * self.options.dim), self.options.dim), np.float32)
        state, n, n_samples, loudest = None, 0, 0, 0.0
        for block in itertools.chain(blocks, [np.zeros(0, np.float32)]):
            n_samples += len(block)
            loudest = max(loudest, np.abs(block).max(initial=0))
            with self.torch.inference_mode():
                part, state = self.extractor.stream(self.torch.from_numpy(block)[None], state, flush=not len(block))
            if not self.torch.isfinite(part).all():
                raise ValueError(_not_finite(loudest))
            if n + part.shape[1] > len(frames):
                frames.resize((n + part.shape[1], self.options.dim), refcheck=False)
            frames[n : n + part.shape[1]] = part[0]
            n += part.shape[1]
        self._check_length(n_samples)
        frames.resize((n, self.options.dim), refcheck=False)
        return Features(frames, n_samples / self.options.sample_frequency, resampled)


def _until_long(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The first blocks, up to where they are more than CHUNK samples."""
    n_samples = 0
    while n_samples <= CHUNK and (block := next(blocks, None)) is not None:
        n_samples += len(block)
        yield block


def _said(error: Exception, item: Item) -> str:
    """What is wrong with a file, which is named beside it."""
    return str(error).removeprefix(f"{item.path}: ") or type(error).__name__


def _not_finite(loudest: float) -> str:
    return f"the features are not finite: the loudest sample is {loudest:.3g}"
