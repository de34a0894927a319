"""kws.serve: wake words over real sockets, the page's files, and clients that mean no good."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import RATE, speechlike
from processes import ROOT, run
from test_export import trained_of
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.wake import Detect, Detection, NotDetected

from kws.decision import Decision
from kws.errors import KwsError
from kws.exporting.spotter import export
from kws.files import write
from kws.resampling import Resampler
from kws.runtime import Spotter
from kws.runtime.file import read, write_about
from kws.serve import contents, parse
from kws.serving import door, site, web, wyoming
from kws.serving.door import Door
from kws.serving.web import Site
from kws.serving.wyoming import Wyoming

DECISION = {"threshold": 0.45, "smoothing_ms": 60, "refractory_ms": 100, "warm_up_ms": 100}
PAGE = ROOT / "kws" / "serving" / "page"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Two spotters: a.onnx knows yes and no, b.onnx (the same model) no and go."""
    folder = tmp_path_factory.mktemp("serve")
    export(trained_of("ghost_10k"), folder / "a.onnx", 100, decision=DECISION)
    content, about = read(folder / "a.onnx")
    labels = ["no", "go", "_unknown_", "_silence_"]
    (folder / "b.onnx").write_bytes(write_about(content, {**about, "labels": labels}))
    return folder / "a.onnx", folder / "b.onnx"


@pytest.fixture(scope="module")
def spotters(paths):
    return {path.name: Spotter(path) for path in paths}


@pytest.fixture(scope="module")
def sound():
    return speechlike(5 * RATE, 4).clip(-32768, 32767)


def alone(spotter, sound, rate=None, **decision) -> list[tuple[str, int]]:
    """What the runtime hears: words and milliseconds."""
    found = spotter.stream(rate, **decision).push(sound, flush=True)
    assert found, "nothing is heard: the test would not see a mistake"
    return [(d.word, round(1000 * d.end)) for d in found]


@contextlib.asynccontextmanager
async def serving(spotters, most=128, decision=None, **options):
    """A service at a port of its own."""
    async with Door(Wyoming(spotters, decision or {}, **options).talk, "127.0.0.1", 0, most) as opened:
        yield opened.port


async def say(client, sound, rate=RATE, size=1024, width=2, channels=1, stamp=0, stop=True):
    """A sound (n,) as a client sends it."""
    await client.write_event(AudioStart(rate, width, channels).event())
    data = np.repeat(sound[:, None], channels, 1)
    data = (data.astype("<i4") << 16 if width == 4 else data.astype("<i2")).reshape(-1, channels)
    for at in range(0, len(data), size):
        chunk = AudioChunk(rate, width, channels, data[at : at + size].tobytes(), stamp + 1000 * at // rate)
        await client.write_event(chunk.event())
    if stop:
        await client.write_event(AudioStop().event())


async def answers(client, until=None) -> list[Event]:
    """What comes until the connection ends, or `until` says that an event is the last."""
    found = []
    while event := await asyncio.wait_for(client.read_event(), 20):
        found.append(event)
        if until and until(event):
            break
    return found


async def heard(client, sound, **options) -> list[tuple[str, int]]:
    """A whole sound to what is detected in it: a Describe after it is answered when all is said."""
    await asyncio.gather(say(client, sound, **options), client.write_event(Describe().event()))
    found = await answers(client, lambda event: Info.is_type(event.type))  # the first Describe may come early
    await client.write_event(Describe().event())
    found += await answers(client, lambda event: Info.is_type(event.type))
    assert sum(NotDetected.is_type(e.type) for e in found) == (not any(Detection.is_type(e.type) for e in found))
    found = [Detection.from_event(event) for event in found if Detection.is_type(event.type)]
    return [(d.name, d.timestamp) for d in found]


def client_of(port):
    return AsyncTcpClient("127.0.0.1", port)


def test_describe_lists_every_word(spotters):
    async def ask():
        async with serving(spotters, version="1.2") as port, client_of(port) as client:
            await client.write_event(Describe().event())
            return Info.from_event(await client.read_event())

    (program,) = asyncio.run(ask()).wake
    assert (program.name, program.version, program.installed) == ("kws", "1.2", True)
    assert [(m.name, m.phrase) for m in program.models] == [
        ("yes", "yes"), ("a/no", "no"), ("b/no", "no"), ("go", "go"),
    ]  # fmt: skip
    assert all(m.installed and m.version and m.description and m.attribution for m in program.models)


@pytest.mark.parametrize("size", [1024, 317, 60000])
def test_detections_are_those_of_the_runtime(spotters, sound, size):
    async def listen():
        async with serving({"a.onnx": spotters["a.onnx"]}) as port, client_of(port) as client:
            first = await heard(client, sound, size=size)
            return first, await heard(client, sound, size=size, stamp=1_000_000)  # one connection, another sound

    first, second = asyncio.run(listen())
    assert first == alone(spotters["a.onnx"], sound)
    assert second == [(word, 1_000_000 + at) for word, at in first]  # in the client's own time


@pytest.mark.parametrize(("rate", "width", "channels"), [(48000, 2, 1), (16000, 4, 2), (44100, 2, 2)])
def test_other_sound_is_converted(spotters, sound, rate, width, channels):
    resampler = Resampler(RATE, rate) if rate != RATE else None
    played = np.rint(resampler.push(sound, flush=True) if resampler else sound).clip(-32768, 32767)

    async def listen():
        async with serving({"a.onnx": spotters["a.onnx"]}) as port, client_of(port) as client:
            return await heard(client, played, rate=rate, width=width, channels=channels)

    assert asyncio.run(listen()) == alone(spotters["a.onnx"], played, rate)


def test_names_choose_words_of_several_models(spotters, sound):
    both = {file: alone(spotter, sound) for file, spotter in spotters.items()}

    async def listen(names):
        async with serving(spotters) as port, client_of(port) as client:
            await client.write_event(Detect(names=names).event())
            return await heard(client, sound)

    def expected(*wanted):
        return sorted((name, at) for file, word, name in wanted for w, at in both[file] if w == word)

    everything = [("a.onnx", "yes", "yes"), ("a.onnx", "no", "a/no"), ("b.onnx", "no", "b/no"), ("b.onnx", "go", "go")]
    for names in (None, []):
        assert sorted(asyncio.run(listen(names))) == expected(*everything)
    found = asyncio.run(listen(["go", "yes"]))
    assert sorted(found) == expected(("a.onnx", "yes", "yes"), ("b.onnx", "go", "go"))
    assert [at for _, at in found] == sorted(at for _, at in found)
    assert sorted(asyncio.run(listen(["A/No"]))) == expected(("a.onnx", "no", "A/No"))  # called as the client calls it


def test_an_unknown_name_is_named(spotters, sound):
    async def listen():
        async with serving(spotters) as port, client_of(port) as client:
            await client.write_event(Detect(names=["alexa"]).event())
            await say(client, sound)
            return await answers(client, lambda event: NotDetected.is_type(event.type))

    first, last = asyncio.run(listen())
    assert "'alexa'; there are: yes, a/no" in Error.from_event(first).text
    assert NotDetected.is_type(last.type)


def test_silence_is_not_detected_and_context_comes_back(spotters):
    async def listen():
        async with serving(spotters) as port, client_of(port) as client:
            await client.write_event(Event("ping", {}))  # of no concern to a wake-word service
            await client.write_event(Detect(context={"id": 7}).event())
            await say(client, np.zeros(RATE // 20, np.float32))  # over before anything can be heard
            return await client.read_event()

    event = asyncio.run(listen())
    assert NotDetected.is_type(event.type)
    assert NotDetected.from_event(event).context == {"id": 7}


def test_as_home_assistant_asks(spotters, sound):
    """A connection a question, a name, sound without end, and gone at the first detection."""
    word, at = alone(spotters["a.onnx"], sound)[0]

    async def listen(port):
        async with client_of(port) as client:
            await client.write_event(Detect(names=[{"no": "a/no"}.get(word, word)]).event())
            await say(client, sound, stop=False)
            return Detection.from_event(await asyncio.wait_for(client.read_event(), 20))

    async def twice():
        async with serving(spotters) as port:
            return [await listen(port) for _ in range(2)]

    assert [(d.name.removeprefix("a/"), d.timestamp) for d in asyncio.run(twice())] == [(word, at)] * 2


def test_refractory_is_each_clients_own(spotters, sound):
    spotter = {"a.onnx": spotters["a.onnx"]}
    long = {"refractory_ms": 60000}
    (only,) = alone(spotters["a.onnx"], sound, **long)

    async def listen():
        async with serving(spotter, decision=long) as port, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_of(port)) for _ in range(3)]
            return [await heard(clients[0], sound), *await asyncio.gather(*(heard(c, sound) for c in clients[1:]))]

    assert asyncio.run(listen()) == [[only]] * 3


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "no event"),
        (b"[]\n", "no event"),
        (b'{"type": 7}\n', "no event"),
        (b"[" * 10000 + b"\n", "no event"),
        (b'{"type": "describe", "data": [1]}\n', "no event"),
        (b"x" * 100_000, "too long"),
        (b'{"type": "audio-chunk", "payload_length": 1000000000}\n', "payload_length is 1000000000"),
        (b'{"type": "audio-chunk", "payload_length": -1}\n', "payload_length is -1"),
        (b'{"type": "audio-chunk", "payload_length": true}\n', "payload_length is True"),
        (b'{"type": "detect", "data_length": 1e9}\n', "data_length is 1000000000.0"),
        (b'{"type": "detect", "data_length": 4}\n[17]', "no JSON object"),
        (b'{"type": "detect", "data": {"names": "yes"}}\n', "names is not a list"),
        (b'{"type": "audio-chunk", "data": {"rate": 17, "width": 2, "channels": 1}}\n', "rate 17 is not one of"),
        (b'{"type": "audio-chunk", "data": {"rate": 15999, "width": 2, "channels": 1}}\n', "rate 15999"),
        (b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 1, "channels": 1}}\n', "width 1 is not one"),
        (b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 99}}\n', "channels 99"),
        (b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2}}\n', "channels None"),
        (b'{"type": "audio-chunk", "data": {"rate": [1], "width": 2, "channels": 1}}\n', "rate [1]"),
        (b'{"type": "audio-chunk", "data": {"rate": 16000, "width": 2, "channels": 1}, "payload_length": 3}\nabc',
         "no whole number of samples"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_named_and_costs_a_connection(spotters, message, words):
    lines = []

    async def send():
        async with serving(spotters, log=lines.append) as port, client_of(port) as other, client_of(port) as client:
            client._writer.write(message)
            first = await asyncio.wait_for(client.read_event(), 5)
            assert await asyncio.wait_for(client._reader.read(), 5) == b""  # it is let go
            await other.write_event(Describe().event())
            assert Info.is_type((await other.read_event()).type)
            return Error.from_event(first).text

    assert words in asyncio.run(send())
    assert words in lines[0]


def test_another_format_within_a_sound_is_refused(spotters):
    async def send():
        async with serving(spotters) as port, client_of(port) as client:
            for rate in (16000, 8000):
                await client.write_event(AudioChunk(rate, 2, 1, bytes(640)).event())
            return Error.from_event(await client.read_event()).text

    assert "(8000, 2, 1); this sound began with (16000, 2, 1)" in asyncio.run(send())


def test_who_stalls_floods_or_never_reads_is_let_go(spotters, sound, monkeypatch):
    monkeypatch.setattr(door, "STALL_S", 0.3)
    monkeypatch.setattr(wyoming, "STALL_S", 0.3)

    async def until_let_go(port, message, again=b"", reads=True) -> float:
        """Seconds that a client lasts who sends this, and then this again and again."""
        begun = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if not reads:
            writer.transport.pause_reading()
        with contextlib.suppress(ConnectionError):
            writer.write(message)
            while again:
                writer.write(again)
                await writer.drain()
            await reader.read()
        writer.transport.abort()
        return time.monotonic() - begun

    async def act():
        async with serving({"a.onnx": spotters["a.onnx"]}, idle_s=1.0) as port, client_of(port) as good:
            found, silent, *others = await asyncio.wait_for(asyncio.gather(
                heard(good, sound), until_let_go(port, b""),
                until_let_go(port, b'{"type": "audio-chunk", "payload_length": 1000}\n' + b"x" * 999),
                until_let_go(port, b'{"type"'),
                until_let_go(port, b"", b"a" * 65536),  # a gigabyte, if it is let
                until_let_go(port, b"", b'{"type": "describe"}\n' * 1000, reads=False),
            ), 30)  # fmt: skip
            assert found == alone(spotters["a.onnx"], sound)
            assert 1.0 <= silent < 5.0
            assert max(others) < 10.0

    asyncio.run(act())


def test_a_full_house_lets_the_silent_make_room(spotters, sound, monkeypatch):
    monkeypatch.setattr(door, "QUIET_S", 0.2)

    async def act():
        async with serving({"a.onnx": spotters["a.onnx"]}, most=5) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
            await asyncio.sleep(0.3)
            async with client_of(port) as client:  # makes one of them go
                assert await heard(client, sound) == alone(spotters["a.onnx"], sound)
            crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
            await asyncio.sleep(0.1)
            refused = sum(reader.at_eof() or reader.exception() is not None for reader, _ in crowd)
            assert refused >= 45
            for _, writer in (*idle, *crowd):
                writer.close()

    asyncio.run(act())


# The page


def exchange(files, request: bytes, host="127.0.0.1") -> tuple[int, dict, bytes]:
    """What a raw request gets: status, headers, body."""

    async def act():
        async with Door(Site(files, host).talk, "127.0.0.1", 0, 8) as opened:
            reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
            writer.write(request)
            data = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return data

    head, _, body = asyncio.run(act()).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


FILES = {"index.html": b"<p>hello", "spotters/0.onnx": b"\x08\x01" * 100_000}


def test_the_page_is_given_with_its_policy():
    status, headers, body = exchange(FILES, b"GET / HTTP/1.1\r\nHost: localhost:9000\r\n\r\n")
    assert (status, body, headers["Content-Type"]) == (200, FILES["index.html"], "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, headers, body = exchange(FILES, b"HEAD /spotters/0.onnx?x=1 HTTP/1.1\r\nHost: [::1]\r\n\r\n")
    assert (status, body, headers["Content-Length"]) == (200, b"", "200000")
    assert exchange(FILES, b"GET /spotters/0.onnx HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")[2] == FILES["spotters/0.onnx"]


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        ("GET /../pyproject.toml HTTP/1.1", "Host: localhost", 404),
        ("GET /..%2fpyproject.toml HTTP/1.1", "Host: localhost", 404),
        ("GET //etc/passwd HTTP/1.1", "Host: localhost", 404),
        ("GET /spotters HTTP/1.1", "Host: localhost", 404),
        ("GET http://localhost/index.html HTTP/1.1", "Host: localhost", 404),
        ("POST / HTTP/1.1", "Host: localhost", 405),
        ("GET / HTTP/1.1", "Host: evil.example", 421),
        ("GET / HTTP/1.1", "Host: 192.168.0.7", 421),
        ("GET / HTTP/1.1", "Host: localhost.evil.example", 421),
        ("GET / HTTP/1.1", "Host: [::1", 421),
        ("GET / HTTP/1.1", "Accept: */*", 400),
        ("GET / HTTP/1.1", "Host: localhost\r\nHost: evil.example", 400),
        ("GET / HTTP/1.1", "Host: localhost\r\nOrigin: http://evil.example", 403),
        ("GET / HTTP/1.1", "Host: localhost\r\nOrigin: null", 403),
        ("GET / HTTP/1.1", "Host: localhost\r\nOrigin: http://localhost", 200),
        ("GET /", "Host: localhost", 400),
        ("GET / HTTP/9", "Host: localhost", 400),
        ("GET / HTTP/1.1", "Host: localhost\r\nno colon", 400),
        ("GET / HTTP/1.1", "Host: localhost\r\nX: " + "x" * 20_000, 431),
        ("\0\xff", "Host: localhost", 400),
    ],
)
def test_other_requests_are_refused(request_line, headers, status):
    got, _, body = exchange(FILES, f"{request_line}\r\n{headers}\r\n\r\n".encode("latin-1"))
    assert got == status
    assert (status == 200) == (body == FILES["index.html"])


def test_a_named_address_answers_to_its_name_and_to_numbers():
    for host, status in (("box.local", 200), ("10.0.0.7:81", 200), ("localhost", 200), ("evil.example", 421)):
        assert exchange(FILES, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), "box.local")[0] == status


def test_a_request_that_stalls_is_ended(monkeypatch):
    monkeypatch.setattr(web, "STALL_S", 0.2)
    assert exchange(FILES, b"GET / HTTP/1.1\r\nHost: local")[0] == 408


@pytest.fixture
def ort(tmp_path, monkeypatch):
    """A stand-in for the folder with ONNX Runtime's files."""
    folder = tmp_path / "ort"
    folder.mkdir()
    for name, (packed, _) in site.FILES.items():
        (folder / packed).write_bytes(name.encode())
        monkeypatch.setitem(site.FILES, name, (packed, hashlib.sha256(name.encode()).hexdigest()))
    return folder


def test_the_static_folder_holds_all_that_the_page_asks_for(paths, ort, tmp_path):
    settings = parse([f"checkpoint=[{paths[0]},{paths[1]}]", "decision.threshold=0.9", f"ort={ort}"])
    for name, content in site.files(contents(settings), str(ort)).items():
        write("static", tmp_path / "static" / name, content)
    found = {str(p.relative_to(tmp_path / "static")) for p in (tmp_path / "static").rglob("*") if p.is_file()}
    listed = json.loads((tmp_path / "static" / "spotters.json").read_text())
    assert [each["name"] for each in listed] == ["a.onnx", "b.onnx"]
    for each in listed:
        assert Spotter(tmp_path / "static" / each["file"]).decision == {**DECISION, "threshold": 0.9}
    asked = {"spotters.json", *(each["file"] for each in listed)}
    for path in PAGE.glob("*.*"):
        assert path.name in found
        text = path.read_text()
        asked |= set(re.findall(r"[\"'(]\.?/?((?:ort/)?[a-z]+\.(?:js|css|svg|wasm))[\"')]", text))
    assert len(asked) > 12
    assert asked <= found
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', (PAGE / "index.html").read_text())
    assert policy[1] == site.POLICY


def test_files_of_another_version_are_refused(ort, tmp_path):
    (ort / "ort-wasm-simd-threaded.wasm").write_bytes(b"other")
    with pytest.raises(KwsError, match=r"ort=.*ort-wasm-simd-threaded\.wasm is not that of onnxruntime-web"):
        site.files({}, str(ort))
    with pytest.raises(KwsError, match=r"ort\.wasm\.bundle\.min\.mjs cannot be read .* ort=FOLDER"):
        site.files({}, str(tmp_path))


def test_without_npm_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KwsError, match=r"no npm to fetch it: install npm, or unpack .* ort=FOLDER"):
        site.files({})
    (tmp_path / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(KwsError, match=r"npm cannot fetch onnxruntime-web .*\(no network\)"):
        site.files({})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], "x: no setting"),
        (["thresold=0.5"], "thresold=0.5: no setting"),
        (["decision=1"], "no setting"),
        (["port=many"], "port=many: expected a number"),
        (["port=70000", "protocol=wyoming", "checkpoint=A"], "port=70000 cannot be opened"),
        (["log=yes"], "log=yes: expected true or false"),
        (["protocol=http"], "protocol=http: expected page or wyoming"),
        (["protocol=wyoming"], "checkpoint=spotter.onnx is missing"),
        (["protocol=wyoming", "checkpoint=A", "static=x"], "static= is of protocol=page"),
        (["checkpoint=none.onnx"], "none.onnx: No such file"),
        (["checkpoint=[x/a.onnx,y/a.onnx]"], "two files are called a.onnx"),
        (["checkpoint=A", "decision.loudness=1"], "loudness"),
        (["clients=0"], "clients=0: expected more than 0"),
        (["host=999.1.1.1", "protocol=wyoming", "checkpoint=A"], "host=999.1.1.1 port=10400 cannot be opened"),
    ],
)
def test_mistakes_are_one_line(paths, arguments, words):
    done = run(*(a.replace("=A", f"={paths[0]}") for a in arguments), module="kws.serve", check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_serves_until_it_is_stopped(paths, sound, host):
    arguments = [f"checkpoint={paths[0]}", "protocol=wyoming", "port=0", f"host={host}", "decision.refractory_ms=60000",
                 "log=true"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "kws.serve", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith(f"listening at tcp://{host}:"), line + process.stderr.read()

    async def listen():
        async with client_of(int(line.split(":")[2].split()[0])) as client:
            return await heard(client, sound)

    try:
        assert asyncio.run(listen()) == alone(Spotter(paths[0]), sound, refractory_ms=60000)
        if host == "127.0.0.1":  # and nobody else's
            with pytest.raises(OSError), socket.create_connection(("127.0.0.2", int(line.split(":")[2].split()[0])), 2):
                pass
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out.count("\n") == 1, out  # the one word
    assert ("warning: everyone who can reach 0.0.0.0" in err) == (host == "0.0.0.0")


def test_help_names_every_setting():
    out = run("--help", module="kws.serve").stdout
    for name in vars(parse([])):
        assert f"    {name}=" in out or f"    {name}.NAME=" in out


# What JavaScript repeats of Python


def node(script: str, data) -> object:
    """What a module of the page computes, as JSON."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = f"const data = JSON.parse(require('fs').readFileSync(0)); (async () => {{ {script} }})()"
    done = subprocess.run(["node", "-e", script], input=json.dumps(data), capture_output=True, text=True, cwd=PAGE)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"threshold": {"a": 0.4, "_default_": 0.6}, "smoothing_ms": 50, "refractory_ms": 130, "warm_up_ms": 0},
        {"threshold": 0.3, "release": 0.9, "smoothing_ms": 1, "refractory_ms": 0},
    ],
)  # fmt: skip
def test_the_decision_in_javascript_is_pythons(options):
    rng = np.random.default_rng(5)
    scores = np.cumsum(rng.standard_normal((4000, 4)), axis=0) / 3
    scores = np.exp(scores - scores.max(1, keepdims=True))
    scores = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    scores[1000:2000] *= 1e-3  # nothing is said
    labels = ["a", "_other_", "b", "c"]
    decision = Decision(labels, 20.0, 15.0, **options)
    expected = [vars(d) for at in range(0, 4000, 7) for d in decision.push(scores[at : at + 7])]
    assert len(expected) > 10
    found = node(
        "const { Decision } = await import('./decision.js');"
        "const decision = new Decision(data.labels, 20, 15, data.options);"
        "const found = data.scores.map((row) => decision.push(row)).filter(Boolean);"
        "console.log(JSON.stringify({ found, smoothed: decision.smoothed }));",
        {"labels": labels, "options": options, "scores": scores.tolist()},
    )
    assert found["found"] == expected  # to the bit
    assert found["smoothed"] == decision.smoothed.tolist()


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (["a"], {"loudness": 1}, "loudness"), (["a"], {"release": "x"}, "release"), (["_a"], {}, "no word"),
        (["a"], {"threshold": {"b": 1}}, "threshold of “b”"), (["a"], {"threshold": {"a": -1}}, "threshold of “a”"),
        (["a"], {"threshold": None}, "threshold of “_default_”"),
    ],
)  # fmt: skip
def test_the_decision_in_javascript_refuses_what_pythons_does(labels, options, words):
    with pytest.raises((TypeError, ValueError)):
        Decision(labels, 20.0, **options).push(np.ones((1, 1)))
    assert words in node(
        "const { Decision } = await import('./decision.js');"
        "try { new Decision(data.labels, 20, 0, data.options); }"
        "catch (error) { console.log(JSON.stringify(error.message)); }",
        {"labels": labels, "options": options},
    )


@pytest.mark.parametrize("rate", [44100, 48000, 8000])
def test_the_resampler_in_javascript_is_pythons(rate):
    samples = speechlike(rate, 2)
    found = node(
        "const { Resampler } = await import('./resampler.js');"
        "const resampler = new Resampler(data.rate, 16000); let out = [];"
        "for (let at = 0; at < data.samples.length; at += 1000)"
        "  out.push(...resampler.push(data.samples.slice(at, at + 1000)));"
        "console.log(JSON.stringify([...out, ...resampler.push([], true)]));",
        {"rate": rate, "samples": samples.tolist()},
    )
    expected = Resampler(rate, RATE).push(samples, flush=True)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1e-3)  # of 32768


def test_files_that_are_no_spotter_are_refused_in_javascript(paths):
    content, about = read(paths[0])
    others = {
        "no ONNX file": b"RIFF" + bytes(1000), "damaged": content[: len(content) // 2],
        "no spotter": write_about(content, about).replace(b"\x0a\x03kws", b"\x0a\x03kwx"),
        "of format 9": write_about(content, {**about, "format": 9}),
        "not written by kws": write_about(content, {**about, "labels": 7}),
    }  # fmt: skip
    found = node(
        "const { describe } = await import('./spotter.js');"
        "const tell = (text) => { try { return describe(Buffer.from(text, 'base64')); }"
        " catch (error) { return error.constructor.name + ': ' + error.message; } };"
        "console.log(JSON.stringify(data.map(tell)));",
        [base64.b64encode(c).decode() for c in (content, *others.values())],
    )
    assert found[0] == about
    for words, answer in zip(others, found[1:], strict=True):
        assert answer.startswith("Refused: it")
        assert words in answer
