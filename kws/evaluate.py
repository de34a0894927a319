"""Says how well a checkpoint hears.

    python -m kws.evaluate checkpoint=runs/ghost-synthetic                    its own data, the test split
    python -m kws.evaluate checkpoint=… snr=20                                the same with background at 20 dB
    python -m kws.evaluate checkpoint=… data=folder data.root=my_words        recordings of your own
    python -m kws.evaluate checkpoint=… data=speech_commands data.root=… data.unknown=false data.silence=false

Of other data, the words that checkpoint and data share are asked. Prints accuracy with its 95 % interval, each word's
recall and precision, and what the model costs; json=FILE holds the same.
"""

import json
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kws import plots
from kws.augment import Augment
from kws.config import command
from kws.data.dataset import ClipDataset
from kws.data.source import SILENCE, SPLITS, UNKNOWN, Clip, Source
from kws.errors import KwsError
from kws.features.extractor import FeatureExtractor
from kws.metrics import accuracy, per_word, wilson_interval
from kws.models.cost import cost
from kws.spotter import Trained, open_checkpoint
from kws.training.distributed import pick_device
from kws.training.evaluation import evaluate


@command("evaluate")
def main(cfg: DictConfig) -> None:
    run(cfg)


def run(cfg: DictConfig) -> dict:
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    trained = open_checkpoint(cfg.checkpoint, pick_device(cfg.device))
    source, clips, noise, split = chosen_clips(cfg, trained)
    options = trained.options
    data = ClipDataset(
        clips,
        trained.labels,
        FeatureExtractor(options),
        trained.config["train"]["window_ms"],
        Augment(),
        noise,
        cfg.snr,
    )
    if cfg.snr is not None and not noise:
        raise KwsError("snr= needs recordings of background, and this data has none")
    result = evaluate(trained.model, data, cfg.batch_size, cfg.workers, show=True)
    matrix = result.matrix
    right, total = int(matrix.trace()), int(matrix.sum())
    low, high = wilson_interval(right, total)
    costs = cost(trained.model, options.frame_shift, options.frame_length)
    path = Path(cfg.checkpoint)
    folder = path if path.is_dir() else path.parent
    picture = Path(cfg.plot) if cfg.plot else folder / f"confusion-{split}.png"
    asked = [label for label in trained.labels if label in set(source.labels)]
    figures = {
        "checkpoint": str(cfg.checkpoint), "split": split, "snr": cfg.snr, "clips": total, "accuracy": right / total,
        "interval": [low, high], "words": per_word(matrix, trained.labels), "parameters": costs.parameters,
        "macs_per_second": costs.macs_per_second, "bytes": 4 * costs.parameters,
        "clips_per_second": result.clips_per_second,
    }  # fmt: skip
    print(report(figures, asked))
    plots.confusion(matrix, trained.labels, picture, f"{100 * accuracy(matrix):.1f} % of {total} clips ({split})")
    print(f"confusion matrix: {picture}")
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def chosen_clips(cfg: DictConfig, trained: Trained) -> tuple[Source, list[Clip], list[Clip], str]:
    """The source, its clips and background, and the name of what was chosen."""
    if cfg.split not in (None, "all", *SPLITS):
        raise KwsError(f"split={cfg.split}: choose one of {', '.join(SPLITS)}, all")
    own = cfg.get("data") is None
    whole = OmegaConf.create(
        {"features": trained.config["features"], "data": trained.config["data"] if own else cfg.data}
    )
    source = instantiate(whole.data, _convert_="all")
    if not set(source.labels) <= set(trained.labels):  # a task of other words: those in both are asked
        words = [label for label in trained.labels if label in source.spoken and not label.startswith("_")]
        if not words:
            there = ", ".join(list(source.spoken)[:40])
            raise KwsError(f"the checkpoint knows {', '.join(trained.labels)}; the data has {there}")
        extra = {
            label.strip("_"): label in trained.labels and label in source.labels for label in (UNKNOWN, SILENCE)
        }  # fmt: skip
        source = instantiate(whole.data, words=words, **extra, _convert_="all")
        print(f"words in both: {' '.join(words)}")
    source.prepare()
    if cfg.split in SPLITS:
        splits = [cfg.split]
    else:
        splits = ["test"] if own and cfg.split is None else list(SPLITS)
    clips, noise, problem = [], [], None
    for split in splits:
        try:
            clips += source.clips(split)
            noise += source.noise(split)
        except KwsError as error:
            problem = error
    if not clips:
        raise problem or KwsError("the data has no clips")
    return source, clips, noise, splits[0] if len(splits) == 1 else "all"


def report(figures: dict, asked: list[str]) -> str:
    """The figures as a table to read."""
    low, high = figures["interval"]
    lines = [
        f"accuracy {100 * figures['accuracy']:.2f} % of {figures['clips']} clips"
        f" (95 %: {100 * low:.1f} to {100 * high:.1f})",
        f"{figures['parameters']:,} parameters, {figures['bytes'] / 1024:.0f} KiB as float32, "
        f"{figures['macs_per_second'] / 1e6:.2f}M multiply-accumulates per second of audio, "
        f"{figures['clips_per_second']:.0f} clips/s here, reading included",
        f"{'word':<14}{'clips':>7}{'recall':>9}{'precision':>11}",
    ]
    for word in asked:
        row = figures["words"][word]
        lines.append(f"{word:<14}{row['clips']:>7}{100 * row['recall']:>8.1f}%{100 * row['precision']:>10.1f}%")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
