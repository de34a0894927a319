"""Per-channel energy normalisation (PCEN): automatic gain control and root compression in place of the logarithm.

    M[t] = (1 - s) M[t - 1] + s E[t]          P[t] = (E[t] / (eps + M[t])^alpha + delta)^r - delta^r

E are mel energies (`use_log_fbank=false`), each column by itself. Wang et al., "Trainable frontend for robust and
far-field keyword spotting", arXiv:1607.05666, section 2; Lostanlen et al., "Per-channel energy normalization: why and
how", IEEE Signal Processing Letters 26(1), 2019, on what the parameters mean. NumPy for streams, torch for batches.

M before the first frame is that frame, so that M[0] = E[0]: a recording that begins loud is not taken for an onset.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kws.errors import KwsError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_FRAMES = 1024  # frames held in float64 at a time: memory stays at the output's size
TILE_FRAMES = 64  # the torch form smooths tiles of so many frames side by side; a power of 2


@dataclass(frozen=True, kw_only=True)
class PcenOptions:
    """Wang et al.'s values. They are for frames every 10 ms; `smoothing` gives `s` for others."""

    alpha: float = 0.98  # strength of the gain control: 0 none, 1 full
    delta: float = 2.0  # bias: energies far below delta times the background are compressed linearly
    r: float = 0.5  # exponent of the compression
    s: float = 0.025  # weight of a new frame in the smoothed energy
    eps: float = 1e-6  # keeps silence from a division by 0

    def __post_init__(self):
        for name, most in (("alpha", 1), ("r", 1), ("s", 1), ("delta", np.inf), ("eps", np.inf)):
            value = getattr(self, name)
            if not 0 <= value <= most or value == np.inf or (value == 0 and name != "alpha"):
                raise OptionError(f"PCEN's {name}={value}: expected a number above 0{' and at most 1' * (most == 1)}")


def smoothing(time_constant_ms: float, shift_ms: float = 10.0) -> float:
    """The `s` whose smoother has this time constant at one frame every `shift_ms` (Lostanlen et al. 2019).

    395 ms at 10 ms is the 0.025 of Wang et al.
    """
    frames = time_constant_ms / shift_ms
    if not 0 < frames < np.inf:
        raise OptionError(f"time_constant_ms={time_constant_ms}, shift_ms={shift_ms}: expected numbers above 0")
    return float((np.sqrt(1 + 4 * frames**2) - 1) / (2 * frames**2))


class Pcen:
    """Mel energies (n, dim) to PCEN (n, dim) as a stream that waits for nothing, float32 (float64 from float64).

    The smoother goes frame by frame, in float64: the cheaper form of `pcen` works on whole tiles, which a stream
    that hears a frame or ten at a time does not have.
    """

    look_ahead = 0

    def __init__(self, options: PcenOptions | None = None):
        self.options = options or PcenOptions()
        self.reset()

    def reset(self) -> None:
        """Forgets what was heard: the next frame is the first of a stream."""
        self._smoothed = None  # M of the last frame, (dim,) float64; None before the first

    def push(self, frames: np.ndarray, flush: bool = False) -> np.ndarray:
        """The next energies (n, dim) to as many frames. `flush` says that no frame follows: a new stream begins.

        Raises:
            KwsError: an energy is negative, a NaN or an infinity; the stream stays as it was.
            OptionError: frames have another shape than (n, dim).
        """
        energy = np.asarray(frames)
        dim = energy.shape[-1] if self._smoothed is None else len(self._smoothed)
        if energy.ndim != 2 or energy.shape[1] != dim:
            raise OptionError(f"expected frames of shape (frames, {dim}), got {energy.shape}")
        energy = np.ascontiguousarray(energy, np.float64 if energy.dtype == np.float64 else np.float32)
        if not (right := (energy >= 0) & (energy < np.inf)).all():
            row, column = np.argwhere(~right)[0]
            raise KwsError(
                f"frame {row} holds {energy[row, column]} in column {column}; PCEN takes mel energies, finite and not"
                " below 0 (use_log_fbank=false)"
            )
        if self._smoothed is None and len(energy):
            self._smoothed = energy[0].astype(np.float64)
        out = np.empty_like(energy)
        for at in range(0, len(energy), BLOCK_FRAMES):
            out[at : at + BLOCK_FRAMES] = self._block(energy[at : at + BLOCK_FRAMES])
        if flush:
            self.reset()
        return out

    def _block(self, energy: np.ndarray) -> np.ndarray:
        o = self.options
        smoothed = o.s * energy.astype(np.float64)
        last, decay = self._smoothed, 1.0 - o.s
        for row in smoothed:
            row += decay * last
            last = row
        self._smoothed = last.copy()
        x = (smoothed + o.eps).astype(energy.dtype)
        # E / x^alpha as E / x * x^(1 - alpha): a rounding of the logarithm then weighs 1 - alpha
        x = energy / x * np.exp((1.0 - o.alpha) * np.log(x)) + o.delta
        return (np.sqrt(x) if o.r == 0.5 else np.exp(o.r * np.log(x))) - o.delta**o.r


def pcen(energy: "Tensor", options: PcenOptions | None = None) -> "Tensor":
    """Mel energies (batch, frames, dim) to PCEN of the same shape, differentiable, on any device.

    A frame depends on the earlier ones alone, so padding at the end changes nothing, and only on its own utterance,
    bit for bit: all is elementwise. Values are not checked.

    Raises:
        OptionError: energies have another shape than (batch, frames, dim).
    """
    import torch

    o = options or PcenOptions()
    if energy.dim() != 3:
        raise OptionError(f"expected energies of shape (batch, frames, dim), got {tuple(energy.shape)}")
    if energy.numel() == 0:
        return energy.clone()
    x = _smooth(energy, o.s) + o.eps
    # written as in `Pcen`; log and exp, not pow: torch's pow rounds a value by its place in the tensor
    x = energy / x * torch.exp((1.0 - o.alpha) * torch.log(x)) + o.delta
    return (torch.sqrt(x) if o.r == 0.5 else torch.exp(o.r * torch.log(x))) - o.delta**o.r


def _smooth(energy: "Tensor", s: float) -> "Tensor":
    """M (batch, frames, dim), in a few passes over all frames in place of a step for each.

    Within tiles, from 0: a pass doubles the number of frames that each one sums. Then what each tile inherits from
    those before it, decayed. Both go by a frame's place from the start, so later frames change no bit of earlier ones.
    """
    import torch

    batch, n, dim = energy.shape
    decay = 1.0 - s
    within = (s * torch.nn.functional.pad(energy, (0, 0, 0, -n % TILE_FRAMES))).view(batch, -1, TILE_FRAMES, dim)
    seen = 1
    while seen < TILE_FRAMES:
        within[:, :, seen:] += decay**seen * within[:, :, :-seen]
        seen *= 2
    inherited = [energy[:, 0]]
    for own in within[:, :-1, -1].unbind(1):
        inherited.append(own + decay**TILE_FRAMES * inherited[-1])
    decays = torch.tensor([decay**i for i in range(1, TILE_FRAMES + 1)], dtype=energy.dtype, device=energy.device)
    smoothed = within + decays[:, None] * torch.stack(inherited, dim=1)[:, :, None]
    return smoothed.view(batch, -1, dim)[:, :n]
