"""Sound and configurations that tests make for themselves."""

import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from kws import audio
from kws.config import conf_dir

torch.set_num_threads(1)  # tests are small, and the machine is shared
if threading.current_thread() is threading.main_thread():  # a shell's background job ignores Ctrl-C, as would ours
    signal.signal(signal.SIGINT, signal.default_int_handler)
RATE = 16000
WORDS = {"low": (300, 300), "high": (2500, 2500), "rise": (400, 2500), "fall": (2500, 400)}


def spoken(word: str, rng: np.random.Generator, seconds: float = 0.5) -> np.ndarray:
    """A made "word": a tone that stays, rises or falls, with harmonics, in int16 units."""
    begin, end = WORDS[word]
    n = int(seconds * RATE)
    phase = 2 * np.pi * np.cumsum(np.linspace(begin, end, n) * rng.uniform(0.95, 1.05)) / RATE
    sound = np.sin(phase) + 0.3 * np.sin(2 * phase)
    return (sound * np.hanning(n) * rng.uniform(3000, 9000) + rng.standard_normal(n) * 20).astype(np.float32)


def speechlike(n: int, seed: int = 0) -> np.ndarray:
    """Noise with a speech-like slope and pauses, (n,) float32 in int16 units, whole numbers."""
    rng = np.random.default_rng(seed)
    noise = np.cumsum(rng.standard_normal(n)) * 30
    noise -= np.convolve(noise, np.ones(200) / 200, mode="same") if n > 400 else 0
    gate = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * np.arange(n) / RATE)
    return np.rint(noise * gate * 8 + rng.standard_normal(n) * 3).astype(np.float32)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A folder of made words in three splits, with background."""
    root, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for split, count in (("train", 24), ("validation", 8), ("test", 8)):
        for word in WORDS:
            (root / split / word).mkdir(parents=True)
            for i in range(count):
                audio.write(root / split / word / f"s{i}_nohash_0.wav", spoken(word, rng, rng.uniform(0.3, 0.6)), RATE)
        (root / split / "_background_noise_").mkdir()
        audio.write(root / split / "_background_noise_" / "hiss.wav", rng.standard_normal(3 * RATE) * 500, RATE)
    return root


def tiny(corpus: Path, *more: str) -> list[str]:
    """Overrides for a run of seconds on `corpus`."""
    return [
        "data=folder", f"data.root={corpus}", "data.unknown=false", "data.silence=true", "model=dscnn_10k",
        "model.table=[conv_k5_s2_c16,ds_k5_c16_res]", "model.width=1", "model.dropout=0.1", "optim.optimizer.lr=0.01",
        "train.epochs=2", "train.batch_size=16",
        "train.workers=0", "train.threads=1", "train.tensorboard=false", "train.window_ms=700", *more,
    ]  # fmt: skip


def config(name: str, *overrides: str):
    """A command's configuration, as the command line would compose it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(name, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return cfg


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory) -> Path:
    """A run that knows the corpus's words; every module has its own, for it may write there."""
    from kws.train import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    train(config("train", *tiny(corpus, "train.epochs=25", "model.window_ms=500")), folder)
    return folder
