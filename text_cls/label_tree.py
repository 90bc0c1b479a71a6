"""The tree that label paths make: parents, levels, and sets completed by their ancestors. numpy alone."""

import numpy as np

SEPARATOR = "##"  # between the pieces of a label path


def parent_ids(names):
    """Parent of each label by full path.

    Args:
        names: label names in the order of `label.txt`; a path's pieces are joined by `##`.
    Returns:
        int32 array [labels]: the parent's index, -1 for a root (and for a path whose parent is not in `names`,
        which the reader of `label.txt` refuses).
    """
    index = {name: i for i, name in enumerate(names)}
    return np.array([index.get(name.rpartition(SEPARATOR)[0], -1) for name in names], dtype=np.int32)


def depths(parents):
    """Level of each label, 1 for a root. int32 array [labels] from the parents' indices [labels]."""
    depth = np.ones(len(parents), dtype=np.int32)
    above = parents
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    return depth


def with_ancestors(chosen, parents):
    """The chosen labels and all above them. Bool arrays [rows, labels]; the input stays as it is."""
    closed = np.array(chosen, order="C")
    add_ancestors(closed, parents)
    return closed


def add_ancestors(chosen, parents):
    """Adds all above the chosen labels, in place."""
    rows, columns = entries(chosen)
    while len(rows):
        columns = parents[columns]
        inside = np.flatnonzero(columns >= 0)
        rows, columns = rows[inside], columns[inside]
        new = np.flatnonzero(~chosen[rows, columns])
        rows, columns = rows[new], columns[new]
        chosen[rows, columns] = True


def entries(chosen):
    """Rows and columns of what is chosen, sorted. np.nonzero is many times slower in two dimensions than in one."""
    flat = np.flatnonzero(chosen)
    rows = flat // max(1, chosen.shape[1])
    return rows, flat - rows * chosen.shape[1]
