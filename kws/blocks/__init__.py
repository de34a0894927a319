"""The blocks that a table may name: every subclass of `Block` in this folder, by its `kind`."""

import importlib
import pkgutil

from kws.blocks.base import Block


def kinds() -> dict[str, type[Block]]:
    """Block classes by the name that a table's row begins with. A new file in this folder is found by itself."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Block) and "kind" in vars(value):
                found[value.kind] = value
    return found
