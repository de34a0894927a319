"""Trained models whose answers another one learns."""

import torch
from torch import Tensor

from kws.errors import KwsError
from kws.features import describe
from kws.models import fold
from kws.training.compiling import compiled_for
from kws.training.trained import open_checkpoint


class Teachers:
    """The mean of what checkpoints answer, as targets (Hinton et al. 2015, arXiv:1503.02531, at temperature 1).

    They hear what the student hears, masks and mixtures too (Beyer et al. 2022, arXiv:2106.05237).

    Args:
        paths: checkpoints, or folders of runs.
        labels, features: of the student.
        size: of the batches to compile them for; None: they are not compiled.

    Raises:
        KwsError: a checkpoint cannot be read, has other labels or another front-end, or was not trained by clips.
    """

    def __init__(self, paths: list[str], labels: list[str], features: dict, device: str, size: int | None = None):
        trained = [open_checkpoint(path, device) for path in paths]
        for path, one in zip(paths, trained, strict=True):
            if one.labels != labels:
                raise KwsError(f"train.teachers: {path} answers {', '.join(one.labels)}; expected {', '.join(labels)}")
            if one.loss().spans:
                raise KwsError(f"train.teachers: {path} answers every step, and a student learns one answer for a clip:"
                               " its loss must be clip")  # fmt: skip
            if describe(one.options) != features:
                raise KwsError(
                    f"train.teachers: {path} has another front-end: {describe(one.options)}; expected {features}"
                )
        answers = [fold(one.model).clip_logits for one in trained]
        self.answers = [compiled_for(size, answer) for answer in answers] if size else answers

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        """Frames (batch, frames, dim) to probabilities (batch, classes)."""
        return torch.stack([answer(frames).softmax(dim=1) for answer in self.answers]).mean(dim=0)
