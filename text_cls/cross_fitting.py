"""Thresholds and temperature fitted to labelled rows, and what they gain on rows that they were not fitted to.

Probabilities and gold labels in, a `Decision` out. A gain is told from folds: each row is decided by what the other
folds say, so that the figure is one for new rows; on the very rows they are fitted to, thresholds always gain.
"""

import numpy as np

from text_cls.scores import averages, ratio

FEWEST = 50  # rows; below, folds say little
ROUNDS, AT_ONCE = 1000, 50  # of the bootstrap


def value_of(gold, predicted, objective):
    """The objective, from 0 to 1 (both: to 2), of bool arrays [rows, labels]."""
    return float(_values(*_cells(gold, predicted), np.ones((1, len(gold))), objective)[0])


def _cells(gold, predicted):
    """What is counted of each row: right labels, given and held ones together, sparse [rows, labels]; whether exact."""
    from scipy import sparse

    right = sparse.csr_matrix(gold & predicted, dtype=np.float64)
    both = sparse.csr_matrix(gold, dtype=np.float64) + sparse.csr_matrix(predicted, dtype=np.float64)
    return right, both, (gold == predicted).all(axis=1)


def _values(right, both, exact, weights, objective):
    """The objective under each weighting of the rows, float [rounds], of `_cells` and weights [rounds, rows]."""
    if objective == "exact":
        return weights @ exact / np.maximum(weights.sum(axis=1), 1)
    right, both = (right.T @ weights.T).T, (both.T @ weights.T).T  # [rounds, labels]
    micro = ratio(2 * right.sum(axis=1), both.sum(axis=1))
    macro = ratio(2 * right, both).mean(axis=1)
    return {"micro": micro, "macro": macro, "both": micro + macro}[objective]


def draw_folds(gold, texts, seed, folds=5):
    """Rows in as many parts, or one a distinct text where there are fewer, as `cross_fitted` wants them.

    Each label is spread evenly over the parts, and rows of one text are in one of them (see `splitting`).
    """
    from text_cls.splitting import stratified_split

    texts = [texts[i] for i in range(len(texts))]
    folds = min(folds, len(set(texts)))
    if folds < 2:
        return [np.arange(len(texts))]
    return stratified_split(gold, texts, [1 / folds] * folds, seed)


def cross_fitted(probabilities, gold, folds, fit, parents):
    """Label sets of all rows, each decided by what `fit` makes of the rows of the other folds.

    Args:
        folds: list of int arrays, row numbers, none twice.
        fit: takes probabilities and gold of some rows, gives a `Decision`.
    Returns:
        bool array [rows, labels]; False in rows of no fold.
    """
    predicted = np.zeros_like(gold)
    for held, others in _turns(folds):
        others = np.sort(np.concatenate(others))
        predicted[held] = fit(probabilities[others], gold[others]).decide(probabilities[held], parents)
    return predicted


def _turns(folds):
    """Each fold, with the list of the other ones; of a single one, with a fold of no rows."""
    for i, held in enumerate(folds):
        yield held, folds[:i] + folds[i + 1 :] or [held[:0]]


def better_fit(probabilities, gold, folds, fits, objective, parents):
    """That of several fits whose label sets, cross-fitted, serve the objective best; of equals, the first."""
    rows = np.concatenate(folds)

    def value(fit):
        return value_of(gold[rows], cross_fitted(probabilities, gold, folds, fit, parents)[rows], objective)

    return max(fits, key=value)


def cross_chosen(probabilities, gold, folds, fits, objective, parents):
    """As `cross_fitted`, where the fit, too, is chosen: `better_fit` of the folds that are not decided.

    The figure of the better of several on the very rows that made it the better one is too high (Cawley and Talbot
    2010, "On over-fitting in model selection"); in these nested folds no row has a part in how it is decided.
    """
    predicted = np.zeros_like(gold)
    for held, others in _turns(folds):
        fit, others = better_fit(probabilities, gold, others, fits, objective, parents), np.sort(np.concatenate(others))
        predicted[held] = fit(probabilities[others], gold[others]).decide(probabilities[held], parents)
    return predicted


def gain_of(gold, before, after, objective, seed):
    """How much better `after` is than `before`: (gain, low, high), the last two the bootstrap's 95 percent interval.

    Rows are drawn with replacement (Efron 1979), the same ones for both. The interval tells of the rows' chance; that
    of fitting is not in it.
    """
    random, share = np.random.default_rng(seed), np.full(len(gold), 1 / len(gold))
    cells, gains = [_cells(gold, predicted) for predicted in (before, after)], []
    for _ in range(ROUNDS // AT_ONCE):
        weights = random.multinomial(len(gold), share, size=AT_ONCE).astype(np.float64)
        one, other = (_values(*side, weights, objective) for side in cells)
        gains.append(other - one)
    low, high = np.quantile(gains, [0.025, 0.975])
    return value_of(gold, after, objective) - value_of(gold, before, objective), float(low), float(high)


def figures(gold, predicted):
    """(micro precision, recall and F1, macro F1, exact match) of label sets, in percent."""
    summary = averages(gold, predicted)[0]
    ratios = (*summary["micro"].values(), summary["macro"]["f1"], summary["accuracy"])
    return tuple(100 * ratio for ratio in ratios)
