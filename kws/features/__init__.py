"""Waveform to frames: Kaldi's spectrogram, fbank and MFCC.

    from kws.features import from_file
    frames = from_file("speech.wav", feat_type="fbank", feat_dim=80)   # (frames, 80) float32, as Kaldi computes them

    from kws.features.picture import plot
    plot("speech.wav", "speech.png")

None of this needs torch, which `kws.features.extractor` has its batches and gradients of.
"""

from pathlib import Path

import numpy as np

from kws import audio
from kws.features.framing import n_frames
from kws.features.options import (
    FbankOptions,
    MfccOptions,
    Options,
    SpectrogramOptions,
    describe,
    make_options,
    read_conf,
    write_conf,
)

__all__ = [
    "FbankOptions", "MfccOptions", "Options", "SpectrogramOptions", "describe", "from_file", "make_options", "n_frames",
    "read_conf", "write_conf",
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
    from kws.features.online import OnlineExtractor

    sizes = {"num_mel_bins": feat_dim}
    if feat_type != "fbank":
        sizes = {"num_ceps": feat_dim, "num_mel_bins": max(feat_dim, 23)}
    with audio.Sound(path) as sound:
        chosen = make_options(feat_type, **({"sample_frequency": float(sound.rate)} | sizes | options))
        rate = int(chosen.sample_frequency) if chosen.resamples(sound.rate) else None
        samples = np.concatenate([np.zeros(0, np.float32), *sound.blocks(channel, rate)])
    return OnlineExtractor(chosen).push(samples, flush=True)
