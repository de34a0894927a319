"""A table at the scale and in the form of its paper: an image in, classes out. It does not stream."""

from typing import Any

import torch
from torch import Tensor, nn

from kws.models.acoustic import Rows
from kws.models.builder import assemble
from kws.models.table import Scale, read
from kws.streaming import centre


class ImageModel(nn.Module):
    """Images (batch, channels, height, width) to logits (batch, classes), padded on both sides as papers do."""

    def __init__(self, blocks: Rows, channels: int, n_classes: int, bias: bool):
        super().__init__()
        self.blocks, self.classifier = blocks, nn.Linear(channels, n_classes, bias)
        centre(self)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.blocks(image).mean(dim=(2, 3)))


def build_image(
    table: list, input: tuple[int, int, int], n_classes: int = 1000, bias: bool = True, **scale: Any
) -> ImageModel:
    """Builds a table for images (channels, height, width); under `torch.device("meta")` it takes no memory. `bias` is
    the classifier's.

    Raises:
        TableError: a row and what is wrong with it.
    """
    channels, height, width = input
    blocks = assemble(read(table), torch.zeros(1, channels, height, width), Scale(**scale))
    with torch.no_grad():
        last = blocks.eval()(torch.zeros(1, channels, height, width)).shape[1]
    return ImageModel(blocks.train(), last, n_classes, bias)
