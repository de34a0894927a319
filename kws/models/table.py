"""Tables of blocks: how a row reads, and how a table scales.

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

A row may also be branches side by side, each a list of rows, none for the identity:
{concat: [[conv_c8], [conv_c4, conv_k3_c8], []]} puts their channels side by side, {sum: ...} adds them.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kws.blocks.base import ACTIVATIONS, round_channels
from kws.errors import OptionError

_NAMES = {
    "k": "kernel", "s": "stride", "d": "dilation", "c": "channels", "cmin": "channels", "cfix": "channels",
    "e": "expansion", "h": "hidden", "g": "groups", "b": "branches", "res": "residual", "se": "se", "r": "repeats",
}  # fmt: skip
_PATTERNS = {"k": "#(x#)?", "s": "#(x#)?", "e": "#([.]#)?", "se": "#([.]#)?", "b": "#([.]#)*", "res": ""}


JOINS = ("concat", "sum")


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
    branches: list[list["Row"]] = field(default_factory=list)  # of a concat or a sum

    @property
    def stride(self) -> tuple[int, int]:
        """In time and frequency."""
        return total_stride(self.branches[0]) if self.branches else self.fields.get("stride", (1, 1))


def total_stride(rows: list[Row]) -> tuple[int, int]:
    """From the input to behind `rows`, in time and frequency."""
    strides = [row.stride for row in rows]
    return math.prod(time for time, _ in strides), math.prod(frequency for _, frequency in strides)


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


def read(table: Iterable[str | Mapping], where: str = "") -> list[Row]:
    """The rows of a table.

    Raises:
        TableError: a row cannot be read, or there is none.
    """
    if isinstance(table, str | Mapping) or not isinstance(table, Iterable) or not ((rows := list(table)) or where):
        raise TableError(f"{where}the table has no rows: {table!r}; it is a list of strings")
    return [_row(row, f"{where}row {number}, {row!r}") for number, row in enumerate(rows, 1)]


def _row(row: str | Mapping, where: str) -> Row:
    if not isinstance(row, Mapping):
        return decode(row, where)
    if len(row) != 1 or next(iter(row)) not in JOINS or isinstance(next(iter(row.values())), str | Mapping):
        raise TableError(f"{where}: branches are written {{concat: [[row, ...], [row, ...]]}}, or sum")
    ((join, branches),) = row.items()
    if len(branches) < 2:
        raise TableError(f"{where}: {join} takes two branches or more")
    where = where.split(",")[0]
    parts = [read(branch, f"{where}, branch {number}, ") for number, branch in enumerate(branches, 1)]
    if len(strides := {total_stride(part) for part in parts}) > 1:
        raise TableError(f"{where}, {join}: branches stride by {' and '.join(map(str, sorted(strides)))}")
    return Row(str(row), join, where=f"{where}, {join}", branches=parts)


def flat(rows: Iterable[Row]) -> Iterator[Row]:
    """Every row with those of its branches, in the order they are written."""
    for row in rows:
        if not row.branches:
            yield row
        for branch in row.branches:
            yield from flat(branch)


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
        wide, channels = [row for row in flat(rows) if "channels" in row.fields], lists[float(self.width)]
        if len(wide) != len(channels):
            raise TableError(f"widths of {self.width}: {len(channels)} numbers for {len(wide)} rows that have c")
        for row, number in zip(wide, channels, strict=True):
            row.fields["channels"], row.rule = number, "cfix"
        return rows
