"""What the numbers and words under `train` may be."""

import math

from omegaconf import DictConfig, OmegaConf

from kws.errors import KwsError, check_list, check_switches, is_number
from kws.losses import PerClip

LIMITS = {  # what each number is, the least, and what it stays below
    **dict.fromkeys(("epochs", "batch_size"), (int, 1, math.inf)),
    **dict.fromkeys(("workers", "threads", "patience", "checkpoint_every", "frozen"), (int, 0, math.inf)),
    **dict.fromkeys(("clip_norm", "mixup"), (float, 0, math.inf)),
    **dict.fromkeys(("ema", "label_smoothing", "teacher_share", "context"), (float, 0, 1)),
    "window_ms": (float, 1, math.inf),
}
CHOICES = {"precision": ("float32", "bf16"), "keep": ("best", "last")}
SWITCHES = ("train.compile", "train.balance", "train.tensorboard", "resume.strict", "init_overlap", "init_names")


def check_settings(cfg: DictConfig) -> None:
    """Raises KwsError: one by itself, or two that contradict each other."""
    c = cfg.train
    for name, choices in CHOICES.items():
        if c[name] not in choices:
            raise KwsError(f"train.{name}={c[name]}: choose {' or '.join(choices)}")
    if c.patience and c.keep == "last":
        raise KwsError(f"train.patience={c.patience} waits for a better epoch: say train.keep=best")
    check_switches(**{name: OmegaConf.select(cfg, name) for name in SWITCHES})
    check_list("train.teachers", c.teachers)
    for name, (kind, least, below) in LIMITS.items():
        number = 0 if c[name] is None and name == "threads" else c[name]
        if not is_number(number, lambda n, a=least, b=below: a <= n < b, int | kind):
            what = "a whole number" if kind is int else "a number"
            bounds = f"of at least {least}" + f" and below {below}" * (below < math.inf)
            raise KwsError(f"train.{name}={c[name]}: expected {what} {bounds}")


def check_loss(cfg: DictConfig, loss: type[PerClip]) -> None:
    """Raises KwsError: a setting that this loss has no use for."""
    c = cfg.train
    if loss.spans and c.mixup:
        raise KwsError("train.mixup: this loss asks where a word ends, which a mixture does not say")
    if loss.spans and c.teachers:
        raise KwsError("train.teachers: this loss asks for every step, teachers answer a clip: say loss=clip")
    if c.context and (loss.spans or loss.spells):
        raise KwsError("train.context: this loss judges every step, those of the context too: say loss=clip")
