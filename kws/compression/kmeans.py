"""Codebooks: weights share a few values, and store which."""

import torch
from torch import Tensor, nn

from kws.compression.method import WeightMethod, check_bits, grouped
from kws.compression.packing import Stored
from kws.errors import check_number, check_switches


class KMeans(WeightMethod):
    """2^bits shared values by k-means (Deep Compression: Han et al. 2016, arXiv:1510.00149, section 3).

    N weights take bits·N + 32·2^bits bits: at 2 bits 32N / (2N + 128) times fewer, which nears 16 for large layers.
    Lloyd's iterations run on sorted weights, where a cluster is a stretch. They begin half-way between equal distances
    and equal shares of the weights, which ends better than either (the paper's section 3.2 has both); a row of no more
    distinct values than codes keeps them all.

    Args:
        bits: 1 to 8.
        per_channel: a codebook for each output channel; dear for small layers.
        iterations: of Lloyd's algorithm.
    """

    def __init__(self, bits: int = 4, per_channel: bool = False, iterations: int = 50, leave: list[str] = ()):
        super().__init__(leave)
        check_bits(bits)
        check_number("iterations", iterations, lambda n: n >= 0, "a whole number from 0", int)
        check_switches(per_channel=per_channel)
        self.bits, self.per_channel, self.iterations = bits, per_channel, iterations

    def encode(self, weight: Tensor) -> Stored:
        x = grouped(weight, self.per_channel)
        ordered = x.double().sort(dim=1).values.contiguous()
        share = torch.linspace(0, 1, 2**self.bits, dtype=torch.float64, device=x.device)
        distances = ordered[:, :1] + (ordered[:, -1:] - ordered[:, :1]) * share
        shares = ordered[:, (share * (x.shape[1] - 1)).round().long()]
        place = nn.functional.pad(ordered.diff(dim=1) > 0, (1, 0)).cumsum(dim=1)  # among a row's distinct values
        own = ordered[:, -1:].repeat(1, len(share)).scatter(1, place.clamp(max=len(share) - 1), ordered)
        begin = torch.where(place[:, -1:] < len(share), own, (distances + shares) / 2)
        book = self._lloyd(ordered, begin).float()
        middle = (book[:, 1:].double() + book[:, :-1].double()) / 2
        codes = torch.searchsorted(middle, x.double().contiguous()).to(torch.uint8)
        return Stored("lookup", tuple(weight.shape), {"codebook": book}, codes, self.bits)

    def _lloyd(self, ordered: Tensor, centres: Tensor) -> Tensor:
        """Centres (groups, k), rising, for rows (groups, n) that rise."""
        sums = nn.functional.pad(ordered.cumsum(dim=1), (1, 0))
        last = ordered.shape[1]
        for _ in range(self.iterations):
            ends = torch.searchsorted(ordered, (centres[:, 1:] + centres[:, :-1]) / 2)
            ends = nn.functional.pad(ends, (1, 0))
            ends = torch.cat([ends, torch.full_like(ends[:, :1], last)], dim=1)
            count = ends.diff(dim=1)
            mean = sums.gather(1, ends).diff(dim=1) / count.clamp(min=1)
            inside = ordered.gather(1, ends[:, :-1].clamp(max=last - 1)), ordered.gather(1, (ends[:, 1:] - 1).clamp(0))
            moved = torch.where(count > 0, mean.clamp(*inside), centres)  # sums of large values hide small ones
            if torch.equal(moved, centres):
                break
            centres = moved
        return centres
