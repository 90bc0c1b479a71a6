"""Splits rows into parts such as train, dev and test: each label in the same proportion, each text in a single part.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) from the library iterative-stratification.
"""

import numpy as np

from text_cls.language import tr

WORK = 5e9  # texts x labels x labels that the library gets at once; this takes seconds
BLOCK = 1000  # texts at once if it would be more; nearly as even on 20,000 texts with 2,000 labels, and far faster


def stratified_split(targets, texts, fractions, seed):
    """Splits rows so that each label has its share in each part, and is missing from none if that is possible.

    Rows with the same text stay together, whatever their labels, so that no part contains what another one tests;
    fractions are therefore shares of the distinct texts. A label with at least as many distinct texts as there are
    parts is in every part if each row has one label, or one path of a hierarchy. If rows have several labels, that can
    be impossible; a label is then missing from a part only if each text that could be moved there is the last one of
    another such label in its own part. A label with fewer texts goes to the largest part first.

    Args:
        targets: bool array or scipy.sparse matrix [rows, labels].
        texts: one str per row.
        fractions: share of each part, above 0 and together 1, at least two.
        seed: int; the same input and seed give the same parts.
    Returns:
        list of int64 arrays, one per fraction: the row numbers of each part, ascending; a partition of all rows.
        No part is empty if there are as many distinct texts as parts.
    """
    from scipy import sparse

    fractions = np.asarray(fractions, dtype=np.float64)
    if len(fractions) < 2 or (fractions <= 0).any() or abs(fractions.sum() - 1) > 1e-6:
        raise ValueError(
            tr("fractions must be two or more, above 0 and together 1, not {tolist}", tolist=fractions.tolist())
        )
    number_of, group = {}, []
    for text in texts:
        group.append(number_of.setdefault(text, len(number_of)))
    group = np.array(group, dtype=np.int64)
    shape = len(number_of), len(group)
    members = sparse.csr_matrix((np.ones(len(group), np.int32), (group, np.arange(len(group)))), shape=shape)
    has_label = (members @ sparse.csr_matrix(targets, dtype=np.int32)).astype(bool)
    # One more label that every text has: no part stays empty, and texts without a label are split like the others.
    has_label = sparse.hstack([has_label, np.ones((len(number_of), 1), dtype=bool)], format="csr")
    random = np.random.RandomState(seed)  # the type that the library expects
    parts = _Parts(has_label, _deal(has_label, fractions, random), fractions)
    parts.fill_gaps()
    parts.balance()
    parts.fill_gaps()
    return [np.flatnonzero(parts.part[group] == k) for k in range(len(fractions))]


def _deal(has_label, fractions, random):
    """Part of each text, int64 array [texts], from has_label: bool csr_matrix [texts, labels]."""
    from iterstrat.ml_stratifiers import IterativeStratification

    order = random.permutation(has_label.shape[0])
    size = has_label.shape[0]
    if size * has_label.shape[1] ** 2 > WORK:
        # Texts with the same rarest label side by side: rare labels need the most care.
        support = has_label.getnnz(axis=0)
        rank = np.empty(len(support), dtype=np.int64)
        rank[np.argsort(support, kind="stable")] = np.arange(len(support))
        rarest = np.minimum.reduceat(rank[has_label.indices], has_label.indptr[:-1])
        order, size = order[np.argsort(rarest[order], kind="stable")], BLOCK
    part = np.zeros(len(order), dtype=np.int64)
    for start in range(0, len(order), size):
        block = order[start : start + size]
        table = has_label[block]
        table = table[:, np.flatnonzero(table.getnnz(axis=0))].toarray()
        part[block] = IterativeStratification(table, fractions, random)
    return part


class _Parts:
    """The texts of each part, and how many of each label it has.

    has_label: bool csr_matrix [texts, labels], whose last label every text has. part: int64 array [texts], the part of
    each text. count: int array [labels, parts].
    """

    def __init__(self, has_label, part, fractions):
        self.has_label, self.part, self.fractions = has_label, part, fractions
        self.support = has_label.getnnz(axis=0)
        self.count = np.stack([has_label[part == k].getnnz(axis=0) for k in range(len(fractions))], axis=1)
        self.everywhere = self.support >= len(fractions)  # labels that can be in every part
        self.largest = int(np.argmax(fractions))

    def lost(self, part):
        """Labels whose last text in `part` must not leave it, and those whose last text should not: bool [labels].

        The latter are too rare to be in every part; the largest part, the one to train on, should keep them.
        """
        last = self.count[:, part] == 1
        return last & self.everywhere, last & (part == self.largest)

    def excess(self, part):
        """How much of each label a part has beyond its share, as a fraction of its texts: float array [labels]."""
        return self.count[:, part] / np.maximum(1, self.support) - self.fractions[part]

    def move(self, text, part):
        """Moves a text to another part."""
        labels = self.has_label.indices[self.has_label.indptr[text] : self.has_label.indptr[text + 1]]
        self.count[labels, self.part[text]] -= 1
        self.count[labels, part] += 1
        self.part[text] = part

    def fill_gaps(self):
        """Moves texts to parts that lack a label although it has enough texts, the rarest label first."""
        columns, moved = self.has_label.tocsc(), True
        while moved:  # a move can free texts for an earlier label; each move lowers the number of gaps
            moved = False
            labels, targets = np.nonzero((self.count == 0) & self.everywhere[:, None])
            order = np.argsort(self.support[labels], kind="stable")
            for label, target in zip(labels[order], targets[order]):
                wanted = (self.count[:, target] == 0) & self.everywhere
                if not wanted[label]:
                    continue
                texts, best = columns.indices[columns.indptr[label] : columns.indptr[label + 1]], None
                for source in np.unique(self.part[texts]):
                    never, rather_not = self.lost(source)
                    here = texts[self.part[texts] == source]
                    here = here[self.has_label[here] @ never == 0]
                    if not len(here):
                        continue
                    loss = self.has_label[here] @ rather_not.astype(int)
                    gain = self.has_label[here] @ wanted.astype(int)
                    i = np.lexsort((-gain, loss))[0]
                    choice = loss[i], -gain[i], -self.excess(source)[-1]
                    if best is None or choice < best[0]:
                        best = choice, here[i]
                if best:
                    self.move(best[1], target)
                    moved = True

    def balance(self):
        """Moves texts from parts above their share to parts below it, as long as no part loses a label."""
        sizes = self.support[-1] * self.fractions
        while True:
            beyond = self.count[-1] - sizes
            source, target = int(np.argmax(beyond)), int(np.argmin(beyond))
            if beyond[source] < 1 or beyond[target] > -1:
                return
            never, rather_not = self.lost(source)
            here = np.flatnonzero(self.part == source)
            here = here[self.has_label[here] @ (never | rather_not) == 0]
            if not len(here):
                return
            self.move(here[np.argmax(self.has_label[here] @ (self.excess(source) - self.excess(target)))], target)
