"""Records takes of a word, and of the room, to train on.

    python -m kws.record word=computer                        ten takes from the microphone
    python -m kws.record word=computer takes=30 speaker=anna output=my_recordings
    python -m kws.record word=_background_noise_ seconds=30   the room, without a word
    python -m kws.record word=_unknown_                       words that are not to be taken for it
    python -m kws.record word=computer input=recording.wav    the words of a recording that exists
    arecord -f S16_LE -r 16000 -t raw | python -m kws.record word=computer input=-
    python -m kws.record word=computer device=list            which microphones there are

Say the word when you are asked, with a pause after it. A take is found by its energy and cut to the word with a margin;
one that is clipped, too quiet, too noisy, too long or too short is not kept, and said again. Takes land in
<output>/<word>/<speaker>_nohash_<n>.wav: data=synthetic takes them in with `data.recordings=<output>`, and those of
several speakers, whom it splits, `data=folder data.root=<output>` reads. The same command goes on where it was stopped;
Ctrl-C ends.

Exit codes: 0 the takes are there or Ctrl-C, 2 a mistake, a missing device, or a sound without the word.
"""

import glob
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from kws import audio
from kws.config import command
from kws.data.source import NOISE, UNKNOWN
from kws.data.speaking import write
from kws.errors import KwsError, check_number
from kws.files import make_folder
from kws.listening.meter import Meter
from kws.listening.microphone import sounddevice
from kws.listening.sound import opened
from kws.listening.takes import CLIPPED, Finder, Limits, floor_of

RATE = 16000
REMIND_S = 8.0  # without a word


@command("record")
def main(cfg: DictConfig) -> None:
    if cfg.device == "list":
        print(sounddevice().query_devices())
        return
    _check(cfg)
    folder = make_folder("output", Path(cfg.output) / cfg.word)
    recorder = _Noise(cfg, folder) if cfg.word == NOISE else _Takes(cfg, folder)
    if not recorder.wanted:
        print(f"{folder}: {cfg.takes} takes by {cfg.speaker} are there; more with takes={cfg.takes + 10}")
        return
    meter = Meter(cfg.meter if cfg.meter is not None else sys.stderr.isatty())
    with opened(cfg, RATE) as (sessions, lag):
        try:
            _record(recorder, sessions, meter, lag)
        except KeyboardInterrupt:
            pass  # the ordinary way to stop early
        finally:
            meter.clear()
    print(f"{recorder.kept} kept, {recorder.refused} refused, {len(_numbers(folder, cfg.speaker))} in {folder}")
    if cfg.input is not None and not recorder.kept and not recorder.refused:
        raise KwsError(f"input={cfg.input}: {recorder.nothing()}")


def _check(cfg: DictConfig) -> None:
    for key in ("word", "speaker"):
        name = str(cfg[key])
        if not name or name.startswith(".") or re.search(r"[/\\\0]", name) or "_nohash_" in name:
            raise KwsError(f"{key}={name}: cannot be the name of a {'folder' if key == 'word' else 'file'}")
    if cfg.word.startswith("_") and cfg.word not in (NOISE, UNKNOWN):
        raise KwsError(f"word={cfg.word}: expected a word, {UNKNOWN} or {NOISE}")
    check_number("takes", cfg.takes, lambda takes: takes >= 1, "a number of takes, 1 or more", int)
    for key in ("seconds", "margin_ms", "shortest_ms", "longest_ms", "chunk_ms"):
        check_number(key, cfg[key], lambda length: 0 < length < 1e6, "a number above 0")
    for key in ("level", "snr"):
        check_number(key, cfg[key], lambda _: True, "a number of dB")


def _record(recorder, sessions: Iterator, meter: Meter, lag) -> None:
    seconds = 0.0
    for rate, blocks in sessions:
        recorder.begin(rate)
        for block in blocks:
            seconds += len(block) / rate
            meter.draw(block, seconds, {}, lag())
            for line in recorder.push(block):
                meter.clear()
                print(line, file=sys.stderr, flush=True)
            if not recorder.wanted:
                return
        for line in recorder.end():
            print(line, file=sys.stderr, flush=True)
        if not recorder.wanted:
            return


class _Takes:
    """Takes of a word until there are enough. `push` and `end` say what there is to say, line by line."""

    def __init__(self, cfg: DictConfig, folder: Path):
        self.cfg, self.folder, self.kept, self.refused = cfg, folder, 0, 0
        self.wanted = max(cfg.takes - len(_numbers(folder, cfg.speaker)), 0)
        self._limits = Limits(cfg.shortest_ms / 1000, cfg.longest_ms / 1000, cfg.level, cfg.snr)
        file = cfg.input is not None and str(cfg.input) != "-"
        self._floor = floor_of(*audio.read(str(cfg.input), channel=cfg.channel)) if file else None
        self._asks = cfg.input is None
        self._loudest = 0.0

    def begin(self, rate: int) -> None:
        self.rate, self._waited, self._asked = rate, 0.0, False
        self._finder = Finder(rate, self.cfg.margin_ms / 1000, self.cfg.longest_ms / 1000, self._floor)

    def push(self, block: np.ndarray) -> Iterator[str]:
        self._loudest = max(self._loudest, float(np.abs(block).max(initial=0)))
        for take in self._finder.push(block):
            yield from self._judge(take)
            if not self.wanted:
                return
        self._waited += len(block) / self.rate
        if self._asks and not self._asked and self._finder.floor is not None:
            yield self._ask()
        if self._asks and self._waited > REMIND_S:
            yield self.nothing()
            self._waited = 0.0

    def end(self) -> Iterator[str]:
        if self.wanted and (take := self._finder.flush()):
            yield from self._judge(take)

    def nothing(self) -> str:
        """Why there is no take."""
        if not self._loudest:
            return "only zeros, and no sound: is the microphone muted?"
        floor = self._finder.floor
        room = (
            ""
            if floor is None
            else f": the room is at {floor:.0f} dB, and a word should be {self.cfg.snr:g} dB above it"
        )
        return f"no word was heard{room}"

    def _ask(self) -> str:
        self._asked = True
        return f"take {self.cfg.takes - self.wanted + 1} of {self.cfg.takes}: say {self.cfg.word!r}"

    def _judge(self, take) -> Iterator[str]:
        self._waited = 0.0
        if complaint := self._limits.complaint(take) or self._known(take):
            self.refused += 1
            yield f"  not kept: {complaint}"
        else:
            path = _next_path(self.folder, self.cfg.speaker)
            write(path, take.samples, self.rate)
            self.kept, self.wanted = self.kept + 1, self.wanted - 1
            yield f"  {path}  {take.seconds:.2f} s, {take.level:.0f} dB, {take.snr:.0f} dB above the room"
        if self._asks and self.wanted:
            yield self._ask()

    def _known(self, take) -> str | None:
        """Whether a file is read again, of which this was kept."""
        for path in () if self._asks else sorted(self.folder.glob(f"{glob.escape(self.cfg.speaker)}_nohash_*.wav")):
            kept, _ = audio.read(path, channel=0)
            if len(kept) == len(take.samples) and np.abs(kept - take.samples).max(initial=0) <= 1:
                return f"it is {path.name} already"
        return None


class _Noise:
    """One recording of the room."""

    def __init__(self, cfg: DictConfig, folder: Path):
        self.cfg, self.folder, self.kept, self.refused, self.wanted = cfg, folder, 0, 0, 1
        self._blocks: list[np.ndarray] = []

    def begin(self, rate: int) -> None:
        self.rate, self._blocks = rate, []
        print(f"the room, {self.cfg.seconds:g} s: everything as usual, but say nothing", file=sys.stderr, flush=True)

    def push(self, block: np.ndarray) -> Iterator[str]:
        self._blocks.append(block)
        if sum(map(len, self._blocks)) >= self.cfg.seconds * self.rate:
            yield from self.end()

    def end(self) -> Iterator[str]:
        sound = np.concatenate([np.zeros(0, np.float32), *self._blocks])[: round(self.cfg.seconds * self.rate)]
        self._blocks = []
        if not np.any(sound):
            self.refused += 1
            raise KwsError("only zeros, and no sound: is the microphone muted?")
        if clipped := int((np.abs(sound) >= CLIPPED).sum()):
            yield f"  {clipped} samples are clipped: turn the microphone down, and record it again"
        path = _next_path(self.folder, self.cfg.speaker)
        write(path, sound, self.rate)
        self.kept, self.wanted = 1, 0
        yield f"  {path}  {len(sound) / self.rate:.1f} s, {floor_of(sound, self.rate):.0f} dB at its quietest"

    def nothing(self) -> str:
        return "holds no sound"


def _numbers(folder: Path, speaker: str) -> list[int]:
    """Of a speaker's takes."""
    found = (re.fullmatch(re.escape(speaker) + r"_nohash_(\d+)\.wav", path.name) for path in folder.iterdir())
    return [int(match[1]) for match in found if match]


def _next_path(folder: Path, speaker: str) -> Path:
    return folder / f"{speaker}_nohash_{max(_numbers(folder, speaker), default=-1) + 1}.wav"


if __name__ == "__main__":
    main()
