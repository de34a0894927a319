"""Inception modules: several sizes of kernel side by side.

In the temporal form kernels span time alone, and what the third version factorises (1×n, n×1) is one convolution.
Causal form: a kernel looks back only, so the branches' fields all end at the present frame; pooling is over the last
three frames.
"""

from torch import Tensor, nn

from kws.blocks.base import Block, ConvNorm, activation, check, concat, span
from kws.streaming import CausalConv, CausalPool, Chain, Stream


class Inception(Block):
    """Four branches: pointwise; pointwise then 3×3; pointwise then k×k; 3×3 maximum then pointwise (Szegedy et al.
    2015, arXiv:1409.4842, figure 2b). `branches`: 1×1, 3×3's reduction, 3×3, k×k's reduction, k×k, pooling's."""

    kind = "inception1"

    def __init__(self, c_in, branches, kernel=(5, 5), act="relu"):
        super().__init__()
        check(len(branches) == 6, f"{len(branches)} branch widths; six are needed: b1x1.reduce.3x3.reduce.kxk.pool")
        one, reduce3, three, reduce5, five, pooled = branches
        self.branches = nn.ModuleList([
            Chain(ConvNorm(c_in, one, act=act)),
            Chain(ConvNorm(c_in, reduce3, act=act), ConvNorm(reduce3, three, span(kernel, 3), act=act)),
            Chain(ConvNorm(c_in, reduce5, act=act), *self.wide(reduce5, five, kernel, act)),
            Chain(CausalPool(c_in, span(kernel, 3)), ConvNorm(c_in, pooled, act=act)),
        ])  # fmt: skip

    def wide(self, c_in, c_out, kernel, act) -> list[nn.Module]:
        return [ConvNorm(c_in, c_out, kernel, act=act)]

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return concat([branch(x, stream) for branch in self.branches])


class InceptionTwice(Inception):
    """The second version: two 3×3 in place of the 5×5, 18/25 of its weights at equal channels (Szegedy et al. 2016,
    arXiv:1512.00567, figure 5)."""

    kind = "inception2"

    def wide(self, c_in, c_out, kernel, act):
        small = span(kernel, 3)
        return [ConvNorm(c_in, c_out, small, act=act), ConvNorm(c_out, c_out, small, act=act)]


def asymmetric(c_in, c_out, kernel, act) -> list[nn.Module]:
    """1×n then n×1 in place of n×n: 2/n of its weights at equal channels (arXiv:1512.00567, figure 3)."""
    time, frequency = kernel
    layers = [ConvNorm(c_in, c_out, (1, frequency), act=act)] if frequency > 1 else []
    return [*layers, ConvNorm(c_out if layers else c_in, c_out, (time, 1), act=act)]


class InceptionFactorised(Inception):
    """The third version: 1×n, n×1 once in one branch and twice in the other (arXiv:1512.00567, figure 6, n = 7).
    `branches`: 1×1, the single's reduction and width, the double's reduction and width, pooling's."""

    kind = "inception3"

    def __init__(self, c_in, branches, kernel=(7, 7), act="relu"):
        super().__init__(c_in, branches, kernel, act)
        _, reduce3, three, *_ = branches
        self.branches[1] = Chain(ConvNorm(c_in, reduce3, act=act), *asymmetric(reduce3, three, kernel, act))

    def wide(self, c_in, c_out, kernel, act):
        return [*asymmetric(c_in, c_in, kernel, act), *asymmetric(c_in, c_out, kernel, act)]


class InceptionResidual(Block):
    """The fourth version, residual: pointwise, and pointwise then 1×n and n×1, joined by a pointwise convolution
    without activation or norm, scaled down and added to the input (Szegedy et al. 2017, arXiv:1602.07261, figure 17;
    scale as in section 3.3). `branches`: 1×1, the other's reduction and width."""

    kind = "inception4"

    def __init__(self, c_in, branches, kernel=(7, 7), act="relu", scale=0.2):
        super().__init__()
        check(len(branches) == 3, f"{len(branches)} branch widths; three are needed: b1x1.reduce.nxn")
        one, reduce, wide = branches
        self.one = ConvNorm(c_in, one, act=act)
        self.wide = Chain(ConvNorm(c_in, reduce, act=act), *asymmetric(reduce, wide, kernel, act))
        self.join, self.scale = CausalConv(one + wide, c_in, bias=True), scale
        self.act = activation(act, c_in)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        joined = self.join(concat([self.one(x, stream), self.wide(x, stream)]), stream)
        return self.act(x + self.scale * joined)
