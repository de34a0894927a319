"""Programs whose standard output is a sound: the lines of a Kaldi wav.scp that end in a bar."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from kws.errors import AudioError

TIMEOUT = 600.0  # seconds that a program may take
MAX_BYTES = 1 << 32  # that it may write: no wav is longer


class Pipe(str):
    """A shell command with the bar at its end, which the user allowed to run. Whoever makes one has asked: no path and
    no line of a file becomes a Pipe by its looks."""

    __slots__ = ()


def output_of(pipe: Pipe, timeout: float = TIMEOUT) -> BinaryIO:
    """A file, at its beginning, with all that the program wrote. Kaldi: PipeInputImpl in kaldi-io.cc.

    Raises:
        AudioError: the program failed, took too long or wrote too much; `Sound` names it.
    """
    with contextlib.ExitStack() as opened:
        output = opened.enter_context(tempfile.TemporaryFile())
        with tempfile.TemporaryFile() as errors:
            if reason := _run(pipe.removesuffix("|"), output, errors, timeout):
                errors.seek(max(errors.seek(0, os.SEEK_END) - 4096, 0))
                said = errors.read().decode(errors="replace").strip().splitlines()
                raise AudioError(f"the program {reason}" + (f": {said[-1]}" if said else ""))
        output.seek(0)
        opened.pop_all()
    return output


def _run(command: str, output: BinaryIO, errors: BinaryIO, timeout: float) -> str:
    """Runs a program to its end; returns what was wrong with it, or nothing."""
    with _signals_wait() as came:
        process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
        deadline = time.monotonic() + timeout
        try:
            while process.returncode is None and not came:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(0.1, max(deadline - time.monotonic(), 0.01)))
                if sum(os.fstat(file.fileno()).st_size for file in (output, errors)) > MAX_BYTES:
                    return f"wrote more than {MAX_BYTES} bytes and was stopped"
                if process.returncode is None and time.monotonic() > deadline:
                    return f"did not end within {timeout:g} s and was stopped"
        finally:
            if process.poll() is None:
                _stop(process)
    code = process.returncode
    return f"died of signal {-code}" if code < 0 else f"exited with {code}" if code else ""


@contextlib.contextmanager
def _signals_wait() -> Iterator[list[int]]:
    """The signals that came and would end this process; they come again when the block is over. An exception in the
    midst of Popen's own work would leave a program that nobody knows, or a lock that nobody opens."""
    came, handlers = [], {}
    if threading.current_thread() is threading.main_thread():  # the others hear no signals
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                handlers[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _stop(process: subprocess.Popen) -> None:
    """Ends the shell and all that it started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
