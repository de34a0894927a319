"""Waves to frames in torch, in batches and in streams, by one path: a whole file is one chunk to a fresh state."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kws.features import dither, tables
from kws.features.framing import first_sample, n_frames, reflect
from kws.features.options import MelOptions, MfccOptions, Options, SpectrogramOptions

BLOCK_ROWS = 500  # frames worked on at a time: their spectra stay in the cache, memory stays at the output's size
TILE_ROWS = 100  # every matrix product has this many rows, as a BLAS picks its kernel, and so its rounding, by shape
BAND_BINS = 16  # mel filters of one product
ALIGNED = 16  # floats of a cache line: rows and bands of the power spectrum begin with one
MIN_COLUMNS = 16  # MKL's products of 5 to 11 columns round a row by its place in the tile


@dataclass(frozen=True)
class FeatureState:
    """Where a batch of streams stands: the samples that coming frames will read again, and two counts."""

    tail: Tensor  # (batch, n) samples from index `first` on
    keys: Tensor | None = None  # (batch,) of the dither's noise
    first: int = 0
    n_samples: int = 0
    n_frames: int = 0


class FeatureExtractor(nn.Module):
    """Kaldi's spectrogram, fbank or MFCC, by the type of `options`. Holds constants only, so one serves any number of
    streams.

    Kaldi: ProcessWindow in feature-window.cc, and Compute in feature-spectrogram.cc, feature-fbank.cc,
    feature-mfcc.cc. A frame depends on its own samples alone (pre-emphasis and DC removal happen inside it), which is
    what lets chunks give the whole's bits.
    """

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        self.register_buffer("window", torch.from_numpy(tables.window(options)), persistent=False)
        self.window_begins_at_0 = not self.window[0]
        self._mel: dict[tuple, list[tuple[slice, slice, Tensor]]] = {}
        if isinstance(options, MelOptions):
            self._filters(1.0)  # what cannot be built is said now
        if isinstance(options, MfccOptions):
            self.register_buffer("dct", _widened(torch.from_numpy(tables.dct(options))), persistent=False)

    @property
    def dim(self) -> int:
        return self.options.dim

    def forward(
        self, waves: Tensor, lengths: Sequence[int] | None = None, warps: Sequence[float] | None = None,
        utterances: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Whole waves (batch, samples) in int16 units to frames.

        Args:
            lengths: samples of each wave where they are padded at the end; the padding changes nothing.
            warps: VTLN factor of each wave; None: 1.
            utterances: a number for each wave, which its dither's noise is a function of; None: 0.

        Returns:
            frames (batch, frames, dim), 0 after each wave's last, and the number of each wave's frames (batch,).
        """
        if waves.dim() != 2:
            raise ValueError(f"expected waves of shape (batch, samples), got {tuple(waves.shape)}")
        warn_if_not_int16_units(waves)
        batch = len(waves)
        if lengths is None and warps is None:
            frames, _ = self.stream(waves, self.initial_state(batch, utterances), flush=True)
            return frames, torch.full((batch,), frames.shape[1])
        lengths, warps = lengths or [waves.shape[1]] * batch, warps or [1.0] * batch
        rows = []
        for i, (n, warp) in enumerate(zip(lengths, warps, strict=True)):
            alone = self.initial_state(1, utterances and utterances[i : i + 1])
            rows.append(self.stream(waves[i : i + 1, :n], alone, True, warp)[0][0])
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    def initial_state(self, batch: int = 1, utterances: Sequence[int] | None = None) -> FeatureState:
        """Streams that have not begun; `utterances` as in `forward`."""
        keys = None
        if self.options.dither:
            keys = [dither.key(self.options.dither_seed, u) for u in utterances or [0] * batch]
            keys = torch.tensor(keys, device=self.window.device)
        return FeatureState(self.window.new_empty(batch, 0), keys)

    def stream(
        self, chunk: Tensor, state: FeatureState | None = None, flush: bool = False, warp: float = 1.0
    ) -> tuple[Tensor, FeatureState]:
        """The next samples (batch, n) of a batch of streams to the frames (batch, m, dim) now determined.

        `flush` says that no sample follows. The state given is not altered.
        """
        o = self.options
        state = state or self.initial_state(len(chunk))
        samples = chunk.to(self.window.dtype)
        if state.tail.shape[1]:
            samples = torch.cat([state.tail, samples], dim=1)
        n_samples = state.n_samples + chunk.shape[1]
        end = max(n_frames(n_samples, o, flush), state.n_frames)
        covered = self._covered(samples, state.first, n_samples, state.n_frames, end)
        out = self._features(covered, state.n_frames, end, state.keys, warp)
        # one sample more than the next frame reads: a frame of odd length reflects that one at the wave's end
        keep = min(max(first_sample(end, o) - 1, state.first, 0), n_samples)
        return out, FeatureState(samples[:, keep - state.first :].clone(), state.keys, keep, n_samples, end)

    def _covered(self, samples: Tensor, first: int, n_samples: int, begin: int, end: int) -> Tensor:
        """What frames begin..end read of `samples`, whose first has index `first`, with reflected ends."""
        if end <= begin:
            return samples[:, :0]
        start = first_sample(begin, self.options)
        stop = first_sample(end - 1, self.options) + self.options.window_samples
        if start < 0 or stop > n_samples:
            index = [reflect(i, n_samples) - first for i in range(min(start, 0), 0)]
            before = samples[:, index]
            after = samples[:, [reflect(i, n_samples) - first for i in range(n_samples, stop)]]
            samples = torch.cat([before, samples, after], dim=1)
            first = first - len(index)
        return samples[:, start - first : stop - first]

    def _features(self, samples: Tensor, begin: int, end: int, keys: Tensor | None, warp: float) -> Tensor:
        """Frames begin..end (batch, end - begin, dim) of the samples that they cover, in blocks."""
        o, batch, count = self.options, len(samples), end - begin
        if not batch * count:
            return samples.new_empty(batch, count, self.dim)
        filters = self._filters(warp) if isinstance(o, MelOptions) else []
        streams = max(1, BLOCK_ROWS // count)
        out = samples.new_empty(batch, count, self.dim) if streams < batch or count > BLOCK_ROWS else None
        for i in range(0, batch, streams):
            for j in range(0, count, BLOCK_ROWS):
                n = min(BLOCK_ROWS, count - j)
                part = samples[i : i + streams, j * o.shift_samples :]
                part = part[:, : (n - 1) * o.shift_samples + o.window_samples]
                x = part.unfold(1, o.window_samples, o.shift_samples)
                if o.dither:
                    x = x + o.dither * self._noise(keys[i : i + streams], begin + j, n)
                    z = self._emphasised(x)
                else:  # once for all frames that share the samples
                    z = self._emphasised(part).unfold(1, o.window_samples - 1, o.shift_samples)
                block = self._block(x, z, filters).view(*x.shape[:2], -1)
                if out is None:
                    return block
                out[i : i + streams, j : j + n] = block
        return out

    def _emphasised(self, samples: Tensor) -> Tensor:
        """Pre-emphasis of every sample but the first, (..., n) to (..., n - 1). Product and difference are rounded one
        by one: with `alpha` torch fuses them in some places of a tensor and not in others."""
        if not self.options.preemphasis_coefficient:
            return samples[..., 1:]
        return (samples[..., :-1] * -self.options.preemphasis_coefficient).add_(samples[..., 1:])

    def _noise(self, keys: Tensor, first: int, count: int) -> Tensor:
        """Standard normal noise (batch, count, window) for frames from index `first` on."""
        frames = torch.arange(first, first + count, device=keys.device)
        samples = torch.arange(self.options.window_samples, device=keys.device)
        drawn = dither.noise(keys[:, None, None], frames[None, :, None], samples[None, None], torch)
        return drawn.to(self.window.dtype)

    def _block(self, x: Tensor, z: Tensor, filters) -> Tensor:
        """Frames x (streams, n, window), and z (streams, n, window - 1) after pre-emphasis, to (rows, dim)."""
        o = self.options
        # what pre-emphasis leaves of a constant, and of a frame's first sample
        keep = 1 - float(np.float32(o.preemphasis_coefficient))
        rows = x.shape[0] * x.shape[1]
        padded = x.new_empty(rows, o.fft_samples)
        padded[:, o.window_samples :].zero_()
        y = padded.view(*x.shape[:2], -1)[..., : o.window_samples]
        mean = x.mean(dim=-1, keepdim=True) if o.remove_dc_offset else x.new_zeros(1, 1, 1)
        torch.sub(z, mean * keep, out=y[..., 1:])
        if self.window_begins_at_0:
            y[..., 0] = 0
        else:
            y[..., 0] = (x[..., 0] - mean[..., 0]) * keep
        y.mul_(self.window)
        energy = None
        if getattr(o, "use_energy", True) and not getattr(o, "return_raw_fft", False):
            energy = (x - mean if o.raw_energy else y).reshape(rows, -1).square().sum(dim=1)
            energy = energy.clamp(min=max(tables.FLT_EPSILON, o.energy_floor)).log()
        spectrum = torch.view_as_real(torch.fft.rfft(padded))
        if isinstance(o, SpectrogramOptions):
            return _spectrogram(spectrum, energy)
        full = -(-rows // TILE_ROWS) * TILE_ROWS
        columns = filters[-1][0].stop
        power = x.new_empty(full, -(-columns // ALIGNED) * ALIGNED)  # magnitude where use_power is off
        power[rows:].zero_()
        if getattr(o, "use_power", True):
            torch.square(spectrum.flatten(1)[:, :columns], out=power[:rows, :columns])
        else:
            power[:rows, :columns] = spectrum.square().sum(dim=2).sqrt_()[:, :columns]
        mel = _product(power, filters)[:, : o.num_mel_bins]
        if o.htk_mode:
            mel.clamp_(min=1)
        if getattr(o, "use_log_fbank", True):
            mel.clamp_(min=tables.FLT_EPSILON).log_()
        if isinstance(o, MfccOptions):
            everything = slice(0, o.num_mel_bins), slice(0, self.dct.shape[1]), self.dct
            cepstra = _product(mel, [everything])[:rows, : o.num_ceps]
            if o.use_energy:
                cepstra[:, 0] = energy
            return cepstra.roll(-1, dims=1) if o.htk_compat else cepstra
        if not o.use_energy:
            return mel[:rows]
        columns = [mel[:rows], energy[:, None]] if o.htk_compat else [energy[:, None], mel[:rows]]
        return torch.cat(columns, dim=1)

    def _filters(self, warp: float) -> list[tuple[slice, slice, Tensor]]:
        """Blocks of the mel matrix: columns of the spectrum, columns of the result, weights. With power re² + im² is
        summed by the product itself: each point's row stands twice."""
        place = warp, self.window.device, self.window.dtype
        if place not in self._mel:
            filters = tables.mel_filters(self.options, warp)
            twice = 2 if getattr(self.options, "use_power", True) else 1
            blocks = []
            for points, bins in tables.bands(filters, max(1, filters.shape[1] // BAND_BINS)):
                points = slice(points.start // ALIGNED * ALIGNED, points.stop)
                block = _widened(torch.from_numpy(np.repeat(filters[points, bins], twice, axis=0)).to(self.window))
                points = slice(points.start * twice, points.stop * twice)
                blocks.append((points, slice(bins.start, bins.start + block.shape[1]), block))
            self._mel[place] = blocks
        return self._mel[place]


def _spectrogram(spectrum: Tensor, energy: Tensor | None) -> Tensor:
    """Log power (rows, points) of a spectrum (rows, points, 2) with energy in the first column; without, the transform
    as Kaldi packs it."""
    if energy is None:
        return torch.cat([spectrum[:, :1, 0], spectrum[:, -1:, 0], spectrum[:, 1:-1].flatten(1)], dim=1)
    out = spectrum.square().sum(dim=2).clamp_(min=tables.FLT_EPSILON).log_()
    out[:, 0] = energy
    return out


def _widened(matrix: Tensor) -> Tensor:
    """With columns of zeros up to MIN_COLUMNS."""
    return nn.functional.pad(matrix, (0, max(0, MIN_COLUMNS - matrix.shape[1])))


def _product(rows: Tensor, blocks: list[tuple[slice, slice, Tensor]]) -> Tensor:
    """rows (a multiple of TILE_ROWS, n) times a matrix given in blocks, tile by tile."""
    out = rows.new_empty(len(rows), blocks[-1][1].stop)
    for at in range(0, len(rows), TILE_ROWS):
        tile, to = rows[at : at + TILE_ROWS], out[at : at + TILE_ROWS]
        for points, bins, block in blocks:
            torch.mm(tile[:, points], block, out=to[:, bins])
    return out


def warn_if_not_int16_units(waves: Tensor) -> None:
    """A front-end's input is in int16 units (full scale 32768); sound that never leaves ±1 is probably not."""
    peak = max(abs(float(end)) for end in waves.aminmax()) if waves.numel() else 0
    if 0 < peak <= 1 and (waves != waves.round()).any():  # the quietest 16-bit sound is whole numbers
        warnings.warn(
            f"the loudest sample is {peak:.3g}: features expect int16 units; multiply ±1 sound by 32768",
            stacklevel=3,
        )
