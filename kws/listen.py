"""Listens for the words that a checkpoint knows.

    python -m kws.listen checkpoint=runs/ghost-synthetic                    the microphone
    python -m kws.listen checkpoint=… input=recording.wav                   a sound file, as fast as it goes
    arecord -f S16_LE -r 16000 -t raw | python -m kws.listen checkpoint=… input=-
    python -m kws.listen checkpoint=spotter.onnx                            what kws.export wrote, without torch
    python -m kws.listen checkpoint=… device=list                           which microphones there are

Each word heard is a line: the moment its word began and the moment it was heard (seconds), the word, its score.
Ctrl-C ends. Exit codes: 0 the end or Ctrl-C, 2 a mistake or a missing device, which the message names.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kws import audio
from kws.config import command
from kws.decision import Detection
from kws.errors import KwsError

DEVICE_SILENT_S = 3.0  # without a block for this long the microphone is gone
SILENT = f"the microphone gave no sound for {DEVICE_SILENT_S:g} s: unplugged, or taken by another program?"
BACKLOG_S = 2.0  # sound that may wait; what comes on top is dropped, and said


@command("listen")
def main(cfg: DictConfig) -> None:
    if cfg.device == "list":
        print(_sounddevice().query_devices())
        return
    target, labels, begin = _opened(cfg)
    try:
        with _source(cfg, target) as (rate, blocks, lag):
            spotter = begin(rate)
            words = " ".join(label for label in labels if not label.startswith("_"))
            print(f"listening at {rate} Hz for: {words}", file=sys.stderr, flush=True)
            _listen(cfg, spotter, rate, blocks, lag)
    except ValueError as error:
        raise KwsError(str(error)) from None


def _opened(cfg: DictConfig) -> tuple[int, list[str], Callable]:
    """The rate and the labels of a checkpoint or an exported file, and what begins a stream of a rate through it."""
    decision = OmegaConf.to_container(cfg.decision)
    if str(cfg.checkpoint).endswith(".onnx"):
        from kws.runtime import Spotter

        spotter = Spotter(cfg.checkpoint)
        given = {o.partition("=")[0].lstrip("+~") for o in HydraConfig.get().overrides.task}
        if "decision" not in given:  # the file knows its own; what the command line says comes first
            decision = {key: value for key, value in decision.items() if f"decision.{key}" in given}
        return spotter.rate, spotter.labels, lambda rate: spotter.stream(rate, **decision)
    import torch

    from kws.spotter import Spotter, open_checkpoint

    torch.set_num_threads(1)  # a step is too small to share
    trained = open_checkpoint(cfg.checkpoint)
    rate = int(trained.options.sample_frequency)
    return rate, trained.labels, lambda rate: Spotter(trained, rate, **decision)


def _listen(cfg: DictConfig, spotter, rate: int, blocks: Iterator[np.ndarray], lag) -> None:
    meter = _Meter(spotter, cfg.meter if cfg.meter is not None else sys.stderr.isatty())
    seconds = busy = heard = 0
    started = time.perf_counter()
    with open(cfg.json, "a", encoding="utf-8") if cfg.json else nullcontext() as log:
        try:
            for block in blocks:
                before = time.perf_counter()
                found = spotter.push(block)
                busy += time.perf_counter() - before
                seconds += len(block) / rate
                for detection in found:
                    heard += 1
                    meter.clear()
                    _tell(detection, log)
                meter.draw(block, seconds, lag())
            for detection in spotter.push(np.zeros(0, np.float32), flush=True):
                heard += 1
                _tell(detection, log)
        except KeyboardInterrupt:
            pass  # the ordinary way to end
        meter.clear()
    waiting, dropped = lag()
    print(
        f"{heard} words in {seconds:.1f} s of sound; {1000 * busy / max(seconds, 1e-9):.1f} ms of work per second, "
        f"{waiting:.1f} s behind, {dropped:.1f} s dropped, {time.perf_counter() - started:.1f} s in all",
        file=sys.stderr,
    )


def _tell(detection: Detection, log) -> None:
    print(f"{detection.start:9.2f} {detection.end:9.2f}  {detection.word:<14} {detection.score:.2f}", flush=True)
    if log is not None:
        log.write(json.dumps(vars(detection)) + "\n")
        log.flush()


class _Meter:
    """One line that is drawn over: level, the words with most score, how far behind."""

    def __init__(self, spotter, shown: bool):
        self.spotter, self.shown, self.width, self.drawn = spotter, shown, 0, 0.0

    def draw(self, block: np.ndarray, seconds: float, lag: tuple[float, float]) -> None:
        if not self.shown or time.monotonic() - self.drawn < 0.05:
            return
        self.drawn = time.monotonic()
        decision = self.spotter.decision
        peak = 20 * np.log10(max(float(np.abs(block).max(initial=0)), 1.0) / audio.FULL_SCALE)
        level = "█" * round((90 + max(peak, -90)) / 6)
        best = sorted(decision.words, key=lambda i: -decision.smoothed[i])[:3]
        scores = "  ".join(f"{decision.labels[i]} {decision.smoothed[i]:.2f}" for i in best)
        late = f"  {lag[0]:.1f} s behind" * (lag[0] > 0.3) + f"  {lag[1]:.1f} s dropped" * (lag[1] > 0)
        line = f"{seconds:8.1f} s {level:<15} {peak:4.0f} dB  {scores}{late}"
        sys.stderr.write("\r" + line.ljust(self.width))
        sys.stderr.flush()
        self.width = len(line)

    def clear(self) -> None:
        if self.shown:
            sys.stderr.write("\r" + " " * self.width + "\r")
            sys.stderr.flush()


@contextmanager
def _source(cfg: DictConfig, target: int):
    """Yields (rate, blocks of samples in int16 units, a function that says seconds waiting and dropped)."""
    nothing = lambda: (0.0, 0.0)  # noqa: E731
    if cfg.input is None:
        with _microphone(cfg, target) as opened:
            yield opened
    elif str(cfg.input) == "-":
        rate = cfg.rate or target
        yield rate, _pipe(sys.stdin.buffer, round(rate * cfg.chunk_ms / 1000)), nothing
    else:
        samples, rate = audio.read(str(cfg.input), channel=cfg.channel)
        size = round(rate * cfg.chunk_ms / 1000)
        yield rate, (samples[at : at + size] for at in range(0, len(samples), size)), nothing


def _pipe(stream, size: int) -> Iterator[np.ndarray]:
    while data := stream.read(2 * size):
        yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32)


def _sounddevice():
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise KwsError(
            f"no microphone: {error}. PortAudio is missing (Debian: apt install libportaudio2), or use input=FILE"
        ) from None
    return sounddevice


@contextmanager
def _microphone(cfg: DictConfig, target: int):
    sd = _sounddevice()
    waiting: queue.Queue = queue.Queue()
    counts = {"waiting": 0, "dropped": 0}

    def arrived(data, frames, _time, status) -> None:
        if status.input_overflow:
            counts["dropped"] += frames
        if counts["waiting"] > BACKLOG_S * rate:
            counts["dropped"] += frames
        else:
            counts["waiting"] += frames
            waiting.put(np.frombuffer(bytes(data), np.int16)[channels - 1 :: channels].astype(np.float32))

    def blocks() -> Iterator[np.ndarray]:
        while True:
            try:
                block = waiting.get(timeout=DEVICE_SILENT_S)
            except queue.Empty:
                raise KwsError(SILENT) from None
            counts["waiting"] -= len(block)
            yield block

    try:
        info = sd.query_devices(cfg.device, "input")
        channels = min(cfg.channel + 1, info["max_input_channels"])
        rate = cfg.rate or target
        try:
            sd.check_input_settings(device=cfg.device, samplerate=rate, channels=channels, dtype="int16")
        except sd.PortAudioError as error:
            if cfg.rate:
                raise KwsError(
                    f"microphone {info['name']!r} does not record at {rate} Hz ({error}): leave rate out"
                ) from None
            rate = int(info["default_samplerate"])
        stream = sd.RawInputStream(
            samplerate=rate, blocksize=round(rate * cfg.chunk_ms / 1000), device=cfg.device, channels=channels,
            dtype="int16", callback=arrived,
        )  # fmt: skip
        stream.start()
    except (sd.PortAudioError, ValueError) as error:
        raise KwsError(
            f"no microphone can be opened ({error}); device=list shows what there is, input=FILE reads a file"
        ) from None
    try:
        yield rate, blocks(), lambda: (counts["waiting"] / rate, counts["dropped"] / rate)
    finally:
        closer = threading.Thread(target=stream.close, kwargs={"ignore_errors": True}, daemon=True)
        closer.start()
        closer.join(DEVICE_SILENT_S)
        if closer.is_alive():  # a sound server that hangs would keep PortAudio, and us, for ever
            print(f"error: {SILENT}", file=sys.stderr, flush=True)
            os._exit(2)


if __name__ == "__main__":
    main()
