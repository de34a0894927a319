"""Powers of two: multiplications become shifts."""

import torch
from torch import Tensor

from kws.compression.method import WeightMethod, check_bits, grouped
from kws.compression.packing import Stored
from kws.errors import check_switches


class Log(WeightMethod):
    """±2^e and 0: log2|x| rounded to a whole number (Miyashita et al. 2016, arXiv:1603.01025).

    The largest power is that of the largest weight; 2^(bits − 1) − 1 powers follow downwards, and what is nearer to 0
    than to the smallest is 0. Between two powers there is nothing, so more bits add only smaller ones: on Gaussian
    weights the ratio of signal to error stays below 14 dB at any width.

    Args:
        bits: 2 to 8, one of them the sign.
        per_channel: a largest power for each output channel.
    """

    def __init__(self, bits: int = 4, per_channel: bool = True, leave: list[str] = ()):
        super().__init__(leave)
        check_bits(bits, 2)
        check_switches(per_channel=per_channel)
        self.bits, self.per_channel = bits, per_channel

    def encode(self, weight: Tensor) -> Stored:
        x = grouped(weight, self.per_channel).double()
        exponent = x.abs().clamp(min=2.0**-149).log2().round().clamp(max=127).long()
        top = exponent.amax(dim=1)
        level = top[:, None] + 1 - exponent
        most = 2 ** (self.bits - 1) - 1
        smallest = torch.ldexp(torch.ones_like(top, dtype=torch.float64), top + 1 - most)[:, None]
        level = torch.where(x.abs() < smallest / 2, 0, level.clamp(max=most))
        code = 2 * level + (x < 0)
        return Stored("power", tuple(weight.shape), {"top": top.to(torch.int16)}, code.to(torch.uint8), self.bits)
