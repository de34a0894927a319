"""Extraction that is killed, that runs out of disk, that is started twice: it says so, and loses nothing."""

import contextlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT

from kws.errors import KwsError
from kws.extract import extract
from kws.features import make_options
from kws.features.kaldi_io import read_matrix, read_scp
from kws.features.store import FeatureFolder
from kws.files import locked

OPTIONS = make_options("fbank", num_mel_bins=40)
SETTINGS = {"format": "ark", "features": {}}
NOISE = (np.random.default_rng(12).standard_normal(40_000) * 3000).astype("<i2").tobytes()


def write(path: Path, samples: int, start: int) -> None:
    """A wav of 16 kHz; faster than soundfile for tens of thousands of them."""
    body = NOISE[2 * start : 2 * (start + samples)]
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(body), b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16,
                         b"data", len(body))  # fmt: skip
    path.write_bytes(header + body)


def sounds(root: Path, count: int, broken: int = 50) -> Path:
    """Tiny files in folders, one in `broken` cut short."""
    for i in range(count):
        folder = root / f"{i % 37:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"{i}.wav", 400 + 80 * (i % 7), start=i)
        if i % broken == 7:
            os.truncate(folder / f"{i}.wav", i % 100)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an output, its own name taken out so that two can be compared."""
    return {p.name: p.read_bytes().replace(os.fsencode(folder), b"OUT") for p in folder.iterdir()}


def start(*arguments, **options) -> subprocess.Popen:
    line = [sys.executable, "-m", "kws.extract", *map(os.fspath, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "format"), [(0, "npy"), (2, "ark")])
def test_twenty_thousand_files_killed_at_random_until_done(tmp_path, workers, format):
    root, out, draw = sounds(tmp_path / "in", 20_000), tmp_path / "out", random.Random(workers)
    extract(root, tmp_path / "undisturbed", OPTIONS, format)
    undisturbed = contents(tmp_path / "undisturbed")
    data, size, killed, code = out / f"feats.{format}", len(undisturbed[f"feats.{format}"]), 0, None
    while code is None:
        process = start(f"input={root}", f"output={out}", f"format={format}", f"workers={workers}")
        before = data.stat().st_size if data.exists() else 0
        until = before + draw.uniform(0.01, 0.12) * size if draw.random() < 0.8 else before  # or while it begins
        deadline = time.monotonic() + 100
        while process.poll() is None and (data.stat().st_size if data.exists() else 0) < until:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03) if until > before else draw.uniform(0, 1))
        process.kill()
        process.communicate(timeout=60)  # the workers end too: nobody holds the pipes any more
        code = None if process.returncode == -signal.SIGKILL else process.returncode
        killed += code is None
    assert code == 1  # files failed
    assert killed >= 3  # a fast machine leaves little time between
    assert contents(out) == undisturbed


@pytest.fixture
def few(tmp_path):
    """A folder of sounds, and the undisturbed output in every format."""
    root = sounds(tmp_path / "in", 300)
    for format in ("ark", "npy"):
        extract(root, tmp_path / format, OPTIONS, format)
    return root, {format: contents(tmp_path / format) for format in ("ark", "npy")}


@contextlib.contextmanager
def files_of_at_most(n_bytes: int):
    """A disk that is full, as far as this process can see."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def keys_and_frames(folder: Path, format: str) -> dict[str, bytes]:
    if format == "ark":
        return {key: read_matrix(where).tobytes() for key, where in read_scp(folder / "feats.scp")}
    frames = np.load(folder / "feats.npy", mmap_mode="r")
    rows = map(json.loads, (folder / "utts.jsonl").read_text().splitlines())
    return {row["key"]: frames[row["start"] :][: row["frames"]].tobytes() for row in rows}


@pytest.mark.parametrize("format", ["ark", "npy"])
@pytest.mark.parametrize("seed", range(3))
def test_no_room_for_another_byte_again_and_again(few, tmp_path, format, seed):
    root, undisturbed = few
    out, draw, stopped = tmp_path / "out", random.Random(seed), 0
    sizes = {0, 1, 100, *(draw.randrange(2 * len(content)) for content in undisturbed[format].values())}
    sizes |= {draw.randrange(len(undisturbed[format][f"feats.{format}"])) for _ in range(8)}
    for size in sorted(sizes):
        with files_of_at_most(size), contextlib.suppress(KwsError):
            try:
                extract(root, out, OPTIONS, format)
            except KwsError as error:
                stopped += "File too large; once there is room the same command goes on" in str(error)
                raise
    assert stopped > 8
    assert extract(root, out, OPTIONS, format) == 6
    assert contents(out) == undisturbed[format]


@pytest.fixture
def disk(tmp_path):
    """A file system of 48 KiB, and a function that makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=48k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder, lambda size: subprocess.run([*mount, f"remount,size={size}", "tmpfs", folder], check=True)
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("format", ["ark", "npy"])
def test_a_full_disk_is_said_and_loses_nothing(few, disk, format):
    root, undisturbed = few
    folder, enlarge = disk
    out, kept = folder / "out", {}
    for size in ("48k", "64k", "64k", "96k"):
        enlarge(size)
        with pytest.raises(KwsError, match=f"{out}: No space left on device; once there is room the same command"):
            extract(root, out, OPTIONS, format)
        found = keys_and_frames(out, format)
        assert found.items() >= kept.items()
        for line in (out / "failed.jsonl").read_text().splitlines():
            json.loads(line)
        kept = found
    assert kept
    enlarge("8m")
    process = start(f"input={root}", f"output={out}", f"format={format}", "workers=0")
    assert "going on after" in process.communicate(timeout=100)[0]
    assert process.returncode == 1  # files failed
    assert contents(out) == undisturbed[format]


def test_the_second_run_on_one_folder_is_refused_with_the_first_ones_number(few, tmp_path):
    root, undisturbed = few
    out = tmp_path / "out"
    code = "import sys, time; from kws.features.store import FeatureFolder\n"
    code += f"folder = FeatureFolder(sys.argv[1], 40, {SETTINGS}); print(1, flush=True); time.sleep(100)"
    first = subprocess.Popen([sys.executable, "-c", code, out], cwd=ROOT, stdout=subprocess.PIPE)
    first.stdout.readline()
    second = start(f"input={root}", f"output={out}", "workers=0")
    errors = second.communicate(timeout=100)[1]
    assert second.returncode == 2
    assert errors.strip() == f"error: {out}: in use by process {first.pid}: wait for its end, or choose another output"
    first.kill()
    first.communicate()
    assert (out / ".lock").read_text() == f"{first.pid}\n"  # which says nothing any more
    assert extract(root, out, OPTIONS) == 6
    assert contents(out) == undisturbed["ark"]  # no lock among them


def test_the_number_of_a_living_process_is_no_lock(tmp_path):
    (tmp_path / ".lock").write_text(f"{os.getpid()}\n")
    folder = FeatureFolder(tmp_path, 4, SETTINGS)
    with pytest.raises(KwsError, match=f"in use by process {os.getpid()}"):
        FeatureFolder(tmp_path, 4, SETTINGS)
    folder.close()
    assert not (tmp_path / ".lock").exists()
    FeatureFolder(tmp_path, 4, SETTINGS).close()


def test_one_process_at_a_time_holds_the_lock(tmp_path):
    code = """
import sys, time, contextlib
from pathlib import Path
from kws.errors import KwsError
from kws.files import locked
lock, count, done = Path(sys.argv[1], ".lock"), Path(sys.argv[1], "count"), 0
while done < 200:
    with contextlib.suppress(KwsError), locked(lock):
        n = int(count.read_text())
        time.sleep(0.0002)
        count.write_text(str(n + 1))
        done += 1
"""
    (tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT) for _ in range(3)]
    assert [process.wait(100) for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "600"
    with locked(tmp_path / ".lock"):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
