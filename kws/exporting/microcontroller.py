"""A checkpoint as int8 tflite, checked in tflite-micro's interpreter against the checkpoint: `kws.export` to
NAME.tflite, or to NAME.json with its NAME.tflite for ESPHome's micro_wake_word."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kws import __version__
from kws.errors import KwsError
from kws.exporting import micro_wake_word, tflite
from kws.exporting.tflm import MicroStream
from kws.features import describe
from kws.files import write
from kws.models.acoustic import CLIP
from kws.training.trained import Trained


@dataclass(frozen=True)
class Report:
    """Of a written file against its checkpoint, where a stream has lasted as long as the model's window."""

    size: int  # bytes of the file
    arena: int  # bytes, measured in tflite-micro
    step_ms: float
    us_per_step: float  # of one core here, by tflite-micro's portable code
    seconds: float  # of sound
    mean: float  # difference of a probability
    largest: float
    same: float  # share of steps in which both have the same label first; of one word: are on the same side of 1/2


def export(
    trained: Trained, path: str | Path, sounds: Sequence[np.ndarray], seen: Sequence[np.ndarray],
    decision: dict | None = None, word: str | None = None, author: str = "", language: str = "en", **about,
) -> Report:  # fmt: skip
    """Writes `path` and, where that is a manifest (.json), the model beside it.

    Args:
        sounds: (n,) at the model's rate, that the file is compared on.
        seen: likewise, that int8's ranges are measured on.
        word: the one that micro_wake_word listens for, where the model knows several.
        author, language: for the manifest.
        about: what else the file says of itself.

    Raises:
        KwsError: the model or its front-end cannot be exported so, or tflite-micro refuses it.
    """
    path, model, place = Path(path), trained.model, None
    manifest = path.suffix == ".json"
    low, high = model.mean - CLIP * model.std, model.mean + CLIP * model.std
    frames = float(low.min()), float(high.max())
    if manifest:
        micro_wake_word.check(trained.options)
        place, frames = micro_wake_word.word_of(trained.labels, word), micro_wake_word.FRAMES
    converted = tflite.convert(model, place)
    if manifest:
        micro_wake_word.check_operators(tflite.operators(converted.file()) - {"SLICE"})  # which `adapt` replaces
    clips = [trained.extractor(torch.from_numpy(sound)[None])[0][0].numpy() for sound in seen]
    clips = [np.clip(clip, low.numpy(), high.numpy()) for clip in clips if len(clip) >= model.stride]
    if not clips:
        raise KwsError("calibration: there is no sound that the ranges of int8 could be measured on")
    file = tflite.quantised(converted, clips, frames)
    if manifest:
        micro_wake_word.adapt(file)
    labels = trained.labels if place is None else [trained.labels[place]]
    step_ms = model.stride * trained.options.frame_shift
    content = tflite.written(file, {
        "kws": __version__, "labels": labels, "step_ms": step_ms, "features": describe(trained.options),
        "decision": decision or {}, **about,
    })  # fmt: skip
    stream = MicroStream(content)
    report = _compare(trained, stream, sounds, place, len(content), step_ms)
    model_path = path.with_suffix(".tflite")
    write("output", model_path, content)
    if manifest:
        text = micro_wake_word.manifest(labels[0], model_path.name, decision, step_ms, report.arena, language, author)
        write("output", path, (json.dumps(text, indent=2, ensure_ascii=False) + "\n").encode())
    return report


def _compare(trained, stream, sounds, place, size, step_ms) -> Report:
    differences, same, busy, steps = [], [], 0.0, 0
    model = trained.model
    for sound in sounds:
        frames = trained.extractor(torch.from_numpy(sound)[None])[0]
        frames = frames[:, : frames.shape[1] // model.stride * model.stride]
        with torch.inference_mode():
            logits = model(frames)[0]
        if place is not None:
            others = torch.cat([logits[:, :place], logits[:, place + 1 :]], dim=1).amax(dim=1)
            expected = (logits[:, place] - others).sigmoid()[:, None].numpy()
        else:
            expected = logits.softmax(dim=1).numpy()
        stream.reset()
        begun = time.process_time()
        found = stream.probabilities(frames[0].numpy())
        busy, steps = busy + time.process_time() - begun, steps + len(found)
        found, expected = found[model.pool.window :], expected[model.pool.window :]
        differences.append(np.abs(found - expected).ravel())
        same.append((found > 0.5) == (expected > 0.5) if place is not None else found.argmax(1) == expected.argmax(1))
    differences, same = np.concatenate(differences), np.concatenate(same)
    if not len(same):
        raise KwsError(f"check: no sound is longer than the model's window of {model.pool.window * step_ms:g} ms")
    return Report(
        size, stream.arena_bytes(), step_ms, 1e6 * busy / steps, steps * step_ms / 1000, float(differences.mean()),
        float(differences.max()), float(same.mean()),
    )  # fmt: skip
