import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from decision import parent_ids
from metric import classification_report

FLAT = np.full(4, -1)


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
    """Random arrays hold labels absent from gold, from prediction and from both, and rows with none."""
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


def test_no_rows():
    report = classification_report(np.zeros((0, 2), bool), np.zeros((0, 2), bool), flat(2))
    assert report["rows"] == 0 and report["accuracy"] == 0 and report["micro"]["f1"] == 0
