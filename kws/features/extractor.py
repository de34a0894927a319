"""Waves to frames in torch, in batches and in streams, by one path: a whole file is one chunk to a fresh state."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kws.errors import OptionError
from kws.features import dither, kernel, micro, tables
from kws.features.framing import advance, joined
from kws.features.options import MfccOptions, MicroOptions, Options, SpectrogramOptions


@dataclass(frozen=True)
class FeatureState:
    """Where a batch of streams stands: the samples that coming frames will read again, two counts, and what a front-end
    remembers beside."""

    tail: Tensor  # (batch, n) samples from index `first` on
    keys: Tensor | None = None  # (batch,) of the dither's noise
    noise: np.ndarray | None = None  # (batch, channels) estimates, of `micro`
    first: int = 0
    n_samples: int = 0
    n_frames: int = 0


class FeatureExtractor(nn.Module):
    """Kaldi's spectrogram, fbank or MFCC, or `micro`, by the type of `options`. Holds constants only, so one serves any
    number of streams.

    On a processor `kernel` computes the frames: they have the same bits in any chunk and any batch. On a GPU, in
    float64 and where a gradient is wanted, operations of torch do, which agree with it to 1e-4; `micro`, which is whole
    numbers, is computed on a processor for all of them and has no gradient.
    """

    def __init__(self, options: Options):
        super().__init__()
        self.options = options
        if isinstance(options, MicroOptions):
            window = np.zeros(0, np.float32)  # tells the device and the type alone
        else:
            kernel.of(options)  # what cannot be built is said now
            window = tables.window(options)
        self.register_buffer("window", torch.from_numpy(window), persistent=False)
        if isinstance(options, MfccOptions):
            self.register_buffer("dct", torch.from_numpy(tables.dct(options)), persistent=False)

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
        keys = noise = None
        if isinstance(self.options, MicroOptions):
            noise = np.zeros((batch, self.dim), np.int64)
        if self.options.dither:
            keys = [dither.key(self.options.dither_seed, u) for u in utterances or [0] * batch]
            keys = torch.tensor(keys, device=self.window.device)
        return FeatureState(self.window.new_empty(batch, 0), keys, noise)

    def stream(
        self, chunk: Tensor, state: FeatureState | None = None, flush: bool = False, warp: float = 1.0
    ) -> tuple[Tensor, FeatureState]:
        """The next samples (batch, n) of a batch of streams to the frames (batch, m, dim) now determined.

        `flush` says that no sample follows. The state given is not altered.

        Raises:
            OptionError: of `kernel.of`; a gradient is wanted of `micro`.
        """
        o = self.options
        state = state or self.initial_state(len(chunk))
        held = chunk.to(self.window.dtype)
        if state.tail.shape[1]:
            held = torch.cat([state.tail, held], dim=1)
        n_samples = state.n_samples + chunk.shape[1]
        step = advance(o, state.first, n_samples, state.n_frames, flush)
        count, tail = step.end - step.begin, held[:, step.keep :].clone()
        noise = None if state.noise is None else state.noise.copy()
        after = FeatureState(tail, state.keys, noise, state.first + step.keep, n_samples, step.end)
        wants_gradient = held.requires_grad and torch.is_grad_enabled()
        if isinstance(o, MicroOptions):
            if wants_gradient:
                raise OptionError("type=micro is computed in whole numbers, which have no gradient; type=fbank has")
            covered = joined(held.detach().cpu().numpy(), step.covered, np.concatenate)
            return torch.from_numpy(micro.frames(covered, count, noise)).to(held), after
        if held.device.type == "cpu" and held.dtype == torch.float32 and not wants_gradient:
            keys = None if state.keys is None else state.keys.numpy()
            covered = joined(held.detach().numpy(), step.covered, np.concatenate)
            return torch.from_numpy(kernel.frames(covered, step.begin, count, o, kernel.of(o, warp), keys)), after
        covered = joined(held, step.covered, torch.cat)
        if not count:
            return covered.new_empty(len(covered), 0, self.dim), after
        windows = covered.unfold(1, o.window_samples, o.shift_samples)
        if o.dither:
            windows = windows + o.dither * self._noise(state.keys, step.begin, count)
        return self._features(windows, warp), after

    def _noise(self, keys: Tensor, first: int, count: int) -> Tensor:
        """Standard normal noise (batch, count, window) for frames from index `first` on."""
        frames = torch.arange(first, first + count, device=keys.device)
        samples = torch.arange(self.options.window_samples, device=keys.device)
        drawn = dither.noise(keys[:, None, None], frames[None, :, None], samples[None, None], torch)
        return drawn.to(self.window.dtype)

    def _features(self, x: Tensor, warp: float) -> Tensor:
        """Windows (..., samples) to features (..., dim). Kaldi: as `kws.features.reference` says of each line."""
        o = self.options
        if o.remove_dc_offset:
            x = x - x.mean(dim=-1, keepdim=True)
        before = torch.cat([x[..., :1], x[..., :-1]], dim=-1)
        y = (x - o.preemphasis_coefficient * before) * self.window
        energy = (x if o.raw_energy else y).square().sum(dim=-1, keepdim=True)
        energy = energy.clamp(min=max(tables.FLT_EPSILON, o.energy_floor)).log()
        spectrum = torch.view_as_real(torch.fft.rfft(y, n=o.fft_samples))
        if o.return_raw_fft:
            ends = [spectrum[..., :1, 0], spectrum[..., -1:, 0]]
            return torch.cat([*ends, spectrum[..., 1:-1, :].flatten(-2)], dim=-1)
        power = spectrum.square().sum(dim=-1)
        if isinstance(o, SpectrogramOptions):
            return torch.cat([energy, power.clamp(min=tables.FLT_EPSILON).log()[..., 1:]], dim=-1)
        mel = (power if o.use_power else power.sqrt()) @ torch.from_numpy(tables.mel_filters(o, warp)).to(power)
        mel = mel.clamp(min=1) if o.htk_mode else mel
        mel = mel.clamp(min=tables.FLT_EPSILON).log() if o.use_log_fbank else mel
        if isinstance(o, MfccOptions):
            cepstra = mel @ self.dct
            cepstra = torch.cat([energy, cepstra[..., 1:]], dim=-1) if o.use_energy else cepstra
            return cepstra.roll(-1, dims=-1) if o.htk_compat else cepstra
        if not o.use_energy:
            return mel
        return torch.cat([mel, energy] if o.htk_compat else [energy, mel], dim=-1)


def warn_if_not_int16_units(waves: Tensor) -> None:
    """A front-end's input is in int16 units (full scale 32768); sound that never leaves ±1 is probably not."""
    peak = max(abs(float(end)) for end in waves.detach().aminmax()) if waves.numel() else 0
    if 0 < peak <= 1 and (waves != waves.round()).any():  # the quietest 16-bit sound is whole numbers
        warnings.warn(
            f"the loudest sample is {peak:.3g}: features expect int16 units; multiply ±1 sound by 32768",
            stacklevel=3,
        )
