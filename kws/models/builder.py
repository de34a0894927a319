"""A model from a table of blocks, one string a row, as timm decodes its block strings.

conv_k5_s2_c64       a convolution over 5 frames with stride 2 in time to 64 channels
ghost_k3x3_c24_e2_r3 three Ghost bottlenecks of 24 channels that expand twofold, kernel 3 (time) × 3 (frequency)

k, s   kernel and stride, time×frequency; one number speaks of time alone
d      dilation in time           c   output channels (times `width`); cmin: not below this, cfix: never scaled
e      expansion                  h   the channels between, scaled as c (instead of e)
g      groups                     b   widths of several branches, b64.96.128
se     squeeze-excitation, hidden channels = 1/se of the block's
r      how often the row stands, times `depth`; a stride is taken by the first only
res    add the block's input      and an activation's name, where it differs from the model's

A further argument of a block is written by its name: `reach9`, `cheap3x3`, or `bias` alone for a flag.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kws.blocks import kinds
from kws.blocks.base import ACTIVATIONS, Block, Excitation, round_channels
from kws.errors import OptionError
from kws.models.acoustic import AcousticModel, Rows

_NAMES = {
    "k": "kernel", "s": "stride", "d": "dilation", "c": "channels", "cmin": "channels", "cfix": "channels",
    "e": "expansion", "h": "hidden", "g": "groups", "b": "branches", "res": "residual", "se": "se", "r": "repeats",
}  # fmt: skip
_PATTERNS = {"k": "#(x#)?", "s": "#(x#)?", "e": "#([.]#)?", "se": "#([.]#)?", "b": "#([.]#)*", "res": ""}
_OF_THE_BUILDER = {"c_in", "act", "window", "source", "bands"}  # arguments of blocks that a row does not write
FORMS = ("temporal", "planar")


class TableError(OptionError):
    """A row of a block table that cannot be built: which one and why."""


@dataclass
class Row:
    """A row as it was written: `fields` by the names of a block's arguments."""

    text: str
    kind: str
    fields: dict[str, Any] = field(default_factory=dict)
    repeats: int | None = None  # None: not written, stands once at any depth
    rule: str = "c"
    where: str = ""

    @property
    def stride(self) -> tuple[int, int]:
        return self.fields.get("stride", (1, 1))


def decode(text: str, where: str = "") -> Row:
    """Reads a row; `where` begins what is said of a mistake.

    Raises:
        TableError: a token is not understood, stands twice, or a size is zero.
    """
    where = where or f"row {text!r}"
    kind, *tokens = str(text).split("_")
    row = Row(text, kind, where=where)
    for token in tokens:
        match = re.fullmatch(r"([a-z]+)([0-9][0-9.x]*)?", token)
        name, value = match.groups(default="") if match else (token, "")
        pattern = _PATTERNS.get(name, "#" if name in _NAMES else "(#(([.]|x)#)?)?").replace("#", "[0-9]+")
        full = "act" if name in ACTIVATIONS and not value else _NAMES.get(name, name)
        if match is None or not re.fullmatch(pattern, value):
            known = ", ".join([*_NAMES, *ACTIVATIONS])
            raise TableError(f"{where}: {token!r} is not understood; fields are {known}, and a block's own")
        number = _number(name, value)
        if number is not True and min(number if isinstance(number, tuple) else (number,)) <= 0:
            raise TableError(f"{where}: {token!r}: sizes start at 1")
        if full in row.fields or (full == "repeats" and row.repeats):
            raise TableError(f"{where}: {full} stands twice")
        if full == "repeats":
            row.repeats = number
        else:
            row.fields[full] = name if full == "act" else number
            row.rule = name if full == "channels" else row.rule
    return row


def _number(name: str, value: str) -> bool | int | float | tuple[int, ...]:
    if not value:
        return True
    if name == "b":
        return tuple(int(width) for width in value.split("."))
    if "x" in value:
        return tuple(int(size) for size in value.split("x"))
    if name in ("k", "s"):
        return int(value), 1
    return float(value) if name in ("e", "se") or "." in value else int(value)


def read(table: Iterable[str]) -> list[Row]:
    """The rows of a table.

    Raises:
        TableError: a row cannot be read, or there is none.
    """
    if isinstance(table, str) or not (rows := list(table)):
        raise TableError(f"the table has no rows: {table!r}; it is a list of strings")
    return [decode(row, f"row {number}, {row!r}") for number, row in enumerate(rows, 1)]


@dataclass(frozen=True)
class Scale:
    """What turns a table into a model of a size.

    width, depth: factors on channels and on repeats (rounded up, as in EfficientNet).
    phi: EfficientNet's compound coefficient (arXiv:1905.11946, equation 3): width times 1.1^φ and depth times 1.2^φ.
    divisor, limit: scaled channels are multiples of `divisor`, and not below `limit` of what they round.
    widths: where a paper lists channels instead of a rule: by width, one number for each row that has c.
    act, excite: the model's activation and the conventions of its squeeze-excitation (see `Excitation`).
    """

    width: float = 1.0
    depth: float = 1.0
    phi: float = 0.0
    divisor: int = 4
    limit: float = 0.9
    widths: Mapping[float, list[int]] | None = None
    act: str = "relu"
    excite: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.act not in ACTIVATIONS:
            raise TableError(f"act={self.act!r}: choose one of {', '.join(ACTIVATIONS)}")
        if not (self.width > 0 and self.depth > 0 and self.divisor > 0):
            raise TableError(f"width={self.width}, depth={self.depth}, divisor={self.divisor}: all are above 0")

    def channels(self, channels: float, rule: str = "c") -> int:
        if rule == "cfix":
            return int(channels)
        width = self.width * 1.1**self.phi
        return round_channels(channels * (max(1.0, width) if rule == "cmin" else width), self.divisor, self.limit)

    def repeats(self, repeats: int | None) -> int:
        return 1 if repeats is None else math.ceil(round(self.depth * 1.2**self.phi * repeats, 6))

    def listed(self, rows: list[Row]) -> list[Row]:
        """The rows with the channels that the paper lists for this width, if it does."""
        if self.widths is None:
            return rows
        lists = {float(width): list(channels) for width, channels in self.widths.items()}
        if float(self.width) not in lists:
            raise TableError(f"width={self.width}: this table is listed at {', '.join(map(str, sorted(lists)))} only")
        wide, channels = [row for row in rows if "channels" in row.fields], lists[float(self.width)]
        if len(wide) != len(channels):
            raise TableError(f"widths of {self.width}: {len(channels)} numbers for {len(wide)} rows that have c")
        for row, number in zip(wide, channels, strict=True):
            row.fields["channels"], row.rule = number, "cfix"
        return rows


def assemble(rows: list[Row], example: Tensor, scale: Scale, window: Callable[[int], int] = lambda _: 1) -> Rows:
    """The blocks of a table.

    Args:
        example: what the model reads, (1, channels, bands, frames): every row is tried on it.
        window: steps in the mean of the last second, at a stride in time.

    Raises:
        TableError: a row cannot be built, or not on what stands before it.
    """
    known, blocks, time, frequency, x = kinds(), Rows(), 1, 1, example
    for row in scale.listed(rows):
        if row.kind not in known:
            raise TableError(f"{row.where}: no block {row.kind!r}; there are {', '.join(sorted(known))}")
        pairs = [value for name, value in row.fields.items() if isinstance(value, tuple) and name != "branches"]
        if example.shape[2] == 1 and any(pair[1] > 1 for pair in pairs):
            raise TableError(f"{row.where}: the temporal form has one band; kernel and stride are k9, s2")
        for repeat in range(scale.repeats(row.repeats)):
            given = {**row.fields, "stride": row.stride if repeat == 0 else (1, 1)}
            time, frequency = time * given["stride"][0], frequency * given["stride"][1]
            place = {"window": window(time), "bands": x.shape[2], "source": (example.shape[1], (time, frequency))}
            try:
                block = _block(known[row.kind], x.shape[1], given, row.rule, scale, place)
                with torch.no_grad():
                    x = block.eval()(x, None, example) if getattr(block, "source", None) else block.eval()(x, None)
            except (ValueError, TypeError, RuntimeError) as error:
                raise TableError(f"{row.where}: {str(error).splitlines()[0]}") from None
            if 0 in x.shape:
                raise TableError(f"{row.where}: nothing is left of {tuple(example.shape[2:])} (bands, frames)")
            blocks.append(block)
    return blocks.train()


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
    **scale,
) -> AcousticModel:
    """Builds a table's model.

    Args:
        table: rows, input first.
        n_features, n_classes: columns of a frame; labels.
        form: "temporal" takes the features as channels of one band; "planar" is a map of time × frequency.
        window_ms: span of the mean before the classifier, and of squeeze-excitation's.
        shift_ms: from one frame to the next.
        scale: width, depth and conventions, as in `Scale`.

    Raises:
        TableError: a row and what is wrong with it.
    """
    if form not in FORMS:
        raise TableError(f"form={form!r}: choose one of {', '.join(FORMS)}")
    rows, scale = read(table), Scale(**scale)
    stride = math.prod(row.stride[0] for row in rows)
    example = torch.zeros((1, n_features, 1, stride) if form == "temporal" else (1, 1, n_features, stride))

    def window(stride: int) -> int:
        return steps(window_ms, shift_ms * stride)

    blocks = assemble(rows, example, scale, window)
    with torch.no_grad():
        channels = blocks.eval()(example).shape[1]
    pooled = any(row.kind == "pool" for row in rows)  # the table says itself where its mean stands
    return AcousticModel(
        blocks.train(), n_features, channels, n_classes, form == "planar", stride, 1 if pooled else window(stride),
        dropout,
    )  # fmt: skip


def steps(window_ms: float, step_ms: float) -> int:
    """Whole steps in a window, at least one."""
    return max(1, round(window_ms / step_ms))
