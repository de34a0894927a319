"""Writes a checkpoint as one ONNX file: sound in, scores out, with all that a listener needs inside.

    python -m kws.export checkpoint=runs/ghost-synthetic output=spotter.onnx
    python -m kws.export checkpoint=… chunk_ms=20                     lower latency for more work
    python -m kws.export checkpoint=… decision.threshold=0.8 check=my_recordings
    python -m kws.export checkpoint=… quantise=int8                   a quarter of the weights' bytes, as fast
    python -m kws.export checkpoint=… output=spotter.tflite           int8 for a microcontroller, frames in
    python -m kws.export checkpoint=… output=word.json word=left      the same for ESPHome's micro_wake_word
    python -m kws.export checkpoint=… output=mine.pt                  a checkpoint without the run: to begin others with
    python -m kws.listen checkpoint=spotter.onnx                      and python -m kws.inspect spotter.onnx

The front-end, batch norm and normalisation are in the graph; so are, beside it, the thresholds that kws.evaluate chose
for a budget. What was written is run beside the checkpoint, in one piece and in many; the exit code is 1 where they
differ by more than rounding (TOLERANCE). On a device the wheel kws-runtime is all that the file needs.
"""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig

from kws.config import command
from kws.errors import KwsError
from kws.exporting import sounds
from kws.files import make_folder
from kws.listening.opened import decision_for
from kws.training import checkpoint
from kws.training.trained import Trained, open_checkpoint

TOLERANCE = {None: 1e-4, "fp16": 0.02, "int8": 0.15, "int8_static": 0.3}  # of a probability, by quantise
LEAST_SAME = 0.9  # share of steps that a microcontroller decides as float does


@command("export")
def main(cfg: DictConfig) -> None:
    make_folder("output", Path(cfg.output).parent)
    if Path(cfg.output).suffix in (".tflite", ".json"):
        for_microcontroller(cfg)
        return
    if Path(cfg.output).suffix == ".pt":
        to_begin_with(cfg)
        return
    if Path(cfg.output).suffix != ".onnx":
        raise KwsError(f"output={cfg.output}: expected a name that ends in .onnx, .tflite, .json or .pt")
    try:
        from kws.exporting.spotter import compare, export
    except ImportError as error:
        raise KwsError(f"{error.name} is missing: pip install 'kws[export]'") from None
    torch.set_num_threads(1)
    trained = open_checkpoint(cfg.checkpoint, averaged=cfg.averaged)
    if cfg.streams not in (1, "any"):
        raise KwsError(f"streams={cfg.streams}: expected 1 or any")
    decision = decision_for(cfg, cfg.checkpoint)
    checked = sounds.to_check(trained, cfg.check)
    seen = sounds.of_training(trained, cfg.calibration) if cfg.quantise == "int8_static" else []
    export(
        trained, cfg.output, cfg.chunk_ms, cfg.streams == "any", decision, cfg.licence, _identity(cfg, trained),
        cfg.quantise, cfg.ranges, seen,
    )  # fmt: skip
    result = compare(trained, cfg.output, checked, decision)
    print(
        f"{cfg.output}: {os.path.getsize(cfg.output) / 1000:.0f} kB, {len(trained.labels)} labels,"
        f" chunks of {result.chunk_ms:g} ms\n"
        f"largest difference in a probability, on {result.seconds:.1f} s of sound: {result.difference:.1e} to torch,"
        f" {result.by_chunks:.1e} between one piece and many\n"
        f"{result.n_words} words heard, {'the same' if result.same_words else 'not the same'} as by the checkpoint"
        f" ({result.agreed} of its {result.expected})\n"
        f"{result.ms_per_second:.2f} ms of one core per second of sound"
    )
    tolerance = TOLERANCE[cfg.quantise]
    differs = result.difference > tolerance or (cfg.quantise is None and not result.same_words)
    if differs or result.by_chunks > TOLERANCE[None]:
        print(f"error: {cfg.output} does not hear what the checkpoint hears (more than {tolerance:g} apart)")
        raise SystemExit(1)


def for_microcontroller(cfg: DictConfig) -> None:
    """Writes and checks NAME.tflite, or NAME.json and the NAME.tflite that it names."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the converter's own remarks
    try:
        from kws.exporting.microcontroller import export
    except ImportError as error:
        raise KwsError(f"{error.name} is missing: pip install 'kws[tflite]'") from None
    torch.set_num_threads(1)
    trained = open_checkpoint(cfg.checkpoint, averaged=cfg.averaged)
    decision = decision_for(cfg, cfg.checkpoint)
    checked, seen = sounds.to_check(trained, cfg.check), sounds.of_training(trained, cfg.calibration)
    result = export(
        trained, cfg.output, checked, seen, decision, cfg.word, cfg.author, cfg.language, licence=cfg.licence,
        run=_identity(cfg, trained),
    )  # fmt: skip
    print(
        f"{Path(cfg.output).with_suffix('.tflite')}: {result.size / 1000:.1f} kB, {result.arena / 1000:.1f} kB of"
        f" arena, a step of {result.step_ms:g} ms takes {result.us_per_step:.0f} µs in tflite-micro here\n"
        f"on {result.seconds:.1f} s of sound int8 decides {100 * result.same:.1f} % of steps as float does; a"
        f" probability differs by {result.mean:.3f} in the mean, {result.largest:.2f} at most"
    )
    if result.same < LEAST_SAME:
        print(f"error: {cfg.output} does not hear what the checkpoint hears (less than {LEAST_SAME:.0%} of steps)")
        raise SystemExit(1)


def to_begin_with(cfg: DictConfig) -> None:
    """Writes a checkpoint of the weights alone: neither what trains them nor where the data lies."""
    saved = checkpoint.load(cfg.checkpoint)
    config = {name: saved["config"].get(name) for name in ("name", "features", "model", "loss")}
    config["train"] = {"window_ms": saved["config"]["train"]["window_ms"]}
    weights = (cfg.averaged and saved["ema"]) or saved["model"]
    kept = {name: saved[name] for name in checkpoint.ABOUT}
    none = dict.fromkeys(("ema", "optimizer", "schedule"))
    checkpoint.save(Path(cfg.output), {**kept, "config": config, "model": weights, **none})
    print(f"{cfg.output}: {os.path.getsize(cfg.output) / 1000:.0f} kB; kws.train init_from={cfg.output} begins with it")


def _identity(cfg: DictConfig, trained: Trained) -> dict:
    """Which run the weights are from."""
    saved = checkpoint.load(cfg.checkpoint)
    return {
        "name": trained.config["name"], "step": saved["position"]["step"], "seed": saved["seed"],
        "window_ms": trained.config["train"]["window_ms"], "averaged": bool(cfg.averaged and saved["ema"]),
        "kws": saved["kws"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
