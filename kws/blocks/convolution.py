"""The plain convolution, the depthwise separable one, pooling, and the layer of a network's tail."""

from torch import Tensor

from kws.blocks.base import Block, ConvNorm, activation, excite, shortcut
from kws.streaming import CausalConv, CausalPool, Chain, Stream, WindowedMean


class Conv(Block):
    """A convolution with batch norm and activation; `groups` splits its channels."""

    kind = "conv"

    def __init__(
        self, c_in, channels, kernel=(1, 1), stride=(1, 1), dilation=1, groups=1, act="relu", valid=False, bias=False
    ):
        super().__init__()
        self.conv = ConvNorm(c_in, channels, kernel, stride, dilation, groups, act, valid, bias)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.conv(x, stream)


class Depthwise(Block):
    """A convolution of every channel by itself, with batch norm and activation."""

    kind = "dw"

    def __init__(self, c_in, kernel=(3, 3), stride=(1, 1), dilation=1, act="relu"):
        super().__init__()
        self.conv = ConvNorm(c_in, c_in, kernel, stride, dilation, groups=c_in, act=act)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.conv(x, stream)


class Activation(Block):
    """An activation alone."""

    kind = "act"

    def __init__(self, c_in, act="relu"):
        super().__init__()
        self.act = activation(act, c_in)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.act(x)


class Linear(Block):
    """A pointwise convolution with bias and activation and no batch norm: what stands behind the pooling where a
    network's tail was moved there (Howard et al. 2019, arXiv:1905.02244, figure 5)."""

    kind = "linear"

    def __init__(self, c_in, channels, act="relu"):
        super().__init__()
        self.conv, self.act = CausalConv(c_in, channels, bias=True), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.act(self.conv(x, stream))


class Pool(Block):
    """The mean over frequency and the last second, (batch, C, F, T) to (batch, C, 1, T); papers take the whole map.
    What stands behind it sees one band."""

    kind = "pool"

    def __init__(self, c_in, window=1):
        super().__init__()
        self.mean = WindowedMean(c_in, window)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.mean(x, stream)


class Flat(Block):
    """Every band of every channel becomes a channel, (batch, C, F, T) to (batch, C·F, 1, T). What follows works over
    time alone; a pointwise convolution tells the bands apart there, as a kernel over all of them would."""

    kind = "flat"

    def __init__(self, c_in, bands):
        super().__init__()
        self.bands = bands

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return x.flatten(1, 2)[:, :, None]


class MaxPool(Block):
    """The maximum over the last frames of the kernel and the frequencies around."""

    kind = "maxpool"
    mean = False

    def __init__(self, c_in, kernel=(3, 3), stride=(1, 1), valid=False):
        super().__init__()
        self.pool = CausalPool(c_in, kernel, stride, self.mean, valid)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.pool(x, stream)


class AvgPool(MaxPool):
    """The mean over the last frames of the kernel and the frequencies around."""

    kind = "avgpool"
    mean = True


class Separable(Block):
    """Depthwise k×k, then pointwise (Howard et al. 2017, arXiv:1704.04861, figure 3; for keywords Zhang et al. 2017,
    arXiv:1711.07128). With `residual` the block's input is added before the last activation."""

    kind = "ds"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, se=None, residual=False, act="relu"):
        super().__init__()
        self.depthwise = ConvNorm(c_in, c_in, kernel, stride, dilation, groups=c_in, act="linear" if residual else act)
        self.excite = excite(se, c_in, c_in)
        self.pointwise = ConvNorm(c_in, channels, act="linear" if residual else act)
        self.shortcut = shortcut(c_in, channels, stride) if residual else None
        self.act = activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.pointwise(self.excite(self.depthwise(x, stream), stream), stream)
        return y if self.shortcut is None else self.act(y + self.shortcut(x, stream))


class SeparableConv(Chain, Block):
    """Depthwise k×k straight into pointwise, one batch norm after both (Chollet 2017, arXiv:1610.02357, section 3)."""

    kind = "sepconv"

    def __init__(self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, act="relu", valid=False):
        depthwise = CausalConv(c_in, c_in, kernel, stride, dilation, groups=c_in, valid=valid)
        super().__init__(depthwise, ConvNorm(c_in, channels, act=act))


class Xception(Block):
    """Activations and separable convolutions, `n` of them, around a shortcut (Chollet 2017, arXiv:1610.02357,
    figure 5). The stride is the last convolution's here; the paper's 3×3 maximum, strided, follows where it strides.

    late: the channels grow in the last convolution, not in the first; first: no activation before the first.
    """

    kind = "xception"

    def __init__(
        self, c_in, channels, kernel=(3, 3), stride=(1, 1), n=2, act="relu", late=False, first=False
    ):  # fmt: skip
        super().__init__()
        widths = [c_in] * n + [channels] if late else [c_in] + [channels] * n
        layers = []
        for i in range(n):
            layers += [] if first and i == 0 else [Activation(widths[i], act)]
            layers.append(SeparableConv(widths[i], widths[i + 1], kernel, act="linear"))
        if tuple(stride) != (1, 1):
            layers.append(CausalPool(channels, kernel, stride))
        self.main, self.shortcut = Chain(*layers), shortcut(c_in, channels, stride)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.main(x, stream) + self.shortcut(x, stream)
