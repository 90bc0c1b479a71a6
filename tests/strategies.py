"""Random data that several test files draw."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


@st.composite
def forests(draw, most=12):
    """Parents of a random forest: each label is below an earlier one or is a root."""
    size = draw(st.integers(1, most))
    return np.array([draw(st.integers(-1, i - 1)) for i in range(size)], dtype=np.int32)


@st.composite
def labelled(draw, most_labels=3):
    rows, labels = draw(st.integers(1, 8)), draw(st.integers(1, most_labels))
    values = st.sampled_from([0.05, 0.2, 0.35, 0.5, 0.65, 0.8])
    return draw(arrays(float, (rows, labels), elements=values)), draw(arrays(bool, (rows, labels)))
