"""Blocks made for speech: over time alone, with the features as channels; and the recurrent layer."""

from torch import Tensor, nn

from kws.blocks.base import Block, ConvNorm, RepConv, activation, shortcut
from kws.streaming import CausalConv, CausalGru, Chain, Stream


class Matchbox(Block):
    """MatchboxNet: `n` separable convolutions (depthwise straight into pointwise, batch norm after) around a pointwise
    shortcut with batch norm (Majumdar and Ginsburg 2020, arXiv:2004.08531, figure 1)."""

    kind = "matchbox"

    def __init__(self, c_in, channels, kernel=(13, 1), n=1, dropout=0.1, act="relu"):
        super().__init__()
        layers = []
        for i in range(n):
            width, last = c_in if i == 0 else channels, i == n - 1
            layers.append(CausalConv(width, width, kernel, groups=width))
            layers.append(ConvNorm(width, channels, act="linear" if last else act))
        self.main, self.shortcut = Chain(*layers), ConvNorm(c_in, channels, act="linear")
        self.act, self.dropout = activation(act, channels), nn.Dropout(dropout)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.dropout(self.act(self.main(x, stream) + self.shortcut(x, stream)))


class DilatedTemporal(Block):
    """MDTC's unit: a dilated depthwise convolution, two pointwise ones, and the input added (Hou et al. 2021,
    arXiv:2102.13552, figure 2)."""

    kind = "dtc"

    def __init__(self, c_in, channels, kernel=(5, 1), dilation=1, act="relu"):
        super().__init__()
        self.main = Chain(
            ConvNorm(c_in, c_in, kernel, dilation=dilation, groups=c_in, act="linear"),
            ConvNorm(c_in, channels, act=act),
            ConvNorm(channels, channels, act="linear"),
        )
        self.shortcut, self.act = shortcut(c_in, channels), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.act(self.main(x, stream) + self.shortcut(x, stream))


class MultiScale(Block):
    """MDTC: `stacks` of `layers` units whose dilation doubles from 1; the stacks' outputs, each of a longer past, are
    added (Hou et al. 2021, arXiv:2102.13552, figure 1). The paper's first stack is a single unit."""

    kind = "mdtc"

    def __init__(self, c_in, channels, kernel=(5, 1), stacks=3, layers=4, act="relu"):
        super().__init__()
        self.first = DilatedTemporal(c_in, channels, kernel, act=act)
        self.stacks = nn.ModuleList(
            Chain(*[DilatedTemporal(channels, channels, kernel, 2**i, act) for i in range(layers)])
            for _ in range(stacks)
        )

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        x = self.first(x, stream)
        total = 0
        for stack in self.stacks:
            x = stack(x, stream)
            total = total + x
        return total


class Recurrent(Block):
    """A GRU over time, bands and channels together as its input (Cho et al. 2014, arXiv:1406.1078, figure 2): (batch,
    c_in, F, T) to (batch, channels, 1, T). Its answer depends on everything since the stream began."""

    kind = "gru"

    def __init__(self, c_in, channels, bands=1, layers=1):
        super().__init__()
        self.gru = CausalGru(c_in * bands, channels, layers)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.gru(x, stream)


class RepBlock(Block):
    """RepVGG: a convolution that trains as `copies` of itself, a 1×1 and the identity, and ships as one (Ding et al.
    2021, arXiv:2101.03697, figure 4)."""

    kind = "rep"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, copies=1, act="relu"):
        super().__init__()
        self.conv = RepConv(c_in, channels, kernel, stride, dilation, act=act, copies=copies)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.conv(x, stream)


class RepSeparable(Block):
    """RepCNN: depthwise then pointwise, each of several branches that fold into one (Kundu et al. 2024,
    arXiv:2406.02652, figure 1; the block is MobileOne's, arXiv:2206.04040, figure 3)."""

    kind = "repds"

    def __init__(self, c_in, channels, kernel=(9, 1), stride=(1, 1), dilation=1, copies=3, act="relu"):
        super().__init__()
        self.depthwise = RepConv(c_in, c_in, kernel, stride, dilation, c_in, act, copies)
        self.pointwise = RepConv(c_in, channels, act=act, copies=copies)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.pointwise(self.depthwise(x, stream), stream)
