"""Checks of the labels of a data set that need no model: how many rows have each, and which of them go together.

Each check takes rows in memory and returns (figures, findings); the figures go to `report.json` unchanged. The checks
that need a tokenizer or the linear baseline are in `model_checks`.
"""

import numpy as np

from findings import RARE, Finding, counted, shortened
from text_cls.label_tree import SEPARATOR
from text_cls.language import tr
from text_cls.new_labels import near_names

TOGETHER = 5  # two labels that always appear together are reported from this many rows on


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
                tr("{count} of labels nearly the same, one of them much rarer", count=counted(len(pairs), "pair")),
                tr("If it is a misspelling, correct the rows that have it and delete it from the label file"),
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
            tr("{unseen} of {count} without a row in train", unseen=unseen.sum(), count=counted(len(labels), "label")),
            tr("Label rows with them, or remove them from the label file"),
            names(unseen),
        )
    if rare.any():
        yield Finding(
            "warning",
            tr(
                "{rare} of {count} with fewer than {rare2} rows in train",
                rare=rare.sum(),
                count=counted(len(labels), "label"),
                rare2=RARE,
            ),
            tr(
                "Label more rows of these first, because every label counts equally in macro F1. analysis/sparse.py "
                "finds rows to label, analysis/aug.py makes more rows from existing ones"
            ),
            names(rare),
        )
    untested = (support["dev"] == 0) & ~unseen if "dev" in support else np.zeros(len(labels), dtype=bool)
    if untested.any():
        yield Finding(
            "warning",
            tr(
                "{untested} of {count} without a row in dev",
                untested=untested.sum(),
                count=counted(len(labels), "label"),
            ),
            tr(
                "Their F1 is 0 whatever the model predicts, which lowers macro F1: split again with "
                "analysis/split.py, which puts rare labels into each file"
            ),
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
            tr("{never} never alone: every row also has another label", never=counted(never.sum(), "label"))
            + (tr(" from another path") if labels.hierarchical else ""),
            tr("A model learns them only in these combinations. Label rows with only one of them, if there are any"),
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
            tr("{always} of labels always together in train", always=counted(always.sum(), "pair")),
            tr("No model can tell them apart: merge them, or label rows with only one of them"),
            shortened([f"{a} + {b}" for a, b in figures["always_together"]]),
        )
    if implied.any():
        yield Finding(
            "note",
            tr("{implied} never without one particular other label", implied=counted(implied.sum(), "label")),
            tr(
                "If that is the parent, write them as parent{separator}child, so that predictions are consistent",
                separator=SEPARATOR,
            ),
            shortened([tr("{a}, only with {b}", a=a, b=b) for a, b in figures["never_without"]]),
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
