"""MilvusIndex on a real Milvus Lite: its file, and its server, which speaks the protocol of a cluster."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import settings
from indexes import HOSTILE, WIDTH, AnyOrder, clusters

from text_cls.cli import UserError
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.index import MISSING, IndexUnavailable
from text_cls.search.open_index import open_index

if not (find_spec("pymilvus") and find_spec("milvus_lite")) and not os.environ.get("CI"):
    pytest.skip("pymilvus and milvus-lite: pip install -r requirements/milvus.txt", allow_module_level=True)

from milvus_server import start_milvus

from text_cls.search import milvus_index
from text_cls.search.milvus_index import INDEX_TYPES, MilvusIndex, uri_problem


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of Milvus Lite, which this process keeps open until the module's tests are done."""
    from milvus_lite import server_manager_instance

    path = str(tmp_path_factory.mktemp("milvus") / "index.db")
    yield path
    server_manager_instance.release_server(path)


@pytest.fixture
def index(file):
    """index(width, index_type) -> a new collection of the file."""
    made = []

    def create(width, index_type="HNSW"):
        made.append(MilvusIndex.create(file, f"c{time.monotonic_ns()}", width, index_type))
        return made[-1]

    yield create
    for one in made:
        one.drop()


class AnyOrderInMilvus(AnyOrder):
    folder = None

    def new(self):
        if AnyOrderInMilvus.folder is None:
            AnyOrderInMilvus.folder = tempfile.TemporaryDirectory()
        uri = os.path.join(self.folder.name, "any.db")
        return MilvusIndex.create(uri, f"c{time.monotonic_ns()}", WIDTH, "FLAT")

    def reopened(self):
        return MilvusIndex(self.index.uri, self.index.collection)

    def teardown(self):
        if hasattr(self, "index"):
            self.index.drop()


@pytest.fixture(scope="module", autouse=True)
def _file_of_any_order():
    from milvus_lite import server_manager_instance

    yield
    if AnyOrderInMilvus.folder:
        server_manager_instance.release_server(os.path.join(AnyOrderInMilvus.folder.name, "any.db"))
        AnyOrderInMilvus.folder.cleanup()


TestAnyOrderInMilvus = AnyOrderInMilvus.TestCase
TestAnyOrderInMilvus.settings = settings(max_examples=8, stateful_step_count=15, deadline=None)


@pytest.mark.parametrize("kind", INDEX_TYPES)
def test_every_type_of_index_finds_what_exact_search_finds(index, kind):
    corpus, queries = clusters(1000, seed=1), clusters(100, seed=2)
    labels = [(f"{i % 20}", "all") for i in range(1000)]
    exact, milvus = EmbeddedIndex(48, graph=False), index(48, kind)
    for one in (exact, milvus):
        one.add(corpus, labels)
    for save in (False, True):  # until it is indexed, a search compares every entry
        if save:
            milvus.save()
        wanted, found = exact.search(queries, 10), milvus.search(queries, 10)
        same = [
            len(set(a) & set(b)) / 10 for a, b in zip(wanted.cosines.round(4).tolist(), found.cosines.round(4).tolist())
        ]
        assert np.mean(same) > (0.85 if kind == "AUTOINDEX" else 0.97), kind
    assert milvus.remove("7") == exact.remove("7") == 50  # these entries still have "all"
    assert milvus.remove("all") == exact.remove("all") == 1000
    assert len(milvus) == len(exact) == 950 and milvus.labels() == exact.labels()
    found = milvus.search(queries, 20)
    assert not {name for row in found.labels for names in row for name in names} & {"7", "all"}
    assert np.abs(found.cosines[:, 0] - exact.search(queries, 1).cosines[:, 0]).max() < 1e-4
    milvus.add(queries[:1], [("new",)])
    assert milvus.search(queries[:1], 1).labels == [[("new",)]]


def test_save_waits_until_all_is_indexed(index, file, monkeypatch):
    from milvus_lite import server_manager_instance

    one = index(48, "HNSW")
    one.add(clusters(2000), [("a",)] * 2000)
    one.save()
    _, engine, _ = server_manager_instance._servers[file]
    segments = engine.get_collection(one.collection)._segment_cache.values()
    assert sum(segment.num_rows for segment in segments) == 2000
    assert {type(segment.indexes["vector"]).__name__ for segment in segments} == {"FaissHnswIndex"}
    monkeypatch.setattr(one._client, "describe_index", lambda *args, **more: {"pending_index_rows": 3})
    monkeypatch.setattr(milvus_index, "BUILD_TIMEOUT", 0.5)
    with pytest.raises(IndexUnavailable, match="not indexed all entries after 0.5 seconds"):
        one.save()


def test_label_names_cannot_break_out_of_a_filter(index):
    names = [*HOSTILE, '") or id > 0 or array_contains(labels, "', "{name}", "\\", '\\"', "'", "\x00", "\n"]
    one = index(len(names), "FLAT")
    vectors = np.eye(len(names), dtype=np.float32)
    one.add(vectors, [(name,) for name in names])
    assert one.labels() == dict.fromkeys(sorted(names), 1)
    for left, name in zip(range(len(names) - 1, -1, -1), names):
        assert one.remove(f"{name}x") == 0 and one.remove(name) == 1
        assert len(one) == left and name not in one.labels()


def test_many_rows_go_in_batches_and_come_back_whole(index, monkeypatch):
    monkeypatch.setattr(milvus_index, "BATCH_BYTES", 4000)
    monkeypatch.setattr(milvus_index, "QUERIES_PER_SEARCH", 7)
    one = index(16, "FLAT")
    batches = []
    insert = one._client.insert
    monkeypatch.setattr(
        one._client, "insert", lambda name, rows, **more: batches.append(len(rows)) or insert(name, rows, **more)
    )
    corpus = clusters(2500, 16)
    one.add(corpus, [(f"{i}", "both") for i in range(2500)])
    assert sum(batches) == 2500 and max(batches) <= 21
    found = one.search(corpus[:30], 3)
    assert [row[0][0] for row in found.labels] == [f"{i}" for i in range(30)]
    assert one.remove("both") == 2500 and one.labels() == {f"{i}": 1 for i in sorted(range(2500), key=str)}


def test_labels_of_an_entry_beyond_milvus_limits_are_refused(index):
    one = index(4, "FLAT")
    one.add(np.ones((1, 4)), [("长" * 20_000,)])
    assert list(one.labels()) == ["长" * 20_000]
    for labels in (("长" * 22_000,), tuple(f"{i}" for i in range(5000))):
        with pytest.raises(UserError, match="Milvus takes at most 1024 labels per entry, of 65535 bytes each"):
            one.add(np.ones((1, 4)), [labels])
    one.add(np.ones((1, 4)), [tuple(f"{i}" for i in range(1024))])
    assert len(one.search(np.ones((1, 4)), 5).labels[0]) == 2


def test_positions_that_an_approximate_search_leaves_empty(index, monkeypatch):
    one = index(2, "FLAT")
    one.add(np.eye(2), [("a",), ("b",)])
    search = one._client.search
    monkeypatch.setattr(
        one._client, "search", lambda *a, **more: [hits[: 2 - i] for i, hits in enumerate(search(*a, **more))]
    )
    found = one.search(np.eye(2), 5)
    assert found.cosines.tolist() == [[1, 0], [1, MISSING]] and found.labels == [[("a",), ("b",)], [("b",), ()]]
    assert one.search(np.zeros((0, 2)), 5).labels == []


# ------------------------------------------------------------------------------------------------ opening and refusing


def test_what_the_manifest_names_is_opened(index, file):
    one = index(3)
    one.add(np.eye(3), [("a",), ("b",), ("c",)])
    manifest = {"width": 3, "index": {"kind": "milvus", "uri": file, "collection": one.collection}}
    assert open_index("anywhere", manifest).labels() == {"a": 1, "b": 1, "c": 1}
    with pytest.raises(UserError, match="vectors of 3 numbers, the encoder 4"):
        open_index("anywhere", {**manifest, "width": 4})
    with pytest.raises(UserError, match="no collection 'other'.*index.py build"):
        MilvusIndex(file, "other")
    with pytest.raises(UserError, match="no such file.*index.py build"):
        MilvusIndex(f"{file}.other.db", "c")
    assert not os.path.exists(f"{file}.other.db")


def test_a_collection_of_something_else_is_left_alone(index, file):
    client = index(3)._client
    client.create_collection("foreign", dimension=3)
    with pytest.raises(UserError, match="'foreign' was not made by index.py; name another"):
        MilvusIndex(file, "foreign")
    client.drop_collection("foreign")


def test_what_is_not_a_uri():
    assert uri_problem("a.db") is None and uri_problem("http://h:1") is None and uri_problem("https://h/db") is None
    for uri in ("index", "tcp://h:1", "http://", "localhost:19530", "", "http://[::1", "http://h:abc", "http://h:0"):
        assert "ends in .db, or http://host:19530" in uri_problem(uri)
    for uri in ("http://root:secret@h:19530", "https://key@h"):
        problem = uri_problem(uri)
        assert "MILVUS_TOKEN" in problem and "secret" not in problem and "key" not in problem
        with pytest.raises(UserError, match="MILVUS_TOKEN"):
            MilvusIndex(uri, "c")


def test_a_file_that_cannot_be_opened_says_why(tmp_path, capfd):
    (tmp_path / "text.db").write_text("no database", encoding="utf-8")
    for path, words in (
        (tmp_path / "no" / "x.db", "no folder"),
        (tmp_path / "text.db", "Milvus Lite cannot open it"),
    ):
        with pytest.raises(UserError, match=words):
            MilvusIndex.create(str(path), "c", 3)
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_that_another_process_has_open(tmp_path, capfd):
    path = str(tmp_path / "held.db")
    code = "import sys, milvus_lite; db = milvus_lite.MilvusLite(sys.argv[1]); print('open', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(IndexUnavailable, match="another process has it open.*Stop that process"):
            MilvusIndex.create(path, "c", 3)
        assert "Traceback" not in capfd.readouterr().err
    finally:
        holder.communicate("\n", timeout=20)


def test_a_server_that_never_answers_is_given_up_after_the_limit():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(IndexUnavailable, match=r"does not answer \(1 seconds\).*MILVUS_TOKEN"):
            MilvusIndex(f"http://127.0.0.1:{silent.getsockname()[1]}", "c", timeout=1)
        assert time.monotonic() - started < 30


def test_a_collection_that_is_never_loaded_is_given_up_after_the_limit(index, monkeypatch):
    """A server may take forever to read a collection into memory: pymilvus asks it again and again until the limit."""
    from pymilvus.client.types import LoadState
    from pymilvus.exceptions import MilvusException

    one, asked = index(3), []

    def load(self, name, timeout, **more):
        asked.append(timeout)
        raise MilvusException(message=f"wait for loading collection timeout, {LoadState.Loading}")

    monkeypatch.setattr(type(one._client), "load_collection", load)
    with pytest.raises(IndexUnavailable, match="did not load the collection within 600 seconds; see its log.*again"):
        MilvusIndex(one.uri, one.collection)
    assert asked == [milvus_index.LOAD_TIMEOUT] == [600]


def test_a_server_that_goes_away_and_comes_back(tmp_path, monkeypatch, capfd):
    """The same code on http://: while the server is down, a search says so in time; afterwards it works again."""
    monkeypatch.setenv("MILVUS_TOKEN", "root:s3cret")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_milvus(tmp_path / "data", port)
    try:
        uri = f"http://127.0.0.1:{port}"
        one = MilvusIndex.create(uri, "labels", 3, timeout=3)
        one.add(np.eye(3), [("a",), ("b",), ("a", "c")])
        other = MilvusIndex(uri, "labels", timeout=3)  # a second client sees the first one's changes at once
        assert other.labels() == {"a": 2, "b": 1, "c": 1}
        assert one.remove("a") == 2 and other.search(np.eye(3), 3).labels[2][0] == ("c",) and len(other) == 2
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        started = time.monotonic()
        with pytest.raises(IndexUnavailable, match="did not search") as error:
            other.search(np.eye(3), 3)
        assert time.monotonic() - started < 30 and "s3cret" not in str(error.value)
        process = start_milvus(tmp_path / "data", port)
        for _ in range(20):
            try:
                found = other.search(np.eye(3), 3)
                break
            except IndexUnavailable:
                time.sleep(0.5)
        assert found.labels[1][0] == ("b",) and len(found.labels[0]) == 2
    finally:
        process.kill()
        process.wait(10)
    logged = capfd.readouterr()
    assert "Traceback" not in logged.err and "s3cret" not in logged.err + logged.out


def test_an_invalid_address_in_the_environment_does_no_harm(tmp_path):
    code = "from text_cls.search.milvus_index import MilvusIndex; import os, sys; "
    code += "MilvusIndex.create(sys.argv[1], 'c', 3); print(os.environ['MILVUS_URI'])"
    words = [sys.executable, "-c", code, str(tmp_path / "i.db")]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "MILVUS_URI": "x.db"}, capture_output=True, text=True)
    assert done.stdout.strip() == "x.db", done.stderr


def test_nothing_of_milvus_is_imported_before_it_is_needed():
    code = "import sys, text_cls.search.milvus_index, text_cls.search.open_index; "
    code += "print([m for m in sys.modules if m.startswith(('pymilvus', 'grpc'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
