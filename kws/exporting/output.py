"""Files that an export writes."""

from pathlib import Path

from kws.errors import KwsError
from kws.files import replacing


def write(path: Path, content: bytes) -> None:
    """All or nothing.

    Raises:
        KwsError: it cannot be written.
    """
    try:
        with replacing(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise KwsError(f"{path}: cannot be written ({error.strerror or error})") from None
