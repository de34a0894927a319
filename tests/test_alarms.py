"""Long audio: labels, the matching rule, sweeps, thresholds from a budget, and the commands around them."""

import json
import math

import numpy as np
import pytest
from conftest import RATE, WORDS, config, spoken
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from processes import run

from kws import audio, evaluate, export, join, plots
from kws.alarms import thresholds
from kws.alarms.conditions import Condition, conditions, convolved, speech_level
from kws.alarms.labels import (
    EXTRA,
    FALSE,
    Label,
    Recording,
    match,
    negative_seconds,
    read_labels,
    windows,
    write_labels,
)
from kws.alarms.sweep import THRESHOLDS, Heard, alarms, best_within, choose, hours_by_kind, smooth, sweep
from kws.alarms.tables import figures, warnings
from kws.decision import Decision
from kws.errors import KwsError
from kws.metrics import binomial_interval, poisson_interval

LABELS = ["a", "b", "c", "_unknown_"]


# intervals


def test_binomial_intervals_are_clopper_and_pearsons():
    # Newcombe 1998, Statistics in Medicine 17, table I, method 5
    for (r, n), (low, high) in {
        (81, 263): (0.2527, 0.3676), (15, 148): (0.0578, 0.1617), (0, 20): (0.0, 0.1684), (1, 29): (0.0009, 0.1776),
    }.items():  # fmt: skip
        np.testing.assert_allclose(binomial_interval(r, n), (low, high), atol=5e-5)
    assert binomial_interval(0, 0) == (0.0, 1.0)
    assert binomial_interval(7, 7)[1] == 1.0


def test_poisson_intervals_are_garwoods():
    # Garwood 1936, table; also Ulm 1990, American Journal of Epidemiology 131
    table = {0: (0, 3.689), 1: (0.0253, 5.572), 2: (0.242, 7.225), 5: (1.623, 11.668), 10: (4.795, 18.390)}
    for count, expected in {**table, 100: (81.364, 121.627)}.items():
        np.testing.assert_allclose(poisson_interval(count), expected, atol=5e-4)
    assert poisson_interval(0, 0.9)[1] == pytest.approx(-math.log(0.05))  # the rule of three


@pytest.mark.parametrize(("count", "total"), [(3, 40), (39, 40), (400, 700)])
def test_an_interval_ends_where_the_tail_has_its_share(count, total):
    def at_most(k, p):
        return math.fsum(math.comb(total, i) * p**i * (1 - p) ** (total - i) for i in range(k + 1))

    low, high = binomial_interval(count, total)
    assert 1 - at_most(count - 1, low) == pytest.approx(0.025, rel=1e-6)
    assert at_most(count, high) == pytest.approx(0.025, rel=1e-6)


# the matching rule


def test_the_rule():
    labels = [Label("a", 1, 2), Label("b", 4, 5), Label("a", 5.2, 6)]
    said = [("a", 0.99), ("a", 1.0), ("a", 2.5), ("b", 2.51), ("b", 4.2), ("c", 4.3), ("b", 5.4), ("a", 5.4), ("a", 9)]
    words, times = zip(*said, strict=True)
    expected = [FALSE, 0, EXTRA, FALSE, 1, EXTRA, EXTRA, 2, FALSE]
    assert match(labels, words, times, 0.5).tolist() == expected
    assert windows(labels, 0.5).tolist() == [[1, 2.5], [4, 6.5]]
    assert negative_seconds(labels, 0.5, 10) == pytest.approx(10 - 1.5 - 2.5)
    assert negative_seconds(labels, 0.5, 6.1) == pytest.approx(6.1 - 1.5 - 2.1)  # no window behind the end
    assert match([], ["a"], [1.0], 0.5).tolist() == [FALSE]


said = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12), st.integers(1, 8)), max_size=8)
heard = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 120)), max_size=25)


@settings(max_examples=200, deadline=None)
@given(said=said, heard=heard, tolerance=st.integers(0, 15))
def test_an_alarm_answers_one_label_and_a_label_counts_once(said, heard, tolerance):
    labels, at = [], 0
    for word, gap, length in said:
        labels.append(Label(word, at + gap, at + gap + length))
        at += gap + length
    heard.sort(key=lambda pair: pair[1])
    words, times = [word for word, _ in heard], [time for _, time in heard]
    answers = match(labels, words, times, tolerance)

    def fits(i, j):
        return labels[j].word == words[i] and labels[j].start <= times[i] <= labels[j].end + tolerance

    hits = [(i, j) for i, j in enumerate(answers) if j >= 0]
    assert all(fits(i, j) for i, j in hits)
    assert len({j for _, j in hits}) == len(hits)
    inside = [any(b.start <= t <= b.end + tolerance for b in labels) for t in times]
    assert [answer != FALSE for answer in answers] == inside
    # in the order of time, each takes the earliest that is left
    free, naive = set(range(len(labels))), []
    for i in range(len(heard)):
        mine = [j for j in sorted(free) if fits(i, j)]
        naive += mine[:1] or [None]
        free -= set(mine[:1])
    assert [j if j >= 0 else None for j in answers] == naive
    # and no other pairing would find more words: Kuhn's augmenting paths
    owner = {}

    def placed(i, seen):
        for j in range(len(labels)):
            if fits(i, j) and j not in seen:
                seen.add(j)
                if j not in owner or placed(owner[j], seen):
                    owner[j] = i
                    return True
        return False

    assert sum(placed(i, set()) for i in range(len(heard))) == len(hits)
    ticks = np.arange(0, 200, 0.5) + 0.25
    outside = ~np.any([(ticks > b.start) & (ticks < b.end + tolerance) for b in labels] or [ticks < 0], axis=0)
    assert negative_seconds(labels, tolerance, 200) == pytest.approx(0.5 * outside.sum())


# labels


@pytest.fixture
def sounds(tmp_path):
    for name in ("x.wav", "y.wav"):
        audio.write(tmp_path / name, np.zeros(5 * RATE), RATE)
    return tmp_path


def labels_of(folder, *rows, header="path,start,end,word,kind"):
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return read_labels(path, ["a", "b"])


def test_labels_are_read(sounds):
    found = labels_of(sounds, "x.wav,3,4,b,real", f"{sounds}/y.wav,,,,made", "x.wav,1,2.5,a,real")
    x, y = str(sounds / "x.wav"), str(sounds / "y.wav")
    assert found == [Recording(x, "real", [Label("a", 1, 2.5), Label("b", 3, 4)]), Recording(y, "made", [])]
    write_labels(sounds / "again.csv", found)
    assert read_labels(sounds / "again.csv", ["a", "b"]) == found
    bare = labels_of(sounds, "x.wav, 1, 2, a", header="\ufeffpath, start, end, word")
    assert bare == [Recording(x, "audio", [Label("a", 1, 2)])]


@pytest.mark.parametrize(
    ("reason", "rows"),
    [
        ("line 2: a label from 2 to 1 s; expected 0 <= start < end", ["x.wav,2,1,a,r"]),
        ("line 2: a label from -1 to 1 s", ["x.wav,-1,1,a,r"]),
        ("line 2: a label from nan to 1 s", ["x.wav,nan,1,a,r"]),
        ("line 3: 'one' to '2' are no times", ["x.wav,,,,r", "x.wav,one,2,a,r"]),
        ("line 2: 'cat' is no word of the checkpoint, which knows a, b", ["x.wav,1,2,cat,r"]),
        ("line 2: '' is no word", ["x.wav,1,2,,r"]),
        ("line 2: .*nowhere.wav: No such file", ["nowhere.wav,1,2,a,r"]),
        ("line 2: a label up to 6 s, the recording has 5.00 s", ["x.wav,1,6,a,r"]),
        ("lines 3 and 2 overlap", ["x.wav,2,3,a,r", "x.wav,1,2.1,b,r"]),
        ("line 3: x.wav is made here and real above", ["x.wav,2,3,a,real", "x.wav,,,,made"]),
        ("line 2: expected path,start,end,word,kind", ["x.wav,1"]),
        ("line 2: expected path,start,end,word,kind", ["x.wav,1,2,a,r,more"]),
        ("no recordings", []),
    ],
)
def test_labels_that_cannot_be_are_named(sounds, reason, rows):
    with pytest.raises(KwsError, match=reason):
        labels_of(sounds, *rows)


def test_files_of_labels_that_cannot_be_are_named(sounds):
    with pytest.raises(KwsError, match="no column end, word; expected path,start,end,word, found path,start"):
        labels_of(sounds, "x.wav,1", header="path,start")
    with pytest.raises(KwsError, match=r"no column path, .*found nothing"):
        labels_of(sounds, header="")
    with pytest.raises(KwsError, match="cannot be read"):
        read_labels(sounds / "none.csv", ["a"])
    (sounds / "text").write_bytes(b"path,start,end,word\n\xff\xfe")
    with pytest.raises(KwsError, match="not UTF-8"):
        read_labels(sounds / "text", ["a"])


# sweeps


def random_scores(seed: int, steps: int = 600, hold: int = 6) -> np.ndarray:
    """Posteriors (steps, labels) that stay a while, often near an end."""
    rng = np.random.default_rng(seed)
    return np.repeat(rng.dirichlet(np.full(len(LABELS), 0.15), steps // hold), hold, axis=0).astype(np.float32)


def machine(threshold=0.7, **more) -> Decision:
    return Decision(LABELS, 20.0, 15.0, threshold=threshold, **more)


def heard_of(scores, labels=(), kind="real", decision=None) -> Heard:
    decision = decision or machine()
    return Heard(Recording("x", kind, list(labels)), 0.02 * len(scores), LABELS[:3], smooth(scores, decision))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), threshold=st.one_of(st.floats(0.05, 1.0), st.sampled_from(list(THRESHOLDS))),
    b=st.floats(0.05, 1.0), smoothing=st.sampled_from([20, 60, 200]), refractory=st.sampled_from([0, 100, 700]),
    release=st.sampled_from([0.3, 0.6, 1.0]), steps=st.sampled_from([0, 3, 600]),
)  # fmt: skip
def test_a_sweep_at_a_threshold_is_the_decision_at_it(seed, threshold, b, smoothing, refractory, release, steps):
    more = {"smoothing_ms": smoothing, "refractory_ms": refractory, "release": release}
    scores = random_scores(seed)[:steps]
    exact = float(smooth(scores, machine(**more)).max(axis=1, initial=0.5)[seed % steps]) if steps else 0.5  # reached
    for limit in (exact, float(threshold), {"a": float(threshold), "b": b, "_default_": 0.5}):
        decision, rng = machine(limit, **more), np.random.default_rng(seed)
        expected, at = [], 0
        while at < len(scores):  # as a listener would be given them
            n = int(rng.integers(1, 80))
            expected += decision.push(scores[at : at + n])
            at += n
        found = alarms(heard_of(scores, decision=machine(**more)), machine(limit, **more), 0.5)
        assert [LABELS[column] for column in found.words] == [d.word for d in expected]
        assert found.times.tolist() == [d.end for d in expected]
        assert found.scores.tolist() == [d.score for d in expected]


def test_a_sweep_counts_what_each_threshold_gives():
    labels = [Label("a", 1, 2), Label("b", 3, 3.5), Label("a", 6, 7.5)]
    recordings = [heard_of(random_scores(1), labels), heard_of(random_scores(2), kind="made")]
    swept = sweep(recordings, machine, 0.5)
    for row in range(0, len(THRESHOLDS), 20):
        result = figures([alarms(one, machine(float(THRESHOLDS[row])), 0.5) for one in recordings], 0.5)
        assert result["missed"] == 3 - swept.hits[row].sum()
        for kind in ("real", "made"):
            assert result["false"][kind]["count"] == swept.false[kind][row].sum()
    assert swept.hits.sum() > 0 < swept.false["made"].sum()


def test_the_best_threshold_within_a_budget():
    counts = np.array([9, 2, 5, 2, 1, 0])
    assert best_within(counts, np.array([9, 8, 9, 7, 6, 0]), 2) == 1
    assert best_within(counts, np.array([9, 5, 9, 5, 6, 6]), 2) == 4
    assert best_within(np.array([1, 1]), np.array([3, 3]), 2) == 0
    assert best_within(np.array([3, 3]), np.array([3, 3]), 2) is None


def test_figures_of_a_made_case():
    scores = np.full((1000, 4), 0.01, np.float32)
    for word, first, last in ((0, 100, 150), (1, 300, 350), (2, 320, 330), (0, 600, 650)):
        scores[first:last, word] = 0.96 if last - first > 10 else 0.99
    labels = [Label("a", 2.0, 2.6), Label("b", 6.0, 6.4), Label("c", 16, 17)]
    one = heard_of(scores, labels)
    result = figures([alarms(one, machine(0.7), 0.5)], 0.5)
    assert (result["said"], result["missed"]) == (3, 1)  # nobody heard c
    assert result["false"]["real"]["count"] == 1  # the second a
    hours = (20 - 1.1 - 0.9 - 1.5) / 3600
    assert result["false"]["real"]["hours"] == pytest.approx(hours) == hours_by_kind([one], 0.5)["real"]
    assert result["false"]["real"]["per_hour"] == pytest.approx(1 / hours)
    assert -0.6 < result["delay"]["median"] < 0
    none = figures([alarms(heard_of(scores), machine(0.7), 0.5)], 0.5)
    assert none["frr"] is None
    assert none["delay"] is None


def test_what_hours_cannot_resolve_is_said():
    (line,) = warnings({"real": 2.0, "made": 100.0}, [0.1, 0.5, 2])
    assert line.startswith("real negatives cannot resolve so few false alarms an hour: no alarm in 2.00 h may still")
    assert line.endswith("mean 1.5 an hour; it takes 30 h for 0.1, 6 h for 0.5")
    assert warnings({"real": 30.0}, [0.1]) == []
    assert "there are none" in warnings({"real": 0.0}, [0.1])[0]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), allowed=st.integers(0, 12))
def test_chosen_thresholds_keep_to_the_budget(seed, allowed):
    labels = [Label("abc"[i % 3], 1 + 1.5 * i, 1.6 + 1.5 * i) for i in range(6)]
    recordings = [heard_of(random_scores(seed), labels), heard_of(random_scores(seed + 1))]
    swept = sweep(recordings, machine, 0.5)
    hours = sum(hours_by_kind(recordings, 0.5).values())
    chosen = choose(recordings, swept, machine, 0.5, allowed / hours * 1.001, 0.3)
    if chosen is None:
        assert swept.false["real"][-1].sum() > 0  # even the highest threshold gives some
        return
    assert min(chosen.values()) >= 0.3
    result = figures([alarms(one, machine(chosen), 0.5) for one in recordings], 0.5)
    assert result["false"]["real"]["count"] <= allowed


def test_alarms_are_given_to_the_word_that_gains_most():
    """One false alarm allowed: "a" would find one word more with it, "b" three."""
    scores = np.full((4000, 4), 0.001, np.float32)
    labels = []
    for i, (word, score) in enumerate([(0, 0.9), (0, 0.6), *[(1, 0.6)] * 3, (1, 0.9)]):
        scores[100 + 200 * i : 140 + 200 * i, word] = score
        labels.append(Label(LABELS[word], 2 + 4 * i, 2.8 + 4 * i))
    for at, word in ((2000, 0), (2400, 1)):
        scores[at : at + 40, word] = 0.7
    one = heard_of(scores, labels)
    hours = hours_by_kind([one], 0.5)["real"]
    chosen = {
        count: choose([one], sweep([one], machine, 0.5), machine, 0.5, (count + 0.01) / hours, 0.3)
        for count in range(3)
    }
    assert chosen[0]["a"] > 0.7 < chosen[0]["b"]
    assert chosen[1]["a"] > 0.7 > chosen[1]["b"]
    assert chosen[2] == {"a": 0.3, "b": 0.3, "c": 0.3} or max(chosen[2].values()) < 0.32


# sound made harder


def test_background_stands_at_its_ratio_and_is_the_same_at_every_one(tmp_path):
    speech = np.concatenate([np.zeros(3 * RATE), 1000 * np.sin(np.arange(2 * RATE)), np.zeros(15 * RATE)])
    audio.write(tmp_path / "long.wav", speech, RATE)
    audio.write(tmp_path / "noise.wav", np.random.default_rng(0).standard_normal(2 * RATE) * 50, RATE)
    clean, *rest = conditions([20, 0], str(tmp_path / "noise.wav"), None, RATE)
    assert [each.name for each in rest] == ["20 dB", "0 dB"]
    added = {}
    for each in rest:
        out = np.concatenate(list(each.blocks(tmp_path / "long.wav", RATE, seed=3)))
        added[each.snr] = out - np.concatenate(list(clean.blocks(tmp_path / "long.wav", RATE)))
    level = float(np.sqrt(np.mean(added[0] ** 2)))
    assert level == pytest.approx(1000 / np.sqrt(2), rel=0.02)  # of the speech, not of the silence around it
    np.testing.assert_allclose(added[20], added[0] / 10, atol=0.01)
    np.testing.assert_allclose(added[0][2 * RATE :], added[0][: -2 * RATE], atol=0.01)  # on and on, block after block
    assert speech_level(iter([speech]), RATE) == pytest.approx(1000 / np.sqrt(2), rel=0.02)
    speech[::RATE] = 30000  # a click a second, and a floor, in ten minutes of which two seconds are speech
    floor = np.random.default_rng(1).normal(0, 10, 580 * RATE)
    assert speech_level(iter([speech, floor]), RATE) == pytest.approx(1000 / np.sqrt(2), rel=0.1)
    assert speech_level(iter([np.zeros(RATE)]), RATE) == 0
    with pytest.raises(KwsError, match="needs noise=FOLDER"):
        conditions([20], None, None, RATE)
    with pytest.raises(KwsError, match=r"rooms=.*no sound files"):
        conditions([], None, str(tmp_path / "none"), RATE)


def test_every_room_has_a_name_of_its_own(tmp_path):
    for name in ("a/rir.wav", "b/rir.wav"):
        (tmp_path / name).parent.mkdir()
        audio.write(tmp_path / name, [1000.0, 10.0], RATE)
    assert [each.name for each in conditions([], None, str(tmp_path), RATE)] == ["clean", "a/rir", "b/rir"]
    for name, sound in (("clean.wav", [1000.0]), ("silent.wav", [0.0] * 9)):
        audio.write(tmp_path / name, sound, RATE)
        with pytest.raises(KwsError, match=f"rooms: .*{name}"):
            conditions([], None, str(tmp_path / name), RATE)


def test_a_room_is_a_convolution_in_any_blocks():
    rng = np.random.default_rng(0)
    sound, response = rng.standard_normal(5000), rng.standard_normal(700)
    expected = np.convolve(sound, response / np.linalg.norm(response))[:5000]
    for size in (5000, 300, 1700):
        blocks = [sound[at : at + size] for at in range(0, 5000, size)]
        out = list(convolved(iter(blocks), response))
        assert [len(block) for block in out] == [len(block) for block in blocks]
        np.testing.assert_allclose(np.concatenate(out), expected, atol=1e-4)
    assert Condition("room", response=response).snr is None


# thresholds beside a checkpoint


def test_thresholds_are_those_of_the_weights(tmp_path):
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"weights")
    assert thresholds.read(checkpoint) == {}
    decision = {"threshold": {"a": 0.5, "b": 0.25}, "smoothing_ms": 80.0}
    path = thresholds.write(checkpoint, decision, budget=1)
    assert path == tmp_path / "best.thresholds.json"
    assert thresholds.read(checkpoint) == decision
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "best.thresholds.json"]
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(KwsError, match=r"chosen for other weights than best.pt holds now"):
        thresholds.read(checkpoint)
    for damaged in ('{"threshold"', "[]", '{"decision": {"threshold": {"a": "x"}}, "sha256": ""}', '{"threshold": {}}'):
        path.write_text(damaged)
        with pytest.raises(KwsError, match="cannot be read"):
            thresholds.read(checkpoint)


# the commands


@pytest.fixture(scope="module")
def long(corpus, tmp_path_factory):
    """A csv of joined words, and of speech-like noise as what is real."""
    out = tmp_path_factory.mktemp("long")
    run(f"output={out / 'said'}", "data=folder", f"data.root={corpus}", "data.unknown=false", "split=test",
        "gap_ms=1500", "minutes=0.5", module="kws.join")  # fmt: skip
    rng = np.random.default_rng(5)
    hiss = rng.standard_normal(25 * RATE) * 60
    hiss[20 * RATE :] += np.concatenate([spoken("rise", rng), spoken("low", rng), np.zeros(4 * RATE)])
    audio.write(out / "street.flac", hiss, RATE)
    rows = (out / "said" / "labels.csv").read_text().splitlines()
    rows = [rows[0], *(f"said/{row}" for row in rows[1:]), "street.flac,,,,real"]
    (out / "labels.csv").write_text("\n".join(rows) + "\n")
    return out


def call(command, *arguments):
    """A command in this process: one of its own takes seconds to import everything."""
    command.main.__wrapped__(config(command.__name__.removeprefix("kws."), *arguments))


DECISION = ["decision.smoothing_ms=100", "decision.warm_up_ms=300"]


def test_joined_clips_are_where_the_labels_say(corpus, long, tmp_path, capsys):
    found = read_labels(long / "said" / "labels.csv", list(WORDS))
    assert len(found) > 1  # minutes=0.5
    assert {one.kind for one in found} == {"joined"}
    labels = [(one.path, label) for one in found for label in one.labels]
    assert len(labels) == 8 * len(WORDS)
    clips = {word: [audio.read(p)[0] for p in (corpus / "test" / word).glob("*.wav")] for word in WORDS}
    for path, (word, start, end) in labels:
        part = audio.read(path)[0][round(start * RATE) : round(end * RATE)]
        assert any(len(clip) == len(part) and (np.abs(clip - part) <= 1).all() for clip in clips[word])
    again = ["data=folder", f"data.root={corpus}", "data.unknown=false", "split=test", "gap_ms=1500", "minutes=0.5"]
    call(join, f"output={tmp_path / 'said'}", *again)
    for one in (long / "said").iterdir():
        assert (tmp_path / "said" / one.name).read_bytes() == one.read_bytes()
    others = ["data=folder", f"data.root={corpus}", "data.words=[low,high]", "said=others", "kind=made", "gap_ms=0"]
    call(join, f"output={tmp_path / 'others'}", *others)
    assert read_labels(tmp_path / "others" / "labels.csv", ["low"])[0].labels == []
    assert f"{2 * (24 + 8 + 8)} clips" in capsys.readouterr().out
    for reason, more in [
        ("said=x: choose one of words, others, all", "said=x"), ("minutes=0: expected", "minutes=0"),
        ("minutes=ten: expected", "minutes=ten"), (r"clips=2\.5: expected", "clips=2.5"),
        ("gap_ms=-1: expected 0 or more", "gap_ms=-1"), ("gap_ms=True: expected", "gap_ms=true"),
        ("snr=None: expected dB", "snr=null"),
    ]:  # fmt: skip
        with pytest.raises(KwsError, match=reason):
            call(join, f"output={tmp_path / 'no'}", *again, more)


def test_a_long_recording_is_joined_once_and_labels_come_last(tmp_path, capsys):
    (tmp_path / "talk").mkdir()
    (tmp_path / "word").mkdir()
    rng = np.random.default_rng(0)
    audio.write(tmp_path / "talk" / "radio.wav", rng.standard_normal(20 * RATE) * 500, RATE)
    for i in range(20):
        audio.write(tmp_path / "word" / f"{i}.wav", spoken("low", rng), RATE)
    given = ["data=wake_word", "data.word=low", f"data.root={tmp_path / 'word'}", f"data.others=[{tmp_path / 'talk'}]",
             "data.synthetic=null", "said=others", f"output={tmp_path / 'out'}"]  # fmt: skip
    call(join, *given, "split=train")
    assert ": 1 clips" in capsys.readouterr().out
    (tmp_path / "talk" / "radio.wav").write_bytes((tmp_path / "talk" / "radio.wav").read_bytes()[:-20000])
    with pytest.raises(KwsError, match=r"1 of 1 recordings cannot be used, .*truncated"):
        call(join, *given, "split=train")
    assert not (tmp_path / "out" / "labels.csv").exists()


def test_long_audio(folder, long, corpus, tmp_path):
    noise = corpus / "test" / "_background_noise_"
    (tmp_path / "rooms").mkdir()
    rng = np.random.default_rng(0)
    audio.write(
        tmp_path / "rooms" / "hall.wav", rng.standard_normal(8000) * 9000 * np.exp(-np.arange(8000) / 900), RATE
    )
    asked = [f"labels={long / 'labels.csv'}", f"json={tmp_path / 'f.json'}", f"plot={tmp_path / 'p.png'}", *DECISION]
    more = ["snr=[20,-20]", f"noise={noise}", f"rooms={tmp_path / 'rooms'}", f"alarms={tmp_path / 'mine'}"]
    done = run(f"checkpoint={folder}", *asked, *more, "decision.threshold=0.5", module="kws.evaluate")
    figures = json.loads((tmp_path / "f.json").read_text())["checkpoints"][str(folder)]
    assert list(figures["conditions"]) == ["clean", "20 dB", "-20 dB", "hall"]
    clean = figures["conditions"]["clean"]["as_set"]
    assert clean["said"] == 32
    assert clean["missed"] <= 6, done.stdout
    assert figures["conditions"]["-20 dB"]["as_set"]["missed"] > clean["missed"]
    assert figures["hours"]["real"] == pytest.approx(25 / 3600)
    real = [alarm for alarm in figures["false_alarms"] if alarm["kind"] == "real"]
    assert len(real) == clean["false"]["real"]["count"] >= 1  # two words are said, and not labelled
    assert {alarm["word"] for alarm in real} <= {"rise", "low"}
    assert all(20 <= alarm["time"] <= 21.5 for alarm in real)
    wavs = sorted((tmp_path / "mine" / "_unknown_").iterdir())
    assert len(wavs) == len(figures["false_alarms"])
    (first,) = [
        wav for wav in wavs if wav.name == f"street_nohash_{real[0]['word']}-{round(1000 * real[0]['time'])}.wav"
    ]
    cut, street = audio.read(first)[0], audio.read(long / "street.flac")[0]
    start = int((real[0]["time"] - 1.5) * RATE)
    np.testing.assert_array_equal(cut, street[start : start + len(cut)])
    assert len(cut) == pytest.approx(2 * RATE, abs=1)
    assert "warning: real negatives cannot resolve so few false alarms an hour" in done.stdout
    assert (tmp_path / "p.png").stat().st_size > 5000 < (tmp_path / "p-scores.png").stat().st_size


def test_thresholds_travel_from_a_budget_to_the_device(folder, long, tmp_path, capsys):
    """Checkpoint, thresholds, export, spotter: each word has the threshold that was chosen, in listening too."""
    from kws.runtime import Spotter

    checkpoint, file = tmp_path / "best.pt", tmp_path / "s.onnx"
    checkpoint.write_bytes((folder / "best.pt").read_bytes())
    asked = [f"labels={long / 'labels.csv'}", f"json={tmp_path / 'f.json'}", f"plot={tmp_path / 'p.png'}", *DECISION]
    call(evaluate, f"checkpoint={checkpoint}", *asked, "budget=300")
    figures = json.loads((tmp_path / "f.json").read_text())["checkpoints"][str(checkpoint)]
    chosen = thresholds.read(checkpoint)["threshold"]
    assert figures["threshold"] == chosen
    assert list(chosen) == sorted(WORDS)
    assert set(chosen.values()) != {0.7}
    rates = figures["conditions"]["clean"]["as_set"]["false"].values()
    assert sum(rate["count"] for rate in rates) <= 300 * sum(rate["hours"] for rate in rates)
    assert "which kws.export takes" in capsys.readouterr().out
    call(export, f"checkpoint={checkpoint}", f"output={file}", *DECISION)
    decision = Spotter(file).decision
    call(export, f"checkpoint={checkpoint}", f"output={file}")
    spotter = Spotter(file)
    assert spotter.decision == decision  # what they were chosen with comes with them
    assert spotter.decision["threshold"] == chosen
    with pytest.raises(KwsError, match=r"smoothing_ms=777: .*best\.thresholds\.json was chosen with \d+; choose again"):
        call(export, f"checkpoint={checkpoint}", f"output={file}", "decision.smoothing_ms=777")
    machine = spotter.stream().decision
    assert [machine.threshold[i] for i in machine.words] == [chosen[machine.labels[i]] for i in machine.words]
    call(evaluate, f"checkpoint='{checkpoint},{file}'", *asked)
    torch, onnx = json.loads((tmp_path / "f.json").read_text())["checkpoints"].values()
    assert torch["conditions"]["clean"]["as_set"] == onnx["conditions"]["clean"]["as_set"]
    assert torch["conditions"]["clean"]["as_set"]["missed"] == figures["conditions"]["clean"]["as_set"]["missed"]
    assert capsys.readouterr().out.count("words are said") == 2
    sound = long / "said" / "said-000.wav"
    listened = [
        run(f"checkpoint={one}", f"input={sound}", *more, module="kws.listen").stdout
        for one, more in ((checkpoint, DECISION), (file, []), (checkpoint, ["decision.threshold=1.5"]))
    ]
    assert listened[0] == listened[1] != ""
    assert listened[2] == ""  # the command line comes first
    call(export, f"checkpoint={checkpoint}", f"output={file}", "decision.threshold=0.9")
    assert Spotter(file).decision["threshold"] == 0.9
    checkpoint.write_bytes((folder / "last.pt").read_bytes())
    with pytest.raises(KwsError, match="chosen for other weights"):
        call(export, f"checkpoint={checkpoint}", f"output={file}")
    call(evaluate, f"checkpoint={checkpoint}", *asked, "budget=300")
    call(export, f"checkpoint={checkpoint}", f"output={file}")


def test_settings_that_cannot_be_are_named(folder, long, tmp_path):
    labels, onnx = f"labels={long / 'labels.csv'}", tmp_path / "s.onnx"
    onnx.touch()
    two = f"checkpoint='{folder},{folder}'"
    for arguments, reason in [
        ((two, labels, "budget=1"), "budget=1: for one checkpoint at a time"),
        ((two, labels, f"alarms={tmp_path}"), "for one checkpoint at a time"),
        ((f"checkpoint={onnx}", labels, "budget=1"), "budget= needs a checkpoint"),
        ((f"checkpoint={folder}", labels, "per_hour=[0]"), r"per_hour=\[0\]: expected numbers above 0"),
        ((f"checkpoint={folder}", labels, "per_hour=0"), "per_hour=0: expected numbers above 0"),
        ((f"checkpoint={folder}", labels, "budget=-1"), "budget=-1: expected numbers above 0"),
        ((f"checkpoint={folder}", labels, "budget=0"), "budget=0: expected numbers above 0"),
        ((f"checkpoint={folder}", labels, "tolerance_ms=null"), "tolerance_ms=None: expected 0 or more"),
        ((f"checkpoint={folder}", labels, "snr=[x]"), r"snr=\['x'\]: expected dB"),
        ((f"checkpoint={folder}", labels, "snr=20"), "needs noise=FOLDER"),
        ((f"checkpoint={folder}", labels, "decision.threshold=-1"), "decision: threshold of"),
        ((f"checkpoint={folder}", "snr=[20,10]"), "clips are given one"),
        ((f"checkpoint={folder}", f"labels={tmp_path / 'none.csv'}"), "cannot be read"),
    ]:
        with pytest.raises(KwsError, match=reason):
            call(evaluate, *arguments)


@pytest.mark.parametrize("frr", [[0.1, 0.4], None])
def test_a_curve_is_drawn_whether_or_not_anything_was_said(tmp_path, frr):
    kinds = {"real": [20.0, 0.0], "made": [3.0, 1.0]}
    curves = [
        {"name": "a", "kind": kind, "hours": 2.0, "said": 40 if frr else 0, "threshold": [0.2, 0.8], "per_hour": rates,
         "frr": frr}
        for kind, rates in kinds.items()
    ]  # fmt: skip
    plots.det(curves, tmp_path / "det.png")
    pixels = np.round(255 * imread(tmp_path / "det.png")[..., :3])
    panels = np.array_split(pixels[:, : pixels.shape[1] * 9 // 11], 2, axis=1)  # without the legend
    assert all((panel == (31, 119, 180)).all(axis=2).sum() > 50 for panel in panels)  # matplotlib's first colour
