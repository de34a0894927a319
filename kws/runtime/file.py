"""An exported file, read and judged before anything of it runs. No `onnx` package: the fields that matter are few.

The layout is Protocol Buffers' wire format and the numbers of fields are those of onnx.proto
(https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

import json
import math
import struct
from collections.abc import Iterator

from kws.errors import KwsError, is_number

FORMAT = 1  # of what the metadata says; files of another are refused
KEY = "kws"  # the entry of the metadata, a JSON object
MAX_BYTES, MAX_NODES, MAX_SIDE, MAX_PAD = 64 << 20, 20_000, 1 << 20, 64
FLOAT, UINT8, INT8, INT64, FLOAT16 = 1, 2, 3, 7, 10
# All that the exporter writes. None of them runs another graph, reads a file or grows without its constants growing.
OPERATORS = {
    "Abs", "Add", "AveragePool", "Cast", "Clip", "Concat", "Conv", "Cos", "DequantizeLinear", "Div", "Exp", "GRU",
    "Gather", "Gemm", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Min",
    "Mod", "Mul", "Neg", "Pow", "QuantizeLinear", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum", "Relu",
    "Reshape", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Sub", "Tanh", "Transpose",
}  # fmt: skip
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class ModelError(KwsError):
    """A file that is no spotter, or one that is not safe to run: which, what was found, what to do."""


def read(path) -> tuple[bytes, dict]:
    """An exported file's content, once it is known to be safe, and what its metadata says.

    Raises:
        ModelError: there is none; it is truncated, foreign, of another format; or it holds what no export of kws does.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path}: {getattr(error, 'strerror', None) or error}; python -m kws.export checkpoint=… makes a spotter"
        ) from None
    if len(content) > MAX_BYTES:
        raise ModelError(f"{path}: larger than {MAX_BYTES >> 20} MB, no spotter is")
    try:
        return content, _check_about(_check_model(memoryview(content)))
    except _Refused as reason:
        raise ModelError(f"{path}: {reason}") from None


class _Refused(Exception):
    """What is wrong, without the path."""


def fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field of a message."""
    at, end = 0, len(message)

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= end or shift > 63:
                raise _Refused("truncated, or no ONNX file")
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (1 << 64) - 1
            shift += 7

    while at < end:
        key = varint()
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            yield number, wire, varint()
            continue
        if wire not in (FIXED64, BYTES, FIXED32) or not number:
            raise _Refused("truncated, or no ONNX file")
        size = varint() if wire == BYTES else 8 if wire == FIXED64 else 4
        if size > end - at:
            raise _Refused("truncated, or no ONNX file")
        yield number, wire, message[at : at + size]
        at += size


def _message(value, wire: int) -> memoryview:
    if wire != BYTES:
        raise _Refused("no ONNX file: a number where a message belongs")
    return value


def _text(value, wire: int) -> str:
    try:
        return bytes(_message(value, wire)).decode()
    except UnicodeDecodeError:
        raise _Refused("no ONNX file: a name is no text") from None


def _integers(value, wire: int) -> list[int]:
    """A field of integers, packed or one of several."""
    if wire == VARINT:
        return [_signed(value)]
    numbers, number, shift = [], 0, 0
    for byte in _message(value, wire):
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(_signed(number & (1 << 64) - 1))
            number = shift = 0
        elif shift > 63:
            raise _Refused("no ONNX file: an integer without an end")
    return numbers


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _check_model(model: memoryview) -> str:
    """Raises `_Refused` for what no export of kws holds; the text of its metadata."""
    about, graphs, opsets = None, 0, 0
    for number, wire, value in fields(model):
        if number == 7:
            graphs += 1
            _check_graph(_message(value, wire))
        elif number == 8:
            opsets += 1
            if any(n == 1 and len(_message(v, w)) for n, w, v in fields(_message(value, wire))):
                raise _Refused("uses operators of another domain than ONNX's own, which no export of kws does")
        elif number == 14:
            entry = {n: (v, w) for n, w, v in fields(_message(value, wire))}
            if 1 in entry and 2 in entry and _text(*entry[1]) == KEY:
                about = _text(*entry[2])
        elif number in (20, 25):
            raise _Refused("holds functions or a training step, which no export of kws does")
    if graphs != 1 or not opsets:
        raise _Refused("truncated, or no ONNX file")
    if about is None:
        raise _Refused("an ONNX file, but no spotter: it does not say what kws should know (python -m kws.export)")
    return about


def _check_graph(graph: memoryview) -> None:
    nodes = 0
    for number, wire, value in fields(graph):
        if number == 1:
            nodes += 1
            _check_node(_message(value, wire))
        elif number == 5:
            _check_tensor(_message(value, wire))
        elif number == 15:
            raise _Refused("holds sparse tensors, which no export of kws does")
        if nodes > MAX_NODES:
            raise _Refused(f"more than {MAX_NODES} nodes, no spotter has")


def _check_node(node: memoryview) -> None:
    for number, wire, value in fields(node):
        if number == 4 and (name := _text(value, wire)) not in OPERATORS:
            raise _Refused(f"uses the operator {name[:40]!r}, which no export of kws does")
        if number == 7 and len(_message(value, wire)):
            raise _Refused(f"uses an operator of {_text(value, wire)[:40]!r}, which no export of kws does")
        if number == 5:
            name = ""
            for n, w, v in fields(_message(value, wire)):
                if n == 1:
                    name = _text(v, w)
                elif n in (5, 6, 10, 11, 14, 15, 22, 23):
                    raise _Refused("a node holds a tensor or a graph of its own, which no export of kws does")
                elif n in (3, 8):
                    bound = MAX_PAD if name == "pads" else MAX_SIDE
                    if any(abs(i) > bound for i in _integers(v, w)):
                        raise _Refused(f"a node's {name[:40]!r} is beyond {bound}")


def _check_tensor(tensor: memoryview) -> None:
    dims, kind, size = [], None, None
    for number, wire, value in fields(tensor):
        if number == 1:
            dims += _integers(value, wire)
        elif number == 2 and wire == VARINT:
            kind = value
        elif number == 9:
            size = len(_message(value, wire))
        elif number == 13 or (number == 14 and value):
            raise _Refused("keeps numbers in another file, which is not read")
        elif number in (3, 4, 5, 6, 7, 10, 11):
            raise _Refused("holds numbers in a form that no export of kws writes")
    width = {FLOAT: 4, UINT8: 1, INT8: 1, INT64: 8, FLOAT16: 2}.get(kind)
    if width is None or any(not 0 <= d <= MAX_SIDE for d in dims) or (size or 0) != width * math.prod(dims):
        raise _Refused("a constant's size or type is not what it says: damaged, or not written by kws")


def _check_about(text: str) -> dict:
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        raise _Refused("its description is damaged") from None
    found = about.get("format") if isinstance(about, dict) else None
    if not isinstance(found, int):
        raise _Refused("its description names no format")
    if found != FORMAT:
        newer = found > FORMAT
        raise _Refused(
            f"is of format {found}, this kws reads {FORMAT}: "
            + ("upgrade kws" if newer else "export the checkpoint again (python -m kws.export)")
        )

    def within(value, low: float, high: float) -> bool:
        return is_number(value, lambda number: low <= number <= high)

    labels, state = about.get("labels"), about.get("state")
    good = (
        isinstance(labels, list) and 0 < len(labels) <= 10_000 and all(isinstance(label, str) for label in labels)
        and len(set(labels)) == len(labels)
        and all(isinstance(about.get(key), int) for key in ("sample_rate", "chunk", "overlap", "steps"))
        and within(about["sample_rate"], 1000, 384_000) and within(about["steps"], 1, 10_000)
        and within(about["chunk"], 1, 10 * about["sample_rate"]) and within(about["overlap"], 0, 1 << 20)
        and about["chunk"] % about["steps"] == 0
        and within(about.get("step_ms"), 0.1, 10_000) and within(about.get("offset_ms"), 0, 10_000)
        and isinstance(about.get("decision"), dict)
        and isinstance(state, dict) and len(state) <= 1000
        and all(isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)
                and math.prod(shape) <= 1 << 22 for shape in state.values())
    )  # fmt: skip
    if not good:
        raise _Refused("its description is damaged, or not written by kws")
    return about


def write_about(content: bytes, about: dict) -> bytes:
    """A file's content with this description in its metadata, in the place of any other."""
    text = json.dumps(about, ensure_ascii=False, separators=(",", ":"))
    kept = [_field(*each) for each in fields(memoryview(content)) if each[0] != 14]
    entry = _field(1, BYTES, KEY.encode()) + _field(2, BYTES, text.encode())
    return b"".join([*kept, _field(14, BYTES, entry)])


def size_of(number: int, wire: int, value: int | memoryview) -> int:
    """The bytes of a field with its number."""
    return len(_field(number, wire, value))


def _field(number: int, wire: int, value) -> bytes:
    key = _varint(number << 3 | wire)
    if wire in (FIXED32, FIXED64):
        return key + bytes(value)
    return key + (_varint(value) if wire == VARINT else _varint(len(value)) + bytes(value))


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + struct.pack("B", value & 127 | 128), value >> 7
    return out + struct.pack("B", value)
