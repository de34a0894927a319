"""Compression: what is stored is small and comes back the same bits; training goes through it; networks get smaller."""

import copy
import json
import math
import signal

import numpy as np
import pytest
import torch
from conftest import config, speechlike, tiny
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from processes import run

from kws.compress import carried, main
from kws.compression import Method, Structure, packing
from kws.compression.channels import Channels
from kws.compression.kmeans import KMeans
from kws.compression.linear import Linear
from kws.compression.log import Log
from kws.compression.low_rank import LowRank, ranks
from kws.compression.packing import Stored, pack, unpack
from kws.compression.pruning import NOfM, Prune
from kws.compression.signs import Binary, Ternary
from kws.config import conf_dir
from kws.errors import KwsError
from kws.exporting.spotter import compare, export
from kws.models import build, fold
from kws.models.cost import cost
from kws.spotter import Spotter
from kws.training import checkpoint
from kws.training.start import begin
from kws.training.trained import open_checkpoint
from kws.training.trainer import Stopped, Trainer

METHODS = sorted(path.stem for path in (conf_dir() / "compress").glob("*.yaml"))
MODELS = sorted(p.stem for p in (conf_dir() / "model").glob("*.yaml") if not p.stem.endswith(("_10k", "_100k")))


def method_of(name: str, **settings) -> Method:
    return instantiate(OmegaConf.load(conf_dir() / "compress" / f"{name}.yaml"), **settings, _convert_="all")


def stored_by(method: Method, weight: torch.Tensor) -> Stored:
    """What becomes of one layer's weight."""
    model = torch.nn.Module()
    model.layer = torch.nn.Conv2d(1, 1, 1)
    model.layer.weight = torch.nn.Parameter(weight)
    return method.stored(model)["layer.weight"]


def snr(weight, value) -> float:
    error = (weight.double() - value.double()).square().sum()
    return 10 * math.log10(weight.double().square().sum() / error)


@given(bits=st.integers(1, 8), n=st.integers(0, 100), seed=st.integers(0, 99))
def test_codes_are_packed_to_their_bits(bits, n, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, n).astype(np.uint8)
    packed = pack(codes, bits)
    assert len(packed) == -(-n * bits // 8)
    assert "".join(f"{code:0{bits}b}" for code in codes).ljust(8 * len(packed), "0") == "".join(
        f"{byte:08b}" for byte in packed
    )
    np.testing.assert_array_equal(unpack(packed, bits, n), codes)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="code 4 does not fit into 2 bits"):
        pack(np.array([1, 4], np.uint8), 2)
    with pytest.raises(ValueError, match="1 to 8"):
        pack(np.zeros(1, np.uint8), 9)


BITS = st.integers(2, 8)
QUANTISERS = st.one_of(
    st.builds(Linear, BITS, st.booleans(), st.booleans(), st.booleans(), st.sampled_from(["max", "percentile", "mse"])),
    st.builds(KMeans, st.integers(1, 8), st.booleans()), st.builds(Log, BITS, st.booleans()),
    st.builds(Binary, st.booleans()), st.builds(Ternary, st.floats(0, 0.99), st.booleans()),
    st.builds(Prune, st.floats(0, 0.99), st.sampled_from(["global", "layer"])),
    st.sampled_from([NOfM(1, 2), NOfM(2, 4), NOfM(3, 4), NOfM(1, 16)]),
)  # fmt: skip


@st.composite
def weights(draw):
    """Of any shape: Gaussian at any scale from denormal to huge, constant, zero, or any floats at all."""
    shape = draw(st.sampled_from([(1, 1), (1, 1, 1, 1), (7, 5), (3, 1, 1, 9), (2, 3, 3, 5), (1, 37), (29, 1)]))
    kind = draw(st.sampled_from(["gaussian", "constant", "any"]))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    if kind == "constant":
        return torch.full(shape, draw(number))
    if kind == "any":
        n = math.prod(shape)
        return torch.tensor(draw(st.lists(number, min_size=n, max_size=n)), dtype=torch.float32).reshape(shape)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    return torch.randn(shape, generator=generator) * draw(st.sampled_from([1.0, 1e-3, 1e37, 1e-38, 1e-44]))


@settings(max_examples=400, deadline=None)
@given(method=QUANTISERS, weight=weights())
def test_what_is_stored_comes_back_the_same_bits(method, weight):
    stored = stored_by(method, weight)
    value, blob = stored.value(), packing.write({"layer.weight": stored})
    back = packing.read(blob)["layer.weight"]
    assert value.shape == weight.shape
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert torch.equal(back.value().view(torch.int32), value.view(torch.int32))
    head = 4 + int(blob[:4].numpy().view("<u4")[0])
    whole = stored.bits * weight.numel()
    assert len(blob) == head + -(-whole // 8) + (stored.n_bits - whole) // 8
    largest = weight.double().abs().max().item()
    error = (value.double() - weight.double()).abs().max().item()
    assert value.double().abs().max().item() <= 2.01 * largest + 2.0**-149  # no value of a size that was not there
    rows = weight.reshape(len(weight) if getattr(method, "per_channel", False) else 1, -1)
    if isinstance(method, KMeans):
        assert all(len(v.unique()) <= 2**method.bits for v in value.reshape(rows.shape))
        if method.bits > 1 and weight.unique().numel() == 1:
            assert error <= 1e-7 * largest
    elif isinstance(method, Linear) and method.range == "max":
        step = back.parameters["scale"].double().max().item()
        rounded = 2.0 ** (method.bits - 149)  # what so many steps lose where float32 has no nearer one
        assert error <= 0.5001 * step + (0.5 * step if not method.symmetric else 0) + 1e-6 * largest + rounded
    elif isinstance(method, Log):
        mantissa, _ = torch.frexp(value.double())
        assert ((mantissa.abs() == 0.5) | (value == 0)).all()
    elif isinstance(method, Binary):
        mean = rows.double().abs().mean(dim=1).float()
        assert torch.equal(value.reshape(rows.shape), torch.where(rows >= 0, mean[:, None], -mean[:, None]))
    elif isinstance(method, Prune | NOfM):
        assert ((value == weight) | (value == 0)).all()
        if isinstance(method, Prune):
            assert int(stored.codes.sum()) == weight.numel() - round(method.sparsity * weight.numel())
            kept = stored.codes.reshape(weight.shape).bool()
            if kept.any() and not kept.all():
                assert weight[~kept].abs().max() <= weight[kept].abs().min()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [m for m in METHODS if not isinstance(method_of(m), Structure) and m != "none"])
def test_weights_that_are_no_numbers_are_refused_by_name(name, bad):
    model = build(["conv_k3_c8", "conv_k3_c8"], n_features=4, n_classes=2)
    model.blocks[1].conv.conv.weight.data[3, 2, 0, 1] = bad
    with pytest.raises(KwsError, match=r"blocks.1.conv.conv.weight holds NaN or infinity"):
        method_of(name).stored(model)


class TestClaims:
    """What is said of each method, on Gaussian weights."""

    weight = torch.randn(256, 400, generator=torch.Generator().manual_seed(0))

    def test_k_means_of_four_values_is_not_sixteen_times_smaller_until_layers_are_large(self):
        for n, times in ((64, 8.0), (1024, 15.06)):
            stored = KMeans(bits=2).encode(self.weight.reshape(-1)[:n].reshape(8, -1))
            assert stored.n_bits == 2 * n + 128
            assert 32 * n / stored.n_bits == pytest.approx(times, abs=0.01)

    @pytest.mark.parametrize("n", [1, 5, 12, 16])
    def test_k_means_keeps_values_that_are_no_more_than_its_codes(self, n):
        few = self.weight[:8, :n].repeat(1, 3).exp()
        for method in (KMeans(4, per_channel=True), KMeans(8)):
            assert torch.equal(method.encode(few).value(), few)
        once = KMeans(2).encode(self.weight[:64]).value()
        assert torch.equal(KMeans(2).encode(once).value(), once)  # compressed again it loses nothing

    @pytest.mark.parametrize(
        ("method", "db", "within"),
        [
            (Linear(8, per_channel=False), 39.7, 0.7), (Linear(4, per_channel=False), 14.6, 0.7),
            (KMeans(4), 20.2, 0.15), (KMeans(2), 9.30, 0.05), (Log(4), 13.8, 0.1), (Log(8), 13.8, 0.1),
        ],
    )  # fmt: skip
    def test_signal_to_error(self, method, db, within):
        assert snr(self.weight, method.encode(self.weight).value()) == pytest.approx(db, abs=within)

    def test_binary_errs_by_three_fifths(self):
        value = Binary(per_channel=False).encode(self.weight).value()
        relative = (value - self.weight).norm() / self.weight.norm()
        assert relative.item() == pytest.approx(math.sqrt(1 - 2 / math.pi), abs=0.003)
        assert (Binary().encode(torch.tensor([[0.0, -2.0]])).value() == torch.tensor([[1.0, -1.0]])).all()  # sgn(0) = 1

    def test_linear_is_read_back_from_the_zero_point(self):
        stored = Linear(8, symmetric=False, per_channel=False).encode(self.weight + 0.5)
        scale, zero = stored.parameters["scale"], stored.parameters["zero"]
        wrong = zero + stored.codes.double() * scale  # z + Q·s, as it is sometimes written
        assert snr(self.weight + 0.5, stored.value()) > 39
        assert snr(self.weight + 0.5, wrong.reshape(self.weight.shape)) < 0
        half = Linear(4, per_channel=False).encode(torch.tensor([[7.0, 0.5, 1.5, 2.5]]))  # a step of 1: half to even
        assert half.value().tolist() == [[7, 0, 2, 2]]

    def test_power_of_two_steps(self):
        scale = Linear(8, power_of_two=True).encode(self.weight).parameters["scale"]
        assert (torch.frexp(scale).mantissa == 0.5).all()
        assert (scale >= Linear(8).encode(self.weight).parameters["scale"]).all()

    def test_two_of_four(self):
        keep = NOfM(2, 4).encode(self.weight).codes.reshape(-1, 4)
        assert (keep.sum(dim=1) == 2).all()

    def test_fewer_bits_than_floats_where_many_are_zero(self):
        stored = stored_by(Prune(0.9), self.weight)
        assert stored.n_bits / self.weight.numel() == pytest.approx(1 + 0.1 * 32, abs=0.01)


def test_training_goes_straight_through():
    model = build(["conv_k3_c8"], n_features=4, n_classes=2, dropout=0)
    method, own = Binary(), copy.deepcopy(model.state_dict())
    frames = torch.randn(2, 20, 4)
    with method.within(model):
        assert len(model.blocks[0].conv.conv.weight.abs().unique()) <= 8
        model(frames).square().sum().backward()
        gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name]) or "running" in name or "tracked" in name
    method.apply(model)  # the same forward and backward at the stored values
    model.zero_grad()
    model(frames).square().sum().backward()
    assert all(torch.equal(p.grad, gradient[name]) for name, p in model.named_parameters())


def test_pruning_rises_by_its_schedule():
    model = build(["conv_k3_c16"], n_features=16, n_classes=2)
    zeros = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        stored = Prune(0.8, ramp=0.5).stored(model, progress)
        codes = torch.cat([s.codes.reshape(-1) for s in stored.values()])
        zeros.append(1 - codes.double().mean().item())
    assert zeros == pytest.approx([0, 0.8 * 0.875, 0.8, 0.8], abs=1e-3)
    layers = Prune(0.8, scope="layer").stored(model)
    assert all(s.codes.double().mean().item() == pytest.approx(0.2, abs=0.03) for s in layers.values())


def test_layers_may_stay_as_they_are():
    model = build(["conv_k3_c8", "conv_k3_c8"], n_features=4, n_classes=2)
    stored = Linear(leave=["classifier.weight", "blocks.0.*"]).stored(model)
    assert list(stored) == ["blocks.1.conv.conv.weight"]
    with pytest.raises(KwsError, match=r"no weight is called head; there are blocks.0.conv.conv.weight"):
        Linear(leave=["head"]).stored(model)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("linear", {"bits": 1}, "bits=1: expected a whole number from 2 to 8"),
        ("kmeans", {"bits": 9}, "bits=9: expected a whole number from 1 to 8"),
        ("linear", {"range": "all"}, "range=all: choose max, percentile or mse"),
        ("prune", {"sparsity": 1.0}, "sparsity=1.0: expected"),
        ("n_of_m", {"n": 4}, "n=4: expected a whole number from 1, below m=4"),
        ("channels", {"keep": 1.5}, "keep=1.5: expected"),
        ("prune", {"sparsity": "half"}, "sparsity=half: expected a number from 0, below 1"),
        ("ternary", {"threshold": None}, "threshold=None: expected a number"),
        ("binary", {"per_channel": "no"}, "per_channel=no: expected true or false"),
        ("linear", {"symmetric": 0}, "symmetric=0: expected true or false"),
        ("kmeans", {"leave": "classifier.weight"}, r"leave=classifier.weight: expected a list of names"),
        ("kmeans", {"leave": [3]}, r"leave=\[3\]: expected a list of names"),
    ],
)
def test_settings_that_cannot_be_are_named(name, settings, words):
    with pytest.raises(InstantiationException, match=words):
        method_of(name, **settings)


@torch.no_grad()
def by_chunks(model, frames, sizes=(1, 7, 3)):
    state, out, at = model.initial_state(len(frames)), [], 0
    while at < frames.shape[1]:
        logits, state = model.stream(frames[:, at : at + sizes[len(out) % len(sizes)]], state)
        at += sizes[len(out) % len(sizes)]
        out.append(logits)
    return torch.cat(out, dim=1)


def made(table: list[str], **settings):
    """A configuration, and its model with statistics as training leaves them."""
    torch.manual_seed(0)
    plain = {"_target_": "kws.models.build", "table": table, **settings}
    model = instantiate(plain, n_features=10, n_classes=4)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, 50, 10) * 2 + 1)
    return plain, model.eval()


OVER_TIME = ["conv_k3_s2_c16", "ds_k5_c16_res_r2", "dw_k3", "ds_k3_c24_res", "conv_k1_c8"]
OVER_BOTH = ["conv_k3x3_s2x2_c16", "ds_k3x3_c16_res", "ds_k3x3_s1x2_c16", "flat", "dw_k3x1", "conv_c24", "ds_k3x1_c24"]


@torch.no_grad()
@pytest.mark.parametrize(("form", "table"), [("temporal", OVER_TIME), ("planar", OVER_BOTH)])
def test_channels_that_say_nothing_leave_without_a_trace(form, table):
    plain, model = made(table, act="relu", form=form)
    for name, layer in model.named_modules():  # the second half of every map is silent, and chosen to leave
        if isinstance(layer, torch.nn.BatchNorm2d):
            half = layer.num_features // 2
            layer.weight[half:], layer.bias[half:] = 1e-20, 0
            assert "norm" in name
    frames, method = torch.randn(2, 40, 10), Channels(0.5)
    small = instantiate(method.configure(plain), n_features=10, n_classes=4).eval()
    carry, _ = method.carry(model, small)
    small.load_state_dict(carried(model.state_dict(), carry))
    torch.testing.assert_close(small(frames), model(frames), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_chunks(small, frames), small(frames), atol=1e-5, rtol=1e-5)
    assert cost(small).macs_per_second < 0.45 * cost(model).macs_per_second
    assert small.blocks[2].pointwise.conv.weight.shape == (8, 8, 1, 1)


@pytest.mark.parametrize("row", ["ghost_k3_c16", "conv_k3_c16_g2", "ds_k3_c16_se4"])
def test_blocks_whose_channels_cannot_leave_are_named(row):
    plain, model = made(["conv_k3_c16", row])
    small = instantiate(Channels(0.5).configure(plain), n_features=10, n_classes=4)
    with pytest.raises(KwsError, match=r"method=channels: (block 2 is|blocks.1.conv is a grouped)"):
        Channels(0.5).carry(model, small)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_every_model_at_a_low_rank(name):
    """Layers whose rank is low lose nothing; the two convolutions stream, fold and cost less."""
    torch.manual_seed(0)
    plain = OmegaConf.to_container(config("cost", f"model={name}").model, resolve=True)
    model = instantiate(plain, n_features=40, n_classes=4).eval()
    method = LowRank(0.75)
    small = instantiate(method.configure(plain), n_features=40, n_classes=4).eval()
    try:
        carry, _ = method.carry(model, small)
    except KwsError as error:
        assert "no pointwise convolution" in str(error)  # noqa: PT017
        assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in model.parameters())
        return
    small.load_state_dict(carried(model.state_dict(), carry))
    for stem in ranks(model, 0.75):  # the nearest of that rank
        first, second = (small.get_parameter(f"{stem}.{i}.weight")[:, :, 0, 0] for i in (0, 1))
        model.get_parameter(f"{stem}.weight").copy_((second @ first)[:, :, None, None])
    frames = torch.randn(2, 48, 40)
    torch.testing.assert_close(small(frames), model(frames), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(by_chunks(small, frames), small(frames), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fold(small)(frames), small(frames), atol=1e-5, rtol=1e-5)
    assert cost(small).macs_per_second < cost(model).macs_per_second
    smaller = instantiate(LowRank(0.8).configure(method.configure(plain)), n_features=40, n_classes=4).eval()
    torch.testing.assert_close(fold(smaller)(frames), smaller(frames), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lr", ["fast", "0", "-1e-3", "nan", "true"])
def test_learning_rates_that_cannot_be_are_named_before_any_work(lr):
    with pytest.raises(KwsError, match=r"finetune.lr=.*: expected a number above 0, or null"):
        main.__wrapped__(config("compress", "checkpoint=none", f"finetune.lr={lr}"))


def compress(folder, out, name: str, *more: str) -> dict:
    """The command, in this process; its figures."""
    arguments = [f"checkpoint={folder}", f"compress@method={name}", f"runs={out}", "name=small", "workers=0",
                 f"json={out / 'figures.json'}", *more]  # fmt: skip
    main.__wrapped__(config("compress", *arguments))
    return json.loads((out / "figures.json").read_text())


@pytest.mark.parametrize("name", METHODS)
def test_every_method(folder, corpus, tmp_path, name):
    """Compresses a run, trains on through it, streams, exports, starts another run, is compressed again."""
    figures = compress(folder, tmp_path, name, "finetune.epochs=1")
    assert figures["before"]["accuracy"] >= 0.8
    assert figures["tuned"]["accuracy"] >= 0.5
    assert figures["after"]["file_bytes"] == (tmp_path / "small" / "best.pt").stat().st_size
    assert figures["after"]["file_bytes"] < 0.5 * figures["before"]["file_bytes"]
    if isinstance(method_of(name), Structure):
        assert figures["after"]["macs_per_second"] < figures["before"]["macs_per_second"]
    elif name != "none":
        assert figures["after"]["bits_per_weight"] < 32
        assert len(figures["layers"]) == 4
    for run_folder in (tmp_path / "small", tmp_path / "small-tuned"):
        trained = open_checkpoint(run_folder)
        sound = speechlike(16000)
        with torch.no_grad():
            offline = trained.model(trained.extractor(torch.from_numpy(sound)[None])[0])[0].softmax(1).numpy()
        spotter = Spotter(trained)
        rows = [spotter.scores(sound[:5000]), spotter.scores(sound[5000:]), spotter.scores(sound[:0], flush=True)]
        np.testing.assert_allclose(np.concatenate(rows), offline, atol=1e-4)
        export(trained, tmp_path / "s.onnx")
        assert compare(trained, tmp_path / "s.onnx", [sound]).difference < 1e-4
    other = Trainer(config("train", *tiny(corpus, f"init_from={tmp_path / 'small-tuned'}")), tmp_path / "other")
    if isinstance(method_of(name), Structure):
        with pytest.raises(KwsError, match=r"makes another network: use kws.compress"):
            Trainer(config("train", *tiny(corpus, f"compress={name}")), tmp_path / "other")
    else:
        assert begin(other)
        best = open_checkpoint(tmp_path / "small-tuned").model.state_dict()
        assert all(torch.equal(value, best[key]) for key, value in other.model.state_dict().items())
    again = compress(tmp_path / "small-tuned", tmp_path, "linear", "name=again")
    assert again["before"]["accuracy"] == figures["tuned"]["accuracy"]
    assert again["after"]["accuracy"] >= again["before"]["accuracy"] - 0.1


def test_last_and_best_of_a_run_hear_with_stored_values(folder, corpus, tmp_path):
    compress(folder, tmp_path, "ternary", "finetune.epochs=1")
    run_folder = tmp_path / "small-tuned"
    last, best = (open_checkpoint(run_folder / name).model.state_dict() for name in ("last.pt", "best.pt"))
    assert all(torch.equal(last[name], best[name]) for name in best)
    assert (run_folder / "best.pt").stat().st_size < 0.4 * (run_folder / "last.pt").stat().st_size
    loaded = checkpoint.load(run_folder / "best.pt")
    assert loaded["ema"] is None
    assert sum(stored.codes is not None for stored in loaded["packed"].values()) == 4
    trainer = Trainer(config("train", *tiny(corpus, f"resume.from={run_folder / 'best.pt'}")), tmp_path / "resumed")
    with pytest.raises(KwsError, match=r"best.pt holds weights alone.*last.pt has, or use init_from="):
        begin(trainer)


@pytest.mark.parametrize("name", ["kmeans", "prune"])
def test_stopped_in_training_it_ends_as_if_it_had_not_been(corpus, tmp_path, name):
    whole = Trainer(config("train", *tiny(corpus, f"compress={name}")), tmp_path / "whole")
    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    begin(whole)
    whole.run()
    stopped = Trainer(config("train", *tiny(corpus, f"compress={name}")), tmp_path / "stopped")
    begin(stopped)
    stopped.signal = signal.SIGTERM  # after the first batch
    with pytest.raises(Stopped):
        stopped.run()
    resumed = Trainer(config("train", *tiny(corpus, f"compress={name}")), tmp_path / "stopped")
    begin(resumed)
    assert 0 < resumed.step < whole.total_steps
    resumed.run()
    ours, theirs = (torch.load(tmp_path / f / "last.pt", weights_only=True) for f in ("stopped", "whole"))
    assert all(torch.equal(ours["ema"][key], value) for key, value in theirs["ema"].items())


def test_the_optimiser_follows_the_channels(folder, corpus, tmp_path, capsys):
    compress(folder, tmp_path, "channels", "method.keep=0.5")
    before, after = (checkpoint.load(path) for path in (folder / "best.pt", tmp_path / "small" / "last.pt"))
    wide = before["optimizer"]["state"]["blocks.1.pointwise.conv.weight"]["exp_avg"]
    narrow = after["optimizer"]["state"]["blocks.1.pointwise.conv.weight"]
    assert narrow["exp_avg"].shape == (8, 8, 1, 1)
    rows = [row for row in range(16) if any(torch.equal(wide[row, :, 0, 0][list(c)], narrow["exp_avg"][0, :, 0, 0])
            for c in [_columns(before, after)])]  # fmt: skip
    assert len(rows) == 1
    assert torch.equal(narrow["step"], before["optimizer"]["state"]["blocks.1.pointwise.conv.weight"]["step"])
    epochs = f"train.epochs={1 + math.ceil(after['position']['step'] / after['position']['per_epoch'])}"
    settings = ["model.width=0.5", "model.window_ms=500", f"resume.from={tmp_path / 'small' / 'last.pt'}", epochs]
    trainer = Trainer(config("train", *tiny(corpus, *settings)), tmp_path / "on")
    assert begin(trainer)
    assert "begin without optimiser state" not in capsys.readouterr().out


def _columns(before: dict, after: dict) -> list[int]:
    """Which channels stayed, found by the rows of the first layer."""
    wide, narrow = (saved["model"]["blocks.0.conv.conv.weight"] for saved in (before, after))
    return [next(i for i, row in enumerate(wide) if torch.equal(row, kept)) for kept in narrow]


def test_damaged_files_are_named(folder, tmp_path):
    compress(folder, tmp_path, "linear")
    content = torch.load(tmp_path / "small" / "best.pt", weights_only=True)
    packed = content["packed"]
    for damage in (packed[:-3], packed[:2], torch.cat([packed, packed[:1]])):
        torch.save({**content, "packed": damage}, tmp_path / "bad.pt")
        with pytest.raises(KwsError, match=r"bad.pt cannot be read: the packed weights are damaged"):
            checkpoint.load(tmp_path / "bad.pt")


def test_the_command_line(folder, tmp_path):
    arguments = [f"checkpoint={folder}", f"runs={tmp_path}", "workers=0", "threads=1"]
    done = run(*arguments, "method=kmeans", "method.bits=2", module="kws.compress")
    assert "compressed weights at 2." in done.stdout
    assert (tmp_path / "dscnn_10k-folder-kmeans" / "weights.png").is_file()
    other = run(*arguments, "method=kmeans", "method.bits=3", module="kws.compress", check=False)
    assert "dscnn_10k-folder-kmeans holds another result (compress.bits: 2 -> 3): choose another name" in other.stderr
    wrong = run(*arguments, "method=linear", "method.bits=12", module="kws.compress", check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "error: bits=12: expected a whole number from 2 to 8"
    held = run(*arguments, f"runs={folder.parent}", f"name={folder.name}", module="kws.compress", check=False)
    assert "holds a run, which would be overwritten; choose another name" in held.stderr
    unknown = run(*arguments, "method=svd", module="kws.compress", check=False)
    assert unknown.returncode == 2
    assert "low_rank" in unknown.stderr
