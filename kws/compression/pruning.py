"""Pruning: weights that are 0, stored as one bit for each weight and the values of the others."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kws.compression.method import WeightMethod
from kws.compression.packing import Stored
from kws.errors import KwsError, check_number


def _sparse(weight: Tensor, keep: Tensor) -> Stored:
    return Stored("sparse", tuple(weight.shape), {"values": weight[keep].float()}, keep.reshape(1, -1).to(torch.uint8),
                  1)  # fmt: skip


class Prune(WeightMethod):
    """The smallest weights become 0 (Han et al. 2015, arXiv:1506.02626), a growing share of them in training: at the
    share t of it, s·(1 − (1 − t/ramp)³) up to `ramp` (Zhu & Gupta 2017, arXiv:1710.01878, equation 1).

    Work and memory while computing stay what they were: zeros are multiplied too.

    Args:
        sparsity: the share of weights that are 0.
        scope: "global", the smallest of all layers; or "layer", the same share of each.
        ramp: share of training after which all of them are.
    """

    def __init__(self, sparsity: float = 0.8, scope: str = "global", ramp: float = 0.5, leave: list[str] = ()):
        super().__init__(leave)
        check_number("sparsity", sparsity, lambda s: 0 <= s < 1, "a number from 0, below 1")
        check_number("ramp", ramp, lambda r: 0 < r <= 1, "a number above 0, at most 1")
        if scope not in ("global", "layer"):
            raise KwsError(f"scope={scope}: choose global or layer")
        self.sparsity, self.scope, self.ramp = sparsity, scope, ramp

    def encode_all(self, weights: Mapping[str, Tensor], progress: float) -> dict[str, Stored]:
        share = self.sparsity * (1 - (1 - min(1.0, progress / self.ramp)) ** 3)
        flat = [weight.reshape(-1) for weight in weights.values()]
        if self.scope == "global":
            keep = _largest(torch.cat(flat), share).split([len(f) for f in flat])
        else:
            keep = [_largest(f, share) for f in flat]
        return {name: _sparse(w, k.reshape(w.shape)) for (name, w), k in zip(weights.items(), keep, strict=True)}


def _largest(x: Tensor, share: float) -> Tensor:
    """Which of x (n,) are not among the `share` of smallest magnitude; of equal ones the first are kept."""
    keep = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    keep[x.abs().sort(descending=True, stable=True).indices[: len(x) - round(share * len(x))]] = True
    return keep


class NOfM(WeightMethod):
    """Of every m neighbours along a channel's weights the n largest stay (Zhou et al. 2021, arXiv:2102.04010; 2 of 4 is
    what NVIDIA's sparse tensor cores take: Mishra et al. 2021, arXiv:2104.08378). What is left of a row that m does not
    divide is such a group too.

    Args:
        n, m: how many stay of how many.
    """

    def __init__(self, n: int = 2, m: int = 4, leave: list[str] = ()):
        super().__init__(leave)
        check_number("m", m, lambda m: m >= 2, "a whole number from 2", int)
        check_number("n", n, lambda n: 0 < n < m, f"a whole number from 1, below m={m}", int)
        self.n, self.m = n, m

    def encode(self, weight: Tensor) -> Stored:
        rows = weight.reshape(len(weight), -1)
        size = F.pad(rows.abs(), (0, -rows.shape[1] % self.m), value=-1.0).unflatten(1, (-1, self.m))
        rank = size.argsort(dim=2, descending=True, stable=True).argsort(dim=2)
        keep = (rank < self.n).flatten(1)[:, : rows.shape[1]]
        return _sparse(weight, keep.reshape(weight.shape))
