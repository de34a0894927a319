"""The front-end as convolutions, products and logarithms: the form that every ONNX exporter takes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.errors import OptionError
from kws.features import tables
from kws.features.options import MelOptions, MfccOptions, Options


class ExportableExtractor(nn.Module):
    """Fbank or MFCC of a stream in chunks of whole shifts: what `FeatureExtractor` gives, to 1e-4.

    DC removal, pre-emphasis, window and the Fourier transform are one matrix, built in float64 and applied as a
    convolution.
    """

    def __init__(self, options: Options):
        super().__init__()
        o = self.options = options
        if not isinstance(o, MelOptions) or not o.snip_edges:
            raise OptionError("only fbank and mfcc with snip_edges=true can be exported: the others look ahead")
        if o.dither:
            raise OptionError(f"dither={o.dither} cannot be exported: set dither=0")
        size, points = o.window_samples, o.fft_samples // 2 + 1
        centring = np.eye(size) - o.remove_dc_offset / size
        emphasis = np.eye(size) - o.preemphasis_coefficient * np.eye(size, k=-1)
        emphasis[0, 0] -= o.preemphasis_coefficient  # before the first sample stands the first
        turns = np.outer(np.arange(points), np.arange(size)) % o.fft_samples * (2 * np.pi / o.fft_samples)
        waves = np.concatenate([np.cos(turns), -np.sin(turns)])
        windowed = tables.window(o).astype(np.float64)[:, None] * (emphasis @ centring)
        tensors = {
            "transform": (waves @ windowed)[:, None],  # (2 · points, 1, window)
            "mel": tables.mel_filters(o).T[:, :, None],
        }
        if o.use_energy:
            tensors["framing"] = (centring if o.raw_energy else windowed)[:, None]
        if isinstance(o, MfccOptions):
            tensors["dct"] = tables.dct(o).T[:, :, None]
        for name, value in tensors.items():
            self.register_buffer(name, torch.from_numpy(value.astype(np.float32)), persistent=False)

    @property
    def overlap(self) -> int:
        """Samples that a chunk shares with the one before it."""
        return max(self.options.window_samples - self.options.shift_samples, 0)

    def forward(self, samples: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The next samples (batch, n · shift) in int16 units, and the `overlap` before them (batch, overlap), to
        frames (batch, n, dim) and the next `past`. A stream begins with its first `overlap` samples as the past."""
        o, shift = self.options, self.options.shift_samples
        x = torch.cat([past, samples], dim=1)
        wave = x[:, None]
        spectrum = F.conv1d(wave, self.transform, stride=shift)
        points = o.fft_samples // 2 + 1
        power = spectrum[:, :points] * spectrum[:, :points] + spectrum[:, points:] * spectrum[:, points:]
        if not getattr(o, "use_power", True):
            power = power.sqrt()
        out = F.conv1d(power, self.mel)
        if o.htk_mode:
            out = out.clamp(min=1)
        if getattr(o, "use_log_fbank", True):
            out = out.clamp(min=tables.FLT_EPSILON).log()
        if isinstance(o, MfccOptions):
            out = F.conv1d(out, self.dct)
        if o.use_energy:
            framed = F.conv1d(wave, self.framing, stride=shift)
            energy = (framed * framed).sum(dim=1, keepdim=True)
            energy = energy.clamp(min=max(tables.FLT_EPSILON, o.energy_floor)).log()
            out = torch.cat([energy, out[:, 1:] if isinstance(o, MfccOptions) else out], dim=1)
        if o.htk_compat and (o.use_energy or isinstance(o, MfccOptions)):
            out = torch.cat([out[:, 1:], out[:, :1]], dim=1)
        return out.transpose(1, 2), x[:, x.shape[1] - self.overlap :]
