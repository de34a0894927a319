"""Mistakes that the user can act on."""


class KwsError(Exception):
    """What was found, what was expected, what to do. Commands print it in a line, without a trace, and exit with 2."""


class OptionError(KwsError, ValueError):
    """An option of a front-end, a row of a block table, a setting that cannot be."""


class AudioError(ValueError):
    """A sound that cannot be used: which file, what was found, what was expected."""
