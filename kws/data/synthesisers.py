"""Synthesisers for data=synthetic beside espeak-ng: neural voices, and any program that writes a sound file.

One interface, which `kws.data.espeak.Espeak` has too:

    voices() -> names, sorted
    speak(text, voice, rate, pitch) -> samples (n,) float32 in int16 units, silence around them cut off, and their Hz

`rate` is in words per minute, `RATE` being a neural voice's own, and `pitch` from 0 to 99. `varies` names which of the
two a synthesiser heeds, `key` stands in its clips' names for what else decides how they sound, and where it `blends`,
"a~30~b" is a voice too: 30 % of a and 70 % of b. None of this downloads anything.
"""

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatch
from hashlib import sha1
from pathlib import Path

import numpy as np

from kws import audio
from kws.data.espeak import trimmed
from kws.errors import KwsError

RATE, PITCH = 170, 50
TIMEOUT_S = 60.0  # for one word of a program
# Kokoro's voices begin with a letter for their language; Japanese and Chinese need more than espeak-ng's phonemes.
KOKORO_LANGUAGES = {"a": "en-us", "b": "en-gb", "e": "es", "f": "fr-fr", "h": "hi", "i": "it", "p": "pt-br"}
# What a program could take for an option, or what it runs for something else than words.
_UNSAFE = re.compile(r"(^|\s)-|[^\w\s'’.,?!-]")


class Kokoro:
    """Kokoro-82M through kokoro-onnx.

    Args:
        root: a folder that holds one .onnx and one voices*.bin or voices*.npz.
        voices: pattern of the voices' names.

    Raises:
        KwsError: the package or the files are missing.
    """

    varies, blends = ("rate",), True

    def __init__(self, root: str | None = None, voices: str = "[ab]*"):
        if root is None:
            raise KwsError("data.kokoro.root=PATH is missing: the folder of Kokoro's .onnx and voices*.bin")
        found = [sorted(Path(root).glob(pattern)) for pattern in ("*.onnx", "voices*.[bn][ip][nz]")]
        if any(len(paths) != 1 for paths in found):
            raise KwsError(f"data.kokoro.root={root}: expected one .onnx and one voices*.bin or voices*.npz in it")
        (self._model,), (self._styles,) = found
        self.key = _key(self._model.name, self._model.stat().st_size)
        with np.load(self._styles) as styles:
            self._voices = sorted(n for n in styles.files if n[0] in KOKORO_LANGUAGES and fnmatch(n, voices))
        if not self._voices:
            raise KwsError(f"data.kokoro.voices={voices}: {self._styles} has none such")
        self._engine = None  # opened by the process that speaks

    def voices(self) -> list[str]:
        return self._voices

    def speak(self, text: str, voice: str, rate: int = RATE, pitch: int = PITCH) -> tuple[np.ndarray, int]:
        if self._engine is None:
            self._engine = self._open()
        first, share, second = voice.split("~") if "~" in voice else (voice, 100, voice)
        style = sum(self._engine.voices[name] * (int(part) / 100)
                    for name, part in ((first, share), (second, 100 - int(share))))  # fmt: skip
        speed = float(np.clip(rate / RATE, 0.5, 2.0))  # what it takes
        try:
            samples, hertz = self._engine.create(text, style, speed=speed, lang=KOKORO_LANGUAGES[voice[0]])
        except ValueError as error:  # nothing that has phonemes
            raise KwsError(f"{text!r} is not spoken ({error}): write the word as it is spoken") from None
        return trimmed(np.asarray(samples, np.float32) * 32767), hertz

    def _open(self):
        kokoro_onnx = _package("kokoro_onnx", "kokoro")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # as many processes as cores speak
        try:
            session = onnxruntime.InferenceSession(str(self._model), options, providers=["CPUExecutionProvider"])
            return kokoro_onnx.Kokoro.from_session(session, str(self._styles))
        except Exception as error:  # ONNX Runtime has a type for each of its errors, and no base
            raise KwsError(f"{self._model}: not a model of Kokoro ({error})") from None


class Piper:
    """Piper's voices through piper-tts: `voices` are .onnx files, each with its .onnx.json beside it. A voice of a
    model with several speakers is "name#number"."""

    varies, blends = ("rate",), False

    def __init__(self, voices: Iterable[str] = ()):
        self._files: dict[str, tuple[Path, int]] = {}
        for path in map(Path, voices):
            try:
                speakers = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))["num_speakers"]
            except (OSError, ValueError, KeyError) as error:
                raise KwsError(f"data.piper.voices: {path}.json is no voice of piper ({error})") from None
            names = [path.stem] if speakers == 1 else [f"{path.stem}#{i}" for i in range(speakers)]
            self._files |= {name: (path, i) for i, name in enumerate(names)}
        if not self._files:
            raise KwsError("data.piper.voices=[PATH.onnx, …] is missing")
        self.key, self._open = "", {}

    def voices(self) -> list[str]:
        return sorted(self._files)

    def speak(self, text: str, voice: str, rate: int = RATE, pitch: int = PITCH) -> tuple[np.ndarray, int]:
        piper = _package("piper", "piper")
        path, speaker = self._files[voice]
        if path not in self._open:
            self._open[path] = piper.PiperVoice.load(path)
        model = self._open[path]
        config = piper.SynthesisConfig(
            speaker_id=speaker if model.config.num_speakers > 1 else None, length_scale=RATE / rate
        )
        pieces = [chunk.audio_float_array for chunk in model.synthesize(text, config)]
        return trimmed(np.concatenate([np.zeros(0), *pieces]).astype(np.float32) * 32767), model.config.sample_rate


class Command:
    """Any program, run without a shell, that writes a sound file.

    Args:
        line: its command line, in which {text}, {voice}, {file} (where to write), {rate} (words per minute), {stretch}
            (2: twice as long) and {pitch} (0 to 99) are filled in.
        voices: what {voice} may be.

    Raises:
        KwsError: the program is not there, or nothing says where it writes.
    """

    blends = False

    def __init__(self, line: str | None = None, voices: Iterable[str] = ()):
        try:
            self._arguments = shlex.split(line or "")
        except ValueError as error:
            raise KwsError(f"data.command.line={line}: {error}") from None
        if not self._arguments or shutil.which(self._arguments[0]) is None:
            raise KwsError(f"data.command.line={line}: no program {(self._arguments or [''])[0]!r} is found")
        if missing := [name for name in ("{text}", "{file}") if name not in line]:
            raise KwsError(f"data.command.line={line}: {missing[0]} is missing")
        self._voices = sorted(map(str, voices)) if "{voice}" in line else ["one"]
        if not self._voices:
            raise KwsError("data.command.voices=[…] is missing: what {voice} may be")
        self.varies = ("rate",) * ("{rate}" in line or "{stretch}" in line) + ("pitch",) * ("{pitch}" in line)
        self.key = _key(line)

    def voices(self) -> list[str]:
        return self._voices

    def speak(self, text: str, voice: str, rate: int = RATE, pitch: int = PITCH) -> tuple[np.ndarray, int]:
        if _UNSAFE.search(text):
            raise KwsError(f"data.command.line: {text!r} could be taken for an option or a command")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "said.wav"
            values = {"text": text, "voice": voice, "file": str(file), "rate": str(rate), "pitch": str(pitch),
                      "stretch": f"{RATE / rate:.3f}"}  # fmt: skip
            fill = lambda argument: re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), argument)  # noqa: E731
            arguments = [self._arguments[0], *map(fill, self._arguments[1:])]
            try:
                subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=TIMEOUT_S)
            except subprocess.CalledProcessError as error:
                said = (error.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
                raise KwsError(f"{shlex.join(arguments)} exited with {error.returncode}: {said}") from None
            except (OSError, subprocess.TimeoutExpired) as error:
                raise KwsError(f"{shlex.join(arguments)}: {error}") from None
            samples, hertz = audio.read(file, channel=0)
        return trimmed(samples), hertz


SYNTHESISERS = {"kokoro": Kokoro, "piper": Piper, "command": Command}


def _key(*what) -> str:
    return sha1(repr(what).encode()).hexdigest()[:8]


def _package(name: str, extra: str):
    try:
        return __import__(name)
    except ImportError as error:
        raise KwsError(f"data.synthesisers: {extra} is not installed ({error}); pip install 'kws[{extra}]'") from None
