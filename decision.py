"""How probabilities become labels: the threshold, the ancestors, and the file that keeps both (`decision.json`).

Arrays in, arrays out, numpy alone: the same few lines decide in training, in evaluation, in prediction and on a server.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np

SEPARATOR = "##"
VERSION = 1


def parent_ids(names):
    """Parent of each label by full path.

    Args:
        names: label names in the order of `label.txt`; a path's pieces are joined by `##`.
    Returns:
        int32 array [labels]: the parent's index, -1 for a root (and for a path whose parent is not in `names`,
        which the reader of `label.txt` refuses).
    """
    index = {name: i for i, name in enumerate(names)}
    return np.array([index.get(name.rpartition(SEPARATOR)[0], -1) for name in names], dtype=np.int32)


def depths(parents):
    """Level of each label, 1 for a root. int32 array [labels] from the parents' indices [labels]."""
    depth = np.ones(len(parents), dtype=np.int32)
    above = parents
    while (above >= 0).any():
        depth += above >= 0
        above = np.where(above >= 0, parents[above], -1)
    return depth


def with_ancestors(chosen, parents):
    """The chosen labels and all above them. Bool arrays [rows, labels]; the input stays as it is."""
    closed = chosen.copy()
    rows, columns = np.nonzero(chosen)
    while len(rows):
        columns = parents[columns]
        rows, columns = rows[columns >= 0], columns[columns >= 0]
        closed[rows, columns] = True
    return closed


def sigmoid(logits):
    """Probabilities of logits, float32, without overflow at either end."""
    logits = np.asarray(logits, dtype=np.float32)
    scale = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + scale), scale / (1 + scale)).astype(np.float32)


@dataclass(frozen=True)
class Decision:
    """What turns probabilities into label sets. `threshold` is exceeded, not met, as in the older suite."""

    threshold: float = 0.5

    def __post_init__(self):
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a number from 0 to 1, not {self.threshold!r}")

    def decide(self, probabilities, parents):
        """Label sets that hold every ancestor of what they hold.

        Args:
            probabilities: float array [rows, labels].
            parents: int array [labels] from `parent_ids`.
        Returns:
            bool array [rows, labels].
        """
        return with_ancestors(np.asarray(probabilities) > self.threshold, parents)

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, **asdict(self)}, file, indent=2)
            file.write("\n")

    @classmethod
    def load(cls, path):
        """Reads `decision.json`. ValueError where the file is damaged or of a version this code does not know."""
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
        version = fields.pop("version", None) if isinstance(fields, dict) else None
        if version != VERSION:
            raise ValueError(f"version {version!r} is not known here (this code reads version {VERSION})")
        try:
            return cls(**fields)
        except TypeError:
            raise ValueError(f"fields {sorted(fields)} are not those of version {VERSION}") from None
