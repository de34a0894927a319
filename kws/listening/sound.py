"""Where the sound of a command comes from: the microphone, a file, or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from omegaconf import DictConfig

from kws import audio
from kws.errors import check_number
from kws.listening.microphone import Microphone


@contextmanager
def opened(cfg: DictConfig, target: int):
    """Yields sessions, each (rate, blocks of samples in int16 units), and what says seconds waiting and dropped.

    Args:
        cfg: with `input`, `device`, `rate`, `channel`, `chunk_ms` and `wait`.
        target: the rate wanted, in Hz.
    """
    check_number("chunk_ms", cfg.chunk_ms, lambda ms: 1 <= ms <= 10000, "milliseconds, 1 to 10000")
    if cfg.input is None:
        with Microphone(cfg.device, cfg.rate, target, cfg.channel, cfg.chunk_ms, cfg.wait) as microphone:
            yield microphone.sessions(), microphone.lag
    elif str(cfg.input) == "-":
        rate = cfg.rate or target
        yield [(rate, _pipe(sys.stdin.buffer, round(rate * cfg.chunk_ms / 1000)))], lambda: (0.0, 0.0)
    else:
        with audio.Sound(str(cfg.input)) as sound:
            blocks = sound.blocks(cfg.channel, size=round(sound.rate * cfg.chunk_ms / 1000))
            yield [(sound.rate, blocks)], lambda: (0.0, 0.0)


def _pipe(stream, size: int) -> Iterator[np.ndarray]:
    while data := stream.read(2 * size):
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32)
