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


REMOVED = object()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def _places(value, path=()):
    """The path of each value in a JSON value: keys and positions."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _places(value[key], (*path, key))


def _put(value, path, new):
    """A copy of a JSON value with another one in one place."""
    if not path:
        return new
    copy = value.copy()
    if new is REMOVED and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = _put(value[path[0]], path[1:], new)
    return copy


@st.composite
def edited_json(draw, value):
    """A JSON value with one of its values replaced by any other, or one of its fields removed."""
    path = draw(st.sampled_from(sorted(_places(value), key=str)))
    return _put(value, path, draw(st.just(REMOVED) | JSON) if path and isinstance(path[-1], str) else draw(JSON))
