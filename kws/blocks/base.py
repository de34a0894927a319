"""What blocks are made of: batch norm that spans processes, activations, and the convolution with both."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kws.streaming import CausalConv, Chain, Stream, WindowedMean

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "swish": nn.SiLU,
    "hswish": nn.Hardswish,
    "linear": nn.Identity,
}


class Block(nn.Module):
    """One row of a table. Subclasses name their `kind` and take, by name, what a row may say:
    `c_in`, `channels`, `act` always; `kernel`, `stride`, `dilation`, `expansion`, `groups`, `se`, `residual` if they
    use it, and `window` (steps of squeeze-excitation's mean) if they look at the whole of the last second."""

    kind: str


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the global batch (nn.SyncBatchNorm refuses CPU tensors)."""

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce

        given, x = x.dtype, x.float()  # statistics in float32 under autocast too
        per_channel = x.numel() / x.shape[1]
        sums = all_reduce(torch.cat([x.sum(dim=(0, 2, 3)), x.new_tensor([per_channel])]))
        count = sums[-1]
        mean = (sums[:-1] / count)[None, :, None, None]
        centred = x - mean
        var = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.flatten().to(self.running_mean), self.momentum)
            self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(given)


class ConvNorm(nn.Module):
    """Causal convolution, batch norm, activation: (batch, c_in, F, T) to (batch, c_out, F/sf, T/st)."""

    def __init__(self, c_in, c_out, kernel=(1, 1), stride=(1, 1), dilation=1, groups=1, act="relu"):
        super().__init__()
        self.conv = CausalConv(c_in, c_out, kernel, stride, dilation, groups)
        self.norm = BatchNorm(c_out)
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.act(self.norm(self.conv(x, stream)))


class SqueezeExcite(nn.Module):
    """Channels reweighted by what the last `window` steps held (Hu et al. 2018, arXiv:1709.01507, figure 2).

    The paper averages the whole map; here the mean is over the last steps, so that a stream has the same one.
    """

    def __init__(self, channels: int, reduction: float, window: int):
        super().__init__()
        hidden = max(4, round(channels / reduction))
        self.mean = WindowedMean(channels, window)
        self.down, self.up = CausalConv(channels, hidden, bias=True), CausalConv(hidden, channels, bias=True)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return x * F.hardsigmoid(self.up(F.relu(self.down(self.mean(x, stream)))))


def shortcut(c_in: int, c_out: int, stride=(1, 1)) -> Chain:
    """Identity where shapes agree, otherwise a 1×1 convolution with the block's stride."""
    same = c_in == c_out and tuple(stride) == (1, 1)
    return Chain() if same else Chain(ConvNorm(c_in, c_out, stride=stride, act="linear"))
