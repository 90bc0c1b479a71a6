"""How probabilities become labels: thresholds, counts, the hierarchy, and the file that keeps them (`decision.json`).

Arrays in, arrays out, numpy alone: the same few lines decide in training, in evaluation, in prediction and on a server.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np

SEPARATOR = "##"
BLOCK = 1 << 18  # cells that are decided at once: what is made of them on the way stays in the processor's cache
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
    closed = np.array(chosen, order="C")
    _close(closed, parents)
    return closed


def _entries(chosen):
    """Rows and columns of what is chosen, sorted. np.nonzero is many times slower in two dimensions than in one."""
    flat = np.flatnonzero(chosen)
    rows = flat // max(1, chosen.shape[1])
    return rows, flat - rows * chosen.shape[1]


def _close(chosen, parents):
    """Adds all above the chosen labels, in place."""
    rows, columns = _entries(chosen)
    while len(rows):
        columns = parents[columns]
        inside = np.flatnonzero(columns >= 0)
        rows, columns = rows[inside], columns[inside]
        new = np.flatnonzero(~chosen[rows, columns])
        rows, columns = rows[new], columns[new]
        chosen[rows, columns] = True


def sigmoid(logits):
    """Probabilities of logits, float32, without overflow at either end."""
    logits = np.asarray(logits, dtype=np.float32)
    scale = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + scale), scale / (1 + scale)).astype(np.float32)


LEAST = 1e-12  # a probability is taken to be so far from 0 and 1, at least


def _logit(probabilities):
    """Log-odds, float64, finite at 0 and 1."""
    probabilities = np.clip(np.asarray(probabilities, dtype=np.float64), LEAST, 1 - LEAST)
    return np.log(probabilities / (1 - probabilities))


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
        chosen = np.empty(probabilities.shape, dtype=bool)
        step = max(1, BLOCK // max(1, len(parents)))
        decider = _Decider(self, parents, probabilities.dtype, min(step, len(chosen)))
        for start in range(0, len(chosen), step):
            decider.fill_in(chosen[start : start + step], probabilities[start : start + step])
        return chosen

    def passed(self, probabilities):
        """Which labels exceed their threshold, before hierarchy and counts: bool array of the same shape."""
        probabilities = np.asarray(probabilities)
        return probabilities > self._raw(self.threshold, probabilities.dtype)

    def _raw(self, thresholds, dtype):
        """The same thresholds for probabilities before the temperature, in the probabilities' type."""
        thresholds = np.asarray(thresholds)
        if self.temperature != 1:
            between = (thresholds > 0) & (thresholds < 1)  # 0 and 1 stay what they are: anything above, and nothing
            thresholds = np.where(between, sigmoid(_logit(thresholds) * self.temperature), thresholds)
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


class _Decider:
    """A `Decision` made ready for one tree of labels, which decides a block of rows at a time.

    Arrays are worked on in place, and beyond a first look at every probability only where something is: of 10,000
    labels a row has a handful.
    """

    def __init__(self, decision, parents, dtype, rows):
        self.decision, self.parents, self.depth = decision, np.asarray(parents), depths(parents)
        self.nested = bool((self.parents >= 0).any())
        self.thresholds = decision._raw(decision.threshold, dtype)
        self.limits = _logit(decision.threshold)  # a number, or float64 [labels]
        # Of a block, and used for all of them: memory that is new to the process costs more than what is done in it.
        self.place = np.empty(rows * len(parents), dtype=np.int32)  # of a cell among the entries; written where read
        self.buffers = np.empty((2, rows, len(parents)), dtype=dtype)
        if decision.none_below is not None:
            self.floor = decision._raw(decision.none_below, dtype)
            self.none_set = np.zeros((1, len(parents)), dtype=bool)
            if decision.none_label is not None:
                self.none_set[0, decision.none_label] = True
                _close(self.none_set, parents)
        if decision.min_k:
            by_parent = np.argsort(self.parents, kind="stable")
            first = np.searchsorted(self.parents[by_parent], np.arange(-1, len(parents) + 1))
            self.roots, self.children = by_parent[: first[1]], by_parent
            self.first_child, self.num_children = first[1:-1], np.diff(first[1:])
            # Log-odds times the temperature, in the probabilities' type: it is the order of labels that counts.
            self.shift = (self.limits * decision.temperature).astype(dtype)
        if decision.max_k is not None:
            self.by_depth = np.argsort(self.depth, kind="stable")

    def fill_in(self, chosen, probabilities):
        """Writes the label sets of some rows: chosen bool, probabilities float [rows, labels]."""
        decision = self.decision
        np.greater(probabilities, self.thresholds, out=chosen)
        self.make_consistent(chosen, probabilities)
        none = np.zeros(len(chosen), dtype=bool)
        if decision.none_below is not None:
            none = probabilities.max(axis=1, initial=0) < self.floor
        if decision.min_k:
            self.add_to_short_rows(chosen, probabilities, ~none)
        if decision.max_k is not None:
            self.trim(chosen, probabilities)
        if none.any():
            chosen[none] = self.none_set

    def margins(self, probabilities, columns):
        """Log-odds over those of the labels' thresholds, of entries [n]: above 0 where the threshold is exceeded."""
        limits = self.limits if self.limits.ndim == 0 else self.limits[columns]
        return _logit(probabilities) / self.decision.temperature - limits

    def make_consistent(self, chosen, probabilities):
        """By `hierarchy`, of the labels that passed."""
        single_path = self.decision.hierarchy == "one_per_level"
        if not self.nested and not single_path:
            return
        if self.decision.hierarchy != "top_down":
            # A set or path of the highest sum ends in labels that passed: what is not above one of them adds nothing.
            _close(chosen, self.parents)
        if self.decision.hierarchy == "closure":
            return
        rows, columns = _entries(chosen)
        if self.decision.hierarchy != "top_down":
            kept = self.best(rows, columns, self.margins(probabilities[rows, columns], columns), single_path)
            chosen[rows[~kept], columns[~kept]] = False
            rows, columns = rows[kept], columns[kept]
        for level in self.levels(columns)[1:]:
            r, c = rows[level], columns[level]
            orphans = ~chosen[r, self.parents[c]]
            chosen[r[orphans], c[orphans]] = False

    def levels(self, columns):
        """Positions of the entries by level of their label, from the roots down: int arrays, none left out."""
        depth = self.depth[columns]
        return [np.flatnonzero(depth == level) for level in range(1, depth.max(initial=0) + 1)]

    def parent_entries(self, rows, columns):
        """Position of each entry's parent among the entries, which hold every parent. Of a root: any number."""
        size = len(self.parents)
        self.place[rows * size + columns] = np.arange(len(rows))
        return self.place[rows * size + self.parents[columns]]

    def best(self, rows, columns, margins, single_path):
        """Which entries the best consistent set, or the best path, of their row holds, given that their parent does.

        The value of a label is its margin and that of what hangs below it, where that is above 0: all of it for a set,
        the best of it for a path. By dynamic programming from the leaves up, exact.

        Args:
            rows, columns, margins: entries [n], sorted by row and column; every parent of an entry is one.
        Returns:
            bool array [n].
        """
        up, value, gain = self.parent_entries(rows, columns), margins, np.zeros(len(rows))
        levels = self.levels(columns)
        for number in range(len(levels) - 1, -1, -1):
            level = levels[number]
            value[level] += gain[level]
            good = level[value[level] > 0]
            if number:
                (np.maximum if single_path else np.add).at(gain, up[good], value[good])
        kept = value > 0
        if not single_path:
            return kept
        # One of each label's children, and one of the roots, which are the children of one more entry for each row.
        size = int(rows[-1]) + 1 if len(rows) else 0
        of = np.where(self.parents[columns] >= 0, up, len(rows) + rows)
        gain = np.zeros(len(rows) + size)
        np.maximum.at(gain, of, value)
        backward = np.flatnonzero(kept & (value == gain[of]))[::-1]
        winner = np.full(len(gain), -1)
        winner[of[backward]] = backward  # of equals the first, which is written last
        kept[:] = False
        kept[winner[winner >= 0]] = True
        return kept

    def rank(self, probabilities, columns, out=None):
        """What orders the labels of a row: their margins, or for one common threshold the probabilities themselves."""
        if self.limits.ndim == 0:
            return np.positive(probabilities, out=out)
        rank = np.subtract(1, probabilities, out=out)
        np.divide(probabilities, rank, out=rank)
        np.log(rank, out=rank)
        np.clip(rank, _logit(0), _logit(1), out=rank)
        rank -= self.shift[columns]
        return rank

    def add_to_short_rows(self, chosen, probabilities, wanted):
        """Adds the best labels, one a round, to the rows wanted until each has `min_k`, or as many as there can be."""
        least, hierarchy = self.decision.min_k, self.decision.hierarchy
        count = chosen.sum(axis=1)
        short = np.flatnonzero(wanted & (count < least))
        if not len(short):
            return
        values, rank = self.buffers[:, : len(short)]
        np.take(probabilities, short, axis=0, out=values, mode="clip")  # another mode would copy them twice
        count = count[short]
        rows, columns = _entries(chosen[short])
        with np.errstate(divide="ignore"):
            if hierarchy == "closure":
                self.rank(values, slice(None), out=rank)
            else:
                # A path goes on below its end alone; a set below any of its labels, and with further roots.
                rank.fill(-np.inf)
                path = hierarchy == "one_per_level"
                start = np.ix_(np.flatnonzero(count == 0) if path else np.arange(len(short)), self.roots)
                rank[start] = self.rank(values[start], self.roots)
                ends = self.depth[columns] == count[rows] if path else slice(None)
                self.open_children(rank, values, rows[ends], columns[ends])
            rank[rows, columns] = -np.inf
            todo = np.ones(len(short), dtype=bool)
            while todo.any():
                best = rank.argmax(axis=1)
                todo &= rank[np.arange(len(best)), best] > -np.inf
                rows = np.flatnonzero(todo)
                columns = best[rows]
                if hierarchy == "one_per_level":
                    rank[rows] = -np.inf
                if hierarchy != "closure":
                    self.open_children(rank, values, rows, columns)
                while len(rows):  # the label, and what it lacks above it
                    new = ~chosen[short[rows], columns]
                    rows, columns = rows[new], columns[new]
                    chosen[short[rows], columns] = True
                    rank[rows, columns] = -np.inf
                    count[rows] += 1
                    columns = self.parents[columns]
                    rows, columns = rows[columns >= 0], columns[columns >= 0]
                todo &= count < least

    def open_children(self, rank, values, rows, columns):
        """Ranks the children of the entries, which may be added from now on."""
        size = self.num_children[columns]
        start = np.repeat(self.first_child[columns] - (np.cumsum(size) - size), size)
        rows, columns = np.repeat(rows, size), self.children[start + np.arange(len(start))]
        rank[rows, columns] = self.rank(values[rows, columns], columns)

    def trim(self, chosen, probabilities):
        """Takes the worst leaves from each row until it has `max_k` labels."""
        most = self.decision.max_k
        over = np.flatnonzero(chosen.sum(axis=1) > most)
        if not len(over):
            return
        rows, columns = _entries(chosen[over][:, self.by_depth])  # of equals, the upper label stays
        columns = self.by_depth[columns]
        priority = self.margins(probabilities[over[rows], columns], columns)
        up = self.parent_entries(rows, columns)
        for level in reversed(self.levels(columns)[1:]):  # a parent stays as long as what it bears
            np.maximum.at(priority, up[level], priority[level])
        first = np.searchsorted(rows, np.arange(len(over)))
        table = np.full((len(over), np.bincount(rows).max()), -np.inf)
        table[rows, np.arange(len(rows)) - first[rows]] = priority
        chosen[over] = False
        for _ in range(most):
            best = table.argmax(axis=1)
            chosen[over, columns[first + best]] = True
            table[np.arange(len(over)), best] = -np.inf
