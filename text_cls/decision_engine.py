"""How a `Decision` is carried out on arrays: fast where labels are many and a row has a handful. numpy alone."""

import numpy as np

from text_cls.label_tree import add_ancestors, depths, entries
from text_cls.probabilities import logit

BLOCK = 1 << 18  # cells decided at once: their intermediate arrays stay in the processor's cache


def decide(decision, probabilities, parents):
    """What `Decision.decide` returns, worked out in blocks of rows.

    Args:
        decision: `decision.Decision`.
        probabilities: float array [rows, labels]. parents: int array [labels].
    """
    chosen = np.empty(probabilities.shape, dtype=bool)
    step = max(1, BLOCK // max(1, len(parents)))
    decider = _Decider(decision, parents, probabilities.dtype, min(step, len(chosen)))
    for start in range(0, len(chosen), step):
        decider.fill_in(chosen[start : start + step], probabilities[start : start + step])
    return chosen


class _Decider:
    """A `Decision` made ready for one tree of labels, which decides a block of rows at a time.

    Arrays are worked on in place, and beyond a first look at every probability only where something is: of 10,000
    labels a row has a handful.
    """

    def __init__(self, decision, parents, dtype, rows):
        self.decision, self.parents, self.depth = decision, np.asarray(parents), depths(parents)
        self.nested = bool((self.parents >= 0).any())
        self.thresholds = decision.raw_thresholds(decision.threshold, dtype)
        self.limits = logit(decision.threshold)  # a number, or float64 [labels]
        # Of a block, and used for all of them: memory that is new to the process costs more than what is done in it.
        self.place = np.empty(rows * len(parents), dtype=np.int32)  # of a cell among the entries; written where read
        self.buffers = np.empty((2, rows, len(parents)), dtype=dtype)
        if decision.none_below is not None:
            self.floor = decision.raw_thresholds(decision.none_below, dtype)
            self.none_set = np.zeros((1, len(parents)), dtype=bool)
            if decision.none_label is not None:
                self.none_set[0, decision.none_label] = True
                add_ancestors(self.none_set, parents)
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
        return logit(probabilities) / self.decision.temperature - limits

    def make_consistent(self, chosen, probabilities):
        """By `hierarchy`, of the labels that passed."""
        single_path = self.decision.hierarchy == "one_per_level"
        if not self.nested and not single_path:
            return
        if self.decision.hierarchy != "top_down":
            # A set or path of the highest sum ends in labels that passed: what is not above one of them adds nothing.
            add_ancestors(chosen, self.parents)
        if self.decision.hierarchy == "closure":
            return
        rows, columns = entries(chosen)
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
        np.clip(rank, logit(0), logit(1), out=rank)
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
        rows, columns = entries(chosen[short])
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
        rows, columns = entries(chosen[over][:, self.by_depth])  # of equals, the upper label stays
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
