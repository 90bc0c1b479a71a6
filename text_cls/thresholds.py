"""A threshold a label, for scores that one common threshold serves badly: rare labels score low. numpy alone."""

import numpy as np

# By cross-validation within the training rows of the two public sets, of which all, 1,000 or 300 were used: 1 to 20 do
# equally well on all rows; fewer serve macro F1 on few rows, and 0 costs micro F1 there.
PSEUDO_ROWS = 2.0


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
