"""Trained spotters that come with kws, each with its card: `<name>.onnx` and `<name>.md`; and checkpoints to begin
training from, `<name>.pt`. No torch here."""

import os
from pathlib import Path

from kws.errors import KwsError

FOLDER = Path(__file__).resolve().parent


def find(given: str, suffix: str = ".onnx") -> str:
    """The path of a spotter that is given by name ("computer"), or of a checkpoint (`suffix` ".pt"); whatever else may
    be a path is returned as it is.

    Raises:
        KwsError: there is neither such a file nor such a name.
    """
    if os.path.exists(given) or not given.isidentifier():
        return given
    names = sorted(path.stem for path in FOLDER.glob(f"*{suffix}"))
    if given not in names:
        what = "spotter" if suffix == ".onnx" else "checkpoint"
        raise KwsError(f"no file or run {given!r}, and no {what} comes with kws by that name: {', '.join(names)}")
    return str(FOLDER / f"{given}{suffix}")


def beside(found: str) -> Path:
    """The folder for what is written about a run or file: its own; the working one, if the file comes with kws."""
    path = Path(found)
    folder = path if path.is_dir() else path.parent
    return Path() if folder.resolve() == FOLDER else folder


def find_all(given: str) -> list[str]:
    """The spotters of `a.onnx`, `a.onnx,b.onnx` or `[a.onnx,b.onnx]`, each as `find` takes it."""
    if os.path.exists(given):
        return [given]
    inside = given[1:-1] if given.startswith("[") and given.endswith("]") else given
    return [find(path.strip()) for path in inside.split(",")]
