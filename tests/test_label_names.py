import unicodedata

import pytest
from conftest import write_lines
from hypothesis import given
from hypothesis import strategies as st

from text_cls.cli import Problems
from text_cls.label_names import likeness, normal_form, tidy_name, told_apart
from text_cls.label_tree import paths_to, split_path
from text_cls.rows import Labels, label_problem, read_labels, read_rows

NAMES = [
    "Santé",
    "灾害",
    "灾害##地震",
    "New York",
    "语言",
    "语言##C#",
    "语言##C###框架",
    "が",
    "한국",
    "❤\ufe0f",
    "می\u200cخواهم",
]
LABELS = Labels(NAMES)
INVISIBLE = ["\u200b", "\ufeff", "\u2060", "\u00ad", "\u200e", "\u202c"]
SPACES = [" ", "\u00a0", "\u3000", "\u2009", "\u200b "]
TEXTS = st.text(st.sampled_from("aAéé#ＡＢｶﾞ①ßİςΣ \u3000\u200b\u200d\ufe0f\u0301가ᄀ，；ﾠΐ\u0345K你"), max_size=12)


@given(st.one_of(TEXTS, st.text(st.characters(exclude_categories=["Cs"]), max_size=12)))
def test_forms_are_final(name):
    assert tidy_name(tidy_name(name)) == tidy_name(name) and normal_form(normal_form(name)) == normal_form(name)
    assert normal_form(tidy_name(name)) == normal_form(name)
    assert unicodedata.is_normalized("NFC", tidy_name(name))


@given(TEXTS)
def test_a_tidy_name_is_a_label_or_refused_with_the_same_levels(name):
    tidy = tidy_name(name)
    if not label_problem(tidy) and not label_problem(name):
        levels = [tidy_name(level).strip() for level in split_path(name)]
        assert [level for level in split_path(tidy)] == levels or any("#" in level for level in levels)
        assert all(tidy_name(path) == path for path in paths_to(tidy))


@st.composite
def decorated(draw):
    """(number of a label, its name with invisible characters and spaces that nobody sees)"""
    i = draw(st.integers(0, len(NAMES) - 1))
    name = unicodedata.normalize(draw(st.sampled_from(["NFC", "NFD"])), NAMES[i])
    space = st.lists(st.sampled_from(SPACES), max_size=2).map("".join)
    name = "##".join(draw(space) + level + draw(space) for level in split_path(name))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(name)))
        if name[place - 1 : place + 1] != "\u200cخ":  # beside it a character would shape the letters
            name = name[:place] + draw(st.sampled_from(INVISIBLE)) + name[place:]
    return i, name


@given(decorated())
def test_what_nobody_sees_does_not_make_another_label(case):
    i, name = case
    assert LABELS.find(name) == i


def test_rows_with_another_spelling_are_counted(tmp_path, caplog):
    write_lines(tmp_path / "train.txt", ["一\tSante\u0301", "二\tSanté", "三\t 灾害 ## 地震 ,Sante\u0301"])
    problems = Problems()
    rows = read_rows(str(tmp_path / "train.txt"), LABELS, problems)
    assert not problems.messages and [rows.labels_of(i).tolist() for i in range(3)] == [[0], [0], [0, 1, 2]]
    assert rows.respelled == {("Sante\u0301", "Santé"): 2, ("灾害 ## 地震", "灾害##地震"): 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("santé", "label 'santé' differs from 'Santé' only in letter case or full width; write 'Santé'"),
        ("Ｎｅｗ York", "'Ｎｅｗ York' differs from 'New York' only in letter case or full width"),
        ("灾害＃＃地震", "differs from '灾害##地震' only in letter case or full width"),
        ("❤", "label '❤' differs from '❤\\ufe0f' only in spaces, invisible characters or Unicode form; write"),
        ("می\u200d\u200cخواهم", "only in spaces, invisible characters or Unicode form"),
        ("\u200b", "empty label"),
        ("①", "'①' is not in the label file"),
    ],
)
def test_visible_differences_are_reported(tmp_path, name, message):
    write_lines(tmp_path / "train.txt", [f"一\t{name}"])
    problems = Problems()
    read_rows(str(tmp_path / "train.txt"), LABELS, problems)
    assert len(problems.messages) == 1 and message in problems.messages[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["Santé", "Sante\u0301"],
            "label.txt:2: label 'Sante\\u0301' differs from 'Sant\\xe9' only in spaces, invisible"
            " characters or Unicode form on line 1; delete one",
        ),
        (["IT", "x", "it"], "label.txt:3: label 'it' differs from 'IT' only in letter case or full width on line 1"),
        (
            ["ab", "a\u200bb"],
            "label.txt:2: label 'a\\u200bb' differs from 'ab' only in spaces",
        ),
        (["IT", "it##x"], "label.txt:2: label 'it##x': its parent 'it' differs from 'IT' only in letter case or full"),
        (["a", "a## #1"], "label.txt:2: label 'a## #1' has a level that begins with '#'"),
        (["a", "\u200b"], "label.txt:2: empty line"),
    ],
)
def test_labels_of_one_form_are_reported_with_both_lines(tmp_path, lines, message):
    write_lines(tmp_path / "label.txt", lines)
    problems = Problems()
    read_labels(str(tmp_path / "label.txt"), problems)
    assert len(problems.messages) == 1 and message in problems.messages[0]


def test_a_label_file_is_read_without_what_nobody_sees(tmp_path):
    write_lines(tmp_path / "label.txt", ["灾害", "灾害 ## 地震", " Sante\u0301", "New\u3000 York", "a\u200b"])
    problems = Problems()
    labels = read_labels(str(tmp_path / "label.txt"), problems)
    assert not problems.messages and labels.names == ["灾害", "灾害##地震", "Santé", "New York", "a"]


def test_a_models_label_file_is_read_as_it_is(tmp_path):
    """Models from before these checks still open."""
    lines = ["IT", "it", "Sante\u0301", "灾害", "灾害## 地震"]
    write_lines(tmp_path / "label.txt", lines)
    problems = Problems()
    labels = read_labels(str(tmp_path / "label.txt"), problems, of_model=True)
    assert not problems.messages and labels.names == lines and labels.parents.tolist() == [-1, -1, -1, -1, 3]
    assert (labels.find("it"), labels.find("Santé"), labels.find("灾害##地震")) == (1, 2, 4)
    write_lines(tmp_path / "label.txt", ["a", "b", "a"])
    read_labels(str(tmp_path / "label.txt"), problems, of_model=True)
    assert "label 'a' is already on line 1" in problems.messages[0]


def test_names_are_shown_so_that_they_differ():
    assert told_apart("Sante\u0301", "Santé") == ("'Sante\\u0301'", "'Sant\\xe9'")
    assert told_apart("a##b", "a ## b") == ("'a##b'", "'a ## b'")
    assert told_apart("好", "坏") == ("'好'", "'坏'")
    assert "only in letter case" in likeness("A", "a")
