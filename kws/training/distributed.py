"""Several processes that train one model: `torchrun --nproc-per-node N -m kws.train …`.

Each process takes its share of every global batch, and gradients are summed, so the arithmetic is that of one process.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kws.errors import KwsError


def start(device: str) -> tuple[int, int]:
    """Joins the other processes if torchrun started us. Returns this one's rank and their number."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=1))  # the first makes or fetches data meanwhile
    return place()


def place() -> tuple[int, int]:
    """This process's rank and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if running() else (0, 1)


def running() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_first() -> bool:
    return not running() or dist.get_rank() == 0


def barrier() -> None:
    if running():
        dist.barrier()


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if running():
        value = value.clone()
        dist.all_reduce(value)
    return value


def any_process(flag: bool) -> bool:
    """Whether any process raised a flag; each gets the same answer."""
    return bool(total(torch.tensor(int(flag)))) if running() else flag


def sum_gradients(model: nn.Module) -> None:
    """Replaces every gradient by its sum over the processes, in one message."""
    if not running():
        return
    learnt = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in learnt]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for parameter, part in zip(learnt, flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = part.view_as(parameter)


def stop() -> None:
    if running():
        dist.destroy_process_group()


def pick_device(name: str) -> str:
    """ "auto" takes a GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise KwsError(f"device={name!r}: choose one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise KwsError("device=cuda: there is no GPU that this torch can use; device=cpu or auto")
    return name
