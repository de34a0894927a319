"""Models with weights of no training: they cost what trained ones do."""

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from kws.benchmarks.rounds import sound
from kws.config import conf_dir
from kws.errors import KwsError
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.training.trained import Trained


def names() -> list[str]:
    """Of every model under conf/model."""
    return sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def settings(name: str, option: str) -> DictConfig:
    """The model of conf/model/NAME.yaml as it stands there; `option` is where it was named.

    Raises:
        KwsError: there is none of that name.
    """
    if name not in names():
        raise KwsError(f"{option}: there is no {name}; choose from {', '.join(names())}")
    GlobalHydra.instance().clear()  # that of the command itself, where it has one
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("cost", overrides=[f"model={name}"]).model


def untrained(model: DictConfig, features: DictConfig, n_classes: int = 12) -> Trained:
    """A model of `n_classes` words whose input is normalised, the same in every process."""
    torch.manual_seed(0)
    options, labels = make_options(**features), [f"word{i}" for i in range(n_classes)]
    extractor = FeatureExtractor(options)
    net = instantiate(model, n_features=options.dim, n_classes=n_classes, shift_ms=options.frame_shift).eval()
    net.normalise_by(extractor(torch.from_numpy(sound(5))[None])[0][0])
    return Trained(net, extractor, labels, options, {"model": {}})
