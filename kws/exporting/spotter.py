"""A trained model as one file, and proof that the file hears what the model hears."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws import __version__
from kws.decision import Decision
from kws.errors import KwsError, check_number
from kws.exporting import calibration
from kws.exporting.build import build
from kws.exporting.storage import QUANTISE
from kws.features import Options, describe
from kws.files import write
from kws.runtime import Spotter
from kws.runtime.file import FORMAT, MAX_BYTES, write_about
from kws.spotter import Spotter as TorchSpotter
from kws.training.trained import Trained

AGREE_S = 0.25  # between detections of one word
LONGEST_MS = 10_000  # of a chunk, as kws.runtime takes it


def export(
    trained: Trained, path: str | Path, chunk_ms: float = 100.0, many: bool = False, decision: dict | None = None,
    licence: str | None = None, run: dict | None = None, quantise: str | None = None,
    ranges: str = "percentile", heard: list[np.ndarray] = (),
) -> None:  # fmt: skip
    """Writes a spotter.

    Args:
        chunk_ms: of sound that is worked on at a time, rounded up to whole steps of the model.
        many: the number of streams in the graph's inputs is open, which costs each a little more.
        decision: arguments of `Decision` that the file carries.
        quantise: how weights are stored: fp16, int8, or None for float32; int8_static: int8, and products of integers.
        ranges, heard: of int8_static: how the ranges of products' inputs are chosen, percentile or mse, and the sounds
            (n,) at the model's rate that they are seen on.
        licence, run: what is recorded of the weights' licence and of where they come from.

    Raises:
        KwsError: the model or its front-end cannot be exported, or the decision cannot be.
    """
    options, model = trained.options, trained.model
    step_ms = model.stride * options.frame_shift
    check_number("chunk_ms", chunk_ms, lambda ms: 0 < ms <= LONGEST_MS - step_ms, "milliseconds, less than 10 s")
    steps = max(1, -(-chunk_ms // step_ms))
    if quantise not in (None, *QUANTISE):
        raise KwsError(f"quantise={quantise}: expected {', '.join(QUANTISE)} or null")
    if ranges not in calibration.RANGES:
        raise KwsError(f"ranges={ranges}: expected {' or '.join(calibration.RANGES)}")
    try:
        Decision(trained.labels, step_ms, **(decision or {}))
    except (TypeError, ValueError) as error:
        raise KwsError(f"decision: {error}") from None
    n_frames, limits = int(steps) * model.stride, None
    if quantise == "int8_static":
        if not heard:
            raise KwsError("quantise=int8_static: no sound to see the ranges of activations on (calibration)")
        watched = build(model, options, n_frames, watched=True)
        limits = calibration.ranges(watched, options.window_samples - options.shift_samples, heard, ranges)
    built = build(model, options, n_frames, many, quantise, limits)
    about = {
        "format": FORMAT, "kws": __version__, "labels": trained.labels, "sample_rate": int(options.sample_frequency),
        "chunk": n_frames * options.shift_samples, "steps": int(steps),
        "overlap": options.window_samples - options.shift_samples, "step_ms": step_ms,
        "offset_ms": options.frame_length - options.frame_shift, "decision": decision or {}, "state": built.state,
        "features": _differing(options), "model": trained.config["model"], "loss": trained.config.get("loss"),
        "licence": licence, "run": run or {}, "quantise": quantise,
    }  # fmt: skip
    content = write_about(built.proto.SerializeToString(), about)
    if len(content) > MAX_BYTES:
        raise KwsError(f"the file would have {len(content) >> 20} MB; the runtime takes {MAX_BYTES >> 20}")
    write("output", path, content)


def _differing(options: Options) -> dict:
    """The options that are not Kaldi's own, and those that a reader wants to see."""
    usual = describe(type(options)())
    shown = ("type", "frame_length", "frame_shift")
    return {key: value for key, value in describe(options).items() if key in shown or value != usual[key]}


@dataclass(frozen=True)
class Check:
    """Of an exported file against its checkpoint."""

    chunk_ms: float  # of sound that the file works on at a time
    seconds: float  # of sound
    difference: float  # largest, of a probability, between ONNX Runtime and torch
    by_chunks: float  # likewise between sound in one piece and in many
    same_words: bool  # the detections of both are the same
    n_words: int
    expected: int  # words that the checkpoint hears
    agreed: int  # of these, what the file hears within AGREE_S
    spread: float  # largest standard deviation of a label's probability: a check on silence proves little
    ms_per_second: float  # of one core, for a second of sound, resampling left out


def compare(trained: Trained, path: str | Path, sounds: list[np.ndarray], decision: dict | None = None) -> Check:
    """Runs sounds (n,), at the model's rate, through the checkpoint and through the exported file."""
    spotter, rng = Spotter(path), np.random.default_rng(0)
    difference = by_chunks = busy = spread = 0.0
    same, n_words, n_expected, agreed = True, 0, 0, 0
    for sound in sounds:
        checkpoint = TorchSpotter(trained, **(decision or {}))
        expected = checkpoint.scores(sound, flush=True)
        stream = spotter.stream()
        whole = stream.scores(sound, flush=True)
        if whole.shape != expected.shape:
            raise KwsError(f"{path}: {len(whole)} steps, {len(expected)} expected: this is a bug in kws.export")
        rows, at = [], 0
        while at < len(sound):
            size = int(rng.integers(1, 2 * spotter.chunk))
            rows.append(stream.scores(sound[at : at + size]))
            at += size
        rows = np.concatenate([*rows, stream.scores(sound[:0], flush=True)])
        if len(whole):
            difference = max(difference, float(np.abs(whole - expected).max()))
            by_chunks = max(by_chunks, float(np.abs(rows - whole).max()))
            spread = max(spread, float(expected.std(axis=0).max()))
        begun = time.process_time()
        heard = [d for at in range(0, len(sound), spotter.chunk) for d in stream.push(sound[at : at + spotter.chunk])]
        busy += time.process_time() - begun
        heard += stream.push(sound[:0], flush=True)
        there = checkpoint.decision.push(expected)
        same &= [(d.word, d.start, d.end) for d in heard] == [(d.word, d.start, d.end) for d in there]
        n_words, n_expected = n_words + len(heard), n_expected + len(there)
        agreed += sum(any(d.word == e.word and abs(d.end - e.end) <= AGREE_S for d in heard) for e in there)
    seconds = sum(map(len, sounds)) / spotter.rate
    cost = 1000 * busy / max(seconds, 1e-9)
    return Check(spotter.chunk_ms, seconds, difference, by_chunks, same, n_words, n_expected, agreed, spread, cost)
