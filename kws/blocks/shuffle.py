"""ShuffleNet's units: cheap because grouped or split, whole because shuffled."""

from torch import Tensor

from kws.blocks.base import Block, ConvNorm, activation, check, concat, halves, shuffle, span
from kws.streaming import CausalPool, Chain, Stream


class ShuffleUnit(Block):
    """ShuffleNet v1: grouped pointwise, shuffle, depthwise without activation, grouped pointwise (Zhang et al. 2018,
    arXiv:1707.01083, figure 2b). With a stride, the input's 3×3 mean stands beside the result (figure 2c), so the
    main path gives only the channels that are new. `plain` does not group the first convolution (the first of stage 2,
    whose input is narrow).

    Causal form: the mean is over the last three frames.
    """

    kind = "shuffle"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), groups=3, act="relu", plain=False):
        super().__init__()
        self.strided, self.groups, hidden = tuple(stride) != (1, 1), groups, channels // 4
        check(self.strided or c_in == channels, f"without a stride {c_in} channels stay {c_in}, not {channels}")
        check(channels > c_in or not self.strided, f"with a stride the {c_in} channels of the input grow")
        check(hidden % groups == 0, f"{hidden} channels between do not divide into {groups} groups")
        self.down = ConvNorm(c_in, hidden, groups=1 if plain else groups, act=act)
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act="linear")
        self.up = ConvNorm(hidden, channels - c_in * self.strided, groups=groups, act="linear")
        around = span(kernel, 3)
        self.shortcut = CausalPool(c_in, around, stride, mean=True) if self.strided else Chain()
        self.act = activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = shuffle(self.down(x, stream), self.groups)
        y, x = self.up(self.depthwise(y, stream), stream), self.shortcut(x, stream)
        return self.act(concat([x, y]) if self.strided else x + y)


class ShuffleUnitV2(Block):
    """ShuffleNet v2: one half of the channels passes, the other goes through pointwise, depthwise, pointwise of equal
    widths; both are shuffled (Ma et al. 2018, arXiv:1807.11164, figure 3c). With a stride, or other channels than the
    input's, both paths take the whole input (figure 3d): the shortcut keeps its channels and the other path gives the
    new ones, as in the authors' code, or half and half with `even`.
    """

    kind = "shuffle2"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), act="relu", even=False):
        super().__init__()
        check(channels % 2 == 0, f"{channels} channels have no two halves")
        self.split = tuple(stride) == (1, 1) and c_in == channels
        half = channels // 2
        kept = half if even or self.split or c_in >= channels else c_in
        self.branch = Chain(
            ConvNorm(half if self.split else c_in, half, act=act),
            ConvNorm(half, half, kernel, stride, groups=half, act="linear"),
            ConvNorm(half, channels - kept, act=act),
        )
        self.shortcut = Chain()
        if not self.split:
            depthwise = ConvNorm(c_in, c_in, kernel, stride, groups=c_in, act="linear")
            self.shortcut = Chain(depthwise, ConvNorm(c_in, kept, act=act))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        left, right = halves(x) if self.split else (x, x)
        return shuffle(concat([self.shortcut(left, stream), self.branch(right, stream)]), 2)
