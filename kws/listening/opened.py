"""Checkpoints and exported files, opened to listen with one decision."""

from collections.abc import Callable
from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kws.errors import KwsError


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

    from kws.spotter import Spotter
    from kws.training.trained import open_checkpoint

    torch.set_num_threads(1)  # a step is too small to share
    trained = open_checkpoint(path)
    rate = int(trained.options.sample_frequency)
    trained.extractor.stream(torch.zeros(1, rate))  # what is compiled is loaded now, not when sound waits
    decision = decision_for(cfg, path)
    return Opened(rate, decision, lambda given: Spotter(trained, given, **decision))


def _given() -> set[str]:
    """The settings of the command line."""
    return {o.partition("=")[0].lstrip("+~") for o in HydraConfig.get().overrides.task}


def decision_for(cfg: DictConfig, path: str) -> dict:
    """`cfg.decision` for a checkpoint: with the thresholds that a budget chose for it, unless the command line says
    others, or chooses them now.

    Raises:
        KwsError: they were chosen for other weights, or for a smoothing that is not the command line's.
    """
    from kws.alarms import thresholds
    from kws.training import checkpoint

    given = _given()
    if {"decision", "decision.threshold"} & given or cfg.get("budget") is not None:
        return OmegaConf.to_container(cfg.decision)
    path = checkpoint.find(path)
    own = thresholds.read(path)
    for name, chosen in own.items():
        if f"decision.{name}" in given and cfg.decision[name] != chosen:
            raise KwsError(
                f"decision.{name}={cfg.decision[name]}: {thresholds.beside(path)} was chosen with {chosen:g}; choose"
                f" again with it (kws.evaluate labels= budget=), or say decision.threshold= too"
            )
    return decision_of(cfg, own)


def decision_of(cfg: DictConfig, own: dict) -> dict:
    """`cfg.decision`, but what a spotter knows of its `own` decision where the command line does not say it."""
    given = _given()
    decision = OmegaConf.to_container(cfg.decision)
    if "decision" in given:
        return decision
    return decision | {key: value for key, value in own.items() if f"decision.{key}" not in given}
