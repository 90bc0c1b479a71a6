"""Predictions written as rows of text, CSV, TSV, JSON lines or Parquet, with all columns of the input."""

import base64
import contextlib
import csv
import importlib
import io
import json
import os
from dataclasses import dataclass, field

from text_cls.files import atomic_write
from text_cls.label_tree import levels_of
from text_cls.labelling_tools import ENDS, LABEL_STUDIO, Tool
from text_cls.language import tr
from text_cls.rows import format_row, one_line
from text_cls.table_texts import extension
from text_cls.tables import cell_text

WRITABLE = (".csv", ".tsv", ".jsonl", ".parquet")
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
# A cell that begins with one of these may be run as a formula: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
ROW_GROUP = 1 << 16  # rows of Parquet that are written together, or
GROUP_BYTES = 64 << 20  # fewer, if they have as many bytes


@dataclass
class Output:
    """A file for predictions.

    levels: names of the columns for labels by level. with_scores: whether rows of text have them; tables always do.
    with_evidence: whether there is a column for the passages that decided the labels. tool: the labelling tool that is
    to import the file; it is then no table.
    """

    path: str
    levels: list = field(default_factory=list)
    with_scores: bool = False
    excel_safe: bool = False
    with_evidence: bool = False
    tool: Tool | None = None

    @property
    def is_table(self):
        return not self.tool and extension(self.path) in WRITABLE

    @property
    def columns(self):
        """Names of the columns that are added to those of the input."""
        return ["labels", "scores", *self.levels, *(["evidence"] if self.with_evidence else [])]

    def problems(self, texts):
        """Yields why this file cannot be written. texts: the `TextFile` or `TableFile`, None if it cannot be read."""
        kind = extension(self.path)
        if self.tool:
            if kind != (end := ENDS[self.tool.name]):
                yield tr(
                    "--for {name} writes what {title} imports; name an --output_file with {end}",
                    name=self.tool.name,
                    title=self.tool.title,
                    end=end,
                )
        elif kind in SPREADSHEETS:
            yield tr(
                "--output_file {path}: workbooks are only read; write a .csv file, which Excel opens", path=self.path
            )
        elif kind in (".json", ".ndjson"):
            yield tr("--output_file {path}: call it .jsonl; each row will be a JSON object in a line", path=self.path)
        elif kind == ".parquet":
            importlib.import_module("pyarrow")  # if it is missing, that is known before anything is predicted
        if self.excel_safe and kind not in (".csv", ".tsv"):
            yield tr("--excel_safe is for .csv and .tsv files; --output_file {path} is none", path=self.path)
        if self.levels and self.tool:
            yield tr("--level_columns is for tables, not for --for {name}; leave it out", name=self.tool.name)
        elif self.levels and not self.is_table:
            yield tr(
                "--level_columns needs a table to write: an --output_file that ends with {writable}",
                writable=", ".join(WRITABLE),
            )
        if texts and self.is_table:
            for name in self.columns:
                if name in texts.columns or self.columns.count(name) > 1:
                    yield tr(
                        "{path}: there is a column {name!r} already, and one is added; rename it in the table",
                        path=texts.path,
                        name=name,
                    )
        if texts and os.path.exists(self.path) and os.path.samefile(texts.path, self.path):
            yield tr("--output_file {path}: this is also an input file and would be lost; name another", path=self.path)

    @contextlib.contextmanager
    def open(self, texts):
        """Yields a function that writes a `Window` of `texts` and its answers.

        An answer is a tuple of label names, scores and, `with_evidence`, passages, see `prediction.named_labels`. The
        file appears whole, or not at all.
        """
        write = {".csv": _csv, ".tsv": _csv, ".jsonl": _json, ".parquet": _parquet}.get(extension(self.path), _rows)
        write = _tasks if self.tool else write
        with atomic_write(self.path) as file, write(file, texts, self) as write_window:
            in_cells = self.with_evidence and self.is_table and texts.is_table
            yield _in_cells(texts, write_window) if in_cells else write_window
        if self.tool:
            self.tool.write_setup(self.path)

    def added(self, names, scores, passages=()):
        """The added values of a row: {column: list}."""
        row = {"labels": list(names), "scores": [round(float(score), 5) for score in scores]}
        if self.levels:
            found = levels_of(names)
            row |= {level: found[i] if i < len(found) else [] for i, level in enumerate(self.levels)}
        if self.with_evidence:
            row["evidence"] = [list(passage) for passage in passages]
        return row


def _in_cells(texts, write):
    """Writes with the passages as places in the cells of a table, whose texts are read without line breaks."""

    def write_window(window, answers):
        pairs = zip(window.records, answers)
        write(window, [(*some[:2], *(texts.passages(record, each) for each in some[2:])) for record, some in pairs])

    return write_window


def joined_scores(scores):
    """Scores as text files have them."""
    return ",".join(f"{score:.5f}" for score in scores)


def joined_passages(passages):
    """Passages as text files have them: start..end of each. Excel would take 3-12 for a date, and 3:12 for a time."""
    return ",".join(f"{start}..{end}" for start, end in passages)


@contextlib.contextmanager
def _rows(file, texts, output):
    def write(window, answers):
        for text, (names, scores, *passages) in zip(window.texts, answers):
            more = [joined_scores(scores)] if output.with_scores else []
            if output.with_evidence:
                # Places in the text as it is written, with a space for each run of line breaks.
                more.append(joined_passages([_written(text, passage) for each in passages for passage in each]))
            file.write(format_row(text, ",".join(names), *more))

    yield write


def _written(text, passage):
    return [len(one_line(text[:place])) for place in passage]


# ------------------------------------------------------------------------------------------------------ CSV, JSON lines


def plain(value):
    """A value that JSON does not have, as one that it has: bytes that are not UTF-8 as Base64, others as text."""
    if isinstance(value, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode("utf-8")
        return base64.b64encode(value).decode("ascii")
    return cell_text(value)


def flat(value):
    """A value as the text of a cell: lists and objects as JSON."""
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=plain)
    return plain(value)


@contextlib.contextmanager
def _csv(file, texts, output):
    # Excel takes a file for UTF-8 only if it begins with a byte order mark.
    text = io.TextIOWrapper(file.buffer, "utf-8-sig", errors="backslashreplace", newline="")
    # The csv module quotes a cell with CR only if CR is in the line's end.
    rows = csv.writer(text, delimiter="\t" if extension(output.path) == ".tsv" else ",", lineterminator="\r\n")

    def write_row(cells):
        if output.excel_safe:
            cells = [f"'{cell}" if cell.startswith(FORMULA) else cell for cell in cells]
        rows.writerow(cells)

    def write(window, answers):
        for record, answer in zip(window.records, answers):
            added = output.added(*answer)
            joined = {"scores": joined_scores, "evidence": joined_passages}
            write_row(
                [flat(record.get(column)) for column in texts.columns]
                + [joined.get(column, ",".join)(added[column]) for column in output.columns]
            )

    if texts.has_names:
        write_row([*texts.columns, *output.columns])
    try:
        yield write
    finally:
        text.detach()  # flushed, and its file left open


@contextlib.contextmanager
def _json(file, texts, output):
    def write(window, answers):
        for record, answer in zip(window.records, answers):
            file.write(_json_text(_with_null(record) | output.added(*answer)) + "\n")

    yield write


def _with_null(record):
    return {name: None if value != value else value for name, value in record.items()}  # JSON has no NaN


def _json_text(value):
    return json.dumps(value, ensure_ascii=False, default=plain)


@contextlib.contextmanager
def _tasks(file, texts, output):
    """Rows for a labelling tool, which would refuse those without a text."""
    # The only column of the text comes back as the text.
    hidden = texts.text_columns if len(texts.text_columns) == 1 else ()
    is_array = output.tool.name == LABEL_STUDIO
    before = "[\n" if is_array else ""

    def write(window, answers):
        nonlocal before
        for text, record, answer in zip(window.texts, window.records, answers):
            if not text:
                continue
            added = output.added(*answer)
            row = {name: value for name, value in _with_null(record).items() if name not in hidden}
            meta = {"row": row} if row else {}
            if output.with_evidence:
                meta["evidence"] = dict(zip(added["labels"], added["evidence"]))
            file.write(before + _json_text(output.tool.row(text, added["labels"], added["scores"], meta)))
            before = ",\n" if is_array else "\n"

    yield write
    file.write("\n]\n" if is_array else "\n")


# -------------------------------------------------------------------------------------------------------------- Parquet


@contextlib.contextmanager
def _parquet(file, texts, output):
    import pyarrow as pa
    import pyarrow.parquet

    schema = texts.schema
    if schema is None:
        schema = pa.schema([(name, _arrow_type(texts.kinds.get(name, set()))) for name in texts.columns])
    kinds = {"scores": pa.list_(pa.float32()), "evidence": pa.list_(pa.list_(pa.int64()))}
    fields = [pa.field(name, kinds.get(name, pa.list_(pa.string()))) for name in output.columns]
    whole = pa.schema([*schema, *fields], metadata=schema.metadata)
    waiting = []

    def write_group(least_rows, least_bytes):
        if waiting and (sum(map(len, waiting)) >= least_rows or sum(batch.nbytes for batch in waiting) >= least_bytes):
            writer.write_table(pa.Table.from_batches(waiting, whole))
            waiting.clear()

    def write(window, answers):
        batch = _batch_of(window.records, schema) if window.batch is None else window.batch
        added = [output.added(*answer) for answer in answers]
        columns = [pa.array([row[each.name] for row in added], each.type) for each in fields]
        waiting.append(pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=whole))
        write_group(ROW_GROUP, GROUP_BYTES)

    with pa.parquet.ParquetWriter(file.buffer, whole) as writer:
        yield write
        write_group(0, 0)


def _arrow_type(kinds):
    """The type of a column with these kinds of values (see `table_texts.value_kind`); text if no other has them."""
    import pyarrow as pa

    for allowed, arrow_type in (
        ({"truth"}, pa.bool_()),
        ({"whole", "large"}, pa.int64()),
        ({"whole", "number"}, pa.float64()),
        ({"texts"}, pa.list_(pa.string())),
    ):
        if kinds - {""} and kinds - {""} <= allowed:
            return arrow_type
    return pa.string()


def _batch_of(records, schema):
    """Rows as a pyarrow.RecordBatch."""
    import pyarrow as pa

    columns = []
    for each in schema:
        values = [record.get(each.name) for record in records]
        if each.type == pa.string():
            values = [None if value is None else _valid(flat(value)) for value in values]
        elif pa.types.is_list(each.type):
            values = [None if value is None else [*map(_valid, value)] for value in values]
        columns.append(pa.array(values, each.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _valid(text):
    """The text with halves of surrogate pairs, which UTF-8 does not have, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
