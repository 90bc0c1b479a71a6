import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import settings
from indexes import HOSTILE, AnyOrder, clusters

from text_cls.cli import UserError
from text_cls.search import neighbours
from text_cls.search.embedded_index import ENTRIES, GRAPH, VECTORS, EmbeddedIndex
from text_cls.search.open_index import open_index

needs_hnswlib = pytest.mark.skipif(
    not neighbours.importlib.util.find_spec("hnswlib") and not os.environ.get("CI"),
    reason="pip install -r requirements/index.txt",
)
KINDS = [False, pytest.param(True, marks=needs_hnswlib)]


class AnyOrderOfAGraph(AnyOrder):
    graph = True


TestAnyOrder = AnyOrder.TestCase
TestAnyOrderOfAGraph = needs_hnswlib(AnyOrderOfAGraph.TestCase)
AnyOrder.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
AnyOrderOfAGraph.TestCase.settings = AnyOrder.TestCase.settings


@pytest.mark.parametrize("graph", KINDS)
def test_entries_of_hostile_labels_come_back_as_they_went_in(tmp_path, graph):
    vectors = np.eye(len(HOSTILE), dtype=np.float32)
    index = EmbeddedIndex(len(HOSTILE), graph)
    index.add(vectors, [(name, "shared") for name in HOSTILE])
    index.save(tmp_path)
    for one in (index, EmbeddedIndex.open(tmp_path)):
        found = one.search(vectors, 1)
        assert [names for (names,) in found.labels] == [(name, "shared") for name in HOSTILE]
        assert one.labels()["shared"] == len(HOSTILE)


@needs_hnswlib
def test_recall_stays_after_a_third_is_removed_and_as_many_are_added(tmp_path):
    corpus, queries = clusters(6000, seed=1), clusters(200, seed=2)
    index, exact = EmbeddedIndex(48, True), EmbeddedIndex(48, False)
    for one in (index, exact):
        one.add(corpus[:4000], [(f"{i % 20}",) for i in range(4000)])
        for name in range(6):
            assert one.remove(f"{name}") == 200
        one.add(corpus[4000:], [("new",)] * 2000)
    index.save(tmp_path)
    reopened = EmbeddedIndex.open(tmp_path)
    wanted = exact.search(queries, 10)
    for one in (index, reopened):
        assert len(one) == len(exact) == 4800
        found = one.search(queries, 10)
        same = [len(set(a) & set(b)) / 10 for a, b in zip(found.cosines.tolist(), wanted.cosines.tolist())]
        assert np.mean(same) > 0.99
        assert not {names[0] for row in found.labels for names in row} & {f"{name}" for name in range(6)}


@needs_hnswlib
def test_a_graph_is_kept_while_few_are_removed_and_rebuilt_when_many_are(monkeypatch, tmp_path):
    built = []
    build = neighbours._build
    monkeypatch.setattr(neighbours, "_build", lambda corpus, *how: built.append(len(corpus)) or build(corpus, *how))
    index = EmbeddedIndex(48, True)
    index.add(clusters(100), [(f"{i % 10}",) for i in range(100)])
    assert index.remove("0") == 10 and index.remove("1") == 10 and built == [100]
    index.remove("2")
    index.save(tmp_path)
    assert built == [100]
    index.remove("3")
    assert built == [100, 60] and len(index) == 60


@needs_hnswlib
def test_a_graph_is_built_above_the_limit_and_dropped_below(monkeypatch, tmp_path):
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 50)
    index = EmbeddedIndex(48)
    index.add(clusters(50), [("a",)] * 50)
    index.save(tmp_path)
    assert not (tmp_path / GRAPH).exists()
    index.add(clusters(1, seed=5), [("b",)])
    index.save(tmp_path)
    assert (tmp_path / GRAPH).exists()
    assert EmbeddedIndex.open(tmp_path).search(clusters(1, seed=5), 1).labels == [[("b",)]]
    assert index.remove("a") == 50 and index.labels() == {"b": 1}
    (tmp_path / "less").mkdir()
    index.save(tmp_path / "less")
    assert not (tmp_path / "less" / GRAPH).exists()


def test_what_is_removed_is_not_saved_if_no_graph_needs_it(tmp_path):
    index = EmbeddedIndex(4)
    index.add(np.eye(4), [("a",), ("b",), ("c",), ("a", "c")])
    assert index.remove("b") == 1 and index.search(np.eye(4), 4).labels[1] == [("a",), ("c",), ("a", "c")]
    index.save(tmp_path)
    assert np.load(tmp_path / VECTORS).tolist() == np.eye(4)[[0, 2, 3]].tolist()
    assert "b" not in (tmp_path / ENTRIES).read_text(encoding="utf-8").partition("names")[2].partition("]")[0]
    for one in (index, EmbeddedIndex.open(tmp_path)):
        assert one.labels() == {"a": 2, "c": 2} and one.search(np.eye(4)[3:], 1).labels == [[("a", "c")]]


def test_an_empty_index_finds_nothing():
    index = EmbeddedIndex(3)
    found = index.search(np.ones((2, 3)), 5)
    assert found.cosines.shape == (2, 0) and found.labels == [[], []] and index.labels() == {} and len(index) == 0
    index.add(np.zeros((0, 3)), [])
    assert index.remove("nothing") == 0
    index.add(np.ones((1, 3)), [("a", "a")])
    assert index.remove("a") == 1 and index.search(np.ones((1, 3)), 1).labels == [[]]


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (np.ones((1, 4)), [("a",)], r"shape \[1, 4\], but the index has width 3"),
        (np.ones(3), [("a",)], "shape"),
        (np.ones((2, 3)), [("a",)], "2 vectors, 1 tuples"),
        (np.ones((2, 3)), [("a",), ()], "entry 1 has no label"),
        (np.full((1, 3), np.nan), [("a",)], "not finite"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(vectors, labels, message):
    index = EmbeddedIndex(3)
    with pytest.raises(ValueError, match=message):
        index.add(vectors, labels)
    assert len(index) == 0 and index.labels() == {}


def test_vectors_stay_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "ROW_BLOCK", 256)
    index = EmbeddedIndex(256)
    index.add(clusters(8000, 256), [("a",)] * 8000)
    index.save(tmp_path)
    tracemalloc.start()
    EmbeddedIndex.open(tmp_path).search(clusters(3, 256), 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8000 * 256 * 4 / 2


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def saved(tmp_path):
    index = EmbeddedIndex(48, graph=neighbours.importlib.util.find_spec("hnswlib") is not None)
    index.add(clusters(60), [("a", "b")] * 60)
    index.save(tmp_path)
    return tmp_path


MANIFEST = {"width": 48, "index": {"kind": "embedded"}}


def refused(folder, manifest=MANIFEST):
    with pytest.raises(UserError) as error:
        open_index(str(folder), manifest)
    return str(error.value)


def test_what_the_manifest_names_is_opened(saved):
    assert len(open_index(str(saved), MANIFEST)) == 60
    assert "vectors of 48 numbers, the encoder 64" in refused(saved, {**MANIFEST, "width": 64})
    assert "unknown kind of index 'faiss'" in refused(saved, {"width": 48, "index": {"kind": "faiss"}})


@pytest.mark.parametrize("name", [VECTORS, ENTRIES])
def test_a_missing_or_damaged_file_is_named(saved, name):
    path = saved / name
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x93NUMPY\x01", b"{}", b"[]", b"\xff" * 200):
        path.write_bytes(damaged)
        assert name in refused(saved) and "index.py build" in refused(saved)
    path.unlink()
    assert name in refused(saved)


def test_no_pickle_is_read(saved):
    np.save(saved / VECTORS, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert f"{VECTORS} is damaged" in refused(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"counts": [2] * 59},
        {"counts": [2] * 59 + [3]},
        {"counts": [2] * 58 + [5, -1]},
        {"label_ids": [2] * 120},
        {"label_ids": [-1] * 120},
        {"names": "ab"},
        {"names": [1, 2]},
        {"width": 47},
    ],
)
def test_entries_that_do_not_fit_the_vectors_are_refused(saved, change):
    fields = json.loads((saved / ENTRIES).read_text(encoding="utf-8"))
    (saved / ENTRIES).write_text(json.dumps({**fields, **change}), encoding="utf-8")
    assert "do not match" in refused(saved)
    (saved / ENTRIES).write_text(json.dumps({**fields, "version": 9}), encoding="utf-8")
    assert "version 9 is unknown" in refused(saved)


@needs_hnswlib
def test_a_graph_of_other_vectors_or_a_damaged_one_is_refused(saved, tmp_path_factory):
    whole = (saved / GRAPH).read_bytes()
    for damaged in (whole[:1000], whole[:-30], b"", b"\0" * len(whole), b"\xff" * len(whole)):
        (saved / GRAPH).write_bytes(damaged)
        assert GRAPH in refused(saved) and "rebuild it" in refused(saved)
    for rows, width in ((60, 32), (60, 64), (59, 48)):
        other = tmp_path_factory.mktemp("other")
        index = EmbeddedIndex(width, graph=True)
        index.add(clusters(rows, width), [("a",)] * rows)
        index.save(other)
        (saved / GRAPH).write_bytes((other / GRAPH).read_bytes())
        assert "is not an index of 60 vectors of width 48" in refused(saved)


HOSTILE_GRAPHS = """
import random, struct, sys
import numpy as np
from text_cls.cli import UserError
from text_cls.search.embedded_index import GRAPH, EmbeddedIndex

folder, vectors, refused = sys.argv[1], np.random.default_rng(0), 0
random.seed(0)
index = EmbeddedIndex(4, graph=True)
index.add(vectors.normal(size=(300, 4)), [("a", "b" if i % 9 else "c") for i in range(300)])
index.save(folder)
with open(f"{folder}/{GRAPH}", "rb") as file:
    whole = file.read()
rows_end = 96 + 300 * (4 * 33 + 4 * 4 + 8)
parts = [(0, 96), (96, rows_end), (rows_end, len(whole)), (0, len(whole))]
for turn in range(400):
    damaged = bytearray(whole)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(*parts[turn % 4], 4)
        odd = random.choice([0, 1, 17, 33, 68, 136, 299, 300, 65535, 2**31, 2**32 - 1])
        struct.pack_into("<I", damaged, at, odd)
    with open(f"{folder}/{GRAPH}", "wb") as file:
        file.write(damaged)
    try:
        index = EmbeddedIndex.open(folder)
    except UserError:
        refused += 1
        continue
    index.search(vectors.normal(size=(20, 4)), 10)
    index.add(vectors.normal(size=(3, 4)), [("new",)] * 3)
    index.remove("c")
    index.search(vectors.normal(size=(20, 4)), 10)
print(refused)
"""


@needs_hnswlib
def test_a_graph_with_wild_links_does_not_crash_the_process(tmp_path):
    """hnswlib follows every link of its file; an untrusted bundle may contain any link and a matching manifest."""
    words = [sys.executable, "-c", HOSTILE_GRAPHS, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 200 < int(done.stdout.split()[-1]) < 400  # a changed number of a vector cannot be noticed


def test_without_hnswlib_a_graph_is_ignored(saved, monkeypatch, capfd):
    from text_cls.cli import set_up_log

    set_up_log()
    monkeypatch.setattr(neighbours.importlib.util, "find_spec", lambda name: None)
    index = open_index(str(saved), MANIFEST)
    assert (index.search(clusters(60), 1).cosines > 0.99999).all()
    if (saved / GRAPH).exists():
        assert "pip install -r requirements/index.txt" in capfd.readouterr().err
