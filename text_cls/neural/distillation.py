"""Steps of a training on labels and on a teacher's probabilities; see `soft_targets` for the loss and its source."""

import numpy as np

from text_cls.long_texts import Windows, joined, joined_windows
from text_cls.neural.losses import bce
from text_cls.neural.steps import Steps
from text_cls.neural.windows import WindowSteps


class _Taught:
    """What the steps with a teacher have in common. The rows with labels come first, then the texts without.

    Args:
        soft: `SoftTargets`.
        rows: those with labels. tokens: of all. Others as in `Steps`.
    """

    targets = ("labels", "soft", "shares")

    def __init__(self, options, checkpoint, rows, tokens, loss, soft):
        super().__init__(options, checkpoint, rows, tokens, loss)
        self.soft = soft

    def targets_of(self, rows):
        count, is_labelled = len(self.checkpoint.labels), rows < self.soft.labelled
        labels = np.zeros((len(rows), count), np.float32)
        labels[is_labelled] = self.rows.multi_hot(count, rows[is_labelled], np.float32)
        probabilities, shares = self.soft.of(rows)
        return {"labels": labels, "soft": probabilities, "shares": shares}

    def compare(self, logits, labels, soft, shares):
        """One loss per row: float32 tensor [rows].

        soft: float32 tensor [rows, labels], probabilities. shares: float32 tensor [rows, 2], of the probabilities and
        of the labels in the loss of each row.
        """
        return shares[:, 0] * bce(logits, soft).mean(axis=1) + shares[:, 1] * super().compare(logits, labels)


class TaughtSteps(_Taught, Steps):
    """Steps on texts that are cut."""


class TaughtWindowSteps(_Taught, WindowSteps):
    """Steps on texts that are read in windows, whose pooled logits are compared."""


def with_unlabelled(tokens):
    """{split: tokens} in which those of "train" are followed by those of "unlabelled", if there are any."""
    if "unlabelled" not in tokens:
        return tokens
    parts = [tokens["train"], tokens["unlabelled"]]
    return {**tokens, "train": joined_windows(parts) if isinstance(parts[0], Windows) else joined(parts)}
