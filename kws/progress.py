"""tqdm for a terminal; the same figures as plain lines, now and then, for a file or a pipe."""

import sys

from tqdm import tqdm

PLAIN_SECONDS = 10.0  # between lines where nobody watches a bar


class _Lines:
    """A stream for tqdm that turns each redraw of the bar into a line."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> None:
        if text := text.strip("\r\n \x1b[A"):
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def progress(iterable=None, **options) -> tqdm:
    """`tqdm(iterable, **options)` on stderr, drawn for whoever reads it."""
    if sys.stderr.isatty():
        return tqdm(iterable, dynamic_ncols=True, **options)
    plain = "{desc}: {n_fmt}/{total_fmt} {elapsed} {rate_fmt}{postfix}"
    interval = {"mininterval": PLAIN_SECONDS, "maxinterval": PLAIN_SECONDS, "ncols": 0, "miniters": 1}
    return tqdm(iterable, file=_Lines(sys.stderr), bar_format=plain, **interval, **options)
