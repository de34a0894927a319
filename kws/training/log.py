"""What a run writes beside its checkpoints: metrics.jsonl, TensorBoard, learning curves."""

import json
from collections.abc import Iterator
from pathlib import Path

from kws import plots


class RunLog:
    """Rows of figures, each with its `step`.

    Args:
        folder: the run's.
        step: where the run stands; rows of later steps (of a run that was killed after its checkpoint) are dropped,
            so that each step stands once.
        tensorboard: write that too.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool):
        self.folder, self.path = folder, folder / "metrics.jsonl"
        temporary = folder / ".metrics.jsonl.tmp"
        with temporary.open("w") as kept:
            for row in read_rows(self.path):
                if row["step"] <= step:
                    kept.write(json.dumps(row) + "\n")
        temporary.replace(self.path)
        self.file = self.path.open("a")
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, row: dict) -> None:
        self.file.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name in row.keys() - {"step"}:
                self.board.add_scalar(name, row[name], row["step"])

    def flush(self) -> None:
        """Before a checkpoint, so that no step it counts is missing here."""
        self.file.flush()
        if self.board is not None:
            self.board.flush()

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
        rows = list(read_rows(self.path))
        steps, epochs = [r for r in rows if "loss" in r], [r for r in rows if "validation_loss" in r]
        if steps:
            plots.learning_curves(steps, epochs, self.folder / "curves.png", self.folder.name)


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out."""
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                return
