"""The interface of an index: vectors that carry label names, searched by cosine.

`EmbeddedIndex` and `MilvusIndex` implement `VectorIndex`; `open_index` opens the one that a bundle names.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from text_cls.cli import UserError
from text_cls.language import tr

MISSING = -1.0  # the cosine at a position without an entry


class IndexUnavailable(UserError):
    """The index is on a server that does not answer, or that refuses. Trying again later may help."""


@dataclass
class Found:
    """The entries nearest to q queries, the nearest first.

    cosines: float32 [q, k], where k is at most the number of entries. labels: the label names of each of these entries,
    q lists of k tuples. An approximate search may find fewer than k; the last positions are then `MISSING` and ().
    """

    cosines: np.ndarray
    labels: list[list[tuple[str, ...]]]


class VectorIndex(Protocol):
    """What every index can do. `len(index)` is the number of entries."""

    width: int

    def __len__(self) -> int: ...

    def add(self, vectors: np.ndarray, labels: list[tuple[str, ...]]) -> None:
        """Adds one entry per vector; searches find it from now on.

        Args:
            vectors: float array [n, width]; do not change it afterwards.
            labels: n tuples of label names, none of them empty.
        Raises:
            ValueError: the shapes do not fit, a number is not finite, or an entry has no label.
        """

    def remove(self, label: str) -> int:
        """Removes a label from all entries, and removes the entries that have no other label.

        Labels below it in a hierarchy stay.

        Returns:
            The number of entries that had the label.
        """

    def count(self, label: str) -> int:
        """The number of entries that have a label."""

    def labels(self) -> dict[str, int]:
        """{name: number of entries} of every label in the index, sorted by name."""

    def search(self, queries: np.ndarray, k: int) -> Found:
        """The k entries nearest to each query by cosine. queries: float array [q, width]."""


def check_entries(vectors, labels, width):
    """The vectors as float32 [n, width] and the labels as tuples without repeats. ValueError if they do not fit."""
    vectors, labels = np.asarray(vectors, np.float32), [tuple(dict.fromkeys(names)) for names in labels]
    check_queries(vectors, width)
    if len(vectors) != len(labels):
        raise ValueError(tr("{vectors} vectors, {labels} tuples of labels", vectors=len(vectors), labels=len(labels)))
    for i, names in enumerate(labels):
        if not names:
            raise ValueError(tr("entry {i} has no label", i=i))
    return vectors, labels


def check_queries(vectors, width):
    """ValueError if an array is not finite, or not of shape [n, width]."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise ValueError(
            tr("vectors of shape {shape}, but the index has width {width}", shape=list(vectors.shape), width=width)
        )
    # Minimum and maximum instead of every number: no array of bools as large as the vectors.
    if vectors.size and not np.isfinite([vectors.min(), vectors.max()]).all():
        raise ValueError(tr("a vector contains a number that is not finite"))
