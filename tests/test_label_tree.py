import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import forests

from text_cls.label_tree import (
    depths,
    join_path,
    levels_of,
    parent_ids,
    parent_path,
    paths_to,
    split_path,
    with_ancestors,
)
from text_cls.rows import label_problem
from text_cls.search.label_scores import label_text

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


NAMES = st.text("#aC框", min_size=1, max_size=12)


@given(NAMES)
def test_every_user_of_the_rule_sees_the_same_pieces(name):
    pieces = split_path(name)
    assert "##".join(pieces) == name
    if label_problem(name):
        return
    assert paths_to(name)[-1] == name and split_path(paths_to(name)[-1]) == pieces
    assert [split_path(path) for path in paths_to(name)] == [pieces[: i + 1] for i in range(len(pieces))]
    assert parent_path(name) == "##".join(pieces[:-1])
    assert depths(parent_ids(paths_to(name))).tolist() == list(range(1, len(pieces) + 1))
    assert levels_of(paths_to(name)) == [[piece] for piece in pieces]
    assert label_text(name) == ",".join(pieces)
    assert join_path(pieces) == name
    assert not any(piece.startswith("#") for piece in pieces[1:])


@given(st.lists(st.sampled_from(["语言", "C#", "#", "#1", "C", "a#b"]), min_size=1, max_size=4))
def test_pieces_are_told_apart_or_refused(pieces):
    if any(piece.startswith("#") for piece in pieces[1:]):
        with pytest.raises(ValueError, match="begins with #"):
            join_path(pieces)
    else:
        assert split_path(join_path(pieces)) == pieces


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
@pytest.mark.parametrize("file", ["deploy/simple_serving/index.html", "analysis/evaluation_page.js"])
def test_the_pages_split_as_python_does(file):
    expressions = re.findall(r"name\.split\(.*?\)(?=\.)", (ROOT / file).read_text(encoding="utf-8"))
    assert len(expressions) == 1
    names = ["语言", "语言##C#", "语言##C###框架", "C###a", "a##b##c", "#1##a", "a#b##c"]
    program = f"console.log(JSON.stringify({json.dumps(names)}.map(name => {expressions[0]})))"
    answer = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout) == [split_path(name) for name in names]
