"""The tree that label paths form: levels, parents, and label sets completed by ancestors. Needs only numpy."""

import numpy as np

from text_cls.language import tr

SEPARATOR = "##"  # between the pieces of a label path


def split_path(name: str) -> list[str]:
    """The pieces of a label path, from the root down; `SEPARATOR.join` joins them again.

    In a run of three `#`, the last two are the separator: `语言##C###框架` is 语言, C#, 框架. A piece may therefore end
    with `#`; only a root may begin with it. Every reader of paths, also those in JavaScript, follows this rule.
    """
    return name.rsplit(SEPARATOR)


def shown_path(name: str) -> str:
    """The path as pages show it."""
    return " › ".join(split_path(name))


def paths_to(name: str) -> list[str]:
    """The paths of all ancestors of a label, from the root down, and its own."""
    pieces = split_path(name)
    return [SEPARATOR.join(pieces[: i + 1]) for i in range(len(pieces))]


def parent_path(name: str) -> str:
    """The path of a label's parent; empty for a root."""
    return name.rpartition(SEPARATOR)[0]


def join_path(pieces: list[str], separator: str = SEPARATOR) -> str:
    """The path of these pieces. Raises ValueError if `separator` cannot tell them apart."""
    name = separator.join(pieces)
    if name.rsplit(separator) != list(pieces):
        raise ValueError(
            tr(
                "has a level that begins with {separator}, which cannot be told from the separator",
                separator=separator[0],
            )
        )
    return name


def parent_ids(names):
    """Parent of each label, found by its full path.

    Args:
        names: label names in the order of `label.txt`; the pieces of a path are joined by `##`.
    Returns:
        int32 array [labels]: the parent's index; -1 for a root, and for a path whose parent is not in `names` (the
        reader of `label.txt` rejects such a file).
    """
    index = {name: i for i, name in enumerate(names)}
    return np.array([index.get(parent_path(name), -1) for name in names], dtype=np.int32)


def depths(parents):
    """Level of each label, 1 for a root: int32 array [labels]. parents: int array [labels] from `parent_ids`."""
    depth = np.ones(len(parents), dtype=np.int32)
    above = parents
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    return depth


def with_ancestors(chosen, parents):
    """The chosen labels with all their ancestors: bool array [rows, labels]. `chosen` is not changed."""
    closed = np.array(chosen, order="C")
    add_ancestors(closed, parents)
    return closed


def add_ancestors(chosen, parents):
    """Adds all ancestors of the chosen labels (bool array [rows, labels]) in place."""
    rows, columns = entries(chosen)
    while len(rows):
        columns = parents[columns]
        inside = np.flatnonzero(columns >= 0)
        rows, columns = rows[inside], columns[inside]
        new = np.flatnonzero(~chosen[rows, columns])
        rows, columns = rows[new], columns[new]
        chosen[rows, columns] = True


class Families:
    """A tree prepared for rows in which many labels are chosen: whole columns cost less than as many single cells.

    Args:
        parents: int array [labels] of `parent_ids`.
    """

    def __init__(self, parents):
        depth, parents = depths(parents), np.asarray(parents)
        self._levels = []  # from the roots down: children sorted by parent, the place of each parent's first, parents
        for level in range(2, depth.max(initial=1) + 1):
            children = np.flatnonzero(depth == level)
            children = children[np.argsort(parents[children], kind="stable")]
            above, first = np.unique(parents[children], return_index=True)
            self._levels.append((children, first, above))
        self._parents = parents

    def add_ancestors(self, chosen):
        """What the function `add_ancestors` does."""
        for children, first, above in reversed(self._levels):
            chosen[:, above] |= np.logical_or.reduceat(chosen.take(children, axis=1), first, axis=1)

    def remove_orphans(self, chosen):
        """Removes labels without their parent, and then what is below them, from bool [rows, labels] in place."""
        for children, _, _ in self._levels:
            chosen[:, children] &= chosen.take(self._parents[children], axis=1)


def entries(chosen):
    """np.nonzero of a bool array [rows, labels], which is many times slower in two dimensions than in one."""
    flat = np.flatnonzero(chosen)
    rows = flat // max(1, chosen.shape[1])
    return rows, flat - rows * chosen.shape[1]


def levels_of(names):
    """The last pieces of label paths, each once, by level: [[pieces of level 1], [pieces of level 2], ...]."""
    levels = []
    for name in names:
        pieces = split_path(name)
        levels += [{} for _ in range(len(pieces) - len(levels))]
        levels[len(pieces) - 1][pieces[-1]] = True
    return [list(level) for level in levels]
