"""Learns what the network of `init_from=speech` would have heard, had people said what a synthesiser said.

    python recipes/speech/natural.py SPEECH.pt --made PATTERN … --people PATTERN …

A clip's folder is its word. Pairs of a made clip and one by people (or by a better synthesiser) of the same word are
aligned by dynamic time warping (Sakoe and Chiba 1978) of the maps behind the network's blocks, and three convolutions
learn the way from the former to the latter, and to leave the latter as it is. Beside them SPEECH.pt gets the root of
the covariance of the maps within the words of the first people's pattern: `model=speech_natural` has them in training.
"""

import argparse
import glob
import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from train import braces

from kws.blocks.natural import Natural
from kws.config import conf_dir
from kws.data.dataset import ClipDataset, load
from kws.data.source import Clip
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.training import checkpoint

WINDOW_MS, SAID = 2000, slice(40, None)  # steps of a window in whose middle a word of a second is said
EPOCHS, BATCH, RATE, SAME, NOISE = 5, 64, 2e-3, 0.2, 0.2
LEAST = 20  # clips of a word of which it is known how people differ


def found(pattern: str) -> list[Clip]:
    return [Clip(path, Path(path).parent.name) for one in braces(pattern) for path in sorted(glob.glob(one))]


class Hearing:
    """What the blocks of SPEECH.pt make of clips."""

    def __init__(self, saved: dict):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", overrides=["model=speech_natural"]).model
        self.extractor = FeatureExtractor(options := make_options(**saved["features"]))
        self.model = instantiate(config, n_features=options.dim, n_classes=2, shift_ms=options.frame_shift).eval()
        checkpoint.fit(saved["model"], self.model, saved["labels"], ["0", "1"])
        self.place = next(i for i, block in enumerate(self.model.blocks) if isinstance(block, Natural))
        self.model.blocks = self.model.blocks[: self.place]

    @torch.no_grad()
    def __call__(self, clips: list[Clip]) -> Tensor:
        """Maps (clips, channels, steps), float16."""
        data = ClipDataset(clips, sorted({clip.label for clip in clips}), self.extractor, WINDOW_MS)
        batches = [[(0, i) for i in range(at, min(at + BATCH, len(clips)))] for at in range(0, len(clips), BATCH)]
        heard = [self.model.embed(batch["frames"], None)[1][:, :, 0].half() for batch in load(data, batches, 0)]
        return torch.cat(heard)


def aligned(made: Tensor, people: Tensor, scale: Tensor) -> Tensor:
    """Maps of people as long as those of made speech, each (batch, channels, steps): for every step the mean of those
    that the best way through both meets."""
    a, b = ((x / scale[:, None]).transpose(1, 2) for x in (made, people))
    n, steps = len(a), a.shape[1]
    cost, best = torch.cdist(a, b), torch.full((n, steps + 1, steps + 1), 1e9)
    best[:, 0, 0] = 0
    for both in range(2, 2 * steps + 1):  # all that lie as far along
        i = torch.arange(max(1, both - steps), min(steps, both - 1) + 1)
        j = both - i
        before = torch.stack([best[:, i - 1, j - 1], best[:, i - 1, j], best[:, i, j - 1]])
        best[:, i, j] = cost[:, i - 1, j - 1] + before.amin(dim=0)
    way, row = torch.zeros(n, steps, steps), torch.arange(n)
    i, j = torch.full((n,), steps), torch.full((n,), steps)
    for _ in range(2 * steps):
        way[row, i - 1, j - 1] = 1
        before = torch.stack([best[row, i - 1, j - 1], best[row, i - 1, j], best[row, i, j - 1]]).argmin(dim=0)
        more = (i > 1) | (j > 1)
        i, j = torch.where(more & (before != 2), i - 1, i), torch.where(more & (before != 1), j - 1, j)
        i, j = i.clamp(min=1), j.clamp(min=1)
    return people @ (way / way.sum(dim=2, keepdim=True)).transpose(1, 2)


def places(clips: list[Clip]) -> dict[str, list[int]]:
    words: dict[str, list[int]] = {}
    for i, clip in enumerate(clips):
        words.setdefault(clip.label, []).append(i)
    return words


def within(maps: Tensor, words: dict[str, list[int]]) -> Tensor:
    """The root (channels, channels) of the covariance of what people's maps differ by from their word's mean."""
    parts = [maps[at].float() for at in words.values() if len(at) >= LEAST]
    if not parts:
        raise SystemExit(f"no word of the first pattern of people has {LEAST} clips")
    differ = torch.cat([(part - part.mean(dim=0))[..., SAID] for part in parts]).transpose(1, 2).flatten(0, 1)
    covariance = differ.T @ differ / len(differ)
    return torch.linalg.cholesky(covariance + 1e-4 * covariance.diag().mean() * torch.eye(len(covariance)))


def main(path: Path, made: list[str], people: list[str], count: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng, began, saved = np.random.default_rng(0), time.monotonic(), checkpoint.load(path)
    hears = Hearing(saved)
    makers = [clip for pattern in made for clip in found(pattern)]
    heard, says = hears(makers), places(makers)
    theirs = []  # of each pattern of people the maps, and the words that were made too
    for pattern in people:
        clips = [clip for clip in found(pattern) if clip.label in says]
        theirs.append((hears(clips), places(clips)))
        print(f"{pattern}: {len(clips)} clips of {len(theirs[-1][1])} words")
    scale = heard.float().std(dim=(0, 2))
    pairs, targets = [], []
    for at in range(0, count, 200):
        drawn = []
        for _ in range(min(200, count - at)):
            maps, words = theirs[rng.integers(len(theirs))]
            word = sorted(words)[rng.integers(len(words))]
            drawn.append((rng.choice(says[word]), maps[rng.choice(words[word])]))
        pairs += [i for i, _ in drawn]
        targets.append(aligned(heard[pairs[at:]].float(), torch.stack([x for _, x in drawn]).float(), scale).half())
    targets, pairs, natural = torch.cat(targets), np.array(pairs), torch.cat([maps for maps, _ in theirs])
    block = Natural(heard.shape[1], 1)
    learnt = [getattr(block, f"{name}{i}").requires_grad_() for i in range(3) for name in ("weight", "bias")]
    for weight in learnt[::2]:
        torch.nn.init.kaiming_uniform_(weight, a=5**0.5)
    steps = EPOCHS * count // BATCH
    optimizer = torch.optim.AdamW(learnt, lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    losses = []
    for step in range(1, steps + 1):
        at = rng.integers(count, size=BATCH)
        given, wanted = heard[pairs[at]].float(), targets[at].float()
        same = torch.rand(BATCH, 1, 1) < SAME
        given = torch.where(same, natural[rng.integers(len(natural), size=BATCH)].float(), given)
        wanted = torch.where(same, given, wanted)
        given = given + NOISE * torch.randn_like(given) * scale[:, None]
        loss = ((block.converted(given) - wanted) / scale[:, None]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 200 == 0 or step == steps:
            missed, passed = np.mean(losses[-200:]), time.monotonic() - began
            print(f"step {step}/{steps}: {missed:.4f} of the variance missed, {passed:.0f} s", flush=True)
    block.within.copy_(within(*theirs[0]))
    weights = {f"blocks.{hears.place}.{name}": value.detach() for name, value in block.state_dict().items()}
    checkpoint.save(path, {**saved, "model": saved["model"] | weights})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path, metavar="SPEECH.pt")
    parser.add_argument("--made", nargs="+", required=True, metavar="PATTERN")
    parser.add_argument("--people", nargs="+", required=True, metavar="PATTERN")
    parser.add_argument("--pairs", type=int, default=20000)
    given = parser.parse_args()
    main(given.speech, given.made, given.people, given.pairs)
