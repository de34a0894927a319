"""A contender in a process of its own, which is asked to make something ready and to measure it, again and again.

In one process contenders would change each other's figures: an allocator that has learned from one peer's large arrays
spares the next one page faults, which nearly doubled the speed of torchaudio on a minute of sound.
"""

import contextlib
import signal
import time
from collections.abc import Callable
from multiprocessing import connection, get_context

import numpy as np
import torch

from kws.benchmarks.peers import CONTENDERS, RATE, contenders, options_of, scaled

HOP = RATE // 100
FINE = time.get_clock_info("process_time").resolution < 1e-5
CPU = time.process_time if FINE else time.perf_counter  # seconds


class Isolated:
    """Calls methods of a `Worker` elsewhere. `ask` and `answer` are the halves of `call`, for several at once."""

    def __init__(self, name: str, sound: np.ndarray):
        context = get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, name, sound), daemon=True)
        self.process.start()
        there.close()

    def ask(self, method: str, *arguments) -> None:
        with contextlib.suppress(OSError):  # it is dead, which `answer` will find
            self.pipe.send((method, arguments))

    def answer(self):
        """What the method returned; None if the process died, of too little memory probably."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return None

    def call(self, method: str, *arguments):
        self.ask(method, *arguments)
        return self.answer()

    def close(self) -> None:
        self.pipe.close()
        self.process.join()


def _serve(pipe: connection.Connection, name: str, sound: np.ndarray) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the main process
    torch.set_num_threads(1)
    worker = Worker(name, sound)
    with torch.inference_mode(), contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = pipe.recv()
            pipe.send(getattr(worker, method)(*arguments))


class Worker:
    """Measures one contender on a sound that is repeated as often as needed."""

    def __init__(self, name: str, sound: np.ndarray):
        self.name, self.sound, self.start = name, sound, None

    def missing(self) -> str:
        """Why this contender cannot be measured; empty if it can."""
        return contenders("fbank-80", [self.name])[1].get(self.name, "")

    def _compute(self, kind: str) -> Callable | None:
        return contenders(kind, [self.name])[0].get(self.name)

    def ready_for_waves(self, kind: str, count: int, batch: int, n_samples: int, warm: bool) -> bool:
        """To compute `count` arrays (batch, n_samples) one after another. False if there are no such features."""

        def run() -> None:
            for wave in waves:
                compute(wave)

        self.start = None  # frees the waves before these
        if (compute := self._compute(kind)) is None:
            return False
        waves = scaled(self.name, np.resize(self.sound, (count, batch, n_samples)))
        self.start = lambda: run
        if warm:
            run()
        return True

    def ready_for_stream(self, kind: str, hops: int, n_samples: int) -> bool:
        """To push a stream of `n_samples`, `hops` at a time. False if this contender has no streams."""

        def start() -> Callable:
            def run() -> None:
                for chunk in chunks:
                    push(chunk)

            push = begin()
            return run

        if CONTENDERS[self.name].stream is None:
            return False
        begin = CONTENDERS[self.name].stream(options_of(kind))
        chunks = np.split(np.resize(self.sound, n_samples), range(hops * HOP, n_samples, hops * HOP))
        self.start = start
        start()()
        return True

    def measure(self) -> float:
        """Seconds of this process's CPU time for what was made ready."""
        run = self.start()
        began = CPU()
        run()
        return CPU() - began

    def frames(self, kind: str, wave: np.ndarray) -> np.ndarray | None:
        """Of a wave (n,) in int16 units: (frames, dim)."""
        compute = self._compute(kind)
        return None if compute is None else np.asarray(compute(scaled(self.name, wave[None]))[0])
