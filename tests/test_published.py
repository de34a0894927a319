"""The builder, fed the tables of the papers at their scale, gives their parameters and multiply-accumulates."""

import json
from pathlib import Path

import pytest
import yaml
from processes import run

from kws.cost import read_table, sizes
from kws.errors import OptionError
from kws.models.cost import image_cost
from kws.models.table import TableError

TABLES = sorted((Path(__file__).parent / "tables").glob("*.yaml"))


def published():
    for path in TABLES:
        for entry in yaml.safe_load(path.read_text()).get("published", []):
            name = " ".join([path.stem, *(f"{k}={entry[k]}" for k in ("width", "depth") if k in entry)])
            yield pytest.param(path, entry, id=name, marks=pytest.mark.slow if entry.pop("slow", False) else ())


@pytest.mark.parametrize(("path", "entry"), published())
def test_published_counts(path, entry):
    entry = dict(entry)
    parameters, mega_macs = entry.pop("parameters", None), entry.pop("mega_macs", None)
    settings = read_table(path) | {"n_classes": entry.pop("classes", 1000)}
    costs = image_cost(input=sizes(entry.pop("input", "3x224x224")), **settings, **entry)
    assert parameters in (None, costs.parameters)
    if mega_macs is not None:
        assert costs.macs / 1e6 == pytest.approx(mega_macs, rel=0.005)


def test_the_command_reads_a_table(tmp_path):
    table = str(next(path for path in TABLES if path.stem == "mobilenetv2"))
    out = run(f"table={table}", "input=3x224x224", "width=0.5", "json=true", module="kws.cost").stdout
    assert json.loads(out)["parameters"] == 1_968_680
    run("model=ghost_10k", f"json={tmp_path / 'made' / 'f.json'}", module="kws.cost")
    assert json.loads((tmp_path / "made" / "f.json").read_text())["parameters"] == 11_110


def test_what_is_no_table_is_said(tmp_path):
    (tmp_path / "other.yaml").write_text("width: 2")
    with pytest.raises(OptionError, match="no such file"):
        read_table(tmp_path / "nowhere.yaml")
    with pytest.raises(OptionError, match="no list `table`"):
        read_table(tmp_path / "other.yaml")
    (tmp_path / "other.yaml").write_text("table: [conv_c8]\nwidht: 2")
    with pytest.raises(OptionError, match=r"no setting widht; there are.*width"):
        read_table(tmp_path / "other.yaml")
    for text in ("3x224", "3x0x224", "big"):
        with pytest.raises(OptionError, match="3x224x224"):
            sizes(text)
    with pytest.raises(TableError, match=r"row 2.*nothing is left|row 2.*[Kk]ernel"):
        image_cost(["conv_k3x3_s2x2_c8", "conv_k3x3_c8_valid"], (3, 3, 3))
