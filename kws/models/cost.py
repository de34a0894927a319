"""What a model costs: parameters, multiply-accumulates, how far it looks back, what a stream keeps."""

from dataclasses import dataclass

import torch
from torch import nn

from kws.models.acoustic import AcousticModel


@dataclass(frozen=True)
class Cost:
    parameters: int
    macs_per_second: int  # of convolutions and linear layers, per second of audio
    receptive_field_ms: float  # sound that one answer depends on, the mean's window included
    state_bytes: int  # of one stream
    step_ms: float  # from one answer to the next

    def table(self) -> str:
        rows = {
            "parameters": f"{self.parameters:,}",
            "multiply-accumulates per second of audio": f"{self.macs_per_second / 1e6:.2f}M",
            "receptive field": f"{self.receptive_field_ms:g} ms",
            "state of a stream": f"{self.state_bytes:,} bytes",
            "an answer every": f"{self.step_ms:g} ms",
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {value:>14}" for name, value in rows.items())


def cost(model: AcousticModel, shift_ms: float = 10.0, length_ms: float = 25.0) -> Cost:
    """Costs of a model whose frames come every `shift_ms` and span `length_ms`."""
    step_ms = shift_ms * model.stride
    state = model.initial_state()
    field = _receptive_frames(model) * shift_ms + length_ms - shift_ms
    return Cost(
        sum(p.numel() for p in model.parameters()),
        round(_macs(model, 10 * model.stride) / 10 * 1000 / step_ms),
        field,
        sum(slot.numel() * slot.element_size() for slot in state.values()),
        step_ms,
    )


@torch.no_grad()
def _macs(model: AcousticModel, frames: int) -> int:
    total = 0

    def count(module, _, output):
        nonlocal total
        positions = output.numel() // output.shape[1 if isinstance(module, nn.Conv2d) else -1]
        total += positions * module.weight.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    training = model.training
    model.eval()(torch.zeros(1, frames, model.n_features, device=model.mean.device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return total


@torch.no_grad()
def _receptive_frames(model: AcousticModel) -> int:
    """Frames that the last step depends on, found by letting NaN in at one frame and seeing whether it comes out."""

    def reaches(back: int, length: int) -> bool:
        frames = torch.zeros(1, length, model.n_features, device=model.mean.device)
        frames[0, length - back] = torch.nan
        return bool(model(frames)[0, -1].isnan().any())

    training = model.training
    model.eval()
    high = model.stride
    while reaches(high, -(-high // model.stride) * model.stride):
        high *= 2
    low = high // 2
    length = -(-high // model.stride) * model.stride
    while high - low > 1:  # a window is contiguous, so what is nearer than a frame that reaches also reaches
        middle = (low + high) // 2
        low, high = (middle, high) if reaches(middle, length) else (low, middle)
    model.train(training)
    return low
