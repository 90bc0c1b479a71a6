"""Thresholds and temperature fitted to labelled rows, and what they gain on rows that they were not fitted to.

Probabilities and gold labels in, a `Decision` out. A gain is told from folds: each row is decided by what the other
folds say, so that the figure is one for new rows; on the very rows they are fitted to, thresholds always gain.
"""

from dataclasses import replace

import numpy as np

from metric import classification_report
from text_cls.thresholds import PSEUDO_ROWS, LabelCounts, gaps

FEWEST = 50  # rows; below, folds say little
OBJECTIVES = {
    "micro": "micro F1",
    "macro": "macro F1",
    "both": "micro F1 + macro F1",
    "exact": "rows with just the right labels",
}
GRID = np.arange(1, 100) / 100  # of one threshold for all labels: two digits, that people can remember
ROUNDS, AT_ONCE = 1000, 50  # of the bootstrap


def fit_temperature(probabilities, gold):
    """The temperature under which the probabilities have the lowest log-loss (Guo et al. 2017), from 0.05 to 20."""
    from scipy.optimize import minimize_scalar

    logits = _logits(probabilities)
    found = minimize_scalar(
        lambda log_t: log_loss(logits / np.exp(log_t), gold), bounds=(-3, 3), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def _logits(probabilities):
    probabilities = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(probabilities) - np.log1p(-probabilities)


def log_loss(logits, gold):
    """Mean over all rows and labels, in nats."""
    return float((np.logaddexp(0, logits) - gold * logits).mean())


def log_loss_of(probabilities, gold):
    """The same of probabilities."""
    return log_loss(_logits(probabilities), gold)


def fit_one(probabilities, gold, objective):
    """The threshold of `GRID` that serves the objective best on all labels together; of equals, that nearest to 0.5."""
    values = _values_on_grid(probabilities, gold, objective)
    best = np.flatnonzero(np.isclose(values, max(values), rtol=0, atol=1e-12))
    return float(GRID[best[np.argmin(np.abs(GRID[best] - 0.5))]])


def _values_on_grid(probabilities, gold, objective):
    """The objective at each threshold of `GRID`, from one look at the probabilities: float64 [thresholds]."""
    (rows, labels), size = gold.shape, len(GRID)
    grid = GRID.astype(probabilities.dtype)
    flat = np.flatnonzero((probabilities > grid[0]) | gold)
    row, label, held = flat // labels, flat % labels, gold.ravel()[flat]
    passed = np.searchsorted(grid, probabilities.ravel()[flat])  # so many thresholds, the lowest ones, are exceeded
    if objective == "exact":
        wrong, right = np.zeros(rows, dtype=np.int64), np.full(rows, size)
        np.maximum.at(wrong, row[~held], passed[~held])  # from there on no wrong label passes
        np.minimum.at(right, row[held], passed[held])  # and up to there all gold ones do
        exact = (wrong[:, None] <= np.arange(size)) & (np.arange(size) < right[:, None])
        return exact.mean(axis=0) if rows else np.zeros(size)
    hits, given = (
        np.bincount(label[of] * (size + 1) + passed[of], minlength=labels * (size + 1))
        .reshape(labels, size + 1)[:, :0:-1].cumsum(axis=1)[:, ::-1].astype(np.float64)
        for of in (held, slice(None))
    )  # fmt: skip
    both = given + gold.sum(axis=0)[:, None]
    micro, macro = _ratio(2 * hits.sum(axis=0), both.sum(axis=0)), _ratio(2 * hits, both).mean(axis=0)
    return {"micro": micro, "macro": macro, "both": micro + macro}[objective]


def fit_each(probabilities, gold, objective):
    """A threshold for each label, float64 [labels]: chosen one after the other, from frequent labels to rare ones.

    Each is the best while the others stay as they are, tried at every gap between the label's probabilities. The F1 of
    rare labels is drawn toward that of all labels (see `thresholds.fit_thresholds`), where the objective counts labels.
    """
    start = fit_one(probabilities, gold, objective)
    thresholds, predicted = np.full(gold.shape[1], start), probabilities > probabilities.dtype.type(start)
    right = (gold & predicted).sum(axis=0).astype(np.float64)
    given = predicted.sum(axis=0).astype(np.float64)
    wrong_labels = (gold != predicted).sum(axis=1)
    pooled = LabelCounts(probabilities.ravel(), gold.ravel())
    # In the candidates' type: else each search would convert all of it.
    pooled.all, pooled.held = pooled.all.astype(np.float64), pooled.held.astype(np.float64)
    share = PSEUDO_ROWS / pooled.positive if pooled.positive else 0.0
    columns = np.ascontiguousarray(probabilities.T, dtype=np.float64)
    support = gold.sum(axis=0)

    def value_of_label(label, hits, above, pooled_hits, pooled_above):
        """The objective, were the label given to `above` rows, `hits` of them rightly, and the others as now."""
        value = np.zeros(len(above))
        if objective in ("micro", "both"):
            top = 2 * (right.sum() - right[label] + hits)
            value += _ratio(top, given.sum() - given[label] + above + pooled.positive)
        if objective in ("macro", "both"):
            bottom = above + support[label] + share * (pooled_above + pooled.positive)
            value += _ratio(2 * (hits + share * pooled_hits), bottom) / gold.shape[1]
        return value

    for label in np.argsort(-support, kind="stable"):
        scores, held = columns[label], gold[:, label]
        likely = np.arange(len(scores))
        if objective != "exact":
            # What is reached now cannot be reached where more rows have the label than so many, were all else perfect.
            passed = scores > start
            now = value_of_label(label, (passed & held).sum(), np.array([passed.sum()]), *pooled.above([start]))
            most = value_of_label(label, support[label], np.arange(len(scores) + 1.0), pooled.positive, pooled.positive)
            fewer = len(scores) - int(np.flatnonzero(most >= now - 1e-9)[-1]) - 1
            if fewer > 0:
                likely = np.argpartition(scores, fewer)[fewer:]
        own = LabelCounts(scores[likely], held[likely])
        candidates = gaps(own.all)
        if len(likely) < len(scores):
            candidates = candidates[:-1]  # below all of them: there, others count, too
        candidates = np.append(candidates, start)
        if objective == "exact":
            others = wrong_labels == (held != predicted[:, label])  # rows whose other labels are right
            hits, above = LabelCounts(scores[others], held[others]).above(candidates)
            value = hits + (~held[others]).sum() - (above - hits)
        else:
            value = value_of_label(label, *own.above(candidates), *pooled.above(candidates))
        best = np.flatnonzero(value >= value.max() - 1e-12)
        chosen = candidates[best[np.argmin(np.abs(candidates[best] - start))]]
        wrong_labels += (held != (scores > chosen)).astype(int) - (held != predicted[:, label])
        predicted[:, label] = scores > chosen
        right[label], given[label] = (held & predicted[:, label]).sum(), predicted[:, label].sum()
        thresholds[label] = chosen
    return np.clip(thresholds, 0, 1)


def fit_target(probabilities, gold, precision=None, recall=None):
    """The lowest threshold with at least this precision, or the highest with at least this recall, on these entries.

    Args:
        probabilities: float array [n]; gold: bool array [n], of one label's rows.
    Returns:
        threshold; where none reaches the precision, that with the highest.
    """
    counts = LabelCounts(probabilities.astype(np.float64), gold)
    candidates = np.clip(gaps(counts.all), 0, 1)  # from high to low
    hits, above = counts.above(candidates)
    if recall is not None:
        good = np.flatnonzero(hits >= recall * counts.positive - 1e-9)
        return float(candidates[good[0]])
    ratio = _ratio(hits, above)
    good = np.flatnonzero((ratio >= precision - 1e-12) & (above > 0))
    if len(good):
        return float(candidates[good[-1]])
    return float(candidates[int(np.argmax(ratio))])


def fit_one_target(decision, probabilities, gold, parents, precision=None, recall=None):
    """The lowest threshold of `GRID` at which the label sets have at least this precision, or the highest for a recall.

    The sets are those of `decision`, with parents and counts. Where none reaches it, the threshold that comes nearest.
    """
    ratios = []
    for threshold in GRID:
        decided = replace(decision, threshold=float(threshold)).decide(probabilities, parents)
        of = gold if precision is None else decided
        ratios.append((gold & decided).sum() / of.sum() if decided.any() else 0.0)
    good = np.flatnonzero(np.array(ratios) >= (recall if precision is None else precision) - 1e-12)
    if not len(good):
        return float(GRID[int(np.argmax(ratios))])
    return float(GRID[good[-1] if precision is None else good[0]])


def _ratio(top, bottom):
    return np.divide(top, bottom, out=np.zeros_like(bottom), where=bottom > 0)


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
    micro = _ratio(2 * right.sum(axis=1), both.sum(axis=1))
    macro = _ratio(2 * right, both).mean(axis=1)
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


def fitter(decision, objective, each, temperature, parents, precision=None, recall=None):
    """A function of (probabilities, gold) that gives `decision` with thresholds, and a temperature, of these rows.

    Args:
        each: a threshold for each label, or one for all.
        temperature: whether to fit one.
        precision, recall: to be reached, in place of the objective.
    """

    def fit(probabilities, gold):
        fitted = replace(decision, temperature=fit_temperature(probabilities, gold)) if temperature else decision
        shown = fitted.calibrated(probabilities)
        if precision is None and recall is None:
            threshold = (fit_each if each else fit_one)(shown, gold, objective)
        elif each:
            columns = zip(shown.T, gold.T)
            threshold = np.array([fit_target(p, g, precision, recall) for p, g in columns])
        else:
            threshold = fit_one_target(fitted, probabilities, gold, parents, precision, recall)
        return replace(fitted, threshold=tuple(threshold.tolist()) if each else threshold)

    return fit


def figures(gold, predicted, parents):
    """(micro precision, recall and F1, macro F1, exact match) of label sets, in percent."""
    report = classification_report(gold, predicted, parents)
    ratios = (*report["micro"].values(), report["macro"]["f1"], report["accuracy"])
    return tuple(100 * ratio for ratio in ratios)
