"""The benchmarks' tables have their rows, on sounds too short to say anything about speed."""

import contextlib
import csv
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import config

from kws.benchmarks import features, models
from kws.benchmarks.isolation import Isolated
from kws.benchmarks.peers import contenders, scaled
from kws.benchmarks.rounds import cell, interleaved, sound
from kws.benchmarks.untrained import settings, untrained
from kws.errors import KwsError

TINY = [
    "repeats=2", "batch_repeats=2", "files_repeats=1", "long_repeats=1", "utterances=2", "batch=2", "file_s=1",
    "long_s=2", "stream_s=1", "error_s=0.5", "files=40", "hops=[1,10]",
]  # fmt: skip
PEERS = ["kws", "torchaudio", "knf"]


def figures(tmp_path, *overrides) -> dict:
    path = tmp_path / "figures.json"
    features.main.__wrapped__(config("benchmark_features", *TINY, f"json={path}", *overrides))
    return json.loads(path.read_text())


def test_speed_streams_and_error(tmp_path, capsys):
    only = f"only=[{','.join(PEERS)},kaldifeat]"
    found = figures(tmp_path, "parts=[speed,stream,error]", only, "kinds=[fbank-80,mfcc-13]")
    lengths = ["1 s", "2 x 1 s", "1 s", "2 s"]
    assert [(row["kind"], row["length"]) for row in found["speed"]] == [
        (kind, length) for kind in ("fbank-80", "mfcc-13") for length in lengths
    ]
    for row, rounds in zip(found["speed"], 2 * [2, 2, 2, 1], strict=True):
        assert {name: len(rates) for name, rates in row["rates"].items() if name in PEERS} == dict.fromkeys(
            PEERS, rounds
        )
        assert row["ratios"]["knf"] == pytest.approx(np.median(np.divide(row["rates"]["kws"], row["rates"]["knf"])))
    assert [row["asked"] for row in found["speed"]][:2] == [{"torchaudio": 4, "knf": 8}, {"torchaudio": 5.5, "knf": 11}]
    assert [(row["hops"], row["asked"]) for row in found["stream"]] == [(1, 1.5), (10, 0.6)]
    assert set(found["stream"][0]["costs_us"]) == {"kws", "knf"}
    errors = {(row["kind"], row["name"]): row["mean"] for row in found["error"] if row["name"] in PEERS}
    assert list(errors) == [(kind, name) for kind in ("fbank-80", "mfcc-13") for name in PEERS]
    assert all(0 < mean < 1e-3 for mean in errors.values())
    printed = capsys.readouterr().out
    assert "kws/torchaudio" in printed
    if "kaldifeat" in found["missing"]:
        assert "kaldifeat: not installed" in printed


def test_files(tmp_path):
    found = figures(tmp_path, "parts=[files]", "only=[kws]")["files"]
    names = ["kws.extract", "soundfile + torchaudio + kaldiio", "kws.extract, 2 workers"]
    assert [row["name"] for row in found] == [*names, "kws.extract, 2 workers, once begun"]
    assert [row["asked"] for row in found] == [4.5, None, None, 9]
    assert all(len(row["rates"]) == 1 for row in found)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured through Linux's /proc")
def test_memory(tmp_path):
    found = figures(tmp_path, "parts=[memory]", "only=[kws]")["memory"]
    assert [row["name"] for row in found] == ["kws", "kws.extract", "soundfile + torchaudio + kaldiio"]
    assert all(row["died"] is None for row in found)
    assert found[0]["output_mib"] == 198 * 80 * 4 / 2**20


@pytest.mark.parametrize("kind", features.KINDS)
def test_contenders_agree(kind):
    found, _ = contenders(kind, features.CONTENDERS)
    wave = sound(1)
    for name, compute in found.items():
        contender = features.CONTENDERS[name]
        frames = np.asarray(compute(scaled(name, wave[None]))[0])
        assert frames.shape[1] == int(kind.split("-")[1])
        if contender.window_type == "povey":
            assert np.mean(np.abs(frames - np.asarray(found["kws"](wave[None])[0]))) < 1e-3, name


def test_every_round_measures_all():
    calls = []

    def measure(name):
        calls.append(name)
        return None if name == "b" and len(calls) > 6 else len(calls)

    measured = interleaved({name: partial(measure, name) for name in "abc"}, 4, 0)
    assert set(measured) == {"a", "c"}
    assert [sorted(calls[at : at + 3]) for at in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert sorted(calls[9:]) == ["a", "c"]
    assert [calls[at - 1] for at in measured["a"]] == ["a"] * 4
    assert cell(np.array([1.0, 2.0, 3.0]), 1) == "2.0 ±25"


def test_a_process_that_dies_leaves_the_others():
    with contextlib.closing(Isolated("knf", sound(1))) as peer:
        assert peer.call("missing") == ""
        assert peer.call("ready_for_waves", "fbank-80", 2, 1, 8000, True)
        assert peer.call("measure") > 0
        peer.process.kill()
        assert peer.call("measure") is None
        assert peer.call("measure") is None


def test_wrong_names_are_told(tmp_path):
    with pytest.raises(KwsError, match="parts: sped; choose from speed, stream"):
        figures(tmp_path, "parts=[sped]")
    with pytest.raises(KwsError, match="only: kaldi; choose from kws"):
        figures(tmp_path, "only=[kaldi]")


def test_models_are_measured_and_drawn(tmp_path, capsys):
    run = tmp_path / "runs" / "ghost_10k"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"validation_accuracy": 0.5}\n{"validation_accuracy": 0.25}\n')
    (run / "confusion.png").touch()
    given = [f"runs={run.parent}", f"csv={tmp_path / 'm.csv'}", f"plot={tmp_path / 'm.png'}", "rounds=1", "batch=2"]
    models.main.__wrapped__(config("benchmark_models", "models=[ghost_10k,dscnn_10k]", *given))
    printed, rows = capsys.readouterr().out, list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["ghost_10k", "dscnn_10k"]
    assert rows[0]["accuracy"] == "50.0"
    ghost = untrained(settings("ghost_10k", "models"), config("benchmark_models").features).model
    assert int(rows[0]["parameters"]) == sum(p.numel() for p in ghost.parameters())
    assert "ghost_10k" in printed
    assert all(0 < float(row["onnx_us"]) < 1e5 for row in rows)
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(KwsError, match=r"there is no gost; choose from .*ghost"):
        models.main.__wrapped__(config("benchmark_models", "models=[gost]"))


def test_without_onnx_runtime_its_column_is_empty(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    models.main.__wrapped__(config("benchmark_models", "models=[gru]", "rounds=1", f"csv={tmp_path / 'm.csv'}"))
    (row,) = csv.DictReader((tmp_path / "m.csv").read_text().splitlines())
    assert row["onnx_us"] == ""
    assert float(row["stream_us"]) > 0
    assert "onnxruntime is missing" in capsys.readouterr().out


def test_the_line_of_models_that_none_beats():
    points = [("a", 1, 50), ("b", 2, 40), ("c", 3, 60), ("d", 3, 55), ("e", 9, 60)]
    rows = [{"model": name, "macs_per_second": macs, "accuracy": share} for name, macs, share in points]
    assert [row["model"] for row in models.pareto(rows)] == ["a", "c"]
