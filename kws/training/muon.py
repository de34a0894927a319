"""An optimiser for networks that are made of small convolutions."""

import torch
from torch import Tensor
from torch.optim import AdamW

from kws.errors import check_number


class Muon(AdamW):
    """AdamW, but for convolutions that mix channels: as a matrix (outputs, inputs × kernel) their weight moves by its
    averaged gradient made orthogonal, so by as much in every direction (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon).

    That step is scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982, equation 4), times `gain`.

    Args:
        gain: of the step of such weights.
        momentum: share of the average that stays in a step, with Nesterov's look ahead.
    """

    def __init__(self, params, lr: float, gain: float = 1.0, momentum: float = 0.95, **adamw):
        check_number("optim.optimizer.gain", gain, lambda g: g > 0, "a number above 0")
        check_number("optim.optimizer.momentum", momentum, lambda m: 0 <= m < 1, "a number from 0, below 1")
        super().__init__(params, lr=lr, **adamw)
        self.gain, self.momentum = gain, momentum

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            rate, decay = group["lr"], group["weight_decay"]
            for weight in group["params"]:
                if weight.grad is None or weight.dim() < 3 or min(weight.shape[:2]) == 1:
                    continue
                gradient, weight.grad = weight.grad, None  # AdamW passes by what has none
                average = self.state[weight].setdefault("average", torch.zeros_like(gradient))
                average.lerp_(gradient, 1 - self.momentum)
                update = orthogonal(gradient.lerp(average, self.momentum).flatten(1))
                scale = 0.2 * self.gain * max(update.shape) ** 0.5
                weight.mul_(1 - rate * decay).add_(update.view_as(weight), alpha=-rate * scale)
        super().step()


def orthogonal(matrix: Tensor) -> Tensor:
    """Near the orthogonal matrix next to one (rows, columns): singular values go to 0.7 to 1.2, by five
    Newton-Schulz steps with Jordan's coefficients."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide is matrix else x.T
