import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from text_cls.thresholds import fit_thresholds


@st.composite
def scored(draw):
    rows, labels = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    # Few values, some of them neighbours in their type, so that ties and empty gaps occur.
    values = [kind(x) for x in (-3, -0.5, 0, 0.25, 1)] + [np.nextafter(kind(x), kind(2)) for x in (0, 1)]
    scores = draw(arrays(kind, (rows, labels), elements=st.sampled_from(values)))
    return scores, draw(arrays(bool, (rows, labels)))


def f1(gold, predicted, pooled=(0, 0)):
    top = 2 * (gold & predicted).sum() + pooled[0]
    bottom = predicted.sum() + gold.sum() + pooled[1]
    return top / bottom if bottom else 0.0


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
        # Nothing lies between neighbours in their type: the lower of them then stands for the gap.
        between = [max(low, min((low + high) / 2, np.nextafter(high, low))) for low, high in zip(own, own[1:])]
        below = np.nextafter(scores[:, label].min(), scores.dtype.type(-9))
        gaps = [below, *np.array([own[-1], *between], scores.dtype)]
        best = max(value(label, gap) for gap in gaps)
        assert value(label, found[label]) == pytest.approx(best)


def test_a_gap_is_cut_in_its_middle():
    assert fit_thresholds(np.array([[-1.0], [0.0], [1.0]]), np.array([[False], [False], [True]])) == [0.5]


@given(scored())
def test_columns_that_nobody_has(data):
    """They take nothing from the others, and with all of them empty nothing is predicted."""
    scores, targets = data
    targets = np.zeros_like(targets)
    assert not (scores > fit_thresholds(scores, targets)).any()


def test_rare_labels_get_the_common_threshold_frequent_ones_their_own():
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


def test_rows_it_has_not_seen():
    """What it is for: labels of very different frequency, scores that say more than their sign."""
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
