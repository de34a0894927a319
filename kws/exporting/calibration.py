"""The ranges that activations take on real sound, which 8 bits are spread over (post-training static quantisation)."""

import numpy as np
import onnxruntime

from kws.errors import KwsError
from kws.exporting.build import Built
from kws.exporting.storage import affine

SHARE = 99.99  # percentile: of the numbers seen, those within the range
SHRINKS = np.linspace(1.0, 0.3, 36)  # mse: of the widest range, those that are tried
MOST = 200_000  # numbers of an activation that are looked at


def ranges(watched: Built, overlap: int, sounds: list[np.ndarray], how: str) -> dict[int, tuple[float, float]]:
    """The range of each product's input, by the product's number; zero lies in each.

    Args:
        watched: a graph with these inputs as outputs, as `build` gives it.
        overlap: samples of a stream that come before its first chunk.
        sounds: (n,) in int16 units at the model's rate; each is a stream.
        how: percentile or mse.

    Raises:
        KwsError: no sound is as long as a chunk.
    """
    choose = RANGES[how]
    session = onnxruntime.InferenceSession(watched.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    chunk = session.get_inputs()[0].shape[1]
    names = [value.name for value in session.get_outputs()]
    seen = {int(name[7:]): [] for name in names if name.startswith("product")}
    for sound in sounds:
        state = {name: np.zeros(shape, np.float32) for name, shape in watched.state.items()}
        state |= {"past": sound[None, :overlap]} if overlap else {}
        for at in range(overlap, len(sound) - chunk + 1, chunk):
            out = dict(zip(names, session.run(names, {**state, "samples": sound[None, at : at + chunk]}), strict=True))
            for number, values in seen.items():
                values.append(out[f"product{number}"].ravel())
            state = {name: out[f"next_{name}"] for name in state}
    if not all(seen.values()):
        raise KwsError(f"calibration: no sound is as long as a chunk with its overlap, {overlap + chunk} samples")
    found = {}
    for number, values in seen.items():
        found[number] = choose(looked_at(np.concatenate(values)).astype(np.float64))
    return found


def looked_at(values: np.ndarray) -> np.ndarray:
    """At most MOST of values (n,), drawn: every so many-th would be of a few channels only."""
    if len(values) <= MOST:
        return values
    return values[np.random.default_rng(0).integers(len(values), size=MOST)]


def _percentile(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [100 - SHARE, SHARE])
    return min(low, 0.0), max(high, 0.0)


def _mse(values: np.ndarray) -> tuple[float, float]:
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)

    def error(shrink: float) -> float:
        scale, zero = affine(shrink * low, shrink * high)
        return float(np.square(((np.rint(values / scale) + zero).clip(0, 255) - zero) * scale - values).mean())

    best = min(SHRINKS, key=error)
    return best * low, best * high


RANGES = {"percentile": _percentile, "mse": _mse}
