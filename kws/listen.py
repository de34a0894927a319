"""Listens for the words that a checkpoint knows.

    python -m kws.listen checkpoint=computer                                the microphone, a spotter of kws's own
    python -m kws.listen checkpoint=runs/ghost-synthetic                    one of your own
    python -m kws.listen checkpoint=… input=recording.wav                   a sound file, as fast as it goes
    arecord -f S16_LE -r 16000 -t raw | python -m kws.listen checkpoint=… input=-
    python -m kws.listen checkpoint=spotter.onnx                            what kws.export wrote, without torch
    python -m kws.listen checkpoint=… device=list                           which microphones there are
    python -m kws.listen checkpoint=… stop_word=stop on_detect="notify-send %w"
    python -m kws.listen checkpoint=a.onnx,b.onnx require=2                 both must hear it
    python -m kws.listen checkpoint=… 'decision.threshold={left: 0.8, _default_: 0.6}'
    python -m kws.listen checkpoint=… save=heard                            two seconds around each word …
    python -m kws.train data=folder data.root=heard init_from=… name=more   … to train on

Each word heard is a line: when its score began to rise, which may be as late as the word's end, and when it was heard
(seconds), the word, its score (the mean over the last steps), and why: the highest of those steps, how many reached the
threshold, the threshold. json=FILE adds the time of day (of a file: as if it had been played from the beginning).

save=DIR writes DIR/<word>/<time>.wav, and DIR/_near_misses_/<word>/<time>.wav where a score rose to its release level
(0.6 of the threshold) and no word was heard. Training on DIR takes the former and leaves the near misses out until
they have been listened to and moved: what was the word to DIR/<word>, anything else to DIR/_unknown_. It takes some
thirty clips to have some in each split; save=my_recordings/train adds them to a folder that has splits already.

A microphone that is unplugged is waited for. Ctrl-C ends. Exit codes: 0 the end, Ctrl-C or the stop word, 2 a mistake
or a missing device, which the message names.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from itertools import chain

import numpy as np
from omegaconf import DictConfig

from kws.config import command
from kws.decision import Detection
from kws.errors import KwsError
from kws.listening.clips import Clips
from kws.listening.meter import Meter
from kws.listening.microphone import sounddevice
from kws.listening.opened import open_spotter
from kws.listening.program import Program
from kws.listening.sound import opened
from kws.listening.together import Together
from kws.spotters import find_all


@command("listen")
def main(cfg: DictConfig) -> None:
    if cfg.device == "list":
        print(sounddevice().query_devices())
        return
    try:
        spotters = [open_spotter(cfg, path) for path in find_all(cfg.checkpoint)]
        target = spotters[0].rate

        def begin(rate: int) -> Together:
            return Together([each.begin(rate) for each in spotters], rate, cfg.require, cfg.agree_ms)

        words = begin(target).words
        if cfg.stop_word is not None and cfg.stop_word not in words:
            raise KwsError(f"stop_word={cfg.stop_word}: no word here, these are: {', '.join(words)}")
        clips = Clips(cfg.save, words) if cfg.save is not None else None
        program = Program(cfg.on_detect, words) if cfg.on_detect is not None else None
        with opened(cfg, target) as (sessions, lag):
            _listen(cfg, begin, sessions, lag, clips, program)
    except ValueError as error:
        raise KwsError(str(error)) from None


def _listen(
    cfg: DictConfig, begin: Callable, sessions: Iterator, lag: Callable, clips: Clips | None, program: Program | None
) -> None:
    meter = Meter(cfg.meter if cfg.meter is not None else sys.stderr.isatty())
    seconds = busy = heard = nearly = 0
    started = time.perf_counter()

    def listen(spotter: Together, rate: int, blocks: Iterator[np.ndarray]) -> bool:
        """One unbroken stream; whether the stop word was heard."""
        nonlocal seconds, busy, heard, nearly
        before = seconds  # of other streams
        clock = time.time() - before  # when the stream began, if no sound of it was late
        for block in chain(blocks, [None]):
            end = block is None
            block = np.zeros(0, np.float32) if end else block
            seconds += len(block) / rate
            if clips:
                clips.push(block)
            now = time.time() - lag()[0] - seconds
            clock = now if cfg.input is None else max(clock, now)  # files and pipes may be faster than time
            begun = time.perf_counter()
            found, missed = spotter.push(block, flush=end)
            busy += time.perf_counter() - begun
            heard, nearly = heard + len(found), nearly + len(missed)
            if found or end:
                meter.clear()
            for detection in found:
                moment = before + detection.end
                _tell(replace(detection, start=before + detection.start, end=moment), clock + moment, log)
                if clips:
                    clips.keep(detection.word, detection.end, clock + moment)
                if program:
                    program.run(detection.word, detection.score, clock + moment)
                if detection.word == cfg.stop_word:
                    return True
            for miss in missed if clips else []:
                clips.keep(miss.word, miss.end, clock + before + miss.end, near=True)
            if program:
                program.reap()
            meter.draw(block, seconds, spotter.scores(), lag())
        return False

    with open(cfg.json, "a", encoding="utf-8") if cfg.json else nullcontext() as log:
        try:
            for rate, blocks in sessions:
                spotter = begin(rate)
                print(f"listening at {rate} Hz for: {' '.join(spotter.words)}", file=sys.stderr, flush=True)
                if clips:
                    clips.begin(rate)
                try:
                    stopped = listen(spotter, rate, blocks)
                finally:
                    if clips:
                        clips.flush()
                if stopped:
                    break
        except KeyboardInterrupt:
            pass  # the ordinary way to end
        meter.clear()
    waiting, dropped = lag()
    saved = f"; {clips.saved} clips saved in {cfg.save}" if clips else ""
    print(
        f"{heard} words and {nearly} near misses in {seconds:.1f} s of sound; "
        f"{1000 * busy / seconds if seconds else 0:.1f} ms of work per second, {waiting:.1f} s behind, "
        f"{dropped:.1f} s dropped, {time.perf_counter() - started:.1f} s in all{saved}",
        file=sys.stderr,
    )


def _tell(detection: Detection, clock: float, log) -> None:
    d = detection
    why = f"peak {d.peak:.2f}, {d.steps_above} steps above {d.threshold:.2f}"
    print(f"{d.start:9.2f} {d.end:9.2f}  {d.word:<14} {d.score:.2f}  {why}", flush=True)
    if log is not None:
        moment = datetime.fromtimestamp(clock).isoformat(timespec="milliseconds")
        log.write(json.dumps({**vars(d), "time": moment}) + "\n")
        log.flush()


if __name__ == "__main__":
    main()
