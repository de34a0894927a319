"""Mistakes that the user can act on."""

import math
from collections.abc import Callable


class KwsError(Exception):
    """What was found, what was expected, what to do. Commands print it in a line, without a trace, and exit with 2."""


class OptionError(KwsError, ValueError):
    """An option of a front-end, a row of a block table, a setting that cannot be."""


class AudioError(ValueError):
    """A sound that cannot be used: which file, what was found, what was expected."""


class TruncatedError(AudioError):
    """A sound that ends before its header says, or is damaged there."""


def is_number(value, fits: Callable[[float], bool], kind: type = int | float) -> bool:
    """Whether a value is a finite number that fits, whole where `kind` is int; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, kind) and abs(value) < math.inf and fits(value)


def check_number(name: str, value, fits: Callable[[float], bool], expected: str, kind: type = int | float) -> None:
    """Raises KwsError unless a setting `is_number`."""
    if not is_number(value, fits, kind):
        raise KwsError(f"{name}={value}: expected {expected}")


def check_list(name: str, value) -> None:
    """Raises KwsError for a text where a list is expected, which would be read letter by letter."""
    if isinstance(value, str):
        raise KwsError(f"{name}={value}: expected a list, as in {name}=[{value.strip('[]')}]")


def check_switches(**switches: bool) -> None:
    """Raises KwsError unless every setting is true or false: "no" would count as true."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise KwsError(f"{name}={value}: expected true or false")
