"""A model as a TensorFlow Lite file in int8, for microcontrollers: one step of a stream, without its front-end.

Inputs are `frames` (1, 1, n, dim), n the model's stride, and the state; outputs `probabilities` (1, labels) and the
next state, each with the scale and zero point of the input that it becomes. A state begins as its zero point.
"""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import flatbuffers
import litert_torch
import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer import quantizer, recipe
from torch import Tensor, nn

from kws.errors import KwsError
from kws.models import AcousticModel, fold
from kws.streaming import Stream, WindowedMean

aten = torch.ops.aten
OPERATOR = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


class Step(nn.Module):
    """Frames (1, dim, 1, n), a stream's slots, and the scores (1, classes, 1, window - 1) of the steps before, to
    probabilities and the next of these.

    The classifier stands before the mean over the last window, which commutes, so that little is remembered. Where a
    stream is shorter than the window, what is missing counts as scores of 0.

    Args:
        word: give the probability (1, 1) of this label against the strongest other one, in place of all of them.
    """

    def __init__(self, model: AcousticModel, word: int | None = None):
        super().__init__()
        if type(model.pool) is not WindowedMean:
            raise KwsError(f"{type(model.pool).__name__} in the place of the mean over the last window")
        if model.speller is not None:
            raise KwsError("a model that spells has no form in tflite: train it with model.speller=null")
        weight, bias = model.classifier.weight, model.classifier.bias
        if word is not None:
            others = [i for i in range(len(bias)) if i != word]
            weight, bias = weight[others] - weight[word], bias[others] - bias[word]
        self.blocks, self.planar, self.word = model.blocks, model.planar, word
        self.slots = [name for name in model.initial_state() if name not in ("input", "pool")]
        self.window, n = model.pool.window, len(bias)
        self.register_buffer("scale", (1 / model.std)[:, None, None, None])
        self.register_buffer("shift", -model.mean / model.std)
        self.register_buffer("weight", weight.detach()[:, :, None, None])
        self.register_buffer("bias", bias.detach())
        self.register_buffer("mean", torch.full((n, 1, 1, self.window), 1 / self.window))

    def forward(self, frames: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        x = F.conv2d(frames, self.scale, self.shift, groups=len(self.shift))  # int8 clips
        stream = Stream(dict(zip(self.slots, state[: len(self.slots)], strict=True)))
        x = self.blocks(x.transpose(1, 2) if self.planar else x, stream)
        scores = F.conv2d(x.mean(dim=2, keepdim=True) if x.shape[2] > 1 else x, self.weight, self.bias)
        after = stream.finish()
        after = [after[name] for name in self.slots]
        if self.window > 1:
            seen = torch.cat([state[-1], scores], dim=3)
            after.append(seen[:, :, :, 1:])
            scores = F.conv2d(seen, self.mean, groups=len(self.bias))
        if self.word is None:
            return scores.flatten(1).softmax(dim=1), *after
        strongest = F.max_pool2d(scores.permute(0, 2, 3, 1), (1, len(self.bias))) if len(self.bias) > 1 else scores
        return F.conv2d(strongest, -torch.ones(1, 1, 1, 1)).flatten(1).sigmoid(), *after


@dataclass
class Converted:
    """A model in float32, as bytes of a file, and the shapes of its inputs."""

    content: bytes
    shapes: list[tuple[int, ...]]

    def file(self) -> schema.ModelT:
        return schema.ModelT.InitFromPackedBuf(self.content, 0)


def convert(model: AcousticModel, word: int | None = None) -> Converted:
    """The model's step in float32.

    Raises:
        KwsError: it has an operation that cannot be converted.
    """
    model = fold(model)
    step, begun = Step(model, word).eval(), model.initial_state()
    slots = [begun[name] for name in step.slots]
    if step.window > 1:
        slots.append(torch.zeros(1, len(step.bias), 1, step.window - 1))
    example = (torch.zeros(1, model.n_features, 1, model.stride), *slots)
    maps = [i for i, tensor in enumerate(example) if tensor.ndim == 4]
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(step, example, strict=False).module()
            _keep_order(program.graph)
            program.recompile()
            last = litert_torch.to_channel_last_io(program, args=maps, outputs=[i for i in maps if i])
            example = tuple(x.permute(0, 2, 3, 1).contiguous() if x.ndim == 4 else x for x in example)
            converted = litert_torch.convert(last, example)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        raise KwsError(f"the model cannot become tflite: {str(error).strip().splitlines()[0][:300]}") from error
    return Converted(converted.model_content(), [tuple(x.shape) for x in example])


@contextlib.contextmanager
def _quiet():
    """Without the converter's and the quantiser's log."""
    litert_torch.config.show_progress = False
    hidden, disabled = io.StringIO(), logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _keep_order(graph: torch.fx.Graph) -> None:
    """Joins and cuts of maps along time are written with channels last: the converter then needs no transposing."""
    for node in list(graph.nodes):
        if node.target not in (aten.cat.default, aten.slice.Tensor) or node.meta["val"].ndim != 4:
            continue
        first, dim, *more = (*node.args, 0)[:2] + node.args[2:]
        if dim % 4 != 3:
            continue

        def turned(x, order):
            return graph.call_function(aten.permute.default, (x, order))

        with graph.inserting_before(node):
            is_list = isinstance(first, list | tuple)
            first = [turned(x, [0, 2, 3, 1]) for x in first] if is_list else turned(first, [0, 2, 3, 1])
            new = turned(graph.call_function(node.target, (first, 2, *more)), [0, 3, 1, 2])
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def quantised(model: Converted, clips: Iterable[np.ndarray], frames: tuple[float, float]) -> schema.ModelT:
    """The model in int8, inputs and outputs too: weights by channel, symmetric; activations by tensor, from the ranges
    that they have on `clips`, each the frames (m, dim) of a stream; that of `frames` is given.

    Raises:
        KwsError: the quantiser refuses it, or a state's scale is not the same going in and coming out.
    """
    with _quiet():
        kind = quantizer.Quantizer(bytearray(model.content), recipe.static_wi8_ai8())
        try:
            result = kind.quantize(_ranges(model, clips, frames), enable_progress_report=False).quantized_model
        except ValueError as error:
            raise KwsError(f"int8: ai-edge-quantizer cannot quantise this model ({error})") from None
    file = schema.ModelT.InitFromPackedBuf(bytes(result), 0)
    graph = file.subgraphs[0]
    graph.inputs, graph.outputs = _ordered(file.signatureDefs[0])
    for old, new in zip(graph.inputs[1:], graph.outputs[1:], strict=True):
        if unit(graph.tensors[old]) != unit(graph.tensors[new]):
            raise KwsError(
                f"int8: a state of shape {list(graph.tensors[old].shape)} enters in units {unit(graph.tensors[old])}"
                f" and leaves in {unit(graph.tensors[new])}: this model cannot be quantised so"
            )
    for tensor in graph.tensors:  # names are a fifth of a small file
        tensor.name = b""
    names = ["frames", *(f"state{i}" for i in range(len(model.shapes) - 1))]
    for i, name in enumerate(names):
        graph.tensors[graph.inputs[i]].name = name.encode()
        graph.tensors[graph.outputs[i]].name = (f"next_{name}" if i else "probabilities").encode()
    file.signatureDefs, file.metadata, file.description = [], [], b""
    return file


def _ordered(signature: schema.SignatureDefT) -> list[list[int]]:
    """The tensors of `args_0`, `args_1` …, and those of `output_0` …"""
    return [
        [entry.tensorIndex for entry in sorted(entries, key=lambda entry: int(entry.name.rpartition(b"_")[2]))]
        for entries in (signature.inputs, signature.outputs)
    ]


def unit(tensor: schema.TensorT) -> tuple[float, int]:
    """Scale and zero point."""
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])


def written(file: schema.ModelT, about: dict) -> bytes:
    """The file's bytes, with a description under the name `kws` in its metadata."""
    used = {tensor.buffer for graph in file.subgraphs for tensor in graph.tensors}
    for i, buffer in enumerate(file.buffers):
        if i not in used:
            buffer.data = None
    file.buffers.append(buffer := schema.BufferT())
    buffer.data = np.frombuffer(json.dumps(about, ensure_ascii=False).encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"kws", len(file.buffers) - 1
    file.metadata = [entry]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(file.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def about_of(content: bytes) -> dict:
    """The description in a file that `written` gave."""
    file = schema.ModelT.InitFromPackedBuf(content, 0)
    entry = next(entry for entry in file.metadata if entry.name == b"kws")
    return json.loads(bytes(file.buffers[entry.buffer].data))


def operators(file: schema.ModelT) -> set[str]:
    """The names of the operators that a file uses."""
    return {operator_of(file, op) for graph in file.subgraphs for op in graph.operators}


def operator_of(file: schema.ModelT, op: schema.OperatorT) -> str:
    code = file.operatorCodes[op.opcodeIndex]
    return OPERATOR[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _ranges(model: Converted, clips: Iterable[np.ndarray], frames: tuple[float, float]) -> dict[str, dict]:
    """The least and the greatest value of every tensor, as the quantiser takes them; one where a unit is shared."""
    interpreter = Interpreter(
        model_content=model.content, experimental_preserve_all_tensors=True, num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )  # fmt: skip
    interpreter.allocate_tensors()
    file = model.file()
    inputs, outputs = _ordered(file.signatureDefs[0])
    tensors = [
        i
        for i, tensor in enumerate(file.subgraphs[0].tensors)
        if tensor.type == schema.TensorType.FLOAT32 and file.buffers[tensor.buffer].data is None
    ]  # no weights
    low, high = dict.fromkeys(tensors, np.inf), dict.fromkeys(tensors, -np.inf)
    n = model.shapes[0][2]
    for clip in clips:
        state = [np.zeros(shape, np.float32) for shape in model.shapes[1:]]
        clip = np.clip(clip, *frames)
        for at in range(0, len(clip) - n + 1, n):
            for place, value in zip(inputs, [clip[None, None, at : at + n], *state], strict=True):
                interpreter.set_tensor(place, value)
            interpreter.invoke()
            for i in tensors:
                values = interpreter.get_tensor(i)
                low[i], high[i] = min(low[i], values.min()), max(high[i], values.max())
            state = [interpreter.get_tensor(place) for place in outputs[1:]]
    low[inputs[0]], high[inputs[0]] = frames
    for group in _of_one_unit(file, list(zip(inputs[1:], outputs[1:], strict=True))):
        alike = group & low.keys()  # not constants, nor whole numbers
        if not alike:
            continue
        least, greatest = min(low[i] for i in alike), max(high[i] for i in alike)
        low.update(dict.fromkeys(alike, least))
        high.update(dict.fromkeys(alike, greatest))
    names = {i: file.subgraphs[0].tensors[i].name.decode() for i in tensors}
    return {names[i]: {"min": np.full((1,), low[i]), "max": np.full((1,), high[i])} for i in tensors}


def _of_one_unit(file: schema.ModelT, pairs: list[tuple[int, int]]) -> list[set[int]]:
    """Tensors that int8 must hold in one unit: these pairs, and those that an operator hands on as they are."""
    joined = [set(pair) for pair in pairs]
    for op in file.subgraphs[0].operators:
        name = operator_of(file, op)
        if name in ("CONCATENATION", "SLICE", "STRIDED_SLICE", "RESHAPE", "TRANSPOSE", "MAX_POOL_2D", "PAD"):
            joined.append({*(op.inputs if name == "CONCATENATION" else op.inputs[:1]), *op.outputs})
    groups = []
    for group in joined:
        group = {int(i) for i in group}
        for other in [other for other in groups if other & group]:
            groups.remove(other)
            group |= other
        groups.append(group)
    return groups
