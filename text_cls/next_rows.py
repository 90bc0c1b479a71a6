"""Which texts to label next: the least certain, those with rare labels, those unlike each other, or random ones.

The labels of a row are read by a person once; the order decides which rows are worth it. `benchmarks/next_rows.py`
measures what the orders gain over random rows.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from text_cls.cli import UserError, logger
from text_cls.decision import Decision
from text_cls.language import N_, tr
from text_cls.linear_classifier import LONGEST, ngram_keys
from text_cls.linear_model import LONGEST_NGRAM
from text_cls.prediction import WINDOW
from text_cls.probabilities import logit
from text_cls.rows import Labels, Rows, one_line
from text_cls.table_texts import TableFile, TextFile, Window
from text_cls.terminal import progress_bar
from text_cls.tokenization import CodePoints

UNCERTAIN, RARE, DIVERSE, RANDOM = "uncertain", "rare", "diverse", "random"
ORDERS = {
    UNCERTAIN: N_("a label close to its threshold"),
    RARE: N_("labels of few labelled rows"),
    DIVERSE: N_("texts unlike each other"),
    RANDOM: N_("any"),
}
MOST_BYTES = 1 << 28  # of the vectors of `diverse`, of the probabilities of `rare`
SHORTLIST = 20  # rows considered by `rare` for each that it chooses
NGRAM_VECTOR = 1024  # width
HASH = np.uint64(0x9E3779B97F4A7C15)  # odd, of 2 ** 64 / the golden ratio: https://doi.org/10.1145/356643.356645


@dataclass(frozen=True)
class Scorer:
    """What the orders need of a model: its labels, and the decision in use.

    probabilities: of texts, float [texts, labels]. vectors: of texts, float32 [texts, width]; of similar ones, similar.
    """

    labels: Labels
    decision: Decision
    probabilities: Callable[[Sequence[str]], np.ndarray]
    vectors: Callable[[Sequence[str]], np.ndarray]


class ChosenTexts:
    """Some rows of a file of texts, in another order; else as that file. They are held in memory.

    numbers: those of the rows in the file, from 0, in this order.
    """

    def __init__(self, texts: TextFile | TableFile, numbers: Sequence[int]):
        self._texts, self.numbers, self.count = texts, [*map(int, numbers)], len(numbers)

    def __getattr__(self, name):
        return getattr(self._texts, name)

    def windows(self, size: int) -> Iterator[Window]:
        """Yields `Window`s of this many rows."""
        wanted, first, texts, records, batches = set(self.numbers), 0, {}, {}, []
        for window in self._texts.windows(WINDOW):
            inside = [i for i in range(len(window.texts)) if first + i in wanted]
            texts |= {first + i: window.texts[i] for i in inside}
            if inside and window.batch is not None:
                batches.append(window.batch.take(inside))
            elif inside:
                records |= {first + i: window.records[i] for i in inside}
            first += len(window.texts)
        table = self._table(batches)
        for start in range(0, self.count, size):
            numbers = self.numbers[start : start + size]
            found = [texts[number] for number in numbers]
            if table is None:
                yield Window(self.path, found, [records[number] for number in numbers])
            else:
                yield Window(self.path, found, batch=table.slice(start, size).combine_chunks().to_batches()[0])

    def _table(self, batches):
        """The rows of Parquet in their order, from batches in that of the file; None without batches."""
        if not batches:
            return None
        import pyarrow

        places = np.argsort(np.argsort(self.numbers))
        return pyarrow.Table.from_batches(batches).take(places)


def choose(
    texts: TextFile | TableFile, order: str, count: int, scorer: Scorer, labelled: Sequence[Rows], seed: int = 3
) -> ChosenTexts:
    """The rows of a file to label next.

    Rows without a text, and those whose text is labelled already or that of an earlier row, are left out and counted.

    Args:
        order: a key of `ORDERS`. count: most rows. seed: of random choices.
        labelled: rows that have labels.
    Raises:
        UserError: no row is left.
    """
    wanted = _distinct(texts, labelled)
    candidates = np.flatnonzero(wanted)
    if order == RANDOM:
        chosen = np.random.default_rng(seed).permutation(candidates)[:count]
    elif order == UNCERTAIN:
        parts = [uncertainty(scorer.probabilities(part), scorer.decision) for _, part in _parts(texts, wanted)]
        chosen = candidates[np.argsort(np.concatenate(parts), kind="stable")[:count]]
    elif order == RARE:
        chosen = _rare(texts, wanted, count, scorer, labelled)
    else:
        chosen = _diverse(texts, wanted, count, scorer, labelled, seed)
    logger.info("Order %s (%s): %d of %d texts", order, tr(ORDERS[order]), len(chosen), len(candidates))
    return ChosenTexts(texts, chosen)


def _distinct(texts, labelled):
    """Which rows may be chosen: bool array [rows]."""
    keys = np.zeros(texts.count, np.uint64)
    first = 0
    for window in texts.windows(WINDOW):
        keys[first : first + len(window.texts)] = [_key(text) if text else 0 for text in window.texts]
        first += len(window.texts)
    known = np.array([_key(text) for rows in labelled for text in rows.texts], np.uint64)
    once = np.zeros(len(keys), bool)
    once[np.unique(keys, return_index=True)[1]] = True
    blank, old = keys == 0, np.isin(keys, known)
    wanted = once & ~blank & ~old
    counts = {
        f"in {', '.join(rows.path for rows in labelled)}": old.sum(),
        "with the text of another row": (~once & ~old & ~blank).sum(),
        "without a text": blank.sum(),
    }
    if left_out := [f"{count} {what}" for what, count in counts.items() if count]:
        logger.info("%d of %d rows of %s are left out: %s", (~wanted).sum(), len(keys), texts.path, "; ".join(left_out))
    if not wanted.any():
        raise UserError(
            tr(
                "{path}: no text is left to choose from; name a file with texts that have no labels yet",
                path=texts.path,
            )
        )
    return wanted


def _key(text):
    """A number from 1 to 2 ** 64 - 1 for a text; two of a million collide with a chance of 3e-8."""
    content = one_line(text).encode("utf-8", "surrogatepass")  # as labelled rows have it
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") or 1


def _parts(texts, wanted):
    """Yields (numbers, texts) of the wanted rows of each window that has some."""
    first = 0
    with progress_bar(texts.count, N_("rows")) as bar:
        for window in texts.windows(WINDOW):
            inside = np.flatnonzero(wanted[first : first + len(window.texts)])
            if len(inside):
                yield first + inside, [window.texts[i] for i in inside]
            first += len(window.texts)
            bar.update(len(window.texts))


# -------------------------------------------------------------------------------------------------------------- orders


def uncertainty(probabilities: np.ndarray, decision: Decision) -> np.ndarray:
    """How far the label closest to its threshold is from it, in log-odds: float64 [rows], the least certain row lowest.

    This is the binary minimum of Brinker 2006, https://doi.org/10.1007/3-540-31314-1_24, with fitted thresholds.

    Args:
        probabilities: float array [rows, labels], before the decision's temperature.
    """
    thresholds = decision.raw_thresholds(decision.threshold, np.float64)
    thresholds = np.broadcast_to(thresholds, probabilities.shape[1])
    between = (thresholds > 0) & (thresholds < 1)  # no probability is close to another one
    distances = np.abs(logit(probabilities[:, between].astype(np.float64)) - logit(thresholds[between]))
    return distances.min(axis=1, initial=np.inf)


def rare_rows(probabilities: np.ndarray, counts: np.ndarray, count: int) -> np.ndarray:
    """The rows that probably have labels of few labelled rows, the first one first: int64 [at most count].

    A row's value is the sum of its probabilities, each divided by 1 + the rows that the label has: labelled ones, and
    those expected among the rows chosen before.

    Args:
        probabilities: float array [rows, labels]. counts: labelled rows of each label.
    """
    counts, left, chosen = counts.astype(np.float64), np.ones(len(probabilities), bool), []
    for _ in range(min(count, len(probabilities))):
        values = np.where(left, probabilities @ (1 / (1 + counts)), -np.inf)
        best = int(values.argmax())
        chosen.append(best)
        left[best] = False
        counts += probabilities[best]
    return np.array(chosen, np.int64)


def _rare(texts, wanted, count, scorer, labelled):
    """`rare_rows` of a file. Only the most valuable rows are compared with those chosen before."""
    counts = sum(rows.support(len(scorer.labels)) for rows in labelled)
    numbers, best = np.zeros(0, np.int64), np.zeros((0, len(scorer.labels)), np.float32)
    most = max(count, min(SHORTLIST * count, MOST_BYTES // (4 * len(scorer.labels))))
    for rows, part in _parts(texts, wanted):
        numbers = np.concatenate([numbers, rows])
        best = np.concatenate([best, scorer.probabilities(part)])
        kept = np.sort(np.argsort(-(best @ (1 / (1 + counts))), kind="stable")[:most])
        numbers, best = numbers[kept], best[kept]
    return numbers[rare_rows(best, counts, count)]


def spread_rows(vectors: np.ndarray, count: int, nearest: np.ndarray | None = None) -> np.ndarray:
    """Rows so that each row is near to a chosen one, the first one first: int64 [at most count].

    Greedy k-centers (Sener and Savarese 2018, https://arxiv.org/abs/1708.00489): always the row farthest from those
    chosen before, and from labelled rows. Without labelled rows, the first is the one nearest to the mean.

    Args:
        vectors: float array [rows, width], of length 1.
        nearest: the cosine of each row with the nearest labelled one, float [rows].
    """
    chosen, count = [], min(count, len(vectors))
    if nearest is None and count:
        chosen.append(int((vectors @ vectors.mean(axis=0)).argmax()))
        nearest = vectors @ vectors[chosen[0]]
    while len(chosen) < count:
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, vectors @ vectors[chosen[-1]])
    return np.array(chosen, np.int64)


def _diverse(texts, wanted, count, scorer, labelled, seed):
    """`spread_rows` of a file. If not all vectors have room in memory, rows are drawn first."""
    candidates = np.flatnonzero(wanted)
    width = scorer.vectors([next(_parts(texts, wanted))[1][0]]).shape[1]
    most = max(count, MOST_BYTES // (4 * width))
    if most < len(candidates):
        logger.info("Only %d random rows of %d are considered, whose vectors fit into memory", most, len(candidates))
        candidates = np.sort(np.random.default_rng(seed).permutation(candidates)[:most])
        wanted = np.zeros_like(wanted)
        wanted[candidates] = True
    vectors = np.concatenate([unit(scorer.vectors(part)) for _, part in _parts(texts, wanted)])
    nearest = None
    for rows in labelled:
        for start in range(0, len(rows), WINDOW):
            part = [rows.texts[i] for i in range(start, min(start + WINDOW, len(rows)))]
            cosines = (vectors @ unit(scorer.vectors(part)).T).max(axis=1)
            nearest = cosines if nearest is None else np.maximum(nearest, cosines)
    return candidates[spread_rows(vectors, count, nearest)]


def unit(vectors):
    """Vectors scaled to length 1, float32; zeros stay zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors, np.float32), where=length > 0)


def ngram_vectors(texts: Sequence[str]) -> np.ndarray:
    """Vectors of the runs of 1 to 3 characters of texts: float32 [texts, NGRAM_VECTOR].

    Each n-gram adds to or subtracts from a place that a hash decides (Weinberger et al. 2009,
    https://arxiv.org/abs/0902.2206), so that products are those of the counts, but for chance.
    """
    rows = CodePoints().encode(texts, LONGEST)
    ids, row_of = np.concatenate(rows).astype(np.int64), np.repeat(np.arange(len(rows)), [*map(len, rows)])
    places, signs = [], []
    for n in range(1, LONGEST_NGRAM + 1):
        last = slice(n - 1, None)
        inside = (row_of[: len(row_of) - n + 1] == row_of[last]) & (ids[last] != CodePoints.end_id)
        hashed = ngram_keys(ids, n)[inside].astype(np.uint64) * HASH
        places.append(row_of[last][inside] * NGRAM_VECTOR + (hashed >> np.uint64(64 - 10)).astype(np.int64))
        signs.append(1.0 - 2.0 * ((hashed >> np.uint64(20)) & np.uint64(1)))
    found = np.bincount(np.concatenate(places), np.concatenate(signs), len(rows) * NGRAM_VECTOR)
    return found.reshape(len(rows), NGRAM_VECTOR).astype(np.float32)
