"""How probabilities become labels: thresholds, counts, the hierarchy, and the file that keeps them (`decision.json`).

Arrays in, arrays out, numpy alone: the same few lines decide in training, in evaluation, in prediction and on a server.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np

SEPARATOR = "##"
VERSION = 2  # 1 held one threshold alone, and is read as well
HIERARCHY = {
    "closure": "what passed, and all above it",
    "top_down": "a child only under a parent that passed",
    "one_per_level": "a single path",
    "best_set": "the set with the highest sum of log-odds that holds every label's parent",
}


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


def _logit(probabilities):
    """Log-odds, float64, finite at 0 and 1."""
    probabilities = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-12, 1 - 1e-12)
    return np.log(probabilities) - np.log1p(-probabilities)


def _check(name, value, least, most=float("inf"), whole=False):
    kinds = (int,) if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"from {least} to {most}" if most < float("inf") else f"of {least} or more"
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number {bounds}, not {value!r}")


def _levels(columns, parents):
    """Positions of the entries by level of their label, from the roots down: a list of int arrays, none left out."""
    depth = depths(parents)[columns]
    return [np.flatnonzero(depth == level) for level in range(1, depth.max(initial=0) + 1)]


def _parent_entries(rows, columns, parents):
    """Position of each entry's parent among the entries, which are sorted by row and column and hold every parent."""
    size = len(parents)
    return np.searchsorted(rows * size + columns, rows * size + parents[columns])


def _best(rows, columns, margins, parents, single_path):
    """Which entries the best consistent set, or the best path, of their row holds, given that their parent does.

    The value of a label is its margin and that of what hangs below it, where that is above 0: all of it for a set, the
    best of it for a path. By dynamic programming from the leaves up, exact.

    Args:
        rows, columns, margins: entries [n], sorted by row and column; every parent of an entry is one.
    Returns:
        bool array [n].
    """
    up, value = _parent_entries(rows, columns, parents), margins.copy()
    gain = np.zeros(len(rows))
    levels = _levels(columns, parents)
    for number in range(len(levels) - 1, -1, -1):
        level = levels[number]
        value[level] += gain[level]
        good = level[value[level] > 0]
        if number:
            (np.maximum if single_path else np.add).at(gain, up[good], value[good])
    kept = value > 0
    if single_path:  # one of the roots, and one of each label's children
        family = rows * (len(parents) + 1) + parents[columns] + 1
        order = np.lexsort((columns, -value, family))
        first = np.ones(len(order), dtype=bool)
        first[1:] = family[order][1:] != family[order][:-1]
        kept[order[~first]] = False
    return kept


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
        return sigmoid(_logit(probabilities) / self.temperature)

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
        passed = probabilities > self._raw(self.threshold, probabilities.dtype)
        chosen = self._consistent(passed, probabilities, parents)
        none = np.zeros(len(chosen), dtype=bool)
        if self.none_below is not None:
            none = probabilities.max(axis=1, initial=0) < self._raw(self.none_below, probabilities.dtype)
        if self.min_k:
            self._fill(chosen, probabilities, parents, ~none)
        if self.max_k is not None:
            self._trim(chosen, probabilities, parents)
        chosen[none] = False
        if self.none_label is not None:
            alone = np.zeros((1, chosen.shape[1]), dtype=bool)
            alone[0, self.none_label] = True
            chosen[none] = with_ancestors(alone, parents)
        return chosen

    def _raw(self, thresholds, dtype):
        """The same thresholds for probabilities before the temperature, in the probabilities' type."""
        if self.temperature != 1:
            thresholds = sigmoid(_logit(thresholds) * self.temperature)
        return np.asarray(thresholds, dtype=dtype)

    def _margins(self, probabilities, columns=slice(None)):
        """Log-odds over those of the labels' thresholds: above 0 where the threshold is exceeded."""
        limits = _logit(self.threshold)
        return _logit(probabilities) / self.temperature - (limits if limits.ndim == 0 else limits[columns])

    def _consistent(self, passed, probabilities, parents):
        """Sets with every parent, by `hierarchy`, of the labels that passed (bool [rows, labels])."""
        if self.hierarchy == "closure":
            return with_ancestors(passed, parents)
        if self.hierarchy == "top_down":
            rows, columns = np.nonzero(passed)
            kept = np.ones(len(rows), dtype=bool)
        else:
            # A set or path of the highest sum ends in labels that passed: what is not above one of them adds nothing.
            rows, columns = np.nonzero(with_ancestors(passed, parents))
            kept = _best(rows, columns, self._margins(probabilities[rows, columns], columns), parents,
                         single_path=self.hierarchy == "one_per_level")  # fmt: skip
        rows, columns = rows[kept], columns[kept]
        chosen = np.zeros_like(passed)
        for level in _levels(columns, parents):
            r, c = rows[level], columns[level]
            chosen[r, c] = (parents[c] < 0) | chosen[r, parents[c]]
        return chosen

    def _fill(self, chosen, probabilities, parents, wanted):
        """Adds the best labels, one a round, to the rows wanted until each has `min_k`, or as many as there can be."""
        depth, step = depths(parents), max(1, (1 << 22) // max(1, len(parents)))
        short = np.flatnonzero(wanted & (chosen.sum(axis=1) < self.min_k))
        for start in range(0, len(short), step):
            rows = short[start : start + step]
            # Of one common threshold the log-odds rank labels as the probabilities do.
            rank = probabilities[rows] if np.ndim(self.threshold) == 0 else self._margins(probabilities[rows])
            while len(rows):
                ranked = np.where(self._addable(chosen[rows], parents, depth), rank, -np.inf)
                best = ranked.argmax(axis=1)
                found = np.take_along_axis(ranked, best[:, None], axis=1)[:, 0] > -np.inf
                rows, rank, best = rows[found], rank[found], best[found]
                chosen[rows, best] = True
                chosen[rows] = with_ancestors(chosen[rows], parents)
                still = chosen[rows].sum(axis=1) < self.min_k
                rows, rank = rows[still], rank[still]

    def _addable(self, chosen, parents, depth):
        """Labels that may be added to each row's set: bool [rows, labels]."""
        if self.hierarchy == "closure":
            return ~chosen
        if self.hierarchy == "one_per_level":  # a path's end lies as deep as the path is long
            length = chosen.sum(axis=1, keepdims=True)
            return np.where(parents < 0, length == 0, chosen[:, parents] & (depth[parents] == length))
        return ~chosen & ((parents < 0) | chosen[:, parents])

    def _trim(self, chosen, probabilities, parents):
        """Takes the worst leaves from each row until it has `max_k` labels."""
        over = np.flatnonzero(chosen.sum(axis=1) > self.max_k)
        rows, columns = np.nonzero(chosen[over])
        priority = self._margins(probabilities[over[rows], columns], columns)
        up = _parent_entries(rows, columns, parents)
        for level in reversed(_levels(columns, parents)[1:]):  # a parent stays as long as what it bears
            np.maximum.at(priority, up[level], priority[level])
        order = np.lexsort((columns, depths(parents)[columns], -priority, rows))
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)  # from 0 within each row
        dropped = order[place >= self.max_k]
        chosen[over[rows[dropped]], columns[dropped]] = False

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
