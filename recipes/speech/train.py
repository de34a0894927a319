"""Trains a small causal network to hear what a large one hears; `init_from=speech` begins with it.

    python recipes/speech/train.py TEACHER OUTPUT 'PATTERN=SHARE' …

TEACHER is a folder with Google's speech embedding as ONNX (melspectrogram.onnx and embedding_model.onnx, Apache-2.0;
Lin et al. 2020, arXiv:2002.01322), which makes 96 numbers of 76 frames of 10 ms, every 80 ms. The student is to give
them from what it has heard until then. Both hear windows of two seconds, clips one after another, drawn from the files
of each pattern with its share; what is left of 1 is espeak-ng's, words and prose of Python's reference. The student
alone hears them in noise, in rooms and equalised. OUTPUT takes the windows, and in the end `speech.pt`, a checkpoint.
"""

import argparse
import copy
import glob
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, IterableDataset

from kws import audio
from kws.augment import Augment, change_speed, level, mask, mix
from kws.config import conf_dir
from kws.data.espeak import engine
from kws.data.near import sentences, vocabulary
from kws.data.source import sound_files
from kws.errors import KwsError
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.features.options import describe
from kws.files import replacing
from kws.models import build
from kws.progress import progress
from kws.training import checkpoint
from kws.training.muon import Muon
from kws.training.trainer import update_ema

RATE, WINDOW, SPAN, HOP, DIM = 16000, 32000, 76, 8, 96  # samples; frames of the teacher's span and step; its numbers
FILE, BATCH = 1024, 32  # windows
ROWS = 6  # of conf/model/speech.yaml
AUGMENT = Augment(
    noise_chance=0.7, noise_snr=(0, 30), room_chance=0.3, room_t60_ms=(80, 600), tilt_chance=0.6, tilt=8, gain=(-24, 6),
    time_masks=1, time_mask_ms=60, frequency_masks=1, frequency_mask_share=0.1,
)  # fmt: skip


class Teacher:
    def __init__(self, folder: Path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.models = [onnxruntime.InferenceSession(folder / f"{name}.onnx", options)
                       for name in ("melspectrogram", "embedding_model")]  # fmt: skip

    def __call__(self, waves: np.ndarray) -> np.ndarray:
        """Waves (batch, n) in int16 units to (batch, steps, 96)."""
        mels, embedding = [lambda x, m=m: m.run(None, {m.get_inputs()[0].name: x})[0] for m in self.models]
        frames = mels(waves.astype(np.float32)).reshape(len(waves), -1, 32) / 10 + 2  # as openWakeWord scales them
        spans = np.stack([frames[:, at : at + SPAN] for at in range(0, frames.shape[1] - SPAN + 1, HOP)], 1)
        return embedding(spans.reshape(-1, SPAN, 32, 1)).reshape(*spans.shape[:2], DIM)


def braces(pattern: str) -> list[str]:
    """a{b,c} as ab and ac."""
    before, _, rest = pattern.partition("{")
    inside, _, after = rest.partition("}")
    return [before + part + after for part in inside.split(",")]


class Speech:
    """Windows of two seconds of speech, (32000,) in int16 units."""

    def __init__(self, patterns: list[str]):
        given = [pattern.rpartition("=") for pattern in patterns]
        self.shares = [float(share) for _, _, share in given]
        self.files = [sorted(path for one in braces(pattern) for path in glob.glob(one)) for pattern, _, _ in given]
        if not all(self.files) or sum(self.shares) > 1:
            raise KwsError(f"{' '.join(patterns)}: a pattern has no files, or the shares are above 1")
        self.read, self.accents = {}, OmegaConf.load(conf_dir() / "data" / "synthetic.yaml").accents
        self.voices, self.words, self.prose = engine().voices(), vocabulary(), sentences(700, [])

    def _one(self, kind: int, rng) -> np.ndarray:
        if kind == len(self.files):
            texts = self.words if rng.random() < 0.6 else self.prose
            voice = (
                f"{self.accents[int(rng.integers(len(self.accents)))]}+{self.voices[rng.integers(len(self.voices))]}"
            )
            text = texts[rng.integers(len(texts))]
            return audio.resample(
                *engine().speak(text, voice, int(rng.integers(110, 230)), int(rng.integers(10, 90))), RATE
            )
        path = self.files[kind][rng.integers(len(self.files[kind]))]
        if path not in self.read:
            self.read[path] = audio.resample(*audio.read(path, channel=0), RATE).astype(np.int16)
        return self.read[path]

    def window(self, rng) -> np.ndarray:
        out, at = np.zeros(WINDOW, np.float32), -int(rng.integers(RATE // 2))
        kind = rng.choice(len(self.shares) + 1, p=[*self.shares, 1 - sum(self.shares)])
        while at < WINDOW:
            wave = change_speed(self._one(kind, rng).astype(np.float32), rng.uniform(0.88, 1.14))
            wave *= rng.uniform(3000, 25000) / max(np.abs(wave).max(), 1)
            begin = max(at, 0)
            part = wave[begin - at : WINDOW - at]
            out[begin : begin + len(part)] += part  # nothing, where the clip ended before the window
            at += len(wave) + int(rng.uniform(0, 0.25) * RATE)
        return out


def make(teacher: Teacher, patterns: list[str], folder: Path, files: int) -> None:
    """Windows and what the teacher says of them, a file at a time; those that are there stay."""
    speech = Speech(patterns)
    for number in range(files):
        path = folder / f"windows-{number:03d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng(number)
        waves = np.stack([speech.window(rng) for _ in progress(range(FILE), desc=path.name)])
        told = np.concatenate([teacher(batch) for batch in np.split(waves, FILE // BATCH)])
        with replacing(path) as part:
            np.savez(part, waves=waves.astype(np.int16), told=told.astype(np.float16))


class Batches(IterableDataset):
    """(frames, told, masks) of the windows of `files`, in noise, without end."""

    def __init__(self, files: list[Path], noise: list[np.ndarray], extractor: FeatureExtractor):
        self.files, self.noise, self.extractor = files, noise, extractor

    def __iter__(self):
        rng, options = np.random.default_rng(0), self.extractor.options
        while True:
            for path in rng.permutation(self.files):
                with np.load(path) as kept:
                    waves, told = kept["waves"], kept["told"]
                for chosen in np.split(rng.permutation(FILE), FILE // BATCH):
                    heard = np.stack([self._heard(waves[i], rng) for i in chosen])
                    frames, _ = self.extractor(torch.from_numpy(heard))
                    masks = [AUGMENT.masks(frames.shape[1], options.dim, options.frame_shift, rng) for _ in chosen]
                    yield frames, torch.from_numpy(told[chosen].astype(np.float32)), torch.from_numpy(np.stack(masks))

    def _heard(self, wave: np.ndarray, rng) -> np.ndarray:
        speech = level(wave := wave.astype(np.float32))
        wave = AUGMENT.filter(wave, RATE, rng)
        if (snr := AUGMENT.snr(rng)) is not None:
            noise = self.noise[rng.integers(len(self.noise))]
            wave = mix(wave, np.resize(noise[rng.integers(max(1, len(noise) - WINDOW)) :], WINDOW), snr, speech)
        return wave * AUGMENT.loudness(rng)


def train(folder: Path, noise: list[np.ndarray], steps: int, rate: float, init: Path | None) -> None:
    config = OmegaConf.load(conf_dir() / "model" / "speech.yaml")
    options = make_options(**OmegaConf.load(conf_dir() / "features" / "fbank.yaml"))
    extractor, files = FeatureExtractor(options), sorted(folder.glob("windows-*.npz"))
    model = build(
        form="planar", table=config.table[:ROWS], act="swish", window_ms=80, dropout=0, n_features=options.dim,
        n_classes=DIM, shift_ms=options.frame_shift,
    )  # fmt: skip
    with np.load(files[0]) as kept:  # validates
        told = torch.from_numpy(kept["told"].astype(np.float32))
        frames, _ = extractor(torch.from_numpy(kept["waves"].astype(np.float32)))
    mean, std = told.mean((0, 1)), told.std((0, 1))
    model.normalise_by(frames.flatten(0, 1))
    if init:
        weights = checkpoint.load(init)["model"]
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    # the step that has heard a span's last frame, and one more
    at = torch.arange(SPAN - 1, frames.shape[1] - model.stride, HOP) // model.stride + 1
    optimizer = Muon(model.parameters(), rate, gain=3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.15, cycle_momentum=False)
    answers = ((told - mean) / std)[:, : len(at)]
    ema, began, losses = copy.deepcopy(model).eval(), time.monotonic(), []
    batches = DataLoader(Batches(files[1:], noise, extractor), batch_size=None, num_workers=1, prefetch_factor=8)
    for step, (heard, wanted, masks) in zip(range(1, steps + 1), batches, strict=False):
        out = model.train()(mask(heard, masks, model.mean))[:, at]
        loss = F.smooth_l1_loss(out, ((wanted - mean) / std)[:, : len(at)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        update_ema(ema, model, min(0.999, step / (step + 10)))
        losses.append(loss.item())
        if step % 500 == 0 or step == steps:
            with torch.no_grad():
                missed = torch.cat([ema(part)[:, at] for part in frames.split(64)]) - answers
            print(f"step {step}/{steps}: loss {np.mean(losses[-500:]):.4f}, unexplained {missed.square().mean():.4f} of"
                  f" the variance, {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    content = {"model": ema.state_dict(), "ema": None, "labels": [f"embedding{i}" for i in range(DIM)], "config": {},
               "features": describe(options), "optimizer": None, "schedule": None}  # fmt: skip
    checkpoint.save(folder / "speech.pt", content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("speech", nargs="+", metavar="PATTERN=SHARE")
    parser.add_argument("--noise", type=Path, nargs="+", required=True, help="folders of background")
    parser.add_argument("--files", type=int, default=36, help=f"of {FILE} windows")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--init", type=Path, help="a speech.pt to go on from")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    make(Teacher(given.teacher), given.speech, given.output, given.files)
    paths = [folder / name for folder in given.noise for name in sound_files(folder)]
    noise = [audio.resample(*audio.read(path, channel=0), RATE) for path in paths]
    train(given.output, noise, given.steps, 6e-3, given.init)
