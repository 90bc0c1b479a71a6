"""Tables in files: CSV, TSV, Excel workbooks, JSON lines, JSON arrays and Parquet, read row by row.

`open_table` finds the format, the encoding and the row with the names of the columns; `Table.rows` yields the rows, as
often as needed. Memory does not grow with the table, except for JSON arrays and the texts of an Excel workbook.
"""

import contextlib
import csv
import datetime
import io
import itertools
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from text_cls.cli import Problems, UserError, closest
from text_cls.foreign_files import PARQUET, SAMPLE, XLSX, binary_kind, find_encoding, is_json
from text_cls.inputs import open_input
from text_cls.language import N_, reason_of, tr

LOOKED_AT = 1000  # first rows, from which column names and separators are guessed
MAX_CELL = 1 << 20  # characters; a longer one is usually a quote that is never closed
MAX_LINE = 1 << 24  # characters
MAX_ARRAY = 1 << 28  # bytes of a JSON array, which is read whole
NAME_LENGTH = 40  # characters; a longer cell is a text, not the name of a column
_ENCODINGS = {"UTF-8-SIG": N_("UTF-8 with a byte order mark"), "GB18030": N_("GB18030 (GBK)")}
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"[-+.,:/%\d\s]*\d[-+.,:/%\d\s]*")


@dataclass
class Table:
    """A table in a file.

    kind: what it is, for messages. columns: their names; of JSON lines, those in the first rows. header_row: number of
    the row of CSV or a workbook that names them; 0 if there is none, and they are called by their numbers, from 1.
    schema, batches: of Parquet, its pyarrow.Schema, and a function that yields pyarrow.RecordBatches of a given number
    of rows at most, of all columns or of those in a list.
    """

    path: str
    kind: str
    columns: list[str]
    read: Callable[[Problems, Iterable[str] | None], Iterator[tuple[str, dict[str, Any]]]]
    header_row: int | None = None
    schema: Any = None
    batches: Callable[..., Iterator[Any]] | None = None

    def rows(self, problems: Problems, only: Iterable[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields (where, {column: value}) of each row; `where` is the file and line or row, for messages.

        Cells of CSV and of workbooks are texts, in workbooks as Excel shows them; other values are those of JSON or
        Parquet. An empty cell is None or "".

        Args:
            problems: gets rows that cannot be read, which are left out.
            only: columns that are needed; others of a Parquet file are not read.
        Raises:
            UserError: the file cannot be read on, or changed while it was read.
        """
        return self.read(problems, only)


def open_table(
    path: str | os.PathLike,
    *,
    sheet: str | None = None,
    encoding: str | None = None,
    header_row: int | None = None,
    wanted: Iterable[str] = (),
) -> Table:
    """Opens a table.

    Args:
        sheet: name of the sheet of a workbook (the first that is not hidden).
        encoding: Python's name (found from the bytes).
        header_row: number of the row with the names of the columns, 0 if there is none (found from the first rows).
        wanted: columns that will be used; a row that has these cells names the columns.
    Raises:
        UserError: the file cannot be read, or is no table.
    """
    path = os.fspath(path)
    try:
        with open_input(path) as file:
            head = file.read(SAMPLE)
        extension = os.path.splitext(path)[1].lower()
        binary = binary_kind(head)
        if binary and (binary[0] == XLSX or (extension in (".xlsx", ".xlsm") and head.startswith(b"PK"))):
            return _workbook(path, sheet, header_row, wanted)
        if sheet is not None:
            raise UserError(tr("{path}: --sheet {sheet}: only an Excel workbook has sheets", path=path, sheet=sheet))
        if binary and binary[0] == PARQUET:
            return _parquet(path)
        if binary:
            raise UserError(
                tr(
                    "{path}: this file is {kind}, not a table that can be read; {remedy}",
                    path=path,
                    kind=tr(binary[0]),
                    remedy=tr(binary[1], path=shlex.quote(path)),
                )
            )
        name = _encoding(path, encoding)
        text = head.decode(name, errors="ignore")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise UserError(tr("{path}: no rows", path=path))
        if re.match(r"\s*(<!doctype|<html|<table|<\?xml)", text, re.IGNORECASE):
            raise UserError(
                tr("{path}: this file is HTML or XML; open it in Excel or LibreOffice, and save it as .xlsx", path=path)
            )
        if extension in (".json", ".jsonl", ".ndjson") or is_json(lines):
            return _json(path, name, is_array=lines[0].lstrip().startswith("["))
        return _delimited(path, name, "\t" if extension == ".tsv" else None, head, header_row, wanted)
    except OSError as error:
        raise UserError(
            tr("{path}: {error}. Check the folder and the name", path=path, error=reason_of(error))
        ) from error


def cell_text(value: Any) -> str:
    """A cell as text; "" if it is empty. Raises ValueError, with the reason, if it is no single value."""
    if value is None or value != value:  # not a number
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(tr("contains bytes that are not UTF-8")) from None
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (list, dict)):
        raise ValueError(tr("contains a list") if isinstance(value, list) else tr("contains a JSON object"))
    return str(value)


def row_text(record: dict[str, Any], columns: Iterable[str]) -> str:
    """The text of a row: its cells in these columns, joined by a space. Raises ValueError as `cell_text` does."""
    cells = (cell_text(record.get(name)).strip() for name in columns)
    text = " ".join(cell for cell in cells if cell)
    if has_surrogate(text):
        raise ValueError(tr("contains half a surrogate pair, which is no character"))
    return text


def has_surrogate(text: str) -> bool:
    """Whether a text of JSON has half a surrogate pair, which cannot be written."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def find_columns(
    names: Iterable[str], columns: list[str], flag: str, path: str | os.PathLike, problems: Problems
) -> list[str]:
    """The columns of these names, or of these numbers, counted from 1. Adds a problem for each that there is not."""
    found = []
    for name in names:
        if name in columns:
            found.append(name)
        elif name.isdecimal() and 1 <= int(name) <= len(columns):
            found.append(columns[int(name) - 1])
        else:
            message = tr(
                "{path}: {flag} {name}: no such column{hint}; there are",
                path=path,
                flag=flag,
                name=name,
                hint=closest(name, columns),
            )
            problems.add(f"{message} {known_columns(columns)}")
    return found


def known_columns(columns: list[str]) -> str:
    """The first names of columns, for a message."""
    return ", ".join(map(repr, columns[:20])) + (", ..." if len(columns) > 20 else "")


# --------------------------------------------------------------------------------------------- rows of unnamed cells


def _with_names(path, kind, read_cells, is_ragged, header_row, wanted):
    """The Table of rows of cells. read_cells: a function of Problems that yields (where, row number, cells)."""
    first = list(itertools.islice(read_cells(Problems()), LOOKED_AT))
    if not first:
        raise UserError(tr("{path}: no rows", path=path))
    if header_row is None:
        header_row = _row_of_names(first, wanted)
    names = next((cells for _, number, cells in first if number == header_row), [])
    if header_row and not names:
        raise UserError(
            tr(
                "{path}: --header_row {header_row}: no such row among the first {looked_at}, or it is empty",
                path=path,
                header_row=header_row,
                looked_at=LOOKED_AT,
            )
        )
    widths = Counter(len(cells) for _, _, cells in first)
    width = max(widths) if is_ragged else len(names) or widths.most_common(1)[0][0]
    columns = _unique([*names, *[None] * (width - len(names))])

    def read(problems, only=None):
        for where, number, cells in read_cells(problems):
            if number <= header_row:
                continue
            if not all(map(_is_empty, cells[width:])) or (len(cells) < width and not is_ragged):
                problems.add(
                    tr(
                        "{where}: {count} cells, but the table has {width} columns; a cell that contains the "
                        "separator of the cells or a line break must be in double quotes",
                        where=where,
                        count=len(cells),
                        width=width,
                    )
                )
                continue
            yield where, dict(zip(columns, [*cells, *[None] * (width - len(cells))]))

    is_first = all(number >= header_row for _, number, _ in first)
    named = tr(
        "named by row {header_row}{note}",
        header_row=header_row,
        note="" if is_first else tr(" (the rows above it are ignored)"),
    )
    named = named if header_row else tr("called by their numbers; if a row names them: --header_row 1")
    return Table(
        path, tr("{kind}; {count} columns, {named}", kind=kind, count=width, named=named), columns, read, header_row
    )


def _row_of_names(rows, wanted):
    """Number of the row that names the columns, among the first rows (where, number, cells); 0 if none does."""
    if wanted := {name for name in wanted if not name.isdecimal()}:  # columns can be called by their numbers
        for _, number, cells in rows:
            if wanted <= {" ".join((cell or "").split()) for cell in cells}:
                return number
    sizes = [sum(not _is_empty(cell) for cell in cells) for _, _, cells in rows]
    usual, _ = next(iter(Counter(filter(None, sizes)).most_common(1)), (1, 0))
    for i, (_, number, cells) in enumerate(rows):
        # Above the names, there may be a title, alone in its row. pandas leaves the first column without a name.
        if 2 * sizes[i] > usual or (2 * sizes[i] == usual and _is_empty(cells[0])):
            return number if _are_names(cells, [below for _, _, below in rows[i + 1 :]]) else 0
    return 0


def _is_empty(cell):
    return cell is None or not cell.strip()


def _are_names(cells, below):
    """Whether these cells are names of columns, judged by the rows below."""
    for i, cell in enumerate(cells):
        if _is_empty(cell):
            continue
        repeated = any(row[i].strip() == cell.strip() for row in below if len(row) > i and row[i])
        if repeated or len(cell) > NAME_LENGTH or _NUMBER.fullmatch(cell):
            return False
    return True


def _unique(names):
    """Names of columns: a column without a name is called by its number, one that repeats a name gets a number."""
    found, uses = {}, Counter()
    for i, name in enumerate(names, 1):
        name = str(i) if _is_empty(name) else " ".join(name.split())
        uses[name] += 1
        numbered = (f"{name} ({number})" if number > 1 else name for number in itertools.count(uses[name]))
        found[next(each for each in numbered if each not in found)] = True
    return list(found)


# ----------------------------------------------------------------------------------------------------- CSV and TSV


def _encoding(path, encoding):
    if encoding is None:
        encoding = find_encoding(path)
        if encoding is None:
            raise UserError(
                tr("{path}: unknown encoding; name it with --encoding, or save the file as UTF-8", path=path)
            )
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError:
        raise UserError(
            tr("--encoding {encoding}: no such encoding; use, for example, utf-8, gb18030 or big5", encoding=encoding)
        ) from None
    return encoding


def _lines(path, encoding):
    """Yields the lines of a text file with their ends, whatever these are."""
    number = 0
    with open_input(path, again=True) as file:
        text = io.TextIOWrapper(file, encoding, newline="")
        try:
            while line := text.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise UserError(
                        tr(
                            "{path}:{number}: a line of more than {max_line} characters; this is no table",
                            path=path,
                            number=number,
                            max_line=MAX_LINE,
                        )
                    )
                if "\0" in line:
                    raise UserError(
                        tr(
                            "{path}:{number}: contains NUL characters; this is no text, or --encoding is wrong",
                            path=path,
                            number=number,
                        )
                    )
                yield line
        except UnicodeDecodeError:
            raise UserError(
                tr(
                    "{path}: not {encoding} after line {number}, unlike the lines before; save the file as UTF-8, or "
                    "name its encoding with --encoding",
                    path=path,
                    encoding=encoding,
                    number=number,
                )
            ) from None
        finally:
            text.detach()  # so that it does not close the file


def _delimited(path, encoding, delimiter, head, header_row, wanted):
    is_cut, lines = len(head) == SAMPLE, list(io.StringIO(head.decode(encoding, errors="ignore"), newline=""))
    lines = lines[:-1] if is_cut and len(lines) > 1 else lines
    delimiter = delimiter or _delimiter(lines)
    # Texts of a database's TSV may begin with a quote that means nothing.
    quoting = csv.QUOTE_NONE if delimiter == "\t" and not _are_quotes_paired(lines, is_cut) else csv.QUOTE_MINIMAL

    def read_cells(problems):
        csv.field_size_limit(MAX_CELL)
        reader, start = csv.reader(_lines(path, encoding), delimiter=delimiter, quoting=quoting, strict=True), 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what = tr("has quotes that do not match")
                if "limit" in str(error):
                    what = tr(
                        "has a cell of more than {max_cell} characters; is a quote never closed?", max_cell=MAX_CELL
                    )
                problems.add(
                    tr(
                        "{path}:{start}: {what} ({error}); a quote inside a quoted cell is written twice",
                        path=path,
                        start=start,
                        what=what,
                        error=error,
                    )
                )
                if "limit" in str(error):
                    return
            else:
                if cells:
                    yield f"{path}:{start}", start, cells
            start = reader.line_num + 1

    shown = (
        tr("TSV, cells separated by tabs")
        if delimiter == "\t"
        else tr("CSV, cells separated by {delimiter!r}", delimiter=delimiter)
    )
    kind = f"{tr(_ENCODINGS.get(encoding, encoding))}, {shown}"
    return _with_names(path, kind, read_cells, False, header_row, wanted)


def _delimiter(lines):
    """The separator with which most rows have the same number of cells, more than one."""
    found = {}
    for delimiter in ",\t;":
        with contextlib.suppress(csv.Error):
            sizes = [len(cells) for cells in csv.reader(lines, delimiter=delimiter) if cells]
            if sizes and max(sizes) > 1:
                usual, count = Counter(sizes).most_common(1)[0]
                found[delimiter] = usual > 1, count / len(sizes), usual
    return max(found, key=found.get) if found else ","


def _are_quotes_paired(lines, is_cut):
    try:
        for _ in csv.reader(lines, delimiter="\t", strict=True):
            pass
    except csv.Error as error:
        return is_cut and "unexpected end" in str(error)
    return True


# -------------------------------------------------------------------------------------------- JSON, Parquet, workbooks


def _json(path, encoding, is_array):
    def read(problems, only=None):
        for where, record in _array(path, encoding) if is_array else _json_lines(path, encoding, problems):
            if isinstance(record, dict):
                yield where, record
            else:
                problems.add(
                    tr(
                        "{where}: a row must be a JSON object, not of type {name}",
                        where=where,
                        name=type(record).__name__,
                    )
                )

    problems = Problems()
    first = [record for _, record in itertools.islice(read(problems), LOOKED_AT)]
    if not first:
        problems.stop_if_any()
        raise UserError(tr("{path}: no rows", path=path))
    columns = list(dict.fromkeys(key for record in first for key in record))
    kind = f"{tr(_ENCODINGS.get(encoding, encoding))}, {tr('a JSON array') if is_array else tr('JSON lines')}"
    return Table(path, tr("{kind}; {count} columns", kind=kind, count=len(columns)), columns, read)


def _json_lines(path, encoding, problems):
    for number, line in enumerate(_lines(path, encoding), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                problems.add(
                    tr(
                        "{path}:{number}: not JSON ({error}); each line must be a JSON object",
                        path=path,
                        number=number,
                        error=error,
                    )
                )


def _array(path, encoding):
    with open_input(path, again=True) as file:
        content = file.read(MAX_ARRAY + 1)
    if len(content) > MAX_ARRAY:
        raise UserError(
            tr(
                "{path}: a JSON array of more than {max_array} MB, which would be read whole; make it JSON lines: jq "
                "-c '.[]' {source} > {target}",
                path=path,
                max_array=MAX_ARRAY >> 20,
                source=shlex.quote(path),
                target=shlex.quote(path + "l"),
            )
        )
    try:
        records = json.loads(content.decode(encoding))
    except (ValueError, RecursionError) as error:
        raise UserError(tr("{path}: unreadable JSON array: {error}", path=path, error=error)) from error
    return ((f"{path}: row {number}", record) for number, record in enumerate(records, 1))


def records_of(batch: Any, path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of a pyarrow.RecordBatch from a Parquet file. Python's times have microseconds: nanoseconds are cut."""
    import pyarrow

    coarser = {kind("ns"): kind("us") for kind in (pyarrow.duration, pyarrow.time64)}
    fields = []
    for each in batch.schema:
        if pyarrow.types.is_timestamp(each.type) and each.type.unit == "ns":
            each = each.with_type(pyarrow.timestamp("us", each.type.tz))
        elif each.type in coarser:
            each = each.with_type(coarser[each.type])
        fields.append(each)
    try:
        columns = [
            column if column.type == each.type else column.cast(each.type, safe=False)
            for column, each in zip(batch.columns, fields)
        ]
        return pyarrow.RecordBatch.from_arrays(columns, schema=pyarrow.schema(fields)).to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise UserError(tr("{path}: contains a value that cannot be read: {error}", path=path, error=error)) from error


def _parquet(path):
    import pyarrow.parquet

    damage = pyarrow.ArrowException, OSError, ValueError

    def batches(size=LOOKED_AT, only=None):
        number = 0
        with open_input(path, again=True) as file:
            try:
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(size, columns=only and list(only)):
                    yield batch
                    number += len(batch)
            except damage as error:
                raise UserError(
                    tr("{path}: unreadable after row {number}: {error}", path=path, number=number, error=error)
                ) from error

    def read(problems, only=None):
        number = 0
        for batch in batches(only=only):
            for record in records_of(batch, path):
                number += 1
                yield f"{path}: row {number}", record

    with open_input(path) as file:
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            schema, size = parquet.schema_arrow, parquet.metadata.num_rows
        except damage as error:
            raise UserError(tr("{path}: unreadable Parquet file: {error}", path=path, error=error)) from error
    if not size:
        raise UserError(tr("{path}: no rows", path=path))
    kind = tr("Parquet; {size} rows, {count} columns", size=size, count=len(schema.names))
    return Table(path, kind, schema.names, read, schema=schema, batches=batches)


def _workbook(path, sheet, header_row, wanted):
    from text_cls.workbooks import open_sheet

    sheets, read_cells = open_sheet(path, sheet)
    others = f" (others: {', '.join(map(repr, sheets[1:]))})" if len(sheets) > 1 else ""
    return _with_names(
        path,
        tr("Excel workbook, sheet {sheets!r}{others}", sheets=sheets[0], others=others),
        read_cells,
        True,
        header_row,
        wanted,
    )
