"""Words spoken by a synthesiser: the data set that needs nothing but the words."""

import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws import audio
from kws.config import check_labels
from kws.data.espeak import SAMPLE_RATE, engine
from kws.data.source import SILENCE, SILENCE_SECONDS, SPLITS, UNKNOWN, Clip, Source, silence_clips
from kws.errors import KwsError
from kws.progress import progress
from kws.workers import cores, ordered_map

NOISES = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0}  # exponents of 1/f


@dataclass(frozen=True)
class _Utterance:
    """One clip to make; its file's name says all of it, so a clip that exists is never made again."""

    text: str
    accent: str
    variant: str
    rate: int
    pitch: int
    range: int

    def path(self, cache: Path) -> Path:
        word = "".join(c if c.isalnum() else "_" for c in self.text)[:40]
        word = word if word == self.text else f"{word}-{hashlib.sha1(self.text.encode()).hexdigest()[:8]}"
        name = f"{self.accent}+{self.variant.replace(' ', '~')}_r{self.rate}_p{self.pitch}_i{self.range}.wav"
        return cache / word / name


class Synthetic(Source):
    """Clips by espeak-ng, kept in `cache`.

    Speakers are split: a tenth of the voice variants validates and another tenth tests, `kept_accent` and the bands
    `kept_rate` and `kept_pitch` are heard in no training clip, and neither are the test's other words.

    Args:
        words: what to spot; a phrase is a word with spaces.
        other_words: what `_unknown_` says; those among `words`, or that sound like one, are left out.
        accents: espeak-ng languages, `kept_accent` beside them.
        rate, pitch: ranges in words per minute and in espeak's 0 to 99.
        kept_rate, kept_pitch: bands inside these for validation and test alone.
        per_word: training clips of each word; validation and test have `per_word_evaluation`.
        unknown_share, silence_share: training clips of `_unknown_` and `_silence_` as a share of the words' clips, but
            at least as many as of one word; validation and test have as many of each as of a word.
        noise_seconds: length of each of the made background recordings (training; the others a quarter).
        sample_rate: of the clips, in Hz.
        workers: processes that synthesise; null uses every core.
    """

    def __init__(
        self, words: Iterable[str], other_words: Iterable[str], cache: str | Path, accents: Iterable[str],
        kept_accent: str, rate=(110, 230), pitch=(10, 90), kept_rate=(160, 175), kept_pitch=(45, 55),
        per_word: int = 480, per_word_evaluation: int = 80, unknown: bool = True, silence: bool = True,
        unknown_share: float = 0.3, silence_share: float = 0.1, noise_seconds: float = 60.0,
        sample_rate: int = 16000, workers: int | None = None, seed: int = 0,
    ):  # fmt: skip
        super().__init__(words, unknown, silence)
        self.other_words = [w for w in check_labels(other_words, "data.other_words") if w not in self.words]
        if unknown and len(self.other_words) < 8:
            raise KwsError(f"data.other_words: {len(self.other_words)} words left for _unknown_; at least 8 are needed")
        self.cache = Path(cache) / f"{int(sample_rate)}"
        self.accents, self.kept_accent = list(accents), kept_accent
        self.rate, self.kept_rate, self.pitch, self.kept_pitch = rate, kept_rate, pitch, kept_pitch
        self.counts = {"train": per_word, "validation": per_word_evaluation, "test": per_word_evaluation}
        self.unknown_share, self.silence_share = unknown_share, silence_share
        self.noise_seconds, self.sample_rate, self.workers, self.seed = noise_seconds, int(sample_rate), workers, seed

    @property
    def spoken(self) -> dict[str, None]:
        return dict.fromkeys([*self.words, *self.other_words])

    def prepare(self) -> None:
        wanted = {u.path(self.cache): u for split in SPLITS for _, u in self._utterances(split)}
        missing = [u for path, u in wanted.items() if not path.exists()]
        if missing:
            self._synthesise(missing)
        for split in SPLITS:
            self._make_noise(split)

    def clips(self, split: str) -> list[Clip]:
        clips = [Clip(str(u.path(self.cache)), label) for label, u in self._utterances(split)]
        if SILENCE in self.labels:
            count = self._share(self.silence_share, split)
            clips += silence_clips(self.noise(split), count, SILENCE_SECONDS, split)
        return clips

    def noise(self, split: str) -> list[Clip]:
        seconds = self._noise_length(split)
        return [Clip(str(self._noise_path(name, split)), SILENCE, 0.0, seconds) for name in (*NOISES, "babble")]

    def _voices(self, split: str) -> list[str]:
        """Variants of a split: by their place in an order drawn from their names, a tenth each is kept."""
        ordered = sorted(_variants(), key=lambda name: hashlib.sha1(name.encode()).hexdigest())
        tenth = len(ordered) // 10
        return {
            "validation": ordered[:tenth], "test": ordered[tenth : 2 * tenth], "train": ordered[2 * tenth :],
        }[split]  # fmt: skip

    def _utterances(self, split: str) -> list[tuple[str, _Utterance]]:
        """(label, what to say) of every spoken clip of a split: a function of the arguments alone."""
        out = []
        for word in self.words:
            out += [(word, u) for u in self._say(word, split, self.counts[split])]
        if UNKNOWN in self.labels:
            count = self._share(self.unknown_share, split)
            others = self._others(split)
            for i, word in enumerate(others):
                share = count // len(others) + (i < count % len(others))
                out += [(UNKNOWN, u) for u in self._say(word, split, share)]
        return out

    def _share(self, share: float, split: str) -> int:
        count = self.counts[split]
        return max(round(share * count * len(self.words)), count) if split == "train" and share else count

    def _others(self, split: str) -> list[str]:
        """What `_unknown_` says in a split. A quarter of the words is kept for the test."""
        spoken = {self._sound(word) for word in self.words}
        others = [word for word in self.other_words if self._sound(word) not in spoken]
        others.sort(key=lambda word: hashlib.sha1(word.encode()).hexdigest())
        tested, others = others[: len(others) // 4], others[len(others) // 4 :]
        if split == "test":
            return tested
        spoken |= {self._sound(word) for word in tested}
        return [word for word in others if self._sound(word) not in spoken]

    def _sound(self, text: str) -> str:
        return _phonemes(text, self.accents[0])

    def _say(self, word: str, split: str, count: int) -> list[_Utterance]:
        digest = hashlib.sha1(f"{self.seed}/{split}/{word}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        voices, seen, tries = self._voices(split), {}, 0
        while len(seen) < count:
            if (tries := tries + 1) > 100 * count:
                raise KwsError(f"data: {count} clips of {word!r} cannot be told apart; widen data.rate and data.pitch")
            if split == "train":
                accent = self.accents[rng.integers(len(self.accents))]
                rate, pitch = _outside(rng, self.rate, self.kept_rate), _outside(rng, self.pitch, self.kept_pitch)
            else:  # every accent equally often, the one never heard in training among them
                accent = [*self.accents, self.kept_accent][rng.integers(len(self.accents) + 1)]
                rate, pitch = int(rng.integers(*self.kept_rate)), int(rng.integers(*self.kept_pitch))
            u = _Utterance(word, accent, voices[rng.integers(len(voices))], rate, pitch, int(rng.integers(30, 80)))
            seen[u] = None
        return list(seen)

    def _synthesise(self, utterances: list[_Utterance]) -> None:
        count = cores() if self.workers is None else self.workers
        if len(utterances) < 400:  # not worth another process
            count = 0
        tasks = (utterances[at : at + 50] for at in range(0, len(utterances), 50))
        with progress(total=len(utterances), desc="synthesising", unit="words") as bar:
            for done, results in ordered_map(_writer, (self.cache, self.sample_rate), tasks, count):
                for problem in results:
                    if problem is not None:
                        raise KwsError(f"espeak-ng: {problem}")
                bar.update(len(done))

    def _noise_path(self, name: str, split: str) -> Path:
        said = [self._babbled(split), self.accents]
        voice = "" if name != "babble" else "-" + hashlib.sha1(repr(said).encode()).hexdigest()[:8]
        file = f"{split}-{name}{voice}-{self._noise_length(split):g}s-{self.seed}.wav"
        return self.cache / "_background_noise_" / file

    def _noise_length(self, split: str) -> float:
        return self.noise_seconds if split == "train" else self.noise_seconds / 4

    def _make_noise(self, split: str) -> None:
        n = round(self._noise_length(split) * self.sample_rate)
        for i, (name, exponent) in enumerate([*NOISES.items(), ("babble", None)]):
            path = self._noise_path(name, split)
            if path.exists():
                continue
            rng = np.random.default_rng([self.seed, SPLITS.index(split), i])
            sound = self._babble(rng, split, n) if exponent is None else coloured_noise(rng, n, exponent)
            _write(path, sound / max(np.abs(sound).max(), 1e-9) * 16000, self.sample_rate)

    def _babbled(self, split: str) -> list[str]:
        return self._others(split) or ["one", "moment", "please"]

    def _babble(self, rng, split: str, n: int) -> np.ndarray:
        """Six voices that speak other words all at once. No word to spot is among them."""
        sound, words, voices = np.zeros(n), self._babbled(split), self._voices(split)
        for _ in range(6):
            position = int(rng.integers(self.sample_rate))
            while position < n:
                text = " ".join(words[i] for i in rng.integers(len(words), size=12))
                u = (self.accents[rng.integers(len(self.accents))], voices[rng.integers(len(voices))])
                spoken = engine().speak(text, *u, int(rng.integers(140, 200)), int(rng.integers(20, 80)))
                spoken = audio.resample(spoken, SAMPLE_RATE, self.sample_rate)[: n - position]
                sound[position : position + len(spoken)] += spoken
                position += len(spoken) + 1
        return sound


@functools.cache
def _phonemes(text: str, accent: str) -> str:
    return engine().phonemes(text, accent)


@functools.cache
def _variants() -> list[str]:
    return engine().variants()


def coloured_noise(rng: np.random.Generator, n: int, exponent: float) -> np.ndarray:
    """(n,) noise whose power falls as 1/f^exponent, unit variance."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum[1:] *= np.arange(1, len(spectrum), dtype=np.float64) ** (-exponent / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, n)
    return noise / noise.std()


def _outside(rng, span: tuple[int, int], kept: tuple[int, int]) -> int:
    """A whole number in `span` and not in `kept`."""
    below, above = max(kept[0] - span[0], 0), max(span[1] - kept[1], 0)
    if below + above == 0:
        raise KwsError(f"data: the kept range {kept} leaves nothing of {span} to train on")
    draw = int(rng.integers(below + above))
    return span[0] + draw if draw < below else kept[1] + draw - below


def _writer(cache: Path, sample_rate: int):
    """A function that makes a list of utterances and says for each what was wrong, if anything."""

    def write(utterances: list[_Utterance]) -> list[str | None]:
        return [_write_utterance(u, cache, sample_rate) for u in utterances]

    return write


def _write_utterance(u: _Utterance, cache: Path, sample_rate: int) -> str | None:
    try:
        spoken = engine().speak(u.text, u.accent, u.variant, u.rate, u.pitch, u.range)
    except KwsError as error:
        return str(error)
    if len(spoken) < 0.02 * SAMPLE_RATE:
        return f"it says nothing for {u.text!r}: write the word as it is spoken"
    _write(u.path(cache), audio.resample(spoken, SAMPLE_RATE, sample_rate), sample_rate)
    return None


def _write(path: Path, samples: np.ndarray, rate: int) -> None:
    """By a temporary file and a rename, so that a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    audio.write(temporary, samples, rate)
    os.replace(temporary, path)
