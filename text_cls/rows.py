"""Labels, texts and labelled rows: the one reader of `label.txt` and of every data file."""

import contextlib
import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from text_cls.cli import Problems, UserError, closest, logger, shorten
from text_cls.files import atomic_write
from text_cls.foreign_files import SAMPLE, encoding_message, foreign_message
from text_cls.inputs import open_input
from text_cls.label_column import unlabelled_message
from text_cls.label_names import likeness, normal_form, tidy_name, told_apart
from text_cls.label_tree import SEPARATOR, parent_ids, parent_path, split_path
from text_cls.language import N_, reason_of, tr

# Tabs, and what some readers take for the end of a line: Python's splitlines, editors, spreadsheets, JavaScript.
LINE_BREAKS = N_("line breaks of other kinds than LF, such as CR or U+2028")
_BREAKS = re.compile("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")

# --------------------------------------------------------------------------------------------------------------- labels


@dataclass
class Labels:
    """The labels of a task. Output i of the model is line i of `label.txt`, counted from 0.

    names: full paths. index: {name: i}. parents: int32 array [labels] of `label_tree.parent_ids`. descriptions: of
    `read_descriptions`, for a training that uses them.
    """

    names: list[str]
    descriptions: dict[str, list[str]] = field(default_factory=dict)
    index: dict[str, int] = field(init=False)
    parents: np.ndarray = field(init=False)

    def __post_init__(self):
        self.index = {name: i for i, name in enumerate(self.names)}
        self.parents = parent_ids(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def hierarchical(self) -> bool:
        return any(SEPARATOR in name for name in self.names)

    def find(self, name: str) -> int | None:
        """Index of the label of this name, whatever its invisible characters and spaces; None if there is none."""
        i = self.index.get(name)
        return self._tidy.get(tidy_name(name)) if i is None else i

    def same_as(self, other: "Labels") -> bool:
        """Whether both have the same labels in the same order, whatever their invisible characters and spaces."""
        return self.names == other.names or [*map(tidy_name, self.names)] == [*map(tidy_name, other.names)]

    def similar(self, name: str) -> str | None:
        """The label that differs from a name only in what `normal_form` ignores; None if there is none."""
        return self._forms.get(normal_form(name))

    @functools.cached_property
    def _tidy(self):
        return {tidy_name(name): i for i, name in enumerate(self.names)}

    @functools.cached_property
    def _forms(self):
        return {normal_form(name): name for name in self.names}

    def join(self, mask: np.ndarray) -> str:
        """The names of one row's labels (bool array [labels]) as in files: joined by commas."""
        return self.join_ids(np.flatnonzero(mask))

    def join_ids(self, ids: Iterable[int]) -> str:
        """`join` for label indices."""
        return ",".join(self.names[i] for i in ids)

    def write(self, path: str | os.PathLike) -> None:
        """Writes `label.txt`, whole or not at all."""
        with atomic_write(path) as file:
            file.writelines(format_row(name) for name in self.names)


def label_problem(name):
    """Why a label cannot have this name, as the end of a sentence that begins with the name; None if it can."""
    if "\n" in name or "\r" in name:
        return tr("contains a line break; rename the label")
    if "," in name or "\t" in name:
        sign = tr("comma") if "," in name else tr("tab")
        return tr("contains a {sign}, which separates columns; rename the label", sign=sign)
    pieces = split_path(name)
    if not all(pieces):
        return tr("has an empty level beside {separator!r}", separator=SEPARATOR)
    if any(piece.lstrip().startswith("#") for piece in pieces[1:]):
        return tr("has a level that begins with '#' after {separator!r}; rename the level", separator=SEPARATOR)
    return None


def read_labels(
    path: str | os.PathLike,
    problems: Problems,
    lines: Iterable[tuple[int, str]] | None = None,
    of_model: bool = False,
) -> Labels:
    """Reads `label.txt`. What is wrong with it is added to `problems`.

    Args:
        lines: (number, name) of each line, for a file whose lines contain more than a name.
        of_model: the file is a trained model's, or is to agree with it. The model may be older than these checks: its
            names are kept as they are, and names of one normal form are only logged.
    """
    names, first_line, forms, respelled = [], {}, {}, Counter()
    for number, line in read_lines(path) if lines is None else lines:
        written = line.strip()
        name = written if of_model else tidy_name(written)
        number_before, before = forms.setdefault(normal_form(name), (number, written))
        if not normal_form(name):
            problems.add(
                tr("{path}:{number}: empty line; each line is one label, delete this one", path=path, number=number)
            )
        elif name in first_line and (of_model or written == before):
            problems.add(
                tr(
                    "{path}:{number}: label {name!r} is already on line {first_line}; delete one",
                    path=path,
                    number=number,
                    name=name,
                    first_line=first_line[name],
                )
            )
        elif number_before != number and not of_model:
            problems.add(
                tr(
                    "{path}:{number}: label {likeness} on line {number_before}; delete one",
                    path=path,
                    number=number,
                    likeness=likeness(written, before),
                    number_before=number_before,
                )
            )
        elif problem := label_problem(name):
            problems.add(f"{path}:{number}: label {name!r} {problem}")
        else:
            names.append(name)
            if number_before != number:
                logger.warning("%s:%d: label %s on line %d", path, number, likeness(written, before), number_before)
            if name != written:
                respelled[written, name] += 1
        first_line.setdefault(name, number)
    log_respelled(path, respelled)
    for name in names:
        parent = parent_path(name)
        if parent and parent not in first_line and not (of_model and normal_form(parent) in forms):
            problems.add(_no_parent_message, path, first_line[name], name, parent, first_line, forms)
    if not first_line:
        problems.add(tr("{path}: no labels; write one per line", path=path))
    return Labels(names)


def log_respelled(path, respelled):
    """Logs how often names are not spelled as the label they are. respelled: Counter of (name as written, label)."""
    if respelled:
        count, (pair, _) = respelled.total(), respelled.most_common(1)[0]
        what = tr("1 name has") if count == 1 else tr("{count} names have", count=count)
        message = tr("%s: %s other invisible characters or spaces than the label, which are ignored: %s for %s")
        logger.warning(message, path, what, *told_apart(*pair))


def _no_parent_message(path, number, name, parent, names, forms):
    if normal_form(parent) in forms:
        line, before = forms[normal_form(parent)]
        return tr(
            "{path}:{number}: label {name!r}: its parent {likeness} on line {line}; write one of them",
            path=path,
            number=number,
            name=name,
            likeness=likeness(parent, before),
            line=line,
        )
    message = tr(
        "{path}:{number}: label {name!r} has no parent here; add a line {parent!r}",
        path=path,
        number=number,
        name=name,
        parent=parent,
    )
    without = parent.rstrip("#")
    if without != parent and without in names:
        level = name.removeprefix(without + SEPARATOR)
        message += tr(
            " (below {without!r} no level can begin with #, as {level!r} does; if that was meant, rename it)",
            without=without,
            level=level,
        )
    return message


def read_descriptions(path: str | os.PathLike, labels: Labels, problems: Problems) -> dict[str, list[str]]:
    """Reads `label_descriptions.txt`: `label<TAB>description`, any number of lines per label.

    Returns:
        {name: descriptions} of the labels that have some. What is wrong with the file is added to `problems`.
    """
    found = {}
    for number, line in read_lines(path):
        name, tab, description = line.partition("\t")
        if not line.strip():
            continue
        i = labels.find(name.strip())
        if not tab or "\t" in description or not description.strip():
            problems.add(tr("{path}:{number}: a line is label<TAB>description", path=path, number=number))
        elif i is None:
            problems.add(unknown_message, path, number, name.strip(), labels)
        else:
            found.setdefault(labels.names[i], []).append(description.strip())
    return found


# ----------------------------------------------------------------------------------------------------------------- rows


def one_line(text: str) -> str:
    """The text as it is written to a file of rows: tabs and line breaks of any kind become spaces.

    Tokenizers ignore them or take them for spaces, and an escape such as \\u2028 would be read back as six characters.
    """
    return _BREAKS.sub(" ", text)


def place_in(text: str, place: int) -> int:
    """The place in a text that a place in `one_line(text)` stands for."""
    for run in _BREAKS.finditer(text):
        if run.start() >= place:
            break
        place += len(run[0]) - 1
    return place


def format_row(*columns: str) -> str:
    """A row of these columns as a line of a file."""
    return "\t".join(map(one_line, columns)) + "\n"


class Texts:
    """Many texts in one buffer: a list of str takes three times the memory. Indexed like a list."""

    def __init__(self):
        self._bytes, self._ends = bytearray(), [0]

    def append(self, text: str) -> None:
        self._bytes += text.encode("utf-8")
        self._ends.append(len(self._bytes))

    def freeze(self) -> None:
        """Saves memory; call it after the last `append`."""
        self._ends = np.array(self._ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8")


@dataclass
class Rows:
    """Labelled rows of one file in compact arrays.

    lines: int32 array [rows], the line of each row. label_ids: int32 array, the labels of all rows one after the other;
    those of row i are label_ids[offsets[i] : offsets[i + 1]], in ascending order. blank: number of blank lines skipped.
    completed: number of rows that named a child without its parent, which was added. respelled: how often there
    is which (name as written, label) that differ in invisible characters or spaces.
    """

    path: str
    texts: Texts
    lines: np.ndarray
    label_ids: np.ndarray
    offsets: np.ndarray
    blank: int
    completed: int
    respelled: Counter = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.texts)

    def labels_of(self, i: int) -> np.ndarray:
        """Label indices of row i, int32 array."""
        return self.label_ids[self.offsets[i] : self.offsets[i + 1]]

    def sample(self, count: int | None, seed: int) -> "Rows":
        """`count` random rows in the file's order; all rows if `count` is None or larger than their number."""
        if count is None or count >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False)))

    def take(self, chosen: np.ndarray) -> "Rows":
        """Some of the rows, at least one, by their numbers: an int array."""
        texts = Texts()
        for i in chosen:
            texts.append(self.texts[i])
        texts.freeze()
        label_ids = np.concatenate([self.labels_of(i) for i in chosen])
        offsets = np.cumsum([0, *np.diff(self.offsets)[chosen]])
        return Rows(self.path, texts, self.lines[chosen], label_ids, offsets, self.blank, self.completed)

    def multi_hot(self, num_labels: int, rows: Iterable[int] | None = None, dtype: type = bool) -> np.ndarray:
        """0/1 array [rows, num_labels] of these rows (by default all)."""
        rows = range(len(self)) if rows is None else rows
        hot = np.zeros((len(rows), num_labels), dtype=dtype)
        for i, row in enumerate(rows):
            hot[i, self.labels_of(row)] = 1
        return hot

    def support(self, num_labels: int) -> np.ndarray:
        """Number of rows of each label, int64 array [num_labels]."""
        return np.bincount(self.label_ids, minlength=num_labels)


def read_lines(path: str | os.PathLike, may_be_json: bool = False, again: bool = False) -> Iterator[tuple[int, str]]:
    """Yields (number, text) of each line of a UTF-8 file; a byte order mark and CRLF are accepted.

    Args:
        again: the run has read the file before, and it must not have changed since.
    Raises:
        UserError: the file cannot be read, or changes, or is no text: the message names what it is, and the command to
            convert it.
    """
    chinese_before = False  # non-ASCII UTF-8 was read: an error then concerns this line, not the whole file
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_input(path, again, SAMPLE))
        except OSError as error:
            is_file = os.path.isfile(os.path.dirname(path))
            more = tr(". To make a data set of a table, use data/from_table.py") if is_file else ""
            raise UserError(
                tr("{path}: {error}. Check the folder and the name{more}", path=path, error=reason_of(error), more=more)
            ) from error
        head = file.peek(SAMPLE)[:SAMPLE]
        if message := foreign_message(path, head, may_be_json):
            raise UserError(message)
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                if chinese_before:
                    raise UserError(encoding_message(path, number, line)) from None
                sample = line[:SAMPLE] + file.read(max(0, SAMPLE - len(line)))
                raise UserError(encoding_message(path, number, sample, head)) from None
            chinese_before = chinese_before or not line.isascii()
            yield number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")


def read_texts(
    path: str | os.PathLike,
    problems: Problems | None = None,
    labels: Labels | None = None,
    keep_blank: bool = False,
) -> Iterator[tuple[int, str]]:
    """Yields (line number, text) of each row to predict. Labels after a text are ignored.

    Args:
        problems: gets rows with more than one tab; None if the run has checked the file, which must not change since.
        labels: those of the model, if rows whose second column has none of them are problems, too.
        keep_blank: yield a blank line as an empty text, instead of skipping it.
    """
    for number, line in read_lines(path, again=problems is None):
        text, _, names = line.partition("\t")
        if problems is not None:
            if line.count("\t") > 1:
                problems.add(tab_message, path, number, line)
            elif labels and names.strip() and all(labels.find(name.strip()) is None for name in names.split(",")):
                problems.add(_no_label_message, path, number, text, names)
        if keep_blank or text.strip():
            yield number, text.strip()


def tab_message(path, number, line):
    tabs = line.count("\t")
    return tr(
        "{path}:{number}: {tabs} tabs; a row is text<TAB>label,label. Replace the tabs in the text with spaces, or "
        "convert a table with data/from_table.py",
        path=path,
        number=number,
        tabs=tabs,
    )


def _no_label_message(path, number, text, names):
    return tr(
        "{path}:{number}: the second column, {names}, has no label of the model, and only the first one, {text}, "
        "would be predicted. Keep the column with the texts: cut -f1 or cut -f2",
        path=path,
        number=number,
        names=shorten(names.strip()),
        text=shorten(text.strip()),
    )


def read_rows(path: str | os.PathLike, labels: Labels, problems: Problems, again: bool = False) -> Rows:
    """Reads the labelled rows of a file. Malformed rows, unknown labels, or no label at all go to `problems`.

    again: as in `read_lines`.
    """
    texts, lines, label_ids, ends, respelled = Texts(), [], [], [0], Counter()
    blank, completed, problems_before = 0, 0, problems.count
    for number, line in read_lines(path, again=again):
        if not line.strip():
            blank += 1
            continue
        if line.count("\t") > 1:
            problems.add(tab_message, path, number, line)
            continue
        text, _, names = line.partition("\t")
        if not text.strip():
            problems.add(
                tr("{path}:{number}: labels without a text; a row is text<TAB>label,label", path=path, number=number)
            )
            continue
        named, closed = _label_set(names, labels, path, number, problems, respelled)
        completed += len(closed) > len(named)
        texts.append(text.strip())
        lines.append(number)
        label_ids.extend(sorted(closed))
        ends.append(len(label_ids))
    if not lines:
        problems.add(tr("{path}: no rows; each line is text<TAB>label,label", path=path))
    elif not label_ids and problems.count == problems_before:
        problems.add(unlabelled_message(path, texts, labels))
    texts.freeze()
    log_respelled(path, respelled)
    arrays = (np.array(lines, np.int32), np.array(label_ids, np.int32), np.array(ends, np.int64))
    return Rows(path, texts, *arrays, blank=blank, completed=completed, respelled=respelled)


@dataclass
class Case:
    """A text to explain. gold, predicted: sorted label indices with all ancestors; None if there is no such column."""

    line: int
    text: str
    gold: list | None
    predicted: list | None


def read_cases(path, labels, problems):
    """Reads `Case`s from a file like bad_case.txt: `text[<TAB>labels[<TAB>prediction]]`. A header `Text` is skipped."""
    cases, respelled = [], Counter()
    for number, line in read_lines(path):
        text, *columns = line.split("\t")
        text = text.strip()
        if not line.strip() or (text == "Text" and not cases):
            continue
        if len(columns) > 2 or not text:
            what = f"{len(columns)} tabs" if text else tr("no text")
            problems.add(
                tr(
                    "{path}:{number}: {what}; a row is text, text<TAB>labels or text<TAB>labels<TAB>prediction",
                    path=path,
                    number=number,
                    what=what,
                )
            )
            continue
        sets = [sorted(_label_set(names, labels, path, number, problems, respelled)[1]) for names in columns]
        cases.append(Case(number, text, *sets, *[None] * (2 - len(sets))))
    log_respelled(path, respelled)
    if not cases:
        problems.add(tr("{path}: no texts to explain", path=path))
    return cases


def _label_set(names, labels, path, number, problems, respelled):
    """Label indices of a row's second column, two sets: the labels it names, and these with all their ancestors.

    respelled: as in `Rows`.
    """
    named, closed = set(), set()
    for name in map(str.strip, names.split(",")) if names.strip() else ():
        i = labels.index.get(name)
        if i is None:
            i = labels.find(name)
            if i is None:
                problems.add(unknown_message, path, number, name, labels)
                continue
            respelled[name, labels.names[i]] += 1
        named.add(i)
        while i >= 0:
            closed.add(i)
            i = int(labels.parents[i])
    return named, closed


def unknown_message(path, number, name, labels):
    where = f"{path}:{number}:"
    if not tidy_name(name):
        return tr("{where} empty label; delete the extra comma", where=where)
    if similar := labels.similar(name):
        return tr(
            "{where} label {likeness}; write {similar!r}",
            where=where,
            likeness=likeness(name, similar),
            similar=similar,
        )
    if "，" in name:
        return tr(
            "{where} label {name!r} contains a full-width comma; labels are separated by an ASCII comma",
            where=where,
            name=name,
        )
    for sign in ";；、| ":
        if sign in name and all(piece.strip() in labels.index for piece in name.split(sign)):
            return tr(
                "{where} label {name!r}: labels are separated by an ASCII comma, not by {sign!r}",
                where=where,
                name=name,
                sign=sign,
            )
    return tr(
        "{where} label {name!r} is not in the label file{hint}",
        where=where,
        name=name,
        hint=closest(name, labels.index),
    )
