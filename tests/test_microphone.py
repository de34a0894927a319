"""The microphone, for real: sound played into a virtual source of PulseAudio."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import RATE, spoken
from processes import ROOT

from kws import audio

pytestmark = pytest.mark.slow

SAID = ["low", "high", "rise", "fall", "low", "high"]


@pytest.fixture
def pulse(tmp_path):
    """A PulseAudio server with a sink whose monitor is the default microphone; (environment, server process)."""
    if missing := [name for name in ("pulseaudio", "pactl", "paplay") if shutil.which(name) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    home = tmp_path / "pulse"
    home.mkdir(mode=0o700)
    places = ("HOME", "XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH")
    environment = {**os.environ, **dict.fromkeys(places, str(home)), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    probe = subprocess.run([sys.executable, "-c", "import sounddevice"], env=environment, capture_output=True)
    if probe.returncode:
        pytest.skip("PortAudio is not installed")
    server = subprocess.Popen(
        ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit=1",
         "--load=module-native-protocol-unix", "--load=module-null-sink sink_name=fake rate=16000 channels=1"],
        env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(50):
        if (
            subprocess.run(
                ["pactl", "set-default-source", "fake.monitor"], env=environment, capture_output=True
            ).returncode
            == 0
        ):
            break
        time.sleep(0.2)
    else:
        server.kill()
        pytest.skip("PulseAudio does not start here")
    yield environment, server
    server.kill()
    server.wait()


def start(folder, environment, *more):
    decision = ["decision.threshold=0.5", "decision.smoothing_ms=100", "decision.refractory_ms=300"]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "kws.listen", f"checkpoint={folder}", *decision, *more], cwd=ROOT, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    first = process.stderr.readline()
    assert first.startswith("listening at 16000 Hz"), first + process.stderr.read()
    return process


def test_words_played_are_heard_and_ctrl_c_ends(pulse, folder, tmp_path):
    environment, _ = pulse
    rng = np.random.default_rng(4)
    quiet = lambda seconds: rng.standard_normal(round(seconds * RATE)) * 60  # noqa: E731
    sound = [quiet(1.5)]
    for word in SAID:
        sound += [spoken(word, rng), quiet(0.8)]
    audio.write(tmp_path / "said.wav", np.concatenate([*sound, quiet(1)]), RATE)
    process = start(folder, environment)
    time.sleep(1.0)
    subprocess.run(["paplay", "--device=fake", str(tmp_path / "said.wav")], env=environment, check=True)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    heard = [line.split()[2] for line in out.splitlines()]
    assert sum(word in heard for word in set(SAID)) >= 3, out
    assert len(heard) <= 9
    assert "0.0 s dropped" in err
    assert "Traceback" not in err


def pactl(environment, *arguments) -> str:
    return subprocess.run(
        ["pactl", *arguments], env=environment, check=True, capture_output=True, text=True
    ).stdout  # fmt: skip


def said_until(process, words: str) -> str:
    """What listening says, up to a line with these words."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"{words!r} was never said: {''.join(lines)}")


def test_unplugged_and_plugged_in_again(pulse, folder, tmp_path):
    environment, _ = pulse
    rng = np.random.default_rng(5)
    quiet = rng.standard_normal(RATE) * 60
    sound = [part for word in SAID for part in (quiet, spoken(word, rng))]
    audio.write(tmp_path / "said.wav", np.concatenate([quiet, *sound, quiet]), RATE)
    play = ["paplay", "--device=fake", str(tmp_path / "said.wav")]
    process = start(folder, environment, "wait=30", f"save={tmp_path / 'heard'}", f"json={tmp_path / 'heard.jsonl'}")
    time.sleep(1.0)
    subprocess.run(play, env=environment, check=True)
    before = (tmp_path / "heard.jsonl").read_text().splitlines()
    module = next(line.split()[0] for line in pactl(environment, "list", "short", "modules").splitlines()
                  if "null-sink" in line)  # fmt: skip
    for _ in range(2):
        pactl(environment, "unload-module", module)
        said_until(process, "Waiting for it")
        time.sleep(1.5)  # attempts that fail
        module = pactl(environment, "load-module", "module-null-sink", "sink_name=fake", "rate=16000", "channels=1")
        module = module.strip()
        pactl(environment, "set-default-source", "fake.monitor")
        said_until(process, "the microphone is back")
    subprocess.run(play, env=environment, check=True)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    rows = [json.loads(line) for line in (tmp_path / "heard.jsonl").read_text().splitlines()]
    for part in (rows[: len(before)], rows[len(before) :]):
        assert sum(word in [row["word"] for row in part] for word in set(SAID)) >= 3, out + err
    assert [row["end"] for row in rows] == sorted(row["end"] for row in rows)  # times go on in the next stream
    saved = sorted(path for word in set(SAID) for path in (tmp_path / "heard" / word).glob("*.wav"))
    assert len(saved) == len(rows)
    assert max(audio.duration(path) for path in saved) == 2.0
    assert "Traceback" not in err


def test_a_microphone_that_hangs_is_one_line_and_exit_code_2(pulse, folder):
    environment, server = pulse
    process = start(folder, environment, "wait=4")
    time.sleep(1.0)
    server.send_signal(signal.SIGSTOP)  # the device gives nothing any more, and closing it never returns
    try:
        begun = time.monotonic()
        out, err = process.communicate(timeout=30)
    finally:
        server.send_signal(signal.SIGCONT)
    assert process.returncode == 2, out + err
    assert time.monotonic() - begun < 15
    assert "gave no sound" in err
    assert "wait=4" in err.splitlines()[-1]
    assert "Traceback" not in err


@pytest.mark.parametrize("how", ["unplugged", "hung"])
def test_ctrl_c_ends_at_once_while_waiting(pulse, folder, how):
    environment, server = pulse
    process = start(folder, environment, "wait=30")
    time.sleep(1.0)
    try:
        if how == "hung":
            server.send_signal(signal.SIGSTOP)
            said_until(process, "Waiting for it")
        else:
            server.kill()
            said_until(process, "Waiting for it")
        time.sleep(1.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        server.send_signal(signal.SIGCONT)
    assert time.monotonic() - begun < 5  # a second on an idle machine
    assert process.returncode == 0, out + err
    assert "near misses in" in err
    assert "Traceback" not in err
