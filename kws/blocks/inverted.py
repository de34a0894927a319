"""Inverted residuals: thin, wide in the middle, thin again and linear there."""

from torch import Tensor

from kws.blocks.base import Block, ConvNorm, check, excite, shuffle
from kws.streaming import Stream


class InvertedResidual(Block):
    """Pointwise up to `hidden`, depthwise k×k, pointwise down without activation, and the input added where shapes
    agree (MobileNetV2: Sandler et al. 2018, arXiv:1801.04381, figure 4d). With `se` MobileNetV3's (Howard et al. 2019,
    arXiv:1905.02244, figure 4) and EfficientNet's MBConv (Tan and Le 2019, arXiv:1905.11946, table 1). With `groups`
    FBNet's (Wu et al. 2019, arXiv:1812.03443, figure 3): both pointwise convolutions grouped, a shuffle between.

    Where `hidden` equals the input's channels there is no pointwise up, but with `up`. `bias` is that of FBNet's
    released code, whose convolutions have one each beside batch norm.
    """

    kind = "mb"

    def __init__(
        self, c_in, channels, hidden, kernel=(3, 3), stride=(1, 1), dilation=1, groups=1, se=None, act="relu6",
        bias=False, up=False,
    ):  # fmt: skip
        super().__init__()
        self.groups, self.residual = groups, tuple(stride) == (1, 1) and c_in == channels
        check(hidden % groups == 0, f"{hidden} channels do not divide into {groups} groups")
        widens = up or hidden != c_in
        self.widen = ConvNorm(c_in, hidden, groups=groups, act=act, bias=bias) if widens else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, dilation, groups=hidden, act=act, bias=bias)
        self.excite = excite(se, hidden, c_in)
        self.narrow = ConvNorm(hidden, channels, groups=groups, act="linear", bias=bias)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = x if self.widen is None else shuffle(self.widen(x, stream), self.groups)
        y = self.narrow(self.excite(self.depthwise(y, stream), stream), stream)
        return x + y if self.residual else y


class FusedInvertedResidual(Block):
    """One k×k convolution in place of the pointwise up and the depthwise (EfficientNetV2: Tan and Le 2021,
    arXiv:2104.00298, figure 2). Without widening it is that one convolution."""

    kind = "fused"

    def __init__(self, c_in, channels, hidden, kernel=(3, 3), stride=(1, 1), se=None, act="swish"):
        super().__init__()
        self.residual, wide = tuple(stride) == (1, 1) and c_in == channels, hidden != c_in
        self.widen = ConvNorm(c_in, hidden if wide else channels, kernel, stride, act=act)
        self.excite = excite(se, hidden if wide else channels, c_in)
        self.narrow = ConvNorm(hidden, channels, act="linear") if wide else None

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.excite(self.widen(x, stream), stream)
        y = y if self.narrow is None else self.narrow(y, stream)
        return x + y if self.residual else y
