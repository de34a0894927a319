"""Models that torch compiles where they train."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from kws.errors import KwsError


def compiled_for(size: int, function: Callable) -> Callable:
    """`function(…, frames)`, compiled by torch for batches of `size`; others, as an epoch's last, are computed as they
    stand: each size would be compiled anew, for most of a minute.

    Raises:
        KwsError: when it is first called, if torch cannot compile here.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA, where none is meant
    fast = torch.compile(function, dynamic=False)

    def call(*arguments: Tensor) -> Tensor:
        if len(arguments[-1]) != size:
            return function(*arguments)
        try:
            return fast(*arguments)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.inner_exception).splitlines()[0]
            raise KwsError(f"train.compile=true: torch cannot compile, which takes a C++ compiler: {reason}") from None

    return call
