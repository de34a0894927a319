"""Structured pruning: channels that leave the network."""

import torch
from torch import Tensor, nn

from kws.blocks.base import ConvNorm
from kws.blocks.convolution import Activation, Conv, Depthwise, Flat, Linear, MaxPool, Pool, Separable
from kws.compression.method import Carry, Structure
from kws.errors import KwsError, check_number
from kws.models import AcousticModel

Group = tuple[int, int]  # of channels that leave together: its number, and how often in a row each stands (`flat`)
Axes = dict[int, Group]  # of a tensor: which group an axis counts


class Channels(Structure):
    """The channels that weigh least leave, with what makes them and what reads them (Li et al. 2017, arXiv:1608.08710,
    section 3); the table's `width` says how many stay. A channel's weight is the norm of its filters with batch norm
    folded in, in each layer relative to the mean of all. Maps that are added share their channels.

    Taken are tables of conv, dw, ds (residual or not), linear, pooling, flat and act, ungrouped and without branches or
    squeeze-excitation: `dscnn`, `mobilenetv1`, `conv` and your own of these.

    Args:
        keep: share of the channels.
    """

    def __init__(self, keep: float = 0.5):
        check_number("keep", keep, lambda k: 0 < k < 1, "a number above 0 and below 1")
        self.keep = keep

    def configure(self, model: dict) -> dict:
        if "table" not in model or model.get("widths"):
            raise KwsError("method=channels takes models that are a table with a width; this is none")
        return {**model, "width": model.get("width", 1.0) * self.keep}

    def carry(self, model: nn.Module, smaller: nn.Module) -> tuple[Carry, Carry]:
        axes, before, after = _axes(model), model.state_dict(), smaller.state_dict()
        if before.keys() != after.keys():
            raise KwsError("method=channels: with fewer channels a residual of this table no longer fits its block")
        sizes, importance = {}, {}
        for name, there in axes.items():
            for axis, (g, often) in there.items():
                sizes[g] = after[name].shape[axis] // often
                importance.setdefault(g, torch.zeros(before[name].shape[axis] // often))
        for name, there in axes.items():
            if before[name].dim() == 4 and 0 in there:
                g, often = there[0]
                size = _norms(model, name).cpu().unflatten(0, (-1, often)).sum(dim=1)
                importance[g] += size / size.mean().clamp(min=1e-30)
        chosen = {g: weight.topk(sizes[g]).indices.sort().values for g, weight in importance.items()}

        def narrow(name: str, value: Tensor) -> dict[str, Tensor]:
            for axis, (g, often) in axes.get(name, {}).items() if value.dim() else ():  # an optimiser's count has none
                stay = (chosen[g][:, None] * often + torch.arange(often)).flatten()
                value = value.index_select(axis, stay.to(value.device))
            return {name: value}

        return narrow, narrow


@torch.no_grad()
def _norms(model: nn.Module, name: str) -> Tensor:
    """The norm of each filter of a convolution, times the scale of the batch norm behind it."""
    layer = model.get_submodule(name.removesuffix(".weight"))
    parent = model.get_submodule(name.rsplit(".", 2)[0])
    size = layer.weight.flatten(1).norm(dim=1)
    if isinstance(parent, ConvNorm):
        size = size * parent.norm.weight.abs() / (parent.norm.running_var + parent.norm.eps).sqrt()
    return size


def _axes(model: AcousticModel) -> dict[str, Axes]:
    """By tensor, which of its axes count channels that may leave, and of which group.

    Raises:
        KwsError: a block of another kind.
    """
    if model.speller is not None:
        raise KwsError("method=channels: this model spells; train it with model.speller=null, or try another method")
    axes: dict[str, Axes] = {}

    def layer(name: str, module: ConvNorm | Linear, given: Group | None, out: Group | None) -> None:
        conv = module.conv
        if conv.groups not in (1, conv.in_channels):
            raise KwsError(f"method=channels: {name} is a grouped convolution; try method=prune or low_rank")
        rows = {0: out} if conv.groups > 1 else {0: out, 1: given}
        for tensor, value in module.state_dict(prefix=f"{name}.").items():
            if value.dim():
                there = rows if value.dim() == 4 else {0: out}
                axes[tensor] = {axis: g for axis, g in there.items() if g is not None}

    present = None  # the group of the map that reaches a block; the input's features are none
    for i, block in enumerate(model.blocks):
        name, n = f"blocks.{i}", (i, 1)
        match block:
            case Conv():
                layer(f"{name}.conv", block.conv, present, n)
                present = n
            case Linear():
                layer(name, block, present, n)
                present = n
            case Depthwise():
                layer(f"{name}.conv", block.conv, present, present)
            case Separable() if not len(block.excite):
                out = present if block.shortcut is not None and not len(block.shortcut) else n
                layer(f"{name}.depthwise", block.depthwise, present, present)
                layer(f"{name}.pointwise", block.pointwise, present, out)
                for j, way in enumerate(block.shortcut or ()):
                    layer(f"{name}.shortcut.{j}", way, present, out)
                for tensor in block.act.state_dict():
                    axes[f"{name}.act.{tensor}"] = {0: out}
                present = out
            case Activation():
                axes |= {f"{name}.act.{tensor}": {0: present} for tensor in block.act.state_dict()}
            case Flat():
                present = None if present is None else (present[0], present[1] * block.bands)
            case Pool() | MaxPool():
                pass
            case _:
                kind = getattr(block, "kind", type(block).__name__)
                more = " with squeeze-excitation" if kind == "ds" else ""
                raise KwsError(f"method=channels: block {i + 1} is {kind}{more}; it takes conv, dw, ds, linear, flat, "
                               "pool, maxpool, avgpool and act: try method=low_rank")  # fmt: skip
    axes["classifier.weight"] = {1: present}
    return axes
