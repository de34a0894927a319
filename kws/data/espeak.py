"""Words spoken by espeak-ng, loaded from the PyPI package espeakng-loader (GPL-3, never copied into this project)."""

import ctypes
from pathlib import Path

import numpy as np

from kws.errors import KwsError

SAMPLE_RATE = 22050
_AUDIO_OUTPUT_SYNCHRONOUS, _POS_CHARACTER, _CHARS_UTF8 = 2, 1, 1  # espeak's speak_lib.h
_RATE, _PITCH, _RANGE = 1, 3, 4
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_engine = None  # espeak-ng is one per process


class Espeak:
    """The synthesiser. Make it with `engine()`, once a process.

    Raises:
        KwsError: the package or its library is missing.
    """

    def __init__(self):
        try:
            import espeakng_loader

            self._library = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (ImportError, OSError) as error:
            raise KwsError(f"espeak-ng is not available ({error}); pip install espeakng-loader") from None
        self._folder = Path(data)
        self._pieces: list[np.ndarray] = []
        self._callback = _CALLBACK(self._receive)
        rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), 0)
        if rate != SAMPLE_RATE:
            raise KwsError(f"espeak-ng did not start (it answered {rate}); its data should lie in {data}")
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count, _events) -> int:
        if samples and count:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def voices(self) -> list[str]:
        """Names of the voice variants, sorted: men, women, whispers, robots. Each speaks in any accent."""
        return sorted(path.name for path in (self._folder / "voices" / "!v").iterdir() if path.is_file())

    def speak(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int = 50) -> tuple[np.ndarray, int]:
        """`text` as samples (n,) float32 in int16 units, silence around it cut off, and their rate in Hz.

        Args:
            voice: "accent+variant", the accent a language of espeak-ng ("en-us", "de").
            rate: words per minute; pitch, pitch_range: 0 to 99.
        """
        lib = self._library
        self._choose(voice)
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            lib.espeak_SetParameter(parameter, value, 0)
        self._pieces.clear()
        data = text.encode()
        lib.espeak_Synth(data, len(data) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None)
        samples = np.concatenate([np.zeros(0, np.int16), *self._pieces]).astype(np.float32)
        return trimmed(samples), SAMPLE_RATE

    def _choose(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise KwsError(f"espeak-ng has no voice {voice}; `espeak-ng --voices` lists the accents")

    def phonemes(self, text: str, accent: str) -> str:
        """How `text` is pronounced, stress and pauses left out: equal for words that sound alike."""
        self._choose(accent)
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest = ctypes.c_char_p(text.encode())
        said = b""
        while rest.value is not None:  # clause by clause; what is not asked for would come before the next text
            said += self._library.espeak_TextToPhonemes(ctypes.byref(rest), _CHARS_UTF8, 0) or b""
        return "".join(c for c in said.decode(errors="replace") if c not in "',_:; ")


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Samples (n,) in int16 units without what is below a hundredth of their peak before and after."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=1.0))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def engine() -> Espeak:
    global _engine
    if _engine is None:
        _engine = Espeak()
    return _engine
