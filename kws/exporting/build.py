"""A model and its front-end to one ONNX graph of a stream's step: samples and state in, probabilities and state out."""

import warnings
from dataclasses import dataclass

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.exporting.frontend import add_frontend, check
from kws.exporting.graph import Graph
from kws.exporting.lowering import Lowering
from kws.features.options import Options
from kws.models import AcousticModel
from kws.models.acoustic import CLIP
from kws.streaming import Stream, WindowedMean


class Step(nn.Module):
    """Normalised frames and a stream's slots to what classes add to the mean, what the speller adds after it (or
    nothing), and the next slots.

    The classifier stands before the mean over the last window, which commutes: its few outputs are what is remembered.
    """

    def __init__(self, model: AcousticModel):
        super().__init__()
        if type(model.pool) is not WindowedMean:
            raise TypeError(f"{type(model.pool).__name__} in the place of the mean over the last window")
        self.model = model
        self.weight = torch.cat([model.classifier.weight, torch.zeros_like(model.classifier.weight[:1])])
        self.bias = torch.cat([model.classifier.bias, torch.ones(1)])

    def forward(self, frames: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """frames (1, n, dim) to scores (1, steps, classes + 1), of which the last is 1, which counts steps."""
        x = frames.transpose(1, 2)
        stream = Stream(state)
        heard, x = self.model.maps(x[:, None] if self.model.planar else x[:, :, None], stream)
        spelt = [] if self.model.speller is None else [self.model.speller(heard, stream)]
        return F.linear(x.mean(dim=2).transpose(1, 2), self.weight, self.bias), spelt, stream.finish()


@dataclass
class Built:
    """A graph, and its state: shape by the name of the input; the output `next_…` is what the next chunk is given."""

    proto: onnx.ModelProto
    state: dict[str, list[int]]


def build(
    model: AcousticModel, options: Options, n_frames: int, batched: bool = False, quantise: str | None = None,
    ranges: dict[int, tuple[float, float]] | None = None, watched: bool = False,
) -> Built:  # fmt: skip
    """The graph for chunks of `n_frames` shifts.

    Inputs: `samples` (1, n_frames · shift) in int16 units, and the state: `past` (1, overlap), which begins as the
    stream's first samples, and others, which begin as zeros. Outputs: `probabilities` (1, steps, labels) and the next
    state. With `batched` any number of streams stands in the place of the 1, and before the others' shapes. How weights
    are stored is `quantise` (see `storage`); with the `ranges` of products' inputs these are computed in integers, and
    a `watched` graph of one stream gives these inputs too, as product0, product1 …

    Raises:
        KwsError: the front-end or an operation of the model cannot be exported.
    """
    check(options)
    if n_frames % model.stride:
        raise ValueError(f"{n_frames} frames, not a multiple of the model's stride {model.stride}")
    state = {name: slot for name, slot in model.initial_state().items() if name not in ("input", "pool")}
    example = torch.zeros(1, n_frames, model.n_features)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes")  # of nn.GRU, which lists its weights twice
        program = torch.export.export(Step(model.eval()), (example, state), strict=False)
    orders, kept, wishes = {name: np.arange(slot.shape[1]) for name, slot in state.items()}, {}, {}
    for _ in range(2):  # the first finds out which order of channels suits whom, and how much of its past each keeps
        graph = Graph(batched, wishes, quantise, ranges)
        built = _assemble(graph, model, options, n_frames, watched, program, state, orders, kept)
        wishes = graph.wishes
    return built


def _assemble(graph, model, options, n_frames, watched, program, state, orders, kept) -> Built:
    batched = graph.batched
    steps, classes, window = n_frames // model.stride, model.classifier.out_features, model.pool.window
    overlap = options.window_samples - options.shift_samples
    streams = ["streams" if batched else 1]
    inputs, outputs, slots = {"samples": [*streams, n_frames * options.shift_samples]}, {}, {}
    samples = "samples"
    if overlap:
        inputs["past"] = [*streams, overlap]
        samples = graph.node("Concat", "past", "samples", axis=1)
        past = graph.node("Slice", samples, *(graph.integers(n) for n in (-overlap, 1 << 30, 1)))
        outputs["next_past"] = past, inputs["past"]
    groups = _groups(state, kept)
    for name, members in groups.items():
        inputs[name] = [*streams * graph.lead(len(members.shape)), *members.shape]
        members.read(graph, name, state, orders, slots)
    if window > 1:
        inputs["mean"] = [*streams * graph.lead(2), window - 1, classes + 1]
        seen = graph.add("mean", (window - 1, classes + 1))
    mean, std = (values.detach().numpy().astype(np.float64) for values in (model.mean, model.std))
    frames = add_frontend(graph, samples, n_frames, options, mean, std, CLIP)
    frames = graph.add(frames, (n_frames, model.n_features))[None]
    results = Lowering(graph).run(program, [frames, *(slots[name] for name in state)])
    scores, spelt, after = torch.utils._pytree.tree_unflatten(results, program.call_spec.out_spec)
    kept |= {name: int(np.isin(places, slots[name]).sum() / places[..., :1].size) for name, places in after.items()}
    for name, places in after.items():  # in the next pass its channels will lie as those that it is joined with
        if places.ndim == 4 and places.shape[2] == 1:
            orders[name] = np.argsort(places[0, :, 0, -1], kind="stable")
    seen = np.concatenate([seen, scores[0]]) if window > 1 else scores[0]
    seen = graph.add(graph.get(seen), seen.shape)  # so that what stays of it is a part of it
    offset = np.arange(len(seen)) - np.arange(steps)[:, None]
    band = ((offset >= 0) & (offset < window)).astype(np.float32)
    sums = graph.node("MatMul", graph.constant(band if batched else band[None]), graph.get(seen))
    sums, counts = graph.node("Split", sums, graph.integers(classes, 1), outputs=2, axis=-1)
    logits = graph.node("Div", sums, counts)
    for added in spelt:
        logits = graph.node("Add", logits, graph.get(added[0]))
    probabilities = graph.node("Softmax", logits, axis=-1)
    outputs["probabilities"] = probabilities, [*streams, steps, classes]
    for name, members in groups.items():
        outputs[f"next_{name}"] = graph.get(members.written(after, orders)), inputs[name]
    if window > 1:
        outputs["next_mean"] = graph.get(seen[steps:]), inputs["mean"]
    if watched:
        outputs |= {f"product{number}": factor for number, factor in enumerate(graph.factors)}
    sizes = {name: [1 if size == "streams" else size for size in shape] for name, shape in inputs.items()}
    sizes.pop("samples")
    return Built(graph.finish(inputs, outputs), sizes)


@dataclass
class Group:
    """Slots that are one tensor: those of one band and length that keep as much of their past side by side, as
    (frames, channels); others alone."""

    names: list[str]
    shape: tuple[int, ...]

    def read(self, graph: Graph, tensor: str, state: dict, orders: dict, slots: dict) -> None:
        """Fills in `slots`: the places of each, as torch has it."""
        whole = graph.add(tensor, self.shape)
        if not _is_rows(state[self.names[0]]):
            slots[self.names[0]] = whole.reshape(state[self.names[0]].shape)
            return
        widths = [state[name].shape[1] for name in self.names]
        parts = np.split(whole, np.cumsum(widths)[:-1], axis=1)
        graph.remember(whole, widths)
        if len(parts) > 1:
            split = graph.node("Split", tensor, graph.integers(*widths), outputs=len(widths), axis=-1)
            for name, part in zip(split, parts, strict=True):
                graph.also(name, np.ascontiguousarray(part))
        for name, part in zip(self.names, parts, strict=True):
            slots[name] = part[:, np.argsort(orders[name])].T[None, :, None]

    def written(self, after: dict, orders: dict) -> np.ndarray:
        """The places of the next state in this tensor."""
        if not _is_rows(after[self.names[0]]):
            return after[self.names[0]].reshape(self.shape)
        return np.concatenate([after[name][0, orders[name], 0].T for name in self.names], axis=1)


def _is_rows(slot) -> bool:
    return slot.ndim == 4 and slot.shape[2] == 1


def _groups(state: dict[str, Tensor], kept: dict[str, int]) -> dict[str, Group]:
    groups = {}
    for name, slot in state.items():
        groups.setdefault((slot.shape[3], kept.get(name)) if _is_rows(slot) else name, []).append(name)
    found = {}
    for number, names in enumerate(groups.values()):
        slot = state[names[0]]
        width = sum(state[name].shape[1] for name in names)
        found[f"state{number}"] = Group(names, (slot.shape[3], width) if _is_rows(slot) else tuple(slot.shape[1:]))
    return found
