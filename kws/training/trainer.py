"""The training loop: batches in, checkpoints and figures out, from wherever it last stood."""

import copy
import hashlib
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from kws import losses
from kws.augment import Augment, mask
from kws.compression import Method, Structure
from kws.data.dataset import Batches, ClipDataset, load
from kws.data.source import NOISE, UNKNOWN, Source
from kws.errors import KwsError
from kws.features import describe, make_options
from kws.features.extractor import FeatureExtractor
from kws.models.cost import cost, receptive_frames
from kws.progress import progress
from kws.training import checkpoint, distributed
from kws.training.compiling import compiled_for
from kws.training.evaluation import evaluate, joined
from kws.training.log import RunLog
from kws.training.settings import check_loss, check_settings
from kws.training.spelling import spelling
from kws.training.teachers import Teachers
from kws.workers import cores


class Stopped(Exception):
    """Training was asked to stop and has saved; carries the exit code."""

    def __init__(self, code: int):
        super().__init__(f"stopped by signal {code - 128}")
        self.code = code


def say(text: str) -> None:
    """A line for whoever started the run; said by the first process only."""
    if distributed.is_first():
        print(text, flush=True)


class Trainer:
    """A run in `folder` by `cfg` (see conf/train.yaml): `start.begin` puts it where it begins, `run()` trains to the
    end and returns the best figures."""

    def __init__(self, cfg: DictConfig, folder: Path):
        self.cfg, self.folder = cfg, folder
        c = cfg.train
        check_settings(cfg)
        self.device = distributed.pick_device(c.device)
        ours = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(c.threads or max(1, ours - c.workers))
        self.rank, self.world = distributed.start(self.device)
        self.source: Source = instantiate(cfg.data, _convert_="all")
        self.labels = self.source.labels
        if len(self.labels) < 2:
            raise KwsError(f"data.words: nothing to tell {self.labels[0]!r} from: add recordings of other words"
                           f" ({UNKNOWN}), or of background ({NOISE})")  # fmt: skip
        options = make_options(**cfg.features)
        self.features = describe(options)
        extractor = FeatureExtractor(options)
        if self.rank == 0:
            self.source.prepare(("train", "validation"))
        distributed.barrier()
        self.data = {}
        loss = get_class(cfg.loss["_target_"])
        check_loss(cfg, loss)
        spells = spelling(cfg, loss, self.labels)
        for split in ("train", "validation"):
            augment = instantiate(cfg.augment, _convert_="all") if split == "train" else Augment()
            self.data[split] = ClipDataset(
                self.source.clips(split), self.labels, extractor, c.window_ms, augment,
                self.source.noise(split), seed=cfg.seed, spans=loss.spans, spell=spells,
            )  # fmt: skip
            if not len(self.data[split]):
                raise KwsError(f"data has no {split} clips")
        torch.manual_seed(cfg.seed)
        self.model = instantiate(
            cfg.model, n_features=options.dim, n_classes=len(self.labels), shift_ms=options.frame_shift
        ).to(self.device)
        if self.data["train"].n_frames < self.model.stride:
            step = options.frame_length + (self.model.stride - 1) * options.frame_shift
            raise KwsError(f"train.window_ms={c.window_ms}: shorter than a step of the model, {step:g} ms")
        self.context = self._context() if c.context else 0
        self.frozen = self._freeze(c.frozen, loss)
        self.loss = instantiate(cfg.loss, labels=self.labels, step_ms=self.model.stride * options.frame_shift)
        share = len(range(self.rank, c.batch_size, self.world)) if c.compile else None
        self.logits = compiled_for(share, self.loss.logits) if share else self.loss.logits
        self.teachers = None
        if c.teachers:
            self.teachers = Teachers(list(c.teachers), self.labels, self.features, self.device, share)
        self.ema = copy.deepcopy(self.model) if c.ema else None
        self.method = instantiate(cfg.compress, _convert_="all") if cfg.get("compress") else Method()
        if isinstance(self.method, Structure):
            raise KwsError("compress: this method makes another network: use kws.compress method=… finetune.epochs=…")
        self.per_epoch = Batches(len(self.data["train"]), c.batch_size, (0, 1)).per_epoch()
        self.total_steps = self.per_epoch * c.epochs
        try:
            self.optimizer = instantiate(cfg.optim.optimizer)(self.model.parameters())
        except (TypeError, ValueError) as error:
            raise KwsError(f"optim.optimizer: {error}") from None
        self.schedule = instantiate(cfg.optim.schedule)(self.optimizer, self.total_steps)
        judged = sorted((clip.label, Path(clip.path).name, clip.start) for clip in self.data["validation"].clips)
        told = [judged, self.features, c.window_ms, OmegaConf.to_container(cfg.loss, resolve=True)]
        self.validation = hashlib.sha1(repr(told).encode()).hexdigest()  # by what epochs are compared
        self.step, self.best, self.waited, self.signal = 0, {}, 0, None
        self.log: RunLog | None = None

    def _context(self) -> int:
        """Frames before a window on which its last answer depends in a stream, in whole steps; as many as a window has
        where a layer never forgets."""
        window, stride = self.data["train"].n_frames, self.model.stride
        heard = receptive_frames(self.model) or 2 * window
        return -(-max(heard - window, 0) // stride) * stride

    def _freeze(self, count: int, loss: type[losses.PerClip]) -> dict[str, torch.nn.Module]:
        """What stays as another checkpoint has it, by name: the first blocks, and a speller that this loss does not
        train."""
        if count and not self.cfg.init_from:
            raise KwsError(f"train.frozen={count} without init_from: these blocks would stay as they were drawn")
        if count > len(self.model.blocks):
            raise KwsError(f"train.frozen={count}: the model has {len(self.model.blocks)} blocks")
        frozen = {f"blocks.{i}": block for i, block in enumerate(self.model.blocks[:count])}
        if self.model.speller is not None and not loss.spells:
            frozen["speller"] = self.model.speller
        for module in frozen.values():
            module.requires_grad_(False)
        return frozen

    def normalise(self) -> None:
        """Mean and deviation of the frames of the first training batches, as augmentation leaves them."""
        n = min(len(self.data["train"]), 1024)
        batches = Batches(len(self.data["train"]), min(n, 128), (0, 1), self.cfg.seed)
        chosen = [batch for batch, _ in zip(batches, range(-(-n // 128)), strict=False)]
        frames = torch.cat([batch["frames"].flatten(0, 1) for batch in load(self.data["train"], chosen, 0)])
        for model in (self.model, self.ema):
            if model is not None:
                model.normalise_by(frames.to(self.device))

    def run(self) -> dict:
        """Trains to the end, from where `begin` put it.

        Raises:
            Stopped: Ctrl-C or SIGTERM; the checkpoint is written.
            KwsError: a loss that is no number, with its batch.
        """
        c = self.cfg.train
        options = make_options(**self.features)
        say(cost(self.model, options.frame_shift, options.frame_length).table())
        say(
            f"{len(self.data['train'])} training clips, {len(self.data['validation'])} for validation, "
            f"{len(self.labels)} labels: {' '.join(self.labels)}"
        )
        if c.compile:
            say("compiling: the first batch takes a minute")
        self.started, self.first_step = time.monotonic(), self.step
        if self.rank == 0:
            if self.step == 0:  # afresh, whatever stood here
                for name in (checkpoint.LAST, checkpoint.BEST, "confusion.png"):
                    (self.folder / name).unlink(missing_ok=True)
            self.log = RunLog(self.folder, self.step, c.tensorboard)
            (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(self.cfg, resolve=True), encoding="utf-8")
        handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        early = False
        try:
            stream = load(self.data["train"], self._batches(self.step, self.rank, self.world), c.workers)
            while self.step < self.total_steps and not early:
                self._epoch(stream)
                if self.step % self.per_epoch == 0:
                    early = self._validate()
                # only now, so that a run resumed from here has no epoch without its validation
                done = self.step >= self.total_steps
                self._save(checkpoint.LAST, "early" if early else done)
                if not done and not early and distributed.any_process(self.signal is not None):
                    raise Stopped(128 + (self.signal or signal.SIGTERM))
        finally:
            for s, handler in handlers.items():
                signal.signal(s, handler)
            if self.log is not None:
                self.log.close()
        return self.best

    def _epoch(self, stream) -> None:
        """Trains to the end of the epoch, or to a signal."""
        epoch, done = divmod(self.step, self.per_epoch)
        self.model.train()
        for module in self.frozen.values():
            module.eval()
        clips = correct = loss_sum = 0
        bar = progress(
            total=self.per_epoch, initial=done, unit="batch", desc=f"epoch {epoch + 1}/{self.cfg.train.epochs}",
            leave=False, disable=self.rank != 0,
        )  # fmt: skip
        with bar:
            for batch in stream:
                loss, hits, count = self._train_step(batch)
                loss_sum, clips, correct = loss_sum + loss * count, clips + count, correct + hits
                bar.update()
                bar.set_postfix(loss=f"{loss_sum / clips:.3f}", acc=f"{100 * correct / clips:.1f}%", refresh=False)
                if self.step % self.per_epoch == 0 or distributed.any_process(self.signal is not None):
                    return
                every = self.cfg.train.checkpoint_every
                if every and self.step % every == 0:
                    self._save(checkpoint.LAST)

    def _train_step(self, batch: dict[str, Tensor]) -> tuple[float, int, int]:
        """One update. Returns loss, clips answered rightly and clips, of the global batch."""
        c = self.cfg.train
        # dropout and mixup are functions of (seed, step, process): nothing to remember between steps
        torch.manual_seed(np.random.SeedSequence([self.cfg.seed, self.step, self.rank]).generate_state(1)[0].item())
        frames, labels = batch["frames"].to(self.device), batch["label"].to(self.device)
        ended = batch["ended"].to(self.device).div(self.model.stride, rounding_mode="floor")
        count = max(distributed.total(torch.tensor(len(labels))).item(), 1)  # there may be none that could be read
        with torch.no_grad():
            frames = mask(frames, batch["masks"].to(self.device), self.model.mean)
            target = losses.targets(labels, len(self.labels), c.label_smoothing)
            if c.mixup > 0 and len(labels) > 1:
                share = float(np.random.default_rng([self.cfg.seed, self.step, 1]).beta(c.mixup, c.mixup))
                other = torch.randperm(len(labels)).to(self.device)
                frames = share * frames + (1 - share) * frames[other]
                target = share * target + (1 - share) * target[other]
            if self.teachers is not None:
                target = torch.lerp(target, self.teachers(frames), c.teacher_share)
            if self.context and np.random.default_rng([self.cfg.seed, self.step, 2]).random() < c.context:
                window = frames.shape[1]
                frames = joined(frames, -(-self.context // window))[:, -(self.context + window) :]
        self.optimizer.zero_grad()
        with self.method.within(self.model, self.step / self.total_steps):
            with torch.autocast(self.device, torch.bfloat16, enabled=c.precision == "bf16"):
                logits = self.logits(self.model, frames)
            loss = self.loss(logits, target, ended, batch["said"].to(self.device)).sum() / count
            loss.backward()
        distributed.sum_gradients(self.model)
        if c.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip_norm)
        hits = (self.loss.answer(logits).argmax(dim=1) == labels).sum()
        figures = distributed.total(torch.stack([loss.detach().double().cpu(), hits.double().cpu()]))
        value, hits = figures[0].item(), int(figures[1])
        if not math.isfinite(value):
            epoch, index = divmod(self.step, self.per_epoch)
            raise KwsError(
                f"the loss is {value} at step {self.step} (epoch {epoch + 1}, batch {index + 1} of {self.per_epoch}):"
                f" {self._batch_paths()}. Lower optim.optimizer.lr, or look at these files"
            )
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.ema is not None:
            update_ema(self.ema, self.model, min(c.ema, self.step / (self.step + 10)))
        self._note({"step": self.step, "epoch": (self.step - 1) // self.per_epoch + 1, "loss": value, "lr": rate})
        return value, hits, count

    def _batches(self, step: int, rank: int = 0, world: int = 1) -> Batches:
        """This process's share of the batches from a step on."""
        data, c = self.data["train"], self.cfg.train
        epoch, first = divmod(step, self.per_epoch)
        balance = np.array([data.labels[clip.label] for clip in data.clips]) if c.balance else None
        return Batches(len(data), c.batch_size, (epoch, c.epochs), self.cfg.seed, first, balance, rank, world)

    def _batch_paths(self) -> str:
        clips = [self.data["train"].clips[i].path for _, i in next(iter(self._batches(self.step)))]
        return ", ".join(clips[:4]) + (f" and {len(clips) - 4} more" if len(clips) > 4 else "")

    def _validate(self) -> bool:
        """Figures after an epoch; keeps it if it is the best, or all are. Returns whether patience has run out."""
        c, model = self.cfg.train, self.ema or self.model
        with self.method.within(model):
            result = evaluate(model, self.data["validation"], self.loss, c.batch_size, min(c.workers, 1))
        epoch = self.step // self.per_epoch
        row = {
            "step": self.step,
            "epoch": epoch,
            "validation_loss": result.loss,
            "validation_accuracy": result.accuracy,
        }
        self._note(row)
        before = self.best.get("validation_accuracy", -1.0)
        better = c.keep == "last" or row["validation_accuracy"] >= before
        self.waited = 0 if row["validation_accuracy"] > before else self.waited + 1
        if better:
            self.best = row
            self._save(checkpoint.BEST)
        rate = (time.monotonic() - self.started) / max(1, self.step - self.first_step) * self.per_epoch
        say(
            f"epoch {epoch}/{c.epochs}: validation {100 * row['validation_accuracy']:.2f} %, loss {result.loss:.3f}"
            f"{' (best)' if better and c.keep == 'best' else ''}, {rate:.1f} s an epoch"
        )
        return bool(c.patience) and self.waited >= c.patience

    def plain_config(self) -> dict:
        return OmegaConf.to_container(self.cfg, resolve=True)

    def _note(self, row: dict) -> None:
        if self.log is not None:
            self.log.write(row)

    def _save(self, name: str, finished: bool | str = False) -> None:
        if self.rank == 0:
            if self.log is not None:
                self.log.flush()
            position = {
                "step": self.step, "per_epoch": self.per_epoch, "waited": self.waited, "finished": finished,
            }  # fmt: skip
            content = {
                "position": position, "best": self.best, "seed": self.cfg.seed, "validation": self.validation,
                "config": self.plain_config(), "labels": self.labels, "features": self.features,
            }  # fmt: skip
            if self.cfg.get("compress") and name == checkpoint.BEST:
                content["packed"] = self.method.store(self.ema or self.model)
            else:
                content |= {
                    "model": self.model.state_dict(), "ema": self.ema.state_dict() if self.ema else None,
                    "optimizer": checkpoint.optimizer_state(self.optimizer, self.model),
                    "schedule": self.schedule.state_dict(),
                }  # fmt: skip
            checkpoint.save(self.folder / name, content)

    def _on_signal(self, number: int, _frame) -> None:
        if self.signal is not None and time.monotonic() - self.asked > 1.0:  # asked twice: at once
            sys.exit(128 + number)
        self.signal, self.asked = number, time.monotonic()


@torch.no_grad()
def update_ema(ema: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Moves every weight and statistic of `ema` towards the model's."""
    pairs = list(zip(ema.state_dict().values(), model.state_dict().values(), strict=True))
    floats = [(a, b) for a, b in pairs if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)
    for a, b in pairs:
        if not a.is_floating_point():
            a.copy_(b)
