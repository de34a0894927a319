"""What is said of a spotter on long audio, in figures and as a table to read. No torch here."""

from collections.abc import Sequence

import numpy as np

from kws.alarms.labels import EXTRA, FALSE
from kws.alarms.sweep import Alarms, hours_by_kind
from kws.metrics import binomial_interval, poisson_interval

RESOLVED = 3  # alarms that a rate must allow: with none in 3/r hours, the rate is below r with 95 %


def missed(answered: int, said: int) -> dict:
    """Labels that nothing answered: FRR with its exact 95 % interval; None without labels."""
    rate = (said - answered) / said if said else None
    return {"said": said, "missed": said - answered, "frr": rate, "interval": binomial_interval(said - answered, said)}


def false_rate(count: int, hours: float) -> dict:
    """False alarms per hour with their exact 95 % interval; None without negative sound."""
    interval = [end / hours for end in poisson_interval(count)] if hours else [0.0, None]
    return {"count": count, "hours": hours, "per_hour": count / hours if hours else None, "interval": interval}


def figures(found: Sequence[Alarms], tolerance: float) -> dict:
    """What came of all recordings at the thresholds of a decision: misses, false alarms by kind, delay."""
    heard = [one.heard for one in found]
    hours, false = hours_by_kind(heard, tolerance), dict.fromkeys([one.recording.kind for one in heard], 0)
    late, extra, said = [], 0, sum(len(one.recording.labels) for one in heard)
    for one in found:
        labels = one.heard.recording.labels
        late += [t - labels[i].end for t, i in zip(one.times, one.answers, strict=True) if i >= 0]
        extra += int((one.answers == EXTRA).sum())
        false[one.heard.recording.kind] += int((one.answers == FALSE).sum())
    delay = (
        dict(zip(("median", "p90"), (float(x) for x in np.percentile(late, (50, 90))), strict=True)) if late else None
    )
    rates = {kind: false_rate(count, hours[kind]) for kind, count in false.items()}
    return {**missed(len(late), said), "false": rates, "extra": extra, "delay": delay}


def warnings(hours: dict[str, float], rates: Sequence[float]) -> list[str]:
    """A sentence for each kind of negatives of which there are too few hours for some of the rates."""
    lines = []
    for kind, n in hours.items():
        if poor := [rate for rate in rates if rate * n < RESOLVED]:
            needed = ", ".join(f"{RESOLVED / rate:.2g} h for {rate:g}" for rate in poor)
            bound = f"no alarm in {n:.2f} h may still mean {RESOLVED / n:.1f} an hour" if n else "there are none"
            lines.append(f"{kind} negatives cannot resolve so few false alarms an hour: {bound}; it takes {needed}")
    return lines


def table(path: str, result: dict, rates: Sequence[float]) -> str:
    """The figures of one checkpoint as lines."""
    hours, everything, clean = result["hours"], result["conditions"], result["conditions"]["clean"]
    there = ", ".join(f"{kind} {n:.2f} h" for kind, n in hours.items())
    width = 2 + max(map(len, everything))
    lines = [
        f"{path}: {clean['as_set']['said']} words are said; outside their windows {there}",
        f"{'sound':<{width}}{'negatives':<12}{'at/h':>7}{'threshold':>11}   {'missed (95 %)':<26}"
        f"{'false alarms an hour (95 %)':<38}delay in s, 9 of 10",
    ]
    limits = {f"{limit:.4g}" for limit in result["threshold"].values()}
    limit = limits.pop() if len(limits) == 1 else "by word"
    for name, condition in everything.items():
        for kind in condition["as_set"]["false"]:
            for rate, row in condition["at"].get(kind, {}).items():
                lines.append(_row(name.ljust(width), kind, rate, f"{row['threshold']:.4f}" if row else "", row))
            lines.append(_row(name.ljust(width), kind, "as set", limit, condition["as_set"]))
    extra = ", ".join(f"{name} {condition['as_set']['extra']}" for name, condition in everything.items())
    lines.append(f"as set, second alarms and other words' while a word was said: {extra}")
    if len(result["threshold"]) > 1 and clean["words"]:
        kind = max(clean["words"], key=hours.get)
        heads = "".join(f"{f'at {rate:g}/h':>11}" for rate in rates)
        lines.append(
            f"{'word':<14}{'said':>6}{'as set':>9}{heads}   missed (%) where the word keeps to it, {kind} negatives"
        )
        for word, at in clean["words"][kind].items():
            cells = "".join(f"{_percent(row and row['frr']):>11}" for row in at.values())
            said = next((row["said"] for row in at.values() if row), "")
            lines.append(f"{word:<14}{said:>6}{result['threshold'][word]:>9.4f}{cells}")
    return "\n".join(lines)


def _row(name: str, kind: str, rate: str, threshold: str, row: dict | None) -> str:
    head = f"{name}{kind:<12}{rate:>7}{threshold:>11}   "
    if row is None:
        return head + "no threshold keeps to it"
    (low, high), false = row["interval"], row["false"][kind]
    share = f"{_percent(row['frr'])} % ({100 * low:.1f} to {100 * high:.1f})" if row["said"] else "-"
    few, many = false["interval"]
    rate = f"{false['per_hour']:.2f} ({few:.2f} to {many:.2f}), {false['count']} heard" if false["hours"] else "-"
    delay = f"{row['delay']['median']:.2f}, {row['delay']['p90']:.2f}" if row["delay"] else "-"
    return f"{head}{share:<26}{rate:<38}{delay}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
