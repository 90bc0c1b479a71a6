"""What to label next: the orders, and what is never chosen."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import write_lines
from hypothesis import given
from hypothesis import strategies as st

from text_cls import next_rows
from text_cls.cli import Problems, UserError, set_up_log
from text_cls.decision import Decision
from text_cls.inputs import one_run
from text_cls.next_rows import (
    ORDERS,
    ChosenTexts,
    Scorer,
    choose,
    ngram_vectors,
    rare_rows,
    spread_rows,
    uncertainty,
    unit,
)
from text_cls.prediction import check_files
from text_cls.rows import Labels, read_rows

LABELS = Labels(["甲", "乙"])
HALF = Decision()  # a threshold of 0.5


def opened(path):
    problems = Problems()
    job = check_files(path, None, problems, None)
    problems.stop_if_any()
    return job.texts


def scorer(decision):
    """Texts are numbers: the probability of the first label in percent; the second has a tenth of it."""

    def probabilities(texts):
        return np.array([[int(text) / 100, int(text) / 1000] for text in texts], np.float32)

    return Scorer(LABELS, decision, probabilities, lambda texts: unit(ngram_vectors(texts)))


def chosen(path, order, count, labelled=(), decision=HALF, seed=3):
    with one_run():
        found = choose(opened(path), order, count, scorer(decision), labelled, seed)
        return [text for window in found.windows(2) for text in window.texts]


def labelled_rows(path, lines):
    write_lines(path, lines)
    return read_rows(str(path), LABELS, Problems())


def test_uncertain_is_close_to_a_threshold(tmp_path):
    write_lines(tmp_path / "t.txt", ["99", "52", "10", "31", "45"])
    assert chosen(tmp_path / "t.txt", "uncertain", 2) == ["52", "45"]
    assert chosen(tmp_path / "t.txt", "uncertain", 2, decision=Decision(threshold=(0.3, 0.9))) == ["31", "45"]
    # The second label's threshold counts as much: 0.099 is the closest to 0.1. The first label's is never reached.
    assert chosen(tmp_path / "t.txt", "uncertain", 1, decision=Decision(threshold=(1.0, 0.1))) == ["99"]


def test_uncertainty_heeds_the_temperature():
    """A temperature moves no row across a threshold, so that the order of one label is by its logit."""
    probabilities = np.array([[0.8], [0.6]], np.float32)
    decision = Decision(threshold=0.7, temperature=2.0)  # before the temperature: a threshold of 0.845
    assert uncertainty(probabilities, decision).argmin() == 0
    assert uncertainty(probabilities, Decision(threshold=0.7)).argmin() == 1


def test_rare_prefers_labels_of_few_rows_and_turns_to_others(tmp_path):
    probabilities = np.array([[0.9, 0], [0, 0.8], [0, 0.9], [0.8, 0], [0, 0.7]])
    assert rare_rows(probabilities, np.array([100, 1]), 3).tolist() == [2, 1, 4]
    assert rare_rows(probabilities, np.array([2, 1]), 3).tolist() == [2, 0, 1]  # by turns
    assert rare_rows(probabilities, np.array([2, 1]), 99).tolist()[:3] == [2, 0, 1]
    write_lines(tmp_path / "t.txt", ["10", "90", "50"])
    rows = labelled_rows(tmp_path / "l.txt", ["99\t甲", "98\t乙"])
    assert chosen(tmp_path / "t.txt", "rare", 2, [rows]) == ["90", "50"]


def test_the_shortlist_of_rare_loses_nothing_better(tmp_path, monkeypatch):
    monkeypatch.setattr(next_rows, "WINDOW", 3)
    monkeypatch.setattr(next_rows, "SHORTLIST", 1)
    write_lines(tmp_path / "t.txt", [str(number) for number in range(1, 60)])
    rows = labelled_rows(tmp_path / "l.txt", ["99\t甲"])
    assert chosen(tmp_path / "t.txt", "rare", 4, [rows]) == ["59", "58", "57", "56"]


def test_spread_takes_one_of_each_group_first():
    rng = np.random.default_rng(1)
    centres = np.eye(8, dtype=np.float32)
    group = np.repeat(np.arange(8), 5)
    vectors = unit(centres[group] + 0.05 * rng.standard_normal((40, 8)).astype(np.float32))
    assert len({*group[spread_rows(vectors, 8)]}) == 8
    nearest = (vectors @ centres[:3].T).max(axis=1)  # labelled: one of each of the first three groups
    assert {*group[spread_rows(vectors, 5, nearest)]} == {3, 4, 5, 6, 7}
    assert sorted(spread_rows(vectors, 99)) == list(range(40))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=6))
def test_ngram_vectors_are_those_of_counts_but_for_chance(texts):
    found = ngram_vectors(texts)
    assert found.shape == (len(texts), next_rows.NGRAM_VECTOR) and found.dtype == np.float32
    # A text does not depend on those beside it.
    assert all(np.array_equal(ngram_vectors([text])[0], row) for text, row in zip(texts, found))


def test_similar_texts_have_similar_vectors():
    first, second, other = unit(ngram_vectors(["房间太小，还有烟味", "房间很小，还有烟味", "早餐种类丰富好吃"]))
    assert first @ second > 0.6 > 0.2 > abs(first @ other)


def test_diverse_with_and_without_labelled_rows(tmp_path, monkeypatch):
    texts = ["11111", "11112", "22222", "22223", "33333"]
    write_lines(tmp_path / "t.txt", texts)
    first = {text[0] for text in chosen(tmp_path / "t.txt", "diverse", 3)}
    assert first == {"1", "2", "3"}
    rows = labelled_rows(tmp_path / "l.txt", ["11113\t甲", "22224\t乙"])
    assert chosen(tmp_path / "t.txt", "diverse", 1, [rows]) == ["33333"]
    set_up_log()
    monkeypatch.setattr(next_rows, "MOST_BYTES", 2 * 4 * next_rows.NGRAM_VECTOR)
    assert len(chosen(tmp_path / "t.txt", "diverse", 1, [rows])) == 1
    assert len(chosen(tmp_path / "t.txt", "diverse", 4, [rows])) == 4  # as many as are asked for, whatever the memory


def test_a_line_break_makes_no_other_text(tmp_path):
    """Rows of labelled files have spaces where texts have line breaks of other kinds than LF."""
    write_lines(tmp_path / "t.txt", ["一\u2028二", "三"])
    rows = labelled_rows(tmp_path / "l.txt", ["一 二\t甲"])
    assert chosen(tmp_path / "t.txt", "random", 2, [rows]) == ["三"]


@pytest.mark.parametrize("order", ORDERS)
def test_every_text_once_and_no_labelled_one(tmp_path, capfd, order):
    set_up_log()
    write_lines(tmp_path / "t.txt", ["5", "", "7", "5", "9", " 7 ", "11"])
    rows = labelled_rows(tmp_path / "l.txt", ["9\t甲", "8\t乙"])
    assert sorted(chosen(tmp_path / "t.txt", order, 10, [rows])) == ["11", "5", "7"]
    said = capfd.readouterr().err
    left_out = f"1 in {tmp_path}/l.txt; 2 with the text of another row; 1 without a text"
    assert f"4 of 7 rows of {tmp_path}/t.txt are left out: {left_out}" in said and "3 of 3 texts" in said


def test_nothing_left(tmp_path):
    write_lines(tmp_path / "t.txt", ["9"])
    rows = labelled_rows(tmp_path / "l.txt", ["9\t甲"])
    with pytest.raises(UserError, match="no text is left to choose from"):
        chosen(tmp_path / "t.txt", "random", 1, [rows])


def test_random_depends_on_the_seed_alone(tmp_path):
    write_lines(tmp_path / "t.txt", [str(number) for number in range(1, 90)])
    first = chosen(tmp_path / "t.txt", "random", 20, seed=1)
    assert first == chosen(tmp_path / "t.txt", "random", 20, seed=1) != chosen(tmp_path / "t.txt", "random", 20, seed=2)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@given(data=st.data())
def test_chosen_rows_keep_their_columns(tmp_path_factory, kind, data):
    """In the order asked for, whatever the sizes of the windows that read and write them."""
    count = data.draw(st.integers(1, 9))
    numbers = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    path = tmp_path_factory.mktemp("rows") / f"t.{kind}"
    table = pa.table({"id": [*range(count)], "text": [f"第{i}条" for i in range(count)]})
    if kind == "csv":
        write_lines(path, ["id,text", *(f"{i},第{i}条" for i in range(count))])
    else:
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    with one_run(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(next_rows, "WINDOW", data.draw(st.integers(1, 4)))
        windows = [*ChosenTexts(opened(path), numbers).windows(data.draw(st.integers(1, 4)))]
    assert [text for window in windows for text in window.texts] == [f"第{i}条" for i in numbers]
    assert [int(record["id"]) for window in windows for record in window.records] == numbers
    assert [record["text"] for window in windows for record in window.records] == [f"第{i}条" for i in numbers]
