"""ESPNet's pyramids: one reduction, dilated convolutions of it side by side, fused step by step."""

import math

from torch import Tensor, nn

from kws.blocks.base import BatchNorm, Block, ConvNorm, activation, check, concat, span
from kws.streaming import CausalConv, CausalPool, Chain, Stream


def fused(maps: list[Tensor]) -> Tensor:
    """Hierarchical feature fusion: each map with the sum of those of smaller fields, side by side (Mehta et al. 2018,
    arXiv:1803.06815, figure 1 and section 3.2), which fills the gaps that dilation leaves."""
    for i in range(1, len(maps)):
        maps[i] = maps[i] + maps[i - 1]
    return concat(maps)


def dilated(kernel: tuple[int, int], rate: int) -> tuple[int, int]:
    return tuple(rate if size > 1 else 1 for size in kernel)


class Pyramid(Block):
    """ESP: pointwise to C/K channels, K = `groups` convolutions of it at dilations 1, 2, 4, … (each with its own past
    in a stream), fused, normalised, and the input added where shapes agree (Mehta et al. 2018, arXiv:1803.06815,
    figure 1). With a stride the reduction is a strided 3×3, as in the authors' code. Dilation is along both axes.
    """

    kind = "esp"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), groups=4, act="prelu"):
        super().__init__()
        check(channels >= groups, f"{channels} channels do not divide over {groups} branches")
        strided, thin = tuple(stride) != (1, 1), channels // groups
        self.reduce = CausalConv(c_in, thin, span(kernel, 3) if strided else (1, 1), stride)
        widths = [channels - thin * (groups - 1), *[thin] * (groups - 1)]
        self.branches = nn.ModuleList(
            CausalConv(thin, width, kernel, dilation=dilated(kernel, 2**i)) for i, width in enumerate(widths)
        )
        self.residual = not strided and c_in == channels
        self.norm, self.act = BatchNorm(channels), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.reduce(x, stream)
        first, *others = [branch(y, stream) for branch in self.branches]
        y = concat([first, fused(others)]) if others else first  # the smallest field needs no filling
        return self.act(self.norm(x + y if self.residual else y))


class DepthwisePyramid(Block):
    """EESP: grouped pointwise to C/K channels, K = `groups` depthwise convolutions of it at growing dilations, fused,
    grouped pointwise, and the input added (ESPNetv2: Mehta et al. 2019, arXiv:1811.11431, figure 1c). Fields grow by 2
    from 3 up to `reach`; a branch that would exceed it has 3.

    With a stride the input's 3×3 mean stands beside the result, and the model's own input, averaged down to this rate,
    is added by a k×k and a pointwise convolution (figure 2b). The released code holds an activation for the strided
    result and does not use it; here it is used.

    Causal form: means are over the last three frames.
    """

    kind = "eesp"

    def __init__(self, c_in, channels, source, kernel=(3, 3), stride=(1, 1), groups=4, reach=9, act="prelu"):
        super().__init__()
        self.source, self.strided, self.residual = source, tuple(stride) != (1, 1), c_in == channels
        wide = channels - c_in if self.strided else channels
        check(wide > 0, f"with a stride the {c_in} channels of the input grow")
        check(wide % groups == 0, f"{wide} channels do not divide over {groups} branches")
        check(c_in % groups == 0, f"{c_in} channels do not divide into {groups} groups")
        check(wide // groups % groups == 0, f"{wide // groups} channels do not divide into {groups} groups")
        thin = wide // groups
        self.reduce = ConvNorm(c_in, thin, groups=groups, act=act)
        rates = sorted(i + 1 if 3 + 2 * i <= reach else 1 for i in range(groups))
        self.branches = nn.ModuleList(
            CausalConv(thin, thin, kernel, stride, dilated(kernel, rate), groups=thin) for rate in rates
        )
        self.norm, self.inner = BatchNorm(wide), activation(act, wide)
        self.expand = ConvNorm(wide, wide, groups=groups, act="linear")
        self.act = activation(act, channels)
        if self.strided:
            self.outer = activation(act, wide)
            features, rate = source
            self.mean = CausalPool(c_in, span(kernel, 3), stride, mean=True)
            steps = math.ceil(math.log2(max(rate)))
            strides = [tuple(2 if size > 2**i else 1 for size in rate) for i in range(steps)]
            self.shortcut = Chain(
                *[CausalPool(features, span(s, 3), s, mean=True) for s in strides],
                ConvNorm(features, features, span(kernel, 3), act=act),
                ConvNorm(features, channels, act="linear"),
            )

    def forward(self, x: Tensor, stream: Stream | None = None, source: Tensor | None = None) -> Tensor:
        y = self.reduce(x, stream)
        y = self.inner(self.norm(fused([branch(y, stream) for branch in self.branches])))
        y = self.expand(y, stream)
        if self.strided:
            y = concat([self.mean(x, stream), self.outer(y)]) + self.shortcut(source, stream)
        elif self.residual:
            y = x + y
        return self.act(y)
