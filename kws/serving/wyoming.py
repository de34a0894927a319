"""The Wyoming protocol, with which Home Assistant asks for wake words: any number of spotters, a word a model.

An event is a line of JSON, then as many bytes of JSON and of sound as the line says
(https://github.com/OHF-Voice/wyoming). The reader of the package `wyoming` takes any size and waits for ever, so events
are read here; its classes say what they mean.
"""

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kws.errors import KwsError
from kws.runtime import Spotter, Stream
from kws.serving.door import STALL_S, Client

try:
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event, async_write_event
    from wyoming.info import Attribution, Describe, Info, WakeModel, WakeProgram
    from wyoming.wake import Detect, Detection, NotDetected
except ImportError as error:
    raise KwsError(f"protocol=wyoming: {error.name} is missing: pip install 'wyoming>=1.7'") from None

DATA, PAYLOAD = 64 << 10, 1 << 20  # bytes of an event: half a minute of sound at 16 kHz
NAMES = 1000  # that a client may ask for
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192_000)  # of small ratios
WIDTHS = {2: "<i2", 4: "<i4"}  # bytes a sample
CHANNELS = 8


class Refused(Exception):
    """What a client sent that is not taken: it is told, and the connection ends."""


class Wyoming:
    """The service that all clients share.

    Args:
        spotters: by the name of their file.
        decision: arguments of `kws.decision.Decision` that replace the files'.
        threads: that work on sound, for all clients together.
        idle_s: how long a client may say nothing.
        version: of kws, for those who ask.
        log: what is done with a line about a client: a word heard, a refusal.

    Attributes:
        models: a wake word's name to its spotter and its word. The name is the word, with its file's before it where
            several files know it.
    """

    def __init__(
        self, spotters: dict[str, Spotter], decision: dict, threads: int = 2, idle_s: float = 3600.0,
        version: str = "", log: Callable[[str], None] = lambda line: None,
    ):  # fmt: skip
        self.decision, self.idle_s, self.log = decision, idle_s, log
        self.pool = ThreadPoolExecutor(threads, "kws")
        words = [(Path(file).stem, spotter, w) for file, spotter in spotters.items() for w in spotter.labels]
        words = [each for each in words if not each[2].startswith("_")]
        known = [word for _, _, word in words]
        self.models = {
            (word if known.count(word) == 1 else f"{stem}/{word}"): (spotter, word) for stem, spotter, word in words
        }
        self._names = {_plain(name): name for name in self.models}
        nobody = Attribution(name="", url="")
        models = [
            WakeModel(
                name=name, description=name, phrase=word, languages=[], attribution=nobody, installed=True,
                version=str(spotter.about.get("kws", "")),
            )
            for name, (spotter, word) in self.models.items()
        ]  # fmt: skip
        program = WakeProgram(
            name="kws", description="Wake words of your own", attribution=Attribution(name="kws", url=""),
            installed=True, version=version, models=models,
        )  # fmt: skip
        self.info = Info(wake=[program]).event()

    def find(self, name: str) -> str | None:
        """The model that a client means: capitals and underscores make no difference."""
        return self._names.get(_plain(name))

    async def talk(self, client: Client) -> None:
        """One client's conversation, to its end."""
        conversation = _Conversation(self, client)
        try:
            while event := await _read(client, self.idle_s):
                await conversation.answer(event)
        except Refused as reason:
            self.log(f"{client.name} refused: {reason}")
            await conversation.say(Error(text=str(reason), code="refused"))


class _Conversation:
    """What one client has asked for and where its streams stand."""

    def __init__(self, service: Wyoming, client: Client):
        self.service, self.client, self.context = service, client, None
        self.wanted = {model: model for model in service.models}  # to the name that the client has for it
        self._begin()

    def _begin(self) -> None:
        self.streams: dict[Spotter, tuple[Stream, float]] = {}  # and the moment in the sound at which each began
        self.format = self.clock = None
        self.seconds, self.detected = 0.0, False

    async def say(self, message) -> None:
        async with asyncio.timeout(STALL_S):
            await async_write_event(message if isinstance(message, Event) else message.event(), self.client.writer)

    async def answer(self, event: Event) -> None:
        if AudioChunk.is_type(event.type):
            samples, rate = self._samples(event)
            for at in range(0, len(samples), rate):  # a second at a time: others wait no longer
                await self._hear(samples[at : at + rate])
        elif Describe.is_type(event.type):
            await self.say(self.service.info)
        elif Detect.is_type(event.type):
            await self._choose(event)
        elif AudioStart.is_type(event.type):
            self._begin()
        elif AudioStop.is_type(event.type):
            await self._hear(np.zeros(0, np.float32), flush=True)
            if not self.detected:
                await self.say(NotDetected(context=self.context))
            self._begin()
        # what else there is in the protocol is not for a wake-word service

    async def _choose(self, event: Event) -> None:
        names, context = event.data.get("names") or list(self.service.models), event.data.get("context")
        if not isinstance(names, list) or len(names) > NAMES or not all(isinstance(name, str) for name in names):
            raise Refused(f"detect: names is not a list of at most {NAMES} names")
        self.wanted = {model: name for name in names if (model := self.service.find(name))}
        self.context = context if isinstance(context, dict) else None
        if missing := [name for name in names if not self.service.find(name)]:
            there = ", ".join(self.service.models)
            await self.say(Error(text=f"no wake word {missing[0][:100]!r}; there are: {there}", code="unknown-name"))

    def _samples(self, event: Event) -> tuple[np.ndarray, int]:
        """A chunk's sound (n,), of one channel, in int16 units, and its rate."""
        form = tuple(event.data.get(key) for key in ("rate", "width", "channels"))
        rate, width, channels = form
        own = {spotter.rate for spotter, _ in self.service.models.values()}
        for name, value, good in (
            ("rate", rate, own.union(RATES)), ("width", width, WIDTHS), ("channels", channels, range(1, CHANNELS + 1)),
        ):  # fmt: skip
            if type(value) is not int or value not in good:
                raise Refused(f"audio-chunk: {name} {value!r:.40} is not one of {', '.join(map(str, sorted(good)))}")
        if self.format not in (None, form):
            raise Refused(f"audio-chunk: rate, width, channels are {form}; this sound began with {self.format}")
        payload = event.payload or b""
        if len(payload) % (width * channels):
            raise Refused(f"audio-chunk: {len(payload)} bytes are no whole number of samples of {width * channels}")
        if self.format is None:
            self.format, stamp = form, event.data.get("timestamp")
            self.clock = int(stamp) if isinstance(stamp, int | float) and abs(stamp) < 1 << 53 else 0
        samples = np.frombuffer(payload, WIDTHS[width]).astype(np.float32).reshape(-1, channels).mean(axis=1)
        return (samples / 65536 if width == 4 else samples), rate

    async def _hear(self, samples: np.ndarray, flush: bool = False) -> None:
        loop = asyncio.get_running_loop()
        for name, end, score in await loop.run_in_executor(self.service.pool, self._push, samples, flush):
            self.detected = True
            self.service.log(f"{self.client.name} {end:9.2f}  {name:<14} {score:.2f}")
            await self.say(Detection(name=name, timestamp=self.clock + round(1000 * end), context=self.context))

    def _push(self, samples: np.ndarray, flush: bool) -> list[tuple[str, float, float]]:
        """The next sound through the streams of all words that are wanted: names, seconds of this sound, scores."""
        found, rate = [], self.format[0] if self.format else None
        wanted = {self.service.models[model][0]: None for model in self.wanted}
        self.streams = {spotter: stream for spotter, stream in self.streams.items() if spotter in wanted}
        for spotter in wanted:
            if spotter not in self.streams:
                if flush:
                    continue
                self.streams[spotter] = spotter.stream(rate, **self.service.decision), self.seconds
            stream, begun = self.streams[spotter]
            for d in stream.push(samples, flush):
                for model, name in self.wanted.items():
                    if self.service.models[model] == (spotter, d.word):
                        found.append((name, begun + d.end, d.score))
        self.seconds += len(samples) / rate if rate else 0
        return sorted(found, key=lambda each: each[1])


async def _read(client: Client, idle_s: float) -> Event | None:
    """A client's next event; None where it has gone or said nothing for too long.

    Raises:
        Refused: it is no event, or larger than events are.
    """
    try:
        async with asyncio.timeout(idle_s):
            first = await client.reader.read(1)
    except TimeoutError:
        return None
    if not first:
        return None
    async with asyncio.timeout(STALL_S):
        try:
            head = json.loads(first + await client.reader.readuntil(b"\n"))
            kind, data = head["type"], head.get("data") or {}
            if not isinstance(kind, str) or not isinstance(data, dict):
                raise TypeError
        except asyncio.LimitOverrunError:
            raise Refused("the line that begins an event is too long") from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Refused("a line is no event of the Wyoming protocol") from None
        more = await client.reader.readexactly(_size(head, "data_length", DATA))
        payload = await client.reader.readexactly(_size(head, "payload_length", PAYLOAD))
    if more:
        try:
            data = {**data, **json.loads(more)}
        except (ValueError, TypeError, RecursionError):
            raise Refused(f"{kind[:40]}: its data is no JSON object") from None
    client.active = time.monotonic()
    return Event(kind, data, payload)


def _size(head: dict, key: str, most: int) -> int:
    size = head.get(key)
    if size is None:
        return 0
    if type(size) is not int or not 0 <= size <= most:
        raise Refused(f"{key} is {size!r:.40}; at most {most} bytes are taken")
    return size


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").strip()
