"""Classification by retrieval: how a label is read as a text, which labels have entries, and what found ones score.

A text is encoded to a unit vector, and its labels are those of the nearest entries of an index (`vector_index.py`). A
label's score lies between 0 and 1 and plays the part of a probability: `decision.py` decides by it as it stands.
"""

from dataclasses import replace

import numpy as np

from text_cls.decision import Decision
from text_cls.label_tree import SEPARATOR, depths

# Entries that a text is compared with, unless the user or the bundle says otherwise: of labels, and of rows that vote.
# More rows outvote the labels that have few of them.
NEIGHBOURS, VOTERS = 50, 20


def label_text(name):
    """A label as the text that the encoder reads, in training, in the index and on a server.

    As the older suite trains it: the pieces of a path behind each other, with commas between them.
    """
    return name.replace(SEPARATOR, ",")


def deepest(label_ids, parents):
    """Those of one row's labels that have no child among them, in their order.

    Args:
        label_ids: int array [n], with the parent of every label in it, as `Rows.labels_of` gives them.
        parents: int array [labels] of `decision.parent_ids`.
    """
    return label_ids[~np.isin(label_ids, parents[label_ids])]


def deepest_gold(rows, labels):
    """What is to be recalled of labelled `Rows`: bool array [rows, labels], True for the deepest labels of each."""
    gold = np.zeros((len(rows), len(labels)), dtype=bool)
    for i in range(len(rows)):
        gold[i, deepest(rows.labels_of(i), labels.parents)] = True
    return gold


def corpus_labels(labels, rows=None):
    """Indices of the labels that a label corpus has an entry for, rising: int array.

    They are all that have no child, and those that one of the `Rows` stops at.
    """
    wanted = ~np.isin(np.arange(len(labels)), labels.parents)
    if rows is not None:
        row = np.repeat(np.arange(len(rows)), np.diff(rows.offsets)) * (len(labels) + 1)
        inner = np.isin(row + rows.label_ids, row + labels.parents[rows.label_ids])
        wanted[rows.label_ids[~inner]] = True
    return np.flatnonzero(wanted)


def label_entries(labels, corpus=None):
    """What a label corpus is made of: the texts to encode, and a tuple of label names for each.

    Args:
        corpus: names of the labels that have an entry, as a checkpoint's `run.json` holds them; those that are not
            among the labels any more are left out. None: the labels without children.
    """
    if corpus is None:
        names = [labels.names[i] for i in corpus_labels(labels)]
    else:
        names = [name for name in corpus if name in labels.index]
    return [label_text(name) for name in names], [(name,) for name in names]


def default_decision(labels, rows=None):
    """How a new model's scores become labels, as the older suite did it: flat labels are those above the threshold, of
    a hierarchy the nearest path is taken. Training rows (`Rows`) say it better: where nine of ten have one path, the
    nearest path or label is taken, else all above the threshold; and never fewer labels than the row with the fewest.

    Of paths that all pass, that with the highest sum of log-odds over its labels is taken (`one_per_level`). It is the
    nearest where paths are equally deep; a deeper one may win that is a little farther.
    """
    single, least = labels.hierarchical, 0
    if rows is not None:
        several = sum(len(deepest(rows.labels_of(i), labels.parents)) > 1 for i in range(len(rows)))
        single, least = several <= len(rows) / 10, int(np.diff(rows.offsets).min())
    elif single:
        least = int(depths(labels.parents)[corpus_labels(labels)].min())
    return Decision(min_k=least, hierarchy="one_per_level" if single else "closure")


def row_entries(rows, labels):
    """What a corpus of labelled `Rows` is made of: the texts of those with a label, and their label names.

    A text that stands in several rows has an entry for each of them, and as many votes.
    """
    kept = [i for i in range(len(rows)) if len(rows.labels_of(i))]
    return [rows.texts[i] for i in kept], [tuple(labels.names[j] for j in rows.labels_of(i)) for i in kept]


def carry_decision(decision, before, after):
    """The decision for other labels: what it says of a label goes with the name, a new label gets the median threshold.

    Args:
        before, after: `rows.Labels`.
    """
    changes, places = {}, [before.index.get(name) for name in after.names]
    if isinstance(decision.threshold, tuple):
        median = float(np.median(decision.threshold))
        changes["threshold"] = tuple(median if place is None else decision.threshold[place] for place in places)
    if decision.none_label is not None:
        changes["none_label"] = after.index.get(before.names[decision.none_label])
    return replace(decision, **changes)


def vote_decision(decision):
    """The decision where labels are voted for: those with more than half of the votes. What was fitted to cosines, as
    thresholds are, says nothing of votes; how many labels a row has, and in what order of a hierarchy, stays.
    """
    return replace(decision, threshold=0.5, none_below=None, temperature=1.0)


def label_scores(found, labels, vote=False):
    """The score of every label for each query.

    An entry speaks for its labels and for all above them, so that a parent scores no less than its children.

    Args:
        found: `index.Found` of q queries. Names that are not among the labels count for nothing.
        labels: `rows.Labels`.
        vote: False: a label scores the highest cosine of the entries that speak for it, which suits label texts as
            corpus; True: their share of the sum of the cosines of all entries found, which suits labelled rows.
    Returns:
        float32 array [q, labels], from 0 (also where the cosine is negative, or nothing was found) to 1.
    """
    cosines = np.clip(found.cosines, 0, 1).astype(np.float64)
    spoken = {names: _with_ancestors(names, labels) for row in found.labels for names in row}
    ids = [spoken[names] for row in found.labels for names in row]
    counts = np.array([len(some) for some in ids], np.int64)
    query = np.repeat(np.arange(len(found.labels)), [len(row) for row in found.labels])
    rows, columns = np.repeat(query, counts), np.concatenate([np.zeros(0, np.int64), *ids])
    weights = np.repeat(cosines.reshape(-1), counts)
    scores = np.zeros((len(found.labels), len(labels)), np.float32)
    if vote:  # added up in one order for all labels: a parent's sum, of more addends, is then never below a child's
        cells, place = np.unique(rows * len(labels) + columns, return_inverse=True)
        sums = np.bincount(place, weights, len(cells))
        total = cosines.sum(axis=1)[cells // len(labels)]
        scores.reshape(-1)[cells] = np.minimum(1, np.divide(sums, total, out=np.zeros(len(cells)), where=total > 0))
    else:
        np.maximum.at(scores, (rows, columns), weights.astype(np.float32))
    return scores


def _with_ancestors(names, labels):
    """Indices of the names and of all above them, each once."""
    ids = set()
    for name in names:
        i = labels.index.get(name, -1)
        while i >= 0 and i not in ids:
            ids.add(i)
            i = int(labels.parents[i])
    return np.array(sorted(ids), np.int64)
