"""Makes a checkpoint smaller, and says what that cost.

    python -m kws.compress checkpoint=runs/ghost-synthetic method=linear method.bits=4
    python -m kws.compress checkpoint=… method=kmeans method.bits=2 finetune.epochs=5    then trains through it
    python -m kws.compress checkpoint=… method=channels method.keep=0.5 json=report.json
    python -m kws.train init_from=runs/… compress=binary                                 the same as a training alone

Methods: linear, kmeans, log, binary, ternary (weights of a few bits), prune, n_of_m (weights that are 0), channels,
low_rank (a smaller network), none (one set of float32 weights: the yardstick). Compressed are the weights of
convolutions and linear layers; batch norm, biases, recurrent layers and the input's normalisation stay as they are, and
are counted.

The new run, in <runs>/<name>, holds best.pt, packed to its bits: it evaluates, listens, exports, starts others
(init_from) and is compressed again as any other. With finetune.epochs there is also <name>-tuned, the run that trained
on, which the same command resumes. Weights are stored small and computed with in float32: only channels and low_rank
take work away.

Prints sizes, bits, accuracy before and after on validation clips of the checkpoint's own data (data.root=… says where
they lie now) and each layer's error; weights.png shows them before and after; json=FILE holds the same.
"""

import json
import math
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from kws import plots
from kws.compression import Method, Structure
from kws.compression.method import Carry
from kws.compression.packing import Stored
from kws.config import command, conf_dir, differences_between
from kws.data.dataset import ClipDataset
from kws.errors import KwsError, check_number
from kws.features.extractor import FeatureExtractor
from kws.files import make_folder
from kws.models.cost import cost
from kws.train import train
from kws.training import checkpoint
from kws.training.evaluation import evaluate
from kws.training.trained import Trained, open_checkpoint
from kws.training.trainer import Stopped


@command("compress")
def main(cfg: DictConfig) -> None:
    tune = cfg.finetune
    check_number("finetune.epochs", tune.epochs, lambda epochs: epochs >= 0, "a whole number of at least 0", int)
    if tune.lr is not None:
        check_number("finetune.lr", tune.lr, lambda lr: lr > 0, "a number above 0, or null")
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    source = checkpoint.find(cfg.checkpoint)
    saved, before = checkpoint.load(source), open_checkpoint(source)
    config = saved["config"] = {**saved["config"], "data": before.data}
    if cfg.data.root is not None:
        config["data"]["root"] = str(cfg.data.root)
    method: Method = instantiate(cfg.method, _convert_="all")
    chosen = HydraConfig.get().runtime.choices["compress@method"]
    name = str(cfg.name or f"{config['name']}-{chosen}")
    folder = Path(str(cfg.runs)) / name
    if source.parent.resolve() == folder.resolve() or (folder / "metrics.jsonl").exists():
        raise KwsError(f"name={name}: {folder} holds a run, which would be overwritten; choose another name")
    content = compressed(saved, before, method, OmegaConf.to_container(cfg.method, resolve=True))
    content["config"] |= {"name": name, "runs": str(cfg.runs)}
    if (folder / checkpoint.BEST).exists():  # the same command goes on; another's result stays
        there = checkpoint.load(folder / checkpoint.BEST)["config"]
        if differences := differences_between(there, content["config"]):
            raise KwsError(f"name={name}: {folder} holds another result ({'; '.join(differences)}): choose"
                           " another name")  # fmt: skip
    make_folder("runs", folder)
    checkpoint.save(folder / checkpoint.BEST, content)
    if isinstance(method, Structure) and saved["optimizer"]:  # so that training goes on with what it remembers
        checkpoint.save(folder / checkpoint.LAST, resumable(saved, before, method, content["config"]))
    packed = checkpoint.load(folder / checkpoint.BEST)["packed"]
    after = open_checkpoint(folder / checkpoint.BEST)
    figures = {"checkpoint": str(source), "method": chosen, "settings": OmegaConf.to_container(cfg.method),
               "before": measured(source, before, config, cfg.workers)}  # fmt: skip
    figures["after"] = measured(folder / checkpoint.BEST, after, config, cfg.workers) | bits_of(packed)
    figures["layers"] = layers(before.model.state_dict(), packed)
    if tune.epochs:
        start = folder / checkpoint.BEST if isinstance(method, Structure) else source
        run = run_config(content["config"], cfg, f"{name}-tuned", start)
        tuned = folder.with_name(run.name) / checkpoint.BEST
        try:
            train(run, tuned.parent)
        except Stopped as stop:
            print(f"stopped; {tuned.with_name(checkpoint.LAST)} holds everything. The same command goes on from there.")
            raise SystemExit(stop.code) from None
        figures["tuned"] = measured(tuned, open_checkpoint(tuned), config, cfg.workers)
    print(report(figures))
    drawn = {row["name"]: (before.model.state_dict()[row["name"]], packed[row["name"]].value())
             for row in figures["layers"]}  # fmt: skip
    if drawn:
        plots.weights(drawn, folder / "weights.png", f"{name}: weights before and after")
        print(f"weights: {folder}/weights.png")
    print(f"listen: python -m kws.listen checkpoint={folder}{'-tuned' if tune.epochs else ''}")
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(figures, indent=2) + "\n")


def compressed(saved: dict, trained: Trained, method: Method, settings: dict) -> dict:
    """The content of a checkpoint with one set of weights, packed."""
    kept = {key: saved[key] for key in checkpoint.ABOUT}
    config = {key: value for key, value in saved["config"].items() if key != "compress"}
    if isinstance(method, Structure):
        config["model"] = method.configure(config["model"])
        model = smaller(trained, config["model"])
        carry, _ = method.carry(trained.model, model)
        model.load_state_dict(carried(trained.model.state_dict(), carry))
        return {**kept, "config": config, "packed": method.store(model)}
    config["compress"] = settings
    return {**kept, "config": config, "packed": method.store(trained.model)}


def resumable(saved: dict, trained: Trained, method: Structure, config: dict) -> dict:
    """`saved` with the weights and the optimiser's state of the smaller model."""
    weight, moment = method.carry(trained.model, smaller(trained, config["model"]))
    state: dict = {}
    for name, values in saved["optimizer"]["state"].items():
        for key, value in values.items():
            for new, now in moment(name, value).items():
                state.setdefault(new, {})[key] = now
    parts = {part: saved[part] and carried(saved[part], weight) for part in ("model", "ema")}
    return {**saved, **parts, "config": config, "optimizer": {**saved["optimizer"], "state": state}}


def smaller(trained: Trained, model: dict) -> nn.Module:
    """A model of another configuration, for the same frames and labels."""
    options = trained.options
    made = instantiate(model, n_features=options.dim, n_classes=len(trained.labels), shift_ms=options.frame_shift)
    return made.to(trained.model.mean.device)


def carried(weights: dict[str, Tensor], carry: Carry) -> dict[str, Tensor]:
    return {new: now for name, value in weights.items() for new, now in carry(name, value).items()}


def run_config(config: dict, cfg: DictConfig, name: str, start: Path) -> DictConfig:
    """The configuration of a training that goes on from `start`: the checkpoint's own, with what it is too old for."""
    default = OmegaConf.load(conf_dir() / "train.yaml")
    ours = {"epochs": cfg.finetune.epochs, "workers": cfg.workers, "threads": cfg.threads}
    run = OmegaConf.create({
        "loss": OmegaConf.load(conf_dir() / "loss" / "clip.yaml"), **config, "name": name, "runs": str(cfg.runs),
        "train": OmegaConf.merge(default.train, config["train"], ours), "resume": default.resume,
        "init_from": str(start), "init_overlap": False, "init_names": False,
    })  # fmt: skip
    optimizer = run.optim.optimizer
    optimizer.lr = optimizer.lr / 2 if cfg.finetune.lr is None else cfg.finetune.lr
    return run


def measured(path: Path, trained: Trained, config: dict, workers: int) -> dict:
    """Size, cost and accuracy of a checkpoint in a file, on validation clips."""
    source = instantiate(config["data"], _convert_="all")
    source.prepare(["validation"])
    loss = trained.loss()
    data = ClipDataset(
        source.clips("validation"), trained.labels, FeatureExtractor(trained.options), config["train"]["window_ms"],
        noise=source.noise("validation"), spans=loss.spans,
    )  # fmt: skip
    result = evaluate(trained.model, data, loss, workers=workers)
    costs = cost(trained.model, trained.options.frame_shift, trained.options.frame_length)
    return {
        "accuracy": result.accuracy, "interval": result.interval, "clips": result.clips,
        "file_bytes": path.stat().st_size, "parameters": costs.parameters,
        "memory_bytes": sum(value.nbytes for value in trained.model.state_dict().values()),
        "macs_per_second": costs.macs_per_second,
    }  # fmt: skip


def layers(before: dict[str, Tensor], packed: dict[str, Stored]) -> list[dict]:
    """Of each compressed weight its bits, and how far it is from what it was."""
    rows = []
    for name, stored in packed.items():
        if stored.codes is None:
            continue
        weight = before[name].double().cpu()
        error = stored.value().double() - weight
        ratio = weight.square().sum().item() / max(error.square().sum().item(), 1e-300)
        rows.append({
            "name": name, "shape": list(stored.shape), "bits_per_weight": stored.n_bits / weight.numel(),
            "snr_db": 10 * math.log10(ratio) if ratio > 0 and error.any() else None,
            "largest_error": error.abs().max().item(), "zeros": (stored.value() == 0).double().mean().item(),
        })  # fmt: skip
    return rows


def bits_of(packed: dict[str, Stored]) -> dict:
    """Bits of what is compressed and of what is not; `bits_per_weight` is over what is compressed."""
    inside = [stored for stored in packed.values() if stored.codes is not None]
    n = sum(math.prod(stored.shape) for stored in inside)
    bits = sum(stored.n_bits for stored in inside)
    rest = sum(stored.n_bits for stored in packed.values()) - bits
    return {"compressed_weights": n, "bits_per_weight": bits / n if n else 32.0, "compressed_bytes": bits / 8,
            "other_bytes": rest / 8}  # fmt: skip


def report(figures: dict) -> str:
    """The figures as a table to read."""
    before, after = figures["before"], figures["after"]
    stages = {name: figures[name] for name in ("before", "after", "tuned") if name in figures}
    lines = [" " * 32 + "".join(f"{name:>16}" for name in stages)]

    def row(title: str, show) -> None:
        lines.append(f"{title:<32}" + "".join(f"{show(stage):>16}" for stage in stages.values()))

    row(f"accuracy, {before['clips']} validation clips", lambda s: f"{100 * s['accuracy']:.2f} %")
    row("  95 % interval", lambda s: "{:.1f} to {:.1f}".format(*(100 * share for share in s["interval"])))
    row("file, bytes", lambda s: f"{s['file_bytes']:,}")
    row("in memory as float32, bytes", lambda s: f"{s['memory_bytes']:,}")
    row("parameters", lambda s: f"{s['parameters']:,}")
    row("multiply-accumulates a second", lambda s: f"{s['macs_per_second'] / 1e6:.2f}M")
    lines.append(
        f"in the file: {after['compressed_weights']:,} compressed weights at {after['bits_per_weight']:.2f} bits,"
        f" {after['compressed_bytes']:,.0f} bytes; all other tensors {after['other_bytes']:,.0f} bytes"
    )
    if figures["layers"]:
        lines.append(f"{'weight':<40}{'shape':>16}{'bits':>7}{'SNR, dB':>9}{'largest error':>15}{'zeros':>7}")
    for layer in figures["layers"]:
        snr = "exact" if layer["snr_db"] is None else f"{layer['snr_db']:.1f}"
        lines.append(
            f"{layer['name']:<40}{'x'.join(map(str, layer['shape'])):>16}{layer['bits_per_weight']:>7.2f}{snr:>9}"
            f"{layer['largest_error']:>15.2g}{100 * layer['zeros']:>6.0f}%"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
