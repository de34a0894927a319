"""What blocks are made of: batch norm that spans processes, activations, the convolution with both, attention."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kws.streaming import CausalConv, Chain, Stream, WindowedMean

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "prelu": nn.PReLU,  # one slope a channel
    "swish": nn.SiLU,
    "hswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hsigmoid": nn.Hardsigmoid,
    "linear": nn.Identity,
}


def activation(name: str, channels: int) -> nn.Module:
    """The activation of that name for a map of `channels`."""
    return nn.PReLU(channels) if name == "prelu" else ACTIVATIONS[name]()


class Block(nn.Module):
    """One row of a table. Subclasses name their `kind` and take, by name, what a row may say:
    `c_in` and `act` always, `channels` if the row has a width; `kernel`, `stride`, `dilation`, `expansion` or `hidden`,
    `groups`, `residual` and any further number, pair or flag of their own if they use it; `se` (an `Excitation` or
    None). What they may ask of the builder: `window` (steps of the mean over the last second), `bands` (of the input)
    and `source` (the model's input: its channels, and how far the row's output is strided from it, (time, frequency);
    a block that keeps it as `self.source` is called with that input too)."""

    kind: str


def round_channels(channels: float, divisor: int = 4, limit: float = 0.9) -> int:
    """The nearest multiple of `divisor`, at least one, and not below `limit` (as MobileNet's authors round)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < limit * channels else rounded


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of the global batch (nn.SyncBatchNorm refuses CPU tensors)."""

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce

        given, x = x.dtype, x.float()  # statistics in float32 under autocast too
        per_channel = x.numel() / x.shape[1]
        sums = all_reduce(torch.cat([x.sum(dim=(0, 2, 3)), x.new_tensor([per_channel])]))
        count = sums[-1].clamp(min=1)  # 0 where no process has a clip
        mean = (sums[:-1] / count)[None, :, None, None]
        centred = x - mean
        var = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        if count > 1:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean.flatten().to(self.running_mean), self.momentum)
                self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(given)


class ConvNorm(nn.Module):
    """Causal convolution, batch norm, activation: (batch, c_in, F, T) to (batch, c_out, F/sf, T/st)."""

    def __init__(
        self, c_in, c_out, kernel=(1, 1), stride=(1, 1), dilation=1, groups=1, act="relu", valid=False, bias=False
    ):
        super().__init__()
        self.conv = CausalConv(c_in, c_out, kernel, stride, dilation, groups, bias, valid)
        self.norm = BatchNorm(c_out)
        self.act = activation(act, c_out)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return self.act(self.norm(self.conv(x, stream)))


class RepConv(nn.Module):
    """Branches that train apart and fold into one convolution, with the interface of `ConvNorm`: `copies` of the k×k
    convolution, a 1×1 one, and the identity where shapes agree, each with batch norm (RepVGG: Ding et al. 2021,
    arXiv:2101.03697, figure 4; several copies: MobileOne, arXiv:2206.04040, figure 3). See `kws.models.fold`."""

    def __init__(self, c_in, c_out, kernel=(1, 1), stride=(1, 1), dilation=1, groups=1, act="relu", copies=2):
        super().__init__()
        self.spec = {"kernel": kernel, "stride": stride, "dilation": dilation, "groups": groups}
        branches = [ConvNorm(c_in, c_out, **self.spec, act="linear") for _ in range(copies)]
        if tuple(kernel) != (1, 1):
            branches.append(ConvNorm(c_in, c_out, stride=stride, groups=groups, act="linear"))
        self.branches = nn.ModuleList(branches)
        self.identity = BatchNorm(c_in) if c_in == c_out and tuple(stride) == (1, 1) else None
        self.act = activation(act, c_out)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        y = sum(branch(x, stream) for branch in self.branches)
        return self.act(y if self.identity is None else y + self.identity(x))


class SqueezeExcite(nn.Module):
    """Channels reweighted by what the last `window` steps held (Hu et al. 2018, arXiv:1709.01507, figure 2).

    The paper averages the whole map; here the mean is over the last steps, so that a stream has the same one.
    """

    def __init__(self, channels: int, reduction: float, window: int, hidden: int = 0, act="relu", gate="hsigmoid"):
        super().__init__()
        hidden = hidden or max(4, round(channels / reduction))
        self.mean = WindowedMean(channels, window)
        self.down, self.up = CausalConv(channels, hidden, bias=True), CausalConv(hidden, channels, bias=True)
        self.act, self.gate = activation(act, hidden), activation(gate, channels)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return x * self.gate(self.up(self.act(self.down(self.mean(x, stream)))))


@dataclass(frozen=True)
class Excitation:
    """How a row squeezes and excites; papers differ in what the reduction divides, its rounding and the gate.

    `of` is "hidden" (the channels reweighted: MobileNetV3, GhostNet, SENet) or "input" (the block's: EfficientNet);
    `divisor` 1 rounds to the nearest whole number, at least 4.
    """

    reduction: float
    window: int = 1
    of: str = "hidden"
    act: str = "relu"
    gate: str = "hsigmoid"
    divisor: int = 1

    def __post_init__(self):
        if self.of not in ("hidden", "input"):
            raise ValueError(f"excite.of={self.of!r}: choose hidden or input")
        for name in (self.act, self.gate):
            if name not in ACTIVATIONS:
                raise ValueError(f"excite: no activation {name!r}; there are {', '.join(ACTIVATIONS)}")

    def over(self, channels: int, c_in: int) -> SqueezeExcite:
        """The layer for a map of `channels` in a block whose input has `c_in`."""
        squeezed = (c_in if self.of == "input" else channels) / self.reduction
        hidden = max(4, round(squeezed)) if self.divisor == 1 else round_channels(squeezed, self.divisor)
        return SqueezeExcite(channels, self.reduction, self.window, hidden, self.act, self.gate)


def excite(se: Excitation | None, channels: int, c_in: int) -> Chain:
    """Squeeze-excitation as a row asks for it, or nothing."""
    return Chain(se.over(channels, c_in)) if se else Chain()


def shortcut(c_in: int, c_out: int, stride=(1, 1)) -> Chain:
    """Identity where shapes agree, otherwise a 1×1 convolution with the block's stride."""
    same = c_in == c_out and tuple(stride) == (1, 1)
    return Chain() if same else Chain(ConvNorm(c_in, c_out, stride=stride, act="linear"))


def concat(maps: list[Tensor]) -> Tensor:
    """Maps side by side as channels, in the order of memory that convolutions over time are fast in."""
    return torch.cat([x.permute(0, 2, 3, 1) for x in maps], dim=3).permute(0, 3, 1, 2)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel i of group j goes to place i·groups + j (Zhang et al. 2018, arXiv:1707.01083, figure 1c), so that a
    grouped convolution after it sees every group; with C/groups it undoes itself."""
    if groups == 1:
        return x
    if x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels do not divide into {groups} groups")
    x = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))
    return x.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


def span(kernel: tuple[int, int], size: int) -> tuple[int, int]:
    """`size` along the axes that `kernel` spans, so that a block of several kernels has a temporal form too."""
    return tuple(size if given > 1 else 1 for given in kernel)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last half of the channels."""
    if x.shape[1] % 2:
        raise ValueError(f"{x.shape[1]} channels have no two halves")
    return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]


def check(condition: bool, reason: str) -> None:
    """What a row asks for, or why it cannot be built."""
    if not condition:
        raise ValueError(reason)
