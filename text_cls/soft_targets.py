"""Probabilities of labels as targets of a training, beside labelled rows or on texts without labels.

The loss of a row is W * BCE(its logits, its probabilities) + (1 - W) * the usual loss on its labels; a text without
labels has the first part only, a row without probabilities the second. It is knowledge distillation (Hinton, Vinyals
and Dean 2015, arXiv:1503.02531, section 2) with a sigmoid for each label and without a temperature: each label's target
is between 0 and 1 as it is, and the sum of two cross-entropies is one with the mixed target.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from text_cls.cli import logger
from text_cls.language import tr
from text_cls.rows import Rows, Texts

REPEATED = "repeated"  # of a text in the same file


class Stacked:
    """Arrays [rows, columns] one below the other, perhaps memory-mapped, of which some rows are read at a time.

    columns: numbers of the columns to read, in their order; None for all.
    """

    def __init__(self, parts: Sequence[np.ndarray], columns: np.ndarray | None = None) -> None:
        self.parts, self.columns = parts, columns
        self.offsets = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows, by their numbers: float32 array [rows, columns]."""
        where, found = np.searchsorted(self.offsets, rows, side="right") - 1, None
        for number in np.unique(where):
            chosen = where == number
            values = self.parts[number][rows[chosen] - self.offsets[number]]
            values = values if self.columns is None else values[:, self.columns]
            if found is None:
                found = np.empty((len(rows), values.shape[1]), np.float32)
            found[chosen] = values
        return found


@dataclass
class SoftTargets:
    """Targets of the rows of a training: first those with labels, then the texts without.

    weight: W of the loss, above 0 and at most 1. labelled: number of rows with labels. values: probabilities. place:
    int array [rows], which row of `values` belongs to each row; -1 for none.
    """

    weight: float
    labelled: int
    values: Stacked
    place: np.ndarray

    @property
    def taught(self) -> int:
        """Number of rows with labels that have probabilities as well."""
        return int((self.place[: self.labelled] >= 0).sum())

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of some rows, float32 [rows, labels], 0 where there are none; and their shares of the loss.

        The shares are those of the probabilities and of the labels, float32 [rows, 2].
        """
        place = self.place[rows]
        known, is_labelled = place >= 0, rows < self.labelled
        probabilities = self.values.take(np.maximum(place, 0)) * known[:, None]
        shares = np.stack([self.weight * known, (1 - self.weight) * is_labelled], axis=1)
        return probabilities.astype(np.float32), shares.astype(np.float32)

    def mixed(self, hard: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One target for each row of a linear loss, float32 [rows, labels], and the weight of the row, float32 [rows].

        hard: bool array [labelled, labels], the labels.
        """
        soft, shares = self.of(np.arange(len(self.place)))
        soft *= shares[:, :1]
        soft[: self.labelled] += shares[: self.labelled, 1:] * hard
        weights = shares.sum(axis=1)
        return soft / np.maximum(weights, 1e-9)[:, None], weights


def new_texts(path: str, texts: Iterable[str], rows: dict[str, Rows]) -> Texts:
    """The texts of a file that are in no labelled row, each once. Logs how many others there are.

    Args:
        path: of the file, for the log.
        rows: {split: labelled rows}. A text of train is learnt there; one of dev or test would flatter their scores.
    """
    split_of = {_key(text): split for split in reversed(rows) for text in rows[split].texts}
    found, others = Texts(), Counter()
    for text in texts:
        key = _key(text)
        if key in split_of:
            others[split_of[key]] += 1
        else:
            split_of[key] = REPEATED
            found.append(text)
    found.freeze()
    reasons = [tr("{count} that repeat another", count=count) for split, count in others.items() if split == REPEATED]
    for split, count in others.items():
        if split != REPEATED:
            why = tr("learnt there") if split == "train" else tr("left out, or its scores would flatter")
            reasons.append(tr("{count} that are in {path} ({why})", count=count, path=rows[split].path, why=why))
    logger.info("%s: %d texts without labels%s", path, len(found), "".join(f"; {reason}" for reason in reasons))
    return found


def unlabelled_rows(path: str, texts: Texts) -> Rows:
    """Texts as `Rows` that have no labels."""
    numbers = np.arange(1, len(texts) + 1, dtype=np.int32)
    return Rows(path, texts, numbers, np.zeros(0, np.int32), np.zeros(len(texts) + 1, np.int64), 0, 0)


# --------------------------------------------------------------------------------------- probabilities from elsewhere


def attach(given: tuple[Texts, np.ndarray], rows: dict[str, Rows], path: str, weight: float) -> SoftTargets:
    """Targets of probabilities from a file; adds "unlabelled" to `rows`, for texts that are in no labelled row.

    Args:
        given: what `soft_labels.read_soft_labels` returns.
        rows: {split: labelled rows}. A row of train gets the probabilities of its text.
        path: of the file, for the log.
        weight: as in `SoftTargets`.
    """
    texts, values = given
    place_of = {_key(text): i for i, text in enumerate(texts)}
    place = [place_of.get(_key(text), -1) for text in rows["train"].texts]
    if more := new_texts(path, texts, rows):
        rows["unlabelled"] = unlabelled_rows(path, more)
        place += [place_of[_key(text)] for text in more]
    return SoftTargets(weight, len(rows["train"]), Stacked([values]), np.array(place))


def _key(text):
    return hashlib.blake2b(text.encode("utf-8"), digest_size=12).digest()
