"""A model from a table of blocks, one string a row, as timm decodes its block strings.

conv_k5_s2_c64       a convolution over 5 frames with stride 2 in time to 64 channels
ghost_k3x3_c24_e2_r3 three Ghost bottlenecks of 24 channels that expand twofold, kernel 3 (time) × 3 (frequency)

k, s   kernel and stride, time×frequency; one number speaks of time alone
d      dilation in time           c   output channels (times `width`)
e      expansion                  g   groups
se     squeeze-excitation, hidden channels = 1/se of the block's
r      how often the row stands; a stride is taken by the first only
res    add the block's input      and an activation's name, where it differs from the model's
"""

import inspect
import re
from collections.abc import Iterable
from typing import Any

from kws.blocks import kinds
from kws.blocks.base import ACTIVATIONS
from kws.errors import OptionError
from kws.models.acoustic import AcousticModel
from kws.streaming import Chain

_NAMES = {"k": "kernel", "s": "stride", "d": "dilation", "c": "channels", "e": "expansion", "g": "groups", "se": "se"}
FORMS = ("temporal", "planar")


class TableError(OptionError):
    """A row of a block table that cannot be built: which one and why."""


def round_channels(channels: float, divisor: int = 4) -> int:
    """The nearest multiple of `divisor`, at least one, and not below 90 % (as MobileNet's authors round)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def decode(row: str) -> tuple[str, int, dict[str, Any]]:
    """A row's kind, its repeats, and its fields by the names of a block's arguments."""
    kind, *tokens = row.split("_")
    fields, repeats = {}, 1
    for token in tokens:
        match = re.fullmatch(r"([a-z]+)([0-9.]+(?:x[0-9]+)?)?", token)
        name, value = match.groups() if match else (token, None)
        if value is None and name in ACTIVATIONS:
            fields["act"] = name
        elif value is None and name == "res":
            fields["residual"] = True
        elif value and name == "r" and value.isdigit():
            repeats = int(value)
        elif value and name in ("k", "s") and re.fullmatch(r"[0-9]+(x[0-9]+)?", value):
            time, _, frequency = value.partition("x")
            fields[_NAMES[name]] = (int(time), int(frequency or 1))
        elif value and name in ("d", "c", "g") and value.isdigit():
            fields[_NAMES[name]] = int(value)
        elif value and name in ("e", "se") and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            fields[_NAMES[name]] = float(value)
        else:
            known = ", ".join([*_NAMES, "r", "res", *ACTIVATIONS])
            raise TableError(f"row {row!r}: {token!r} is not understood; fields are {known}")
    if repeats < 1 or 0 in [
        value for field in fields.values() for value in (field if isinstance(field, tuple) else [field])
    ]:
        raise TableError(f"row {row!r}: sizes start at 1")
    return kind, repeats, fields


def build(
    table: Iterable[str],
    n_features: int,
    n_classes: int,
    form: str = "temporal",
    width: float = 1.0,
    act: str = "relu",
    window_ms: float = 1000.0,
    dropout: float = 0.1,
    shift_ms: float = 10.0,
) -> AcousticModel:
    """Builds a table's model.

    Args:
        table: rows, input first.
        n_features, n_classes: columns of a frame; labels.
        form: "temporal" takes the features as channels of one band; "planar" is a map of time × frequency.
        width: factor on every row's channels.
        window_ms: span of the mean before the classifier, and of squeeze-excitation's.
        shift_ms: from one frame to the next.
    """
    if form not in FORMS:
        raise TableError(f"form={form!r}: choose one of {', '.join(FORMS)}")
    if act not in ACTIVATIONS:
        raise TableError(f"act={act!r}: choose one of {', '.join(ACTIVATIONS)}")
    known, blocks, stride = kinds(), [], 1
    channels, bands = (n_features, 1) if form == "temporal" else (1, n_features)
    for number, row in enumerate(table, 1):
        kind, repeats, fields = decode(row)
        if kind not in known:
            raise TableError(f"row {number}, {row!r}: no block {kind!r}; there are {', '.join(sorted(known))}")
        takes = inspect.signature(known[kind].__init__).parameters
        if unknown := sorted(set(fields) - set(takes)):
            raise TableError(f"row {number}, {row!r}: {kind} takes no {', '.join(unknown)}")
        fields = {"act": act, **fields, "channels": round_channels(fields.get("channels", channels) * width)}
        for repeat in range(repeats):
            if repeat:
                fields["stride"] = (1, 1)
            time, frequency = fields.get("stride", (1, 1))
            if form == "temporal" and fields.get("kernel", (1, 1))[1] * frequency > 1:
                raise TableError(f"row {number}, {row!r}: the temporal form has one band; kernel and stride are k9, s2")
            if "window" in takes:  # a block that strides excites after its stride
                fields["window"] = steps(window_ms, shift_ms * stride * time)
            try:
                blocks.append(known[kind](channels, **fields))
            except (ValueError, TypeError) as error:
                raise TableError(f"row {number}, {row!r}: {error}") from None
            channels, stride, bands = fields["channels"], stride * time, -(-bands // frequency)
    window = steps(window_ms, shift_ms * stride)
    return AcousticModel(
        Chain(*blocks), n_features, channels, n_classes, form == "planar", stride, window, dropout
    )  # fmt: skip


def steps(window_ms: float, step_ms: float) -> int:
    """Whole steps in a window, at least one."""
    return max(1, round(window_ms / step_ms))
