"""Data sources: the layouts they read, splits that keep speakers apart, downloads, and what they refuse."""

import hashlib
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import config
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kws.data.folder import Folder
from kws.data.kaldi import Kaldi
from kws.data.manifest import Manifest, read_manifest, write_manifest
from kws.data.source import SILENCE, SPLITS, UNKNOWN, Clip, Source, hash_split, silence_clips, speaker_of, split_by_time
from kws.data.speech_commands import ALL, TASKS, TEN, SpeechCommands
from kws.errors import KwsError

# File names of Speech Commands v2 and the split that the published lists give them
PUBLISHED = {
    "validation": ["067f61e2_nohash_0", "5fadb538_nohash_3", "44c201dd_nohash_0", "ce0cb033_nohash_3"],
    "train": ["0165e0e8_nohash_0", "422f8cf1_nohash_1", "070b49af_nohash_0", "b01c8f61_nohash_0", "01d22d03_nohash_0"],
}
SPEAKERS = {split: [name.split("_")[0] for name in names] for split, names in PUBLISHED.items()}
SPEAKERS["test"] = [s for s in (f"{n:08x}" for n in range(100)) if hash_split(s) == "test"][:3]


def sound(path, seconds=0.02):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    soundfile.write(path, (rng.standard_normal(int(16000 * seconds)) * 3000).astype(np.int16), 16000, subtype="PCM_16")


def corpus(root, words=TEN, takes=2, speakers=SPEAKERS, noise=True, lists=False):
    """The layout of Speech Commands with `takes` clips of every word by every speaker."""
    listed = {split: [] for split in SPLITS}
    sound(root / words[0] / "take.wav")
    for word in words:
        (root / word).mkdir(exist_ok=True)
        for split in speakers:
            for speaker in speakers[split]:
                for take in range(takes):
                    name = f"{word}/{speaker}_nohash_{take}.wav"
                    shutil.copy(root / words[0] / "take.wav", root / name)
                    listed[split].append(name)
    (root / words[0] / "take.wav").unlink()
    if noise:
        for name, seconds in (("pink", 4), ("white", 3)):
            sound(root / "_background_noise_" / f"{name}.wav", seconds)
        (root / "_background_noise_" / "README.md").write_text("not sound")
    if lists:
        (root / "validation_list.txt").write_text("".join(f"{name}\n" for name in listed["validation"]))
        (root / "testing_list.txt").write_text("".join(f"{name}\n" for name in listed["test"]))
    return root


def counts(source, split):
    return Counter(clip.label for clip in source.clips(split))


def speakers_of(clips):
    return {os.path.basename(clip.path).split("_nohash_")[0] for clip in clips if clip.label != SILENCE}


# ---- what all sources share


def test_hash_split_is_the_published_one():
    for split, names in PUBLISHED.items():
        assert {name: hash_split(speaker_of(f"{name}.wav")) for name in names} == dict.fromkeys(names, split)
    shares = Counter(hash_split(str(n)) for n in range(5000))
    assert all(abs(shares[split] - 500) < 80 for split in ("validation", "test"))
    assert speaker_of("go/a.b_nohash_1.wav") == "a.b"
    assert speaker_of("go/me.wav") == "go/me"


def test_background_is_cut_by_time_and_silence_holds_some_of_each(tmp_path):
    sound(tmp_path / "a.wav", 20)
    sound(tmp_path / "b.wav", 30)
    stretches = [split_by_time(tmp_path / "b.wav", split) for split in SPLITS]
    assert [(round(s.start, 6), round(s.end, 6)) for s in stretches] == [(0, 24), (24, 27), (27, 30)]
    part = split_by_time(tmp_path / "b.wav", "validation", start=10.0, end=20.0)
    assert (round(part.start, 6), round(part.end, 6)) == (18, 19)
    noise = [split_by_time(tmp_path / name, "test") for name in ("a.wav", "b.wav")]
    cuts = silence_clips(noise, 5, 1.0, "test")
    assert Counter(os.path.basename(cut.path) for cut in cuts) == {"a.wav": 3, "b.wav": 2}
    assert all(cut.start >= 27 and cut.end <= 30 and cut.end - cut.start == pytest.approx(1) for cut in cuts[1::2])
    with pytest.raises(KwsError, match=r"a\.wav.*from 25"):
        split_by_time(tmp_path / "a.wav", "train", start=25.0)


class Listed(Source):
    def listed(self):
        rows = [Clip(f"{label}/{n}.wav", label) for label in ("stop", "go", "other") for n in range(30)]
        return {split: rows if split != "test" else [] for split in SPLITS}


def test_shares_of_other_words():
    assert Listed(None, None, None).labels == ["stop", "go", "other"]
    assert Listed(["go"], None, None).labels == ["go", UNKNOWN]
    source = Listed(["go"], True, False, unknown_share=0.1)
    assert counts(source, "train") == {"go": 30, UNKNOWN: 3}  # 0.1 * 30 is 3, not 4
    more = Listed(["go"], True, False, unknown_share=0.2)
    assert set(source.clips("train")) < set(more.clips("train"))
    assert counts(Listed(["go"], True, False), "train") == {"go": 30, UNKNOWN: 60}
    assert counts(Listed(["go"], True, False, unknown_share=0), "train") == {"go": 30}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": "go"}, r"data\.words=go.*list"),
        ({"words": []}, r"data\.words is empty"),
        ({"words": [True, "go"]}, r"data\.words: True is a bool.*quotes"),
        ({"words": ["go", "go"]}, r"data\.words.*twice"),
        ({"words": ["go", UNKNOWN]}, r"_unknown_.*data\.unknown"),
        ({"words": ["_background_noise_"]}, r"_background_noise_.*no words"),
        ({"words": ["go"], "unknown_share": -1}, r"data\.unknown_share=-1"),
        ({"words": ["go"], "silence_share": None}, r"data\.silence_share=None"),
        ({"words": ["go", "fly"]}, r"no clips of fly; there are of stop, go, other"),
        ({"words": ["go"], "unknown": True, "silence": True}, r"data\.silence=true.*no recordings"),
        ({"words": None, "unknown": True, "silence": False}, r"data\.unknown=true.*data\.words only"),
        ({"words": ["go"], "unknown": "no"}, r"data\.unknown=no: expected true or false"),
        ({"words": None, "split": "dev"}, r"'dev': choose one of train, validation, test"),
        ({"words": None, "split": "test"}, r"no test clips.*90 train, 90 validation, 0 test"),
    ],
)
def test_mistakes_are_named(arguments, message):
    arguments = {"unknown": None, "silence": None} | arguments
    split = arguments.pop("split", "train")
    with pytest.raises(KwsError, match=message):
        Listed(**arguments).clips(split)


@pytest.mark.parametrize("name", ["speech_commands", "folder", "manifest", "kaldi", "wake_word"])
def test_yaml_holds_every_argument(name, tmp_path):
    corpus(tmp_path / "c", ["go", "stop"])
    write_manifest(tmp_path / "m.jsonl", Folder(tmp_path / "c", silence=False).clips("train"))
    kaldi_directory(tmp_path / "k", Folder(tmp_path / "c", silence=False).clips("train"))
    given = {
        "speech_commands": {"root": str(tmp_path / "c"), "words": ["go"], "synthetic": None},
        "folder": {"root": str(tmp_path / "c")},
        "manifest": {"path": str(tmp_path / "m.jsonl")},
        "kaldi": {"root": str(tmp_path / "k")},
        "wake_word": {
            "root": str(tmp_path / "c" / "go"),
            "word": "go",
            "others": [str(tmp_path / "c" / "stop")],
            "synthetic": None,
        },
    }[name]
    yaml = OmegaConf.load(Path(__file__).parent.parent / "conf" / "data" / f"{name}.yaml")
    yaml.pop("defaults", None)
    source = instantiate(OmegaConf.merge(yaml, given))
    source.prepare()
    assert counts(source, "train")["go"] == (19 if name == "wake_word" else 10)  # split by name, and by speaker
    code = type(source).__init__.__code__
    assert set(yaml) - {"_target_"} == set(code.co_varnames[1 : code.co_argcount])


# ---- Speech Commands


def test_published_tasks(tmp_path):
    assert len(ALL) == 35
    root = corpus(tmp_path / "sc", ALL, takes=1)
    spoken = {split: len(SPEAKERS[split]) for split in SPLITS}
    for task, (words, both, _) in TASKS.items():
        source = SpeechCommands(root, task=task)
        assert source.labels == words + [UNKNOWN, SILENCE] * both
        for split in SPLITS:
            found, n = counts(source, split), spoken[split] * len(words)
            assert all(found[word] == spoken[split] for word in words)
            expected = spoken[split] * 20 if task == "sc15" else -(-n // 10)
            assert (found[UNKNOWN], found[SILENCE]) == ((expected, -(-n // 10)) if both else (0, 0))
    assert len(SpeechCommands(root, version="v1", task=35).labels) == 30
    assert SpeechCommands(root, words=["marvin"]).labels == ["marvin", UNKNOWN, SILENCE]
    assert counts(SpeechCommands(root, words=["marvin"]), "train")[UNKNOWN] == 34 * spoken["train"]
    assert counts(SpeechCommands(root, unknown_share=None), "train")[UNKNOWN] == 25 * spoken["train"]


def test_synthesised_clips_join_those_that_train_alone(tmp_path):
    root, words = corpus(tmp_path / "sc", TEN, takes=1), ["go", "stop"]
    given = ["data=speech_commands", f"data.root={root}", "data.words=[go,stop]",
             f"data.synthetic.cache={tmp_path}/made", "data.synthetic.noise_seconds=2"]  # fmt: skip
    more = ["data.synthetic_clips=9", "data.synthetic.sentences=5", "data.synthetic.unknown_share=2"]
    plain, joined = (instantiate(config("train", *given, *extra).data, _convert_="all") for extra in ([], more))
    joined.prepare(["validation", "test"])
    assert not (tmp_path / "made").exists()
    joined.prepare()
    for split in ("validation", "test"):
        assert joined.clips(split) == plain.clips(split)
    before, after = counts(plain, "train"), counts(joined, "train")
    assert after - before == Counter(go=9, stop=9, _unknown_=36)
    said = [text for text in joined.synthetic.other_words if " " in text]
    assert len(said) == 5
    assert not any(set(words) & set(text.split()) for text in said)
    assert all(Path(clip.path).is_file() for clip in joined.clips("train"))


def test_splits_keep_speakers_apart_and_never_move(tmp_path, monkeypatch):
    root = corpus(tmp_path / "sc", [*TEN, "cat", "dog"], takes=2)
    first = {split: SpeechCommands(root).clips(split) for split in SPLITS}
    assert {split: speakers_of(clips) for split, clips in first.items()} == {s: set(SPEAKERS[s]) for s in SPLITS}
    noise = {split: SpeechCommands(root).noise(split) for split in SPLITS}
    for a, b in zip(noise["train"], noise["validation"], strict=True):
        assert a.path == b.path
        assert a.end <= b.start
    listdir, scandir = os.listdir, os.scandir

    class Backwards(list):
        __enter__, __exit__ = lambda self: self, lambda self, *_: None

    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    monkeypatch.setattr(os, "scandir", lambda path: Backwards(sorted(scandir(path), key=str, reverse=True)))
    again = SpeechCommands(root)
    assert {split: again.clips(split) for split in SPLITS} == first
    again.clips("train").clear()
    assert again.clips("train") == first["train"]
    monkeypatch.undo()
    shutil.copytree(root, tmp_path / "moved")  # the same other words are chosen wherever the corpus lies
    moved = SpeechCommands(tmp_path / "moved").clips("train")
    assert [clip.path.replace("moved", "sc") for clip in moved] == [clip.path for clip in first["train"]]


def test_lists_decide_where_there_is_one(tmp_path):
    root = corpus(tmp_path / "sc", TEN, takes=1, lists=True)
    by_list = {split: SpeechCommands(root, task=10).clips(split) for split in SPLITS}
    (root / "validation_list.txt").write_text("go/067f61e2_nohash_0.flac\r\n")  # another suffix, another line end
    source = SpeechCommands(root, task=10)
    assert [clip.label for clip in source.clips("validation")] == ["go"]
    assert len(source.clips("train")) == 10 * (4 + 5) - 1
    (root / "testing_list.txt").unlink()
    with pytest.raises(KwsError, match=r"no test clips.*validation_list\.txt \(there is no testing_list\.txt\)"):
        SpeechCommands(root, task=10).clips("test")
    (root / "validation_list.txt").unlink()
    assert {split: SpeechCommands(root, task=10).clips(split) for split in SPLITS} == by_list


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "v3"}, r"data\.version=v3: choose one of v1, v2"),
        ({"task": 11}, r"data\.task=11: choose one of 10, 12, 35, sc15"),
        ({"url": "http://127.0.0.1/x.tar.gz"}, r"data\.url and data\.sha256"),
        ({"words": ["yes", "marvin"]}, r"no clips of marvin; there are of down, go"),
    ],
)
def test_speech_commands_mistakes(tmp_path, arguments, message):
    corpus(tmp_path / "sc", TEN, takes=1, noise=False)
    with pytest.raises(KwsError, match=message):
        SpeechCommands(tmp_path / "sc", **arguments).clips("train")


def test_speech_commands_that_is_not_there(tmp_path):
    with pytest.raises(KwsError, match=r"nowhere.*no folders of words"):
        SpeechCommands(tmp_path / "nowhere").clips("train")
    with pytest.raises(KwsError, match=r"data\.download=false"):
        SpeechCommands(tmp_path / "nowhere", download=False).prepare()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(KwsError, match=r"expected folders of words, found notes\.txt"):
        SpeechCommands(tmp_path).prepare()
    corpus(tmp_path / "sc", TEN, takes=1, noise=False)
    with pytest.raises(KwsError, match=r"data\.silence=true"):
        SpeechCommands(tmp_path / "sc", unknown=False).clips("train")


# ---- download


class Archive:
    """An archive of a small corpus on a local server that can drop connections, forget ranges or send other bytes."""

    def __init__(self, folder, monkeypatch):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        corpus(folder / "made", TEN, takes=1, lists=True)
        with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
            tar.add(folder / "made", ".")
        self.data = (folder / "a.tar.gz").read_bytes()
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        self.ranges, self.cuts, self.asked = True, [], []
        archive = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                archive.asked.append(self.headers.get("Range"))
                start = int(self.headers["Range"][6:-1]) if archive.ranges and self.headers.get("Range") else 0
                if start >= len(archive.data):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(archive.data) - start))
                self.end_headers()
                end = archive.cuts.pop(0) if archive.cuts else len(archive.data)
                self.wfile.write(archive.data[start:end])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/a.tar.gz"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    archive = Archive(tmp_path / "server", monkeypatch)
    yield archive
    archive.close()


unpacks = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="Python 3.11.4 or newer unpacks archives safely"
)


def wanted(archive, root, **more):
    return SpeechCommands(root, task=10, **({"url": archive.url, "sha256": archive.sha256} | more))


@unpacks
def test_download_and_unpack_once(tmp_path, archive):
    source = wanted(archive, tmp_path / "data" / "sc")
    source.prepare()
    assert counts(source, "validation") == dict.fromkeys(TEN, 4)
    assert sorted(os.listdir(tmp_path / "data")) == ["a.tar.gz", "sc"]
    source.prepare()
    shutil.rmtree(tmp_path / "data" / "sc" / "go")
    source.prepare()  # what is there is never replaced
    assert archive.asked == [None]
    shutil.rmtree(tmp_path / "data" / "sc")
    (tmp_path / "data" / "sc").mkdir()
    wanted(archive, tmp_path / "data" / "sc").prepare()  # from the archive that is there
    assert archive.asked == [None]


@unpacks
def test_interrupted_download_goes_on(tmp_path, archive):
    third = len(archive.data) // 3
    archive.cuts = [third, 2 * third]
    wanted(archive, tmp_path / "sc").prepare()
    assert archive.asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]


@unpacks
def test_download_killed_and_run_again(tmp_path, archive):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar.gz.part").write_bytes(archive.data[:1000])
    (tmp_path / "data" / "sc.unpacking" / "half").mkdir(parents=True)
    wanted(archive, tmp_path / "data" / "sc").prepare()
    assert archive.asked == ["bytes=1000-"]
    assert not (tmp_path / "data" / "sc" / "half").exists()
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar.gz.part").write_bytes(archive.data)  # stopped after the last byte
    wanted(archive, tmp_path / "data" / "sc").prepare()
    assert sorted(os.listdir(tmp_path / "data")) == ["a.tar.gz", "sc"]


@unpacks
def test_server_without_ranges_starts_again(tmp_path, archive):
    archive.ranges = False
    (tmp_path / "a.tar.gz.part").write_bytes(b"x" * 1000)
    wanted(archive, tmp_path / "sc").prepare()
    assert len(wanted(archive, tmp_path / "sc").clips("train")) == 50


def test_connection_that_stays_dead_is_told_once(tmp_path, archive):
    archive.cuts = [1000, 1000, 1000]
    with pytest.raises(KwsError, match=r"a\.tar\.gz\.part \(the connection ended early\)"):
        wanted(archive, tmp_path / "sc").prepare()
    assert (tmp_path / "a.tar.gz.part").stat().st_size == 1000
    archive.close()
    with pytest.raises(KwsError, match=r"refused.*without a network.*data\.root=FOLDER"):
        wanted(archive, tmp_path / "sc").prepare()
    assert (tmp_path / "a.tar.gz.part").stat().st_size == 1000
    assert not (tmp_path / "sc").exists()


def test_an_archive_of_the_users_own_stays(tmp_path, archive):
    (tmp_path / "a.tar.gz").write_bytes(archive.data[1:])
    with pytest.raises(KwsError, match=r"a\.tar\.gz: not the published file, remove it"):
        wanted(archive, tmp_path / "sc").prepare()
    (tmp_path / "a.tar.gz").write_bytes(archive.data)
    archive.sha256 = archive.sha256.upper()  # as some programs print it
    wanted(archive, tmp_path / "sc").prepare()
    assert (tmp_path / "sc").is_dir()


def test_corrupted_archive_is_named_and_removed(tmp_path, archive):
    archive.data = archive.data[:500] + bytes([archive.data[500] ^ 1]) + archive.data[501:]
    with pytest.raises(KwsError, match=rf"a\.tar\.gz: corrupted, and removed.*expected {archive.sha256}"):
        wanted(archive, tmp_path / "sc").prepare()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(("a.tar", "sc"))]


@unpacks
@pytest.mark.parametrize(
    ("member", "message"),
    [("../outside.wav", "outside"), ("link", "link"), (None, "cannot be unpacked"), ("x.wav", "no folders of words")],
)
def test_archives_that_are_refused(tmp_path, archive, member, message):
    packed = io.BytesIO(b"" if member else b"this is no archive")
    if member:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            info = tarfile.TarInfo(member)
            if member == "link":
                info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            tar.addfile(info)
    archive.data = packed.getvalue()
    (tmp_path / "data").mkdir()
    source = wanted(archive, tmp_path / "data" / "sc", sha256=hashlib.sha256(archive.data).hexdigest())
    with pytest.raises(KwsError, match=rf"a\.tar\.gz.*{message}"):
        source.prepare()
    assert not (tmp_path / "outside.wav").exists()
    assert not (tmp_path / "data" / "outside.wav").exists()
    assert not (tmp_path / "data" / "sc.unpacking").exists()


# ---- folder


def test_folder_reads_the_layout_of_speech_commands_alike(tmp_path):
    root = corpus(tmp_path / "f", [*TEN, "cat"], takes=1)
    folder = Folder(root, words=TEN, unknown_share=0.1)
    published = SpeechCommands(root, task=12)
    assert folder.labels == published.labels
    for split in SPLITS:
        assert folder.clips(split) == published.clips(split)
        assert folder.noise(split) == published.noise(split)


def test_folder_takes_every_word_and_the_rest_is_unknown(tmp_path):
    root = corpus(tmp_path / "f", ["stop", "go"], takes=1, noise=False)
    assert Folder(root).labels == ["go", "stop"]
    sound(root / "_unknown_" / "0165e0e8_nohash_0.WAV")
    sound(root / "_silence_" / "0165e0e8_nohash_0.flac")
    sound(root / "go" / "._0165e0e8_nohash_0.wav")
    (root / "go" / "notes.txt").write_text("not sound")
    (root / ".git").mkdir()
    assert Folder(root).labels == ["go", "stop", UNKNOWN, SILENCE]
    assert counts(Folder(root), "train") == {"go": 5, "stop": 5, UNKNOWN: 1, SILENCE: 1}
    assert counts(Folder(root, words=["stop"]), "train") == {"stop": 5, UNKNOWN: 6, SILENCE: 1}
    assert Folder(root, words=["stop"], unknown=False, silence=False).labels == ["stop"]


def test_folder_without_speakers_is_split_by_name(tmp_path):
    for n in range(60):
        (tmp_path / "go").mkdir(exist_ok=True)
        (tmp_path / "go" / f"{n}.wav").touch()
    source = Folder(tmp_path)
    names = {split: {os.path.basename(clip.path) for clip in source.clips(split)} for split in SPLITS}
    assert sum(map(len, names.values())) == len(set.union(*names.values())) == 60
    assert names["test"] == {f"{n}.wav" for n in range(60) if hash_split(f"go/{n}") == "test"}


def test_folder_of_splits(tmp_path):
    for split, n in (("train", 3), ("validation", 2)):
        for word in ("go", "stop", "cat"):
            for i in range(n):
                sound(tmp_path / split / word / f"{i}.wav")
    sound(tmp_path / "_background_noise_" / "a.wav", 2)
    sound(tmp_path / "train" / "_background_noise_" / "b.wav", 1)
    source = Folder(tmp_path, words=["stop", "go"])
    assert counts(source, "train") == {"stop": 3, "go": 3, UNKNOWN: 3, SILENCE: 1}
    assert counts(source, "validation") == {"stop": 2, "go": 2, UNKNOWN: 2, SILENCE: 1}
    assert [(os.path.basename(c.path), c.start, c.end) for c in source.noise("train")] == [("b.wav", 0, 1)]
    assert [os.path.basename(c.path) for c in source.noise("validation")] == ["a.wav"]
    with pytest.raises(KwsError, match=r"no test clips.*split by its folders"):
        source.clips("test")
    sound(tmp_path / "fly" / "a.wav")
    with pytest.raises(KwsError, match=r"train, validation\) beside others \(fly\)"):
        Folder(tmp_path, words=["go"])


def test_folder_mistakes(tmp_path):
    with pytest.raises(KwsError, match=r"data\.root=PATH"):
        Folder(None)
    with pytest.raises(KwsError, match=r"nowhere: data\.root is not a folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(KwsError, match=r"no folders of words; it holds nothing"):
        Folder(tmp_path)
    (tmp_path / "a.wav").touch()
    (tmp_path / "_background_noise_").mkdir()
    with pytest.raises(KwsError, match=r"no folders of words; it holds _background_noise_, a\.wav"):
        Folder(tmp_path)
    (tmp_path / "go").mkdir()
    with pytest.raises(KwsError, match=r"_background_noise_: no sound files; they end in \.aif"):
        Folder(tmp_path)
    with pytest.raises(KwsError, match=r"no clips of go; there are of nothing"):
        Folder(tmp_path, silence=False).clips("train")


# ---- manifest


def test_manifest_round_trip(tmp_path):
    inside, outside = tmp_path / "m" / "a\u2028b.wav", tmp_path / "c.wav"
    clips = [Clip(str(inside), "go", 0.25, 1.5), Clip(str(outside), "turn it off"), Clip(str(inside), "go", 2.0)]
    (tmp_path / "m").mkdir()
    write_manifest(tmp_path / "m" / "m.jsonl", clips)
    assert read_manifest(tmp_path / "m" / "m.jsonl") == clips
    shutil.move(tmp_path / "m", tmp_path / "n")
    assert read_manifest(tmp_path / "n" / "m.jsonl")[0].path == str(tmp_path / "n" / "a\u2028b.wav")


def test_manifest_splits_and_noise(tmp_path):
    root = corpus(tmp_path / "f", ["stop", "go", "cat"], takes=1)
    folder = Folder(root, words=["stop", "go", "cat"], silence=False)
    everything = [clip for split in SPLITS for clip in folder.clips(split)]
    write_manifest(root / "all.jsonl", everything)
    (tmp_path / "noise.jsonl").write_text('{"path": "f/_background_noise_/pink.wav", "label": "x", "end": 2.0}\n\n')
    source = Manifest(path=root / "all.jsonl", noise=tmp_path / "noise.jsonl")
    assert source.labels == ["cat", "go", "stop", SILENCE]  # in order of appearance
    for split in SPLITS:
        assert speakers_of(source.clips(split)) == set(SPEAKERS[split])
    assert [(c.start, c.end) for c in source.noise("train")] == [(0, 1.6)]
    for split in ("train", "test"):
        write_manifest(root / f"{split}.jsonl", folder.clips(split))
    source = Manifest(
        train=root / "train.jsonl", test=root / "test.jsonl", words=["go"], noise=root / "_background_noise_"
    )
    assert source.labels == ["go", UNKNOWN, SILENCE]
    assert counts(source, "train") == {"go": 5, UNKNOWN: 10, SILENCE: 1}
    with pytest.raises(KwsError, match=r"no validation clips: .*train\.jsonl \(train\), .*test\.jsonl \(test\)"):
        source.clips("validation")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", r"m\.jsonl, line 2: expected"),
        ("[1]", r"m\.jsonl, line 2: expected"),
        ('{"path": "a.wav"}', r"line 2.*'label'"),
        ('{"path": 5, "label": "go"}', r"line 2: expected"),
        ('{"path": "a.wav", "label": true}', r"line 2: True is a bool"),
        ('{"path": "a.wav", "label": "go", "start": "x"}', r"line 2: expected"),
        ('{"path": "a.wav", "label": "go", "start": 2, "end": 1}', r"line 2: a clip from 2.0 to 1.0 s"),
        ('{"path": "a.wav", "label": "go", "start": NaN}', r"line 2: a clip from nan"),
        ("\udcff", r"not UTF-8"),
    ],
)
def test_manifest_lines_that_are_refused(tmp_path, line, message):
    text = json.dumps({"path": "a.wav", "label": "go"}) + "\n" + line + "\n"
    (tmp_path / "m.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(KwsError, match=message):
        Manifest(path=tmp_path / "m.jsonl")


def test_manifest_mistakes(tmp_path):
    with pytest.raises(KwsError, match=r"give either data\.path or some of data\.train, data\.validation"):
        Manifest()
    with pytest.raises(KwsError, match=r"give either"):
        Manifest(path="a.jsonl", train="b.jsonl")
    with pytest.raises(KwsError, match=r"none\.jsonl: the manifest cannot be read"):
        Manifest(path=tmp_path / "none.jsonl")
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(KwsError, match=r"no words found: .*m\.jsonl.*0 train"):
        Manifest(path=tmp_path / "m.jsonl")


# ---- Kaldi


def kaldi_directory(folder, clips):
    """wav.scp, text and utt2spk of clips whose files are named `<speaker>_nohash_<n>`."""
    folder.mkdir()
    rows = sorted((os.path.basename(clip.path)[:-4] + "-" + clip.label, clip) for clip in set(clips))
    (folder / "wav.scp").write_text("".join(f"{key} {clip.path}\n" for key, clip in rows))
    (folder / "text").write_text("".join(f"{key} {clip.label}\n" for key, clip in rows))
    (folder / "utt2spk").write_text("".join(f"{key} {key.split('_')[0]}\n" for key, _ in rows))
    return folder


def test_kaldi_directories(tmp_path):
    root = corpus(tmp_path / "f", ["stop", "go", "cat"], takes=1)
    folder = Folder(root, words=["stop", "go", "cat"], silence=False)
    kaldi_directory(tmp_path / "all", [clip for split in SPLITS for clip in folder.clips(split)])
    for split in ("train", "test"):
        kaldi_directory(tmp_path / split, folder.clips(split))
    for name in ("utt2spk", "none"):
        source = Kaldi(root=tmp_path / "all")
        assert {split: set(source.clips(split)) for split in SPLITS} == {s: set(folder.clips(s)) for s in SPLITS}
        (tmp_path / "all" / name).unlink(missing_ok=True)  # without it the utterances' names say who speaks
    noise = root / "_background_noise_"
    source = Kaldi(train=tmp_path / "train", test=tmp_path / "test", words=["go"], noise=noise)
    assert counts(source, "test") == {"go": 3, UNKNOWN: 6, SILENCE: 1}
    with pytest.raises(KwsError, match=r"no validation clips"):
        source.clips("validation")
    with pytest.raises(KwsError, match=r"nowhere: expected a folder of recordings"):
        Kaldi(train=tmp_path / "train", noise=tmp_path / "nowhere")


def test_kaldi_segments_and_phrases(tmp_path, monkeypatch):
    write = {
        "wav.scp": "r1 sound/a.wav\nr2 /abs/b.wav\n",
        "segments": "u1 r1 0.5 1.25\nu2 r1 2 -1\nu3 r2 0 1e0\n",
        "text": "u1 turn  it off\nu2 go\nu3\n",
        "utt2spk": f"u1 {SPEAKERS['train'][0]}\nu2 {SPEAKERS['test'][0]}\nu3 {SPEAKERS['train'][0]}\n",
    }
    for name, text in write.items():
        (tmp_path / name).write_text(text)
    source = Kaldi(root=tmp_path)
    assert source.labels == ["turn it off", "go", UNKNOWN]
    assert source.clips("train") == [
        Clip("sound/a.wav", "turn it off", 0.5, 1.25),
        Clip("/abs/b.wav", UNKNOWN, 0.0, 1.0),
    ]
    assert source.clips("test") == [Clip("sound/a.wav", "go", 2.0, None)]
    sound(tmp_path / "sound" / "a.wav")
    assert Kaldi(root=tmp_path).clips("test")[0].path == str(tmp_path / "sound" / "a.wav")
    monkeypatch.chdir(tmp_path)
    assert Kaldi(root=tmp_path).clips("test")[0].path == "sound/a.wav"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "wav.scp",
            "r1 a.wav\nr2 sox b.mp3 -t wav - |\n",
            r"wav\.scp, line 2: r2 is a pipe: pipes run programs; not run",
        ),
        ("wav.scp", "r1\nr2 b.wav\n", r"wav\.scp, line 1: r1 has no path"),
        ("wav.scp", "r2 b.wav\nr1 a.wav\n", r"wav\.scp, line 2: r1 comes after r2"),
        ("wav.scp", "r1 a.wav\nr1 a.wav\n", r"wav\.scp, line 2: r1 is there twice"),
        ("wav.scp", "r1 a.wav\n\nr2 b.wav\n", r"wav\.scp, line 2: the line is empty"),
        ("wav.scp", "", r"wav\.scp: the file is empty"),
        ("wav.scp", None, r"wav\.scp: cannot be read"),
        ("wav.scp", "r1 \udcff.wav\n", r"wav\.scp, line 1: is not UTF-8"),
        ("segments", "u1 r1 0 1\nu2 r9 0 1\n", r"segments, line 2: u2 is of recording r9.*not in wav\.scp"),
        ("segments", "u1 r1 0 1\nu2 r1 0\n", r"segments, line 2: expected 'u2 <recording> <start> <end>'"),
        ("segments", "u1 r1 0 1\nu2 r1 2 1\n", r"segments, line 2: u2 is from 2.0 to 1.0 s"),
        ("segments", "u1 r1 0 1\n", r"text, line 2: u2 is not in .*segments"),
        ("segments", "u1 r1 0 1\nu2 r2 0 1\nu3 r2 1 2\n", r"text: no line for u3"),
        ("segments", None, r"text, line 1: u1 is not in .*wav\.scp"),
        ("text", None, r"text: cannot be read"),
        ("text", "u1 go\nu1 go\n", r"text, line 2: u1 is there twice"),
        ("utt2spk", "u1 ann\n", r"utt2spk: no line for u2 of .*segments"),
    ],
)
def test_kaldi_mistakes(tmp_path, file, text, message):
    good = {
        "wav.scp": "r1 a.wav\nr2 b.wav\n",
        "segments": "u1 r1 0 1\nu2 r2 0 1\n",
        "text": "u1 go\nu2 stop\n",
        "utt2spk": "u1 ann\nu2 bob\n",
    }
    for name, content in (good | {file: text}).items():
        if content is not None:
            (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(KwsError, match=message):
        Kaldi(root=tmp_path)


def test_kaldi_directory_that_is_not_there(tmp_path):
    with pytest.raises(KwsError, match=r"nowhere: is not a Kaldi data directory"):
        Kaldi(root=tmp_path / "nowhere")
    with pytest.raises(KwsError, match=r"give either data\.root or"):
        Kaldi()
