"""Noise for dither, the same in torch and in NumPy: a function of seed, utterance, frame and sample.

Kaldi draws from one global generator (Dither in feature-window.cc), so its frames depend on all that was computed
before. Here every sample has a counter, an integer hash turns that into two uniform numbers, and Box and Muller's
formula (1958) those into a normal one.
"""

import numpy as np

_MASK = 0xFFFFFFFF


def _mixed(x):
    """A bijection of 32 bits that spreads every input bit over all output bits: multiply and xor-shift, as MurmurHash3
    ends. The factors are odd and below 2^31, so that int64 holds every product, of NumPy and of torch."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = (x ^ (x >> 15)) * 0x45D9F3B5 & _MASK
    return x ^ (x >> 16)


def key(seed: int, utterance: int) -> int:
    """32 bits for an utterance."""
    return int(_mixed(_mixed(seed & _MASK) ^ (utterance & _MASK)))


def noise(keys, frames, samples, library=np):
    """Standard normal noise in float64.

    Args:
        keys, frames, samples: int64 arrays (or torch tensors) that broadcast to the result's shape.
        library: numpy or torch, whichever the arrays are of.
    """
    counter = _mixed(_mixed(keys ^ (frames & _MASK)) ^ samples)
    uniform = (counter + 0.5) / 2**32  # never 0
    angle = _mixed(counter ^ 0x9E3779B9) * (2 * np.pi / 2**32)
    return library.sqrt(-2 * library.log(uniform)) * library.cos(angle)
