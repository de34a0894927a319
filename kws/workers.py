"""An ordered map over processes, for work that may kill the process that does it.

Not multiprocessing.Pool, which draws all tasks at once and waits for ever for those that a killed process had in hand;
nor concurrent.futures, which gives up all that is under way when one process dies, and whose processes outlive a main
process that is killed. Here each process is at the end of a pipe of its own: it ends with the main process, however
that ends, and when it dies (out of memory, a crash in a decoder) nothing is lost but the item that it died of.
"""

import contextlib
import itertools
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, get_context

import numpy as np

from kws.errors import KwsError

IN_FLIGHT = 4  # tasks for each process, under way or waiting for an earlier one's turn
LARGE = 1 << 20  # bytes: arrays of more are sent in pieces of so many, and need no second room on their way


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Died(Exception):
    """Stands for the result of an item that a process died of, tried alone; says how the process ended."""


def ordered_map(
    make: Callable[..., Callable[[list], list]], arguments: tuple, tasks: Iterable[list], count: int
) -> Iterator[tuple[list, list]]:
    """Every task, a list of items and never empty, with a result for each item; in the order of the tasks.

    Args:
        make: called as `make(*arguments)` in each process, for the function from items to results.
        tasks: drawn when there is a process for them.
        count: processes. This one does it all where that is 0, and a single task: it is not worth another process.

    Raises:
        KwsError: a process ended before it began.
        Exception: what `make` raises.

    The processes end with the generator: exhaust or close it.
    """
    tasks = iter(tasks)
    first = list(itertools.islice(tasks, max(count, 2)))
    tasks = itertools.chain(first, tasks)
    if count and len(first) > 1:
        yield from _in_processes(make, arguments, tasks, min(count, len(first)))
    elif first:
        function = make(*arguments)
        for items in tasks:
            yield items, function(items)


def _in_processes(make, arguments, tasks, count) -> Iterator[tuple[list, list]]:
    workers = []
    try:
        for _ in range(count):
            workers.append(_Worker(make, arguments))
        for worker in workers:  # they begin side by side
            worker.wait_until_begun()
        idle, running, queue = list(workers), {}, deque()  # the queue's results are empty while they are not there
        while True:
            while idle and len(queue) < IN_FLIGHT * count and (items := next(tasks, None)):
                queue.append((items, []))
                worker = idle.pop()
                worker.send(items)
                running[worker.pipe] = worker, *queue[-1]
            if queue and queue[0][1]:
                yield queue.popleft()
            elif running:
                for pipe in connection.wait(list(running)):
                    worker, items, results = running.pop(pipe)
                    results += worker.receive(items)
                    idle.append(worker)
            else:
                return
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


class _Worker:
    """A process that turns lists of items into lists of results, and another one where that died."""

    def __init__(self, make: Callable, arguments: tuple):
        self.make, self.arguments = make, arguments
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # a fork would hold the pipes of those before it, and the locks of threads
        self.pipe, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self.make, self.arguments), daemon=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which it inherits: Ctrl-C is for the main process
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        there.close()
        self.process = process

    def wait_until_begun(self) -> None:
        try:
            error = self.pipe.recv()
        except (EOFError, OSError):
            raise KwsError("a worker process ended before it began; workers=0 works without") from None
        if error:
            raise error

    def send(self, items: list) -> None:
        with contextlib.suppress(OSError):  # it died while it was idle, which `receive` will find
            self.pipe.send(items)

    def receive(self, items: list) -> list:
        """The results of the items that were sent."""
        try:
            return _receive(self.pipe)
        except (EOFError, OSError):
            self._replace()
        results = []
        for item in items:
            self.send([item])
            try:
                results += _receive(self.pipe)
            except (EOFError, OSError):
                results.append(Died(f"the process that worked on it died ({self._replace()})"))
        return results

    def _replace(self) -> str:
        """Starts another process; returns what this one died of."""
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode
        self._start()
        self.wait_until_begun()
        return f"exit code {code}" if code >= 0 else f"signal {-code}; out of memory?"


def _serve(pipe: connection.Connection, make: Callable, arguments: tuple) -> None:
    """The life of a process: says whether it can begin (None, or the error), then turns items into results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it ends what it began, as a program it runs
    with contextlib.suppress(EOFError, OSError):  # the main process is gone
        try:
            function = make(*arguments)
        except Exception as error:
            pipe.send(error)
            return
        pipe.send(None)
        while True:
            _send(pipe, function(pipe.recv()))


def _send(pipe: connection.Connection, results: list) -> None:
    """Sends what `_receive` returns at the other end."""
    arrays = []
    pickled = pickle.dumps(results, 5, buffer_callback=lambda a: a.raw().nbytes < LARGE or arrays.append(a.raw()))
    pipe.send(([array.nbytes for array in arrays], pickled))
    for array in arrays:
        for at in range(0, array.nbytes, LARGE):
            pipe.send_bytes(array[at : at + LARGE])


def _receive(pipe: connection.Connection) -> list:
    sizes, pickled = pipe.recv()
    arrays = [np.empty(size, np.uint8) for size in sizes]
    for array in arrays:
        for at in range(0, len(array), LARGE):
            pipe.recv_bytes_into(array[at : at + LARGE])
    return pickle.loads(pickled, buffers=arrays)
