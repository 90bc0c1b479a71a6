"""Convert a table into the files that train.py reads: CSV, TSV, Excel (.xlsx), JSON lines, JSON arrays, Parquet.

    python data/from_table.py --table tickets.xlsx     # shows the columns and the command that converts them
    python data/from_table.py --table tickets.xlsx --save_dir my-data --text_column 内容 --level_columns 一级 二级 三级
    python data/from_table.py --table r.csv --text_column text --label_column tags --label_separator ';'
    python data/from_table.py --table new.csv --text_column text    # texts to predict: only data.txt

data/from_table.md says which tables it reads and what becomes of their cells.
"""

import argparse
import itertools
import os
import shlex
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from annotation_exports import UNDATED, Annotation, tool_of
from dataset_files import (
    NAMES,
    add_dataset_flags,
    check_flags,
    labelled_texts,
    log_rows,
    split,
    write,
    write_dataset,
)
from label_studio import ignored
from table_columns import columns_of, command_of, described, guess, items_of
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import Problems, UserError, command, logger, non_negative_int
from text_cls.label_names import tidy_name
from text_cls.label_tree import SEPARATOR, join_path
from text_cls.language import tr
from text_cls.locks import write_lock
from text_cls.rows import one_line
from text_cls.tables import LOOKED_AT, cell_text, find_columns, open_table, row_text
from tool_labels import check_new


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--table", required=True, help="the file to convert")
    columns = parser.add_argument_group("columns, by name or by number from 1")
    columns.add_argument("--text_column", nargs="+", default=[], help="the text; several are joined by a space")
    labels = columns.add_mutually_exclusive_group()
    labels.add_argument("--label_column", help="the labels of a row")
    labels.add_argument("--level_columns", nargs="+", default=[], help="a path of labels, one column for each level")
    columns.add_argument("--label_separator", default=",", help="separator of labels in --label_column (%(default)s)")
    file = parser.add_argument_group("file")
    file.add_argument("--sheet", help="Excel: name of the sheet (the first one that is not hidden)")
    file.add_argument(
        "--header_row",
        type=non_negative_int,
        help="number of the row that names the columns; 0: none does (found from the first rows)",
    )
    file.add_argument("--encoding", help="encoding of a text file, such as gb18030 (found from its bytes)")
    add_dataset_flags(parser)
    args = parser.parse_args(argv)
    if (args.label_column or args.level_columns) and not args.text_column:
        parser.error(tr("--text_column is missing; without all the column flags, the columns are shown"))
    args.splits = args.splits or [0.8, 0.2]
    if args.level_columns:
        args.task_type, args.separator = "hierarchical", SEPARATOR
    return args


def opened(args):
    """The table of the flags."""
    wanted = [*args.text_column, *args.level_columns, *([args.label_column] if args.label_column else [])]
    table = open_table(args.table, sheet=args.sheet, encoding=args.encoding, header_row=args.header_row, wanted=wanted)
    logger.info("%s: %s", table.path, table.kind)
    _, first = next(table.rows(Problems()), (None, {})) if "JSON" in table.kind else (None, {})
    tool = tool_of(first)
    advice = f"python data/doccano.py --doccano_file {shlex.quote(args.table)}"
    if tool == "Label Studio":
        raise UserError(
            tr("{table}: this is an export of Label Studio; convert it: {advice}", table=args.table, advice=advice)
        )
    if tool:
        logger.info("This looks like an export of doccano, which this command converts, too: %s", advice)
    if table.header_row == 0 and "TSV" in table.kind and len(table.columns) == 2:
        logger.info("If its rows are text<TAB>label,label already, only split them, with analysis/split.py")
    return table


# ------------------------------------------------------------------------------------------------- without column flags


def show(args):
    """Prints the columns, a guess what they are, and the command that converts the table if the guess is right."""
    table, problems = opened(args), Problems()
    rows = [row for _, row in itertools.islice(table.rows(problems), LOOKED_AT)]
    if problems.count:
        logger.warning("%d of the first rows cannot be read: %s", problems.count, problems.messages[0])
    columns = columns_of(table.columns, rows)
    print(tr("In the first {count} rows:", count=len(rows)), *described(columns), sep="\n")
    found = guess(columns, rows)
    if found is None:
        raise UserError(tr("{table}: no column has texts", table=args.table))
    print(tr("A guess: {found}. If it is right:", found=found), f"  {command_of(args, found.flags())}", sep="\n")


# ---------------------------------------------------------------------------------------------------- with column flags


def path_of(record, columns):
    """The label of a row with one column for each level: a list of its path, empty if it has none."""
    levels = [cell_text(record.get(name)).strip() for name in columns]
    while levels and not levels[-1]:
        levels.pop()
    if not all(levels):
        i = levels.index("")
        raise ValueError(
            tr("column {column!r} is empty, but {next_column!r} is not", column=columns[i], next_column=columns[i + 1])
        )
    if wrong := next((level for level in levels if SEPARATOR in level), None):
        raise ValueError(
            tr("level {wrong!r} contains {separator}, which separates levels", wrong=wrong, separator=SEPARATOR)
        )
    return [join_path(levels)] if levels else []


def read(table, args, problems, texts, label, levels):
    """Yields (where, text, labels) of each row. Rows with invalid cells go to `problems`.

    texts, label, levels: lists of columns, of which label has at most one and is used if there are no levels.
    """
    for where, record in table.rows(problems, [*texts, *label, *levels]):
        try:
            text = row_text(record, texts)
            if levels:
                names = path_of(record, levels)
            else:
                names = items_of(record.get(label[0]), args.label_separator) if label else []
            "".join([text, *names]).encode("utf-8")  # half a surrogate pair cannot be written
        except ValueError as error:
            problems.add(f"{where}: {error}")
        else:
            yield where, text, names


def convert(args):
    problems = Problems()
    check_flags(args.splits, args.separator, problems)
    if not args.label_separator:
        problems.add(tr("--label_separator: must not be empty; use, for example, ','"))
    table = opened(args)
    texts = find_columns(args.text_column, table.columns, "--text_column", args.table, problems)
    label = [args.label_column] if args.label_column else []
    label = find_columns(label, table.columns, "--label_column", args.table, problems)
    levels = find_columns(args.level_columns, table.columns, "--level_columns", args.table, problems)
    problems.stop_if_any()
    rows = read(table, args, problems, texts, label, levels)
    if label or levels:
        write_labelled(rows, args, problems)
    else:
        write_texts(rows, args, problems)


def write_labelled(rows, args, problems):
    """Writes a data set of these (where, text, labels)."""
    found, counts = [], Counter()
    for number, (where, text, names) in enumerate(rows):
        counts["respelled",] += sum(name != tidy_name(name) for name in names)
        found.append(Annotation(args.table, where, text, (number,), UNDATED, [], names))
    how = {"task_type": args.task_type, "separator": args.separator, "disagreement": args.disagreement}
    rows, changes, places = labelled_texts(found, problems, **how)
    del found
    names = sorted({name for _, labels in rows for name in labels})
    if not names and not problems.count:
        problems.add(tr("{table}: no row has a label", table=args.table))
    split_them = "" if args.level_columns else tr("add --label_separator {}, or ")
    check_new(places, problems, lambda sign: tr("{quote}correct the table", quote=split_them.format(shlex.quote(sign))))
    problems.stop_if_any()
    parts = split(args.table, rows, names, problems, splits=args.splits, shuffle=args.is_shuffle, seed=args.seed)
    problems.stop_if_any()
    log_rows(args.table, rows, changes, args.disagreement)
    for line in ignored(counts):
        logger.info(line)
    write_dataset(args.save_dir, rows, names, parts)


def write_texts(rows, args, problems):
    """Writes data.txt alone, in which line i is row i of the table."""
    texts = [one_line(text) for _, text, _ in rows]
    problems.stop_if_any()
    if not any(texts):
        raise UserError(tr("{table}: no row has a text", table=args.table))
    path = os.path.join(args.save_dir, "data.txt")
    write(path, texts)
    logger.info("%s: %d texts, %d of them empty", path, len(texts), texts.count(""))
    logger.info("To make a data set for training: add --label_column or --level_columns")


@command
def main(argv=None):
    args = parse_args(argv)
    if not args.text_column:
        return show(args)
    with write_lock(os.path.join(args.save_dir, NAMES[1][0])):  # as split.py does
        convert(args)


if __name__ == "__main__":
    sys.exit(main())
