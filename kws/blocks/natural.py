"""What synthesisers say, as people would have said it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kws.blocks.base import Block, check
from kws.streaming import Stream


class Natural(Block):
    """In training, of a half of the clips, the maps of made speech as they would be of people's, and of all with noise
    that differs as people do who say one word; otherwise its input. (batch, C, 1, T) to the same.

    Three convolutions over time, 9, 5 and 1 steps long and as much ahead as back, say what is added; the noise has the
    covariance `within` its root says and is drawn anew every `PERIOD` steps, straight between. None of it is learnt
    here, and nothing is added until it is taken from a checkpoint: recipes/speech/natural.py makes it.
    """

    kind = "natural"
    KERNELS, PERIOD, SHARE = (9, 5, 1), 7, 0.5

    def __init__(self, c_in, bands, hidden=64):
        super().__init__()
        check(bands == 1, "it hears one band: say flat before it")
        widths = [c_in, hidden, hidden, c_in]
        for i, kernel in enumerate(self.KERNELS):
            self.register_buffer(f"weight{i}", torch.zeros(widths[i + 1], widths[i], kernel))
            self.register_buffer(f"bias{i}", torch.zeros(widths[i + 1]))
        self.register_buffer("within", torch.zeros(c_in, c_in))

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if not self.training:
            return x
        said, half = x[:, :, 0], torch.rand(len(x), 1, 1, device=x.device) < self.SHARE
        said = torch.where(half, self.converted(said), said)
        drawn = torch.randn(len(x), x.shape[1], -(-x.shape[3] // self.PERIOD), device=x.device)
        noise = F.interpolate(self.within @ drawn, size=x.shape[3], mode="linear")
        return (said + noise)[:, :, None]

    def converted(self, said: Tensor) -> Tensor:
        """Maps (batch, C, T) of made speech as they would be of people's."""
        y = said
        for i, kernel in enumerate(self.KERNELS):
            y = F.silu(y) if i else y
            y = F.conv1d(y, getattr(self, f"weight{i}"), getattr(self, f"bias{i}"), padding=kernel // 2)
        return said + y
