"""How probabilities become label sets: thresholds, counts, the hierarchy, and `decision.json`, which stores them.

Arrays in, arrays out; needs only numpy. Training, evaluation, prediction and servers all decide by `Decision.decide`;
the work on arrays is in `decision_engine`.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

import numpy as np

from text_cls import decision_engine
from text_cls.cli import UserError, shorten
from text_cls.files import write_json
from text_cls.language import N_, tr
from text_cls.probabilities import logit, sigmoid
from text_cls.schema import ANY, TEXT, fields, list_of, number, one_of, or_null, read_json, whole

# Of decision.json: 1 had a single threshold and nothing else; 3 is 2 with the names of the labels, for a decision that
# refers to labels by their place.
VERSIONS = (1, 2, 3)
REMEDY = N_("restore decision.json, or delete it (the threshold is then 0.5) and fit it: python analysis/threshold.py")
HIERARCHY = {
    "closure": N_("labels above their threshold and all their ancestors"),
    "top_down": N_("a label above its threshold only if its parent is in the set"),
    "one_per_level": N_("a single path"),
    "best_set": N_("the set with the highest sum of log-odds that contains the parent of every label"),
}


def _threshold(where, value):
    several = isinstance(value, (list, tuple))
    return (list_of(number(0, 1)) if several else number(0, 1))(where, value)


CHECKS = {  # of the fields of a decision
    "threshold": _threshold,
    "min_k": whole(0),
    "max_k": or_null(whole(1)),
    "none_below": or_null(number(0, 1)),
    "none_label": or_null(whole(0)),
    "temperature": number(1e-3, 1e3),
    "hierarchy": one_of(*HIERARCHY),
}
FILE = fields({"version": ANY}, {**CHECKS, "labels": list_of(TEXT)}, others=False)


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
        for name, check in CHECKS.items():
            for fault in check(name, getattr(self, name)):
                raise ValueError(fault)
        if self.max_k is not None and self.max_k < self.min_k:
            raise ValueError(tr("max_k {max_k} is below min_k {min_k}", max_k=self.max_k, min_k=self.min_k))

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
            return tr("{count} thresholds for {num_labels} labels", count=len(self.threshold), num_labels=num_labels)
        if self.none_label is not None and self.none_label >= num_labels:
            return tr(
                "none_label {none_label}, while the labels are 0 to {num_labels}",
                none_label=self.none_label,
                num_labels=num_labels - 1,
            )
        return None

    def count_problem(self, num_labels: int) -> str | None:
        """Why no row can get as many labels as this decision wants, or None. `decide` then gives it all of them."""
        return (
            tr("min_k {min_k} for {num_labels} labels", min_k=self.min_k, num_labels=num_labels)
            if self.min_k > num_labels
            else None
        )

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

    def save(self, path: str | os.PathLike, names: Sequence[str] | None = None) -> None:
        """Writes `decision.json`, whole or not at all. names: as for `content`."""
        write_json(path, self.content(names))

    def content(self, names: Sequence[str] | None = None) -> dict:
        """What `decision.json` holds.

        names: of the labels, in order. A decision with a threshold per label or a none_label needs them; they are
        in the file, so that `load` can see that its labels are those of the model.
        """
        by_place = isinstance(self.threshold, tuple) or self.none_label is not None
        if by_place and (names is None or (problem := self.problem(len(names)))):
            raise ValueError(problem if names is not None else tr("this decision needs the names of the labels"))
        head = {"version": 3, "labels": list(names)} if by_place else {"version": 2}
        return {**head, **asdict(self)}

    @classmethod
    def load(cls, path: str | os.PathLike, names: Sequence[str] | None = None, remedy: str | None = None) -> "Decision":
        """Reads `decision.json`.

        Args:
            names: of the model's labels, in order; None to leave out the checks that need them.
            remedy: what to do about a faulty file, if not to restore it.
        Raises:
            UserError: the file is missing, damaged, of an unknown version, or for other labels.
        """
        remedy = remedy or tr(REMEDY)
        content = read_json(path, FILE, remedy, VERSIONS)
        version, own = content.pop("version"), content.pop("labels", None)
        if version == 3 and own is None:
            raise UserError(tr("{path}: labels is missing; {remedy}", path=path, remedy=remedy))
        try:
            decision = cls(**content)
        except ValueError as error:
            raise UserError(f"{path}: {error}; {remedy}") from error
        if own is not None and names is not None and (problem := _other_labels(own, names)):
            raise UserError(
                tr(
                    "{path} is for other labels: {problem}; restore label.txt, or {remedy}",
                    path=path,
                    problem=problem,
                    remedy=remedy,
                )
            )
        if names is not None and (problem := decision.problem(len(names)) or decision.count_problem(len(names))):
            raise UserError(f"{path}: {problem}; {remedy}")
        return decision


def _other_labels(own, names):
    """The first difference between the label names of decision.json, `own`, and those of the model; None if equal."""
    for place, (ours, theirs) in enumerate(zip_longest(own, names), 1):
        if ours != theirs:
            ours, theirs = (tr("no label") if name is None else shorten(name) for name in (ours, theirs))
            return tr("its label {place} is {ours}, that of label.txt {theirs}", place=place, ours=ours, theirs=theirs)
    return None
