"""A tflite file as ESPHome's micro_wake_word loads it, and the manifest beside it.

The state becomes resource variables, which a second graph fills once; the input becomes int8 (1, n, 40) in the units
that the device gives, the output uint8 (1, 1). Sources: ESPHome's components/micro_wake_word/streaming_model.cpp (the
checks, and the operators that are registered), micro_wake_word.cpp (the units), __init__.py (the manifest's schema).
"""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kws.errors import KwsError
from kws.exporting.tflite import OPERATOR, operator_of, operators, unit
from kws.features.options import MicroOptions, Options

OPERATORS = {  # StreamingModel::register_streaming_ops_
    "CALL_ONCE", "VAR_HANDLE", "RESHAPE", "READ_VARIABLE", "STRIDED_SLICE", "CONCATENATION", "ASSIGN_VARIABLE",
    "CONV_2D", "MUL", "ADD", "MEAN", "FULLY_CONNECTED", "LOGISTIC", "QUANTIZE", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D",
    "MAX_POOL_2D", "PAD", "PACK", "SPLIT_V",
}  # fmt: skip
MOST_VARIABLES = 20  # MicroResourceVariables::Create
# codes are (256 v + 333) // 666 - 128 of the front-end's values v, which are 25.6 of a feature's unit
SCALE, ZERO = 666 / 256 / 25.6, -128
FRAMES = (0.0, 255 * SCALE)  # the range that these codes have


def word_of(labels: Sequence[str], word: str | None) -> int:
    """The label that is listened for.

    Raises:
        KwsError: there are several words, and none is named; or the one named is not there.
    """
    words = [label for label in labels if not label.startswith("_")]
    if word is None and len(words) != 1:
        raise KwsError(f"micro_wake_word listens for one word, this model for {len(words)}: word=NAME of {words}")
    if word is not None and word not in words:
        raise KwsError(f"word={word}: the model's words are {', '.join(words)}")
    return list(labels).index(word or words[0])


def check(options: Options) -> None:
    """Raises KwsError where a device would give the model other frames than these."""
    if not isinstance(options, MicroOptions):
        raise KwsError(
            "micro_wake_word has a front-end of its own, which this model does not know: train with features=micro"
        )


def adapt(file: schema.ModelT) -> None:
    """Changes a file of `kws.exporting.tflite.quantised` so.

    Raises:
        KwsError: an operator that the device does not have, or more state than it takes.
    """
    graph = file.subgraphs[0]
    states = list(zip(graph.inputs[1:], graph.outputs[1:], strict=True))
    if len(states) > MOST_VARIABLES:
        raise KwsError(f"the model has {len(states)} states; micro_wake_word takes {MOST_VARIABLES}")
    _cut_by_strides(file)
    frames, probability = graph.inputs[0], graph.outputs[0]
    body, begin, first = graph.operators, _Graph(file, graph), _Graph(file, schema.SubGraphT())
    start, end = [_once()], []
    start[0].opcodeIndex = begin.code("CALL_ONCE")
    for number, (old, new) in enumerate(states):
        name, tensor = f"state{number}", graph.tensors[old]
        handle = begin.tensor([], schema.TensorType.RESOURCE)
        start += [begin.variable(name, handle), begin.operator("READ_VARIABLE", [handle], [old])]
        end.append(begin.operator("ASSIGN_VARIABLE", [handle, new], []))
        handle = first.tensor([], schema.TensorType.RESOURCE)
        zeros = np.full(tensor.shape, unit(tensor)[1], np.int8)
        filled = first.tensor(tensor.shape, schema.TensorType.INT8, tensor.quantization, zeros)
        first.graph.operators += [first.variable(name, handle), first.operator("ASSIGN_VARIABLE", [handle, filled], [])]
    file.subgraphs.append(first.graph)

    tensor = graph.tensors[frames]
    given = begin.tensor([1, *tensor.shape[-2:]], schema.TensorType.INT8, tensor.quantization)
    shape = begin.tensor([4], schema.TensorType.INT32, values=np.array(tensor.shape, np.int32))
    start.append(begin.operator("RESHAPE", [given, shape], [frames]))
    out = begin.tensor([1, 1], schema.TensorType.UINT8, begin.quantization(unit(graph.tensors[probability])[0], 0))
    end.append(begin.operator("QUANTIZE", [probability], [out]))
    graph.inputs, graph.outputs, graph.operators = [given], [out], [*start, *body, *end]
    check_operators(operators(file))


def check_operators(used: set[str]) -> None:
    """Refuses, by a KwsError, operators that the device does not have."""
    if missing := sorted(used - OPERATORS):
        raise KwsError(
            f"micro_wake_word has no {', '.join(missing)}, which this model needs: model=dscnn_10k needs none"
        )


def manifest(word: str, model: str, decision: dict, step_ms: float, arena_bytes: int, language: str,
             author: str) -> dict:  # fmt: skip
    """What stands in the JSON file beside the model, version 2."""
    threshold = decision["threshold"]
    if not isinstance(threshold, int | float):
        threshold = threshold.get(word, threshold.get("_default_", 0.7))
    return {
        "type": "micro", "wake_word": word, "author": author, "model": model,
        "trained_languages": [language], "version": 2,
        "micro": {
            "probability_cutoff": float(threshold),
            "sliding_window_size": max(1, round(decision["smoothing_ms"] / step_ms)),
            "feature_step_size": int(MicroOptions.frame_shift), "tensor_arena_size": arena_bytes,
            "minimum_esphome_version": "2024.7.0",
        },
    }  # fmt: skip


def _once() -> schema.OperatorT:
    op = schema.OperatorT()
    op.inputs, op.outputs = [], []
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.CallOnceOptions, schema.CallOnceOptionsT()
    op.builtinOptions.initSubgraphIndex = 1
    return op


class _Graph:
    """A graph of a file that tensors and operators are added to."""

    def __init__(self, file: schema.ModelT, graph: schema.SubGraphT):
        self.file, self.graph = file, graph
        if graph.tensors is None:
            graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []

    def tensor(self, shape, kind: int, quantization=None, values: np.ndarray | None = None) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.quantization, tensor.name = list(map(int, shape)), kind, quantization, b""
        tensor.buffer = 0  # the empty one
        if values is not None:
            self.file.buffers.append(buffer := schema.BufferT())
            buffer.data, tensor.buffer = np.frombuffer(values.tobytes(), np.uint8), len(self.file.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def quantization(self, scale: float, zero: int) -> schema.QuantizationParametersT:
        result = schema.QuantizationParametersT()
        result.scale, result.zeroPoint = [scale], [zero]
        return result

    def code(self, name: str) -> int:
        value = next(value for value, known in OPERATOR.items() if known == name)
        for i, code in enumerate(self.file.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == value:
                return i
        self.file.operatorCodes.append(code := schema.OperatorCodeT())
        code.builtinCode, code.deprecatedBuiltinCode, code.version = value, min(value, 127), 1
        return len(self.file.operatorCodes) - 1

    def operator(self, name: str, inputs: list[int], outputs: list[int]) -> schema.OperatorT:
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self.code(name), inputs, outputs
        return op

    def variable(self, name: str, handle: int) -> schema.OperatorT:
        op = self.operator("VAR_HANDLE", [], [handle])
        op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.VarHandleOptions, schema.VarHandleOptionsT()
        op.builtinOptions.sharedName, op.builtinOptions.container = name.encode(), b""
        return op


def _cut_by_strides(file: schema.ModelT) -> None:
    """SLICE, which the device does not have, as STRIDED_SLICE."""
    graph = _Graph(file, file.subgraphs[0])
    for op in graph.graph.operators:
        if operator_of(file, op) != "SLICE":
            continue
        begin, size = (
            np.frombuffer(bytes(file.buffers[graph.graph.tensors[i].buffer].data), np.int32) for i in op.inputs[1:]
        )
        whole = np.array(graph.graph.tensors[op.inputs[0]].shape, np.int32)
        end = np.where(size < 0, whole, begin + size).astype(np.int32)
        ends, ones = (graph.tensor([4], schema.TensorType.INT32, values=v) for v in (end, np.ones(4, np.int32)))
        op.opcodeIndex = graph.code("STRIDED_SLICE")
        op.inputs = [op.inputs[0], op.inputs[1], ends, ones]
        op.builtinOptionsType = schema.BuiltinOptions.StridedSliceOptions
        op.builtinOptions = schema.StridedSliceOptionsT()
