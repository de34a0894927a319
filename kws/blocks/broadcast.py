"""BC-ResNet's block: frequency in two dimensions, time in one, the second broadcast over the first."""

from torch import Tensor, nn

from kws.blocks.base import BatchNorm, Block, ConvNorm, activation, check
from kws.streaming import CausalConv, Chain, Stream


class SubSpectralNorm(nn.Module):
    """Batch norm with statistics and scales of its own for each of `parts` parts of the frequencies (Chang et al. 2021,
    arXiv:2103.13620, figure 1)."""

    def __init__(self, channels: int, parts: int):
        super().__init__()
        self.parts, self.norm = parts, BatchNorm(channels * parts)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        check(x.shape[2] % self.parts == 0, f"{x.shape[2]} bands do not divide into {self.parts} parts")
        parts = x.unflatten(2, (self.parts, -1)).flatten(1, 2)
        return self.norm(parts).unflatten(1, (-1, self.parts)).flatten(2, 3)


class Broadcast(Block):
    """A depthwise convolution over frequency with sub-spectral norm, its mean over frequency, a depthwise convolution
    over time and a pointwise one of that mean, broadcast over the bands and added, with the block's input where
    channels agree; where they do not, a pointwise convolution stands first (Kim et al. 2021, arXiv:2106.04140, figures
    2 and 3). `dilation` is the temporal convolution's; `parts` that of sub-spectral norm."""

    kind = "bcres"

    def __init__(
        self, c_in, channels, kernel=(3, 3), stride=(1, 1), dilation=1, parts=5, dropout=0.1, act="relu"
    ):  # fmt: skip
        super().__init__()
        (kt, kf), self.residual = kernel, c_in == channels
        check(tuple(stride) == (1, 1) or not self.residual, "a strided block has other channels than its input")
        check(stride[0] == 1, "the block strides in frequency only")
        self.transition = Chain() if self.residual else Chain(ConvNorm(c_in, channels, act=act))
        self.spectral = CausalConv(channels, channels, (1, kf), (1, stride[1]), groups=channels)
        self.norm = SubSpectralNorm(channels, parts)
        self.temporal = Chain(
            ConvNorm(channels, channels, (kt, 1), dilation=dilation, groups=channels, act="swish"),
            CausalConv(channels, channels),
        )
        self.dropout, self.act = nn.Dropout2d(dropout), activation(act, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = self.norm(self.spectral(self.transition(x, stream), stream))
        mean = self.dropout(self.temporal(y.mean(dim=2, keepdim=True), stream))
        return self.act(y + mean + x if self.residual else y + mean)
