import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from text_cls.neural.compat import import_paddle
from text_cls.neural.losses import LOSSES, make_loss, smoothed

paddle = import_paddle()

cells = st.integers(1, 5).flatmap(
    lambda n: st.tuples(arrays(np.float32, (2, n), elements=st.floats(-15, 15, width=32)), arrays(np.bool_, (2, n)))
)


def of(name, logits, labels, support=None, rows=100):
    loss = make_loss(name, np.full(labels.shape[1], 7) if support is None else support, rows)
    return loss(paddle.to_tensor(logits), paddle.to_tensor(labels.astype(np.float32))).numpy()


@settings(deadline=None)
@given(cells)
def test_against_the_formulas(case):
    logits, labels = case
    z, y = logits.astype(np.float64), labels.astype(np.float64)
    p = 1 / (1 + np.exp(-z))
    log_p, log_not_p = -np.logaddexp(0, -z), -np.logaddexp(0, z)
    cross_entropy = -(y * log_p + (1 - y) * log_not_p)
    assert of("bce", logits, labels) == pytest.approx(cross_entropy, rel=1e-4, abs=1e-5)
    p_truth = np.where(labels, p, 1 - p)
    assert of("focal", logits, labels) == pytest.approx((1 - p_truth) ** 2 * cross_entropy, rel=1e-3, abs=1e-5)
    shifted = np.maximum(p - 0.05, 0)
    expected = np.where(labels, -log_p, -(shifted**4) * np.log1p(-shifted))
    assert of("asymmetric", logits, labels) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_smoothed_labels_against_the_formulas():
    """With a target between 0 and 1, both sides of a formula count, each by its share."""
    z = np.arange(-4, 5, dtype=np.float32)
    p, present, absent = 1 / (1 + np.exp(-z)), np.logaddexp(0, -z), np.logaddexp(0, z)
    shifted = np.maximum(p - 0.05, 0)
    for y in (0.05, 0.9):
        logits, targets = paddle.to_tensor(z[None]), paddle.full([1, len(z)], y)
        focal = (1 - y * p - (1 - y) * (1 - p)) ** 2 * (y * present + (1 - y) * absent)
        asymmetric = y * present - (1 - y) * shifted**4 * np.log1p(-shifted)
        for name, expected in (("focal", focal), ("asymmetric", asymmetric)):
            loss = make_loss(name, np.full(len(z), 7), 100)(logits, targets).numpy()[0]
            assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(cells, st.data())
def test_distribution_balanced_against_the_formulas(case, data):
    """Equations 4, 5 and 10 of Wu et al. 2020, written out for each cell."""
    logits, labels = case
    support = np.array(data.draw(st.lists(st.integers(1, 99), min_size=labels.shape[1], max_size=labels.shape[1])))
    expected = np.zeros(labels.shape)
    for row, present in enumerate(labels):
        of_row = sum(1 / support[present])
        for i, n in enumerate(support):
            ratio = (1 / n) / of_row if present.any() else np.inf
            weight = 0.1 + 1 / (1 + np.exp(-10 * (ratio - 0.2)))
            z = float(logits[row, i]) - 0.05 / 2 * np.log(100 / n - 1)
            loss = np.logaddexp(0, -z) if present[i] else np.logaddexp(0, 2 * z) / 2
            expected[row, i] = weight * loss
    assert of("distribution_balanced", logits, labels, support) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_distribution_balanced_is_the_authors_without_their_focal_factor():
    """Figures of their ResampleLoss with the settings for both of their data sets."""
    logits, labels = np.array([[-2, -2, 1]], np.float32), np.array([[0, 1, 1]])
    loss = of("distribution_balanced", logits, labels, np.array([10, 100, 500]), rows=1000)
    assert loss == pytest.approx(np.array([[0.00795, 2.38916, 0.16209]]), abs=5e-6)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_smallest_training_sets_are_balanced_too(rows):
    """A label in one row of two: logits are not shifted, and the weight is that of a row with one label."""
    logits = np.array([[-2, 1.5]], np.float32)
    loss = of("distribution_balanced", logits, np.array([[1, 0]]), np.array([1, 1]), rows)
    weight = 0.1 + 1 / (1 + np.exp(-8))
    assert loss == pytest.approx(weight * np.array([[np.logaddexp(0, 2), np.logaddexp(0, 3) / 2]]), rel=1e-4)


def test_smoothed_labels_are_balanced_as_the_true_ones():
    """The weights are those of the row's labels, not of all labels with a target above 0."""
    loss, logits = make_loss("distribution_balanced", np.array([5, 80]), 100), paddle.to_tensor([[0.5, -1.0]])
    present, absent = loss(logits, smoothed(paddle.to_tensor([[1.0, 0.0]]), 0.2)).numpy()[0]
    weight, cell = 0.1 + 1 / (1 + np.exp(-8)), 0.5 - 0.025 * np.log(19)
    assert present == pytest.approx(
        weight * (0.9 * np.logaddexp(0, -cell) + 0.1 * np.logaddexp(0, 2 * cell) / 2), rel=1e-4
    )
    weight, cell = 0.1 + 1 / (1 + np.exp(-10 * (5 / 80 - 0.2))), -1 + 0.025 * np.log(4)
    assert absent == pytest.approx(
        weight * (0.1 * np.logaddexp(0, -cell) + 0.9 * np.logaddexp(0, 2 * cell) / 2), rel=1e-4
    )


@pytest.mark.parametrize("support", [[0, 0, 100], [100, 100, 100], [0, 1, 99]])
def test_labels_without_rows_and_labels_of_all_rows_are_balanced_too(support):
    logits = np.array([[3.0, -3.0, 0.5], [0.0, 0.0, 0.0]], np.float32)
    loss = of("distribution_balanced", logits, np.array([[1, 0, 1], [0, 0, 0]]), np.array(support))
    assert np.isfinite(loss).all() and (loss > 0).all()


def test_a_rare_label_weighs_more_than_a_frequent_one_of_the_same_row():
    labels, support = np.array([[True, True]]), np.array([2, 90])
    rare, frequent = of("distribution_balanced", np.zeros((1, 2), np.float32), labels, support)[0]
    assert rare > 3 * frequent


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_the_loss_is_lowest_at_the_target(name, smoothing):
    """Training ends where the sigmoid equals a smoothed target; targets of 0 and 1 are never reached."""
    labels = paddle.to_tensor([[0.0, 1.0]])
    loss = make_loss(name, np.array([50, 50]), 100)
    steps = np.arange(-12, 12, 0.01, dtype=np.float32)
    at = [loss(paddle.to_tensor([[z, z]]), smoothed(labels, smoothing)).numpy()[0] for z in steps]
    absent, present = steps[np.argmin(at, axis=0)]
    assert absent < 0 < present
    if name == "bce" and smoothing:
        assert (absent, present) == (pytest.approx(np.log(0.05 / 0.95), abs=0.02), pytest.approx(-absent, abs=0.02))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_where_sigmoids_saturate(name):
    logits = paddle.to_tensor([[-80.0, 80.0, -80.0, 80.0, 0.0]], stop_gradient=False)
    loss = make_loss(name, np.full(5, 7), 100)(logits, paddle.to_tensor([[0.0, 1.0, 1.0, 0.0, 1.0]]))
    loss.sum().backward()
    assert np.isfinite(loss.numpy()).all() and np.isfinite(logits.grad.numpy()).all()
