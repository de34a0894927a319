"""Layers that multiply and sum: products, convolutions, pooling.

Sound is short in a stream (5 steps of 100 ms), so layers over time alone work on rows (time, channels): a convolution
is a product with a matrix, a depthwise one a product and a sum, both many times cheaper than ONNX Runtime's
convolutions of few columns. Channels may stand in any order there: weights are permuted instead.
"""

import numpy as np
import torch

from kws.errors import KwsError
from kws.exporting.graph import Graph
from kws.exporting.orders import Places, natural, positions

FEW = 64  # channels; a product with a diagonal matrix of more costs more than a product and a sum


class Layers:
    """Methods by the names that torch has for them; `Lowering` has the others."""

    graph: Graph

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
            inputs = [self.graph.weight(weight, axis=0), *([] if bias is None else [self.graph.weight(bias)])]
            given = [  # what is as usual is not written: it is a tenth of a small file
                ("strides", [*stride], [1, 1]), ("dilations", [*dilation], [1, 1]), ("group", groups, 1),
                ("pads", [*padding, *padding], [0] * 4),
            ]  # fmt: skip
            attributes = {key: value for key, value, usual in given if value != usual}
            name = self.graph.node("Conv", name, *inputs, **attributes)
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
        weight = weight[:, columns]
        if bias is not None and not graph.batched and len(taps) > 1:  # a row of ones, joined at no cost, takes the bias
            ones = graph.add(graph.constant(np.ones((1, rows.shape[1]))), (1, rows.shape[1]))
            held, taps = np.concatenate([held, ones]), np.append(taps, np.full((len(taps), 1), len(held)), axis=1)
            weight, bias = np.append(weight, bias[columns][None], axis=0), None
        name, several = self._windows(held, taps)
        name = graph.node("Mul", name, graph.weight(weight))
        if several or len(weight) > 1:
            name = graph.node("ReduceSum", name, graph.integers(-2), keepdims=int(not several))
        if bias is not None:
            name = graph.node("Add", name, graph.weight(bias[columns]))
        out = graph.add(name, (len(taps), rows.shape[1]))
        return out[:, np.argsort(columns)]

    def _one_step(self, x: str, weight: np.ndarray, past: str) -> Places:
        """x (1, c) · weight (c,) + past (1, c)."""
        graph = self.graph
        if graph.batched or len(weight) > FEW:
            name = graph.node("Add", graph.node("Mul", x, graph.weight(weight)), past)
        else:  # one node, though most of the matrix is zeros
            name = graph.node("Gemm", x, graph.weight(np.diag(weight)), past)
        return graph.add(name, (1, len(weight)))

    def gru(self, x, past, weights, biased, layers, _dropout, _train, both_ways, batch_first):
        """x (1, t, c) and past (layers, 1, h) to (1, t, h) and the next past."""
        graph = self.graph
        if both_ways or not batch_first:
            raise KwsError("cannot export: a GRU that runs both ways, or with time before the batch")
        rows, each, lasts = x[0], 4 if biased else 2, []
        for layer in range(layers):
            w, r, *biases = (v.detach().double().numpy() for v in weights[layer * each :][:each])
            size = r.shape[1]
            gates = np.r_[size : 2 * size, :size, 2 * size : 3 * size]  # torch: reset, update, new; ONNX: update first
            held = natural(graph, rows)
            w = w[gates][:, positions(rows, held)[0] % rows.shape[1]]
            b = np.concatenate([v[gates] for v in biases] or [np.zeros(6 * size)])
            steps, name, begin = len(rows), graph.get(held), graph.get(past[layer])
            if graph.batched:
                name, begin = (graph.node("Transpose", v, perm=[1, 0, 2]) for v in (name, begin))
            else:
                name = graph.node("Reshape", name, graph.integers(steps, 1, held.shape[1]))
                begin = graph.node("Reshape", begin, graph.integers(1, 1, size))
            constants = [graph.weight(v[None], axis=1) for v in (w, r[gates], b)]
            name = graph.node("GRU", name, *constants, "", begin, hidden_size=size, linear_before_reset=1)
            if graph.batched:
                name = graph.node("Transpose", name, perm=[2, 0, 1, 3])
            rows = graph.add(graph.reshape(name, (steps, size)), (steps, size))
            lasts.append(rows[-1:])
        return rows[None], np.stack(lasts)

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
        return self._pool(
            "AveragePool", x, kernel, stride, padding, ceil_mode, count_include_pad=int(count_include_pad)
        )

    def max_pool2d(self, x, kernel, stride=(), padding=(0, 0), dilation=(1, 1), ceil_mode=False):
        kernel = list(kernel)
        return self._pool("MaxPool", x, kernel, list(stride) or kernel, list(padding), ceil_mode)

    def _pool(self, op, x, kernel, stride, padding, ceil_mode, **more) -> Places:
        name = self.graph.node(op, self.graph.get(x[0]), kernel_shape=kernel, strides=stride,
                               pads=[*padding, *padding], ceil_mode=int(ceil_mode), **more)  # fmt: skip
        example = torch.zeros(1, 1, *x.shape[2:])
        shape = torch.nn.functional.max_pool2d(example, kernel, stride, padding, ceil_mode=ceil_mode).shape
        return self.graph.add(name, (x.shape[1], *shape[2:]))[None]


def _affine(weight, bias, mean, var, eps):
    scale = weight.double() / (var.double() + eps).sqrt()
    return scale, bias.double() - mean.double() * scale


def folded(rest, weight, bias, mean, var, eps):
    """Arguments of a convolution after its input, with those of a batch norm in them."""
    kernel, kernel_bias, *more = (*rest, None) if len(rest) == 1 else rest
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
