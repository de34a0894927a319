"""What a benchmark is made of: made sound, rounds in which all contenders are measured in turn, tables."""

from collections.abc import Callable, Hashable

import numpy as np

RATE = 16000


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """(n,) float32, whole numbers in int16 units at 16 kHz: syllables, voiced and not, with pauses and a little noise.

    Where more than a minute is asked for, a minute is repeated.
    """
    rng, n = np.random.default_rng(seed), round(min(seconds, 60) * RATE)
    knots = n // (RATE // 4) + 2  # four a second

    def gliding(low: float, high: float) -> np.ndarray:
        return np.interp(np.linspace(0, knots - 1, n), np.arange(knots), rng.uniform(low, high, knots))

    pitch, formants = gliding(90, 220), [gliding(300, 800), gliding(900, 2300), gliding(2400, 3400)]
    phase, wave = 2 * np.pi * np.cumsum(pitch) / RATE, gliding(0, 0.7) ** 3 * rng.standard_normal(n)
    for harmonic in range(1, 35):
        gain = sum(1 / (1 + ((harmonic * pitch - formant) / 120) ** 2) for formant in formants)
        wave += gain / harmonic**0.5 * np.sin(harmonic * phase)
    wave = np.rint(5000 * np.maximum(gliding(-0.5, 1), 0) ** 2 * wave + 5 * rng.standard_normal(n))
    return np.resize(wave.clip(-32768, 32767).astype(np.float32), round(seconds * RATE))


def interleaved(measures: dict[Hashable, Callable], repeats: int, seed: int) -> dict[Hashable, np.ndarray]:
    """What each measures in every round, (repeats, ...) by name; without those that could not in one of them (None)."""
    rng, measured = np.random.default_rng(seed), {name: [] for name in measures}
    for _ in range(repeats):
        names = list(measured)
        for name in [names[i] for i in rng.permutation(len(names))]:
            value = measures[name]()
            if value is None:
                del measured[name]
            else:
                measured[name].append(value)
    return {name: np.array(values) for name, values in measured.items()}


def ratio(over: str, under: str, measured: dict[str, np.ndarray]) -> float | None:
    """The median of the rounds' ratios; None where one of them is missing."""
    return float(np.median(measured[over] / measured[under])) if {over, under} <= measured.keys() else None


def cell(value, digits: int = 0) -> str:
    """Rounds as their median and half the interquartile range in percent of it; other numbers to three digits."""
    if isinstance(value, np.ndarray):
        low, middle, high = np.percentile(value, [25, 50, 75])
        return f"{middle:.{digits}f}" + (f" ±{50 * (high - low) / middle:.0f}" if len(value) > 1 else "")
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def show(title: str, head: list[str], rows: list[list]) -> None:
    """Prints a table, the first column to the left and the others to the right."""
    table = [head, *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"\n{title}")
    for row in table:
        print("  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip(), flush=True)
