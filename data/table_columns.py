"""Which columns of a table have the texts and which the labels: shown to the user, guessed, and found by name."""

import ast
import json
import os
import re
import shlex
from collections import Counter
from dataclasses import dataclass, field

from text_cls.label_tree import SEPARATOR
from text_cls.language import tr
from text_cls.new_labels import joined_names
from text_cls.table_texts import TEXT_NAMES
from text_cls.tables import cell_text
from text_cls.terminal import aligned

SHOWN = 3  # values of each column
WIDTH = 24  # characters of each
LABEL_NAME = re.compile("label|categor|class|topic|tag|标签|类别|分类|类型", re.IGNORECASE)
LEVEL_NAME = re.compile("(level|lv|l)[ _-]?[1-6].*|.*[一二三四五六]级.*|[大中小]类", re.IGNORECASE)


@dataclass
class Column:
    """A column of the first rows. values: Counter of its texts; size: their characters in all."""

    name: str
    values: Counter = field(default_factory=Counter)
    size: int = 0

    @property
    def filled(self):
        return self.values.total()

    @property
    def repeats(self):
        """Whether the values are few and repeated, as labels are."""
        few = 1 < len(self.values) <= self.filled / 2 and self.size <= 30 * self.filled
        return few and not all(map(_is_number, self.values))


@dataclass
class Guess:
    """What the columns seem to be. label: the column of labels, if `levels` is empty. separator: its levels', or ""."""

    text: str | None = None
    label: str | None = None
    levels: list = field(default_factory=list)
    label_separator: str = ","
    separator: str = ""

    def __str__(self):
        labels = tr("there are only texts to predict, without labels")
        if self.levels:
            labels = tr("the levels of their labels in {columns}", columns=", ".join(map(repr, self.levels)))
        elif self.label:
            labels = tr("their labels in {label!r}", label=self.label)
        return tr("the texts are in {text!r}, {labels}", text=self.text, labels=labels)

    def flags(self):
        """The words of the command line."""
        words = ["--text_column", self.text]
        if self.levels:
            words += ["--level_columns", *self.levels]
        elif self.label:
            words += ["--label_column", self.label]
            words += ["--label_separator", self.label_separator] if self.label_separator != "," else []
            words += ["--task_type", "hierarchical"] if self.separator else []
            words += ["--separator", self.separator] if self.separator not in ("", SEPARATOR) else []
        return words


def items_of(value, separator):
    """The labels in a cell: the items of a list, also of one that is written as text, or what `separator` separates.

    Raises ValueError, with the reason, if it contains anything else.
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[" and value.rstrip()[-1:] == "]":
        value = _list_in(value)
    items = value if isinstance(value, list) else cell_text(value).split(separator)
    return [item for item in (cell_text(item).strip() for item in items) if item]


def _list_in(text):
    """A list as JSON or, as pandas writes it, as Python; the text itself if it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: thousands of brackets
            continue
        if isinstance(found, list):
            return found
    return text


# ------------------------------------------------------------------------------------------------------------ guessing


def columns_of(names, rows):
    """A Column of each name, from the first rows (dicts). Lists are shown as JSON."""
    columns = [Column(name) for name in names]
    for row in rows:
        for column in columns:
            value = row.get(column.name)
            if isinstance(value, (list, dict)):
                value = json.dumps(value, ensure_ascii=False, default=str)
            try:
                text = cell_text(value).strip()
            except ValueError:  # bytes that are no text
                text = repr(value[:WIDTH])
            if text:
                column.values[text] += 1
                column.size += len(text)
    return columns


def guess(columns, rows):
    """The Guess for a table, None if no column can be the text. rows: the first ones, as dicts."""
    texts = [column for column in columns if column.filled and not all(map(_is_number, column.values))]
    levels = [column for column in texts if LEVEL_NAME.fullmatch(column.name)]
    named = [column for column in texts if LABEL_NAME.search(column.name) and column not in levels]
    texts = [column for column in texts if column not in levels]
    if not texts:
        return None
    text = max(texts, key=lambda each: (each.name.lower() in TEXT_NAMES, each.size / each.filled))
    found = Guess(text.name)
    if len(levels) > 1:
        found.levels = [column.name for column in levels]
        return found
    likely = [column for column in [*named, *levels, *filter(lambda each: each.repeats, texts)] if column is not text]
    below = [column for column in texts if column is not text and column.repeats]
    if likely and likely[0] in below:
        found.levels = _nested(below[below.index(likely[0]) :], rows)
    if likely and not found.levels:
        found.label = likely[0].name
        found.label_separator, found.separator = _separators(likely[0])
    return found


def _nested(columns, rows):
    """Names of the first columns as far as each value of the next belongs to a single one of this; none if only one."""
    names = [columns[0].name]
    for column in columns[1:]:
        pairs = {(row.get(names[-1]), row.get(column.name)) for row in rows if row.get(column.name)}
        above = {value for value, _ in pairs}
        if not len(above) < len(column.values) == len(pairs):
            break
        names.append(column.name)
    return names if len(names) > 1 else []


def _separators(column):
    """(separator of labels, separator of levels or "" if there are no levels)"""
    items = Counter()
    for value, count in column.values.items():
        for item in items_of(value, ","):
            items[item] += count
    signs = joined_names(items)
    sign = max(signs, key=lambda sign: len(signs[sign])) if signs else ","
    names = {part for item in items for part in item.split(sign)}
    if any(SEPARATOR in name for name in names):
        return sign, SEPARATOR
    return sign, next((each for each in ">/\\" if 2 * sum(each in name for name in names) > len(names)), "")


def _is_number(text):
    return re.fullmatch(r"[-+\d.,:/ ]{1,40}", text) is not None


# ------------------------------------------------------------------------------------------------------------- showing


def described(columns):
    """Lines that show the columns, and how many of the first rows are filled and different."""
    rows = []
    for column in columns:
        values = [_shortened(value) for value in list(column.values)[:SHOWN]]
        more = " ..." if len(column.values) > SHOWN else ""
        rows.append((_printable(column.name), column.filled, len(column.values), " | ".join(values) + more))
    titles = [tr("column"), tr("filled"), tr("different"), tr("values")]
    return [f"  {line}" for line in aligned(titles, rows)]


def _printable(text):
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _shortened(text):
    text = _printable(text[: 2 * WIDTH])
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def command_of(args, flags):
    """The command that converts the table with these flags."""
    words = ["python", "data/from_table.py", "--table", os.fspath(args.table), "--save_dir", args.save_dir]
    for flag in ("sheet", "header_row", "encoding"):
        if getattr(args, flag) is not None:
            words += [f"--{flag}", str(getattr(args, flag))]
    return shlex.join([*words, *flags])
