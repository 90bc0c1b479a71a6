"""What fitted thresholds gain on rows that they were not fitted to.

A gain is measured by folds: each row is decided by what was fitted to the other folds, so that the figure holds for new
rows. On the very rows they are fitted to, thresholds always gain.
"""

import numpy as np

from text_cls import thresholds
from text_cls.scores import averages, ratio

FEWEST = 50  # rows; with fewer, folds say little
ROUNDS, AT_ONCE = 1000, 50  # of the bootstrap


def value_of(gold, predicted, objective):
    """The objective, from 0 to 1 (both: to 2), of bool arrays [rows, labels]."""
    return float(_values(*_cells(gold, predicted), np.ones((1, len(gold))), objective)[0])


def _cells(gold, predicted):
    """What is counted: right labels, and gold plus predicted ones, sparse [rows, labels]; rows without an error."""
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
    """Row numbers of each fold, as `cross_fitted` takes them: a list of int arrays.

    Each label is spread evenly over the folds, and rows with the same text are in the same one (see `splitting`). With
    fewer distinct texts than `folds`, each text is a fold.
    """
    from text_cls.splitting import stratified_split

    texts = list(texts)
    folds = min(folds, len(set(texts)))
    if folds < 2:
        return [np.arange(len(texts))]
    return stratified_split(gold, texts, [1 / folds] * folds, seed)


def cross_fitted(probabilities, gold, folds, fit, parents):
    """Label sets of all rows, each decided by what `fit` makes of the rows of the other folds.

    Args:
        folds: list of int arrays, row numbers, none twice.
        fit: takes probabilities and gold of some rows, returns a `Decision`.
    Returns:
        bool array [rows, labels]; False in rows of no fold.
    """
    predicted = np.zeros_like(gold)
    for test_rows, others in _turns(folds):
        predicted[test_rows] = _decided_by(others, fit, probabilities, gold, parents, test_rows)
    return predicted


def _turns(folds):
    """(row numbers of a fold, list of the other folds) for each fold; a single one is paired with a fold of no rows."""
    for i, test_rows in enumerate(folds):
        yield test_rows, folds[:i] + folds[i + 1 :] or [test_rows[:0]]


def _decided_by(folds, fit, probabilities, gold, parents, test_rows):
    """Label sets of the test rows by what `fit` makes of the rows of some folds."""
    train_rows = np.sort(np.concatenate(folds))
    return fit(probabilities[train_rows], gold[train_rows]).decide(probabilities[test_rows], parents)


def better_fit(probabilities, gold, folds, fits, objective, parents):
    """The one of several fits whose cross-fitted label sets have the best objective; in a tie, the first."""
    rows = np.concatenate(folds)

    def value(fit):
        return value_of(gold[rows], cross_fitted(probabilities, gold, folds, fit, parents)[rows], objective)

    return max(fits, key=value)


def cross_chosen(probabilities, gold, folds, fits, objective, parents):
    """`cross_fitted` with a choice of fits: each fold is decided by the `better_fit` of the other folds.

    The figure of the best of several fits is too high on the very rows that it was chosen by (Cawley and Talbot 2010,
    "On over-fitting in model selection"); in these nested folds no row takes part in how it is decided.
    """
    predicted = np.zeros_like(gold)
    for test_rows, others in _turns(folds):
        fit = better_fit(probabilities, gold, others, fits, objective, parents)
        predicted[test_rows] = _decided_by(others, fit, probabilities, gold, parents, test_rows)
    return predicted


def _resamples(count, seed):
    """Yields how often each of `count` rows is drawn in each round of a bootstrap: float arrays [some rounds, rows]."""
    random, share = np.random.default_rng(seed), np.full(count, 1 / count)
    for _ in range(ROUNDS // AT_ONCE):
        yield random.multinomial(count, share, size=AT_ONCE).astype(np.float64)


def gain_of(gold, before, after, objective, seed):
    """How much better `after` is than `before`: (gain, low, high), the last two the bootstrap's 95 percent interval.

    Rows are drawn with replacement (Efron 1979), the same ones for both. The interval covers the chance in drawing
    rows, not the chance in fitting.
    """
    cells_before, cells_after = _cells(gold, before), _cells(gold, after)
    gains = []
    for weights in _resamples(len(gold), seed):
        gains.append(_values(*cells_after, weights, objective) - _values(*cells_before, weights, objective))
    low, high = np.quantile(gains, [0.025, 0.975])
    return value_of(gold, after, objective) - value_of(gold, before, objective), float(low), float(high)


def intervals(gold, predicted, seed):
    """The bootstrap's 95 percent intervals of scores: {"micro_f1", "macro_f1", "accuracy": (low, high)}; see `gain_of`.

    A label with few rows may have none among those drawn. Its F1 would then count as 0 and pull macro F1 down, below
    the score itself; so a round averages over the labels it has, and those that no row has stay at 0.

    Args:
        gold, predicted: bool arrays [rows, labels].
    """
    right, both, exact = _cells(gold, predicted)
    used = float((both.sum(axis=0) > 0).mean())
    found = {"micro_f1": [], "macro_f1": [], "accuracy": []}
    for weights in _resamples(len(gold), seed):
        rights, boths = (right.T @ weights.T).T, (both.T @ weights.T).T  # [rounds, labels]
        found["micro_f1"].append(ratio(2 * rights.sum(axis=1), boths.sum(axis=1)))
        found["macro_f1"].append(
            used * ratio(ratio(2 * rights, boths).sum(axis=1), (boths > 0).sum(axis=1, dtype=float))
        )
        found["accuracy"].append(weights @ exact / len(gold))
    return {name: tuple(map(float, np.quantile(values, [0.025, 0.975]))) for name, values in found.items()}


def figures(gold, predicted):
    """(micro precision, recall and F1, macro F1, exact match) of label sets, in percent."""
    summary = averages(gold, predicted)[0]
    ratios = (*summary["micro"].values(), summary["macro"]["f1"], summary["accuracy"])
    return tuple(100 * ratio for ratio in ratios)


def chosen_decision(base, probabilities, targets, folds, parents, seed):
    """`base` with fitted thresholds, if they gain more than chance on rows that they were not fitted to.

    One threshold for all labels and one per label are tried; the gain is that of the better one in micro plus macro F1.

    Args:
        base: `Decision`.
        probabilities: float [rows, labels], each row's by a model that has not seen it. targets: bool [rows, labels].
        folds: as in `cross_fitted`.
    Returns:
        (`Decision`, label sets of the rows by it out of fold, bool [rows, labels]).
    """
    before = base.decide(probabilities, parents)
    fits = [thresholds.fitter(base, "both", each, False, parents) for each in (False, True)]
    data = probabilities, targets, folds
    after = cross_chosen(*data, fits, "both", parents) if len(folds) > 2 else before
    if gain_of(targets, before, after, "both", seed)[1] <= 0:
        return base, before
    return better_fit(*data, fits, "both", parents)(probabilities, targets), after
