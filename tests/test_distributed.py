"""Two processes compute what one does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny
from processes import ROOT, run, start
from test_training import losses

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def torchrun(*arguments: str) -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, "-m", *launcher, "-m", "kws.train"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def together(folder: Path, *arguments: str) -> None:
    """What torchrun starts, without it, which is quicker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    said = [folder / f"said-{rank}" for rank in (0, 1)]
    ranks = [start([Path(os.devnull), one, one], *arguments, RANK=str(i), LOCAL_WORLD_SIZE="2", **place)
             for i, one in enumerate(said)]  # fmt: skip
    for rank, one in zip(ranks, said, strict=True):
        rank.join()
        assert rank.exitcode == 0, one.read_text()


# 106 clips: last batches of 10 and of 25
@pytest.mark.parametrize(("batch_size", "loss"), [(32, "clip"), (27, "clip"), (27, "max_pool")])
def test_losses_agree_with_one_process(corpus, tmp_path, batch_size, loss):
    arguments = [
        *(a for a in tiny(corpus) if not a.startswith(("model", "optim"))), "model=ghost", "model.dropout=0",
        f"runs={tmp_path}", f"train.batch_size={batch_size}", "train.epochs=2", f"loss={loss}",
    ]  # fmt: skip
    run(*arguments, "name=p1")
    together(tmp_path, *arguments, "name=p2")
    one, two = losses(tmp_path / "p1"), losses(tmp_path / "p2")
    assert [step for step, _ in one] == [step for step, _ in two]
    assert len(one) == 2 * -(-106 // batch_size)
    for (step, a), (_, b) in zip(one, two, strict=True):
        assert abs(a - b) <= 1e-5 * abs(a), f"step {step}: {a} and {b}"


def test_a_process_without_a_clip_takes_part(corpus, tmp_path):
    arguments = [
        *tiny(corpus, "model.dropout=0"),
        f"runs={tmp_path}",
        "train.batch_size=105",
        "train.epochs=1",
    ]  # a last batch of 1
    run(*arguments, "name=p1")
    torchrun(*arguments, "name=p2")
    for (_, a), (_, b) in zip(losses(tmp_path / "p1"), losses(tmp_path / "p2"), strict=True):
        assert abs(a - b) <= 1e-5 * abs(a)
