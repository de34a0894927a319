"""Waveform, fbank, MFCC and deltas of a sound over one axis in seconds."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kws import audio
from kws.features.deltas import add_deltas
from kws.features.online import OnlineExtractor
from kws.features.options import make_options
from kws.features.tables import mel_scale

LONGEST = 60.0  # seconds that are drawn; a frame of more would be narrower than a line


def plot(path: str | Path, output: str | Path, n_mels: int = 80, n_ceps: int = 13, channel: int | None = None) -> None:
    """Draws a sound file's wave, log mel energies, cepstra and the cepstra's first and second derivatives as a PNG.

    Args:
        n_mels, n_ceps: columns of the fbank and of the MFCC; all else as Kaldi has it.

    Raises:
        kws.audio.AudioError: the file is not usable sound, or shorter than a window.
    """
    samples, rate = audio.read(path, channel)
    title = Path(path).name
    if len(samples) > LONGEST * rate:
        samples, title = samples[: round(LONGEST * rate)], f"{title} (the first {LONGEST:g} s)"
    fbank = make_options("fbank", sample_frequency=float(rate), num_mel_bins=n_mels)
    mfcc = make_options("mfcc", sample_frequency=float(rate), num_mel_bins=max(n_ceps, 23), num_ceps=n_ceps,
                        use_energy=False)  # fmt: skip
    frames, cepstra = (OnlineExtractor(options).push(samples, flush=True) for options in (fbank, mfcc))
    if not len(frames):
        raise audio.AudioError(f"{path}: {len(samples)} samples, a window needs {fbank.window_samples}")
    derivatives = add_deltas(cepstra)[:, n_ceps:]
    seconds = len(samples) / rate
    figure = Figure(figsize=(min(max(8.0, 4 * seconds), 20.0), 9), layout="constrained")
    wave, *images = figure.subplots(4, 1, sharex=True, height_ratios=[1, 2, 1.2, 1.6])
    wave.plot(np.arange(len(samples)) / rate, samples, linewidth=0.5)
    wave.set(title=f"{title}: {seconds:.2f} s at {rate} Hz", ylabel="sample\n(int16 units)", xlim=(0, seconds))
    shift = fbank.frame_shift / 1000
    start = (fbank.frame_length - fbank.frame_shift) / 2000  # a frame is drawn around its centre
    rows = (
        (frames, "magma", f"fbank, {n_mels} filters:\ncentre (Hz)", "log energy", False),
        (cepstra[:, 1:], "RdBu_r", "MFCC: coefficient\n(C0 not drawn)", "value", True),
        (derivatives, "RdBu_r", f"deltas of C0 to C{n_ceps - 1},\nthen their deltas", "change per frame", True),
    )
    for axes, (values, colours, label, unit, around_zero) in zip(images, rows, strict=True):
        low, high = np.percentile(values, [1, 99.8])
        if around_zero:
            low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
        first = 1 if values.shape[1] == n_ceps - 1 else 0
        extent = (start, start + shift * len(values), first - 0.5, first + values.shape[1] - 0.5)
        shown = axes.imshow(values.T, origin="lower", aspect="auto", interpolation="nearest", cmap=colours,
                            vmin=low, vmax=max(high, low + 1e-3), extent=extent)  # fmt: skip
        axes.set(ylabel=label, xlim=(0, seconds))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        figure.colorbar(shown, ax=axes, label=unit)
    hz = [f for f in (100, 250, 500, 1000, 2000, 4000, 8000, 16000) if f < fbank.high_hz]
    low, high = mel_scale(fbank.low_freq), mel_scale(fbank.high_hz)
    images[0].set_yticks([(mel_scale(f) - low) / (high - low) * (n_mels + 1) - 1 for f in hz], [f"{f:,}" for f in hz])
    images[2].axhline(n_ceps - 0.5, color="black", linewidth=0.8)
    images[-1].set(xlabel="time (s)")
    figure.savefig(output, dpi=110)
