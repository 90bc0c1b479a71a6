"""What changed between a reference and later texts: rates with intervals, histograms, F1 estimated without labels.

Counts in, figures out; see `text_cls.reference`.
"""

import numpy as np

from text_cls.reference import PREDICTED, REST, Counts, Reference

FEWEST = 50  # rows on either side; with fewer, the comparison says nothing
LEVEL = 0.05  # chance of any false alarm among all labels
Z = 1.959964  # of a 95 percent interval
ROUNDS = 1000  # of the parametric bootstrap


def wilson(count, rows):
    """95 percent interval of a share, (low, high), by Wilson's score (1927); arrays work as well."""
    share = count / rows
    middle = share + Z**2 / (2 * rows)
    half = Z * np.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    return (middle - half) / (1 + Z**2 / rows), (middle + half) / (1 + Z**2 / rows)


def newcombe(before, rows_before, after, rows_after):
    """95 percent interval of the rise of a share, (low, high): Newcombe 1998, method 10, of Wilson's intervals."""
    shares = before / rows_before, after / rows_after
    (low_1, high_1), (low_2, high_2) = wilson(before, rows_before), wilson(after, rows_after)
    rise = shares[1] - shares[0]
    low = rise - np.sqrt((shares[1] - low_2) ** 2 + (high_1 - shares[0]) ** 2)
    return low, rise + np.sqrt((high_2 - shares[1]) ** 2 + (shares[0] - low_1) ** 2)


def holm(p_values):
    """p-values corrected for as many tests (Holm 1979), whatever depends on what: float array of the same length."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values, kind="stable")
    corrected = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    result = np.empty(len(order))
    result[order] = np.minimum(1, corrected)
    return result


def rate_of(before, rows_before, after, rows_after):
    """{"before", "after", "low", "high"}: shares from 0 to 1, and the interval of the rise."""
    low, high = newcombe(before, rows_before, after, rows_after)
    shares = {"before": before / rows_before, "after": after / rows_after}
    return {name: float(value) for name, value in {**shares, "low": low, "high": high}.items()}


def compare_labels(names, before, rows_before, after, rows_after):
    """How often each label is predicted, before and after.

    Args:
        before, after: int arrays [labels], rows with each label.
    Returns:
        [{"label", "before", "after", "low", "high", "p", "changed"}], the largest change first: shares, the interval of
        the rise, the p-value of Fisher's exact test corrected by Holm, and whether it is below `LEVEL`. Labels that no
        row has, or all, could not show a change, and do not count as tests.
    """
    from scipy.stats import fisher_exact

    total, p_values = np.asarray(before) + np.asarray(after), np.ones(len(names))
    tested = np.flatnonzero((total > 0) & (total < rows_before + rows_after))
    tables = ([[before[i], rows_before - before[i]], [after[i], rows_after - after[i]]] for i in tested)
    p_values[tested] = holm([fisher_exact(table)[1] for table in tables])
    found = [
        {"label": name, **rate_of(b, rows_before, a, rows_after), "p": float(p), "changed": bool(p < LEVEL)}
        for name, b, a, p in zip(names, before, after, p_values)
    ]
    return sorted(found, key=lambda label: (label["p"], -abs(label["after"] - label["before"])))


def distance(before, after):
    """Total variation distance of two histograms, from 0 (the same shares) to 1 (no bin in common)."""
    return float(np.abs(before / max(1, before.sum()) - after / max(1, after.sum())).sum() / 2)


# ------------------------------------------------------------------------------------------------------ F1 by estimate


def gold_rates(reference: Reference) -> np.ndarray:
    """Which share of the scores in each bin is of gold labels: float [2, bins]; bins without any get one in between."""
    cells = reference.counts.scores.sum(axis=2)
    rates = reference.gold_scores / np.maximum(1, cells)
    for half in (REST, PREDICTED):
        filled = np.flatnonzero(cells[half])
        if len(filled):
            rates[half] = np.interp(np.arange(len(rates[half])), filled, rates[half, filled])
    return rates


def f1_of(right, predicted, gold):
    """F1 from counts of right, predicted and gold labels; arrays work as well. 0 where there is nothing."""
    return 2 * right / np.maximum(predicted + gold, 1e-12)


def estimated_f1(reference: Reference, counts: Counts, seed: int) -> dict:
    """The F1 of predictions without labels: confidence-based performance estimation.

    Each score counts as the share of gold labels that scores like it have on dev (histogram calibration, one for the
    labels that a row has got, one for the others), so that right, wrong and missed labels can be added up. It holds if
    a score still means what it meant on dev; a text of a new kind, on which the model is sure and wrong, escapes it
    (Garg et al. 2022, https://arxiv.org/abs/2201.04234, section 3).

    Returns:
        {"micro_f1": [value, low, high], "micro_f1_drop": [value, low, high]}, from 0 to 1: 95 percent intervals of a
        parametric bootstrap of both files. With scores by label, also "macro_f1": [value].
    """
    rates, scores = gold_rates(reference), counts.scores.sum(axis=2)
    before, random = reference.counts.scores.sum(axis=2), np.random.default_rng(seed)
    right, missed = (rates * scores)[[PREDICTED, REST]].sum(axis=1)
    value = float(f1_of(right, scores[PREDICTED].sum(), right + missed))
    drawn = random.binomial(before, np.clip(rates, 0, 1), (ROUNDS, *rates.shape)) / np.maximum(1, before)
    drawn = np.where(before > 0, drawn, rates)
    parts = random.binomial(scores, np.clip(drawn, 0, 1)).sum(axis=2)
    after = f1_of(parts[:, PREDICTED], scores[PREDICTED].sum(), parts.sum(axis=1))
    parts = (drawn * before).sum(axis=2)
    drops = f1_of(parts[:, PREDICTED], before[PREDICTED].sum(), parts.sum(axis=1)) - after
    low, high, least, most = (float(np.quantile(values, q)) for values in (after, drops) for q in (0.025, 0.975))
    found = {
        "micro_f1": [value, min(low, value), max(high, value)],
        "micro_f1_drop": [reference.micro_f1 - value, least, most],
    }
    if counts.scores.shape[2] == len(reference.labels):
        rise = _macro(rates, counts.scores) - _macro(rates, reference.counts.scores)
        found["macro_f1"] = [float(np.clip(reference.macro_f1 + rise, 0, 1))]
    return found


def _macro(rates, scores):
    """Macro F1 from scores by label, int [2, bins, labels], with the same worth of a score for all labels."""
    right, missed = (rates[:, :, None] * scores)[[PREDICTED, REST]].sum(axis=1)
    return float(f1_of(right, scores[PREDICTED].sum(axis=0), right + missed).mean())


def compare(reference: Reference, counts: Counts, known: list[int], seed: int) -> dict:
    """All figures.

    Args:
        counts: of the later texts. known: numbers of the labels that were counted one by one.
    Returns:
        dict of JSON values: "rows", "too_few", "labels" (of `compare_labels`), "changed_labels" (their number),
        "not_compared" (number of labels), "without_label" (of `rate_of`), "unknown_tokens" and "tokens_per_text"
        ({"before", "after"}), "scores" and "lengths" ({"before", "after": counts, "distance"}), "f1" (of
        `estimated_f1`, with that of dev as "reference").
    """
    before, names = reference.counts, [reference.labels[i] for i in known]
    rows = before.rows, counts.rows
    labels = compare_labels(names, before.labels[known], rows[0], counts.labels[known], rows[1]) if rows[1] else []
    shares = [(each.unknown / max(1, each.tokens), each.tokens / max(1, each.rows)) for each in (before, counts)]
    histograms = {}
    for name in ("scores", "lengths"):
        pair = [getattr(each, name) for each in (before, counts)]
        pair = [each.sum(axis=(0, 2)) if name == "scores" else each for each in pair]
        pair_lists = {"before": pair[0].tolist(), "after": pair[1].tolist()}
        histograms[name] = {**pair_lists, "distance": distance(*pair)}
    return {
        "rows": {"before": rows[0], "after": rows[1]},
        "too_few": min(rows) < FEWEST,
        "labels": labels,
        "changed_labels": sum(label["changed"] for label in labels),
        "not_compared": len(reference.labels) - len(known),
        "without_label": rate_of(before.without_label, rows[0], counts.without_label, max(1, rows[1])),
        "unknown_tokens": {"before": shares[0][0], "after": shares[1][0]},
        "tokens_per_text": {"before": shares[0][1], "after": shares[1][1]},
        **histograms,
        "f1": {
            **estimated_f1(reference, counts, seed),
            "reference": {"micro_f1": reference.micro_f1, "macro_f1": reference.macro_f1},
        },
    }
