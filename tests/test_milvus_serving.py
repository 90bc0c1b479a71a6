"""The HTTP server with an index in a real Milvus, which dies, hangs and comes back."""

import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import load_script
from retrieval_bundles import put_index

import server
from ownership import GRACE
from serving import TEXTS, asking, metric, serving, wait_until
from text_cls.bundle import open_bundle
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.serving import open_predictor

ROUTE = "/models/retrieval"


@pytest.fixture
def in_milvus(label_bundle, tmp_path):
    """(bundle with its index on a Milvus Lite server, function that restarts the server, its processes, the index)."""
    from milvus_server import start_milvus

    from text_cls.search.milvus_index import MilvusIndex

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []

    def start():
        running.append(start_milvus(tmp_path / "milvus", port))
        return running[-1]

    start()
    try:
        uri, local = f"http://127.0.0.1:{port}", EmbeddedIndex.open(str(label_bundle))
        index = MilvusIndex.create(uri, "labels", local.width, "FLAT")
        encoder = open_predictor(str(label_bundle), num_threads=1)
        leaves = list(local.labels())
        index.add(encoder.embed([name.replace("##", ",") for name in leaves]), [(name,) for name in leaves])
        put_index(label_bundle, {"kind": "milvus", "uri": uri, "collection": "labels"})
        yield label_bundle, start, running, index
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_milvus_that_dies_and_one_that_hangs(in_milvus, tmp_path):
    bundle, start, running, index = in_milvus
    question = {"data": {"text": TEXTS}}
    with serving(bundle, tmp_path / "log", "--deadline_seconds", 25, "--shutdown_seconds", 30) as one:
        status, _, wanted = one.ask("POST", ROUTE, question)
        assert status == 200 and all(wanted["result"]["label_name"])
        ours = open_predictor(str(bundle), num_threads=1)
        assert wanted["result"]["label_name"] == [names for names, _ in ours.predict(TEXTS)]

        running[0].kill()
        running[0].wait()
        started = time.monotonic()
        status, headers, value = one.ask("POST", ROUTE, question)
        assert status == 503 and value == {"detail": "the index of labels does not answer; try again in 5 s"}
        assert headers["retry-after"] == "5" and time.monotonic() - started < 20
        status, _, value = one.ask(path="/health/ready")
        assert status == 503 and value == {"detail": "not ready: the index of labels does not answer"}
        assert one.ask(path="/health/live")[0] == 200

        start()
        wait_until_ready(one)
        assert one.ask("POST", ROUTE, question)[2] == wanted

        running[1].send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            started = time.monotonic()
            answers = [pool.submit(one.ask, "POST", ROUTE, question) for _ in range(4)]
            assert one.ask(path="/health/live")[0] == 200
            assert not all(answer.done() for answer in answers)  # other requests are not blocked meanwhile
            assert [answer.result()[0] for answer in answers] == [503] * 4
            assert time.monotonic() - started < 20  # before the deadline
        running[1].send_signal(signal.SIGCONT)
        wait_until_ready(one)
        assert one.ask("POST", ROUTE, question)[2] == wanted

        # A label removed from the collection is no longer found; a new one is found once the bundle names it.
        gone = "教育考试##停课"
        itself = {"data": {"text": gone.replace("##", ",")}}
        assert one.ask("POST", ROUTE, itself)[2]["result"]["label_name"] == [["教育考试", gone]]
        assert index.remove(gone) == 1
        assert gone not in one.ask("POST", ROUTE, itself)[2]["result"]["label_name"][0]
        index.add(ours.embed(["足球"]), [("板球",)])
        assert one.ask("POST", ROUTE, {"data": {"text": "足球"}})[0] == 200
        put_index(bundle, open_bundle(str(bundle)).manifest["index"], [*ours.labels.names, "板球"])
        one.wait_for("Now serving the changed bundle: 56 labels, 1 added, 0 removed")
        assert one.ask("POST", ROUTE, {"data": {"text": "足球"}})[2]["result"]["label_name"] == [["板球"]]

        running[1].send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            answer, started = pool.submit(one.ask, "POST", ROUTE, question), time.monotonic()
            wait_until(lambda: metric(one, "requests_under_way") == 2)
            assert one.stop() == 0 and time.monotonic() - started < 20  # long before the deadline
            assert answer.result()[0] == 503
        assert "Traceback" not in one.text() and one.text().count("The index answers again") == 2


def test_the_server_follows_an_index_rebuilt_in_milvus_without_an_error(in_milvus, run, tmp_path, monkeypatch):
    """The old collection is deleted after index.py has waited for the server to use the new one."""
    bundle, _, _, index = in_milvus
    script = load_script("retrieval_based/index.py")
    with serving(bundle, tmp_path / "log") as one:
        waits = []

        def wait(seconds):
            waits.append(seconds)
            one.wait_for("Now serving the changed bundle: 55 labels, 0 added, 0 removed")
            wait_for_more(answers)  # those that began before have ended

        monkeypatch.setattr(sys.modules["ownership"], "time", SimpleNamespace(sleep=wait))
        with asking(one, ROUTE, TEXTS[:2]) as answers:
            status, log = run(script.main, "build", "--bundle", bundle, "--milvus_uri", index.uri)
            assert status == 0 and waits == [GRACE], log
            wait_for_more(answers)
        assert len(answers) > 5 and {status for status, _ in answers} == {200}
    assert not index._client.has_collection("labels")


def wait_for_more(answers):
    """Waits until each of the four clients has got an answer to a request that it has not sent yet."""
    count = len(answers)
    wait_until(lambda: len(answers) > count + 8)


def wait_until_ready(one):
    wait_until(lambda: one.ask(path="/health/ready")[0] == 200)


def test_a_milvus_that_does_not_answer_is_reported_at_the_start(label_bundle, run):
    pytest.importorskip("pymilvus")
    put_index(label_bundle, {"kind": "milvus", "uri": "http://127.0.0.1:9", "collection": "labels"})
    started = time.monotonic()
    status, log = run(server.main, "--bundle", label_bundle, "--port", 0)
    assert status == 2 and "Milvus at http://127.0.0.1:9 does not answer" in log and "Traceback" not in log
    assert time.monotonic() - started < 15
