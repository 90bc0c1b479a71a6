import subprocess

import pytest
from conftest import lines_of, write_lines

from text_cls.cli import Problems
from text_cls.rows import Labels, read_rows

LABELS = Labels(["体育", "财经"])
PAIRS = [("中超，开幕", "体育"), ("股市 大涨", "财经"), ("两件事;一起", "体育")] * 3


@pytest.mark.parametrize("labels", [LABELS, Labels([])])
@pytest.mark.parametrize("separator", [",", ";", "；", "|", "   ", " , "])
def test_the_separator_and_the_command_that_replaces_it(tmp_path, separator, labels):
    path, problems = tmp_path / "train set.txt", Problems()
    write_lines(path, [separator.join(pair) for pair in PAIRS])
    read_rows(path, labels, problems)
    (message,) = problems.messages
    assert f"{path}: no row has a label" in message and "A label follows it in 9 of 9 rows" in message
    subprocess.run(["sh", "-c", message.partition("To make it a tab: ")[2]], check=True)
    assert lines_of(path) == ["\t".join(pair) for pair in PAIRS]


def test_several_labels_after_the_separator(tmp_path):
    path, problems = tmp_path / "train.txt", Problems()
    write_lines(path, ["一,体育,财经", "二,财经", "三,体育"])
    read_rows(path, LABELS, problems)
    subprocess.run(["sh", "-c", problems.messages[0].partition("To make it a tab: ")[2]], check=True)
    assert lines_of(path) == ["一\t体育,财经", "二\t财经", "三\t体育"]


def test_texts_alone(tmp_path):
    path, problems = tmp_path / "train.txt", Problems()
    write_lines(path, ["第一条，讲的是体育", "第二条\t", "第三条"])
    read_rows(path, LABELS, problems)
    (message,) = problems.messages
    assert message.startswith(f"{path}: no row has a label; a row is text<TAB>label,label. Is the separator a tab?")
    assert "sed" not in message


def test_rows_without_a_label_among_others_are_allowed(tmp_path):
    write_lines(tmp_path / "train.txt", ["一,体育", "二,财经", "三\t体育"])
    problems = Problems()
    assert len(read_rows(tmp_path / "train.txt", LABELS, problems)) == 3 and not problems.count
