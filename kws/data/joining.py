"""Clips one after another with background before each, as a stream would have them."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from kws.augment import level
from kws.data.clips import read_clip
from kws.data.source import Clip
from kws.errors import AudioError, KwsError


def joined(
    clips: Sequence[Clip], noise: Sequence[Clip], rate: int, gap_ms: float, snr: float, rng: np.random.Generator
) -> Iterator[tuple[Clip, np.ndarray, np.ndarray]]:
    """Each clip with the background (n,) to stand before it and its own samples (m,).

    Args:
        noise: recordings of which the background is cut, `snr` dB below the clip; without any it is digital silence.

    Raises:
        KwsError: more than a tenth of the clips, or of the noise, cannot be used; fewer are named and left out.
    """
    gap, beds = round(gap_ms * rate / 1000), [wave for _, wave in _readable(noise, rate)]
    for clip, wave in _readable(clips, rate):
        bed = beds[rng.integers(len(beds))] if beds else np.zeros(1, np.float32)
        start = rng.integers(max(1, len(bed) - gap))
        bed = np.resize(bed[start : start + gap], gap)
        yield clip, bed * np.float32(level(wave) / max(level(bed), 1e-6) * 10 ** (-snr / 20)), wave


def _readable(clips: Sequence[Clip], rate: int) -> Iterator[tuple[Clip, np.ndarray]]:
    failed = 0
    for clip in clips:
        try:
            wave = read_clip(clip, rate)
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
            failed += 1
            if failed > len(clips) / 10:
                raise KwsError(f"{failed} of {len(clips)} recordings cannot be used, {error} among them") from None
            continue
        yield clip, wave
