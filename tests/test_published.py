"""The builder, fed the tables of the papers at their scale, gives their parameters and multiply-accumulates."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import run

from kws.cost import read_table, sizes
from kws.models.cost import image_cost

TABLES = sorted((Path(__file__).parent / "tables").glob("*.yaml"))


def published():
    for path in TABLES:
        for entry in yaml.safe_load(path.read_text()).get("published", []):
            name = " ".join([path.stem, *(f"{k}={entry[k]}" for k in ("width", "depth") if k in entry)])
            yield pytest.param(path, entry, id=name, marks=pytest.mark.slow if entry.pop("slow", False) else ())


@pytest.mark.parametrize(("path", "entry"), published())
def test_published_counts(path, entry):
    entry = dict(entry)
    parameters, mega_macs = entry.pop("parameters"), entry.pop("mega_macs", None)
    settings = read_table(path) | {"n_classes": entry.pop("classes", 1000)}
    costs = image_cost(input=sizes(entry.pop("input", "3x224x224")), **settings, **entry)
    assert costs.parameters == parameters
    if mega_macs is not None:
        assert costs.macs / 1e6 == pytest.approx(mega_macs, rel=0.005)


def test_the_command_reads_a_table():
    table = str(next(path for path in TABLES if path.stem == "mobilenetv2"))
    out = run(f"table={table}", "input=3x224x224", "width=0.5", "json=true", module="kws.cost").stdout
    assert json.loads(out)["parameters"] == 1_968_680
    assert "no such file" in run("table=nowhere.yaml", module="kws.cost", check=False).stderr
    assert "3x224x224" in run(f"table={table}", "input=3x224", module="kws.cost", check=False).stderr
