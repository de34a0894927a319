"""Where a run begins: afresh, with another checkpoint's weights, or where it stopped."""

import warnings
from pathlib import Path

from kws.config import differences_between
from kws.errors import KwsError
from kws.spotters import find
from kws.training import checkpoint
from kws.training.trainer import Trainer, say


def begin(trainer: Trainer) -> bool:
    """Resumes, fits another checkpoint's weights, or starts fresh. False if the run is already finished."""
    origin = trainer.cfg.resume["from"]
    path = trainer.folder / checkpoint.LAST if origin == "auto" else Path(str(origin))
    if path.is_dir():
        path = path / checkpoint.LAST
    if origin not in ("auto", "never") and not path.exists():
        raise KwsError(f"resume={origin}: no such checkpoint; resume takes auto, never or a path")
    if origin != "never" and path.exists():
        return _resume(trainer, checkpoint.load(path, trainer.device), path)
    if not trainer.cfg.init_from:
        trainer.normalise()
        return True
    saved = checkpoint.load(find(str(trainer.cfg.init_from), ".pt"), trainer.device)
    report = checkpoint.fit(
        saved["ema"] or saved["model"], trainer.model, saved["labels"], trainer.labels, trainer.cfg.init_overlap
    )
    stays = [f"{name}.{part}" for name, module in trainer.frozen.items() for part in module.state_dict()]
    if astray := [name for name in stays if name not in report.kept]:
        raise KwsError(f"train.frozen={trainer.cfg.train.frozen}: {trainer.cfg.init_from} has no weights of these"
                       f" shapes for {', '.join(astray[:4])}")  # fmt: skip
    if trainer.ema is not None:
        trainer.ema.load_state_dict(trainer.model.state_dict())
    if saved["features"] != trainer.features:
        trainer.normalise()
    say(f"init_from={trainer.cfg.init_from}: {report}")
    if trainer.cfg.init_names:
        say(report.names())
    elif report.reset:
        say(f"  reset: {', '.join(report.reset)}")
    if not all(name.startswith("classifier.") for name in report.reset):  # of which the known labels' rows were kept
        say("init_overlap=true would copy what is reset as far as the shapes overlap")
    return True


def _resume(trainer: Trainer, saved: dict, path: Path) -> bool:
    differences = differences_between(saved["config"], trainer.plain_config())
    position, labels = saved["position"], saved["labels"]
    if saved["optimizer"] is None:
        raise KwsError(f"{path} holds weights alone, nothing to resume by: its run's {checkpoint.LAST} has, or use"
                       f" init_from={path}")  # fmt: skip
    step, anew = position["step"], position["per_epoch"] != trainer.per_epoch  # other data, or another batch size
    if anew:
        step = step // position["per_epoch"] * trainer.per_epoch
    if position["finished"] == "early" or step >= trainer.total_steps:
        if path.parent.resolve() != trainer.folder.resolve():
            raise KwsError(f"{path} has nothing left to train: raise train.epochs, or use init_from={path}")
        if differences:
            raise KwsError(
                f"{path} is a finished run of another configuration ({'; '.join(differences)}):"
                " choose another name=, or resume=never to replace it"
            )
        trainer.best = saved["best"]
        say(f"{path}: this run is finished; another name= starts another, resume=never replaces it")
        return False
    try:
        report = checkpoint.fit(saved["model"], trainer.model, labels, trainer.labels)
    except KwsError as error:
        raise KwsError(f"resume from {path}: {error}; resume=never starts fresh") from None
    if report.changed and trainer.cfg.resume.strict:
        raise KwsError(f"resume from {path}: the model changed, and resume.strict=true\n{report.names()}")
    if trainer.ema is not None:
        checkpoint.fit(saved["ema"] or saved["model"], trainer.ema, labels, trainer.labels)
    if saved["features"] != trainer.features:
        trainer.normalise()
    same = not any(d.startswith(("optim.", "train.epochs:", "train.batch_size:")) for d in differences)
    other = any(d.startswith("optim.optimizer._target_") for d in differences)  # its state means something else
    dropped = checkpoint.restore_optimizer(
        trainer.optimizer, trainer.model, saved["optimizer"], set() if other else set(report.kept), settings=same
    )
    trainer.step, trainer.best, trainer.waited = step, saved["best"], position["waited"]
    if anew:
        say(f"an epoch has {trainer.per_epoch} batches instead of {position['per_epoch']}: it begins anew")
    if same and trainer.step == position["step"]:
        trainer.schedule.load_state_dict(saved["schedule"])
    else:
        with warnings.catch_warnings():  # of steps of the schedule before any of the optimiser
            warnings.simplefilter("ignore")
            for _ in range(trainer.step):
                trainer.schedule.step()
    compares = saved.get("validation", trainer.validation) == trainer.validation
    if report.changed or not compares or path.parent.resolve() != trainer.folder.resolve():
        trainer.best = {}
    if differences:
        say("changed since then: " + "; ".join(differences))
    if report.changed:
        say(f"the model changed: {report}\n{report.names()}")
    if dropped:
        say(f"{len(dropped)} tensors begin without optimiser state")
    epoch = trainer.step / trainer.per_epoch
    say(f"resuming {path} at epoch {epoch:.2f} of {trainer.cfg.train.epochs}, step {trainer.step}")
    return True
