"""Checkpoints and exported files, opened to listen with one decision."""

from collections.abc import Callable
from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


@dataclass
class Opened:
    """A spotter at rest."""

    rate: int  # of the samples that it takes without resampling, in Hz
    decision: dict  # arguments of `Decision`
    begin: Callable  # from a rate to a stream of it


def open_spotter(cfg: DictConfig, path: str) -> Opened:
    """`path` with the decision of `cfg`. torch is imported for a checkpoint alone."""
    if path.endswith(".onnx"):
        from kws.runtime import Spotter

        spotter = Spotter(path)
        decision = decision_of(cfg, spotter.decision)
        return Opened(spotter.rate, decision, lambda rate: spotter.stream(rate, **decision))
    import torch

    from kws.alarms import thresholds
    from kws.spotter import Spotter
    from kws.training import checkpoint
    from kws.training.trained import open_checkpoint

    torch.set_num_threads(1)  # a step is too small to share
    trained = open_checkpoint(path)
    rate = int(trained.options.sample_frequency)
    trained.extractor.stream(torch.zeros(1, rate))  # what is compiled is loaded now, not when sound waits
    decision = decision_of(cfg, thresholds.read(checkpoint.find(path)))
    return Opened(rate, decision, lambda given: Spotter(trained, given, **decision))


def decision_of(cfg: DictConfig, own: dict) -> dict:
    """`cfg.decision`, but what a spotter knows of its `own` decision where the command line does not say it."""
    given = {o.partition("=")[0].lstrip("+~") for o in HydraConfig.get().overrides.task}
    decision = OmegaConf.to_container(cfg.decision)
    if "decision" in given:
        return decision
    return decision | {key: value for key, value in own.items() if f"decision.{key}" not in given}
