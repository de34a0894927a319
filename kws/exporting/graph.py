"""An ONNX graph under construction: nodes, constants, and where each number of a tensor lies.

ONNX Runtime takes about half a microsecond to begin a node, which is most of what a small model costs in a stream, so
what matters is how few there are. Tensors are therefore kept as they were computed. Cutting, joining and reordering
them is arithmetic on the *places* of their elements, and nodes for it are made only when something that computes asks
for an order that is not there (`Graph.get`).

A tensor's shape here is that of one stream: (time, channels), (channels, frequency, time) or (n,). In the file all but
the first have the batch before it; (time, channels) only where the batch is open, since two dimensions are cheapest.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from kws.exporting.storage import Constant, affine, shorten, stored

OPSET, IR_VERSION = 17, 8  # old enough for runtimes of 2022, which know all that is used here
MANY = 8  # pieces that are joined one by one; more are grouped by origin and then brought into order


@dataclass
class Past:
    """What rows that are remembered add to depthwise convolutions of one step: one product for all of them."""

    at: int  # where its nodes come
    names: list[str]  # what each layer's sum is called
    ends: np.ndarray  # of the layers' columns
    weights: np.ndarray  # (rows, columns)
    bias: np.ndarray  # (columns,)
    wanted: bool = False


class Graph:
    """Args:
        batched: whether the number of streams is open, or one.
        granted: orders of products' columns, `wishes` of another graph of the same model.
        quantise: how weights are stored; see `storage`.
        ranges: of products' inputs, by number: these are computed in integers of 8 bits.

    Attributes:
        factors: name and shape of what each product takes, in order.
        wishes: orders of columns that would have saved a Gather, by the number of the product that they come from.
    """

    def __init__(
        self, batched: bool, granted: dict[int, np.ndarray] | None = None,
        quantise: str | None = None, ranges: dict[int, tuple[float, float]] | None = None,
    ):  # fmt: skip
        self.batched, self.granted, self.wishes = batched, granted or {}, dict(granted or {})
        self.quantise, self.ranges, self.factors = quantise, ranges or {}, []
        self._products: dict[int, int] = {}  # the product that a tensor's columns are from, by tensor
        self._pasts: dict[int, Past] = {}
        self.nodes, self.constants, self._names = [], {}, ("v" + str(i) for i in itertools.count())
        self._tensors: list[tuple[str, np.ndarray]] = []  # name, places
        self._bases: list[int] = []
        self._orders: dict[bytes, dict[tuple, str]] = {}
        self._n_places = 0

    def lead(self, rank: int) -> int:
        """1 where a tensor of this rank has the batch before it."""
        return int(self.batched or rank != 2)

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes) -> str | list[str]:
        """Adds a node; its output's name, or a list of several."""
        names = [next(self._names) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value, dtype=np.float32) -> str:
        return self._constant("c", Constant(np.ascontiguousarray(np.asarray(value, dtype))))

    def weight(self, value, axis: int = -1, of_integers: bool = False) -> str:
        """A constant that was trained: it may be rounded in the file, by a scale for each index along `axis`."""
        value = np.ascontiguousarray(np.asarray(value, np.float32))
        return self._constant("w", Constant(value, True, axis, of_integers))

    def _constant(self, kind: str, constant: Constant) -> str:
        key = (kind, constant.value.dtype.str, constant.value.shape, constant.value.tobytes())
        if key not in self.constants:
            self.constants[key] = f"{kind}{len(self.constants)}", constant
        return self.constants[key][0]

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def product(self, name: str, matrix: np.ndarray, bias: np.ndarray | None, rows: int) -> np.ndarray:
        """Adds `name` (rows, k) · matrix (k, n) + bias (n,): its places (rows, n) by the matrix's columns, which may
        lie in another order."""
        number = len(self.factors)
        self.factors.append((name, (rows, len(matrix))))
        order = self.granted.get(number, np.arange(matrix.shape[1]))
        matrix, bias = matrix[:, order], None if bias is None else bias[order]
        integers = number in self.ranges
        if integers:
            scale, zero = affine(*self.ranges[number])
            grid = self.constant(scale), self.constant(zero, np.uint8)
            name = self.node("DequantizeLinear", self.node("QuantizeLinear", name, *grid), *grid)
        if self.batched or integers:
            name = self.node("MatMul", name, self.weight(matrix, of_integers=integers))
            if bias is not None and integers:  # ONNX Runtime would make MatMul and Add a Gemm, and that of floats
                name = self.node("Sub", name, self.weight(-bias))
            elif bias is not None:
                name = self.node("Add", name, self.weight(bias))
        else:
            name = self.node("Gemm", name, self.weight(matrix), *([] if bias is None else [self.weight(bias)]))
        places = self.add(name, (rows, len(order)))
        self._products[len(self._tensors) - 1] = number
        return places[:, np.argsort(order)]

    def like(self, name: str, held: np.ndarray) -> np.ndarray:
        """Makes a tensor known that was computed from one with the places `held`, element by element."""
        places, origin = self.add(name, held.shape), int(self.origins(held.flat[0]))
        if origin in self._products and self.tensor(origin).shape == held.shape:
            self._products[len(self._tensors) - 1] = self._products[origin]
        return places

    def _wish(self, origin: int, columns: np.ndarray) -> None:
        if origin in self._products and len(columns) == self.tensor(origin).shape[1]:
            product = self._products[origin]
            self.wishes[product] = self.granted.get(product, np.arange(len(columns)))[columns]

    def remember(self, places: np.ndarray, widths: list[int]) -> None:
        """Says that a tensor, (rows, columns), holds the pasts of several layers, so many columns of each."""
        names = [next(self._names) for _ in widths]
        zeros = np.zeros(places.shape)
        self._pasts[int(self.origins(places.flat[0]))] = Past(
            len(self.nodes), names, np.cumsum(widths), zeros, zeros[0].copy()
        )

    def past(self, places: np.ndarray, weights: np.ndarray, bias: np.ndarray | None) -> str | None:
        """The tensor (1, c) that sums rows (r, c) times weights (r, c), and bias (c,), if these are a layer's past."""
        origin = int(self.origins(places).flat[0])
        past = self._pasts.get(origin)
        if past is None or len(places) != len(past.weights):
            return None
        first = int(places.flat[0] - self.tensor(origin).flat[0])
        layer = int(np.searchsorted(past.ends, first, "right"))
        columns = slice(first, int(past.ends[layer]))
        if not np.array_equal(self.tensor(origin)[:, columns], places):
            return None
        past.weights[:, columns], past.wanted = weights, True
        past.bias[columns] = 0 if bias is None else bias
        return past.names[layer]

    def _sum_pasts(self) -> None:
        for origin, past in sorted(self._pasts.items(), key=lambda item: -item[1].at):
            if past.wanted:
                self.nodes, after = self.nodes[: past.at], self.nodes[past.at :]
                name = self.node("Mul", self.get(self.tensor(origin)), self.weight(past.weights))
                if self.batched:
                    name = self.node("ReduceSum", name, self.integers(-2), keepdims=1)
                    name = self.node("Add", name, self.weight(past.bias))
                else:
                    ones = self.constant(np.ones((1, len(past.weights))))
                    name = self.node("Gemm", ones, name, self.weight(past.bias))
                widths = self.integers(*np.diff(past.ends, prepend=0))
                self.nodes.append(helper.make_node("Split", [name, widths], past.names, axis=-1))
                self.nodes += after

    def add(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Makes a tensor known: the places of its elements, an int64 array of `shape`."""
        size = int(np.prod(shape))
        places = np.arange(self._n_places, self._n_places + size).reshape(shape)
        self._tensors.append((name, places))
        self._bases.append(self._n_places)
        self._n_places += size
        self.also(name, places)
        return places

    def also(self, name: str, places: np.ndarray) -> None:
        """Says that tensor `name` holds these places in this order."""
        self._orders.setdefault(places.tobytes(), {}).setdefault(places.shape, name)

    def origins(self, places: np.ndarray) -> np.ndarray:
        """Which tensor each place belongs to."""
        return np.searchsorted(self._bases, places, "right") - 1

    def tensor(self, origin: int) -> np.ndarray:
        return self._tensors[origin][1]

    def is_there(self, places: np.ndarray) -> bool:
        return places.shape in self._orders.get(places.tobytes(), {})

    def reshape(self, name: str, shape: tuple[int, ...]) -> str:
        batch = (-1 if self.batched else 1,) * self.lead(len(shape))
        return self.node("Reshape", name, self.integers(*batch, *shape))

    def get(self, places: np.ndarray) -> str:
        """The name of a tensor that holds these places in this order, made if there is none."""
        places = np.ascontiguousarray(places)
        known = self._orders.get(places.tobytes(), {})
        if places.shape in known:
            return known[places.shape]
        if known:
            name = self.reshape(next(iter(known.values())), places.shape)
        else:
            origins = self.origins(places)
            one = origins.min() == origins.max()
            name = (one and self._of_one(places, int(origins.flat[0]))) or self._joined(places, origins)
        self.also(name, places)
        return name

    def _of_one(self, places: np.ndarray, origin: int) -> str | None:
        """Places of one tensor: a part of it, cut along its axes, or turned."""
        whole = self.tensor(origin)
        coordinates = np.unravel_index(places - whole.flat[0], whole.shape)
        kept = [np.unique(c) for c in coordinates]
        part = whole[np.ix_(*kept)]
        if part.size != places.size:
            return self._repeated(places)
        for order in itertools.permutations(range(part.ndim)):
            turned = part.transpose(order)
            if np.array_equal(turned.reshape(-1), places.reshape(-1)):
                if part.shape == places.shape and order == tuple(range(part.ndim)):
                    return self._cut(whole, kept)
                name, lead = self.get(part), self.lead(part.ndim)
                if [n for n in order if part.shape[n] > 1] != sorted(n for n in order if part.shape[n] > 1):
                    name = self.node("Transpose", name, perm=[*range(lead), *(lead + n for n in order)])
                return name if turned.shape == places.shape else self.reshape(name, places.shape)
        if part.ndim == places.ndim:  # a reordering of each axis
            firsts = [np.moveaxis(c, k, 0).reshape(c.shape[k], -1)[:, 0] for k, c in enumerate(coordinates)]
            if np.array_equal(whole[np.ix_(*firsts)], places):
                self._wish(origin, firsts[-1])
                return self._cut(whole, firsts)
        return None

    def _cut(self, whole: np.ndarray, kept: list[np.ndarray]) -> str:
        """`whole[np.ix_(*kept)]` by slices where they go, by Gather elsewhere."""
        name, done = self.get(whole), whole
        for axis, index in enumerate(kept):
            size, at = whole.shape[axis], axis + self.lead(whole.ndim)
            if np.array_equal(index, np.arange(size)):
                continue
            if np.array_equal(index, np.arange(index[0], index[0] + len(index))):
                ends = [self.integers(n) for n in (index[0], index[0] + len(index), at)]
                name = self.node("Slice", name, *ends)
            else:
                name = self.node("Gather", name, self.integers(*index), axis=at)
            done = done.take(index, axis)
            self.also(name, np.ascontiguousarray(done))
        return name

    def _repeated(self, places: np.ndarray) -> str | None:
        """Places that stand several times along an axis: each once, then Gather."""
        for axis in range(places.ndim):
            slabs = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1)
            _, first, inverse = np.unique(slabs, axis=0, return_index=True, return_inverse=True)
            if len(first) < len(slabs):
                keep = np.sort(first)
                index = np.searchsorted(keep, first[inverse.reshape(-1)])
                once = self.get(places.take(keep, axis))
                return self.node("Gather", once, self.integers(*index), axis=axis + self.lead(places.ndim))
        return None

    def _joined(self, places: np.ndarray, origins: np.ndarray) -> str:
        """Places of several tensors, joined along the axis that cuts them into fewest pieces."""
        best = None
        for axis in range(places.ndim):
            slabs = np.moveaxis(origins, axis, 0).reshape(places.shape[axis], -1)
            kinds = [tuple(np.unique(slab)) for slab in slabs]
            borders = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
            if borders and (best is None or len(borders) < len(best[1])):
                best = axis, borders, kinds
        if best is None:
            return self._picked(places, origins)
        axis, borders, kinds = best
        lead = self.lead(places.ndim)
        if len(borders) >= MANY and len(set(kinds)) < len(borders):
            order = np.array(sorted(range(len(kinds)), key=lambda i: (kinds[i], places.take(i, axis).flat[0])))
            name = self.get(places.take(order, axis))
            return self.node("Gather", name, self.integers(*np.argsort(order)), axis=axis + lead)
        parts = [self.get(part) for part in np.split(places, borders, axis)]
        return self.node("Concat", *parts, axis=axis + lead)

    def _picked(self, places: np.ndarray, origins: np.ndarray) -> str:
        """Any places: everything in a row, and one by one out of it. Right, and slow."""
        tensors = [self.tensor(origin) for origin in np.unique(origins)]
        rows = [self.get(places.reshape(-1)) for places in tensors]
        row = self.node("Concat", *rows, axis=1) if len(rows) > 1 else rows[0]
        everything = np.concatenate([places.reshape(-1) for places in tensors])
        index = np.searchsorted(everything, places)
        name = self.node("Gather", row, self.constant(index.reshape(-1), np.int64), axis=1)
        return self.reshape(name, places.shape)

    def finish(self, inputs: dict[str, list], outputs: dict[str, tuple[str, list]]) -> onnx.ModelProto:
        """The model, without nodes that nothing asks for.

        Args:
            inputs: shape by name; a string is an open dimension.
            outputs: what it is called here, and its shape, by name.
        """
        self._sum_pasts()
        made, renamed = {name for node in self.nodes for name in node.output}, {}
        for name, (inner, _) in outputs.items():
            if inner not in made or inner in renamed:  # an input, a constant, or another output too
                inner = self.node("Identity", inner)
            renamed[inner] = name
        wanted, nodes = set(renamed), []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                wanted |= set(node.input)
                nodes.insert(0, node)
        for node in nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        constants, unpacked = stored({name: c for name, c in self.constants.values() if name in wanted}, self.quantise)
        nodes = unpacked + nodes
        shorten(nodes, constants, {*inputs, *outputs, ""})
        graph = helper.make_graph(
            nodes, "spotter",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, (_, shape) in outputs.items()],
            constants,
        )  # fmt: skip
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="kws"
        )
