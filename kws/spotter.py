"""A checkpoint that listens: samples in, detections out, for a microphone, a file or a pipe alike."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate

from kws.audio import Resampler
from kws.decision import Decision, Detection
from kws.features import FbankOptions, make_options
from kws.features.extractor import FeatureExtractor, warn_if_not_int16_units
from kws.models import AcousticModel
from kws.training import checkpoint


@dataclass
class Trained:
    """What a checkpoint holds, ready to use."""

    model: AcousticModel  # averaged weights if the run kept any, in evaluation mode
    extractor: FeatureExtractor
    labels: list[str]
    options: FbankOptions
    config: dict


def open_checkpoint(path: str | Path, device: str = "cpu", averaged: bool = True) -> Trained:
    """Builds the model and front-end that a checkpoint describes.

    Args:
        averaged: take the averaged weights, where the run kept any.

    Raises:
        KwsError: the file is missing, foreign, cut short or of a newer format.
    """
    saved = checkpoint.load(path, device)
    options = make_options(**saved["features"])
    labels = saved["labels"]
    model = instantiate(
        saved["config"]["model"], n_features=options.dim, n_classes=len(labels), shift_ms=options.frame_shift
    )
    model.load_state_dict((averaged and saved["ema"]) or saved["model"])
    if saved["config"].get("compress") and "packed" not in saved:  # in training: these move, what counts is stored
        instantiate(saved["config"]["compress"], _convert_="all").apply(model)
    return Trained(model.to(device).eval(), FeatureExtractor(options).to(device), labels, options, saved["config"])


class Spotter:
    """One stream through a trained model.

    Args:
        trained: from `open_checkpoint`.
        rate: of the samples that will be fed, in Hz.
        decision: keyword arguments of `Decision`.
    """

    def __init__(self, trained: Trained, rate: int | None = None, **decision):
        self.trained = trained
        self.rate = rate or int(trained.options.sample_frequency)
        target = int(trained.options.sample_frequency)
        self.resampler = Resampler(self.rate, target) if self.rate != target else None
        self.step_ms = trained.model.stride * trained.options.frame_shift
        # the first step ends where its last frame ends
        offset_ms = trained.options.frame_length - trained.options.frame_shift
        self.decision = Decision(trained.labels, self.step_ms, offset_ms, **decision)
        self.reset()

    def reset(self) -> None:
        self.features = self.trained.extractor.initial_state()
        self.state = self.trained.model.initial_state()
        self.decision.reset()
        if self.resampler:
            self.resampler.reset()

    @torch.inference_mode()
    def scores(self, samples: np.ndarray, flush: bool = False) -> np.ndarray:
        """The next samples (n,) in int16 units to the probabilities (steps, labels) that they complete."""
        if self.resampler:
            samples = self.resampler.push(samples, flush)
        chunk = torch.as_tensor(np.asarray(samples, np.float32), device=self.trained.model.mean.device)[None]
        warn_if_not_int16_units(chunk)
        frames, self.features = self.trained.extractor.stream(chunk, self.features, flush)
        logits, self.state = self.trained.model.stream(frames, self.state)
        return logits[0].softmax(dim=1).cpu().numpy()

    def push(self, samples: np.ndarray, flush: bool = False) -> list[Detection]:
        """The next samples (n,) in int16 units to the words now detected, their times in seconds of the stream."""
        return self.decision.push(self.scores(samples, flush))
