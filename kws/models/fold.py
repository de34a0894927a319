"""What training needs and listening does not: batch norm folded into convolutions, branches into one."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.blocks.base import BatchNorm, ConvNorm, RepConv
from kws.models.acoustic import AcousticModel
from kws.streaming import CausalConv, Chain, prepare


class Pass(nn.Module):
    """Where a batch norm stood."""

    def forward(self, x: Tensor, stream=None) -> Tensor:
        return x


def fold(model: nn.Module) -> nn.Module:
    """A copy of `model`, in evaluation mode, that computes the same with fewer operations.

    Batch norm goes into the convolution before it; a `RepConv` becomes one convolution. Streams of the copy have
    their own state: the branches' pasts have become one. It is not meant to be trained.
    """
    model = copy.deepcopy(model).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, RepConv):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _merged(module))
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, BatchNorm):
            conv = _last(module)
            conv.weight, conv.bias = _folded(module)
            module.norm = Pass()
    if isinstance(model, AcousticModel):
        prepare(model, torch.zeros(1, model.stride, model.n_features, device=model.mean.device))
    return model


def _last(layer: ConvNorm) -> CausalConv:
    """The convolution before the norm: of several in a row the last."""
    conv = layer.conv
    while isinstance(conv, Chain):
        conv = conv[-1]
    return conv


def _affine(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and offset of a batch norm in evaluation, in double precision."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def _folded(layer: ConvNorm) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of the convolution that is convolution and norm at once."""
    scale, offset = _affine(layer.norm)
    weight, bias = _last(layer).weight, _last(layer).bias
    offset = offset if bias is None else offset + scale * bias.double()
    folded = weight.double() * scale[:, None, None, None]
    return nn.Parameter(folded.to(weight)), nn.Parameter(offset.to(weight))


@torch.no_grad()
def _merged(rep: RepConv) -> ConvNorm:
    """One convolution, its norm neutral, for all the branches."""
    first = rep.branches[0].conv
    merged = ConvNorm(first.in_channels, first.out_channels, **rep.spec, act="linear")
    merged.act, merged.norm = rep.act, Pass()
    kf, kt = first.kernel_size
    weight, bias = torch.zeros_like(first.weight, dtype=torch.float64), 0
    for branch in rep.branches:
        w, b = _folded(branch)
        if branch.conv.kernel_size == (1, 1):  # the present frame is a kernel's last tap, its own band the middle
            w = F.pad(w, (kt - 1, 0, kf // 2, kf // 2))
        weight, bias = weight + w.double(), bias + b.double()
    if rep.identity is not None:
        scale, offset = _affine(rep.identity)
        width = weight.shape[1]
        channel = torch.arange(len(scale), device=scale.device)
        weight[channel, channel % width, kf // 2, kt - 1] += scale
        bias = bias + offset
    merged.conv = CausalConv(first.in_channels, first.out_channels, **rep.spec, bias=True).to(first.weight)
    merged.conv.weight.copy_(weight)
    merged.conv.bias.copy_(bias)
    return merged.eval()
