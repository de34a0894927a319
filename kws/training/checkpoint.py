"""One file that holds a run: written whole or not at all, read without running code, fitted to a changed model."""

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from kws import __version__
from kws.compression import packing
from kws.errors import KwsError
from kws.files import replacing
from kws.spotters import FOLDER

FORMAT = 2  # of files whose weights are packed; others are written as 1
LAST, BEST = "last.pt", "best.pt"
# Tensors whose first dimension is the labels: rows are carried over by the label's name.
CLASS_TENSORS = ("classifier.weight", "classifier.bias")
ABOUT = ("position", "best", "seed", "labels", "features")  # of a run, beside configuration and weights


def save(path: Path, content: dict) -> None:
    """Writes by a temporary file and a rename: a kill at any moment leaves the old file or the new one.

    `packed`, tensors by name as `kws.compression` stores them, stands for `model` and all that goes with it.
    """
    if "packed" in content:
        content = {**content, "format": FORMAT, "packed": packing.write(content["packed"])}
    with replacing(path, durable=True) as part:
        torch.save({"format": 1, "kws": __version__, **content}, part)


def find(path: str | Path) -> Path:
    """The file that `path` stands for: a run's folder stands for its best one, or its last."""
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in (BEST, LAST) if (path / name).is_file()), path / BEST)
    return path


def load(path: str | Path, device: str = "cpu") -> dict:
    """Reads a checkpoint, see `find`. Weights that were packed are unpacked, and nothing stands for what trains them:
    `ema`, `optimizer` and `schedule` are None.

    Raises:
        KwsError: there is none, it is no checkpoint of kws, or it is of a format this version does not know.
    """
    path = find(path)
    if path.suffix == ".onnx" or (FOLDER / f"{path}.onnx").is_file():
        raise KwsError(f"checkpoint={path} is an exported file, which listen, evaluate, inspect and serve take; this "
                       f"needs a run's {BEST} or {LAST}")  # fmt: skip
    if not path.is_file():
        raise KwsError(f"checkpoint {path} does not exist; a run's are in runs/<name>/{BEST} and {LAST}")
    with path.open("rb") as file:
        if file.read(2) != b"PK":  # torch's files are zip archives
            raise KwsError(f"checkpoint {path} cannot be read: it is no checkpoint")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise KwsError(f"checkpoint {path} cannot be read: cut short, or foreign ({reason})") from None
    if not isinstance(content, dict) or "format" not in content or "labels" not in content:
        raise KwsError(f"{path} is not a checkpoint of kws: it holds no format and labels")
    if content["format"] > FORMAT:
        raise KwsError(f"{path} has format {content['format']}; kws {__version__} reads up to {FORMAT}: upgrade kws")
    if "packed" in content:
        try:
            content["packed"] = packing.read(content["packed"])
        except KwsError as error:
            raise KwsError(f"checkpoint {path} cannot be read: {error}") from None
        weights = {name: stored.value().to(device) for name, stored in content["packed"].items()}
        content |= {"model": weights, "ema": None, "optimizer": None, "schedule": None}
    return content


@dataclass
class Fit:
    """What became of each tensor when weights were taken over into a model."""

    kept: list[str] = field(default_factory=list)  # same name, same shape
    carried: list[str] = field(default_factory=list)  # rows of labels in both lists
    overlapped: list[str] = field(default_factory=list)  # another shape, copied where both have values
    reset: list[str] = field(default_factory=list)  # another shape, left as initialised
    new: list[str] = field(default_factory=list)  # only in the model
    unused: list[str] = field(default_factory=list)  # only in the checkpoint
    shared_labels: list[str] = field(default_factory=list)

    @property
    def changed(self) -> list[str]:
        return self.carried + self.overlapped + self.reset + self.new + self.unused

    def __str__(self) -> str:
        text = ", ".join(
            f"{len(getattr(self, name))} {name}"
            for name in ("kept", "carried", "overlapped", "reset", "new", "unused")
            if name != "overlapped" or self.overlapped
        )
        return f"tensors: {text}" + (f"; labels carried: {', '.join(self.shared_labels)}" if self.carried else "")

    def names(self) -> str:
        groups = ("carried", "overlapped", "reset", "new", "unused", "kept")
        return "\n".join(f"  {group}: {', '.join(getattr(self, group))}" for group in groups if getattr(self, group))


@torch.no_grad()
def fit(
    weights: dict[str, Tensor], model: nn.Module, labels_from: list[str], labels_to: list[str], overlap: bool = False
) -> Fit:
    """Takes over what fits of `weights` into `model`, tensor by tensor.

    Rows of the classifier go by label. With `overlap` a tensor of another shape is copied where both have values, so
    that the channels both models have compute what they computed: what they read from new channels is 0, kernels are
    aligned at their last tap in time and their middle in frequency.

    Raises:
        KwsError: no tensor with learned values fits.
    """
    report, target = Fit(), model.state_dict()
    learned = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    for name, value in target.items():
        if name not in weights:
            report.new.append(name)
            continue
        old = weights[name].to(value)
        if name in CLASS_TENSORS and labels_from != labels_to:
            if old.shape[1:] != value.shape[1:] and not overlap:
                report.reset.append(name)
                continue
            shared = [label for label in labels_to if label in labels_from]
            rows_to, rows_from = [labels_to.index(w) for w in shared], [labels_from.index(w) for w in shared]
            value[rows_to] = _overlapped(old[rows_from], value[rows_to])
            (report.carried if shared else report.reset).append(name)
            report.shared_labels = shared
        elif old.shape == value.shape:
            value.copy_(old)
            report.kept.append(name)
        elif overlap and old.dim() == value.dim():
            gates = 3 if ".gru." in name else 1  # one below the other
            parts = zip(old.chunk(gates), value.chunk(gates), strict=True)
            value.copy_(torch.cat([_overlapped(*part) for part in parts]))
            report.overlapped.append(name)
        else:
            report.reset.append(name)
    report.unused = [name for name in weights if name not in target]
    if not learned & set(report.kept + report.carried + report.overlapped):
        raise KwsError(f"nothing of the checkpoint fits this model ({report})\n{report.names()}")
    return report


def _overlapped(old: Tensor, fresh: Tensor) -> Tensor:
    """`fresh` with the values of `old` where both have them (first rows and columns; kernels by their last tap)."""
    if old.shape == fresh.shape:
        return old
    out = fresh.clone()
    if old.dim() < 2:
        n = min(len(old), len(fresh))
        out[:n] = old[:n]
        return out
    rows = min(len(old), len(fresh))
    out[:rows] = 0
    to, source = [slice(rows)], [slice(rows)]
    for axis in range(1, old.dim()):
        n, a, b = min(old.shape[axis], fresh.shape[axis]), old.shape[axis], fresh.shape[axis]
        first = {1: (0, 0), 2: ((a - n) // 2, (b - n) // 2), 3: (a - n, b - n)}[axis]
        source.append(slice(first[0], first[0] + n))
        to.append(slice(first[1], first[1] + n))
    out[tuple(to)] = old[tuple(source)]
    return out


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict:
    """The optimiser's state by the names of the parameters, so that it can be fitted as the weights are."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state = {names[id(parameter)]: value for parameter, value in optimizer.state.items()}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return {"state": state, "groups": groups}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, saved: dict, keep: set[str], settings: bool = True
) -> list[str]:
    """Takes the state of the parameters in `keep`; returns the names of those that start afresh. `settings` takes the
    learning rate and its like too."""
    dropped = []
    for name, parameter in model.named_parameters():
        if name in keep and name in saved["state"]:
            optimizer.state[parameter] = {
                k: v.to(parameter.device if v.dim() else "cpu").clone() if isinstance(v, Tensor) else v
                for k, v in saved["state"][name].items()
            }
        elif parameter.requires_grad:
            dropped.append(name)
    for group, values in zip(optimizer.param_groups, saved["groups"] if settings else [], strict=False):
        group.update(values)
    return dropped
