"""text_cls/long_texts.py: windows cover a text and fit; pooled logits; both ends of a text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_cls.batching import Encoded
from text_cls.long_texts import (
    FULL,
    LSE,
    MAX,
    RECORD,
    LongTexts,
    deciding_windows,
    joined,
    keep_ends,
    make_windows,
    pool,
    shares,
    split_texts,
)


def characters(texts):
    """A tokenizer with a token for each character that is no space."""
    return [sum(not char.isspace() for char in text) for text in texts]


def with_marker(texts):
    """One that puts a token before each text, as some do: the tokens of two pieces are more or fewer than their sum."""
    return [len(text) // 2 + 1 for text in texts]


def greedy(texts):
    """One to which longer texts have more tokens for each character."""
    return [len(text) + len(text) ** 2 // 50 for text in texts]


TEXTS = st.lists(st.text(alphabet="字词。，！ab. \n，；", max_size=90), max_size=4)


def windows_of(texts, count, room, how):
    """The `Windows` of texts, with `count(text)` equal tokens, and two special ones; and the (start, end) of each."""

    def encode(some):
        return encoded([[1] * (min(size, room + 1) + 2) for size in count(some)])

    windows = make_windows(texts, count, room, how, encode)
    return windows, [[*map(tuple, part.tolist())] for part in np.split(windows.spans, windows.offsets[1:-1])]


@given(TEXTS, st.integers(2, 20), st.none() | st.integers(1, 20), st.sampled_from([characters, with_marker, greedy]))
def test_windows_cover_the_text_and_fit(texts, room, stride, count):
    how = LongTexts("windows", stride if stride is None else min(stride, room))
    windows, spans = windows_of(texts, count, room, how)
    assert windows.truncated == 0 and len(windows) == len(texts)
    for text, found in zip(texts, spans):
        assert found[0][0] == 0 and found[-1][1] == len(text)
        assert all(start < end for start, end in found) or text == ""
        # Each begins after the one before it, and where that ends or earlier: nothing is left out.
        assert all(a < b <= end for (a, end), (b, _) in zip(found, found[1:]))
        sizes = count([text[start:end] for start, end in found])
        assert all(size <= room or end - start < 2 for size, (start, end) in zip(sizes, found))
        if count([text])[0] <= room:
            assert found == [(0, len(text))]
        elif stride is None:
            assert "".join(text[start:end] for start, end in found) == text


def test_windows_with_more_tokens_than_their_pieces_are_divided_again():
    text = "字字字字，" * 12
    windows, [found] = windows_of([text], greedy, 20, LongTexts("windows"))
    assert greedy([text[:5], text[:20]]) == [5, 28]  # so four pieces have 20 tokens, and together 28
    assert "".join(text[start:end] for start, end in found) == text
    assert max(greedy([text[start:end] for start, end in found])) <= 20 and windows.tokens.lengths.max() <= 22


def test_windows_end_with_sentences_if_they_are_full_enough():
    def windows(text, room=20):
        [found] = split_texts([text], characters, room)
        return [text[start:end] for start, end in found]

    assert windows("一" * 14 + "。" + "二" * 10 + "。") == ["一" * 14 + "。", "二" * 10 + "。"]  # 15 of 20 are enough
    assert 14 < FULL * 20
    text = "一" * 8 + "。" + "二" * 8 + "，" + "三" * 9
    assert windows(text) == ["一" * 8 + "。" + "二" * 8 + "，", "三" * 9]  # 9 of 20 are not: a clause then
    assert windows("他说：“好。”" + "二" * 15 + "。")[0] == "他说：“好。”"  # the quote belongs to its sentence
    assert windows("one two three four five six seven eight", 10) == [
        "one two ",
        "three four ",
        "five six ",
        "seven eight",
    ]
    assert windows("3.14 1,000 " * 3, 12)[0].endswith(" ")  # no marks of sentences within numbers


def test_stride_is_the_step_between_windows():
    text = "".join(f"{i:03d}。" for i in range(30))
    [found] = split_texts([text], characters, 40, stride=20)
    assert found[:3] == [(0, 40), (20, 60), (40, 80)]


def test_more_windows_than_allowed_are_counted():
    windows, spans = windows_of(["字" * 100, "字" * 30], characters, 10, LongTexts("windows", max_windows=4))
    assert windows.counts.tolist() == [4, 3] and windows.truncated == 1
    assert spans[0][-1][1] == 40


def test_a_text_with_a_long_beginning_of_few_tokens():
    """A short text is one window, however long its beginning; a long one is windows, even if its tokens come late."""
    spaces = " " * 8 * 10
    assert split_texts([spaces + "字" * 10], characters, 10) == [[(0, 90)]]
    [found] = split_texts([spaces + "字" * 11], characters, 10)
    assert len(found) == 2 and found[-1][1] == 91


def encoded(rows):
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    ids = np.array([i for row in rows for i in row], dtype=np.int32)
    return Encoded({"input_ids": ids}, offsets, {"input_ids": 0}, False, False, 1)


def rows_of(tokens):
    return [part.tolist() for part in np.split(tokens.columns["input_ids"], tokens.offsets[1:-1])]


def test_windows_know_their_texts(monkeypatch):
    monkeypatch.setattr("text_cls.long_texts.AT_ONCE", 2)
    texts = ["字" * 25, "短", "", "词" * 12, "字" * 21]
    windows = make_windows(
        texts,
        characters,
        10,
        LongTexts("windows", max_windows=2),
        lambda some: encoded([[1, *map(ord, text), 2] for text in some]),
    )
    assert len(windows) == 5 and windows.counts.tolist() == [2, 1, 1, 2, 2] and windows.truncated == 2
    of_texts = np.split(windows.spans, windows.offsets[1:-1])
    for i, text in enumerate(texts):
        ids = [rows_of(windows.tokens)[k] for k in windows.of([i])]
        assert ids == [[1, *map(ord, text[start:end]), 2] for start, end in of_texts[i]]
    assert windows.lengths.tolist() == [sum(len(rows_of(windows.tokens)[k]) for k in windows.of([i])) for i in range(5)]
    assert windows.of([3, 0]).tolist() == [4, 5, 0, 1]


def test_no_texts():
    windows = make_windows([], characters, 10, LongTexts("windows"), lambda some: encoded([[1, 2] for _ in some]))
    assert len(windows) == 0 and windows.tokens.lengths.tolist() == []


def test_joined():
    assert rows_of(joined([encoded([[1], [2, 3]]), encoded([[4]])])) == [[1], [2, 3], [4]]


@given(st.lists(st.integers(2, 40), max_size=5), st.integers(3, 20))
def test_both_ends_are_kept(lengths, most):
    rows = [[1, *range(10, 10 + length - 2), 2] for length in lengths]
    tokens = keep_ends(encoded(rows), most)
    assert tokens.truncated == sum(length > most for length in lengths)
    for row, kept in zip(rows, rows_of(tokens) if rows else []):
        head = 1 + (most - 2) // 4
        expected = row if len(row) <= most else row[:head] + row[len(row) - (most - head) :]
        assert kept == expected and kept[0] == 1 and kept[-1] == 2


# ------------------------------------------------------------------------------------------------------------- pooling

COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@given(COUNTS, st.sampled_from([MAX, LSE]), st.integers(0, 99))
def test_pooling(counts, pooling, seed):
    logits = np.random.default_rng(seed).normal(0, 5, (sum(counts), 3)).astype(np.float32)
    pooled, start = pool(logits, np.array(counts), pooling), 0
    for text, count in enumerate(counts):
        own = logits[start : start + count].astype(np.float64)
        expected = own.max(axis=0) if pooling == MAX else np.log(np.exp(own).sum(axis=0))
        assert pooled[text] == pytest.approx(expected, abs=1e-5)
        assert deciding_windows(logits, np.array(counts))[text].tolist() == own.argmax(axis=0).tolist()
        if count == 1:
            assert np.array_equal(pooled[text], logits[start])  # bit for bit
        start += count
    # The shares are the derivative.
    step = np.float32(1e-2)
    for window in range(len(logits)):
        text = int(np.searchsorted(np.cumsum(counts), window, side="right"))
        moved = logits.copy()
        moved[window] += step
        change = (pool(moved, np.array(counts), pooling) - pooled)[text] / step
        smooth = np.abs(change - shares(logits, pooled, np.array(counts), pooling)[window]) < 0.02
        assert smooth.all() or pooling == MAX  # the maximum has corners


def test_equal_windows_share_the_derivative():
    logits, counts = np.ones((4, 1), np.float32), np.array([3, 1])
    assert shares(logits, pool(logits, counts, MAX), counts, MAX).ravel() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])


def test_rounding_does_not_decide():
    """Windows with the same text, of which a later one is rounded up."""
    logits = np.array([[1.0], [3.0], [3.00001], [3.0002]], np.float32)
    assert deciding_windows(logits[:3], np.array([3])).tolist() == [[1]]
    assert deciding_windows(logits, np.array([3, 1])).tolist() == [[1], [0]]
    assert deciding_windows(logits, np.array([4])).tolist() == [[3]]


def test_large_logits_are_no_overflow():
    assert pool(np.full((2, 1), 500, np.float32), np.array([2]), LSE)[0, 0] == pytest.approx(500 + np.log(2))


def test_the_record_is_checked():
    how = LongTexts("windows", 60, 8, "lse")
    assert LongTexts(**how.record()) == how and not [*RECORD("", how.record())]
    for fault in ({"mode": "all"}, {"stride": 0}, {"max_windows": None}, {"pooling": "mean"}, {"more": 1}):
        [message] = RECORD("", {**how.record(), **fault})
        assert next(iter(fault)) in message
