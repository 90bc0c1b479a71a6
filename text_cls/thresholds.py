"""A threshold a label, for scores that one common threshold serves badly: rare labels score low. numpy alone."""

from dataclasses import replace

import numpy as np

from text_cls.probabilities import logit
from text_cls.scores import ratio

# By cross-validation within the training rows of the two public sets, of which all, 1,000 or 300 were used: 1 to 20 do
# equally well on all rows; fewer serve macro F1 on few rows, and 0 costs micro F1 there.
PSEUDO_ROWS = 2.0
OBJECTIVES = {
    "micro": "micro F1",
    "macro": "macro F1",
    "both": "micro F1 + macro F1",
    "exact": "rows with just the right labels",
}
GRID = np.arange(1, 100) / 100  # of one threshold for all labels: two digits, that people can remember


def fit_thresholds(scores, targets, pseudo_rows=PSEUDO_ROWS):
    """Thresholds that make each label's F1 highest, those of rare labels drawn toward what suits all labels.

    A threshold a label is SCut (Yang 2001, "A study of thresholding strategies for text categorization"); its optimum
    for F1 is found by trying every gap between scores, of which none is better known beforehand (Lipton, Elkan and
    Naryanaswamy 2014). A label with few rows says little of its best threshold, and SCut overfits there (Yang 2001; Lin
    and Lin, CIKM 2023, who smooth F1 for that). Here F1 of a label is counted as if it had `pseudo_rows` positive rows
    more, which behave as those of all labels together do: with many rows of its own a label goes its own way, with none
    it gets the common threshold.

    Args:
        scores: float array [rows, labels], of a model that has not seen the row; any scale that labels share.
        targets: bool array [rows, labels].
        pseudo_rows: 0 or more; 0 is plain SCut.
    Returns:
        float array [labels] of the scores' type; a label is predicted where its score is above.
    """
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    pooled = LabelCounts(scores.ravel(), targets.ravel())
    share = pseudo_rows / pooled.positive if pooled.positive else 0.0
    thresholds = np.zeros(scores.shape[1], dtype=scores.dtype)
    for label in range(scores.shape[1]):
        own = LabelCounts(scores[:, label], targets[:, label])
        candidates = gaps(own.all)
        hits, predicted = own.above(candidates)
        pooled_hits, pooled_predicted = pooled.above(candidates)
        top = 2 * (hits + share * pooled_hits)
        bottom = predicted + own.positive + share * (pooled_predicted + pooled.positive)
        f1 = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        thresholds[label] = candidates[np.argmax(f1)]
    return thresholds


class LabelCounts:
    """all, held: scores of all entries and of the positive ones, in rising order."""

    def __init__(self, scores, targets):
        self.all, self.held = np.sort(scores), np.sort(scores[targets])
        self.positive = len(self.held)

    def above(self, thresholds):
        """Positive entries, and all, above each threshold: two float arrays."""
        return tuple(
            (len(values) - np.searchsorted(values, thresholds, side="right")).astype(np.float64)
            for values in (self.held, self.all)
        )


def gaps(ordered):
    """A threshold in each gap between different scores, the highest first: above all of them, then downward."""
    distinct = np.unique(ordered)
    low, high = distinct[:-1], distinct[1:]
    middle = low + (high - low) / 2
    middle = np.where(middle < high, middle, low)  # neighbours in their type have nothing between them
    return np.concatenate([distinct[-1:], middle[::-1], np.nextafter(distinct[:1], -np.inf)])


def fit_temperature(probabilities, gold):
    """The temperature under which the probabilities have the lowest log-loss (Guo et al. 2017), from 0.05 to 20."""
    from scipy.optimize import minimize_scalar

    logits = logit(probabilities, 1e-7)
    found = minimize_scalar(
        lambda log_t: log_loss(logits / np.exp(log_t), gold), bounds=(-3, 3), method="bounded", options={"xatol": 1e-3}
    )
    return float(np.exp(found.x))


def log_loss(logits, gold):
    """Mean over all rows and labels, in nats."""
    return float((np.logaddexp(0, logits) - gold * logits).mean())


def log_loss_of(probabilities, gold):
    """The same of probabilities."""
    return log_loss(logit(probabilities, 1e-7), gold)


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
        .reshape(labels, size + 1)[:, :0:-1]
        .cumsum(axis=1)[:, ::-1]
        .astype(np.float64)
        for of in (held, slice(None))
    )
    both = given + gold.sum(axis=0)[:, None]
    micro, macro = ratio(2 * hits.sum(axis=0), both.sum(axis=0)), ratio(2 * hits, both).mean(axis=0)
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
            value += ratio(top, given.sum() - given[label] + above + pooled.positive)
        if objective in ("macro", "both"):
            bottom = above + support[label] + share * (pooled_above + pooled.positive)
            value += ratio(2 * (hits + share * pooled_hits), bottom) / gold.shape[1]
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
    reached = ratio(hits, above)
    good = np.flatnonzero((reached >= precision - 1e-12) & (above > 0))
    if len(good):
        return float(candidates[good[-1]])
    return float(candidates[int(np.argmax(reached))])


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
