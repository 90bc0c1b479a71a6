import os
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from indexes import clusters

from text_cls.neural.compat import import_paddle, import_trustai
from text_cls.neural.model import encode, predict_features
from text_cls.search import neighbours
from text_cls.search.neighbours import Neighbours

import_paddle()


def by_hand(corpus, queries, k):
    """Every pair on its own, sorted by cosine, then by row."""
    scores = np.zeros((len(queries), len(corpus)))
    for i, query in enumerate(queries.astype(np.float64)):
        for j, row in enumerate(corpus.astype(np.float64)):
            lengths = np.sqrt((query @ query) * (row @ row))
            scores[i, j] = query @ row / lengths if lengths else 0
    scores = scores.astype(np.float32)
    rows = np.array([sorted(range(len(corpus)), key=lambda j: (-line[j], j))[:k] for line in scores])
    return np.take_along_axis(scores, rows, axis=1), rows


VECTORS = arrays.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(-2, 2))


@given(VECTORS, VECTORS, st.integers(1, 40), st.integers(1, 7), st.integers(1, 7))
@settings(deadline=None)
def test_exact_search_finds_what_comparing_by_hand_finds(corpus, queries, k, per_queries, per_block):
    """Small whole numbers make many ties, and rows of zeros. The sizes of the blocks make no difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "QUERY_BLOCK", per_queries)
        patch.setattr(neighbours, "ROW_BLOCK", per_block)
        scores, rows = Neighbours(corpus).search(queries, k)
    expected_scores, expected_rows = by_hand(corpus, queries, k)
    assert scores.shape == rows.shape == (len(queries), min(k, len(corpus)))
    assert np.abs(scores - expected_scores).max() < 1e-6
    assert (rows == expected_rows).all() or ties_only(corpus, queries, rows, expected_rows)


def ties_only(corpus, queries, rows, expected):
    """True if the two orders differ only between cosines closer than the last bit of a float32."""

    def cosines(numbers):
        unit = neighbours._unit(corpus)[numbers]
        return np.einsum("qkd,qd->qk", unit, neighbours._unit(queries))

    return np.abs(cosines(rows) - cosines(expected)).max() < 1e-7


def test_equal_rows_come_in_their_order_across_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "ROW_BLOCK", 7)
    some = clusters(10, width=129)
    corpus = np.tile(some, (200, 1))
    scores, rows = Neighbours(corpus).search(some, 150)
    assert rows.tolist() == [list(range(i, 1500, 10)) for i in range(10)]
    assert (scores == scores[:, :1]).all()


def test_memory_does_not_grow_with_queries_times_rows(monkeypatch):
    monkeypatch.setattr(neighbours, "QUERY_BLOCK", 64)
    monkeypatch.setattr(neighbours, "ROW_BLOCK", 256)
    corpus, queries = clusters(8000, 8), clusters(2000, 8)
    tracemalloc.start()
    Neighbours(corpus).search(queries, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # all scores at once would take 64 MB


# ----------------------------------------------------------------------------------------------------------- the index


def test_the_index_finds_what_exact_search_finds():
    if not os.environ.get("CI"):
        pytest.importorskip("hnswlib", reason="pip install -r requirements/index.txt")
    corpus, queries = clusters(5000, seed=1), clusters(300, seed=2)
    exact, approximate = (Neighbours(corpus, index).search(queries, 10) for index in (False, True))
    found = [len(set(a) & set(b)) / 10 for a, b in zip(exact[1], approximate[1])]
    assert np.mean(found) > 0.995
    same = exact[1] == approximate[1]
    assert (exact[0][same] == approximate[0][same]).all() and same.mean() > 0.9  # cosines are exact, to the last bit
    assert (np.diff(approximate[0], axis=1) <= 0).all()
    _, rows = Neighbours(np.tile(corpus[:10], (200, 1)), index=True).search(corpus[:10], 150)
    assert (np.diff(rows, axis=1) > 0).all() and (rows % 10 == np.arange(10)[:, None]).all()


def test_an_index_above_100_000_rows(monkeypatch):
    built = []
    monkeypatch.setattr(neighbours, "_build", lambda corpus, seed, threads: built.append(len(corpus)))
    monkeypatch.setattr(neighbours.importlib.util, "find_spec", lambda name: name)
    corpus = np.ones((100_001, 1), np.float32)
    Neighbours(corpus[:-1])
    assert built == []
    Neighbours(corpus)
    Neighbours(corpus, index=False)
    assert built == [100_001]


def test_without_hnswlib_every_row_is_compared_and_the_log_says_what_to_install(monkeypatch, capfd):
    from text_cls.cli import set_up_log

    set_up_log()
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 99)
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    monkeypatch.setattr(neighbours.importlib.util, "find_spec", lambda name: None)
    corpus = clusters(100)
    scores, rows = Neighbours(corpus).search(corpus, 1)
    assert rows[:, 0].tolist() == list(range(100)) and scores.min() > 0.999999
    assert "pip install -r requirements/index.txt" in capfd.readouterr().err


def test_what_the_graph_does_not_reach_is_found_by_comparing(monkeypatch):
    """hnswlib raises if it reaches fewer than k rows; whether that happens depends on how its threads race."""

    class Incomplete:
        def set_ef(self, ef):
            assert ef >= 90

        def knn_query(self, queries, k):
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")

    monkeypatch.setattr(neighbours, "_build", lambda corpus, seed, threads: Incomplete())
    corpus = clusters(100)
    incomplete, exact = (Neighbours(corpus, index).search(corpus, 90) for index in (True, False))
    assert (incomplete[1] == exact[1]).all() and (incomplete[0] == exact[0]).all()


# -------------------------------------------------------------------------------------------------------------- oracle


def test_trustai_gives_the_same_cosines(families):
    """TrustAI's FeatureSimilarityModel on one batch, with the same padding."""
    import_trustai()
    import paddle
    from trustai.interpretation import FeatureSimilarityModel

    network, tokenizer = families["ernie"]
    network.eval()
    train = ["足球比赛", "台风登陆，学校停课一天", "公司裁员三成", "股价当日大跌，董事长辞职", "足球队夺冠，球迷庆祝"]
    texts = ["裁员", "球队夺冠", "台风"]

    def batch(texts):
        inputs = encode(texts, tokenizer, network, 32).batch(np.arange(len(texts)))
        return [paddle.to_tensor(inputs[name]) for name in ("input_ids", "token_type_ids")]

    model = FeatureSimilarityModel(network, [batch(train)], classifier_layer_name="classifier")
    theirs = model(batch(texts), sample_num=4)
    features = [predict_features(network, encode(part, tokenizer, network, 32), 8) for part in (train, texts)]
    scores, rows = Neighbours(features[0]).search(features[1], 4)
    for i, answer in enumerate(theirs):
        assert rows[i].tolist() == answer.pos_indexes.tolist()
        assert np.abs(scores[i] - answer.pos_scores).max() < 1e-5
    assert np.ptp(scores) > 0.01
