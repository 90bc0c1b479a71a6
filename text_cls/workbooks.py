"""Sheets of Excel workbooks (.xlsx), each cell as the text that Excel shows. Nothing in them is calculated or run."""

import datetime
import itertools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from xml.etree.ElementTree import iterparse

from text_cls.cli import Problems, UserError, closest, logger
from text_cls.inputs import open_input
from text_cls.language import tr

MAX_UNPACKED = 1 << 30  # bytes of all the files in a workbook; more is a bomb, or better kept as CSV
MAX_ROWS = 1 << 20  # Excel's own limit
_DIGITS = re.compile(r"(0{1,30})(?:\.(0{1,30}))?(%?)")  # number formats such as 00000, 0.00 and 0%
_ESCAPED = re.compile("_x00([01][0-9A-F])_")  # how Excel writes control characters
Cells = Iterator[tuple[str, int, list[str | None]]]


def open_sheet(path: str, sheet: str | None = None) -> tuple[tuple[str, ...], Callable[[Problems], Cells]]:
    """Opens a sheet, by default the first one that is not hidden.

    Returns:
        the names of all sheets, that of this one first; and a function of Problems that yields (where, row number,
        cells) of each row up to the last with a cell, in which merged cells have the value of the uppermost.
    Raises:
        UserError: no such sheet, or an unreadable file.
    """
    with open_input(path) as file:
        book = _open(path, file)
        names = [each.title for each in book.worksheets]
        if sheet is not None and sheet not in names:
            raise UserError(
                tr(
                    "{path}: no sheet {sheet!r}; there are {sheets}{hint}",
                    path=path,
                    sheet=sheet,
                    sheets=", ".join(map(repr, names)),
                    hint=closest(sheet, names),
                )
            )
        visible = [each.title for each in book.worksheets if each.sheet_state == "visible"]
        sheet = sheet or next(iter(visible or names), None)
        if sheet is None:
            raise UserError(tr("{path}: no sheet with cells", path=path))
        merged, unsaved, errors = _survey(path, book[sheet])
    if unsaved:
        logger.warning(
            "%s: %d formulas have no result in the file and are read as empty; open it in Excel and save it",
            path,
            unsaved,
        )
    if errors:
        logger.warning("%s: %d cells with an error such as #N/A are read as empty", path, errors)
    return (sheet, *(name for name in names if name != sheet)), lambda problems: _cells(path, sheet, merged)


def _open(path, file):
    import openpyxl

    warnings.filterwarnings("ignore", category=UserWarning, module="openpyxl")  # of styles that it does not know
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(each.file_size for each in archive.infolist())
        if size > MAX_UNPACKED:
            raise UserError(
                tr(
                    "{path}: {size} MB when unpacked, at most {max_unpacked}; save it as CSV",
                    path=path,
                    size=size >> 20,
                    max_unpacked=MAX_UNPACKED >> 20,
                )
            )
        return openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except UserError:
        raise
    except Exception as error:  # openpyxl raises anything for a damaged file
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    return UserError(
        tr(
            "{path}: unreadable Excel workbook ({error!r}); open it in Excel and save it as .xlsx, or as CSV",
            path=path,
            error=error,
        )
    )


def _survey(path, sheet):
    """What openpyxl does not tell of a sheet that it reads in a stream.

    Returns:
        {(first row, column): last row} of merged cells; numbers of formulas without a result, and of cells with errors.
    """
    from openpyxl.utils import range_boundaries

    merged, unsaved, errors = {}, 0, 0
    try:
        with sheet._get_source() as source:
            for _, element in iterparse(source):
                tag = element.tag.rpartition("}")[2]
                if tag == "c":
                    is_empty = not element.findtext("{*}v") and element.get("t") != "str"
                    unsaved += is_empty and element.find("{*}f") is not None
                    errors += element.get("t") == "e"
                elif tag == "mergeCell":
                    column, first, _, last = range_boundaries(element.get("ref"))
                    if last > first:
                        merged[first, column] = last
                elif tag == "row":
                    element.clear()
    except Exception as error:
        raise _unreadable(path, error) from error
    return merged, unsaved, errors


def _cells(path, name, merged):
    """Yields (where, row number, cells) of each row; empty rows and cells at the end are left out."""
    with open_input(path, again=True) as file:
        book = _open(path, file)
        sheet = book[name]
        sheet.reset_dimensions()  # some programs write wrong ones
        filling, done = {}, 0
        rows = enumerate(sheet.iter_rows(), 1)
        while True:
            try:
                number, row = next(rows)
                cells = [_shown(cell) for cell in row]
            except StopIteration:
                return
            except Exception as error:
                raise _unreadable(path, error) from error
            if number > MAX_ROWS:
                raise UserError(
                    tr(
                        "{path}: more than {max_rows} rows, which Excel does not allow; save it as CSV",
                        path=path,
                        max_rows=MAX_ROWS,
                    )
                )
            _fill(cells, number, merged, filling)
            while cells and not cells[-1]:
                cells.pop()
            if cells:
                yield from ((f"{path}: row {empty}", empty, []) for empty in range(done + 1, number))
                yield f"{path}: row {number}", number, cells
                done = number


def _fill(cells, number, merged, filling):
    """Gives cells the value of the uppermost cell that they are merged with. filling: {column: (last row, value)}."""
    for column in range(1, len(cells) + 1) if merged else ():
        if (number, column) in merged:
            filling[column] = merged[number, column], cells[column - 1]
    for column, (last, value) in list(filling.items()):
        if number > last:
            del filling[column]
        else:
            cells += itertools.repeat(None, column - len(cells))
            cells[column - 1] = value


def _shown(cell):
    """The text of a cell as Excel shows it, dates as YYYY-MM-DD; None if it is empty."""
    value = cell.value
    if value is None or cell.data_type == "e":
        return None
    if isinstance(value, str):
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, (int, float)):
        return _number(value, cell.number_format)
    if isinstance(value, datetime.datetime):
        is_date = value.time() == datetime.time() and "h" not in cell.number_format.lower()
        return value.date().isoformat() if is_date else value.isoformat(sep=" ")
    return str(value)


def _number(value, number_format):
    if match := _DIGITS.fullmatch(number_format):
        digits, decimals, percent = match.groups(default="")
        text = f"{abs(value) * (100 if percent else 1):.{len(decimals)}f}"
        width = len(digits) + len(decimals) + bool(decimals)
        return f"{'-' if value < 0 else ''}{text.rjust(width, '0')}{percent}"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return str(int(value))
    return f"{value:.15g}"  # the digits that Excel keeps
