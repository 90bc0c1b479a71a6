import time

import numpy as np
import pytest
from conftest import ROOT, write_lines
from hypothesis import given
from hypothesis import strategies as st

from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.rows import Labels, read_labels, read_rows
from text_cls.search.index import MISSING, Found
from text_cls.search.label_scores import (
    carry_decision,
    corpus_labels,
    deepest,
    label_scores,
    label_text,
    row_entries,
    vote_decision,
)

TREE = Labels(["财经", "财经/交易", "体育", "体育##足球", "体育##足球##西甲", "体育##网球"])


def test_a_label_is_read_as_paddlenlps_application_trains_it():
    assert label_text("财经/交易##出售/收购") == "财经/交易,出售/收购"
    assert label_text("a##b##c") == "a,b,c" and label_text("flat #1 😀<b>") == "flat #1 😀<b>"


def test_the_deepest_of_a_row():
    def of(*ids):
        return deepest(np.array(ids, np.int32), TREE.parents).tolist()

    assert of(0, 2, 3, 4) == [0, 4] and of(2, 3, 5) == [3, 5] and of(2) == [2] and of() == []


def test_labels_with_an_entry_are_the_leaves_and_the_deepest_labels_of_rows(tmp_path):
    names = [TREE.names[i] for i in corpus_labels(TREE)]
    assert names == ["财经", "财经/交易", "体育##足球##西甲", "体育##网球"]
    write_lines(tmp_path / "rows.txt", ["x\t体育##足球,体育##网球", "y", "z\t体育##足球##西甲"])
    rows = read_rows(str(tmp_path / "rows.txt"), TREE, Problems())
    names = [TREE.names[i] for i in corpus_labels(TREE, rows)]
    assert names == ["财经", "财经/交易", "体育##足球", "体育##足球##西甲", "体育##网球"]


@pytest.mark.parametrize("folder", ["data", "data/multi_label"])
def test_on_the_example_data_the_deepest_labels_and_their_ancestors_make_up_a_row(folder):
    problems = Problems()
    labels = read_labels(str(ROOT / folder / "label.txt"), problems)
    rows = read_rows(str(ROOT / folder / "dev.txt"), labels, problems)
    problems.stop_if_any()
    corpus = set(corpus_labels(labels, rows).tolist())
    for i in range(len(rows)):
        ends = deepest(rows.labels_of(i), labels.parents)
        assert set(ends.tolist()) <= corpus
        closed = set()
        for end in ends:
            while end >= 0:
                closed.add(int(end))
                end = labels.parents[end]
        assert closed == set(rows.labels_of(i).tolist())


# -------------------------------------------------------------------------------------------------------------- scores


def by_hand(found, labels, vote):
    """Label by label, from the definition."""
    scores = np.zeros((len(found.labels), len(labels)))
    for q, row in enumerate(found.labels):
        cosines = [max(0.0, float(cosine)) for cosine in found.cosines[q]]
        for i, name in enumerate(labels.names):
            counting = [
                cosine
                for cosine, names in zip(cosines, row)
                if any(n in labels.index and (n == name or n.startswith(f"{name}##")) for n in names)
            ]
            if vote:
                scores[q, i] = sum(counting) / sum(cosines) if sum(cosines) else 0
            else:
                scores[q, i] = max(counting, default=0)
    return scores


@st.composite
def founds(draw):
    queries, k = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    cosine = st.floats(-1, 1, width=32)
    names = st.lists(st.sampled_from([*TREE.names, "removed", "体育##removed"]), max_size=4).map(tuple)
    cosines = np.array([[draw(cosine) for _ in range(k)] for _ in range(queries)], np.float32).reshape(queries, k)
    return Found(cosines, [[draw(names) for _ in range(k)] for _ in range(queries)])


@given(founds(), st.booleans())
def test_scores_are_what_the_definition_gives(found, vote):
    scores = label_scores(found, TREE, vote)
    assert scores.dtype == np.float32 and scores.shape == (len(found.labels), len(TREE))
    assert np.allclose(scores, by_hand(found, TREE, vote), atol=1e-6)
    assert ((scores >= 0) & (scores <= 1)).all()
    below = TREE.parents >= 0
    assert (scores[:, TREE.parents[below]] >= scores[:, below]).all()  # to the last bit, or a set would lack a parent


def test_scores_of_nothing_found_and_of_empty_positions():
    found = Found(np.array([[0.5, MISSING], [MISSING, MISSING]], np.float32), [[("体育",), ()], [(), ()]])
    for vote, score in ((False, 0.5), (True, 1.0)):
        scores = label_scores(found, TREE, vote)
        assert scores[0].tolist() == [0, 0, score, 0, 0, 0] and not scores[1].any()


def test_scores_of_50_000_labels_and_1000_queries_take_no_loop_over_labels():
    random = np.random.default_rng(0)
    labels = Labels([f"{i}" for i in range(100)] + [f"{i % 100}##{i}" for i in range(50_000)])
    found = Found(
        random.uniform(-1, 1, (1000, 50)).astype(np.float32),
        [[(labels.names[i],) for i in row] for row in random.integers(50_100, size=(1000, 50))],
    )
    started = time.process_time()
    for vote in (False, True):
        assert label_scores(found, labels, vote).shape == (1000, 50_100)
    assert time.process_time() - started < 10  # takes 1 second; a loop over the cells takes a minute


def test_rows_with_a_label_become_entries_with_their_whole_label_set(tmp_path):
    write_lines(tmp_path / "rows.txt", ["x\t体育##足球", "y", "x\t体育##网球,财经"])
    texts, names = row_entries(read_rows(str(tmp_path / "rows.txt"), TREE, Problems()), TREE)
    assert texts == ["x", "x"] and names == [("体育", "体育##足球"), ("财经", "体育", "体育##网球")]


def test_a_decision_follows_the_names_when_labels_change():
    decision = Decision((0.1, 0.2, 0.9), min_k=1, none_below=0.3, none_label=2, temperature=2)
    before = Labels(["a", "b", "none"])
    carried = carry_decision(decision, before, Labels(["none", "new", "a"]))
    assert carried == Decision((0.9, 0.2, 0.1), min_k=1, none_below=0.3, none_label=0, temperature=2)
    assert carry_decision(decision, before, Labels(["b"])).none_label is None
    assert carry_decision(Decision(0.4), before, Labels(["new"])) == Decision(0.4)


def test_a_label_needs_most_of_the_votes_whatever_was_fitted_to_cosines():
    fitted = Decision((0.61, 0.72), min_k=1, max_k=3, none_below=0.4, temperature=0.5, hierarchy="one_per_level")
    assert vote_decision(fitted) == Decision(0.5, min_k=1, max_k=3, hierarchy="one_per_level")
