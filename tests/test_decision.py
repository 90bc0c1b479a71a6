import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import edited_json, forests

from text_cls.cli import UserError
from text_cls.decision import HIERARCHY, REMEDY, Decision
from text_cls.label_tree import depths, parent_ids, with_ancestors

LABELS = ["a", "a##x", "b", "b##x", "b##x##y", "c"]


@given(forests().flatmap(lambda p: st.tuples(st.just(p), arrays(float, (4, len(p)), elements=st.floats(0, 1)))))
def test_no_child_without_its_parent_and_rows_do_not_matter_to_each_other(case):
    parents, probabilities = case
    decision = Decision()
    chosen = decision.decide(probabilities, parents)
    has_parent = parents >= 0
    assert (chosen[:, parents[has_parent]] | ~chosen[:, has_parent]).all()
    assert (chosen >= (probabilities > 0.5)).all()
    for i in range(len(probabilities)):
        assert (decision.decide(probabilities[i : i + 1], parents)[0] == chosen[i]).all()


def test_threshold_is_exceeded_not_met():
    above = np.nextafter(np.float32(0.5), np.float32(1))
    chosen = Decision().decide(np.array([[0.5, above]], np.float32), np.full(2, -1))
    assert chosen.tolist() == [[False, True]]


NUMBERS = st.floats(0.01, 0.99)


@st.composite
def cases(draw):
    """(decision, probabilities of 4 rows, parents) over a random forest whose labels are in any order."""
    parents = draw(forests(7))
    size = len(parents)
    place = np.array(draw(st.permutations(range(size))))
    shuffled = np.empty(size, dtype=np.int32)
    shuffled[place] = np.where(parents >= 0, place[parents], -1)
    min_k = draw(st.integers(0, 3))
    decision = Decision(
        threshold=draw(st.one_of(NUMBERS, st.tuples(*[NUMBERS] * size))),
        min_k=min_k,
        max_k=draw(st.one_of(st.none(), st.integers(max(1, min_k), 4))),
        none_below=draw(st.one_of(st.none(), NUMBERS)),
        none_label=draw(st.one_of(st.none(), st.integers(0, size - 1))),
        temperature=draw(st.sampled_from([0.5, 1.0, 3.0])),
        hierarchy=draw(st.sampled_from(sorted(HIERARCHY))),
    )
    return decision, draw(arrays(float, (4, size), elements=st.floats(0, 1))), shuffled


def fields(decision, **changes):
    return Decision(**{**decision.__dict__, **changes})


@given(cases())
def test_sets_are_consistent_and_alike_in_a_batch_and_alone(case):
    decision, probabilities, parents = case
    before = probabilities.copy()
    chosen = decision.decide(probabilities, parents)
    assert (chosen == with_ancestors(chosen, parents)).all()
    assert (probabilities == before).all()
    for i in range(len(probabilities)):
        assert (decision.decide(probabilities[i : i + 1], parents)[0] == chosen[i]).all()


@given(cases())
def test_counts(case):
    decision, probabilities, parents = case
    decision = fields(decision, none_below=None)
    counts = decision.decide(probabilities, parents).sum(axis=1)
    if decision.max_k is not None:
        assert (counts <= decision.max_k).all()
    if decision.min_k and decision.hierarchy != "one_per_level":
        assert (counts >= min(decision.min_k, len(parents))).all()
    elif decision.min_k:  # a path may be shorter
        assert (counts >= 1).all()


def with_counts_by_hand(decision, chosen, row, parents):
    """min_k and max_k in plain Python, of one row's set before them."""
    depth, chosen = depths(parents), {int(label) for label in np.flatnonzero(chosen)}
    limits, warmth = np.broadcast_to(log_odds(decision, 0.5), len(row)), decision.temperature
    odds = np.log(np.clip(row, 1e-12, 1 - 1e-12) / (1 - np.clip(row, 1e-12, 1 - 1e-12)))
    rank = row if np.ndim(decision.threshold) == 0 else odds + limits * warmth  # the sign of log-odds at one half

    def may_be_added(label):
        above = parents[label] < 0 or int(parents[label]) in chosen
        if decision.hierarchy == "one_per_level":
            above &= depth[label] == len(chosen) + 1
        return label not in chosen and (above or decision.hierarchy == "closure")

    while len(chosen) < decision.min_k and (able := [i for i in range(len(row)) if may_be_added(i)]):
        label = max(able, key=lambda i: (rank[i], -i))
        while label >= 0:
            chosen.add(label)
            label = int(parents[label])
    if decision.max_k is None:
        return chosen

    def worth(label):  # of the best label at or below it
        below = [i for i in chosen if with_ancestors(np.eye(len(row), dtype=bool)[[i]], parents)[0, label]]
        return max(odds[i] / warmth + limits[i] for i in below)

    return set(sorted(chosen, key=lambda i: (-worth(i), depth[i], i))[: decision.max_k])


@given(cases())
def test_counts_by_hand(case):
    decision, probabilities, parents = case
    decision = fields(decision, none_below=None)
    chosen = decision.decide(probabilities, parents)
    before = fields(decision, min_k=0, max_k=None).decide(probabilities, parents)
    for row, start, p in zip(chosen, before, probabilities):
        assert set(np.flatnonzero(row)) == with_counts_by_hand(decision, start, p, parents)


@given(cases(), st.integers(1, 30))
def test_blocks_do_not_matter(case, cells):
    decision, probabilities, parents = case
    whole = decision.decide(probabilities, parents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("text_cls.decision_engine.BLOCK", cells)
        assert (decision.decide(probabilities, parents) == whole).all()


@given(cases())
def test_whole_columns_and_single_cells_give_the_same(case):
    decision, probabilities, parents = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("text_cls.decision_engine.MANY", 2.0)
        by_cell = decision.decide(probabilities, parents)
        patch.setattr("text_cls.decision_engine.MANY", -1.0)
        assert (decision.decide(probabilities, parents) == by_cell).all()


@given(cases())
def test_closure_contains_what_passed_and_top_down_is_contained_in_it(case):
    decision, probabilities, parents = case
    plain = fields(decision, min_k=0, max_k=None, none_below=None, temperature=1.0, hierarchy="closure")
    closed = plain.decide(probabilities, parents)
    passed = probabilities > np.asarray(plain.threshold)
    assert (closed >= passed).all()
    below = fields(plain, hierarchy="top_down").decide(probabilities, parents)
    assert (below <= passed).all()  # the largest consistent set of what passed
    for row, ok in zip(below, passed):
        for label in np.flatnonzero(ok & ~row):
            assert parents[label] >= 0 and not row[parents[label]]


def log_odds(decision, probabilities):
    def logit(p):
        p = np.clip(p, 1e-12, 1 - 1e-12)
        return np.log(p / (1 - p))

    return logit(probabilities) / decision.temperature - logit(np.asarray(decision.threshold))


@given(cases(), st.sampled_from(["best_set", "one_per_level"]))
def test_best_sets_and_paths_equal_brute_force(case, hierarchy):
    decision, probabilities, parents = case
    decision = fields(decision, min_k=0, max_k=None, none_below=None, hierarchy=hierarchy)
    margins, depth = log_odds(decision, probabilities), depths(parents)
    sets = [np.array(bits, dtype=bool) for bits in itertools.product([False, True], repeat=len(parents))]
    sets = [s for s in sets if (s == with_ancestors(s[None], parents)[0]).all()]
    if hierarchy == "one_per_level":
        sets = [s for s in sets if sorted(depth[s]) == list(range(1, s.sum() + 1))]
    for row, chosen in zip(margins, decision.decide(probabilities, parents)):
        assert any((chosen == s).all() for s in sets)
        assert row[chosen].sum() == pytest.approx(max(row[s].sum() for s in sets), abs=1e-6)


@given(cases())
def test_modes_make_no_difference_without_a_hierarchy(case):
    decision, probabilities, parents = case
    flat = np.full_like(parents, -1)
    sets = {h: fields(decision, hierarchy=h).decide(probabilities, flat) for h in HIERARCHY}
    assert (sets["closure"] == sets["top_down"]).all()
    margins = log_odds(decision, probabilities)
    if (np.abs(margins) > 1e-6).all():  # at the threshold itself, rounding decides
        assert (sets["closure"] == sets["best_set"]).all()
    assert (fields(decision, none_below=None).decide(probabilities, flat).any(axis=1) >= (decision.min_k > 0)).all()


def test_the_best_label_is_that_with_the_highest_odds_over_its_threshold():
    rows = np.array([[0.30, 0.20, 0.1]])
    assert Decision(min_k=1).decide(rows, np.full(3, -1)).tolist() == [[True, False, False]]
    by_label = Decision(threshold=(0.9, 0.25, 0.9), min_k=1)
    assert by_label.decide(rows, np.full(3, -1)).tolist() == [[False, True, False]]


def test_max_k_takes_the_worst_leaves_first():
    parents = parent_ids(LABELS)
    rows = np.array([[0.6, 0.95, 0.9, 0.8, 0.7, 0.55]])

    def names(decision):
        return [name for name, chosen in zip(LABELS, decision.decide(rows, parents)[0]) if chosen]

    assert names(Decision(max_k=4)) == ["a", "a##x", "b", "b##x"]
    assert names(Decision(max_k=3)) == ["a", "a##x", "b"]
    assert names(Decision(max_k=1)) == ["a"]
    assert names(Decision(hierarchy="one_per_level")) == ["b", "b##x", "b##x##y"]


def test_none_of_these():
    rows = np.array([[0.3, 0.2, 0.1], [0.45, 0.2, 0.1], [0.6, 0.2, 0.1]])
    flat = np.full(3, -1)
    assert Decision(min_k=1, none_below=0.4).decide(rows, flat).sum(axis=1).tolist() == [0, 1, 1]
    assert Decision(none_below=0.6).decide(rows, flat).sum(axis=1).tolist() == [0, 0, 1]  # 0.6 is not below
    named = Decision(min_k=1, none_below=0.4, none_label=2).decide(rows, flat)
    assert named.tolist() == [[False, False, True], [True, False, False], [True, False, False]]


def test_temperature_changes_probabilities_and_not_the_decision_at_one_half():
    rows = np.array([[0.9, 0.6, 0.4]], np.float32)
    warm = Decision(temperature=2.0)
    assert warm.calibrated(rows)[0] == pytest.approx([0.75, 0.5505, 0.4495], abs=1e-4)
    assert (warm.decide(rows, np.full(3, -1)) == Decision().decide(rows, np.full(3, -1))).all()
    assert fields(warm, threshold=0.6).decide(rows, np.full(3, -1)).tolist() == [[True, False, False]]
    assert (Decision().calibrated(rows) == rows).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_threshold_of_1_is_never_exceeded_and_one_of_0_by_anything_above(temperature, kind):
    rows, flat = np.array([[0, 1e-7, 0.5, 1]], kind), np.full(4, -1)
    assert not Decision(1.0, temperature=temperature).decide(rows, flat).any()
    by_label = Decision((0, 0, 1, 1), temperature=temperature)
    assert by_label.decide(rows, flat).tolist() == [[False, True, False, False]]
    assert by_label.passed(rows).tolist() == [[False, True, False, False]]
    off = Decision(min_k=1, none_below=0, temperature=temperature)
    assert off.decide(rows[:, :2], flat[:2]).tolist() == [[False, True]]


def test_no_rows():
    for hierarchy in HIERARCHY:
        decision = Decision(hierarchy=hierarchy, min_k=1, max_k=2, none_below=0.5)
        assert decision.decide(np.zeros((0, 6), np.float32), parent_ids(LABELS)).shape == (0, 6)


def test_there_must_be_as_many_thresholds_as_labels():
    decision = Decision(threshold=(0.5, 0.4))
    assert decision.problem(2) is None and decision.problem(3) == "2 thresholds for 3 labels"
    with pytest.raises(ValueError, match="2 thresholds for 3 labels"):
        decision.decide(np.zeros((1, 3)), np.full(3, -1))
    assert "none_label 3" in Decision(none_label=3).problem(3)


def test_of_many_equal_labels_max_k_keeps_the_first():
    kept = Decision(max_k=5).decide(np.full((1, 200), 0.8), np.full(200, -1))
    assert np.flatnonzero(kept[0]).tolist() == [0, 1, 2, 3, 4]


def test_a_probability_at_its_threshold_does_not_exceed_it():
    """Although 0.3 is more in float32 than in float64, and 0.7 less."""
    at = np.array([[0.3, 0.7]], dtype=np.float32)
    assert not Decision(threshold=(0.3, 0.7)).passed(at).any() and not Decision(threshold=0.3).passed(at[:, 0]).any()


def test_a_file_keeps_the_decision(tmp_path):
    decision = Decision((0.3, 0.5), 1, 3, 0.1, 1, 1.5, "best_set")
    decision.save(tmp_path / "decision.json", ["A", "B"])
    assert Decision.load(tmp_path / "decision.json", ["A", "B"]) == decision


def test_older_files_are_read(tmp_path):
    path = tmp_path / "decision.json"
    path.write_text('{"version": 1, "threshold": 0.3}', encoding="utf-8")
    assert Decision.load(path, ["A", "B"]) == Decision(threshold=0.3)
    path.write_text('{"version": 2, "threshold": [0.3, 0.4], "none_label": 1}', encoding="utf-8")
    assert Decision.load(path, ["A", "B"]) == Decision(threshold=(0.3, 0.4), none_label=1)


def test_only_a_decision_that_refers_to_labels_by_their_place_has_their_names(tmp_path):
    """Older versions of this code can still read the others."""
    for decision, version in ((Decision(0.3, min_k=1), 2), (Decision((0.3, 0.4)), 3), (Decision(none_label=1), 3)):
        decision.save(tmp_path / "decision.json", ["A", "B"])
        written = json.loads((tmp_path / "decision.json").read_text(encoding="utf-8"))
        assert (written["version"], written.get("labels")) == (version, ["A", "B"] if version == 3 else None)
    with pytest.raises(ValueError, match="needs the names of the labels"):
        Decision((0.3, 0.4)).save(tmp_path / "decision.json")
    with pytest.raises(ValueError, match="2 thresholds for 1 labels"):
        Decision((0.3, 0.4)).save(tmp_path / "decision.json", ["A"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["B", "A", "C"], "its label 1 is 'A', that of label.txt 'B'"),
        (["A", "B"], "its label 3 is 'C', that of label.txt no label"),
        (["A", "B", "C", "D"], "its label 4 is no label, that of label.txt 'D'"),
    ],
)
def test_thresholds_of_other_labels_are_refused(tmp_path, names, message):
    """The first difference is named: with exchanged lines, the number of labels is still right."""
    path = tmp_path / "decision.json"
    Decision((0.1, 0.5, 0.9)).save(path, ["A", "B", "C"])
    with pytest.raises(UserError, match=f"decision.json is for other labels: {message}; restore label.txt, or"):
        Decision.load(path, names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 99, "threshold": 0.5}, "version 99 is unknown"),
        ({"threshold": 0.5}, "version null is unknown"),
        ({"version": 1, "threshold": 2}, "from 0 to 1, not 2"),
        ({"version": 1, "threshold": "high"}, "from 0 to 1, not 'high'"),
        ({"version": 1, "treshold": 0.5}, "'treshold'"),
        ([1], "an object {...} is expected, not a list"),
        ({"version": 1, "threshold": [0.5, float("nan")]}, "from 0 to 1, not nan"),
        ({"version": 2, "threshold": True}, "from 0 to 1, not true"),
        ({"version": 2, "min_k": 3, "max_k": 2}, "max_k 2 is below min_k 3"),
        ({"version": 2, "min_k": -1}, "min_k must be a whole number of at least 0"),
        ({"version": 2, "max_k": 1.5}, "max_k must be a whole number of at least 1"),
        ({"version": 2, "none_below": 1.5}, "none_below must be a number"),
        ({"version": 2, "min_k": 3}, "min_k 3 for 2 labels"),
        ({"version": 2, "min_k": 10**30}, "min_k must be a whole number of at least 0, not 1000000"),
        ({"version": 3, "threshold": [0.5, 0.5]}, "labels is missing"),
        ({"version": 3, "threshold": [0.5, 0.5], "labels": "AB"}, "labels must be a list, not 'AB'"),
        ("[" * 200_000, "damaged (nested"),
        ('{"version": 2, "min_k": 0, "min_k": 1}', "the key 'min_k' appears twice"),
        (" " * (65 << 20), "larger than 64 MiB"),
        ({"version": 2, "temperature": 0}, "temperature must be a number"),
        ({"version": 2, "temperature": 1500}, "temperature must be a number"),
        ({"version": 2, "hierarchy": "tree"}, "one of closure, top_down, one_per_level, best_set, not 'tree'"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path, content, message):
    path = tmp_path / "decision.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError) as error:
        Decision.load(path, ["A", "B"])
    assert message in str(error.value) and str(path) in str(error.value) and REMEDY in str(error.value)


def test_all_faults_of_a_file_are_named(tmp_path):
    path = tmp_path / "decision.json"
    path.write_text('{"version": 2, "min_k": true, "max_k": 0, "threshold": [0.5, 2, null]}', encoding="utf-8")
    with pytest.raises(UserError) as error:
        Decision.load(path)
    places = ("min_k must", "max_k must", "threshold[1] must", "threshold[2] must")
    assert all(f"{path}: {place}" in str(error.value) for place in places)


@given(edited_json({"version": 3, "labels": ["A", "B"], **asdict(Decision((0.3, 0.5), 1, 3, 0.1, 1, 1.5, "best_set"))}))
def test_any_value_in_any_place_decides_or_is_a_message(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "decision.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        decision = Decision.load(path, ["A", "B"])
    except UserError as error:
        assert str(path) in str(error) and str(error).endswith(REMEDY)
    else:
        assert decision.decide(np.array([[0.2, 0.7]]), np.array([-1, -1])).shape == (1, 2)
