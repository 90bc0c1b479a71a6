"""How good label sets are: exact match, micro and macro precision/recall/F1, per class, per level, hierarchical.

Of probabilities: precision-recall curves and calibration; and which labels are taken for each other.

Arrays in, dict or arrays out. A ratio with nothing below the line is 0, as in scikit-learn with `zero_division=0`.
"""

import numpy as np

from decision import depths, with_ancestors


def _ratios(tp, fp, fn):
    """Precision, recall and F1 of counts (arrays of one shape, or numbers)."""
    tp, fp, fn = (np.asarray(x, dtype=np.float64) for x in (tp, fp, fn))

    def divide(top, bottom):
        return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)

    return divide(tp, tp + fp), divide(tp, tp + fn), divide(2 * tp, 2 * tp + fp + fn)


def _named(precision, recall, f1):
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def _averages(gold, predicted):
    """Counts of each label, and exact match, micro and macro of the columns given."""
    both = (gold & predicted).sum(axis=0)
    counts = both, predicted.sum(axis=0) - both, gold.sum(axis=0) - both
    ratios = _ratios(*counts)
    summary = {
        "accuracy": float((gold == predicted).all(axis=1).mean()) if len(gold) else 0.0,
        "micro": _named(*_ratios(*(count.sum() for count in counts))),
        "macro": _named(*(ratio.mean() if len(ratio) else 0.0 for ratio in ratios)),
    }
    return summary, counts, ratios


def classification_report(gold, predicted, parents):
    """Everything `evaluate.py` prints.

    Args:
        gold: bool array [rows, labels].
        predicted: bool array [rows, labels].
        parents: int array [labels], `decision.parent_ids` of the label names; -1 for a root.
    Returns:
        dict with
        `rows`; `accuracy`: share of rows whose whole label set is right (subset accuracy);
        `micro`, `macro`: {precision, recall, f1}, macro over every label, those without a gold row included;
        `per_class`: a list in the labels' order of {support, predicted, precision, recall, f1};
        `levels`: a list from level 1 down of {level, labels, accuracy, micro, macro} over the labels of that depth,
        each known by its full path, so that `a##other` and `b##other` are two labels;
        `hierarchical`: {precision, recall, f1} over the sets with all ancestors added, all rows pooled
        (Kiritchenko, Matwin and Famili 2005; Silla and Freitas 2011, section 6).
        Levels and hierarchical are there only where some label has a parent. All ratios are from 0 to 1.
    """
    gold, predicted = np.asarray(gold, dtype=bool), np.asarray(predicted, dtype=bool)
    summary, (tp, fp, fn), ratios = _averages(gold, predicted)
    report = {"rows": len(gold), **summary}
    report["per_class"] = [
        {"support": int(tp[i] + fn[i]), "predicted": int(tp[i] + fp[i]), **_named(*(ratio[i] for ratio in ratios))}
        for i in range(gold.shape[1])
    ]
    if (parents >= 0).any():
        depth = depths(parents)
        report["levels"] = []
        for level in range(1, depth.max() + 1):
            columns = depth == level
            at_level, _, _ = _averages(gold[:, columns], predicted[:, columns])
            report["levels"].append({"level": level, "labels": int(columns.sum()), **at_level})
        closed, _, _ = _averages(with_ancestors(gold, parents), with_ancestors(predicted, parents))
        report["hierarchical"] = closed["micro"]
    return report


def precision_recall(gold, probabilities):
    """Precision and recall at each threshold where recall changes. A label is given from the threshold up.

    Args:
        gold: bool array [n], of one label's rows, or of all pairs of a row and a label (micro).
        probabilities: float array [n].
    Returns:
        (precision, recall, thresholds): float arrays [m], m the number of distinct probabilities that gold has;
        thresholds fall. Empty without gold.
    """
    positive, negative = np.sort(probabilities[gold]), np.sort(probabilities[~gold])
    thresholds = np.unique(positive)[::-1]
    right = len(positive) - np.searchsorted(positive, thresholds)
    wrong = len(negative) - np.searchsorted(negative, thresholds)
    return right / (right + wrong), right / max(1, len(positive)), thresholds


def average_precision(precision, recall):
    """Area below a curve of `precision_recall` as a sum of steps, as scikit-learn's average_precision_score."""
    return float((np.diff(recall, prepend=0) * precision).sum())


def reliability(gold, probabilities, bins=10):
    """Sums of a reliability diagram, over bins of equal width (Guo, Pleiss, Sun and Weinberger 2017).

    Args:
        gold: bool array [n]. probabilities: float array [n] from 0 to 1.
    Returns:
        float array [3, bins]: number of probabilities, their sum, and how many of them are gold. The arrays of
        several labels may be added up. A bin holds its lower end; the last one holds 1 as well.
    """
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    return np.stack([np.bincount(place, weights, bins) for weights in (None, probabilities, gold)])


def calibration_error(sums):
    """Expected calibration error of `reliability`'s sums, from 0 to 1: |mean probability - share of gold| by bin,
    weighted by the numbers of probabilities."""
    return float(np.abs(sums[1] - sums[2]).sum() / max(1, sums[0].sum()))


def confused_pairs(gold, predicted, parents):
    """Which wrong label stands where which gold label is missed.

    A row counts once for each pair of a gold label that it lacks and a wrong label that it has, both of one level.

    Args:
        gold, predicted: bool arrays [rows, labels]. parents: int array [labels] of `decision.parent_ids`.
    Returns:
        (missed, given, rows): int arrays [pairs], the most frequent pair first;
        alone: int array [labels], rows that lack the label and have no wrong one of its level.
    """
    from scipy import sparse

    depth = depths(parents)
    missed, wrong = gold & ~predicted, predicted & ~gold
    pairs = (sparse.csr_matrix(missed, dtype=np.int64).T @ sparse.csr_matrix(wrong, dtype=np.int64)).tocoo()
    kept = depth[pairs.row] == depth[pairs.col]
    arrays = pairs.row[kept], pairs.col[kept], pairs.data[kept]
    order = np.lexsort((arrays[1], arrays[0], -arrays[2]))
    wrong_at = np.stack([wrong[:, depth == level].any(axis=1) for level in range(1, depth.max(initial=0) + 1)], axis=1)
    alone = (missed & ~wrong_at[:, depth - 1]).sum(axis=0)
    return *(array[order] for array in arrays), alone
