"""data/from_table.py: tables of every format become data sets, and what is wrong in them is named."""

import csv
import json
import random
import re
import shlex
import subprocess

import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

import doccano
import from_table as script
from text_cls.label_names import tidy_name
from text_cls.rows import one_line

TREE = {
    "灾害": {"地震": ["余震", "救援"], "台风": ["登陆", "预警"]},
    "体育": {"足球": ["转会", "夺冠"], "篮球": ["伤病", "交易"]},
}
HEADER = ["编号", "客户描述", "一级", "二级", "三级", "日期"]


def tickets(count):
    """Rows of a table with quotes, commas, line breaks and empty third levels; all texts differ."""
    draw, rows = random.Random(3), []
    for i in range(count):
        first = draw.choice(list(TREE))
        second = draw.choice(list(TREE[first]))
        third = draw.choice([*TREE[first][second], ""])
        text = f'第{i}位客户说"{second}",{third}' + "\n还有\r\n一行\t完" * (i % 9 == 0)
        rows.append([f"{i:05d}", text, first, second, third, f"2024-01-{i % 28 + 1:02d}"])
    return rows


def save_csv(path, rows, encoding="utf-8"):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def pairs_of(path):
    return [(text, labels) for text, _, labels in (line.partition("\t") for line in lines_of(path))]


@pytest.fixture
def convert(run, tmp_path):
    """convert(table, *flags) -> (status, output, folder)."""

    def call(table, *flags):
        status, said = run(script.main, "--table", table, "--save_dir", tmp_path / "out", *flags)
        return status, said, tmp_path / "out"

    return call


def labels_in(convert, table, *flags):
    """The labels of each row, in the table's order."""
    status, said, folder = convert(table, *flags, "--splits", 1, "--is_shuffle", "False")
    assert status == 0, said
    return [labels for _, labels in pairs_of(folder / "train.txt")]


LEVELS = ("--text_column", "客户描述", "--level_columns", "一级", "二级", "三级")


def test_a_gbk_csv_with_mistakes_becomes_a_data_set_that_trains(convert, train, tmp_path):
    """The first run names the mistakes by line, the second one converts the corrected table."""
    rows = tickets(3000)
    rows[7][3] = ""  # a third level without a second
    rows[7][4] = "登陆"
    rows[30][2] = "灾害,体育"
    rows[50][1] = " \n "
    rows[60] = rows[61]
    rows[70] = ["", rows[71][1], "体育", "足球", "转会", ""]
    rows[71][2:5] = "灾害", "台风", "登陆"
    for i in range(80, 84):
        rows[i][2:5] = "灾害", "台凤", ""  # 凤 for 风
    table = save_csv(tmp_path / "tickets.csv", [HEADER, *rows], "gbk")
    status, said, folder = convert(table, *LEVELS)
    lines = [2 + i + sum(row[1].count("\n") for row in rows[:i]) for i in (7, 30)]
    assert status == 2 and "2 problems, nothing was done" in said and not folder.exists()
    assert f"{table}:{lines[0]}: column '二级' is empty, but '三级' is not" in said
    assert f"{table}:{lines[1]}: label '灾害,体育" in said and "contains a comma" in said

    rows[7][3], rows[30][2:5] = "台风", ["体育", "足球", ""]
    save_csv(table, [HEADER, *rows], "gbk")
    status, said, folder = convert(table, *LEVELS, "--splits", 0.1, 0.1, 0.8)
    assert status == 0, said
    for line in (
        "GB18030 (GBK), CSV, cells separated by ','; 6 columns, named by row 1",
        "2998 rows",
        "1 rows without a text skipped",
        "1 rows with the same text and labels as another skipped",
        "Same text, different labels (体育,体育##足球,体育##足球##转会 | 灾害,灾害##台风,灾害##台风##登陆)",
        "'灾害##台凤' (4 rows)",
    ):
        assert line in said, line
    parts = [pairs_of(folder / f"{name}.txt") for name in ("train", "dev", "test")]
    expected = []
    for _, text, *levels, _ in rows:
        names = ["##".join(levels[: i + 1]) for i in range(len(levels)) if levels[i]]
        expected.append((one_line(text).strip(), ",".join(names)))
    assert sorted(pair for part in parts for pair in part) == sorted({pair for pair in expected if pair[0]})
    assert train(folder)[0] == 0


def test_the_printed_command_converts_the_table(run, convert, tmp_path):
    """In every format; all give the same files."""
    rows = tickets(60)
    book = openpyxl.Workbook()
    for row in [["2024年工单"], HEADER, *rows]:
        book.active.append(row)
    book.save(tmp_path / "a b.xlsx")
    records = [dict(zip(HEADER, row)) for row in rows]
    pa.parquet.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    save_csv(tmp_path / "a.csv", [HEADER, *rows], "utf-16")
    found = []
    for name in ("a b.xlsx", "a.parquet", "a.json", "a.csv"):
        status, said, folder = convert(tmp_path / name)
        assert status == 0 and not folder.exists(), said
        assert re.search("客户描述 +60 +60 +第0位客户说", said) and "A guess: the texts are in '客户描述'" in said
        words = shlex.split(next(line for line in said.splitlines() if line.startswith("  python")))
        assert words[:2] == ["python", "data/from_table.py"]
        words[words.index("--save_dir") + 1] = str(tmp_path / f"out of {name}")
        status, said = run(script.main, *words[2:])
        assert status == 0, said
        found.append({path.name: path.read_bytes() for path in (tmp_path / f"out of {name}").iterdir()})
    assert all(files == found[0] for files in found) and len(found[0]) == 4


@pytest.mark.parametrize(
    ("cells", "flags", "labels"),
    [
        (["甲,乙", " 乙 ", "", "甲,,"], (), ["甲,乙", "乙", "", "甲"]),
        (["甲；乙", "乙", "丙"], ("--label_separator", "；"), ["乙,甲", "乙", "丙"]),
        (['["甲", "乙"]', "['乙']", "[]", "[甲]"], (), ["乙,甲", "乙", "", "[甲]"]),
        (["甲\n乙", "乙"], ("--label_separator", "\n"), ["乙,甲", "乙"]),
        (["甲>乙,丙", "丙"], ("--task_type", "hierarchical", "--separator", ">"), ["丙,甲,甲##乙", "丙"]),
        (["甲##乙"], ("--task_type", "hierarchical"), ["甲,甲##乙"]),
        (["00123", "1.0", "5"], (), ["00123", "1.0", "5"]),
    ],
)
def test_labels_in_a_cell(convert, tmp_path, cells, flags, labels):
    table = save_csv(tmp_path / "a.csv", [["text", "tags"], *([f"第{i}条", cell] for i, cell in enumerate(cells))])
    found = labels_in(convert, table, "--text_column", "text", "--label_column", "tags", *flags)
    assert [set(names.split(",")) for names in found] == [set(names.split(",")) for names in labels]


def test_lists_of_json_and_parquet(convert, tmp_path):
    records = [{"text": "一", "tags": ["甲", "乙"]}, {"text": "二", "tags": []}, {"text": "三", "tags": [7]}]
    write_lines(tmp_path / "a.jsonl", map(json.dumps, records))
    assert labels_in(convert, tmp_path / "a.jsonl", "--text_column", "text", "--label_column", "tags") == [
        "乙,甲",
        "",
        "7",
    ]
    pa.parquet.write_table(pa.table({"text": ["一"], "tags": [["甲", None]]}), tmp_path / "a.parquet")
    assert labels_in(convert, tmp_path / "a.parquet", "--text_column", "text", "--label_column", "tags") == ["甲"]


def test_several_text_columns_and_numbers_of_columns(convert, tmp_path):
    rows = [
        ["1", "标题", "内容", "甲"],
        ["2", "", " 只有内容 ", "甲"],
        ["3", "只有标题", "", "甲"],
        ["4", "", " ", "甲"],
    ]
    table = save_csv(tmp_path / "a.csv", rows)
    flags = "--text_column", 2, 3, "--label_column", 4
    status, said, folder = convert(table, *flags, "--splits", 1, "--is_shuffle", "False")
    assert status == 0 and lines_of(folder / "data.txt") == ["标题 内容", "只有内容", "只有标题"]
    assert "1 rows without a text skipped" in said and "called by their numbers" in said
    status, said, _ = convert(table, "--text_column", 2, "--label_column", 5)
    assert status == 2 and "--label_column 5: no such column; there are '1', '2', '3', '4'" in said


def test_texts_without_labels(convert, tmp_path):
    """One line for each row, so that line i of the predictions is row i."""
    table = save_csv(tmp_path / "a.csv", [["id", "text"], ["1", "一\n二"], ["2", ""], ["3", "一 二"]])
    status, said, folder = convert(table, "--text_column", "text")
    assert status == 0 and (folder / "data.txt").read_text(encoding="utf-8") == "一 二\n\n一 二\n"
    assert "3 texts, 1 of them empty" in said and [path.name for path in folder.iterdir()] == ["data.txt"]
    assert convert(save_csv(table, [["id", "text"], ["1", ""]]), "--text_column", "text")[0] == 2


def test_the_same_data_set_as_doccano(run, convert, tmp_path):
    records = [{"id": i, "text": f"第{i}条", "label": ["甲", "乙"][: i % 3]} for i in range(50)]
    write_lines(tmp_path / "a.jsonl", map(json.dumps, records))
    status, said, folder = convert(tmp_path / "a.jsonl", "--text_column", "text", "--label_column", "label")
    assert status == 0 and "looks like an export of doccano" in said and "--doccano_file" in said
    assert run(doccano.main, "--doccano_file", tmp_path / "a.jsonl", "--save_dir", tmp_path / "other")[0] == 0
    for name in ("train", "dev", "data", "label"):
        assert (folder / f"{name}.txt").read_bytes() == (tmp_path / "other" / f"{name}.txt").read_bytes()


def test_rows_of_one_text_can_be_merged(convert, tmp_path):
    rows = [["同一条", "甲"], ["同一条", "乙"], ["另一条", "甲"]]
    table = save_csv(tmp_path / "a.csv", [["text", "label"], *rows])
    flags = "--text_column", "text", "--label_column", "label"
    assert labels_in(convert, table, *flags) == ["甲", "乙", "甲"]
    assert labels_in(convert, table, *flags, "--disagreement", "union") == ["乙,甲", "甲"]


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("text,label\n一,甲；乙\n二,甲\n三,乙\n", (), "add --label_separator '；', or correct the table"),
        ("text,label\n一,IT\n二,it\n", (), "label 'it' differs from 'IT' only in letter case or full width"),
        ("text,label\n一,甲##乙\n", (), "--task_type hierarchical"),
        ("text,label\n一,\n二,\n", (), "no row has a label"),
        ("text,label\n一,甲\n", ("--label_separator", ""), "--label_separator: must not be empty"),
        ("text,label\n一,甲\n", ("--separator", ""), "--separator: must not be empty"),
        ("text,label\n一,甲\n", (), "1 rows cannot fill 2 files"),
        ("text,label\n一,甲,乙\n", (), "a.csv:2: 3 cells, but the table has 2 columns"),
        ("body,label\n一,甲\n", (), "--text_column text: no such column; there are 'body', 'label'"),
        ('{"text": {"a": 1}, "label": "甲"}\n', (), "a.csv:1: contains a JSON object"),
        ('{"text": "\\ud83d", "label": "甲"}\n', (), "contains half a surrogate pair"),
        ('{"text": "一", "label": [["甲"]]}\n', (), "a.csv:1: contains a list"),
        (
            '[{"id": 1, "annotations": [], "data": {"text": "一"}}]',
            (),
            "an export of Label Studio; convert it: python data",
        ),
        ("text,label\n一,甲\n", ("--sheet", "一月"), "only an Excel workbook has sheets"),
    ],
)
def test_mistakes(convert, tmp_path, content, flags, message):
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    status, said, folder = convert(tmp_path / "a.csv", "--text_column", "text", "--label_column", "label", *flags)
    assert status == 2 and message in said and "Traceback" not in said
    assert not folder.exists()


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (("甲##乙", "丙"), "level '甲##乙' contains ##"),
        (("甲", "#丙"), "begins with #"),
        (("", "丙"), "column '一级' is empty"),
    ],
)
def test_mistakes_in_levels(convert, tmp_path, levels, message):
    table = save_csv(tmp_path / "a.csv", [["内容", "一级", "二级"], ["一", *levels], ["二", "甲", "C#"]])
    status, said, _ = convert(table, "--text_column", "内容", "--level_columns", "一级", "二级", "--splits", 1)
    assert status == 2 and f"{table}:2: " in said and message in said and "problems" not in said


def test_formulas_without_results_and_errors_are_counted(convert, tmp_path):
    book = openpyxl.Workbook()
    for row in (["内容", "标签"], ["一", "=A1"], ["二", "#N/A"], ["三", "甲"]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    status, said, _ = convert(tmp_path / "a.xlsx", "--text_column", "内容", "--label_column", "标签")
    assert status == 0 and "2 rows have no label and are kept" in said
    assert "1 formulas have no result in the file" in said and "1 cells with an error such as #N/A" in said


def test_levels_without_names_are_guessed(convert, tmp_path):
    """Each value of a column belongs to one value of the column before it; the date belongs to none."""
    status, said, _ = convert(save_csv(tmp_path / "a.csv", tickets(300)))
    assert status == 0 and "the texts are in '2', the levels of their labels in '3', '4', '5'" in said


@pytest.mark.parametrize(
    ("columns", "flags"),
    [
        (
            {"id": [1, 2, 3], "正文": ["一" * 9, "二" * 8, "三" * 9], "标签": ["甲；乙", "甲", "乙"]},
            "--label_column '标签' --label_separator '；'",
        ),
        (
            {"text": ["一", "二"], "label": ["甲>乙", "甲>丙"]},
            "--label_column label --task_type hierarchical --separator '>'",
        ),
        ({"text": ["一", "二"], "label": ["甲##乙", "甲"]}, "--label_column label --task_type hierarchical"),
        ({"标题": ["一", "二"], "内容": ["三" * 30, "四" * 40]}, "--text_column '内容'"),
        ({"Level 1": ["甲"], "Level 2": ["乙"], "body": ["三" * 30]}, "--level_columns 'Level 1' 'Level 2'"),
        ({"location": ["北京"], "label": ["乙"], "body": ["三" * 30]}, "--text_column body --label_column label"),
    ],
)
def test_guesses(convert, tmp_path, columns, flags):
    status, said, _ = convert(save_csv(tmp_path / "a.csv", [list(columns), *zip(*columns.values())]))
    assert status == 0 and said.partition("If it is right:\n")[2].splitlines()[0].endswith(flags)


def test_rows_of_the_suite_need_no_conversion(convert, tmp_path):
    status, said, _ = convert(ROOT / "data" / "train.txt")
    assert status == 0 and "only split them, with analysis/split.py" in said


def test_a_workbook_given_as_rows_is_named(run, train, news):
    book = openpyxl.Workbook()
    book.active.append(["内容", "标签"])
    book.save(news / "train.txt")
    status, log, _ = train(news)
    assert status == 2 and f"python data/from_table.py --table {news / 'train.txt'}" in log
    status, log, _ = train(news / "train.txt")
    assert status == 2 and "To make a data set of a table, use data/from_table.py" in log
    status, log = run(doccano.main, "--doccano_file", news / "train.txt", "--save_dir", news)
    assert status == 2 and f"python data/from_table.py --table {news / 'train.txt'}" in log


def test_columns_that_are_no_text_are_shown(convert, tmp_path):
    columns = {"text": ["一"], "image": [b"\xff\xd8"], "vector": [[0.5, 1.0]], "red\x1b[31m": ["\x1b[31m甲"]}
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    status, said, _ = convert(tmp_path / "a.parquet")
    assert status == 0 and "[0.5, 1.0]" in said and "\x1b" not in said
    status, said, _ = convert(tmp_path / "a.parquet", "--label_column", "text")
    assert status == 2 and "--text_column is missing" in said
    status, said, _ = convert(tmp_path / "a.parquet", "--text_column", "image")
    assert status == 2 and "row 1: contains bytes that are not UTF-8" in said


def test_a_missing_package_is_named(tmp_path):
    """In a process of its own, as a machine that only serves has it."""
    book = openpyxl.Workbook()
    book.active.append(["内容", "标签"])
    book.save(tmp_path / "a.xlsx")
    code = "import sys; sys.modules['openpyxl'] = None; import from_table; sys.exit(from_table.main())"
    words = command_line("-c", code, "--table", tmp_path / "a.xlsx")
    answer = subprocess.run(words, cwd=ROOT / "data", capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 2 and "pip install -r requirements/tables.txt" in answer.stderr


def test_a_pipe(tmp_path):
    save_csv(tmp_path / "a.csv", [HEADER, *tickets(50)], "gbk")
    words = command_line(ROOT / "data/from_table.py", "--table", "/dev/stdin", "--save_dir", tmp_path / "out", *LEVELS)
    answer = subprocess.run(words, input=(tmp_path / "a.csv").read_bytes(), capture_output=True)
    assert answer.returncode == 0, answer.stderr
    assert len(lines_of(tmp_path / "out" / "train.txt")) == 40


NAME = st.text("甲乙丙Ab#；, \u200b\t", max_size=4)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXT, st.lists(NAME, max_size=3)), min_size=1, max_size=6))
def test_any_labels_come_back_or_are_refused(tmp_path_factory, rows):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    table = save_csv(folder / "a.csv", [["text", "label"], *((text, json.dumps(names)) for text, names in rows)])
    flags = [
        "--table",
        str(table),
        "--save_dir",
        str(folder / "out"),
        "--text_column",
        "text",
        "--label_column",
        "label",
    ]
    status = script.main([*flags, "--splits", "1"])
    expected = {(one_line(text).strip(), frozenset(tidy_name(name).strip() for name in names)) for text, names in rows}
    expected = {(text, names - {""}) for text, names in expected if text}
    if status == 0:
        pairs = pairs_of(folder / "out" / "train.txt")
        assert {(text, frozenset(filter(None, labels.split(",")))) for text, labels in pairs} == expected
    else:  # no label at all, or names with signs that the files do not allow, or that look alike
        assert status == 2
        assert not any(names for _, names in expected) or set("；，,\t#Aa\u200b ") & {
            c for _, names in rows for c in "".join(names)
        }
