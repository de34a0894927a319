"""Sounds that an export is calibrated and checked on."""

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from kws import audio
from kws.data.dataset import ClipDataset
from kws.data.espeak import engine
from kws.errors import KwsError
from kws.training.trained import Trained

N_SOUNDS = 200


def of_training(trained: Trained, given: str | None) -> list[np.ndarray]:
    """Sounds (n,) like those that the model hears: a recording or a folder of some, or else clips of its training.

    Raises:
        KwsError: nothing is given, and the training data is not there.
    """
    rate = int(trained.options.sample_frequency)
    if given is not None:
        return _any_of("calibration", given, N_SOUNDS, rate)
    try:
        source = instantiate(trained.data, _convert_="all")
        source.prepare(["train"])
        clips = source.clips("train")
    except (KwsError, InstantiationException) as error:
        raise KwsError(
            f"calibration: the training data is not there ({error.__cause__ or error});"
            " give calibration=, a folder of recordings"
        ) from None
    data = ClipDataset(clips, trained.labels, trained.extractor, trained.config["train"]["window_ms"],
                       noise=source.noise("train"))  # fmt: skip
    items = (data[0, int(i)] for i in np.random.default_rng(0).permutation(len(data))[:N_SOUNDS])
    return [item["wave"].numpy() for item in items if isinstance(item, dict)]


def _any_of(name: str, folder: str, count: int, rate: int) -> list[np.ndarray]:
    """At most `count` recordings of a folder, of any of its folders alike."""
    files = audio.files(name, folder)
    chosen = np.sort(np.random.default_rng(0).permutation(len(files))[:count])
    return [audio.read(files[i], channel=0, rate=rate)[0] for i in chosen]


def to_check(trained: Trained, given: str | None) -> list[np.ndarray]:
    """What the file is checked on: given recordings, or the words spoken by espeak-ng, or made sound without it."""
    rate = int(trained.options.sample_frequency)
    if given is not None:
        return _any_of("check", given, 100, rate)
    words = [label for label in trained.labels if not label.startswith("_")]
    rng, pieces = np.random.default_rng(0), []
    try:
        for word in words[:20]:
            spoken = engine().speak(word, "en-us+f2", 150, 50)
            pieces += [audio.resample(*spoken, rate), np.zeros(rate // 2, np.float32)]
    except KwsError:
        pieces = [3000 * np.sin(np.cumsum(rng.uniform(0.02, 1.0, 20).repeat(rate // 4))).astype(np.float32)]
    sound = np.concatenate([np.zeros(rate // 2, np.float32), *pieces])
    return [np.rint(sound + 20 * rng.standard_normal(len(sound))).clip(-32768, 32767).astype(np.float32)]
