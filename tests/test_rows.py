import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, write_lines
from hypothesis import given
from hypothesis import strategies as st
from labelled_rows import LABELS, rows_of

from text_cls.cli import Problems, UserError
from text_cls.rows import Labels, Texts, read_cases, read_labels, read_lines, read_rows, read_texts
from utils import describe


def names_of(rows, i, labels=LABELS):
    return [labels.names[label] for label in rows.labels_of(i)]


def labels_of(tmp_path, *lines):
    write_lines(tmp_path / "label.txt", lines)
    problems = Problems()
    return read_labels(str(tmp_path / "label.txt"), problems), problems.messages


def test_labels_keep_their_line_as_index(tmp_path):
    labels, messages = labels_of(tmp_path, "b", "a", "a##x")
    assert labels.names == ["b", "a", "a##x"] and labels.index["a"] == 1 and labels.parents.tolist() == [-1, -1, 1]
    assert labels.hierarchical and messages == []
    assert not labels_of(tmp_path, "b", "a")[0].hierarchical


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["体育", "财经", "体育"], "label.txt:3: label '体育' is already on line 1"),
        (["体育", "", "财经"], "label.txt:2: empty line"),
        (["体育,财经"], "label.txt:1: label '体育,财经' contains a comma"),
        (["体育\t财经"], "contains a tab"),
        (["体育##足球"], "label '体育##足球' has no parent here; add a line '体育'"),
        (["体育", "体育##"], "has an empty level"),
        (["语言", "语言###1"], "add a line '语言#' (below '语言' no level can begin with #, as '#1' does; if that was"),
        ([], "label.txt: no labels"),
    ],
)
def test_faults_of_the_label_file(tmp_path, lines, message):
    assert any(message in text for text in labels_of(tmp_path, *lines)[1])


def test_rows(tmp_path):
    rows, messages = rows_of(
        tmp_path, "中超开幕\t体育,体育##足球,体育##足球##联赛", "无标签", "", "  ", "两件事\t财经,体育", "制表符在尾\t"
    )
    assert messages == []
    assert list(rows.texts) == ["中超开幕", "无标签", "两件事", "制表符在尾"]
    assert rows.lines.tolist() == [1, 2, 5, 6] and rows.blank == 2 and rows.completed == 0
    assert names_of(rows, 0) == ["体育", "体育##足球", "体育##足球##联赛"]
    assert names_of(rows, 1) == [] and names_of(rows, 2) == ["体育", "财经"] and names_of(rows, 3) == []
    assert rows.multi_hot(5).tolist() == [[1, 1, 1, 0, 0], [0] * 5, [1, 0, 0, 1, 0], [0] * 5]
    assert rows.multi_hot(5, [2, 1], np.float32).tolist() == [[1, 0, 0, 1, 0], [0] * 5]
    assert rows.support(5).tolist() == [2, 1, 1, 1, 0]


def test_a_child_without_its_parents_is_completed_and_counted(tmp_path):
    rows, messages = rows_of(tmp_path, "决赛\t体育##足球##联赛", "开盘\t财经,财经##上市")
    assert messages == [] and rows.completed == 1
    assert names_of(rows, 0) == ["体育", "体育##足球", "体育##足球##联赛"]
    assert any("1 rows name a child but not its parent; the parents were added" in s for s in describe(rows))


def test_byte_order_mark_and_crlf(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeff体育场\t体育\r\n\r\n股市\t财经\r\n".encode())
    problems = Problems()
    rows = read_rows(str(path), LABELS, problems)
    assert problems.messages == [] and list(rows.texts) == ["体育场", "股市"] and rows.blank == 1


def test_line_separators_within_a_text_do_not_end_the_row(tmp_path):
    text = "一\u2028二\x0b三\x85四"
    rows, messages = rows_of(tmp_path, f"{text}\t体育")
    assert messages == [] and list(rows.texts) == [text]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("转会\t体育##足求", "train.txt:2: label '体育##足求' is not in the label file; did you mean '体育##足球'?"),
        ("a\tb\tc", "train.txt:2: 2 tabs; a row is text<TAB>label,label"),
        ("\t体育", "train.txt:2: labels without a text"),
        ("股市\t财经,", "train.txt:2: empty label"),
        ("股市\t体育，财经", "contains a full-width comma"),
        ("股市\t体育;财经", "label '体育;财经': labels are separated by an ASCII comma, not by ';'"),
        ("股市\t体育 财经", "not by ' '"),
        ("股市\t体育;财金", "is not in the label file"),
    ],
)
def test_faults_of_rows_name_file_and_line(tmp_path, line, message):
    rows, messages = rows_of(tmp_path, "好的\t体育", line)
    assert len(messages) == 1 and message in messages[0]


def test_a_file_without_rows(tmp_path):
    assert "train.txt: no rows" in rows_of(tmp_path, "", " ")[1][0]


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="nothing.txt: No such file or directory. Check the folder"):
        list(read_lines(str(tmp_path / "nothing.txt")))


CHINESE = "原告与被告于二〇一四年结婚，婚后生有一女，现已分居六年有余，夫妻感情确已破裂。\t体育"


TRADITIONAL = "原告與被告於二零一四年結婚，婚後生有一女，現已分居六年有餘，我們的國家這個時候說話。\t體育"


@pytest.mark.parametrize(
    ("text", "encoding", "looks_like"),
    [
        (CHINESE, "gbk", "GB18030 (GBK)"),
        (CHINESE, "gb18030", "GB18030 (GBK)"),
        (TRADITIONAL, "big5", "BIG5"),
        (CHINESE, "utf-16", "UTF-16"),
    ],
)
def test_another_encoding_is_named_with_the_command_that_converts_it(tmp_path, text, encoding, looks_like):
    with pytest.raises(UserError) as error:
        rows_of(tmp_path, text, text, encoding=encoding)
    message = str(error.value)
    path = tmp_path / "train.txt"
    assert f"{path}:1: not UTF-8; it looks like {looks_like}" in message
    command = message.partition("Convert it: ")[2]
    subprocess.run(["sh", "-c", command], check=True)  # the command is what the user will paste
    assert [line for _, line in read_lines(str(path))] == [text, text]


def test_one_line_of_another_encoding(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(f"{CHINESE}\n".encode() * 3 + f"{CHINESE}\n".encode("gbk"))
    with pytest.raises(UserError) as error:
        list(read_lines(str(path)))
    assert f"{path}:4: not UTF-8" in str(error.value) and "while the lines before it are UTF-8" in str(error.value)
    assert "iconv" not in str(error.value)  # it would spoil the rest


def test_texts_to_predict(tmp_path):
    write_lines(tmp_path / "data.txt", ["第一条", "", "第二条\t体育", "三\t四\t五"])
    problems = Problems()
    assert list(read_texts(str(tmp_path / "data.txt"), problems)) == [(1, "第一条"), (3, "第二条"), (4, "三")]
    assert problems.count == 1 and "data.txt:4: 2 tabs" in problems.messages[0]


def test_cases_with_one_to_three_columns(tmp_path):
    labels = Labels(["体育", "体育##夺冠", "财经"])
    lines = ["Text\tLabel\tPrediction", "一\t财经,体育##夺冠\t财经", "二\t\t", "", "三\t财经", "四", "Text"]
    write_lines(tmp_path / "bad_case.txt", lines)
    problems = Problems()
    cases = read_cases(str(tmp_path / "bad_case.txt"), labels, problems)
    assert problems.messages == []
    assert [(case.line, case.text, case.gold, case.predicted) for case in cases] == [
        (2, "一", [0, 1, 2], [2]),
        (3, "二", [], []),
        (5, "三", [2], None),
        (6, "四", None, None),
        (7, "Text", None, None),  # a header is on the first line
    ]


def test_faults_of_cases(tmp_path):
    write_lines(tmp_path / "bad_case.txt", ["Text", "一\t财经\t财经\t财经", "\t财经", "二\t财金\t财经"])
    write_lines(tmp_path / "header.txt", ["Text\tLabel\tPrediction"])
    problems = Problems()
    for name in ("bad_case.txt", "header.txt"):
        read_cases(str(tmp_path / name), Labels(["财经"]), problems)
    messages = [message.rpartition("/")[2] for message in problems.messages]
    assert messages == [
        "bad_case.txt:2: 3 tabs; a row is text, text<TAB>labels or text<TAB>labels<TAB>prediction",
        "bad_case.txt:3: no text; a row is text, text<TAB>labels or text<TAB>labels<TAB>prediction",
        "bad_case.txt:4: label '财金' is not in the label file; did you mean '财经'?",
        "header.txt: no texts to explain",
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_in_a_buffer_are_the_texts(items):
    texts = Texts()
    for item in items:
        texts.append(item)
    texts.freeze()
    assert list(texts) == items and len(texts) == len(items)


def test_sample_keeps_text_and_labels_together(tmp_path):
    rows, _ = rows_of(tmp_path, *(f"第{i}条\t{LABELS.names[i % 2 * 3]}" for i in range(50)))
    part = rows.sample(7, seed=3)
    assert len(part) == 7 and list(part.texts) == list(rows.sample(7, seed=3).texts)
    for i in range(7):
        number = int(part.texts[i][1:-1])
        assert names_of(part, i) == [LABELS.names[number % 2 * 3]] and part.lines[i] == number + 1
    assert rows.sample(None, 3) is rows and rows.sample(50, 3) is rows


def test_a_million_rows_take_little_memory(tmp_path):
    """Texts and labels in buffers: 60 MB of file in under twice that; a list of tuples takes five times as much."""
    path = tmp_path / "train.txt"
    with open(path, "w", encoding="utf-8") as file:
        for i in range(200_000):
            file.write(f"第{i}条新闻的正文大约有这么长，讲的是一件发生在本市的事情，读者来信很多\t体育,体育##足球\n")
    code = (
        "import resource\n"
        "from text_cls.cli import Problems\n"
        "from text_cls.rows import Labels, read_rows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"rows = read_rows({str(path)!r}, Labels(['体育', '体育##足球']), Problems())\n"
        "print(len(rows), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    answer = subprocess.run(command_line("-c", code), cwd=ROOT, capture_output=True, text=True, check=True)
    count, kilobytes = map(int, answer.stdout.split())
    assert count == 200_000
    assert kilobytes * 1024 < 2 * path.stat().st_size
