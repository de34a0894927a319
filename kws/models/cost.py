"""What a model costs: parameters, multiply-accumulates, how far it looks back, what a stream keeps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kws.errors import KwsError
from kws.models.acoustic import AcousticModel
from kws.models.image import build_image
from kws.streaming import Stateful

COUNTED = (nn.Conv2d, nn.Linear, nn.GRU)


@dataclass(frozen=True)
class Cost:
    """Costs of a model that listens."""

    parameters: int
    macs_per_second: int  # of convolutions, linear and recurrent layers, per second of audio
    receptive_field_ms: float | None  # sound that one answer depends on, the mean's window included; None: all of it
    state_bytes: int  # of one stream
    step_ms: float  # from one answer to the next
    memory_access_per_second: int = 0  # elements, see `_Counter`

    def table(self) -> str:
        field = self.receptive_field_ms
        return _aligned({
            "parameters": f"{self.parameters:,}",
            "multiply-accumulates per second of audio": f"{self.macs_per_second / 1e6:.2f}M",
            "memory accesses per second of audio": f"{self.memory_access_per_second / 1e6:.2f}M",
            "receptive field": "since it began" if field is None else f"{field:g} ms",
            "state of a stream": f"{self.state_bytes:,} bytes",
            "an answer every": f"{self.step_ms:g} ms",
        })  # fmt: skip


@dataclass(frozen=True)
class ImageCost:
    """Costs of a table in its paper's form, an image."""

    parameters: int
    macs: int  # of convolutions and linear layers
    memory_access: int

    def table(self) -> str:
        return _aligned({
            "parameters": f"{self.parameters:,}",
            "multiply-accumulates": f"{self.macs / 1e6:.2f}M",
            "memory accesses": f"{self.memory_access / 1e6:.2f}M",
        })  # fmt: skip


def _aligned(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value:>14}" for name, value in rows.items())


def cost(model: AcousticModel, shift_ms: float = 10.0, length_ms: float = 25.0) -> Cost:
    """Costs of a model whose frames come every `shift_ms` and span `length_ms`."""
    step_ms = shift_ms * model.stride
    state, field = model.initial_state(), receptive_frames(model)
    counted = _Counter(model, torch.zeros(1, 10 * model.stride, model.n_features, device=model.mean.device))
    a_second = 1000 / step_ms / 10
    return Cost(
        sum(p.numel() for p in model.parameters()),
        round(counted.macs * a_second),
        None if field is None else field * shift_ms + length_ms - shift_ms,
        sum(slot.numel() * slot.element_size() for slot in state.values()),
        step_ms,
        round(counted.accesses * a_second),
    )


def image_cost(table: Iterable[str], input: tuple[int, int, int], **scale: Any) -> ImageCost:
    """Costs of a table fed images (channels, height, width), of any size: nothing is allocated.

    Raises:
        TableError: a row and what is wrong with it.
    """
    with torch.device("meta"):
        model = build_image(list(table), input, **scale)
        counted = _Counter(model, torch.zeros(1, *input))
    return ImageCost(sum(p.numel() for p in model.parameters()), counted.macs, counted.accesses)


class _Counter:
    """Multiply-accumulates and memory accesses of one pass of `example`.

    Accesses are what arXiv:1807.11164 calls MAC, memory access cost (section 2, guideline 1): the elements of each
    such layer's input, output and weights. It is not the number of multiply-accumulates.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, example: Tensor):
        self.macs = self.accesses = 0
        hooks = [m.register_forward_hook(self._count) for m in model.modules() if isinstance(m, COUNTED)]
        training = model.training
        model.eval()(example)
        model.train(training)
        for hook in hooks:
            hook.remove()

    def _count(self, module, inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        positions = output.numel() // output.shape[1 if isinstance(module, nn.Conv2d) else -1]
        weights = sum(w.numel() for name, w in module.named_parameters() if name.startswith("weight"))
        self.macs += positions * weights
        self.accesses += inputs[0].numel() + output.numel() + weights


@torch.no_grad()
def receptive_frames(model: AcousticModel) -> int | None:
    """Frames that the last step depends on, found by letting NaN in at one frame and seeing whether it comes out; None
    where a layer never forgets."""
    if not all(layer.forgets for layer in model.modules() if isinstance(layer, Stateful)):
        return None

    def reaches(back: int, length: int) -> bool:
        frames = torch.zeros(1, length, model.n_features, device=model.mean.device)
        frames[0, length - back] = torch.nan
        return bool(model(frames)[0, -1].isnan().any())

    training = model.training
    model.eval()
    if model(torch.zeros(1, model.stride, model.n_features, device=model.mean.device)).isnan().any():
        raise KwsError("the model answers with what are no numbers, so nothing can be said of it")
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
