"""The objectives against scikit-learn, and that figures on unseen rows do come from unseen rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score
from strategies import labelled

from text_cls import cross_fitting, thresholds
from text_cls.decision import Decision


@given(labelled(), st.data())
def test_objectives_are_those_of_scikit_learn(case, data):
    probabilities, gold = case
    predicted = data.draw(arrays(bool, gold.shape))
    micro, macro = (f1_score(gold, predicted, average=average, zero_division=0) for average in ("micro", "macro"))
    if gold.shape[1] == 1:  # scikit-learn takes one column for a binary task
        micro = macro = f1_score(gold[:, 0], predicted[:, 0], zero_division=0)
    assert cross_fitting.value_of(gold, predicted, "micro") == pytest.approx(micro)
    assert cross_fitting.value_of(gold, predicted, "macro") == pytest.approx(macro)
    assert cross_fitting.value_of(gold, predicted, "both") == pytest.approx(micro + macro)
    assert cross_fitting.value_of(gold, predicted, "exact") == pytest.approx((gold == predicted).all(axis=1).mean())


def noise(rows, labels, seed):
    random = np.random.default_rng(seed)
    return random.random((rows, labels)), random.random((rows, labels)) < 0.02


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_on_noise_the_gain_of_fitting_vanishes_on_unseen_rows(seed):
    """Random probabilities: thresholds fitted to the rows themselves look good, cross-fitted ones do not."""
    probabilities, gold = noise(300, 40, seed)
    flat = np.full(40, -1)
    fit = thresholds.fitter(Decision(), "macro", True, False, flat)
    seen = cross_fitting.value_of(gold, fit(probabilities, gold).decide(probabilities, flat), "macro")
    folds = np.array_split(np.random.default_rng(0).permutation(300), 5)
    unseen = cross_fitting.value_of(gold, cross_fitting.cross_fitted(probabilities, gold, folds, fit, flat), "macro")
    everything = cross_fitting.value_of(gold, np.ones_like(gold), "macro")  # by predicting every label
    assert 0 < unseen < 1.5 * everything and seen > 1.5 * unseen


def test_each_row_is_decided_without_itself():
    probabilities, gold = noise(20, 2, 6)
    folds, asked = np.array_split(np.arange(20), 4), []

    def fit(p, g):
        asked.append({tuple(row) for row in p})
        return Decision()

    cross_fitting.cross_fitted(probabilities, gold, folds, fit, np.full(2, -1))
    for test_rows, rows in zip(folds, asked):
        assert len(rows) == 15 and not rows & {tuple(row) for row in probabilities[test_rows]}


def constants(thresholds):
    """Fits that ignore the data."""
    return [lambda p, g, t=t: Decision(threshold=t) for t in thresholds]


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(["micro", "macro", "both", "exact"]))
def test_no_row_influences_how_it_is_decided(seed, objective):
    random = np.random.default_rng(seed)
    probabilities, gold, flat = random.random((24, 3)), random.random((24, 3)) < 0.4, np.full(3, -1)
    folds = np.array_split(random.permutation(24), 4)
    fits = [*constants([0.2, 0.5, 0.8]), thresholds.fitter(Decision(), "both", True, False, flat)]
    predicted = cross_fitting.cross_chosen(probabilities, gold, folds, fits, objective, flat)
    for i, test_rows in enumerate(folds):
        changed = gold.copy()
        changed[test_rows] = random.random((len(test_rows), 3)) < 0.5
        again = cross_fitting.cross_chosen(probabilities, changed, folds, fits, objective, flat)
        assert (again[test_rows] == predicted[test_rows]).all()
        fit = cross_fitting.better_fit(probabilities, gold, folds[:i] + folds[i + 1 :], fits, objective, flat)
        others = np.setdiff1d(np.arange(24), test_rows)
        expected = fit(probabilities[others], gold[others]).decide(probabilities[test_rows], flat)
        assert (predicted[test_rows] == expected).all()


def test_the_best_of_several_is_measured_on_rows_that_did_not_choose_it():
    """Labels that have nothing to do with the probabilities: no threshold is better, one only looks better."""
    flat, fits, apparent, measured = np.full(1, -1), constants(np.arange(1, 20) / 20), [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        probabilities, gold = random.random((60, 1)), random.random((60, 1)) < 0.5
        folds = np.array_split(np.arange(60), 5)
        best = cross_fitting.better_fit(probabilities, gold, folds, fits, "exact", flat)
        apparent.append(cross_fitting.value_of(gold, best(None, None).decide(probabilities, flat), "exact"))
        predicted = cross_fitting.cross_chosen(probabilities, gold, folds, fits, "exact", flat)
        measured.append(cross_fitting.value_of(gold, predicted, "exact"))
    assert np.mean(apparent) > 0.55 > 0.52 > np.mean(measured)


def test_intervals_of_a_gain():
    random = np.random.default_rng(7)
    gold = random.random((400, 6)) < 0.3
    same = random.random(gold.shape) < 0.3
    assert cross_fitting.gain_of(gold, same, same, "both", 3) == (0, 0, 0)
    better = np.where(random.random(gold.shape) < 0.5, gold, same)
    gain, low, high = cross_fitting.gain_of(gold, same, better, "both", 3)
    assert 0 < low < gain < high
    swapped = cross_fitting.gain_of(gold, better, same, "both", 3)
    assert swapped == pytest.approx((-gain, -high, -low))
