"""Exact match, and micro and macro averages of precision, recall and F1, of label sets. Needs only numpy.

`metric.py` reports more. A ratio with a denominator of 0 is 0, as in scikit-learn with `zero_division=0`.
"""

import numpy as np


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, float arrays of the same shape; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator > 0)


def ratios_of(tp, fp, fn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 from counts (arrays of the same shape, or numbers)."""
    tp, fp, fn = (np.asarray(x, dtype=np.float64) for x in (tp, fp, fn))
    return ratio(tp, tp + fp), ratio(tp, tp + fn), ratio(2 * tp, 2 * tp + fp + fn)


def named(precision: float, recall: float, f1: float) -> dict[str, float]:
    """The three as a dict of Python numbers, as in reports."""
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def averages(gold: np.ndarray, predicted: np.ndarray) -> tuple[dict, tuple, tuple]:
    """Averages over labels, and what they are averages of.

    Args:
        gold, predicted: bool arrays [rows, labels].
    Returns:
        {"accuracy": exact match, "micro" and "macro": {"precision", "recall", "f1"}};
        (true positives, false positives, false negatives), int arrays [labels];
        (precision, recall, F1), float arrays [labels].
    """
    tp = (gold & predicted).sum(axis=0)
    counts = tp, predicted.sum(axis=0) - tp, gold.sum(axis=0) - tp
    ratios = ratios_of(*counts)
    summary = {
        "accuracy": float((gold == predicted).all(axis=1).mean()) if len(gold) else 0.0,
        "micro": named(*ratios_of(*(count.sum() for count in counts))),
        "macro": named(*(ratio.mean() if len(ratio) else 0.0 for ratio in ratios)),
    }
    return summary, counts, ratios


def scores(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """{"micro_f1", "macro_f1", "accuracy"} of label sets, bool arrays [rows, labels]; each from 0 to 1.

    accuracy: share of rows whose whole label set is correct. macro_f1: mean over all labels, including those without a
    row.
    """
    summary = averages(gold, predicted)[0]
    return {
        "micro_f1": summary["micro"]["f1"],
        "macro_f1": summary["macro"]["f1"],
        "accuracy": summary["accuracy"],
    }
