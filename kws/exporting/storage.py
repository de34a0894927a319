"""How constants lie in the file: as they are, or smaller, and brought back to what the graph computes with.

ONNX Runtime computes what depends on constants alone once, when it loads a file, so a smaller form costs no time after.
It would leave DequantizeLinear for every step; so int8 is written as Cast and Mul, which mean the same. Only where a
product is of integers (int8_static) are its weights written with DequantizeLinear, which ONNX Runtime looks for there.
"""

import string
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kws.errors import KwsError

QUANTISE = ("fp16", "int8", "int8_static")
CAST_BYTES = 40  # that a node takes in the file, about
FEWEST = 64  # numbers of a weight in int8; fewer, and vectors, are float16


@dataclass(frozen=True)
class Constant:
    value: np.ndarray
    is_weight: bool = False  # may be rounded
    axis: int = -1  # along which its outputs lie: each has a scale of its own
    of_integers: bool = False  # its product is one of integers


def stored(constants: dict[str, Constant], quantise: str | None) -> tuple[list, list]:
    """Initialisers, and nodes that make tensors of these names of them, each of the constant's type and shape.

    Args:
        quantise: the form of weights: fp16, int8, int8_static, or None for float32.

    Raises:
        KwsError: a weight is beyond float16.
    """
    return Store(quantise).write(constants)


class Store:
    def __init__(self, quantise: str | None):
        self.quantise = quantise
        self.initialisers: list[onnx.TensorProto] = []
        self.casts, self.splits, self.scalings = [], [], []  # nodes, in this order
        # what is kept as one: float16 vectors, and int8 matrices of as many columns
        self.vectors: dict[str, np.ndarray] = {}
        self.matrices: dict[int, dict[str, np.ndarray]] = {}

    def write(self, constants: dict[str, Constant]) -> tuple[list, list]:
        for name, constant in constants.items():
            value = constant.value
            if constant.is_weight and self.quantise:
                if self.quantise != "fp16" and value.ndim > 1 and value.size >= FEWEST:
                    self._int8(name, value, constant)
                else:
                    self._float16(name, value)
            else:
                self._exact(name, value)
        for number, parts in enumerate([self.vectors, *self.matrices.values()]):
            if parts:
                self._cast(f"w+{number}", np.concatenate(list(parts.values())), np.float32)
                self._exact(f"c+{number}", np.array([len(part) for part in parts.values()]))
                self.splits.append(helper.make_node("Split", [f"w+{number}", f"c+{number}"], list(parts)))
        return self.initialisers, self.casts + self.splits + self.scalings

    def _keep(self, name: str, value: np.ndarray) -> None:
        self.initialisers.append(numpy_helper.from_array(value, name))

    def _cast(self, name: str, value: np.ndarray, dtype) -> None:
        self._keep(f"{name}_", value)
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.casts.append(helper.make_node("Cast", [f"{name}_"], [name], to=to))

    def _exact(self, name: str, value: np.ndarray) -> None:
        """In fewer bytes where that loses nothing."""
        with np.errstate(invalid="ignore"):  # an infinity is no int8, and is kept below
            small = value.astype(np.int8)
        if value.nbytes - small.nbytes > CAST_BYTES and np.array_equal(small, value):
            self._cast(name, small, value.dtype)
        else:
            self._keep(name, value)

    def _float16(self, name: str, value: np.ndarray) -> None:
        half = _half(value, name)
        if half.ndim == 1:
            self.vectors[name] = half
        elif half.nbytes > CAST_BYTES:
            self._cast(name, half, np.float32)
        else:
            self._keep(name, half.astype(np.float32))

    def _int8(self, name: str, value: np.ndarray, constant: Constant) -> None:
        """Symmetric, a scale for each output; the scale is rounded first, so that its rounding costs nothing."""
        axis = constant.axis % value.ndim
        others = tuple(n for n in range(value.ndim) if n != axis)
        scale = _half(np.abs(value).max(axis=others, keepdims=True) / 127, name)
        scale = np.where(scale == 0, np.float16(1), scale)
        steps = np.rint(value / scale.astype(np.float32)).clip(-127, 127).astype(np.int8)
        self._float16(f"{name}s", scale.reshape(-1) if axis == value.ndim - 1 else scale)
        if constant.of_integers:
            self._keep(f"{name}q", steps)
            self.scalings.append(helper.make_node("DequantizeLinear", [f"{name}q", f"{name}s"], [name]))
            return
        if value.ndim == 2:
            self.matrices.setdefault(value.shape[1], {})[f"{name}q"] = steps
        else:
            self._cast(f"{name}q", steps, np.float32)
        self.scalings.append(helper.make_node("Mul", [f"{name}q", f"{name}s"], [name]))


def _half(value: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    if not np.isfinite(half).all():
        raise KwsError(f"quantise: the weight {name} reaches {np.abs(value).max():g}, and float16 ends at 65504")
    return half


def affine(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of unsigned 8 bits over a range that holds zero: value = (stored - zero) · scale."""
    scale = np.float32(max(high - low, 1e-8) / 255)
    return scale, np.uint8(np.rint(np.clip(-low / scale, 0, 255)))


def shorten(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], kept: set[str]) -> None:
    """Gives tensors but those of `kept` names of two or three letters, the first of which stays: names are a large
    part of a small file."""
    letters, counts, names = string.digits + string.ascii_letters, Counter(), {name: name for name in kept}

    def short(name: str) -> str:
        if name not in names:
            number, text = counts[name[0]], ""
            while not text or number:
                number, digit = divmod(number, len(letters))
                text += letters[digit]
            counts[name[0]] += 1
            names[name] = name[0] + text
        return names[name]

    for tensor in constants:
        tensor.name = short(tensor.name)
    for node in nodes:
        for ends in (node.input, node.output):
            ends[:] = [short(name) for name in ends]
