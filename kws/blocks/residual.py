"""Residual blocks of plain and grouped convolutions: ResNet's, ResNeXt's, and SENet's with excitation."""

from torch import Tensor

from kws.blocks.base import Block, ConvNorm, activation, excite, shortcut
from kws.streaming import Chain, Stream


class Basic(Block):
    """Two k×k convolutions around a shortcut (He et al. 2016, arXiv:1512.03385, figure 2; over time with features as
    channels TC-ResNet, Choi et al. 2019, arXiv:1904.03814, figure 2). `se` makes it SENet's."""

    kind = "basic"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), groups=1, se=None, act="relu"):
        super().__init__()
        self.main = Chain(
            ConvNorm(c_in, channels, kernel, stride, groups=groups, act=act),
            ConvNorm(channels, channels, kernel, groups=groups, act="linear"),
            excite(se, channels, c_in),
        )
        # TC-ResNet activates its strided shortcut too; ResNet does not, and neither does this
        self.shortcut, self.act = shortcut(c_in, channels, stride), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.act(self.main(x, stream) + self.shortcut(x, stream))


class Bottleneck(Block):
    """Pointwise to `hidden`, k×k in `groups` (the cardinality), pointwise back, around a shortcut (Xie et al. 2017,
    arXiv:1611.05431, figure 3c; one group is ResNet's, arXiv:1512.03385, figure 5). `se` excites before the sum
    (Hu et al. 2018, arXiv:1709.01507, figure 3). The stride is the k×k convolution's."""

    kind = "bottleneck"

    def __init__(self, c_in, channels, hidden, kernel=(3, 3), stride=(1, 1), groups=1, se=None, act="relu"):
        super().__init__()
        self.main = Chain(
            ConvNorm(c_in, hidden, act=act),
            ConvNorm(hidden, hidden, kernel, stride, groups=groups, act=act),
            ConvNorm(hidden, channels, act="linear"),
            excite(se, channels, c_in),
        )
        self.shortcut, self.act = shortcut(c_in, channels, stride), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.act(self.main(x, stream) + self.shortcut(x, stream))
