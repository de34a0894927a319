"""In which order the elements of a value lie, and how they are found there. Places are explained in `graph`."""

import numpy as np

from kws.exporting.graph import Graph

Places = np.ndarray


def physical_of(x: np.ndarray) -> np.ndarray:
    """A value's shape in torch to its shape here: rows (t, c) where there is one band, else (c, f, t)."""
    if x.ndim == 4:
        return x[0, :, 0].T if x.shape[2] == 1 else x[0]
    return x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)


def positions(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in `x`, flattened, each of `wanted` stands (first)."""
    flat = x.reshape(-1)
    order = np.argsort(flat, kind="stable")
    return order[np.searchsorted(flat[order], wanted)]


def squeezed(x: np.ndarray) -> np.ndarray:
    """Without repetition along axes on which nothing changes: ONNX broadcasts."""
    for axis in range(x.ndim):
        first = x.take([0], axis)
        if (x == first).all():
            x = first
    return x


def natural(graph: Graph, x: Places) -> Places:
    """The elements of `x` in the order that costs least: as they lie, or channels grouped by where they lie."""
    if np.unique(graph.origins(x)).size == 1:
        whole = graph.tensor(int(graph.origins(x).flat[0]))
        if np.unique(x).size == whole.size and whole.ndim > 1:
            return whole
    held = physical_of(x)
    if held.ndim == 2:
        return np.ascontiguousarray(held[:, np.argsort(held[-1], kind="stable")])
    return np.ascontiguousarray(held[np.argsort(held[:, 0, -1], kind="stable")])
