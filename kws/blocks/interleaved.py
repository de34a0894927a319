"""Interleaved group convolutions: grouped convolutions in a row whose groups complement each other, so that together
they reach every channel from every channel."""

from torch import Tensor, nn

from kws.blocks.base import BatchNorm, Block, ConvNorm, activation, check, shuffle
from kws.streaming import CausalConv, Stream


class Interleaved(Block):
    """IGCV1: a spatial convolution in L = `groups` partitions of M channels, then a pointwise one in M partitions of L,
    each partition taking one channel of every partition before (Zhang et al. 2017, arXiv:1707.02725, figure 1).
    L = 1 is a plain convolution, M = 1 a depthwise separable one."""

    kind = "igc"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, groups=2, act="relu"):
        super().__init__()
        check(channels % groups == 0, f"{channels} channels do not divide into {groups} partitions")
        self.partitions, self.members = groups, channels // groups
        self.primary = CausalConv(c_in, channels, kernel, stride, dilation, groups)
        self.secondary = CausalConv(channels, channels, groups=self.members)
        self.norm, self.act = BatchNorm(channels), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.secondary(shuffle(self.primary(x, stream), self.partitions), stream)
        return self.act(self.norm(shuffle(y, self.members)))


def near_equal_factors(number: int, count: int) -> list[int]:
    """`count` factors of `number`, each the divisor of what is left that is nearest to the equal share."""
    factors = []
    for left in range(count, 1, -1):
        share = number ** (1 / left)
        factors.append(
            min((d for d in range(1, number + 1) if number % d == 0), key=lambda d, share=share: abs(d - share))
        )
        number //= factors[-1]
    return [*factors, number]


class InterleavedSparse(Block):
    """IGCV2: `n` grouped convolutions, the first spatial and channel by channel, the others pointwise with groups of
    C^(1/(n−1)) channels (the divisors nearest to it) and permutations so that their product is dense (Xie et al. 2018,
    arXiv:1804.06202, figure 2 and section 3.2). C = 64 with n = 4 keeps 768 of 4096 pointwise weights."""

    kind = "igc2"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, n=3, act="relu"):
        super().__init__()
        check(n > 1, f"{n} convolutions: a spatial one and at least one pointwise are needed")
        self.sizes = near_equal_factors(channels, n - 1)  # their product is the channels: each output sees each input
        self.spatial = CausalConv(c_in, c_in, kernel, stride, dilation, groups=c_in)
        self.match = ConvNorm(c_in, channels, act="linear") if c_in != channels else None
        self.pointwise = nn.ModuleList(CausalConv(channels, channels, groups=channels // s) for s in self.sizes)
        self.norm, self.act = BatchNorm(channels), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.spatial(x, stream)
        y = y if self.match is None else self.match(y, stream)
        for conv, size in zip(self.pointwise, self.sizes, strict=True):
            # as digits of a number in mixed radix: each convolution mixes the last digit, then makes it the first
            y = shuffle(conv(y, stream), y.shape[1] // size)
        return self.act(self.norm(y))


class InterleavedInverted(Block):
    """IGCV3: an inverted residual whose two pointwise convolutions are grouped, with a permutation after each (Sun et
    al. 2018, arXiv:1806.00178, figure 1c). The released networks widen at factor 1 too."""

    kind = "igc3"

    def __init__(self, c_in, channels, hidden, kernel=(3, 3), stride=(1, 1), groups=2, act="relu6"):
        super().__init__()
        check(hidden % groups == channels % groups == 0, f"{hidden}, {channels} do not divide into {groups} groups")
        self.groups, self.residual = groups, tuple(stride) == (1, 1) and c_in == channels
        self.widen = ConvNorm(c_in, hidden, groups=groups, act=act)
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act=act)
        self.narrow = ConvNorm(hidden, channels, groups=groups, act="linear")

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.depthwise(shuffle(self.widen(x, stream), self.groups), stream)
        y = self.narrow(y, stream)
        y = shuffle(y, y.shape[1] // self.groups)
        return x + y if self.residual else y
