"""Tables through prediction: columns are kept, labels are added, in every format, by every script."""

import csv
import datetime
import decimal
import json

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import lines_of, plain, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from text_cls import prediction, table_output, tables
from text_cls.cli import Problems, UserError, set_up_log
from text_cls.inputs import one_run
from text_cls.prediction import check_files, predict_file
from text_cls.rows import Labels
from text_cls.table_flags import TableOptions
from text_cls.tables import open_table

LABELS = Labels(["体育", "体育##足球", "天气"])
COLUMNS = ["编号", "内容", "备注"]
ROWS = [
    ["00123", '他说"足球"，\n然后\t走了', "a,b"],
    ["1.0", "下雨", ""],
    ["=1+1", "  ", "无"],
    ["7", "足球\u2028下雨", "-5"],
]
FOUND = [["体育", "体育##足球"], ["天气"], [], ["体育", "体育##足球", "天气"]]


def answer(texts):
    """Labels by words, with scores that need rounding."""
    assert all(text.strip() == text != "" and not {"\t", "\n"} & set(text) for text in texts)
    for text in texts:
        names = ["体育", "体育##足球"] * ("足球" in text) + ["天气"] * ("下雨" in text)
        yield names, np.float32([0.987654321, 0.75, 0.5])[: len(names)]


def predicted(path, output, labels=LABELS, skip_blank=False, longest=None, scores=False, **options):
    problems = Problems()
    with one_run():
        job = check_files(path, output, problems, labels, scores, skip_blank, longest, TableOptions(**options))
        problems.stop_if_any()
        predict_file(job, answer, lambda text, names: None)
    return output


def refused(path, output, **options):
    with pytest.raises(UserError) as error:
        predicted(path, output, **options)
    assert not output or not output.exists()
    return str(error.value)


def save(path, columns=COLUMNS, rows=ROWS, encoding="utf-8"):
    """A table in the format of its name; `columns` may be empty."""
    kind = path.suffix
    if kind in (".csv", ".tsv"):
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter="\t" if kind == ".tsv" else ",").writerows([columns, *rows] if columns else rows)
    elif kind == ".xlsx":
        book = openpyxl.Workbook()
        for row in [columns, *rows]:
            book.active.append([openpyxl.cell.WriteOnlyCell(book.active, cell) for cell in row])
        for cell in (cell for row in book.active.iter_rows() for cell in row if cell.value is not None):
            cell.data_type = "s"
        book.save(path)
    elif kind == ".parquet":
        pa.parquet.write_table(pa.table(dict(zip(columns, map(list, zip(*rows))))), path)
    else:
        records = [dict(zip(columns, row)) for row in rows]
        if kind == ".jsonl":
            write_lines(path, [json.dumps(record, ensure_ascii=False) for record in records])
        else:
            path.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return path


def load(path):
    """[{column: value}] by readers that are not this project's."""
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in lines_of(path)]
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


# -------------------------------------------------------------------------------------------------------- every format


@pytest.mark.parametrize("source", ["csv", "tsv", "jsonl", "json", "parquet", "xlsx"])
@pytest.mark.parametrize("target", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_in_and_out(tmp_path, source, target):
    path = save(tmp_path / f"in.{source}")
    rows = load(predicted(path, tmp_path / f"out.{target}"))
    assert list(rows[0]) == [*COLUMNS, "labels", "scores"]
    kept = [[row[name] for name in COLUMNS] for row in rows]
    assert [[cell or "" for cell in row] for row in kept] == ROWS
    scores = [[0.98765, 0.75, 0.5][: len(names)] for names in FOUND]
    if target in ("csv", "tsv"):
        assert [row["labels"] for row in rows] == [",".join(names) for names in FOUND]
        assert rows[0]["scores"] == "0.98765,0.75000" and rows[2]["scores"] == ""
    else:
        assert [row["labels"] for row in rows] == FOUND
        assert [[np.float32(score) for score in row["scores"]] for row in rows] == [
            [*map(np.float32, row)] for row in scores
        ]


def test_text_files_in_and_out(tmp_path, capsys):
    set_up_log()
    write_lines(tmp_path / "in.txt", ["足球\r大\t体育", "", "下雨"])
    rows = load(predicted(tmp_path / "in.txt", tmp_path / "out.csv"))
    assert [list(row.values())[:2] for row in rows] == [["足球\r大", "体育,体育##足球"], ["", ""], ["下雨", "天气"]]
    assert "their rows have spaces there" not in capsys.readouterr().err
    output = predicted(save(tmp_path / "in.csv"), tmp_path / "out.txt", scores=True)
    assert (
        lines_of(output)[0] == '他说"足球"， 然后 走了\t体育,体育##足球\t0.98765,0.75000' and len(lines_of(output)) == 4
    )
    log = plain(capsys.readouterr().err)
    assert f"{output} gets only texts and labels; for all columns, name a .csv, .tsv, .jsonl or .parquet file" in log


def test_a_table_gets_the_labels_of_a_text_file(tmp_path):
    texts = ["足球", "下 雨", "下雨 足球", "无"]
    write_lines(tmp_path / "in.txt", texts)
    save(tmp_path / "in.csv", ["id", "text"], [[str(i), text] for i, text in enumerate(texts)])
    for name in ("in.txt", "in.csv"):
        predicted(tmp_path / name, tmp_path / f"{name}.out.txt")
    assert (tmp_path / "in.txt.out.txt").read_bytes() == (tmp_path / "in.csv.out.txt").read_bytes()


def test_the_model_gets_the_texts_that_it_was_trained_on(run, tmp_path):
    """What data/from_table.py writes for a table is what is predicted of it."""
    import from_table

    rows = [*ROWS, ["8", "足球\r\n\r\n\t下雨  大\n", "x"], ["9", "\u3000下雨\u2029", "y\n"]]
    path = save(tmp_path / "in.csv", rows=rows, encoding="gb18030")
    flags = ("--table", path, "--save_dir", tmp_path / "data", "--text_column", "内容", "备注")
    assert run(from_table.main, *flags)[0] == 0
    job = check_files(path, None, Problems(), LABELS, tables=TableOptions(["内容", "备注"]))
    texts = [text for window in job.texts.windows(4) for text in window.texts]
    assert texts == [
        line.strip() for line in (tmp_path / "data" / "data.txt").read_text(encoding="utf-8").split("\n")[:-1]
    ]


def test_csv_is_written_as_excel_reads_it(tmp_path):
    path = save(tmp_path / "in.csv", encoding="gb18030", rows=[[*row[:2], "\ufffd好"] for row in ROWS])
    content = predicted(path, tmp_path / "out.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf" + "编号,内容,备注,labels,scores\r\n".encode())


def test_a_table_without_names_stays_so(tmp_path):
    path = save(tmp_path / "in.csv", [], [["1", "下雨"], ["2", "足球"]])
    output = predicted(path, tmp_path / "out.csv", text_column=["2"])
    assert output.read_bytes() == '\ufeff1,下雨,天气,0.98765\r\n2,足球,"体育,体育##足球","0.98765,0.75000"\r\n'.encode()
    assert list(load(predicted(path, tmp_path / "out.jsonl", text_column=["2"]))[0]) == ["1", "2", "labels", "scores"]


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(CELL, CELL), min_size=1, max_size=7),
    st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
    st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]),
    st.integers(1, 3),
)
def test_any_cells_are_kept(tmp_path_factory, rows, source, target, window):
    folder = tmp_path_factory.mktemp("cells")
    path = save(folder / f"in{source}", ["id", "text", "x"], [["1", "足球", "x"], *(["2", *row] for row in rows)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "WINDOW", window)
        output = predicted(path, folder / f"out{target}", header_row=1 if source in (".csv", ".tsv") else None)
    assert [(row["text"], row["x"]) for row in load(output)] == [("足球", "x"), *rows]
    again = open_table(output, header_row=1 if target in (".csv", ".tsv") else None)
    assert [(row["text"], row["x"]) for _, row in again.rows(Problems())] == [("足球", "x"), *rows]


# ----------------------------------------------------------------------------------------------------- JSON and Parquet


def test_json_keeps_its_values(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LOOKED_AT", 1)  # further columns are found when all rows are checked
    records = [
        {"text": "下雨", "n": 1, "tags": ["甲"], "deep": {"a": [None, 1.5]}},
        {
            "id": "\ud83d",
            "text": "足球",
            "n": 9007199254740993,
            "x": 1.5,
            "tags": [],
            "mixed": "a",
            "far": 9007199254740993,
        },
        {"text": None, "mixed": 2, "x": 1, "far": 0.5, "flag": True},
    ]
    write_lines(tmp_path / "in.jsonl", [json.dumps(record) for record in records])
    found = load(predicted(tmp_path / "in.jsonl", tmp_path / "out.jsonl"))
    assert [{name: row[name] for name in record} for row, record in zip(found, records)] == records
    assert [len(row) - len(record) for row, record in zip(found, records)] == [2, 2, 2]

    rows = load(predicted(tmp_path / "in.jsonl", tmp_path / "out.csv"))
    assert list(rows[0])[:-2] == ["text", "n", "tags", "deep", "id", "x", "mixed", "far", "flag"]
    assert [row["deep"] for row in rows] == ['{"a": [null, 1.5]}', "", ""]
    assert [row["flag"] for row in rows] == ["", "", "true"] and rows[1]["id"] == "\\ud83d"

    table = pa.parquet.read_table(predicted(tmp_path / "in.jsonl", tmp_path / "out.parquet"))
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types == {
        **dict.fromkeys(("text", "deep", "id", "mixed", "far"), "string"),
        **{"n": "int64", "x": "double", "flag": "bool"},
        **{"tags": "list<element: string>", "labels": "list<element: string>", "scores": "list<element: float>"},
    }
    assert table["n"].to_pylist() == [1, 9007199254740993, None] and table["mixed"].to_pylist() == [None, "a", "2"]
    assert table["far"].to_pylist() == [None, "9007199254740993", "0.5"]  # a double would change the first
    assert table["tags"].to_pylist() == [["甲"], [], None] and table["x"].to_pylist() == [None, 1.5, 1.0]


LEAF = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(), max_size=3)
VALUE = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(st.text(max_size=2), LEAF, max_size=2)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", ""]), VALUE), min_size=1, max_size=4))
def test_any_json_is_written(tmp_path_factory, records):
    """With its values as JSON, and without an error in every other format."""
    folder, records = tmp_path_factory.mktemp("json"), [{"text": "下雨"} | record for record in records]
    write_lines(folder / "in.jsonl", map(json.dumps, records))
    found = load(predicted(folder / "in.jsonl", folder / "out.jsonl"))
    assert found == [record | {"labels": ["天气"], "scores": [0.98765]} for record in records]
    assert len(load(predicted(folder / "in.jsonl", folder / "out.csv"))) == len(records)
    table = pa.parquet.read_table(predicted(folder / "in.jsonl", folder / "out.parquet"))
    for name in {"a", "b", ""} & set(table.column_names):
        if not pa.types.is_string(table.schema.field(name).type):
            assert table[name].to_pylist() == [record.get(name) for record in records]


def typed_table():
    return pa.table(
        {
            "id": pa.array([1, None, 3], pa.int16()),
            "text": pa.array(["下雨", None, "足球"]).dictionary_encode(),
            "when": pa.array([1_700_000_000_123_456_789, None, 0], pa.timestamp("ns", "Asia/Shanghai")),
            "day": pa.array([datetime.date(2024, 1, 5), None, None]),
            "price": pa.array([decimal.Decimal("1.10"), None, None]),
            "raw": pa.array([b"\xff\x00", "好".encode(), None]),
            "deep": pa.array([{"a": [1]}, None, {"a": []}]),
            "f": pa.array([float("nan"), 0.1, None], pa.float32()),
        }
    ).replace_schema_metadata({"owner": "me"})


def test_parquet_keeps_its_schema(tmp_path, monkeypatch):
    table = typed_table()
    pa.parquet.write_table(pa.concat_tables([table] * 40), tmp_path / "in.parquet", row_group_size=7)
    monkeypatch.setattr(prediction, "WINDOW", 16)
    monkeypatch.setattr(table_output, "ROW_GROUP", 50)
    found = pa.parquet.ParquetFile(predicted(tmp_path / "in.parquet", tmp_path / "out.parquet"))
    read = found.read()
    assert read.schema.remove_metadata().names == [*table.column_names, "labels", "scores"]
    assert read.select(table.column_names).schema.equals(table.schema) and read.schema.metadata[b"owner"] == b"me"
    assert read.select(table.column_names).drop(["f"]).equals(pa.concat_tables([table] * 40).drop(["f"]))
    assert found.metadata.num_row_groups == 3  # of 48, 48 and 24 rows, or a little more
    assert read["labels"].to_pylist() == [["天气"], [], ["体育", "体育##足球"]] * 40


def test_values_of_parquet_in_text(tmp_path):
    pa.parquet.write_table(typed_table(), tmp_path / "in.parquet")
    row, empty, _ = load(predicted(tmp_path / "in.parquet", tmp_path / "out.csv"))
    assert row["when"] == "2023-11-15 06:13:20.123456+08:00" and row["day"] == "2024-01-05"
    assert (row["price"], row["raw"], row["deep"], row["f"]) == ("1.10", "/wA=", '{"a": [1]}', "")
    assert empty == dict.fromkeys(empty, "") | {"raw": "好", "f": repr(float(np.float32(0.1)))}
    row, empty, _ = load(predicted(tmp_path / "in.parquet", tmp_path / "out.jsonl"))
    assert row["deep"] == {"a": [1]} and row["f"] is None and row["price"] == "1.10" and empty["id"] is None
    assert "NaN" not in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------------------------------- flags


def test_labels_by_level(tmp_path):
    path = save(tmp_path / "in.csv")
    row = load(predicted(path, tmp_path / "out.csv", level_columns=["一级", "二级"]))[3]
    assert list(row)[3:] == ["labels", "scores", "一级", "二级"]
    assert (row["labels"], row["一级"], row["二级"]) == ("体育,体育##足球,天气", "体育,天气", "足球")
    rows = load(predicted(path, tmp_path / "out.jsonl", level_columns=[]))
    assert [row["level_1"] for row in rows] == [["体育"], ["天气"], [], ["体育", "天气"]]
    table = pa.parquet.read_table(predicted(path, tmp_path / "out.parquet", level_columns=[]))
    assert table["level_2"].to_pylist() == [["足球"], [], [], ["足球"]]


def test_cells_that_no_spreadsheet_runs(tmp_path):
    starts = ["=1", "+1", "-1", "@a", "\tx", "\rx", "＝1", "'=1", "a=1", "1"]
    path = save(tmp_path / "in.csv", ["=id", "text"], [[start, "足球"] for start in starts])
    rows = load(predicted(path, tmp_path / "safe.csv", excel_safe=True))
    assert [row["'=id"] for row in rows] == [f"'{start}" for start in starts[:7]] + starts[7:]
    assert [row["=id"] for row in load(predicted(path, tmp_path / "plain.csv"))] == starts


def test_rows_without_a_text(tmp_path, capsys):
    set_up_log()
    for name in ("in.csv", "in.parquet", "in.jsonl"):
        path = save(tmp_path / name)
        assert len(load(predicted(path, tmp_path / "out.jsonl"))) == 4
        assert f"1 of 4 rows of {path} have no text, and so no labels" in plain(capsys.readouterr().err)
        for output in ("out.jsonl", "out.parquet"):
            rows = load(predicted(path, tmp_path / output, skip_blank=True))
            assert [row["编号"] for row in rows] == ["00123", "1.0", "7"]
    assert "no texts in column 'text'" in refused(save(tmp_path / "in.tsv", ["id", "text"], [["a", " "]] * 2), None)


def test_several_columns_are_joined(tmp_path):
    path = save(tmp_path / "in.csv", ["title", "n", "body"], [["下", "1", "雨"], ["", "2", " 足球\n"]])
    output = predicted(path, tmp_path / "out.txt", text_column=["title", "3"])
    assert lines_of(output) == ["下 雨\t", "足球\t体育,体育##足球"]


def test_the_column_that_is_named_tells_the_row_with_names(tmp_path):
    path = save(tmp_path / "in.csv", ["id", "说明"], [["id", "下雨"], ["2", "足球"]])  # "id" is also a value
    assert [row["id"] for row in load(predicted(path, tmp_path / "out.csv", text_column=["说明"]))] == ["id", "2"]


def test_text_that_is_not_utf_8_in_parquet(tmp_path):
    bad = pa.array([b"\xff"]).cast(pa.binary()).view(pa.string())
    pa.parquet.write_table(pa.table({"text": ["下雨"], "note": bad}), tmp_path / "in.parquet")
    assert "in.parquet: contains a value that cannot be read" in refused(tmp_path / "in.parquet", tmp_path / "new.csv")


def test_the_column_of_the_texts_is_guessed_only_if_it_is_obvious(tmp_path, capsys):
    set_up_log()
    assert predicted(save(tmp_path / "in.csv", ["甲", "Text"], [["a", "下雨"], ["b", "足球"]]), tmp_path / "out.csv")
    assert "Texts: column 'Text'" in plain(capsys.readouterr().err)
    assert load(predicted(save(tmp_path / "in.csv", ["说明"], [["下雨"], ["足球"]]), tmp_path / "out.csv"))
    for columns in (["甲", "说明"], ["内容", "text"]):
        path = save(tmp_path / "in.csv", columns, [["a", "下雨"], ["b", "足球"]])
        message = f"{path}: name the column of the texts with --text_column; there are {', '.join(map(repr, columns))}"
        assert refused(path, tmp_path / "new.csv") == message
    message = refused(path, tmp_path / "new.csv", text_column=["texte"])
    assert "--text_column texte: no such column; did you mean 'text'?; there are" in message


def test_what_is_wrong_is_found_before_anything_is_predicted(tmp_path):
    path, new = save(tmp_path / "in.csv"), tmp_path / "new.csv"
    assert "there is a column '备注' already" in refused(path, new, level_columns=["备注", "b"])
    assert "there is a column 'a' already" in refused(path, new, level_columns=["a", "a"])
    assert "labels have 2 levels; name as many columns" in refused(path, new, level_columns=["a"])
    assert "labels have no levels" in refused(path, new, level_columns=[], labels=Labels(["a", "b"]))
    assert "needs a table to write" in refused(path, tmp_path / "new.txt", level_columns=[])
    assert "is for .csv and .tsv files" in refused(path, tmp_path / "new.jsonl", excel_safe=True)
    assert "need a table to write, --output_file" in refused(path, None, excel_safe=True)
    assert "write a .csv file, which Excel opens" in refused(path, tmp_path / "new.xlsx")
    assert "call it .jsonl" in refused(path, tmp_path / "new.json")
    assert "in.csv:2: 13 characters; shorten the text to at most 10" in refused(path, new, longest=10)
    write_lines(tmp_path / "in.txt", ["下雨"])
    message = refused(tmp_path / "in.txt", new, text_column=["text"], sheet="一月")
    assert "--text_column is for tables; " in message and "--sheet is for tables" in message
    with pytest.raises(UserError, match="this is also an input file"):
        predicted(path, path)
    again = predicted(path, new)
    message = refused(again, tmp_path / "newer.csv")
    assert f"{again}: there is a column 'labels' already, and one is added; rename it in the table" in message
    save(path, ["id", "text"], [["1", "下雨"], ["2"]])
    assert "in.csv:3: 1 cells, but the table has 2 columns" in refused(path, tmp_path / "newer.csv")
    write_lines(tmp_path / "in.jsonl", ['{"text": ["a"]}', '{"text": "\\ud83d"}', '{"text": "好", "labels": 1}'])
    message = refused(tmp_path / "in.jsonl", tmp_path / "newer.csv")
    for part in (".jsonl:1: the text contains a list", ".jsonl:2: the text contains half", "column 'labels' already"):
        assert part in message
    write_lines(tmp_path / "in.jsonl", ['{"text": "好", "\\ud83d": 1}'])
    assert "column '\\ud83d': half a surrogate pair is no character" in refused(tmp_path / "in.jsonl", None)
    pa.parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "in.parquet")
    assert "two columns are called 'text'" in refused(tmp_path / "in.parquet", tmp_path / "newer.csv")


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet", "in.xlsx"])
def test_rows_are_read_as_they_are_predicted(tmp_path, monkeypatch, name):
    """Memory does not grow with the file: no more than two windows are read ahead of what is written."""
    path = save(tmp_path / name, ["id", "text"], [[str(i), f"足球 {i}"] for i in range(60)])
    monkeypatch.setattr(prediction, "WINDOW", 8)
    seen = []

    def answer(texts):
        seen.append(len(texts))
        return (([], []) for _ in texts)

    with one_run():
        job = check_files(path, tmp_path / "out.jsonl", Problems(), LABELS)
        windows = job.texts.windows
        job.texts.windows = lambda size: (seen.append("read") or window for window in windows(size))
        predict_file(job, answer, lambda text, names: None)
    assert seen == ["read", 8] * 7 + ["read", 4]


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    path, output = save(tmp_path / "in.csv"), tmp_path / "out.parquet"
    output.write_bytes(b"old")
    with one_run():
        job = check_files(path, output, Problems(), LABELS)
        with pytest.raises(RuntimeError):
            predict_file(job, lambda texts: [([], [])], lambda text, names: None)
        with path.open("a", encoding="utf-8") as file:
            file.write("8,下雨,\r\n")
        with pytest.raises(UserError, match="changed while it was read"):
            predict_file(job, answer, lambda text, names: None)
    assert output.read_bytes() == b"old" and sorted(p.name for p in tmp_path.iterdir()) == ["in.csv", "out.parquet"]


# ------------------------------------------------------------------------------------------------------------- scripts


def as_table(texts, path):
    """The lines of a text file as a table whose row i has the id i."""
    rows = [[f"{i:05}", text.partition("\t")[0]] for i, text in enumerate(lines_of(texts))]
    return save(path, ["编号", "客户描述"], rows)


def test_predict_and_infer_label_a_table_as_a_text_file(run, trained, bundles, tmp_path):
    import infer
    import predict

    dataset, checkpoint = trained["news"]
    path = as_table(dataset / "data.txt", tmp_path / "in.xlsx")
    where = ("--device", "cpu", "--model_path_prefix", bundles["news"])
    status, log = run(infer.main, *where, "--dataset_dir", dataset, "--scores", "--output_file", tmp_path / "a.txt")
    assert status == 0, log
    flags = (
        "--text_column",
        "客户描述",
        "--level_columns",
        "一级",
        "二级",
        "三级",
        "--output_file",
        tmp_path / "a.csv",
    )
    status, log = run(infer.main, *where, "--input_file", path, *flags)
    assert status == 0 and f"Prediction results save in {tmp_path / 'a.csv'}: 40 rows" in log, log
    where = ("--device", "cpu", "--dataset_dir", dataset, "--params_path", checkpoint)
    status, log = run(predict.main, *where, "--data_file", path, *flags[:-1], tmp_path / "b.csv")
    assert status == 0, log
    expected = [tuple(line.split("\t")[1:]) for line in lines_of(tmp_path / "a.txt")]
    rows = load(tmp_path / "a.csv")
    assert [(row["labels"], row["scores"]) for row in rows] == expected and any(names for names, _ in expected)
    assert [row["编号"] for row in rows] == [f"{i:05}" for i in range(40)]
    assert [row["labels"] for row in load(tmp_path / "b.csv")] == [names for names, _ in expected]
    status, log = run(predict.main, *where, "--data_file", path, "--output_file", tmp_path / "c.csv")
    assert status == 2 and "--text_column; there are '编号', '客户描述'" in log


def test_a_missing_package_is_named(run, trained, bundles, tmp_path, monkeypatch):
    import sys

    import infer

    path = as_table(trained["reviews"][0] / "data.txt", tmp_path / "in.csv")
    with monkeypatch.context() as patch, pytest.raises(ModuleNotFoundError):  # before the model is loaded
        patch.setitem(sys.modules, "pyarrow", None)
        check_files(path, tmp_path / "out.parquet", Problems(), LABELS, tables=TableOptions(["2"]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    flags = ("--input_file", path, "--text_column", "客户描述", "--output_file", tmp_path / "out.parquet")
    status, log = run(infer.main, "--device", "cpu", "--model_path_prefix", bundles["reviews"], *flags)
    assert status == 2 and "pip install -r requirements/tables.txt" in log and "Traceback" not in log
    assert not (tmp_path / "out.parquet").exists()
