"""A retrieval bundle over HTTP: the labels of its predictor, an index that changes, a Milvus that comes and goes."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from browser import Page, assert_sound, chromium
from conftest import ROOT, command_line, lines_of, load_script, write_lines
from retrieval_bundles import put_index
from selenium.webdriver.common.by import By
from starlette.testclient import TestClient

import client
import lookup
import server
import settings
from application import create_app
from batcher import Full
from lookup import Lookup, Unavailable
from metrics import Metrics
from serving import serving, wait_until
from text_cls.bundle import open_bundle
from text_cls.cli import set_up_log
from text_cls.decision import Decision
from text_cls.files import atomic_folder
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.search.index import IndexUnavailable
from text_cls.serving import open_predictor

ROUTE = "/models/retrieval"
TEXTS = [
    "台风登陆，学校停课一天",
    "足球",
    "公司裁员三成，股价当日大跌",
    "😀 Café <b>\"'&</b> [CLS]",
    "好" * 2000,
    "足球",
]


@pytest.fixture
def serve(retrieval):
    """serve(key of `retrieval` or bundle, *flags) -> TestClient of a started application."""
    clients = []

    def call(bundle, *flags):
        words = ["--bundle", str(retrieval.get(bundle, bundle)), "--num_threads", "1", *map(str, flags)]
        chosen = settings.parse_args(words, environ={})
        clients.append(TestClient(create_app(chosen), raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield call
    for one in clients:
        one.__exit__(None, None, None)


def service_of(client):
    return client.app.state.own.service


def ask(client, text, **parameters):
    return client.post(ROUTE, json={"data": {"text": text}, "parameters": parameters})


@pytest.fixture
def bundle(retrieval, tmp_path):
    """A copy to change, of the hierarchy with label texts: a label's own text gets its path, others one label."""
    folder = shutil.copytree(retrieval["news", "labels"], tmp_path / "bundle")
    put_index(folder, EmbeddedIndex.open(str(folder)), decision=Decision(0.9999, min_k=1, hierarchy="one_per_level"))
    return folder


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("corpus", ["labels", "rows"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_labels_are_the_predictors(serve, retrieval, task, corpus):
    client, ours = serve((task, corpus)), open_predictor(str(retrieval[task, corpus]), num_threads=1)
    answer = ask(client, TEXTS)
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    assert list(result) == ["label", "confidence", "label_name"] and any(result["label"])
    for numbers, confidence, names, (wanted, scores) in zip(*result.values(), ours.predict(TEXTS), strict=True):
        assert names == wanted == [ours.labels.names[i] for i in numbers]
        assert confidence == pytest.approx(scores.tolist(), abs=1e-5)
    alone = ask(client, TEXTS[1]).json()["result"]
    assert alone["label"] == result["label"][1:2] == result["label"][5:6]


def test_parameters_are_honoured(serve, retrieval):
    client = serve(("news", "rows"))
    ours = open_predictor(str(retrieval["news", "rows"]), num_threads=1)
    scores = ours.probabilities(TEXTS[:2])
    for limit in (0, 0.3, 0.9):
        names = ask(client, TEXTS[:2], prob_limit=limit).json()["result"]["label_name"]
        assert [set(some) for some in names] == [
            {ours.labels.names[i] for i in (row > limit).nonzero()[0]} for row in scores
        ]
    assert ask(client, TEXTS[:2], prob_limit=1).json()["result"]["label"] == [[], []]
    long = TEXTS[2] * 3
    short = ask(client, long, prob_limit=0, max_seq_len=5).json()["result"]["confidence"][0]
    assert short == pytest.approx([one for one in ours.probabilities([long], 5)[0] if one > 0], abs=1e-5)
    assert ask(client, TEXTS, batch_size=1).json() == ask(client, TEXTS).json()


def test_info_and_the_other_routes(serve, retrieval, bundles):
    one = serve(("reviews", "labels"), "--max_texts", 3)
    info = one.get("/info").json()
    assert info["task"] == "retrieval" and info["route"] == ROUTE and len(info["labels"]) == 19
    assert info["bundle"] == open_bundle(str(retrieval["reviews", "labels"])).digest
    for route in ("/models/cls_hierarchical", "/models/cls_multi_label"):
        answer = one.post(route, json={"data": {"text": "足球"}})
        assert answer.status_code == 404
        assert answer.json() == {"detail": f"this bundle's labels are found by an index; POST to {ROUTE}"}
    answer = ask(serve(bundles["news"]), "足球")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "this bundle's labels are hierarchical; POST to /models/cls_hierarchical"}
    assert ask(one, ["a"] * 4).status_code == 422 and ask(one, "").status_code == 422
    assert ask(one, "a").status_code == 200
    text = one.get("/metrics").text
    for line in (f'text_cls_requests_total{{route="{ROUTE}",status="200"}} 1.0', "text_cls_search_seconds_count 1.0"):
        assert line in text, line
    assert f"POST {ROUTE}" in one.get("/docs").text


def test_a_bundle_without_an_index_does_not_start(run, bundles, tmp_path):
    from retrieval_bundles import make_encoder

    folder = make_encoder(bundles["news"], tmp_path / "encoder")
    words = ("server.py", "--bundle", folder, "--port", 0)
    answer = subprocess.run(
        command_line(*words), cwd=ROOT / "deploy" / "simple_serving", capture_output=True, text=True, encoding="utf-8"
    )
    assert answer.returncode == 2 and "has no index yet; python retrieval_based/index.py build" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_client_writes_what_infer_writes(retrieval, run, tmp_path):
    import infer

    write_lines(tmp_path / "texts.txt", [text.replace("\n", " ") for text in TEXTS] * 5)
    for task in ("news", "reviews"):
        folder = retrieval[task, "rows"]
        with serving(folder, tmp_path / "log") as one:
            url = ("--url", f"http://127.0.0.1:{one.port}")
            flags = ("--input_file", tmp_path / "texts.txt", "--scores", "--output_file")
            status, log = run(client.main, *url, *flags, tmp_path / "over_http.txt", "--batch_size", 4)
            assert status == 0 and ("level 1 : " in log) == (task == "news"), log
            status, log = run(client.main, *url)
            assert status == 0 and len(json.loads(log)["result"]["label"]) == 2
        status, _ = run(infer.main, "--device", "cpu", "--model_path_prefix", folder, *flags, tmp_path / "here.txt")
        assert status == 0
        assert lines_of(tmp_path / "over_http.txt") == lines_of(tmp_path / "here.txt")


def test_the_schema_is_the_truth(retrieval, tmp_path):
    with serving(retrieval["news", "rows"], tmp_path / "log", "--max_texts", 8, "--max_characters", 200) as one:
        command = command_line(
            "-m",
            "schemathesis.cli",
            "run",
            f"http://127.0.0.1:{one.port}/openapi.json",
            "--checks",
            "all",
            "--max-examples",
            8,
            "--seed",
            1,
            "--generation-database",
            "none",
            "--no-color",
        )
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
        assert answer.returncode == 0, answer.stdout + answer.stderr
        log = one.text()
    assert "failed:" not in log and f"POST {ROUTE} 200" in log and f"POST {ROUTE} 422" in log


@pytest.mark.parametrize(("task", "width"), [("news", 400), ("reviews", 1280)])
def test_the_page(retrieval, tmp_path, task, width):
    ours = open_predictor(str(retrieval[task, "rows"]), num_threads=1)
    with serving(retrieval[task, "rows"], tmp_path / "log") as one, chromium(width) as driver:
        page = Page(driver, f"http://127.0.0.1:{one.port}/")
        assert page["about"].text.endswith(f"· {ROUTE}")
        shown = page.ask("\n".join(TEXTS[:4]))
        for rows, (names, scores) in zip(shown, ours.predict(TEXTS[:4]), strict=True):
            percents = {name: f"{100 * score:.1f}%" for name, score in zip(names, scores)}
            assert {path: percent for path, percent, _ in rows} == percents
            assert all(level == (f"level {path.count('##') + 1}" if task == "news" else "") for path, _, level in rows)
        assert_sound(driver)
        page.ask("足球")
        page.threshold(0)
        assert_sound(driver)
        titles = {one.get_attribute("title") for one in driver.find_elements(By.CSS_SELECTOR, ".percent")}
        assert titles == {"score"}
        assert page.threshold(1) == [[]]


# ------------------------------------------------------------------------------------------------ an index that changes


@pytest.fixture
def index_py(run):
    """index_py(what to do, bundle, *flags) of retrieval_based/index.py."""
    script = load_script("retrieval_based/index.py")

    def call(command, bundle, *flags):
        status, log = run(script.main, command, "--bundle", bundle, *flags)
        assert status == 0, log

    return call


def test_a_running_server_takes_up_what_index_py_changed(bundle, index_py, tmp_path):
    """Labels come and go while 4 clients ask: each is answered, and never with a label that is gone."""
    with serving(bundle, tmp_path / "log") as one:
        before = one.ask(path="/info")[2]

        def nearest(text):
            return one.ask("POST", ROUTE, {"data": {"text": text}})[2]["result"]["label_name"][0]

        with asking(one) as answers:
            gone = "教育考试##停课"
            assert nearest(gone.replace("##", ",")) == ["教育考试", gone]
            index_py("remove", bundle, "--label", gone)
            one.wait_for("taken up: 54 labels, 0 new and 1 gone")
            index_py("add", bundle, "--label", "<b>\"'😀</b>##板球", "--text", "足球")
            one.wait_for("taken up: 56 labels, 2 new and 0 gone")
            for _ in range(5):
                assert nearest("足球") == ["<b>\"'😀</b>", "<b>\"'😀</b>##板球"]
            assert gone not in nearest(gone.replace("##", ","))
            after = one.ask(path="/info")[2]
            assert gone not in after["labels"] and after["labels"][-1] == "<b>\"'😀</b>##板球"
            assert after["bundle"] == open_bundle(str(bundle)).digest != before["bundle"]
            index_py("remove", bundle, "--label", "<b>\"'😀</b>", "--with_children")
            one.wait_for("taken up: 54 labels, 0 new and 2 gone")
            assert not any("板球" in name for name in nearest("足球"))
        assert len(answers) > 20 and all(status == 200 for status, _ in answers)
        assert all(names for _, value in answers for names in value["result"]["label_name"])
        assert one.stop() == 0 and "Traceback" not in one.text()


@contextlib.contextmanager
def asking(one):
    """Yields the (status, value) of what 4 clients are answered meanwhile."""
    stop, answers = threading.Event(), []

    def ask_on():
        while not stop.is_set():
            status, _, value = one.ask("POST", ROUTE, {"data": {"text": TEXTS[:2]}})
            answers.append((status, value))

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(ask_on) for _ in range(4)]
        try:
            yield answers
        finally:
            stop.set()
    for task in tasks:
        task.result()


def test_a_broken_change_is_told_and_the_old_index_serves_on(bundle, index_py, tmp_path, retrieval):
    asked = ("POST", ROUTE, {"data": {"text": TEXTS}})
    with serving(bundle, tmp_path / "log") as one:
        wanted, good = one.ask(*asked)[2], shutil.copytree(bundle, tmp_path / "good")
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        (bundle / "vectors.npy").unlink()  # as half a copy by hand
        (bundle / "manifest.json").write_text(json.dumps({**manifest, "corpus": "rows"}), encoding="utf-8")
        one.wait_for("The changed bundle is not taken up, that of before serves on: .*vectors.npy is missing")
        time.sleep(2.5)
        assert one.text().count("not taken up") == 1 and one.ask(*asked)[2] == wanted
        assert one.ask(path="/health/ready")[0] == 200
        (bundle / "manifest.json").write_text("{", encoding="utf-8")
        one.wait_for("(?s)not taken up.*not taken up, that of before serves on: JSONDecodeError")
        with atomic_folder(str(bundle)) as new:
            shutil.copytree(retrieval["reviews", "labels"], new, dirs_exist_ok=True)
        one.wait_for("holds another encoder now; start again to serve it")
        assert one.ask(*asked)[2] == wanted
        with atomic_folder(str(bundle)) as new:
            shutil.copytree(good, new, dirs_exist_ok=True)
        index_py("add", bundle, "--label", "板球", "--text", "足球")
        one.wait_for("taken up: 56 labels, 1 new and 0 gone")
        assert one.ask("POST", ROUTE, {"data": {"text": "足球"}})[2]["result"]["label_name"] == [["板球"]]
        figures = figures_of(one)
        assert 'text_cls_renewals_total{result="done"} 1.0' in figures
        assert 'text_cls_renewals_total{result="failed"} 3.0' in figures


def figures_of(one):
    connection = one.connect()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


# ----------------------------------------------------------------------------------------- a search that fails or waits


class Index:
    """A predictor's stand-in, whose index does what a test says."""

    def __init__(self, folder, kind="milvus"):
        self.fault, self.asked, self.labels = None, 0, SimpleNamespace(names=["a"])
        self.columns, self.bundle = 2, SimpleNamespace(folder=str(folder), manifest={"index": {"kind": kind}})

    def probabilities_of(self, outputs):
        self.asked += 1
        if self.fault:
            raise self.fault
        return outputs


@pytest.fixture
def looking(tmp_path, monkeypatch):
    """looking(**options) -> (an `Index`, the `Lookup` of it), with the watch at rest unless `look` says how often."""
    made = []

    def call(look=3600, patience=1.0, **options):
        monkeypatch.setattr(lookup, "LOOK_SECONDS", look)
        index = Index(tmp_path, **options)
        made.append(Lookup(index, patience, Metrics()))
        return index, made[-1]

    yield call
    for one in made:
        one.close()


def test_after_a_failure_nobody_waits_until_the_index_answers_again(looking, capfd):
    set_up_log()
    index, one = looking(look=0.05)
    index.fault = IndexUnavailable("Milvus at http://host:19530 did not search")
    with pytest.raises(Unavailable, match="the index of labels does not answer"):
        asyncio.run(one.run(index.probabilities_of, 1))
    with pytest.raises(Unavailable):
        one.check_alive()
    never = SimpleNamespace(called=False)
    with pytest.raises(Unavailable):  # it does not reach the index
        asyncio.run(one.run(lambda: setattr(never, "called", True)))
    assert not never.called
    asked = index.asked
    wait_until(lambda: index.asked > asked + 3)
    index.fault = None
    wait_until(lambda: one.answers)
    assert asyncio.run(one.run(index.probabilities_of, 7)) == 7
    said = capfd.readouterr().err
    assert said.count("The index does not answer: Milvus at http://host:19530 did not search") == 1
    assert said.count("The index answers again") == 1


def test_an_index_that_is_down_is_noticed_before_anybody_asks(looking):
    index, one = looking(look=0.05)
    wait_until(lambda: index.asked > 2)
    assert one.answers
    index.fault = IndexUnavailable("down")
    wait_until(lambda: not one.answers)


def test_an_index_in_memory_is_not_asked_for_nothing(looking):
    index, one = looking(look=0.01, kind="embedded")
    time.sleep(0.3)
    assert index.asked == 0 and one.answers


def test_a_folder_replaced_while_it_is_read_is_read_again(looking, tmp_path):
    """Else labels of one change could stand beside the index of the next."""
    manifest, read = tmp_path / "manifest.json", []
    manifest.write_text("{}", encoding="utf-8")
    index, one = looking(look=0.05, kind="embedded")
    half, whole = Index(tmp_path, "embedded"), Index(tmp_path, "embedded")

    def reopened():
        read.append(len(read))
        if len(read) == 1:
            manifest.write_text('{"changed": "again"}', encoding="utf-8")
            return half
        return whole

    index.reopened = half.reopened = reopened
    wait_until(lambda: one.predictor is not index)
    assert one.predictor is whole and len(read) == 2 and half.asked == whole.asked == 1


def test_an_index_may_become_one_of_the_other_kind(looking, tmp_path):
    """Into a Milvus: it is then watched. Out of one that is down: then it answers."""
    manifest = tmp_path / "manifest.json"
    index, one = looking(look=0.05, kind="embedded")
    remote, local = Index(tmp_path, "milvus"), Index(tmp_path, "embedded")
    index.reopened, remote.reopened = lambda: remote, lambda: local
    manifest.write_text("{}", encoding="utf-8")
    wait_until(lambda: one.predictor is remote and remote.asked > 3)
    remote.fault = IndexUnavailable("down")
    wait_until(lambda: not one.answers)
    manifest.write_text('{"another": "change"}', encoding="utf-8")
    wait_until(lambda: one.predictor is local)
    assert one.answers and asyncio.run(one.run(local.probabilities_of, 7)) == 7
    with pytest.raises(Unavailable):  # a request that began before, in the index that is gone
        asyncio.run(one.run(remote.probabilities_of, 7))
    wait_until(lambda: one.answers)


def test_a_change_that_a_lost_index_kept_from_being_read_is_read_later(looking, tmp_path, capfd):
    set_up_log()
    (tmp_path / "manifest.json").write_text("{}", encoding="utf-8")
    index, one = looking(look=0.05)
    whole, tries = Index(tmp_path), []

    def reopened():
        tries.append(1)
        if len(tries) < 4:
            raise IndexUnavailable("Milvus at http://host:19530 does not answer")
        return whole

    index.reopened = reopened
    wait_until(lambda: one.predictor is whole)
    assert len(tries) == 4 and capfd.readouterr().err.count("is not taken up") == 1  # told once


def test_a_changed_bundle_whose_milvus_is_down_is_read_once(looking, tmp_path):
    """To open a bundle hashes every file of it: the model, and perhaps gigabytes of vectors."""
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}", encoding="utf-8")
    index, one = looking(look=0.02)
    first, second, reads = Index(tmp_path), Index(tmp_path), []
    first.fault = second.fault = IndexUnavailable("down")
    index.reopened = lambda: reads.append(1) or (first if len(reads) == 1 else second)
    wait_until(lambda: first.asked > 3)
    assert len(reads) == 1
    manifest.write_text('{"another": "change"}', encoding="utf-8")
    wait_until(lambda: second.asked > 3)
    assert len(reads) == 2
    second.fault = None
    wait_until(lambda: one.predictor is second)


def test_who_would_wait_too_long_for_a_search_is_refused(looking):
    index, one = looking(kind="embedded", patience=0.5)

    async def ask_together():
        await one.run(time.sleep, 0.3)
        tasks = [asyncio.ensure_future(one.run(time.sleep, 0.3)) for _ in range(30)]
        await asyncio.sleep(0)
        with pytest.raises(Full) as full:
            one.check()
        for task in tasks[2:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        one.check()
        return full.value.retry_after

    assert asyncio.run(ask_together()) >= 1


def test_a_milvus_is_searched_by_several_at_a_time(looking):
    _, one = looking()
    both = threading.Barrier(2, timeout=20)

    async def ask_together():
        await asyncio.gather(one.run(both.wait), one.run(both.wait))

    asyncio.run(ask_together())


def test_a_slow_search_holds_nobody_else_up(serve, monkeypatch):
    """While a search takes its time the event loop answers, and the model runs for others."""
    one = serve(("news", "rows"), "--deadline_seconds", 1.5)
    predictor, go, begun = service_of(one).predictor, threading.Event(), threading.Event()
    real = predictor.search

    def search(vectors):
        begun.set()
        assert go.wait(20)
        return real(vectors)

    monkeypatch.setattr(predictor, "search", search)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, one, "足球")
        assert begun.wait(10)
        runs = one.get("/metrics").text.count("text_cls_batch_texts_count")
        assert runs and one.get("/health/ready").status_code == 200
        second = pool.submit(ask, one, "足球")
        wait_until(lambda: "text_cls_batch_texts_count 2.0" in one.get("/metrics").text)
        go.set()
        assert first.result().status_code == second.result().status_code == 200
        go.clear()
        late = pool.submit(ask, one, "足球")
        assert late.result().status_code == 504
        go.set()
    assert ask(one, "足球").status_code == 200


def test_a_small_request_does_not_wait_for_all_the_searches_of_a_large_one(serve, monkeypatch):
    one = serve(("news", "rows"))
    predictor, searched, begun = service_of(one).predictor, [], threading.Event()
    real = predictor.search

    def search(vectors):
        searched.append(len(vectors))
        begun.set()
        time.sleep(0.1)
        return real(vectors)

    monkeypatch.setattr(predictor, "search", search)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(ask, one, ["足球"] * 200)
        assert begun.wait(10)
        small = ask(one, "足球")
        assert small.status_code == 200 and not large.done()
        assert large.result().json()["result"]["label"] == small.json()["result"]["label"] * 200
    assert searched.index(1) < 4 and sorted(searched) == [1, 8, *[32] * 6]


def test_while_the_index_is_down_no_request_reaches_the_model(serve):
    one = serve(("news", "labels"))
    service_of(one).lookup.answers = False
    answer = ask(one, "足球")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert answer.json() == {"detail": "the index of labels does not answer; try again in 5 s"}
    assert one.get("/health/ready").status_code == 503 and one.get("/health/live").status_code == 200
    service_of(one).lookup.answers = True
    assert ask(one, "足球").status_code == 200 and one.get("/health/ready").status_code == 200
    assert "text_cls_batch_texts_count 1.0" in one.get("/metrics").text


# ------------------------------------------------------------------------------------------------------ a real Milvus


@pytest.fixture
def in_milvus(bundle, tmp_path):
    """(a bundle whose index is on a server of Milvus Lite, a function that starts the server again, its process)."""
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
        uri, local = f"http://127.0.0.1:{port}", EmbeddedIndex.open(str(bundle))
        index = MilvusIndex.create(uri, "labels", local.width, "FLAT")
        encoder = open_predictor(str(bundle), num_threads=1)
        leaves = list(local.labels())
        index.add(encoder.embed([name.replace("##", ",") for name in leaves]), [(name,) for name in leaves])
        put_index(bundle, {"kind": "milvus", "uri": uri, "collection": "labels"})
        yield bundle, start, running, index
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_milvus_that_dies_and_one_that_hangs(in_milvus, retrieval, tmp_path):
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
            for _ in range(10):  # nobody else is held up meanwhile
                asked = time.monotonic()
                assert one.ask(path="/health/live")[0] == 200 and time.monotonic() - asked < 4
            assert [answer.result()[0] for answer in answers] == [503] * 4
            assert time.monotonic() - started < 20  # before the deadline
        running[1].send_signal(signal.SIGCONT)
        wait_until_ready(one)
        assert one.ask("POST", ROUTE, question)[2] == wanted

        # A label that is gone from the collection is not found any more, one that came is once the bundle names it.
        gone = "教育考试##停课"
        itself = {"data": {"text": gone.replace("##", ",")}}
        assert one.ask("POST", ROUTE, itself)[2]["result"]["label_name"] == [["教育考试", gone]]
        assert index.remove(gone) == 1
        assert gone not in one.ask("POST", ROUTE, itself)[2]["result"]["label_name"][0]
        index.add(ours.embed(["足球"]), [("板球",)])
        assert one.ask("POST", ROUTE, {"data": {"text": "足球"}})[0] == 200
        put_index(bundle, open_bundle(str(bundle)).manifest["index"], [*ours.labels.names, "板球"])
        one.wait_for("taken up: 56 labels, 1 new and 0 gone")
        assert one.ask("POST", ROUTE, {"data": {"text": "足球"}})[2]["result"]["label_name"] == [["板球"]]

        running[1].send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            answer, started = pool.submit(one.ask, "POST", ROUTE, question), time.monotonic()
            time.sleep(0.3)
            assert one.stop() == 0 and time.monotonic() - started < 8
            assert answer.result()[0] == 503
        assert "Traceback" not in one.text() and one.text().count("The index answers again") == 2


def test_an_index_that_is_built_anew_in_milvus_is_followed_without_a_refusal(in_milvus, run, tmp_path, monkeypatch):
    """The collection of before is deleted when the server has turned to the new one, for which index.py waits."""
    bundle, _, _, index = in_milvus
    script = load_script("retrieval_based/index.py")
    with serving(bundle, tmp_path / "log") as one:
        waits = []

        def wait(seconds):
            waits.append(seconds)
            one.wait_for("taken up: 55 labels, 0 new and 0 gone")
            time.sleep(0.5)

        monkeypatch.setattr(sys.modules["ownership"], "time", SimpleNamespace(sleep=wait))
        with asking(one) as answers:
            status, log = run(script.main, "build", "--bundle", bundle, "--milvus_uri", index.uri)
            assert status == 0 and waits == [script.GRACE], log
            time.sleep(0.5)
        assert len(answers) > 5 and {status for status, _ in answers} == {200}
    assert not index._client.has_collection("labels")


def wait_until_ready(one):
    wait_until(lambda: one.ask(path="/health/ready")[0] == 200)


def test_a_milvus_that_is_not_there_is_told_at_the_start(bundle, run, tmp_path):
    pytest.importorskip("pymilvus")
    put_index(bundle, {"kind": "milvus", "uri": "http://127.0.0.1:9", "collection": "labels"})
    started = time.monotonic()
    status, log = run(server.main, "--bundle", bundle, "--port", 0)
    assert status == 2 and "Milvus at http://127.0.0.1:9 does not answer" in log and "Traceback" not in log
    assert time.monotonic() - started < 15
