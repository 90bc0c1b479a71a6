"""Decisions of a person about suspect rows, saved by the page of `dirty.py --html`, applied to the train file."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from text_cls.cli import Problems, shorten
from text_cls.files import atomic_write
from text_cls.label_tree import with_ancestors
from text_cls.language import tr
from text_cls.rows import format_row, one_line, read_lines, read_rows, unknown_message

COLUMNS = ("line", "decision", "given", "labels", "text")
KEEP, CHANGE, REMOVE = "keep", "change", "remove"


class Decision(NamedTuple):
    """About one row. line: in the train file. given, labels: names joined by commas, before and after. text: one line.

    number: its own line in the file of decisions.
    """

    number: int
    line: int
    kind: str
    given: str
    labels: str
    text: str


def read_decisions(path, problems):
    """`Decision`s of a file, by the line of the row: a dict. What is wrong with the file goes to `problems`."""
    found = {}
    for number, line in read_lines(path):
        columns = line.split("\t")
        if number == 1:
            if tuple(columns) != COLUMNS:
                problems.add(
                    tr(
                        "{path}: the first line is not that of a file of decisions; name the file that the page of "
                        'dirty.py --html saved with "Decisions"',
                        path=path,
                    )
                )
                return {}
            continue
        where = {"path": path, "number": number}
        if len(columns) != len(COLUMNS) or not (columns[0].isascii() and columns[0].isdecimal()):
            problems.add(tr("{path}:{number}: a line is line<TAB>decision<TAB>given<TAB>labels<TAB>text", **where))
        elif columns[1] not in (KEEP, CHANGE, REMOVE):
            shown = shorten(columns[1])
            problems.add(tr("{path}:{number}: decision {shown}; write keep, change or remove", shown=shown, **where))
        elif int(columns[0]) in found:
            problems.add(tr("{path}:{number}: a second decision for line {line}", line=int(columns[0]), **where))
        else:
            found[int(columns[0])] = Decision(number, int(columns[0]), *columns[1:])
    if not found and not problems.count:
        problems.add(tr("{path}: no decisions; decide some rows in the page, then save them again", path=path))
    return found


def apply_decisions(decisions_path, source, labels, target):
    """Writes the rows of a train file, in its order, with the labels that a person decided on.

    Args:
        source, target: paths of the train file, which stays as it is, and of the file to write.
        labels: `Labels` of the task.
    Returns:
        ({"keep", "change", "remove": number of decided rows}, number of rows written).
    Raises:
        UserError: the decisions are of another file, or of another state of this one; the message lists their lines.
    """
    problems = Problems()
    with problems.collect():
        rows = read_rows(source, labels, problems)
    with problems.collect():
        decisions = read_decisions(decisions_path, problems)
    problems.stop_if_any()
    place = {int(line): i for i, line in enumerate(rows.lines)}
    for decision in decisions.values():
        _check(decision, decisions_path, rows, place.get(decision.line), labels, problems)
    problems.stop_if_any()

    written = 0
    with atomic_write(target) as file:
        for number, line in read_lines(source, again=True):
            decision = decisions.get(number)
            if not line.strip() or (decision and decision.kind == REMOVE):
                continue
            if decision and decision.kind == CHANGE:
                columns = [rows.texts[place[number]], *filter(None, [_closed(decision.labels, labels)])]
            else:
                columns = line.split("\t")
            file.write(format_row(*columns))
            written += 1
    return {KEEP: 0, CHANGE: 0, REMOVE: 0} | Counter(decision.kind for decision in decisions.values()), written


def _check(decision, path, rows, i, labels, problems):
    """Adds a problem if a decision is not about row i (None: no row), or has an unknown label."""
    where = {"path": path, "number": decision.number}
    for name in filter(None, decision.labels.split(",")):
        if labels.find(name) is None:
            problems.add(unknown_message, path, decision.number, name, labels)
    if i is None or decision.text != one_line(rows.texts[i]) or _ids(decision.given, labels) != set(rows.labels_of(i)):
        problems.add(
            tr(
                "{path}:{number}: line {line} of {source} is not the row that was decided on; apply the decisions to "
                "the file as it was when the page was made, or make a new page",
                line=decision.line,
                source=rows.path,
                **where,
            )
        )


def _ids(names, labels):
    return {labels.find(name) for name in filter(None, names.split(","))}


def _closed(names, labels):
    """Names joined by commas, with all ancestors, in the order of the label file."""
    chosen = np.zeros((1, len(labels)), dtype=bool)
    chosen[0, list(_ids(names, labels))] = True
    return labels.join(with_ancestors(chosen, labels.parents)[0])
