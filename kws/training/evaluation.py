"""How well a model answers a set of clips."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from kws import losses
from kws.data.dataset import ClipDataset, load
from kws.metrics import accuracy, confusion_matrix, wilson_interval
from kws.progress import progress
from kws.training import distributed

OTHERS = 2  # clips before each, where an answer after others is asked for


@dataclass
class Result:
    loss: float
    matrix: np.ndarray  # (labels, labels) counts: said, heard
    accuracy: float  # labels that the loss holds alike being one answer
    right: np.ndarray  # (clips,) bool: which of this process's clips it knew, in an order that depends on them alone
    clips_per_second: float
    after_others: float | None = None  # accuracy where each clip is heard after others, as in a stream

    @property
    def clips(self) -> int:
        return int(self.matrix.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson), of the accuracy."""
        return wilson_interval(round(self.accuracy * self.clips), self.clips)

    @property
    def in_a_stream(self) -> str:
        """The accuracy after others in words, and what to do where it is surely less than that of clips alone."""
        share = f"{100 * self.after_others:.2f} % after {OTHERS} other clips, as in a stream"
        return share + ": train.context=0.5 teaches that" * (self.after_others < self.interval[0])


def joined(batch: torch.Tensor, others: int) -> torch.Tensor:
    """Each after `others` more of the batch: (batch, n, …) to (batch, (others + 1) n, …)."""
    return torch.cat([batch.roll(i, 0) for i in range(others, -1, -1)], dim=1)


@torch.no_grad()
def evaluate(
    model, data: ClipDataset, loss, batch_size: int = 64, workers: int = 0, show: bool = False, others: bool = False
) -> Result:
    """Answers every clip of `data`, by what `loss` judges a clip, and maybe again after others, unless the loss judges
    by more than the last step; of several processes each answers its share, and figures are those of all."""
    rank, world = distributed.place()
    indices = np.random.default_rng(0).permutation(len(data))[rank::world].tolist()  # so that others are of any word
    batches = [[(0, i) for i in indices[at : at + batch_size]] for at in range(0, len(indices), batch_size)]
    training, device = model.training, model.mean.device
    model.eval()
    others = others and not loss.spans
    total, after, asked, truth, predicted, started, aside = 0.0, 0, 0, [], [], time.perf_counter(), 0.0
    n = len(data.labels)
    for batch in progress(
        load(data, batches, workers), total=len(batches), desc="evaluating", unit="batch", disable=not show
    ):
        frames, labels = batch["frames"].to(device), batch["label"].to(device)
        logits = loss.logits(model, frames)
        ended = batch["ended"].to(device).div(model.stride, rounding_mode="floor") if loss.spans else None
        total += loss(logits, losses.targets(labels, n), ended).sum().item()
        truth += labels.tolist()
        predicted += loss.answer(logits).argmax(dim=1).tolist()
        if others and len(labels) > OTHERS:
            began = time.perf_counter()
            answers = loss.answer(loss.logits(model, joined(frames, OTHERS)))
            after += (answers.argmax(dim=1) == labels).sum().item()
            asked += len(labels)
            aside += time.perf_counter() - began
    model.train(training)
    seconds = time.perf_counter() - started - aside
    matrix = distributed.total(torch.from_numpy(confusion_matrix(truth, predicted, n))).numpy()
    total, after, asked = distributed.total(torch.tensor([total, after, asked], dtype=torch.float64)).tolist()
    truth, predicted = np.array(truth, int), np.array(predicted, int)
    right = (truth == predicted) | (np.isin(truth, loss.alike) & np.isin(predicted, loss.alike))
    speed = len(predicted) / max(seconds, 1e-9)
    loss_mean, share = total / max(1, int(matrix.sum())), accuracy(matrix, loss.alike)
    return Result(loss_mean, matrix, share, right, speed, after / asked if asked else None)
