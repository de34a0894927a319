"""Tensors as they are stored: codes packed to their bits, and the few numbers that turn codes into values."""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kws.errors import KwsError

LARGEST = torch.finfo(torch.float32).max


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (n,) uint8, each below 2^bits, as ⌈n·bits / 8⌉ bytes, the first code in the highest bits.

    Raises:
        ValueError: `bits` is not 1 to 8, or a code does not fit.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"{bits} bits: codes have 1 to 8")
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {codes.max()} does not fit into {bits} bits")
    return np.packbits(np.unpackbits(codes.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :])


def unpack(packed: np.ndarray, bits: int, n: int) -> np.ndarray:
    """The n codes (n,) uint8 that `pack` packed."""
    each = np.unpackbits(packed, count=n * bits).reshape(n, bits)
    return np.packbits(np.pad(each, ((0, 0), (8 - bits, 0))), axis=1)[:, 0]


def _affine(codes: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """(Q − z)·s, exact before it is rounded to float32."""
    return (codes.double() - zero[:, None]) * scale.double()[:, None]


def _sign(codes: Tensor, scale: Tensor) -> Tensor:
    return (2 * codes.double() - 1) * scale.double()[:, None]


def _lookup(codes: Tensor, codebook: Tensor) -> Tensor:
    return codebook.gather(1, codes.long())


def _power(codes: Tensor, top: Tensor) -> Tensor:
    """Codes 0 and 1 are 0; the others are ±2^(top + 1 − k), k from 1, the sign in the lowest bit."""
    level, negative = codes.long() >> 1, (codes & 1).bool()
    exponent = top.long()[:, None] + 1 - level
    table = torch.tensor([0.0, *(math.ldexp(1.0, e) for e in range(-149, 128))], device=codes.device)
    magnitude = torch.where(level == 0, 0.0, table[(exponent + 150).clamp(0, 277)])
    return torch.where(negative, -magnitude, magnitude)


def _sparse(codes: Tensor, values: Tensor) -> Tensor:
    """`values`, in order, where the code is 1, and 0 elsewhere."""
    return torch.zeros(codes.shape, device=codes.device).masked_scatter_(codes.bool(), values)


FORMS = {"affine": _affine, "sign": _sign, "lookup": _lookup, "power": _power, "sparse": _sparse}


@dataclass(frozen=True)
class Stored:
    """A tensor of `shape` as it is stored.

    form: how codes become values, a name in FORMS; or "float", values as they are.
    codes: (groups, n) uint8, each below 2^bits; groups are channels (of the first axis) or one for all.
    parameters: what the form takes beside them.
    """

    form: str
    shape: tuple[int, ...]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    codes: Tensor | None = None
    bits: int = 0

    @classmethod
    def plain(cls, values: Tensor) -> "Stored":
        return cls("float", tuple(values.shape), {"values": values})

    def value(self) -> Tensor:
        """The tensor: float32, or as it was where it is stored plain. The same bits wherever it is computed."""
        if self.codes is None:
            return self.parameters["values"].reshape(self.shape)
        return FORMS[self.form](self.codes, **self.parameters).clamp(-LARGEST, LARGEST).float().reshape(self.shape)

    @property
    def n_bits(self) -> int:
        """Of its codes and parameters."""
        codes = 0 if self.codes is None else self.bits * self.codes.numel()
        return codes + sum(8 * p.numel() * p.element_size() for p in self.parameters.values())


def write(tensors: Mapping[str, Stored]) -> Tensor:
    """All of `tensors` as one (n,) uint8 tensor: the length of an index (4 bytes, little-endian), the index (JSON,
    deflated: per tensor its name, form, shape, groups, bits and parameters), then its bytes in that order."""
    index, data = [], []
    for name, stored in tensors.items():
        arrays = {key: value.detach().cpu().contiguous().numpy() for key, value in stored.parameters.items()}
        kinds = [[key, array.dtype.str, array.shape] for key, array in arrays.items()]
        groups = 0 if stored.codes is None else len(stored.codes)
        index.append([name, stored.form, stored.shape, groups, stored.bits, kinds])
        if groups:
            data.append(pack(stored.codes.cpu().numpy().reshape(-1), stored.bits))
        data += [np.frombuffer(array.tobytes(), np.uint8) for array in arrays.values()]
    head = zlib.compress(json.dumps(index, separators=(",", ":")).encode(), 9)
    return torch.from_numpy(np.concatenate([np.array([len(head)], "<u4").view(np.uint8), np.frombuffer(head, np.uint8),
                                            *data]))  # fmt: skip


def read(blob: Tensor) -> dict[str, Stored]:
    """What `write` wrote.

    Raises:
        KwsError: it is cut short or damaged.
    """
    content = blob.cpu().numpy()
    try:
        at = 4 + int(content[:4].view("<u4")[0])
        index = json.loads(zlib.decompress(content[4:at].tobytes()))
        tensors = {}
        for name, form, shape, groups, bits, kinds in index:
            n, codes, parameters = math.prod(shape), None, {}
            if groups:
                size = -(-n * bits // 8)
                codes = torch.from_numpy(unpack(content[at : at + size], bits, n)).reshape(groups, -1)
                at += size
            for key, kind, dimensions in kinds:
                size = math.prod(dimensions) * np.dtype(kind).itemsize
                parameters[key] = torch.from_numpy(content[at : at + size].view(kind).reshape(dimensions).copy())
                at += size
            tensors[name] = Stored(form, tuple(shape), parameters, codes, bits)
        if at != len(content):
            raise ValueError(f"{len(content)} bytes, {at} expected")
    except (ValueError, IndexError, zlib.error) as error:
        raise KwsError(f"the packed weights are damaged ({error})") from None
    return tensors
