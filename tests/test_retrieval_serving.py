"""A retrieval bundle over HTTP: the labels of its predictor, an index that changes, searches that take long."""

import json
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import Page, assert_sound, chromium
from conftest import ROOT, command_line, lines_of, load_script, write_lines
from selenium.webdriver.common.by import By

import client
from serving import TEXTS, ask, asking, predictor_of, service_of, serving, wait_until
from text_cls.bundle import open_bundle
from text_cls.files import atomic_folder
from text_cls.serving import open_predictor

ROUTE = "/models/retrieval"


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("corpus", ["labels", "rows"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_labels_are_the_predictors(serve, retrieval, task, corpus):
    client, ours = serve(retrieval[task, corpus]), open_predictor(str(retrieval[task, corpus]), num_threads=1)
    answer = ask(client, TEXTS, "retrieval")
    assert answer.status_code == 200, answer.text
    result = answer.json()["result"]
    assert list(result) == ["label", "confidence", "label_name"] and any(result["label"])
    for numbers, confidence, names, (wanted, scores) in zip(*result.values(), ours.predict(TEXTS), strict=True):
        assert names == wanted == [ours.labels.names[i] for i in numbers]
        assert confidence == pytest.approx(scores.tolist(), abs=1e-5)
    alone = ask(client, TEXTS[1], "retrieval").json()["result"]
    assert alone["label"] == result["label"][1:2] == result["label"][5:6]


def test_parameters_are_honoured(serve, retrieval):
    client = serve(retrieval["news", "rows"])
    ours = open_predictor(str(retrieval["news", "rows"]), num_threads=1)
    scores = ours.probabilities(TEXTS[:2])
    for limit in (0, 0.3, 0.9):
        names = ask(client, TEXTS[:2], "retrieval", prob_limit=limit).json()["result"]["label_name"]
        assert [set(some) for some in names] == [
            {ours.labels.names[i] for i in (row > limit).nonzero()[0]} for row in scores
        ]
    assert ask(client, TEXTS[:2], "retrieval", prob_limit=1).json()["result"]["label"] == [[], []]
    long = TEXTS[2] * 3
    short = ask(client, long, "retrieval", prob_limit=0, max_seq_len=5).json()["result"]["confidence"][0]
    assert short == pytest.approx([one for one in ours.probabilities([long], 5)[0] if one > 0], abs=1e-5)
    assert ask(client, TEXTS, "retrieval", batch_size=1).json() == ask(client, TEXTS, "retrieval").json()


def test_info_and_the_other_routes(serve, retrieval):
    one = serve(retrieval["reviews", "labels"], "--max_texts", 3)
    info = one.get("/info").json()
    assert info["task"] == "retrieval" and info["route"] == ROUTE and len(info["labels"]) == 19
    assert info["bundle"] == open_bundle(str(retrieval["reviews", "labels"])).digest
    for route in ("/models/cls_hierarchical", "/models/cls_multi_label"):
        answer = one.post(route, json={"data": {"text": "足球"}})
        assert answer.status_code == 404
        assert answer.json() == {"detail": f"this bundle's labels are found by an index; POST to {ROUTE}"}
    answer = ask(serve("news"), "足球", "retrieval")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "this bundle's labels are hierarchical; POST to /models/cls_hierarchical"}
    assert ask(one, ["a"] * 4, "retrieval").status_code == 422 and ask(one, "", "retrieval").status_code == 422
    assert ask(one, "a", "retrieval").status_code == 200
    text = one.get("/metrics").text
    for line in (f'text_cls_requests_total{{route="{ROUTE}",status="200"}} 1.0', "text_cls_search_seconds_count 1.0"):
        assert line in text, line
    assert f"POST {ROUTE}" in one.get("/docs").text


def test_a_bundle_without_an_index_does_not_start(bundles, tmp_path):
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


def test_the_schema_matches_the_answers(retrieval, tmp_path):
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
    """index_py(command, bundle, *flags): runs retrieval_based/index.py."""
    script = load_script("retrieval_based/index.py")

    def call(command, bundle, *flags):
        status, log = run(script.main, command, "--bundle", bundle, *flags)
        assert status == 0, log

    return call


def test_a_running_server_loads_what_index_py_changed(label_bundle, index_py, tmp_path):
    """Labels are added and removed while 4 clients ask: all are answered, and never with a removed label."""
    with serving(label_bundle, tmp_path / "log") as one:
        before = one.ask(path="/info")[2]

        def nearest(text):
            return one.ask("POST", ROUTE, {"data": {"text": text}})[2]["result"]["label_name"][0]

        with asking(one, ROUTE, TEXTS[:2]) as answers:
            gone = "教育考试##停课"
            assert nearest(gone.replace("##", ",")) == ["教育考试", gone]
            index_py("remove", label_bundle, "--label", gone)
            one.wait_for("Now serving the changed bundle: 54 labels, 0 added, 1 removed")
            index_py("add", label_bundle, "--label", "<b>\"'😀</b>##板球", "--text", "足球")
            one.wait_for("Now serving the changed bundle: 56 labels, 2 added, 0 removed")
            for _ in range(5):
                assert nearest("足球") == ["<b>\"'😀</b>", "<b>\"'😀</b>##板球"]
            assert gone not in nearest(gone.replace("##", ","))
            after = one.ask(path="/info")[2]
            assert gone not in after["labels"] and after["labels"][-1] == "<b>\"'😀</b>##板球"
            assert after["bundle"] == open_bundle(str(label_bundle)).digest != before["bundle"]
            index_py("remove", label_bundle, "--label", "<b>\"'😀</b>", "--with_children")
            one.wait_for("Now serving the changed bundle: 54 labels, 0 added, 2 removed")
            assert not any("板球" in name for name in nearest("足球"))
        assert len(answers) > 20 and all(status == 200 for status, _ in answers)
        assert all(names for _, value in answers for names in value["result"]["label_name"])
        assert one.stop() == 0 and "Traceback" not in one.text()


def test_a_broken_change_is_reported_and_the_old_index_stays_in_use(label_bundle, index_py, tmp_path, retrieval):
    asked = ("POST", ROUTE, {"data": {"text": TEXTS}})
    with serving(label_bundle, tmp_path / "log") as one:
        wanted, good = one.ask(*asked)[2], shutil.copytree(label_bundle, tmp_path / "good")
        manifest = json.loads((label_bundle / "manifest.json").read_text(encoding="utf-8"))
        (label_bundle / "vectors.npy").unlink()  # as after half a copy by hand
        (label_bundle / "manifest.json").write_text(json.dumps({**manifest, "corpus": "rows"}), encoding="utf-8")
        one.wait_for("The changed bundle was not loaded; still serving the previous one: .*vectors.npy is missing")
        assert one.ask(*asked)[2] == wanted
        assert one.ask(path="/health/ready")[0] == 200
        (label_bundle / "manifest.json").write_text("{", encoding="utf-8")
        one.wait_for("(?s)was not loaded.*was not loaded; still serving the previous one: JSONDecodeError")
        with atomic_folder(str(label_bundle)) as new:
            shutil.copytree(retrieval["reviews", "labels"], new, dirs_exist_ok=True)
        one.wait_for("Now serving the changed bundle")  # with another encoder
        assert one.ask(*asked)[2] != wanted
        with atomic_folder(str(label_bundle)) as new:
            shutil.copytree(good, new, dirs_exist_ok=True)
        one.wait_for("(?s)Now serving the changed bundle.*Now serving the changed bundle")
        assert one.ask(*asked)[2] == wanted
        index_py("add", label_bundle, "--label", "板球", "--text", "足球")
        one.wait_for("Now serving the changed bundle: 56 labels, 1 added, 0 removed")
        assert one.ask("POST", ROUTE, {"data": {"text": "足球"}})[2]["result"]["label_name"] == [["板球"]]
        metrics = metrics_of(one)
        assert 'text_cls_renewals_total{bundle="bundle",result="done"} 3.0' in metrics
        assert 'text_cls_renewals_total{bundle="bundle",result="failed"} 2.0' in metrics


def metrics_of(one):
    connection = one.connect()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


# ------------------------------------------------------------------------------------------- a search that takes long


def test_a_slow_search_does_not_block_others(serve, retrieval, monkeypatch):
    """During a slow search the event loop answers, and the model runs for other requests."""
    one = serve(retrieval["news", "rows"], "--deadline_seconds", 1.5)
    predictor, go, begun = predictor_of(one), threading.Event(), threading.Event()
    real = predictor.search

    def search(vectors):
        begun.set()
        assert go.wait(20)
        return real(vectors)

    monkeypatch.setattr(predictor, "search", search)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, one, "足球", "retrieval")
        assert begun.wait(60)
        runs = one.get("/metrics").text.count("text_cls_batch_texts_count")
        assert runs and one.get("/health/ready").status_code == 200
        second = pool.submit(ask, one, "足球", "retrieval")
        wait_until(lambda: "text_cls_batch_texts_count 2.0" in one.get("/metrics").text)
        go.set()
        assert first.result().status_code == second.result().status_code == 200
        go.clear()
        late = pool.submit(ask, one, "足球", "retrieval")
        assert late.result().status_code == 504
        go.set()
    assert ask(one, "足球", "retrieval").status_code == 200


def test_a_small_request_does_not_wait_for_all_the_searches_of_a_large_one(serve, retrieval, monkeypatch):
    one = serve(retrieval["news", "rows"])
    predictor, searched, begun = predictor_of(one), [], threading.Event()
    real = predictor.search

    def search(vectors):
        searched.append(len(vectors))
        begun.set()
        time.sleep(0.1)
        return real(vectors)

    monkeypatch.setattr(predictor, "search", search)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(ask, one, ["足球"] * 200, "retrieval")
        assert begun.wait(60)
        small = ask(one, "足球", "retrieval")
        assert small.status_code == 200 and not large.done()
        assert large.result().json()["result"]["label"] == small.json()["result"]["label"] * 200
    assert searched.index(1) < 4 and sorted(searched) == [1, 8, *[32] * 6]


def test_while_the_index_is_down_no_request_reaches_the_model(serve, retrieval):
    one = serve(retrieval["news", "labels"])
    service_of(one).first.lookup.answers = False
    answer = ask(one, "足球", "retrieval")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert answer.json() == {"detail": "the index of labels does not answer; try again in 5 s"}
    assert one.get("/health/ready").status_code == 503 and one.get("/health/live").status_code == 200
    service_of(one).first.lookup.answers = True
    assert ask(one, "足球", "retrieval").status_code == 200 and one.get("/health/ready").status_code == 200
    assert "text_cls_batch_texts_count 1.0" in one.get("/metrics").text
