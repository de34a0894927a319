"""What training minimises. A loss takes logits (batch, classes) and target probabilities (batch, classes), and returns
one value a clip (batch,): the trainer divides by the size of the global batch."""

import torch.nn.functional as F
from torch import Tensor


def targets(labels: Tensor, n_classes: int, smoothing: float = 0.0) -> Tensor:
    """Label indices (batch,) to probabilities (batch, classes), with `smoothing` spread over all classes
    (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    return F.one_hot(labels, n_classes) * (1 - smoothing) + smoothing / n_classes


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(batch,) in nats, computed in float32."""
    return -(target * logits.float().log_softmax(dim=1)).sum(dim=1)
