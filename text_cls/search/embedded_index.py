"""The index of a retrieval bundle: vectors with label names, found by cosine, changed without training.

`EmbeddedIndex` is files in the bundle: no server, every row compared where they are few, hnswlib's graph above that.
`MilvusIndex` (milvus_index.py) is for what one machine does not hold, or several serve. Both have the methods of
`VectorIndex`; `open_index` opens what a bundle's manifest names. numpy alone at import.
"""

import json
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from text_cls.cli import UserError
from text_cls.files import write_json
from text_cls.search.neighbours import Neighbours

VECTORS, ENTRIES, GRAPH = "vectors.npy", "entries.json", "index.hnsw"
VERSION = 1  # of entries.json
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


class EmbeddedIndex:
    """In memory, and in a folder's files by `save` and `open`.

    Args:
        width: of the vectors.
        graph: whether to search by hnswlib's graph; by default, above `neighbours.EXACT_ROWS` entries.
    """

    # Entries that were removed stay, without labels: a graph has their numbers, and takes minutes to make anew. They go
    # once they are more than this share of all, and where there is no graph before they are saved.
    MOST_DEAD = 0.3

    def __init__(self, width, graph=None):
        self.width, self._graph = width, graph
        self._fill(np.zeros((0, width), np.float32), [], np.zeros(0, np.int64), np.zeros(0, np.int64))

    def _fill(self, vectors, names, label_ids, counts, file=None):
        """label_ids: int64, the labels of all entries one after the other; counts: of each entry; names: of the ids."""
        self._vectors = vectors
        self._take(names, label_ids, counts)
        # An empty array makes no graph.
        graph = self._graph if len(vectors) else False
        self._neighbours = Neighbours(vectors, graph, threads=-1, deleted=np.flatnonzero(counts == 0), file=file)

    def _take(self, names, label_ids, counts):
        self._names, self._label_ids, self._counts = names, label_ids, counts
        self._ids, self._ends = {name: i for i, name in enumerate(names)}, np.cumsum(counts)

    def __len__(self):
        return int((self._counts > 0).sum())

    def add(self, vectors, labels):
        vectors, labels = check_entries(vectors, labels, self.width)
        for names in labels:
            for name in names:
                self._ids.setdefault(name, len(self._ids))
        new = np.array([self._ids[name] for names in labels for name in names], np.int64)
        counts = np.concatenate([self._counts, np.array([len(names) for names in labels], np.int64)])
        self._take(list(self._ids), np.concatenate([self._label_ids, new]), counts)
        if len(self._vectors):
            self._vectors = np.concatenate([self._vectors, vectors])
            self._neighbours.extend(self._vectors)
        else:
            self._fill(vectors, self._names, self._label_ids, self._counts)

    def remove(self, label):
        if label not in self._ids:
            return 0
        kept = self._label_ids != self._ids[label]
        entry = np.repeat(np.arange(len(self._counts)), self._counts)
        counts = np.bincount(entry[kept], minlength=len(self._counts))
        gone = np.flatnonzero((counts == 0) & (self._counts > 0))
        used, label_ids = np.unique(self._label_ids[kept], return_inverse=True)
        names = [self._names[i] for i in used]
        self._take(names, label_ids, counts)
        self._neighbours.delete(gone)
        if (counts == 0).mean() > self.MOST_DEAD:
            self._drop_dead()
        return int((~kept).sum())

    def _drop_dead(self):
        live = self._counts > 0
        self._fill(self._vectors[live], self._names, self._label_ids, self._counts[live])

    def count(self, label):
        return int((self._label_ids == self._ids.get(label, -1)).sum())

    def labels(self):
        counts = np.bincount(self._label_ids, minlength=len(self._names)).tolist()
        return dict(sorted(zip(self._names, counts)))

    def search(self, queries, k):
        queries = np.asarray(queries, np.float32)
        check_queries(queries, self.width)
        cosines, entries = self._neighbours.search(queries, k)
        names = {i: self._names_of(i) for i in np.unique(entries)}
        return Found(np.clip(cosines, -1, 1), [[names[i] for i in row] for row in entries])

    def _names_of(self, entry):
        end = self._ends[entry]
        return tuple(self._names[label] for label in self._label_ids[end - self._counts[entry] : end])

    def save(self, folder):
        """Writes vectors.npy, entries.json and, where there is a graph, index.hnsw into a folder that is there."""
        if not self._neighbours.indexed and not self._counts.all():
            self._drop_dead()
        np.save(os.path.join(folder, VECTORS), self._vectors)
        fields = {"version": VERSION, "width": self.width, "names": self._names}
        fields |= {"counts": self._counts.tolist(), "label_ids": self._label_ids.tolist()}
        write_json(os.path.join(folder, ENTRIES), fields)
        if self._neighbours.indexed:
            self._neighbours.save(os.path.join(folder, GRAPH))

    @classmethod
    def open(cls, folder):
        """What `save` wrote. The vectors stay on the disk, and are read where a search needs them.

        Raises:
            UserError: a file is missing or damaged, or does not fit the others; the text says which.
        """
        remedy = "copy the bundle again, or build the index anew: python retrieval_based/index.py build"
        path = os.path.join(folder, VECTORS)
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            path = os.path.join(folder, ENTRIES)
            with open(path, encoding="utf-8") as file:
                fields = json.load(file)
            version, width, names = (fields[name] for name in ("version", "width", "names"))
            label_ids, counts = (np.array(fields[name], np.int64).reshape(-1) for name in ("label_ids", "counts"))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}; {remedy}") from error
        except (ValueError, KeyError, TypeError, OverflowError, EOFError) as error:
            raise UserError(f"{path} is damaged; {remedy}") from error
        if version != VERSION:
            raise UserError(f"{path}: version {version!r} is not known here (this code reads version {VERSION})")
        fits = (
            isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and vectors.dtype == np.float32
            and vectors.shape == (len(counts), width)
            and counts.min(initial=0) >= 0
            and counts.sum() == len(label_ids)
            and label_ids.min(initial=0) >= 0
            and label_ids.max(initial=-1) < len(names)
        )
        if not fits:
            raise UserError(f"{folder}: {VECTORS} and {ENTRIES} do not fit each other; {remedy}")
        graph = os.path.join(folder, GRAPH)
        index = cls(width)
        index._fill(vectors, names, label_ids, counts, file=graph if os.path.exists(graph) else None)
        return index


def open_index(folder, manifest, timeout=10.0):
    """The index that a bundle's manifest names.

    Args:
        folder: the bundle's; its files are taken to be those of the manifest (`bundle.open_bundle` checks them).
        manifest: dict with "width" and "index": {"kind": "embedded"} or {"kind": "milvus", "uri", "collection"}.
        timeout: seconds that connecting to a server and a search by it may take.
    Raises:
        UserError: the index is damaged or not there, or its server does not answer (`IndexUnavailable`).
    """
    fields = manifest["index"]
    if fields["kind"] == "embedded":
        index = EmbeddedIndex.open(folder)
    elif fields["kind"] == "milvus":
        from text_cls.search.milvus_index import MilvusIndex

        index = MilvusIndex(fields["uri"], fields["collection"], timeout)
    else:
        raise UserError(f"{folder}: an index of kind {fields['kind']!r} is not known here (embedded, milvus)")
    if index.width != manifest["width"]:
        raise UserError(f"{folder}: the index has vectors of {index.width} numbers, the encoder {manifest['width']}")
    return index
