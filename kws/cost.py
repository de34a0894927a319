"""Says what a model costs before it is trained.

python -m kws.cost model=ghost
python -m kws.cost model=dscnn model.width=2 classes=35 json=true
"""

import dataclasses
import json

from hydra.utils import instantiate
from omegaconf import DictConfig

from kws.config import command
from kws.features import make_options
from kws.models.cost import cost


@command("cost")
def main(cfg: DictConfig) -> None:
    options = make_options(**cfg.features)
    model = instantiate(cfg.model, n_features=options.dim, n_classes=cfg.classes, shift_ms=options.frame_shift)
    result = cost(model, options.frame_shift, options.frame_length)
    print(json.dumps(dataclasses.asdict(result)) if str(cfg.json).lower() == "true" else result.table())


if __name__ == "__main__":
    main()
