"""Two processes compute what one does."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, tiny
from test_training import losses

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def torchrun(processes: int, *arguments: str) -> None:
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, "-m", *launcher, "-m", "kws.train"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# 106 clips: last batches of 10 and of 25
@pytest.mark.parametrize(("batch_size", "loss"), [(32, "clip"), (27, "clip"), (27, "max_pool")])
def test_losses_agree_with_one_process(corpus, tmp_path, batch_size, loss):
    arguments = [
        *(a for a in tiny(corpus) if not a.startswith(("model", "optim"))), "model=ghost", "model.dropout=0",
        f"runs={tmp_path}", f"train.batch_size={batch_size}", "train.epochs=2", f"loss={loss}",
    ]  # fmt: skip
    for processes in (1, 2):
        torchrun(processes, *arguments, f"name=p{processes}")
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
    for processes in (1, 2):
        torchrun(processes, *arguments, f"name=p{processes}")
    for (_, a), (_, b) in zip(losses(tmp_path / "p1"), losses(tmp_path / "p2"), strict=True):
        assert abs(a - b) <= 1e-5 * abs(a)
