"""The plain convolution and the depthwise separable one."""

from torch import Tensor

from kws.blocks.base import ACTIVATIONS, Block, ConvNorm, SqueezeExcite, shortcut
from kws.streaming import Chain, Stream


class Conv(Block):
    """A convolution with batch norm and activation; `groups` splits its channels."""

    kind = "conv"

    def __init__(self, c_in, channels, kernel=(1, 1), stride=(1, 1), dilation=1, groups=1, act="relu"):
        super().__init__()
        self.conv = ConvNorm(c_in, channels, kernel, stride, dilation, groups, act)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.conv(x, stream)


class Separable(Block):
    """Depthwise k×k, then pointwise (Howard et al. 2017, arXiv:1704.04861, figure 3; for keywords Zhang et al. 2017,
    arXiv:1711.07128). With `residual` the block's input is added before the last activation."""

    kind = "ds"

    def __init__(
        self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, se=0, residual=False, window=1, act="relu"
    ):
        super().__init__()
        self.depthwise = ConvNorm(c_in, c_in, kernel, stride, dilation, groups=c_in, act="linear" if residual else act)
        self.excite = Chain(SqueezeExcite(c_in, se, window)) if se else Chain()
        self.pointwise = ConvNorm(c_in, channels, act="linear" if residual else act)
        self.shortcut = shortcut(c_in, channels, stride) if residual else None
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.pointwise(self.excite(self.depthwise(x, stream), stream), stream)
        return y if self.shortcut is None else self.act(y + self.shortcut(x, stream))
