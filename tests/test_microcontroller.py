"""int8 tflite: what tflite-micro computes against the model, and what micro_wake_word loads."""

import json

import numpy as np
import pytest
import torch
from conftest import RATE, WORDS, speechlike, spoken

from kws.errors import KwsError
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.models import build
from kws.training.trained import Trained

reason = "pip install 'kws[tflite]'"
tflite = pytest.importorskip("kws.exporting.tflite", reason=reason, exc_type=ImportError)
microcontroller = pytest.importorskip("kws.exporting.microcontroller", reason=reason, exc_type=ImportError)
from kws.exporting import micro_wake_word  # noqa: E402
from kws.exporting.tflm import MicroStream  # noqa: E402

LABELS = ["left", "stop", "_unknown_", "_silence_"]
TABLE = ["conv_k3_s2_c16", "ds_k5_c16_res", "ghost_k3_c16_e2"]
PLANAR = ["conv_k3x5_s2x2_c8", "ds_k3x3_s1x2_c12", "flat", "conv_c16", "ds_k5x1_c16_res", "ghost_k3x1_c16_e2"]


def sounds() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.concatenate([spoken(word, rng) for word in WORDS]), speechlike(2 * RATE)]


def untrained(features: str = "micro", table=TABLE) -> Trained:
    """A model whose scores move as those of a trained one do."""
    torch.manual_seed(0)
    options = make_options(features)
    extractor = FeatureExtractor(options)
    form = "planar" if table is PLANAR else "temporal"
    model = build(table, options.dim, len(LABELS), form, shift_ms=10.0, window_ms=300).eval()
    model.normalise_by(extractor(torch.from_numpy(sounds()[0])[None])[0][0])
    with torch.no_grad():
        model.classifier.weight *= 40 if form == "planar" else 8
    return Trained(model, extractor, LABELS, options, {"model": {}})


@pytest.mark.parametrize(("features", "table"), [("micro", TABLE), ("fbank", TABLE), ("fbank", PLANAR)])
def test_a_microcontroller_computes_what_the_model_does(features, table, tmp_path):
    trained, path = untrained(features, table), tmp_path / "spotter.tflite"
    report = microcontroller.export(trained, path, sounds(), sounds(), {"threshold": 0.7})
    assert report.same > 0.9
    assert report.mean < 0.03
    assert 1000 < report.arena < 40_000
    content = path.read_bytes()
    assert report.size == len(content)
    assert tflite.about_of(content)["labels"] == LABELS
    assert tflite.about_of(content)["features"]["type"] == features
    stream, frames = MicroStream(content), speechlike(RATE, 3)
    frames = trained.extractor(torch.from_numpy(frames)[None])[0][0].numpy()[:96]
    whole = stream.probabilities(frames)
    assert whole.std(axis=0).max() > 0.02, "these scores hardly move: the test would not see a mistake"
    stream.reset()
    parts = [stream.probabilities(frames[:10]), stream.probabilities(frames[10:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert {tensor.type for tensor in [*stream.inputs, *stream.outputs]} == {tflite.schema.TensorType.INT8}


def test_micro_wake_word_loads_it(tmp_path):
    trained, path = untrained(), tmp_path / "stop.json"
    decision = {"threshold": {"stop": 0.8, "_default_": 0.5}, "smoothing_ms": 200}
    report = microcontroller.export(trained, path, sounds(), sounds(), decision, "stop", "me")
    assert report.same > 0.9
    manifest = json.loads(path.read_text())
    assert manifest["model"] == "stop.tflite"
    assert manifest["version"] == 2
    assert manifest["micro"] == {
        "probability_cutoff": 0.8, "sliding_window_size": 10, "feature_step_size": 10,
        "tensor_arena_size": report.arena, "minimum_esphome_version": "2024.7.0",
    }  # fmt: skip
    content = (tmp_path / "stop.tflite").read_bytes()
    file = tflite.schema.ModelT.InitFromPackedBuf(content, 0)
    assert tflite.operators(file) <= micro_wake_word.OPERATORS
    stream = MicroStream(content)
    (given,), (out,) = stream.inputs, stream.outputs
    assert [*given.shape], given.type == ([1, 2, 40], tflite.schema.TensorType.INT8)
    assert [*out.shape], out.type == ([1, 1], tflite.schema.TensorType.UINT8)
    codes = np.arange(701)  # as the device turns the front-end's values into int8
    scale, zero = tflite.unit(given)
    ours = np.clip(np.rint(codes / 25.6 / scale) + zero, -128, 127)
    assert np.abs(ours - np.clip((256 * codes + 333) // 666 - 128, -128, 127)).max() <= 1
    frames = trained.extractor(torch.from_numpy(sounds()[0])[None])[0][0].numpy()[:100]
    first = stream.probabilities(frames)
    again = MicroStream(content).probabilities(frames)
    np.testing.assert_array_equal(first, again)
    loader = pytest.importorskip("pymicro_wakeword.microwakeword", reason="pip install pymicro-wakeword")
    device = loader.MicroWakeWord.from_config(path)
    theirs = []
    for frame in frames:
        device.process_streaming_prob(frame[None, None])
        if not device._features:
            theirs.append(device._probabilities[-1])
    assert np.abs(np.array(theirs) - first[:, 0]).max() <= 12 / 256  # another library's rounding


def test_what_micro_wake_word_cannot_take(tmp_path):
    def refused(trained, word, match):
        with pytest.raises(KwsError, match=match):
            microcontroller.export(trained, tmp_path / "x.json", sounds(), sounds(), {}, word)
        assert not (tmp_path / "x.json").exists()

    refused(untrained("fbank"), "stop", "train with features=micro")
    refused(untrained(), None, "one word, this model for 2")
    refused(untrained(), "right", "word=right: the model's words are left, stop")
    refused(untrained(table=["conv_k3_s2_c16", "ds_k5_c16_se0.25"]), "stop", "micro_wake_word has no")
    refused(untrained(table=PLANAR), "stop", "micro_wake_word has no TRANSPOSE, .*: model=dscnn_10k needs none")
