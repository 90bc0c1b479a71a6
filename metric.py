"""How good predictions are.

- Label sets: exact match; micro and macro precision, recall and F1; per class, per level, hierarchical; labels that are
  confused with each other.
- Paths of a hierarchy: how many are found, and how far off the wrong ones end.
- Probabilities: precision-recall curves and calibration. Retrieval: recall at k.

Arrays in, dict or arrays out. A ratio with a denominator of 0 is 0, as in scikit-learn with `zero_division=0`.
"""

from collections.abc import Iterable

import numpy as np

from text_cls.label_tree import depths, with_ancestors
from text_cls.scores import averages, named, ratios_of


def classification_report(gold: np.ndarray, predicted: np.ndarray, parents: np.ndarray) -> dict:
    """The figures that `evaluate.py` prints for label sets.

    Args:
        gold: bool array [rows, labels].
        predicted: bool array [rows, labels].
        parents: int array [labels] from `label_tree.parent_ids`; -1 for a root.
    Returns:
        dict with
        `rows`; `accuracy`: share of rows whose whole label set is right (subset accuracy);
        `micro`, `macro`: {precision, recall, f1}, macro over all labels, including those without a gold row;
        `per_class`: a list in the order of the labels of {support, predicted, precision, recall, f1};
        `levels`: a list from level 1 down of {level, labels, accuracy, micro, macro} over the labels of that depth;
        labels are full paths, so that `a##other` and `b##other` are two labels;
        `hierarchical`: {precision, recall, f1} of the sets with all ancestors added, all rows pooled (Kiritchenko,
        Matwin and Famili 2005; Silla and Freitas 2011, section 6).
        `levels` and `hierarchical` are present only if some label has a parent. All ratios are from 0 to 1.
    """
    gold, predicted = np.asarray(gold, dtype=bool), np.asarray(predicted, dtype=bool)
    summary, (tp, fp, fn), ratios = averages(gold, predicted)
    report = {"rows": len(gold), **summary}
    report["per_class"] = [
        {"support": int(tp[i] + fn[i]), "predicted": int(tp[i] + fp[i]), **named(*(ratio[i] for ratio in ratios))}
        for i in range(gold.shape[1])
    ]
    if (parents >= 0).any():
        depth = depths(parents)
        report["levels"] = []
        for level in range(1, depth.max() + 1):
            columns = depth == level
            at_level, _, _ = averages(gold[:, columns], predicted[:, columns])
            rows = int(gold[:, columns].any(axis=1).sum())  # that have a label of the level
            report["levels"].append({"level": level, "labels": int(columns.sum()), **at_level, "rows": rows})
        closed, _, _ = averages(with_ancestors(gold, parents), with_ancestors(predicted, parents))
        report["hierarchical"] = closed["micro"]
    return report


def recall_at(gold: np.ndarray, found: np.ndarray, cutoffs: Iterable[int] = (1, 5, 10, 20, 50)) -> dict[int, float]:
    """Share of a row's gold labels among the labels of its N nearest entries, mean over the rows with a gold label.

    If each row has one gold label, this is the share of rows that are hit. It never exceeds 1, however often a label is
    found.

    Args:
        gold: bool array [rows, labels]; of a hierarchy, the deepest labels.
        found: int array [rows, k] or [rows, k, n]: the label, or up to n labels, of each entry, the nearest first; -1
            for none.
        cutoffs: the numbers N. Beyond k nothing more is found.
    Returns:
        {N: recall from 0 to 1}; 0 if no row has a gold label.
    """
    gold = np.asarray(gold, dtype=bool)
    found = np.asarray(found)
    each = found.shape[2] if found.ndim == 3 else 1
    wanted = gold.sum(axis=1)
    seen = np.zeros((len(gold), gold.shape[1] + 1), dtype=bool)  # the last column is that of -1
    recalls, before = {}, 0
    for cutoff in sorted(cutoffs):
        entries = found[:, before:cutoff]
        np.put_along_axis(seen, entries.reshape(len(gold), each * entries.shape[1]), True, axis=1)
        before = cutoff
        shares = (seen[:, :-1] & gold).sum(axis=1)[wanted > 0] / wanted[wanted > 0]
        recalls[cutoff] = float(shares.mean()) if len(shares) else 0.0
    return recalls


def path_report(gold: np.ndarray, predicted: np.ndarray, parents: np.ndarray) -> dict:
    """How well whole paths of a hierarchy are found, and how far off the wrong ones end.

    A path is identified by its end, a label without another label of the row's set below it. Two rows have the same
    paths if they have the same label set, ancestors added, so the share of rows with exactly the right paths is
    `accuracy` of `classification_report`; here each path counts on its own. A path that ends a level early or late is
    wrong.

    The distance of two labels is the number of edges between them in the tree (tree-induced error, Dekel, Keshet and
    Singer 2004; its place among hierarchical measures: Kosmopoulos et al. 2015), where one more node is the parent of
    all roots: 1 to the parent, 2 to a sibling. As in the pair-based measures of the latter, a path's end is compared
    with the nearest end of the other side; a row without labels ends at the node above the roots.

    Args:
        gold, predicted: bool arrays [rows, labels]. parents: int array [labels] from `label_tree.parent_ids`.
    Returns:
        dict with
        `gold`, `predicted`, `right`: numbers of paths; `precision`, `recall`, `f1` of them, from 0 to 1;
        `missed`: gold paths that were not predicted, `wrong`: predicted paths that are not gold, both as
        {count, mean: edges to the nearest path end of the other side (0 without such paths),
        distances: {edges: number of paths}, ascending}.
    """
    gold, predicted = (_ends(np.asarray(side, dtype=bool), parents) for side in (gold, predicted))
    right, ends = int((gold & predicted).sum()), (int(gold.sum()), int(predicted.sum()))
    ratios = named(*ratios_of(right, ends[1] - right, ends[0] - right))
    report = {"gold": ends[0], "predicted": ends[1], "right": right, **ratios}
    for name, these, others in (("missed", gold, predicted), ("wrong", predicted, gold)):
        edges = _edges_to_nearest(*np.nonzero(these & ~others), others, parents)
        counts = np.bincount(edges)
        distances = {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
        report[name] = {"count": len(edges), "mean": float(edges.mean()) if len(edges) else 0.0, "distances": distances}
    return report


def _ends(chosen, parents):
    """The labels of each row with no other of its labels below them: bool array [rows, labels]."""
    ends = chosen.copy()
    rows, columns = np.nonzero(chosen)
    while len(rows):
        columns = parents[columns]
        rows, columns = rows[columns >= 0], columns[columns >= 0]
        ends[rows, columns] = False
    return ends


def _edges_to_nearest(rows, columns, ends, parents):
    """Edges from each entry (rows, columns: int arrays [n]) to the nearest of its row's ends (bool [rows, labels])."""
    top = len(parents)  # the node above the roots
    depth, above = np.append(depths(parents), 0), np.append(np.where(parents < 0, top, parents), top)
    # For each end and every label above it: the least depth of an end below. Where the ways up from an entry and from
    # an end meet, this gives the length of both.
    end_rows, end_columns = np.nonzero(ends)
    empty = np.flatnonzero(~ends.any(axis=1))
    end_rows, end_columns = np.append(end_rows, empty), np.append(end_columns, np.full(len(empty), top))
    nodes, least, place = [], [], end_columns
    for _ in range(depth.max(initial=0) + 1):
        nodes.append(end_rows * (top + 1) + place)
        least.append(depth[end_columns])
        place = above[place]
    nodes, least = np.concatenate(nodes), np.concatenate(least)
    order = np.lexsort((least, nodes))
    nodes, first = np.unique(nodes[order], return_index=True)
    least = least[order][first]
    nearest, place = np.full(len(rows), np.iinfo(np.int64).max), columns
    for _ in range(depth.max(initial=0) + 1):
        wanted = rows * (top + 1) + place
        found = np.minimum(np.searchsorted(nodes, wanted), len(nodes) - 1)
        edges = depth[columns] + least[found] - 2 * depth[place]
        nearest = np.where(nodes[found] == wanted, np.minimum(nearest, edges), nearest)
        place = above[place]
    return nearest


def inconsistent_rows(chosen: np.ndarray, parents: np.ndarray) -> int:
    """Number of rows that have a label without its parent. chosen: bool array [rows, labels]; parents: int [labels]."""
    below = np.flatnonzero(parents >= 0)
    return int((chosen[:, below] & ~chosen[:, parents[below]]).any(axis=1).sum())


def precision_recall(gold: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall at each threshold where recall changes. A label is predicted from the threshold up.

    Args:
        gold: bool array [n], for the rows of one label, or for all pairs of a row and a label (micro).
        probabilities: float array [n].
    Returns:
        (precision, recall, thresholds): float arrays [m], m the number of distinct probabilities of gold entries;
        thresholds descend. Empty if there are no gold entries.
    """
    positive, negative = np.sort(probabilities[gold]), np.sort(probabilities[~gold])
    thresholds = np.unique(positive)[::-1]
    right = len(positive) - np.searchsorted(positive, thresholds)
    wrong = len(negative) - np.searchsorted(negative, thresholds)
    return right / (right + wrong), right / max(1, len(positive)), thresholds


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area below a curve of `precision_recall` as a sum of steps, like scikit-learn's average_precision_score."""
    return float((np.diff(recall, prepend=0) * precision).sum())


def reliability(gold: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> np.ndarray:
    """Sums for a reliability diagram, by bins of equal width (Guo, Pleiss, Sun and Weinberger 2017).

    Args:
        gold: bool array [n]. probabilities: float array [n] from 0 to 1.
    Returns:
        float array [3, bins]: number of probabilities, their sum, and how many of them are gold. The arrays of
        several labels can be added. A bin includes its lower end; the last one also includes 1.
    """
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    return np.stack([np.bincount(place, weights, bins) for weights in (None, probabilities, gold)])


def calibration_error(sums: np.ndarray) -> float:
    """Expected calibration error from the sums of `reliability`, from 0 to 1.

    It is the mean of |mean probability - share of gold| of each bin, weighted by the number of probabilities in it.
    """
    return float(np.abs(sums[1] - sums[2]).sum() / max(1, sums[0].sum()))


def confused_pairs(
    gold: np.ndarray, predicted: np.ndarray, parents: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which wrong labels are predicted instead of which gold labels.

    A row counts once for each pair of a gold label that it misses and a wrong label that it has, both of one level.

    Args:
        gold, predicted: bool arrays [rows, labels]. parents: int array [labels] from `label_tree.parent_ids`.
    Returns:
        (missed, wrong, rows): int arrays [pairs], the most frequent pair first;
        alone: int array [labels], rows that miss the label and have no wrong label of its level.
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


def confusion_costs(
    gold: np.ndarray, predicted: np.ndarray, missed: np.ndarray, wrong: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """What a pair of `confused_pairs` costs: what micro plus macro F1 gain if its rows have the missed label instead.

    Costs of pairs do not add up: a row may count for several pairs.

    Args:
        gold, predicted: bool arrays [rows, labels]. missed, wrong, rows: int arrays [pairs] of `confused_pairs`.
    Returns:
        float array [pairs], from 0 to 2.
    """
    right = (gold & predicted).sum(axis=0)
    counted = gold.sum(axis=0) + predicted.sum(axis=0)  # 2 TP + FP + FN

    def f1(right, counted):
        return 2 * right / np.maximum(counted, 1)

    before = f1(right, counted)
    gained = f1(right[missed] + rows, counted[missed] + rows) - before[missed]
    gained += f1(right[wrong], counted[wrong] - rows) - before[wrong]
    return 2 * rows / max(counted.sum(), 1) + gained / max(len(counted), 1)
