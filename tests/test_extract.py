"""Folders of sound to features on disk: what is broken is named, what is stopped goes on, nothing is lost or twice."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from conftest import speechlike

from kws import audio, computer, utterances
from kws import extract as command
from kws.computer import Computer
from kws.errors import KwsError
from kws.extract import extract
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.features.kaldi_io import read_matrix, read_scp
from kws.features.store import ArkTable, FeatureFolder
from kws.utterances import Item, batches, walk
from kws.workers import ordered_map

ROOT = Path(command.__file__).parents[1]
OPTIONS = make_options("fbank", num_mel_bins=40)
RNG = np.random.default_rng(11)
NOISE = (RNG.standard_normal((60_000, 3)) * 3000).astype(np.int16)


def write(path, samples=8000, channels=1, rate=16000, start=0, **options) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    sound = NOISE[start : start + samples, :channels]
    soundfile.write(os.fsencode(path), sound, rate, **options)


def wav_bytes(path) -> bytes:
    write(path)
    data = Path(path).read_bytes()
    os.remove(path)
    return data


BROKEN = {
    "empty.wav": (lambda data: b"", "empty"),
    "empty.flac": (lambda data: b"", "empty"),
    "text.wav": (lambda data: b"no sound at all\n" * 50, "not a sound file"),
    "truncated.wav": (lambda data: data[:3000], "1478 of 8000 samples are there; allow_truncated=true keeps them"),
    "header.wav": (lambda data: data[:20] + b"\1\0\0\0" + data[24:], "0 channels"),
    "bits.wav": (lambda data: data[:34] + b"\7\0" + data[36:], "7-bit"),
    "no_fmt.wav": (lambda data: data[:12] + b"junk" + data[16:], "no fmt chunk"),
    "noise.mp3": (lambda data: RNG.bytes(3000), "not a sound file"),
}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A folder with sounds of every kind, and with every kind of breakage. Returns it with the reasons by file."""
    root = tmp_path_factory.mktemp("sounds")
    for i in range(40):
        write(root / f"set {i % 3}" / f"{i:02d}.wav", 4000 + 800 * (i % 4), start=i)
    write(root / "a" / "b" / "c" / "deep.flac")
    write(root / "voice.ogg")
    write(root / "voice.mp3")
    write(root / "UPPER.WAV")
    write(root / "long.wav", 60_000)
    reasons = {}
    for name, (change, reason) in BROKEN.items():
        (root / "broken").mkdir(exist_ok=True)
        (root / "broken" / name).write_bytes(change(wav_bytes(root / "x.wav")))
        reasons[f"broken/{name}"] = reason
    soundfile.write(root / "broken" / "nan.wav", np.float32([0.5] * 900 + [np.nan]), 16000, subtype="FLOAT")
    soundfile.write(root / "broken" / "loud.wav", np.float32([1e25, -1e25] * 900), 16000, subtype="FLOAT")
    write(root / "broken" / "short.wav", 399)
    write(root / "broken" / "rate.wav", rate=8000)
    write(root / "broken" / "stereo.wav", channels=2)
    os.mkfifo(root / "broken" / "pipe.wav")
    os.symlink("nowhere", root / "broken" / "link.wav")
    (root / "notes.txt").write_text("is no sound")
    reasons |= {"broken/nan.wav": "sample 900 is not a finite number", "broken/loud.wav": "features are not finite"}
    reasons |= {"broken/short.wav": "0 frames: 399 samples, a window needs 400"}
    reasons |= {"broken/rate.wav": "its rate is 8000 Hz, not 16000; resample=true"}
    reasons |= {"broken/stereo.wav": "2 channels; say which with channel=0 to 1"}
    reasons |= {"broken/pipe.wav": "not a regular file", "broken/link.wav": "No such file"}
    return root, reasons


def contents(folder) -> dict[str, bytes]:
    """Every file of an output, with its own name taken out of the scp so that two outputs can be compared."""
    return {p.name: p.read_bytes().replace(os.fsencode(folder), b"OUT") for p in Path(folder).iterdir()}


def failures(folder) -> dict[str, str]:
    rows = [json.loads(line) for line in (Path(folder) / "failed.jsonl").read_text().splitlines()]
    assert all(set(row) == {"path", "reason"} for row in rows)
    found = {row["path"]: row["reason"] for row in rows}
    assert len(found) == len(rows)
    return found


def expected(path, options=OPTIONS, channel=None) -> np.ndarray:
    samples, rate = audio.read(path, channel)
    samples = audio.resample(samples, rate, int(options.sample_frequency))
    return FeatureExtractor(options)(torch.from_numpy(samples)[None])[0][0].numpy()


def start(*arguments, **options) -> subprocess.Popen:
    line = [sys.executable, "-m", "kws.extract", *map(os.fspath, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, errors="replace", env=environment, **options)


def test_every_breakage_is_named_and_the_rest_is_done(sounds, tmp_path, capsys):
    root, reasons = sounds
    n_failed = extract(root, tmp_path / "out", OPTIONS)
    failed = failures(tmp_path / "out")
    assert n_failed == len(failed) == len(reasons)
    for name, reason in reasons.items():
        assert reason in failed[str(root / name)]
        assert str(root) not in failed[str(root / name)]  # the path is not said twice
    assert "45 files, 0.01 h, done in" in (said := capsys.readouterr().out)
    assert f"{len(reasons)} files failed: {tmp_path}/out/failed.jsonl" in said
    found = dict(kaldiio.load_scp_sequential(str(tmp_path / "out" / "feats.scp")))
    assert list(found) == sorted(found)
    assert len(found) == 45
    for path in (p for p in root.rglob("*") if p.suffix.lower() in audio.SUFFIXES and p.parent.name != "broken"):
        name = str(path.relative_to(root))
        # voice.ogg and voice.mp3 keep what tells them apart
        key = name if path.stem == "voice" else os.path.splitext(name)[0].replace(" ", "%20")
        np.testing.assert_array_equal(found.pop(key), expected(path))
    assert not found
    counts = dict(line.split() for line in (tmp_path / "out" / "utt2num_frames").read_text().splitlines())
    for key, where in read_scp(tmp_path / "out" / "feats.scp"):
        assert len(read_matrix(where)) == int(counts.pop(key))
    assert not counts


@pytest.mark.parametrize("format", ["ark", "npy"])
def test_processes_and_chunks_change_no_byte(sounds, tmp_path, format, monkeypatch):
    outputs = []
    for i, workers in enumerate((0, 2)):
        extract(sounds[0], tmp_path / str(i), OPTIONS, format, workers=workers)
        outputs.append(contents(tmp_path / str(i)))
        monkeypatch.setattr(utterances, "BATCH_FILES", 3)  # for the second run
    monkeypatch.setattr(computer, "CHUNK", 7001)
    extract(sounds[0], tmp_path / "chunks", OPTIONS, format)
    assert contents(tmp_path / "chunks") == outputs[0] == outputs[1]


def test_packed_numpy(sounds, tmp_path):
    options = make_options("mfcc", snip_edges=False)
    extract(sounds[0] / "set 1", tmp_path / "out", options, "npy")
    matrix = np.load(tmp_path / "out" / "feats.npy", mmap_mode="r")
    rows = [json.loads(line) for line in (tmp_path / "out" / "utts.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [f"{i:02d}" for i in range(1, 40, 3)]
    for row in rows:
        frames = matrix[row["start"] : row["start"] + row["frames"]]
        np.testing.assert_array_equal(frames, expected(sounds[0] / "set 1" / f"{row['key']}.wav", options))
    assert matrix.shape == (sum(row["frames"] for row in rows), 13)
    assert matrix.dtype == np.float32


def test_one_file(sounds, tmp_path):
    assert extract(sounds[0] / "voice.ogg", tmp_path, OPTIONS) == 0
    [(key, where)] = read_scp(tmp_path / "feats.scp")
    assert key == "voice"
    np.testing.assert_array_equal(read_matrix(where), expected(sounds[0] / "voice.ogg"))


def test_rates_and_channels(tmp_path, capsys):
    for i, (rate, channels) in enumerate([(16000, 1), (8000, 1), (44100, 2), (48000, 3), (16000, 2)]):
        write(tmp_path / "in" / f"{i}.wav", rate=rate, channels=channels)
    assert extract(tmp_path / "in", tmp_path / "out", OPTIONS, channel=0, resample=True) == 0
    assert "3 files were resampled to 16000 Hz" in capsys.readouterr().out
    for key, where in read_scp(tmp_path / "out" / "feats.scp"):
        np.testing.assert_array_equal(read_matrix(where), expected(tmp_path / "in" / f"{key}.wav", channel=0))
    assert extract(tmp_path / "in", tmp_path / "second", OPTIONS, channel=1, resample=True) == 2
    assert "has no channel 1, only 0 to 0" in failures(tmp_path / "second")[str(tmp_path / "in" / "0.wav")]


def test_truncated_sound_is_kept_when_asked(sounds, tmp_path):
    assert extract(sounds[0] / "broken" / "truncated.wav", tmp_path, OPTIONS, allow_truncated=True) == 0
    [(_, where)] = read_scp(tmp_path / "feats.scp")
    assert len(read_matrix(where)) == 1 + (1478 - 400) // 160


AWKWARD = [
    "a.wav",
    "a.flac",
    "a.x.wav",
    "a b.wav",
    "a%20b.wav",
    "a!.wav",
    "a-b.wav",
    "a/z.wav",
    "a.wav.wav",
    "b.wav.ogg",
]
AWKWARD += [
    "b.wav",
    "é.wav",
    "z\u00a0.wav",
    "日本.ogg",
    "B.WAV",
    "dir.wav/in.mp3",
    "a b/c.wav",
    "a!/c.wav",
    ".hidden/h.au",
]
AWKWARD += [
    "line\nbreak.wav",
    "tab\t.wav",
    "q'\"$().wav",
    "emoji😀.wav",
    "e.flac",
    "e.FLAC",
    os.fsdecode(b"\xff\xe9.wav"),
]


def touch(root: Path, names) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_keys_are_distinct_sorted_and_without_whitespace(tmp_path):
    touch(tmp_path, [*AWKWARD, "notes.txt", "wav", ".wav"])
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "a b")
    items = list(walk(str(tmp_path)))
    keys = [item.key for item in items]
    hidden = [name for name in AWKWARD if os.fsencode(name).startswith(b".")]  # left out
    assert len(items) == len(AWKWARD) - len(hidden) + 1
    assert len(set(keys)) == len(keys)
    assert [os.fsencode(key) for key in keys] == sorted(os.fsencode(key) for key in keys)
    assert all(key.split() == [key] and key.encode() for key in keys)
    by_path = {os.path.relpath(item.path, tmp_path): item.key for item in items}
    assert by_path["a.wav"] == "a.wav"
    assert by_path["a.flac"] == "a.flac"
    assert by_path["a.wav.wav"] == "a.wav.wav"
    assert by_path["a b.wav"] == "a%20b"
    assert by_path["a%20b.wav"] == "a%2520b"
    assert by_path["dir.wav/in.mp3"] == "dir.wav/in"
    assert by_path["other/c.wav"] == "other/c"
    assert by_path[os.fsdecode(b"\xff\xe9.wav")] == "%FF%E9"
    assert by_path["é.wav"] == "é"


def test_random_trees_are_walked_in_the_order_of_their_keys(tmp_path):
    draw = random.Random(7)
    for tree in range(20):
        root = tmp_path / str(tree)
        names = set()
        for _ in range(draw.randrange(1, 40)):
            parts = ["".join(draw.choices("ab .-!%/é0", k=draw.randrange(1, 4))).strip("/. ") for _ in range(3)]
            names.add("/".join(part for part in parts if part.strip("/.")) + draw.choice([".wav", ".flac", ".ogg"]))
        touch(root, [name.replace("//", "/").lstrip("/") for name in names if not name.startswith(".")])
        keys = [item.key for item in walk(str(root))]
        assert keys == sorted(keys)
        assert len(set(keys)) == len(keys) == sum(p.is_file() for p in root.rglob("*"))


def test_the_walk_is_lazy(tmp_path, monkeypatch):
    touch(tmp_path, [f"{i}/a.wav" for i in range(9)])
    scanned, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scandir(path))
    items = walk(str(tmp_path))
    next(items)
    assert scanned == [str(tmp_path), str(tmp_path / "0")]


def test_a_folder_too_deep_for_the_system_is_named(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("a.wav", os.O_CREAT, dir_fd=here))
    os.close(here)
    touch(tmp_path, ["e.wav"])
    too_deep, other = walk(str(tmp_path))
    assert "the folder cannot be listed (File name too long)" in too_deep.reason
    assert other.key == "e"
    shutil.rmtree(tmp_path / ("d" * 200))


def test_tasks_are_bounded_in_files_and_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(utterances, "BATCH_BYTES", 100)
    for i in range(40):
        (tmp_path / f"{i:02d}.wav").write_bytes(bytes(100 if i >= 36 else 1))
    assert [len(batch) for batch in batches(walk(str(tmp_path)))] == [32, 5, 1, 1, 1]


class DeadlyChannel(int):
    """A channel that kills the process that asks it about a file with three."""

    def __lt__(self, n_channels):
        if n_channels == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return int(self) < n_channels


def test_a_worker_that_dies_takes_one_file_with_it(tmp_path):
    for i in range(24):
        write(tmp_path / f"{i:02d}.wav", channels=3 if i in (5, 6) else 1)
    items = [Item(path.stem, str(path)) for path in sorted(tmp_path.glob("*.wav"))]
    tasks = [items[at : at + 8] for at in range(0, 24, 8)]
    work = ordered_map(Computer, (OPTIONS, DeadlyChannel(0), False, False), tasks, 2)
    done = [pair for task, results in work for pair in zip(task, results, strict=True)]
    assert [item for item, _ in done] == items
    for i, (item, result) in enumerate(done):
        if i in (5, 6):
            assert str(result) == "the process that worked on it died (signal 9; out of memory?)"
        else:
            np.testing.assert_array_equal(result.frames, expected(item.path))


def test_workers_that_are_killed_from_outside_lose_nothing(tmp_path):
    for i in range(8):
        write(tmp_path / f"{i}.wav", start=i)
    items = list(walk(str(tmp_path)))

    def tasks():
        yield from (items[:2], items[2:4])
        for process in multiprocessing.active_children():  # one is idle, the other may be at work
            process.kill()
            process.join()
        yield from (items[4:6], items[6:])

    done = list(ordered_map(Computer, (OPTIONS, None, False, False), tasks(), 2))
    assert [item for task, _ in done for item in task] == items
    for item, result in zip(items, (result for _, results in done for result in results), strict=True):
        np.testing.assert_array_equal(result.frames, expected(item.path))
    assert not multiprocessing.active_children()


def test_why_workers_cannot_begin_is_said(tmp_path):
    options = make_options("fbank", num_mel_bins=300)
    with pytest.raises(KwsError, match=r"features: .* cover no point"):
        list(ordered_map(Computer, (options, None, False, False), [[Item("a", "/a")]] * 2, 2))


def test_what_is_done_is_not_done_again(sounds, tmp_path, capsys):
    root = tmp_path / "in"
    shutil.copytree(sounds[0] / "set 1", root)
    write(root / "z.wav", channels=2)
    assert extract(root, tmp_path / "out", OPTIONS) == 1
    before = contents(tmp_path / "out")
    assert extract(root, tmp_path / "out", OPTIONS) == 1
    assert "0 files, 0.00 h, done in" in capsys.readouterr().out
    assert contents(tmp_path / "out") == before
    write(root / "z.wav")  # repaired, and another file comes
    write(root / "a.wav")
    assert extract(root, tmp_path / "out", OPTIONS) == 1
    assert extract(root, tmp_path / "out", OPTIONS, retry_failed=True) == 0
    keys = [key for key, _ in read_scp(tmp_path / "out" / "feats.scp")]
    assert keys == sorted(p.stem for p in root.iterdir())
    write(root / "0.wav")
    capsys.readouterr()
    extract(root, tmp_path / "out", OPTIONS)
    assert "the keys that were added come before others: the index is sorted anew" in capsys.readouterr().out
    assert [key for key, _ in read_scp(tmp_path / "out" / "feats.scp")] == ["0", *keys]


def test_other_options_are_refused_by_name(sounds, tmp_path):
    root = sounds[0] / "set 1"
    extract(root, tmp_path, OPTIONS)
    before = contents(tmp_path)
    for changes, reason in [
        ({"options": make_options("fbank", num_mel_bins=23)}, r"features\.num_mel_bins: 40 -> 23"),
        ({"options": make_options("mfcc")}, r"features\.type: fbank -> mfcc"),
        ({"format": "npy"}, r"format: ark -> npy"),
        ({"channel": 0}, r"channel: None -> 0"),
        ({"resample": True}, r"resample: False -> True"),
        ({"input": sounds[0] / "set 2"}, r"input: .*set 1 -> .*set 2"),
    ]:
        with pytest.raises(KwsError, match=reason):
            extract(**({"input": root, "output": tmp_path, "options": OPTIONS} | changes))
    assert contents(tmp_path) == before
    assert json.loads(before["options.json"])["features"]["num_mel_bins"] == 40


def test_options_may_change_while_nothing_is_done(tmp_path):
    write(tmp_path / "in" / "a.wav", rate=8000)
    assert extract(tmp_path / "in", tmp_path / "out", OPTIONS) == 1
    assert extract(tmp_path / "in", tmp_path / "out", OPTIONS, "npy", resample=True) == 0
    assert sorted(contents(tmp_path / "out")) == ["failed.jsonl", "feats.npy", "options.json", "utts.jsonl"]


def test_a_second_run_at_once_is_refused(sounds, tmp_path):
    settings = {"format": "ark", "features": {}}
    holder = FeatureFolder(str(tmp_path), 40, settings)
    with pytest.raises(KwsError, match=f"{tmp_path}: in use by process {os.getpid()}"):
        extract(sounds[0], tmp_path, OPTIONS)
    holder.close()


def test_a_full_disk_is_a_mistake_that_can_be_gone_on_from(sounds, tmp_path, monkeypatch):
    extract(sounds[0], tmp_path / "whole", OPTIONS)
    append = ArkTable.append

    def full(self, rows):
        if self.files[0].tell() > 100_000:
            self.files[0].write(b"half a record")
            raise OSError(28, "No space left on device")
        append(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(ArkTable, "append", full)
        patched.setattr(utterances, "BATCH_FILES", 8)
        with pytest.raises(KwsError, match="No space left on device; once there is room the same command goes on"):
            extract(sounds[0], tmp_path / "out", OPTIONS)
    extract(sounds[0], tmp_path / "out", OPTIONS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def invoke(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """Runs the command in this process: exit code, stdout, stderr."""
    handlers = [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(sys, "argv", ["extract", *map(str, arguments)])
    capsys.readouterr()
    try:
        command.main()
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    return code, *capsys.readouterr()


def test_paths_are_given_as_they_are(sounds, tmp_path, monkeypatch, capsys):
    root = tmp_path / "in =[x] {é} 'q', $(a)"
    shutil.copytree(sounds[0] / "set 1", root)
    for name in ("out put=[1]", "ö (2) {}", "123"):
        target = tmp_path / name
        code, said, _ = invoke(monkeypatch, capsys, f"input={root}", f"output={target}", "workers=0")
        assert code == 0
        assert str(target) in said
        assert sorted(contents(target)) == [
            "failed.jsonl",
            "feats.ark",
            "feats.scp",
            "options.json",
            "utt2dur",
            "utt2num_frames",
        ]
        for key, matrix in kaldiio.load_scp_sequential(str(target / "feats.scp")):
            np.testing.assert_array_equal(matrix, expected(root / f"{key}.wav"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([root.name, "out put=[1]", "ö (2) {}", "123"])


def test_every_option_of_the_features_is_on_the_command_line(sounds, tmp_path, monkeypatch, capsys):
    given = ["features=mfcc", "features.num_ceps=20", "features.window_type=hamming", "features.snip_edges=false"]
    code, *_ = invoke(monkeypatch, capsys, f"input={sounds[0]}/set 1", f"output={tmp_path}/out", "workers=0", *given)
    assert code == 0
    options = make_options("mfcc", num_ceps=20, window_type="hamming", snip_edges=False, use_energy=False)
    for key, where in read_scp(tmp_path / "out" / "feats.scp"):
        np.testing.assert_array_equal(read_matrix(where), expected(sounds[0] / "set 1" / f"{key}.wav", options))


MISTAKES = {
    "input=None: expected a path": ["input=null"],
    "there is no such file or folder": ["input=/none/such"],
    "no sound files (.aif,": ["input={tmp}/empty"],
    "format=csv: choose one of ark, npy": ["format=csv"],
    "workers=-1: expected a whole number": ["workers=-1"],
    "channel=left: expected a whole number": ["channel=left"],
    "resample=no: expected true or false": ["resample=no"],
    "fbank has no option foo": ["+features.foo=1"],
    "window_type='round': choose one of": ["features.window_type=round"],
    "cover no point": ["features.num_mel_bins=300"],
    "resampling needs a whole number of Hz": ["resample=true", "features.sample_frequency=16000.5"],
    "16000.5: resampling needs a whole": ["features.allow_upsample=true", "features.sample_frequency=16000.5"],
    "File exists": ["output={tmp}/file"],
}


@pytest.mark.parametrize("reason", MISTAKES)
def test_mistakes_are_one_line_and_exit_2(sounds, tmp_path, monkeypatch, capsys, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    given = [f"input={sounds[0]}", f"output={tmp_path}/out", "workers=0"]
    given += [argument.format(tmp=tmp_path) for argument in MISTAKES[reason]]
    code, _, errors = invoke(monkeypatch, capsys, *{a.partition("=")[0]: a for a in given}.values())
    assert code == 2
    line = errors.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert reason in line


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Sounds and breakages enough to be killed among, and the undisturbed output."""
    root = tmp_path_factory.mktemp("many")
    for i in range(300):
        # resampling makes it last
        write(root / f"{i // 50}" / f"{i:03d}.wav", 50_000 + 800 * (i % 3), rate=44_100, start=i)
        if i % 29 == 0:
            (root / f"{i // 50}" / f"{i:03d} bad.wav").write_bytes(b"RIFF")
    extract(root, root.parent / "undisturbed", OPTIONS, resample=True)
    return root, contents(root.parent / "undisturbed")


def wait_for_size(process, path: Path, size: int) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and not (path.exists() and path.stat().st_size >= size):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_at_several_moments_and_gone_on_with(many, tmp_path):
    root, undisturbed = many
    size, out, killed = len(undisturbed["feats.ark"]), tmp_path / "out", 0
    for share, number in ((0.0, signal.SIGKILL), (0.1, signal.SIGKILL), (0.2, signal.SIGTERM), (0.4, signal.SIGINT)):
        process = start(f"input={root}", f"output={out}", "workers=2", "resample=true")
        wait_for_size(process, out / "feats.ark", int(share * size))
        process.send_signal(number)
        said, errors = process.communicate(timeout=60)  # ends when no worker holds the pipe any more
        killed += process.returncode in (-9, 143, 130)
        if process.returncode in (143, 130):
            assert "the same command goes on from there" in said
        assert "Traceback" not in errors
    assert killed >= 3
    done = sum(1 for _ in read_scp(out / "feats.scp"))
    assert 60 <= done < 300  # stopped on the way
    process = start(f"input={root}", f"output={out}", "workers=2", "resample=true")
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 1  # files failed
    assert "going on after" in said
    assert "11 files failed" in said
    assert "times real time" in errors  # plain lines where there is no terminal
    assert "\r" not in errors
    assert contents(out) == undisturbed


@pytest.mark.slow
def test_memory_does_not_grow_with_the_sound(tmp_path):
    """An hour of sound in many files needs no more than a little of it does."""
    write(tmp_path / "in" / "a.wav", 16_000)
    for i in range(3600):
        os.link(tmp_path / "in" / "a.wav", tmp_path / "in" / f"{i:04d}.wav")
    extract(tmp_path / "in", tmp_path / "warm", OPTIONS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    extract(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("format", ["ark", "npy"])
def test_a_picture_of_the_first_file(tmp_path, format, capsys):
    for name in ("b", "a"):
        audio.write(tmp_path / f"{name}.wav", speechlike(8000), 16000)
    extract(str(tmp_path), str(tmp_path / "out"), make_options(), format, plot=True)
    assert (tmp_path / "out" / "first.png").read_bytes()[:4] == b"\x89PNG"
    assert "first.png shows a: waveform" in capsys.readouterr().out
