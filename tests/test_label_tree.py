import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import forests

from text_cls.label_tree import depths, parent_ids, with_ancestors

LABELS = ["a", "a##x", "b", "b##x", "b##x##y", "c"]


def test_parents_are_known_by_full_path():
    assert parent_ids(LABELS).tolist() == [-1, 0, -1, 2, 3, -1]
    assert depths(parent_ids(LABELS)).tolist() == [1, 2, 1, 2, 3, 1]


def test_parents_do_not_depend_on_the_order_of_labels():
    order = [4, 2, 1, 5, 0, 3]
    parents = parent_ids([LABELS[i] for i in order])
    assert [LABELS[order[p]] if p >= 0 else None for p in parents] == ["b##x", None, "a", None, None, "b"]


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
