"""Classification by retrieval: how a label is read as a text, which labels have entries, and what found ones score.

A text is encoded to a unit vector, and its labels are those of the nearest entries of an index (`vector_index.py`). A
label's score lies between 0 and 1 and plays the part of a probability: `decision.py` decides by it as it stands.
"""

import numpy as np

from decision import SEPARATOR


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


def label_scores(found, labels, vote=False):
    """The score of every label for each query.

    An entry speaks for its labels and for all above them, so that a parent scores no less than its children.

    Args:
        found: `vector_index.Found` of q queries. Names that are not among the labels count for nothing.
        labels: `utils.Labels`.
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
