"""Joins clips to long recordings with labels, which kws.evaluate labels= takes.

    python -m kws.join output=positives data=speech_commands data.root=… data.task=sc15 split=validation
    python -m kws.join output=negatives data=speech_commands data.root=… data.words=[bed,cat] said=others
    python -m kws.join output=sentences data=folder data.root=… said=others kind=synthetic

Each clip is used once, in an order drawn from the seed, with background before it. What was said lies from a clip's
start to its end; clips of other words are not labelled. labels.csv comes last: where it is, all is there.
"""

import numpy as np
from omegaconf import DictConfig

from kws import audio
from kws.alarms.labels import Label, Recording, write_labels
from kws.config import command
from kws.data.joining import joined
from kws.data.source import SILENCE, UNKNOWN
from kws.errors import KwsError, check_number
from kws.evaluate import chosen_clips
from kws.files import make_folder
from kws.progress import progress

SAID = {
    "words": lambda clip: clip.label != UNKNOWN,
    "others": lambda clip: clip.label == UNKNOWN,
    "all": lambda _: True,
}


@command("join")
def main(cfg: DictConfig) -> None:
    if cfg.said not in SAID:
        raise KwsError(f"said={cfg.said}: choose one of {', '.join(SAID)}")
    if cfg.get("data") is None:
        raise KwsError("data=SOURCE is missing: speech_commands, folder, …")
    check_number("minutes", cfg.minutes, lambda minutes: minutes > 0, "a number above 0")
    check_number("sample_rate", cfg.sample_rate, lambda rate: rate > 0, "a whole number above 0", int)
    if cfg.clips is not None:
        check_number("clips", cfg.clips, lambda clips: clips > 0, "a whole number above 0, or null", int)
    check_number("gap_ms", cfg.gap_ms, lambda gap: gap >= 0, "0 or more")
    check_number("snr", cfg.snr, lambda _: True, "dB")
    _, clips, noise, _ = chosen_clips(cfg)
    clips = [clip for clip in clips if clip.label != SILENCE and SAID[cfg.said](clip)]
    if not clips:
        raise KwsError(f"said={cfg.said}: the data has no such clips")
    out, rng, rate = make_folder("output", cfg.output), np.random.default_rng(cfg.seed), int(cfg.sample_rate)
    (out / "labels.csv").unlink(missing_ok=True)
    order = [clips[i] for i in rng.permutation(len(clips))[: cfg.clips]]
    recordings, sound, labels, n, total, count = [], [], [], 0, 0, 0

    def end_of_file() -> None:
        nonlocal sound, labels, n, total
        name = f"{out.name}-{len(recordings):03d}.wav"
        end = np.resize(sound[-2] if len(sound[-2]) else np.float32(0), rate)  # a second for the last alarm
        audio.write(out / name, np.concatenate([*sound, end]), rate)
        recordings.append(Recording(name, cfg.kind, labels))
        sound, labels, n, total = [], [], 0, total + n + rate

    bar = progress(joined(order, noise, rate, cfg.gap_ms, cfg.snr, rng), total=len(order), desc="joining", unit="clip")
    for clip, gap, wave in bar:
        count, begin = count + 1, n + len(gap)
        n = begin + len(wave)
        sound += [gap, wave]
        if clip.label != UNKNOWN:
            labels.append(Label(clip.label, begin / rate, n / rate))
        if n >= 60 * cfg.minutes * rate:
            end_of_file()
    if sound:
        end_of_file()
    write_labels(out / "labels.csv", recordings)
    print(f"{out / 'labels.csv'}: {count} clips in {total / rate / 3600:.2f} h, {len(recordings)} recordings")


if __name__ == "__main__":
    main()
