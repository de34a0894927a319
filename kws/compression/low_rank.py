"""Low rank: a pointwise convolution as two thinner ones."""

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from kws.compression.method import Carry, Structure, check
from kws.errors import KwsError
from kws.models import AcousticModel
from kws.streaming import CausalConv, Chain, prepare


def rank_of(conv: nn.Module, share: float) -> int:
    """The rank at which two convolutions take `share` of the multiplications of this one; 0 where it is no pointwise
    convolution, or none is."""
    if not isinstance(conv, CausalConv) or conv.kernel_size != (1, 1) or conv.groups != 1:
        return 0
    return int(share * conv.in_channels * conv.out_channels / (conv.in_channels + conv.out_channels))


def build(model: dict, share: float, **kwargs) -> AcousticModel:
    """A configured model (see `kws.models.build` for `kwargs`) with its pointwise convolutions in two."""
    built = instantiate(model, **kwargs)
    split = {name: r for name, module in built.named_modules() if (r := rank_of(module, share))}
    for name, rank in split.items():
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
        check("share", share, 0 < share < 1, "a number above 0 and below 1")
        self.share = share

    def configure(self, model: dict) -> dict:
        return {
            "_target_": "kws.compression.low_rank.build", "_recursive_": False, "model": model, "share": self.share,
        }  # fmt: skip

    def carry(self, model: nn.Module, smaller: nn.Module) -> tuple[Carry, Carry]:
        ranks = {f"{name}.weight": r for name, module in model.named_modules() if (r := rank_of(module, self.share))}
        if not ranks:
            raise KwsError("method=low_rank: this model has no pointwise convolution that would become cheaper")

        def weight(name: str, value: Tensor) -> dict[str, Tensor]:
            stem, _, kind = name.rpartition(".")
            if f"{stem}.weight" not in ranks:
                return {name: value}
            if kind == "bias":
                return {f"{stem}.1.bias": value}
            u, s, v = torch.linalg.svd(value[:, :, 0, 0].double(), full_matrices=False)
            r = ranks[name]
            first, second = s[:r, None].sqrt() * v[:r], u[:, :r] * s[:r].sqrt()
            return {f"{stem}.{i}.weight": w.to(value)[:, :, None, None] for i, w in enumerate((first, second))}

        def moment(name: str, value: Tensor) -> dict[str, Tensor]:
            return {} if name in ranks else weight(name, value)

        return weight, moment
