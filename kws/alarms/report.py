"""How a spotter does on long audio: scored once a condition, then swept. Figures, tables, pictures, wavs."""

import json
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from kws import audio, plots
from kws.alarms import thresholds
from kws.alarms.conditions import Condition, conditions
from kws.alarms.labels import FALSE, Recording, read_labels, windows
from kws.alarms.sweep import (
    THRESHOLDS,
    Alarms,
    Heard,
    Sweep,
    alarms,
    best_within,
    choose,
    hours_by_kind,
    smooth,
    sweep,
)
from kws.alarms.tables import false_rate, figures, missed, table, warnings
from kws.audio import recording
from kws.decision import Decision
from kws.errors import KwsError, check_number, is_number
from kws.files import make_folder
from kws.listening.clips import AFTER_S, BEFORE_S
from kws.listening.opened import open_spotter
from kws.progress import progress
from kws.spotters import beside, find_all
from kws.training import checkpoint

FADE_S = 1.0  # after a window, in which a word's score falls


def evaluate(cfg: DictConfig) -> None:
    """`python -m kws.evaluate labels=`: judges each checkpoint, prints, draws and writes what was asked for."""
    given = find_all(cfg.checkpoint)
    snrs, per_hour = _listed(cfg.snr), _listed(cfg.per_hour)
    _check(cfg, given, snrs, per_hour)
    results = {path: judge(cfg, path, snrs, per_hour) for path in given}
    name = Path(cfg.labels).stem
    picture = Path(cfg.plot) if cfg.plot else beside(given[0]) / f"det-{name}.png"
    scores = picture.with_name(f"{picture.stem}-scores{picture.suffix}")
    histograms = {path: result.pop("histogram") for path, result in results.items()}
    if cfg.json:
        content = {"labels": str(cfg.labels), "tolerance_ms": cfg.tolerance_ms, "checkpoints": results}
        Path(cfg.json).write_text(json.dumps(content, indent=2) + "\n")
    plots.det(_curves(results), picture)
    plots.score_histograms(histograms, scores)
    print(f"curves: {picture}, scores: {scores}")


def _listed(value) -> list:
    return OmegaConf.to_container(value) if OmegaConf.is_list(value) else [] if value is None else [value]


def _check(cfg: DictConfig, given: list[str], snrs: list, per_hour: list) -> None:
    for key in ("budget", "alarms"):
        if cfg[key] is not None and len(given) > 1:
            raise KwsError(f"{key}={cfg[key]}: for one checkpoint at a time, {len(given)} are given")
    if cfg.budget is not None and given[0].endswith(".onnx"):
        raise KwsError("budget= needs a checkpoint: choose its thresholds, and kws.export writes them into the file")
    for key, values in {"per_hour": per_hour, "budget": [1 if cfg.budget is None else cfg.budget]}.items():
        if not values or not all(is_number(value, lambda rate: rate > 0) for value in values):
            raise KwsError(f"{key}={cfg[key]}: expected numbers above 0")
    check_number("tolerance_ms", cfg.tolerance_ms, lambda tolerance: tolerance >= 0, "0 or more")
    check_number("lowest", cfg.lowest, lambda lowest: 0 <= lowest < THRESHOLDS[-1], "0 to 0.99")
    if not all(is_number(snr, lambda _: True) for snr in snrs):
        raise KwsError(f"snr={cfg.snr}: expected dB, as 20 or [20,10,0]")


def judge(cfg: DictConfig, path: str, snrs: list[float], per_hour: list[float]) -> dict:
    """The figures of one checkpoint or exported file, which are also printed."""
    opened = open_spotter(cfg, path)
    if cfg.threads and not path.endswith(".onnx"):
        import torch

        torch.set_num_threads(cfg.threads)
    try:
        stream = opened.begin(opened.rate)
    except ValueError as error:
        raise KwsError(f"decision: {error}") from None
    decision: Decision = stream.decision
    words = [decision.labels[i] for i in decision.words]
    recordings, tolerance = read_labels(cfg.labels, words), cfg.tolerance_ms / 1000

    def machine(threshold: float | dict) -> Decision:
        settings = {**opened.decision, "threshold": threshold}
        return Decision(decision.labels, decision.step_ms, decision.offset_ms, **settings)

    result: dict = {"conditions": {}}
    for condition in conditions(snrs, cfg.noise, cfg.rooms, opened.rate):
        bar = progress(recordings, desc=f"{condition.name:<10}", unit="recording")
        heard = [_heard(stream, one, condition, opened.rate, cfg.seed + i) for i, one in enumerate(bar)]
        swept = sweep(heard, machine, tolerance)
        if not result["conditions"]:  # clean sound comes first
            if cfg.budget is not None:
                chosen = choose(heard, swept, machine, tolerance, cfg.budget, cfg.lowest)
                if chosen is None:
                    raise KwsError(f"budget={cfg.budget}: no thresholds keep to it on {cfg.labels}")
                decision = machine(chosen)
            result |= _of_clean_sound(heard, decision, tolerance, cfg.alarms, opened.rate)
        result["conditions"][condition.name] = _figures(heard, swept, machine, decision, per_hour, tolerance)
        del heard  # before the next condition's are made
    result["threshold"] = {word: decision.threshold[i] for word, i in zip(words, decision.words, strict=True)}
    print(table(path, result, per_hour))
    for line in warnings(result["hours"], sorted({*per_hour, *_listed(cfg.budget)})):
        print(f"warning: {line}")
    if cfg.alarms is not None:
        print(f"{len(result['false_alarms'])} false alarms are in {cfg.alarms}")
    if cfg.budget is not None:
        about = {"budget": cfg.budget, "labels": str(cfg.labels), "hours": result["hours"]}
        written = thresholds.write(checkpoint.find(path), {**opened.decision, "threshold": chosen}, **about)
        print(f"thresholds: {written}, which kws.export takes")
    return result


def _of_clean_sound(heard: list[Heard], decision: Decision, tolerance: float, folder: str | None, rate: int) -> dict:
    """Hours, scores and the false alarms, which are written to `folder` if that is asked for."""
    found = [alarms(one, decision, tolerance) for one in heard]
    if folder is not None:
        write_alarms(folder, found, rate)
    rows = [row for one in found for row in _false(one)]
    return {"hours": hours_by_kind(heard, tolerance), "false_alarms": rows, "histogram": _histogram(heard, tolerance)}


def _heard(stream, one: Recording, condition: Condition, rate: int, seed: int) -> Heard:
    """A recording's scores; its sound is never in memory as a whole."""
    stream.reset()
    rows, n = [], 0
    for block in condition.blocks(one.path, rate, seed):
        rows.append(stream.scores(block))
        n += len(block)
    rows.append(stream.scores(np.zeros(0, np.float32), flush=True))
    decision = stream.decision
    words = [decision.labels[i] for i in decision.words]
    return Heard(one, n / rate, words, smooth(np.concatenate(rows), decision))


def _figures(heard: list[Heard], swept: Sweep, machine, decision: Decision, rates: list, tolerance: float) -> dict:
    """Of one condition: the outcome as the thresholds are set ("as_set"); at the best threshold for all words that
    keeps to each rate of false alarms ("at"), or in which one word does ("words"), by kind of negatives; the curve."""

    def outcome(decision: Decision) -> dict:
        return figures([alarms(one, decision, tolerance) for one in heard], tolerance)

    hours = hours_by_kind(heard, tolerance)
    said = [sum(label.word == word for one in heard for label in one.recording.labels) for word in swept.words]
    frr = (1 - swept.hits.sum(axis=1) / sum(said)).tolist() if sum(said) else None
    det = {"threshold": swept.thresholds.tolist(), "frr": frr, "per_hour": {}}
    out: dict = {"as_set": outcome(decision), "at": {}, "words": {}, "det": det}
    for kind, counts in swept.false.items():
        if not hours[kind]:
            continue
        total, at, words = counts.sum(axis=1), {}, {word: {} for word in swept.words}
        det["per_hour"][kind] = (total / hours[kind]).tolist()
        for rate in rates:
            row = best_within(total, swept.hits.sum(axis=1), rate * hours[kind])
            limit = None if row is None else float(swept.thresholds[row])
            at[str(rate)] = None if row is None else {"threshold": limit, **outcome(machine(limit))}
            for j, word in enumerate(swept.words):
                row = best_within(counts[:, j], swept.hits[:, j], rate * hours[kind])
                words[word][str(rate)] = None if row is None else {
                    "threshold": float(swept.thresholds[row]), **missed(int(swept.hits[row, j]), said[j]),
                    "false": false_rate(int(counts[row, j]), hours[kind]),
                }  # fmt: skip
        out["at"][kind], out["words"][kind] = at, words
    return out


def _false(found: Alarms) -> list[dict]:
    rows = zip(found.times, found.words, found.scores, found.answers, strict=True)
    path, kind, _ = found.heard.recording
    return [
        {"path": path, "kind": kind, "time": round(float(time), 3), "word": found.heard.words[column],
         "score": round(float(score), 4)}
        for time, column, score, answer in rows
        if answer == FALSE
    ]  # fmt: skip


def write_alarms(folder: str, found: list[Alarms], rate: int) -> None:
    """`folder/_unknown_/<recording>_nohash_<word>-<ms>.wav`: the two seconds around each false alarm. So named, those
    of one recording fall into one split of data=folder."""
    out = make_folder("alarms", Path(folder) / "_unknown_")
    for one in found:
        sound = recording.Recording(one.heard.recording.path)
        for row in _false(one):
            part = sound.part(max(row["time"] - BEFORE_S, 0.0), min(row["time"] + AFTER_S, one.heard.seconds))
            name = f"{Path(row['path']).stem}_nohash_{row['word']}-{round(1000 * row['time'])}.wav"
            audio.write(out / name, np.concatenate(list(part.blocks(channel=0, rate=rate))), rate)
        sound.close()


def _histogram(heard: list[Heard], tolerance: float) -> dict:
    """Highest smoothed scores: of each label's word within its window, and of any word in each second well
    outside all windows, by kind of recording."""
    said, others = [], {}
    for one in heard:
        step = one.seconds / max(len(one.smoothed), 1)
        columns = {word: j for j, word in enumerate(one.words)}
        outside = np.ones(len(one.smoothed), bool)
        for begin, end in windows(one.recording.labels, tolerance + FADE_S):
            outside[int(begin / step) : int(end / step) + 1] = False
        for label in one.recording.labels:
            scores = one.smoothed[int(label.start / step) : int((label.end + tolerance) / step) + 1]
            said.append(float(scores[:, columns[label.word]].max(initial=0)))
        highest, size = np.where(outside, one.smoothed.max(axis=1), -1), max(round(1 / step), 1)
        seconds = np.maximum.reduceat(highest, np.arange(0, len(highest), size)) if len(highest) else highest
        others.setdefault(one.recording.kind, []).extend(seconds[seconds >= 0].tolist())
    return {"said": said, "others": others}


def _curves(results: dict) -> list[dict]:
    """A line for each checkpoint, condition and kind of negatives; several checkpoints are compared on clean sound."""
    return [
        {"name": path if len(results) > 1 else name, "kind": kind, "hours": result["hours"][kind],
         "threshold": condition["det"]["threshold"], "per_hour": per_hour, "frr": condition["det"]["frr"],
         "said": condition["as_set"]["said"]}
        for path, result in results.items()
        for name, condition in result["conditions"].items()
        if len(results) == 1 or name == "clean"
        for kind, per_hour in condition["det"]["per_hour"].items()
    ]  # fmt: skip
