"""Where the sound of a command comes from: the microphone, a file, or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from omegaconf import DictConfig

from kws import audio
from kws.errors import KwsError, check_number
from kws.listening.microphone import Microphone

CONTAINERS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM")


@contextmanager
def opened(cfg: DictConfig, target: int):
    """Yields sessions, each (rate, blocks of samples in int16 units), and what says seconds waiting and dropped.

    Args:
        cfg: with `input`, `device`, `rate`, `channel`, `chunk_ms` and `wait`.
        target: the rate wanted, in Hz.
    """
    check_number("chunk_ms", cfg.chunk_ms, lambda ms: 1 <= ms <= 10000, "milliseconds, 1 to 10000")
    check_number("channel", cfg.channel, lambda n: n >= 0, "the number of a channel, the first is 0", int)
    if cfg.rate is not None:
        check_number("rate", cfg.rate, lambda rate: rate > 0, "samples a second", int)
    if cfg.input is None:
        with Microphone(cfg.device, cfg.rate, target, cfg.channel, cfg.chunk_ms, cfg.wait) as microphone:
            yield microphone.sessions(), microphone.lag
    elif str(cfg.input) == "-":
        rate = cfg.rate or target
        yield [(rate, _pipe(sys.stdin.buffer, round(rate * cfg.chunk_ms / 1000)))], lambda: (0.0, 0.0)
    else:
        with audio.Sound(str(cfg.input)) as sound:
            if sound.channels > 1:
                print(f"{cfg.input}: {sound.channels} channels, of which channel={cfg.channel} is heard",
                      file=sys.stderr, flush=True)  # fmt: skip
            blocks = sound.blocks(cfg.channel, size=round(sound.rate * cfg.chunk_ms / 1000))
            yield [(sound.rate, blocks)], lambda: (0.0, 0.0)


def _pipe(stream, size: int) -> Iterator[np.ndarray]:
    data = stream.read(2 * size)
    if data.startswith(CONTAINERS):
        raise KwsError("input=-: this is a file with a header; raw 16-bit samples are expected there (arecord -t raw,"
                       " ffmpeg -f s16le), and input=FILE reads files")  # fmt: skip
    while data:
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32)
        data = stream.read(2 * size)
