"""Checks of a data set before training that need no model: files, duplicates, leftovers of other formats, labels.

Each check takes rows in memory and returns (figures, findings); the figures go to `report.json` unchanged. The checks
that need a tokenizer or the linear baseline are in `model_checks`.
"""

import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from near_duplicates import find_near_duplicates, normalized
from text_cls.label_names import told_apart
from text_cls.label_tree import SEPARATOR
from text_cls.new_labels import near_names

SEVERITIES = ("warning", "note")  # warning: lowers F1 or inflates it; note: worth knowing
EXAMPLES, TEXT_SHOWN = 5, 80
RARE = 10  # a label with fewer training rows is hardly learnt
TOGETHER = 5  # two labels that always appear together are reported from this many rows on
ODDITIES = (
    (
        r'\A"(?:[^"]|"")*"\Z',
        "wrapped in double quotes, with inner quotes doubled, left over from a CSV file",
        "Read the CSV file with a CSV reader (Python's csv module), which removes them; new texts will not have them",
    ),
    (
        "\ufffd",
        "the character U+FFFD, because characters were lost in a conversion",
        "Convert the file again from its source, using the source's own encoding",
    ),
    (
        r"(?i)&(?:[a-z]{2,8}|#\d+);|</?[a-z][^<>]{0,80}>",
        "HTML tags or entities",
        "Remove them, from new texts too: they take up tokens and carry no meaning",
    ),
    (
        r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u2028\u2029\ufeff]",
        "control or zero-width characters",
        "Remove them: they make texts differ that look the same",
    ),
)


@dataclass
class Finding:
    """severity: one of SEVERITIES. what: a sentence. remedy: what to do. examples: a few places or names.

    logged: how many of the examples the log shows.
    """

    severity: str
    what: str
    remedy: str
    examples: list = field(default_factory=list)
    logged: int = 2


def place(rows, i):
    """Where to find a row: file, line, and the beginning of its text."""
    text = rows.texts[i]
    return f"{file_name(rows)}:{rows.lines[i]}: {text[:TEXT_SHOWN]}{'...' if len(text) > TEXT_SHOWN else ''}"


def counted(count, noun):
    """The count with its noun, as "1 row" or "2 rows"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def file_name(rows):
    return re.split(r"[/\\]", rows.path)[-1]


def shortened(names):
    """The first `EXAMPLES` names, and how many more there are."""
    return [*names[:EXAMPLES], *([f"and {len(names) - EXAMPLES} more"] if len(names) > EXAMPLES else [])]


def _percent(part, whole):
    return f"{part / max(1, whole):.1%}"


# -------------------------------------------------------------------------------------------------------------- files


def check_files(splits):
    """Sizes of each file. splits: {"train", "dev", "test": Rows}, as in all checks."""
    figures, findings = {}, []
    for split, rows in splits.items():
        counts = np.diff(rows.offsets)
        empty = int((counts == 0).sum())
        figures[split] = {
            "path": rows.path,
            "rows": len(rows),
            "labels_per_row": float(counts.mean()) if len(rows) else 0.0,
            "rows_by_number_of_labels": np.bincount(counts).tolist(),
            "without_label": empty,
            "blank_lines": rows.blank,
            "completed": rows.completed,
            "respelled": rows.respelled.total(),
        }
        if empty:
            findings.append(
                Finding(
                    "note",
                    f"{file_name(rows)}: {counted(empty, 'row')} ({_percent(empty, len(rows))}) without a label",
                    "Correct if none of the labels applies to them; remove them if they are not labelled yet",
                    [place(rows, i) for i in np.flatnonzero(counts == 0)[:EXAMPLES]],
                )
            )
        if rows.respelled:
            findings.append(
                Finding(
                    "note",
                    f"{file_name(rows)}: {counted(rows.respelled.total(), 'name')} with other invisible characters or "
                    "spaces than the label",
                    "Nothing to do: these are ignored when the file is read",
                    ["{} for {}".format(*told_apart(*pair)) for pair, _ in rows.respelled.most_common(EXAMPLES)],
                )
            )
        if rows.completed:
            findings.append(
                Finding(
                    "note",
                    f"{file_name(rows)}: {counted(rows.completed, 'row')} with a child label but not its parent",
                    "Nothing to do: the parents are added when the file is read",
                )
            )
    return figures, findings


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
        for here, split in enumerate(stack.names):
            for there in range(here + 1):
                rows = np.flatnonzero(found & (stack.split == here))
                rows = rows[stack.split[other[rows]] == there]
                disagreeing = [i for i in rows if stack.labels(i) != stack.labels(other[i])]
                key = split if here == there else f"{split} in {stack.names[there]}"
                figures.setdefault(kind, {})[key] = {"rows": len(rows), "other_labels": len(disagreeing)}
                if len(rows):
                    severity, what, remedy = _duplicate_finding(kind, stack, here, there, len(rows))
                    findings.append(Finding(severity, what, remedy, stack.pairs(rows, other)))
                if disagreeing and kind == "same":
                    what = _disagreement(stack, here, there, len(disagreeing))
                    remedy = "One row of each pair is labelled wrongly: check them and fix the labels"
                    findings.append(Finding("warning", what, remedy, stack.pairs(disagreeing, other)))
    return figures, findings


def _disagreement(stack, here, there, count):
    rows = f"{file_name(stack.rows[here])}: {counted(count, 'row')}"
    return f"{rows} with the same text as {_other_row(stack, here, there)} but different labels"


def _other_row(stack, here, there):
    return "an earlier row" if here == there else f"a row of {file_name(stack.rows[there])}"


def _duplicate_finding(kind, stack, here, there, count):
    rows, other = stack.rows[here], stack.rows[there]
    alike = "the same" if kind == "same" else "nearly the same"
    what = f"{file_name(rows)}: {counted(count, 'row')} ({_percent(count, len(rows))}) with {alike} text as "
    what += _other_row(stack, here, there)
    if here == there:
        return "note", what, "Each counts more than once; keep only one of them unless this is intended"
    return (
        "warning" if kind == "same" or count > len(rows) / 100 else "note",
        what,
        f"Scores on {file_name(rows)} are too high: remove these rows from {file_name(other)}, or split again with "
        "analysis/split.py, which keeps equal texts in one file",
    )


def check_characters(splits):
    """Texts with leftovers of other formats."""
    stack, figures, findings = _AllRows(splits), {}, []
    for pattern, what, remedy in ODDITIES:
        rows = [i for i, text in enumerate(stack.texts) if re.search(pattern, text)]
        figures[what.partition(",")[0]] = len(rows)
        if rows:
            counts = Counter(file_name(stack.rows[stack.split[i]]) for i in rows)
            files = ", ".join(f"{count} in {name}" for name, count in counts.items())
            findings.append(
                Finding(
                    "warning",
                    f"{counted(len(rows), 'text')} ({files}): {what}",
                    remedy,
                    [stack.place(i) for i in rows[:EXAMPLES]],
                )
            )
    return figures, findings


# ------------------------------------------------------------------------------------------------------------- labels


def _sparse(rows, num_labels):
    from scipy import sparse

    cells = np.ones(len(rows.label_ids), dtype=np.int64), rows.label_ids, rows.offsets
    return sparse.csr_matrix(cells, shape=(len(rows), num_labels))


def paths_per_row(rows, parents):
    """Number of labels of each row without a child in it, int64 [rows]: its paths, or all labels if they are flat."""
    counts = np.diff(rows.offsets)
    row, parent = np.repeat(np.arange(len(rows)), counts), parents[rows.label_ids]
    keys = np.unique(row[parent >= 0] * max(1, len(parents)) + parent[parent >= 0])
    return counts - np.bincount(keys // max(1, len(parents)), minlength=len(rows))


def check_labels(splits, labels):
    """How often each label appears in each file, and, in train, alone and with other labels."""
    findings, support = [], {split: rows.support(len(labels)) for split, rows in splits.items()}
    train = splits.get("train")
    figures = {
        "labels": [
            {"label": name, "rows": {split: int(counts[i]) for split, counts in support.items()}}
            for i, name in enumerate(labels.names)
        ]
    }
    counts = dict(zip(labels.names, sum(support.values(), np.zeros(len(labels), dtype=int)).tolist()))
    pairs = near_names(counts)
    figures["near_identical"] = [{name: counts[name] for name in pair} for pair in pairs]
    if pairs:
        findings.append(
            Finding(
                "warning",
                f"{counted(len(pairs), 'pair')} of labels nearly the same, one of them much rarer",
                "If it is a misspelling, correct the rows that have it and delete it from the label file",
                [f"{rare} ({counts[rare]}), {frequent} ({counts[frequent]})" for rare, frequent in pairs],
                len(pairs),
            )
        )
    if train is not None and len(train) and len(labels):
        findings += _frequency_findings(labels, support)
        single = paths_per_row(train, labels.parents) == 1
        alone = np.bincount(train.label_ids[np.repeat(single, np.diff(train.offsets))], minlength=len(labels))
        together = _sparse(train, len(labels))
        together = (together.T @ together).tocoo()
        findings += _cooccurrence_findings(figures, labels, support["train"], alone, together)
    return figures, findings


def _frequency_findings(labels, support):
    train = support["train"]

    def names(mask):
        return shortened(
            [f"{labels.names[i]} ({train[i]})" for i in np.flatnonzero(mask)[np.argsort(train[mask], kind="stable")]]
        )

    unseen, rare = train == 0, (train > 0) & (train < RARE)
    if unseen.any():
        yield Finding(
            "warning",
            f"{unseen.sum()} of {counted(len(labels), 'label')} without a row in train",
            "Label rows with them, or remove them from the label file",
            names(unseen),
        )
    if rare.any():
        yield Finding(
            "warning",
            f"{rare.sum()} of {counted(len(labels), 'label')} with fewer than {RARE} rows in train",
            "Label more rows of these first, because every label counts equally in macro F1. analysis/sparse.py finds "
            "rows to label, analysis/aug.py makes more rows from existing ones",
            names(rare),
        )
    untested = (support["dev"] == 0) & ~unseen if "dev" in support else np.zeros(len(labels), dtype=bool)
    if untested.any():
        yield Finding(
            "warning",
            f"{untested.sum()} of {counted(len(labels), 'label')} without a row in dev",
            "Their F1 is 0 whatever the model predicts, which lowers macro F1: split again with "
            "analysis/split.py, which puts rare labels into each file",
            names(untested),
        )


def _cooccurrence_findings(figures, labels, support, alone, together):
    """Findings on labels that appear together, which also fill `figures`.

    Args:
        support, alone: int [labels], rows of each label, and rows in which it is the only path.
        together: COO matrix [labels, labels] of the rows that pairs of labels share.
    """
    never = (alone == 0) & (support >= TOGETHER)
    for i, entry in enumerate(figures["labels"]):
        entry["alone"] = int(alone[i])
    if never.any():
        yield Finding(
            "note",
            f"{counted(never.sum(), 'label')} never alone: every row also has another label"
            + (" from another path" if labels.hierarchical else ""),
            "A model learns them only in these combinations. Label rows with only one of them, if there are any",
            shortened([f"{labels.names[i]} ({support[i]} rows)" for i in np.flatnonzero(never)]),
        )
    one, other, count = together.row, together.col, together.data
    related = _related(labels, one, other)
    pair = (one != other) & ~related & (count == support[one]) & (count >= TOGETHER)
    always = pair & (support[one] == support[other]) & (one < other)
    implied = pair & (support[one] < support[other])
    figures["always_together"] = [[labels.names[i], labels.names[j]] for i, j in zip(one[always], other[always])]
    figures["never_without"] = [[labels.names[i], labels.names[j]] for i, j in zip(one[implied], other[implied])]
    if always.any():
        yield Finding(
            "warning",
            f"{counted(always.sum(), 'pair')} of labels always together in train",
            "No model can tell them apart: merge them, or label rows with only one of them",
            shortened([f"{a} + {b}" for a, b in figures["always_together"]]),
        )
    if implied.any():
        yield Finding(
            "note",
            f"{counted(implied.sum(), 'label')} never without one particular other label",
            f"If that is the parent, write them as parent{SEPARATOR}child, so that predictions are consistent",
            shortened([f"{a}, only with {b}" for a, b in figures["never_without"]]),
        )
    order = np.lexsort((-count, ~((one < other) & ~related)))[:200]
    figures["cooccurrence"] = [
        {"labels": [labels.names[one[k]], labels.names[other[k]]], "rows": int(count[k])}
        for k in order
        if one[k] < other[k] and not related[k]
    ]


def _related(labels, one, other):
    """True if one label is the other's ancestor, bool [pairs]."""
    related = np.zeros(len(one), dtype=bool)
    for low, high in ((one, other), (other, one)):
        ancestors = low
        while (ancestors >= 0).any():
            ancestors = np.where(ancestors >= 0, labels.parents[ancestors], -1)
            related |= ancestors == high
    return related
