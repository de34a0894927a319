"""Where the sound of a command comes from: the microphone, a file, or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from omegaconf import DictConfig

from kws import audio
from kws.listening.microphone import Microphone


@contextmanager
def opened(cfg: DictConfig, target: int):
    """Yields sessions, each (rate, blocks of samples in int16 units), and what says seconds waiting and dropped.

    Args:
        cfg: with `input`, `device`, `rate`, `channel`, `chunk_ms` and `wait`.
        target: the rate wanted, in Hz.
    """
    if cfg.input is None:
        with Microphone(cfg.device, cfg.rate, target, cfg.channel, cfg.chunk_ms, cfg.wait) as microphone:
            yield microphone.sessions(), microphone.lag
    else:
        if str(cfg.input) == "-":
            rate = cfg.rate or target
            blocks = _pipe(sys.stdin.buffer, round(rate * cfg.chunk_ms / 1000))
        else:
            samples, rate = audio.read(str(cfg.input), channel=cfg.channel)
            size = round(rate * cfg.chunk_ms / 1000)
            blocks = (samples[at : at + size] for at in range(0, len(samples), size))
        yield [(rate, blocks)], lambda: (0.0, 0.0)


def _pipe(stream, size: int) -> Iterator[np.ndarray]:
    while data := stream.read(2 * size):
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32)
