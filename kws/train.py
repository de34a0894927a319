"""Trains a keyword spotter.

    python -m kws.train model=ghost                                 ten words that a synthesiser speaks
    python -m kws.train experiment=text_wake_word 'data.words=[hey aurora]'       a word of your own, from its text
    python -m kws.train data=folder data.root=my_words              one folder of recordings a word
    python -m kws.train experiment=sc15 data.root=speech_commands   fifteen words of people
    torchrun --nproc-per-node 2 -m kws.train model=ghost            two processes

The run lands in runs/<name>: best.pt, last.pt, metrics.jsonl, curves.png, confusion.png, tensorboard. The same command
goes on with a run that was stopped; resume=never starts afresh, resume=PATH takes another checkpoint. init_from=PATH
begins with the weights of any checkpoint, as far as they fit.

Exit codes: 0 finished, 2 a mistake that the message names, 130 and 143 stopped by Ctrl-C or SIGTERM, with all saved.
"""

import contextlib
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from kws import plots
from kws.config import command
from kws.data.synthetic import Synthetic
from kws.errors import KwsError
from kws.files import locked, make_folder
from kws.training import checkpoint, distributed
from kws.training.evaluation import evaluate
from kws.training.start import begin
from kws.training.trainer import Stopped, Trainer, say


@command("train")
def main(cfg: DictConfig) -> float:
    name = str(cfg.name)
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN and not any(o.startswith("name=") for o in job.overrides.task):
        name += f"-{job.job.num}"  # a sweep's runs, told apart
    folder = Path(str(cfg.runs)) / name
    try:
        return train(cfg, folder)
    except Stopped as stop:
        same = "The same command" if cfg.resume["from"] == "auto" else "The same command without resume=…"
        say(f"stopped; {folder / checkpoint.LAST} holds everything. {same} goes on from there.")
        raise SystemExit(stop.code) from None
    finally:
        distributed.stop()


def train(cfg: DictConfig, folder: Path) -> float:
    """Runs the training in `folder`. Returns the best validation accuracy (what a sweep optimises).

    Raises:
        KwsError: a mistake in `cfg`; or another process trains in `folder`, or it cannot be written.
    """
    trainer = Trainer(cfg, folder)
    source = trainer.source
    english = isinstance(source, Synthetic) and all(accent.startswith("en") for accent in source.accents)
    if english and len(source.words) < 3 and not trainer.loss.spans:
        say("one or two words from their text are heard far better, by people and in long speech, with"
            " experiment=text_wake_word")  # fmt: skip
    with contextlib.ExitStack() as held:
        if distributed.is_first():
            held.enter_context(locked(make_folder("runs", folder) / ".lock", "name"))
        return _train(trainer)


def _train(trainer: Trainer) -> float:
    folder = trainer.folder
    picture = folder / "confusion.png"
    if begin(trainer):
        best = trainer.run()
    elif picture.exists():
        return trainer.best["validation_accuracy"]
    else:  # stopped after its last step
        best = trainer.best
    distributed.barrier()  # the first process writes it
    path = folder / checkpoint.BEST
    saved = checkpoint.load(path, trainer.device)
    model = trainer.model
    model.load_state_dict(saved["ema"] or saved["model"])
    result = evaluate(model, trainer.data["validation"], trainer.loss, trainer.cfg.train.batch_size, others=True)
    if distributed.is_first():
        share, (low, high) = result.accuracy, result.interval
        title = f"{trainer.cfg.name}: {100 * share:.1f} % of {result.clips} validation clips"
        plots.confusion(result.matrix, trainer.labels, picture, title)
        bounds = f"95 %: {100 * low:.1f} to {100 * high:.1f}"
        say(f"{trainer.cfg.train.keep}: epoch {best['epoch']}, validation {100 * share:.2f} % ({bounds})")
        if result.after_others is not None:
            say(result.in_a_stream)
        say(f"pictures: {folder}/curves.png, {folder}/confusion.png")
        say(f"listen:   python -m kws.listen checkpoint={path}")
        try:
            split = "test" if trainer.source.clips("test") else "validation"
        except KwsError:  # it has none
            split = "validation"
        say(f"evaluate: python -m kws.evaluate checkpoint={path} split={split}")
    return best["validation_accuracy"]


if __name__ == "__main__":
    main()
