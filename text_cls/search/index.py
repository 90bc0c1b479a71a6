"""The interface of an index of vectors with label names; `EmbeddedIndex` and `MilvusIndex` implement it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from text_cls.cli import UserError

MISSING = -1.0  # the cosine of a place that no entry fills


class IndexUnavailable(UserError):
    """The index is on a server that does not answer or refuses. It may answer later."""


@dataclass
class Found:
    """The entries nearest to q queries, the nearest first.

    cosines: float32 [q, k], k no more than there are entries. labels: q lists of k tuples of label names, those of each
    entry. Where a query has fewer than k, as an approximate search may leave it, the rest are `MISSING` and ().
    """

    cosines: np.ndarray
    labels: list


class VectorIndex(Protocol):
    """What both kinds of index do. `len(index)` is the number of entries."""

    width: int

    def __len__(self): ...

    def add(self, vectors, labels):
        """One entry a vector, found from now on.

        Args:
            vectors: float array [n, width]; not to be changed afterwards.
            labels: n tuples of label names, none of them empty.
        Raises:
            ValueError: shapes that do not fit, numbers that are not finite, an entry without a label.
        """

    def remove(self, label):
        """Takes a label from all entries, and the entries that have no other out of the index.

        Labels below it in a hierarchy stay.

        Returns:
            The number of entries that had it.
        """

    def count(self, label):
        """The number of entries that have a label."""

    def labels(self):
        """{name: number of entries} of all labels that an entry has, sorted by name."""

    def search(self, queries, k):
        """The k entries nearest to each query by cosine as `Found`: float array [q, width] in."""


def check_entries(vectors, labels, width):
    """The vectors as float32 [n, width] and the labels as tuples without repeats; ValueError where they do not fit."""
    vectors, labels = np.asarray(vectors, np.float32), [tuple(dict.fromkeys(names)) for names in labels]
    check_queries(vectors, width)
    if len(vectors) != len(labels):
        raise ValueError(f"{len(vectors)} vectors, {len(labels)} tuples of labels")
    if not all(labels):
        raise ValueError(f"entry {next(i for i, names in enumerate(labels) if not names)} has no label")
    return vectors, labels


def check_queries(vectors, width):
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ValueError(f"vectors of shape {list(vectors.shape)}, while the index has the width {width}")
    # Of the extremes, and of no array of bools as long as the vectors.
    if vectors.size and not np.isfinite([vectors.min(), vectors.max()]).all():
        raise ValueError("a vector holds a number that is not finite")
