"""Folders that are made, files that are written whole or not at all, and locks."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from kws.errors import KwsError

try:
    import fcntl
except ImportError:  # Windows: a second run on the same folder is not noticed
    fcntl = None


def make_folder(name: str, path: str | Path) -> Path:
    """The folder `path`, which the setting `name` asks for, made with those above it where it is not there.

    Raises:
        KwsError: it cannot be made, or not be written to.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KwsError(f"{name}: {path} cannot be made ({error.strerror})") from None
    if not os.access(path, os.W_OK):
        raise KwsError(f"{name}: {path} cannot be written")
    return Path(path)


def write(name: str, path: str | Path, content: bytes) -> None:
    """A whole file, which the setting `name` asks for, in a folder that is made where it is not there.

    Raises:
        KwsError: it cannot be written.
    """
    make_folder(name, Path(path).parent)
    try:
        with replacing(path, shared=True) as part:
            part.write_bytes(content)
    except OSError as error:
        raise KwsError(f"{name}: {path} cannot be written ({error.strerror or error})") from None


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


@contextlib.contextmanager
def locked(path: Path, other: str = "output") -> Iterator[None]:
    """Holds a lock, whose file has the process's number in it and is gone at the end.

    The lock itself is the system's, which frees it when the process ends, however: a file that was left says nothing.

    Raises:
        KwsError: another process holds it; `other` is the setting that gives another folder.
    """
    if fcntl is None:
        yield
        return
    while True:
        file = open(path, "a+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = f"process {pid}" if (pid := file.read().strip()) else "another process"
            file.close()
            raise KwsError(f"{path.parent}: in use by {who}: wait for its end, or choose another {other}") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                break
        file.close()  # the one before ended just now, and took its file away
    os.register_at_fork(after_in_child=file.close)  # or a child that outlives this process would hold it
    with file:
        file.truncate(0)
        try:
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)
