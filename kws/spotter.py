"""A checkpoint that listens: samples in, detections out, for a microphone, a file or a pipe alike."""

import numpy as np
import torch

from kws.audio import Resampler
from kws.decision import Decision, Detection
from kws.features.extractor import warn_if_not_int16_units
from kws.training.trained import Trained


class Spotter:
    """One stream through a trained model.

    Args:
        trained: from `open_checkpoint`.
        rate: of the samples that will be fed, in Hz.
        decision: keyword arguments of `Decision`.
    """

    chunk_s = 0.0  # of sound that is worked on at a time; here whatever comes

    def __init__(self, trained: Trained, rate: int | None = None, **decision):
        self.trained = trained
        self.rate = rate or int(trained.options.sample_frequency)
        target = int(trained.options.sample_frequency)
        self.resampler = Resampler(self.rate, target) if self.rate != target else None
        self.step_ms = trained.model.stride * trained.options.frame_shift
        # the first step ends where its last frame ends
        offset_ms = trained.options.frame_length - trained.options.frame_shift
        if not trained.options.snip_edges:  # frames have their middle where others have their end
            offset_ms /= 2
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
