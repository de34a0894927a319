"""Acoustic models: frames in, logits per step out."""

from kws.models.acoustic import AcousticModel
from kws.models.builder import build
from kws.models.fold import fold

__all__ = ["AcousticModel", "build", "fold"]
