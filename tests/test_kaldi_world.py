"""Kaldi's data directories in and out: checked, cut by segments, piped, and read by Kaldi's and lhotse's readers."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws import audio
from kws.audio.pipes import output_of
from kws.data.kaldi import Kaldi
from kws.data.kaldi_directory import DataDirectory, read_table
from kws.data.source import Clip
from kws.errors import AudioError, KwsError

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
        ("segments", "ann-1 r1 1\n", r"segments, line 1: expected 'ann-1 <recording> <start> <end>'"),
        ("segments", "ann-1 r1 1 2 left\n", r"segments, line 1: expected 'ann-1 <recording> <start> <end>'"),
        ("segments", "ann-1 r9 1 2\n", r"segments, line 1: ann-1 is of recording r9, which is not in wav\.scp"),
        ("text", "ann-1 go on\nann-2 stop\n", r"text: no line for bob-1 of .*segments \(1 in all\).*fix_data_dir"),
        ("text", "ann-0 a\n" + GOOD["text"], r"text, line 1: ann-0 is not in .*segments"),
        ("text", "", r"text: the file is empty"),
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
    directory.write(tmp_path / "out", {"ann-2"})
    written = {path.name.replace(".", "_"): path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {
        "wav_scp": "r1 a.wav\n", "segments": "ann-2 r1 1.5 2\n", "text": "ann-2 stop\n", "utt2spk": "ann-2 ann\n",
        "spk2utt": "ann ann-2\n", "spk2gender": "ann f\n", "utt2uniq": "ann-2 y\n", "reco2dur": "r1 3\n",
    }  # fmt: skip
    assert not DataDirectory(tmp_path / "out").warnings
    directory.write(tmp_path / "out", set(directory.utterances))
    assert {path.name.replace(".", "_"): path.read_text() for path in (tmp_path / "out").iterdir()} == files


def test_a_table_splits_at_spaces_and_tabs_alone(tmp_path):
    (tmp_path / "text").write_text("é\u00a0x \t one  two \n")
    assert read_table(tmp_path / "text") == {"é\u00a0x": ("one  two", f"{tmp_path}/text, line 1")}


# ---- pipes


def test_a_pipe_is_its_programs_output(tmp_path):
    path = wav(tmp_path / "a b.wav")
    samples, rate = audio.read(path)
    for command in (f"cat '{path}' |", f"cat '{path}'|", f"cat < '{path}' | cat |", f"(cat '{path}'; sleep 0) |"):
        found, found_rate = audio.read(audio.Pipe(command))
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
