"""Fits thresholds, and a temperature, to probabilities and gold labels: one threshold for all labels, or one per label.

Needs only numpy, and scipy for the temperature.
"""

from dataclasses import replace

import numpy as np

from text_cls.language import N_
from text_cls.probabilities import logit
from text_cls.scores import ratio

# Chosen by cross-validation within the training rows of the two public sets, using all, 1,000 or 300 of them: on all
# rows, 1 to 20 do equally well; on few rows, fewer help macro F1, and 0 costs micro F1.
PSEUDO_ROWS = 2.0
OBJECTIVES = {
    "micro": N_("micro F1"),
    "macro": N_("macro F1"),
    "both": N_("micro F1 + macro F1"),
    "exact": N_("rows with exactly the right labels"),
}
GRID = np.arange(1, 100) / 100  # of one threshold for all labels: two digits, easy to remember


# -------------------------------------------------------------------------------------------------------------- counts


class LabelCounts:
    """Sorted scores, in which hits and predictions at any threshold are counted by binary search.

    Args:
        scores: float array [n]; positive: bool array [n], the entries whose gold label is set.
        dtype: of the thresholds to come, if not that of the scores: each search would convert all scores otherwise.
    """

    def __init__(self, scores, positive, dtype=None):
        self.all = np.sort(scores).astype(dtype or scores.dtype, copy=False)
        self.of_positive = np.sort(scores[positive]).astype(dtype or scores.dtype, copy=False)
        self.positive = len(self.of_positive)

    def above(self, thresholds):
        """Positive entries, and all entries, above each threshold: two float arrays."""
        return _count_above(self.of_positive, thresholds), _count_above(self.all, thresholds)


def _count_above(ordered, thresholds):
    return (len(ordered) - np.searchsorted(ordered, thresholds, side="right")).astype(np.float64)


class Smoothing:
    """F1 of a label counted as if it had `pseudo_rows` more positive rows, on which it does as well as all labels do.

    Args:
        pooled: `LabelCounts` of the scores of all labels together.
    """

    def __init__(self, pooled, pseudo_rows):
        self.pooled = pooled
        self.share = pseudo_rows / pooled.positive if pooled.positive else 0.0

    def f1(self, hits, above, positive, pooled_hits, pooled_above):
        """F1 of `positive` gold rows and `above` predicted ones, `hits` of them right; float arrays of one shape."""
        numerator = 2 * (hits + self.share * pooled_hits)
        return ratio(numerator, above + positive + self.share * (pooled_above + self.pooled.positive))


def gaps(scores):
    """A threshold in each gap between different scores, the highest first: above all of them, then downward."""
    distinct = np.unique(scores)
    low, high = distinct[:-1], distinct[1:]
    middle = low + (high - low) / 2
    middle = np.where(middle < high, middle, low)  # there is nothing between neighbours in their type
    return np.concatenate([distinct[-1:], middle[::-1], np.nextafter(distinct[:1], -np.inf)])


# ------------------------------------------------------------------------------------------------ by F1 and exact match


def fit_thresholds(scores, targets, pseudo_rows=PSEUDO_ROWS):
    """One threshold per label, the one with the highest F1; thresholds of rare labels are drawn toward a common one.

    One threshold per label is SCut (Yang 2001, "A study of thresholding strategies for text categorization"); its
    optimum for F1 is found by trying every gap between scores, since none is known in advance to be better (Lipton,
    Elkan and Naryanaswamy 2014). A label with few rows says little about its best threshold, and SCut overfits there
    (Yang 2001; Lin and Lin, CIKM 2023, who smooth F1 for that). Here `Smoothing` adds rows to each label that behave as
    those of all labels together do: a label with many rows of its own gets its own threshold, one with none gets the
    common threshold.

    Args:
        scores: float array [rows, labels], of a model that has not seen the row; any scale that labels share.
        targets: bool array [rows, labels].
        pseudo_rows: 0 or more; 0 is plain SCut.
    Returns:
        float array [labels] of the scores' type; a label is predicted if its score is above.
    """
    scores, targets = np.asarray(scores), np.asarray(targets, dtype=bool)
    smoothing = Smoothing(LabelCounts(scores.ravel(), targets.ravel()), pseudo_rows)
    thresholds = np.zeros(scores.shape[1], dtype=scores.dtype)
    for label in range(scores.shape[1]):
        counts = LabelCounts(scores[:, label], targets[:, label])
        candidates = gaps(counts.all)
        f1 = smoothing.f1(*counts.above(candidates), counts.positive, *smoothing.pooled.above(candidates))
        thresholds[label] = candidates[np.argmax(f1)]
    return thresholds


def fit_one(probabilities, gold, objective):
    """The threshold of `GRID` with the best objective for all labels together; in a tie, the one nearest to 0.5."""
    values = _values_on_grid(probabilities, gold, objective)
    best = np.flatnonzero(np.isclose(values, max(values), rtol=0, atol=1e-12))
    return float(GRID[best[np.argmin(np.abs(GRID[best] - 0.5))]])


def _values_on_grid(probabilities, gold, objective):
    """The objective at each threshold of `GRID`, from one pass over the probabilities: float64 [thresholds]."""
    (rows, labels), size = gold.shape, len(GRID)
    grid = GRID.astype(probabilities.dtype)
    flat = np.flatnonzero((probabilities > grid[0]) | gold)
    row, label, positive = flat // labels, flat % labels, gold.ravel()[flat]
    exceeded = np.searchsorted(grid, probabilities.ravel()[flat])  # number of thresholds, the lowest ones
    if objective == "exact":
        wrong, right = np.zeros(rows, dtype=np.int64), np.full(rows, size)
        np.maximum.at(wrong, row[~positive], exceeded[~positive])  # from this threshold on, no wrong label is predicted
        np.minimum.at(right, row[positive], exceeded[positive])  # and below this one, all gold labels are
        exact = (wrong[:, None] <= np.arange(size)) & (np.arange(size) < right[:, None])
        return exact.mean(axis=0) if rows else np.zeros(size)
    hits = _counts_on_grid(label[positive], exceeded[positive], labels)
    above = _counts_on_grid(label, exceeded, labels)
    both = above + gold.sum(axis=0)[:, None]
    micro, macro = ratio(2 * hits.sum(axis=0), both.sum(axis=0)), ratio(2 * hits, both).mean(axis=0)
    return {"micro": micro, "macro": macro, "both": micro + macro}[objective]


def _counts_on_grid(label, exceeded, labels):
    """Entries of each label above each threshold of `GRID`: float64 [labels, thresholds].

    Args:
        label: int array [n], the label of an entry; exceeded: int array [n], the number of thresholds that it exceeds.
    """
    size = len(GRID) + 1
    counts = np.bincount(label * size + exceeded, minlength=labels * size).reshape(labels, size)
    # Above threshold i, counted from 0, is what exceeds i + 1 thresholds or more: a sum from the right.
    return counts[:, :0:-1].cumsum(axis=1)[:, ::-1].astype(np.float64)


def fit_each(probabilities, gold, objective):
    """One threshold per label, float64 [labels], chosen one after the other, from frequent labels to rare ones.

    Each is the best while the others keep theirs; every gap between the label's probabilities is a candidate. If the
    objective contains macro F1, `Smoothing` draws thresholds of rare labels toward a common one.
    """
    start = fit_one(probabilities, gold, objective)
    criterion = LabelObjective(probabilities, gold, objective, start)
    for label in np.argsort(-gold.sum(axis=0), kind="stable"):
        rows = rows_worth_trying(criterion, label)
        candidates = gaps(criterion.scores[label, rows])
        if len(rows) < len(gold):
            candidates = candidates[:-1]  # below all of them: rows that were left out would count as well
        candidates = np.append(candidates, start)
        values = criterion.at(label, candidates, rows)
        best = candidates[values >= values.max() - 1e-12]
        criterion.commit(label, best[np.argmin(np.abs(best - start))])
    return np.clip(criterion.thresholds, 0, 1)


class LabelObjective:
    """The objective as a function of one label's threshold, while the other labels keep theirs.

    Every label starts with the threshold `start`; `commit` gives a label its own.

    Args:
        probabilities: float array [rows, labels]; gold: bool array [rows, labels]. objective: one of `OBJECTIVES`.
    """

    def __init__(self, probabilities, gold, objective, start):
        self.objective, self.start = objective, start
        # By label, since one is worked on at a time: [labels, rows].
        self.scores = np.ascontiguousarray(probabilities.T, dtype=np.float64)
        self.gold = np.ascontiguousarray(gold.T)
        self.predicted = np.ascontiguousarray((probabilities > probabilities.dtype.type(start)).T)
        self.thresholds = np.full(len(self.gold), start)
        self.positive = self.gold.sum(axis=1)
        self.hits = (self.gold & self.predicted).sum(axis=1).astype(np.float64)
        self.above = self.predicted.sum(axis=1).astype(np.float64)
        self.wrong_labels = (self.gold != self.predicted).sum(axis=0)  # of each row
        pooled = LabelCounts(probabilities.ravel(), gold.ravel(), np.float64)
        self.smoothing = Smoothing(pooled, PSEUDO_ROWS)

    def at(self, label, thresholds, rows):
        """The objective at each threshold of a label; for "exact", the number of rows with exactly the right labels.

        rows: int array, those that may exceed one of the thresholds.
        """
        if self.objective == "exact":
            return self.exact(label, thresholds)
        counts = LabelCounts(self.scores[label, rows], self.gold[label, rows])
        return self.value(label, *counts.above(thresholds), *self.smoothing.pooled.above(thresholds))

    def value(self, label, hits, above, pooled_hits, pooled_above):
        """The objective if the label is predicted for `above` rows, and rightly for `hits` of them.

        pooled_hits, pooled_above: the same counts for all labels together, at the same threshold.
        """
        value = np.zeros(len(above))
        if self.objective in ("micro", "both"):
            all_hits = self.hits.sum() - self.hits[label] + hits
            value += ratio(2 * all_hits, self.above.sum() - self.above[label] + above + self.smoothing.pooled.positive)
        if self.objective in ("macro", "both"):
            f1 = self.smoothing.f1(hits, above, self.positive[label], pooled_hits, pooled_above)
            value += f1 / len(self.gold)
        return value

    def exact(self, label, thresholds):
        """Rows whose labels are all right at each threshold of a label: float64 [thresholds]."""
        mistaken = self.gold[label] != self.predicted[label]
        undecided = self.wrong_labels == mistaken  # rows whose other labels are right
        positive = self.gold[label, undecided]
        hits, above = LabelCounts(self.scores[label, undecided], positive).above(thresholds)
        return hits + (~positive).sum() - (above - hits)

    def commit(self, label, threshold):
        """Gives the label this threshold."""
        gold, predicted = self.gold[label], self.scores[label] > threshold
        self.wrong_labels += (gold != predicted).astype(int) - (gold != self.predicted[label])
        self.predicted[label], self.thresholds[label] = predicted, threshold
        self.hits[label], self.above[label] = (gold & predicted).sum(), predicted.sum()


def rows_worth_trying(criterion, label):
    """Rows between whose scores the label's best threshold must lie: int array, all rows if nothing can be excluded.

    What a threshold that predicts the label for n rows can reach is bounded by a number that depends on n alone. With h
    of the n rows right (h <= p, the label's positive rows), x right ones among y predictions of all labels together
    (x <= y, x <= P, the positive ones of all labels) and the share s of `Smoothing`:

    - micro F1 grows with h, so it is at most that of h = p;
    - smoothed F1, 2 (h + s x) / (n + p + s (y + P)), grows with h as well and falls with y, so it is at most
      2 (p + s x) / (n + p + s (x + P)), which grows with x: at most that of x = y = P.

    Both bounds fall as n grows. Let m be the largest n whose bound reaches the value at the present threshold. A better
    threshold predicts m rows or fewer, so it is not below the (m + 1)-th highest score. The bound holds for a single
    label's counts; a row's exact match depends on other labels as well, so for "exact" no row is excluded.
    """
    scores, gold, pooled = criterion.scores[label], criterion.gold[label], criterion.smoothing.pooled
    if criterion.objective == "exact":
        return np.arange(len(scores))
    above = scores > criterion.start
    hits_now, above_now = (above & gold).sum(), np.array([above.sum()])
    now = criterion.value(label, hits_now, above_now, *pooled.above([criterion.start]))
    counts = np.arange(len(scores) + 1.0)
    bounds = criterion.value(label, criterion.positive[label], counts, pooled.positive, pooled.positive)
    most = int(np.flatnonzero(bounds >= now - 1e-9)[-1])
    excluded = len(scores) - (most + 1)
    return np.argpartition(scores, excluded)[excluded:] if excluded > 0 else np.arange(len(scores))


# ---------------------------------------------------------------------------------------------------------- by a target


def fit_target(probabilities, gold, precision=None, recall=None):
    """The lowest threshold with at least this precision, or the highest with at least this recall, for one label.

    Args:
        probabilities: float array [rows]; gold: bool array [rows].
    Returns:
        threshold; if none reaches the target, the one that comes nearest: a row with a probability of exactly 0 is
        above no threshold.
    """
    counts = LabelCounts(probabilities.astype(np.float64), gold)
    candidates = np.clip(gaps(counts.all), 0, 1)  # from high to low
    hits, above = counts.above(candidates)
    if recall is not None:
        good = np.flatnonzero(hits >= min(recall * counts.positive - 1e-9, hits.max()))
        return float(candidates[good[0]])
    reached = ratio(hits, above)
    good = np.flatnonzero((reached >= precision - 1e-12) & (above > 0))
    if len(good):
        return float(candidates[good[-1]])
    return float(candidates[int(np.argmax(reached))])


def fit_one_target(decision, probabilities, gold, parents, precision=None, recall=None):
    """The lowest threshold of `GRID` at which the label sets have at least this precision, or the highest for a recall.

    The sets are those of `decision`, with parents and counts. If no threshold reaches the target, returns the one that
    comes nearest.
    """
    ratios = []
    for threshold in GRID:
        predicted = replace(decision, threshold=float(threshold)).decide(probabilities, parents)
        denominator = (gold if precision is None else predicted).sum()
        ratios.append((gold & predicted).sum() / denominator if predicted.any() else 0.0)
    good = np.flatnonzero(np.array(ratios) >= (recall if precision is None else precision) - 1e-12)
    if not len(good):
        return float(GRID[int(np.argmax(ratios))])
    return float(GRID[good[-1] if precision is None else good[0]])


# ---------------------------------------------------------------------------------------------------------- temperature


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
    """`log_loss` of probabilities."""
    return log_loss(logit(probabilities, 1e-7), gold)


# ------------------------------------------------------------------------------------------------------- whole decision


def fitter(decision, objective, each, temperature, parents, precision=None, recall=None):
    """A function of (probabilities, gold) that returns `decision` with thresholds, and a temperature, fitted to them.

    Args:
        each: whether to fit one threshold per label, or one for all.
        temperature: whether to fit one.
        precision, recall: the target to reach instead of the best objective, or None.
    """

    def fit(probabilities, gold):
        fitted = replace(decision, temperature=fit_temperature(probabilities, gold)) if temperature else decision
        calibrated = fitted.calibrated(probabilities)
        if precision is None and recall is None:
            threshold = (fit_each if each else fit_one)(calibrated, gold, objective)
        elif each:
            columns = zip(calibrated.T, gold.T)
            threshold = np.array([fit_target(p, g, precision, recall) for p, g in columns])
        else:
            threshold = fit_one_target(fitted, probabilities, gold, parents, precision, recall)
        return replace(fitted, threshold=tuple(threshold.tolist()) if each else threshold)

    return fit
