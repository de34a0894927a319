"""A traced model to nodes of ONNX: each operation of torch, and the few nodes that compute it in a stream.

A value is a torch tensor where it is constant, and otherwise the places (see `graph`) of its elements in an int64 array
of the value's shape in torch, whose batch is 1. What only moves elements is done by torch itself, on the places.
"""

import operator

import numpy as np
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from kws.errors import KwsError
from kws.exporting.graph import Graph
from kws.exporting.layers import Layers, folded
from kws.exporting.orders import Places, natural, physical_of, positions, squeezed

MOVES = {
    "alias", "cat", "chunk", "clone", "contiguous", "detach", "detach_", "expand", "expand_as", "flatten", "flip",
    "lift_fresh_copy", "narrow", "permute", "pixel_shuffle", "repeat", "repeat_interleave", "reshape", "roll", "select",
    "slice", "split", "split_with_sizes", "squeeze", "stack", "swapaxes", "t", "tile", "transpose", "unbind",
    "unflatten", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
SAME = {"dropout", "feature_dropout", "to", "_to_copy", "type_as"}
UNARY = {"abs": "Abs", "exp": "Exp", "log": "Log", "neg": "Neg", "reciprocal": "Reciprocal", "relu": "Relu",
         "relu_": "Relu", "sigmoid": "Sigmoid", "sqrt": "Sqrt", "tanh": "Tanh"}  # fmt: skip
BINARY = {"add": "Add", "add_": "Add", "div": "Div", "maximum": "Max", "minimum": "Min", "mul": "Mul", "mul_": "Mul",
          "sub": "Sub"}  # fmt: skip


class Lowering(Layers):
    """Args: graph: where the nodes go."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def run(self, program: torch.export.ExportedProgram, inputs: list[Places]) -> list:
        """Adds the program's nodes.

        Args:
            inputs: of the program, in its order.

        Returns:
            its outputs, as places.

        Raises:
            KwsError: an operation has no counterpart here.
        """
        values, given = {}, iter(inputs)
        kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        for node in program.graph.nodes:
            if node in values:  # a batch norm that its convolution has done
                continue
            if node.op == "placeholder":
                spec = kinds[node.name]
                if spec.kind is InputKind.USER_INPUT:
                    values[node] = next(given)
                else:
                    held = program.state_dict if spec.target in program.state_dict else program.constants
                    values[node] = held[spec.target].detach()
            elif node.op == "output":
                return list(torch.fx.map_arg(node.args[0], lambda n: values[n]))
            else:
                arguments = torch.fx.map_arg(node.args, lambda n: values[n])
                keywords = torch.fx.map_arg(node.kwargs, lambda n: values[n])
                values[node] = self._call(node, arguments, keywords, values)
        raise AssertionError("a program without an output")

    def _call(self, node, arguments, keywords, values):
        name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        if name.startswith("_assert") or name in ("sym_size", "sym_constrain_range_for_size"):
            return None
        flat, _ = torch.utils._pytree.tree_flatten((arguments, keywords))
        if not any(isinstance(value, np.ndarray) for value in flat):
            return node.target(*arguments, **keywords)  # of constants alone
        if name in SAME:
            return arguments[0]
        if name in MOVES:
            return self._move(node.target, arguments, keywords)
        if name == "conv2d":
            norm = next(iter(node.users))
            if len(node.users) == 1 and "batch_norm" in str(norm.target) and norm.args[0] is node:
                x, *rest = arguments
                affine = torch.fx.map_arg(norm.args[1:5], lambda n: values[n])
                values[norm] = self.conv2d(x, *folded(rest, *affine, norm.args[7]))
                return values[norm]
        method = getattr(self, name.strip("_"), None)
        if method is not None:
            return method(*arguments, **keywords)
        if name in UNARY:
            return self.unary(arguments[0], lambda x: self.graph.node(UNARY[name], x))
        if name in BINARY:
            return self.binary(BINARY[name], *arguments[:2])
        raise KwsError(f"cannot export: {node.target} has no counterpart in kws/exporting/lowering.py")

    def _move(self, target, arguments, keywords):
        """What only moves elements, done to their places."""
        numbers = torch.utils._pytree.tree_map(
            lambda v: torch.from_numpy(np.ascontiguousarray(v)) if isinstance(v, np.ndarray)
            else torch.from_numpy(self._of_constant(v)) if isinstance(v, Tensor) else v, (arguments, keywords),
        )  # fmt: skip
        moved = target(*numbers[0], **numbers[1])
        return torch.utils._pytree.tree_map(lambda v: v.numpy() if isinstance(v, Tensor) else v, moved)

    def _of_constant(self, value: Tensor) -> Places:
        """Places of constants, for where they are joined with what is not."""
        physical = physical_of(np.arange(value.numel()).reshape(value.shape))
        graph, numbers = self.graph, value.detach().numpy().reshape(-1)[physical]
        if graph.batched:  # as many as there are streams: a sample of each, times nothing
            begin = graph.node("Slice", "samples", *(graph.integers(n) for n in (0, 1, 1)))
            zeros = graph.reshape(graph.node("Mul", begin, graph.constant(0.0)), (1,) * physical.ndim)
            name = graph.node("Add", zeros, graph.constant(numbers))
        else:
            name = graph.constant(numbers[None] if graph.lead(physical.ndim) else numbers)
        places = np.empty(value.numel(), np.int64)
        places[physical.reshape(-1)] = graph.add(name, physical.shape).reshape(-1)
        return places.reshape(value.shape)

    # elementwise

    def unary(self, x: Places, make) -> Places:
        held = natural(self.graph, x)
        return self._out(x, held, make(self.graph.get(held)))

    def _out(self, x: Places, held: Places, name: str) -> Places:
        """Places like `x` of a tensor that is laid out like `held`."""
        return self.graph.like(name, held).reshape(-1)[positions(held, x)]

    def binary(self, op: str, a, b) -> Places:
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
            x, other = (a, b) if isinstance(a, np.ndarray) else (b, a)
            value = np.asarray(other.detach().numpy() if isinstance(other, Tensor) else other, np.float32)
            shape = np.broadcast_shapes(x.shape, value.shape)
            x = x.reshape((1,) * (len(shape) - x.ndim) + x.shape)
            if x.size < np.prod(shape):  # ONNX repeats it, the batch apart
                names = [self.graph.get(x[0]), self.graph.constant(value.reshape(value.shape[1 - len(shape) :]))]
                name = self.graph.node(op, *(names if isinstance(a, np.ndarray) else reversed(names)))
                return self.graph.add(name, shape[1:]).reshape(shape)
            held = natural(self.graph, x)
            at = positions(x, held)
            arranged = squeezed(np.broadcast_to(value, shape).reshape(-1)[at]) if value.ndim else value
            names = [
                self.graph.get(held),
                self.graph.weight(arranged) if arranged.ndim else self.graph.constant(arranged),
            ]
            return self._out(x, held, self.graph.node(op, *(names if isinstance(a, np.ndarray) else reversed(names))))
        shape = np.broadcast_shapes(a.shape, b.shape)
        pair = [np.broadcast_to(a, shape), np.broadcast_to(b, shape)]
        first = self._leader(pair)
        x, y = pair[first], pair[1 - first]
        held = natural(self.graph, x) if np.unique(x).size == x.size else physical_of(x)
        other = squeezed(y.reshape(-1)[positions(x, held)])
        names = [self.graph.get(held), self.graph.get(other)]
        return self._out_of(x, held, self.graph.node(op, *(names if first == 0 else names[::-1])))

    def _out_of(self, x, held, name):
        if np.unique(x).size == x.size:
            return self._out(x, held, name)
        order = physical_of(np.arange(x.size).reshape(x.shape)).reshape(-1)
        places = np.empty(x.size, np.int64)
        places[order] = self.graph.add(name, held.shape).reshape(-1)
        return places.reshape(x.shape)

    def _leader(self, pair) -> int:
        """Whose order both take: the one that repeats nothing, that costs nothing, that is in several pieces."""

        def rank(n: int):
            x, y = pair[n], pair[1 - n]
            if np.unique(x).size < x.size:
                return (1, 0, 0)
            held = natural(self.graph, x)
            other = squeezed(y.reshape(-1)[positions(x, held)])
            free = self.graph.is_there(np.ascontiguousarray(other))
            return (0, not free, -len(np.unique(self.graph.origins(x))))

        return min((0, 1), key=rank)

    def rsub(self, x, other, alpha=1):
        return self.binary("Sub", other, x)

    def silu(self, x):  # one node once ONNX Runtime has fused it
        return self.unary(x, lambda n: self.graph.node("Mul", n, self.graph.node("Sigmoid", n)))

    silu_ = silu

    def hardswish(self, x):
        return self.unary(x, lambda n: self.graph.node("HardSwish", n))

    hardswish_ = hardswish

    def hardsigmoid(self, x):
        return self.unary(x, lambda n: self.graph.node("HardSigmoid", n, alpha=1 / 6, beta=0.5))

    def clamp(self, x, min=None, max=None):
        bounds = ["" if bound is None else self.graph.constant(bound) for bound in (min, max)]
        return self.unary(x, lambda n: self.graph.node("Clip", n, *bounds))

    def hardtanh(self, x, low=-1.0, high=1.0):
        return self.clamp(x, low, high)

    hardtanh_ = hardtanh

    def leaky_relu(self, x, slope=0.01):
        return self.unary(x, lambda n: self.graph.node("LeakyRelu", n, alpha=slope))

    def prelu(self, x, slope):
        shape = (1, -1) + (1,) * (x.ndim - 2)
        return self.binary("Add", self.unary(x, lambda n: self.graph.node("Relu", n)), self.binary(
            "Mul", self.binary("Min", x, 0.0), slope.reshape(shape) if slope.numel() > 1 else slope))  # fmt: skip

    def pow(self, x, exponent):
        return self.binary("Pow", x, exponent)

    def ones_like(self, x, **_):
        return torch.ones(x.shape)

    def zeros_like(self, x, **_):
        return torch.zeros(x.shape)

    def new_zeros(self, _, shape, **__):
        return torch.zeros(shape)

    def new_ones(self, _, shape, **__):
        return torch.ones(shape)

    # sums over axes

    def _reduce(self, op: str, x, dims, keep) -> Places:
        dims = [d % x.ndim for d in (dims if isinstance(dims, list | tuple) else [dims])]
        shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
        if all(x.shape[d] == 1 for d in dims):
            out = x
        else:
            axes = [d - x.ndim for d in dims]
            name = self.graph.get(x.reshape((1,) * (4 - x.ndim) + x.shape)[0])
            if op == "ReduceSum":
                name = self.graph.node(op, name, self.graph.integers(*axes), keepdims=1)
            else:
                name = self.graph.node(op, name, axes=axes, keepdims=1)
            out = self.graph.add(name, ((1,) * (4 - x.ndim) + tuple(shape))[1:]).reshape(shape)
        return out if keep else out.reshape([n for d, n in enumerate(x.shape) if d not in dims])

    def mean(self, x, dims, keep=False, **_):
        return self._reduce("ReduceMean", x, dims, keep)

    def sum(self, x, dims, keep=False, **_):
        return self._reduce("ReduceSum", x, dims, keep)

    def amax(self, x, dims, keep=False):
        return self._reduce("ReduceMax", x, dims, keep)

    def softmax(self, x, dim, *_):
        name = self.graph.get(x.reshape((1,) * (4 - x.ndim) + x.shape)[0])
        name = self.graph.node("Softmax", name, axis=dim % x.ndim - x.ndim)
        return self.graph.add(name, ((1,) * (4 - x.ndim) + x.shape)[1:]).reshape(x.shape)
