"""What training minimises. A loss takes a model's logits, target probabilities (batch, classes), the steps at which
words have ended (batch,), -1 where no word is, and the phones that are said (see `ClipDataset`); it returns one value
a clip (batch,): the trainer divides by the size of the global batch. `answer` picks from the same logits what a clip is
judged by, (batch, classes)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.errors import KwsError


def targets(labels: Tensor, n_classes: int, smoothing: float = 0.0) -> Tensor:
    """Label indices (batch,) to probabilities (batch, classes), with `smoothing` spread over all classes
    (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""
    return F.one_hot(labels, n_classes) * (1 - smoothing) + smoothing / n_classes


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(batch,) in nats, computed in float32."""
    return F.cross_entropy(logits.float(), target, reduction="none")


class PerClip:
    """Cross-entropy of a clip's last step."""

    spans = spells = False  # whether it asks where words end; and which phones are said
    alike = ()  # classes of which any is as right as another

    def __init__(self, labels: list[str], step_ms: float):
        pass

    def logits(self, model: nn.Module, frames: Tensor) -> Tensor:
        return model.clip_logits(frames)

    def answer(self, logits: Tensor) -> Tensor:
        return logits

    def __call__(self, logits: Tensor, target: Tensor, ended: Tensor, said: Tensor | None = None) -> Tensor:
        return cross_entropy(logits, target)


class PerStep:
    """Cross-entropy of every step (batch, steps, classes), the mean over a clip's.

    From the step at which a word has ended, for `tail_ms`, steps are the word's; until `guard_ms` before it they are no
    word's; the rest do not count. Where no word is, every step is the clip's.

    A clip is judged by the step most sure of any word.

    Raises:
        KwsError: there is no label but words.
    """

    spans, spells = True, False

    def __init__(self, labels: list[str], step_ms: float, tail_ms: float = 400.0, guard_ms: float = 100.0):
        self.words = [i for i, label in enumerate(labels) if not label.startswith("_")]
        self.others = self.alike = [i for i, label in enumerate(labels) if label.startswith("_")]
        if not self.words or not self.others:
            raise KwsError(f"loss: the labels {', '.join(labels)} hold no word, or nothing else: say data.unknown=true")
        self.tail, self.guard = round(tail_ms / step_ms), round(guard_ms / step_ms)

    def logits(self, model: nn.Module, frames: Tensor) -> Tensor:
        return model(frames)

    def answer(self, logits: Tensor) -> Tensor:
        sure = logits.float().log_softmax(dim=2)[..., self.words].amax(dim=2)
        return _at(logits, sure.argmax(dim=1))

    def __call__(self, logits: Tensor, target: Tensor, ended: Tensor, said: Tensor | None = None) -> Tensor:
        n, steps, _ = logits.shape
        after, before, elsewhere = self._places(ended, steps)
        own = cross_entropy(logits.flatten(0, 1), target.repeat_interleave(steps, 0)).view(n, steps)
        low = -self._no_word(logits)
        counted = after | before | elsewhere
        return (torch.where(before, low, own) * counted).sum(dim=1) / counted.sum(dim=1)

    def _places(self, ended: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each step (batch, steps) whether it is the word's, too early for it, or in a clip without any."""
        step, word = torch.arange(steps, device=ended.device), (ended >= 0)[:, None]
        end = ended.clamp(max=steps - 1)[:, None]
        after = word & (step >= end) & (step <= end + self.tail)
        return after, word & (step < end - self.guard), ~word & (step >= 0)

    def _no_word(self, logits: Tensor) -> Tensor:
        """Logarithm of the probability (batch, steps) that a step is no word's."""
        return logits.float().log_softmax(dim=2)[..., self.others].logsumexp(dim=2)


class MaxPool(PerStep):
    """Cross-entropy of one step of (batch, steps, classes): of a word the surest from its end on, for `tail_ms`;
    elsewhere the one most sure of any word. Max-pooling, after Sun et al. 2016 (arXiv:1705.02411).

    Beside it a guard, without which the surest step may lie in mid-word: of the steps until `guard_ms` before a word's
    end, the one most sure of any word is to be no word's.
    """

    def __call__(self, logits: Tensor, target: Tensor, ended: Tensor, said: Tensor | None = None) -> Tensor:
        after, before, elsewhere = self._places(ended, logits.shape[1])
        logs = logits.detach().float().log_softmax(dim=2)
        own = logs.gather(2, target.argmax(dim=1)[:, None, None].expand(-1, logs.shape[1], 1))[..., 0]
        sure = torch.where(elsewhere, logs[..., self.words].amax(dim=2), own)
        chosen = sure.masked_fill(~(after | elsewhere), -torch.inf).argmax(dim=1)
        guard = -self._no_word(logits).masked_fill(~before, 0).amin(dim=1)
        return cross_entropy(_at(logits, chosen), target) + guard


class Ctc(MaxPool):
    """`MaxPool` of the labels, and beside it connectionist temporal classification of the phones (Graves et al. 2006,
    "Connectionist Temporal Classification", equation 14), by the mean over a clip's phones. It trains a model with a
    speller.

    Of clips of which it is not known what is said in their window only the labels count.
    """

    spells = True

    def logits(self, model: nn.Module, frames: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """Of the labels, and in training of the phones."""
        return model.phones(frames) if model.training else model(frames)

    def answer(self, logits: tuple[Tensor, Tensor] | Tensor) -> Tensor:
        return super().answer(logits[0] if isinstance(logits, tuple) else logits)

    def __call__(self, logits, target: Tensor, ended: Tensor, said: Tensor | None = None) -> Tensor:
        if not isinstance(logits, tuple):
            return super().__call__(logits, target, ended)
        labels, phones = logits
        if not len(phones):  # of a process without a clip, that still takes part in every sum
            return super().__call__(labels, target, ended) + phones.sum(dim=(1, 2))
        known, counts = (said >= -1).all(dim=1), (said >= 0).sum(dim=1)
        steps = torch.full_like(counts, phones.shape[1])
        value = F.ctc_loss(
            phones.float().log_softmax(dim=2).transpose(0, 1), said.clamp(min=0), steps, counts * known,
            reduction="none", zero_infinity=True,
        )  # fmt: skip
        return super().__call__(labels, target, ended) + known * value / counts.clamp(min=1)


def _at(logits: Tensor, step: Tensor) -> Tensor:
    """One step of each clip: (batch, steps, classes) to (batch, classes)."""
    return logits[torch.arange(len(logits), device=logits.device), step]
