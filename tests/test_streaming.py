"""Every layer that looks back, alone: chunks equal the whole, the future changes nothing, states are not altered."""

import copy

import pytest
import torch
from torch import nn

from kws.streaming import CausalConv, Chain, Stream, WindowedMean, initial_state, prepare

LAYERS = {
    "conv 3": (lambda: CausalConv(4, 6, (3, 1)), 1),
    "conv 5x3 dilated": (lambda: CausalConv(4, 6, (5, 3), dilation=3), 1),
    "conv 9 depthwise": (lambda: CausalConv(4, 4, (9, 1), groups=4), 1),
    "conv 5x3 stride 2x2": (lambda: CausalConv(4, 6, (5, 3), (2, 2)), 2),
    "conv 2 stride 3": (lambda: CausalConv(4, 6, (2, 1), (3, 1)), 3),
    "conv 1 stride 2": (lambda: CausalConv(4, 6, (1, 1), (2, 1)), 2),
    "conv 3 stride 3": (lambda: CausalConv(4, 6, (3, 3), (3, 1)), 3),
    "mean 1": (lambda: WindowedMean(4, 1), 1),
    "mean 7": (lambda: WindowedMean(4, 7), 1),
    "chain": (lambda: Chain(CausalConv(4, 4, (3, 3)), CausalConv(4, 5, (4, 1), (2, 2)), WindowedMean(5, 3)), 2),
}


@pytest.fixture(params=LAYERS, ids=str)
def layer(request):
    make, stride = LAYERS[request.param]
    torch.manual_seed(0)
    layer = make()
    prepare(layer, torch.zeros(1, 4, 6, 2 * stride))
    return layer, stride


def by_chunks(layer, x, sizes):
    state, out, at = initial_state(layer, len(x)), [], 0
    for size in sizes:
        stream = Stream(state)
        before = {name: slot.clone() for name, slot in state.items()}
        out.append(layer(x[..., at : at + size], stream))
        assert all(torch.equal(before[name], state[name]) for name in before), "the state given was altered"
        state, at = stream.finish(), at + size
    assert at == x.shape[-1]
    return torch.cat(out, dim=-1)


@torch.no_grad()
def test_chunks_equal_the_whole(layer):
    layer, stride = layer
    x = torch.randn(2, 4, 6, 24 * stride)
    whole = layer(x)
    assert whole.shape[-1] == 24
    for groups in ([1] * 24, [24], [5, 7, 1, 11], [2, 3] * 4 + [4]):
        torch.testing.assert_close(by_chunks(layer, x, [g * stride for g in groups]), whole, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_future_changes_nothing(layer):
    layer, stride = layer
    x = torch.randn(1, 4, 6, 12 * stride)
    whole = layer(x)
    for step in (1, 5, 11):
        changed = x.clone()
        changed[..., step * stride :] += 10
        assert torch.equal(layer(changed)[..., :step], whole[..., :step])
        assert not torch.equal(layer(changed)[..., step:], whole[..., step:])


def test_offline_output_count_drops_an_unfinished_group():
    conv = CausalConv(2, 2, (3, 1), (4, 1))
    assert [conv(torch.zeros(1, 2, 1, n)).shape[-1] for n in (4, 7, 8, 11, 12)] == [1, 1, 2, 2, 3]


def test_mean_divides_by_the_steps_seen():
    mean = WindowedMean(1, 3)
    got = mean(torch.tensor([3.0, 6.0, 9.0, 12.0])[None, None, None])[0, 0, 0]
    torch.testing.assert_close(got, torch.tensor([3.0, 4.5, 6.0, 9.0]))


def test_mean_does_not_drift():
    mean = WindowedMean(1, 50)
    prepare(mean, torch.zeros(1, 1, 1, 1))
    state, value = initial_state(mean), None
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        x = torch.rand(1, 1, 1, 500, generator=generator) + 1
        stream = Stream(state)
        value, state = mean(x, stream), stream.finish()
    torch.testing.assert_close(value[..., -1], x[..., -50:].mean(-1), atol=2e-6, rtol=0)


def test_misuse_is_said():
    layer = Chain(CausalConv(1, 1, (3, 1)), CausalConv(1, 1, (3, 1)))
    prepare(layer, torch.zeros(1, 1, 1, 1))
    state = initial_state(layer)
    assert list(state) == ["0", "1"]
    stream = Stream(state)
    layer[0](torch.zeros(1, 1, 1, 1), stream)
    with pytest.raises(RuntimeError, match="layers 1 were not reached"):
        stream.finish()
    with pytest.raises(RuntimeError, match="'0' was used twice"):
        layer[0](torch.zeros(1, 1, 1, 1), stream)
    with pytest.raises(KeyError, match="no slot '0'"):
        layer[0](torch.zeros(1, 1, 1, 1), Stream({}))
    strided = CausalConv(1, 1, (3, 1), (2, 1))
    prepare(strided, torch.zeros(1, 1, 1, 2))
    with pytest.raises(ValueError, match="3 frames, not a multiple of stride 2"):
        strided(torch.zeros(1, 1, 1, 3), Stream(initial_state(strided)))


def test_slots_survive_a_copy_and_a_wrap():
    model = Chain(CausalConv(1, 1, (3, 1)))
    prepare(model, torch.zeros(1, 1, 1, 1))
    wrapped = nn.ModuleDict({"module": copy.deepcopy(model)})
    assert list(initial_state(wrapped)) == ["0"]
