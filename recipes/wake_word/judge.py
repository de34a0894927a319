"""Says how a spotter of one word does on what it was not trained on, or mines what it was fooled by in what it was.

    python recipes/wake_word/judge.py SPOTTER.onnx RUN                       threshold by threshold, validation and test
    python recipes/wake_word/judge.py SPOTTER.onnx RUN --mine mined.jsonl    false triggers of the training split

RUN is the folder of the run that SPOTTER was exported from: its config.yaml says which data. The word: each recording
after a second of silence, alone and with the background of its split, or six made voices at once, added at 10 and 0 dB
below the word's level (five draws a recording); heard if there is an alarm from the word's begin to a second after its
end. False alarms: the recordings of other speech of the split, one after another in one stream for each folder.
"""

import argparse
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kws import audio
from kws.augment import level, mix
from kws.data.clips import read_clip, word_span
from kws.data.manifest import write_manifest
from kws.data.source import UNKNOWN, Clip
from kws.decision import Decision
from kws.metrics import wilson_interval
from kws.runtime import Spotter

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995)
MINED = 0.3  # smoothed score from which something is a false trigger to learn from
PASSES = 2  # through the training speech, each in another order
DRAWS = 5


class Judge:
    def __init__(self, spotter: Spotter):
        self.spotter, self.rate, self.stream = spotter, spotter.rate, spotter.stream()

    def scores(self, sound: np.ndarray) -> np.ndarray:
        return self.stream.scores(sound, flush=True)

    def alarms(self, scores: np.ndarray, threshold: float) -> list:
        s = self.spotter
        settings = {**s.decision, "threshold": threshold}
        return Decision(s.labels, s.step_ms, s.about["offset_ms"], **settings).push(scores)

    def words(self, clips: list[Clip], noise: list[np.ndarray], snr: float | None) -> list[tuple]:
        """(scores, begin, end) of every recording of the word in a stream of its own, times in seconds."""
        rng, out = np.random.default_rng(0), []
        for clip in clips:
            wave = read_clip(clip, self.rate)
            begin, end = word_span(wave, self.rate)
            sound = np.concatenate([np.zeros(self.rate), wave, np.zeros(self.rate)]).astype(np.float32)
            for _ in range(1 if snr is None else DRAWS):
                mixed = sound
                if snr is not None:
                    bed = noise[rng.integers(len(noise))]
                    at = rng.integers(max(1, len(bed) - len(sound)))
                    mixed = mix(sound, np.resize(bed[at:], len(sound)), snr, level(wave[begin:end]))
                out.append((self.scores(mixed.clip(-32768, 32767)), 1 + begin / self.rate, 1 + end / self.rate))
        return out

    def missed(self, words: list[tuple], threshold: float) -> int:
        return sum(
            not any(begin <= alarm.end <= end + 1 for alarm in self.alarms(scores, threshold))
            for scores, begin, end in words
        )


def streams(judge: Judge, source, split: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Other speech of a split, its recordings one after another in one sound for each folder, and for what is made."""
    clips = [clip for clip in source.clips(split) if clip.label == UNKNOWN]
    groups = {f: [clip for clip in clips if Path(f) in Path(clip.path).parents] for f in source.others}
    if source.synthetic is not None:
        groups["synthetic"] = [clip for clip in source.synthetic.clips(split) if clip.label == UNKNOWN]
    out, rng = {}, np.random.default_rng(seed)
    for name, group in groups.items():
        group = list(dict.fromkeys(group))  # for training a long recording is listed often
        if group:
            out[name] = np.concatenate([read_clip(group[i], judge.rate) for i in rng.permutation(len(group))])
    return out


def report(judge: Judge, source, split: str) -> None:
    words = [clip for clip in source.clips(split) if clip.label == source.word]
    noise = [read_clip(clip, judge.rate) for clip in source.noise(split)]
    beds = {"": noise}
    if source.synthetic is not None:
        beds["babble "] = [read_clip(c, judge.rate) for c in source.synthetic.noise(split) if "babble" in c.path]
    ways = {"clean": (noise, None)} | {f"{kind}{snr} dB": (bed, snr) for kind, bed in beds.items() for snr in (10, 0)}
    heard = {name: judge.words(words, *how) for name, how in ways.items()} if words else {}
    speech = {
        name: (judge.scores(sound), len(sound) / judge.rate / 3600)
        for name, sound in streams(judge, source, split).items()
    }
    print(f"{split}: {len(words)} recordings of the word, {DRAWS} draws of background each; false alarms in "
          + ", ".join(f"{name} {hours:.2f} h" for name, (_, hours) in speech.items()))  # fmt: skip
    print("threshold " + "".join(f"{name:>24}" for name in heard) + "".join(f"{Path(f).name:>18}" for f in speech))
    for threshold in THRESHOLDS:
        row = f"{threshold:<10}"
        for tried in heard.values():
            n = judge.missed(tried, threshold)
            low, high = wilson_interval(n, len(tried))
            row += f"{f'{n}/{len(tried)} {100 * n / len(tried):.1f}% ({100 * low:.1f}-{100 * high:.1f})':>24}"
        print(row + "".join(f"{len(judge.alarms(scores, threshold)):>18}" for scores, _ in speech.values()))


def mine(judge: Judge, source, path: Path) -> None:
    """Writes the two seconds before each false trigger, and a manifest of them, beside which they lie."""
    folder, found, seconds = path.with_suffix(""), [], 0.0
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(PASSES):
        for sound in streams(judge, source, "train", seed).values():
            seconds += len(sound) / judge.rate
            for alarm in judge.alarms(judge.scores(sound), MINED):
                end = round((alarm.end + 0.2) * judge.rate)
                found.append(Clip(str(folder / f"{len(found)}.wav"), UNKNOWN))
                audio.write(found[-1].path, sound[max(0, end - 2 * judge.rate) : end], judge.rate)
    write_manifest(path, found)
    print(f"{path}: {len(found)} false triggers above {MINED} in {seconds / 3600:.2f} h of training speech")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spotter")
    parser.add_argument("run", type=Path)
    parser.add_argument("--mine", type=Path)
    given = parser.parse_args()
    judge = Judge(Spotter(given.spotter))
    source = instantiate(OmegaConf.load(given.run / "config.yaml").data, _convert_="all")
    source.prepare()
    if given.mine:
        mine(judge, source, given.mine)
    else:
        if source.synthetic is not None:
            source.synthetic.prepare(("validation", "test"))  # which the source itself does not need
        for split in ("validation", "test"):
            report(judge, source, split)
