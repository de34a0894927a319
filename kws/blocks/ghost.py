"""GhostNet's blocks: part of the channels from a convolution, the others from cheap depthwise ones of these."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.blocks.base import Block, ConvNorm, RepConv, excite
from kws.streaming import Chain, Stream


class GhostModule(nn.Module):
    """Intrinsic maps by a pointwise convolution and their ghosts by a depthwise one (Han et al. 2020, arXiv:1911.11907,
    figure 2b): (batch, c_in, F, T) to (batch, c_out, F, T), of which one in `ratio` (the paper's s) is intrinsic.

    Each map's ghosts stand beside it, not after all of them, so that the first channels of a narrower module are
    those of a wider one and `init_from` can carry them over. `conv` makes both convolutions.
    """

    def __init__(self, c_in, c_out, kernel, dilation=1, act="relu", ratio=2, conv=ConvNorm):
        super().__init__()
        intrinsic, self.c_out = -(-c_out // ratio), c_out
        self.primary = conv(c_in, intrinsic, act=act)
        self.cheap = conv(intrinsic, intrinsic * (ratio - 1), kernel, dilation=dilation, groups=intrinsic, act=act)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        intrinsic = self.primary(x, stream)
        ghosts = self.cheap(intrinsic, stream).permute(0, 2, 3, 1)  # in memory's order
        ghosts = ghosts.unflatten(3, (intrinsic.shape[1], -1))
        both = torch.cat([intrinsic.permute(0, 2, 3, 1)[..., None], ghosts], dim=4)
        return both.flatten(3)[..., : self.c_out].permute(0, 3, 1, 2)


class DfcAttention(nn.Module):
    """Decoupled fully connected attention of GhostNetV2 (Tang et al. 2022, arXiv:2211.12905, section 3.2 and figure 4),
    which its authors realise as depthwise convolutions of length 5 along each axis on a map of half the size.

    Causal form: frequency is halved as in the paper; time keeps its rate, and the time convolution takes every other
    frame (dilation 2), so it spans what the paper's does without waiting for a later frame.
    """

    def __init__(self, c_in, c_out):
        super().__init__()
        self.halved = (2, 1)
        self.gate = Chain(
            ConvNorm(c_in, c_out, act="linear"),
            ConvNorm(c_out, c_out, kernel=(1, 5), groups=c_out, act="linear"),
            ConvNorm(c_out, c_out, kernel=(5, 1), dilation=2, groups=c_out, act="linear"),
        )

    def centre(self):
        """The paper's form: both axes halved, no dilation."""
        self.halved, conv = (2, 2), self.gate[2].conv
        conv.dilation, conv._both_sides = (1, 1), (0, 2)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        size = x.shape[2:]
        if self.halved == (2, 2):
            return F.interpolate(torch.sigmoid(self.gate(F.avg_pool2d(x, 2))), size)
        if size[0] > 1:
            x = F.avg_pool2d(x, self.halved, ceil_mode=True)
        gate = torch.sigmoid(self.gate(x, stream))
        return gate.repeat_interleave(2, dim=2)[:, :, : size[0]] if size[0] > 1 else gate


class GhostBottleneck(Block):
    """Ghost module that widens, ghost module that narrows without activation, and a shortcut (arXiv:1911.11907,
    figure 3). With a stride, a depthwise convolution stands between the two; `se` puts squeeze-excitation there.

    `cheap` is the kernel of the cheap convolutions (3×3 in the paper), `kernel` where it is not given.
    """

    kind = "ghost"
    attention = False
    conv = ConvNorm

    def __init__(
        self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, expansion=2.0, hidden=None, cheap=None,
        ratio=2, se=None, act="relu",
    ):  # fmt: skip
        super().__init__()
        stride, hidden, cheap = tuple(stride), hidden or round(c_in * expansion), cheap or kernel
        strided = stride != (1, 1)
        self.widen = GhostModule(c_in, hidden, cheap, dilation, act, ratio, self.conv)
        self.attend = DfcAttention(c_in, hidden) if self.attention else None
        down = ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act="linear")
        self.down = Chain(down) if strided else Chain()
        self.excite = excite(se, hidden, c_in)
        self.narrow = GhostModule(hidden, channels, cheap, dilation, "linear", ratio, self.conv)
        if strided or c_in != channels:
            depthwise = ConvNorm(c_in, c_in, kernel, stride, groups=c_in, act="linear")
            self.shortcut = Chain(depthwise, ConvNorm(c_in, channels, act="linear"))
        else:
            self.shortcut = Chain()

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.widen(x, stream)
        if self.attend is not None:
            y = y * self.attend(x, stream)
        y = self.excite(self.down(y, stream), stream)
        return self.narrow(y, stream) + self.shortcut(x, stream)


class GhostBottleneckV2(GhostBottleneck):
    """The bottleneck of GhostNetV2: DFC attention reweights the widened features (arXiv:2211.12905, figure 5)."""

    kind = "ghost2"
    attention = True


class GhostBottleneckV3(GhostBottleneckV2):
    """GhostNetV2's with several branches in each convolution of its modules, folded into one where it ships (Liu et
    al. 2024, arXiv:2404.11202, section 3 and figure 3)."""

    kind = "ghost3"
    conv = RepConv
