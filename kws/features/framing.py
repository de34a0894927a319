"""How many frames a wave has, and where each begins: one answer for whole files and for streams. No torch here."""

from typing import NamedTuple

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


class Advance(NamedTuple):
    """What a stream makes of the samples that it holds."""

    begin: int  # of the frames that are determined now
    end: int
    covered: list[slice | list[int]]  # places of the samples that these frames read, mirrored at the wave's ends
    keep: int  # place of the first sample that coming frames will read


def advance(o: FrameOptions, first: int, n_samples: int, begin: int, flush: bool) -> Advance:
    """The next step of a stream.

    Args:
        first: index of the first sample held.
        n_samples: of the stream so far; the last of them are held.
        begin: the next frame.
        flush: whether no sample follows.
    """
    end = max(n_frames(n_samples, o, flush), begin)
    # one sample more than the next frame reads: a frame of odd length reflects that one at the wave's end
    keep = min(max(first_sample(end, o) - 1, first, 0), n_samples) - first
    if begin == end:
        return Advance(begin, end, [slice(0, 0)], keep)
    start, stop = first_sample(begin, o), first_sample(end - 1, o) + o.window_samples
    covered = [slice(max(start, 0) - first, min(stop, n_samples) - first)]
    if start < 0:
        covered.insert(0, [reflect(i, n_samples) - first for i in range(start, 0)])
    if stop > n_samples:
        covered.append([reflect(i, n_samples) - first for i in range(max(n_samples, start), stop)])
    return Advance(begin, end, covered, keep)


def joined(samples, places: list[slice | list[int]], concatenate):
    """What is in these places of samples (streams, n), which are NumPy's or torch's as `concatenate` is."""
    parts = [samples[:, where] for where in places]
    return parts[0] if len(parts) == 1 else concatenate(parts, 1)
