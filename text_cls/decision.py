"""How probabilities become labels: thresholds, counts, the hierarchy, and the file that keeps them (`decision.json`).

Arrays in, arrays out, numpy alone: the same few lines decide in training, in evaluation, in prediction and on a server.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np

from text_cls import decision_engine
from text_cls.probabilities import logit, sigmoid

VERSION = 2  # 1 held one threshold alone, and is read as well
HIERARCHY = {
    "closure": "what passed, and all above it",
    "top_down": "a child only under a parent that passed",
    "one_per_level": "a single path",
    "best_set": "the set with the highest sum of log-odds that holds every label's parent",
}


def _check(name, value, least, most=float("inf"), whole=False):
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"from {least} to {most}" if most < float("inf") else f"of {least} or more"
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number {bounds}, not {value!r}")


@dataclass(frozen=True)
class Decision:
    """What turns probabilities into label sets.

    threshold: to be exceeded, not met, as in the older suite: one number, or one for each label.
    min_k, max_k: labels of a row at least (0 = none needed) and at most (None = any number), ancestors counted.
    none_below: a row whose highest probability is below it is "none of these": no label, or `none_label` (its index)
        alone, whatever `min_k` says. None = off.
    temperature: logits are divided by it before anything else (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    hierarchy: one of `HIERARCHY`. All of them give sets that hold the parent of every label in them, and for flat
        labels all are the same, save one_per_level, which gives one label.
    """

    threshold: float | tuple = 0.5
    min_k: int = 0
    max_k: int | None = None
    none_below: float | None = None
    none_label: int | None = None
    temperature: float = 1.0
    hierarchy: str = "closure"

    def __post_init__(self):
        if isinstance(self.threshold, (list, np.ndarray)):
            object.__setattr__(self, "threshold", tuple(self.threshold))
        for number in self.threshold if isinstance(self.threshold, tuple) else (self.threshold,):
            _check("threshold", number, 0, 1)
        _check("min_k", self.min_k, 0, whole=True)
        _check("temperature", self.temperature, 1e-3, 1e3)
        if self.max_k is not None:
            _check("max_k", self.max_k, 1, whole=True)
            if self.max_k < self.min_k:
                raise ValueError(f"max_k {self.max_k} is below min_k {self.min_k}")
        if self.none_below is not None:
            _check("none_below", self.none_below, 0, 1)
        if self.none_label is not None:
            _check("none_label", self.none_label, 0, whole=True)
        if self.hierarchy not in HIERARCHY:
            raise ValueError(f"hierarchy must be one of {', '.join(HIERARCHY)}, not {self.hierarchy!r}")

    def problem(self, num_labels):
        """What keeps it from deciding on so many labels, or None."""
        if isinstance(self.threshold, tuple) and len(self.threshold) != num_labels:
            return f"{len(self.threshold)} thresholds for {num_labels} labels"
        if self.none_label is not None and self.none_label >= num_labels:
            return f"none_label {self.none_label}, while the labels are 0 to {num_labels - 1}"
        return None

    def calibrated(self, probabilities):
        """The probabilities after the temperature, which is what is shown to people. An array of the same shape."""
        if self.temperature == 1:
            return np.asarray(probabilities)
        return sigmoid(logit(probabilities) / self.temperature)

    def decide(self, probabilities, parents):
        """Label sets that hold every ancestor of what they hold.

        Args:
            probabilities: float array [rows, labels], before the temperature.
            parents: int array [labels] from `parent_ids`.
        Returns:
            bool array [rows, labels]. A row's set does not depend on the rows beside it; of equals, the label that
            comes first in `label.txt` is taken.
        Raises:
            ValueError: there are not as many thresholds as labels.
        """
        probabilities = np.asarray(probabilities)
        if problem := self.problem(probabilities.shape[1]):
            raise ValueError(problem)
        return decision_engine.decide(self, probabilities, parents)

    def passed(self, probabilities):
        """Which labels exceed their threshold, before hierarchy and counts: bool array of the same shape."""
        probabilities = np.asarray(probabilities)
        return probabilities > self.raw_thresholds(self.threshold, probabilities.dtype)

    def raw_thresholds(self, thresholds, dtype):
        """The same thresholds for probabilities before the temperature, in the probabilities' type."""
        thresholds = np.asarray(thresholds)
        if self.temperature != 1:
            between = (thresholds > 0) & (thresholds < 1)  # 0 and 1 stay what they are: anything above, and nothing
            thresholds = np.where(between, sigmoid(logit(thresholds) * self.temperature), thresholds)
        return np.asarray(thresholds, dtype=dtype)

    def text(self):
        """What `decision.json` holds."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.text())

    @classmethod
    def load(cls, path):
        """Reads `decision.json`. ValueError where the file is damaged or of a version this code does not know."""
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
        version = fields.pop("version", None) if isinstance(fields, dict) else None
        if version not in (1, VERSION):
            raise ValueError(f"version {version!r} is not known here (this code reads versions 1 and {VERSION})")
        try:
            return cls(**fields)
        except TypeError:
            raise ValueError(f"fields {sorted(fields)} are not those of version {version}") from None
