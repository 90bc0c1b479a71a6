"""Files of texts to predict, read in windows of rows: a text per line, or a table whose columns are kept."""

import functools
import itertools
import os
from collections import defaultdict

from text_cls.cli import Problems, logger
from text_cls.language import tr
from text_cls.rows import one_line, place_in, read_texts
from text_cls.tables import cell_text, find_columns, has_surrogate, known_columns, open_table, records_of, row_text

READABLE = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".json")
TEXT_NAMES = set("text texts content sentence body 文本 内容 正文".split())


def extension(path):
    """The end of a file's name in lower case, with its dot, which tells its format."""
    return os.path.splitext(os.fspath(path))[1].lower()


class Window:
    """Consecutive rows: their texts, "" where there is none, and the rows as dicts or as a pyarrow.RecordBatch."""

    def __init__(self, path, texts, records=None, batch=None):
        self.path, self.texts, self.batch = path, texts, batch
        if records is not None:
            self.records = records

    @functools.cached_property
    def records(self):
        """[{column: value}, ...]"""
        return records_of(self.batch, self.path)

    def without_blank(self):
        """The rows with a text."""
        filled = [bool(text) for text in self.texts]
        if all(filled):
            return self
        texts = list(filter(None, self.texts))
        if self.batch is None:
            return Window(self.path, texts, list(itertools.compress(self.records, filled)))
        import pyarrow

        return Window(self.path, texts, batch=self.batch.filter(pyarrow.array(filled)))


class TextFile:
    """A file with a text per line. count: its rows. skip_blank: leave blank lines out."""

    columns, has_names, schema, is_table = ["text"], True, None, False
    text_columns = columns
    kinds = {}

    def __init__(self, path, count, skip_blank=False):
        self.path, self.count, self._skip_blank = path, count, skip_blank

    def windows(self, size):
        """Yields `Window`s of this many rows."""
        texts = (text for _, text in read_texts(self.path, keep_blank=not self._skip_blank))
        while window := list(itertools.islice(texts, size)):
            yield Window(self.path, window, [{"text": text} for text in window])


class TableFile:
    """A table with a column of texts.

    columns: names. text_columns: of those with the text. has_names: whether they are in the file. count: number of rows
    to predict. kinds: {column: set of `value_kind`} of JSON. schema: of Parquet, a pyarrow.Schema, else None.
    """

    is_table = True

    def __init__(self, path, options, problems, skip_blank=False, longest=None):
        """Opens and checks a table. What is wrong with it is added to `problems`.

        Args:
            options: `TableOptions`.
            skip_blank: leave rows without a text out.
            longest: maximum characters per text.
        Raises:
            UserError: it cannot be read.
        """
        self.path, self._skip_blank, self.count, self.kinds = path, skip_blank, 0, defaultdict(set)
        self._table = open_table(
            path,
            sheet=options.sheet,
            encoding=options.encoding,
            header_row=options.header_row,
            wanted=options.text_column,
        )
        logger.info("%s: %s", path, self._table.kind)
        self.columns, self.schema = self._table.columns, self._table.schema
        self.has_names = self._table.header_row != 0
        for name in {name for name in self.columns if self.columns.count(name) > 1}:
            problems.add(tr("{path}: two columns are called {name!r}; rename one", path=path, name=name))
        self.text_columns = self._text_columns(options.text_column, problems)
        if self.text_columns:
            self._check(problems, longest)

    def _text_columns(self, names, problems):
        if names:
            return find_columns(names, self.columns, "--text_column", self.path, problems)
        found = [name for name in self.columns if name.lower() in TEXT_NAMES]
        found = self.columns if len(self.columns) == 1 else found
        if len(found) == 1:
            logger.info("Texts: column %r", found[0])
            return found
        known = known_columns(self.columns)
        problems.add(
            tr(
                "{path}: name the column of the texts with --text_column; there are {known}",
                path=self.path,
                known=known,
            )
        )
        return []

    def _check(self, problems, longest):
        """Reads all rows: their number, what is wrong with their texts, and the columns of JSON, whose rows differ."""
        is_json = self._table.header_row is None and self.schema is None
        filled = 0
        for where, record in self._table.rows(problems, self.text_columns):
            try:
                text = row_text(record, self.text_columns)
            except ValueError as error:
                problems.add(tr("{where}: the text {error}", where=where, error=error))
                continue
            filled += bool(text)
            self.count += bool(text) or not self._skip_blank
            if longest and len(text) > longest:
                problems.add(
                    tr(
                        "{where}: {count} characters; shorten the text to at most {longest}",
                        where=where,
                        count=len(text),
                        longest=longest,
                    )
                )
            for name, value in record.items() if is_json else ():
                self.kinds[name].add(value_kind(value))
        if is_json:
            self.columns = list(dict.fromkeys([*self.columns, *self.kinds]))
            for name in filter(has_surrogate, self.columns):
                problems.add(
                    tr(
                        "{path}: column {name!a}: half a surrogate pair is no character; rename the column",
                        path=self.path,
                        name=name,
                    )
                )
        if not filled and not problems.count:
            problems.add(
                tr(
                    "{path}: no texts in column {columns}",
                    path=self.path,
                    columns=", ".join(map(repr, self.text_columns)),
                )
            )

    def windows(self, size):
        """Yields `Window`s of at most this many rows."""
        for window in self._windows(size):
            yield window.without_blank() if self._skip_blank else window

    def _windows(self, size):
        if self.schema is not None:
            for batch in self._table.batches(size):
                texts = self._texts_of(records_of(batch.select(self.text_columns), self.path))
                yield Window(self.path, texts, batch=batch)
            return
        rows = (record for _, record in self._table.rows(Problems()))
        while records := list(itertools.islice(rows, size)):
            yield Window(self.path, self._texts_of(records), records)

    def passages(self, record, passages):
        """Passages of a row's text as places in its cell; if the text is that of several cells, in the text as read."""
        if len(self.text_columns) > 1:
            return passages
        cell = cell_text(record.get(self.text_columns[0]))
        blank = len(cell) - len(cell.lstrip())
        return [[blank + place_in(cell[blank:], place) for place in passage] for passage in passages]

    def _texts_of(self, records):
        return [one_line(row_text(record, self.text_columns)) for record in records]


def value_kind(value):
    """What a JSON value is: "" (null), "truth", "whole", "large" (a number no float has), "number", "text", "texts"
    (a list of them), or "other".
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int):
        return "whole" if abs(value) <= 1 << 53 else "large" if -(1 << 63) <= value < 1 << 63 else "other"
    if isinstance(value, list):
        return "texts" if all(isinstance(item, str) for item in value) else "other"
    return {float: "number", str: "text"}.get(type(value), "other")
