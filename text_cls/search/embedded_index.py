"""The index that a bundle holds as files and a process holds in memory.

A search compares every entry, or walks hnswlib's graph if there are many (`neighbours.py`). Importing needs only numpy.
"""

import json
import os

import numpy as np

from text_cls.cli import UserError
from text_cls.files import write_json
from text_cls.language import reason_of, tr
from text_cls.search.index import Found, check_entries, check_queries
from text_cls.search.neighbours import Neighbours

VECTORS, ENTRIES, GRAPH = "vectors.npy", "entries.json", "index.hnsw"
VERSION = 1  # the format of entries.json


class EmbeddedIndex:
    """A `VectorIndex` in memory. `save` writes it to a folder, `open` reads it back.

    Args:
        width: of the vectors.
        graph: whether to search hnswlib's graph; by default only above `neighbours.EXACT_ROWS` entries.
    """

    # Removed entries stay, without labels: the graph refers to entries by number, and takes minutes to rebuild. They go
    # when they exceed this share of all, and, if there is no graph, before saving.
    MOST_REMOVED = 0.3

    def __init__(self, width, graph=None):
        self.width, self._graph = width, graph
        self._set_entries(np.zeros((0, width), np.float32), [], np.zeros(0, np.int64), np.zeros(0, np.int64))

    def _set_entries(self, vectors, names, label_ids, counts, file=None):
        """Replaces all entries. file: the graph of these vectors, if it has been saved. The rest as `_set_labels`."""
        self._vectors = vectors
        self._set_labels(names, label_ids, counts)
        graph = self._graph if len(vectors) else False  # hnswlib makes no graph of an empty array
        self._neighbours = Neighbours(vectors, graph, threads=-1, deleted=np.flatnonzero(counts == 0), file=file)

    def _set_labels(self, names, label_ids, counts):
        """Replaces the labels of all entries.

        Args:
            names: names[i] is the label with id i.
            label_ids: int64 array, the ids of the first entry's labels, then those of the second, and so on.
            counts: int64 array [entries], the number of labels of each entry.
        """
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
        self._set_labels(list(self._ids), np.concatenate([self._label_ids, new]), counts)
        if len(self._vectors):
            self._vectors = np.concatenate([self._vectors, vectors])
            self._neighbours.extend(self._vectors)
        else:
            self._set_entries(vectors, self._names, self._label_ids, self._counts)

    def remove(self, label):
        if label not in self._ids:
            return 0
        kept = self._label_ids != self._ids[label]
        entry = np.repeat(np.arange(len(self._counts)), self._counts)  # of each label id
        counts = np.bincount(entry[kept], minlength=len(self._counts))
        emptied = np.flatnonzero((counts == 0) & (self._counts > 0))
        used, label_ids = np.unique(self._label_ids[kept], return_inverse=True)
        self._set_labels([self._names[i] for i in used], label_ids, counts)
        self._neighbours.delete(emptied)
        if (counts == 0).mean() > self.MOST_REMOVED:
            self._drop_removed()
        return int((~kept).sum())

    def _drop_removed(self):
        left = self._counts > 0
        self._set_entries(self._vectors[left], self._names, self._label_ids, self._counts[left])

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
        """Writes vectors.npy, entries.json and, if there is a graph, index.hnsw into an existing folder."""
        if not self._neighbours.indexed and not self._counts.all():
            self._drop_removed()
        np.save(os.path.join(folder, VECTORS), self._vectors)
        fields = {"version": VERSION, "width": self.width, "names": self._names}
        fields |= {"counts": self._counts.tolist(), "label_ids": self._label_ids.tolist()}
        write_json(os.path.join(folder, ENTRIES), fields)
        if self._neighbours.indexed:
            self._neighbours.save(os.path.join(folder, GRAPH))

    @classmethod
    def open(cls, folder):
        """Opens what `save` wrote. The vectors stay on disk and are read as searches need them.

        The open file outlives its name: to replace the folder does no harm, to write into the file does.

        Raises:
            UserError: a file is missing or damaged, or does not match the others; the message says which.
        """
        remedy = tr("copy the bundle again, or rebuild the index: python retrieval_based/index.py build")
        path = os.path.join(folder, VECTORS)
        try:
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            path = os.path.join(folder, ENTRIES)
            with open(path, encoding="utf-8") as file:
                fields = json.load(file)
            version, width, names = (fields[name] for name in ("version", "width", "names"))
            label_ids, counts = (np.array(fields[name], np.int64).reshape(-1) for name in ("label_ids", "counts"))
        except OSError as error:
            raise UserError(f"{path}: {reason_of(error)}; {remedy}") from error
        except (ValueError, KeyError, TypeError, OverflowError, EOFError, RecursionError) as error:
            raise UserError(tr("{path} is damaged; {remedy}", path=path, remedy=remedy)) from error
        if version != VERSION:
            raise UserError(
                tr(
                    "{path}: version {version!r} is unknown (this code reads version {known})",
                    path=path,
                    version=version,
                    known=VERSION,
                )
            )
        if not _fit(vectors, width, names, label_ids, counts):
            raise UserError(
                tr(
                    "{folder}: {vectors} and {entries} do not match; {remedy}",
                    folder=folder,
                    vectors=VECTORS,
                    entries=ENTRIES,
                    remedy=remedy,
                )
            )
        graph = os.path.join(folder, GRAPH)
        index = cls(width)
        index._set_entries(vectors, names, label_ids, counts, file=graph if os.path.exists(graph) else None)
        return index


def _fit(vectors, width, names, label_ids, counts):
    """Whether the vectors and the labels read from the two files belong together."""
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and vectors.dtype == np.float32
        and vectors.shape == (len(counts), width)
        and counts.min(initial=0) >= 0
        and counts.sum() == len(label_ids)
        and label_ids.min(initial=0) >= 0
        and label_ids.max(initial=-1) < len(names)
    )
