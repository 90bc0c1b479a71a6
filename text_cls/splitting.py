"""Rows dealt out to train, dev and test: each label in the same proportion, a text in one of them alone.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) from the library iterative-stratification.
"""

import numpy as np

WORK = 5e9  # texts x labels x labels that the library is given at once: seconds
BLOCK = 1000  # texts, where it would be more; nearly as even on 20,000 texts with 2,000 labels, and far faster


def stratified_split(targets, texts, fractions, seed):
    """Deals rows out so that each label has its share in each part, and none is missing where it can be there.

    Rows with one text stay together, whatever their labels, so that no part shows what another is to be tested on;
    fractions are therefore shares of the distinct texts. A label with at least as many distinct texts as there are
    parts is in all of them where each row has one label, or one path of a hierarchy. Where rows have several, that can
    be impossible; a label is then missing from a part only if each text that could mend it is the last one of another
    such label where it stands. A label with fewer texts goes to the largest part first.

    Args:
        targets: bool array or scipy.sparse matrix [rows, labels].
        texts: one str a row.
        fractions: share of each part, above 0 and together 1, at least two.
        seed: int; the same input and seed give the same parts.
    Returns:
        list of int64 arrays, one per fraction: the row numbers of each part in rising order, a partition of all rows.
        No part is empty where there are as many distinct texts as parts.
    """
    from scipy import sparse

    fractions = np.asarray(fractions, dtype=np.float64)
    if len(fractions) < 2 or (fractions <= 0).any() or abs(fractions.sum() - 1) > 1e-6:
        raise ValueError(f"fractions must be two or more, above 0 and together 1, not {fractions.tolist()}")
    number_of, group = {}, []
    for text in texts:
        group.append(number_of.setdefault(text, len(number_of)))
    group = np.array(group, dtype=np.int64)
    shape = len(number_of), len(group)
    members = sparse.csr_matrix((np.ones(len(group), np.int32), (group, np.arange(len(group)))), shape=shape)
    held = (members @ sparse.csr_matrix(targets, dtype=np.int32)).astype(bool)
    # A label that every text has: with it no part stays empty, and texts without a label are dealt out like others.
    held = sparse.hstack([held, np.ones((len(number_of), 1), dtype=bool)], format="csr")
    random = np.random.RandomState(seed)  # the kind the library takes
    parts = _Parts(held, _deal(held, fractions, random), fractions)
    parts.mend()
    parts.balance()
    parts.mend()
    return [np.flatnonzero(parts.part[group] == k) for k in range(len(fractions))]


def _deal(held, fractions, random):
    """Part of each text, int64 array [texts], from held: bool csr_matrix [texts, labels]."""
    from iterstrat.ml_stratifiers import IterativeStratification

    order = random.permutation(held.shape[0])
    size = held.shape[0]
    if size * held.shape[1] ** 2 > WORK:
        # Texts that are alike in their rarest label side by side: it is the rare labels that need the care.
        support = held.getnnz(axis=0)
        rank = np.empty(len(support), dtype=np.int64)
        rank[np.argsort(support, kind="stable")] = np.arange(len(support))
        rarest = np.minimum.reduceat(rank[held.indices], held.indptr[:-1])
        order, size = order[np.argsort(rarest[order], kind="stable")], BLOCK
    part = np.zeros(len(order), dtype=np.int64)
    for start in range(0, len(order), size):
        block = order[start : start + size]
        table = held[block]
        table = table[:, np.flatnonzero(table.getnnz(axis=0))].toarray()
        part[block] = IterativeStratification(table, fractions, random)
    return part


class _Parts:
    """Texts in parts, and how many of each label each part has.

    held: bool csr_matrix [texts, labels], the last label that of all. part: int64 [texts]. count: int [labels, parts].
    """

    def __init__(self, held, part, fractions):
        self.held, self.part, self.fractions = held, part, fractions
        self.support = held.getnnz(axis=0)
        self.count = np.stack([held[part == k].getnnz(axis=0) for k in range(len(fractions))], axis=1)
        self.everywhere = self.support >= len(fractions)  # labels that can be in every part
        self.largest = int(np.argmax(fractions))

    def lost(self, part):
        """Labels whose last text in `part` must not leave it, and those whose last text had better not: bool [labels].

        The latter are too rare to be in every part; they can be learnt where the largest part has them.
        """
        last = self.count[:, part] == 1
        return last & self.everywhere, last & (part == self.largest)

    def excess(self, part):
        """Texts that a part has beyond its share, of each label, as a share of all of that label's: float [labels]."""
        return self.count[:, part] / np.maximum(1, self.support) - self.fractions[part]

    def move(self, text, part):
        labels = self.held.indices[self.held.indptr[text] : self.held.indptr[text + 1]]
        self.count[labels, self.part[text]] -= 1
        self.count[labels, part] += 1
        self.part[text] = part

    def mend(self):
        """Moves texts to where a label is missing that has enough of them, the rarest label first."""
        columns, moved = self.held.tocsc(), True
        while moved:  # a move can free texts that an earlier label wanted; each lowers the number of gaps
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
                    here = here[self.held[here] @ never == 0]
                    if not len(here):
                        continue
                    loss, gain = self.held[here] @ rather_not.astype(int), self.held[here] @ wanted.astype(int)
                    i = np.lexsort((-gain, loss))[0]
                    choice = loss[i], -gain[i], -self.excess(source)[-1]
                    if best is None or choice < best[0]:
                        best = choice, here[i]
                if best:
                    self.move(best[1], target)
                    moved = True

    def balance(self):
        """Moves texts from parts above their share to those below, as far as no label is lost by it."""
        sizes = self.support[-1] * self.fractions
        while True:
            beyond = self.count[-1] - sizes
            source, target = int(np.argmax(beyond)), int(np.argmin(beyond))
            if beyond[source] < 1 or beyond[target] > -1:
                return
            never, rather_not = self.lost(source)
            here = np.flatnonzero(self.part == source)
            here = here[self.held[here] @ (never | rather_not) == 0]
            if not len(here):
                return
            self.move(here[np.argmax(self.held[here] @ (self.excess(source) - self.excess(target)))], target)
