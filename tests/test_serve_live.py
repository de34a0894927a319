"""kws.serve for real: a browser with a fake microphone, 64 clients in real time, an hour of sound."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import RATE, config, spoken, tiny
from processes import ROOT
from test_serve import alone, answers, client_of, say
from wyoming.audio import AudioChunk, AudioStart
from wyoming.info import Describe, Info
from wyoming.wake import Detection

from kws import audio
from kws.exporting.spotter import export
from kws.runtime import Spotter
from kws.train import train
from kws.training.trained import open_checkpoint

pytestmark = pytest.mark.slow
DECISION = {"threshold": 0.5, "smoothing_ms": 100, "refractory_ms": 300, "warm_up_ms": 300}
SAID = ["low", "high", "rise", "fall", "high", "low", "fall"]


@pytest.fixture(scope="module")
def path(corpus, tmp_path_factory):
    """A spotter that was trained on four made words."""
    folder = tmp_path_factory.mktemp("live")
    train(config("train", *tiny(corpus, "train.epochs=25", "model.window_ms=500")), folder / "run")
    export(open_checkpoint(folder / "run"), folder / "four words.onnx", 100, decision=DECISION)
    return folder / "four words.onnx"


@pytest.fixture(scope="module")
def sound():
    rng = np.random.default_rng(4)
    pieces = [rng.standard_normal(RATE) * 60]
    for word in SAID:
        pieces += [spoken(word, rng), rng.standard_normal(RATE * 4 // 5) * 60]
    return np.rint(np.concatenate(pieces)).clip(-32768, 32767).astype(np.float32)


@contextlib.contextmanager
def command(*arguments, ends=" "):
    """A running kws.serve: its process and the port that it names."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kws.serve", "port=0", *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        if not line:
            error = process.stderr.read()
            if "npm" in error:
                pytest.skip(error)
            raise AssertionError(error)
        yield process, int(line.split("://")[1].split(":")[1].split(ends)[0])
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def browser(*more, **options):
    """A page in Chromium, and the list of what it has asked for."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium here")
    sync = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream"]  # fmt: skip
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, headless=True, args=[*flags, *more])
        page, asked = opened.new_page(**options), []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(f"error {error}"))
        yield page, asked
        opened.close()


def until(page, expression: str, seconds: float = 30.0) -> None:
    """Waits for an expression to hold; Playwright's own waiting evaluates strings, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression}: {page.inner_text('body')}"
        page.wait_for_timeout(50)


def listen_flags(wav):
    return ["--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={wav}%noloop"]


def test_the_page_hears_what_the_runtime_hears(path, sound, tmp_path):
    audio.write(tmp_path / "said.wav", sound, RATE)
    expected = Spotter(path).stream().push(sound, flush=True)
    assert len(expected) >= 5
    with command(f"checkpoint={path}", ends="/") as (_, port), browser(*listen_flags(tmp_path / "said.wav")) as opened:
        page, asked = opened
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#start:enabled")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        until(page, f"kws.heard.length >= {len(expected)}")
        found = page.evaluate("kws.heard")
        assert [each["word"] for each in found] == [each.word for each in expected]
        shift = np.median([a["end"] - b.end for a, b in zip(found, expected, strict=True)])  # of the device's start
        for each, other in zip(found, expected, strict=True):
            assert abs(each["end"] - shift - other.end) <= 0.05
            assert abs(each["score"] - other.score) < 0.1
        assert page.locator("#heard tr").count() == len(found)
        assert page.locator("#heard tr").first.inner_text().split()[0] == expected[-1].word
        assert page.inner_text("#announce").startswith(expected[-1].word)
        assert "ms" in page.inner_text("#latency")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('status').textContent === 'Stopped.'")
    assert asked
    assert not [url for url in asked if not url.startswith(f"http://127.0.0.1:{port}/")]  # errors too


@pytest.mark.parametrize("rate", [16000, 44100])
def test_the_page_scores_as_the_runtime_and_from_a_static_folder(path, sound, tmp_path, rate):
    """Several spotters, one of them with another chunk; any web server will do."""
    other = tmp_path / "other.onnx"
    export(open_checkpoint(path.parent / "run"), other, 30, decision=DECISION)
    folder = tmp_path / "static"
    done = subprocess.run(
        [sys.executable, "-m", "kws.serve", f"checkpoint=[{path},{other}]", f"static={folder}"], cwd=ROOT, text=True,
        capture_output=True,
    )  # fmt: skip
    if "npm" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    played = audio.resample(sound, RATE, rate)
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "-b", "127.0.0.1", "-d", str(folder), "0"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = int(server.stdout.readline().split("port ")[1].split()[0])
        with browser() as (page, asked):
            page.goto(f"http://127.0.0.1:{port}/")
            page.evaluate("kws.ready")
            found = page.evaluate("([samples, rate]) => kws.score(samples, rate)", [played.tolist(), rate])
            assert not [url for url in asked if not url.startswith(f"http://127.0.0.1:{port}/")]
    finally:
        server.kill()
        server.wait()
    assert [each["name"] for each in found] == [path.name, other.name]
    for file, each in zip((path, other), found, strict=True):
        expected = Spotter(file).stream(rate).scores(played, flush=True)
        difference = np.abs(np.array(each["scores"]) - expected).max()
        print(f"{rate} Hz: scores of the page and of the runtime are {difference:.1e} apart")
        assert difference < 1e-4
        words = Spotter(file).stream(rate).push(played, flush=True)
        assert [d["word"] for d in each["found"]] == [d.word for d in words]
        np.testing.assert_allclose(
            [(d["start"], d["end"], d["score"]) for d in each["found"]], [(d.start, d.end, d.score) for d in words],
            atol=1e-4,
        )  # fmt: skip


def test_the_page_says_what_is_wrong(path, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:5000])
    with command(ends="/") as (_, port), browser(viewport={"width": 360, "height": 740}) as (page, _):
        page.goto(f"http://127.0.0.1:{port}/")
        page.evaluate("kws.ready")
        assert page.inner_text("#start") == "Choose a spotter"
        with page.expect_file_chooser():
            page.click("#start")
        for file in (tmp_path / "notes.txt", damaged):
            page.set_input_files("#file", file)
            until(page, f"document.getElementById('refusal').textContent.includes('{file.name}')")
            assert "no ONNX file" in page.inner_text("#refusal")
        page.set_input_files("#file", path)
        until(page, "document.getElementById('start').textContent === 'Start listening'")
        assert page.inner_text("#refusal") == ""
        assert page.locator("#words li").all_inner_texts() == ["fall", "high", "low", "rise"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.click("#start")  # nobody allows the microphone
        page.wait_for_selector("#status.bad")
        assert "did not allow this page the microphone" in page.inner_text("#status")
        assert page.inner_text("#start") == "Start listening"
        page.click(f"#files button[aria-label='Remove {path.name}']")
        assert page.inner_text("#start") == "Choose a spotter"


def cpu_s(process) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def held_mb(process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_64_clients_in_real_time_hear_as_alone(path, sound):
    expected, size, clients = alone(Spotter(path), sound), 1024, 64

    async def listen(port, turn):
        await asyncio.sleep(0.001 * turn)
        async with client_of(port) as client:
            await client.write_event(AudioStart(RATE, 2, 1).event())
            begun, lags, found, pcm = time.monotonic(), [], [], sound.astype("<i2")

            async def read():
                while event := await client.read_event():
                    if Info.is_type(event.type):
                        break
                    detection = Detection.from_event(event)
                    found.append((detection.name, detection.timestamp))
                    lags.append(time.monotonic() - begun - detection.timestamp / 1000)

            reading = asyncio.create_task(read())
            for at in range(0, len(pcm), size):
                await asyncio.sleep(begun + (at + size) / RATE - time.monotonic())
                await client.write_event(AudioChunk(RATE, 2, 1, pcm[at : at + size].tobytes()).event())
            await client.write_event(Describe().event())
            await reading
            return found, max(lags)

    async def together(port):
        return await asyncio.gather(*(listen(port, turn) for turn in range(clients)))

    with command(f"checkpoint={path}", "protocol=wyoming") as (process, port):
        before = cpu_s(process)
        results = asyncio.run(together(port))
        busy = (cpu_s(process) - before) / (len(sound) / RATE)
    worst = max(lag for _, lag in results)
    print(f"{clients} clients in real time: {100 * busy:.0f} % of a core, worst lag {1000 * worst:.0f} ms")
    assert all(found == expected for found, _ in results)
    assert worst < 0.5  # of which 164 ms are the chunks of client and model
    assert busy < 1.5


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_an_hour_at_top_speed_keeps_its_memory(path, sound):
    sound = np.concatenate([sound, sound[:RATE]])  # so that the last word is heard without a flush
    expected, hour = alone(Spotter(path), sound), 3600 * RATE // len(sound) + 1

    async def listen(port, process):
        begun = time.monotonic()
        async with client_of(port) as client:
            for turn in range(hour):
                sending = asyncio.create_task(say(client, sound, stop=False))  # AudioStart begins another sound
                found = await answers(client, lambda event: event.data.get("timestamp") == expected[-1][1])
                await sending
                assert [(e.data["name"], e.data["timestamp"]) for e in found] == expected, turn
                if turn == hour // 20:
                    before = held_mb(process)
        return before, held_mb(process), time.monotonic() - begun

    with command(f"checkpoint={path}", "protocol=wyoming") as (process, port):
        before, after, seconds = asyncio.run(listen(port, process))
    print(f"an hour in {seconds:.0f} s: {before:.1f} MB after three minutes of it, {after:.1f} MB at its end")
    assert after - before < 3
