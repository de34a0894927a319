"""Says how many words a spotter hears in a stream of clips with background between them, and how often it is wrong.

    python -m kws.benchmarks.listening checkpoint=runs/sc15-ghost_100k split=validation
    python -m kws.benchmarks.listening checkpoint=… data=folder data.root=my_words clips=50 wav=stream.wav

Alarms answer clips by the rule of kws.alarms.labels; every other alarm is false: another word, a second alarm, or one
where nothing was said.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from kws import audio
from kws.alarms.labels import Label, match
from kws.config import command
from kws.data.joining import joined
from kws.data.source import SILENCE, UNKNOWN
from kws.errors import KwsError
from kws.evaluate import chosen_clips
from kws.listening.opened import decision_for
from kws.metrics import wilson_interval
from kws.spotter import Spotter
from kws.training.trained import open_checkpoint


@command("listening")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(1)
    trained = open_checkpoint(cfg.checkpoint)
    rate = int(trained.options.sample_frequency)
    sound, said = stream_of_clips(cfg, trained, rate)
    if cfg.wav:
        audio.write(cfg.wav, sound, rate)
    spotter = Spotter(trained, **decision_for(cfg, cfg.checkpoint))
    started, found = time.process_time(), []
    for at in range(0, len(sound), rate // 10):
        found += spotter.push(sound[at : at + rate // 10])
    busy = time.process_time() - started
    answers = match(said, [d.word for d in found], [d.end for d in found], cfg.tolerance_ms / 1000)
    heard = {i: alarm for i, alarm in zip(answers.tolist(), found, strict=True) if i >= 0}
    false = [alarm for i, alarm in zip(answers, found, strict=True) if i < 0]
    words = sum(label.word != UNKNOWN for label in said)
    low, high = wilson_interval(len(heard), words)
    seconds = len(sound) / rate
    figures = {
        "clips": len(said), "words": words, "heard": len(heard), "share": len(heard) / words, "interval": [low, high],
        "false": len(false), "seconds": seconds, "cpu_ms_per_second": 1000 * busy / seconds,
        "delay_ms": 1000 * float(np.median([d.end - said[i].start for i, d in heard.items()])) if heard else None,
    }  # fmt: skip
    print(
        f"heard {len(heard)} of {words} words, {100 * figures['share']:.1f} %"
        f" (95 %: {100 * low:.1f} to {100 * high:.1f}); {len(false)} false or wrong alarms in {seconds:.0f} s;"
        f" {figures['cpu_ms_per_second']:.1f} ms of CPU per second of sound in chunks of 100 ms"
    )
    for alarm in false:
        print(f"  false: {alarm.word} at {alarm.end:.2f} s, score {alarm.score:.2f}, while {_said_at(said, alarm.end)}")
    missed = [
        f"{word} at {begin:.1f} s" for i, (word, begin, _) in enumerate(said) if word != UNKNOWN and i not in heard
    ]
    print(f"  missed: {', '.join(missed) or 'none'}")
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(figures, indent=2) + "\n")


def stream_of_clips(cfg: DictConfig, trained, rate: int) -> tuple[np.ndarray, list[Label]]:
    """The sound (n,) and what is said in it, other words as `_unknown_`."""
    _, clips, noise, _ = chosen_clips(cfg, trained)
    clips = [c for c in clips if c.label != SILENCE and (cfg.others or c.label != UNKNOWN)]
    if not clips or cfg.clips < 1:
        raise KwsError("no clips of words to listen to: see clips=, split= and data=")
    if not noise:
        raise KwsError("this data has no recordings of background to put between the clips")
    rng = np.random.default_rng(cfg.seed)
    chosen = [clips[i] for i in rng.permutation(len(clips))[: cfg.clips]]
    sound, said, at = [], [], 0
    for clip, gap, wave in joined(chosen, noise, rate, cfg.gap_ms, cfg.snr, rng):
        sound += [gap, wave]
        begin, at = at + len(gap), at + len(gap) + len(wave)
        said.append(Label(clip.label, begin / rate, at / rate))
    return np.concatenate([*sound, np.zeros(rate, np.float32)]), said


def _said_at(said: list[Label], seconds: float) -> str:
    for word, begin, end in said:
        if begin <= seconds <= end + 0.5:
            return f"{word if word != UNKNOWN else 'another word'} was said"
    return "nothing was said"


if __name__ == "__main__":
    main()
