"""Tables nobody wrote: valid ones build and stream, the others fail with the row and the reason."""

import inspect
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.blocks import kinds
from kws.blocks.base import ACTIVATIONS
from kws.models import build, fold
from kws.models.table import TableError

# A row of each kind that any table may hold: its tokens besides kernel, stride and channels, which are drawn.
PLAIN = {
    "conv": ["", "g2", "bias", "d2", "hswish"], "dw": ["", "d3"], "ds": ["", "res", "se4"], "sepconv": ["", "d2"],
    "xception": ["", "n1", "late", "first"], "basic": ["", "se4", "g2"], "bottleneck": ["h16", "h16_g4", "h8_se2"],
    "mb": ["e1", "e2", "e2.5_se4", "e2_g2", "e1_up"], "fused": ["e1", "e3"], "igc": ["g2", "g4"],
    "igc2": ["n2", "n3"], "igc3": ["e2", "e1"], "shuffle2": ["", "even"], "esp": ["g4", "g2"], "eesp": ["g2_reach7"],
    "ghost": ["e2", "h24_ratio3", "se4"], "ghost2": ["e2"], "ghost3": ["e1.5"], "c3": ["n1", "n2"], "sppf": [""],
    "linear": ["", "swish"], "maxpool": [""], "avgpool": [""], "rep": ["", "copies2"], "repds": ["copies2"],
    "inception1": ["b8.4.8.4.8.4"], "inception2": ["b4.4.8.4.8.4"], "inception3": ["b8.4.4.4.8.4"],
    "inception4": ["b8.4.8"], "matchbox": ["", "n2"], "mdtc": ["stacks1_layers2", ""], "dtc": ["d2"],
}  # fmt: skip
ELSEWHERE = {  # what stands behind the first three has one band; the others need bands, or widths, of their own
    "pool", "flat", "gru", "bcres", "shuffle",
}  # fmt: skip
TAKES = {kind: set(inspect.signature(block.__init__).parameters) for kind, block in kinds().items()}
DRAWN = [k for k in sorted(TAKES) if k not in ELSEWHERE and (k in PLAIN or not {"hidden", "branches"} & TAKES[k])]
ONE_AXIS = {"matchbox", "mdtc", "dtc"}  # kernels over time in every form
UNSTRIDED = {"eesp"}  # its channels must grow there


@st.composite
def rows(draw, planar: bool, strided: bool = True):
    kind = draw(st.sampled_from(DRAWN))
    row = [kind, *filter(None, [draw(st.sampled_from(PLAIN.get(kind, [""])))])]
    if "kernel" in TAKES[kind]:
        kernel = draw(st.sampled_from([3, 5]))
        row.append(f"k{kernel}x{draw(st.sampled_from([1, 3]))}" if planar and kind not in ONE_AXIS else f"k{kernel}")
    if strided and "stride" in TAKES[kind] and kind not in UNSTRIDED and draw(st.integers(0, 3)) == 0:
        row.append(draw(st.sampled_from(["s2", "s3", "s2x2", "s1x2"])) if planar else "s2")
    if "channels" in TAKES[kind]:
        row.append(f"c{draw(st.sampled_from([16, 24, 32]))}")
    if draw(st.booleans()):
        row.append("r2")
    return "_".join(row)


@st.composite
def tables(draw):
    planar = draw(st.booleans())
    branch = st.lists(rows(planar, strided=False), max_size=2)
    branches = st.builds(lambda *both: {"concat": list(both)}, branch, branch)
    table = draw(st.lists(rows(planar) | branches, min_size=1, max_size=4))
    return {
        "table": ["conv_k3x3_s1x2_c16" if planar else "conv_k3_c16", *table],
        "form": ["temporal", "planar"][planar],
    }


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from([1.0, 0.5, 1.5]), st.integers(0, 2**16))
@torch.no_grad()
def test_valid_tables_stream(table, width, seed):
    torch.manual_seed(seed)
    model = build(**table, n_features=16, n_classes=3, width=width, window_ms=200, act="relu").eval()
    frames = torch.randn(2, 5 * model.stride + 1, 16)
    whole, state, out = model(frames), model.initial_state(2), []
    for part in frames.split([1, model.stride, 2, frames.shape[1] - model.stride - 3], dim=1):
        logits, state = model.stream(part, state)
        out.append(logits)
    torch.testing.assert_close(torch.cat(out, 1), whole, atol=1e-5, rtol=1e-5)
    later = frames.clone()
    later[:, 3 * model.stride :] += 1
    assert torch.equal(model(later)[:, :3], whole[:, :3])
    torch.testing.assert_close(fold(model)(frames), whole, atol=1e-4, rtol=1e-4)


TOKENS = st.one_of(
    st.sampled_from([*ACTIVATIONS, "res", "valid", "bias", "x", "", "k3", "c8", "s2", "e2", "g2", "se4", "b4.4.4"]),
    st.builds("{}{}".format, st.sampled_from(["k", "s", "d", "c", "e", "h", "g", "b", "se", "r", "n", "reach", "cmin"]),
              st.sampled_from(["", "0", "1", "2", "3", "7", "3x3", "2x2", "1.5", "4.4", "x", "..", "-1"])),
)  # fmt: skip


KINDS = st.sampled_from([*sorted(kinds()), "what", ""])
ANY_ROW = st.builds(lambda kind, rest: "_".join([kind, *rest]), KINDS, st.lists(TOKENS, max_size=5))


def verdict(table, form) -> str:
    try:
        build(table, n_features=12, n_classes=2, form=form)
    except TableError as error:
        return str(error)
    return "row 1: built"


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY_ROW, max_size=2), st.sampled_from(["temporal", "planar"]))
def test_any_table_builds_or_says_which_row_and_why(table, form):
    assert re.match(r"row \d.*: .+|the table has no rows", verdict(table, form), re.DOTALL)


def test_scale_is_checked():
    for scale in ({"width": 0}, {"depth": -1}, {"divisor": 0}, {"act": "rely"}, {"form": "flat"}):
        with pytest.raises(TableError, match=next(iter(scale))):
            build(["conv_k3_c8"], n_features=4, n_classes=2, **scale)
