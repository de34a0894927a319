"""Runs: stopped anywhere and resumed, changed and carried over, broken and named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RATE, config, tiny
from processes import ROOT, run, start

from kws import audio
from kws.augment import mask
from kws.data.dataset import Batches, ClipDataset, load
from kws.errors import KwsError
from kws.losses import PerClip, targets
from kws.models import build
from kws.train import train
from kws.training import checkpoint
from kws.training.evaluation import evaluate
from kws.training.log import read_rows
from kws.training.muon import Muon
from kws.training.start import begin
from kws.training.trained import open_checkpoint
from kws.training.trainer import Trainer


def trained(corpus, folder, *more):
    cfg = config("train", *tiny(corpus, *more))
    return train(cfg, folder)


def losses(folder) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """An undisturbed run, for others to be compared with."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    accuracy = trained(corpus, folder, "train.epochs=12", "train.mixup=0.2", "train.context=0.5")
    return folder, accuracy


def test_it_learns_and_leaves_what_it_promises(finished):
    folder, accuracy = finished
    assert accuracy >= 0.6  # of five classes
    assert {"best.pt", "last.pt", "metrics.jsonl", "config.yaml", "curves.png", "confusion.png"} <= set(
        os.listdir(folder)
    )
    steps = [step for step, _ in losses(folder)]
    assert steps == list(range(1, len(steps) + 1))
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["labels"] == ["fall", "high", "low", "rise", "_silence_"]
    assert saved["features"]["num_mel_bins"] == 40
    assert {"model", "ema", "optimizer", "schedule", "position", "seed", "config", "format"} <= set(saved)


def killed_and_resumed(corpus, folder, at_steps, *more):
    """The run as a process that is killed with SIGKILL each time its log has reached the next of `at_steps`."""
    arguments = [*tiny(corpus, *more), f"runs={folder.parent}", f"name={folder.name}", "train.checkpoint_every=3"]
    for at in at_steps:
        process = start([Path(os.devnull)] * 3, *arguments)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.is_alive():
            reached = max((row["step"] for row in read_rows(folder / "metrics.jsonl")), default=0)
            if reached >= at:
                break
            time.sleep(0.002)
        assert process.is_alive(), "the run ended before it could be killed"
        process.kill()
        process.join()
    return run(*arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_anywhere_it_ends_as_if_it_had_not_been(corpus, finished, tmp_path, workers):
    folder = tmp_path / "killed"
    more = ["train.epochs=12", "train.mixup=0.2", "train.context=0.5", f"train.workers={workers}"]
    done = killed_and_resumed(corpus, folder, [4, 33], *more)
    assert "resuming" in done.stdout
    assert losses(folder) == losses(finished[0])
    ours, theirs = (torch.load(f / "last.pt", weights_only=True) for f in (folder, finished[0]))
    for part in ("model", "ema"):
        for name, value in theirs[part].items():
            assert torch.equal(ours[part][name], value), name
    assert not list(folder.glob(".part*"))


def test_muon_takes_torchs_step_where_channels_mix_and_adamws_elsewhere():
    """Against torch.optim.Muon, which takes matrices alone, and in bfloat16: within its rounding."""
    torch.manual_seed(0)
    mixing, apart, classifier = torch.randn(6, 4, 3, 1), torch.randn(6, 1, 3, 1), torch.randn(3, 6)
    ours = [weight.clone().requires_grad_() for weight in (mixing, apart, classifier)]
    matrix = mixing.flatten(1).clone().requires_grad_()
    others = [weight.clone().requires_grad_() for weight in (apart, classifier)]
    optimiser = Muon(ours, lr=0.01, gain=2.0, weight_decay=0.0)
    theirs = torch.optim.Muon([matrix], lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=0.01, weight_decay=0.0)
    for _ in range(5):
        for weight, same in zip(ours, (matrix, *others), strict=True):
            weight.grad = torch.randn_like(weight)
            same.grad = weight.grad.view_as(same).clone()
        for each in (optimiser, theirs, adamw):
            each.step()
    moved, expected = (ours[0] - mixing).flatten(1), matrix - mixing.flatten(1)
    assert (moved - expected).norm() < 0.02 * expected.norm()
    assert all(torch.equal(a, b) for a, b in zip(ours[1:], others, strict=True))
    for wrong in ({"gain": 0}, {"momentum": 1}):
        with pytest.raises(KwsError, match=r"optim\.optimizer\..*: expected a number"):
            Muon(ours, lr=0.01, **wrong)


def test_where_words_end_is_drawn_alike_after_a_kill(corpus, tmp_path):
    more = ["loss=max_pool", "augment=wake_word", "train.epochs=3", "optim=muon"]
    trained(corpus, tmp_path / "whole", *more)
    killed_and_resumed(corpus, tmp_path / "killed", [4], *more)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_asked_to_stop_it_saves_and_says_how_to_go_on(corpus, tmp_path):
    arguments = [*tiny(corpus, "train.epochs=500"), f"runs={tmp_path}", "name=stopped"]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "kws.train", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        for line in process.stdout:
            if line.startswith("epoch"):
                break
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == code
        assert "The same command goes on" in rest
    saved = torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)
    assert saved["position"]["step"] == losses(tmp_path / "stopped")[-1][0]


def test_the_second_training_in_one_folder_is_refused_with_the_first_ones_number(corpus, tmp_path):
    folder, arguments = tmp_path / "run", [*tiny(corpus, "train.epochs=500", "train.workers=1"), f"runs={tmp_path}"]
    first = subprocess.Popen(
        [sys.executable, "-u", "-m", "kws.train", *arguments, "name=run"], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    for line in first.stdout:
        if line.startswith("epoch"):
            break
    second = run(*arguments, "name=run", "resume=never", check=False)
    assert second.returncode == 2
    refusal = f"error: {folder}: in use by process {first.pid}: wait for its end, or choose another name"
    assert second.stderr.strip().splitlines()[-1] == refusal
    assert first.poll() is None
    first.kill()
    first.wait()
    assert (folder / ".lock").read_text() == f"{first.pid}\n"  # which says nothing any more
    trained(corpus, folder, "resume.from=never")  # at once, though a worker of the killed process may live on a while
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ("epochs=abc", "expected a whole number of at least 1"),
        ("batch_size=0", "expected a whole number of at least 1"),
        ("workers=null", "expected a whole number of at least 0"),
        ("workers=-1", "expected a whole number of at least 0"),
        ("ema=1.5", "expected a number of at least 0 and below 1"),
        ("mixup=-1", "expected a number of at least 0"),
        ("keep=worst", "choose best or last"),
        ("compile=maybe", "expected true or false"),
        ("tensorboard=off", "expected true or false"),
    ],
)
def test_numbers_that_cannot_be_are_named(corpus, tmp_path, wrong, expected):
    with pytest.raises(KwsError, match=f"^train.{wrong.replace('null', 'None')}: {expected}$"):
        trained(corpus, tmp_path / "run", f"train.{wrong}")
    assert not (tmp_path / "run").exists()


def test_a_mixture_has_no_words_end(corpus, tmp_path):
    with pytest.raises(KwsError, match=r"train\.mixup: .* where a word ends"):
        Trainer(config("train", *tiny(corpus, "loss=max_pool", "train.mixup=0.2")), tmp_path)


@pytest.mark.parametrize("loss", ["max_pool", "ctc"])
def test_a_context_has_no_steps_to_judge(corpus, tmp_path, loss):
    with pytest.raises(KwsError, match=r"train\.context: this loss judges every step"):
        Trainer(config("train", *tiny(corpus, f"loss={loss}", "train.context=0.5")), tmp_path)


def test_a_window_hears_before_it_what_a_stream_would(corpus, tmp_path):
    trainer = Trainer(config("train", *tiny(corpus, "train.context=0.5")), tmp_path)
    window, back, stride = trainer.data["train"].n_frames, trainer.context, trainer.model.stride
    assert stride <= back < window
    frames = torch.randn(3, 100 + back + window, trainer.model.n_features)
    frames[1, 100:], frames[2, 100 + stride :] = frames[0, 100:], frames[0, 100 + stride :]
    answers = trainer.model.eval().clip_logits(frames)
    assert torch.equal(answers[0], answers[1])  # what is further back changes nothing
    assert not torch.equal(answers[0], answers[2])
    heard, logits = [], trainer.logits
    trainer.logits = lambda model, frames: heard.append(frames) or logits(model, frames)
    for batch, _ in zip(load(trainer.data["train"], trainer._batches(0), 0), range(6), strict=False):
        trainer._train_step(batch)
    assert {frames.shape[1] for frames in heard} == {window, back + window}
    longer = max(heard, key=lambda frames: frames.shape[1])
    assert torch.equal(longer[:, :back], longer[:, -back:].roll(1, 0))  # another clip's end


def test_a_student_answers_as_its_teachers_do(corpus, finished, tmp_path):
    distilled = f"train.teachers=[{finished[0]}]", "train.teacher_share=0.9", "train.label_smoothing=0"
    trainer = Trainer(config("train", *tiny(corpus, *distilled)), tmp_path / "run")
    frames = torch.randn(5, 68, trainer.model.n_features)
    teacher = open_checkpoint(finished[0]).model
    assert torch.allclose(trainer.teachers(frames), teacher.clip_logits(frames).softmax(dim=1), atol=1e-6)
    seen = []
    own = trainer.loss
    trainer.loss = type("Seen", (PerClip,), {"__call__": lambda _, *given: seen.append(given[1]) or own(*given)})([], 0)
    batch = next(iter(load(trainer.data["train"], trainer._batches(0), 0)))
    trainer._train_step(batch)
    hidden = mask(batch["frames"], batch["masks"], trainer.model.mean)
    expected = 0.1 * targets(batch["label"], len(trainer.labels)) + 0.9 * trainer.teachers(hidden)
    assert torch.allclose(seen[0], expected, atol=1e-6)
    assert trained(corpus, tmp_path / "run", *distilled) > 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")
def test_compiled_it_learns_the_same(corpus, tmp_path):
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    for folder in (plain, compiled):
        trained(corpus, folder, "model.dropout=0", "train.mixup=0.2", f"train.compile={folder == compiled}")
    steps = [losses(folder) for folder in (plain, compiled)]
    assert len(steps[0]) == len(steps[1]) > 10
    assert np.allclose(*steps, rtol=1e-3)


@pytest.mark.slow
def test_without_a_compiler_it_says_so(corpus, tmp_path):
    nowhere = {"CXX": "/no/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    ended = subprocess.run(
        [sys.executable, "-m", "kws.train", *tiny(corpus), "train.compile=true", f"runs={tmp_path}"], text=True,
        cwd=ROOT, capture_output=True, env={**os.environ, **nowhere, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 2
    assert "train.compile=true: torch cannot compile, which takes a C++ compiler" in ended.stderr.splitlines()[-1]


def test_teachers_that_cannot_teach_are_named(corpus, finished, tmp_path):
    teacher = f"train.teachers=[{finished[0]}]"
    with pytest.raises(KwsError, match=r"train\.teachers: .* answers .*; expected"):
        Trainer(config("train", *tiny(corpus, teacher, "data.silence=false")), tmp_path)
    with pytest.raises(KwsError, match=r"train\.teachers: .* another front-end"):
        Trainer(config("train", *tiny(corpus, teacher, "features.num_mel_bins=30")), tmp_path)
    with pytest.raises(KwsError, match=r"train\.teachers: .* loss=clip"):
        Trainer(config("train", *tiny(corpus, teacher, "loss=max_pool")), tmp_path)
    with pytest.raises(KwsError, match=r"train\.teachers=runs/x: expected a list, as in train\.teachers=\[runs/x\]"):
        Trainer(config("train", *tiny(corpus, "train.teachers=runs/x")), tmp_path)
    one = checkpoint.load(finished[0] / checkpoint.BEST)
    one["config"]["loss"] = {"_target_": "kws.losses.MaxPool"}
    checkpoint.save(tmp_path / "steps.pt", one)
    with pytest.raises(KwsError, match=r"steps\.pt answers every step, and a student learns one answer for a clip"):
        Trainer(config("train", *tiny(corpus, f"train.teachers=[{tmp_path / 'steps.pt'}]")), tmp_path)


@pytest.mark.parametrize("window_ms", [1.2, 30])
def test_a_window_shorter_than_a_step_is_named(corpus, tmp_path, window_ms):
    with pytest.raises(KwsError, match=r"train\.window_ms=.*: shorter than a step of the model, \d+ ms"):
        Trainer(config("train", *tiny(corpus, f"train.window_ms={window_ms}")), tmp_path)


def test_one_class_is_nothing_to_learn(corpus, tmp_path):
    alone = ["data.words=[low]", "data.unknown=false", "data.silence=false"]
    with pytest.raises(KwsError, match=r"nothing to tell 'low' from: add recordings of other words \(_unknown_\)"):
        Trainer(config("train", *tiny(corpus, *alone)), tmp_path)


def test_a_folder_that_cannot_be_made_is_named(corpus, tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(KwsError, match=f"runs: {tmp_path}/runs/a cannot be made"):
        trained(corpus, tmp_path / "runs" / "a")


def test_a_finished_run_is_left_alone(corpus, finished, tmp_path, capsys):
    folder = tmp_path / "again"
    trained(corpus, folder)
    before = (folder / "last.pt").read_bytes()
    trained(corpus, folder)
    assert "this run is finished" in capsys.readouterr().out
    assert (folder / "last.pt").read_bytes() == before
    with pytest.raises(KwsError, match=r"another configuration.*lr: 0.01 -> 0.1"):
        trained(corpus, folder, "optim.optimizer.lr=0.1")
    trained(corpus, folder, "train.epochs=3")  # longer: it goes on
    assert "epochs: 2 -> 3" in capsys.readouterr().out
    assert torch.load(folder / "last.pt", weights_only=True)["position"]["step"] == 3 * len(losses(folder)) // 3


def test_twelve_words_start_fifteen(corpus, finished, tmp_path, capsys):
    """Labels are carried by name, a wider layer is copied where it overlaps, and the old words are known at once."""
    root = tmp_path / "more"
    rng = np.random.default_rng(5)
    for split in ("train", "validation", "test"):
        (root / split).mkdir(parents=True)
        for name in os.listdir(corpus / split):
            (root / split / name).symlink_to(corpus / split / name)
        (root / split / "another").mkdir()
        for i in range(8):
            audio.write(root / split / "another" / f"n{i}_nohash_0.wav", rng.standard_normal(6000) * 4000, RATE)
    words = "data.words=[another,low,high,rise,fall]"
    wide = "model.table=[conv_k7_s2_c24,ds_k5_c16_res]"
    more = [words, wide, f"init_from={finished[0]}", "init_overlap=true", "init_names=true"]
    trainer = Trainer(config("train", *tiny(root, *more)), tmp_path / "wide")
    begin(trainer)
    out = capsys.readouterr().out
    assert "labels carried: low, high, rise, fall, _silence_" in out
    assert "overlapped: blocks.0.conv.conv.weight" in out
    assert "2 carried" in out
    known = [
        i for i, clip in enumerate(trainer.data["validation"].clips) if clip.label in ("low", "high", "rise", "fall")
    ]
    batch = next(iter(load(trainer.data["validation"], [[(0, i) for i in known]], 0)))
    with torch.no_grad():
        answers = trainer.model.eval().clip_logits(batch["frames"]).argmax(1)
    assert (answers == batch["label"]).float().mean() >= 0.6
    foreign = Trainer(
        config("train", *tiny(corpus, f"init_from={finished[0]}", "model.table=[conv_k3_c20]")), tmp_path / "no"
    )
    with pytest.raises(KwsError, match="nothing of the checkpoint fits"):
        begin(foreign)


def test_frozen_blocks_stay_as_they_came(corpus, finished, tmp_path, capsys):
    before = torch.load(finished[0] / "best.pt", weights_only=True)["ema"]
    given = tiny(corpus, f"init_from={finished[0]}", "train.frozen=1", "name=x")
    trainer = Trainer(config("train", *given), tmp_path)
    assert begin(trainer)
    trainer.run()
    same = {name: torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items()}
    assert all(same[name] for name in same if name.startswith("blocks.0."))  # the running means too
    assert not any(same[name] for name in same if name.endswith("weight") and not name.startswith("blocks.0."))
    assert begin(Trainer(config("train", *given, f"train.epochs={trainer.cfg.train.epochs + 1}"), tmp_path))
    assert "without optimiser state" not in capsys.readouterr().out  # of what is trained all goes on


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["train.frozen=1"], "train.frozen=1 without init_from"),
        (["train.frozen=9", "init_from={}"], "train.frozen=9: the model has 2 blocks"),
        (
            ["train.frozen=1", "init_from={}", "model.table=[conv_k3_s2_c16,ds_k5_c16_res]"],
            "no weights of these shapes",
        ),
        (["init_from=speach"], "no checkpoint comes with kws by that name: commands, .*, speech"),
    ],
)
def test_what_cannot_be_frozen_is_named(corpus, finished, tmp_path, more, expected):
    given = [argument.format(finished[0]) for argument in more]
    with pytest.raises(KwsError, match=expected):
        begin(Trainer(config("train", *tiny(corpus, *given, "name=x")), tmp_path))


def test_resuming_a_changed_model_keeps_what_fits(corpus, finished, tmp_path, capsys):
    longer = [f"resume={finished[0] / 'last.pt'}", "train.epochs=13", "model.table=[conv_k5_s2_c16,ds_k7_c16_res]"]
    arguments = [a.replace("resume=", "resume.from=") for a in longer]
    with pytest.raises(KwsError, match=r"(?s)resume.strict=true.*reset: blocks.1.depthwise.conv.weight"):
        begin(Trainer(config("train", *tiny(corpus, *arguments, "resume.strict=true")), tmp_path / "strict"))
    trainer = Trainer(config("train", *tiny(corpus, *arguments)), tmp_path)
    assert begin(trainer)
    out = capsys.readouterr().out
    assert "1 reset" in out
    assert "1 tensors begin without optimiser state" in out
    named = dict(trainer.model.named_parameters())
    assert named["blocks.1.depthwise.conv.weight"] not in trainer.optimizer.state
    assert named["classifier.weight"] in trainer.optimizer.state
    assert trainer.run()["epoch"] == 13


def test_each_gate_overlaps_with_its_own():
    small, large = (build([f"gru_c{width}"], 8, 2) for width in (4, 6))
    checkpoint.fit(small.state_dict(), large, ["a", "b"], ["a", "b"], overlap=True)
    name = next(name for name in small.state_dict() if name.endswith("weight_hh_l0"))
    old, new = (model.state_dict()[name].unflatten(0, (3, -1)) for model in (small, large))
    torch.testing.assert_close(new[:, :4, :4], old)


def test_epochs_are_compared_by_the_same_figures_alone(corpus, finished, tmp_path):
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    saved = checkpoint.load(finished[0] / "last.pt", "cpu")
    saved["position"] |= {"step": 11 * saved["position"]["per_epoch"], "finished": False}
    checkpoint.save(stopped / "last.pt", saved)
    moved = shutil.copytree(corpus, tmp_path / "moved")
    for place, kept in ((moved, True), (moved, False)):
        arguments = ["train.epochs=12", "train.mixup=0.2", f"data.root={place}"]
        trainer = Trainer(config("train", *tiny(corpus, *arguments)), stopped)
        assert begin(trainer)
        assert trainer.best == (saved["best"] if kept else {})
        for path in sorted(moved.glob("validation/*/*.wav")):  # after the first turn other clips validate
            path.rename(path.with_name(f"x{path.name}"))


def test_a_stopped_run_goes_on_with_other_batches(corpus, finished, tmp_path, capsys):
    saved = checkpoint.load(finished[0] / "last.pt", "cpu")
    saved["position"] |= {"step": 11 * saved["position"]["per_epoch"], "finished": False}
    checkpoint.save(tmp_path / "last.pt", saved)
    more = ["train.epochs=12", "train.mixup=0.2", "train.batch_size=32"]  # half as many steps as were done
    trainer = Trainer(config("train", *tiny(corpus, *more)), tmp_path)
    assert begin(trainer)
    assert "it begins anew" in capsys.readouterr().out
    assert trainer.step == 11 * trainer.per_epoch
    assert trainer.run()["epoch"] <= 12
    assert trainer.step == trainer.total_steps


def test_a_loss_that_is_no_number_names_its_batch(corpus, tmp_path):
    with pytest.raises(KwsError, match=r"loss is (nan|inf) at step \d+ .*\.wav"):
        trained(corpus, tmp_path / "nan", "optim.optimizer.lr=1e30", "train.clip_norm=0")


def test_early_stopping_balance_and_bf16(corpus, tmp_path, capsys):
    trained(
        corpus, tmp_path / "early", "train.epochs=40", "train.patience=1", "optim.optimizer.lr=0", "train.ema=0",
        "train.balance=true", "train.precision=bf16", "train.tensorboard=true",
    )  # fmt: skip
    rows = [row for row in read_rows(tmp_path / "early" / "metrics.jsonl") if "validation_loss" in row]
    assert len(rows) < 40
    assert any(name.startswith("events") for name in os.listdir(tmp_path / "early" / "tensorboard"))


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 3)])
def test_best_is_the_epoch_that_is_asked_for(corpus, tmp_path, monkeypatch, keep, epoch):
    known, real = iter([0.5, 0.9, 0.7]), evaluate
    monkeypatch.setattr("kws.training.trainer.evaluate", lambda *given: replace(real(*given), accuracy=next(known)))
    trained(corpus, tmp_path, "train.epochs=3", f"train.keep={keep}")
    assert checkpoint.load(tmp_path / checkpoint.BEST)["best"]["epoch"] == epoch


def test_patience_waits_for_a_best_epoch(corpus, tmp_path):
    with pytest.raises(KwsError, match=r"train\.patience=2 waits for a better epoch: say train\.keep=best"):
        trained(corpus, tmp_path, "train.patience=2", "train.keep=last")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_and_left_out(corpus, tmp_path, capsys, workers):
    root = tmp_path / "broken"
    shutil.copytree(corpus, root)
    bad = root / "train" / "low" / "s5_nohash_0.wav"
    bad.write_text("this is no sound")
    trained(root, tmp_path / "out", f"train.workers={workers}")
    assert capsys.readouterr().err.count(str(bad)) == 1
    trained(root, tmp_path / "alone", f"train.workers={workers}", "train.batch_size=1", "train.epochs=1")
    for path in (root / "train" / "low").glob("s1*.wav"):
        path.write_bytes(b"")
    with pytest.raises(KwsError, match=r"of 106 clips cannot be used.*\.wav"):
        trained(root, tmp_path / "worse", f"train.workers={workers}")


def test_many_runs_at_once(corpus, tmp_path):
    run(*tiny(corpus), f"runs={tmp_path}", "name='s${seed}'", "seed=1,2", "train.epochs=1", "--multirun")
    assert {"s1", "s2"} <= set(os.listdir(tmp_path))


def test_mistakes_on_the_command_line_are_one_line(corpus, tmp_path):
    wrong = run("model=gohst", check=False)
    assert wrong.returncode != 0
    assert "dscnn_100k" in wrong.stderr
    nothing = run(f"data.root={tmp_path}", "data=folder", f"runs={tmp_path / 'runs'}", check=False)
    assert nothing.returncode == 2
    assert "Traceback" not in nothing.stderr
    assert str(tmp_path) in nothing.stderr


class TestCheckpoint:
    def test_foreign_and_broken_files_are_named(self, tmp_path):
        cases = {"text.pt": b"hello", "empty.pt": b"", "cut.pt": None}
        torch.save({"a": 1}, tmp_path / "foreign.pt")
        checkpoint.save(tmp_path / "good.pt", {"labels": ["a"]})
        cases["cut.pt"] = (tmp_path / "good.pt").read_bytes()[:-40]
        for name, content in cases.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(KwsError, match=name):
                checkpoint.load(tmp_path / name)
        with pytest.raises(KwsError, match="not a checkpoint of kws"):
            checkpoint.load(tmp_path / "foreign.pt")
        with pytest.raises(KwsError, match="does not exist"):
            checkpoint.load(tmp_path / "missing.pt")
        torch.save({"format": 99, "labels": []}, tmp_path / "new.pt")
        with pytest.raises(KwsError, match="format 99"):
            checkpoint.load(tmp_path / "new.pt")

    def test_a_checkpoint_holds_no_code(self, tmp_path):
        torch.save({"format": 1, "labels": [], "x": subprocess.Popen}, tmp_path / "hostile.pt")
        with pytest.raises(KwsError, match="cannot be read"):
            checkpoint.load(tmp_path / "hostile.pt")

    def test_killed_while_writing_leaves_a_whole_file(self, tmp_path):
        code = (
            "import sys, torch; from pathlib import Path; from kws.training import checkpoint\n"
            "i = 0\n"
            "while True:\n"
            "    i += 1\n"
            f"    path = Path({str(tmp_path)!r}) / 'c.pt'\n"
            "    checkpoint.save(path, dict(labels=['a'], i=i, w=torch.full((200000,), i)))\n"
        )
        for wait in (0.0, 0.05, 0.11, 0.013):
            process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
            while not (tmp_path / "c.pt").exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(wait)
            process.kill()
            process.wait()
            saved = checkpoint.load(tmp_path / "c.pt")
            assert (saved["w"] == saved["i"]).all()
            (tmp_path / "c.pt").unlink()

    def test_what_was_trained_is_what_listens(self, finished):
        opened = open_checkpoint(finished[0])
        saved = torch.load(finished[0] / "best.pt", weights_only=True)
        assert opened.labels == saved["labels"]
        assert all(torch.equal(opened.model.state_dict()[name], value) for name, value in saved["ema"].items())
        assert opened.options.num_mel_bins == 40


class TestBatches:
    def test_positions_and_shares(self):
        whole = list(Batches(23, 5, (0, 3), seed=1))
        assert len(whole) == 15
        assert list(Batches(23, 5, (1, 3), seed=1, first_batch=2)) == whole[7:]
        assert sorted(i for batch in whole[:5] for _, i in batch) == list(range(23))
        shares = [list(Batches(23, 5, (0, 3), seed=1, rank=r, world=2)) for r in (0, 1)]
        assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]

    def test_balance(self):
        labels = np.array([0] * 90 + [1] * 10)
        drawn = [labels[i] for batch in Batches(100, 10, (0, 50), balance=labels) for _, i in batch]
        assert 0.45 < np.mean(drawn) < 0.55
        keys = [key for batch in Batches(100, 10, (3, 5), balance=labels) for key in batch]
        assert len(set(keys)) == len(keys) == 200  # a clip that is drawn again is changed in another way
        assert keys[110:] == [key for batch in Batches(100, 10, (4, 5), first_batch=1, balance=labels) for key in batch]

    def test_a_clip_is_a_function_of_its_key(self, corpus):
        cfg = config("train", *tiny(corpus))
        data = Trainer(cfg, corpus.parent / "unused").data["train"]
        key = (3, 7)
        first = data[key]
        _ = data[(0, 1)], data[(3, 8)]
        again = data[key]
        assert all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(again[name])) for name in first)
        assert not torch.equal(data[(4, 7)]["wave"], first["wave"])
        keys = [[(0, i) for i in range(5)], [(1, i) for i in range(5)]]
        by_worker = [b["frames"] for b in load(data, keys, 2)]
        assert all(torch.equal(a, b["frames"]) for a, b in zip(by_worker, load(data, keys, 0), strict=True))
        assert isinstance(data, ClipDataset)
        assert json.dumps(sorted(data.labels)) == '["_silence_", "fall", "high", "low", "rise"]'
