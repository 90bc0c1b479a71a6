"""The parts of a corpus: row groups of Parquet files, byte ranges of files with a text or a JSON object per line."""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage import Folder, reported
from text_cls.cli import Problems, UserError, closest
from text_cls.language import tr
from text_cls.prediction import WINDOW
from text_cls.rows import one_line
from text_cls.table_output import plain
from text_cls.table_texts import extension
from text_cls.tables import MAX_LINE, known_columns, row_text

KINDS = (".parquet", ".jsonl", ".txt")
ADDED = ("labels", "scores", "error")  # columns of the output
READERS = 16  # files that are looked into at the same time
LINE_FIELDS = [("file", pa.string()), ("offset", pa.int64()), ("text", pa.string())]  # columns of a text file's rows


@dataclass(frozen=True)
class Part:
    """A piece of an input file.

    name: of the output file, without its ending. path: of the input file in the input folder. size, modified: bytes and
    nanoseconds of its last change. start, end: of its bytes, or numbers of its row groups. first: number of the first
    row of a row group, from 1.
    """

    name: str
    path: str
    size: int
    modified: int
    start: int
    end: int
    first: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of what tells this part from others: all but the bytes of the file, which would be read twice."""
        return hashlib.sha256(
            json.dumps([self.path, self.size, self.modified, self.start, self.end]).encode()
        ).hexdigest()


@dataclass
class Window:
    """Consecutive rows: texts, "" where there is none; errors, {row: message}; positions of the rows for messages.

    The rows themselves are a pyarrow.RecordBatch or a list of dicts.
    """

    texts: list[str]
    positions: list[str]
    batch: Any = None
    records: list[dict] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)


def kind_of(files: dict[str, Any]) -> str:
    """The ending that all input files have."""
    found = {extension(name) for name in files}
    if len(found) > 1 or not found <= set(KINDS):
        raise UserError(
            tr(
                "--input: files that end with {found}; name files of one kind ({kinds}), for example "
                "'folder/*.parquet'. Convert other tables to Parquet, for example with pandas",
                found=", ".join(sorted(found)),
                kinds=", ".join(KINDS),
            )
        )
    return found.pop()


def plan(folder: Folder, files: dict[str, Any], text_column: str, part_bytes: int) -> list[Part]:
    """All parts of the input files, in order.

    Args:
        files: {name: FileInfo} of `storage.find_files`, of one kind.
        part_bytes: length of a byte range.
    Raises:
        UserError: lists the Parquet files that cannot be read, or lack the column of the texts.
    """
    if kind_of(files) != ".parquet":
        ends = {name: range(0, info.size, part_bytes) for name, info in files.items()}
        pieces = {name: [(i, min(i + part_bytes, files[name].size), 0) for i in ends[name]] for name in files}
    else:
        problems = Problems()
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(lambda name: _row_groups(folder, name, text_column, problems), files))
        problems.stop_if_any()
        pieces = dict(zip(files, found))
    parts = []
    for name, info in files.items():
        stem = name[: -len(extension(name))]
        for i, (start, end, first) in enumerate(pieces[name]):
            parts.append(Part(f"{stem}-{i:05d}", name, info.size, info.mtime_ns, start, end, first))
    if not parts:
        raise UserError(tr("--input: the files are empty"))
    return parts


def _row_groups(folder, name, text_column, problems):
    """(number, next number, first row) of each row group of a Parquet file."""
    found, first = [], 1
    with problems.collect(), folder.open(name) as file, reported(folder.path(name)):
        parquet = pq.ParquetFile(file)
        columns = parquet.schema_arrow.names
        if text_column not in columns:
            near = closest(text_column, columns)
            problems.add(
                tr(
                    "{name}: no column {text_column!r}{near}; there are {known_columns}: --text_column",
                    name=name,
                    text_column=text_column,
                    near=near,
                    known_columns=known_columns(columns),
                )
            )
        for column in set(columns) & set(ADDED):
            problems.add(
                tr(
                    "{name}: there is a column {column!r} already, and one is added; rename it",
                    name=name,
                    column=column,
                )
            )
        for i in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(i).num_rows
            found += [(i, i + 1, first)] if rows else []
            first += rows
    return found


# ------------------------------------------------------------------------------------------------------------- reading


def schema_of(folder: Folder, part: Part) -> pa.Schema:
    """The columns of a part: those of its Parquet file, or those of the rows of a text file."""
    if extension(part.path) != ".parquet":
        return pa.schema(LINE_FIELDS)
    with folder.open(part.path) as file, reported(folder.path(part.path)):
        return pq.ParquetFile(file).schema_arrow


def windows(folder: Folder, part: Part, text_column: str) -> Iterator[Window]:
    """Yields the rows of a part in windows.

    Raises:
        UserError: the file cannot be read, or is not the one of the plan.
    """
    _check_same(folder, part)
    read = _row_group if extension(part.path) == ".parquet" else _byte_range
    with folder.open(part.path) as file, reported(folder.path(part.path)):
        yield from read(file, part, text_column)
    _check_same(folder, part)


def _check_same(folder, part):
    with reported(folder.path(part.path)):
        info = folder.filesystem.get_file_info(folder.path(part.path))
    if (info.size, info.mtime_ns) != (part.size, part.modified):
        raise UserError(
            tr("{path} changed while the job ran; name another --output to label what it is now", path=part.path)
        )


def _row_group(file, part, text_column):
    number = part.first
    parquet = pq.ParquetFile(file)
    for batch in parquet.iter_batches(WINDOW, row_groups=[part.start]):
        column = batch.column(text_column)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.cast(pa.binary())  # so that a text that is not UTF-8 concerns only its own row
        window = Window([], [f"{part.path}: row {number + i}" for i in range(len(batch))], batch)
        for i, value in enumerate(column.to_pylist()):
            window.texts.append("")
            with _error_of_row(window.errors, i):
                window.texts[i] = one_line(row_text({text_column: value}, [text_column])).strip()
        yield window
        number += len(batch)


@contextlib.contextmanager
def _error_of_row(errors, i):
    try:
        yield
    except ValueError as error:
        errors[i] = tr("the text {error}", error=error)


def lines(file: Any, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, line without its end) of each line that begins in a byte range of a file.

    All ranges of a file together yield each line once. A line ends with LF, CR LF, or the file.
    """
    file.seek(max(start - 1, 0))
    reader = io.BufferedReader(file, 1 << 20)
    offset = max(start - 1, 0)
    if start:
        offset += len(_line(reader, offset))  # the rest of the line before
    while offset < end and (line := _line(reader, offset)):
        yield offset, line.removesuffix(b"\n").removesuffix(b"\r")
        offset += len(line)
    reader.detach()


def _line(reader, offset):
    line = reader.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE:
        raise ValueError(
            tr("byte {offset}: a line of more than {max_line} bytes; this is no text", offset=offset, max_line=MAX_LINE)
        )
    return line


def _byte_range(file, part, text_column):
    is_json = extension(part.path) == ".jsonl"
    window = Window([], [])
    for offset, line in lines(file, part.start, part.end):
        line = line if offset else line.removeprefix(b"\xef\xbb\xbf")
        if is_json and not line.strip():
            continue
        i = len(window.texts)
        window.texts.append("")
        window.positions.append(f"{part.path}: byte {offset}")
        read = _json_row if is_json else _text_row
        record, text, error = read(line.decode("utf-8", "backslashreplace"), text_column)
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            error = tr("the line is not UTF-8")
        window.records.append(record if is_json else {"file": part.path, "offset": offset} | record)
        if error:
            window.errors[i] = error
        else:
            window.texts[i] = text
        if len(window.texts) == WINDOW:
            yield window
            window = Window([], [])
    if window.texts:
        yield window


def _text_row(line, _):
    """(record, text, error) of a line of a text file. What follows a tab is ignored, as in all files of texts."""
    text, _, more = line.partition("\t")
    error = tr("the line has several tabs; a line is a text") if "\t" in more else None
    return {"text": line if error else text.strip()}, text.strip(), error


def _json_row(line, text_column):
    """(record, text, error) of a line of JSON."""
    record = {text_column: line}
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            return record, "", tr("the line must be a JSON object, not of type {name}", name=type(found).__name__)
        record = found
    except (ValueError, RecursionError) as error:
        return record, "", tr("the line is not JSON ({error})", error=error)
    if text_column not in record:
        return (
            record,
            "",
            tr(
                "the row has no column {text_column!r}{hint}",
                text_column=text_column,
                hint=closest(text_column, record),
            ),
        )
    if clash := sorted(set(record) & set(ADDED)):
        return record, "", tr("the row has a column {clash!r} already; rename it", clash=clash[0])
    try:
        return record, one_line(row_text(record, [text_column])).strip(), None
    except ValueError as error:
        return record, "", tr("the text {error}", error=error)


def json_line(record: dict[str, Any]) -> bytes:
    """A row as a line of JSON."""
    record = {name: None if value != value else value for name, value in record.items()}  # JSON has no NaN
    return (json.dumps(record, ensure_ascii=False, default=plain) + "\n").encode("utf-8", "backslashreplace")
