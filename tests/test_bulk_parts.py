"""Parts of a corpus, the folders they are in, and what an actor does with them, without Ray."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parts
import storage
from labeller import Job, Labeller, read_report
from text_cls.cli import UserError
from text_cls.decision import Decision


class Words:
    """A model whose label is the last character of a text. It fails on the texts in `hopeless`."""

    hopeless = ("坏",)

    def predict(self, texts):
        if any(text in self.hopeless for text in texts):
            raise RuntimeError("out of range")
        return [([text[-1]], np.array([0.25])) for text in texts]


def make_job(folder, files, form=".parquet", bundle="b" * 64, max_errors=100, part_bytes=64):
    """(Job, its parts) of files in folder/in, {name: bytes, or columns of a Parquet file}."""
    for name, content in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, dict):
            pq.write_table(pa.table(content), path, row_group_size=2)
        else:
            path.write_bytes(content)
    source, found = storage.find_files(str(folder / "in"))
    job = Job(source, storage.open_folder(str(folder / "out")), bundle, "d" * 64, {}, form, "text", max_errors)
    return job, parts.plan(source, found, "text", part_bytes)


def label(job, planned):
    """The rows of the output, in the order of the parts, and the reports."""
    reports = label_only(job, planned)
    return [row for part in planned for row in rows_of(job, part)], reports


def rows_of(job, part):
    with job.output.open(job.file(part)) as file:
        if job.format == ".parquet":
            return pq.read_table(file).to_pylist()
        return [json.loads(line) for line in file.read().decode().splitlines()]


# ---------------------------------------------------------------------------------------------------------- byte ranges


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"a", "文".encode(), b"\r", b"\xff"]), max_size=30), st.integers(1, 9))
def test_ranges_yield_each_line_once(pieces, length):
    content = b"".join(pieces)
    found = []
    for start in range(0, len(content), length):
        found += parts.lines(pa.BufferReader(content), start, min(start + length, len(content)))
    whole = content.split(b"\n")
    whole = whole[:-1] if not whole[-1] else whole
    assert [line for _, line in found] == [line.removesuffix(b"\r") for line in whole]
    assert all(content[offset:].startswith(line) for offset, line in found)
    assert len({offset for offset, _ in found}) == len(found)


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(parts, "MAX_LINE", 8)
    with pytest.raises(ValueError, match="byte 2: a line of more than 8 bytes"):
        list(parts.lines(pa.BufferReader(b"a\n" + b"b" * 20), 0, 22))


@pytest.mark.parametrize("part_bytes", [1, 7, 1000])
def test_text_files(tmp_path, part_bytes):
    content = "\ufeff一\r\n\n 三 \t标签\na\tb\tc\n".encode() + b"\xff\xfe\nlast"
    job, planned = make_job(tmp_path, {"texts.txt": content}, part_bytes=part_bytes)
    rows, reports = label(job, planned)
    assert [row["text"] for row in rows] == ["一", "", "三", "a\tb\tc", "\\xff\\xfe", "last"]
    assert [row["labels"] for row in rows] == [["一"], [], ["三"], [], [], ["t"]]
    assert [bool(row["error"]) for row in rows] == [False, False, False, True, True, False]
    assert "several tabs" in rows[3]["error"] and "UTF-8" in rows[4]["error"]
    assert {row["file"] for row in rows} == {"texts.txt"}
    lines = [content[row["offset"] :].split(b"\n")[0] for row in rows]
    assert lines == content.split(b"\n")[:-1] + [b"last"]
    assert sum(report["rows"] for report in reports) == 6 and sum(report["blank"] for report in reports) == 1
    errors = [error["position"] for report in reports for error in report["errors"]]
    assert errors == [f"texts.txt: byte {rows[3]['offset']}", f"texts.txt: byte {rows[4]['offset']}"]


@pytest.mark.parametrize("part_bytes", [1, 50, 1000])
def test_json_lines(tmp_path, part_bytes):
    good = [{"id": 1, "text": "一二"}, {"text": "坏", "tags": ["x"]}, {"text": None}, {"text": "\ud800"}, {"text": [1]}]
    bad = [b"{oops", b"[1]", b'{"id": 3}', b'{"text": "a", "labels": []}']
    content = b"\n\n".join([json.dumps(row).encode() for row in good] + bad)
    rows, _ = label(*make_job(tmp_path, {"rows.jsonl": content}, ".jsonl", part_bytes=part_bytes))
    assert len(rows) == len(good) + len(bad)
    assert rows[0] == {"id": 1, "text": "一二", "labels": ["二"], "scores": [0.25], "error": None}
    assert rows[1] == good[1] | {"labels": [], "scores": [], "error": "the model fails: out of range"}
    assert rows[2] == {"text": None, "labels": [], "scores": [], "error": None}
    for row, words in zip(
        rows[3:], ("surrogate", "a list", "not JSON", "JSON object", "no column", "'labels' already")
    ):
        assert words in row["error"] and row["labels"] == [], row


# -------------------------------------------------------------------------------------------------------------- Parquet


def test_row_groups(tmp_path):
    table = {
        "id": [1, 2, 3, 4, 5],
        "text": ["一", None, "坏", "四\n五", "六"],
        "when": pa.array(range(5), pa.timestamp("ns")),
    }
    job, planned = make_job(tmp_path, {"sub/a.parquet": table, "b.parquet": {"text": pa.array([b"\xff", b"ok"])}})
    assert [part.name for part in planned] == ["b-00000", "sub/a-00000", "sub/a-00001", "sub/a-00002"]
    rows, reports = label(job, planned)
    kept = pq.read_table(tmp_path / "in/sub/a.parquet").to_pylist()
    assert [{name: row[name] for name in ("id", "text", "when")} for row in rows[2:]] == kept
    assert [row["labels"] for row in rows] == [[], ["k"], ["一"], [], [], ["五"], ["六"]]
    assert [row["scores"] for row in rows[2:4]] == [[0.25], []]
    errors = [error for report in reports for error in report["errors"]]
    assert [error["position"] for error in errors] == ["b.parquet: row 1", "sub/a.parquet: row 3"]
    assert [report["labels"] for report in reports] == [{"k": 1}, {"一": 1}, {"五": 1}, {"六": 1}]


def test_a_text_column_that_is_not_utf8_concerns_its_own_row(tmp_path):
    column = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", "好".encode()]).buffers())
    [report] = label_only(*make_job(tmp_path, {"a.parquet": {"text": column}}))
    assert report["rows"] == 2 and report["labels"] == {"好": 1}
    assert report["errors"] == [{"position": "a.parquet: row 1", "error": "the text contains bytes that are not UTF-8"}]


def label_only(job, planned):
    actor = Labeller(job, "none", Decision())
    actor.predictor = Words()
    return [actor.label(part) for part in planned]


def test_a_part_knows_what_it_was_made_from(tmp_path):
    for form in (".parquet", ".jsonl"):
        folder = tmp_path / form[1:]
        folder.mkdir()
        job, planned = make_job(folder, {"a.parquet": {"text": ["一", "二", "三"]}}, form)
        _, reports = label(job, planned)
        assert [read_report(job, part) for part in planned] == reports
        assert reports[0]["bundle"] == "b" * 64 and reports[0]["input"]["digest"] == planned[0].digest
        other, _ = make_job(folder, {}, form, bundle="c" * 64)
        with pytest.raises(UserError, match="not a part of this job: its bundle differ"):
            read_report(other, planned[0])
        (folder / "out" / job.file(planned[0])).replace(folder / "out" / job.file(planned[1]))
        if form == ".parquet":
            with pytest.raises(UserError, match="its input differ"):
                read_report(job, planned[1])


def test_the_report_of_a_part_appears_before_it(tmp_path, monkeypatch):
    job, planned = make_job(tmp_path, {"a.parquet": {"text": ["一"]}}, ".jsonl")

    def fail(name, value):
        raise UserError("the disk is full")

    monkeypatch.setattr(storage.Folder, "write_json", lambda self, name, value: fail(name, value))
    with pytest.raises(UserError, match="full"):
        label_only(job, planned)
    assert not job.output.files()


@pytest.mark.parametrize("form", [".parquet", ".jsonl"])
def test_a_part_that_fails_leaves_nothing(tmp_path, form):
    job, planned = make_job(tmp_path, {"a.parquet": {"text": ["坏", "坏"]}}, form, max_errors=1)
    with pytest.raises(UserError, match="more than 1 rows cannot be labelled; .*--max_errors(.|\n)*a.parquet: row 2"):
        label_only(job, planned)
    assert not job.output.files()


def test_an_input_that_changes_is_refused(tmp_path):
    job, planned = make_job(tmp_path, {"a.txt": b"one\n"})
    (tmp_path / "in/a.txt").write_bytes(b"two, longer\n")
    with pytest.raises(UserError, match="a.txt changed while the job ran"):
        label_only(job, planned)


# ----------------------------------------------------------------------------------------------------------------- plan


def test_all_faults_of_the_files_are_told(tmp_path):
    files = {"a.parquet": {"txt": ["a"]}, "b.parquet": {"text": ["a"], "labels": ["b"]}, "c.parquet": b"PAR1"}
    with pytest.raises(UserError) as error:
        make_job(tmp_path, files)
    for words in (
        "a.parquet: no column 'text'; did you mean 'txt'",
        "b.parquet: there is a column 'labels'",
        "c.parquet",
    ):
        assert words in str(error.value)


def test_files_of_one_kind_are_needed(tmp_path):
    with pytest.raises(UserError, match="name files of one kind"):
        make_job(tmp_path, {"a.txt": b"a\n", "b.jsonl": b"{}\n"})
    with pytest.raises(UserError, match="Convert other tables to Parquet"):
        make_job(tmp_path / "csv", {"a.csv": b"text\na\n"})


@pytest.mark.parametrize("files", [{"a.txt": b""}, {"a.parquet": {"text": pa.array([], pa.string())}}])
def test_no_rows(tmp_path, files):
    with pytest.raises(UserError, match="the files are empty"):
        make_job(tmp_path, files)


def test_patterns(tmp_path, monkeypatch):
    for name in ("day-1/a.txt", "day-1/b.jsonl", "day-2/a.txt", "day-2/sub/a.txt", "day-1/_SUCCESS.txt", "odd[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for pattern, names in {
        "day-*/*.txt": ["day-1/a.txt", "day-2/a.txt"],
        f"{tmp_path}/day-1/*": ["a.txt", "b.jsonl"],
        "day-2": ["a.txt", "sub/a.txt"],
        "odd[1].txt": ["odd[1].txt"],
    }.items():
        assert list(storage.find_files(pattern)[1]) == names
    with pytest.raises(UserError, match="no files"):
        storage.find_files("day-3/*.txt")
    with pytest.raises(UserError, match="s3:// or gs://"):
        storage.open_folder("mock://folder")
