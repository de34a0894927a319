"""What makes each block what it is."""

import torch

from kws.blocks import kinds
from kws.blocks.base import ConvNorm, SqueezeExcite
from kws.blocks.convolution import Separable
from kws.blocks.ghost import DfcAttention, GhostBottleneck, GhostModule
from kws.streaming import CausalConv


def weights(module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, CausalConv))


def test_every_kind_is_found():
    assert {"conv", "ds", "ghost", "ghost2"} <= set(kinds())


def test_separable_costs_one_over_channels_plus_one_over_kernel():
    c1, c2, k = 32, 48, 9
    assert weights(Separable(c1, c2, (3, 3))) * c2 * k == weights(ConvNorm(c1, c2, (3, 3))) * (k + c2)


def test_grouped_convolution_is_block_diagonal():
    grouped, dense = CausalConv(6, 4, (3, 1), groups=2), CausalConv(6, 4, (3, 1))
    assert grouped.weight.numel() * 2 == dense.weight.numel()
    with torch.no_grad():
        dense.weight.zero_()
        dense.weight[:2, :3], dense.weight[2:, 3:] = grouped.weight[:2], grouped.weight[2:]
    x = torch.randn(2, 6, 1, 20)
    torch.testing.assert_close(grouped(x), dense(x))


def test_half_of_a_ghost_modules_maps_are_cheap():
    module = GhostModule(16, 32, (3, 3)).eval()
    assert weights(module) == 16 * 16 + 16 * 9
    x = torch.randn(1, 16, 5, 7)
    out, intrinsic = module(x), module.primary(x)
    assert torch.equal(out[:, 0::2], intrinsic)
    torch.testing.assert_close(out[:, 1::2], module.cheap(intrinsic))
    assert GhostModule(16, 31, (3, 3))(x).shape[1] == 31


def test_ghost_costs_half_of_a_pointwise_convolution_and_little_more():
    # the documents' s-fold saving holds for a primary of the cheap operation's kernel; for 1×1 it is s·c/(c + 9(s-1))
    c = 64
    assert weights(ConvNorm(c, c)) / weights(GhostModule(c, c, (3, 3))) == 2 * c / (c + 9)


def test_bottleneck_adds_its_input_and_ends_without_activation():
    block = GhostBottleneck(8, 8, (3, 1)).eval()
    torch.nn.init.zeros_(block.narrow.primary.norm.weight)
    torch.nn.init.zeros_(block.narrow.cheap.norm.weight)
    x = torch.randn(1, 8, 1, 9)
    assert torch.equal(block(x), x)
    assert (GhostBottleneck(8, 12, (3, 1))(x) < 0).any()


def test_dfc_attention_spans_the_papers_field_on_full_rate():
    gate = DfcAttention(1, 1).eval()
    with torch.no_grad():
        x = torch.zeros(1, 1, 12, 30)
        rest = gate(x)
        x[0, 0, 6, 10] = 1e4
        moved = (gate(x) - rest).abs()[0, 0] > 1e-6
    assert moved.any(1).nonzero().flatten().tolist() == list(range(2, 12))  # ±2 bands of the halved map
    assert moved.any(0).nonzero().flatten().tolist() == [10, 12, 14, 16, 18]  # itself and later, never earlier
    assert gate(torch.randn(1, 1, 7, 4)).shape == (1, 1, 7, 4)


def test_squeeze_excitation_weighs_by_the_window():
    excite = SqueezeExcite(4, 2, window=5).eval()
    x = torch.randn(1, 4, 3, 20)
    weight = (excite(x) / x)[..., -1]
    torch.testing.assert_close(weight, weight[:, :, :1].expand_as(weight))  # one weight a channel
    other = x.clone()
    other[..., :15] += 3  # outside the window
    torch.testing.assert_close(excite(other)[..., -1], excite(x)[..., -1])
