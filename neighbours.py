"""The rows of a corpus nearest to a query by cosine: exactly, or by an index (hnswlib) where the rows are many.

numpy alone, hnswlib where it is needed. Neither way holds queries x rows in memory. TrustAI's FeatureSimilarityModel
gives the same cosines (a test compares them), with a pass over all rows for each query, and for a layer known by name.
"""

import importlib.util

import numpy as np

from cli import logger

EXACT_ROWS = 100_000  # above, an index
QUERIES, BLOCK = 512, 4096  # of one product: 16 MB
# Of a graph over 20,000 vectors of 768 dimensions in 80 clusters, 500 queries: recall at 10 is 0.997 with an ef of 32,
# 0.9996 with 64 and 1.0 from 100 on. The rest are hnswlib's usual settings.
LINKS, EF_CONSTRUCTION, EF = 16, 200, 200


class Neighbours:
    """Args:
    corpus: float array [rows, width], kept as it is.
    index: whether to search by an index; by default, above `EXACT_ROWS` rows where hnswlib is installed.
    seed: of the index' layers.
    """

    def __init__(self, corpus, index=None, seed=3):
        self._corpus, self._index = corpus, None
        if _wants_index(len(corpus)) if index is None else index:
            self._index = _build(corpus, seed)

    def search(self, queries, k):
        """The k rows nearest to each query (all where there are fewer), the nearest first, equals in the corpus' order.

        By the index some of the true ones may be missing; the cosines of those it finds are exact.

        Args:
            queries: float array [queries, width].
        Returns:
            cosines, float32 [queries, k], and row numbers, int64 [queries, k]. Zeros have cosine 0 with everything.
        """
        k = min(k, len(self._corpus))
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERIES):
            part = slice(start, start + QUERIES)
            found = (self._exact if self._index is None else self._approximate)(_unit(queries[part]), k)
            order = np.argsort(-found[0], axis=1, kind="stable")
            scores[part], rows[part] = (np.take_along_axis(values, order, axis=1) for values in found)
        return scores, rows

    def _exact(self, queries, k):
        scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start in range(0, len(self._corpus), BLOCK):
            block = queries @ _unit(self._corpus[start : start + BLOCK]).T
            numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
            scores = np.concatenate([scores, block.astype(np.float32)], axis=1)
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
    """True for so many rows, where hnswlib is installed. Says how to get it where it is not."""
    if count <= EXACT_ROWS:
        return False
    if importlib.util.find_spec("hnswlib") is None:
        logger.warning(
            "%d rows are compared one by one, since hnswlib is not installed. For an index: "
            "pip install -r requirements-index.txt (it needs a C++ compiler: apt-get install g++)",
            count,
        )
        return False
    return True


def _build(corpus, seed):
    import hnswlib

    logger.info("Making an index of %d rows", len(corpus))
    index = hnswlib.Index(space="cosine", dim=corpus.shape[1])
    index.init_index(len(corpus), M=LINKS, ef_construction=EF_CONSTRUCTION, random_seed=seed)
    index.add_items(corpus, num_threads=1)  # several would make a graph that the seed does not fix
    return index


def _unit(vectors):
    """The vectors at length 1, float64: rounded to float32, cosines of equal rows are equal, wherever in a product."""
    vectors = np.asarray(vectors, np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def _best(scores, k):
    """Bool [queries, columns], k of each row: its highest scores, of equals the first."""
    border = np.partition(scores, -k, axis=1)[:, [-k]]
    above, at = scores > border, scores == border
    return above | (at & (np.cumsum(at, axis=1) <= k - above.sum(axis=1, keepdims=True)))
