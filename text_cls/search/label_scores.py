"""Classification by retrieval: which entries an index gets, and how the entries nearest to a text score the labels.

A text is encoded as a unit vector, and gets the labels of the nearest entries of an index (`index.py`). Entries are
label names read as texts, or labelled rows. A score lies between 0 and 1; `decision.py` treats it like a probability.
"""

from dataclasses import replace

import numpy as np

from text_cls.decision import Decision
from text_cls.label_tree import depths, split_path
from text_cls.probabilities import sigmoid

# How many of the nearest entries count, unless the user or the bundle says otherwise.
NEIGHBOURS = 50  # of label texts, or of rows that do not vote
VOTERS = 20  # of rows that vote; with more, the labels that have few rows are outvoted


def label_text(name):
    """A label as the text that the encoder reads, in training, in the index and on a server.

    As in PaddleNLP's application, it is the parts of the label's path, joined by commas.
    """
    return ",".join(split_path(name))


def deepest(label_ids, parents):
    """Those of one row's labels that have no child among the row's labels, in the same order.

    Args:
        label_ids: int array [n] that also contains the parent of every label in it, as `Rows.labels_of` returns.
        parents: int array [labels] of `label_tree.parent_ids`.
    """
    return label_ids[~np.isin(label_ids, parents[label_ids])]


def deepest_gold(rows, labels):
    """The labels that a search should find: bool array [rows, labels], True for the deepest labels of each row."""
    gold = np.zeros((len(rows), len(labels)), dtype=bool)
    for i in range(len(rows)):
        gold[i, deepest(rows.labels_of(i), labels.parents)] = True
    return gold


def corpus_labels(labels, rows=None):
    """Indices of the labels that get an entry in an index of label texts: int array, ascending.

    These are all labels without children, and the deepest labels of each row if there are `Rows`.
    """
    wanted = ~np.isin(np.arange(len(labels)), labels.parents)
    if rows is not None:
        row = np.repeat(np.arange(len(rows)), np.diff(rows.offsets)) * (len(labels) + 1)
        inner = np.isin(row + rows.label_ids, row + labels.parents[rows.label_ids])
        wanted[rows.label_ids[~inner]] = True
    return np.flatnonzero(wanted)


def label_entries(labels, corpus=None):
    """The entries of an index of label texts: the texts to encode, and a tuple of label names for each.

    Args:
        corpus: names of the labels that get an entry, as in a checkpoint's `run.json`; names that are no longer among
            the labels are skipped. None: the labels without children.
    """
    if corpus is None:
        names = [labels.names[i] for i in corpus_labels(labels)]
    else:
        names = [name for name in corpus if name in labels.index]
    return [label_text(name) for name in names], [(name,) for name in names]


def default_decision(labels, rows=None):
    """How the scores of a new model become labels.

    Without rows as in PaddleNLP's application: a text gets the flat labels above the threshold, or of a hierarchy the
    nearest path. Training `Rows` tell more: if nine of ten have a single path or label, a text gets the nearest path or
    label, otherwise all labels above the threshold; and at least as many labels as the row with the fewest.

    Of several paths above the threshold, `one_per_level` chooses the one with the highest sum of log-odds over its
    labels. Among equally deep paths this is the nearest one; a deeper path may win although it is a little farther.
    """
    single, least = labels.hierarchical, 0
    if rows is not None:
        several = sum(len(deepest(rows.labels_of(i), labels.parents)) > 1 for i in range(len(rows)))
        single, least = several <= len(rows) / 10, int(np.diff(rows.offsets).min())
    elif single:
        least = int(depths(labels.parents)[corpus_labels(labels)].min())
    return Decision(min_k=least, hierarchy="one_per_level" if single else "closure")


def row_entries(rows, labels):
    """The entries of an index of labelled `Rows`: the texts of the rows with a label, and a tuple of names for each.

    A text that occurs in several rows gets an entry, and thus a vote, for each of them.
    """
    kept = [i for i in range(len(rows)) if len(rows.labels_of(i))]
    return [rows.texts[i] for i in kept], [tuple(labels.names[j] for j in rows.labels_of(i)) for i in kept]


def carry_decision(decision, before, after):
    """The decision for other labels: a label keeps its threshold by name, a new label gets the median threshold.

    A `min_k` above the number of labels becomes that number.

    Args:
        before, after: `rows.Labels`.
    """
    changes = {"min_k": min(decision.min_k, len(after))}
    if isinstance(decision.threshold, tuple):
        old, median = dict(zip(before.names, decision.threshold)), float(np.median(decision.threshold))
        changes["threshold"] = tuple(old.get(name, median) for name in after.names)
    if decision.none_label is not None:
        changes["none_label"] = after.index.get(before.names[decision.none_label])
    return replace(decision, **changes)


def vote_decision(decision):
    """The decision by vote: a label needs more than half of the votes.

    What was fitted to cosines, such as a threshold, means nothing for votes. How many labels a row gets, and how a
    hierarchy is read, stays.
    """
    return replace(decision, threshold=0.5, none_below=None, temperature=1.0)


def label_scores(found, labels, vote=False, calibration=None):
    """The score of every label for each query.

    An entry counts for its labels and all their ancestors, so that a parent never scores less than its children.

    Args:
        found: `index.Found` of q queries. Names that are not among the labels are ignored.
        labels: `rows.Labels`.
        vote: False, for label texts: a label's score is the highest cosine of the entries that count for it. True, for
            labelled rows: the score is the share of these entries in the sum of the cosines of all entries found.
        calibration: {"slope", "offset"} of the sigmoid that makes probabilities of cosines; None for the cosines.
    Returns:
        float32 array [q, labels], from 0 (also for negative cosines, or if nothing was found) to 1.
    """
    cosines = np.clip(found.cosines, 0, 1).astype(np.float64)
    ids_of = {names: _with_ancestors(names, labels) for names in {names for row in found.labels for names in row}}
    ids = [ids_of[names] for row in found.labels for names in row]
    counts = np.array([len(entry_ids) for entry_ids in ids], np.int64)
    query = np.repeat(np.arange(len(found.labels)), [len(row) for row in found.labels])
    # One element for each pair of an entry found and a label that it counts for.
    rows, columns = np.repeat(query, counts), np.concatenate([np.zeros(0, np.int64), *ids])
    weights = np.repeat(cosines.reshape(-1), counts)
    scores = np.zeros((len(found.labels), len(labels)), np.float32)
    if vote:
        cells, cell = np.unique(rows * len(labels) + columns, return_inverse=True)
        # Added in one order for all labels: a parent's sum, with more terms, is then never rounded below a child's.
        sums = np.bincount(cell, weights, len(cells))
        total = cosines.sum(axis=1)[cells // len(labels)]
        scores.reshape(-1)[cells] = np.minimum(1, np.divide(sums, total, out=np.zeros(len(cells)), where=total > 0))
    else:
        np.maximum.at(scores, (rows, columns), weights.astype(np.float32))
        if calibration:
            scores = sigmoid(calibration["slope"] * scores + calibration["offset"])
    return scores


def _with_ancestors(names, labels):
    """Indices of the names and of their ancestors: int array, ascending, each once."""
    ids = set()
    for name in names:
        i = labels.index.get(name, -1)
        while i >= 0 and i not in ids:
            ids.add(i)
            i = int(labels.parents[i])
    return np.array(sorted(ids), np.int64)
