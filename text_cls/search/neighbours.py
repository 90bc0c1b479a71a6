"""The rows of a corpus nearest to a query by cosine: exactly, or approximately by hnswlib's graph if there are many.

Needs numpy, and hnswlib only for a graph. Neither search holds a queries x rows matrix in memory. TrustAI's
FeatureSimilarityModel gives the same cosines (a test compares them), but passes over all rows for each query, and takes
its features from a layer that the caller must name.
"""

import importlib.util
import os

import numpy as np

from text_cls.cli import UserError, logger
from text_cls.language import tr

EXACT_ROWS = 100_000  # a corpus of more rows gets a graph
QUERY_BLOCK = 512  # queries compared at a time
ROW_BLOCK = 1024  # rows that they are compared with at a time; the cosines of one block take 4 MB
LINKS = 16  # hnswlib's M, at its usual value
EF_CONSTRUCTION = 200  # hnswlib's ef_construction, at its usual value
# hnswlib's ef of a search. On 20,000 vectors of 768 dimensions in 80 clusters, with 500 queries, recall at 10 is 0.997
# with an ef of 32, 0.9996 with 64, and 1.0 from 100 on.
EF = 200
# The header of hnswlib's file, as saveIndex of hierarchicalnsw.h (0.8) writes it.
HEADER = np.dtype(
    [(name, "<u8") for name in ("level_0_at", "room", "rows", "row_bytes", "number_at", "vector_at")]
    + [("highest", "<i4"), ("entry", "<u4")]
    + [("links_above", "<u8"), ("links_level_0", "<u8"), ("links", "<u8"), ("spread", "<f8"), ("ef", "<u8")]
)


class Neighbours:
    """Finds the nearest rows of a corpus.

    Args:
        corpus: float array [rows, width], not copied.
        index: whether to search a graph; by default above `EXACT_ROWS` rows, if hnswlib is installed.
        seed: of the graph's layers.
        threads: for building a graph. Several are faster, but then the seed does not fix the graph. -1: one per core.
        deleted: int array of row numbers that searches must not find.
        file: a graph of this corpus, saved by `save` with the same rows deleted, to load instead of building one.
    Raises:
        UserError: the file is not a graph of this many vectors of this width.
    """

    def __init__(self, corpus, index=None, seed=3, threads=1, deleted=(), file=None):
        self._corpus, self._wanted, self._seed, self._threads = corpus, index, seed, threads
        self._inverse = np.zeros(0)
        self._deleted = np.zeros(len(corpus), bool)
        self._deleted[np.asarray(deleted, np.int64)] = True
        self._index = _load(file, corpus) if file and _has_hnswlib(len(corpus)) else None
        self._index_if_wanted()

    @property
    def indexed(self):
        """True if searches use a graph, False if they compare every row."""
        return self._index is not None

    def _index_if_wanted(self):
        count = len(self._corpus)
        if self._index is None and (_wants_index(count) if self._wanted is None else self._wanted):
            self._index = _build(self._corpus, self._seed, self._threads)
            self._mark(np.flatnonzero(self._deleted))

    def extend(self, corpus):
        """Replaces the corpus with one that begins with the same rows; searches find the added rows from now on."""
        new = len(self._corpus)
        self._corpus = corpus
        self._deleted = np.concatenate([self._deleted, np.zeros(len(corpus) - new, bool)])
        if self._index is not None:
            self._index.resize_index(len(corpus))
            self._index.add_items(corpus[new:], num_threads=self._threads)
        self._index_if_wanted()

    def delete(self, rows):
        """Searches no longer find these rows (int array). The others keep their numbers."""
        self._mark(rows[~self._deleted[rows]])
        self._deleted[rows] = True

    def _mark(self, rows):
        if self._index is not None:
            for row in rows:
                self._index.mark_deleted(int(row))

    def save(self, path):
        """Writes the graph to a file, including which rows are deleted."""
        self._index.save_index(str(path))

    def search(self, queries, k):
        """The k rows nearest to each query (all if there are fewer), the nearest first, ties in corpus order.

        A graph may miss some of the nearest rows; the cosines of the rows it finds are exact.

        Args:
            queries: float array [queries, width].
        Returns:
            cosines, float32 [queries, k], and row numbers, int64 [queries, k]. A vector of zeros has cosine 0 with all.
        """
        k = min(k, int(len(self._corpus) - self._deleted.sum()))
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        if not k:
            return scores, rows
        search = self._exact if self._index is None else self._approximate
        for start in range(0, len(queries), QUERY_BLOCK):
            part = slice(start, start + QUERY_BLOCK)
            part_scores, part_rows = search(_unit(queries[part]), k)
            order = np.argsort(-part_scores, axis=1, kind="stable")
            scores[part] = np.take_along_axis(part_scores, order, axis=1)
            rows[part] = np.take_along_axis(part_rows, order, axis=1)
        return scores, rows

    def _inverse_lengths(self):
        """1 / length of each row (0 for a row of zeros), float64; computed when rows are first compared."""
        if len(self._inverse) < len(self._corpus):
            parts = (self._corpus[start : start + ROW_BLOCK] for start in range(0, len(self._corpus), ROW_BLOCK))
            lengths = np.concatenate([np.linalg.norm(part.astype(np.float64), axis=1) for part in parts])
            self._inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return self._inverse

    def _exact(self, queries, k):
        inverse = self._inverse_lengths()
        scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(self._corpus), ROW_BLOCK):
            # Computed in float64 and rounded to float32, equal rows get equal cosines wherever they stand in a product.
            part = self._corpus[start : start + ROW_BLOCK].astype(np.float64)
            block = (queries @ part.T * inverse[start : start + ROW_BLOCK]).astype(np.float32)
            block[:, self._deleted[start : start + ROW_BLOCK]] = -np.inf
            numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
            scores = np.concatenate([scores, block], axis=1)
            rows = np.concatenate([rows, numbers], axis=1)
            if scores.shape[1] > k:
                best = _best(scores, k)
                scores, rows = scores[best].reshape(-1, k), rows[best].reshape(-1, k)
        return scores, rows

    def _approximate(self, queries, k):
        self._index.set_ef(max(EF, 2 * k))
        try:
            rows = self._index.knn_query(queries, k)[0]
        except RuntimeError:  # the graph reaches fewer than k rows, as happens among rows of zeros
            return self._exact(queries, k)
        rows = np.sort(rows.astype(np.int64), axis=1)
        scores = [_unit(self._corpus[found]) @ query for found, query in zip(rows, queries)]
        return np.array(scores, np.float32).reshape(rows.shape), rows


def _wants_index(count):
    return count > EXACT_ROWS and _has_hnswlib(count)


def _has_hnswlib(count):
    """Whether hnswlib is installed. If not, logs how to install it and that `count` rows are compared one by one."""
    if importlib.util.find_spec("hnswlib") is None:
        logger.warning(
            "%d rows are compared one by one because hnswlib is not installed. For an index: "
            "pip install -r requirements/index.txt (it needs a C++ compiler: apt-get install g++)",
            count,
        )
        return False
    return True


def _build(corpus, seed, threads):
    import hnswlib

    logger.info("Building an index of %d rows", len(corpus))
    index = hnswlib.Index(space="cosine", dim=corpus.shape[1])
    index.init_index(len(corpus), M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=seed)
    index.add_items(corpus, num_threads=threads)
    return index


def _load(path, corpus):
    """The graph in a file, checked first: hnswlib trusts a file's numbers, and reads and writes wherever they point."""
    import hnswlib

    count, width = corpus.shape
    if not _is_sound(path, count, width):
        raise UserError(
            tr(
                "{path} is not an index of {count} vectors of width {width}; rebuild it",
                path=path,
                count=count,
                width=width,
            )
        )
    index = hnswlib.Index(space="cosine", dim=width)
    try:
        index.load_index(str(path), max_elements=count)
    except RuntimeError as error:
        raise UserError(tr("{path} does not load ({error}); rebuild it", path=path, error=error)) from error
    return index


def _is_sound(path, count, width):
    """Whether a file is a graph of `count` vectors of this width in which every link points to a row of the graph.

    After the header, each row has its links on level 0 (a count and room for 2 LINKS), its vector and its number. Then
    each row has the size in bytes of its links on the higher levels, and these links (per level a count and LINKS).
    """
    row_bytes, size = 4 * (2 * LINKS + 1) + 4 * width + 8, os.path.getsize(path)
    if not count or size % 4 or size < HEADER.itemsize + count * (row_bytes + 4):
        return False
    header = np.fromfile(path, HEADER, 1)[0]
    fixed = {
        "level_0_at": 0,
        "rows": count,
        "row_bytes": row_bytes,
        "number_at": row_bytes - 8,
        "vector_at": 4 * (2 * LINKS + 1),
        "links_above": LINKS,
        "links_level_0": 2 * LINKS,
        "links": LINKS,
        "ef": EF_CONSTRUCTION,
    }
    if any(header[name] != value for name, value in fixed.items()) or header["entry"] >= count:
        return False
    if not np.isclose(header["spread"], 1 / np.log(LINKS)):
        return False
    numbers = np.asarray(np.memmap(path, "<u4", "r", HEADER.itemsize))
    rows, above = np.split(numbers, [count * row_bytes // 4])
    rows = rows.reshape(count, -1)
    for start in range(0, count, ROW_BLOCK):
        part = rows[start : start + ROW_BLOCK]
        # The count has 16 bits; the other 16 hold the mark of a deleted row.
        if (part[:, 0] & 0xFFFF).max() > 2 * LINKS or part[:, 1 : 2 * LINKS + 1].max() >= count:
            return False
        if part[:, -2].max() >= count or part[:, -1].any():
            return False
    return _is_sound_above(above, count, header["entry"], header["highest"])


def _is_sound_above(numbers, count, entry, highest):
    """The same for the levels above 0, where a link must also lead to a row that is on the link's level."""
    heights, ids, levels, at = np.zeros(count, np.int64), [], [], 0
    for row in range(count):
        size = int(numbers[at]) // 4 if at < len(numbers) else -1
        height, rest = divmod(size, LINKS + 1)
        if size < 0 or rest or int(numbers[at]) % 4 or at + 1 + size > len(numbers):
            return False
        if height:
            lists = numbers[at + 1 : at + 1 + size].reshape(height, LINKS + 1)
            lengths = lists[:, 0] & 0xFFFF
            if lengths.max() > LINKS:
                return False
            used = np.arange(LINKS) < lengths[:, None]
            ids.append(lists[:, 1:][used])
            levels.append(np.nonzero(used)[0] + 1)
            heights[row] = height
        at += 1 + size
    if at != len(numbers) or heights[entry] != highest or heights.max() != highest:
        return False
    ids, levels = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (ids, levels))
    return not len(ids) or bool(ids.max() < count and (heights[ids.astype(np.int64)] >= levels).all())


def _unit(vectors):
    """The vectors scaled to length 1, float64; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _best(scores, k):
    """Bool [queries, columns], True for the k highest scores of each row; of equal scores the first ones."""
    lowest = np.partition(scores, -k, axis=1)[:, [-k]]
    above, tied = scores > lowest, scores == lowest
    places_left = k - above.sum(axis=1, keepdims=True)
    return above | (tied & (np.cumsum(tied, axis=1) <= places_left))
