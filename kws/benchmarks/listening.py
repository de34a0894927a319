"""Says how many words a spotter hears in a stream of clips with background between them, and how often it is wrong.

    python -m kws.benchmarks.listening checkpoint=runs/sc15-ghost split=validation
    python -m kws.benchmarks.listening checkpoint=… data=folder data.root=my_words clips=50 wav=stream.wav

A word is heard if an alarm for it falls between its clip's start and `tolerance_ms` after its end; every other alarm is
false: another word, a second alarm, or one where nothing was said.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from kws import audio
from kws.augment import level
from kws.config import command
from kws.data.dataset import read_clip
from kws.data.source import SILENCE, UNKNOWN
from kws.decision import Detection
from kws.errors import KwsError
from kws.evaluate import chosen_clips
from kws.metrics import wilson_interval
from kws.spotter import Spotter, open_checkpoint


@command("listening")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(1)
    trained = open_checkpoint(cfg.checkpoint)
    rate = int(trained.options.sample_frequency)
    sound, said = stream_of_clips(cfg, trained, rate)
    if cfg.wav:
        audio.write(cfg.wav, sound, rate)
    spotter = Spotter(trained, **OmegaConf.to_container(cfg.decision))
    started, found = time.process_time(), []
    for at in range(0, len(sound), rate // 10):
        found += spotter.push(sound[at : at + rate // 10])
    busy = time.process_time() - started
    heard, false = match(said, found, cfg.tolerance_ms / 1000)
    words = sum(word is not None for word, _, _ in said)
    low, high = wilson_interval(len(heard), words)
    seconds = len(sound) / rate
    figures = {
        "clips": len(said), "words": words, "heard": len(heard), "share": len(heard) / words, "interval": [low, high],
        "false": len(false), "seconds": seconds, "cpu_ms_per_second": 1000 * busy / seconds,
        "delay_ms": 1000 * float(np.median([d.end - said[i][1] for i, d in heard.items()])) if heard else None,
    }  # fmt: skip
    print(
        f"heard {len(heard)} of {words} words, {100 * figures['share']:.1f} %"
        f" (95 %: {100 * low:.1f} to {100 * high:.1f}); {len(false)} false or wrong alarms in {seconds:.0f} s;"
        f" {figures['cpu_ms_per_second']:.1f} ms of CPU per second of sound in chunks of 100 ms"
    )
    for alarm in false:
        print(f"  false: {alarm.word} at {alarm.end:.2f} s, score {alarm.score:.2f}, while {_said_at(said, alarm.end)}")
    missed = [
        f"{word} at {begin:.1f} s" for i, (word, begin, _) in enumerate(said) if word is not None and i not in heard
    ]
    print(f"  missed: {', '.join(missed) or 'none'}")
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(figures, indent=2) + "\n")


def stream_of_clips(cfg: DictConfig, trained, rate: int) -> tuple[np.ndarray, list[tuple[str | None, float, float]]]:
    """The sound (n,) and what is said in it: (word, or None for other words; start; end) in seconds."""
    _, clips, noise, _ = chosen_clips(cfg, trained)
    clips = [c for c in clips if c.label != SILENCE and (cfg.others or c.label != UNKNOWN)]
    if not clips or cfg.clips < 1:
        raise KwsError("no clips of words to listen to: see clips=, split= and data=")
    if not noise:
        raise KwsError("this data has no recordings of background to put between the clips")
    rng = np.random.default_rng(cfg.seed)
    chosen = [clips[i] for i in rng.permutation(len(clips))[: cfg.clips]]
    beds = [read_clip(clip, rate) for clip in noise]
    gap, sound, said, at = round(cfg.gap_ms * rate / 1000), [], [], 0
    for clip in chosen:
        wave = read_clip(clip, rate)
        bed = beds[rng.integers(len(beds))]
        start = rng.integers(max(1, len(bed) - gap))
        bed = np.resize(bed[start : start + gap], gap)
        sound += [bed * (level(wave) / max(level(bed), 1e-6) * 10 ** (-cfg.snr / 20)), wave]
        at += gap
        said.append((clip.label if clip.label != UNKNOWN else None, at / rate, (at + len(wave)) / rate))
        at += len(wave)
    return np.concatenate([*sound, np.zeros(rate, np.float32)]).astype(np.float32), said


def match(said: list, found: list[Detection], tolerance: float) -> tuple[dict[int, Detection], list[Detection]]:
    """Alarms by the clip they answer, at most one each, and those that answer none."""
    heard, false = {}, []
    for alarm in found:
        for i, (word, begin, end) in enumerate(said):
            if word == alarm.word and begin <= alarm.end <= end + tolerance and i not in heard:
                heard[i] = alarm
                break
        else:
            false.append(alarm)
    return heard, false


def _said_at(said: list, seconds: float) -> str:
    for word, begin, end in said:
        if begin <= seconds <= end + 0.5:
            return f"{word or 'another word'} was said"
    return "nothing was said"


if __name__ == "__main__":
    main()
