"""Soft labels that another program made, such as a large language model: JSON lines of a text and its probabilities.

    {"text": "台风登陆，学校停课", "labels": {"灾害/意外": 0.97, "灾害/意外##台风": 0.9}}

A label that a line does not name has the probability 0, or in a hierarchy the highest of its children's. Other keys
than `text` and `labels` are ignored.
"""

import json
import os

import numpy as np

from text_cls.cli import Problems, shorten
from text_cls.language import N_, tr
from text_cls.rows import Labels, Texts, one_line, read_lines, unknown_message

FORM = N_('{"text": "...", "labels": {"label": 0.9, ...}}')
LONGEST_LINE = 1 << 20  # characters


def read_soft_labels(path: str | os.PathLike, labels: Labels, problems: Problems) -> tuple[Texts, np.ndarray]:
    """Reads a file of soft labels. What is wrong with it is added to `problems`, with its line.

    Returns:
        texts, and their probabilities: float16 array [texts, labels].
    """
    texts, rows, first_line = Texts(), [], {}
    for number, line in read_lines(path, may_be_json=True):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            text, given = _parsed(line)
        except ValueError as error:
            problems.add(f"{where}: {error}")
            continue
        if text in first_line:
            problems.add(
                tr(
                    "{where}: the text of line {first_line} again; keep one of them",
                    where=where,
                    first_line=first_line[text],
                )
            )
        first_line.setdefault(text, number)
        rows.append(_probabilities(given, labels, path, number, problems))
        texts.append(text)
    if not first_line and not problems.count:
        problems.add(tr("{path}: no rows; each line is {form}", path=path, form=tr(FORM)))
    texts.freeze()
    return texts, np.array(rows, np.float16).reshape(len(rows), len(labels))


def _parsed(line):
    """Text and {label: probability} of a line. Raises ValueError with what is wrong, without the text."""
    if len(line) > LONGEST_LINE:
        raise ValueError(tr("more than {longest_line} characters; shorten the text", longest_line=LONGEST_LINE))
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(tr("lists or objects are nested too deep; each line is {form}", form=tr(FORM))) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            tr("no JSON (column {colno}: {msg}); each line is {form}", colno=error.colno, msg=error.msg, form=tr(FORM))
        ) from None
    text, given = (row.get(name) for name in ("text", "labels")) if isinstance(row, dict) else (None, None)
    if not isinstance(text, str) or not text.strip() or not isinstance(given, dict):
        raise ValueError(tr("each line is {form}, with a text that is not empty", form=tr(FORM)))
    text = one_line(text).strip()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(tr("the text contains half a surrogate pair, which is no character"))
    return text, given


def _object(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(tr("a key appears twice in an object; keep one of them"))
    return found


def _probabilities(given, labels, path, number, problems):
    """The probability of each label: float16 array [labels]. given: {name: probability}."""
    found = {}
    for name, value in given.items():
        label = labels.find(name.strip())
        if label is None:
            problems.add(unknown_message, path, number, name.strip(), labels)
        elif label in found:
            problems.add(
                tr(
                    "{path}:{number}: label {name} appears twice; keep one of them",
                    path=path,
                    number=number,
                    name=shorten(name),
                )
            )
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            shown = shorten(str(value)) if isinstance(value, (str, int, float)) else "this"
            problems.add(
                tr(
                    "{path}:{number}: label {name}: a probability is a number from 0 to 1, not {shown}",
                    path=path,
                    number=number,
                    name=shorten(name),
                    shown=shown,
                )
            )
        else:
            found[label] = float(value)
    row = np.zeros(len(labels), np.float16)
    row[[*found]] = [*found.values()]
    for label in found:
        parent = int(labels.parents[label])
        while parent >= 0 and parent not in found:
            row[parent] = max(row[parent], found[label])
            parent = int(labels.parents[parent])
    return row
