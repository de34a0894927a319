"""The command line: any path as it is, labels as words, mistakes in a line."""

import os
import string
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from processes import ROOT, run

from kws.config import check_labels, differences_between, quote_override
from kws.errors import KwsError


def value_of(argument: str, key: str):
    """What the command would see, interpolation included."""
    override = OverridesParser.create().parse_override(quote_override(argument))
    cfg = OmegaConf.create({})
    OmegaConf.update(cfg, override.key_or_group, override.value(), force_add=True)
    return OmegaConf.select(cfg, key)


NAMES = st.text(
    st.sampled_from(string.ascii_letters + string.digits + " =[]{}()'\"\\,:$!#%&+~@^`;é日ß*?<>|-_."),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", "..") and name == name.strip())


@settings(max_examples=300, deadline=None)
@given(name=NAMES)
@example("1e3")
@example("true")
@example("2024")
@example("a,b")
@example("${x}")
@example("\\${x}")
@example("tail\\")
@example("it's")
@example('"quoted"x')
@example("''")
@example("'quoted'")
def test_any_existing_path_is_taken_as_it_is(tmp_path_factory, name):
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    try:
        (folder / name).touch()
    except OSError:
        return  # the system has no such name
    path = str(folder / name)
    assert value_of(f"data.root={path}", "data.root") == path
    assert value_of(f"data.anything={path}", "data.anything") == path
    assert value_of(f"output={path} (new)", "output") == f"{path} (new)"
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert value_of(f"input={name}", "input") == name
    finally:
        os.chdir(before)


def test_other_values_are_left_to_hydra():
    assert value_of("train.epochs=3", "train.epochs") == 3
    assert value_of("data.words=[yes,hey aurora]", "data.words") == ["yes", "hey aurora"]
    assert value_of("data.words=[größe, don't, hey aurora, 'é', yes]", "data.words") == [
        "größe", "don't", "hey aurora", "é", "yes",
    ]  # fmt: skip
    assert value_of("data.words=[größe", "data.words") == "[größe"
    assert value_of("""data.words=["yes",don't]""", "data.words") == ["yes", "don't"]
    assert value_of("init_from=null", "init_from") is None
    assert quote_override("--config-dir=x y") == "--config-dir=x y"
    assert quote_override("--multirun") == "--multirun"
    assert quote_override("init_from=a,b", sweep=True) == "init_from=a,b"
    assert quote_override("resume=never") == "resume.from='never'"
    assert quote_override("resume.strict=true") == "resume.strict=true"


def test_labels_are_words():
    assert check_labels(["yes", "no"]) == ["yes", "no"]
    for bad, words in (([True], r"True is a bool.*need quotes"), ([1], "1 is a int"), (["a", "a"], "twice")):
        with pytest.raises(KwsError, match=words):
            check_labels(bad)


def test_yaml_booleans_are_refused_by_name(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [synthetic, _self_]\nwords: [yes, no, on, off]\n")
    done = run("--config-dir", str(tmp_path), "data=mine", check=False)
    assert done.returncode == 2
    assert "quotes" in done.stderr
    assert "Traceback" not in done.stderr


def test_own_yaml_is_found_from_any_folder(tmp_path):
    (tmp_path / "my conf" / "model").mkdir(parents=True)
    (tmp_path / "my conf" / "model" / "mine.yaml").write_text("defaults: [ghost, _self_]\nwidth: 0.5\n")
    arguments = ["--config-dir", str(tmp_path / "my conf"), "model=mine", "json=true"]
    done = run(*arguments, module="kws.cost", cwd=tmp_path)
    assert '"parameters": 12316' in done.stdout


def test_help_and_version_and_refusals():
    shown = run("--help", module="kws.listen")
    assert "Listens for the words" in shown.stdout
    assert "smoothing_ms" in shown.stdout
    assert run("--version").stdout.startswith("kws ")
    assert run("train.epoch=3", check=False).returncode == 2


def test_differences_name_what_changed():
    old = {"train": {"epochs": 1, "workers": 0}, "name": "a", "data": {"words": ["x"]}}
    new = {"train": {"epochs": 2, "workers": 4}, "name": "b", "data": {"words": ["x"]}}
    assert differences_between(old, new) == ["train.epochs: 1 -> 2"]


@pytest.mark.slow
def test_a_wheel_holds_the_configuration_and_nothing_beside_kws(tmp_path):
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(wheel, check=True)
    target = tmp_path / "site"
    made = next(tmp_path.glob("*.whl"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(made)], check=True
    )
    assert {p.name for p in target.iterdir() if not p.name.endswith(".dist-info")} <= {"kws", "bin"}
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-m", "kws.cost", "json=true"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (target / "kws" / "conf" / "train.yaml").is_file()
