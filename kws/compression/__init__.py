"""Smaller weights and smaller networks. A method is a class here and a yaml in conf/compress.

Quantised weights are stored small and computed with in float32 (fake quantisation): the file holds codes of a few bits
and what turns them into values, and whoever opens it has those values, the same bits each time. Nothing runs faster for
it; what does is int8 (`python -m kws.export`), and a smaller network (`Channels`, `LowRank`).
"""

from kws.compression.method import Method, Structure

__all__ = ["Method", "Structure"]
