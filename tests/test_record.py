"""kws.record: takes found in made sound, what is refused and why, and what lands on disk."""

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import RATE, config, spoken
from processes import ROOT, run
from test_microphone import pulse  # noqa: F401

from kws import audio
from kws.data.folder import Folder
from kws.errors import KwsError
from kws.listening.takes import Finder, Limits, floor_of
from kws.record import main

LIMITS = Limits(0.15, 2.0, -40.0, 15.0)


def room(seconds, rng, level=10.0):
    return rng.standard_normal(round(seconds * RATE)) * level


def said(gains, rng, seconds=0.5, level=10.0, pause=1.0):
    """Words with a room around them: its samples (n,), and where each word begins."""
    sound, starts = [room(pause, rng, level)], []
    for gain in gains:
        starts.append(sum(map(len, sound)))
        word = spoken("rise", rng, seconds)
        sound += [word / np.abs(word).max() * gain, room(pause, rng, level)]
    return np.concatenate(sound).astype(np.float32), starts


def found(sound, chunk=1600, **options):
    finder = Finder(RATE, 0.2, 2.0, **options)
    takes = [take for at in range(0, len(sound), chunk) for take in finder.push(sound[at : at + chunk])]
    return takes + [take for take in [finder.flush()] if take]


def test_words_are_found_and_cut_to_them_with_margins():
    sound, starts = said([9000] * 4, np.random.default_rng(0))
    takes = found(sound)
    assert len(takes) == 4
    for take, start in zip(takes, starts, strict=True):
        assert 0.35 < take.seconds <= 0.55  # a word fades in and out
        at = np.flatnonzero(np.lib.stride_tricks.sliding_window_view(sound, 50)[:, 0] == take.samples[0])
        (at,) = [i for i in at if np.array_equal(sound[i : i + len(take.samples)], take.samples)]
        assert 0.05 < (start - at) / RATE <= 0.2
        assert LIMITS.complaint(take) is None


@pytest.mark.parametrize("chunk", [37, 160, 50000])
def test_however_the_sound_is_cut_the_takes_are_the_same(chunk):
    sound, _ = said([9000, 2000], np.random.default_rng(1))
    for a, b in zip(found(sound), found(sound, chunk), strict=True):
        np.testing.assert_array_equal(a.samples, b.samples)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"gains": [60000]}, "too loud.*clipped"),
        ({"gains": [300], "level": 2.0}, r"too quiet \(-\d+ dB, at least -40\)"),
        ({"gains": [3000], "level": 400.0}, r"too noisy \(1\d dB above the room, at least 15\)"),
        ({"gains": [9000], "seconds": 0.12}, r"too short \(0\.1\d* s, at least 0\.15\)"),
        ({"gains": [9000], "seconds": 2.4}, r"too long \(2\.\d+ s, at most 2\)"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_what_to_do(settings, complaint):
    sound, _ = said(rng=np.random.default_rng(2), **settings)
    (take,) = found(np.clip(sound, -32768, 32767))
    assert re.match(complaint, LIMITS.complaint(take))
    assert ": " in LIMITS.complaint(take)


def test_a_fan_that_starts_is_the_room_and_no_word():
    rng = np.random.default_rng(3)
    sound = np.concatenate([room(2, rng), room(12, rng, 1500), said([20000], rng, level=1500)[0]])
    good = [take for take in found(sound.astype(np.float32)) if LIMITS.complaint(take) is None]
    assert len(good) == 1


def record(*arguments, capsys):
    main.__wrapped__(config("record", *arguments))
    return capsys.readouterr()


def test_takes_land_in_the_layout_of_a_folder_and_go_on(tmp_path, capsys):
    rng = np.random.default_rng(4)
    sound, _ = said([9000, 60000, 9000, 9000], rng)
    audio.write(tmp_path / "said.wav", np.clip(sound, -32768, 32767), RATE)
    given = ["word=rise", f"output={tmp_path / 'out'}", f"input={tmp_path / 'said.wav'}", "takes=5"]
    told = record(*given, capsys=capsys)
    assert told.out == f"3 kept, 1 refused, 3 in {tmp_path / 'out' / 'rise'}\n"
    assert "not kept: too loud" in told.err
    (tmp_path / "out" / "rise" / "me_nohash_1.wav").unlink()  # somebody listened to it
    record(*given, capsys=capsys)
    again = record(*given, capsys=capsys)
    assert again.out == f"0 kept, 4 refused, 3 in {tmp_path / 'out' / 'rise'}\n"  # no word of a file twice
    assert "not kept: it is me_nohash_3.wav already" in again.err
    assert "3 takes by me are there" in record(*given[:3], "takes=3", capsys=capsys).out
    record(*given, "speaker=anna", "takes=1", capsys=capsys)
    names = sorted(path.name for path in (tmp_path / "out" / "rise").iterdir())
    assert names == ["anna_nohash_0.wav", *(f"me_nohash_{i}.wav" for i in (0, 2, 3))]
    noise = [*given[1:3], "word=_background_noise_", "seconds=2"]
    assert "1 kept" in record(*noise, capsys=capsys).out
    clips = [clip for clips in Folder(tmp_path / "out", ["rise"]).listed().values() for clip in clips]
    assert [clip.label for clip in clips] == ["rise"] * 4
    assert audio.duration(tmp_path / "out" / "_background_noise_" / "me_nohash_0.wav") == 2.0


def test_a_pipe_gives_what_the_file_gives(tmp_path):
    sound, _ = said([9000, 9000], np.random.default_rng(5))
    pcm = np.rint(sound).astype("<i2")
    audio.write(tmp_path / "said.wav", pcm, RATE)
    done = run("word=on", f"output={tmp_path / 'a'}", "input=-", module="kws.record", given=pcm.tobytes())
    assert "2 kept" in done.stdout
    run("word=on", f"output={tmp_path / 'b'}", f"input={tmp_path / 'said.wav'}", module="kws.record")
    for name in ("me_nohash_0.wav", "me_nohash_1.wav"):
        assert (tmp_path / "a" / "on" / name).read_bytes() == (tmp_path / "b" / "on" / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["word=a/b"], "word=a/b: cannot be the name of a folder"),
        (["word=_silence_"], "word=_silence_: expected a word, _unknown_ or _background_noise_"),
        (["word=rise", "speaker=../x"], "speaker=../x: cannot be"),
        (["word=rise", "takes=0"], "takes=0: expected"),
        (["word=rise", "margin_ms=-1"], "margin_ms=-1: expected"),
        (["word=rise", "snr=loud"], "snr=loud: expected a number of dB"),
        (["word=rise", "input=HISS"], "input=.*no word was heard: the room is at -.* dB, and a word should be 15 dB"),
        (["word=rise", "input=ZEROS"], "input=.*only zeros.*muted"),
        (["word=_background_noise_", "input=ZEROS"], "only zeros.*muted"),
        (["word=rise", "input=NONE"], "NONE"),
    ],
)
def test_mistakes_are_named(tmp_path, given, message):
    for name, sound in (("HISS", room(3, np.random.default_rng(6), 100)), ("ZEROS", np.zeros(3 * RATE))):
        audio.write(tmp_path / f"{name}.wav", sound, RATE)
    given = [re.sub(r"input=(\w+)", lambda m: f"input={tmp_path / m[1]}.wav", each) for each in given]
    with pytest.raises((KwsError, audio.AudioError), match=message):
        main.__wrapped__(config("record", f"output={tmp_path / 'out'}", *given))


def test_the_room_of_a_recording_is_its_quietest_part():
    sound, _ = said([9000], np.random.default_rng(7), level=100.0)
    assert abs(floor_of(sound, RATE) - 20 * np.log10(100 / 32768)) < 1


@pytest.mark.slow
def test_the_microphone(pulse, tmp_path):  # noqa: F811
    environment, _ = pulse
    sound, _ = said([9000] * 4, np.random.default_rng(8), pause=1.5)
    audio.write(tmp_path / "said.wav", sound, RATE)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "kws.record", "word=rise", f"output={tmp_path / 'out'}", "takes=10"], cwd=ROOT,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    play = subprocess.Popen(["paplay", "--device=fake", str(tmp_path / "said.wav")], env=environment)
    time.sleep(0.1)
    told = []
    for line in process.stderr:  # the first takes may be over before the microphone is open
        told.append(line)
        if "me_nohash_1.wav" in line:
            break
        if play.poll() is not None:
            play = subprocess.Popen(["paplay", "--device=fake", str(tmp_path / "said.wav")], env=environment)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    play.kill()
    play.wait()
    assert process.returncode == 0, out + err
    assert "take 1 of 10: say 'rise'" in "".join(told)
    assert re.match(r"[2-4] kept, 0 refused", out), out + err
    assert 0.35 < audio.duration(tmp_path / "out" / "rise" / "me_nohash_0.wav") <= 1.0
    assert "Traceback" not in err
