import numpy as np
import pytest

from text_cls.probabilities import sigmoid


def test_sigmoid_at_both_ends():
    with np.errstate(all="raise", under="ignore"):
        p = sigmoid([-1e4, -1.0, 0.0, 1.0, 1e4])
    assert p.dtype == np.float32
    assert p == pytest.approx([0, 1 / (1 + np.e), 0.5, np.e / (1 + np.e), 1], abs=1e-7)
