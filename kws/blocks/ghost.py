"""GhostNet's blocks: half of the channels from a convolution, the other half from cheap depthwise ones of these."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.blocks.base import Block, ConvNorm, SqueezeExcite
from kws.streaming import Chain, Stream


class GhostModule(nn.Module):
    """Intrinsic maps by a pointwise convolution and their ghosts by a depthwise one (Han et al. 2020, arXiv:1911.11907,
    figure 2b, s = 2): (batch, c_in, F, T) to (batch, c_out, F, T).

    Each ghost stands beside its original, not after all of them, so that the first channels of a narrower module are
    those of a wider one and `init_from` can carry them over.
    """

    def __init__(self, c_in, c_out, kernel, dilation=1, act="relu"):
        super().__init__()
        intrinsic = -(-c_out // 2)
        self.c_out = c_out
        self.primary = ConvNorm(c_in, intrinsic, act=act)
        self.cheap = ConvNorm(intrinsic, intrinsic, kernel, dilation=dilation, groups=intrinsic, act=act)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        intrinsic = self.primary(x, stream)
        both = [x.permute(0, 2, 3, 1) for x in (intrinsic, self.cheap(intrinsic, stream))]  # in memory's order
        return torch.stack(both, dim=4).flatten(3)[..., : self.c_out].permute(0, 3, 1, 2)


class DfcAttention(nn.Module):
    """Decoupled fully connected attention of GhostNetV2 (Tang et al. 2022, arXiv:2211.12905, section 3.2 and figure 4),
    which its authors realise as depthwise convolutions of length 5 along each axis on a map of half the size.

    Causal form: frequency is halved as in the paper; time keeps its rate, and the time convolution takes every other
    frame (dilation 2), so it spans what the paper's does without waiting for a later frame.
    """

    def __init__(self, c_in, c_out):
        super().__init__()
        self.gate = Chain(
            ConvNorm(c_in, c_out, act="linear"),
            ConvNorm(c_out, c_out, kernel=(1, 5), groups=c_out, act="linear"),
            ConvNorm(c_out, c_out, kernel=(5, 1), dilation=2, groups=c_out, act="linear"),
        )

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        bands = x.shape[2]
        if bands > 1:
            x = F.avg_pool2d(x, (2, 1), ceil_mode=True)
        gate = torch.sigmoid(self.gate(x, stream))
        return gate.repeat_interleave(2, dim=2)[:, :, :bands] if bands > 1 else gate


class GhostBottleneck(Block):
    """Ghost module that widens, ghost module that narrows without activation, and a shortcut (arXiv:1911.11907,
    figure 3). With a stride, a depthwise convolution stands between the two; `se` puts squeeze-excitation there."""

    kind = "ghost"
    attention = False

    def __init__(
        self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, expansion=2.0, se=0, window=1, act="relu"
    ):
        super().__init__()
        stride, hidden = tuple(stride), round(c_in * expansion)
        strided = stride != (1, 1)
        self.widen = GhostModule(c_in, hidden, kernel, dilation, act)
        self.attend = DfcAttention(c_in, hidden) if self.attention else None
        down = ConvNorm(hidden, hidden, kernel, stride, groups=hidden, act="linear")
        self.down = Chain(down) if strided else Chain()
        self.excite = Chain(SqueezeExcite(hidden, se, window)) if se else Chain()
        self.narrow = GhostModule(hidden, channels, kernel, dilation, act="linear")
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
