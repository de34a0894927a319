"""Clips one after another with background before each, as a stream would have them."""

from collections.abc import Iterator, Sequence

import numpy as np

from kws.augment import level
from kws.data.dataset import read_clip
from kws.data.source import Clip


def joined(
    clips: Sequence[Clip], noise: Sequence[Clip], rate: int, gap_ms: float, snr: float, rng: np.random.Generator
) -> Iterator[tuple[Clip, np.ndarray, np.ndarray]]:
    """Each clip with the background (n,) to stand before it and its own samples (m,).

    Args:
        noise: recordings of which the background is cut, `snr` dB below the clip; without any it is digital silence.
    """
    gap, beds = round(gap_ms * rate / 1000), [read_clip(each, rate) for each in noise]
    for clip in clips:
        wave = read_clip(clip, rate)
        bed = beds[rng.integers(len(beds))] if beds else np.zeros(1, np.float32)
        start = rng.integers(max(1, len(bed) - gap))
        bed = np.resize(bed[start : start + gap], gap)
        yield clip, bed * np.float32(level(wave) / max(level(bed), 1e-6) * 10 ** (-snr / 20)), wave
