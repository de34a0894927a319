"""Words spoken by synthesisers: the data set that needs nothing but the words."""

import functools
import hashlib
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from kws import audio
from kws.config import check_labels
from kws.data import near as sounds
from kws.data.espeak import engine
from kws.data.others import check_folders, other_speech
from kws.data.recordings import Recordings
from kws.data.source import SILENCE, SILENCE_SECONDS, SPLITS, UNKNOWN, Clip, Source, silence_clips
from kws.data.speaking import Utterance, synthesise, write
from kws.data.synthesisers import PITCH, RATE, SYNTHESISERS
from kws.errors import KwsError, check_list, check_number

NOISES = {"white": 0.0, "pink": 1.0, "brown": 2.0, "blue": -1.0}  # exponents of 1/f


class Synthetic(Source):
    """Clips by espeak-ng and other synthesisers, kept in `cache`.

    Speakers are split: a tenth of each synthesiser's voices (at least one) validates and another tests, `kept_accent`
    and the bands `kept_rate` and `kept_pitch` are heard in no training clip, and neither are the test's other words.
    A synthesiser of one or two voices only trains.

    Args:
        words: what to spot; a phrase is a word with spaces.
        other_words: what `_unknown_` says; those among `words`, or that sound like one, are left out.
        near: so many words of Python's reference that sound most like `words` are said as well, of each its share.
        sentences: and so many stretches of that reference's prose.
        synthesisers: who speaks: espeak, kokoro, piper, command.
        kokoro, piper, command: what each is made with (see `kws.data.synthesisers`), `share`: its clips for each one of
            espeak-ng's, and `per_word`: training clips of a word that it makes, which fill its share by repetition
            (None: none is repeated); evaluation has as many for its size. `blended`: the share of Kokoro's clips that
            two voices speak as one.
        recordings: a folder of takes, as kws.record makes: folders of `words`, of other words, of background. Of each
            word every fifth take validates, whoever speaks, and the others are repeated until they are
            `recordings_share` of `per_word`. The test has none.
        others: folders of real speech in which none of the words is said (`other_speech`); `_unknown_` has all of it.
        accents: espeak-ng languages, `kept_accent` beside them.
        rate, pitch: ranges in words per minute and in espeak's 0 to 99.
        kept_rate, kept_pitch: bands inside these for validation and test alone.
        per_word: training clips of each word; validation and test have `per_word_evaluation`.
        unknown_share, silence_share: training clips of `_unknown_` and `_silence_` as a share of the words' clips, but
            at least as many as of one word, of `_unknown_` at least `unknown_least`; validation and test have as many
            of each as of a word.
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
        synthesisers: Iterable[str] = ("espeak",), kokoro: dict | None = None,
        piper: dict | None = None, command: dict | None = None, recordings: str | Path | None = None,
        recordings_share: float = 0.3, near: int = 0, sentences: int = 0, unknown_least: int = 0,
        others: Iterable[str | Path] = (),
    ):  # fmt: skip
        super().__init__(words, unknown, silence)
        for name, value in (("near", near), ("sentences", sentences), ("unknown_least", unknown_least)):
            check_number(f"data.{name}", value, lambda n: n >= 0, "a whole number of at least 0", int)
        said = list(check_labels(other_words, "data.other_words"))
        if near:
            share, candidates = -(-near // len(self.words)), sounds.vocabulary()
            said += [like for word in self.words for like in sounds.near(word, candidates, share)]
        said += sounds.sentences(sentences, self.words) if sentences else []
        self.other_words = [word for word in dict.fromkeys(said) if word not in self.words]
        if unknown and len(self.other_words) < 8:
            raise KwsError(f"data.other_words: {len(self.other_words)} words left for _unknown_; at least 8 are needed")
        check_list("data.accents", accents)
        if not accents:
            raise KwsError("data.accents is empty: name at least one, as [en-us]")
        for name, limits in (("rate", rate), ("pitch", pitch), ("kept_rate", kept_rate), ("kept_pitch", kept_pitch)):
            if isinstance(limits, str | int | float) or len(limits) != 2 or not limits[0] < limits[1]:
                raise KwsError(f"data.{name}={limits}: expected two numbers, the lower first, as in [20,80]")
        self.cache = Path(cache) / f"{int(sample_rate)}"
        self.accents, self.kept_accent = list(accents), kept_accent
        self.rate, self.kept_rate, self.pitch, self.kept_pitch = rate, kept_rate, pitch, kept_pitch
        self.counts = {"train": per_word, "validation": per_word_evaluation, "test": per_word_evaluation}
        self.unknown_share, self.silence_share, self.unknown_least = unknown_share, silence_share, unknown_least
        self.noise_seconds, self.sample_rate, self.workers, self.seed = noise_seconds, int(sample_rate), workers, seed
        check_list("data.synthesisers", synthesisers)
        self.shares, self._per_word, self._blended, self._made_with, self._synthesisers = {}, {}, {}, {}, {}
        settings = {"espeak": {}, "kokoro": kokoro, "piper": piper, "command": command}
        for name in check_labels(synthesisers, "data.synthesisers"):
            if name not in settings:
                raise KwsError(f"data.synthesisers: {name!r} is none of {', '.join(settings)}")
            given = dict(settings[name] or {})
            self.shares[name] = _positive(f"data.{name}.share", given.pop("share", 1.0))
            if name != "espeak":
                self._per_word[name] = given.pop("per_word", None)
                if self._per_word[name] is not None:
                    _positive(f"data.{name}.per_word", self._per_word[name])
                self._blended[name] = given.pop("blended", 0.0)
                self._synthesisers[name] = SYNTHESISERS[name](**given)
                self._made_with[name] = given
        if not self.shares:
            raise KwsError("data.synthesisers is empty: name at least one, as [espeak]")
        if not any(self._voices("validation", name) for name in self.shares):
            raise KwsError("data.synthesisers: of fewer than 3 voices none is left to validate with; add espeak")
        self.takes = None if recordings is None else Recordings(recordings, self.words)
        self.background = self.takes and self.takes.background
        self.others = check_folders(others, "others")
        if self.others and not unknown:
            raise KwsError("data.others is what _unknown_ says: say data.unknown=true")
        self.recordings_share = _positive("data.recordings_share", recordings_share)

    @property
    def spoken(self) -> dict[str, None]:
        return dict.fromkeys([*self.words, *self.other_words])

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        said: dict[str, str] = {}
        for word in self.words:
            if (other := said.setdefault(self._sound(word), word)) != word:
                raise KwsError(f"data.words: {other!r} and {word!r} sound the same in {self.accents[0]}: leave one out")
        wanted = {u.path(self.cache): u for split in splits for _, u in self._utterances(split)}
        missing = [u for path, u in wanted.items() if not path.exists()]
        if missing:
            synthesise(missing, self._made_with, self.cache, self.sample_rate, self.workers)
        for split in splits:
            self._make_noise(split)

    def clips(self, split: str) -> list[Clip]:
        clips = [Clip(str(u.path(self.cache)), label, text=u.text) for label, u in self._utterances(split)]
        if self.takes is not None:
            clips += self.takes.clips(split, self.labels, round(self.recordings_share * self.counts["train"]))
        clips += self._real_others[split]
        if SILENCE in self.labels:
            count = self._share(self.silence_share, split)
            clips += silence_clips(self.noise(split), count, SILENCE_SECONDS, split)
        return clips

    @functools.cached_property
    def _real_others(self) -> dict[str, list[Clip]]:
        return other_speech(self.others)

    def noise(self, split: str) -> list[Clip]:
        seconds = self._noise_length(split)
        made = [Clip(str(self._noise_path(name, split)), SILENCE, 0.0, seconds) for name in (*NOISES, "babble")]
        own = super().noise(split)
        repeats = max(len(made) // len(own), 1) if own and split == "train" else 1  # the room is half of what is heard
        return made + own * repeats

    def _voices(self, split: str, name: str = "espeak") -> list[str]:
        """Voices of a split: by their place in an order drawn from their names, a tenth each is kept."""
        voices = _variants() if name == "espeak" else self._synthesisers[name].voices()
        ordered = sorted(voices, key=lambda name: hashlib.sha1(name.encode()).hexdigest())
        kept = max(len(ordered) // 10, len(ordered) > 2)
        return {
            "validation": ordered[:kept], "test": ordered[kept : 2 * kept], "train": ordered[2 * kept :],
        }[split]  # fmt: skip

    def _utterances(self, split: str) -> list[tuple[str, Utterance]]:
        """(label, what to say) of every spoken clip of a split: a function of the arguments alone."""
        out = []
        for word in self.words:
            out += [(word, u) for u in self._say(word, split, self.counts[split])]
        if UNKNOWN in self.labels:
            count = self._share(self.unknown_share, split, self.unknown_least)
            others = self._others(split)
            for i, word in enumerate(others):
                share = count // len(others) + (i < count % len(others))
                out += [(UNKNOWN, u) for u in self._say(word, split, share)]
        return out

    def _share(self, share: float, split: str, least: int = 0) -> int:
        count = self.counts[split]
        return max(round(share * count * len(self.words)), count, least) if split == "train" and share else count

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
        return sounds.phonemes(text, self.accents[0])

    def _say(self, word: str, split: str, count: int) -> list[Utterance]:
        """`count` clips of a word by those who have voices in this split; fewer for evaluation where `per_word` is."""
        shares = {name: share for name, share in self.shares.items() if self._voices(split, name)}
        bounds = count * np.cumsum(list(shares.values())) / sum(shares.values())
        # where a word has few clips, they are not the first's for every word
        place = int(hashlib.sha1(f"share/{word}".encode()).hexdigest()[:8], 16) / 2**32
        bounds = np.floor(np.append(0, bounds).round(6) + place).astype(int)
        out = []
        for name, part in zip(shares, np.diff(bounds).tolist(), strict=True):
            per_word = self._per_word.get(name)
            most = part if per_word is None else max(round(per_word * count / self.counts["train"]), 1)
            said = self._draw(name, word, split, min(part, most))
            out += islice(cycle(said), part) if split == "train" else said
        return out

    def _draw(self, name: str, word: str, split: str, count: int) -> list[Utterance]:
        """`count` different clips of a word by one synthesiser."""
        key = f"{self.seed}/{split}/{word}" + f"/{name}" * (name != "espeak")
        rng = np.random.default_rng(list(hashlib.sha1(key.encode()).digest()))
        voices, seen, tries = self._voices(split, name), {}, 0
        draw = self._by_espeak if name == "espeak" else self._by_other
        while len(seen) < count:
            if (tries := tries + 1) > 100 * count:
                widen = "widen data.rate and data.pitch" if name == "espeak" else f"lower data.{name}.per_word"
                raise KwsError(f"data: {count} clips of {word!r} cannot be told apart; {widen}")
            seen[draw(rng, name, word, split, voices)] = None
        return list(seen)

    def _by_espeak(self, rng, _name: str, word: str, split: str, voices: list[str]) -> Utterance:
        # for evaluation every accent equally often, the one never heard in training among them
        accents = self.accents if split == "train" else [*self.accents, self.kept_accent]
        accent = accents[rng.integers(len(accents))]
        rate, pitch = self._between(rng, split, "rate"), self._between(rng, split, "pitch")
        voice = f"{accent}+{voices[rng.integers(len(voices))]}"
        return Utterance(word, voice, rate, pitch, int(rng.integers(30, 80)))

    def _by_other(self, rng, name: str, word: str, split: str, voices: list[str]) -> Utterance:
        synthesiser = self._synthesisers[name]
        rate = self._between(rng, split, "rate") if "rate" in synthesiser.varies else RATE
        pitch = self._between(rng, split, "pitch") if "pitch" in synthesiser.varies else PITCH
        voice = voices[rng.integers(len(voices))]
        if synthesiser.blends and rng.random() < self._blended[name]:
            voice = f"{voice}~{rng.integers(20, 81)}~{voices[rng.integers(len(voices))]}"
        return Utterance(word, voice, rate, pitch, None, name, synthesiser.key)

    def _between(self, rng, split: str, what: str) -> int:
        span, kept = getattr(self, what), getattr(self, f"kept_{what}")
        return _outside(rng, span, kept) if split == "train" else int(rng.integers(*kept))

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
            write(path, sound / max(np.abs(sound).max(), 1e-9) * 16000, self.sample_rate)

    def _babbled(self, split: str) -> list[str]:
        words = ("one", "moment", "please", "thank", "you")
        return self._others(split) or [word for word in words if word not in self.words]

    def _babble(self, rng, split: str, n: int) -> np.ndarray:
        """Six voices that speak other words all at once. No word to spot is among them."""
        sound, words, voices = np.zeros(n), self._babbled(split), self._voices(split)
        for _ in range(6):
            position = int(rng.integers(self.sample_rate))
            while position < n:
                text = " ".join(words[i] for i in rng.integers(len(words), size=12))
                voice = f"{self.accents[rng.integers(len(self.accents))]}+{voices[rng.integers(len(voices))]}"
                spoken = engine().speak(text, voice, int(rng.integers(140, 200)), int(rng.integers(20, 80)))
                spoken = audio.resample(*spoken, self.sample_rate)[: n - position]
                sound[position : position + len(spoken)] += spoken
                position += len(spoken) + 1
        return sound


@functools.cache
def _variants() -> list[str]:
    return engine().voices()


def _positive(key: str, number: float) -> float:
    check_number(key, number, lambda n: n > 0, "a number above 0")
    return number


def coloured_noise(rng: np.random.Generator, n: int, exponent: float) -> np.ndarray:
    """(n,) noise whose power falls as 1/f^exponent, unit variance."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum[1:] *= np.arange(1, len(spectrum), dtype=np.float64) ** (-exponent / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, n)
    return noise / noise.std()


def _outside(rng, span: tuple[int, int], kept: tuple[int, int]) -> int:
    """A whole number in `span` and not in `kept`."""
    low, high = (min(max(end, span[0]), span[1]) for end in kept)
    below, above = low - span[0], span[1] - high
    if below + above == 0:
        raise KwsError(f"data: the kept range {kept} leaves nothing of {span} to train on")
    draw = int(rng.integers(below + above))
    return span[0] + draw if draw < below else high + draw - below
