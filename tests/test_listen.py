"""A trained spotter on streams: cut anyhow, at any rate, from a file or a pipe."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import RATE, config, spoken, tiny
from processes import run

from kws import audio
from kws.data.folder import Folder
from kws.spotter import Spotter
from kws.train import train
from kws.training.trained import open_checkpoint

DECISION = {"threshold": 0.5, "smoothing_ms": 100.0, "refractory_ms": 300.0, "warm_up_ms": 300.0}


@pytest.fixture(scope="module")
def stream() -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Words with pauses, (n,) in int16 units, and what is said when, in seconds."""
    rng, said = np.random.default_rng(3), []
    sound = [rng.standard_normal(RATE) * 60]
    for word in ["low", "high", "rise", "fall", "high", "low"]:
        at = sum(map(len, sound)) / RATE
        sound += [spoken(word, rng), rng.standard_normal(RATE) * 60]
        said.append((word, at, at + 0.5))
    return np.concatenate(sound).astype(np.float32), said


def heard(spotter, samples, size):
    found = []
    for at in range(0, len(samples), size):
        found += spotter.push(samples[at : at + size])
    return found + spotter.push(samples[:0], flush=True)


def test_it_hears_what_is_said_when_it_is_said(folder, stream):
    samples, said = stream
    found = heard(Spotter(open_checkpoint(folder), **DECISION), samples, 1600)
    right = [any(d.word == w and begin <= d.end <= end + 0.5 for d in found) for w, begin, end in said]
    assert sum(right) >= 5, found
    assert len(found) <= 8


@pytest.mark.parametrize("rate", [16000, 44100])
def test_any_cutting_gives_the_same_scores_and_words(folder, stream, rate):
    samples = audio.resample(stream[0], RATE, rate)
    trained = open_checkpoint(folder)
    whole = Spotter(trained, rate, **DECISION).scores(samples, flush=True)
    expected = heard(Spotter(trained, rate, **DECISION), samples, len(samples))
    for size in (137, 1600, 9973):
        spotter = Spotter(trained, rate, **DECISION)
        rows = [spotter.scores(samples[at : at + size]) for at in range(0, len(samples), size)]
        rows.append(spotter.scores(samples[:0], flush=True))
        np.testing.assert_allclose(np.concatenate(rows), whole, atol=1e-5)
        spotter.reset()
        found = heard(spotter, samples, size)
        assert [(d.word, d.start, d.end) for d in found] == [(d.word, d.start, d.end) for d in expected]


def test_scores_are_the_offline_models(folder, stream):
    trained = open_checkpoint(folder)
    samples = torch.from_numpy(stream[0])[None]
    with torch.no_grad():
        offline = trained.model(trained.extractor(samples)[0])[0].softmax(1)
    got = Spotter(trained).scores(stream[0], flush=True)
    np.testing.assert_allclose(got, offline, atol=1e-5)


def test_file_and_pipe_give_the_same_lines(folder, stream, tmp_path):
    path = tmp_path / "said [all] = 1.wav"
    audio.write(path, stream[0], RATE)
    options = [f"checkpoint={folder}", *(f"decision.{k}={v}" for k, v in DECISION.items())]
    by_file = run(*options, f"input={path}", f"json={tmp_path / 'found.jsonl'}", module="kws.listen")
    pcm = np.rint(stream[0]).astype("<i2").tobytes()
    by_pipe = run(*options, "input=-", "chunk_ms=37", module="kws.listen", given=pcm)
    assert by_pipe.stdout == by_file.stdout
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert len(rows) == len(by_file.stdout.splitlines()) >= 5
    assert "0.0 s dropped" in by_file.stderr
    for row, line in zip(rows, by_file.stdout.splitlines(), strict=True):
        assert line.endswith(f"{row['score']:.2f}  peak {row['peak']:.2f}, {row['steps_above']} steps above 0.50")
        assert row["peak"] >= row["score"] >= row["threshold"] == 0.5


def test_clips_programs_several_spotters_and_the_stop_word(folder, stream, tmp_path):
    """Every option at once: listening ends at the stop word, whose clip is saved though the sound was not over."""
    path = tmp_path / "said.wav"
    audio.write(path, stream[0], RATE)
    options = [*(f"decision.{k}={v}" for k, v in DECISION.items()), f"input={path}"]
    whole = run(f"checkpoint={folder}", *options, module="kws.listen").stdout.splitlines()
    done = run(
        f"checkpoint=[{folder}, {folder}]", "require=2", *options, "stop_word=rise", "on_detect=echo program %w",
        f"save={tmp_path / 'heard'}", module="kws.listen",
    )  # fmt: skip
    words = [line.split()[2] for line in done.stdout.splitlines()]
    assert done.stdout.splitlines() == whole[: len(words)]
    assert words[-1] == "rise"
    assert "rise" not in words[:-1]
    saved = [p.parent.name for p in (tmp_path / "heard").glob("[!_]*/*.wav")]
    assert sorted(saved) == sorted(words)
    assert f"{len(words)} words" in done.stderr
    for word in words[:-1]:
        assert f"program {word}\n" in done.stderr


def test_saved_clips_train(folder, corpus, stream, tmp_path):
    path = tmp_path / "said.wav"
    audio.write(path, stream[0], RATE)
    options = [*(f"decision.{k}={v}" for k, v in DECISION.items()), f"input={path}"]
    root = tmp_path / "my recordings"
    shutil.copytree(corpus, root)
    run(f"checkpoint={folder}", *options, f"save={root / 'train'}", module="kws.listen")
    before, now = (len(Folder(where).listed()["train"]) for where in (corpus, root))
    assert now >= before + 5
    more = ["data.silence=false", "train.epochs=1", f"init_from={folder}", "model.window_ms=500"]
    train(config("train", *tiny(root, *more)), tmp_path / "run")
    assert set(open_checkpoint(tmp_path / "run").labels) == {"low", "high", "rise", "fall"}


def test_mistakes_are_one_line(folder, tmp_path):
    for arguments, words in (
        ([f"checkpoint={tmp_path / 'none.pt'}", "input=x.wav"], "does not exist"),
        ([f"checkpoint={folder}", f"input={tmp_path / 'none.wav'}"], "none.wav"),
        ([f"checkpoint={folder}", "device=no such microphone"], "microphone"),
        ([f"checkpoint={folder}", "wait=long"], "wait=long: expected seconds"),
        ([f"checkpoint={folder}", "agree_ms=soon", "input=x.wav"], "agree_ms=soon: expected milliseconds"),
        ([f"checkpoint={folder}", "stop_word=no"], "stop_word=no: no word here"),
        ([f"checkpoint={folder}", "require=2"], "require=2: expected 1 to 1"),
        ([f"checkpoint={folder}", "input=-", "chunk_ms=0"], "chunk_ms=0: expected milliseconds, 1 to 10000"),
        ([f"checkpoint={folder}", "input=-", "decision.smoothing_ms=abc"], "smoothing_ms=abc: expected milliseconds"),
        ([f"checkpoint={folder}", "input=-", "json=/dev/null/a/b.json"], "/dev/null/a cannot be made"),
        ([f"checkpoint={folder}", "input=-", f"json={tmp_path}"], "is a folder; expected the name of a file"),
        ([f"checkpoint={folder}", "input=-", "rate=x"], "rate=x: expected samples a second"),
        ([f"checkpoint={folder}", "input=-", "rate=0"], "rate=0: expected samples a second"),
        ([f"checkpoint={folder}", "input=x.wav", "channel=x"], "channel=x: expected the number of a channel"),
        ([f"checkpoint={folder}", "on_detect=no-such-program %w"], "no program 'no-such-program'"),
        ([f"checkpoint={folder}", "decision.threshold={lwo: 0.5}"], "threshold names 'lwo'"),
    ):
        done = run(*arguments, module="kws.listen", check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
