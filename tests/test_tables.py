"""text_cls/tables.py and workbooks.py: every format, encoding and cell, damaged and hostile files."""

import csv
import datetime
import decimal
import io
import json
import tracemalloc
import zipfile

import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_cls import tables, workbooks
from text_cls.cli import Problems, UserError
from text_cls.tables import cell_text, open_table

ROWS = [
    ["编号", "内容", "标签"],
    ["00123", '他说"好"，\n然后\t走了', "天气"],
    ["1.0", "第一行\r\n第二行, 第三行; 完", "体育"],
    ["", "  ", "天气"],
    ["7", "原告与被告于二〇一四年结婚，婚后生有一女", ""],
]


def as_csv(rows, delimiter=","):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


def read(path, **flags):
    """(the Table, its rows as lists, messages of those that cannot be read)"""
    table, problems = open_table(path, **flags), Problems()
    return table, [list(row.values()) for _, row in table.rows(problems)], problems.messages


def refused(path, **flags):
    with pytest.raises(UserError) as error:
        table = open_table(path, **flags)
        list(table.rows(Problems()))
    return str(error.value)


@pytest.fixture
def save(tmp_path):
    """save(name, text or bytes) -> path"""

    def call(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return call


# ---------------------------------------------------------------------------------------------------------- CSV and TSV


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "gb18030"])
def test_encodings_and_separators_are_found(save, encoding, delimiter):
    path = save(
        "table.tsv" if delimiter == "\t" else "table.csv", as_csv([*ROWS, *ROWS[1:] * 2], delimiter).encode(encoding)
    )
    table, rows, problems = read(path)
    assert (table.columns, rows[:4], problems) == (ROWS[0], ROWS[1:], []) and table.header_row == 1
    shown = {"utf-8-sig": "UTF-8 with a byte order mark", "gb18030": "GB18030 (GBK)", "utf-16-le": "UTF-16LE"}
    assert table.kind.startswith(shown.get(encoding, encoding.upper()).replace("16-BE", "16BE"))


def test_the_first_chinese_cell_may_be_far_down(save):
    content = "text,label\n" + "plain words,a\n" * 20_000 + "原告与被告于二〇一四年结婚,婚姻\n" * 3
    table, rows, _ = read(save("table.csv", content.encode("gbk")))
    assert rows[-1] == ["原告与被告于二〇一四年结婚", "婚姻"] and "GB18030" in table.kind


def test_traditional_characters_in_big5(save):
    row = ["原告與被告於二零一四年結婚，婚後生有一女，現已分居六年有餘", "婚姻"]
    table, rows, _ = read(save("table.csv", as_csv([["text", "label"], row]).encode("big5")))
    assert rows == [row] and "BIG5" in table.kind


@pytest.mark.parametrize("name", ["table.csv", "table.jsonl"])
def test_memory_does_not_grow_with_the_table(save, name):
    line = "好" * 50 + ",甲\n" if name == "table.csv" else json.dumps({"text": "好" * 50, "label": "甲"}) + "\n"
    table = open_table(save(name, ("text,label\n" if name == "table.csv" else "") + line * 15_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in table.rows(Problems())) == 15_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # of 2.4 MB
    finally:
        tracemalloc.stop()


def test_an_encoding_can_be_named(save):
    path = save("table.csv", "text,label\ncafé au lait,drink\n".encode("cp1252"))
    assert read(path, encoding="cp1252")[1] == [["café au lait", "drink"]]
    for name in ("utf8x", "rot13"):
        assert f"--encoding {name}: no such encoding" in refused(path, encoding=name)
    path = save("table.csv", b"text,label\n" + "下雨,天气\n".encode() * 20_000 + "下雨,天气\n".encode("gbk"))
    assert "not UTF-8 after line 1" in refused(path) and "--encoding" in refused(path)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([["下雨", "天气"], ["晴天", "天气"]], None),  # the label repeats
        ([["1", "下雨"], ["2", "晴天"]], None),
        ([["下" * 50, "天气"], ["晴", "晴天"]], None),
        ([["客户描述", "分类"], ["下雨", "天气"]], ["客户描述", "分类"]),
        ([["", "text", "", "text"], ["0", "a", "b", "c"]], ["1", "text", "3", "text (2)"]),
        ([["", "text"], ["0", "a"]], ["1", "text"]),
        ([["2024年汇总", ""], ["内容", "标签"], ["a", "b"]], ["内容", "标签"]),
        (
            [["2024年汇总", "", "", ""], ["编号", "内容", "标签", "日期"], ["a", "b", "c", "d"]],
            ["编号", "内容", "标签", "日期"],
        ),
    ],
)
def test_names_of_columns_are_found(save, rows, columns):
    table, found, problems = read(save("table.csv", as_csv(rows)))
    assert table.columns == (columns or ["1", "2"]) and not problems
    assert found == rows[len(rows) - len(found) :] and len(found) == (1 if columns else 2)


def test_the_row_with_names_can_be_named(save):
    path = save("table.csv", as_csv([["a", "b"], ["c", "d"], ["e", "f"]]))
    assert [read(path, header_row=number)[0].columns for number in (0, 1, 2)] == [["1", "2"], ["a", "b"], ["c", "d"]]
    assert [len(read(path, header_row=number)[1]) for number in (0, 1, 2)] == [3, 2, 1]
    assert "--header_row 9: no such row" in refused(path, header_row=9)
    path = save("table.csv", as_csv([["a", "b"], ["a", "b"]]))
    assert read(path)[0].header_row == 0 and read(path, wanted=["b"])[0].header_row == 1


def test_a_table_of_empty_cells(save):
    assert read(save("table.csv", ",\n,\n"))[1] == [["", ""]] * 2


def test_rows_that_cannot_be_read_are_named_by_their_line(save):
    content = 'text,label\n"第一行\n第二行",甲\n短\n长,乙,丙\n"引号"多,丁\n下雨, 刮风,戊\n好,己,\n\n好,庚\n'
    _, rows, problems = read(save("table.csv", content))
    assert rows == [["第一行\n第二行", "甲"], ["好", "己"], ["好", "庚"]]
    lines = [message.partition("table.csv:")[2].partition(":")[0] for message in problems]
    assert lines == ["4", "5", "6", "7"] and "1 cells, but the table has 2 columns" in problems[0]
    assert "quotes that do not match" in problems[2]


def test_quotes_of_a_tsv_may_mean_nothing(save):
    content = 'text\tlabel\n"好" 他说\t甲\n"未完\t乙\n'
    assert read(save("table.tsv", content))[1] == [['"好" 他说', "甲"], ['"未完', "乙"]]


def test_hostile_text(save, monkeypatch):
    monkeypatch.setattr(tables, "MAX_LINE", 5000)
    monkeypatch.setattr(tables, "MAX_CELL", 2000)
    assert ":1: a line of more than 5000 characters" in refused(save("table.csv", "字" * 100_000))
    assert ":2: contains NUL characters" in refused(save("table.csv", "text,label\na\0b,c\n下,雨\n"))
    for content in ('"never closed\n' + "x,y\n" * 9000, '"' + "x" * 3000 + '",y\n'):
        _, rows, problems = read(save("table.csv", "text,label\ngood,a\n" + content))
        assert rows == [["good", "a"]] and len(problems) == 1 and "more than 2000 characters" in problems[0]
    assert "table.csv: no rows" in refused(save("table.csv", "\n\n"))
    assert "is HTML or XML" in refused(save("export.xls", "<html><table><tr><td>1</td></tr></table></html>"))


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=100)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), st.sampled_from([",", "\t", ";"]))
def test_any_cells_come_back(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.getbasetemp() / ("any.tsv" if delimiter == "\t" else "any.csv")
    path.write_bytes(as_csv([("text", "label"), *rows], delimiter).encode())
    assert read(path, header_row=1)[1:] == ([list(row) for row in rows], [])


# ------------------------------------------------------------------------------------------------------------ workbooks


def workbook(path, fill):
    book = openpyxl.Workbook()
    fill(book, book.active)
    book.save(path)
    return path


def test_cells_keep_their_look(tmp_path):
    cells = [
        ("00123", "General", "00123"),
        (123, "00000", "00123"),
        (-5, "000", "-005"),
        ("1.0", "General", "1.0"),
        (1, "0.00", "1.00"),
        (0.256, "0%", "26%"),
        (1.0, "General", "1"),
        (0.1 + 0.2, "General", "0.3"),
        (1234.5, "#,##0.00", "1234.5"),
        (1234567890123, "General", "1234567890123"),
        (datetime.date(2024, 1, 5), "yyyy/m/d", "2024-01-05"),
        (datetime.datetime(2024, 1, 5, 13, 7), "yyyy-mm-dd h:mm", "2024-01-05 13:07:00"),
        (datetime.time(8, 30), "h:mm", "08:30:00"),
        (True, "General", "TRUE"),
        ("一\n二\t三", "General", "一\n二\t三"),
        ("一_x000D_\n二", "General", "一\r\n二"),
        ("=1+1", "General", None),
        ("#N/A", "General", None),
    ]

    def fill(book, sheet):
        sheet.append(["值", "名"])
        for value, number_format, _ in cells:
            sheet.append([value, "x"])
            sheet.cell(sheet.max_row, 1).number_format = number_format

    _, rows, _ = read(workbook(tmp_path / "table.xlsx", fill))
    assert [row[0] for row in rows] == [shown for *_, shown in cells]


def test_formulas_are_not_calculated(tmp_path):
    """Excel stores their results."""
    path = workbook(tmp_path / "table.xlsx", lambda _, sheet: [sheet.append(["值", "名"]), sheet.append(["=A9", "x"])])
    copy = tmp_path / "copy.xlsx"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            result = b'<c r="A2" t="str"><f>A9</f><v>stored</v></c>'
            part = old.read(name).replace(b'<c r="A2"><f>A9</f><v /></c>', result)
            new.writestr(name, part.replace(b'<c r="A2"><f>A9</f><v></v></c>', result))
    assert read(copy)[1] == [["stored", "x"]]
    assert read(path)[1] == [[None, "x"]]


def test_merged_cells_titles_and_empty_rows(tmp_path):
    def fill(_, sheet):
        sheet["A1"] = "2024年汇总"
        sheet.merge_cells("A1:C1")
        for i, row in enumerate(
            [["一级", "二级", "内容"], ["灾害", "地震", "甲"], [None, None, "乙"], [None, "台风", "丙"]], 2
        ):
            for j, value in enumerate(row, 1):
                sheet.cell(i, j, value)
        sheet.merge_cells("A3:A5")
        sheet.merge_cells("B3:B4")
        sheet.cell(7, 3, "丁")
        sheet.cell(900, 1).number_format = "0.00"  # a formatted row without cells

    table, rows, _ = read(workbook(tmp_path / "table.xlsx", fill))
    assert table.columns == ["一级", "二级", "内容"] and "row 2 (the rows above it are ignored)" in table.kind
    assert rows == [
        ["灾害", "地震", "甲"],
        ["灾害", "地震", "乙"],
        ["灾害", "台风", "丙"],
        [None] * 3,
        [None, None, "丁"],
    ]
    assert [where for where, _ in table.rows(Problems())][-1] == f"{table.path}: row 7"


def test_sheets_by_name(tmp_path):
    def fill(book, sheet):
        sheet.append(["隐藏", "x"])
        sheet.sheet_state = "hidden"
        for name in ("一月", "二月"):
            for row in (["内容", "标签"], [name, "x"]):
                (book[name] if name in book.sheetnames else book.create_sheet(name)).append(row)

    path = workbook(tmp_path / "table.xlsx", fill)
    assert read(path)[1] == [["一月", "x"]] and "sheet '一月' (others: 'Sheet', '二月')" in read(path)[0].kind
    assert read(path, sheet="二月")[1] == [["二月", "x"]]
    assert "no sheet '三月'; there are 'Sheet', '一月', '二月'" in refused(path, sheet="三月")
    renamed = path.rename(tmp_path / "table.csv")  # the bytes count, not the name
    assert read(renamed)[1] == [["一月", "x"]]


def repacked(path, change):
    """A copy of a workbook with changed parts: {name: content} -> {name: content}."""
    copy = path.with_name("changed.xlsx")
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in change(parts).items():
            new.writestr(name, content)
    return copy


SHEET = "xl/worksheets/sheet1.xml"


def test_hostile_workbooks(tmp_path, monkeypatch):
    path = workbook(
        tmp_path / "table.xlsx", lambda _, sheet: [sheet.append(["内容", "标签"]), sheet.append(["好", "x"])]
    )
    far = repacked(path, lambda parts: parts | {SHEET: parts[SHEET].replace(b'r="2"', b'r="99999999999"')})
    assert "more than 1048576 rows" in refused(far)
    wrong = repacked(path, lambda parts: parts | {SHEET: parts[SHEET].replace(b"A1:B2", b"A1:XFD1048576")})
    assert read(wrong)[1] == [["好", "x"]]
    assert "unreadable Excel workbook" in refused(repacked(path, lambda parts: parts | {SHEET: parts[SHEET][:200]}))
    laughs = b'<!DOCTYPE x [<!ENTITY a "' + b"ha" * 5000 + b'"><!ENTITY b "' + b"&a;" * 5000 + b'">]>'
    bomb = laughs + b"<worksheet><sheetData>" + b"&b;" * 5000 + b"</sheetData></worksheet>"
    assert "unreadable Excel workbook" in refused(repacked(path, lambda parts: parts | {SHEET: bomb}))
    monkeypatch.setattr(workbooks, "MAX_UNPACKED", 10 << 20)
    big = repacked(path, lambda parts: parts | {"xl/media/image1.png": bytes(11 << 20)})
    assert big.stat().st_size < 100_000 and "MB when unpacked" in refused(big)


@settings(max_examples=40)
@given(st.data())
def test_damaged_binary_files_are_refused_or_read(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    name = data.draw(st.sampled_from(["whole.xlsx", "whole.parquet"]))
    if not (folder / name).exists():
        workbook(folder / "whole.xlsx", lambda _, sheet: [sheet.append(["内容", i]) for i in range(9)])
        pa.parquet.write_table(pa.table({"text": ["好"] * 9, "label": [["甲"]] * 9}), folder / "whole.parquet")
    content = bytearray((folder / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / f"damaged-{name}"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    try:
        read(path)
    except UserError as error:
        assert path.name in str(error)


# ----------------------------------------------------------------------------------------------------- JSON and Parquet


def test_json(save):
    records = [{"id": "007", "text": "好\n坏", "tags": ["甲", "乙"], "n": 1.5}, {"text": "x", "more": None}]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\r\n" for record in records)
    for name, content in (
        ("table.jsonl", lines.encode("gb18030")),
        ("table.txt", lines),
        ("table.json", json.dumps(records, indent=1)),
    ):
        table, problems = open_table(save(name, content)), Problems()
        assert [row for _, row in table.rows(problems)] == records and not problems.count
        assert table.columns == ["id", "text", "tags", "n", "more"]
    _, rows, problems = read(save("table.jsonl", '{"text": 1}\n{"text": \n[1]\n' + "[" * 100_000 + "\n"))
    assert rows == [[1]] and [message.split(":")[1] for message in problems] == ["2", "3", "4"]
    assert "unreadable JSON array" in refused(save("table.json", "[" * 100_000))
    assert "no rows" in refused(save("table.json", "[]"))


def test_an_array_that_is_too_large(save, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ARRAY", 1000)
    assert "jq -c '.[]'" in refused(save("table.json", json.dumps([{"text": "好"}] * 1000)))


def test_parquet(tmp_path):
    path = tmp_path / "table.parquet"
    columns = {"text": ["好", None], "tags": [["甲"], []], "day": [datetime.date(2024, 1, 5)] * 2, "n": [1.0, None]}
    pa.parquet.write_table(pa.table(columns), path, row_group_size=1)
    table, rows, _ = read(path)
    assert rows == [["好", ["甲"], datetime.date(2024, 1, 5), 1.0], [None, [], datetime.date(2024, 1, 5), None]]
    assert [row for _, row in table.rows(Problems(), ["tags"])] == [{"tags": ["甲"]}, {"tags": []}]
    assert "only an Excel workbook has sheets" in refused(path, sheet="x")


def test_cells_as_text():
    for value, text in (
        (None, ""),
        (float("nan"), ""),
        ("00123", "00123"),
        (1.0, "1.0"),
        (3, "3"),
        (True, "true"),
        ("好".encode(), "好"),
        (decimal.Decimal("1.10"), "1.10"),
        (datetime.date(2024, 1, 5), "2024-01-05"),
        (datetime.datetime(2024, 1, 5, 8, 30), "2024-01-05 08:30:00"),
    ):
        assert cell_text(value) == text
    for value in ([1], {"a": 1}, b"\xff"):
        with pytest.raises(ValueError, match="contains"):
            cell_text(value)


def test_other_files_are_named(save):
    assert "an Excel workbook (.xls), or an Office file with a password" in refused(
        save("old.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    )
    assert "No such file" in refused("missing.csv")
