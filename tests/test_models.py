"""Every model under conf/model, at the laws: streams, time, batches, cost."""

import copy

import pytest
import torch
from conftest import config
from hydra.utils import instantiate

from kws.blocks.base import BatchNorm, ConvNorm, round_channels
from kws.config import conf_dir
from kws.models import build, fold
from kws.models.cost import cost
from kws.models.table import TableError, decode
from kws.streaming import Stateful

NAMES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
LARGER = {name for name in NAMES if f"{name.removesuffix('_100k')}_10k" in NAMES}  # of a table that stands smaller
MODELS = [pytest.param(name, marks=pytest.mark.slow if name in LARGER else ()) for name in NAMES]


def model_of(name: str, *more: str):
    torch.manual_seed(0)
    model = instantiate(config("cost", f"model={name}", *more).model, n_features=40, n_classes=5)
    for parameter in model.parameters():  # statistics and scales that a fresh model does not have
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() < 2 else None
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        elif name.endswith("running_mean"):
            buffer.normal_(std=0.3)
    return model.eval()


@pytest.fixture(params=MODELS)
def model(request):
    return model_of(request.param)


def by_chunks(model, frames, sizes):
    state, out, at = model.initial_state(len(frames)), [], 0
    while at < frames.shape[1]:
        size = sizes[len(out) % len(sizes)]
        logits, state = model.stream(frames[:, at : at + size], state)
        out.append(logits)
        at += size
    return torch.cat(out, dim=1)


@torch.no_grad()
def test_laws(model):
    frames = torch.randn(3, 95, 40) * 2
    whole = model(frames)
    assert whole.shape == (3, 95 // model.stride, 5)
    assert whole.std() > 1e-3
    for sizes in ([1], [7], [16, 3, 1], [95]):  # 1: streaming equals offline
        torch.testing.assert_close(by_chunks(model, frames, sizes), whole, atol=1e-5, rtol=1e-5)
    later = frames.clone()  # 2: no look at the future
    later[:, 48:] *= -2
    assert torch.equal(model(later)[:, : 48 // model.stride], whole[:, : 48 // model.stride])
    for i in range(3):  # 3: alone equals together
        torch.testing.assert_close(model(frames[i : i + 1])[0], whole[i], atol=1e-5, rtol=1e-5)
    state, moved = model.initial_state(3), copy.deepcopy(model)
    first, state = model.stream(frames[:, :33], state)
    alone = {name: slot[1:2] for name, slot in state.items()}  # a stream leaves the batch
    rest, _ = moved.stream(frames[1:2, 33:], alone)
    torch.testing.assert_close(torch.cat([first[1:2], rest], 1), whole[1:2], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_clips_answer_is_its_last_valid_step(model):
    frames = torch.randn(4, 130, 40)
    lengths = torch.tensor([130, 129, 64, 20])
    whole = model(frames)
    expected = torch.stack([whole[i, n // model.stride - 1] for i, n in enumerate(lengths)])
    torch.testing.assert_close(model.clip_logits(frames, lengths), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.clip_logits(frames), whole[:, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_costs_are_what_they_say(model, request):
    costs, name = cost(model), request.node.callspec.params["model"]
    said = {"10k": (8_000, 12_000), "100k": (80_000, 100_000)}
    said |= dict.fromkeys(("speech", "natural", "phones"), (160_000, 180_000))
    low, high = said.get(name.split("_")[-1], (9_000, 150_000))
    assert low <= costs.parameters <= high
    assert costs.parameters == sum(p.numel() for p in model.parameters())
    assert costs.state_bytes == 4 * sum(s.numel() for s in model.initial_state().values())
    if costs.receptive_field_ms is None:
        assert not all(layer.forgets for layer in model.modules() if isinstance(layer, Stateful))
        return
    reach = round((costs.receptive_field_ms - 15) / 10)
    n = -(-(reach + 5) // model.stride) * model.stride
    frames = torch.randn(1, n, 40)
    frames[:, n - reach - 1] = torch.nan  # one frame further back than the last answer is said to depend on
    assert model(frames)[0, -1].isfinite().all()
    frames[:, n - reach] = torch.nan
    assert model(frames)[0, -1].isnan().any()


@torch.no_grad()
def test_a_folded_model_computes_the_same(model):
    frames, folded = torch.randn(2, 64, 40), fold(model)
    torch.testing.assert_close(folded(frames), model(frames), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_chunks(folded, frames, [5]), model(frames), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, ConvNorm) and isinstance(module.norm, BatchNorm) for module in folded.modules())
    assert cost(folded).macs_per_second <= cost(model).macs_per_second


def test_macs_of_a_known_layer():
    model = build(["conv_k3_c8"], n_features=4, n_classes=2)
    assert cost(model).macs_per_second == 100 * (4 * 3 * 8 + 8 * 2)
    strided = build(["conv_k3_s2_c8"], n_features=4, n_classes=2)
    assert cost(strided).macs_per_second == 50 * (4 * 3 * 8 + 8 * 2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["conv_k3_c8", "gohst_k3_c8"], "row 2.*no block 'gohst'; there are.*ghost"),
        (["conv_k3_q8"], "row 1.*conv takes no q"),
        (["conv_k3_c8_c9"], "row 1.*channels stands twice"),
        (["conv_k3_c8_bias2"], "bias is a flag"),
        (["conv_k3_c8_d1.5"], "'d1.5' is not understood"),
        (["conv_k3_c8", "xception_k3_c8_n"], "row 2.*n is written like 2"),
        (["mb_k3_c8_h8_e2"], "one is enough"),
        (["ds_k3_c8_window3"], "ds takes no window"),
        ("conv_k3_c8", "list of strings"),
        (["conv_k3_8"], "'8' is not understood"),
        (["conv_k3_c8_se4"], "conv takes no se"),
        (["conv_c8", "mb_k3_c8"], "row 2.*mb needs hidden"),
        (["shuffle_k3_c12"], "without a stride 8 channels stay 8"),
        (["inception1_k5_b8.8.8"], "six are needed"),
        ([], "no rows"),
        (["conv_k3x3_c8"], "one band"),
        (["ds_k0_c8"], "sizes start at 1"),
        (["conv_k3_c8_g3"], "row 1.*in_channels must be divisible by groups"),
    ],
)
def test_a_bad_row_is_named(rows, words):
    with pytest.raises(TableError, match=words):
        build(rows, n_features=8, n_classes=2)


def test_rows_are_read():
    row = decode("ghost_k3x5_s2x1_c24_e2.5_se4_r3_cheap3x3_hswish")
    assert (row.kind, row.repeats, row.rule) == ("ghost", 3, "c")
    assert row.fields == {
        "kernel": (3, 5), "stride": (2, 1), "channels": 24, "expansion": 2.5, "se": 4.0, "cheap": (3, 3),
        "act": "hswish",
    }  # fmt: skip
    assert decode("inception1_b16.24_valid").fields == {"branches": (16, 24), "valid": True}
    assert [round_channels(c) for c in (1, 10, 24, 30.5, 3.9)] == [4, 12, 24, 32, 4]


def test_width_depth_and_their_rules():
    def widths(*rows, **scale):
        model = build(rows, n_features=8, n_classes=2, **scale)
        return [block.conv.conv.out_channels for block in model.blocks]

    rows = "conv_c32", "conv_c64_r1", "conv_c64_r2", "conv_cmin64", "conv_cfix20"
    assert widths(*rows, width=0.5, divisor=8) == [16, 32, 32, 32, 64, 20]
    assert widths(*rows, width=2.0, depth=1.2, divisor=8) == [64, 128, 128, 128, 128, 128, 128, 20]
    assert widths(*rows, phi=2) == widths(*rows, width=1.1**2, depth=1.2**2)
    assert widths("conv_c8", "conv_c8", width=0.5, widths={0.5: [6, 7]}) == [6, 7]
    with pytest.raises(TableError, match=r"listed at 0\.5 only"):
        widths("conv_c8", widths={0.5: [6]})
    with pytest.raises(TableError, match="2 numbers for 1 rows"):
        widths("conv_c8", widths={1.0: [6, 7]})
    assert round_channels(67, 8, limit=0.0) == 64
    assert round_channels(11, 8) == 16  # 8 would be less than 90 %


@torch.no_grad()
def test_rows_may_be_branches():
    table = ["conv_k3_c8", {"sum": [["conv_k5_s2_c8", "conv_c8"], ["conv_s2_c8"]]}, {"concat": [[], ["conv_k3_c4"]]}]
    model = build(table, n_features=6, n_classes=2).eval()
    assert (model.stride, model.classifier.in_features) == (2, 12)
    frames = torch.randn(2, 21, 6)
    torch.testing.assert_close(by_chunks(model, frames, [3]), model(frames), atol=1e-6, rtol=1e-5)
    for rows, words in (
        ([{"concat": [["conv_c8"], ["conv_s2_c8"]]}], r"row 1, concat: branches stride by \(1, 1\) and \(2, 1\)"),
        ([{"sum": [["conv_c8"], ["cnov_c8"]]}], "row 1, branch 2, row 1, 'cnov_c8': no block"),
        ([{"sum": [["conv_c8"], ["conv_c4"]]}], "row 1, sum: The size of tensor"),
        ([{"concat": [["conv_c8"]]}], "row 1.*concat takes two branches"),
        ([{"beside": []}], "branches are written"),
        ([{"sum": ["conv_c8", "conv_c8"]}], "branch 1, the table has no rows"),
    ):
        with pytest.raises(TableError, match=words):
            build(rows, n_features=6, n_classes=2)


def test_a_clip_too_short_for_a_step_has_no_step():
    model = build(["conv_k3_s4_c8"], n_features=4, n_classes=2).eval()
    assert model(torch.zeros(2, 3, 4)).shape == (2, 0, 2)


SMALL = "model.table=[conv_k3_s2_c16,ghost2_k5_c16_e2_se4]"


@pytest.mark.parametrize(
    "name", ["ghost_10k", *[pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in LARGER]]
)
@torch.no_grad()
def test_a_stream_survives_torch_export(name):
    model = model_of(name, *[SMALL] * (name == "ghost_10k"))
    frames, state = torch.randn(1, 4 * model.stride, 40), model.initial_state()
    half = 2 * model.stride
    del state["input"]  # whole steps leave nothing over

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, frames, state):
            logits, state = self.model.stream(frames, {"input": frames[:, :0], **state})
            return logits, {name: slot for name, slot in state.items() if name != "input"}

    exported = torch.export.export(Step(), (frames[:, :half], state)).module()
    first, state = exported(frames[:, :half], state)
    second, _ = exported(frames[:, half:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), model(frames), atol=1e-5, rtol=1e-5)
