import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from metric import (
    average_precision,
    calibration_error,
    classification_report,
    confused_pairs,
    confusion_costs,
    inconsistent_rows,
    path_report,
    precision_recall,
    recall_at,
    reliability,
)
from text_cls.decision import Decision
from text_cls.label_tree import parent_ids, with_ancestors


def flat(width):
    return np.full(width, -1)


def oracle(gold, predicted, average):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about labels absent from one side
        return precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)


masks = st.tuples(st.integers(1, 12), st.integers(2, 6)).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_against_scikit_learn(case):
    """Random arrays contain labels absent from gold, from prediction and from both, and rows with none."""
    gold, predicted = case
    report = classification_report(gold, predicted, flat(gold.shape[1]))
    assert report["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    for average in ("micro", "macro"):
        expected = oracle(gold, predicted, average)[:3]
        assert [report[average][name] for name in ("precision", "recall", "f1")] == pytest.approx(expected)
    precision, recall, f1, support = oracle(gold, predicted, None)
    assert [c["precision"] for c in report["per_class"]] == pytest.approx(precision)
    assert [c["recall"] for c in report["per_class"]] == pytest.approx(recall)
    assert [c["f1"] for c in report["per_class"]] == pytest.approx(f1)
    assert [c["support"] for c in report["per_class"]] == support.tolist()
    assert [c["predicted"] for c in report["per_class"]] == predicted.sum(axis=0).tolist()
    assert "levels" not in report


def test_equal_names_under_different_parents_are_two_labels():
    labels = ["a", "a##other", "b", "b##other"]
    gold = np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    predicted = np.array([[0, 0, 1, 1], [1, 1, 0, 0]], bool)  # the right names under the wrong parents
    report = classification_report(gold, predicted, parent_ids(labels))
    assert [level["micro"]["f1"] for level in report["levels"]] == [0, 0]


@given(st.data())
def test_levels_are_the_columns_of_their_depth(data):
    labels = ["a", "a##x", "a##x##p", "a##y", "b", "b##x"]
    shape = (data.draw(st.integers(1, 8)), len(labels))
    gold, predicted = data.draw(arrays(bool, shape)), data.draw(arrays(bool, shape))
    report = classification_report(gold, predicted, parent_ids(labels))
    for level, columns in enumerate(([0, 4], [1, 3, 5], [2]), 1):
        of_level = report["levels"][level - 1]
        g, p = gold[:, columns], predicted[:, columns]
        assert of_level["labels"] == len(columns)
        assert of_level["accuracy"] == pytest.approx((g == p).all(axis=1).mean())
        alone = classification_report(g, p, flat(len(columns)))
        assert of_level["micro"] == alone["micro"] and of_level["macro"] == alone["macro"]


def test_hierarchical_f1_adds_ancestors():
    """Silla and Freitas 2011: sums over rows of |ancestors shared|, over predicted, over gold."""
    labels = ["a", "a##x", "a##y", "b"]
    gold = np.array([[0, 1, 0, 0], [0, 0, 0, 1]], bool)  # {a, x}, {b}
    predicted = np.array([[0, 0, 1, 0], [1, 0, 0, 1]], bool)  # {a, y}, {a, b}
    scores = classification_report(gold, predicted, parent_ids(labels))["hierarchical"]
    assert scores == pytest.approx({"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7})


@st.composite
def forests(draw):
    """(parents of a random forest in any order, two bool arrays [rows, labels] that need not be consistent)."""
    size, rows = draw(st.integers(1, 9)), draw(st.integers(1, 6))
    order = draw(st.permutations(range(size)))
    parents = np.full(size, -1)
    for i in range(1, size):
        above = draw(st.integers(-1, i - 1))
        parents[order[i]] = order[above] if above >= 0 else -1
    shape = (rows, size)
    return parents, draw(arrays(bool, shape)), draw(arrays(bool, shape))


def tree_distances(parents):
    """Edges between all pairs of labels and the node above the roots (the last one), by Floyd and Warshall."""
    size = len(parents) + 1
    edges = np.where(np.eye(size, dtype=bool), 0, 10**6)
    for label, parent in enumerate(parents):
        edges[label, parent] = edges[parent, label] = 1  # -1: the last one
    for k in range(size):
        edges = np.minimum(edges, edges[:, k : k + 1] + edges[k : k + 1])
    return edges


@settings(max_examples=300)
@given(forests())
def test_paths_by_brute_force(case):
    parents, gold, predicted = case
    edges = tree_distances(parents)

    def paths(row):
        """Each path as a tuple from the root down."""
        found = []
        for label in np.flatnonzero(row):
            path = [label]
            while parents[path[0]] >= 0:
                path.insert(0, parents[path[0]])
            found.append(tuple(path))
        return {p for p in found if not any(q != p and q[: len(p)] == p for q in found)}

    totals, distances = Counter(), {"missed": [], "wrong": []}
    for g, p in zip(gold, predicted):
        g, p = paths(g), paths(p)
        totals.update(gold=len(g), predicted=len(p), right=len(g & p))
        for name, these, others in (("missed", g, p), ("wrong", p, g)):
            ends = [path[-1] for path in others] or [-1]
            distances[name] += [min(edges[path[-1], end] for end in ends) for path in these - others]
    report = path_report(gold, predicted, parents)
    assert {name: report[name] for name in ("gold", "predicted", "right")} == {**Counter(gold=0), **totals}
    assert report["precision"] == pytest.approx(totals["right"] / max(1, totals["predicted"]))
    assert report["recall"] == pytest.approx(totals["right"] / max(1, totals["gold"]))
    for name, of in distances.items():
        assert report[name]["distances"] == Counter(of) and list(report[name]["distances"]) == sorted(set(of))
        assert report[name]["count"] == len(of)
        assert report[name]["mean"] == pytest.approx(np.mean(of) if of else 0)


@given(forests())
def test_rows_with_exactly_the_right_paths_are_those_with_the_right_set(case):
    parents, gold, predicted = case
    gold, predicted = with_ancestors(gold, parents), with_ancestors(predicted, parents)
    for g, p in zip(gold, predicted):
        report = path_report(g[None], p[None], parents)
        assert (report["gold"] == report["right"] == report["predicted"]) == (g == p).all()


def test_distances_by_hand():
    labels = ["a", "a##x", "a##x##p", "a##x##q", "a##y", "b", "b##z"]
    sets = [  # gold, predicted, and how far the missed and the wrong end lie from the other
        ("a##x##p", "a##x##q", 2),  # a sibling
        ("a##x##p", "a##x", 1),  # a level early
        ("a##x", "a##x##p", 1),  # a level late
        ("a##x##p", "a##y", 3),
        ("a##x##p", "b##z", 5),
    ]
    for gold, predicted, edges in sets:
        rows = [
            with_ancestors(np.array([[name == of for name in labels]]), parent_ids(labels)) for of in (gold, predicted)
        ]
        report = path_report(*rows, parent_ids(labels))
        assert report["missed"] == report["wrong"] == {"count": 1, "mean": edges, "distances": {edges: 1}}
    nothing = np.zeros((1, len(labels)), bool)
    assert path_report(rows[0], nothing, parent_ids(labels))["missed"]["distances"] == {3: 1}
    assert path_report(nothing, nothing, parent_ids(labels))["f1"] == 0


@given(forests())
def test_rows_that_lack_a_parent(case):
    parents, chosen, _ = case
    expected = sum(any(parents[i] >= 0 and not row[parents[i]] for i in np.flatnonzero(row)) for row in chosen)
    assert inconsistent_rows(chosen, parents) == expected
    assert inconsistent_rows(Decision().decide(chosen.astype(float), parents), parents) == 0


def test_no_rows():
    assert path_report(np.zeros((0, 2), bool), np.zeros((0, 2), bool), np.array([-1, 0]))["missed"]["mean"] == 0
    report = classification_report(np.zeros((0, 2), bool), np.zeros((0, 2), bool), flat(2))
    assert report["rows"] == 0 and report["accuracy"] == 0 and report["micro"]["f1"] == 0


scored = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        arrays(bool, n), arrays(np.float64, n, elements=st.sampled_from([0, 0.05, 0.1, 0.25, 0.5, 0.7, 0.95, 1]))
    )
)


@settings(max_examples=200, deadline=None)
@given(scored)
def test_curves_against_scikit_learn(case):
    """Ties, only gold, and no gold at all."""
    gold, probabilities = case
    precision, recall, thresholds = precision_recall(gold, probabilities)
    if not gold.any():
        assert len(precision) == len(recall) == len(thresholds) == 0 and average_precision(precision, recall) == 0
        return
    assert average_precision(precision, recall) == pytest.approx(average_precision_score(gold, probabilities))
    theirs = {t: (p, r) for p, r, t in zip(*precision_recall_curve(gold, probabilities))}
    assert list(zip(precision, recall)) == [pytest.approx(theirs[t]) for t in thresholds]
    assert recall[-1] == 1 and (np.diff(thresholds) < 0).all()


@settings(max_examples=200, deadline=None)
@given(scored, st.integers(1, 12))
def test_calibration_by_hand(case, bins):
    gold, probabilities = case
    sums = reliability(gold, probabilities, bins)
    expected, error = np.zeros((3, bins)), 0
    for y, p in zip(gold, probabilities):
        place = min(int(p * bins), bins - 1)
        expected[:, place] += (1, p, y)
    for count, probability, share in expected.T:
        if count:
            error += count / len(gold) * abs(probability / count - share / count)
    assert sums == pytest.approx(expected) and calibration_error(sums) == pytest.approx(error)
    halves = reliability(gold[::2], probabilities[::2], bins) + reliability(gold[1::2], probabilities[1::2], bins)
    assert halves == pytest.approx(sums)


def test_calibration_against_scikit_learn():
    random = np.random.default_rng(0)
    probabilities = random.random(500)
    gold = random.random(500) < probabilities**2
    count, probability, share = reliability(gold, probabilities)
    theirs = calibration_curve(gold, probabilities, n_bins=10)
    assert (share / count, probability / count) == (pytest.approx(theirs[0]), pytest.approx(theirs[1]))
    assert calibration_error(reliability(gold, gold.astype(float))) == 0
    assert calibration_error(reliability(gold, 1 - gold.astype(float))) == 1


@settings(max_examples=200, deadline=None)
@given(masks, st.booleans())
def test_confused_pairs_by_hand(case, nested):
    gold, predicted = case
    width = gold.shape[1]
    parents = np.array([-1, 0, *[-1] * (width - 2)]) if nested else flat(width)
    level = [2 if i == 1 and nested else 1 for i in range(width)]
    expected, alone = Counter(), Counter()
    for g, p in zip(gold, predicted):
        for m in np.flatnonzero(g & ~p):
            instead = [w for w in np.flatnonzero(p & ~g) if level[w] == level[m]]
            expected.update((m, w) for w in instead)
            alone[m] += not instead
    missed, given_, rows, nothing = confused_pairs(gold, predicted, parents)
    assert dict(zip(zip(missed, given_), rows)) == expected and len(rows) == len(expected)
    assert (np.diff(rows) <= 0).all()
    assert nothing.tolist() == [alone[i] for i in range(width)]


@settings(max_examples=100, deadline=None)
@given(masks)
def test_the_cost_of_a_confusion_is_what_correcting_it_gains(case):
    gold, predicted = case

    def f1(predicted):
        return sum(f1_score(gold, predicted, average=average, zero_division=0) for average in ("micro", "macro"))

    missed, wrong, rows, _ = confused_pairs(gold, predicted, flat(gold.shape[1]))
    costs = confusion_costs(gold, predicted, missed, wrong, rows)
    for m, w, cost in zip(missed, wrong, costs):
        corrected, of_pair = predicted.copy(), gold[:, m] & ~predicted[:, m] & predicted[:, w] & ~gold[:, w]
        corrected[of_pair, m], corrected[of_pair, w] = True, False
        assert cost == pytest.approx(f1(corrected) - f1(predicted))


@given(st.data())
def test_recall_at_against_sets(data):
    rows, labels, k, each = (data.draw(st.integers(least, most)) for least, most in ((0, 6), (1, 7), (0, 9), (1, 3)))
    gold = data.draw(arrays(bool, (rows, labels)))
    found = data.draw(arrays(np.int64, (rows, k, each), elements=st.integers(-1, labels - 1)))
    if each == 1 and data.draw(st.booleans()):
        found = found[:, :, 0]
    recalls = recall_at(gold, found, (5, 1, 3, 50))
    for cutoff, recall in recalls.items():
        shares = []
        for row in range(rows):
            wanted = set(np.flatnonzero(gold[row]))
            if wanted:
                shares.append(len(wanted & set(found[row, :cutoff].ravel().tolist())) / len(wanted))
        assert recall == pytest.approx(np.mean(shares) if shares else 0)
    assert 0 <= recalls[1] <= recalls[3] <= recalls[5] <= recalls[50] <= 1


def test_recall_at_with_one_label_per_row_against_scikit_learn():
    """The share of rows whose label is among the N best is scikit-learn's top-k accuracy."""
    random = np.random.default_rng(5)
    scores, gold = random.random((400, 60)), random.integers(0, 60, 400)
    found = np.argsort(-scores, axis=1)
    recalls = recall_at(np.eye(60, dtype=bool)[gold], found)
    for cutoff, recall in recalls.items():
        assert recall == pytest.approx(top_k_accuracy_score(gold, scores, k=cutoff, labels=range(60)))


def test_recall_at_never_exceeds_one():
    """PaddleNLP's application counted each hit: the label found five times was a recall of 5."""
    found = np.zeros((1, 5), np.int64)
    assert recall_at(np.array([[True]]), found) == {1: 1, 5: 1, 10: 1, 20: 1, 50: 1}
