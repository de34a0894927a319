"""Commands in processes of their own that begin with torch already imported, which saves each of them seconds."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
forks = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
forks.set_forkserver_preload(["kws.training.start", "kws.runtime", "kws.alarms", "tensorboard", "matplotlib.pyplot"])


def start(files: list[Path], *arguments: str, cwd: Path = ROOT, module: str = "kws.train", **environment: str):
    """Begins `python -m module arguments`, with standard input, output and error in three files."""
    process = forks.Process(
        target=_command, args=(module, list(map(str, arguments)), str(cwd), files, os.environ | environment)
    )
    process.start()
    return process


def run(
    *arguments: str, cwd: Path = ROOT, module: str = "kws.train", check: bool = True, given: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments`, with `given` on its standard input."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("in", "out", "err")]
        files[0].write_bytes(given)
        process = start(files, *arguments, cwd=cwd, module=module)
        process.join()
        out, error = (file.read_text() for file in files[1:])
    if check and process.exitcode != 0:
        raise AssertionError(f"{module} {' '.join(arguments)} exited with {process.exitcode}:\n{out}{error}")
    return subprocess.CompletedProcess(arguments, process.exitcode, out, error)


def _command(module: str, arguments: list[str], cwd: str, files: list[Path], environment: dict[str, str]) -> None:
    for number, (file, mode) in enumerate(zip(files, ("rb", "wb", "wb"), strict=True)):
        with open(file, mode) as opened:
            os.dup2(opened.fileno(), number)
    sys.stdin = os.fdopen(0)  # which a child of multiprocessing has none of
    os.chdir(cwd)
    os.environ.update(environment)  # as it is now, not as it was when the first of them began
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.path[0:0] = [str(ROOT)]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
