import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from strategies import labelled

from text_cls import cross_fitting, thresholds
from text_cls.decision import Decision
from text_cls.label_tree import with_ancestors
from text_cls.probabilities import sigmoid
from text_cls.thresholds import PSEUDO_ROWS, fit_thresholds, gaps


@st.composite
def scored(draw):
    rows, labels = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    # Few values, some of them neighbours in their type, so that ties and empty gaps occur.
    values = [kind(x) for x in (-3, -0.5, 0, 0.25, 1)] + [np.nextafter(kind(x), kind(2)) for x in (0, 1)]
    scores = draw(arrays(kind, (rows, labels), elements=st.sampled_from(values)))
    return scores, draw(arrays(bool, (rows, labels)))


def f1(gold, predicted, pooled=(0, 0)):
    numerator = 2 * (gold & predicted).sum() + pooled[0]
    denominator = predicted.sum() + gold.sum() + pooled[1]
    return numerator / denominator if denominator else 0.0


@given(scored(), st.sampled_from([0, 0.5, 10]))
def test_no_set_of_rows_that_a_threshold_can_choose_is_better(data, pseudo_rows):
    """Oracle: every threshold between the label's own scores, tried one by one."""
    scores, targets = data
    found = fit_thresholds(scores, targets, pseudo_rows)
    assert found.dtype == scores.dtype and found.shape == (scores.shape[1],)

    def value(label, threshold):
        pooled = (0, 0)
        if targets.any():
            above = scores > threshold
            share = pseudo_rows / targets.sum()
            pooled = 2 * share * (above & targets).sum(), share * (above.sum() + targets.sum())
        return f1(targets[:, label], scores[:, label] > threshold, pooled)

    for label in range(scores.shape[1]):
        own = sorted(set(scores[:, label].tolist()))
        # Nothing lies between neighbours in their type: the lower one is then the gap.
        between = [max(low, min((low + high) / 2, np.nextafter(high, low))) for low, high in zip(own, own[1:])]
        below = np.nextafter(scores[:, label].min(), scores.dtype.type(-9))
        gaps = [below, *np.array([own[-1], *between], scores.dtype)]
        best = max(value(label, gap) for gap in gaps)
        assert value(label, found[label]) == pytest.approx(best)


def test_a_gap_is_cut_in_its_middle():
    assert fit_thresholds(np.array([[-1.0], [0.0], [1.0]]), np.array([[False], [False], [True]])) == [0.5]


def test_between_neighbours_the_lower_one_is_the_threshold():
    """There is no number in the gap; its middle is rounded down for the first pair, and up for the second."""
    following = np.nextafter(1.0, 2)
    for low, high in ((1.0, following), (following, np.nextafter(following, 2))):
        assert fit_thresholds(np.array([[low], [high]]), np.array([[False], [True]])) == [low]


@given(scored())
def test_labels_that_no_row_has(data):
    """Nothing is predicted if no row has a label."""
    scores, targets = data
    targets = np.zeros_like(targets)
    assert not (scores > fit_thresholds(scores, targets)).any()


def test_rare_labels_get_the_common_threshold_and_frequent_ones_their_own():
    random = np.random.default_rng(3)
    targets = random.random((4000, 12)) < 0.2
    scores = np.where(targets, 0.0, -2.0) + random.normal(0, 0.4, targets.shape)  # best cut near -1
    targets[:, 0] = False
    targets[[5, 6], 0] = True
    scores[:, 0] = random.normal(-2, 0.4, 4000)
    scores[[5, 6], 0] = 3.0, 3.1  # two rows only: their own best threshold could be anywhere up to 3
    scores[:, 1] += 5  # a label of 800 rows on another scale
    plain, drawn = fit_thresholds(scores, targets, 0), fit_thresholds(scores, targets, 10)
    common = np.median(drawn[2:])
    assert common == pytest.approx(-0.9, abs=0.2)
    assert plain[0] > 0.5 and abs(drawn[0] - common) < 0.4
    assert drawn[1] == pytest.approx(common + 5, abs=0.3)


def test_a_label_is_judged_as_if_it_had_two_more_rows():
    """Two rows at 2, and some others at 1, where the common threshold, 0, would predict them all the same.

    With s more rows, its own threshold has an F1 of 4 / (4 + s), the common one (4 + 2 s) / (4 + 2 s + others).
    """

    def threshold(others):
        scores, targets = np.full((100, 2), -1.0), np.zeros((100, 2), dtype=bool)
        scores[:40, 0], targets[:40, 0] = 1, True  # a frequent label
        scores[:2, 1], targets[:2, 1] = 2, True
        scores[2 : 2 + others, 1] = 1
        return fit_thresholds(scores, targets)[1]

    assert threshold(others=3) == 0 and threshold(others=6) == 1.5


def test_thresholds_help_on_unseen_rows():
    """What they are for: labels of very different frequency, and scores whose zero is not the best cut."""
    random = np.random.default_rng(4)
    shares = np.geomspace(0.004, 0.3, 15)
    targets = random.random((3000, 15)) < shares
    shift = np.log(shares)  # a rare label's scores are low throughout, as those of an SVM are
    scores = (np.where(targets, 1.0, -1.0) + shift / 2 + random.normal(0, 0.7, targets.shape)).astype(np.float32)
    half = 1500

    def macro(thresholds):
        predicted = scores[half:] > thresholds
        return np.mean([f1(targets[half:, i], predicted[:, i]) for i in range(15)])

    assert macro(fit_thresholds(scores[:half], targets[:half])) > macro(0) + 0.1


@given(labelled(), st.sampled_from(sorted(thresholds.OBJECTIVES)))
def test_no_common_threshold_is_better(case, objective):
    probabilities, gold = case
    best = max(cross_fitting.value_of(gold, probabilities > t, objective) for t in thresholds.GRID)
    found = thresholds.fit_one(probabilities, gold, objective)
    assert cross_fitting.value_of(gold, probabilities > found, objective) == pytest.approx(best)


def every_gap(probabilities, gold, objective):
    """`fit_each` without its shortcut: tries all gaps of all labels."""
    start, size = thresholds.fit_one(probabilities, gold, objective), gold.shape[1]
    fitted, total = np.full(size, start), gold.sum()
    share = PSEUDO_ROWS / total if total else 0
    for label in np.argsort(-gold.sum(axis=0), kind="stable"):
        candidates, values = [*gaps(np.sort(probabilities[:, label])), start], []
        for candidate in candidates:
            tried = np.where(np.arange(size) == label, candidate, fitted)
            predicted, value = probabilities > tried, 0
            if objective == "exact":
                value += (predicted == gold).all(axis=1).sum()
            if objective in ("micro", "both") and predicted.sum() + total:
                value += 2 * (predicted & gold).sum() / (predicted.sum() + total)
            if objective in ("macro", "both"):
                pooled, positive = probabilities > candidate, gold[:, label]
                numerator = 2 * ((predicted[:, label] & positive).sum() + share * (pooled & gold).sum())
                denominator = predicted[:, label].sum() + positive.sum() + share * (pooled.sum() + total)
                value += numerator / denominator / size if denominator else 0
            values.append(value)
        best = np.flatnonzero(np.array(values) >= max(values) - 1e-12)
        fitted[label] = min((candidates[i] for i in best), key=lambda t: abs(t - start))
    return np.clip(fitted, 0, 1)


@settings(max_examples=80)
@given(st.integers(0, 10**6), st.sampled_from(sorted(thresholds.OBJECTIVES)), st.sampled_from([0.03, 0.1, 0.4]))
def test_no_skipped_gap_is_better(seed, objective, share):
    random = np.random.default_rng(seed)
    gold = random.random((random.integers(1, 60), random.integers(1, 6))) < share
    probabilities = sigmoid(np.where(gold, 1, -3) + random.normal(0, 1.5, gold.shape)).astype(np.float64)
    if seed % 2:
        probabilities = probabilities.round(1)  # ties
    found = thresholds.fit_each(probabilities, gold, objective)
    assert found == pytest.approx(every_gap(probabilities, gold, objective), abs=1e-12)


@pytest.mark.parametrize("objective", thresholds.OBJECTIVES)
def test_a_label_of_all_rows_is_predicted_for_all_of_them(objective):
    """Although a common threshold would be too high for the lowest of its probabilities, 0.1."""
    gold = np.zeros((20, 6), dtype=bool)
    gold[:, 0], gold[::2, 1:] = True, True
    probabilities = np.where(gold, 0.8, 0.5)
    probabilities[:, 0] = np.linspace(0.1, 0.9, 20)
    assert (probabilities > thresholds.fit_each(probabilities, gold, objective)).tolist() == gold.tolist()


@given(labelled(), st.sampled_from(["micro", "exact"]))
def test_one_threshold_per_label_is_no_worse_than_a_common_one_and_no_better_than_the_best(case, objective):
    probabilities, gold = case
    found = cross_fitting.value_of(gold, probabilities > thresholds.fit_each(probabilities, gold, objective), objective)
    one = cross_fitting.value_of(gold, probabilities > thresholds.fit_one(probabilities, gold, objective), objective)
    candidates = [-1.0, 0.1, 0.3, 0.4, 0.6, 0.7, 0.9]
    best = max(
        cross_fitting.value_of(gold, probabilities > np.array(each), objective)
        for each in itertools.product(candidates, repeat=gold.shape[1])
    )
    assert one - 1e-9 <= found <= best + 1e-9


@given(labelled(1), st.floats(0.1, 1))
def test_targets(case, target):
    probabilities, gold = case[0].ravel(), case[1].ravel()

    def ratios(threshold):
        given_ = probabilities > threshold
        hits = (gold & given_).sum()
        return hits / max(1, given_.sum()), hits / max(1, gold.sum()), given_.sum()

    between = [0, 0.1, 0.3, 0.4, 0.6, 0.7]
    threshold = thresholds.fit_target(probabilities, gold, precision=target)
    possible = [t for t in between if ratios(t)[2] and ratios(t)[0] >= target - 1e-12]
    if possible:
        assert ratios(threshold)[0] >= target - 1e-12
        assert ratios(threshold)[1] == max(ratios(t)[1] for t in possible)
    else:
        assert ratios(threshold)[0] == max(ratios(t)[0] for t in between)
    threshold = thresholds.fit_target(probabilities, gold, recall=target)
    if gold.any():
        assert ratios(threshold)[1] >= target - 1e-9
        assert ratios(threshold)[2] == min(ratios(t)[2] for t in between if ratios(t)[1] >= target - 1e-9)


def test_rows_with_a_probability_of_0_are_above_no_threshold():
    probabilities, gold = np.array([0.0, 0.0, 0.2, 0.6]), np.array([True, False, True, False])
    threshold = thresholds.fit_target(probabilities, gold, recall=0.9)
    assert 0 <= threshold < 0.2 and (probabilities > threshold)[gold].sum() == 1
    assert 0 <= thresholds.fit_target(np.zeros(3), np.array([True, False, True]), recall=0.5) <= 1
    threshold = thresholds.fit_target(probabilities, gold, recall=0.5)  # which can be reached
    assert 0 <= threshold < 0.2


def test_one_threshold_reaches_a_target_of_the_sets_as_decided():
    """With parents: labels that they add count as well."""
    random = np.random.default_rng(9)
    parents = np.array([-1, 0, 0, -1, 3])
    gold = with_ancestors(random.random((600, 5)) < 0.2, parents)
    probabilities = sigmoid(np.where(gold, 1.0, -1.5) + random.normal(0, 1.2, gold.shape))
    for target in ({"precision": 0.8}, {"recall": 0.8}):
        threshold = thresholds.fit_one_target(Decision(), probabilities, gold, parents, **target)

        def ratio(threshold, precision="precision" in target):
            decided = Decision(threshold=threshold).decide(probabilities, parents)
            return (gold & decided).sum() / (decided if precision else gold).sum()

        assert ratio(threshold) >= 0.8
        assert ratio(threshold + (-0.01 if "precision" in target else 0.01)) < 0.8
    assert thresholds.fit_one_target(Decision(), probabilities, gold & False, parents, precision=0.9) in thresholds.GRID


def test_the_temperature_that_made_the_logits_is_found():
    random = np.random.default_rng(1)
    logits = random.normal(-1, 2, (4000, 5))
    gold = random.random(logits.shape) < sigmoid(logits)
    assert thresholds.fit_temperature(sigmoid(3 * logits), gold) == pytest.approx(3, rel=0.05)
    assert thresholds.fit_temperature(sigmoid(logits), gold) == pytest.approx(1, rel=0.05)


def test_a_frequent_label_gets_a_threshold_of_its_own():
    random = np.random.default_rng(8)
    gold = random.random((1500, 4)) < 0.3
    probabilities = sigmoid(np.where(gold, 1.5, -1.5) + random.normal(0, 1, gold.shape))
    probabilities[:, 2] *= 0.3  # this one's probabilities are all low
    fitted = thresholds.fit_each(probabilities, gold, "both")
    assert fitted[2] < 0.25 and (fitted[[0, 1, 3]] > 0.3).all()
    decision = thresholds.fitter(Decision(min_k=1), "both", True, False, np.full(4, -1))(probabilities, gold)
    assert decision.min_k == 1 and decision.threshold == tuple(fitted.tolist())
