"""A traced model to nodes of ONNX: each operation of torch, and the few nodes that compute it in a stream.

A value is a torch tensor where it is constant, and otherwise the places (see `graph`) of its elements in an int64 array
of the value's shape in torch, whose batch is 1. What only moves elements is done by torch itself, on the places.

Sound is short in a stream (5 steps of 100 ms), so layers over time alone work on rows (time, channels): a convolution
is a product with a matrix, a depthwise one a product and a sum, both many times cheaper than ONNX Runtime's
convolutions of few columns. Channels may stand in any order there: weights are permuted instead.
"""

import operator

import numpy as np
import torch
from torch import Tensor
from torch.export.graph_signature import InputKind

from kws.errors import KwsError
from kws.exporting.graph import Graph

Places = np.ndarray
MOVES = {
    "alias", "cat", "chunk", "clone", "contiguous", "detach", "detach_", "expand", "expand_as", "flatten", "flip",
    "lift_fresh_copy", "narrow", "permute", "pixel_shuffle", "repeat", "repeat_interleave", "reshape", "roll", "select",
    "slice", "split", "split_with_sizes", "squeeze", "stack", "swapaxes", "t", "tile", "transpose", "unbind",
    "unflatten", "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
SAME = {"dropout", "to", "_to_copy", "type_as"}
UNARY = {"abs": "Abs", "exp": "Exp", "log": "Log", "neg": "Neg", "reciprocal": "Reciprocal", "relu": "Relu",
         "relu_": "Relu", "sigmoid": "Sigmoid", "sqrt": "Sqrt", "tanh": "Tanh"}  # fmt: skip
BINARY = {"add": "Add", "add_": "Add", "div": "Div", "maximum": "Max", "minimum": "Min", "mul": "Mul", "mul_": "Mul",
          "sub": "Sub"}  # fmt: skip

FEW = 64  # channels; a product with a diagonal matrix of more costs more than a product and a sum


class Lowering:
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
                values[norm] = self.conv2d(x, *_folded(rest, *affine, norm.args[7]))
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
            x = np.broadcast_to(x, shape)
            held = natural(self.graph, x)
            at = positions(x, held)
            arranged = squeezed(np.broadcast_to(value, shape).reshape(-1)[at]) if value.ndim else value
            names = [self.graph.get(held), self.graph.constant(arranged)]
            return self._out(x, held, self.graph.node(op, *(names if x is not b and isinstance(a, np.ndarray)
                                                            else reversed(names))))  # fmt: skip
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

    # products

    def linear(self, x, weight, bias=None):
        rows = x.reshape(-1, x.shape[-1])
        out = self._product(rows, weight.double().numpy().T, None if bias is None else bias.double().numpy())
        return out.reshape(*x.shape[:-1], len(weight))

    def addmm(self, bias, x, matrix):
        return self._product(x, matrix.double().numpy(), np.broadcast_to(bias.numpy(), (matrix.shape[1],)))

    def mm(self, x, matrix):
        return self._product(x, matrix.double().numpy())

    matmul = mm

    def _product(self, rows: Places, matrix: np.ndarray, bias: np.ndarray | None = None) -> Places:
        """rows (m, k) · matrix (k, n) + bias, the rows' columns in whatever order is there."""
        held = natural(self.graph, rows) if np.unique(rows).size == rows.size else rows
        if held.shape != rows.shape:
            held = rows
        columns = positions(rows, held)[0] % rows.shape[1]
        return self.graph.product(self.graph.get(held), matrix[columns], bias, len(rows))

    def conv2d(self, x, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1) -> Places:
        """(1, C, F, T) to (1, C', F', T'), time last."""
        stride, padding, dilation = (list(v) * (2 // len(v)) for v in (stride, padding, dilation))
        n_out, _, kf, kt = weight.shape
        bands = (x.shape[2] + 2 * padding[0] - dilation[0] * (kf - 1) - 1) // stride[0] + 1
        steps = (x.shape[3] + 2 * padding[1] - dilation[1] * (kt - 1) - 1) // stride[1] + 1
        weight, bias = weight.double().numpy(), None if bias is None else bias.double().numpy()
        if x.shape[2] != 1 or bands != 1 or padding[1] or padding[0] % dilation[0]:
            name = self.graph.get(x[0])
            inputs = [self.graph.constant(weight), *([] if bias is None else [self.graph.constant(bias)])]
            name = self.graph.node(
                "Conv", name, *inputs, kernel_shape=[kf, kt], strides=stride, dilations=dilation, group=groups,
                pads=[*padding, *padding],
            )  # fmt: skip
            return self.graph.add(name, (n_out, bands, steps))[None]
        weight = weight[:, :, padding[0] // dilation[0]]  # of a kernel over one band only the middle meets it
        taps = np.arange(steps)[:, None] * stride[1] + np.arange(kt) * dilation[1]
        rows = x[0, :, 0].T
        if groups > 1 and weight.shape[1] == 1 and n_out == groups:
            out = self._depthwise(rows, weight[:, 0].T, bias, taps)
        else:
            out = self._dense(rows, _ungrouped(weight, groups), bias, taps)
        return out.T[None, :, None]

    def _windows(self, held: Places, taps: np.ndarray) -> tuple[str, bool]:
        """The rows `taps` (m, k) of a tensor (t, c), as (m, k, c); or as it is, (k, c), where that is all of it."""
        if taps.shape[0] == 1 and np.array_equal(taps[0], np.arange(len(held))):
            return self.graph.get(held), False
        name = self.graph.node("Gather", self.graph.get(held), self.graph.constant(taps, np.int64),
                               axis=self.graph.lead(2))  # fmt: skip
        return name, True

    def _dense(self, rows: Places, weight: np.ndarray, bias, taps) -> Places:
        """Rows (t, c) and weights (c', c, k) to (m, c')."""
        if taps.shape[1] == 1:
            return self._product(rows[taps[:, 0]], weight[:, :, 0].T, bias)
        held = natural(self.graph, rows)
        columns = positions(rows, held)[0] % rows.shape[1]
        name, _ = self._windows(held, taps)
        name = self.graph.reshape(name, (len(taps), taps.shape[1] * rows.shape[1]))
        matrix = weight[:, columns].transpose(2, 1, 0).reshape(-1, len(weight))
        return self.graph.product(name, matrix, bias, len(taps))

    def _depthwise(self, rows: Places, weight: np.ndarray, bias, taps) -> Places:
        """Rows (t, c) and weights (k, c) to (m, c)."""
        graph, held = self.graph, natural(self.graph, rows)
        columns = positions(rows, held)[0] % rows.shape[1]
        if len(taps) == 1 and taps[0, -1] == len(rows) - 1 and len(rows) > 1:
            whole = np.zeros((len(rows), rows.shape[1]))
            whole[taps[0]] = weight[:, columns]
            past = graph.past(held[:-1], whole[:-1], None if bias is None else bias[columns])
            if past is not None:
                return self._one_step(graph.get(held[-1:]), whole[-1], past)[:, np.argsort(columns)]
        name, several = self._windows(held, taps)
        if taps.shape[1] > 1:
            name = graph.node("Mul", name, graph.constant(weight[:, columns]))
            name = graph.node("ReduceSum", name, graph.integers(-2), keepdims=int(not several))
        else:
            name = graph.node("Mul", graph.get(held[taps[:, 0]]), graph.constant(weight[:, columns]))
        if bias is not None:
            name = graph.node("Add", name, graph.constant(bias[columns]))
        out = graph.add(name, (len(taps), rows.shape[1]))
        return out[:, np.argsort(columns)]

    def _one_step(self, x: str, weight: np.ndarray, past: str) -> Places:
        """x (1, c) · weight (c,) + past (1, c)."""
        graph = self.graph
        if graph.batched or len(weight) > FEW:
            name = graph.node("Add", graph.node("Mul", x, graph.constant(weight)), past)
        else:  # one node, though most of the matrix is zeros
            name = graph.node("Gemm", x, graph.constant(np.diag(weight)), past)
        return graph.add(name, (1, len(weight)))

    def batch_norm(self, x, weight, bias, mean, var, *rest):
        scale, offset = _affine(weight, bias, mean, var, rest[2])
        shape = (1, -1) + (1,) * (x.ndim - 2)
        scaled = self.binary("Mul", x, scale.reshape(shape).float())
        return self.binary("Add", scaled, offset.reshape(shape).float())

    def avg_pool2d(self, x, kernel, stride=(), padding=(0, 0), ceil_mode=False, count_include_pad=True, *_):
        kernel, padding = list(kernel), list(padding)
        stride = list(stride) or kernel
        if x.shape[2] == 1 and kernel[0] == 1 and stride[1] == 1 and not any(padding):
            held = natural(self.graph, x)
            steps = x.shape[3] - kernel[1] + 1
            offset = np.arange(x.shape[3]) - np.arange(steps)[:, None]
            band = ((offset >= 0) & (offset < kernel[1])) / kernel[1]
            columns = positions(x[0, :, 0].T, held)[0] % x.shape[1]
            name = self.graph.node("MatMul", self.graph.constant(band), self.graph.get(held))
            return self.graph.add(name, (steps, x.shape[1]))[:, np.argsort(columns)].T[None, :, None]
        return self._pool("AveragePool", x, kernel, stride, padding, ceil_mode, count_include_pad=int(count_include_pad))

    def max_pool2d(self, x, kernel, stride=(), padding=(0, 0), dilation=(1, 1), ceil_mode=False):
        kernel = list(kernel)
        return self._pool("MaxPool", x, kernel, list(stride) or kernel, list(padding), ceil_mode)

    def _pool(self, op, x, kernel, stride, padding, ceil_mode, **more) -> Places:
        name = self.graph.node(op, self.graph.get(x[0]), kernel_shape=kernel, strides=stride,
                               pads=[*padding, *padding], ceil_mode=int(ceil_mode), **more)  # fmt: skip
        example = torch.zeros(1, 1, *x.shape[2:])
        shape = torch.nn.functional.max_pool2d(example, kernel, stride, padding, ceil_mode=ceil_mode).shape
        return self.graph.add(name, (x.shape[1], *shape[2:]))[None]


def physical_of(x: np.ndarray) -> np.ndarray:
    """A value's shape in torch to its shape here: rows (t, c) where there is one band, else (c, f, t)."""
    if x.ndim == 4:
        return x[0, :, 0].T if x.shape[2] == 1 else x[0]
    return x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)


def positions(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in `x`, flattened, each of `wanted` stands (first)."""
    flat = x.reshape(-1)
    order = np.argsort(flat, kind="stable")
    return order[np.searchsorted(flat[order], wanted)]


def squeezed(x: np.ndarray) -> np.ndarray:
    """Without repetition along axes on which nothing changes: ONNX broadcasts."""
    for axis in range(x.ndim):
        first = x.take([0], axis)
        if (x == first).all():
            x = first
    return x


def natural(graph: Graph, x: Places) -> Places:
    """The elements of `x` in the order that costs least: as they lie, or channels grouped by where they lie."""
    if np.unique(graph.origins(x)).size == 1:
        whole = graph.tensor(int(graph.origins(x).flat[0]))
        if np.unique(x).size == whole.size and whole.ndim > 1:
            return whole
    held = physical_of(x)
    if held.ndim == 2:
        return np.ascontiguousarray(held[:, np.argsort(held[-1], kind="stable")])
    return np.ascontiguousarray(held[np.argsort(held[:, 0, -1], kind="stable")])


def _affine(weight, bias, mean, var, eps):
    scale = weight.double() / (var.double() + eps).sqrt()
    return scale, bias.double() - mean.double() * scale


def _folded(rest, weight, bias, mean, var, eps):
    """Arguments of a convolution after its input, with a batch norm's in them."""
    (kernel, kernel_bias, *more), (scale, offset) = (*rest, None)[:2] + tuple(rest[2:]), (None, None)
    scale, offset = _affine(weight, bias, mean, var, eps)
    if kernel_bias is not None:
        offset = offset + scale * kernel_bias.double()
    return [kernel.double() * scale[:, None, None, None], offset, *more]


def _ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """Weights (c', c / groups, k) as (c', c, k) with zeros between groups."""
    if groups == 1:
        return weight
    n_out, n_in, taps = weight.shape
    full = np.zeros((n_out, n_in * groups, taps))
    for group in range(groups):
        rows = slice(group * n_out // groups, (group + 1) * n_out // groups)
        full[rows, group * n_in : (group + 1) * n_in] = weight[rows]
    return full
