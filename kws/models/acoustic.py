"""The frame every model shares: input normalisation, blocks, mean over the last second, classifier."""

import torch
from torch import Tensor, nn

from kws.blocks.base import concat
from kws.models.speller import Speller
from kws.streaming import Chain, State, Stream, WindowedMean, initial_state, prepare

CLIP = 5.0  # standard deviations: digital silence lies at log(2^-23), far below any sound that was normalised


class Rows(Chain):
    """The blocks of a table, one after the other; a block that takes `source` is given the model's input too."""

    def forward(self, x: Tensor, stream: Stream | None = None, source: Tensor | None = None) -> Tensor:
        source = x if source is None else source
        for block in self:
            x = _through(block, x, stream, source)
        return x


def _through(block: nn.Module, x: Tensor, stream: Stream | None, source: Tensor) -> Tensor:
    return block(x, stream, source) if getattr(block, "source", None) else block(x, stream)


class Parallel(nn.Module):
    """Branches of one map, their channels side by side or their sum."""

    source = True

    def __init__(self, branches: list[Rows], add: bool):
        super().__init__()
        self.branches, self.add = nn.ModuleList(branches), add

    def forward(self, x: Tensor, stream: Stream | None = None, source: Tensor | None = None) -> Tensor:
        maps = [branch(x, stream, source) for branch in self.branches]
        return sum(maps) if self.add else concat(maps)


class AcousticModel(nn.Module):
    """Frames (batch, frames, dim) to logits (batch, steps, classes), a step every `stride` frames.

    With a `speller`, which hears the map after the first `after` blocks, logits are what the classifier says and what
    the speller adds; in training, the classifier's alone.

    `mean` and `std` (dim,) normalise the input, so that zero means average, which is also the past before a
    stream begins. They are weights: what was trained is what listens.
    """

    def __init__(
        self, blocks: Chain, n_features: int, channels: int, n_classes: int, planar: bool, stride: int, window: int,
        dropout: float, speller: Speller | None = None, after: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.planar, self.stride, self.n_features = planar, stride, n_features
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.blocks = blocks
        self.pool = WindowedMean(channels, window)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, n_classes)
        self.speller, self.after = speller, after
        prepare(self, torch.zeros(1, stride, n_features))

    def normalise_by(self, frames: Tensor) -> None:
        """Sets `mean` and `std` from frames (n, dim)."""
        self.mean.copy_(frames.mean(dim=0))
        self.std.copy_(frames.std(dim=0).clamp(min=1e-3))

    def embed(self, frames: Tensor, stream: Stream | None) -> tuple[Tensor, Tensor]:
        """Frames (batch, frames, dim) to the map that the speller hears, and the blocks' output, each (batch, channels,
        bands, steps)."""
        x = ((frames - self.mean) / self.std).clamp(-CLIP, CLIP).transpose(1, 2)
        x = x[:, None] if self.planar else x[:, :, None]
        return self.maps(x.contiguous(memory_format=torch.channels_last), stream)

    def maps(self, x: Tensor, stream: Stream | None) -> tuple[Tensor, Tensor]:
        """Of the blocks' input what is behind the first `after`, and behind all."""
        source = heard = x
        for i, block in enumerate(self.blocks, 1):
            x = _through(block, x, stream, source)
            heard = x if i == self.after else heard
        return heard, x

    def _logits(self, frames: Tensor, stream: Stream | None) -> Tensor:
        heard, x = self.embed(frames, stream)
        logits = self._classified(x, stream)
        return logits if self.speller is None or self.training else logits + self.speller(heard, stream)

    def _classified(self, x: Tensor, stream: Stream | None) -> Tensor:
        return self.classifier(self.dropout(self.pool(x, stream)[:, :, 0].transpose(1, 2)))

    def phones(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Whole utterances, for training: what `forward` gives, and the speller's logits (batch, steps, 1 + phones)."""
        heard, x = self.embed(frames, None)
        return self._classified(x, None), self.speller.logits(heard)[:, :, 0].transpose(1, 2)

    def forward(self, frames: Tensor) -> Tensor:
        """Whole utterances: logits (batch, frames // stride, classes). Frames after an utterance's end change nothing
        before it, so padded batches need no mask; `clip_logits` picks each one's answer."""
        if frames.shape[1] < self.stride:
            return frames.new_zeros(len(frames), 0, self.classifier.out_features)
        return self._logits(frames, None)

    def initial_state(self, batch: int = 1) -> State:
        """The state of `batch` streams that have not begun. `input` holds frames of an unfinished step."""
        return {"input": self.mean.new_zeros(batch, 0, self.n_features), **initial_state(self, batch)}

    def stream(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        """The next frames (batch, any number, dim) of `batch` streams: logits of the steps they complete, new state."""
        frames = torch.cat([state["input"], frames], dim=1)
        whole = frames.shape[1] // self.stride * self.stride
        pending = frames[:, whole:]
        if whole == 0:
            return frames.new_zeros(len(frames), 0, self.classifier.out_features), {**state, "input": pending}
        stream = Stream({name: slot for name, slot in state.items() if name != "input"})
        logits = self._logits(frames[:, :whole], stream)
        return logits, {"input": pending, **stream.finish()}

    def clip_logits(self, frames: Tensor, n_frames: Tensor | None = None) -> Tensor:
        """One answer a clip (batch, classes): the logits of its last step, of `n_frames` (batch,) valid frames.

        What `forward` gives there, without the steps before.
        """
        x = self.embed(frames, None)[1].mean(dim=2)
        if n_frames is None:
            x = x[:, :, -self.pool.window :].mean(dim=2)
        else:
            end = (n_frames.to(x.device) // self.stride).clamp(min=1)[:, None]
            step = torch.arange(x.shape[2], device=x.device)
            inside = ((step < end) & (step >= end - self.pool.window)).to(x.dtype)
            x = (x * inside[:, None]).sum(dim=2) / inside.sum(dim=1, keepdim=True)
        return self.classifier(self.dropout(x))
