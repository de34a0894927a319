"""Scripts of recipes/ that are more than a list of commands, on small things made here."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import RATE, spoken
from processes import ROOT

from kws import audio
from kws.alarms.labels import read_labels
from kws.spotters import find
from kws.training import checkpoint

propack = pytest.importorskip("propack")
MAKE = ROOT / "recipes/dialogue/make.py"
GAME_RATE = 11025


def queen(path: Path, lines: dict[str, bytes]) -> None:
    """A file like Flight of the Amazon Queen's: a table of names, places and sizes, then what it names."""
    begin, table, held = 15 + 21 * len(lines), [], b""
    for name, line in lines.items():
        place = (begin + len(held)).to_bytes(4, "big") + len(line).to_bytes(4, "big")
        table.append(name.encode().ljust(12, b"\0") + b"\1" + place)
        held += line
    path.write_bytes(b"QTBLCEM10".ljust(13, b"\0") + len(lines).to_bytes(2, "big") + b"".join(table) + held)


def sky(folder: Path, lines: dict[int, bytes]) -> None:
    """Files like Beneath a Steel Sky's: numbers, places (in sixteens) and sizes in one, what they name in the other."""
    table, held = len(lines).to_bytes(4, "little"), b""
    for number, line in lines.items():
        packed = bytes(22) + propack.pack(line)
        place = 1 << 23 | len(held) // 16
        table += number.to_bytes(2, "little") + place.to_bytes(3, "little") + len(packed).to_bytes(3, "little")
        held += packed.ljust(-(-len(packed) // 16) * 16, b"\0")
    (folder / "sky.dnr").write_bytes(table)
    (folder / "sky.dsk").write_bytes(held)


def test_dialogue_is_split_and_labelled(tmp_path):
    sound = np.sin(2 * np.pi * 440 * np.arange(GAME_RATE) / GAME_RATE)
    mp3 = io.BytesIO()
    soundfile.write(mp3, sound, GAME_RATE, format="MP3")
    names = [f"{i:06d}P1.SB" for i in range(10)]
    games, out = tmp_path / "games", tmp_path / "out"
    for game in ("flight-of-the-amazon-queen", "beneath-a-steel-sky"):
        (games / game).mkdir(parents=True)
    queen(games / "flight-of-the-amazon-queen/queen.1c", {"A.PCX": b"picture", **dict.fromkeys(names, mp3.getvalue())})
    line = (128 + 60 * sound).astype(np.uint8).tobytes()
    constant = bytes([200]) * GAME_RATE  # which is no sound
    spoken = {60000: line, 50765: line, 59999: constant, 7: line}  # said to be "computer", no sound, no speech
    sky(games / "beneath-a-steel-sky", spoken)
    subprocess.run([sys.executable, MAKE, games, out], check=True)
    assert sorted(path.name for path in (out / "train").iterdir()) == [f"{name[:-3]}.mp3" for name in names[:7]]
    for name, lines in (("queen", 3), ("steel_sky", 1)):
        (recording,) = read_labels(out / f"{name}.csv", [])
        assert (recording.kind, recording.labels) == ("real", [])
        padding = 0.25 * lines if name == "queen" else 0.01  # MP3 has some
        assert 1.3 * lines - 0.01 <= audio.duration(recording.path) <= 1.3 * lines + padding
    wave, rate = audio.read(out / "steel_sky-0.flac")
    assert rate == 16000
    assert np.abs(np.fft.rfft(wave[:rate])).argmax() == pytest.approx(440, abs=1)


def test_what_turns_made_speech_to_peoples_comes_beside_the_network(tmp_path):
    rng = np.random.default_rng(0)
    for kind, count in (("made", 3), ("people", 20)):
        for word in ("low", "rise"):
            (tmp_path / kind / word).mkdir(parents=True)
            for i in range(count):
                audio.write(tmp_path / kind / word / f"{i}.wav", spoken(word, rng), RATE)
    speech = tmp_path / "speech.pt"
    shutil.copy(find("speech", ".pt"), speech)
    place, before = "blocks.11.", checkpoint.load(speech)["model"]
    natural = [sys.executable, ROOT / "recipes/speech/natural.py", speech, "--pairs", "64"]
    natural += ["--made", tmp_path / "made/{low,rise}/*.wav", "--people", tmp_path / "people/*/*.wav"]
    said = subprocess.run(natural, capture_output=True, text=True, check=True).stdout
    assert "40 clips of 2 words" in said
    after = checkpoint.load(speech)["model"]
    for name, value in before.items():
        assert torch.equal(after[name], value) != name.startswith(place), name
    assert {f"{place}weight{i}" for i in range(3)} < {name for name in after if name.startswith(place)}
    few = subprocess.run([*natural[:-1], tmp_path / "made/*/*.wav"], capture_output=True, text=True)
    assert few.stderr.strip() == "no word of the first pattern of people has 20 clips"
