"""The microphone, through PortAudio: it may be unplugged and plugged in again."""

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from kws.errors import KwsError, check_number

SILENT_S = 3.0  # without a block for this long the microphone is gone
RETRY_S = 1.0  # between attempts to open it again
CLOSE_S = 1.0  # that closing may take
BACKLOG_S = 2.0  # sound that may wait; what comes on top is dropped, and said
SILENT = f"the microphone gave no sound for {SILENT_S:g} s: unplugged, or taken by another program?"
GONE = "the microphone is gone: unplugged?"


def sounddevice():
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise KwsError(
            f"no microphone: {error}. PortAudio is missing (Debian: apt install libportaudio2), or use input=FILE"
        ) from None
    return sounddevice


class Microphone:
    """A microphone as sessions: stretches of unbroken sound, each its own stream.

    Args:
        device: number or part of a name; None: the system's.
        rate: in Hz; None: `target`, or else the device's own.
        channel: of a device with several.
        chunk_ms: length of a block.
        wait_s: how long to wait for a microphone that is gone; None: for ever.

    Raises:
        KwsError: `wait_s` is no time, there is no microphone, or (in `sessions`) it did not come back.
    """

    def __init__(
        self, device: int | str | None, rate: int | None, target: int, channel: int = 0, chunk_ms: float = 100.0,
        wait_s: float | None = None,
    ):  # fmt: skip
        if wait_s is not None:
            check_number("wait", wait_s, lambda seconds: seconds >= 0, "seconds, or null to wait for ever")
        self.sd = sounddevice()
        self.device, self.asked, self.target, self.channel = device, rate, target, channel
        self.chunk_s, self.wait_s = chunk_ms / 1000, wait_s
        self._blocks: queue.Queue = queue.Queue()  # None among them: the device ended the stream
        self._dropped_s, self._stream, self._attempt = 0.0, None, threading.Thread()
        self._open()

    def __enter__(self) -> "Microphone":
        return self

    def __exit__(self, _type, error, _trace) -> None:
        if not self._attempt.is_alive():
            self._start(self._close)
            self._attempt.join(CLOSE_S)
        if self._attempt.is_alive():  # a sound server that hangs would keep PortAudio, and us, for ever
            if error is not None:
                print(f"error: {error}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0 if error is None else 2)

    def lag(self) -> tuple[float, float]:
        """Seconds of sound that wait to be read, and seconds dropped so far."""
        return self._blocks.qsize() * self.chunk_s, self._dropped_s

    def sessions(self) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
        """For each session its rate and its blocks (n,) in int16 units; between two the microphone was gone."""
        first: list[np.ndarray] = []
        while True:
            yield self.rate, self._session(first)
            first = [self._back()]

    def _session(self, first: list[np.ndarray]) -> Iterator[np.ndarray]:
        yield from first
        while (block := self._next(SILENT_S)) is not None:
            yield block

    def _next(self, seconds: float) -> np.ndarray | None:
        try:
            return self._blocks.get(timeout=seconds)
        except queue.Empty:
            return None

    def _back(self) -> np.ndarray:
        """Waits until the microphone is back; its first block."""
        reason = SILENT if self._stream.active else GONE
        begun = time.monotonic()
        end = begun + (self.wait_s if self.wait_s is not None else threading.TIMEOUT_MAX / 2)
        if self.wait_s != 0:
            long = "" if self.wait_s is None else f" for {self.wait_s:g} s"
            print(f"{reason} Waiting for it{long}", file=sys.stderr, flush=True)
        while (now := time.monotonic()) < end:
            with _no_stderr():  # PortAudio and ALSA tell every failure there, each time
                self._start(self._open_again)
                try:
                    self._attempt.join(end - now)
                finally:
                    self._attempt.join(0.5)  # Ctrl-C: most attempts are over soon
            if self._attempt.is_alive():
                break
            if self._stream is not None and (block := self._next(SILENT_S)) is not None:
                print(f"the microphone is back after {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
                return block
            time.sleep(RETRY_S)
        raise KwsError(f"{reason} It was not back within wait={self.wait_s:g} s")

    def _start(self, function) -> None:
        """In a thread: PortAudio waits for a sound server that hangs, and Ctrl-C should not."""
        self._attempt = threading.Thread(target=function, daemon=True)
        self._attempt.start()

    def _open_again(self) -> None:
        self._close()
        with contextlib.suppress(self.sd.PortAudioError):  # the last attempt did not come to initialise it
            self.sd._terminate()  # PortAudio lists the devices when it begins, and never again
        with contextlib.suppress(self.sd.PortAudioError, KwsError):  # not there yet
            self.sd._initialize()
            self._open()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close(ignore_errors=True)
            self._stream = None

    def _open(self) -> None:
        sd, blocks = self.sd, queue.Queue()
        try:
            info = sd.query_devices(self.device, "input")
            channels = self.channel + 1
            if channels > info["max_input_channels"]:
                raise KwsError(f"microphone {info['name']!r} has {info['max_input_channels']} channels, the first is 0:"
                               f" no channel={self.channel}")  # fmt: skip
            rate = self.asked or self.target
            try:
                sd.check_input_settings(device=self.device, samplerate=rate, channels=channels, dtype="int16")
            except sd.PortAudioError as error:
                if self.asked:
                    raise KwsError(
                        f"microphone {info['name']!r} does not record at {rate} Hz ({error}): leave rate out"
                    ) from None
                rate = int(info["default_samplerate"])

            def arrived(data, frames, _time, status) -> None:
                if status.input_overflow:
                    self._dropped_s += frames / rate
                if blocks.qsize() * self.chunk_s > BACKLOG_S:
                    self._dropped_s += frames / rate
                else:
                    blocks.put(np.frombuffer(bytes(data), np.int16)[channels - 1 :: channels].astype(np.float32))

            stream = sd.RawInputStream(
                samplerate=rate, blocksize=round(rate * self.chunk_s), device=self.device, channels=channels,
                dtype="int16", callback=arrived, finished_callback=lambda: blocks.put(None),
            )  # fmt: skip
            stream.start()
        except (sd.PortAudioError, ValueError) as error:
            raise KwsError(
                f"no microphone can be opened ({error}); device=list shows what there is, input=FILE reads a file"
            ) from None
        if isinstance(self.device, int):  # numbers change when a device comes back, and so does the name's (hw:1,0)
            self.device = info["name"].partition(" (hw:")[0]
        self.rate, self._stream, self._blocks = rate, stream, blocks


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
