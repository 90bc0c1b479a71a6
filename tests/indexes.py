"""Vectors to index, and a state machine that checks what an index must do, for any kind of index."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from text_cls.search.embedded_index import EmbeddedIndex


def clusters(rows, width=48, count=12, seed=0, centres_seed=0):
    """Vectors in a few directions, as the features of a trained classifier are."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(centres_seed).normal(size=(count, width)) * 2
    return np.tanh(centres[random.integers(count, size=rows)] + random.normal(size=(rows, width))).astype(np.float32)


HOSTILE = ["引\"号' or 1==1", "<script>alert(1)</script>", "😀", "100%\\n", "长" * 2000, "a##b"]


class Model:
    """What an index must do, entry by entry."""

    def __init__(self):
        self.entries = []

    def add(self, vectors, labels):
        self.entries += [(vector, set(names)) for vector, names in zip(vectors, labels)]

    def remove(self, label):
        had = sum(label in names for _, names in self.entries)
        self.entries = [(vector, names - {label}) for vector, names in self.entries]
        self.entries = [entry for entry in self.entries if entry[1]]
        return had

    def labels(self):
        names = sorted(name for _, names in self.entries for name in names)
        return {name: names.count(name) for name in names}

    def cosines(self, query):
        vectors = np.array([vector for vector, _ in self.entries], np.float64).reshape(len(self.entries), len(query))
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        return np.divide(vectors @ query, lengths, out=np.zeros(len(vectors)), where=lengths > 0)

    def check(self, found, queries, k):
        """Checks that the cosines are the highest, and that some entry has each cosine and label set found."""
        for cosines, labels, query in zip(found.cosines, found.labels, queries):
            mine = self.cosines(np.asarray(query, np.float64))
            count = min(k, len(mine))
            assert len(cosines) == len(labels) == count
            assert np.allclose(cosines, np.sort(mine)[::-1][:count], atol=1e-5)
            left = [(cosine, names) for cosine, (_, names) in zip(mine, self.entries)]
            for cosine, names in zip(cosines, labels):
                twin = next((one for one in left if abs(one[0] - cosine) < 1e-5 and one[1] == set(names)), None)
                assert twin is not None, (cosine, names)
                left.remove(twin)


NAMES = ["a", "a##b", "a##b##c", *HOSTILE]


WIDTH = 4


class AnyOrder(RuleBasedStateMachine):
    """Random orders of add, remove, search and reopen, compared with a model that loops over all entries."""

    graph = False

    @initialize(seed=st.integers(0, 100))
    def begin(self, seed):
        self.random, self.model, self.index = np.random.default_rng(seed), Model(), self.new()

    def new(self):
        return EmbeddedIndex(WIDTH, self.graph)

    def reopened(self):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.index.save(folder)
            index = EmbeddedIndex.open(folder)
            index._graph = self.graph
        return index

    @rule(labels=st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple), max_size=5))
    def add(self, labels):
        vectors = self.random.normal(size=(len(labels), WIDTH)).astype(np.float32)
        self.index.add(vectors, labels)
        self.model.add(vectors, labels)
        if labels:  # a search finds the new entry at once
            found = self.index.search(vectors[-1:], 1)
            assert set(found.labels[0][0]) == set(labels[-1]) and found.cosines[0, 0] > 1 - 1e-5

    @rule(label=st.sampled_from(NAMES))
    def remove(self, label):
        assert self.index.remove(label) == self.model.remove(label)
        everything = self.index.search(self.random.normal(size=(1, WIDTH)), 1000)
        assert not any(label in names for names in everything.labels[0])

    @rule(k=st.integers(1, 20), count=st.integers(0, 3))
    def search(self, k, count):
        queries = self.random.normal(size=(count, WIDTH))
        self.model.check(self.index.search(queries, k), queries, k)

    @rule()
    def reopen(self):
        self.index = self.reopened()

    @invariant()
    def same_labels(self):
        if hasattr(self, "model"):
            assert self.index.labels() == self.model.labels()
            assert [self.index.count(name) for name in NAMES] == [self.model.labels().get(name, 0) for name in NAMES]
            assert len(self.index) == len(self.model.entries)
