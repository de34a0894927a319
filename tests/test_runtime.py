"""The runtime: any cutting, any kind of samples, many streams and threads, and files that are not what they seem."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import venv

import numpy as np
import onnx
import pytest
from conftest import RATE, speechlike
from onnx import TensorProto, helper, numpy_helper
from processes import ROOT, run
from test_export import trained_of

from kws.exporting.spotter import export
from kws.runtime import ModelError, Spotter
from kws.runtime.file import OPERATORS, read, write_about

DECISION = {"threshold": 0.45, "smoothing_ms": 60, "refractory_ms": 100, "warm_up_ms": 100}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("runtime") / "s.onnx"
    export(trained_of("ghost_10k"), path, 100, decision=DECISION)
    return path


@pytest.fixture(scope="module")
def spotter(path):
    return Spotter(path)


@pytest.fixture(scope="module")
def sound():
    return speechlike(5 * RATE, 4).clip(-32768, 32767)


def in_pieces(stream, sound, sizes, method):
    found, at, turn = [], 0, 0
    while at < len(sound):
        found.append(method(sound[at : at + sizes[turn % len(sizes)]]))
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return [*found, method(sound[:0], flush=True)]


@pytest.mark.parametrize("sizes", [[1600], [7, 2000, 1], [160], [90000]])
def test_any_cutting_gives_the_bits_and_words_of_the_whole(spotter, sound, sizes):
    whole, words = spotter.stream().scores(sound, flush=True), spotter.stream().push(sound, flush=True)
    stream = spotter.stream()
    assert np.array_equal(np.concatenate(in_pieces(stream, sound, sizes, stream.scores)), whole)
    found = [
        d for piece in in_pieces(stream, sound, sizes, stream.push) for d in piece
    ]  # a flush begins another stream
    assert found == words
    assert words, "nothing is heard: the test would not see a mistake"


def test_kinds_of_samples(spotter, sound):
    expected = spotter.stream().scores(sound)
    assert np.array_equal(spotter.stream().scores(sound.astype(np.int16)), expected)
    np.testing.assert_allclose(spotter.stream(full_scale=1.0).scores(sound / 32768), expected, atol=1e-5)
    with pytest.warns(UserWarning, match="a second of sound within ±1"):
        spotter.stream().push(np.resize(sound / 32768, spotter.rate))
    for wrong, words in ((sound[None], "one channel"), (sound.astype(np.int64), "int64"),
                         (np.array([1, np.nan], np.float32), "sample 1 is not a finite")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            spotter.stream().push(wrong)


def test_meter_and_reset(spotter, sound):
    stream = spotter.stream()
    first = stream.push(sound)
    assert set(stream.meter()) == {"yes", "no"}
    assert 0 < sum(stream.meter().values()) < 1
    stream.reset()
    assert stream.push(sound) == first
    with pytest.raises(TypeError, match="loudness"):
        spotter.stream(loudness=3)


def test_streams_in_threads_are_as_alone(spotter):
    sounds = [speechlike(2 * RATE, seed) for seed in range(8)]
    alone = [spotter.stream().scores(sound) for sound in sounds]
    together = [None] * len(sounds)

    def listen(i):
        stream = spotter.stream()
        together[i] = np.concatenate([stream.scores(sounds[i][at : at + 777]) for at in range(0, 2 * RATE, 777)])

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(len(sounds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_it_imports_little(path):
    code = (
        "import sys; from kws.runtime import Spotter; Spotter(sys.argv[1]).stream();"
        "print([m for m in ('torch', 'soundfile', 'hydra', 'onnx', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def changed(path, tmp_path, change) -> str:
    """A spotter that someone has changed with the onnx package."""
    proto = onnx.load_from_string(path.read_bytes())
    change(proto)
    (tmp_path / "changed.onnx").write_bytes(proto.SerializeToString())
    return str(tmp_path / "changed.onnx")


def outside(proto):
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def loops(proto):
    body = helper.make_graph([], "body", [], [])
    proto.graph.node.append(helper.make_node("Loop", [], ["x"], body=body))


def branch(proto):
    node = helper.make_node("Relu", ["samples"], ["y"])
    node.attribute.append(helper.make_attribute("then_branch", helper.make_graph([], "body", [], [])))
    proto.graph.node.append(node)


def described(proto, **more):
    entry = next(e for e in proto.metadata_props if e.key == "kws")
    entry.value = json.dumps({**json.loads(entry.value), **more})


def move(proto):
    """Makes a Gather take what is not there."""
    index = next(node for node in proto.graph.node if node.op_type == "Gather").input[1]
    kept = next(node.input[0] for node in proto.graph.node if index in node.output)  # as int8
    tensor = next(t for t in proto.graph.initializer if t.name == kept)
    tensor.raw_data = bytes([127] * len(tensor.raw_data))


HOSTILE = {
    "external data": (outside, "another file"),
    "custom domain": (lambda p: setattr(p.graph.node[0], "domain", "com.evil"), "com.evil"),
    "custom opset": (lambda p: p.opset_import.append(helper.make_opsetid("com.evil", 1)), "another domain"),
    "loop": (loops, "'Loop'"),
    "sub-graph": (branch, "graph of its own"),
    "function": (lambda p: p.functions.add(name="f", domain=""), "functions"),
    "sparse": (lambda p: p.graph.sparse_initializer.add(), "sparse"),
    "strings": (lambda p: p.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"])), "form"),
    "a lie about size": (lambda p: p.graph.initializer[0].dims.append(1000), "not what it says"),
    "a huge side": (lambda p: p.graph.initializer[0].dims.__setitem__(0, 1 << 40), "not what it says"),
    "huge pads": (lambda p: p.graph.node.append(
        helper.make_node("Conv", ["a", "b"], ["c"], pads=[0, 1 << 30])), "'pads' is beyond"),
    "two graphs' inputs": (lambda p: p.graph.input.add().CopyFrom(
        helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])), "its description says"),
    "unknown input": (lambda p: p.graph.node[0].input.__setitem__(0, "nothing"), "ONNX Runtime refuses"),
    "an index outside": (move, "does not run"),
    "no description": (lambda p: p.metadata_props.pop(), "no spotter"),
    "labels that are none": (lambda p: described(p, labels=7), "description is damaged"),
    "labels that are too few": (lambda p: described(p, labels=["yes"]), "its description says"),
    "a state of gigabytes": (lambda p: described(p, state={"past": [1 << 20, 1 << 20]}), "description is damaged"),
    "an overlap that its state does not hold": (lambda p: described(p, overlap=16240), "an overlap of 16240 samples"),
    "a threshold of no word": (lambda p: described(p, decision={"threshold": {"maybe": 0.5}}), "names 'maybe'"),
    "a time of its own": (lambda p: described(p, decision={"offset_ms": 5}), "decision cannot be"),
    "a decision that is none": (lambda p: described(p, decision={"x": 1}), "decision cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(path, tmp_path, kind):
    change, words = HOSTILE[kind]
    with pytest.raises(ModelError, match=words) as error:
        Spotter(changed(path, tmp_path, change))
    assert "changed.onnx" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\0" * 100, b"RIFF" + bytes(40), b"\xff" * 50])
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.onnx"):
        Spotter(tmp_path / "x.onnx")


def test_a_model_of_someone_else_is_refused(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", values[:1], values[1:],
                              [numpy_helper.from_array(np.ones(1, np.float32), "c")])  # fmt: skip
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    with pytest.raises(ModelError, match="no spotter"):
        Spotter(tmp_path / "x.onnx")
    with pytest.raises(ModelError, match=r"kws\.export"):
        Spotter(tmp_path / "none.onnx")


def test_truncated_files_are_refused(path, tmp_path):
    content = path.read_bytes()
    for length in [*range(0, 400, 7), *range(400, len(content), 20011), len(content) - 1]:
        (tmp_path / "x.onnx").write_bytes(content[:length])
        with pytest.raises(ModelError):
            Spotter(tmp_path / "x.onnx")


def test_bytes_that_were_changed_are_named_or_harmless(path, tmp_path):
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(150):
        wrong = bytearray(content)
        for at in rng.integers(0, len(wrong), 3):
            wrong[at] = rng.integers(256)
        (tmp_path / "x.onnx").write_bytes(wrong)
        with contextlib.suppress(ModelError):
            read(tmp_path / "x.onnx")


def test_the_description_can_be_written_again(path, tmp_path):
    content, about = read(path)
    (tmp_path / "x.onnx").write_bytes(write_about(content, {**about, "licence": "ä" * 300}))
    assert Spotter(tmp_path / "x.onnx").about["licence"] == "ä" * 300
    onnx.checker.check_model(str(tmp_path / "x.onnx"))
    assert "Loop" not in OPERATORS


def test_the_benchmark_measures_and_says_who_is_missing(tmp_path):
    done = run("model=dscnn_10k", "seconds=1", "rounds=1", "chunks=[100]", "engines=[kws,openwakeword]",
               f"json={tmp_path / 'f.json'}", module="kws.benchmarks.streaming")  # fmt: skip
    figures = json.loads((tmp_path / "f.json").read_text())
    assert 0 < figures["engines"]["kws 100"]["cpu_ms_per_second"] < 1000
    assert figures["engines"]["kws 100"]["base_s"] > 0
    assert "openwakeword" in done.stdout


@pytest.mark.slow
def test_an_hour_of_sound_keeps_its_memory(spotter, sound):
    """An hour at top speed, cut unevenly: the same scores at the end as at the beginning, and no more memory."""
    from kws.benchmarks.listeners import held_mb

    stream, rng, begun = spotter.stream(), np.random.default_rng(0), None
    for turn in range(720):
        at = 0
        while at < len(sound):
            size = int(rng.integers(1, 4000))
            stream.push(sound[at : at + size])
            at += size
        if turn == 20:
            begun = held_mb()[0]
    assert held_mb()[0] - begun < 2
    stream.push(sound[:0], flush=True)
    assert np.array_equal(stream.scores(sound), spotter.stream().scores(sound))


@pytest.mark.slow
def test_the_wheel_alone_and_beside_kws(path, tmp_path):
    """Builds both wheels: no file is in both, and the small one listens where there is no torch."""
    import zipfile

    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*pip, str(ROOT), str(ROOT / "packaging" / "runtime")], check=True)
    small, large = (next(tmp_path.glob(pattern)) for pattern in ("kws_runtime-*.whl", "kws-*.whl"))
    names = [set(zipfile.ZipFile(wheel).namelist()) for wheel in (small, large)]
    assert not names[0] & names[1]
    assert {f"kws/serving/page/{path.name}" for path in (ROOT / "kws/serving/page").iterdir()} <= names[0]
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    code = (
        "import sys, numpy as np; from kws.runtime import Spotter; import kws.runtime as r;"
        "s = Spotter(sys.argv[1]).stream(44100); rows = s.scores(np.zeros(88200, np.int16), flush=True);"
        "import importlib.util as u; assert not u.find_spec('torch'); print(len(rows), r.__file__)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def serve() -> str:
        command = [python, "-m", "kws.serve", f"checkpoint={path}", "protocol=wyoming"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment).stderr

    def listen() -> str:
        return subprocess.run(
            [python, "-c", code, str(path)], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
        ).stdout

    subprocess.run([python, "-m", "pip", "install", "-q", str(small)], check=True)
    alone = listen()
    assert int(alone.split()[0]) >= 49
    assert "_with_runtime" not in alone
    assert "wyoming is missing: pip install" in serve()  # and nothing else is
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(large)], check=True)
    for without in ("kws-runtime", None):  # beside kws, and kws without it
        assert "_with_runtime" in listen()
        assert "wyoming is missing: pip install" in serve()  # and nothing else is
        if without:
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", without], check=True)
