"""The microphone, for real: sound played into a virtual source of PulseAudio."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import RATE, ROOT, config, spoken, tiny

from kws import audio
from kws.train import train

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


@pytest.fixture(scope="module")
def folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("microphone") / "run"
    train(config("train", *tiny(corpus, "train.epochs=25", "model.window_ms=500")), folder)
    return folder


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


def test_a_microphone_that_vanishes_is_one_line(pulse, folder):
    environment, server = pulse
    process = start(folder, environment)
    time.sleep(1.0)
    server.send_signal(signal.SIGSTOP)  # the device gives nothing any more
    try:
        out, err = process.communicate(timeout=30)
    finally:
        server.send_signal(signal.SIGCONT)
    assert process.returncode == 2, out + err
    assert "gave no sound" in err
    assert "Traceback" not in err
