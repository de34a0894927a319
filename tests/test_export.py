"""What is exported hears what was trained: every model and every front-end, whole and in pieces, one stream or many."""

import json

import numpy as np
import onnx
import pytest
import torch
from conftest import RATE, WORDS, config, speechlike, spoken, tiny
from hydra.utils import instantiate
from processes import run

from kws import audio
from kws.config import conf_dir
from kws.errors import KwsError
from kws.export import TOLERANCE
from kws.exporting import calibration
from kws.exporting.build import build
from kws.exporting.frontend import add_frontend
from kws.exporting.graph import Graph
from kws.exporting.sounds import of_training, to_check
from kws.exporting.spotter import compare, export
from kws.exporting.storage import affine
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.inspect import describe, parts
from kws.runtime import ModelError, Spotter
from kws.runtime.file import OPERATORS, read, write_about
from kws.train import train
from kws.training import checkpoint
from kws.training.trained import Trained, open_checkpoint

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
LABELS = ["yes", "no", "_unknown_", "_silence_"]


def trained_of(model: str, features: str = "fbank", *more: str) -> Trained:
    """A model that no training made, with statistics as training leaves them and scores that differ."""
    torch.manual_seed(0)
    cfg = config("cost", f"model={model}", f"features={features}", *more)
    options = make_options(**cfg.features)
    net = instantiate(cfg.model, n_features=options.dim, n_classes=len(LABELS), shift_ms=options.frame_shift).eval()
    extractor = FeatureExtractor(options)
    for name, parameter in net.named_parameters():
        if parameter.dim() < 2:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.2)
    frames = extractor(torch.from_numpy(speechlike(3 * RATE, 1))[None])[0]
    net.normalise_by(frames[0])
    with torch.no_grad():  # each norm's statistics are those of what reaches it
        norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        net.train()(frames)
        net.eval()
        logits = net(frames)[0, 20:]
        net.classifier.weight.mul_(2 / logits.std(0).mean().clamp(min=1e-3))
        net.classifier.bias.sub_(net(frames)[0, 20:].mean(0))
    return Trained(net, extractor, LABELS, options, {"model": {}, "name": "made"})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_scores_the_same(name, tmp_path):
    trained = trained_of(name)
    export(trained, tmp_path / "s.onnx", 100, decision={"threshold": 0.6, "warm_up_ms": 100})
    onnx.checker.check_model(str(tmp_path / "s.onnx"))
    result = compare(trained, tmp_path / "s.onnx", [speechlike(2 * RATE, 2)], {"threshold": 0.6, "warm_up_ms": 100})
    assert result.spread > 0.02, "these scores hardly move: the test would not see a mistake"
    assert result.difference < 1e-4
    assert result.by_chunks < 1e-6
    assert result.same_words


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "features").glob("*.yaml")))
@pytest.mark.parametrize("chunk_ms", [20, 80])
def test_every_front_end_scores_the_same(name, chunk_ms, tmp_path):
    trained = trained_of("dscnn_10k", name)
    if name == "micro":
        with pytest.raises(KwsError, match=r"type=micro .* output=NAME.tflite"):
            export(trained, tmp_path / "s.onnx", chunk_ms)
        return
    export(trained, tmp_path / "s.onnx", chunk_ms)
    result = compare(trained, tmp_path / "s.onnx", [speechlike(RATE, 2), speechlike(100), speechlike(500)])
    assert result.difference < 1e-4
    assert result.same_words


OPTIONS = [
    {"use_energy": True}, {"use_energy": True, "htk_compat": True, "raw_energy": False, "energy_floor": 1.0},
    {"use_power": False}, {"use_log_fbank": False}, {"window_type": "hamming"}, {"remove_dc_offset": False},
    {"window_type": "hanning", "htk_mode": True}, {"preemphasis_coefficient": 0.0}, {"sample_frequency": 8000.0},
    {"frame_length": 20.0}, {"sample_frequency": 11025.0, "round_to_power_of_two": False},
    {"type": "mfcc", "use_energy": True}, {"type": "mfcc", "use_energy": False, "htk_compat": True},
    {"type": "spectrogram", "return_raw_fft": True}, {"frame_length": 32.0, "low_freq": 0.0},
]  # fmt: skip


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("told", OPTIONS, ids=lambda told: ",".join(f"{k}={v}" for k, v in told.items()))
def test_front_ends_compute_what_the_extractor_does(told, batched):
    import onnxruntime

    o, n = make_options(**{"type": "fbank", **told}), 5
    sound = speechlike(o.window_samples + (n - 1) * o.shift_samples, 3) + 300
    frames = FeatureExtractor(o)(torch.from_numpy(sound)[None])[0][0].numpy().astype(np.float64)
    mean, std = frames.mean(axis=0), frames.std(axis=0) + 0.2 + 1e-4 * np.abs(frames).max(axis=0)
    graph = Graph(batched)
    out = add_frontend(graph, "samples", n, o, mean, std, 5.0)
    batch = ["streams"] if batched else []
    proto = graph.finish({"samples": [*(batch or [1]), len(sound)]}, {"frames": (out, [*batch, n, o.dim])})
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    got = session.run(None, {"samples": np.stack([sound[::-1].copy(), sound])[1 - len(batch) :]})[0]
    np.testing.assert_allclose(got[1] if batched else got, ((frames - mean) / std).clip(-5, 5), atol=2e-3)


@pytest.mark.parametrize("name", ["ghost_10k", "ghost_2d_10k", "dscnn_10k", "gru"])
def test_many_streams_in_one_graph(name, tmp_path):
    import onnxruntime

    trained = trained_of(name)
    export(trained, tmp_path / "s.onnx", 40, many=True)
    content, about = read(tmp_path / "s.onnx")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    sounds = np.stack([speechlike(RATE, seed) for seed in range(3)])
    state = {
        v.name: np.zeros([3 if isinstance(n, str) else n for n in v.shape], np.float32) for v in session.get_inputs()
    }
    size, rows = about["chunk"], []
    state["past"] = sounds[:, : about["overlap"]]
    names = [v.name for v in session.get_outputs()]
    for at in range(about["overlap"], RATE - size, size):
        out = dict(zip(names, session.run(names, {**state, "samples": sounds[:, at : at + size]}), strict=True))
        rows.append(out["probabilities"])
        state = {name.removeprefix("next_"): value for name, value in out.items() if name != "probabilities"}
    rows = np.concatenate(rows, axis=1)
    spotter = Spotter(tmp_path / "s.onnx")
    for i, sound in enumerate(sounds):
        alone = spotter.stream().scores(sound)[: rows.shape[1]]
        np.testing.assert_allclose(rows[i], alone, atol=1e-5)


def test_nodes_are_few_and_known(tmp_path):
    trained = trained_of("ghost")
    for steps, most in ((1, 130), (5, 150)):
        graph = build(trained.model, trained.options, steps * trained.model.stride).proto.graph
        known = {value.name for value in graph.input}  # what hangs on constants alone is computed once
        for node in graph.node:
            known |= set(node.output) if known & set(node.input) else set()
        assert sum(bool(known & set(node.input)) for node in graph.node) <= most
        assert {node.op_type for node in graph.node} <= OPERATORS
        assert all(
            len(name) < 8 for node in graph.node for name in node.output if not name.startswith(("next", "prob"))
        )
        assert not any(node.name or node.doc_string for node in graph.node)


@pytest.mark.parametrize("quantise", ["fp16", "int8", "int8_static"])
@pytest.mark.parametrize("name", ["ghost_10k", "dscnn_2d_10k", "gru"])
def test_quantised_files_score_nearly_the_same_in_any_chunks(name, quantise, tmp_path):
    trained, heard = trained_of(name), [speechlike(2 * RATE, 5), speechlike(RATE, 6)]
    export(trained, tmp_path / "f.onnx", 100)
    export(trained, tmp_path / "q.onnx", 100, quantise=quantise, heard=heard)
    onnx.checker.check_model(str(tmp_path / "q.onnx"))
    result = compare(trained, tmp_path / "q.onnx", [speechlike(2 * RATE, 2)])
    assert 1e-6 < result.difference < TOLERANCE[quantise], "either beyond its tolerance, or not rounded at all"
    assert result.by_chunks < 1e-6
    now, before = ((parts(read(tmp_path / f"{k}.onnx")[0]), (tmp_path / f"{k}.onnx").stat().st_size) for k in "qf")
    assert sum(now[0].values()) == now[1]
    assert sum(before[0].values()) == before[1]
    weights = [sum(n for part, n in each[0].items() if part.startswith("weights")) for each in (now, before)]
    assert weights[0] < (0.56 if quantise == "fp16" else 0.36) * weights[1]


@pytest.mark.parametrize(("model", "most"), [("ghost", 60_000), ("dscnn_10k", 20_000), ("dscnn_2d_10k", 20_000)])
def test_int8_files_are_small(model, most, tmp_path):
    export(trained_of(model), tmp_path / "s.onnx", 100, quantise="int8")
    assert (tmp_path / "s.onnx").stat().st_size <= most


@pytest.mark.parametrize("how", ["percentile", "mse"])
def test_ranges_hold_zero_and_what_was_seen(how):
    values = np.random.default_rng(0).standard_normal(50_000) + 3
    low, high = calibration.RANGES[how](np.append(values, 40.0))
    assert low <= 0
    assert 5 < high < 41
    scale, zero = affine(low, high)
    assert (0 - float(zero)) * scale == pytest.approx(low, abs=float(scale))
    assert affine(0.0, 0.0)[1] == 0


def test_ranges_are_of_every_channel():
    channels = np.arange(4.0) == 1
    assert calibration.looked_at(np.tile(channels, calibration.MOST)).mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 64), (64, 1), (8, 8), (3, 5, 7)])
def test_stored_weights_come_back(shape):
    """Each output within half a step of its own scale, whatever its size; zeros and one number too."""
    import onnxruntime

    rng = np.random.default_rng(1)
    value = (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape[-1])).astype(np.float32)
    value[..., 0] = 0
    for quantise, error in (("fp16", 2.0**-11), ("int8", 0.5 / 127 + 2.0**-11), (None, 0)):
        graph = Graph(False, quantise=quantise)
        out = graph.node("Identity", graph.weight(value))
        proto = graph.finish({"x": [1]}, {"y": (out, list(shape))})
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        got = session.run(None, {"x": np.zeros(1, np.float32)})[0]
        most = np.abs(value).max(axis=tuple(range(value.ndim - 1)))
        assert (np.abs(got - value) <= error * most * 1.01 + 1e-7 * 127).all()


def test_what_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(KwsError, match=r"quantise=int4: expected fp16, int8, int8_static or null"):
        export(trained_of("dscnn_10k"), tmp_path / "s.onnx", quantise="int4")
    with pytest.raises(KwsError, match="ranges=max: expected percentile or mse"):
        export(trained_of("dscnn_10k"), tmp_path / "s.onnx", quantise="int8_static", ranges="max")
    with pytest.raises(KwsError, match="no sound to see the ranges"):
        export(trained_of("dscnn_10k"), tmp_path / "s.onnx", quantise="int8_static")
    with pytest.raises(KwsError, match="no sound is as long as a chunk with its overlap, 1840 samples"):
        export(trained_of("dscnn_10k"), tmp_path / "s.onnx", quantise="int8_static", heard=[speechlike(1000)])
    trained = trained_of("dscnn_10k")
    data = {"_target_": "kws.data.folder.Folder", "root": str(tmp_path / "moved")}
    trained.config.update(features={"sample_frequency": RATE}, data=data)
    with pytest.raises(KwsError, match=r"calibration: the training data is not there .*moved.*; give calibration="):
        of_training(trained, None)
    graph = Graph(False, quantise="fp16")
    out = graph.node("Identity", graph.weight([1e6]))
    with pytest.raises(KwsError, match="float16 ends at 65504"):
        graph.finish({"x": [1]}, {"y": (out, [1])})
    with pytest.raises(KwsError, match="snip_edges"):
        export(trained_of("dscnn_10k", "fbank", "features.snip_edges=false"), tmp_path / "s.onnx")
    with pytest.raises(KwsError, match="dither"):
        export(trained_of("dscnn_10k", "fbank", "features.dither=1"), tmp_path / "s.onnx")
    with pytest.raises(KwsError, match="'maybe', which is no word here"):
        export(trained_of("dscnn_10k"), tmp_path / "s.onnx", decision={"threshold": {"maybe": 0.5}})
    assert not list(tmp_path.iterdir())


def test_of_many_recordings_any_are_checked_on(tmp_path):
    for name, level in (("a", 1000), ("b", 2000)):
        (tmp_path / name).mkdir()
        for i in range(60):
            audio.write(tmp_path / name / f"{i}.wav", np.full(160, level, np.float32), RATE)
    levels = [sound[0] for sound in to_check(trained_of("dscnn_10k", "fbank"), str(tmp_path))]
    assert len(levels) == 100
    assert levels.count(1000) > 35
    assert levels.count(2000) > 35


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "run"
    train(config("train", *tiny(corpus, "train.epochs=12", "model.window_ms=500")), folder)
    return folder


def test_a_checkpoint_to_begin_with_holds_weights_and_no_run(folder, corpus, tmp_path):
    written = tmp_path / "mine.pt"
    run(f"checkpoint={folder}", f"output={written}", module="kws.export")
    one, two, frames = open_checkpoint(folder), open_checkpoint(written), torch.randn(1, 90, 40)
    assert torch.equal(one.model(frames), two.model(frames))
    assert one.labels == two.labels
    assert one.options == two.options
    assert written.stat().st_size < (folder / "best.pt").stat().st_size / 2
    assert str(corpus).encode() not in written.read_bytes()
    more = ["model.window_ms=500", "train.epochs=1", "optim.optimizer.lr=1e-7", "name=x"]
    more = tiny(corpus, f"init_from={written}", *more)
    knew = checkpoint.load(written)["best"]["validation_accuracy"]
    assert knew > 0.3
    assert abs(train(config("train", *more), tmp_path / "on") - knew) <= 2 / 36
    for module in ("kws.evaluate", "kws.compress"):
        refused = run(f"checkpoint={written}", module=module, check=False)
        assert refused.returncode == 2
        assert "does not say which data it was trained on" in refused.stderr
    with pytest.raises(KwsError, match=r"mine\.pt holds weights alone, nothing to resume by"):
        train(config("train", *tiny(corpus, f"resume.from={written}", "name=y")), tmp_path / "again")


def test_the_commands(folder, tmp_path):
    from kws import audio

    rng = np.random.default_rng(3)
    sound = np.concatenate([x for w in [*WORDS, "low"] for x in (rng.standard_normal(RATE) * 60, spoken(w, rng))])
    audio.write(tmp_path / "said.wav", sound, RATE)
    decision = ["decision.threshold=0.5", "decision.smoothing_ms=100", "decision.warm_up_ms=300"]
    out = tmp_path / "a spotter.onnx"
    done = run(f"checkpoint={folder}", f"output={out}", f"check={tmp_path / 'said.wav'}", "licence=CC0", *decision,
               module="kws.export")  # fmt: skip
    assert "the same as by the checkpoint" in done.stdout
    assert "chunks of 100 ms" in done.stdout
    said = run(str(out), module="kws.inspect")
    for words in ("low", "16000 Hz", "chunks of 100 ms", "CC0", "a score of 0.5", "fbank", "averaged True"):
        assert words in said.stdout, words
    for wrong, reason in ((["speach"], "no file or run 'speach'"), ([str(out), "jsn=true"], "expected one file")):
        told = run(*wrong, module="kws.inspect", check=False)
        assert (told.returncode, "Traceback" in told.stderr, reason in told.stderr) == (2, False, True)
    by_torch = run(f"checkpoint={folder}", f"input={tmp_path / 'said.wav'}", *decision, module="kws.listen")
    by_file = run(f"checkpoint={out}", f"input={tmp_path / 'said.wav'}", module="kws.listen")  # its own decision
    assert len(by_torch.stdout.splitlines()) >= 3
    assert by_file.stdout == by_torch.stdout
    never = run(f"checkpoint={out}", f"input={tmp_path / 'said.wav'}", "decision.threshold=1.5", module="kws.listen")
    assert never.stdout == ""


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "checkpoint=… is missing"),
        (["checkpoint=computer"], "checkpoint=computer is an exported file, which listen, evaluate"),
        (["checkpoint=runs/none", "output=x.tfl"], "output=x.tfl: expected a name that ends in .onnx"),
    ],
)
def test_mistakes_are_named(given, reason):
    done = run(*given, module="kws.export", check=False)
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr


def test_a_word_and_its_rate(folder, tmp_path):
    """Sound of another rate, in the runtime as in torch."""
    from kws import audio

    trained = open_checkpoint(folder)
    export(trained, tmp_path / "s.onnx", 100)
    rng = np.random.default_rng(1)
    sound = audio.resample(np.concatenate([spoken(word, rng) for word in WORDS]), RATE, 44100)
    from kws.spotter import Spotter as TorchSpotter

    expected = TorchSpotter(trained, 44100).scores(sound, flush=True)
    got = Spotter(tmp_path / "s.onnx").stream(44100).scores(sound, flush=True)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(("found", "word"), [(0, "export the checkpoint again"), (2, "upgrade kws")])
def test_other_formats_are_refused(found, word, tmp_path):
    trained = trained_of("dscnn_10k")
    export(trained, tmp_path / "s.onnx", 20)
    content, about = read(tmp_path / "s.onnx")
    (tmp_path / "other.onnx").write_bytes(write_about(content, {**about, "format": found}))
    with pytest.raises(ModelError, match=word):
        describe(str(tmp_path / "other.onnx"))


def test_the_description_is_all_there(tmp_path):
    trained = trained_of("dscnn_10k")
    export(trained, tmp_path / "s.onnx", 30, decision={"threshold": {"yes": 0.5, "no": 0.6}}, licence="CC0")
    about = json.loads(json.dumps(read(tmp_path / "s.onnx")[1]))
    assert about["labels"] == LABELS
    assert about["features"]["num_mel_bins"] == 40
    assert about["steps"] == 2, "30 ms are rounded up to 40"
    said = describe(str(tmp_path / "s.onnx"))
    assert "yes 0.5, no 0.6" in said
    assert "mean of 200 ms; then 700 ms of silence; none in the first 500 ms" in said  # Decision's own
