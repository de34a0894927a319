"""Waves to frames in torch, in batches and in streams, by one path: a whole file is one chunk to a fresh state."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kws.errors import OptionError
from kws.features import tables
from kws.features.framing import first_sample, n_frames, reflect
from kws.features.options import FbankOptions, MfccOptions

BLOCK_ROWS = 512  # frames worked on at a time: their spectra stay in the cache, memory stays at the output's size
TILE_ROWS = 64  # every matrix product has this many rows, as a BLAS picks its kernel, and so its rounding, by shape


@dataclass(frozen=True)
class FeatureState:
    """Where a batch of streams stands: the samples that coming frames will read again, and two counts."""

    tail: Tensor  # (batch, n) samples from index `first` on
    first: int = 0
    n_samples: int = 0
    n_frames: int = 0


class FeatureExtractor(nn.Module):
    """Kaldi's fbank or MFCC, by the type of `options`. Holds constants only, so one serves any number of streams.

    Kaldi: ProcessWindow in feature-window.cc, FbankComputer::Compute, MfccComputer::Compute. A frame depends on its
    own samples alone (pre-emphasis and DC removal happen inside it), which is what lets chunks give the whole's bits.
    """

    def __init__(self, options: FbankOptions):
        super().__init__()
        if options.dither != 0:
            raise OptionError("dither is not available: frames would differ from call to call; set dither=0")
        self.options = options
        mel = tables.mel_filters(options)
        buffers = {
            "window": tables.window(options),
            # power = re² + im² is summed by the mel product itself: each filter's row stands twice
            "mel": np.repeat(mel, 2, axis=0) if options.use_power else mel,
        }
        if isinstance(options, MfccOptions):
            buffers["dct"] = tables.dct(options)
        for name, table in buffers.items():
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    @property
    def dim(self) -> int:
        return self.options.dim

    def forward(self, waves: Tensor, lengths: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Whole waves (batch, samples) in int16 units to frames.

        Args:
            lengths: samples of each wave where they are padded at the end; the padding changes nothing.

        Returns:
            frames (batch, frames, dim), 0 after each wave's last, and the number of each wave's frames (batch,).
        """
        if waves.dim() != 2:
            raise ValueError(f"expected waves of shape (batch, samples), got {tuple(waves.shape)}")
        warn_if_not_int16_units(waves)
        if lengths is None or all(n == waves.shape[1] for n in lengths):
            frames, _ = self.stream(waves, flush=True)
            return frames, torch.full((len(waves),), frames.shape[1])
        rows = [self.stream(wave[None, :n], flush=True)[0][0] for wave, n in zip(waves, lengths, strict=True)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    def initial_state(self, batch: int = 1) -> FeatureState:
        return FeatureState(self.window.new_zeros(batch, 0))

    def stream(
        self, chunk: Tensor, state: FeatureState | None = None, flush: bool = False
    ) -> tuple[Tensor, FeatureState]:
        """The next samples (batch, n) of a batch of streams to the frames (batch, m, dim) now determined.

        `flush` says that no sample follows. The state given is not altered.
        """
        o = self.options
        state = state or self.initial_state(len(chunk))
        samples = torch.cat([state.tail, chunk.to(self.window.dtype)], dim=1)
        n_samples = state.n_samples + chunk.shape[1]
        end = max(n_frames(n_samples, o, flush), state.n_frames)
        frames = self._frames(samples, state.first, n_samples, state.n_frames, end)
        batch, count = frames.shape[:2]
        out = self._features(frames.reshape(batch * count, o.window_samples)).view(batch, count, o.dim)
        # one sample more than the next frame reads: a frame of odd length reflects that one at the wave's end
        keep = max(first_sample(end, o) - 1, state.first, 0)
        keep = min(keep, n_samples)
        return out, FeatureState(samples[:, keep - state.first :].clone(), keep, n_samples, end)

    def _frames(self, samples: Tensor, first: int, n_samples: int, begin: int, end: int) -> Tensor:
        """Frames begin..end (batch, end - begin, window) of `samples`, whose first has index `first`."""
        window, shift = self.options.window_samples, self.options.shift_samples
        if end <= begin:
            return samples.new_zeros(len(samples), 0, window)
        start = first_sample(begin, self.options)
        stop = first_sample(end - 1, self.options) + window
        if start < 0 or stop > n_samples:
            index = [reflect(i, n_samples) - first for i in range(min(start, 0), 0)]
            before = samples[:, index]
            after = samples[:, [reflect(i, n_samples) - first for i in range(n_samples, stop)]]
            samples = torch.cat([before, samples, after], dim=1)
            first = first - len(index)
        return samples[:, start - first : stop - first].unfold(1, window, shift)

    def _features(self, frames: Tensor) -> Tensor:
        """Rows of samples (rows, window) to rows of features (rows, dim), each a function of its own row alone."""
        out = frames.new_empty(len(frames), self.dim)
        for at in range(0, len(frames), BLOCK_ROWS):
            out[at : at + BLOCK_ROWS] = self._block(frames[at : at + BLOCK_ROWS])
        return out

    def _block(self, x: Tensor) -> Tensor:
        o = self.options
        if o.remove_dc_offset:
            x = x - x.mean(dim=1, keepdim=True)
        energy = _log_energy(x) if o.use_energy and o.raw_energy else None
        if o.preemphasis_coefficient != 0:
            previous = torch.cat([x[:, :1], x[:, :-1]], dim=1)
            x = torch.sub(x, previous, alpha=o.preemphasis_coefficient)
        padded = x.new_zeros(len(x), o.fft_samples)
        torch.mul(x, self.window, out=padded[:, : o.window_samples])
        if o.use_energy and not o.raw_energy:
            energy = _log_energy(padded[:, : o.window_samples])
        spectrum = torch.view_as_real(torch.fft.rfft(padded)).square_()
        spectrum = spectrum.flatten(1) if o.use_power else spectrum.sum(2).sqrt_()
        mel = _product(spectrum, self.mel)
        if o.use_log_fbank:
            mel = mel.clamp_(min=tables.FLT_EPSILON).log_()
        if energy is not None and o.energy_floor > 0:
            energy = energy.clamp(min=float(np.log(o.energy_floor)))
        if isinstance(o, MfccOptions):
            cepstra = _product(mel, self.dct)
            if o.use_energy:
                cepstra[:, 0] = energy
            return cepstra.roll(-1, dims=1) if o.htk_compat else cepstra
        if not o.use_energy:
            return mel
        columns = [mel, energy[:, None]] if o.htk_compat else [energy[:, None], mel]
        return torch.cat(columns, dim=1)


def _log_energy(x: Tensor) -> Tensor:
    return x.square().sum(dim=1).clamp(min=tables.FLT_EPSILON).log()


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix in tiles of TILE_ROWS, the last one filled with zeros."""
    out = rows.new_empty(len(rows), matrix.shape[1])
    whole = len(rows) // TILE_ROWS * TILE_ROWS
    for at in range(0, whole, TILE_ROWS):
        torch.mm(rows[at : at + TILE_ROWS], matrix, out=out[at : at + TILE_ROWS])
    if whole < len(rows):
        tile = rows.new_zeros(TILE_ROWS, rows.shape[1])
        tile[: len(rows) - whole] = rows[whole:]
        out[whole:] = torch.mm(tile, matrix)[: len(rows) - whole]
    return out


def warn_if_not_int16_units(waves: Tensor) -> None:
    """A front-end's input is in int16 units (full scale 32768); sound that never leaves ±1 is probably not."""
    peak = waves.abs().max() if waves.numel() else 0
    if 0 < peak <= 1 and (waves != waves.round()).any():  # the quietest 16-bit sound is whole numbers
        warnings.warn(
            f"the loudest sample is {float(peak):.3g}: features expect int16 units; multiply ±1 sound by 32768",
            stacklevel=3,
        )
