"""How good label sets are: exact match, micro and macro precision/recall/F1, per class, per level, hierarchical.

Arrays in, dict out. A ratio with nothing below the line is 0, as in scikit-learn with `zero_division=0`.
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
