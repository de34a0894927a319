"""A model from a table of blocks."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kws.blocks import kinds
from kws.blocks.base import Block, Excitation, round_channels
from kws.models.acoustic import AcousticModel, Parallel, Rows
from kws.models.speller import Speller
from kws.models.table import Row, Scale, TableError, flat, read, total_stride

_OF_THE_BUILDER = {"c_in", "act", "window", "source", "bands"}  # arguments of blocks that a row does not write
FORMS = ("temporal", "planar")


def assemble(rows: list[Row], example: Tensor, scale: Scale, window: Callable[[int], int] = lambda _: 1) -> Rows:
    """The blocks of a table.

    Args:
        example: what the model reads, (1, channels, bands, frames): every row is tried on it.
        window: steps in the mean of the last second, at a stride in time.

    Raises:
        TableError: a row cannot be built, or not on what stands before it.
    """
    with torch.no_grad():
        blocks, _, _ = _Assembly(kinds(), example, scale, window).lay(scale.listed(rows), example, (1, 1))
    return blocks.train()


@dataclass(frozen=True)
class _Assembly:
    known: dict[str, type[Block]]
    example: Tensor
    scale: Scale
    window: Callable[[int], int]

    def lay(self, rows: list[Row], x: Tensor, rate: tuple[int, int]) -> tuple[Rows, Tensor, tuple[int, int]]:
        """Blocks for `rows` on a map like `x`, `rate` frames and bands of the input apart; with the map and the rate
        behind them."""
        blocks = Rows()
        for row in rows:
            if row.kind not in self.known and not row.branches:
                raise TableError(f"{row.where}: no block {row.kind!r}; there are {', '.join(sorted(self.known))}")
            pairs = [value for name, value in row.fields.items() if isinstance(value, tuple) and name != "branches"]
            if self.example.shape[2] == 1 and any(pair[1] > 1 for pair in pairs):
                raise TableError(f"{row.where}: the temporal form has one band; kernel and stride are k9, s2")
            for repeat in range(self.scale.repeats(row.repeats)):
                stride = row.stride if repeat == 0 else (1, 1)
                after = rate[0] * stride[0], rate[1] * stride[1]
                if row.branches:
                    block = Parallel([self.lay(branch, x, rate)[0] for branch in row.branches], row.kind == "sum")
                try:
                    block = block if row.branches else self.block(row, stride, x, after)
                    x = block.eval()(x, None, self.example) if getattr(block, "source", None) else block.eval()(x, None)
                except (ValueError, TypeError, RuntimeError) as error:
                    raise TableError(f"{row.where}: {str(error).splitlines()[0]}") from None
                if 0 in x.shape:
                    raise TableError(f"{row.where}: nothing is left of {tuple(self.example.shape[2:])} (bands, frames)")
                blocks.append(block)
                rate = after
        return blocks, x, rate

    def block(self, row: Row, stride: tuple[int, int], x: Tensor, rate: tuple[int, int]) -> Block:
        """One block from a row's fields and what stands before it."""
        place = {"window": self.window(rate[0]), "bands": x.shape[2], "source": (self.example.shape[1], rate)}
        return _block(self.known[row.kind], x.shape[1], {**row.fields, "stride": stride}, row.rule, self.scale, place)


def _block(block: type[Block], c_in: int, given: dict, rule: str, scale: Scale, place: dict) -> Block:
    """One block from a row's fields; `place` is what it may ask of what stands before it."""
    takes = inspect.signature(block.__init__).parameters
    if given["stride"] == (1, 1) and "stride" not in takes:
        del given["stride"]
    if "channels" in given:
        given["channels"] = scale.channels(given["channels"], rule)
    elif "channels" in takes:
        given["channels"] = c_in
    if "branches" in given:
        given["branches"] = tuple(map(scale.channels, given["branches"]))
    if "hidden" in given and "expansion" in given:
        raise ValueError("h and e both say how wide the middle is; one is enough")
    if "hidden" in given:
        given["hidden"] = scale.channels(given["hidden"])
    elif "expansion" in given and "hidden" in takes and "expansion" not in takes:
        given["hidden"] = round_channels(c_in * given.pop("expansion"), scale.divisor, scale.limit)
    if unknown := sorted(name for name in given if name not in takes or name in _OF_THE_BUILDER - {"act"}):
        raise ValueError(f"{block.kind} takes no {', '.join(unknown)}")
    for name, value in given.items():
        usual = takes[name].default
        if isinstance(usual, bool | int | float | tuple) and not _alike(value, usual):
            raise ValueError(f"{name} is {'a flag' if usual is False else f'written like {usual}'}, not {value}")
    if "se" in given:
        given["se"] = Excitation(given["se"], place["window"], **scale.excite)
    if "act" in takes:
        given.setdefault("act", scale.act)
    given |= {name: value for name, value in place.items() if name in takes}
    if needed := [n for n, p in takes.items() if p.default is p.empty and n not in ("self", "c_in", *given)]:
        written = ["hidden (h64, or e2 of the input's)" if name == "hidden" else name for name in needed]
        raise ValueError(f"{block.kind} needs {', '.join(written)}")
    return block(c_in, **given)


def _alike(value, usual) -> bool:
    if isinstance(usual, bool) or isinstance(value, bool):
        return isinstance(usual, bool) and isinstance(value, bool)
    return isinstance(value, tuple) == isinstance(usual, tuple) and (
        isinstance(value, int) or not isinstance(usual, int)
    )


def build(
    table: Iterable[str],
    n_features: int,
    n_classes: int,
    form: str = "temporal",
    window_ms: float = 1000.0,
    dropout: float = 0.1,
    shift_ms: float = 10.0,
    speller: dict | None = None,
    **scale,
) -> AcousticModel:
    """Builds a table's model.

    Args:
        table: rows, input first.
        n_features, n_classes: columns of a frame; labels.
        form: "temporal" takes the features as channels of one band; "planar" is a map of time × frequency.
        window_ms: span of the mean before the classifier, and of squeeze-excitation's.
        shift_ms: from one frame to the next.
        speller: what a `Speller` is made of, `after`: so many blocks, and `table`: its layers over their output. None
            is made where no label is `spoken`.
        scale: width, depth and conventions, as in `Scale`.

    Raises:
        TableError: a row and what is wrong with it.
    """
    if form not in FORMS:
        raise TableError(f"form={form!r}: choose one of {', '.join(FORMS)}")
    rows, scale = read(table), Scale(**scale)
    stride, _ = total_stride(rows)
    example = torch.zeros((1, n_features, 1, stride) if form == "temporal" else (1, 1, n_features, stride))

    def window(stride: int) -> int:
        return steps(window_ms, shift_ms * stride)

    blocks = assemble(rows, example, scale, window)
    spells = None
    if speller and any(speller["spoken"]):
        spells = _spells(blocks, example, scale, shift_ms * stride, **speller)
    with torch.no_grad():
        channels = blocks.eval()(example).shape[1]
    pooled = any(row.kind == "pool" for row in flat(rows))  # the table says itself where its mean stands
    return AcousticModel(
        blocks.train(), n_features, channels, n_classes, form == "planar", stride, 1 if pooled else window(stride),
        dropout, spells, speller["after"] if spells else 0,
    )  # fmt: skip


def _spells(
    blocks: Rows, example: Tensor, scale: Scale, step_ms: float, after: int, table: Iterable[str], **settings
) -> Speller:
    """The speller behind the first `after` of the blocks."""
    rows = read(table)
    with torch.no_grad():
        heard = blocks.eval()[:after](example)
        if heard.shape[2:] != (1, 1) or total_stride(rows)[0] > 1:
            raise TableError(f"speller.after={after}: it hears one band in the model's own steps, so after all strides")
        layers = assemble(rows, heard, scale)
        channels = layers.eval()(heard).shape[1]
    try:
        return Speller(layers, channels, step_ms=step_ms, **settings).train()
    except ValueError as error:
        raise TableError(f"speller: {error}") from None


def steps(window_ms: float, step_ms: float) -> int:
    """Whole steps in a window, at least one."""
    return max(1, round(window_ms / step_ms))
