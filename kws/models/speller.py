"""What is said, phone by phone, and how well it agrees with words of which only the pronunciation is known.

Phones are the characters of espeak-ng's pronunciations (`kws.data.near.phonemes`). Their network is trained by
connectionist temporal classification (Graves et al. 2006): of each step it says how likely each phone is, or none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.streaming import CausalConv, CausalPool, Stateful, Stream

SURPRISE = 6.0  # nats; a phone is never less likely than the likeliest than by this
WORST = 4.0  # nats a phone; what agrees less is all the same
IMPOSSIBLE = -1e4
STAY = -0.02  # for each step that a place is kept, so that a word of long ago is forgotten


class Agreement(Stateful):
    """How well the best way through a word's phones agrees with what was heard, for every step.

    Of a word's phones p1 … pn, any of which may be followed by steps of none, the best way that ends now in pn is found
    as Viterbi does, wherever it began. It is worth the sum over its steps of log P(what the word says) − log P(the
    likeliest), by n. At worst −4.

    Args:
        words: the phones of each word, as columns of the logits from 1 on; 0 is none.
        n_units: columns of the logits.
    """

    forgets = False

    def __init__(self, words: list[list[int]], n_units: int):
        super().__init__()
        said, first, last, step = [], [], [], []
        for word in words:
            for i, phone in enumerate(word):
                place = len(said)
                said.append(phone)
                first.append(0.0 if i == 0 else IMPOSSIBLE)
                step.append((place, place, STAY))
                if i > 0:
                    step.append((place - 1, place, 0.0))  # by a step of none
                    if phone != word[i - 1]:
                        step.append((place - 2, place, 0.0))
                if i < len(word) - 1:
                    said.append(0)
                    first.append(IMPOSSIBLE)
                    step += [(place, place + 1, 0.0), (place + 1, place + 1, STAY)]
            last.append(len(said) - 1)
        unbegun = -WORST * max(map(len, words))  # the score of a place that nothing has reached
        steps = torch.full((len(said), len(said)), IMPOSSIBLE)
        for before, place, cost in step:
            steps[place, before] = cost
        ends = F.one_hot(torch.tensor(last), len(said)) / torch.tensor([[float(len(word))] for word in words])
        constants = {
            "said": F.one_hot(torch.tensor(said), n_units).float(), "begins": torch.tensor(first) - unbegun,
            "steps": steps, "ends": ends, "offset": unbegun * ends.sum(dim=1) + WORST,
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def initial_slot(self, batch: int) -> Tensor:
        return torch.zeros(batch, len(self.begins))  # above what is unbegun

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Logits of phones (batch, units, 1, steps) to 4 + the agreement, at least 0 (batch, words, 1, steps)."""
        x = (x - x.amax(dim=1, keepdim=True))[:, :, 0].transpose(1, 2)
        heard = F.linear(F.relu(x + SURPRISE), self.said) - SURPRISE
        scores = heard.new_zeros(len(x), len(self.begins)) if stream is None else stream.take(self).to(heard)
        after = []
        for step in heard.unbind(dim=1):
            scores = torch.maximum((scores[:, None] + self.steps).amax(dim=2), self.begins) + step
            after.append(scores)
        if stream is not None:
            stream.put(self, scores)
        return F.relu(F.linear(torch.stack(after, dim=1), self.ends, self.offset)).transpose(1, 2)[:, :, None]


class Speller(nn.Module):
    """A map of the acoustic model (batch, channels, 1, steps) to phones, and to what they add to the labels' logits.

    Args:
        rows: layers over the map, which has `channels` behind them.
        phones: every phone, a character each.
        spoken: how each label is said, "" for what is no word; one at least is a word.
        weight: of the agreement, in nats of a label's logit for each nat a phone.
        neutral: the agreement that says neither yes nor no, in nats a phone.
        hold_ms: how long the best agreement counts.
        step_ms: from one step to the next.

    Raises:
        ValueError: a label is said with a phone that is not among them.
    """

    def __init__(
        self, rows: nn.Module, channels: int, phones: str, spoken: list[str], step_ms: float, weight: float = 1.0,
        neutral: float = -2.5, hold_ms: float = 320.0,
    ):  # fmt: skip
        super().__init__()
        self.rows, self.phones = rows, phones
        self.to_phones = CausalConv(channels, len(phones) + 1, (3, 1), bias=True)
        words = [i for i, text in enumerate(spoken) if text]
        self.agreement = Agreement([spell(spoken[i], phones) for i in words], len(phones) + 1)
        self.held = CausalPool(len(words), (max(1, round(hold_ms / step_ms)), 1))
        place = weight * F.one_hot(torch.tensor(words), len(spoken)).float().T
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("offset", place.sum(dim=1) * (-WORST - neutral), persistent=False)

    def logits(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """Phones (batch, 1 + phones, 1, steps), the first is none."""
        return self.to_phones(self.rows(x, stream), stream)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        """What is added to the logits of labels (batch, steps, labels): nothing to those that are no words."""
        held = self.held(self.agreement(self.logits(x, stream), stream), stream)
        return F.linear(held[:, :, 0].transpose(1, 2), self.place, self.offset)


def spell(sound: str, phones: str) -> list[int]:
    """A pronunciation as columns of the phones' logits.

    Raises:
        ValueError: there is no such phone.
    """
    if strange := sorted(set(sound) - set(phones)):
        raise ValueError(f"{sound!r} is said with {' '.join(strange)}, which is not among the phones {phones}")
    return [phones.index(phone) + 1 for phone in sound]
