"""Every yaml of conf works: what is new there is tested without a test being written."""

import ast
import json
import re
import shlex

import numpy as np
import pytest
import torch
from conftest import RATE, WORDS, config, spoken, tiny
from hydra.utils import instantiate
from processes import ROOT

from kws import audio
from kws.config import conf_dir, quote_override
from kws.data.speech_commands import FIFTEEN
from kws.spotter import Spotter
from kws.training import checkpoint
from kws.training.log import read_rows
from kws.training.start import begin
from kws.training.trained import open_checkpoint
from kws.training.trainer import Trainer


def yamls(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def one_step(overrides, folder):
    """Trains one batch as the command would, and returns the run."""
    trainer = Trainer(config("train", *overrides), folder)
    assert begin(trainer)
    folder.mkdir(exist_ok=True)
    trainer.total_steps = 1
    trainer.run()
    row = next(row for row in read_rows(folder / "metrics.jsonl") if row["step"] == 1)
    assert np.isfinite(row["loss"])
    return trainer


def without(overrides, *keys):
    return [o for o in overrides if not o.startswith(keys)]


def streams_as_offline(folder):
    """Scores of the run's checkpoint in uneven chunks against the offline model."""
    trained = open_checkpoint(folder / checkpoint.LAST)
    sound = np.concatenate([spoken(word, np.random.default_rng(1)) for word in WORDS])
    with torch.no_grad():
        frames, _ = trained.extractor(torch.from_numpy(sound)[None])
        offline = trained.model(frames)[0].softmax(1).numpy()
    spotter, rows, at = Spotter(trained), [], 0
    for size in (1, 399, 161, 4000, 7777, len(sound)):
        rows.append(spotter.scores(sound[at : at + size]))
        at += size
    rows.append(spotter.scores(sound[:0], flush=True))
    np.testing.assert_allclose(np.concatenate(rows), offline, atol=1e-4)


def models():
    """The smallest of each table; larger ones of the same with the slow tests."""
    names = yamls("model")
    larger = {name for name in names if f"{name.removesuffix('_100k')}_10k" in names}
    return [pytest.param(name, marks=pytest.mark.slow if name in larger else ()) for name in names]


@pytest.mark.parametrize("name", models())
def test_models_train_and_stream(corpus, tmp_path, name):
    one_step([*without(tiny(corpus), "model"), f"model={name}"], tmp_path / "run")
    streams_as_offline(tmp_path / "run")


@pytest.mark.parametrize("name", yamls("features"))
def test_features_train_and_stream(corpus, tmp_path, name):
    one_step([*tiny(corpus), f"features={name}"], tmp_path / "run")
    streams_as_offline(tmp_path / "run")


@pytest.mark.parametrize("name", yamls("augment"))
def test_augmentations(corpus, tmp_path, name):
    one_step([*tiny(corpus), f"augment={name}"], tmp_path / "run")


@pytest.mark.parametrize("name", yamls("loss"))
def test_losses(corpus, tmp_path, name):
    given = [*tiny(corpus), f"loss={name}"]
    if name == "ctc":
        given += [
            "model=speech_phones",
            "model.form=temporal",
            "model.speller.after=2",
            "model.speller.table=[conv_k3_c8]",
        ]
    one_step(given, tmp_path / "run")


@pytest.mark.parametrize("name", yamls("optim"))
def test_optimisers(corpus, tmp_path, name):
    one_step([*tiny(corpus), f"optim={name}"], tmp_path / "run")


def official_layout(root, words):
    rng = np.random.default_rng(0)
    lines = []
    for word in words:
        (root / word).mkdir(parents=True)
        for i in range(8):
            sound = spoken(list(WORDS)[i % 4], rng)
            audio.write(root / word / f"{i:08x}_nohash_0.wav", sound, RATE)
        lines.append(f"{word}/00000007_nohash_0.wav\n")
    (root / "validation_list.txt").write_text("".join(lines))
    (root / "_background_noise_").mkdir()
    audio.write(root / "_background_noise_" / "hiss.wav", rng.standard_normal(20 * RATE) * 300, RATE)
    return root


@pytest.mark.parametrize("name", yamls("experiment"))
def test_experiments(tmp_path, name):
    root = official_layout(tmp_path / "corpus", [*FIFTEEN, "bed", "cat"])
    if name in ("wake_word", "computer"):
        overrides = [*without(tiny(root), "data", "model"), *in_layout("wake_word", root, tmp_path)]
        assert one_step([f"experiment={name}", *overrides], tmp_path / "run").labels[0] == "aurora"
        return
    overrides = [o for o in tiny(root) if not o.startswith(("data=", "data.unknown", "data.silence", "model"))]
    if name.startswith("text"):  # begins with what comes with kws
        overrides = [*without(overrides, "data", "optim", "train.ema"), *in_layout("synthetic", root, tmp_path)]
        more = ["data.near=2", "data.sentences=2", "data.unknown_least=9"]
        trainer = one_step([f"experiment={name}", *overrides, *more], tmp_path / "run")
        assert trainer.labels == ["left", "right", "_unknown_", "_silence_"]
        return
    trainer = one_step([f"experiment={name}", *overrides], tmp_path / "run")
    assert trainer.labels == [*FIFTEEN, "_unknown_", "_silence_"]


def in_layout(name: str, corpus, tmp_path) -> list[str]:
    """Made data in the layout that a source reads, and the overrides that point there."""
    if name == "synthetic":
        more = ["data.per_word=8", "data.per_word_evaluation=2", "data.noise_seconds=4", "data.workers=1"]
        return [*more, f"data.cache={tmp_path / 'cache'}", "data.words=[left,right]"]
    if name == "wake_word":
        root = official_layout(tmp_path / "wake", ["go", "stop"])
        more = [
            "per_word=4", "per_word_evaluation=2", "noise_seconds=4", "workers=1", f"cache={tmp_path / 'cache'}",
            "near=4", "sentences=4",
        ]  # fmt: skip
        return [
            "data.word=aurora", f"data.root={root / 'go'}", f"data.others=[{root}]",
            f"data.background=[{root / '_background_noise_'}]", *(f"data.synthetic.{value}" for value in more),
        ]  # fmt: skip
    if name == "folder":
        return [f"data.root={corpus}"]
    if name == "speech_commands":
        return [f"data.root={official_layout(tmp_path / 'sc', ['go', 'stop', 'bed'])}", "data.words=[go,stop]"]
    paths = {
        split: [(p, p.parent.name) for p in sorted((corpus / split).glob("[a-z]*/*.wav"))]
        for split in ("train", "validation")
    }
    if name == "manifest":
        for split, clips in paths.items():
            rows = [json.dumps({"path": str(p), "label": word}) for p, word in clips]
            (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
        return [f"data.{split}={tmp_path / split}.jsonl" for split in paths]
    if name == "kaldi":
        for split, clips in paths.items():
            folder = tmp_path / split
            folder.mkdir()
            rows = sorted((f"{word}-{p.stem}", p, word) for p, word in clips)
            (folder / "wav.scp").write_text("".join(f"{key} {p}\n" for key, p, _ in rows))
            (folder / "text").write_text("".join(f"{key} {word}\n" for key, _, word in rows))
        return [f"data.{split}={tmp_path / split}" for split in paths]
    raise AssertionError(f"conf/data/{name}.yaml is new: make data in its layout here")


@pytest.mark.parametrize("name", yamls("data"))
def test_sources(corpus, tmp_path, name):
    overrides = [*without(tiny(corpus), "data"), f"data={name}", *in_layout(name, corpus, tmp_path)]
    trainer = one_step(overrides, tmp_path / "run")
    assert len(trainer.labels) >= 2


@pytest.mark.parametrize("path", sorted(conf_dir().glob("*.yaml")), ids=lambda p: p.stem)
def test_commands_compose(path):
    cfg = config(path.stem)
    assert "hydra" in cfg
    assert cfg.hydra.output_subdir is None


def test_targets_exist():
    for path in conf_dir().rglob("*.yaml"):
        for line in path.read_text().splitlines():
            if "_target_:" in line:
                assert instantiate({"_target_": "hydra.utils.get_object", "path": line.split(":", 1)[1].strip()})


def documented():
    """Every command line of a docstring or a README, as (where, command, arguments)."""
    pages = [ROOT / "README.md", ROOT / "data/README.md", *ROOT.glob("recipes/*/*.md"), *ROOT.glob("kws/*/*.md")]
    texts = {path: path.read_text() for path in pages}
    for path in (*ROOT.glob("kws/*.py"), *ROOT.glob("kws/benchmarks/*.py"), *ROOT.glob("conf/**/*.yaml")):
        text = path.read_text()
        texts[path] = text.replace("#", " ") if path.suffix == ".yaml" else ast.get_docstring(ast.parse(text)) or ""
    for path, text in texts.items():
        for match in re.finditer(
            r"^(?:|  +)python -m kws\.([\w.]+)(?![\w.]*:)(.*)$", text.replace("\\\n", " "), re.MULTILINE
        ):
            line = re.split(r" {2,}(?![\w.]+=)| #|;", match[2])[0]
            yield str(path.relative_to(ROOT)), match[1], line


@pytest.mark.parametrize(("where", "name", "line"), documented(), ids=lambda value: str(value)[:60])
def test_documented_commands_compose(where, name, line):
    module = (ROOT / "kws" / f"{name.replace('.', '/')}.py").read_text()
    if not (found := re.search(r'^@command\("(\w+)"\)', module, re.MULTILINE)):
        return  # with settings of its own
    config(found[1], *(quote_override(argument) for argument in shlex.split(line) if "…" not in argument))
