"""Carries out a `Decision` on arrays, fast if a row has only a handful of many labels. Needs only numpy."""

import numpy as np

from text_cls.label_tree import Families, add_ancestors, depths, entries
from text_cls.probabilities import logit

BLOCK = 1 << 18  # cells decided at once: their intermediate arrays fit into the processor's cache
MANY = 0.1  # share of chosen cells from which whole columns are faster than entries


def decide(decision, probabilities, parents):
    """The result of `Decision.decide`, in blocks of rows.

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
    """A `Decision` prepared for one tree of labels; it decides a block of rows at a time.

    Arrays are changed in place. Every probability is looked at once; all further work is on chosen cells only
    ("entries": arrays of their rows and columns), since a row has only a handful of 10,000 labels.
    """

    def __init__(self, decision, parents, dtype, rows):
        self.decision, self.parents, self.depth = decision, np.asarray(parents), depths(parents)
        self.nested = bool((self.parents >= 0).any())
        self.families = Families(self.parents) if self.nested else None
        self.thresholds = decision.raw_thresholds(decision.threshold, dtype)
        self.limits = logit(decision.threshold)  # a number, or float64 [labels]
        # Allocated once for all blocks: memory that is new to the process costs more than the work done in it.
        self.place = np.empty(rows * len(parents), dtype=np.int32)  # of a cell among the entries; set before it is read
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
            # Log-odds times the temperature, in the probabilities' type: only the order of labels counts.
            self.shift = (self.limits * decision.temperature).astype(dtype)
        if decision.max_k is not None:
            self.by_depth = np.argsort(self.depth, kind="stable")

    def fill_in(self, chosen, probabilities):
        """Writes the label sets of some rows into `chosen`: bool, probabilities float [rows, labels]."""
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
        """How far the log-odds of entries [n] are above those of their thresholds: above 0 if they exceed them."""
        limits = self.limits if self.limits.ndim == 0 else self.limits[columns]
        return logit(probabilities) / self.decision.temperature - limits

    def make_consistent(self, chosen, probabilities):
        """Turns the labels that passed into consistent sets, by `hierarchy`."""
        single_path = self.decision.hierarchy == "one_per_level"
        if not self.nested and not single_path:
            return
        many = self.nested and np.count_nonzero(chosen) > MANY * chosen.size
        if many and self.decision.hierarchy == "top_down":
            self.families.remove_orphans(chosen)
            return
        if self.decision.hierarchy != "top_down":
            # The set or path with the highest sum ends in labels that passed: others below them would lower it.
            self.families.add_ancestors(chosen) if many else add_ancestors(chosen, self.parents)
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
        """Positions of the entries by level of their label, from the roots down: an int array for each level."""
        depth = self.depth[columns]
        return [np.flatnonzero(depth == level) for level in range(1, depth.max(initial=0) + 1)]

    def parent_entries(self, rows, columns):
        """Position of each entry's parent among the entries, which contain every parent. For a root: any number."""
        size = len(self.parents)
        self.place[rows * size + columns] = np.arange(len(rows))
        return self.place[rows * size + self.parents[columns]]

    def best(self, rows, columns, margins, single_path):
        """Which entries belong to the best consistent set, or the best path, of their row, if their parents do.

        The value of a label is its margin plus what its children add: for a set the values of all children that are
        above 0, for a path the best of these. Dynamic programming from the leaves up gives the exact optimum.

        Args:
            rows, columns, margins: entries [n], sorted by row and column; every parent of an entry is an entry.
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
        # Only the best of siblings. The roots of a row count as siblings: children of one more entry per row.
        size = int(rows[-1]) + 1 if len(rows) else 0
        parent = np.where(self.parents[columns] >= 0, up, len(rows) + rows)
        highest = np.zeros(len(rows) + size)
        np.maximum.at(highest, parent, value)
        best = np.flatnonzero(kept & (value == highest[parent]))
        # One winner per parent, the first in a tie: the last write wins, so write in reverse order.
        winner = np.full(len(highest), -1)
        winner[parent[best[::-1]]] = best[::-1]
        kept[:] = False
        kept[winner[winner >= 0]] = True
        return kept

    def rank(self, probabilities, columns, out=None):
        """Numbers in the order of the margins of a row's labels; with a single threshold, the probabilities."""
        if self.limits.ndim == 0:
            return np.positive(probabilities, out=out)
        rank = np.subtract(1, probabilities, out=out)
        np.divide(probabilities, rank, out=rank)
        np.log(rank, out=rank)
        np.clip(rank, logit(0), logit(1), out=rank)
        rank -= self.shift[columns]
        return rank

    def add_to_short_rows(self, chosen, probabilities, wanted):
        """Adds the best labels to the wanted rows, one per round, until each has `min_k` or no more can be added."""
        least, hierarchy = self.decision.min_k, self.decision.hierarchy
        count = chosen.sum(axis=1)
        short = np.flatnonzero(wanted & (count < least))
        if not len(short):
            return
        values, rank = self.buffers[:, : len(short)]
        np.take(probabilities, short, axis=0, out=values, mode="clip")  # other modes copy twice
        count = count[short]
        rows, columns = entries(chosen[short])
        with np.errstate(divide="ignore"):
            if hierarchy == "closure":
                self.rank(values, slice(None), out=rank)
            else:
                # A path can only continue below its end; a set below any of its labels, or with another root.
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
                while len(rows):  # the label, then the ancestors that are missing
                    new = ~chosen[short[rows], columns]
                    rows, columns = rows[new], columns[new]
                    chosen[short[rows], columns] = True
                    rank[rows, columns] = -np.inf
                    count[rows] += 1
                    columns = self.parents[columns]
                    rows, columns = rows[columns >= 0], columns[columns >= 0]
                todo &= count < least

    def open_children(self, rank, values, rows, columns):
        """Ranks the children of the entries, so that they can be added from now on."""
        size = self.num_children[columns]
        start = np.repeat(self.first_child[columns] - (np.cumsum(size) - size), size)
        rows, columns = np.repeat(rows, size), self.children[start + np.arange(len(start))]
        rank[rows, columns] = self.rank(values[rows, columns], columns)

    def trim(self, chosen, probabilities):
        """Removes the worst leaves from each row until it has `max_k` labels."""
        most = self.decision.max_k
        over = np.flatnonzero(chosen.sum(axis=1) > most)
        if not len(over):
            return
        rows, columns = entries(chosen[over][:, self.by_depth])  # in a tie, the upper label is kept
        columns = self.by_depth[columns]
        priority = self.margins(probabilities[over[rows], columns], columns)
        up = self.parent_entries(rows, columns)
        for level in reversed(self.levels(columns)[1:]):  # a parent is kept as long as any label below it
            np.maximum.at(priority, up[level], priority[level])
        first = np.searchsorted(rows, np.arange(len(over)))
        table = np.full((len(over), np.bincount(rows).max()), -np.inf)
        table[rows, np.arange(len(rows)) - first[rows]] = priority
        chosen[over] = False
        for _ in range(most):
            best = table.argmax(axis=1)
            chosen[over, columns[first + best]] = True
            table[np.arange(len(over)), best] = -np.inf
