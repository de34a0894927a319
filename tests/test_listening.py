"""What listening does with the words: spotters that agree, the meter, clips kept, programs run."""

import dataclasses
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import RATE

from kws import audio
from kws.data.folder import Folder
from kws.decision import Decision, Detection
from kws.errors import KwsError
from kws.listening import meter
from kws.listening.clips import BEFORE_S, NEAR, Clips
from kws.listening.program import AT_ONCE, Program
from kws.listening.together import Together

NOISE = np.random.default_rng(0).integers(-3000, 3000, 30 * RATE).astype(np.float32)


def heard(word: str, end: float, score: float = 0.8) -> Detection:
    return Detection(word, end - 0.3, end, score, 0.9, 0.7, 3)


class Scripted:
    """A spotter that detects what it is told to, once so much sound has come."""

    chunk_s = 0.0

    def __init__(self, *detections: Detection, words=("left", "right"), late: float = 0.0):
        self.detections, self.late, self.seconds = list(detections), late, 0.0
        self.decision = Decision([*words, "_silence_"], 20.0)

    def push(self, samples, flush=False):
        self.seconds += len(samples) / RATE
        ready = [d for d in self.detections if d.end + self.late <= self.seconds or flush]
        self.detections = [d for d in self.detections if d not in ready]
        return ready


def together(*spotters, require, seconds=6.0):
    both = Together(spotters, RATE, require, agree_ms=500)
    found, missed = [], []
    for at in range(0, round(seconds * RATE), 1600):
        more, less = both.push(NOISE[at : at + 1600])
        found, missed = found + more, missed + less
    more, less = both.push(NOISE[:0], flush=True)
    return found + more, missed + less


def test_two_must_agree_within_the_window():
    a = Scripted(heard("left", 1.0), heard("right", 3.0), heard("left", 4.0, 0.95))
    b = Scripted(heard("left", 1.4, 0.75), heard("left", 3.0), heard("left", 4.7), late=0.3)
    found, missed = together(a, b, require=2)
    assert found == [dataclasses.replace(heard("left", 1.4, 0.75), start=0.7)]
    assert sorted((d.word, d.end) for d in missed) == [("left", 3.0), ("left", 4.0), ("left", 4.7), ("right", 3.0)]


def test_one_of_several_tells_once():
    found, missed = together(Scripted(heard("left", 1.0)), Scripted(heard("left", 1.2), late=0.4), require=1)
    assert ([d.end for d in found], missed) == ([1.0], [])
    alone, _ = together(Scripted(heard("left", 1.0), heard("left", 2.0)), require=1)
    assert alone == [heard("left", 1.0), heard("left", 2.0)]


def test_a_word_again_is_told_again():
    again = [heard("left", 1.0), heard("left", 1.4), heard("left", 3.0)]
    assert together(Scripted(*again), require=1) == (again, [])
    found, missed = together(Scripted(*again), Scripted(heard("left", 1.1), heard("left", 1.5)), require=1)
    assert ([d.end for d in found], missed) == ([1.0, 1.4, 3.0], [])


def test_a_spotter_of_long_chunks_is_waited_for():
    slow = Scripted(heard("left", 1.1), late=2.4)
    slow.chunk_s = 2.5
    found, missed = together(Scripted(heard("left", 1.0)), slow, require=2)
    assert ([d.end for d in found], missed) == ([1.1], [])


def test_words_that_enough_spotters_know():
    a, b = Scripted(words=("left", "go")), Scripted(words=("go", "stop"))
    assert Together([a, b], RATE, 2).words == ["go"]
    assert list(Together([a, b], RATE, 1).scores()) == ["left", "go", "stop"]
    for require, words in ((3, "expected 1 to 2"), (0, "expected 1 to 2"), (2, "no word is known to so many")):
        with pytest.raises(KwsError, match=f"require={require}.*{words}"):
            Together([a, Scripted(words=("stop",))], RATE, require)


def test_the_meter_shows_the_words_that_fit():
    scores = {"left": 0.1, "right": 0.2, "forward": 0.9, "stop": 0.05}
    line = meter.picture(NOISE[:1600], 3.0, scores, (0.0, 0.0), 200)
    assert line.split("dB")[1].split() == ["left", "0.10", "right", "0.20", "forward", "0.90", "stop", "0.05"]
    assert "behind" not in line
    line = meter.picture(NOISE[:1600], 3.0, scores, (0.5, 1.5), 96)
    assert len(line) <= 96
    assert "right 0.20  forward 0.90" in line
    assert "left" not in line
    assert line.endswith("0.5 s behind  1.5 s dropped")
    for columns in range(60, 120):  # a word has room for its score, or none
        shown = meter.picture(NOISE[:1600], 3.0, scores, (0.0, 0.0), columns).split("dB")[1].split()
        assert shown == [text for word in scores if word in shown for text in (word, f"{scores[word]:.2f}")]
    assert len(meter.picture(NOISE[:1600], 3.0, scores, (0.5, 1.5), 20)) == 20


def kept(clips, moments, seconds, block=1600, rate=RATE):
    """Feeds sound and keeps what is heard at its moments (word, seconds, near)."""
    clips.begin(rate)
    for at in range(0, round(seconds * rate), block):
        clips.push(NOISE[at : at + block])
        for word, moment, near in moments:
            if at <= moment * rate < at + block:
                clips.keep(word, moment, 1e9 + moment, near)
    clips.flush()


@pytest.mark.parametrize("block", [1600, 777, 3 * RATE])
def test_clips_are_two_seconds_around_the_moment_and_a_data_set(tmp_path, block):
    clips = Clips(tmp_path / "heard", ["left", "right"])
    moments = [("left", 0.6, False), ("left", 3.0, True), ("right", 5.0, False), ("right", 5.5, True)]
    kept(clips, [*moments, ("left", 8.9, False)], 9.0, block)
    found = {}
    for path in sorted((tmp_path / "heard").rglob("*.wav")):
        found.setdefault(path.parent.relative_to(tmp_path / "heard").as_posix(), []).append(audio.read(path)[0])
    assert {word: len(waves) for word, waves in found.items()} == {"left": 2, "right": 1, f"{NEAR}/left": 1}
    begin = round((5.0 - BEFORE_S) * RATE)
    assert np.array_equal(found["right"][0], NOISE[begin : begin + 2 * RATE])
    assert [len(wave) / RATE for wave in found["left"]] == pytest.approx(
        [2.0, 1.6], abs=0.05
    )  # the stream's begin, and its end
    source = Folder(tmp_path / "heard")
    assert source.labels == ["left", "right"]  # near misses are nobody's clips
    assert sum(len(clips) for clips in source.listed().values()) == 3
    (tmp_path / "heard" / NEAR / "left").rename(tmp_path / "heard" / "_unknown_")  # sorted by a person
    assert Folder(tmp_path / "heard").labels == ["left", "right", "_unknown_"]


def test_a_near_miss_of_long_ago_and_memory(tmp_path):
    clips = Clips(tmp_path, ["left"])
    kept(clips, [], 25.0)
    assert len(clips._recent) <= 10.2 * RATE
    clips.keep("left", 2.0, 1e9, near=True)
    clips.flush()
    (path,) = tmp_path.rglob("*.wav")
    assert audio.duration(path) == 2.0


def test_where_clips_cannot_be(tmp_path, capsys):
    for word in ("../../evil", "a/b", "", ".hidden", "a\\b"):
        with pytest.raises(KwsError, match="cannot be the name of a folder"):
            Clips(tmp_path, ["left", word])
    (tmp_path / "file").touch()
    with pytest.raises(KwsError, match=r"save: .*file cannot be made \(File exists\)"):
        Clips(tmp_path / "file", ["left"])
    clips = Clips(tmp_path / "clips", ["left"])
    (tmp_path / "clips" / "left").touch()  # in the way
    kept(clips, [("left", 1.0, False)], 3.0)
    assert "not saved" in capsys.readouterr().err
    assert clips.saved == 0


def test_a_full_disk_is_said_and_listening_goes_on(tmp_path, capsys):
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", tmp_path]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        clips = Clips(tmp_path, ["left"])
        kept(clips, [("left", 2.0, False), ("left", 5.0, False), ("left", 8.0, False)], 10.0)
        assert clips.saved == 1
        assert "No space left" in capsys.readouterr().err
        (path,) = (p for p in tmp_path.rglob("*") if p.is_file())  # no half of another
        assert audio.duration(path) == 2.0
    finally:
        subprocess.run(["umount", tmp_path], check=True)


PRINT = "import sys; open(sys.argv[1], 'a').write(repr(sys.argv[2:]))"


def ended(program):
    for _ in range(200):
        program.reap()
        if not program._running:
            return
        time.sleep(0.05)
    raise AssertionError("programs are still running")


def test_a_program_gets_its_arguments_and_no_shell(tmp_path):
    out = tmp_path / "out"
    line = f"""{sys.executable} -c "{PRINT}" '{out}' "heard %w!" %s %t 100%% '; touch {tmp_path}/x' %x"""
    program = Program(line, ["hey aurora"])
    program.run("hey aurora", 0.876, 0.0)
    ended(program)
    arguments = eval(out.read_text())
    assert arguments[:2] == ["heard hey aurora!", "0.88"]
    assert arguments[2].startswith(("1970-01-01T", "1969-12-31T"))
    assert arguments[3:] == ["100%", f"; touch {tmp_path}/x", "%x"]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "word", ["--help", "-x", "a -rf b", "a; reboot", "$(reboot)", "`x`", "a\nb", "@file", "a\0", "x'\""]
)
def test_a_word_is_no_option_and_no_command(word):
    with pytest.raises(KwsError, match="could be taken for an option or a command"):
        Program("echo %w", ["left", word])
    Program("echo", [word])  # which is not told the word


@pytest.mark.parametrize(
    ("line", "words"),
    [("no-such-program %w", "no program 'no-such-program'"), ("", "no program"), ("echo 'x", "No closing quotation"),
     ("%w", "no program '%w'")],
)  # fmt: skip
def test_programs_that_are_none(line, words):
    with pytest.raises(KwsError, match=words) as error:
        Program(line, ["left"])
    assert str(error.value).startswith("on_detect=")


def test_programs_do_not_block_nor_pile_up_and_are_reaped(capsys):
    program = Program(f"{sys.executable} -c 'import time; time.sleep(1); raise SystemExit(3)'", ["left"])
    begun = time.monotonic()
    for _ in range(AT_ONCE + 2):
        program.run("left", 0.9, 0.0)
    assert time.monotonic() - begun < 0.9
    children = [process.pid for process in program._running]
    assert len(children) == AT_ONCE
    assert capsys.readouterr().err.count("not run for left") == 2
    ended(program)
    assert capsys.readouterr().err.count("exited with 3") == AT_ONCE
    for pid in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    program.run("left", 0.9, 0.0)  # there is room again
    assert len(program._running) == 1
    ended(program)


def test_the_backlog_is_bounded_and_counted():
    from kws.listening.microphone import Microphone

    class Device:
        PortAudioError = RuntimeError

        def query_devices(self, device, kind):
            return {"name": "made: up (hw:3,0)", "max_input_channels": 2, "default_samplerate": 48000.0}

        def check_input_settings(self, samplerate, **_):
            if samplerate != 48000:
                raise RuntimeError("no such rate")

        def RawInputStream(self, callback, blocksize, **_):
            self.callback, self.frames = callback, blocksize
            return SimpleNamespace(start=lambda: None, close=lambda ignore_errors: None, active=True)

    device = Device()
    patch = pytest.MonkeyPatch()
    patch.setattr("kws.listening.microphone.sounddevice", lambda: device)
    with patch.context(), Microphone(7, None, RATE, channel=1) as microphone:
        assert microphone.rate == 48000
        assert microphone.device == "made: up"  # numbers and cards change when it comes back
        block = np.arange(2 * device.frames, dtype=np.int16)
        for _ in range(30):
            device.callback(block.tobytes(), device.frames, None, SimpleNamespace(input_overflow=False))
        waiting, dropped = microphone.lag()
        assert waiting == pytest.approx(2.1)
        assert dropped == pytest.approx(0.9)
        _, blocks = next(microphone.sessions())
        assert np.array_equal(next(blocks), block[1::2])
    patch.undo()
