"""How many frames a wave has, and where each begins: one answer for whole files and for streams. No torch here."""

from kws.features.options import FrameOptions


def first_sample(frame: int, options: FrameOptions) -> int:
    """The index of a frame's first sample; negative where `snip_edges=false` centres frames on the wave's start.

    Kaldi: FirstSampleOfFrame in feature-window.cc.
    """
    shift = options.shift_samples
    if options.snip_edges:
        return frame * shift
    return frame * shift + shift // 2 - options.window_samples // 2


def n_frames(n_samples: int, options: FrameOptions, flush: bool = True) -> int:
    """Frames of a wave of `n_samples`; without `flush`, only those that later samples cannot change.

    Kaldi: NumFrames in feature-window.cc.
    """
    window, shift = options.window_samples, options.shift_samples
    if options.snip_edges:
        return 0 if n_samples < window else 1 + (n_samples - window) // shift
    frames = (n_samples + shift // 2) // shift
    if not flush:
        while frames > 0 and first_sample(frames - 1, options) + window > n_samples:
            frames -= 1
    return frames


def reflect(index: int, n_samples: int) -> int:
    """The sample that stands for one before the start or after the end: mirrored, the edge counted twice.

    Kaldi: ExtractWindow in feature-window.cc. Short waves are mirrored as often as it takes.
    """
    period = index % (2 * n_samples)
    return period if period < n_samples else 2 * n_samples - 1 - period
