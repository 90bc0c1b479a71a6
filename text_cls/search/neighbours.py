"""The rows of a corpus nearest to a query by cosine: exactly, or by an index (hnswlib) where the rows are many.

numpy alone, hnswlib where it is needed. Neither way holds queries x rows in memory. TrustAI's FeatureSimilarityModel
gives the same cosines (a test compares them), with a pass over all rows for each query, and for a layer known by name.
"""

import importlib.util
import os

import numpy as np

from text_cls.cli import UserError, logger

EXACT_ROWS = 100_000  # above, an index
QUERIES, BLOCK = 512, 1024  # of one product: 4 MB
# Of a graph over 20,000 vectors of 768 dimensions in 80 clusters, 500 queries: recall at 10 is 0.997 with an ef of 32,
# 0.9996 with 64 and 1.0 from 100 on. The rest are hnswlib's usual settings.
LINKS, EF_CONSTRUCTION, EF = 16, 200, 200
# Of hnswlib's file, as hierarchicalnsw.h's saveIndex (0.8) writes it.
HEADER = np.dtype(
    [(name, "<u8") for name in ("level_0_at", "room", "rows", "row_bytes", "number_at", "vector_at")]
    + [("highest", "<i4"), ("entry", "<u4")]
    + [("links_above", "<u8"), ("links_level_0", "<u8"), ("links", "<u8"), ("spread", "<f8"), ("ef", "<u8")]
)


class Neighbours:
    """Args:
    corpus: float array [rows, width], kept as it is.
    index: whether to search by an index; by default, above `EXACT_ROWS` rows where hnswlib is installed.
    seed: of the index' layers.
    threads: of making an index; several are faster, and make one that the seed does not fix. -1: as many as cores.
    deleted: row numbers that are not found, an int array.
    file: an index of this corpus that `save` wrote with these deleted, in place of a new one.
    Raises:
        UserError: the file is no index of so many vectors of this width.
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
        """True where an index is searched, False where every row is compared."""
        return self._index is not None

    def _index_if_wanted(self):
        count = len(self._corpus)
        if self._index is None and (_wants_index(count) if self._wanted is None else self._wanted):
            self._index = _build(self._corpus, self._seed, self._threads)
            self._mark(np.flatnonzero(self._deleted))

    def extend(self, corpus):
        """Takes a corpus that begins with the rows it had; those behind are found from now on."""
        new = len(self._corpus)
        self._corpus = corpus
        self._deleted = np.concatenate([self._deleted, np.zeros(len(corpus) - new, bool)])
        if self._index is not None:
            self._index.resize_index(len(corpus))
            self._index.add_items(corpus[new:], num_threads=self._threads)
        self._index_if_wanted()

    def delete(self, rows):
        """The rows, whole numbers, are not found any more. The others keep their numbers."""
        self._mark(rows[~self._deleted[rows]])
        self._deleted[rows] = True

    def _mark(self, rows):
        if self._index is not None:
            for row in rows:
                self._index.mark_deleted(int(row))

    def save(self, path):
        """Writes the index to a file, which knows the deleted rows, too."""
        self._index.save_index(str(path))

    def search(self, queries, k):
        """The k rows nearest to each query (all where there are fewer), the nearest first, equals in the corpus' order.

        By the index some of the true ones may be missing; the cosines of those it finds are exact.

        Args:
            queries: float array [queries, width].
        Returns:
            cosines, float32 [queries, k], and row numbers, int64 [queries, k]. Zeros have cosine 0 with everything.
        """
        k = min(k, int(len(self._corpus) - self._deleted.sum()))
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries) if k else 0, QUERIES):
            part = slice(start, start + QUERIES)
            found = (self._exact if self._index is None else self._approximate)(_unit(queries[part]), k)
            order = np.argsort(-found[0], axis=1, kind="stable")
            scores[part], rows[part] = (np.take_along_axis(values, order, axis=1) for values in found)
        return scores, rows

    def _inverse_lengths(self):
        """1 over each row's length, float64, 0 for zeros; worked out when rows are first compared."""
        if len(self._inverse) < len(self._corpus):
            parts = (self._corpus[start : start + BLOCK] for start in range(0, len(self._corpus), BLOCK))
            lengths = np.concatenate([np.linalg.norm(part.astype(np.float64), axis=1) for part in parts])
            self._inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return self._inverse

    def _exact(self, queries, k):
        inverse = self._inverse_lengths()
        scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(self._corpus), BLOCK):
            # float64: rounded to float32, cosines of equal rows are equal, wherever in a product.
            part = self._corpus[start : start + BLOCK].astype(np.float64)
            block = (queries @ part.T * inverse[start : start + BLOCK]).astype(np.float32)
            block[:, self._deleted[start : start + BLOCK]] = -np.inf
            numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
            scores = np.concatenate([scores, block], axis=1)
            rows = np.concatenate([rows, numbers], axis=1)
            if scores.shape[1] > k:
                best = _best(scores, k)
                scores, rows = (values[best].reshape(-1, k) for values in (scores, rows))
        return scores, rows

    def _approximate(self, queries, k):
        self._index.set_ef(max(EF, 2 * k))
        try:
            rows = self._index.knn_query(queries, k)[0]
        except RuntimeError:  # the graph reaches fewer than k rows, as it does among rows of zeros
            return self._exact(queries, k)
        rows = np.sort(rows.astype(np.int64), axis=1)
        scores = [_unit(self._corpus[near]) @ query for near, query in zip(rows, queries)]
        return np.array(scores, np.float32).reshape(rows.shape), rows


def _wants_index(count):
    return count > EXACT_ROWS and _has_hnswlib(count)


def _has_hnswlib(count):
    """True where hnswlib is installed. Says how to get it, and what happens to so many rows, where it is not."""
    if importlib.util.find_spec("hnswlib") is None:
        logger.warning(
            "%d rows are compared one by one, since hnswlib is not installed. For an index: "
            "pip install -r requirements/index.txt (it needs a C++ compiler: apt-get install g++)",
            count,
        )
        return False
    return True


def _build(corpus, seed, threads):
    import hnswlib

    logger.info("Making an index of %d rows", len(corpus))
    index = hnswlib.Index(space="cosine", dim=corpus.shape[1])
    index.init_index(len(corpus), M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=seed)
    index.add_items(corpus, num_threads=threads)
    return index


def _load(path, corpus):
    """The index in a file. hnswlib takes a file's numbers on trust, and reads and writes wherever they point."""
    import hnswlib

    count, width = corpus.shape
    if not _is_sound(path, count, width):
        raise UserError(f"{path} is not an index of {count} vectors of width {width}; build it anew")
    index = hnswlib.Index(space="cosine", dim=width)
    try:
        index.load_index(str(path), max_elements=count)
    except RuntimeError as error:
        raise UserError(f"{path} does not load ({error}); build it anew") from error
    return index


def _is_sound(path, count, width):
    """Whether a file is a graph of so many vectors, and each number by which hnswlib finds its way stays within it.

    Behind the header stand of each row its links on level 0 (a count and 2 LINKS of them), its vector and its number;
    then of each row how many bytes its links on the levels above take, and these (of each level a count and LINKS).
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
    for start in range(0, count, BLOCK):
        part = rows[start : start + BLOCK]
        # The count has 16 bits; the mark of a deleted row stands beside it.
        if (part[:, 0] & 0xFFFF).max() > 2 * LINKS or part[:, 1 : 2 * LINKS + 1].max() >= count:
            return False
        if part[:, -2].max() >= count or part[:, -1].any():
            return False
    return _is_sound_above(above, count, header["entry"], header["highest"])


def _is_sound_above(numbers, count, entry, highest):
    """The same of the levels above 0: a link leads to a row that is on the link's level, too."""
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
    """The vectors at length 1, float64; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _best(scores, k):
    """Bool [queries, columns], k of each row: its highest scores, of equals the first."""
    border = np.partition(scores, -k, axis=1)[:, [-k]]
    above, at = scores > border, scores == border
    return above | (at & (np.cumsum(at, axis=1) <= k - above.sum(axis=1, keepdims=True)))
