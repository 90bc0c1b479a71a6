"""Checks of the rows of a data set: sizes of the files, texts that repeat, leftovers of other formats.

Each check takes rows in memory and returns (figures, findings); the figures go to `report.json` unchanged. What several
files have in common is one finding, with the count of each file.
"""

import re
from collections import Counter

import numpy as np

from findings import EXAMPLES, Finding, by_file, counted, file_name, percent, place
from near_duplicates import find_near_duplicates, normalized
from text_cls.label_names import told_apart
from text_cls.language import N_, tr

ODDITIES = (
    (
        r'\A"(?:[^"]|"")*"\Z',
        N_("wrapped in double quotes, with inner quotes doubled, left over from a CSV file"),
        N_("Read it with a CSV reader (Python's csv module), which removes them; new texts will not have them"),
    ),
    (
        "\ufffd",
        N_("the character U+FFFD, because characters were lost in a conversion"),
        N_("Convert the file again from its source, using the source's own encoding"),
    ),
    (
        r"(?i)&(?:[a-z]{2,8}|#\d+);|</?[a-z][^<>]{0,80}>",
        N_("HTML tags or entities"),
        N_("Remove them, from new texts too: they take up tokens and carry no meaning"),
    ),
    (
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u2028\u2029\ufeff]",
        N_("control or zero-width characters"),
        N_("Remove them: they make texts differ that look the same"),
    ),
)


# -------------------------------------------------------------------------------------------------------------- files


def check_files(splits):
    """Sizes of each file. splits: {"train", "dev", "test": Rows}, as in all checks."""
    figures, empty = {}, []
    for split, rows in splits.items():
        counts = np.diff(rows.offsets)
        empty.append((rows, np.flatnonzero(counts == 0)))
        figures[split] = {
            "path": rows.path,
            "rows": len(rows),
            "labels_per_row": float(counts.mean()) if len(rows) else 0.0,
            "rows_by_number_of_labels": np.bincount(counts).tolist(),
            "without_label": len(empty[-1][1]),
            "blank_lines": rows.blank,
            "completed": rows.completed,
            "respelled": rows.respelled.total(),
        }
    return figures, [*_without_label(empty), *_read_differently(splits.values())]


def _without_label(empty):
    """empty: [(Rows, numbers of its rows that have no label), ...]."""
    empty = [(rows, numbers) for rows, numbers in empty if len(numbers)]
    if empty:
        yield Finding(
            "note",
            tr("Rows without a label: {counts}", counts=by_file((rows, len(numbers)) for rows, numbers in empty)),
            tr("Correct if none of the labels applies to them; remove them if they are not labelled yet"),
            [place(rows, i) for rows, numbers in empty for i in numbers[:EXAMPLES]][:EXAMPLES],
        )


def _read_differently(files):
    """What reading the rows has changed."""
    respelled = [(rows, rows.respelled.total()) for rows in files if rows.respelled]
    if respelled:
        pairs = sum((rows.respelled for rows, _ in respelled), Counter()).most_common(EXAMPLES)
        yield Finding(
            "note",
            tr(
                "Names with other invisible characters or spaces than the label: {counts}",
                counts=", ".join(f"{file_name(rows)} {count}" for rows, count in respelled),
            ),
            tr("Nothing to do: these are ignored when the file is read"),
            ["{} for {}".format(*told_apart(*pair)) for pair, _ in pairs],
        )
    completed = [(rows, rows.completed) for rows in files if rows.completed]
    if completed:
        yield Finding(
            "note",
            tr("Rows with a child label but not its parent: {counts}", counts=by_file(completed)),
            tr("Nothing to do: the parents are added when the file is read"),
        )


# -------------------------------------------------------------------------------------------------------------- texts


class _AllRows:
    """The rows of all files, one after the other."""

    def __init__(self, splits):
        self.names, self.rows = list(splits), list(splits.values())
        self.starts = np.cumsum([0, *map(len, self.rows)])
        self.split = np.repeat(np.arange(len(self.rows)), [len(rows) for rows in self.rows])
        self.texts = [text for rows in self.rows for text in rows.texts]

    def labels(self, i):
        return self.rows[self.split[i]].labels_of(i - self.starts[self.split[i]]).tolist()

    def place(self, i):
        return place(self.rows[self.split[i]], i - self.starts[self.split[i]])

    def pairs(self, later, earlier):
        return [f"{self.place(i)} = {self.place(earlier[i])}" for i in later[:EXAMPLES]]


def check_duplicates(splits):
    """Texts that are identical except for case and spaces, and nearly identical ones, within and across files."""
    stack = _AllRows(splits)
    seen, number = {}, np.arange(len(stack.texts))
    first = np.array([seen.setdefault(normalized(text), i) for i, text in enumerate(stack.texts)], dtype=np.int64)
    match, _ = find_near_duplicates(stack.texts)
    same = first < number
    figures, findings = {}, []
    for kind, found, other in (("same", same, first), ("nearly", ~same & (match >= 0), match)):
        groups = {True: [], False: []}  # of rows that repeat one of their own file, and one of another
        disagreeing = []
        for here, split in enumerate(stack.names):
            for there in range(here + 1):
                rows = np.flatnonzero(found & (stack.split == here))
                rows = rows[stack.split[other[rows]] == there]
                different = [i for i in rows if stack.labels(i) != stack.labels(other[i])]
                key = split if here == there else f"{split} in {stack.names[there]}"
                figures.setdefault(kind, {})[key] = {"rows": len(rows), "other_labels": len(different)}
                groups[here == there].append(_Repeats(stack, here, there, rows, other))
                disagreeing.append(_Repeats(stack, here, there, different, other))
        for within, repeats in groups.items():
            findings += _duplicate_findings(kind, within, [each for each in repeats if len(each.rows)])
        if kind == "same":
            findings += _disagreement([each for each in disagreeing if len(each.rows)])
    return figures, findings


class _Repeats:
    """Rows of one file that repeat rows of the same or another file."""

    def __init__(self, stack, here, there, rows, other):
        self.file, self.rows, self.share = stack.rows[here], rows, len(rows) / max(1, len(stack.rows[here]))
        self.earlier = None if here == there else file_name(stack.rows[there])
        self.pairs = stack.pairs(rows, other)

    def __str__(self):
        count = f"{len(self.rows)} ({percent(len(self.rows), len(self.file))})"
        name = file_name(self.file)
        return f"{name} {count}" if self.earlier is None else f"{name} {count} = {self.earlier}"


def _listed(repeats):
    """(counts of each, the first examples) of several `_Repeats`."""
    return ", ".join(map(str, repeats)), [pair for each in repeats for pair in each.pairs][:EXAMPLES]


def _duplicate_findings(kind, within, repeats):
    if not repeats:
        return
    counts, examples = _listed(repeats)
    alike = tr("the same") if kind == "same" else tr("nearly the same")
    if within:
        yield Finding(
            "note",
            tr("Rows with {alike} text as an earlier row: {counts}", alike=alike, counts=counts),
            tr("Each counts more than once; keep only one of them unless this is intended"),
            examples,
        )
        return
    names = ", ".join(dict.fromkeys(file_name(each.file) for each in repeats))
    yield Finding(
        "warning" if kind == "same" or any(each.share > 0.01 for each in repeats) else "note",
        tr("Rows with {alike} text as a row of another file: {counts}", alike=alike, counts=counts),
        tr(
            "Scores on {names} are too high: remove these rows from one of the two files, or split again with "
            "analysis/split.py, which keeps equal texts in one file",
            names=names,
        ),
        examples,
    )


def _disagreement(repeats):
    if repeats:
        counts, examples = _listed(repeats)
        yield Finding(
            "warning",
            tr("Rows with the same text as another row but different labels: {counts}", counts=counts),
            tr("One row of each pair is labelled wrongly: check them and fix the labels"),
            examples,
        )


def check_characters(splits):
    """Texts with leftovers of other formats."""
    stack, figures, findings = _AllRows(splits), {}, []
    for pattern, what, remedy in ODDITIES:
        rows = [i for i, text in enumerate(stack.texts) if re.search(pattern, text)]
        figures[what.partition(",")[0]] = len(rows)
        if rows:
            counts = Counter(file_name(stack.rows[stack.split[i]]) for i in rows)
            files = ", ".join(f"{name} {count}" for name, count in counts.items())
            texts = counted(len(rows), "text")
            findings.append(
                Finding(
                    "warning",
                    tr("{texts} ({files}): {what}", texts=texts, files=files, what=tr(what)),
                    tr(remedy),
                    [stack.place(i) for i in rows[:EXAMPLES]],
                )
            )
    return figures, findings
