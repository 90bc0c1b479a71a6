"""Flags for tables of texts: of every script that predicts a file."""

from dataclasses import dataclass, field, fields

from text_cls.cli import non_negative_int
from text_cls.language import tr


@dataclass
class TableOptions:
    """How a table of texts is read and written.

    text_column: columns of the text, by name or number; empty: the one that is called so. level_columns: names of the
    columns to write, one per level of a hierarchy; empty: level_1, level_2, ...; None: no such columns. excel_safe:
    write cells of CSV and TSV so that no spreadsheet takes them for a formula. sheet, header_row, encoding: as in
    `tables.open_table`.
    """

    text_column: list[str] = field(default_factory=list)
    level_columns: list[str] | None = None
    excel_safe: bool = False
    sheet: str | None = None
    header_row: int | None = None
    encoding: str | None = None


def add_table_flags(parser, writes=True):
    """Adds --text_column, --sheet, --header_row and --encoding; for a script that writes tables, also --level_columns
    and --excel_safe."""
    only_read = tr("; only as input:") if writes else ""
    group = parser.add_argument_group(f"tables (.csv .tsv .jsonl .parquet{only_read} .xlsx .json)")
    group.add_argument(
        "--text_column",
        nargs="+",
        default=[],
        help="column of the text, by name or number; several are joined by a space (text, content, 文本 ...)",
    )
    if writes:
        levels = tr("also write the labels by level, in columns of these names (off; without names: level_1 ...)")
        group.add_argument("--level_columns", nargs="*", help=levels)
        safe = tr("write ' before cells that Excel could take for formulas (off)")
        group.add_argument("--excel_safe", action="store_true", help=safe)
    group.add_argument("--sheet", help="Excel: name of the sheet (the first one that is not hidden)")
    group.add_argument(
        "--header_row", type=non_negative_int, help="number of the row that names the columns; 0: none does (found)"
    )
    group.add_argument("--encoding", help="encoding of a table in text form, such as gb18030 (found from its bytes)")


def table_options(args):
    """The values of these flags as `TableOptions`."""
    given = {field.name for field in fields(TableOptions) if field.name in args}
    return TableOptions(**{name: getattr(args, name) for name in given})
