from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from text_cls.batching import ENOUGH, SIMILAR, Encoded, budget_batches, shuffled_batches, sorted_batches


@st.composite
def encodings(draw):
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    ids = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    left = draw(st.booleans())
    return Encoded({"input_ids": ids}, np.cumsum([0, *lengths]), {"input_ids": 0}, left, True, 0)


@given(encodings(), st.data())
def test_a_batch_contains_only_its_rows_and_padding(encoded, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=5)))
    batch = encoded.batch(rows)
    assert batch["input_ids"].shape == (len(rows), encoded.lengths[rows].max())
    for i, row in enumerate(rows):
        tokens = encoded.columns["input_ids"][encoded.offsets[row] : encoded.offsets[row + 1]]
        at = slice(-len(tokens), None) if encoded.pad_left else slice(0, len(tokens))
        assert (batch["input_ids"][i, at] == tokens).all() and batch["attention_mask"][i, at].all()
        assert (batch["input_ids"][i] > 0).sum() == len(tokens) == batch["attention_mask"][i].sum()


lengths = st.lists(st.integers(1, 99), min_size=1, max_size=300).map(np.array)


@given(lengths, st.integers(1, 40), st.integers(0, 5), st.booleans())
@example(np.arange(1, 6), 32, 3, True)  # fewer rows than a batch has
@example(np.arange(1, 130), 32, 3, True)  # a single row is left over
def test_batches_contain_each_row_once(lengths, batch_size, seed, by_length):
    for batches in (sorted_batches(lengths, batch_size), shuffled_batches(lengths, batch_size, [seed, 1], by_length)):
        assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
        sizes = sorted(len(batch) for batch in batches)
        assert len(batches) == -(-len(lengths) // batch_size)
        assert sizes[-1] <= batch_size and set(sizes[1:]) <= {batch_size}  # at most one is not full


@given(lengths, st.integers(1, 40))
def test_sorted_batches_begin_with_the_longest_rows(lengths, batch_size):
    assert (np.diff(lengths[np.concatenate(sorted_batches(lengths, batch_size))]) <= 0).all()


def test_training_batches_are_random_by_seed_and_similar_in_length():
    lengths = np.random.default_rng(0).integers(1, 100, 3200)
    batches = shuffled_batches(lengths, 32, [3, 0])
    again, other = shuffled_batches(lengths, 32, [3, 0]), shuffled_batches(lengths, 32, [3, 1])
    assert all((a == b).all() for a, b in zip(batches, again))
    assert any((a != b).any() for a, b in zip(batches, other))
    assert np.median([np.ptp(lengths[batch]) for batch in batches]) < 10
    plain = shuffled_batches(lengths, 32, [3, 0], by_length=False)
    assert np.median([np.ptp(lengths[batch]) for batch in plain]) > 80
    longest = [lengths[batch].max() for batch in batches]
    assert longest != sorted(longest)  # otherwise the last steps of an epoch would see only long texts


def repeated_pairs(lengths, batch_size):
    """Of the pairs of rows that share a batch in one epoch, the share that shares one in the next epoch as well."""
    epochs = []
    for epoch in range(6):
        batches = shuffled_batches(lengths, batch_size, [3, epoch])
        epochs.append({pair for batch in batches for pair in combinations(sorted(batch), 2)})
    return np.mean([len(one & other) / len(one) for one, other in zip(epochs, epochs[1:])])


@pytest.mark.parametrize("rows", [500, 1000, 3000])
def test_rows_share_a_batch_with_others_in_each_epoch(rows):
    lengths = np.random.default_rng(0).gamma(3, 15, rows).astype(int) + 2
    assert repeated_pairs(lengths, 32) < 0.2


@pytest.mark.parametrize("rows", [33, 1000])
def test_the_batch_that_is_not_full_has_random_rows_and_a_random_place(rows):
    lengths = np.arange(rows)
    epochs = [shuffled_batches(lengths, 32, [3, i]) for i in range(200)]
    places = [min(range(len(batches)), key=lambda i: len(batches[i])) for batches in epochs]
    left_over = [lengths[batches[place]].mean() for batches, place in zip(epochs, places)]
    assert np.mean(left_over) == pytest.approx(rows / 2, rel=0.1)
    assert np.mean(places) == pytest.approx((len(epochs[0]) - 1) / 2, rel=0.15)


@given(lengths, st.integers(1, 500))
def test_no_batch_exceeds_the_budget_or_is_smaller_than_necessary(lengths, budget):
    batches = budget_batches(lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch, following in zip(batches, [*batches[1:], []]):
        longest = lengths[batch].max()
        assert len(batch) * longest <= budget or len(batch) == 1
        full = (len(batch) + 1) * longest > budget
        ended = len(batch) * longest >= ENOUGH and (not len(following) or lengths[following[0]] < SIMILAR * longest)
        assert full or ended or not len(following)


def test_little_is_padded():
    lengths = np.random.default_rng(0).integers(2, 129, 1500)
    batches = budget_batches(lengths, 4096)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.03 * lengths.sum() and len(batches) < 70
