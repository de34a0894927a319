"""Files that an export writes."""

from pathlib import Path

from kws.errors import KwsError


def write(path: Path, content: bytes) -> None:
    """All or nothing.

    Raises:
        KwsError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise KwsError(f"{path}: cannot be written ({error.strerror or error})") from None
