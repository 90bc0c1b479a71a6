"""An index in memory and in a bundle's files. It compares every entry, or searches hnswlib's graph if there are many.

numpy alone at import.
"""

import json
import os

import numpy as np

from text_cls.cli import UserError
from text_cls.files import write_json
from text_cls.search.index import Found, check_entries, check_queries
from text_cls.search.neighbours import Neighbours

VECTORS, ENTRIES, GRAPH = "vectors.npy", "entries.json", "index.hnsw"
VERSION = 1  # of entries.json


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
