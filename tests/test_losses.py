import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compat import import_paddle
from losses import LOSSES

paddle = import_paddle()

cells = st.integers(1, 5).flatmap(
    lambda n: st.tuples(arrays(np.float32, (2, n), elements=st.floats(-15, 15, width=32)), arrays(np.bool_, (2, n)))
)


def of(name, logits, labels):
    return LOSSES[name](paddle.to_tensor(logits), paddle.to_tensor(labels.astype(np.float32))).numpy()


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


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_finite_where_sigmoids_saturate(name):
    logits = paddle.to_tensor([[-80.0, 80.0, -80.0, 80.0, 0.0]], stop_gradient=False)
    loss = LOSSES[name](logits, paddle.to_tensor([[0.0, 1.0, 1.0, 0.0, 1.0]]))
    loss.sum().backward()
    assert np.isfinite(loss.numpy()).all() and np.isfinite(logits.grad.numpy()).all()
