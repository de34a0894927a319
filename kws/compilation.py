"""Loops over samples that numba compiles."""

from numba import njit


def compiled(function):
    """Decorator: compiled when it is first called. That takes seconds, so the result is kept beside the source or in
    numba's cache (NUMBA_CACHE_DIR), and made anew by every process where neither can be written."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba: no locator available
        return njit(**options)(function)
