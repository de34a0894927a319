"""Waveform to frames: Kaldi's fbank and MFCC.

    from kws.features import from_file, plot
    frames = from_file("speech.wav", feat_type="fbank", feat_dim=80)   # (frames, 80) float32, as Kaldi computes them
    plot("speech.wav", "speech.png")

The options, tables and framing need NumPy alone; torch is imported when frames are computed with it.
"""

from pathlib import Path

import numpy as np

from kws import audio
from kws.features.framing import n_frames
from kws.features.options import (
    FbankOptions, MfccOptions, Options, SpectrogramOptions, describe, make_options, read_conf, write_conf,
)  # fmt: skip

__all__ = [
    "FbankOptions", "MfccOptions", "Options", "SpectrogramOptions", "describe", "from_file", "make_options", "n_frames",
    "plot", "read_conf", "write_conf",
]  # fmt: skip


def from_file(path: str | Path, feat_type: str = "fbank", feat_dim: int = 80, channel: int | None = None, **options):
    """Features of a sound file at its own sample rate.

    Args:
        path: any sound file that `kws.audio.read` takes.
        feat_type: "fbank" or "mfcc".
        feat_dim: columns of the result: mel bins of an fbank, cepstra of an MFCC (taken of at least 23 mel bins).
        channel: which channel of a file with several.
        options: any option of Kaldi's, by its name (`snip_edges=False`).

    Returns:
        (frames, feat_dim) float32 array.

    Raises:
        kws.audio.AudioError: the file is not usable sound.
        ValueError: an option is unknown or out of range.
    """
    import torch

    from kws.features.extractor import FeatureExtractor

    samples, rate = audio.read(path, channel)
    sizes = (
        {"num_mel_bins": feat_dim}
        if feat_type == "fbank"
        else {"num_ceps": feat_dim, "num_mel_bins": max(feat_dim, 23)}
    )
    chosen = make_options(feat_type, **({"sample_frequency": float(rate)} | sizes | options))
    return FeatureExtractor(chosen)(torch.from_numpy(samples)[None])[0][0].numpy()


def plot(path: str | Path, output: str | Path, feat_type: str = "fbank", feat_dim: int = 80, **options) -> None:
    """Draws a file's wave and its features over one axis in seconds, as a PNG."""
    from matplotlib.figure import Figure

    frames = from_file(path, feat_type, feat_dim, **options)
    samples, rate = audio.read(path, options.get("channel"))
    kind = make_options(feat_type, **({"sample_frequency": float(rate)} | _only_frame_options(options)))
    shift, window = kind.frame_shift / 1000, kind.frame_length / 1000
    start = 0.5 * window - 0.5 * shift if kind.snip_edges else 0.0  # a frame is drawn around its centre
    seconds = len(samples) / rate
    figure = Figure(figsize=(max(6.0, min(3 * seconds, 16.0)), 5), layout="constrained")
    wave, image = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    wave.plot(np.arange(len(samples)) / rate, samples, linewidth=0.5)
    wave.set(ylabel="sample\n(int16 units)", title=Path(path).name, xlim=(0, seconds))
    low, high = np.percentile(frames, [1, 99.8])
    shown = image.imshow(
        frames.T, origin="lower", aspect="auto", interpolation="nearest", cmap="magma",
        vmin=low, vmax=max(high, low + 1), extent=(start, start + shift * len(frames), -0.5, frames.shape[1] - 0.5),
    )  # fmt: skip
    image.set(
        xlabel="time (s)", ylabel="mel filter" if feat_type == "fbank" else "cepstral coefficient", xlim=(0, seconds)
    )
    figure.colorbar(shown, ax=image, label="log energy" if feat_type == "fbank" else "value")
    figure.savefig(output, dpi=110)


def _only_frame_options(options: dict) -> dict:
    return {name: options[name] for name in ("frame_shift", "frame_length", "snip_edges") if name in options}
