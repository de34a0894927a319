"""Low rank: a pointwise convolution as two thinner ones."""

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from kws.blocks.base import RepConv
from kws.compression.method import Carry, Structure
from kws.errors import KwsError, check_number
from kws.models import AcousticModel
from kws.streaming import CausalConv, Chain, prepare


def ranks(model: nn.Module, share: float) -> dict[str, int]:
    """By name of a pointwise convolution, the rank at which two take `share` of its multiplications; those that are too
    thin for it, and branches that fold into one convolution, are left out."""
    found, folding = {}, ()
    for name, module in model.named_modules():
        if isinstance(module, RepConv):
            folding += (f"{name}.",)
        if isinstance(module, CausalConv) and module.kernel_size == (1, 1) and module.groups == 1:
            c_in, c_out = module.in_channels, module.out_channels
            rank = int(share * c_in * c_out / (c_in + c_out))
            if rank and not name.startswith(folding):
                found[name] = rank
    return found


def build(model: dict, share: float, **kwargs) -> AcousticModel:
    """A configured model (see `kws.models.build` for `kwargs`) with its pointwise convolutions in two."""
    built = instantiate(model, **kwargs)
    for name, rank in ranks(built, share).items():
        parent, _, child = name.rpartition(".")
        conv = built.get_submodule(name)
        thin = CausalConv(conv.in_channels, rank, stride=(conv.time_stride, conv.stride[0]))
        pair = Chain(thin, CausalConv(rank, conv.out_channels, bias=conv.bias is not None))
        setattr(built.get_submodule(parent), child, pair)
    prepare(built, torch.zeros(1, built.stride, built.n_features))
    return built


class LowRank(Structure):
    """Pointwise convolutions W ≈ (U√S)(√S Vᵀ), the largest singular values kept (Denton et al. 2014,
    arXiv:1404.0736).

    Args:
        share: of a layer's multiplications that stay; its rank follows. A layer too thin for a rank of 1 stays whole.
    """

    def __init__(self, share: float = 0.5):
        check_number("share", share, lambda s: 0 < s < 1, "a number above 0 and below 1")
        self.share = share

    def configure(self, model: dict) -> dict:
        return {
            "_target_": "kws.compression.low_rank.build", "_recursive_": False, "model": model, "share": self.share,
        }  # fmt: skip

    def carry(self, model: nn.Module, smaller: nn.Module) -> tuple[Carry, Carry]:
        split = ranks(model, self.share)
        if not split:
            raise KwsError("method=low_rank: this model has no pointwise convolution that would become cheaper")

        def weight(name: str, value: Tensor) -> dict[str, Tensor]:
            stem, _, kind = name.rpartition(".")
            if stem not in split:
                return {name: value}
            if kind == "bias":
                return {f"{stem}.1.bias": value}
            u, s, v = torch.linalg.svd(value[:, :, 0, 0].double(), full_matrices=False)
            r = split[stem]
            first, second = s[:r, None].sqrt() * v[:r], u[:, :r] * s[:r].sqrt()
            return {f"{stem}.{i}.weight": w.to(value)[:, :, None, None] for i, w in enumerate((first, second))}

        def moment(name: str, value: Tensor) -> dict[str, Tensor]:
            return {} if name.removesuffix(".weight") in split else weight(name, value)

        return weight, moment
