"""Phones beside the words: the agreement with a pronunciation, its training, its export."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import RATE, config
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from kws import audio
from kws.augment import Augment
from kws.data.dataset import ClipDataset
from kws.data.source import Clip
from kws.errors import KwsError
from kws.exporting.spotter import export
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.losses import Ctc, MaxPool, targets
from kws.models import build
from kws.models.speller import STAY, SURPRISE, WORST, Agreement, Speller, spell
from kws.models.table import TableError
from kws.runtime import Spotter
from kws.streaming import Stream, prepare
from kws.training.start import begin
from kws.training.trained import Trained
from kws.training.trainer import Trainer

TABLE = ["conv_k3_s2_c8", "conv_k3_c8"]
SPELLER = {"after": 1, "table": ["conv_k3_c8"], "phones": "abc", "spoken": ["abca", "", "bb"]}


def spelling(**more):
    torch.manual_seed(0)
    return build(TABLE, 8, 3, window_ms=60, speller={**SPELLER, **more}).eval()


def best_way(costs: np.ndarray, word: list[int]) -> float:
    """The agreement of the last step, by trying every way: which step of the last ones begins, where it moves on."""
    places = [unit for phone in word for unit in (phone, 0)][:-1]
    best = -np.inf
    for start in range(len(costs)):
        for way in itertools.product(range(len(places)), repeat=len(costs) - start - 1):
            way = (0, *way)
            if way[-1] != len(places) - 1:
                continue
            value = costs[start, places[0]]
            for step, (before, place) in enumerate(itertools.pairwise(way), start + 1):
                skips = place - before == 2 and place % 2 == 0 and places[place] != places[before]
                if not (place == before or place == before + 1 or skips):
                    break
                value += costs[step, places[place]] + (STAY if place == before else 0)
            else:
                best = max(best, value)
    return best / len(word)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 2), min_size=1, max_size=3), st.integers(1, 6), st.integers(0, 999))
def test_agreement_is_that_of_the_best_of_all_ways(word, steps, seed):
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 4, (1, 3, 1, steps))).float()
    found = Agreement([word], 3)(logits)[0, 0, 0, -1].item() - WORST
    costs = (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-SURPRISE)[0, :, 0].T.double().numpy()
    assert found == pytest.approx(max(best_way(costs, word), -WORST), abs=1e-4)


def test_a_word_agrees_when_its_phones_come_in_their_order():
    def heard(units: list[int]) -> torch.Tensor:
        return 20 * F.one_hot(torch.tensor(units), 4).float().T[None, :, None]

    layer = Agreement([[1, 2, 2, 3], [3]], 4)
    said = layer(heard([0, 1, 1, 0, 2, 0, 2, 3, 0]))[0, :, 0]
    assert said[0].argmax() == 7
    assert said[0, 7].item() == 4  # no place is kept
    assert said[1].tolist()[7] == 4
    once = layer(heard([0, 1, 1, 0, 2, 2, 2, 3, 0]))[0, 0, 0, 7]  # without a step of none it is one phone
    assert once < 4 - SURPRISE / 4 + 0.1
    assert layer(heard([3, 2, 2, 1, 0]))[0, 0].max() == 0


@pytest.mark.parametrize("pieces", [[1] * 40, [3, 5, 32], [40]])
def test_a_stream_has_what_the_whole_has(pieces):
    model = spelling()
    frames = torch.randn(2, 40, 8)
    state, parts = model.initial_state(2), []
    for part in frames.split(pieces, dim=1):
        logits, state = model.stream(part, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(frames), rtol=0, atol=1e-5)


def test_what_was_said_long_ago_is_forgotten():
    layer = Agreement([[1, 2]], 3)
    prepare(layer, torch.zeros(1, 3, 1, 1))
    state = {layer.slot: layer.initial_slot(1)}
    first = 20 * F.one_hot(torch.tensor([1]), 3).float().T[None, :, None]
    none, last = torch.tensor([20.0, 0, 0]).view(1, 3, 1, 1), torch.tensor([0, 0, 20.0]).view(1, 3, 1, 1)
    values = []
    for step in [first, *[none] * 500, last]:
        stream = Stream(state)
        values.append(layer(step, stream).item())
        state = stream.finish()
    never = layer(torch.cat([none] * 10 + [last], dim=3))[0, 0, 0, -1]
    assert values[-1] == pytest.approx(never.item(), abs=1e-4)  # 10 s at 20 ms a step
    soon = layer(torch.cat([first, *[none] * 10, last], dim=3))[0, 0, 0, -1]
    assert soon.item() == pytest.approx(4 + 9 * STAY / 2, abs=1e-4)


def test_words_alone_are_moved_and_only_when_listening():
    model, frames = spelling(), torch.randn(1, 60, 8)
    with torch.no_grad():
        listening = model(frames)
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        added = model(frames)
        assert (added[..., 1] == 0).all()
        assert (added[..., 0] != 0).all()
        assert (added[..., [0, 2]] >= 2.5 - WORST - 1e-5).all()
        doubled = spelling(weight=2.0)
        doubled.load_state_dict(model.state_dict())
        torch.testing.assert_close(doubled.eval()(frames), 2 * added)
        assert (model.train()(frames) == 0).all()
    assert listening.shape == (1, 30, 3)


def test_a_model_that_spells_is_the_same_exported(tmp_path):
    torch.manual_seed(1)
    options = make_options(num_mel_bins=8)
    model = build(TABLE, 8, 3, window_ms=60, speller=SPELLER).eval()
    for many in (False, True):
        trained = Trained(model, FeatureExtractor(options), ["a", "_unknown_", "b"], options, {"model": {}})
        export(trained, tmp_path / "spotter.onnx", many=many)
        samples = np.random.default_rng(0).normal(0, 1000, 3 * RATE).astype(np.float32)
        stream = Spotter(tmp_path / "spotter.onnx").stream()
        found = np.concatenate([stream.scores(part) for part in np.split(samples, 30)])
        with torch.no_grad():
            frames = FeatureExtractor(options)(torch.from_numpy(samples)[None])[0]
            whole = model(frames)[0].softmax(dim=1).numpy()
        np.testing.assert_allclose(found, whole[: len(found)], atol=2e-5)
        assert np.ptp(found[:, 0]) > 0.01


def test_phones_that_are_said_are_learnt_and_the_rest_counts_as_before():
    labels, phones = torch.randn(3, 9, 2), torch.randn(3, 9, 4, requires_grad=True)
    target, ended = targets(torch.tensor([0, 1, 1]), 2), torch.tensor([5, -1, -1])
    said = torch.tensor([[1, 2, 3], [2, -1, -1], [-2, -2, -2]])
    words = ["word", "_unknown_"]
    found = Ctc(words, 20.0)((labels, phones), target, ended, said)
    alone = MaxPool(words, 20.0)(labels, target, ended)
    logs = phones.log_softmax(dim=2)
    for i, spelt in enumerate([[1, 2, 3], [2]]):
        value = F.ctc_loss(logs[i], torch.tensor(spelt), (9,), (len(spelt),), reduction="sum") / len(spelt)
        assert (found - alone)[i].item() == pytest.approx(value.item(), rel=1e-5)
    assert found[2].item() == alone[2].item()
    found.sum().backward()
    assert (phones.grad[:2] != 0).any()
    assert (phones.grad[2] == 0).all()


def test_a_process_without_a_clip_has_a_loss_to_learn_by():
    labels, phones = torch.zeros(0, 9, 2, requires_grad=True), torch.zeros(0, 9, 4, requires_grad=True)
    none = torch.zeros(0, dtype=torch.long)
    loss = Ctc(["word", "_unknown_"], 20.0)((labels, phones), targets(none, 2), none, none.reshape(0, 3)).sum()
    loss.backward()
    assert loss.item() == 0
    assert phones.grad.shape == phones.shape


def test_only_what_is_wholly_in_the_window_is_said(tmp_path):
    tone = 3000 * np.sin(np.arange(RATE) / 5)
    for name, seconds in (("short", 0.5), ("long", 3.0)):
        audio.write(tmp_path / f"{name}.wav", np.resize(tone, round(seconds * RATE)), RATE)
    short, long = str(tmp_path / "short.wav"), str(tmp_path / "long.wav")
    clips = [Clip(short, "ab"), Clip(short, "_unknown_", text="ba b"), Clip(short, "_unknown_"), Clip(long, "ab")]

    def said(**augment) -> list:
        data = ClipDataset(
            clips, ["ab", "_unknown_"], FeatureExtractor(make_options()), 1000.0, Augment(**augment),
            spell=lambda text: spell(text.replace(" ", ""), "ab"),
        )  # fmt: skip
        return [data[(0, i)]["said"].tolist() for i in range(len(clips))]

    assert said() == [[1, 2, -1], [2, 1, 2], [-2] * 3, [-2] * 3]
    assert said(neighbour_chance=1.0)[:2] == [[-2] * 3] * 2
    assert said(piece_chance=1.0)[1] == [-2] * 3


def test_a_spotter_learns_phones_then_words_that_it_never_heard(tmp_path):
    made = [
        "data=synthetic", f"data.cache={tmp_path / 'cache'}", "data.per_word=12", "data.per_word_evaluation=8",
        "data.accents=[en-us]", "data.unknown_least=24", "data.noise_seconds=2", "data.workers=0",
        "train.batch_size=12", "train.workers=0", "train.threads=1", "train.tensorboard=false", f"runs={tmp_path}",
        "train.epochs=1", "model=dscnn", "model.table=[conv_k3_s2_c16,conv_k3_c16]", "+model.speller.after=1",
        "+model.speller.table=[conv_k5_c16]", "+model.speller.phones='#-023?@ADEILNOSTUVZabdefghijklmnoprstuvwz'",
        "+model.speller.spoken=[]",
    ]  # fmt: skip
    first = Trainer(config("train", *made, "name=first", "loss=ctc", "data.words=[left,stop]"), tmp_path)
    begin(first)
    before = {name: value.clone() for name, value in first.model.speller.state_dict().items()}
    first.run()
    assert first.cfg.model.speller.spoken == ["lEft", "st20p", "", ""]
    assert all((value != before[name]).any() for name, value in first.model.speller.named_parameters())
    cfg = config(
        "train", *made, "name=second", "loss=max_pool", "data.words=[open]", f"init_from={tmp_path / 'last.pt'}",
        "train.frozen=1",
    )  # fmt: skip
    (tmp_path / "second").mkdir()
    second = Trainer(cfg, tmp_path / "second")
    begin(second)
    second.run()
    assert second.cfg.model.speller.spoken[0].startswith("o")
    kept = torch.load(tmp_path / "last.pt", weights_only=True)["ema"]
    for name, value in second.model.speller.state_dict().items():
        assert torch.equal(value, kept[f"speller.{name}"]), name


def test_what_cannot_be_spelt_is_named(tmp_path):
    with pytest.raises(TableError, match=r"speller: 'ax' is said with x, which is not among the phones abc"):
        spelling(spoken=["ax", "", ""])
    with pytest.raises(TableError, match=r"speller\.after=0: it hears one band"):
        spelling(after=0)
    assert spelling(spoken=["", "", ""]).speller is None
    given = [
        "data=synthetic",
        f"data.cache={tmp_path}",
        "data.words=[left]",
        "data.per_word=4",
        "name=x",
        f"runs={tmp_path}",
    ]
    for more, reason in [
        (["model=ghost", "loss=ctc"], "loss=ctc trains a model that spells: say model=speech_phones"),
        (["model=speech_phones", "loss=max_pool"], r"hears the first 11 blocks.* train\.frozen=11 or another model"),
        (["model=speech_phones", "loss=ctc", "model.speller.phones=abc"], r"phones: 'left': 'lEft' is said with"),
    ]:  # fmt: skip
        with pytest.raises(KwsError, match=reason):
            Trainer(config("train", *given, *more), tmp_path)


def test_the_speller_of_the_box_knows_phones_of_words_it_never_heard():
    """espeak-ng's own pronunciation of what espeak-ng says agrees better than that of another word."""
    from kws.data.espeak import engine
    from kws.data.near import phonemes
    from kws.spotters import find
    from kws.training import checkpoint

    saved = checkpoint.load(find("speech", ".pt"))
    cfg = config("train", "experiment=text_wake_word", "data.words=[x]")
    words = ["aurora", "marmalade", "telephone"]
    cfg.model.speller.spoken = [phonemes(word) for word in words]
    options = make_options(**saved["features"])
    model = instantiate(cfg.model, n_features=options.dim, n_classes=3, shift_ms=options.frame_shift)
    checkpoint.fit(saved["ema"] or saved["model"], model, saved["labels"], words)
    model.eval()
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    for i, word in enumerate(words):
        wave = audio.resample(*engine().speak(word, "en-us+Alex", 150, 50), RATE)
        wave = np.concatenate([np.zeros(RATE // 2), wave, np.zeros(RATE // 2)]).astype(np.float32)
        with torch.no_grad():
            scores = model(FeatureExtractor(options)(torch.from_numpy(wave)[None])[0])[0].amax(dim=0)
        assert scores[i] > scores[[j for j in range(3) if j != i]].max() + 0.7, (word, scores)


def test_a_speller_takes_what_its_yaml_says():
    speller = {**config("train", "model=speech_phones").model.speller, "spoken": ["a"]}
    for key in ("after", "table"):
        del speller[key]
    assert isinstance(Speller(torch.nn.Identity(), 4, step_ms=20.0, **speller), Speller)
