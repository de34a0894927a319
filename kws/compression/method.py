"""What every method of compression is: which weights it takes, what it stores of them, how training goes through it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from kws.compression.packing import Stored
from kws.errors import KwsError, check_number


class Method:
    """Leaves everything as it is: one set of weights as float32, the yardstick of the others."""

    @torch.no_grad()
    def stored(self, model: nn.Module, progress: float = 1.0) -> dict[str, Stored]:
        """The weights of `model` that are compressed, by name; `progress` is the share of training that is done."""
        return {}

    def store(self, model: nn.Module) -> dict[str, Stored]:
        """Every tensor of `model` as it is written: what is not compressed, as batch norm and biases are not, as it
        is."""
        plain = {name: Stored.plain(value.detach()) for name, value in model.state_dict().items()}
        return plain | self.stored(model)

    @contextlib.contextmanager
    def within(self, model: nn.Module, progress: float = 1.0) -> Iterator[None]:
        """Inside, `model` computes with the values that would be stored; outside it has its own, which training moves.

        Gradients pass straight through (Hinton's estimator in Bengio et al. 2013, arXiv:1308.3432; with
        weights that stay real: BinaryConnect, Courbariaux et al. 2015, arXiv:1511.00363, algorithm 1): what backward
        finds for the stored value, inside, the optimiser applies to the model's own, outside. So parameters keep
        their names and state, and a run is resumed as any other.
        """
        own, stored = dict(model.named_parameters()), self.stored(model, progress)
        kept = {name: own[name].detach().clone() for name in stored}
        with torch.no_grad():
            for name, value in stored.items():
                own[name].copy_(value.value())
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in kept.items():
                    own[name].copy_(value)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Gives `model` the values that would be stored."""
        own = dict(model.named_parameters())
        for name, value in self.stored(model).items():
            own[name].copy_(value.value())


class WeightMethod(Method):
    """Compresses the weights of convolutions and linear layers, each by itself.

    Args:
        leave: names of weights (`*` stands for anything) that stay as they are, as [classifier.weight].
    """

    def __init__(self, leave: list[str] = ()):
        if not isinstance(leave, list | tuple) or not all(isinstance(name, str) for name in leave):
            raise KwsError(f"leave={leave}: expected a list of names, as [classifier.weight]")
        self.leave = list(leave)

    def encode(self, weight: Tensor) -> Stored:
        """A weight (channels, …), all of it numbers, as it is stored."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a weight is stored")

    def encode_all(self, weights: Mapping[str, Tensor], progress: float) -> dict[str, Stored]:
        return {name: self.encode(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def stored(self, model: nn.Module, progress: float = 1.0) -> dict[str, Stored]:
        """
        Raises:
            KwsError: a weight holds NaN or infinity, or a name in `leave` is none of the model's.
        """
        layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
        weights = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
        for pattern in self.leave:
            if not any(fnmatchcase(name, pattern) for name in weights):
                raise KwsError(f"leave: no weight is called {pattern}; there are {', '.join(weights)}")
        weights = {n: w for n, w in weights.items() if not any(fnmatchcase(n, pattern) for pattern in self.leave)}
        for name, weight in weights.items():
            if not weight.isfinite().all():
                raise KwsError(f"{name} holds NaN or infinity: this is no trained model")
        return self.encode_all(weights, progress)


Carry = Callable[[str, Tensor], dict[str, Tensor]]


class Structure(Method):
    """Changes the network, not how its weights are stored: the result is a model with a configuration of its own."""

    def configure(self, model: dict) -> dict:
        """The configuration of the smaller model."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it makes of a model")

    def carry(self, model: nn.Module, smaller: nn.Module) -> tuple[Carry, Carry]:
        """Functions of a tensor's name and value to the tensors that it becomes in `smaller`: of weights and
        statistics, and of what an optimiser remembers of them (nothing, where that means nothing there)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what becomes of weights")


def check_bits(bits: int, least: int = 1) -> None:
    check_number("bits", bits, lambda bits: least <= bits <= 8, f"a whole number from {least} to 8", int)


def grouped(weight: Tensor, per_channel: bool) -> Tensor:
    """A weight as rows (groups, n): a channel each, or all in one."""
    return weight.reshape(len(weight) if per_channel else 1, -1)
