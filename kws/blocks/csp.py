"""Cross-stage partial blocks, as YOLOv5 has them."""

from torch import Tensor, nn

from kws.blocks.base import Block, ConvNorm, check, concat
from kws.streaming import CausalPool, Chain, Stream


class Residual(nn.Module):
    """Pointwise, k×k, and the input added."""

    def __init__(self, channels, kernel, act):
        super().__init__()
        self.main = Chain(ConvNorm(channels, channels, act=act), ConvNorm(channels, channels, kernel, act=act))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return x + self.main(x, stream)


class CrossStage(Block):
    """C3: half of the width goes through `n` residual blocks, half past them, and a pointwise convolution joins the two
    (after Wang et al. 2020, arXiv:1911.11929, figure 2; the form with three convolutions is YOLOv5's C3)."""

    kind = "c3"

    def __init__(self, c_in, channels, kernel=(3, 3), n=1, act="swish"):
        super().__init__()
        check(channels > 1, "one channel has no half")
        half = channels // 2
        self.through, self.past = ConvNorm(c_in, half, act=act), ConvNorm(c_in, half, act=act)
        self.main = Chain(*[Residual(half, kernel, act) for _ in range(n)])
        self.join = ConvNorm(2 * half, channels, act=act)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.join(concat([self.main(self.through(x, stream), stream), self.past(x, stream)]), stream)


class PyramidPool(Block):
    """SPPF: three k×k maxima in a row, all four maps side by side; equal to k, 2k−1 and 3k−2 wide maxima in parallel
    (YOLOv5; after spatial pyramid pooling, He et al. 2015, arXiv:1406.4729, figure 3).

    Causal form: each maximum is over the last k frames.
    """

    kind = "sppf"

    def __init__(self, c_in, channels, kernel=(5, 5), act="swish"):
        super().__init__()
        check(c_in > 1, "one channel has no half")
        half = c_in // 2
        self.reduce = ConvNorm(c_in, half, act=act)
        self.pools = nn.ModuleList(CausalPool(half, kernel) for _ in range(3))
        self.join = ConvNorm(4 * half, channels, act=act)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        maps = [self.reduce(x, stream)]
        for pool in self.pools:
            maps.append(pool(maps[-1], stream))
        return self.join(concat(maps), stream)
