"""Says what a model costs before it is trained.

python -m kws.cost model=ghost
python -m kws.cost model=dscnn width=2 classes=35 json=true
python -m kws.cost table=mine.yaml                                       # a table with the settings of a model's yaml
python -m kws.cost table=paper.yaml input=3x224x224 width=0.5 json=true  # as for images: channels × height × width
"""

import dataclasses
import json
import re
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from kws.config import command
from kws.errors import OptionError
from kws.features import make_options
from kws.models import build
from kws.models.cost import cost, image_cost
from kws.models.table import Scale

AUDIO_ONLY = ("_target_", "form", "window_ms", "dropout")


def read_table(path: str) -> dict:
    """The settings of a yaml with a table; what only tests read of it (`published`, `input`, `classes`) is left out.

    Raises:
        OptionError: the file is not there, or has no table.
    """
    if not Path(path).is_file():
        raise OptionError(f"table={path}: no such file")
    try:
        read = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise OptionError(f"table={path} is not a yaml: {str(error).splitlines()[0]}") from None
    if not isinstance(read, dict) or not isinstance(read.get("table"), list):
        raise OptionError(f"table={path} has no list `table`; one that builds on another yaml is model=NAME")
    settings = {
        name: value for name, value in read.items() if name not in ("published", "input", "classes", "defaults")
    }
    known = {"table", "bias", *AUDIO_ONLY, *(field.name for field in dataclasses.fields(Scale))}
    if unknown := sorted(set(settings) - known):
        raise OptionError(f"table={path}: no setting {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return settings


def sizes(text: str) -> tuple[int, int, int]:
    """Channels, height and width from "3x224x224"."""
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){2}", str(text)):
        raise OptionError(f"input={text}: channels, height and width are given as 3x224x224")
    channels, height, width = map(int, str(text).split("x"))
    return channels, height, width


@command("cost")
def main(cfg: DictConfig) -> None:
    scale = {name: cfg[name] for name in ("width", "depth", "phi") if cfg[name] is not None}
    if cfg.input is not None:
        if cfg.table is None:
            raise OptionError("input=CxHxW asks for a paper's form, and goes with table=FILE.yaml")
        settings = {name: value for name, value in read_table(cfg.table).items() if name not in AUDIO_ONLY}
        settings |= scale | {"n_classes": cfg.classes if cfg.classes is not None else 1000}
        result = image_cost(input=sizes(cfg.input), **settings)
    else:
        options = make_options(**cfg.features)
        given = {"n_features": options.dim, "n_classes": cfg.classes or 12, "shift_ms": options.frame_shift} | scale
        if cfg.table is None:
            model = instantiate(cfg.model, **given)
        else:
            settings = read_table(cfg.table)
            model = build(
                **{name: value for name, value in settings.items() if name not in ("_target_", "bias")} | given
            )
        result = cost(model, options.frame_shift, options.frame_length)
    content, wanted = json.dumps(dataclasses.asdict(result)), str(cfg.json).lower()
    if wanted not in ("true", "false"):
        Path(cfg.json).write_text(content + "\n")
    print(content if wanted == "true" else result.table())


if __name__ == "__main__":
    main()
