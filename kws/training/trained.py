"""A checkpoint as the model and front-end that it describes."""

from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate

from kws.errors import KwsError
from kws.features import FbankOptions, make_options
from kws.features.extractor import FeatureExtractor
from kws.losses import PerClip
from kws.models import AcousticModel
from kws.training import checkpoint


@dataclass
class Trained:
    """What a checkpoint holds, ready to use."""

    model: AcousticModel  # averaged weights if the run kept any, in evaluation mode
    extractor: FeatureExtractor
    labels: list[str]
    options: FbankOptions
    config: dict

    @property
    def data(self) -> dict:
        """The data of its training.

        Raises:
            KwsError: it was left out, as of what is exported.
        """
        if not self.config.get("data"):
            raise KwsError("the checkpoint does not say which data it was trained on: name some, as in data=folder")
        return self.config["data"]

    def loss(self) -> PerClip:
        """The loss of its training, by which a clip is judged; runs of before losses were chosen have `PerClip`."""
        chosen = self.config.get("loss")
        if not chosen:
            return PerClip(self.labels, 0.0)
        return instantiate(chosen, labels=self.labels, step_ms=self.model.stride * self.options.frame_shift)


def open_checkpoint(path: str | Path, device: str = "cpu", averaged: bool = True) -> Trained:
    """Builds the model and front-end that a checkpoint describes.

    Args:
        averaged: take the averaged weights, where the run kept any.

    Raises:
        KwsError: the file is missing, foreign, cut short or of a newer format.
    """
    saved = checkpoint.load(path, device)
    if "model" not in saved["config"]:
        raise KwsError(f"{path} is no spotter, but a network to begin training with: init_from={path}")
    options = make_options(**saved["features"])
    labels = saved["labels"]
    model = instantiate(
        saved["config"]["model"], n_features=options.dim, n_classes=len(labels), shift_ms=options.frame_shift
    )
    model.load_state_dict((averaged and saved["ema"]) or saved["model"])
    if saved["config"].get("compress") and "packed" not in saved:  # in training: these move, what counts is stored
        instantiate(saved["config"]["compress"], _convert_="all").apply(model)
    return Trained(model.to(device).eval(), FeatureExtractor(options).to(device), labels, options, saved["config"])
