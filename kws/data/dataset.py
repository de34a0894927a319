"""Clips to frames: reading, placing, changing, extracting. What a worker process does."""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kws import audio
from kws.augment import Augment, level, mix
from kws.data.clips import read_clip, word_span
from kws.data.source import SILENCE, UNKNOWN, Clip
from kws.errors import KwsError
from kws.features.extractor import FeatureExtractor
from kws.features.framing import n_frames

NO_CHANGE = Augment()


class ClipDataset(Dataset):
    """Labelled clips as waves (window,), and in batches as frames.

    A clip shorter than the window stands somewhere in it (in the middle without augmentation) with background or
    nothing around it; of a longer one the loudest stretch is taken, of `_silence_` and `_unknown_` any. With `spans`,
    of a longer clip of a word it is a stretch that the word, found by its energy, ends in.

    An item is asked for as (epoch, index): every random choice is a function of (seed, epoch, index).

    Args:
        window_ms: length of the result.
        noise: recordings to add to clips and to fill `_silence_` with.
        snr: add noise at this ratio in dB to every clip; None leaves it to `augment`.
        spans: find where words end in their clips: "ended" is the frame in which that is, and -1 where no word is.
        spell: what is said to the columns of its phones: "said" has them, then -1; -2 throughout where what is said in
            the window is not known.
    """

    def __init__(
        self, clips: Sequence[Clip], labels: Sequence[str], extractor: FeatureExtractor, window_ms: float,
        augment: Augment = NO_CHANGE, noise: Sequence[Clip] = (), snr: float | None = None, seed: int = 0,
        spans: bool = False, spell: Callable[[str], list[int]] | None = None,
    ):  # fmt: skip
        self.clips, self.extractor, self.seed, self.snr = list(clips), extractor, seed, snr
        self.rate = int(extractor.options.sample_frequency)
        self.labels = {label: i for i, label in enumerate(labels)}
        if unknown := sorted({clip.label for clip in clips} - set(labels)):
            raise KwsError(
                f"clips are labelled {', '.join(unknown)}, which is not among the labels {', '.join(labels)}"
            )
        self.window = round(self.rate * window_ms / 1000)
        self.n_frames = n_frames(self.window, extractor.options)
        self.augment, self.noise = augment, list(noise)
        self.spans, self.others = spans, [clip for clip in clips if clip.label == UNKNOWN]
        self.words = [clip for clip in clips if clip.label not in (UNKNOWN, SILENCE)]
        texts = {clip.said for clip in clips if spell and clip.said is not None}
        self.spelt = {text: torch.tensor(spell(text), dtype=torch.long) for text in texts}
        self.longest = max(map(len, self.spelt.values()), default=0)
        self.told: set[str] = set()  # what was wrong with the files that were left out
        self._broken: dict[Clip, audio.AudioError] = {}  # of what joins clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: tuple[int, int]) -> dict | audio.AudioError:
        epoch, index = key
        clip, rng = self.clips[index], np.random.default_rng([self.seed, epoch, index])
        try:
            silent = clip.label == SILENCE
            wave, end, said = (self._background(clip, rng), None, None) if silent else self._word(clip, rng)
        except audio.AudioError as error:
            return error  # told where the user reads it, not inside a worker
        wave = self.augment.transmit(wave, self.rate, rng)
        drawn = epoch * len(self) + index  # what its dither is a function of
        label = self.labels[clip.label]
        return {
            "wave": torch.from_numpy(wave), "label": label, "ended": self._frame(end), "masks": self._masks(rng),
            "utterance": drawn, "said": self._spelt(said),
        }  # fmt: skip

    def _spelt(self, said: str | None) -> torch.Tensor:
        if said not in self.spelt:
            return torch.full((self.longest,), -2)
        phones = self.spelt[said]
        return torch.cat([phones, torch.full((self.longest - len(phones),), -1)])

    def _frame(self, end: int | None) -> int:
        """The first frame that has heard all before sample `end`; -1 for none."""
        options = self.extractor.options
        return -1 if end is None else max(0, -(-(end - options.window_samples) // options.shift_samples))

    def _masks(self, rng: np.random.Generator) -> torch.Tensor:
        options = self.extractor.options
        return torch.from_numpy(self.augment.masks(self.n_frames, options.dim, options.frame_shift, rng))

    def collate(self, items: list) -> dict:
        """A batch of the items that could be read: "frames" (batch, frames, dim), "label", "ended", "masks" and
        "said", what was wrong with the rest ("errors"), and with what was to be added to clips ("left_out"). No items
        (a process without a share of a short batch) give tensors of batch 0."""
        errors = [str(item) for item in items if isinstance(item, audio.AudioError)]
        left_out, self.augment.left_out[:] = [*map(str, self._broken.values()), *self.augment.left_out], []
        items = [item for item in items if not isinstance(item, audio.AudioError)]
        if items:
            batch = {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}
        else:
            masks = len(self._masks(np.random.default_rng(0)))
            none = torch.zeros(0, dtype=torch.long)
            batch = {"wave": torch.zeros(0, self.window), "label": none, "ended": none, "utterance": none}
            batch["masks"] = torch.zeros(0, masks, 3, dtype=torch.long)
            batch["said"] = torch.zeros(0, self.longest, dtype=torch.long)
        with torch.no_grad():
            state = self.extractor.initial_state(len(batch["label"]), batch.pop("utterance").tolist())
            frames, _ = self.extractor.stream(batch.pop("wave"), state, flush=True)
        return {"frames": frames, **batch, "errors": errors, "left_out": left_out}

    def _word(self, clip: Clip, rng: np.random.Generator) -> tuple[np.ndarray, int | None, str | None]:
        """The window (n,), of a word with `spans` the sample at which it ends there, and all that is said in it."""
        chance = self.augment.piece_chance
        piece = clip.label == UNKNOWN and self.words and chance and rng.random() < chance
        wave = self._any(self.words, rng, self._speech) if piece else self._speech(clip, rng)
        wave = self.augment.shape(wave, rng)
        if piece:
            wave = self._piece(wave, rng)
        chance = self.augment.neighbour_chance
        alone = not (chance and self.others and rng.random() < chance)
        span = word_span(wave, self.rate) if clip.label != UNKNOWN and (self.spans or not alone) else None
        # an asked ratio is to the whole clip, so that it is the same sound for every loss
        speech = level(wave if span is None or self.snr is not None else wave[slice(*span)])
        if span is not None and not alone:  # the neighbours speak where silence was
            wave, span = wave[slice(*span)], (0, span[1] - span[0])
        first, last = span or (0, len(wave))
        wave, start = self._placed(wave, rng, span, clip.label == UNKNOWN)
        whole = alone and not piece and start + first >= 0 and start + last <= self.window
        if not alone:
            self._neighbours(wave, speech, rng)
        wave = self.augment.filter(wave, self.rate, rng)
        snr = self.snr if self.snr is not None else self.augment.snr(rng)
        if snr is not None and self.others and self.augment.crowd_chance and rng.random() < self.augment.crowd_chance:
            wave = mix(wave, self._crowd(rng), snr, speech)
        elif snr is not None and self.noise:
            wave = mix(wave, self._any(self.noise, rng, self._background), snr, speech)
        ended = None if span is None else start + span[1]
        return wave * self.augment.loudness(rng), ended, clip.said if whole else None

    def _piece(self, wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The beginning or end of the word in a clip (n,), which is not the word."""
        begin, end = word_span(wave, self.rate)
        length = max(round((end - begin) * rng.uniform(0.3, 0.66)), 1)
        fade = np.minimum(np.arange(length, 0, -1) / (0.01 * self.rate), 1).astype(np.float32)  # 10 ms where it is cut
        return wave[begin:][:length] * fade if rng.random() < 0.5 else wave[:end][-length:] * fade[::-1]

    def _placed(self, wave: np.ndarray, rng: np.random.Generator, span: tuple | None, any_stretch: bool):
        """The clip in a window of zeros (n,), and where it begins there."""
        room = self.window - len(wave)
        if span is not None:  # the word, with what is around it as far as there is any
            start = self.augment.start(self.window - (span[1] - span[0]), self.rate, rng)
            start = min(start, self.window - (span[1] - span[0])) - span[0]
        elif room >= 0:
            start = self.augment.start(room, self.rate, rng)
            start = min(max(start, -(len(wave) // 2)), self.window - len(wave) // 2)  # half of a clip stays at least
        elif any_stretch:
            start = -int(rng.integers(-room + 1))
        else:
            energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
            start = -int(np.argmax(energy[self.window :] - energy[: len(energy) - self.window]))
        out = np.zeros(self.window, np.float32)
        part = wave[max(-start, 0) : max(self.window - start, 0)]
        out[max(start, 0) : max(start, 0) + len(part)] = part
        return out, start

    def _neighbours(self, window: np.ndarray, speech: float, rng: np.random.Generator) -> None:
        """Other words, one after another, wherever the window holds nothing before and after its clip."""
        loud = np.flatnonzero(window)
        first, last = (loud[0], loud[-1] + 1) if len(loud) else (0, 0)
        for begin, end in ((0, first), (last, len(window))):
            while end - begin > self.rate // 10:
                other = self._any(self.others, rng, self._speech)
                other = other * np.float32(speech / max(level(other), 1e-6) * 10 ** (rng.uniform(-10, 6) / 20))
                n = min(len(other), end - begin)
                if begin == 0:  # before the clip: backwards from it, so that speech runs into speech
                    window[end - n : end], end = other[len(other) - n :], end - n
                else:
                    window[begin : begin + n], begin = other[:n], begin + n

    def _crowd(self, rng: np.random.Generator) -> np.ndarray:
        """One to six people who say other words at once, (window,)."""
        voices = np.zeros((rng.integers(1, 7), self.window), np.float32)
        for voice in voices:
            self._neighbours(voice, 1000.0, rng)
        return voices.sum(axis=0)

    def _speech(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """What is said (n,): of a recording of other speech that is much longer than the window any four windows."""
        longest = 4 * self.window
        wave = read_clip(clip, self.rate, keep=longest)
        return wave if clip.label != UNKNOWN or len(wave) <= longest else _stretch(wave, longest, rng)

    def _any(self, clips: Sequence[Clip], rng: np.random.Generator, read: Callable) -> np.ndarray:
        """What `read` makes of any of the clips: of the next that can be used."""
        first = int(rng.integers(len(clips)))
        for i in range(first - len(clips), first):
            try:
                if clips[i] not in self._broken:
                    return read(clips[i], rng)
            except audio.AudioError as error:
                self._broken[clips[i]] = error
        raise self._broken[clips[first - 1]]

    def _background(self, clip: Clip, rng: np.random.Generator) -> np.ndarray:
        """Any stretch of a recording, repeated where it is shorter than the window."""
        wave = read_clip(clip, self.rate, keep=0)
        if len(wave) < self.window:
            wave = np.tile(wave, -(-self.window // len(wave)))
        return _stretch(wave, self.window, rng)


def _stretch(wave: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Any n samples on end of a wave that has as many."""
    at = int(rng.integers(len(wave) - n + 1))
    return wave[at : at + n]


class Batches(Sampler):
    """Lists of (epoch, index), one a batch, from a position to the end of training.

    Args:
        n: clips.
        balance: labels (n,) to draw each class equally often, with replacement; None takes every clip once an epoch.
        epochs: (first, last + 1); first_batch: batches of the first epoch that are already done.
        rank, world: this process takes every world-th of each batch.
    """

    def __init__(
        self, n: int, batch_size: int, epochs: tuple[int, int], seed: int = 0, first_batch: int = 0,
        balance: np.ndarray | None = None, rank: int = 0, world: int = 1,
    ):  # fmt: skip
        self.n, self.batch_size, self.epochs, self.seed, self.first_batch = n, batch_size, epochs, seed, first_batch
        self.rank, self.world = rank, world
        self.chances = None
        if balance is not None:
            counts = np.bincount(balance)
            self.chances = 1.0 / counts[balance] / np.count_nonzero(counts)

    def per_epoch(self) -> int:
        return -(-self.n // self.batch_size)

    def __len__(self) -> int:
        return self.per_epoch() * (self.epochs[1] - self.epochs[0]) - self.first_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(*self.epochs):
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(self.n) if self.chances is None else rng.choice(self.n, self.n, p=self.chances)
            for batch in range(self.first_batch if epoch == self.epochs[0] else 0, self.per_epoch()):
                first, last = batch * self.batch_size, min((batch + 1) * self.batch_size, self.n)
                places = range(first, last)[self.rank :: self.world]
                # a clip that is drawn again in an epoch is changed in another way each time
                yield [(epoch if self.chances is None else epoch * self.n + i, int(order[i])) for i in places]


def load(dataset: ClipDataset, batches, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches in order, read ahead by `workers` processes (0: in this one). A file that cannot be used is named once
    and left out of its batches.

    Raises:
        KwsError: more than a tenth of the clips cannot be used.
    """
    asked = lost = 0
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=dataset.collate, worker_init_fn=_leave_signals,
        prefetch_factor=4 if workers else None,
    )  # fmt: skip
    for batch in loader:
        errors = batch.pop("errors")
        for error in dict.fromkeys(errors + batch.pop("left_out")):
            if error not in dataset.told:
                dataset.told.add(error)
                print(f"left out: {error}", file=sys.stderr, flush=True)
        lost, asked = lost + len(errors), asked + len(errors) + len(batch["label"])
        if lost > max(asked, len(dataset)) / 10:
            raise KwsError(f"{lost} of {max(asked, len(dataset))} clips cannot be used, {errors[-1]} among them")
        yield batch


def _leave_signals(_worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; only the one that saves acts on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
