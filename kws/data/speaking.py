"""What is to be said, by whom, and saying it into a cache of clips."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws import audio
from kws.data.espeak import engine
from kws.data.synthesisers import SYNTHESISERS
from kws.errors import KwsError
from kws.files import replacing
from kws.progress import progress
from kws.workers import cores, ordered_map


@dataclass(frozen=True)
class Utterance:
    """One clip to make; its file's name says all of it, so a clip that exists is never made again."""

    text: str
    voice: str
    rate: int
    pitch: int
    range: int | None = None  # of the pitch; espeak-ng's alone
    synthesiser: str = "espeak"
    key: str = ""  # see `kws.data.synthesisers`

    def path(self, cache: Path) -> Path:
        if self.synthesiser == "espeak":
            name = f"{self.voice.replace(' ', '~')}_r{self.rate}_p{self.pitch}_i{self.range}.wav"
        else:
            name = f"{self.synthesiser}{self.key}_{_file_name(self.voice)}_r{self.rate}_p{self.pitch}.wav"
        return cache / _file_name(self.text) / name


def synthesise(
    utterances: list[Utterance], synthesisers: dict[str, dict], cache: Path, rate: int, workers: int | None
) -> None:
    """Makes the clips.

    Args:
        synthesisers: by name what each is made with; espeak-ng needs nothing.
        rate: of the clips, in Hz.
        workers: processes; None uses every core.
    """
    size = 50 if all(u.synthesiser == "espeak" for u in utterances) else 8  # at a time: about a second's work, or ten
    count = cores() if workers is None else workers
    if len(utterances) < 8 * size:  # not worth another process
        count = 0
    tasks = (utterances[at : at + size] for at in range(0, len(utterances), size))
    with progress(total=len(utterances), desc="synthesising", unit="words") as bar:
        for done, results in ordered_map(_writer, (synthesisers, cache, rate), tasks, count):
            for utterance, problem in zip(done, results, strict=True):
                if problem is not None:
                    name = "espeak-ng" if utterance.synthesiser == "espeak" else utterance.synthesiser
                    raise KwsError(f"{name}: {problem}")
            bar.update(len(done))


def write(path: Path, samples: np.ndarray, rate: int) -> None:
    """Whole, as what exists is not made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, shared=True) as part:
        audio.write(part, samples, rate)


def _writer(synthesisers: dict[str, dict], cache: Path, rate: int):
    """A function that makes a list of utterances and says for each what was wrong, if anything."""
    opened = {}

    def make(u: Utterance) -> str | None:
        try:
            if u.synthesiser == "espeak":
                samples, hertz = engine().speak(u.text, u.voice, u.rate, u.pitch, u.range)
            else:
                if u.synthesiser not in opened:
                    opened[u.synthesiser] = SYNTHESISERS[u.synthesiser](**synthesisers[u.synthesiser])
                samples, hertz = opened[u.synthesiser].speak(u.text, u.voice, u.rate, u.pitch)
        except (KwsError, audio.AudioError) as error:
            return str(error)
        if len(samples) < 0.02 * hertz:
            return f"it says nothing for {u.text!r}: write the word as it is spoken"
        write(u.path(cache), audio.resample(samples, hertz, rate), rate)
        return None

    return lambda utterances: [make(u) for u in utterances]


def _file_name(text: str) -> str:
    safe = "".join(c if c.isalnum() else "_" for c in text)[:40]
    return safe if safe == text else f"{safe}-{hashlib.sha1(text.encode()).hexdigest()[:8]}"
