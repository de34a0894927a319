"""The state of a stream, and the few layers that own any.

Tensors are (batch, channels, frequency, time), time last. Every layer here is causal: output t uses input up to the
last frame of its stride, and nothing later. Offline is a past of zeros.

A layer that looks back owns one slot, a tensor. `initial_state` names the slots of a model, and a `Stream` hands
them down one call: each layer takes its past, puts its new past, and the caller's tensors are never altered.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]


class Stateful(nn.Module):
    """A layer that owns a slot. `slot` is its name in the state, given by `prepare`."""

    slot: str | None = None
    bands: int = 1  # frequency bands of its input; both are set by `prepare`

    forgets = True  # False where an output depends on everything since the stream began

    def initial_slot(self, batch: int) -> Tensor | None:
        """The past of a stream that has not begun; None where this layer's settings need none."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its past is")

    def centre(self) -> None:
        """Turns to the form that papers give for images: padded on both sides of time, means over the whole map."""
        raise ValueError(f"{type(self).__name__} has no form that is not causal")


class Stream:
    """One chunk's way through a model: `past` is read, `next` is filled."""

    def __init__(self, past: State):
        self.past, self.next = past, {}

    def take(self, layer: Stateful) -> Tensor:
        if layer.slot not in self.past:
            raise KeyError(f"the state has no slot {layer.slot!r}; it has {', '.join(self.past) or 'none'}")
        return self.past[layer.slot]

    def put(self, layer: Stateful, value: Tensor) -> None:
        if layer.slot in self.next:
            raise RuntimeError(f"layer {layer.slot!r} was used twice in one call; its past would be overwritten")
        self.next[layer.slot] = value

    def finish(self) -> State:
        if missing := sorted(set(self.past) - set(self.next)):
            raise RuntimeError(f"layers {', '.join(missing)} were not reached; their past would be lost")
        return self.next


def prepare(model: nn.Module, example: Tensor) -> None:
    """Gives every stateful layer its slot's name (its path in `model`; survives deepcopy, wrapping and export) and,
    by one pass of `example` through the model, the number of bands that its past holds."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, Stateful)}
    for name, layer in layers.items():
        layer.slot = name
    hooks = [layer.register_forward_pre_hook(_see_bands) for layer in layers.values()]
    training = model.training
    with torch.no_grad():
        model.eval()(example)
    model.train(training)
    for hook in hooks:
        hook.remove()


def _see_bands(layer, inputs):
    layer.bands = inputs[0].shape[2]


def centre(model: nn.Module) -> None:
    """Turns a causal model into the form that papers give for images (see `Stateful.centre`); it no longer streams."""
    for module in model.modules():
        if hasattr(module, "centre"):
            module.centre()


def initial_state(model: nn.Module, batch: int = 1) -> State:
    """The slots of every layer of `model` that looks back."""
    layers = [module for module in model.modules() if isinstance(module, Stateful)]
    slots = {layer.slot: layer.initial_slot(batch) for layer in layers}
    return {name: slot for name, slot in slots.items() if slot is not None}


class Chain(nn.Sequential):
    """nn.Sequential that hands the stream to its members."""

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        for layer in self:
            x = layer(x, stream)
        return x


class _Sliding(Stateful):
    """A window over time and frequency that slides by a stride: what convolution and pooling share.

    With a stride in time the output belongs to the last frame of each group of `stride`, so that n frames give
    n // stride outputs and a chunk of whole groups leaves a past of constant size. A 1×1 strided shortcut therefore
    picks the same frames as the main path.
    """

    def _slide_over(self, channels, kernel, stride, dilation, valid):
        (kt, kf), (self.time_stride, _), (dt, df) = kernel, stride, dilation
        self.past_channels = channels
        self.lead = (kt - 1) * dt - (self.time_stride - 1)  # frames that an output needs before its group's first
        self._both_sides = (0, 0) if valid else ((kf - 1) // 2 * df, (kt - 1) // 2 * dt)

    def initial_slot(self, batch):
        return torch.zeros(batch, self.past_channels, self.bands, self.lead) if self.lead > 0 else None

    def centre(self):
        self.lead, self.padding = 0, self._both_sides

    def _with_past(self, x: Tensor, stream: Stream | None) -> Tensor:
        if stream is None:
            return F.pad(x, (self.lead, 0)) if self.lead else x  # a negative lead crops
        if x.shape[-1] % self.time_stride:
            raise ValueError(f"{self.slot}: {x.shape[-1]} frames, not a multiple of stride {self.time_stride}")
        if self.lead > 0:
            x = torch.cat([stream.take(self).to(x), x], dim=-1)
            stream.put(self, x[..., x.shape[-1] - self.lead :])
        return x[..., -self.lead :] if self.lead < 0 else x


class CausalConv(_Sliding, nn.Conv2d):
    """Convolution over time and frequency: causal in time, "same" in frequency.

    Args:
        kernel, stride: (time, frequency); the frequency kernel is odd.
        dilation: in time, or (time, frequency).
        valid: no padding in frequency (nor in time once centred).
    """

    def __init__(self, c_in, c_out, kernel=(1, 1), stride=(1, 1), dilation=1, groups=1, bias=False, valid=False):
        (kt, kf), (st, sf) = kernel, stride
        dt, df = dilation if isinstance(dilation, tuple) else (dilation, 1)
        if kf % 2 == 0:
            raise ValueError(f"the kernel spans {kf} frequencies; an odd number is needed")
        padding = 0 if valid else kf // 2 * df
        super().__init__(
            c_in, c_out, (kf, kt), (sf, st), padding=(padding, 0), dilation=(df, dt), groups=groups, bias=bias
        )
        self._slide_over(c_in, kernel, stride, (dt, df), valid)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        return super().forward(self._with_past(x, stream))


class CausalPool(_Sliding):
    """Maximum or mean over the last frames and the frequencies around, (batch, C, F, T) to (batch, C, F/sf, T/st).

    The past before a stream begins is zeros, for the maximum too; at the edges of frequency the maximum ignores what
    is outside and the mean takes zeros, as in the papers.
    """

    def __init__(self, channels, kernel, stride=(1, 1), mean=False, valid=False):
        super().__init__()
        (kt, kf), (st, sf) = kernel, stride
        self.kernel, self.stride, self.mean = (kf, kt), (sf, st), mean
        self.padding = (0 if valid else (kf - 1) // 2, 0)
        self._slide_over(channels, kernel, stride, (1, 1), valid)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        pool = F.avg_pool2d if self.mean else F.max_pool2d
        return pool(self._with_past(x, stream), self.kernel, self.stride, self.padding)


class CausalGru(Stateful):
    """A GRU over time, (batch, C, F, T) to (batch, hidden, 1, T); its slot is (batch, layers, hidden)."""

    forgets = False

    def __init__(self, features, hidden, layers=1):
        super().__init__()
        self.gru = nn.GRU(features, hidden, layers, batch_first=True)

    def initial_slot(self, batch):
        return torch.zeros(batch, self.gru.num_layers, self.gru.hidden_size)

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        past = None if stream is None else stream.take(self).to(x).transpose(0, 1).contiguous()
        y, past = self.gru(x.flatten(1, 2).transpose(1, 2), past)
        if stream is not None:
            stream.put(self, past.transpose(0, 1))
        return y.transpose(1, 2)[:, :, None]


class WindowedMean(Stateful):
    """Mean over all frequencies and the last `window` steps, (batch, C, F, T) to (batch, C, 1, T).

    Computed anew from the buffered values (a running sum drifts), and divided by the steps seen so far, which one
    more channel of the buffer counts.
    """

    def __init__(self, channels: int, window: int):
        super().__init__()
        self.channels, self.window, self.whole = channels, window, False

    def centre(self):
        self.whole = True

    def initial_slot(self, batch):
        return torch.zeros(batch, self.channels + 1, 1, self.window - 1) if self.window > 1 else None

    def forward(self, x: Tensor, stream: Stream | None = None) -> Tensor:
        if self.whole:
            return x.mean(dim=(2, 3), keepdim=True)
        x = x.mean(dim=2, keepdim=True)
        if self.window == 1:
            return x
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        if stream is None:
            x = F.pad(x, (self.window - 1, 0))
        else:
            x = torch.cat([stream.take(self).to(x), x], dim=-1)
            stream.put(self, x[..., x.shape[-1] - self.window + 1 :])
        x = F.avg_pool2d(x, (1, self.window), stride=1)
        return x[:, :-1] / x[:, -1:]
