"""Says how well a checkpoint, or a file that was exported from one, hears.

    python -m kws.evaluate checkpoint=runs/ghost-synthetic                    its own data, the test split
    python -m kws.evaluate checkpoint=… snr=20                                the same with background at 20 dB
    python -m kws.evaluate checkpoint=… data=folder data.root=my_words        recordings of your own
    python -m kws.evaluate checkpoint=… data=speech_commands data.root=… data.unknown=false data.silence=false
    python -m kws.evaluate checkpoint=spotter.onnx data=folder data.root=my_words   what kws.export wrote, or commands
    python -m kws.evaluate checkpoint=a.pt,b.onnx data=folder data.root=my_words    which is better, and how surely
    python -m kws.evaluate checkpoint=a.pt,b.onnx labels=street.csv                 long audio: README, data/README.md
    python -m kws.evaluate checkpoint=… labels=… snr=[20,10,0] noise=street rooms=halls alarms=wrong
    python -m kws.evaluate checkpoint=… labels=… budget=0.5                         thresholds for kws.export

A clip's class is what the loss of training judges a clip by: the most probable label at the last step of a stream that
begins and ends with the clip's window (as long as those of training), or at the step most sure of any word, and then
other words and background are one answer. An exported file, which is given samples, runs on the CPU and needs data=.

Where the last step is the answer, clips are heard a second time, each after two others with no pause: a network that
knows clips by themselves need not know them in a stream.

Of other data, the words that checkpoint and data share are asked. Prints accuracy with its 95 % interval, each word's
recall and precision, accuracy after other clips, and what the model costs; json=FILE holds the same.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kws import plots
from kws.alarms import report as long_audio
from kws.config import command
from kws.data.dataset import ClipDataset
from kws.data.source import SILENCE, SPLITS, UNKNOWN, Clip, Source
from kws.errors import KwsError, check_number
from kws.features import FbankOptions, describe, make_options
from kws.features.extractor import FeatureExtractor
from kws.metrics import difference_interval, per_word
from kws.models.cost import cost
from kws.runtime import Spotter
from kws.spotters import beside, find_all
from kws.training.distributed import pick_device
from kws.training.evaluation import evaluate
from kws.training.trained import Trained, open_checkpoint


class Samples:
    """Stands for the front-end of what has its own inside: samples are handed on as they are."""

    def __init__(self, options: FbankOptions):
        self.options = options

    def initial_state(self, *_):
        return None

    def stream(self, samples: torch.Tensor, state: None, flush: bool):
        return samples, state


class Exported(torch.nn.Module):
    """Stands for the model of an exported file."""

    def __init__(self, spotter: Spotter, shift_ms: float):
        super().__init__()
        self.opened, self.stride = spotter.stream(), round(spotter.step_ms / shift_ms)
        self.register_buffer("mean", torch.zeros(1))  # where it runs

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Windows of samples (batch, n) to the logarithms of every step's probabilities (batch, steps, labels)."""
        none = np.zeros((0, 1, len(self.opened.spotter.labels)), np.float32)
        scores = np.array([self.opened.scores(window, flush=True) for window in samples.numpy()] or none)
        return torch.from_numpy(scores).clamp(min=1e-30).log()

    def clip_logits(self, samples: torch.Tensor) -> torch.Tensor:
        """The last step's (batch, labels)."""
        return self(samples)[:, -1]


def open_exported(path: str) -> Trained:
    """An exported file as a checkpoint is opened; it does not say which data it was trained on."""
    spotter = Spotter(path)
    about, options = spotter.about, make_options(**spotter.about["features"])
    config = {"features": describe(options), "train": {"window_ms": about["run"].get("window_ms", 1200)},
              "loss": about.get("loss")}  # fmt: skip
    return Trained(Exported(spotter, options.frame_shift), Samples(options), spotter.labels, options, config)


@command("evaluate")
def main(cfg: DictConfig) -> None:
    if cfg.labels is not None:
        long_audio.evaluate(cfg)
        return
    if not isinstance(cfg.snr, int | float | None):
        raise KwsError(f"snr={cfg.snr}: several are for labels=; clips are given one")
    for name, least in (("batch_size", 1), ("workers", 0)):
        check_number(name, cfg[name], lambda n, least=least: n >= least, f"a whole number of at least {least}", int)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    given = find_all(cfg.checkpoint)
    if len(given) > 1 and cfg.plot:
        raise KwsError(f"plot={cfg.plot}: for one checkpoint at a time, {len(given)} are given")
    first, *others = [judge(cfg, path) for path in given]
    for other in others:
        if other.clips != first.clips:
            raise KwsError(
                f"{given[0]} and {other.figures['checkpoint']} are not asked the same clips: they know other words, or "
                "each has data of its own (name some for both, as in data=folder)"
            )
        low, high = difference_interval(first.right, other.right)
        gain = other.figures["accuracy"] - first.figures["accuracy"]
        other.figures["difference"] = {"from": given[0], "interval": [low, high]}
        print(f"{other.figures['checkpoint']}: {100 * gain:+.2f} points from {given[0]} "
              f"(95 %: {100 * low:+.1f} to {100 * high:+.1f})")  # fmt: skip
    if cfg.json:
        figures = [first.figures, *(other.figures for other in others)] if others else first.figures
        Path(cfg.json).write_text(json.dumps(figures, indent=2) + "\n")


@dataclass
class Judged:
    figures: dict
    clips: list[Clip]
    right: np.ndarray  # (clips,) bool


def judge(cfg: DictConfig, given: str) -> Judged:
    """The answers of one checkpoint or exported file; its figures are also printed, and its confusion drawn."""
    exported = given.endswith(".onnx")
    trained = open_exported(given) if exported else open_checkpoint(given, pick_device(cfg.device))
    source, clips, noise, split = chosen_clips(cfg, trained)
    if cfg.snr is not None and not noise:
        raise KwsError("snr= needs recordings of background, and this data has none")
    options = trained.options
    extractor = trained.extractor if exported else FeatureExtractor(options)  # on the CPU, where clips are read
    window_ms = trained.config["train"]["window_ms"]
    loss = trained.loss()
    data = ClipDataset(clips, trained.labels, extractor, window_ms, noise=noise, snr=cfg.snr, spans=loss.spans)
    result = evaluate(trained.model, data, loss, cfg.batch_size, cfg.workers, show=True, others=True)
    matrix, share, total = result.matrix, result.accuracy, result.clips
    stem = "" if Path(given).is_dir() or Path(given).stem == "best" else f"-{Path(given).stem}"
    name = f"confusion{stem}-{split}.png"
    picture = Path(cfg.plot) if cfg.plot else beside(given) / name
    asked = [label for label in trained.labels if label in set(source.labels)]
    figures = {
        "checkpoint": given, "split": split, "snr": cfg.snr, "clips": total, "accuracy": share,
        "interval": list(result.interval), "after_others": result.after_others,
        "words": per_word(matrix, trained.labels), "clips_per_second": result.clips_per_second,
    }  # fmt: skip
    if exported:
        figures |= {"bytes": Path(given).stat().st_size}
    else:
        costs = cost(trained.model, options.frame_shift, options.frame_length)
        figures |= {"parameters": costs.parameters, "macs_per_second": costs.macs_per_second,
                    "bytes": 4 * costs.parameters}  # fmt: skip
    print(given, report(figures, asked), sep="\n")
    if result.after_others is not None:
        print(result.in_a_stream)
    plots.confusion(matrix, trained.labels, picture, f"{100 * share:.1f} % of {total} clips ({split})")
    print(f"confusion matrix: {picture}")
    return Judged(figures, clips, result.right)


def chosen_clips(cfg: DictConfig, trained: Trained | None = None) -> tuple[Source, list[Clip], list[Clip], str]:
    """The source, its clips and background, and the name of what was chosen; words as `trained` knows them."""
    if cfg.split not in (None, "all", *SPLITS):
        raise KwsError(f"split={cfg.split}: choose one of {', '.join(SPLITS)}, all")
    own = cfg.get("data") is None
    whole = OmegaConf.create(
        {
            "features": trained.config["features"] if trained else cfg.features,
            "data": trained.data if own else cfg.data,
        }
    )
    source = instantiate(whole.data, _convert_="all")
    source.prepare([])  # a corpus that brings itself, before it is asked what it holds
    if missing := [word for word in whole.data.get("words") or [] if word not in source.spoken]:
        raise KwsError(f"data.words: the data has no {', '.join(missing)}")
    if trained and not set(source.labels) <= set(trained.labels):  # a task of other words: those in both are asked
        words = [label for label in trained.labels if label in source.spoken and not label.startswith("_")]
        if not words or "words" not in whole.data:
            there = ", ".join(list(source.spoken)[:40])
            raise KwsError(f"the checkpoint knows {', '.join(trained.labels)}; the data has {there}")
        extra = {
            label.strip("_"): label in trained.labels and label in source.labels for label in (UNKNOWN, SILENCE)
        }  # fmt: skip
        source = instantiate(whole.data, words=words, **extra, _convert_="all")
        print(f"words in both: {' '.join(words)}")
    if cfg.split in SPLITS:
        splits = [cfg.split]
    else:
        splits = ["test"] if own and cfg.split is None else list(SPLITS)
    source.prepare(splits)
    clips, noise, problem = [], [], None
    for split in splits:
        try:
            clips += source.clips(split)
            noise += source.noise(split)
        except KwsError as error:
            problem = error
    if not clips:
        raise problem or KwsError("the data has no clips")
    once = dict.fromkeys(clip for clip in clips if clip.label != SILENCE)  # training may hold each several times
    clips = [*once, *(clip for clip in clips if clip.label == SILENCE)]
    if trained:
        known = set(trained.labels) - set(source.labels)
        told = {clip for clip in once if clip.label == UNKNOWN and clip.said in known}
        if told:
            print(f"left out: {len(told)} clips of words that the checkpoint knows and that are not asked")
            clips = [clip for clip in clips if clip not in told]
    return source, clips, noise, splits[0] if len(splits) == 1 else "all"


def report(figures: dict, asked: list[str]) -> str:
    """The figures as a table to read."""
    low, high = figures["interval"]
    size = f"{figures['bytes'] / 1024:.0f} KiB"
    if "parameters" in figures:
        size = (f"{figures['parameters']:,} parameters, {size} as float32, "
                f"{figures['macs_per_second'] / 1e6:.2f}M multiply-accumulates per second of audio")  # fmt: skip
    lines = [
        f"accuracy {100 * figures['accuracy']:.2f} % of {figures['clips']} clips"
        f" (95 %: {100 * low:.1f} to {100 * high:.1f})",
        f"{size}, {figures['clips_per_second']:.0f} clips/s here, reading included",
        f"{'word':<14}{'clips':>7}{'recall':>9}{'precision':>11}",
    ]
    for word in asked:
        row = figures["words"][word]
        lines.append(f"{word:<14}{row['clips']:>7}{100 * row['recall']:>8.1f}%{100 * row['precision']:>10.1f}%")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
