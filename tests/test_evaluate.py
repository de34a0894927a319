"""Figures of an evaluation, and the command that prints them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import RATE, WORDS, config, spoken
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from processes import run

from kws import audio
from kws.data.dataset import ClipDataset
from kws.data.espeak import SAMPLE_RATE, engine
from kws.errors import KwsError
from kws.evaluate import chosen_clips, open_exported
from kws.exporting.spotter import export
from kws.losses import MaxPool, PerClip
from kws.metrics import accuracy, confusion_matrix, difference_interval, per_word, wilson_interval
from kws.spotters import FOLDER
from kws.training.evaluation import evaluate as judged
from kws.training.trained import open_checkpoint


def test_intervals_are_wilsons():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29
    for (r, n), (low, high) in {
        (81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611), (1, 29): (0.0061, 0.1718),
    }.items():  # fmt: skip
        np.testing.assert_allclose(wilson_interval(r, n), (low, high), atol=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_differences_are_bonett_and_prices():
    a, b = (np.repeat(each, [20, 12, 2, 16]) for each in ([True, False, True, False], [True, True, False, False]))
    low, high = difference_interval(a, b)  # 12 gained, 2 lost, of 50: 10 / 52 with a deviation of 0.0722
    np.testing.assert_allclose((low, high), (10 / 52 - 1.96 * 0.07215, 10 / 52 + 1.96 * 0.07215), atol=1e-3)
    np.testing.assert_allclose(difference_interval(b, a), (-high, -low))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(0, 2**20))
def test_differences_hold_what_was_found(n, seed):
    a, b = np.random.default_rng(seed).random((2, n)) < 0.7
    low, high = difference_interval(a, b)
    assert -1 <= low <= high <= 1
    assert low <= b.mean() - a.mean() <= high


def test_matrix_and_words():
    matrix = confusion_matrix([0, 0, 1, 2], [0, 1, 1, 1], 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert accuracy(matrix) == 0.5
    assert accuracy(matrix, [1, 2]) == 0.75
    rows = per_word(matrix, ["a", "b", "c"])
    assert rows["a"] == {"clips": 2, "recall": 0.5, "precision": 1.0}
    assert rows["b"]["precision"] == pytest.approx(1 / 3)
    assert rows["c"] == {"clips": 1, "recall": 0.0, "precision": 0.0}


def test_own_data(folder, tmp_path):
    done = run(f"checkpoint={folder}", f"json={tmp_path / 'f.json'}", "workers=0", module="kws.evaluate")
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["split"] == "test"
    assert figures["clips"] == sum(row["clips"] for row in figures["words"].values())
    assert figures["interval"][0] < figures["accuracy"] < figures["interval"][1] or figures["accuracy"] == 1
    assert figures["accuracy"] >= 0.8
    assert f"{100 * figures['accuracy']:.2f} %" in done.stdout
    assert (folder / "confusion-test.png").is_file()


def test_other_data_is_asked_for_the_words_in_both(folder, tmp_path):
    root, rng = tmp_path / "mine", np.random.default_rng(9)
    for word in ("high", "low", "sideways"):
        (root / word).mkdir(parents=True)
        for i in range(6):
            audio.write(root / word / f"{i}.wav", spoken(word if word in WORDS else "rise", rng), RATE)
    done = run(f"checkpoint={folder}", "data=folder", f"data.root={root}", "workers=0", module="kws.evaluate")
    assert "words in both: high low" in done.stdout
    assert "of 12 clips" in done.stdout
    (root / "high").rename(root / "x")
    (root / "low").rename(root / "y")
    wrong = run(f"checkpoint={folder}", "data=folder", f"data.root={root}", module="kws.evaluate", check=False)
    assert wrong.returncode == 2
    assert "the checkpoint knows fall, high" in wrong.stderr


def test_words_that_are_known_and_not_asked_are_no_other_words(tmp_path, capsys):
    for word in ("high", "low", "sideways"):
        (tmp_path / "train" / word).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "train" / word / f"{i}.wav").touch()
    cfg = config("evaluate", "checkpoint=x", "data=folder", f"data.root={tmp_path}", "data.words=[high]", "split=train")
    knows = SimpleNamespace(labels=["high", "low", "_unknown_"], config={"features": {"sample_frequency": RATE}})
    _, clips, _, _ = chosen_clips(cfg, knows)
    assert [(clip.label, clip.said) for clip in clips] == [("high", "high")] * 3 + [("_unknown_", "sideways")] * 3
    assert "left out: 3 clips of words that the checkpoint knows" in capsys.readouterr().out


def test_clips_that_training_repeats_are_asked_once(tmp_path):
    (tmp_path / "word").mkdir()
    for i in range(40):
        (tmp_path / "word" / f"{i}.wav").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.wav").touch()
    cfg = config("evaluate", "checkpoint=x", "data=wake_word", f"data.root={tmp_path / 'word'}", "data.word=word",
                 f"data.others=[{tmp_path / 'other'}]", "data.word_times=10", "data.synthetic=null")  # fmt: skip
    knows = SimpleNamespace(labels=["word", "_unknown_", "_silence_"], config={"features": {"sample_frequency": RATE}})
    assert len(chosen_clips(cfg, knows)[1]) == 41
    knows.labels = ["left", "right"]
    with pytest.raises(KwsError, match="the checkpoint knows left, right; the data has word"):
        chosen_clips(cfg, knows)


def test_other_words_and_background_are_one_answer_where_the_loss_says_so(folder):
    """As while training, which prints the command that asks for the same figure."""
    trained = open_checkpoint(folder / "best.pt")
    clips = instantiate(OmegaConf.create(trained.config["data"]), _convert_="all").clips("test")
    data = ClipDataset(clips, trained.labels, trained.extractor, trained.config["train"]["window_ms"])
    loss = PerClip(trained.labels, 0.0)
    exact = judged(trained.model, data, loss)
    loss.alike = [0, 1, 2, 3]
    mixed = judged(trained.model, data, loss)
    assert (exact.matrix == mixed.matrix).all()
    words = exact.matrix[:4, :4].sum() + exact.matrix[4, 4]
    assert mixed.accuracy == mixed.right.mean() == words / exact.matrix.sum() >= exact.accuracy == exact.right.mean()


def test_clips_are_heard_again_after_others(folder):
    trained = open_checkpoint(folder / "best.pt")
    clips = instantiate(OmegaConf.create(trained.config["data"]), _convert_="all").clips("test")
    data = ClipDataset(clips, trained.labels, trained.extractor, trained.config["train"]["window_ms"])
    loss, model = PerClip(trained.labels, 0.0), trained.model
    alone = model.clip_logits

    def judge(clip_logits):
        model.clip_logits = clip_logits
        return judged(model, data, loss, batch_size=6, others=True)

    keeps = judge(lambda frames: alone(frames[:, -data.n_frames :]))  # whatever was said before
    assert 0.2 < keeps.accuracy == keeps.after_others
    assert keeps.in_a_stream.endswith("as in a stream")
    stuck = judge(
        lambda frames: alone(frames) + 99 * (frames.shape[1] > data.n_frames) * torch.eye(len(data.labels))[0]
    )
    assert stuck.accuracy == keeps.accuracy
    assert stuck.after_others == pytest.approx(stuck.matrix[0].sum() / stuck.clips)  # it says the first label of all
    assert stuck.in_a_stream.endswith("train.context=0.5 teaches that")
    assert judged(model, data, MaxPool(trained.labels, 10.0), others=True).after_others is None


def test_a_network_to_begin_with_is_no_spotter():
    with pytest.raises(KwsError, match=r"speech\.pt is no spotter.*init_from="):
        open_checkpoint(FOLDER / "speech.pt")


def test_an_exported_file_answers_as_its_checkpoint_does(corpus, folder, tmp_path):
    file, found = tmp_path / "spotter.onnx", []
    run(f"checkpoint={folder}", f"output={file}", module="kws.export")
    data = ["data=folder", f"data.root={corpus}", "data.silence=true", "split=test", "snr=3", "workers=1"]
    for checkpoint in (folder, file):
        run(f"checkpoint={checkpoint}", f"json={tmp_path / 'f.json'}", *data, module="kws.evaluate")
        found.append(json.loads((tmp_path / "f.json").read_text()))
    assert found[0]["clips"] == found[1]["clips"] == 36
    assert 0.2 < found[0]["accuracy"] < 1  # or anything would agree
    for figure in ("accuracy", "after_others"):
        assert abs(found[0][figure] - found[1][figure]) <= 1 / 36  # a clip between two words, at most
    assert (tmp_path / "confusion-spotter-test.png").is_file()
    both = run(f"checkpoint={folder},{file}", f"json={tmp_path / 'f.json'}", *data, module="kws.evaluate").stdout
    _, second = json.loads((tmp_path / "f.json").read_text())
    low, high = second["difference"]["interval"]
    assert low <= found[1]["accuracy"] - found[0]["accuracy"] <= high
    assert f"points from {folder} (95 %: {100 * low:+.1f} to {100 * high:+.1f})" in both
    words = f"data.words=[{','.join(WORDS)}]"  # a source whose yaml asks for the rate of the features
    others = ["data=speech_commands", f"data.root={corpus}/test", words, "data.unknown=false"]
    run(f"checkpoint={file}", *others, module="kws.evaluate")
    refused = run(f"checkpoint={file}", module="kws.evaluate", check=False)
    assert refused.returncode == 2
    assert "does not say which data it was trained on" in refused.stderr


def test_an_exported_file_is_judged_as_it_was_trained(folder, tmp_path):
    trained = open_checkpoint(folder)
    trained.config["loss"] = {"_target_": "kws.losses.MaxPool", "tail_ms": 400.0, "guard_ms": 100.0}
    export(trained, tmp_path / "s.onnx", 100)
    clips = instantiate(OmegaConf.create(trained.config["data"]), _convert_="all").clips("test")
    found = []
    for one in (trained, open_exported(str(tmp_path / "s.onnx"))):
        loss = one.loss()
        assert isinstance(loss, MaxPool)
        data = ClipDataset(clips, one.labels, one.extractor, 700, spans=True)
        found.append(judged(one.model, data, loss))
    none = torch.zeros(0, RATE)  # of a batch whose files cannot be read
    assert one.model(none).shape == (0, 1, len(one.labels))
    assert found[0].loss == pytest.approx(found[1].loss, rel=0.02)
    assert (found[0].right != found[1].right).sum() <= 1


def test_words_that_the_data_lacks_are_named(folder, corpus):
    data = ["data=folder", f"data.root={corpus}", "data.words=[low,lwo]"]
    refused = run(f"checkpoint={folder}", *data, module="kws.evaluate", check=False)
    assert refused.returncode == 2
    assert "data.words: the data has no lwo" in refused.stderr


def test_noise_makes_it_harder(folder, tmp_path):
    figures = []
    for snr in (20, -20):
        run(f"checkpoint={folder}", f"snr={snr}", f"json={tmp_path / 'f.json'}", "workers=0", module="kws.evaluate")
        figures.append(json.loads((tmp_path / "f.json").read_text())["accuracy"])
    assert figures[0] > figures[1]


def test_a_stream_of_clips(folder, tmp_path):
    wanted = [f"checkpoint={folder}", "clips=12", f"json={tmp_path / 'f.json'}", "decision.threshold=0.5"]
    done = run(*wanted, "decision.smoothing_ms=100", "gap_ms=700", module="kws.benchmarks.listening")
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["words"] == 12
    assert figures["heard"] >= 9, done.stdout


def test_spotters_that_come_with_kws_are_judged_by_name_and_nothing_is_written_beside_them(tmp_path):
    root, before = tmp_path / "mine", sorted(FOLDER.iterdir())
    for word in ("stop", "zero"):
        (root / word).mkdir(parents=True)
        for i, voice in enumerate(("en-us+f2", "en+m3", "en-us+m1")):
            audio.write(root / word / f"{i}.wav", engine().speak(word, voice, 160, 50)[0], SAMPLE_RATE)
    asked = ["checkpoint=commands", "data=folder", f"data.root={root}", "workers=0"]
    done = run(*asked, cwd=tmp_path, module="kws.evaluate")
    assert "of 6 clips" in done.stdout
    assert (tmp_path / "confusion-commands-all.png").is_file()
    (tmp_path / "labels.csv").write_text(f"path,start,end,word\n{root / 'stop' / '0.wav'},0.1,0.4,stop\n")
    run("checkpoint=commands", "labels=labels.csv", cwd=tmp_path, module="kws.evaluate")
    assert (tmp_path / "det-labels.png").is_file()
    assert sorted(FOLDER.iterdir()) == before
