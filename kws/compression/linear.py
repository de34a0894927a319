"""Linear quantisation: equal steps."""

import torch
from torch import Tensor

from kws.compression.method import WeightMethod, check_bits, grouped
from kws.compression.packing import Stored
from kws.errors import KwsError, check_number, check_switches

LEAST = 2.0**-149  # the smallest step that float32 has
FACTORS = [0.2 + 0.02 * i for i in range(41)]  # of the largest value: ranges that mse tries


class Linear(WeightMethod):
    """Q = clamp(round(x / s) + z), x ≈ (Q − z)·s, rounded half to even, z a whole number (Jacob et al. 2018,
    arXiv:1712.05877, section 2.1).

    Args:
        bits: 2 to 8.
        symmetric: z stands for the middle code, and s comes from the largest magnitude; otherwise the range from the
            smallest value to the largest, 0 always in it, so that z is a code.
        per_channel: s and z for each output channel.
        power_of_two: s is a power of two, the next above: dynamic fixed point (Ristretto: Gysel 2016,
            arXiv:1605.06402).
        range: "max"; "percentile", that share of the magnitudes lies inside; or "mse", what errs least.
        percentile: of range=percentile.
    """

    def __init__(
        self, bits: int = 8, symmetric: bool = True, per_channel: bool = True, power_of_two: bool = False,
        range: str = "max", percentile: float = 99.9, leave: list[str] = (),
    ):  # fmt: skip
        super().__init__(leave)
        check_bits(bits, 2)
        check_switches(symmetric=symmetric, per_channel=per_channel, power_of_two=power_of_two)
        if range not in ("max", "percentile", "mse"):
            raise KwsError(f"range={range}: choose max, percentile or mse")
        check_number("percentile", percentile, lambda p: 0 < p <= 100, "a number above 0, at most 100")
        self.bits, self.symmetric, self.per_channel, self.power_of_two = bits, symmetric, per_channel, power_of_two
        self.range, self.percentile = range, percentile

    def encode(self, weight: Tensor) -> Stored:
        x = grouped(weight, self.per_channel).double()
        low, high = x.amin(dim=1).clamp(max=0), x.amax(dim=1).clamp(min=0)
        if self.range == "percentile":
            at = (self.percentile / 100) * (x.shape[1] - 1)
            most = x.abs().sort(dim=1).values[:, round(at)]
            low, high = low.maximum(-most), high.minimum(most)
        if self.range != "mse":
            return self._at(x, low, high, weight.shape)
        tried = [self._at(x, low * f, high * f, weight.shape) for f in FACTORS]
        errors = torch.stack([(s.value().double().reshape(x.shape) - x).square().sum(dim=1) for s in tried])
        best = torch.tensor(FACTORS, dtype=torch.float64, device=x.device)[errors.argmin(dim=0)]
        return self._at(x, low * best, high * best, weight.shape)

    def _at(self, x: Tensor, low: Tensor, high: Tensor, shape) -> Stored:
        """Rows x (groups, n) with steps from `low` to `high` (groups,)."""
        codes, middle = 2**self.bits, 2 ** (self.bits - 1)
        step = high.maximum(-low) / (middle - 1) if self.symmetric else (high - low) / (codes - 1)
        if self.power_of_two:
            mantissa, exponent = torch.frexp(step)
            exponent = torch.where(mantissa == 0.5, exponent - 1, exponent).clamp(-149, 127)
            step = torch.ldexp(torch.ones_like(step), exponent)
        step = step.clamp(min=LEAST).float()
        q = (x / step.double()[:, None]).round()
        if self.symmetric:
            zero = torch.full_like(low[:1], middle)
        else:
            zero = (-low / step.double()).round().clamp(0, codes - 1)
        q = (q + zero[:, None]).clamp(0, codes - 1)
        return Stored("affine", tuple(shape), {"scale": step, "zero": zero.to(torch.uint8)}, q.to(torch.uint8),
                      self.bits)  # fmt: skip
