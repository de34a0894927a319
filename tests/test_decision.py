"""Scores to detections."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.decision import Decision

LABELS = ["yes", "no", "_unknown_", "_silence_"]


def scores(*stretches: tuple[str, int], peak: float = 0.95) -> np.ndarray:
    """Rows of probabilities: for each (label, steps) that label stands at `peak`."""
    rows = []
    for label, steps in stretches:
        row = np.full(4, (1 - peak) / 3)
        row[LABELS.index(label)] = peak
        rows += [row] * steps
    return np.array(rows)


def machine(**more) -> Decision:
    return Decision(LABELS, 20.0, **{"smoothing_ms": 100, "refractory_ms": 400, "warm_up_ms": 200, **more})


def test_a_word_is_heard_once_with_its_time():
    found = machine().push(scores(("_silence_", 50), ("yes", 40), ("_silence_", 50)))
    assert [d.word for d in found] == ["yes"]
    assert 1.0 <= found[0].start <= found[0].end <= 1.2
    assert found[0].score >= 0.7


def test_the_same_word_again_needs_a_pause_and_another_does_not_wait_for_it():
    again = machine().push(scores(("_silence_", 20), ("yes", 30), ("_silence_", 30), ("yes", 30)))
    assert [d.word for d in again] == ["yes", "yes"]
    other = machine().push(scores(("_silence_", 20), ("yes", 30), ("no", 30)))
    assert [d.word for d in other] == ["yes", "no"]


def test_quiet_at_the_start_and_after_a_word():
    assert machine(warm_up_ms=2000).push(scores(("yes", 20), ("_silence_", 100))) == []
    blinking = scores(*[("yes", 6), ("_silence_", 6)] * 10)
    times = [d.end for d in machine(refractory_ms=800).push(blinking)]
    assert len(times) >= 2
    assert min(np.diff(times)) >= 0.8


def test_smoothing_ignores_a_blink_and_hysteresis_a_dip():
    assert machine().push(scores(("_silence_", 50), ("yes", 2), ("_silence_", 50))) == []
    dip = np.concatenate([scores(("_silence_", 30), ("yes", 60)), scores(("yes", 30), peak=0.6), scores(("yes", 30))])
    assert len(machine().push(dip)) == 1


def test_other_words_and_silence_are_never_heard():
    assert machine().push(scores(("_unknown_", 100), ("_silence_", 100), peak=1.0)) == []


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 40), max_size=20))
def test_any_cutting_gives_the_same_detections(seed, cuts):
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.dirichlet(np.full(4, 0.15), 30), 8, axis=0)
    decision = machine()
    whole, missed = decision.push(rows), decision.missed
    parts, parts_missed, at = [], [], 0
    decision.reset()
    for cut in [*cuts, len(rows)]:
        parts += decision.push(rows[at : at + cut])
        parts_missed += decision.missed
        at += cut
    assert parts == whole
    assert parts_missed == missed


def test_thresholds_by_word():
    strict = machine(threshold={"yes": 0.99, "no": 0.5})
    assert [d.word for d in strict.push(scores(("_silence_", 20), ("yes", 30), ("no", 30)))] == ["no"]
    rest = machine(threshold={"yes": 0.99, "_default_": 0.4})
    assert rest.threshold[:2] == [0.99, 0.4]
    assert machine(threshold={"yes": 0.99}).threshold[:2] == [0.99, 0.7]


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        ({"yse": 0.5}, "'yse', which is no word here: yes, no"),
        ({"_silence_": 0.5}, "_silence_"),
        (80, "threshold of _default_.*80"),
        ({"yes": "high"}, "threshold of yes.*'high'"),
        ({"_default_": True}, "True"),
        (0, "above 0, not 0"),
        ("0.5", "above 0"),
        ([0.5, 0.6], "above 0"),
    ],
)
def test_thresholds_that_are_none(threshold, words):
    with pytest.raises(ValueError, match=words):
        machine(threshold=threshold)


@pytest.mark.parametrize("setting", [{"release": 2}, {"release": "x"}, {"smoothing_ms": "abc"}, {"refractory_ms": -1}])
def test_settings_that_cannot_be(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}={next(iter(setting.values()))}: expected"):
        machine(**setting)


def test_a_detection_says_why():
    rows = np.concatenate([scores(("_silence_", 30)), scores(("yes", 2), peak=0.6), scores(("yes", 9))])
    (found,) = machine().push(rows)  # a mean over 5 steps reaches 0.7
    at = round(found.end * 50)
    last = rows[at - 5 : at, 0]
    assert found.score == pytest.approx(last.mean())
    assert (found.peak, found.threshold, found.steps_above) == (0.95, 0.7, (last >= 0.7).sum()) == (0.95, 0.7, 3)


def near_misses(decision, rows, size) -> list:
    missed = []
    for at in range(0, len(rows), size):
        decision.push(rows[at : at + size])
        missed += decision.missed
    return missed


def test_near_misses():
    rise = np.concatenate([scores(("_silence_", 50)), scores(("yes", 10), peak=0.6), scores(("_silence_", 50))])
    (miss,) = near_misses(machine(), rise, 7)
    assert (miss.word, miss.score, miss.peak, miss.steps_above) == ("yes", pytest.approx(0.6), 0.6, 0)
    assert 1.0 <= miss.start <= miss.end <= 1.2
    assert near_misses(machine(), np.where(rise == 0.6, 0.4, rise), 7) == []  # below the release level, 0.42
    assert near_misses(machine(), scores(("_silence_", 50), ("yes", 10), ("_silence_", 50)), 7) == []  # heard
    assert near_misses(machine(warm_up_ms=3000), rise, 7) == []


def test_thresholds_hold_for_near_misses():
    rows = np.concatenate([scores(("_silence_", 50)), scores(("yes", 10), peak=0.6), scores(("_silence_", 50))])
    assert [d.word for d in machine(threshold={"yes": 0.5}).push(rows)] == ["yes"]
    assert near_misses(machine(threshold={"yes": 1.1}), rows, 7) == []
