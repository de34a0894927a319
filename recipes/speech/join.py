"""Puts the speller of a run (loss=ctc) beside the network that it hears: join.py SPEECH.pt RUN/last.pt"""

import sys
from pathlib import Path

from kws.training import checkpoint

path, run = Path(sys.argv[1]), checkpoint.load(Path(sys.argv[2]))
content = checkpoint.load(path)
spelling = {name: value for name, value in run["ema"].items() if name.startswith("speller.")}
kept = {name: value for name, value in content["model"].items() if not name.startswith("speller.")}
checkpoint.save(path, {**content, "model": kept | spelling})
