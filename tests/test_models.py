"""Every model under conf/model, at the laws: streams, time, batches, cost."""

import copy

import pytest
import torch
from conftest import config
from hydra.utils import instantiate

from kws.config import conf_dir
from kws.models import build
from kws.blocks.base import round_channels
from kws.models.builder import TableError, decode
from kws.models.cost import cost

MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


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
    frames = torch.randn(3, 151, 40) * 2
    whole = model(frames)
    assert whole.shape == (3, 151 // model.stride, 5)
    assert whole.std() > 1e-3
    for sizes in ([1], [7], [16, 3, 1], [151]):  # 1: streaming equals offline
        torch.testing.assert_close(by_chunks(model, frames, sizes), whole, atol=1e-5, rtol=1e-5)
    later = frames.clone()  # 2: no look at the future
    later[:, 80:] *= -2
    assert torch.equal(model(later)[:, : 80 // model.stride], whole[:, : 80 // model.stride])
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
def test_costs_are_what_they_say(model):
    costs = cost(model)
    assert costs.parameters == sum(p.numel() for p in model.parameters())
    assert costs.state_bytes == 4 * sum(s.numel() for s in model.initial_state().values())
    reach = round((costs.receptive_field_ms - 15) / 10)
    n = -(-(reach + 5) // model.stride) * model.stride
    frames = torch.randn(1, n, 40)
    frames[:, n - reach - 1] = torch.nan  # one frame further back than the last answer is said to depend on
    assert model(frames)[0, -1].isfinite().all()
    frames[:, n - reach] = torch.nan
    assert model(frames)[0, -1].isnan().any()


def test_sizes_are_as_named():
    for name in ():
        parameters = sum(p.numel() for p in model_of(name).parameters())
        low, high = {"10k": (8_000, 12_000), "100k": (80_000, 100_000)}.get(name.split("_")[-1], (18_000, 36_000))
        assert low <= parameters <= high, (name, parameters)


def test_macs_of_a_known_layer():
    model = build(["conv_k3_c8"], n_features=4, n_classes=2)
    assert cost(model).macs_per_second == 100 * (4 * 3 * 8 + 8 * 2)
    strided = build(["conv_k3_s2_c8"], n_features=4, n_classes=2)
    assert cost(strided).macs_per_second == 50 * (4 * 3 * 8 + 8 * 2)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["conv_k3_c8", "gohst_k3_c8"], "row 2.*no block 'gohst'; there are.*ghost"),
        (["conv_k3_q8"], "'q8' is not understood"),
        (["conv_k3_c8_se4"], "conv takes no se"),
        (["conv_k3x3_c8"], "one band"),
        (["ds_k0_c8"], "sizes start at 1"),
        (["conv_k3_c8_g3"], "row 1.*in_channels must be divisible by groups"),
    ],
)
def test_a_bad_row_is_named(rows, words):
    with pytest.raises(TableError, match=words):
        build(rows, n_features=8, n_classes=2)


def test_rows_are_read():
    assert decode("ghost_k3x5_s2x1_c24_e2.5_se4_r3_hswish") == (
        "ghost", 3,
        {"kernel": (3, 5), "stride": (2, 1), "channels": 24, "expansion": 2.5, "se": 4.0, "act": "hswish"},
    )  # fmt: skip
    assert [round_channels(c) for c in (1, 10, 24, 30.5, 3.9)] == [4, 12, 24, 32, 4]


def test_a_clip_too_short_for_a_step_has_no_step():
    model = build(["conv_k3_s4_c8"], n_features=4, n_classes=2).eval()
    assert model(torch.zeros(2, 3, 4)).shape == (2, 0, 2)


@torch.no_grad()
def test_a_stream_survives_torch_export():
    model = model_of("ghost_10k", "model.table=[conv_k3_s2_c16,ghost2_k5_c16_e2_se4]")
    frames, state = torch.randn(1, 20, 40), model.initial_state()
    del state["input"]  # whole steps leave nothing over

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, frames, state):
            logits, state = self.model.stream(frames, {"input": frames[:, :0], **state})
            return logits, {name: slot for name, slot in state.items() if name != "input"}

    exported = torch.export.export(Step(), (frames[:, :10], state)).module()
    first, state = exported(frames[:, :10], state)
    second, _ = exported(frames[:, 10:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), model(frames), atol=1e-5, rtol=1e-5)
