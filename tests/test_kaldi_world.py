"""Kaldi's data directories in and out: checked, cut by segments, piped, and read by Kaldi's and lhotse's readers."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kws import audio, outputs, utterances
from kws import extract as command
from kws.audio import recording
from kws.audio.pipes import output_of
from kws.audio.recording import Recording
from kws.data.kaldi import Kaldi
from kws.data.kaldi_directory import DataDirectory, read_table
from kws.data.source import Clip
from kws.errors import AudioError, KwsError
from kws.extract import extract
from kws.features import make_options
from kws.features.cmvn import compute_stats
from kws.features.extractor import FeatureExtractor
from kws.features.kaldi_io import read_ark, read_matrix, read_scp
from kws.features.store import ArkTable

RNG = np.random.default_rng(5)
NOISE = (RNG.standard_normal((80_000, 2)) * 3000).astype(np.int16)


def wav(path: Path, samples: int = 16_000, channels: int = 1, rate: int = 16_000, start: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, NOISE[start : start + samples, :channels], rate, **options)
    return path


def tables(folder: Path, **files: str) -> Path:
    """Writes a directory's files; wav_scp stands for wav.scp."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text.encode(errors="surrogateescape"))
    return folder


GOOD = {
    "wav_scp": "r1 a.wav\nr2 b.wav\n",
    "segments": "ann-1 r1 0 1\nann-2 r1 1.5 2\nbob-1 r2 0 -1\n",
    "text": "ann-1 go on\nann-2 stop\nbob-1 go\n",
    "utt2spk": "ann-1 ann\nann-2 ann\nbob-1 bob\n",
    "spk2utt": "ann ann-1 ann-2\nbob bob-1\n",
}


def test_a_directory_is_read(tmp_path):
    directory = DataDirectory(tables(tmp_path / "d", **GOOD))
    assert list(directory.utterances) == ["ann-1", "ann-2", "bob-1"]
    utterance = directory.utterances["ann-2"]
    assert utterance[1:6] == ("r1", "a.wav", 1.5, 2.0, None)
    assert utterance.at == f"{tmp_path}/d/segments, line 2"
    assert directory.utterances["bob-1"].end is None
    assert directory.texts["ann-1"] == "go on"
    assert directory.speakers == {"ann-1": "ann", "ann-2": "ann", "bob-1": "bob"}
    assert not directory.warnings
    for missing in ("utt2spk", "spk2utt"):  # either says all
        (tmp_path / "d" / missing).rename(tmp_path / missing)
        assert DataDirectory(tmp_path / "d").speakers == directory.speakers
        (tmp_path / missing).rename(tmp_path / "d" / missing)
    alone = DataDirectory(tables(tmp_path / "alone", wav_scp="u1 a.wav\n"))
    assert alone.texts is alone.speakers is None
    assert alone.speaker_of("u1") == "u1"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("wav_scp", "r1 a.wav\r\nr2 b.wav\r\n", r"wav\.scp, line 1: ends in CR LF, as on Windows: sed -i 's/\\r\$//'"),
        ("wav_scp", "r1 a.wav\nr2 \udcff.wav\n", r"wav\.scp, line 2: is not UTF-8"),
        ("wav_scp", "r1 a.wav\nr2 copy.ark:17\n", r"line 2: r2 is in an archive.*wav-copy"),
        ("wav_scp", "r1 cat a.wav |\nr2 b.wav\n", r"line 1: r1 is a pipe: .*not run without allow_pipes=true"),
        ("segments", "ann-1 r1 0 1\nbob-1 r2 0 -1\nann-2 r1 1 2\n", r"segments, line 3: ann-2 comes after bob-1"),
        ("segments", "ann-1 r1 0 1\nann-1 r1 1 2\n", r"segments, line 2: ann-1 is there twice"),
        ("segments", "ann-1 r1 1 nan\n", r"segments, line 1: ann-1 is from 1.0 to nan s; expected"),
        ("segments", "ann-1 r1 1 1e200\n", r"segments, line 1: ann-1 is from 1.0 to 1e\+200 s; expected"),
        ("segments", "ann-1 r1 1\n", r"segments, line 1: expected 'ann-1 <recording> <start> <end>'"),
        ("segments", "ann-1 r1 1 2 left\n", r"segments, line 1: expected 'ann-1 <recording> <start> <end>'"),
        ("segments", "ann-1 r9 1 2\n", r"segments, line 1: ann-1 is of recording r9, which is not in wav\.scp"),
        ("text", "ann-1 go on\nann-2 stop\n", r"text: no line for bob-1 of .*segments \(1 in all\).*fix_data_dir"),
        ("text", "ann-0 a\n" + GOOD["text"], r"text, line 1: ann-0 is not in .*segments"),
        ("text", "", r"text: the file is empty"),
        ("text", "ann\u00a01 go\n", r"text, line 1: 'ann\\xa01' cannot be a key: it holds white space"),
        ("text", GOOD["text"].replace("go on", "go\u3000on"), r"text, line 1: ann-1 holds white space.* U\+3000"),
        ("text", GOOD["text"].replace("go on", "<s> go"), r"text, line 1: ann-1 holds <s>"),
        ("text", GOOD["text"] + "\n", r"text, line 4: the line is empty"),
        ("utt2spk", "ann-1 ann\nann-2 ann x\nbob-1 bob\n", r"utt2spk, line 2: expected 'ann-2 <speaker>', found"),
        ("utt2spk", "ann-1 ann\nann-2\nbob-1 bob\n", r"utt2spk, line 2: expected 'ann-2 <speaker>', found 'ann-2 '"),
        ("utt2spk", "ann-1 ann\nann-2 bob\nbob-1 bob\n", r"utt2spk, line 2: ann-2 is of bob, but in .*line 1 of ann"),
        ("spk2utt", "ann ann-1\nbob bob-1\n", r"spk2utt: no line for ann-2"),
        ("spk2utt", "ann ann-1 ann-2\nbob ann-2 bob-1\n", r"spk2utt, line 2: ann-2 is there twice, the first time in"),
        ("spk2utt", "ann\nbob bob-1\n", r"spk2utt, line 1: expected 'ann <utterance> ...'"),
        ("spk2utt", "bob bob-1\nann ann-1 ann-2\n", r"spk2utt, line 2: ann comes after bob"),
        ("spk2gender", "bob m\nann f\n", r"spk2gender, line 2: ann comes after bob"),
    ],
)
def test_mistakes_in_a_directory_are_named(tmp_path, file, text, message):
    with pytest.raises(KwsError, match=message):
        DataDirectory(tables(tmp_path, **(GOOD | {file: text})))


def test_what_is_legal_and_not_meant_is_a_warning(tmp_path):
    files = {"wav_scp": "a x.wav\nb y.wav\n", "utt2spk": "a zoe\nb bob\n", "text": "a\nb go\n"}
    words, order = DataDirectory(tables(tmp_path, **files)).warnings
    assert "1 utterances have no words, a is the first" in words
    assert "utt2spk: sorted by utterance, but not by speaker too" in order


def test_what_is_written_is_a_directory_of_some_utterances(tmp_path):
    files = GOOD | {
        "spk2gender": "ann f\nbob m\n",
        "utt2uniq": "ann-1 x\nann-2 y\nbob-1 z\n",
        "reco2dur": "r1 3\nr2 1\n",
    }
    directory = DataDirectory(tables(tmp_path / "in", **files))
    (tmp_path / "out").mkdir()
    directory.write(tmp_path / "out", {"ann-2": 0.5})
    written = {path.name.replace(".", "_"): path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {
        "wav_scp": "r1 a.wav\n", "segments": "ann-2 r1 1.5 2\n", "text": "ann-2 stop\n", "utt2spk": "ann-2 ann\n",
        "spk2utt": "ann ann-2\n", "spk2gender": "ann f\n", "utt2uniq": "ann-2 y\n", "reco2dur": "r1 3\n",
    }  # fmt: skip
    assert not DataDirectory(tmp_path / "out").warnings
    directory.write(tmp_path / "out", dict.fromkeys(directory.utterances, 0.75))
    written = {path.name.replace(".", "_"): path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == files | {"segments": files["segments"].replace("r2 0 -1", "r2 0 0.75")}


def test_a_table_splits_at_spaces_and_tabs_alone(tmp_path):
    (tmp_path / "text").write_text("é \t one\u00a0 two \n")
    assert read_table(tmp_path / "text") == {"é": ("one\u00a0 two", f"{tmp_path}/text, line 1")}


LETTERS = ["1e999", "\n\n", "", *"\0\t\n\r |:-.019aé\u00a0\u2028"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.lists(st.tuples(st.integers(0, 99), st.sampled_from(LETTERS))))
def test_a_damaged_directory_is_read_or_refused_by_name(name, changes):
    text = GOOD[name]
    for at, letters in changes:
        at %= len(text) + 1
        text = text[:at] + letters + text[at + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        tables(Path(folder), **(GOOD | {name: text}))
        try:
            directory = DataDirectory(folder)
        except KwsError as error:
            assert folder in str(error)  # noqa: PT017
        else:
            directory.write(folder, dict.fromkeys(directory.utterances, 1.5))
            DataDirectory(folder)


# ---- pipes


def test_a_pipe_is_its_programs_output(tmp_path):
    path = wav(tmp_path / "a b.wav")
    samples, rate = audio.read(path)
    for line in (f"cat '{path}' |", f"cat '{path}'|", f"cat < '{path}' | cat |", f"(cat '{path}'; sleep 0) |"):
        found, found_rate = audio.read(audio.Pipe(line))
        np.testing.assert_array_equal(found, samples)
        assert found_rate == rate
    assert audio.duration(audio.Pipe(f"cat '{path}' |")) == 1.0
    with pytest.raises(AudioError, match="No such file"):
        audio.read(f"cat '{path}' |")  # a string is a path


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("cat /none/such |", r"^cat /none/such \|: the program exited with 1: cat: /none/such: No such file"),
        ("echo one >&2; echo two >&2; exit 3 |", r"the program exited with 3: two$"),
        ("kill -9 $$ |", r"the program died of signal 9$"),
        ("no-such-program x |", r"the program exited with 127: .*not found"),
        ("true |", r"the file is empty"),
        ("echo words |", r"not a sound file"),
    ],
)
def test_what_is_wrong_with_a_program_is_said(command, reason):
    with pytest.raises(AudioError, match=reason):
        audio.read(audio.Pipe(command))


def test_a_program_that_is_stuck_or_never_ends_is_stopped(monkeypatch):
    began = time.monotonic()
    with pytest.raises(AudioError, match=r"did not end within 0\.3 s and was stopped: waiting"):
        output_of(audio.Pipe("echo waiting >&2; sleep 98765 | cat |"), timeout=0.3)
    monkeypatch.setattr(audio.pipes, "MAX_BYTES", 1 << 20)
    with pytest.raises(AudioError, match="wrote more than 1048576 bytes and was stopped"):
        output_of(audio.Pipe("yes |"))
    assert time.monotonic() - began < 10
    assert b"98765" not in subprocess.run(["ps", "-eo", "args"], capture_output=True).stdout  # nor what it started


def test_training_data_may_be_piped_where_it_is_allowed(tmp_path):
    path = wav(tmp_path / "a.wav")
    files = {"wav_scp": f"r1 cat {path} |\nr2 {path}\n", "text": "r1 go\nr2 stop\n"}
    tables(tmp_path / "d", **files)
    with pytest.raises(KwsError, match=r"r1 is a pipe: pipes run programs; not run"):
        Kaldi(root=tmp_path / "d")
    with pytest.raises(KwsError, match=r"data\.allow_pipes=no: expected true or false"):
        Kaldi(root=tmp_path / "d", allow_pipes="no")
    source = Kaldi(train=tmp_path / "d", allow_pipes=True)
    piped, plain = source.clips("train")
    assert isinstance(piped.path, audio.Pipe)
    assert plain == Clip(str(path), "stop")
    np.testing.assert_array_equal(audio.read(piped.path)[0], audio.read(plain.path)[0])


def test_training_takes_the_first_channel(tmp_path):
    files = {"wav_scp": "r1 a.wav\n", "segments": "u1 r1 0 1 1\n", "text": "u1 go\n"}
    with pytest.raises(KwsError, match=r"segments, line 1: u1 is of channel 1; clips are of the first, 0"):
        Kaldi(root=tables(tmp_path / "d", **files))
    with pytest.raises(KwsError, match=r"text: cannot be read \(there is none\)"):
        Kaldi(root=tables(tmp_path / "e", wav_scp="r1 a.wav\n"))


# ---- parts of recordings


@pytest.fixture(scope="module")
def long_wav(tmp_path_factory):
    return wav(tmp_path_factory.mktemp("long") / "a.wav", 60_000, channels=2)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 17), st.integers(2, 20), st.integers(0, 1)), min_size=1, max_size=8),
    st.sampled_from([700, 5000, 100_000]),
    st.sampled_from([0, 3000, 1 << 22]),
    st.booleans(),
)
def test_parts_are_what_lies_there(long_wav, spans, size, kept, in_order):
    """In any order, overlapping or not, of either channel, whatever is held of what was read."""
    samples = soundfile.read(long_wav, dtype="int16")[0].astype(np.float32)
    whole = Recording(long_wav)
    before, recording.KEPT = recording.KEPT, kept
    try:
        for start, length, channel in sorted(spans) if in_order else spans:
            part = whole.part(start / 10, (start + length) / 10)
            found = np.concatenate(list(part.blocks(channel, size=size)))
            np.testing.assert_array_equal(found, samples[1600 * start : 1600 * (start + length), channel])
    finally:
        recording.KEPT = before
        whole.close()


def test_ends_of_parts_are_kaldis(tmp_path):
    """An end may lie less than 0.5 s behind the recording's, and a part is longer than 0.1 s."""
    path = wav(tmp_path / "a.wav", 32_000)
    whole = Recording(path)

    def length(*span) -> int:
        return sum(len(block) for block in whole.part(*span).blocks())

    assert length(0.5) == length(0.5, 2) == length(0.5, 2.4999) == 24_000
    assert length(1.0, 1.1001) == 1601
    assert length(0.29, 1) == (1 * 16_000) - int(0.29 * 16_000)
    for span, reason in (
        ((0.5, 2.5), r"the part from 0.5 s to 2.5 s lies behind the recording's end at 2.00 s"),
        ((2.0, 2.2), r"lies behind the recording's end at 2.00 s"),
        ((9, None), r"the part from 9 s to its end lies behind"),
        ((1.0, 1.1), r"is too short, more than 0.1 s are needed"),
        ((1.95, 2.3), r"is too short"),
    ):
        with pytest.raises(AudioError, match=rf"^{path}: .*{reason}"):
            length(*span)


def test_a_part_is_resampled_as_a_file_of_its_own(tmp_path):
    path = wav(tmp_path / "a.flac", 44_100, rate=44_100)
    cut = wav(tmp_path / "cut.wav", int(0.9 * 44_100) - int(0.2 * 44_100), rate=44_100, start=int(0.2 * 44_100))
    found = np.concatenate(list(Recording(path).part(0.2, 0.9).blocks(rate=16_000, size=5000)))
    np.testing.assert_array_equal(found, audio.read(cut, rate=16_000)[0])


# ---- extraction

OPTIONS = make_options("fbank", num_mel_bins=20)
SPANS = {"ann-1": ("r1", 0, 1), "ann-2": ("r1", 1.25, 2.5), "ann-3": ("r2", 0.5, 1.75), "bob-1": ("r2", 0, -1)}
SPANS |= {"bob-2": ("r2", 1, 1.6), "bob-3": ("r3", 0.1, 0.9)}


@pytest.fixture
def corpus(tmp_path):
    """A data directory of segments, one of which is piped, and of broken ones. Returns it with what is wrong."""
    sounds = tmp_path / "sounds"
    for i in (1, 2, 3):
        wav(sounds / f"{i}.{'flac' if i == 2 else 'wav'}", 48_000, start=i)
    (sounds / "bad.wav").write_bytes((sounds / "1.wav").read_bytes()[:50_000])
    scp = {"r1": "1.wav", "r2": "2.flac", "r3": "3.wav", "bad": "bad.wav", "none": "none.wav"}
    spans = SPANS | {"cat-1": ("bad", 0, 1), "cat-2": ("bad", 1, 2), "cat-3": ("none", 0, 1), "dan-1": ("r1", 2, 4)}
    directory = tables(
        tmp_path / "data",
        wav_scp="".join(f"{key} {sounds}/{name}\n" for key, name in sorted(scp.items())),
        segments="".join(f"{key} {row[0]} {row[1]} {row[2]}\n" for key, row in sorted(spans.items())),
        text="".join(f"{key} word {key}\n" for key in sorted(spans)),
        utt2spk="".join(f"{key} {key.split('-')[0]}\n" for key in sorted(spans)),
    )
    return directory, {
        "cat-1": "truncated, 24978 of 48000", "cat-2": "truncated, 24978 of 48000", "cat-3": "No such file",
        "dan-1": "lies behind the recording's end at 3.00 s",
    }  # fmt: skip


def frames_of(directory: Path, key: str, options=OPTIONS, **how) -> np.ndarray:
    """What an utterance's frames should be."""
    utterance = DataDirectory(directory).utterances[key]
    samples, rate = audio.read(utterance.sound)
    samples = samples[int(utterance.start * rate) : None if utterance.end is None else int(utterance.end * rate)]
    return FeatureExtractor(options).stream(torch.from_numpy(samples)[None], flush=True, **how)[0][0].numpy()


def contents(folder) -> dict[str, bytes]:
    return {p.name: p.read_bytes().replace(os.fsencode(folder), b"OUT") for p in Path(folder).iterdir()}


def failures(folder) -> dict[str, str]:
    rows = [json.loads(line) for line in (Path(folder) / "failed.jsonl").read_text().splitlines()]
    return {row["key"]: row["reason"] for row in rows}


def keys_of(path: Path) -> list[str]:
    """A table's keys, as Kaldi's utils/validate_data_dir.sh wants them: whole lines, sorted, none twice."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    keys = [line.split()[0].decode() for line in data.splitlines()]
    assert keys == sorted(set(keys))
    return keys


def assert_valid(folder: Path) -> None:
    """What Kaldi's utils/validate_data_dir.sh checks."""
    utterances = keys_of(folder / "utt2spk")
    speakers = [line.split() for line in (folder / "utt2spk").read_text().splitlines()]
    assert all(len(row) == 2 for row in speakers)
    turned = [line.split() for line in (folder / "spk2utt").read_text().splitlines()]
    assert [[key, speaker] for speaker, *keys in turned for key in keys] == speakers
    assert keys_of(folder / "spk2utt") == keys_of(folder / "cmvn.scp")
    for name in ("text", "feats.scp", "utt2dur", "utt2num_frames"):
        assert keys_of(folder / name) == utterances
    recordings = keys_of(folder / "wav.scp")
    if (folder / "segments").exists():
        assert keys_of(folder / "segments") == utterances
        rows = [line.split() for line in (folder / "segments").read_text().splitlines()]
        assert all(len(row) == 4 and float(row[2]) < float(row[3]) for row in rows)
        assert sorted({row[1] for row in rows}) == recordings
    else:
        assert recordings == utterances
    assert all(float(line.split()[1]) > 0 for line in (folder / "utt2dur").read_text().splitlines())
    assert not DataDirectory(folder, allow_pipes=True).warnings


def test_a_data_directory_goes_in_and_comes_out(corpus, tmp_path, capsys):
    directory, reasons = corpus
    out = tmp_path / "out"
    assert extract(directory, out, OPTIONS) == len(reasons)
    failed = failures(out)
    assert failed.keys() == reasons.keys()
    for key, reason in reasons.items():
        assert reason in failed[key]
        assert f"({directory}/segments, line " in failed[key]
    said = capsys.readouterr().out
    assert f"from the data directory {directory}" in said
    assert "6 utterances, 0.00 h, done in" in said
    assert_valid(out)
    names = "cmvn.ark cmvn.scp failed.jsonl feats.ark feats.scp options.json segments spk2utt text utt2dur"
    assert sorted(path.name for path in out.iterdir()) == f"{names} utt2num_frames utt2spk wav.scp".split()
    found = {key: read_matrix(where) for key, where in read_scp(out / "feats.scp")}
    assert list(found) == sorted(SPANS)
    for key, frames in found.items():
        np.testing.assert_array_equal(frames, frames_of(directory, key))
    assert "bob-1 r2 0 3.0\n" in (out / "segments").read_text()
    assert (out / "utt2dur").read_text().splitlines()[:2] == ["ann-1 1.0", "ann-2 1.25"]
    for speaker, where in read_scp(out / "cmvn.scp"):
        stats = read_matrix(where)
        every = np.concatenate([frames for key, frames in found.items() if key.startswith(speaker)])
        assert stats.dtype == np.float64
        assert stats[0, -1] == len(every)
        np.testing.assert_allclose(stats, compute_stats(every), rtol=1e-12)


def test_kaldi_reads_what_comes_out(corpus, tmp_path):
    kaldi = pytest.importorskip("kaldi_native_io")
    extract(corpus[0], tmp_path / "plain", OPTIONS)
    extract(corpus[0], tmp_path / "small", OPTIONS, compressed=True)
    plain = dict(read_ark(tmp_path / "plain" / "feats.ark"))
    with kaldi.RandomAccessFloatMatrixReader(f"scp:{tmp_path}/plain/feats.scp") as reader:
        for key, frames in plain.items():
            np.testing.assert_array_equal(reader[key], frames)
    with kaldi.CompressedMatrixWriter(f"ark:{tmp_path}/theirs.ark") as writer:
        for key, frames in plain.items():
            writer.write(key, frames, kaldi.CompressionMethod.kAutomaticMethod)
    assert (tmp_path / "small" / "feats.ark").read_bytes() == (tmp_path / "theirs.ark").read_bytes()
    with kaldi.SequentialDoubleMatrixReader(f"scp:{tmp_path}/plain/cmvn.scp") as reader:
        assert {key: stats.shape for key, stats in reader} == {"ann": (2, 21), "bob": (2, 21)}
    assert_valid(tmp_path / "small")


def test_a_recording_is_opened_once_for_its_segments(corpus, tmp_path, monkeypatch):
    opened = []

    class Counted(audio.Sound):
        def __init__(self, path, *more):
            opened.append(os.path.basename(path))
            super().__init__(path, *more)

    monkeypatch.setattr(audio, "Sound", Counted)
    extract(corpus[0], tmp_path / "out", OPTIONS)
    # of 2.flac, one utterance is all
    assert sorted(opened) == ["1.wav", "2.flac", "2.flac", "3.wav", "bad.wav", "none.wav"]


def test_segments_of_a_recording_are_one_task(monkeypatch):
    item = utterances.Item("u", "/a.wav", start=0.0, end=60.0, at="segments")
    others = [utterances.Item(str(i), f"/{i}.wav", at="wav.scp") for i in range(3)]
    monkeypatch.setattr(utterances, "BATCH_FILES", 2)
    sizes = [len(batch) for batch in utterances.batches(iter([*[item] * 5, *others, *[item] * 31, *[item] * 3]))]
    assert sizes == [5, 2, 1 + 30, 1 + 3]  # half an hour at most


def test_pipes_are_run_where_they_are_allowed(corpus, tmp_path):
    directory, reasons = corpus
    extract(directory, tmp_path / "files", OPTIONS)
    ran = tmp_path / "ran"
    rows = [line.split() for line in (directory / "wav.scp").read_text().splitlines()]
    piped = [f"{key} cat {path}; echo {key} >> {ran} |" for key, path in rows]
    (directory / "wav.scp").write_text("\n".join(piped) + "\n")
    with pytest.raises(KwsError, match=r"wav\.scp, line 1: bad is a pipe: pipes run programs; not run without"):
        extract(directory, tmp_path / "out", OPTIONS)
    assert not ran.exists()
    assert not (tmp_path / "out").exists()
    assert extract(directory, tmp_path / "out", OPTIONS, allow_pipes=True) == len(reasons)
    assert "the file is empty" in failures(tmp_path / "out")["cat-3"]  # its echo went well
    assert ran.read_text().split().count("bad") == 1  # what fails is run once
    for name in ("feats.ark", "cmvn.ark", "utt2dur"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()
    assert_valid(tmp_path / "out")
    assert (tmp_path / "out" / "wav.scp").read_text().splitlines()[0] == piped[2]


def test_a_failing_program_names_its_utterance(tmp_path):
    path = wav(tmp_path / "a.wav")
    directory = tables(
        tmp_path / "d", wav_scp=f"a cat {path} |\nb echo no >&2; exit 4 |\nc cat {path} | head -c 99 |\n"
    )
    assert extract(directory, tmp_path / "out", OPTIONS, allow_pipes=True) == 2
    failed = failures(tmp_path / "out")
    assert failed["b"].startswith("the program exited with 4: no (")
    assert "truncated" in failed["c"]
    assert (tmp_path / "out" / "utt2spk").read_text() == "a a\n"  # without speakers each utterance has its own
    with open(tmp_path / "out" / "failed.jsonl") as file:
        assert json.loads(file.readline()).keys() == {"key", "path", "reason"}


def test_processes_and_chunks_change_no_byte(corpus, tmp_path, monkeypatch):
    for i, workers in enumerate((0, 2)):
        extract(corpus[0], tmp_path / str(i), OPTIONS, workers=workers, manifest="lhotse")
        monkeypatch.setattr(utterances, "BATCH_FILES", 1)
    monkeypatch.setattr(command.Computer, "__call__", one_by_one(command.Computer.__call__))
    monkeypatch.setattr("kws.computer.CHUNK", 3001)
    extract(corpus[0], tmp_path / "2", OPTIONS, manifest="lhotse")
    whole = contents(tmp_path / "0")
    assert "cuts.jsonl.gz" in whole
    # the manifests hold paths, and are compressed
    for i in ("1", "2"):
        other = contents(tmp_path / i)
        assert other.keys() == whole.keys()
        assert {n: b for n, b in other.items() if ".gz" not in n} == {n: b for n, b in whole.items() if ".gz" not in n}


def one_by_one(call):
    return lambda computer, items: [result for item in items for result in call(computer, [item])]


def test_programs_end_with_the_extraction(tmp_path):
    scp = "".join(f"u{i:02d} echo {i} > {tmp_path}/began; sleep 76543 |\n" for i in range(40))
    directory = tables(tmp_path / "d", wav_scp=scp)
    line = [sys.executable, "-m", "kws.extract", f"input={directory}", f"output={tmp_path}/out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(command.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*line, "allow_pipes=true", "workers=2"], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=30) == 143
    assert b"76543" not in subprocess.run(["ps", "-eo", "args"], capture_output=True).stdout


STOPPED_AS_IT_BEGINS = """
import random, signal, sys
from kws.audio.pipes import Pipe, output_of

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
for _ in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-3))
        output_of(Pipe("sleep 76544 |"))
    except SystemExit:
        pass
"""


def test_a_program_stopped_as_it_begins_is_not_left_behind():
    subprocess.run([sys.executable, "-c", STOPPED_AS_IT_BEGINS], check=True, timeout=120)
    assert b"sleep 76544\n" not in subprocess.run(["ps", "-eo", "args"], capture_output=True).stdout


class Killed(BaseException): ...


def test_stopped_anywhere_it_ends_with_the_same_bytes(corpus, tmp_path, monkeypatch):
    """Each run is stopped one write, removal or replacement later than the one before."""
    directory, _ = corpus
    monkeypatch.setattr(utterances, "BATCH_FILES", 1)
    out = tmp_path / "out"
    extract(directory, out, OPTIONS, manifest="lhotse")
    undisturbed = contents(out)
    for count in range(1, 99):
        for path in out.iterdir():
            path.unlink()
        calls = []

        def dying(function, count=count, calls=calls):
            def called(*arguments, **options):
                calls.append(function)
                if len(calls) == count:
                    raise Killed
                return function(*arguments, **options)

            return called

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying(Path.replace))
            patched.setattr(Path, "unlink", dying(Path.unlink))
            patched.setattr(ArkTable, "append", dying(ArkTable.append))
            patched.setattr(outputs, "write_matrix", dying(outputs.write_matrix))
            try:
                extract(directory, out, OPTIONS, manifest="lhotse")
            except Killed:
                pass
            else:
                break
        (out / ".lock").unlink(missing_ok=True)
        extract(directory, out, OPTIONS, manifest="lhotse")
        assert contents(out) == undisturbed, count
    assert count > 30


def test_what_failed_is_tried_again_and_sorted_in(corpus, tmp_path):
    directory, reasons = corpus
    out = tmp_path / "out"
    extract(directory, out, OPTIONS)
    before = contents(out)
    assert extract(directory, out, OPTIONS) == len(reasons)
    assert contents(out) == before
    wav(tmp_path / "sounds" / "bad.wav", 48_000, start=9)
    assert extract(directory, out, OPTIONS, retry_failed=True) == 2
    assert_valid(out)
    assert {"cat-1", "cat-2"} < {key for key, _ in read_scp(out / "feats.scp")}
    stats = {key: read_matrix(where) for key, where in read_scp(out / "cmvn.scp")}
    assert list(stats) == ["ann", "bob", "cat"]
    np.testing.assert_allclose(
        stats["cat"], compute_stats(np.concatenate([frames_of(directory, key) for key in ("cat-1", "cat-2")]))
    )


def test_other_words_and_speakers_are_taken_over(corpus, tmp_path):
    directory, _ = corpus
    out = tmp_path / "out"
    extract(directory, out, OPTIONS)
    ark, stats = (out / "feats.ark").read_bytes(), (out / "cmvn.ark").read_bytes()
    for name, old, new in (("text", "word bob-1", "another"), ("utt2spk", "ann-3 ann", "ann-3 anna")):
        (directory / name).write_text((directory / name).read_text().replace(old, new))
    extract(directory, out, OPTIONS)
    assert "bob-1 another\n" in (out / "text").read_text()
    assert keys_of(out / "cmvn.scp") == ["ann", "anna", "bob"]
    assert (out / "cmvn.ark").read_bytes() != stats
    assert (out / "feats.ark").read_bytes() == ark
    assert_valid(out)


def test_a_folder_of_another_is_left_alone(corpus, tmp_path):
    directory, _ = corpus
    with pytest.raises(KwsError, match=r"is the data directory that is read; choose another folder"):
        extract(directory, directory, OPTIONS)
    other = tables(tmp_path / "other", text="u1 precious\n")
    with pytest.raises(KwsError, match=r"text is there, but no options\.json: choose another output"):
        extract(directory, other, OPTIONS)
    assert (other / "text").read_text() == "u1 precious\n"
    extract(directory, tmp_path / "out", OPTIONS)
    for name in ("segments", "text", "utt2spk"):
        lines = (directory / name).read_text().splitlines(keepends=True)
        (directory / name).write_text("".join(line for line in lines if not line.startswith("ann-2 ")))
    with pytest.raises(
        KwsError, match=r"out: has features of ann-2, which is no longer in .*segments \(1 such in all\)"
    ):
        extract(directory, tmp_path / "out", OPTIONS)


def test_channels_of_segments(tmp_path):
    path = wav(tmp_path / "a.wav", 32_000, channels=2)
    files = {"wav_scp": f"r {path}\n", "segments": "a r 0 1 1\nb r 0.5 1.5 0\nc r 1 2 1\nd r 1 2\n"}
    assert extract(tables(tmp_path / "d", **files), tmp_path / "out", OPTIONS) == 1
    assert "2 channels; say which" in failures(tmp_path / "out")["d"]
    both = soundfile.read(path, dtype="int16")[0].astype(np.float32)
    for key, start, channel in (("a", 0, 1), ("b", 8000, 0), ("c", 16_000, 1)):
        samples = torch.from_numpy(both[start : start + 16_000, channel].copy())
        expected = FeatureExtractor(OPTIONS).stream(samples[None], flush=True)[0][0].numpy()
        np.testing.assert_array_equal(dict(read_ark(tmp_path / "out" / "feats.ark"))[key], expected)


def test_one_warp_for_all(corpus, tmp_path):
    extract(corpus[0], tmp_path / "out", OPTIONS, vtln_warp=0.88)
    for key, frames in read_ark(tmp_path / "out" / "feats.ark"):
        np.testing.assert_array_equal(frames, frames_of(corpus[0], key, warp=0.88))


def test_warps_of_utterances_and_speakers(corpus, tmp_path):
    directory, reasons = corpus
    spoken = tmp_path / "map"
    spoken.write_text("bob 0.9\nann 1.1\nann-2 1.05\ncat 1\n")
    assert extract(directory, tmp_path / "out", OPTIONS, vtln_map=spoken) == len(reasons)
    found = dict(read_ark(tmp_path / "out" / "feats.ark"))
    for key, warp in (("ann-1", 1.1), ("ann-2", 1.05), ("ann-3", 1.1), ("bob-1", 0.9), ("bob-3", 0.9)):
        np.testing.assert_array_equal(found[key], frames_of(directory, key, warp=warp))
        assert abs(found[key] - frames_of(directory, key)).max() > 0.1
    assert "has no warp factor for dan-1 or its speaker" in failures(tmp_path / "out")["dan-1"]
    # sound files have no speakers of their own
    sounds, speakers = tmp_path / "some", tmp_path / "utt2spk"
    for name in ("x", "y"):
        wav(sounds / f"{name}.wav")
    speakers.write_text("y bob\nx ann\n")
    assert extract(sounds, tmp_path / "files", OPTIONS, vtln_map=spoken, utt2spk=speakers) == 0
    samples = torch.from_numpy(audio.read(sounds / "x.wav")[0])[None]
    np.testing.assert_array_equal(
        dict(read_ark(tmp_path / "files" / "feats.ark"))["x"],
        FeatureExtractor(OPTIONS).stream(samples, flush=True, warp=1.1)[0][0],
    )
    assert extract(sounds, tmp_path / "none", OPTIONS, vtln_map=spoken) == 2


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"vtln_map": "{tmp}/map"}, r"map, line 2: expected 'bob <warp factor>', a number about 1, found 'bob wide'"),
        ({"vtln_map": "{tmp}/none"}, r"none: cannot be read"),
        ({"utt2spk": "{tmp}/map"}, r"utt2spk=.*map: is for the speakers in vtln_map, which is not given"),
        ({"vtln_map": "{tmp}/map", "options": make_options("spectrogram")}, r"warp mel filters, and these .* none"),
        ({"vtln_warp": 1.1, "options": make_options("spectrogram")}, r"warp mel filters, and these .* none"),
        ({"compressed": True, "format": "npy"}, r"compressed=true and manifest=lhotse are of Kaldi's archives"),
        ({"manifest": "lhotse", "format": "npy"}, r"format=npy: compressed=true and manifest=lhotse"),
    ],
)
def test_mistakes_in_what_is_asked_for(corpus, tmp_path, how, reason):
    (tmp_path / "map").write_text("ann 1.1\nbob wide\n")
    how = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in how.items()}
    with pytest.raises(KwsError, match=reason):
        extract(**({"input": corpus[0], "output": tmp_path / "out", "options": OPTIONS} | how))
    assert not (tmp_path / "out").exists()


def test_means_are_subtracted_and_short_ones_left_out(corpus, tmp_path):
    directory, reasons = corpus
    assert extract(directory, tmp_path / "out", OPTIONS, subtract_mean=True, min_duration=0.81) == len(reasons) + 2
    assert "0.6 s of sound, less than min_duration=0.81" in failures(tmp_path / "out")["bob-2"]
    found = dict(read_ark(tmp_path / "out" / "feats.ark"))
    assert list(found) == ["ann-1", "ann-2", "ann-3", "bob-1"]
    for key, frames in found.items():
        whole = frames_of(directory, key)
        np.testing.assert_allclose(frames, whole - whole.mean(axis=0, dtype=np.float64), atol=2e-5)


def test_a_directory_as_packed_numpy(corpus, tmp_path):
    directory, reasons = corpus
    assert extract(directory, tmp_path / "out", OPTIONS, "npy") == len(reasons)
    rows = [json.loads(line) for line in (tmp_path / "out" / "utts.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == sorted(SPANS)
    assert rows[0] == {"key": "ann-1", "start": 0, "frames": 98, "seconds": 1.0}
    assert not (tmp_path / "out" / "text").exists()


# ---- lhotse


@pytest.mark.parametrize("snip_edges", [True, False])
def test_lhotse_loads_a_data_directory(corpus, tmp_path, snip_edges):
    lhotse = pytest.importorskip("lhotse")
    pytest.importorskip("kaldi_native_io")
    from lhotse.qa import validate

    directory, _ = corpus
    (directory / "wav.scp").write_text(
        (directory / "wav.scp").read_text().replace("r3 ", "r3 cat ").replace("3.wav", "3.wav |")
    )
    options, out = make_options("fbank", num_mel_bins=20, snip_edges=snip_edges), tmp_path / "out"
    extract(directory, out, options, manifest="lhotse", allow_pipes=True)
    cuts = lhotse.CutSet.from_file(out / "cuts.jsonl.gz")
    sets = [
        lhotse.FeatureSet.from_file(out / "features.jsonl.gz"),
        lhotse.RecordingSet.from_file(out / "recordings.jsonl.gz"),
    ]
    for manifest in (cuts, *sets):
        validate(manifest, read_data=True)
    validate(lhotse.SupervisionSet.from_file(out / "supervisions.jsonl.gz"))
    assert [len(manifest) for manifest in (list(cuts), *map(list, sets))] == [6, 6, 2]  # no recording of a pipe
    for cut in cuts:
        (where,) = (where for key, where in read_scp(out / "feats.scp") if key == cut.id)
        np.testing.assert_array_equal(cut.load_features(), read_matrix(where))
        [supervision] = cut.supervisions
        assert supervision.text == f"word {cut.id}"
        assert supervision.speaker == cut.id.split("-")[0]
        assert cut.features.type == "kaldi-fbank"
        if cut.id != "bob-3":
            samples = cut.load_audio()[0] * audio.FULL_SCALE
            recorded, rate = audio.read(cut.recording.sources[0].source)
            at = round(SPANS[cut.id][1] * rate)
            np.testing.assert_allclose(samples, recorded[at : at + len(samples)], atol=1e-3)
    half = cuts[1].truncate(offset=0.5, duration=0.25)
    assert half.load_features().shape == (25, 20)


def test_lhotse_loads_sound_files(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    pytest.importorskip("kaldi_native_io")
    for name, rate in (("b/x.wav", 16_000), ("a.flac", 16_000), ("c.wav", 8000), ("d.wav", 11_025)):
        wav(tmp_path / "in" / name, rate=rate)
    extract(tmp_path / "in", tmp_path / "out", make_options("mfcc"), resample=True, manifest="lhotse")
    cuts = lhotse.CutSet.from_file(tmp_path / "out" / "cuts.jsonl.gz")
    assert {cut.id: cut.has_recording for cut in cuts} == {"a": True, "b/x": True, "c": False, "d": False}
    assert {cut.load_features().shape for cut in cuts} == {(98, 13), (198, 13), (143, 13)}
