"""How probabilities become label sets: thresholds, counts, the hierarchy, and `decision.json`, which stores them.

Arrays in, arrays out; needs only numpy. Training, evaluation, prediction and servers all decide by `Decision.decide`;
the work on arrays is in `decision_engine`.
"""

import json
import os
from dataclasses import asdict, dataclass

import numpy as np

from text_cls import decision_engine
from text_cls.files import atomic_write
from text_cls.probabilities import logit, sigmoid

VERSION = 2  # version 1 had a single threshold and nothing else; it can still be read
HIERARCHY = {
    "closure": "labels above their threshold and all their ancestors",
    "top_down": "a label above its threshold only if its parent is in the set",
    "one_per_level": "a single path",
    "best_set": "the set with the highest sum of log-odds that contains the parent of every label",
}


@dataclass(frozen=True)
class Decision:
    """How probabilities become label sets.

    threshold: one number, or one per label. A label passes if its probability exceeds its threshold; equal is not
        enough, as in PaddleNLP's application.
    min_k, max_k: at least and at most this many labels per row, including ancestors (0 and None: no limit).
    none_below: a row whose highest probability is below it is "none of these": it gets no label, or only `none_label`
        (an index), whatever `min_k` says. None: off.
    temperature: logits are divided by it before anything else (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
    hierarchy: one of `HIERARCHY`. In each of them a set contains the parent of every label in it. For flat labels they
        are all the same, except that one_per_level gives a single label.
    """

    threshold: float | tuple[float, ...] = 0.5
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

    def decide(self, probabilities: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Label sets that contain every ancestor of their labels.

        Args:
            probabilities: float array [rows, labels], before the temperature.
            parents: int array [labels] from `label_tree.parent_ids`.
        Returns:
            bool array [rows, labels]. A row's set does not depend on the other rows; of equal labels, the first in
            `label.txt` wins.
        Raises:
            ValueError: the decision is for another number of labels.
        """
        probabilities = np.asarray(probabilities)
        if problem := self.problem(probabilities.shape[1]):
            raise ValueError(problem)
        return decision_engine.decide(self, probabilities, parents)

    def problem(self, num_labels: int) -> str | None:
        """Why this decision cannot be used for this number of labels, or None if it can."""
        if isinstance(self.threshold, tuple) and len(self.threshold) != num_labels:
            return f"{len(self.threshold)} thresholds for {num_labels} labels"
        if self.none_label is not None and self.none_label >= num_labels:
            return f"none_label {self.none_label}, while the labels are 0 to {num_labels - 1}"
        return None

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """The probabilities after the temperature, as users see them: an array of the same shape."""
        if self.temperature == 1:
            return np.asarray(probabilities)
        return sigmoid(logit(probabilities) / self.temperature)

    def passed(self, probabilities: np.ndarray) -> np.ndarray:
        """Which labels exceed their threshold, before hierarchy and counts: a bool array of the same shape."""
        probabilities = np.asarray(probabilities)
        return probabilities > self.raw_thresholds(self.threshold, probabilities.dtype)

    def raw_thresholds(self, thresholds: float | tuple[float, ...], dtype: np.dtype) -> np.ndarray:
        """The thresholds that probabilities of this type, before the temperature, have to exceed."""
        thresholds = np.asarray(thresholds)
        if self.temperature != 1:
            between = (thresholds > 0) & (thresholds < 1)  # anything above 0 exceeds 0, and nothing exceeds 1
            thresholds = np.where(between, sigmoid(logit(thresholds) * self.temperature), thresholds)
        return np.asarray(thresholds, dtype=dtype)

    def save(self, path: str | os.PathLike) -> None:
        """Writes `decision.json`, whole or not at all."""
        with atomic_write(path) as file:
            file.write(json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Decision":
        """Reads `decision.json`. Raises ValueError if the file is damaged or of an unknown version."""
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
        version = fields.pop("version", None) if isinstance(fields, dict) else None
        if version not in (1, VERSION):
            raise ValueError(f"version {version!r} is unknown (this code reads versions 1 and {VERSION})")
        try:
            return cls(**fields)
        except TypeError:
            raise ValueError(f"fields {sorted(fields)} are not those of version {version}") from None


def _check(name, value, least, most=float("inf"), whole=False):
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"from {least} to {most}" if most < float("inf") else f"of {least} or more"
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number {bounds}, not {value!r}")
