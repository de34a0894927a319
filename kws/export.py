"""Writes a checkpoint as one ONNX file: sound in, scores out, with all that a listener needs inside.

    python -m kws.export checkpoint=runs/ghost-synthetic output=spotter.onnx
    python -m kws.export checkpoint=… chunk_ms=20                     lower latency for more work
    python -m kws.export checkpoint=… decision.threshold=0.8 check=my_recordings
    python -m kws.export checkpoint=… quantise=int8                   a quarter of the weights' bytes, as fast
    python -m kws.listen checkpoint=spotter.onnx                      and python -m kws.inspect spotter.onnx

The front-end, batch norm and normalisation are in the graph; so are, beside it, the thresholds that kws.evaluate chose
for a budget. What was written is run beside the checkpoint, in one piece and in many; the exit code is 1 where they
differ by more than rounding (TOLERANCE). On a device the wheel kws-runtime is all that the file needs.
"""

import os

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kws import audio
from kws.alarms import thresholds
from kws.config import command
from kws.data.dataset import read_clip
from kws.data.espeak import engine
from kws.errors import KwsError
from kws.listening.opened import decision_of
from kws.spotter import Trained, open_checkpoint
from kws.training import checkpoint

TOLERANCE = {None: 1e-4, "fp16": 0.02, "int8": 0.15, "int8_static": 0.3}  # of a probability, by quantise
N_CALIBRATION = 200  # clips or recordings


@command("export")
def main(cfg: DictConfig) -> None:
    try:
        from kws.exporting.spotter import compare, export
    except ImportError as error:
        raise KwsError(f"{error.name} is missing: pip install 'kws[export]'") from None
    torch.set_num_threads(1)
    trained = open_checkpoint(cfg.checkpoint, averaged=cfg.averaged)
    if cfg.streams not in (1, "any"):
        raise KwsError(f"streams={cfg.streams}: expected 1 or any")
    decision = decision_of(cfg, thresholds.read(checkpoint.find(cfg.checkpoint)))
    sounds = _sounds(cfg.check, trained)
    export(
        trained, cfg.output, cfg.chunk_ms, cfg.streams == "any", decision, cfg.licence, _identity(cfg, trained),
        cfg.quantise, cfg.ranges, _calibration(cfg, trained),
    )  # fmt: skip
    result = compare(trained, cfg.output, sounds, decision)
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


def _calibration(cfg: DictConfig, trained: Trained) -> list[np.ndarray]:
    """Sounds that the ranges of int8_static are seen on: given ones, or clips of the checkpoint's training."""
    if cfg.quantise != "int8_static":
        return []
    rate = int(trained.options.sample_frequency)
    if cfg.calibration is not None:
        files = audio.files("calibration", cfg.calibration)[:N_CALIBRATION]
        return [audio.read(file, channel=0, rate=rate)[0] for file in files]
    try:
        whole = OmegaConf.create({"features": trained.config["features"], "data": trained.config["data"]})
        source = instantiate(whole.data, _convert_="all")
        source.prepare()
        clips = source.clips("train")
    except KwsError as error:
        raise KwsError(
            f"quantise=int8_static: the training data is not there ({error}); give calibration=, a folder of recordings"
        ) from None
    chosen = np.random.default_rng(0).choice(len(clips), min(N_CALIBRATION, len(clips)), replace=False)
    return [read_clip(clips[i], rate) for i in chosen]


def _identity(cfg: DictConfig, trained: Trained) -> dict:
    """Which run the weights are from."""
    saved = checkpoint.load(cfg.checkpoint)
    return {
        "name": trained.config["name"], "step": saved["position"]["step"], "seed": saved["seed"],
        "window_ms": trained.config["train"]["window_ms"], "averaged": bool(cfg.averaged and saved["ema"]),
        "kws": saved["kws"],
    }  # fmt: skip


def _sounds(given: str | None, trained: Trained) -> list[np.ndarray]:
    """What the file is checked on: given recordings, or the words spoken by espeak-ng, or made sound without it."""
    rate = int(trained.options.sample_frequency)
    if given is not None:
        return [audio.read(file, channel=0, rate=rate)[0] for file in audio.files("check", given)[:100]]
    words = [label for label in trained.labels if not label.startswith("_")]
    rng, pieces = np.random.default_rng(0), []
    try:
        for word in words[:20]:
            spoken = engine().speak(word, "en-us+f2", 150, 50)
            pieces += [audio.resample(*spoken, rate), np.zeros(rate // 2, np.float32)]
    except KwsError:
        pieces = [3000 * np.sin(np.cumsum(rng.uniform(0.02, 1.0, 20).repeat(rate // 4))).astype(np.float32)]
    sound = np.concatenate([np.zeros(rate // 2, np.float32), *pieces])
    return [np.rint(sound + 20 * rng.standard_normal(len(sound))).clip(-32768, 32767).astype(np.float32)]


if __name__ == "__main__":
    main()
