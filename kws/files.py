"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path, shared: bool = False, durable: bool = False) -> Iterator[Path]:
    """The path of a hidden file beside `path`, of the same suffix, to write; it takes that one's place when the block
    is over, and goes where the block fails. A kill at any moment leaves what was there before or the new file.

    Args:
        shared: several processes may write `path` at once.
        durable: of a machine that loses its power, too.
    """
    path = Path(path)
    part = path.with_name(f".part{os.getpid() if shared else ''}-{path.name}")
    try:
        yield part
        if durable:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:  # there is none where it has taken the place
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
