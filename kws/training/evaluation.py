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


@dataclass
class Result:
    loss: float
    matrix: np.ndarray  # (labels, labels) counts: said, heard
    accuracy: float  # labels that the loss holds alike being one answer
    right: np.ndarray  # (clips,) bool: which of this process's clips it knew, in their order
    clips_per_second: float

    @property
    def clips(self) -> int:
        return int(self.matrix.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % (Wilson), of the accuracy."""
        return wilson_interval(round(self.accuracy * self.clips), self.clips)


@torch.no_grad()
def evaluate(model, data: ClipDataset, loss, batch_size: int = 64, workers: int = 0, show: bool = False) -> Result:
    """Answers every clip of `data` once, by what `loss` judges a clip; of several processes each answers its share, and
    figures are those of all."""
    rank, world = distributed.place()
    indices = list(range(rank, len(data), world))
    batches = [[(0, i) for i in indices[at : at + batch_size]] for at in range(0, len(indices), batch_size)]
    training, device = model.training, model.mean.device
    model.eval()
    total, truth, predicted, started = 0.0, [], [], time.perf_counter()
    n = len(data.labels)
    for batch in progress(
        load(data, batches, workers), total=len(batches), desc="evaluating", unit="batch", disable=not show
    ):
        logits, labels = loss.logits(model, batch["frames"].to(device)), batch["label"].to(device)
        ended = batch["ended"].to(device).div(model.stride, rounding_mode="floor") if loss.spans else None
        total += loss(logits, losses.targets(labels, n), ended).sum().item()
        truth += labels.tolist()
        predicted += loss.answer(logits).argmax(dim=1).tolist()
    model.train(training)
    seconds = time.perf_counter() - started
    matrix = distributed.total(torch.from_numpy(confusion_matrix(truth, predicted, n))).numpy()
    total = distributed.total(torch.tensor(total, dtype=torch.float64)).item() / max(1, int(matrix.sum()))
    truth, predicted = np.array(truth, int), np.array(predicted, int)
    right = (truth == predicted) | (np.isin(truth, loss.alike) & np.isin(predicted, loss.alike))
    return Result(total, matrix, accuracy(matrix, loss.alike), right, len(predicted) / max(seconds, 1e-9))
