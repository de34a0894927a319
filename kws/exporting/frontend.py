"""Samples to normalised log mel energies or cepstra, as products with matrices.

Every fourth sample is a part of its own: the four parts' transforms give four points of the spectrum each (the step
of a radix-4 FFT), so that matrices of a quarter of the size do. These and the mel filters are computed in the file, of
constants alone: ONNX Runtime does so once, when it loads, and the file need not hold them.
"""

import math

import numpy as np

from kws.errors import KwsError
from kws.exporting.graph import Graph
from kws.features import tables
from kws.features.options import MfccOptions, MicroOptions, Options, SpectrogramOptions

POWER_OF_SINE = {"povey": 1.7, "hanning": 2.0, "sine": 1.0}  # windows that are a power of half a turn's sine


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
    log, energy = o.use_log_fbank, None
    plain = log and not o.htk_mode and not isinstance(o, MfccOptions) and not o.use_energy
    factor = np.exp(-mean) if plain else np.ones(o.num_mel_bins)  # the mean is a factor before the logarithm
    if _in_quarters(o):
        power, mel = _quarters(graph, samples, n, o, factor)
    else:
        frames = _frames(graph, samples, n, o)
        power, rows = _whole(graph, frames, o)
        mel = graph.constant(rows * factor)
        energy = _energy(graph, frames, o) if o.use_energy else None
    out = graph.node("MatMul", power, mel)
    if graph.batched or _in_quarters(o):
        out = graph.reshape(out, (n, o.num_mel_bins))
    if plain:
        floor = tables.FLT_EPSILON * np.exp(-mean)
        if (np.log(floor) > -clip * std).any():  # else what is below it is clipped anyway
            floor = graph.node("Mul", graph.constant(factor), graph.constant(tables.FLT_EPSILON))
            out = graph.node("Max", out, floor)
        out = graph.node("Mul", graph.node("Log", out), graph.constant(1 / std))
        return graph.node("Clip", out, graph.constant(-clip), graph.constant(clip))
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


def _in_quarters(o: Options) -> bool:
    parted = math.gcd(o.window_samples, o.shift_samples) % 4 == 0 and o.fft_samples % 8 == 0
    exact = o.window_samples * o.fft_samples < 1 << 27  # numbers of turns, in float32
    weighted = o.use_power and not o.use_energy and not (o.htk_mode and o.low_freq)
    return parted and exact and weighted and o.window_type in POWER_OF_SINE


def _quarters(graph: Graph, samples: str, n: int, o: Options, factor: np.ndarray) -> tuple[str, str]:
    """Squares (1, n, m) of the spectrum's real and imaginary parts, and the mel weights (m, bins) of these times
    `factor` (bins,)."""
    size, shift, points = o.window_samples, o.shift_samples, o.fft_samples // 8 + 1
    length, batch = size + (n - 1) * shift, (-1,) * graph.batched
    block = math.gcd(size, shift)
    blocks = np.arange(n)[:, None] * (shift // block) + np.arange(size // block)

    # Of a frame's samples the first meets a zero of the window: pre-emphasis is taken from the second on, and in the
    # place of one more after the last stands any number, which meets a zero in its turn.
    x = graph.node("Reshape", samples, graph.integers(-1, 1, length))
    kernel = np.eye(4, 5, 1) - o.preemphasis_coefficient * np.eye(4, 5)
    x = graph.node("Conv", x, graph.constant(kernel[:, None]), kernel_shape=[5], strides=[4], pads=[0, 1])
    x = graph.node("Reshape", x, graph.integers(*batch, 4, length // block, block // 4))
    x = graph.node("Gather", x, graph.constant(blocks, np.int64), axis=1 + len(batch))
    x = graph.node("Reshape", x, graph.integers(*batch, 4, n, size // 4))
    if o.remove_dc_offset:  # what pre-emphasis leaves of a window's mean
        sums = graph.node("Reshape", samples, graph.integers(*batch, 1, length // block, block))
        sums = graph.node("ReduceSum", sums, graph.integers(-1), keepdims=1)
        left = (blocks[..., None] == np.arange(length // block)).any(axis=1)
        left = graph.node("Mul", graph.constant(left), graph.constant((1 - o.preemphasis_coefficient) / size))
        x = graph.node("Sub", x, graph.node("MatMul", left, sums))
    parts = graph.node("Split", x, graph.integers(1, 1, 1, 1), outputs=4, axis=len(batch))
    waves = graph.node("Split", _waves(graph, o, points), graph.integers(*[size // 4] * 4), outputs=4, axis=0)
    parts = [graph.node("MatMul", part, wave) for part, wave in zip(parts, waves, strict=True)]
    (a, c), (b, d) = ([graph.node(op, *parts[first::2]) for op in ("Add", "Sub")] for first in (0, 1))
    halves = graph.integers(points, points)
    (c_cos, c_sin), (d_cos, d_sin) = (graph.node("Split", v, halves, outputs=2, axis=-1) for v in (c, d))
    sums = [(a, b, "Add"), (a, b, "Sub"), (c_cos, d_sin, "Sub"), (c_sin, d_cos, "Add"), (c_cos, d_sin, "Add"),
            (c_sin, d_cos, "Sub")]  # fmt: skip
    whole = graph.node("Concat", *(graph.node(op, one, two) for one, two, op in sums), axis=-1)
    return graph.node("Mul", whole, whole), _mel(graph, o, points, factor)


def _waves(graph: Graph, o: Options, points: int) -> str:
    """(window, 2 · points): the window times cosines and sines, every fourth sample and then those after these."""
    quarter = graph.node("Mul", graph.constant(np.arange(o.window_samples // 4)), graph.constant(4))
    sample = graph.node("Add", quarter, graph.constant(np.arange(4)[:, None]))
    sample = graph.node("Reshape", sample, graph.integers(-1, 1))
    turns = graph.node("Mul", sample, graph.constant(np.arange(points)))
    turns = graph.node("Mod", turns, graph.constant(o.fft_samples), fmod=1)
    angle = graph.node("Mul", turns, graph.constant(2 * np.pi / o.fft_samples))
    waves = graph.node("Concat", graph.node("Cos", angle), graph.node("Sin", angle), axis=1)
    step = np.pi / (o.window_samples - 1)
    sine = graph.node("Add", graph.node("Mul", sample, graph.constant(step)), graph.constant(step))
    window = graph.node("Max", graph.node("Sin", sine), graph.constant(0))
    return graph.node("Mul", waves, graph.node("Pow", window, graph.constant(POWER_OF_SINE[o.window_type])))


def _mel(graph: Graph, o: Options, points: int, factor: np.ndarray) -> str:
    """(8 · points, bins): `tables.mel_filters` of the points k, N/2 - k, N/4 + k and N/4 - k, each twice, times
    `factor` (bins,). The first and the last k give points that another gives too."""
    base, sign = np.repeat([[0, 4, 2, 2], [1, -1, 1, -1]], 2, axis=1)[..., None]
    low, high = tables.mel_scale(o.low_freq), tables.mel_scale(o.high_hz)
    delta = (high - low) / np.float32(o.num_mel_bins + 1)
    hz = np.float32(o.sample_frequency) / np.float32(o.fft_samples)

    def computed(value, *steps: tuple[str, float]) -> str:
        """In float32 and in the order of `tables.mel_filters`, whose rounding counts near a filter's foot."""
        for op, by in steps:
            value = graph.node(op, value, graph.constant(by))
        return value

    point = computed(graph.constant(np.arange(points)), ("Mul", sign), ("Add", base * (points - 1)), ("Mul", hz))
    mel = graph.node("Log", computed(point, ("Div", 700), ("Add", 1)))
    mel = graph.node("Reshape", computed(mel, ("Mul", 1127)), graph.integers(8, points, 1))
    left, center, right = (
        computed(graph.constant(np.arange(i, o.num_mel_bins + i)), ("Mul", delta), ("Add", low)) for i in range(3)
    )
    sides = ((mel, left, center, left), (right, mel, right, center))
    rising, falling = (
        graph.node("Div", graph.node("Sub", one, two), graph.node("Sub", three, four))
        for one, two, three, four in sides
    )
    mel = graph.node("Max", graph.node("Min", rising, falling), graph.constant(0))
    shares = np.full((points, 1), 2)
    shares[[0, -1]] = 1
    mel = graph.node("Mul", mel, graph.constant(shares))
    mel = graph.node("Reshape", mel, graph.integers(8 * points, o.num_mel_bins))
    mel = graph.node("Mul", mel, graph.constant(0.5))
    return graph.node("Mul", mel, graph.constant(factor))


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


def _whole(graph: Graph, frames: str, o: Options) -> tuple[str, np.ndarray]:
    """For any options: squares or magnitudes (n, m), and the mel weights (m, bins) of these."""
    mel = tables.mel_filters(o).astype(np.float64)
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
