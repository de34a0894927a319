"""The laws of the house that can be read off the source."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from processes import ROOT

import kws
from kws.config import conf_dir

FILES = sorted((ROOT / "kws").rglob("*.py"))
LAYERS = [
    "audio",
    "features",
    "streaming",
    "blocks",
    "models",
    "compression",
    "data",
    "training",
]  # each may import what stands before
TORCH_FREE = [
    "__init__", "audio", "config", "decision", "metrics", "progress", "workers", "features/store",
    "features/__init__", "features/options", "features/framing", "features/tables", "features/kaldi_io",
    "features/online", "features/dither", "features/reference", "features/cmvn", "features/deltas", "features/pcen",
    "features/picture", "data/source", "data/espeak", "data/synthetic", "data/folder", "data/speech_commands",
    "data/manifest", "data/kaldi", "errors", "files", "resampling", "runtime/__init__", "runtime/file",
    "runtime/spotter", "inspect", "listen", "listening/microphone", "listening/together", "benchmarks/listeners",
    "data/synthesisers", "data/speaking", "data/recordings", "record", "listening/takes",
    "serve", "serving/door", "serving/site", "serving/web",
    "data/kaldi_directory", "data/lhotse", "features/compressed", "audio/recording",
    "utterances", "outputs", "features/kernel", "features/simd", "features/micro", "features/sliding", "computer",
    "extract",
    "alarms/labels", "alarms/sweep", "alarms/tables", "alarms/thresholds", "listening/opened",
    "data/near", "data/wake_word", "data/clips", "spotters/__init__",
]  # fmt: skip
BLOCKS = {path.stem for path in (ROOT / "kws" / "blocks").glob("*.py")} - {"__init__", "base"}
SIBLINGS = {"data": {"folder", "speech_commands", "synthetic", "kaldi", "manifest"}, "blocks": BLOCKS}


def imports(path, top_only=False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    parts = path.relative_to(ROOT / "kws").with_suffix("").parts
    layer = parts[0]
    for name in imports(path):
        if not name.startswith("kws.") or layer not in LAYERS:
            continue
        other = name.split(".")[1]
        if other in LAYERS and not (layer == "data" and other == "features"):
            assert LAYERS.index(other) <= LAYERS.index(layer), f"{path.name} imports {name}"
        assert other not in {p.stem for p in (ROOT / "kws").glob("*.py")} - {
            "config", "errors", "files", "workers", "audio", "progress", "metrics", "losses", "plots", "streaming",
            "augment", "decision", "resampling", "compilation",
        }, f"{path.name} imports the command {name}"  # fmt: skip
        if layer in SIBLINGS and other == layer and len(parts) > 1:
            target = name.split(".")[2] if name.count(".") > 1 else ""
            assert not ({target} & SIBLINGS[layer] and parts[1] in SIBLINGS[layer] - {target}), f"{path}: {name}"


def test_what_needs_no_torch_imports_none():
    modules = ["kws." + name.replace("/", ".") for name in TORCH_FREE]
    modules = [name.removesuffix(".__init__") for name in modules]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_runtime_imports_what_its_wheel_holds():
    held = tomllib.loads((ROOT / "packaging/runtime/pyproject.toml").read_text())
    held = held["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].values()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {f"/{name}" for name in held} == set(wheel["exclude"])
    assert {f"/{name}" for name in wheel["force-include"]} == {*wheel["exclude"], "/conf"}
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(tuple(held)):
            for imported in imports(path):
                if imported == "kws":  # which may be a namespace
                    continue
                if imported.startswith("kws"):
                    assert imported.replace(".", "/").startswith(tuple(h.removesuffix(".py") for h in held)), name
                elif imported.split(".")[0] not in {"numpy", "onnxruntime", "wyoming"}:
                    assert imported.split(".")[0] in sys.stdlib_module_names, f"{name} imports {imported}"


def test_nothing_names_a_machine_or_swallows_errors():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    for name in listed or [str(p.relative_to(ROOT)) for p in FILES]:
        path = ROOT / name
        if path.suffix not in {".py", ".yaml", ".md", ".toml", ".sh"} or not path.exists() or name.startswith("tests/"):
            continue
        text = path.read_text()
        assert not re.search(r"[\"' =(]/(work|root|home)/", text), f"{name} names a path of one machine"
        assert not re.search(r"except( Exception| BaseException)?:", text), f"{name} catches everything"
        assert path.stem not in {"utils", "helpers", "common", "misc", "manager"}, name


def test_configuration_and_version_are_found():
    assert (conf_dir() / "train.yaml").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]
    out = subprocess.run([sys.executable, "-m", "kws", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == f"kws {kws.__version__}"
