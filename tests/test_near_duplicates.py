import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from near_duplicates import find_near_duplicates, normalized


def shingles(text):
    text = normalized(text)
    return {text[i : i + 3] for i in range(max(1, len(text) - 2))}


def jaccard(one, other):
    one, other = shingles(one), shingles(other)
    return len(one & other) / len(one | other)


TEXTS = st.lists(st.text("ab 中😀\0", max_size=8), max_size=12)


@given(TEXTS, st.sampled_from([0.3, 0.8, 1.0]))
def test_a_match_is_earlier_and_as_similar_as_it_says(texts, similarity):
    """Oracle: the sets of 3 characters themselves."""
    match, value = find_near_duplicates(texts, similarity)
    assert match.shape == value.shape == (len(texts),)
    for i, (other, found) in enumerate(zip(match, value)):
        assert other < i
        if other >= 0:
            assert found == pytest.approx(jaccard(texts[i], texts[other])) and found >= similarity - 1e-6
        else:
            assert found == 0


@given(TEXTS)
def test_texts_that_differ_only_in_case_and_spaces_are_always_found(texts):
    match, value = find_near_duplicates(texts)
    for i, text in enumerate(texts):
        if any(normalized(text) == normalized(before) for before in texts[:i]):
            assert match[i] >= 0 and value[i] == 1


def test_nearly_all_similar_pairs_are_found():
    """Each of 400 texts beside a copy with some characters changed, among 400 others."""
    random = np.random.default_rng(3)

    def text():
        return "".join(map(chr, random.integers(0x4E00, 0x5E00, 60)))

    originals = [text() for _ in range(400)]
    copies = []
    for original in originals:
        changed = list(original)
        for place in random.choice(60, random.integers(0, 4), replace=False):
            changed[place] = "改"
        copies.append("".join(changed))
    match, _ = find_near_duplicates([*originals, *(text() for _ in range(400)), *copies])
    similar = np.array([jaccard(a, b) >= 0.8 for a, b in zip(originals, copies)])
    assert similar.sum() > 200
    assert (match[800:][similar] == np.arange(400)[similar]).mean() > 0.97
    assert (match[:800] == -1).all() and (match[800:][~similar] == -1).all()


def test_the_first_of_many_copies_is_the_match():
    """If train, dev and test are searched in this order, the match of a copy in dev is the row of train."""
    match, value = find_near_duplicates(["别的一句话"] + ["同一句话说了一遍又一遍"] * 6)
    assert match.tolist() == [-1, -1, 1, 1, 1, 1, 1] and value.tolist() == [0, 0, 1, 1, 1, 1, 1]


def test_many_copies_of_one_text_do_not_take_quadratic_time():
    """20,000 copies would be 200 million pairs."""
    texts = [f"同一句话说了一遍又一遍，从来没有变过 {'!' * (i % 3)}" for i in range(20_000)]
    match, _ = find_near_duplicates(texts)
    assert (match[3:] >= 0).all()


@pytest.mark.parametrize("texts", [[], ["一"], ["", ""], ["好", "好"], ["x" * 100_000, "x" * 100_001]])
def test_corners(texts):
    match, _ = find_near_duplicates(texts)
    assert match.tolist() == [-1, 0][: len(texts)]


def test_parts_make_no_difference(monkeypatch):
    """Memory is bounded by characters at a time; texts longer than a part are parts of their own."""
    random = np.random.default_rng(5)
    texts = ["".join(map(chr, random.integers(0x4E00, 0x4E40, random.integers(1, 60)))) for _ in range(300)]
    texts += [text + "改" for text in texts[::3]]
    whole = find_near_duplicates(texts)
    monkeypatch.setattr("near_duplicates.PART", 37)
    for one, other in zip(whole, find_near_duplicates(texts)):
        assert (one == other).all()
