"""What the page of `evaluate.py --html` draws: curves, calibration, confused labels, thresholds to try, bad cases."""

from dataclasses import replace

import numpy as np

from metric import average_precision, calibration_error, confused_pairs, confusion_costs, precision_recall, reliability

POINTS = 60  # per curve, which is drawn 300 pixels wide
PAIRS = 200  # of confused labels, the most costly first
BINS = 10
STEPS = 100  # of the thresholds to try


def steps_of(gold, probabilities):
    """For each label, how many rows it is predicted for at thresholds of 0, 0.01 ... 1, and in how many it is right."""
    grid = np.arange(STEPS + 1) / STEPS
    counts = []
    for of_label, chances in zip(gold.T, probabilities.T):
        predicted, right = (
            len(values) - np.searchsorted(np.sort(values), grid, side="right")
            for values in (chances, chances[of_label])
        )
        counts.append([predicted.tolist(), right.tolist()])
    return counts


def decision_of_each(decision, labels):
    """The content of decision.json with a threshold for each label, for the page to change and save."""
    each = np.broadcast_to(decision.threshold, len(labels)).astype(float)
    return replace(decision, threshold=tuple(each.tolist())).content(labels.names)


def curves_of(gold, probabilities):
    """Curves and calibration, of all labels together first, then of each, and the mean calibration error of labels.

    curves: {ap: percent, points: [[recall, precision], ...]}. calibration: {ece: percent, bins: [[mean probability,
    share of gold, count], ...]}, without empty bins. Labels without gold rows have an empty curve.
    """
    columns = [(gold[:, i], probabilities[:, i]) for i in range(gold.shape[1])]
    sums = [reliability(*column, BINS) for column in columns]
    curves = [_curve(gold.ravel(), probabilities.ravel()), *(_curve(*column) for column in columns)]
    calibration = [_calibration(sum(sums)), *map(_calibration, sums)]
    return curves, calibration, float(np.mean([calibration_error(of_label) for of_label in sums]))


def _curve(gold, probabilities):
    precision, recall, _ = precision_recall(gold, probabilities)
    shown = np.unique(np.linspace(0, len(recall) - 1, min(POINTS, len(recall))).astype(int))
    points = np.column_stack([recall, precision])[shown].round(4).tolist()
    return {"ap": round(100 * average_precision(precision, recall), 2), "points": points}


def _calibration(sums):
    count, probability, share = sums[:, sums[0] > 0]
    bins = np.column_stack([probability / count, share / count]).round(4).tolist()
    return {"ece": round(100 * calibration_error(sums), 2), "bins": [[*b, int(n)] for b, n in zip(bins, count)]}


def pairs_of(gold, predicted, parents):
    """[[missed label, label predicted instead, rows, cost], ...], and how many missed labels no wrong label replaces.

    The cost is in points of micro plus macro F1; the pair with the highest comes first.
    """
    missed, instead, rows, alone = confused_pairs(gold, predicted, parents)
    costs = confusion_costs(gold, predicted, missed, instead, rows)
    order = np.argsort(-costs, kind="stable")[:PAIRS]
    cells = zip(*(column[order].tolist() for column in (missed, instead, rows, (100 * costs).round(2))))
    return [list(pair) for pair in cells], int(alone.sum())


def case_of(rows, i, probabilities, gold, predicted, passages):
    """[line, text, [[label, state, probability], ...]]; states: 0 right, 1 missed, 2 wrong.

    If the text has more than one window, start and end of the label's passage follow the probability.
    """
    shown = np.flatnonzero(gold[i] | predicted[i])
    states = np.where(gold[i] & predicted[i], 0, np.where(gold[i], 1, 2))[shown]
    chances = probabilities[i, shown].astype(float).round(3)
    columns = [shown, states, chances]
    if passages is not None and (passages[i, shown] != (0, len(rows.texts[i]))).any():
        columns += [*passages[i, shown].T]
    return [int(rows.lines[i]), rows.texts[i], list(zip(*(column.tolist() for column in columns)))]
