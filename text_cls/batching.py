"""Tokens of many rows in compact arrays, and batches of rows of similar length. Needs only numpy."""

from dataclasses import dataclass

import numpy as np

# Measured with ernie-3.0-medium on two cores: from this many tokens on, larger matrix products are not faster.
ENOUGH, SIMILAR = 512, 0.95
LONGEST_COUNTED = 512  # tokens of a row in `token_budget`: a model may take 20,000, of which few rows have a tenth


@dataclass
class Encoded:
    """Tokens of many rows, end to end.

    columns: {name of a model's input: int32 array}. offsets: int64 array [rows + 1], where each row begins. padding:
    {name: value}. truncated: number of rows that were longer than max_seq_length.
    """

    columns: dict
    offsets: np.ndarray
    padding: dict
    pad_left: bool
    with_mask: bool
    truncated: int

    def __len__(self):
        return len(self.offsets) - 1

    @property
    def lengths(self):
        return np.diff(self.offsets)

    def batch(self, rows):
        """These rows, padded to the longest of them: {name: int64 array [rows, longest]}."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        column = np.arange(lengths.max())
        is_token = column >= (lengths.max() - lengths)[:, None] if self.pad_left else column < lengths[:, None]
        source = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths)])
        inputs = {}
        for name, values in self.columns.items():
            inputs[name] = np.full(is_token.shape, self.padding[name], dtype=np.int64)
            inputs[name][is_token] = values[source]
        if self.with_mask:
            # ERNIE finds padding by its id. PaddleNLP's ERNIE-M (2.8) looks for id 0, its [CLS], and attends to [PAD].
            inputs["attention_mask"] = (inputs["input_ids"] != self.padding["input_ids"]).astype(np.int64)
        return inputs


def token_budget(rows, max_seq_length):
    """Most tokens of a batch of so many full rows. Longer rows come in smaller batches, as memory allows."""
    return rows * min(max_seq_length, LONGEST_COUNTED)


def sorted_batches(lengths, batch_size):
    """Row numbers in batches of similar length, the longest first: if memory runs out, it does so at once."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def shuffled_batches(lengths, batch_size, seed, by_length=True):
    """Row numbers in random batches; with `by_length`, of similar length, from shuffled stretches sorted by length.

    A stretch has 50 batches, or a quarter of the batches if that is fewer, as in transformers' LengthGroupedSampler: if
    few rows were one stretch, much the same rows would share a batch in every epoch. The rows that do not fill a batch
    are set aside before sorting; cut off after it, they would always be the longest.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    if by_length:
        filling = len(order) - len(order) % batch_size
        stretch = batch_size * max(1, min(50, len(order) // (4 * batch_size)))
        for start in range(0, filling, stretch):
            part = order[start : min(start + stretch, filling)]
            part[:] = part[np.argsort(lengths[part], kind="stable")]
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))] if by_length else batches


def budget_batches(lengths, budget):
    """Row numbers in batches of similar length, the longest first, of at most `budget` tokens each, padding included.

    A batch of at least `ENOUGH` tokens ends before a row that is shorter than `SIMILAR` times its longest one: padding
    would then cost more than another batch. A row longer than the budget is a batch of its own.
    """
    order, batches, start = np.argsort(-lengths, kind="stable"), [], 0
    falling = -lengths[order]
    while start < len(order):
        longest = max(1, -int(falling[start]))
        similar = int(np.searchsorted(falling, -SIMILAR * longest, side="right")) - start
        rows = max(1, min(budget // longest, max(similar, -(-ENOUGH // longest))))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def cheapest_batches(lengths, cost):
    """Row numbers in batches of similar length, the longest first, with the lowest total cost.

    Args:
        lengths: int array [rows].
        cost: float array; cost[n] is the cost of a run of n tokens, padding included. Its last index is the largest
            run; a longer row is a batch of its own.
    """
    order, largest = np.argsort(-lengths, kind="stable"), len(cost) - 1
    least = np.zeros(len(order) + 1)  # cost of all rows from row i on
    rows = np.ones(len(order), dtype=np.int64)  # in the batch that begins with row i
    for i in range(len(order) - 1, -1, -1):
        longest = max(1, int(lengths[order[i]]))
        if longest <= largest:
            runs = cost[longest::longest][: len(order) - i]
            totals = runs + least[i + 1 : i + 1 + len(runs)]
            rows[i] = 1 + totals.argmin()
            least[i] = totals[rows[i] - 1]
        else:
            least[i] = least[i + 1]
    batches, start = [], 0
    while start < len(order):
        batches.append(order[start : start + rows[start]])
        start += rows[start]
    return batches
