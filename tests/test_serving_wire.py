"""The strings of Paddle Serving's clients, which were made to be evaluated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wire
from wire import MAX_CHARACTERS, MAX_TEXTS, WireError, texts_of, wire_of

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8)
QUOTED = ["it's", 'say "no"', "'\"", "\\", "\\x41", "\n\t\r", "\x00\x7f", "é 好 😀", "\u2028", "]", ", b'x'", ""]


def array_of(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


@given(TEXTS)
def test_texts_come_back(texts):
    assert texts_of(wire_of(texts)) == texts


@given(TEXTS)
def test_what_numpy_and_python_write_is_read(texts):
    raw = [text.encode("utf-8") for text in texts]
    with np.printoptions(threshold=10**9):
        for value in (repr(array_of(raw)), repr(array_of(texts)), repr(texts), repr(raw)):
            assert texts_of(value) == texts, value


@pytest.mark.parametrize("texts", [QUOTED, ["好" * 300] * 40, ["a"]])
def test_arrays_of_fixed_width_and_with_line_breaks(texts):
    with np.printoptions(threshold=10**9):
        raw = np.array([text.encode("utf-8") for text in texts])
        assert texts_of(repr(raw)) == [bytes(text).decode("utf-8") for text in raw]
        assert texts_of(repr(np.array(texts))) == [str(text) for text in np.array(texts)]


def test_quotes_are_read():
    assert texts_of(wire_of(QUOTED)) == texts_of(repr(QUOTED)) == QUOTED


@given(st.text(max_size=200))
def test_any_string_is_texts_or_an_error(value):
    try:
        assert all(isinstance(text, str) for text in texts_of(value))
    except WireError as error:
        assert len(value) < 5 or value not in str(error)


@given(TEXTS, st.data())
def test_what_is_read_is_what_python_reads(texts, data):
    """A damaged value is refused, or it is still a literal, with these texts."""
    import ast

    value = repr(texts)
    place = data.draw(st.integers(0, len(value) - 1))
    value = (
        value[:place] + data.draw(st.sampled_from(["", "'", '"', "\\", "b", "]", ",", "(", "x"])) + value[place + 1 :]
    )
    try:
        found = texts_of(value)
    except WireError:
        return
    items = ast.literal_eval(value.strip())
    assert [item.decode("utf-8") if isinstance(item, bytes) else item for item in items] == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("__import__('os').system('id')", "it begins otherwise"),
        ("array([b'a', __import__('os')], dtype=object)", "from character 14 on"),
        ("array([b'a'], dtype=eval('1'))", "from character 13 on"),
        ("array([b'a'], dtype=object) + 1", "from character 29 on"),
        ("array([b'a' b'b'])", "from character 12 on"),
        ("array([[b'a']])", "from character 8 on"),
        ("array([f'{1}'])", "from character 8 on"),
        ("array([b'a', ..., b'z'], dtype=object)", "from character 14 on"),
        ("array([b'a')", "from character 12 on"),
        ("['a'", "from character 5 on"),
        ("['a\nb']", "from character 2 on"),
        ("array([], dtype=object)", "no texts"),
        ("[]", "no texts"),
        ("", "it begins otherwise"),
        ("足球", "it begins otherwise"),
        (r"[b'\xff']", "text 1 is not UTF-8"),
        ("[b'好']", "text 1 has characters that are not ASCII"),
        (r"['a', '\ud83d']", "text 2 has half of a surrogate pair"),
        ("['\ud83d']", "half of a surrogate pair"),
        (r"['\q']", "an escape that repr() does not write"),
        (r"['\N{DIGIT ONE}']", "an escape that repr() does not write"),
        (r"['\x4']", "an escape that repr() does not write"),
        (r"['\U00110000']", "an escape beyond Unicode"),
        (r"[b'\u597d']", "an escape that bytes do not have"),
        ("[" + "'a'," * MAX_TEXTS + "'a']", f"more than {MAX_TEXTS} texts"),
        ("['" + "a" * MAX_CHARACTERS + "']", f"at most {MAX_CHARACTERS} are allowed"),
    ],
)
def test_anything_else_is_an_error(value, message):
    with pytest.raises(WireError) as error:
        texts_of(value)
    assert message in str(error.value) and len(str(error.value)) < 200


def test_the_limits_themselves_are_allowed():
    assert len(texts_of("[" + ", ".join(["'a'"] * MAX_TEXTS) + "]")) == MAX_TEXTS
    assert texts_of("['" + "a" * (MAX_CHARACTERS - 4) + "']") == ["a" * (MAX_CHARACTERS - 4)]
    assert wire.MAX_CHARACTERS == 4 << 20
