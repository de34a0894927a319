"""What makes each block what it is."""

import torch
from torch import nn

from kws.blocks import kinds
from kws.blocks.base import BatchNorm, ConvNorm, Excitation, RepConv, SqueezeExcite, shuffle
from kws.blocks.broadcast import Broadcast, SubSpectralNorm
from kws.blocks.convolution import Flat, Separable, Xception
from kws.blocks.csp import CrossStage
from kws.blocks.ghost import DfcAttention, GhostBottleneck, GhostBottleneckV3, GhostModule
from kws.blocks.inception import Inception, InceptionResidual
from kws.blocks.inverted import FusedInvertedResidual, InvertedResidual
from kws.blocks.natural import Natural
from kws.blocks.pyramid import DepthwisePyramid, Pyramid
from kws.blocks.residual import Basic
from kws.blocks.shuffle import ShuffleUnit, ShuffleUnitV2
from kws.blocks.temporal import Matchbox, MultiScale, Recurrent
from kws.models import fold
from kws.streaming import CausalConv, Chain


def weights(module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, CausalConv))


def test_every_kind_is_found():
    found = kinds()
    assert {"conv", "ds", "ghost", "ghost2"} <= set(found)
    for kind, block in found.items():
        assert "arXiv:" in f"{block.__doc__}{block.__mro__[1].__doc__}" or kind in {
            "act", "conv", "dw", "flat", "maxpool", "avgpool", "natural", "pool",
        }  # fmt: skip


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


def test_a_pointwise_convolution_of_flat_bands_is_a_kernel_over_all_of_them():
    over, flat = CausalConv(6, 4, (1, 5), valid=True), CausalConv(30, 4)
    with torch.no_grad():
        flat.weight.copy_(over.weight.flatten(1)[:, :, None, None])
    x = torch.randn(2, 6, 5, 20)
    torch.testing.assert_close(flat(Flat(6, 5)(x)), over(x))


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


def silent(*convolutions) -> None:
    """Makes these convolutions' norms give zero."""
    for convolution in convolutions:
        nn.init.zeros_(convolution.norm.weight)


@torch.no_grad()
def test_inverted_residuals_are_wide_inside_linear_outside_and_keep_their_input():
    x = torch.randn(2, 8, 1, 9)
    for block in (InvertedResidual(8, 8, 48, (3, 1)), FusedInvertedResidual(8, 8, 32, (3, 1))):
        block.eval()
        assert block.widen.conv.out_channels > 8
        assert isinstance(block.narrow.act, nn.Identity)
        silent(block.narrow)
        assert torch.equal(block(x), x)
    assert InvertedResidual(8, 8, 8, (3, 1)).widen is None
    assert InvertedResidual(8, 8, 8, (3, 1), up=True).widen is not None
    assert FusedInvertedResidual(8, 8, 8, (3, 1)).narrow is None
    assert not InvertedResidual(8, 12, 48, (3, 1)).residual
    assert not InvertedResidual(8, 8, 48, (3, 1), (2, 1)).residual


def test_excitations_differ_by_paper():
    v3, efficient = Excitation(4, divisor=8), Excitation(4, of="input", act="swish", gate="sigmoid")
    assert [e.over(72, 24).down.out_channels for e in (Excitation(4), v3, efficient)] == [18, 24, 6]
    assert isinstance(v3.over(72, 24).gate, nn.Hardsigmoid)
    assert isinstance(efficient.over(72, 24).gate, nn.Sigmoid)
    block = Basic(8, 8, (3, 1), se=Excitation(4))
    assert isinstance(block.main[2][0], SqueezeExcite)


@torch.no_grad()
def test_shuffle_units_mix_groups_and_keep_their_input():
    x = torch.randn(1, 24, 1, 8)
    unit = ShuffleUnit(24, 24, (3, 1), groups=3).eval()
    silent(unit.up)
    torch.testing.assert_close(unit(x), x.relu())
    strided = ShuffleUnit(24, 48, (3, 1), (2, 1), groups=3).eval()
    silent(strided.up)
    means = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 0)), (1, 3), (1, 2))
    torch.testing.assert_close(strided(x)[:, :24], means.relu())
    assert strided(x).shape == (1, 48, 1, 4)


@torch.no_grad()
def test_half_of_a_shuffle_unit_passes_untouched():
    x, unit = torch.randn(1, 16, 1, 8), ShuffleUnitV2(16, 16, (3, 1)).eval()
    assert torch.equal(shuffle(unit(x), 8)[:, :8], x[:, :8])
    assert (
        {layer.conv.in_channels for layer in unit.branch} == {layer.conv.out_channels for layer in unit.branch} == {8}
    )
    strided = ShuffleUnitV2(16, 40, (3, 1), (2, 1))
    assert strided.shortcut[1].conv.out_channels == 16
    assert ShuffleUnitV2(16, 40, (3, 1), (2, 1), even=True).shortcut[1].conv.out_channels == 20
    assert strided(x).shape == (1, 40, 1, 4)


@torch.no_grad()
def test_inceptions_branches_stand_side_by_side():
    block, x = Inception(8, (4, 3, 6, 2, 5, 7), (5, 5)).eval(), torch.randn(1, 8, 9, 12)
    out = block(x)
    assert out.shape == (1, 22, 9, 12)
    torch.testing.assert_close(out[:, 4:10], block.branches[1](x, None))
    residual = InceptionResidual(8, (4, 3, 6)).eval()
    nn.init.zeros_(residual.join.weight)
    nn.init.zeros_(residual.join.bias)
    assert torch.equal(residual(x), x.relu())


@torch.no_grad()
def test_xception_strides_both_its_ways():
    block = Xception(8, 16, (3, 3), (2, 2))
    assert block(torch.randn(1, 8, 10, 12)).shape == (1, 16, 5, 6)
    assert [layer[1].conv.out_channels for layer in block.main if isinstance(layer, Chain)] == [16, 16]
    late = Xception(8, 16, (3, 3), late=True)
    assert [layer[1].conv.out_channels for layer in late.main if isinstance(layer, Chain)] == [8, 16]


@torch.no_grad()
def test_pyramids_widen_their_field_by_branch():
    block, eesp = Pyramid(16, 16, (3, 1), groups=4), DepthwisePyramid(16, 16, (16, (1, 1)), (3, 1), reach=7)
    assert [branch.dilation for branch in block.branches] == [(1, 1), (1, 2), (1, 4), (1, 8)]
    assert [branch.dilation[1] for branch in eesp.branches] == [1, 1, 2, 3]  # fields 3, 3, 5, 7
    strided = DepthwisePyramid(16, 32, (4, (4, 2)), (3, 3), (2, 2), act="relu").eval()
    source, x = torch.randn(1, 4, 8, 16), torch.randn(1, 16, 8, 8)
    out = strided(x, None, source)
    assert out.shape == (1, 32, 4, 4)
    silent(strided.expand, strided.shortcut[-1])
    mean = strided(x, None, source)
    torch.testing.assert_close(mean[:, :16], strided.mean(x).relu())
    assert not torch.equal(out, mean)


def test_cross_stage_sends_half_past():
    block = CrossStage(16, 24, (3, 1), n=2)
    assert block.past.conv.out_channels == block.through.conv.out_channels == 12
    assert len(block.main) == 2


@torch.no_grad()
def test_a_broadcast_block_adds_one_mean_to_all_bands():
    block, x = Broadcast(8, 8, (3, 3), parts=2).eval(), torch.randn(1, 8, 4, 9)
    y = block.norm(block.spectral(x))
    added = block.temporal(y.mean(2, keepdim=True), None)
    assert added.shape == (1, 8, 1, 9)
    torch.testing.assert_close(block(x), (y + added + x).relu())
    norm = SubSpectralNorm(3, 2)
    z = torch.randn(50, 3, 4, 20) * torch.tensor([1.0, 1.0, 9.0, 9.0])[:, None]
    torch.testing.assert_close(norm.train()(z).std((0, 3)), torch.ones(3, 4), atol=0.1, rtol=0)  # each part by itself


@torch.no_grad()
def test_speech_blocks_add_what_they_should():
    x = torch.randn(1, 8, 1, 40)
    block = Matchbox(8, 8, n=2).eval()
    silent(block.main[-1])
    torch.testing.assert_close(block(x), block.shortcut(x).relu())
    scales = MultiScale(8, 8, stacks=3, layers=4).eval()
    first = scales.first(x)
    one = scales.stacks[0](first)
    two = scales.stacks[1](one)
    torch.testing.assert_close(scales(x), one + two + scales.stacks[2](two))
    assert [unit.main[0].conv.dilation[1] for unit in scales.stacks[0]] == [1, 2, 4, 8]
    gru = Recurrent(8, 6, bands=3)
    assert gru(torch.randn(2, 8, 3, 5)).shape == (2, 6, 1, 5)


def test_a_global_batch_without_clips_changes_no_statistics(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        norm, one = BatchNorm(3), torch.nn.BatchNorm2d(3)
        x = torch.randn(4, 3, 2, 5)
        torch.testing.assert_close(norm(x), one(x))
        before = {name: value.clone() for name, value in norm.state_dict().items()}
        norm(torch.zeros(0, 3, 2, 5)).sum().backward()
        assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
        assert all(parameter.grad.isfinite().all() for parameter in norm.parameters())
    finally:
        torch.distributed.destroy_process_group()


@torch.no_grad()
def test_branches_fold_into_one_convolution():
    torch.manual_seed(0)
    for rep in (
        RepConv(6, 6, (5, 3), copies=3), RepConv(6, 8, (3, 3), (2, 2)), RepConv(6, 6, (3, 1), dilation=2, groups=6),
        RepConv(6, 6, groups=2), GhostBottleneckV3(6, 6, (3, 1)),
    ):  # fmt: skip
        for norm in rep.modules():
            if isinstance(norm, BatchNorm):
                norm.running_var.uniform_(0.5, 2)
                for values in (norm.running_mean, norm.weight, norm.bias):
                    values.normal_()
        x, one = torch.randn(2, 6, 4, 12), fold(Chain(rep))
        torch.testing.assert_close(one(x), rep.eval()(x), atol=1e-5, rtol=1e-5)
        assert sum(isinstance(m, CausalConv) for m in one.modules()) < sum(
            isinstance(m, CausalConv) for m in rep.modules()
        )
        assert not any(isinstance(m, RepConv) for m in one.modules())


def test_natural_changes_what_is_trained_and_nothing_else():
    torch.manual_seed(0)
    block, x = Natural(4, 1), torch.randn(64, 4, 1, 30)
    assert torch.equal(block.train()(x), x)  # until its weights come with a checkpoint
    block.bias2.fill_(1)  # so each map that is converted lies one above
    assert torch.equal(block(x).sub(x).amax(dim=(1, 2, 3)).round().unique(), torch.tensor([0.0, 1.0]))
    assert torch.equal(block.eval()(x), x)
    block.bias2.zero_()
    block.within.copy_(torch.tensor([[2.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    noise = torch.cat([block.train()(x) - x for _ in range(40)])[:, :, 0]
    knots = noise[..., 10]  # straight lines between what is drawn vary less there
    covariance = torch.cov(knots.T) / torch.var(knots[:, 0]) * 4
    torch.testing.assert_close(covariance, block.within @ block.within.T, atol=0.25, rtol=0)
    assert not list(block.parameters())
