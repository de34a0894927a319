"""Samples to normalised log mel energies or cepstra, as products with matrices.

Even samples are parted from odd ones: their transforms E and O give two points of the spectrum each, X[k] = E + O and
X[N/2 - k] = conj(E - O), so that matrices of half the size do.
"""

import math

import numpy as np

from kws.errors import KwsError
from kws.exporting.graph import Graph
from kws.features import tables
from kws.features.options import MfccOptions, MicroOptions, Options, SpectrogramOptions


def check(options: Options) -> None:
    """Raises KwsError where such features cannot be computed in a file."""
    if isinstance(options, MicroOptions):
        raise KwsError("type=micro is a device's own front-end, whose whole numbers ONNX has not: output=NAME.tflite")
    if not options.snip_edges:
        raise KwsError("snip_edges=false cannot be exported: the first window reflects what is not there yet")
    if options.dither:
        raise KwsError(f"dither={options.dither} cannot be exported: set dither=0 and train")
    if options.window_samples < options.shift_samples:
        raise KwsError("windows that leave samples out (frame_length < frame_shift) cannot be exported")


def add_frontend(graph: Graph, samples: str, n: int, o: Options, mean: np.ndarray, std: np.ndarray, clip: float) -> str:
    """Adds the nodes that compute frames.

    Args:
        samples: tensor (1 or batch, overlap + n · shift), the samples of `n` frames in int16 units.
        mean, std, clip: frames are given as clip((frame - mean) / std).

    Returns:
        the tensor (n, dim), or (batch, n, dim).
    """
    if isinstance(o, SpectrogramOptions):
        return _normalised(graph, _spectrogram(graph, _frames(graph, samples, n, o), o), mean, std, clip)
    mel, energy = tables.mel_filters(o).astype(np.float64), None
    halves = math.gcd(o.window_samples, o.shift_samples) % 2 == 0 and o.fft_samples % 4 == 0
    if halves and tables.window(o)[0] == 0 and o.use_power and not o.use_energy:
        power, rows = _halves(graph, samples, n, o, mel)
    else:
        frames = _frames(graph, samples, n, o)
        power, rows = _whole(graph, frames, o, mel)
        energy = _energy(graph, frames, o) if o.use_energy else None
    log = o.use_log_fbank
    plain = log and not o.htk_mode and not isinstance(o, MfccOptions) and energy is None
    if plain:  # the mean is a factor before the logarithm
        out = _times(graph, power, rows * np.exp(-mean))
        floor = tables.FLT_EPSILON * np.exp(-mean)
        if (np.log(floor) > -clip * std).any():  # else what is below it is clipped anyway
            out = graph.node("Max", out, graph.constant(floor))
        out = graph.node("Mul", graph.node("Log", out), graph.constant(1 / std))
        out = graph.node("Clip", out, graph.constant(-clip), graph.constant(clip))
        return graph.reshape(out, (n, o.dim)) if graph.batched else out
    out = _times(graph, power, rows)
    out = graph.reshape(out, (n, o.num_mel_bins)) if graph.batched else out
    if o.htk_mode:
        out = graph.node("Max", out, graph.constant(1.0))
    if log:
        out = graph.node("Log", graph.node("Max", out, graph.constant(tables.FLT_EPSILON)))
    if isinstance(o, MfccOptions):
        out = _times(graph, out, tables.dct(o))
    if energy is not None:
        if isinstance(o, MfccOptions):
            out = graph.node("Slice", out, graph.integers(1), graph.integers(o.num_ceps), graph.integers(-1))
        out = graph.node("Concat", *([out, energy] if o.htk_compat else [energy, out]), axis=-1)
    elif o.htk_compat and isinstance(o, MfccOptions):
        order = graph.constant(np.roll(np.arange(o.num_ceps), -1), np.int64)
        out = graph.node("Gather", out, order, axis=graph.lead(2) + 1)
    return _normalised(graph, out, mean, std, clip)


def _normalised(graph: Graph, frames: str, mean, std, clip) -> str:
    out = graph.node("Mul", graph.node("Sub", frames, graph.constant(mean)), graph.constant(1 / std))
    return graph.node("Clip", out, graph.constant(-clip), graph.constant(clip))


def _times(graph: Graph, name: str, matrix: np.ndarray) -> str:
    return graph.node("MatMul", name, graph.constant(matrix))


def _turns(o: Options, points: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return np.outer(samples, points) % o.fft_samples * (2 * np.pi / o.fft_samples)


def _halves(graph: Graph, samples: str, n: int, o: Options, mel: np.ndarray) -> tuple[str, np.ndarray]:
    """Squares (n, m) of the spectrum's real and imaginary parts, and the mel weights (m, bins) of these."""
    size, shift, quarter = o.window_samples, o.shift_samples, o.fft_samples // 4
    length, batch = size + (n - 1) * shift, (-1,) * graph.batched
    block = math.gcd(size, shift)
    blocks = np.arange(n)[:, None] * (shift // block) + np.arange(size // block)

    # Of a frame's samples the first meets a zero of the window: pre-emphasis is taken from the second on, and in the
    # place of one more after the last stands any number, which meets a zero in its turn.
    x = graph.node("Reshape", samples, graph.integers(-1, 1, length))
    kernel = graph.constant([[[-o.preemphasis_coefficient, 1.0]]])
    x = graph.node("Conv", x, kernel, kernel_shape=[2], pads=[0, 1])
    x = graph.node("Reshape", x, graph.integers(*batch, length // 2, 2))
    x = graph.node("Transpose", x, perm=[2, 0, 1] if batch else [1, 0])
    x = graph.node("Reshape", x, graph.integers(2, *batch, length // block, block // 2))
    x = graph.node("Gather", x, graph.constant(blocks, np.int64), axis=1 + len(batch))
    x = graph.node("Reshape", x, graph.integers(*((2, -1, n) if batch else (2 * n,)), size // 2))
    if o.remove_dc_offset:  # what pre-emphasis leaves of a window's mean
        sums = graph.node("Reshape", samples, graph.integers(*batch, length // block, block))
        sums = graph.node("ReduceSum", sums, graph.integers(-1), keepdims=1)
        left = (blocks[..., None] == np.arange(length // block)).any(axis=1)
        left = left * (1 - o.preemphasis_coefficient) / size
        mean = graph.node("MatMul", graph.constant(left if batch else np.tile(left, (2, 1))), sums)
        x = graph.node("Sub", x, mean)
    sides = graph.node("Split", x, graph.integers(*[1 if batch else n] * 2), outputs=2, axis=0)
    points = np.arange(0 if mel[0].any() or mel[2 * quarter].any() else 1, quarter + 1)
    window = np.append(tables.window(o).astype(np.float64), 0)[1:, None]
    waves = []
    for first in (0, 1):
        turns = _turns(o, points, np.arange(first, size, 2))
        waves.append(np.concatenate([np.cos(turns), np.sin(turns)], axis=1) * window[first::2])
    sides = [_times(graph, side, wave) for side, wave in zip(sides, waves, strict=True)]
    both = graph.node("Concat", graph.node("Add", *sides), graph.node("Sub", *sides), axis=-1)
    mirrored = mel[2 * quarter - points].copy()
    mirrored[points == quarter] = 0  # its own mirror image
    return graph.node("Mul", both, both), np.concatenate([mel[points], mel[points], mirrored, mirrored])


def _frames(graph: Graph, samples: str, n: int, o: Options) -> str:
    """The samples of every window, (n, window)."""
    size, shift, batch = o.window_samples, o.shift_samples, (-1,) * graph.batched
    block = math.gcd(size, shift)
    x = graph.node("Reshape", samples, graph.integers(*batch, (size + (n - 1) * shift) // block, block))
    index = np.arange(n)[:, None] * (shift // block) + np.arange(size // block)
    x = graph.node("Gather", x, graph.constant(index, np.int64), axis=len(batch))
    return graph.node("Reshape", x, graph.integers(*batch, n, size))


def _centring(o: Options) -> np.ndarray:
    return np.eye(o.window_samples) - o.remove_dc_offset / o.window_samples


def _windowed(o: Options) -> np.ndarray:
    """(window, window): a frame's mean taken off, pre-emphasis, window. Column vectors go in."""
    size = o.window_samples
    emphasis = np.eye(size) - o.preemphasis_coefficient * np.eye(size, k=-1)
    emphasis[0, 0] -= o.preemphasis_coefficient  # before the first sample stands the first
    return tables.window(o).astype(np.float64)[:, None] * (emphasis @ _centring(o))


def _transform(o: Options, points: np.ndarray) -> np.ndarray:
    """(window, 2 · points): real and imaginary parts of these points of a frame's spectrum."""
    turns = _turns(o, points, np.arange(o.window_samples))
    return _windowed(o).T @ np.concatenate([np.cos(turns), -np.sin(turns)], axis=1)


def _whole(graph: Graph, frames: str, o: Options, mel: np.ndarray) -> tuple[str, np.ndarray]:
    """For any options: squares or magnitudes (n, m), and the mel weights (m, bins) of these."""
    points = np.flatnonzero(mel.any(axis=1))
    x = _times(graph, frames, _transform(o, points))
    x = graph.node("Mul", x, x)
    if o.use_power:
        return x, np.concatenate([mel[points], mel[points]])
    return graph.node("Sqrt", _added(graph, x, len(points))), mel[points]


def _added(graph: Graph, x: str, points: int) -> str:
    parts = graph.node("Split", x, graph.integers(points, points), outputs=2, axis=-1)
    return graph.node("Add", *parts)


def _energy(graph: Graph, frames: str, o: Options) -> str:
    """The log energy (n, 1) of frames (n, window)."""
    framed = _times(graph, frames, (_centring(o) if o.raw_energy else _windowed(o)).T)
    energy = graph.node("ReduceSum", graph.node("Mul", framed, framed), graph.integers(-1), keepdims=1)
    return graph.node("Log", graph.node("Max", energy, graph.constant(max(tables.FLT_EPSILON, o.energy_floor))))


def _spectrogram(graph: Graph, frames: str, o: SpectrogramOptions) -> str:
    points = o.fft_samples // 2 + 1
    matrix = _transform(o, np.arange(points))
    if o.return_raw_fft:
        pairs = np.arange(1, points - 1)
        return _times(graph, frames, matrix[:, [0, points - 1, *np.stack([pairs, pairs + points], axis=1).ravel()]])
    x = _times(graph, frames, matrix)
    power = _added(graph, graph.node("Mul", x, x), points)
    log = graph.node("Log", graph.node("Max", power, graph.constant(tables.FLT_EPSILON)))
    ends = [graph.integers(v) for v in (1, points, -1)]
    return graph.node("Concat", _energy(graph, frames, o), graph.node("Slice", log, *ends), axis=-1)
