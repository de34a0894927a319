"""What papers and the documents behind this project claim of these blocks, computed. Where a document errs, the test
computes what is true and its comment says what was written."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kws.blocks.base import ConvNorm, shuffle
from kws.blocks.convolution import Separable, SeparableConv
from kws.blocks.csp import PyramidPool
from kws.blocks.ghost import GhostModule
from kws.blocks.inception import Inception, InceptionTwice, asymmetric
from kws.blocks.interleaved import Interleaved, InterleavedInverted, InterleavedSparse, near_equal_factors
from kws.blocks.inverted import InvertedResidual
from kws.blocks.pyramid import DepthwisePyramid, Pyramid
from kws.blocks.residual import Bottleneck
from kws.features import make_options
from kws.features.framing import n_frames
from kws.models.cost import image_cost
from kws.models.table import Scale
from kws.streaming import CausalConv, CausalPool, Chain


def weights(*modules) -> int:
    return sum(m.weight.numel() for module in modules for m in module.modules() if isinstance(m, nn.Conv2d))


@torch.no_grad()
def reached(function, channels: int) -> torch.Tensor:
    """Which outputs (rows) of a pointwise linear map see which inputs (columns)."""
    return function(torch.eye(channels)[:, :, None, None])[:, :, 0, 0].T != 0


def test_groups_divide_parameters_and_multiply_accumulates():
    dense, grouped = (image_cost([f"conv_k3x3_c32_g{g}"], (32, 8, 8), n_classes=1) for g in (1, 4))
    kernel = 32 * 32 * 9
    assert dense.parameters - grouped.parameters == kernel - kernel // 4
    assert dense.macs - grouped.macs == 64 * (kernel - kernel // 4)


def test_depthwise_separable_is_a_sum_of_two():
    # a document writes k²·c1·c2 for the sum; it is k²·c1 + c1·c2, in all 1/c2 + 1/k² of the dense convolution
    c1, c2, k = 24, 40, 3
    parts = weights(Separable(c1, c2, (k, k)))
    assert parts == k * k * c1 + c1 * c2
    assert parts / (k * k * c1 * c2) == pytest.approx(1 / c2 + 1 / k**2)


def test_activations():
    x = torch.linspace(-8, 8, 401)
    # a document writes max(max(0, x), 6), which is never below 6
    torch.testing.assert_close(F.relu6(x), x.clamp(min=0).clamp(max=6))
    torch.testing.assert_close(F.hardswish(x), x * F.relu6(x + 3) / 6)
    assert (F.hardswish(x) - F.silu(x)).abs().max() < 0.15  # h-swish stands for swish
    assert (F.hardsigmoid(x) - F.sigmoid(x)).abs().max() < 0.07


def test_interleaved_convolutions_complement_each_other():
    for channels, partitions in ((12, 3), (12, 4), (16, 2)):
        block = Interleaved(channels, channels, (1, 1), groups=partitions)

        def both(x, block=block):
            y = shuffle(block.primary(x), block.partitions)
            return shuffle(block.secondary(y), block.members)

        assert reached(block.primary, channels).sum() == channels**2 // partitions
        assert reached(both, channels).all()


def test_the_ends_of_interleaving_are_known_blocks():
    plain = Interleaved(8, 8, (3, 3), groups=1)  # L = 1: the second convolution only scales channels
    assert plain.primary.groups == 1
    assert weights(plain.secondary) == 8
    xception = Interleaved(8, 8, (3, 3), groups=8)  # M = 1: channel by channel, then pointwise over all
    assert xception.primary.groups == 8
    assert weights(xception) == weights(SeparableConv(8, 8, (3, 3)))


def test_sparse_interleaving_is_dense_with_few_weights():
    block = InterleavedSparse(64, 64, n=4)
    assert block.sizes == [4, 4, 4]
    assert weights(block.pointwise) == 768  # against 4096
    block.spatial, block.norm, block.act = Chain(), nn.Identity(), nn.Identity()
    for layer in block.pointwise:
        nn.init.uniform_(layer.weight, 0.5, 1)
    assert reached(lambda x: block(x), 64).all()
    assert near_equal_factors(12, 2) == [3, 4]
    assert near_equal_factors(7, 2) == [1, 7]
    block.sizes, block.pointwise = block.sizes[:2], block.pointwise[:2]
    assert reached(lambda x: block(x), 64).sum() == 64 * 16  # one convolution fewer leaves gaps


def test_interleaved_inverted_residual_has_little_more_than_half():
    assert weights(InterleavedInverted(24, 24, 144)) == 4752
    assert weights(InvertedResidual(24, 24, 144)) == 8208


def test_factorised_kernels():
    c = 16
    twice = weights(ConvNorm(c, c, (3, 3))) * 2
    assert twice / weights(ConvNorm(c, c, (5, 5))) == 0.72
    branches = (8, 8, c, c, c, 8)
    five, small = (kind(c, branches, (5, 5)).branches[2][1:] for kind in (Inception, InceptionTwice))
    assert weights(small) / weights(five) == 0.72
    for n in (3, 5, 7):
        assert weights(Chain(*asymmetric(c, c, (n, n), "relu"))) / weights(ConvNorm(c, c, (n, n))) == pytest.approx(
            2 / n
        )


@torch.no_grad()
def test_branches_of_a_resnext_block_are_one_grouped_convolution():
    c, hidden, groups = 32, 16, 4
    block = Bottleneck(c, c, hidden, (3, 3), groups=groups).eval()
    x, narrow, total = torch.randn(2, c, 6, 9), hidden // groups, 0
    first, middle, last = block.main[:3]
    for i in range(groups):  # y = x + ΣT_i(x), figure 3a
        part = slice(i * narrow, (i + 1) * narrow)
        y = F.relu(F.conv2d(x, first.conv.weight[part]) / (1 + first.norm.eps) ** 0.5)
        y = F.conv2d(F.pad(y, (2, 0, 1, 1)), middle.conv.weight[part]) / (1 + middle.norm.eps) ** 0.5
        total = total + F.conv2d(F.relu(y), last.conv.weight[:, part])
    torch.testing.assert_close(F.relu(x + total / (1 + last.norm.eps) ** 0.5), block(x), atol=1e-5, rtol=1e-5)
    paper = Bottleneck(256, 256, 128, (3, 3), groups=32)
    assert (weights(paper) - weights(paper.main[1])) / weights(paper) == pytest.approx(0.9343, abs=1e-4)


def test_channel_shuffle():
    x = torch.randn(2, 24, 3, 5)
    for groups in (1, 2, 3, 8):
        assert torch.equal(shuffle(x, groups), nn.ChannelShuffle(groups)(x))
        assert torch.equal(shuffle(shuffle(x, groups), 24 // groups), x)


def accesses(c1: int, c2: int, groups: int = 1) -> int:
    costs = image_cost([f"conv_c{c2}_g{groups}"], (c1, 14, 14), n_classes=1, divisor=1)
    return costs.memory_access - (2 * c2 + 1)  # without the classifier


def test_equal_widths_and_few_groups_access_least_memory():
    # ShuffleNetV2's "MAC" is memory access cost, not multiply-accumulates; a document takes one for the other
    assert accesses(32, 64) == 14 * 14 * (32 + 64) + 32 * 64
    assert accesses(64, 64) < accesses(32, 128) < accesses(16, 256) < accesses(8, 512)  # of equal work
    assert accesses(64, 64) < accesses(128, 64, 2) < accesses(256, 64, 4)


def test_ghost_saves_the_ratio_only_with_equal_kernels():
    # a document has a saving of s; that is for a primary convolution of the cheap one's kernel
    c, k = 64, 3
    for s in (2, 4):
        equal = weights(ConvNorm(c, c // s, (k, k))) + (s - 1) * c // s * k * k
        assert s * 0.9 < c * c * k * k / equal < s
        module = GhostModule(c, c, (k, k), ratio=s)
        assert c * c / weights(module) == pytest.approx(s * c / (c + k * k * (s - 1)))


def test_pyramids_at_the_papers_size():
    source = (240, (1, 1))
    esp, eesp = Pyramid(240, 240, groups=4), DepthwisePyramid(240, 240, source, groups=4)
    assert (weights(esp), weights(eesp)) == (144_000, 20_160)
    assert weights(esp) / weights(eesp) == pytest.approx(7.14, abs=0.01)


@torch.no_grad()
def test_fusion_fills_the_grid_only_partly():
    # a document has the gaps of dilation filled; within one unit some stay
    def support(rates):
        total = 0
        for rate in rates:
            conv = CausalConv(1, 1, (3, 1), dilation=rate)
            nn.init.ones_(conv.weight)
            impulse = torch.zeros(1, 1, 1, 20)
            impulse[..., 0] = 1
            total = total + conv(impulse)[0, 0, 0]
        return set(total.nonzero().flatten().tolist())

    assert support([8]) == {0, 8, 16}
    assert support([1, 2, 4, 8]) == {0, 1, 2, 4, 8, 16}


def test_squeeze_excitation_costs_two_over_the_reduction():
    costs = [image_cost([f"basic_k3x3_c64{se}"], (64, 8, 8), n_classes=1).parameters for se in ("", "_se16")]
    assert costs[1] - costs[0] == 2 * 64 * 64 // 16 + 64 + 4


@torch.no_grad()
def test_three_pools_in_a_row_are_three_sizes_in_parallel():
    x = torch.rand(2, 8, 9, 30)  # above the zeros that a past is
    pool = CausalPool(8, (5, 5))
    once, twice = pool(x), pool(pool(x))
    torch.testing.assert_close(twice, CausalPool(8, (9, 9))(x))
    torch.testing.assert_close(pool(twice), CausalPool(8, (13, 13))(x))
    assert not torch.equal(once, twice)
    assert PyramidPool(8, 12)(x).shape == (2, 12, 9, 30)


def test_compound_scaling_doubles_almost():
    doubled = 1.2 * 1.1**2 * 1.15**2  # α·β²·γ², said to be about 2
    assert doubled == pytest.approx(1.92, abs=0.01)
    assert Scale(phi=1).channels(100) == Scale(width=1.1).channels(100)
    assert Scale(phi=3).repeats(2) == math.ceil(2 * 1.2**3)


def test_channel_masking_of_shared_weights_is_a_sum_of_masks():
    # FBNetV2 (arXiv:2004.05565, equations 2 and 3): Σ g_i (b(x) ∘ mask_i) = b(x) ∘ Σ g_i mask_i
    y, gates = torch.randn(3, 8, 1, 5), torch.softmax(torch.randn(4), 0)
    masks = torch.stack([(torch.arange(8) < n).float() for n in (2, 4, 6, 8)])
    each = sum(g * y * m[:, None, None] for g, m in zip(gates, masks, strict=True))
    torch.testing.assert_close(each, y * (gates[:, None] * masks).sum(0)[:, None, None])


def test_the_latency_term_needs_a_sum_or_a_logarithm_of_its_own():
    # as printed, CE·α·log(LAT^β) = αβ·CE·log(LAT): β only rescales α; in the paper it is a power, α·log(LAT)^β
    ce, latency = 1.3, torch.tensor([2.0, 3.0, 5.0])
    printed = [ce * a * torch.log(latency**b) for a, b in ((0.2, 0.6), (0.12, 1.0))]
    torch.testing.assert_close(*printed)
    paper = [ce * a * torch.log(latency) ** b for a, b in ((0.2, 0.6), (0.12, 1.0))]
    assert (paper[0] / paper[1]).std() > 0.05


def test_affine_quantisation_takes_the_zero_point_away_first():
    # a document has x = z + Q·s; it is (Q − z)·s, with Q rounded half to even and clamped
    x, scale, zero = torch.linspace(-1, 2, 31), 3 / 255, 85
    q = torch.round(x / scale + zero).clamp(0, 255)
    assert ((q - zero) * scale - x).abs().max() <= scale / 2 + 1e-6
    assert (zero + q * scale - x).abs().min() > 80


@pytest.mark.parametrize(("n", "ratio"), [(64, 8.0), (1024, 15.06)])
def test_four_clusters_compress_by_less_than_sixteen(n, ratio):
    # a document says 16 times: true of the indices alone, not with the four centres of 32 bit
    assert 32 * n / (2 * n + 4 * 32) == pytest.approx(ratio, abs=0.01)


def test_binary_weights_and_the_sign_of_zero():
    w = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    binary = torch.where(w >= 0, 1.0, -1.0) * w.abs().mean()
    assert ((w - binary).norm() / w.norm()).item() == pytest.approx(0.60, abs=0.01)
    assert torch.sign(torch.tensor(0.0)) == 0  # not the +1 of the papers


def test_frames_of_a_second():
    # a document has duration / 25 ms: frames overlap, 1 + ⌊(N − 400) / 160⌋
    assert n_frames(16000, make_options(), flush=False) == 1 + (16000 - 400) // 160 == 98
