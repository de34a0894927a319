"""Binary and ternary weights."""

import torch
from torch import Tensor

from kws.compression.method import WeightMethod, grouped
from kws.compression.packing import Stored
from kws.errors import check_number, check_switches


class Binary(WeightMethod):
    """sgn(x)·mean|x|, with sgn(0) = +1 (XNOR-Net: Rastegari et al. 2016, arXiv:1603.05279, section 3.1). On Gaussian
    weights the error is √(1 − 2/π) = 0.60 of their norm.

    Args:
        per_channel: a scale for each output channel.
    """

    def __init__(self, per_channel: bool = True, leave: list[str] = ()):
        super().__init__(leave)
        check_switches(per_channel=per_channel)
        self.per_channel = per_channel

    def encode(self, weight: Tensor) -> Stored:
        x = grouped(weight, self.per_channel)
        scale = x.double().abs().mean(dim=1).float()
        return Stored("sign", tuple(weight.shape), {"scale": scale}, (x >= 0).to(torch.uint8), 1)


class Ternary(WeightMethod):
    """−s, 0, +s in 2 bits: 0 where |x| ≤ Δ = threshold·mean|x|, s the mean of the other magnitudes (Li & Liu 2016,
    arXiv:1605.04711).

    Args:
        threshold: of the mean magnitude; 0.7 suits both Gaussian and uniform weights.
        per_channel: Δ and s for each output channel.
    """

    def __init__(self, threshold: float = 0.7, per_channel: bool = True, leave: list[str] = ()):
        super().__init__(leave)
        check_switches(per_channel=per_channel)
        check_number("threshold", threshold, lambda t: 0 <= t < 1, "a number from 0, below 1")
        self.threshold, self.per_channel = threshold, per_channel

    def encode(self, weight: Tensor) -> Stored:
        x = grouped(weight, self.per_channel).double()
        magnitude = x.abs()
        other = magnitude > self.threshold * magnitude.mean(dim=1, keepdim=True)
        scale = (magnitude * other).sum(dim=1) / other.sum(dim=1).clamp(min=1)
        codes = 1 + x.sign() * other
        one = torch.ones(1, dtype=torch.uint8, device=x.device)
        return Stored("affine", tuple(weight.shape), {"scale": scale.float(), "zero": one}, codes.to(torch.uint8), 2)
