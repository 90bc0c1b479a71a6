import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from decision import Decision, depths, parent_ids, sigmoid, with_ancestors

LABELS = ["a", "a##x", "b", "b##x", "b##x##y", "c"]


def test_parents_are_known_by_full_path():
    assert parent_ids(LABELS).tolist() == [-1, 0, -1, 2, 3, -1]
    assert depths(parent_ids(LABELS)).tolist() == [1, 2, 1, 2, 3, 1]


def test_parents_do_not_depend_on_the_order_of_labels():
    order = [4, 2, 1, 5, 0, 3]
    parents = parent_ids([LABELS[i] for i in order])
    assert [LABELS[order[p]] if p >= 0 else None for p in parents] == ["b##x", None, "a", None, None, "b"]


@st.composite
def forests(draw, most=12):
    """Parents of a random forest: each label hangs under an earlier one or is a root."""
    size = draw(st.integers(1, most))
    return np.array([draw(st.integers(-1, i - 1)) for i in range(size)], dtype=np.int32)


@given(forests().flatmap(lambda p: st.tuples(st.just(p), arrays(bool, (3, len(p))))))
def test_ancestors_equal_a_walk_up_from_each_label(case):
    parents, chosen = case
    before = chosen.copy()
    closed = with_ancestors(chosen, parents)
    for row, given_row in zip(closed, chosen):
        expected = set()
        for label in np.flatnonzero(given_row):
            while label >= 0:
                expected.add(label)
                label = parents[label]
        assert set(np.flatnonzero(row)) == expected
    assert (chosen == before).all()


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


def test_sigmoid_at_both_ends():
    with np.errstate(all="raise", under="ignore"):
        p = sigmoid([-1e4, -1.0, 0.0, 1.0, 1e4])
    assert p.dtype == np.float32
    assert p == pytest.approx([0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1], abs=1e-7)


def test_file_keeps_the_decision(tmp_path):
    Decision(threshold=0.3).save(tmp_path / "decision.json")
    assert Decision.load(tmp_path / "decision.json") == Decision(threshold=0.3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 99, "threshold": 0.5}, "version 99 is not known"),
        ({"threshold": 0.5}, "version None is not known"),
        ({"version": 1, "threshold": 2}, "from 0 to 1, not 2"),
        ({"version": 1, "threshold": "high"}, "from 0 to 1, not 'high'"),
        ({"version": 1, "treshold": 0.5}, "'treshold'"),
        ([1], "version None"),
    ],
)
def test_file_that_is_not_understood_is_refused(tmp_path, content, message):
    path = tmp_path / "decision.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        Decision.load(path)
