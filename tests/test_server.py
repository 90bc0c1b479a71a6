"""The HTTP server in process: what it answers, with which status, and what it says of it in log and figures."""

import asyncio
import json
import logging
import re
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT, command_line
from starlette.testclient import TestClient

import server
import settings
from application import create_app
from serving import wait_until
from text_cls.bundle import open_bundle, replace_decision
from text_cls.decision import Decision
from text_cls.serving.predictor import Predictor

KEY = "s3cret"
TEXTS = [
    "台风登陆，学校停课一天",
    "足球",
    "公司裁员三成，股价当日大跌",
    "😀 Café <b>\"'&</b> [CLS]",
    "好" * 2000,
    "足球",
    "a\nb\tc\x00",
]


@pytest.fixture
def serve(bundles, monkeypatch):
    """serve(task or bundle, *flags, key=None) -> TestClient of a started application."""
    clients = []

    def call(bundle="news", *flags, key=None):
        words = ["--bundle", str(bundles.get(bundle, bundle)), "--num_threads", "1", *map(str, flags)]
        chosen = settings.parse_args(words, environ={settings.API_KEY: key} if key else {})
        clients.append(TestClient(create_app(chosen), raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield call
    for client in clients:
        client.__exit__(None, None, None)


def service_of(client):
    return client.app.state.own.service


def ask(client, text, task="hierarchical", **parameters):
    return client.post(f"/models/cls_{task}", json={"data": {"text": text}, "parameters": parameters})


class Held:
    """Holds the model of a service until it is let go."""

    def __init__(self, client):
        self.batcher, self.go, self.begun, self.rows = (
            service_of(client).batcher,
            threading.Event(),
            threading.Event(),
            [],
        )
        self.real, self.batcher.run = self.batcher.run, self.run

    def run(self, rows):
        self.rows.append(len(rows))
        self.begun.set()
        assert self.go.wait(30)
        return self.real(rows)


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(("name", "task"), [("news", "hierarchical"), ("reviews", "multi_label")])
def test_the_labels_are_the_predictors(serve, bundles, name, task):
    client, ours = serve(name), Predictor(str(bundles[name]), num_threads=1)
    answer = ask(client, TEXTS, task)
    assert answer.status_code == 200 and list(answer.json()) == ["result"]
    result = answer.json()["result"]
    assert list(result) == ["label", "confidence", "label_name"]
    rows = zip(*result.values(), ours.predict(TEXTS), strict=True)
    for numbers, confidence, names, (wanted, scores) in rows:
        assert names == wanted == [ours.labels.names[i] for i in numbers]
        assert confidence == pytest.approx(scores.tolist(), abs=1e-6)
    assert any(result["label"])
    assert ask(client, TEXTS[0], task).json()["result"]["label"] == result["label"][:1]


def test_parameters_are_honoured(serve, bundles):
    client, ours = serve(), Predictor(str(bundles["news"]), num_threads=1)
    everything = ask(client, TEXTS[:2], prob_limit=0).json()["result"]
    assert [len(names) for names in everything["label_name"]] == [55, 55]
    assert everything["confidence"][0] == pytest.approx(ours.probabilities(TEXTS[:1])[0].tolist(), abs=1e-6)
    assert ask(client, TEXTS[:2], prob_limit=1).json()["result"]["label"] == [[], []]
    long = TEXTS[2] * 3
    short = ask(client, long, prob_limit=0, max_seq_len=5).json()["result"]["confidence"]
    assert short[0] == pytest.approx(ours.probabilities([long], 5)[0].tolist(), abs=1e-6)
    assert short != ask(client, long, prob_limit=0).json()["result"]["confidence"]
    for sent in ({"parameters": None}, {}, {"parameters": {"batch_size": 1, "prob_limit": None}}):
        assert client.post("/models/cls_hierarchical", json={"data": {"text": "足球"}, **sent}).status_code == 200


def test_the_bundles_decision_is_the_servers_and_prob_limit_changes_its_threshold_alone(serve, bundles, tmp_path):
    folder = tmp_path / "fitted"
    shutil.copytree(bundles["news"], folder)
    replace_decision(open_bundle(str(folder)), Decision(min_k=1, temperature=2.0, hierarchy="one_per_level"))
    client, ours = serve(str(folder)), Predictor(str(folder), num_threads=1)
    result = ask(client, TEXTS).json()["result"]
    for names, confidence, (wanted, scores) in zip(result["label_name"], result["confidence"], ours.predict(TEXTS)):
        assert names == wanted and names and confidence == pytest.approx(scores.tolist(), abs=1e-6)
    for limit in (0.05, 0.99):
        for names in ask(client, TEXTS, prob_limit=limit).json()["result"]["label_name"]:
            assert [name.count("##") for name in names] == list(range(len(names))) and names


def test_prob_limit_stands_for_thresholds_per_label_and_leaves_the_rest(serve, bundles, tmp_path):
    folder = tmp_path / "fitted"
    shutil.copytree(bundles["news"], folder)
    best = Predictor(str(folder), num_threads=1).probabilities(TEXTS).max(axis=1)
    ranked = np.sort(best)
    widest = np.diff(ranked).argmax()
    none_below = float(ranked[widest : widest + 2].mean())  # some texts lie below it, some above, none near
    thresholds = [0.0, *np.ones(54)]  # so that the first label, which has no parent, is all that is ever found
    decision = Decision(tuple(thresholds), max_k=2, none_below=none_below)
    replace_decision(open_bundle(str(folder)), decision)
    client, ours = serve(str(folder)), Predictor(str(folder), num_threads=1)
    found = ask(client, TEXTS).json()["result"]["label_name"]
    assert found == [names for names, _ in ours.predict(TEXTS)]
    assert found == [[ours.labels.names[0]] if one > none_below else [] for one in best]
    for limit, some in ((0, True), (1, False)):
        limited = ask(client, TEXTS, prob_limit=limit).json()["result"]["label_name"]
        assert [len(names) for names in limited] == [2 if some and one > none_below else 0 for one in best]
    assert 0 < (best > none_below).sum() < len(TEXTS)


def test_children_come_with_their_parents(serve):
    client = serve()
    names = client.get("/info").json()["labels"]
    for limit in (0.02, 0.1, 0.3):
        for found in ask(client, TEXTS, prob_limit=limit).json()["result"]["label_name"]:
            assert all(name.rpartition("##")[0] in found for name in found if "##" in name)
            assert [names.index(name) for name in found] == sorted(names.index(name) for name in found)


def test_requests_of_any_kind_share_runs_and_answer_as_alone(serve):
    client = serve()
    asked = [(TEXTS[k % 4], {"max_seq_len": 5 + k % 40, "prob_limit": 0, "batch_size": 1 + k % 3}) for k in range(24)]
    alone = [ask(client, text, **parameters).json()["result"]["confidence"][0] for text, parameters in asked]
    held = Held(client)
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(ask, client, [text] * 2, **parameters) for text, parameters in asked]
        assert held.begun.wait(10)
        while service_of(client).batcher.texts < 48:
            pass
        held.go.set()
        for wanted, answer in zip(alone, answers):
            result = answer.result().json()["result"]
            assert np.abs(np.array(result["confidence"]) - [wanted, wanted]).max() < 1e-5
    assert max(held.rows) > 4 and len(held.rows) < 24


def test_ernie_m(families, run, tmp_path):
    """Its tokens come of SentencePiece, its graph of another script's branch; the server does not notice."""
    import export_model
    from text_cls.decision import Decision
    from text_cls.neural.checkpoint import Checkpoint, save_checkpoint
    from text_cls.rows import Labels

    labels = Labels(["甲", "乙", "丙", "丁", "戊"])
    model, tokenizer = families["ernie_m"]
    save_checkpoint(
        str(tmp_path / "model"), Checkpoint(model, tokenizer, labels, Decision(), {"arguments": {"max_seq_length": 32}})
    )
    where = ("--params_path", tmp_path / "model", "--output_path", tmp_path / "export")
    status, log = run(export_model.main, *where, "--multilingual")
    assert status == 0, log
    ours = Predictor(str(tmp_path / "export"), num_threads=1)
    with TestClient(create_app(settings.parse_args(["--bundle", str(tmp_path / "export")], environ={}))) as client:
        texts = [text[:50] for text in TEXTS]
        result = ask(client, texts, "multi_label", prob_limit=0).json()["result"]
    assert np.abs(np.array(result["confidence"]) - ours.probabilities(texts)).max() < 1e-5
    assert np.ptp(result["confidence"], axis=0).max() > 0.01


# ------------------------------------------------------------------------------------------------------------ statuses


def test_the_other_route_and_no_route(serve):
    client = serve("reviews")
    answer = ask(client, "足球", "hierarchical")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "this bundle's labels are multi_label; POST to /models/cls_multi_label"}
    assert client.get("/nothing").json() == {"detail": "no such route; /docs lists them"}
    answer = client.get("/models/cls_multi_label")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"data": {"text": []}}, "data.text must be a text or a list of one text or more"),
        ({"data": {"text": "  "}}, "none of them blank"),
        ({"data": {"text": ["a", ""]}}, "none of them blank"),
        ({"data": {"text": ["a", 1]}}, "data.text must be a text or a list"),
        ({"data": {"text": None}}, "data.text must be a text or a list"),
        ({"data": {}}, "data.text: field required"),
        ({}, "data: field required"),
        ([], "the body: input should be an object"),
        ({"data": {"text": "a", "text_pair": "b"}}, "data.text_pair is not known here; known are text"),
        ({"data": {"text": "a"}, "parameters": {"top_k": 1}}, "known are max_seq_len, batch_size, prob_limit"),
        ({"data": {"text": "a"}, "parametres": {}}, "parametres is not known here; known are data, parameters"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": "9"}}, "max_seq_len: input should be a valid integer"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": True}}, "max_seq_len: input should be a valid integer"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": 2}}, "greater than or equal to 3"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": 4096}}, "this model takes 2048 tokens at most"),
        ({"data": {"text": "a"}, "parameters": {"batch_size": 0}}, "greater than or equal to 1"),
        ({"data": {"text": "a"}, "parameters": {"prob_limit": 1.5}}, "less than or equal to 1"),
        ({"data": {"text": ["a"] * 5}}, "5 texts, while a request holds 4 at most; send them in several"),
        ({"data": {"text": ["a", "b" * 31]}}, "text 1 (from 0) has 31 characters, at most 30 are taken; cut it"),
        ({"data": {"text": ["好" * 30] * 4}}, "128 tokens, while 100 may wait at a time; send the texts in several"),
    ],
)
def test_what_cannot_be_answered(serve, value, message):
    client = serve("news", "--max_texts", 4, "--max_characters", 30, "--queue_tokens", 100)
    answer = client.post("/models/cls_hierarchical", json=value)
    assert answer.status_code == 422 and message in answer.json()["detail"]
    assert list(answer.json()) == ["detail"]
    assert ask(client, "b").status_code == 200


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff\xfe", b'{"data": {"text": "\\ud800"}}', b"[" * 100000, b'{"data":{"text":NaN}}']
)
def test_what_is_no_json(serve, body):
    client = serve()
    answer = client.post("/models/cls_hierarchical", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and len(answer.content) < 300


def test_faults_without_number_are_not_listed(serve):
    """A million faults in one request would cost more than a million texts."""
    client = serve()
    for value in ({"data": {"text": [1] * 150000}}, {"data": {"text": "a"}, **{str(k): 1 for k in range(70000)}}):
        answer = client.post("/models/cls_hierarchical", json=value)
        assert answer.status_code == 422 and len(answer.content) < 300


def test_sizes(serve):
    client = serve("news", "--max_body_bytes", 200)
    small, large = b'{"data":{"text":"a"}}', b'{"data":{"text":"' + b"a" * 200 + b'"}}'
    kind = {"Content-Type": "application/json"}
    assert client.post("/models/cls_hierarchical", content=small, headers=kind).status_code == 200
    for content in (large, iter([large[:150], large[150:]])):  # with a Content-Length, and in chunks without
        answer = client.post("/models/cls_hierarchical", content=content, headers=kind)
        assert answer.status_code == 413 and "more than 200 bytes; send fewer texts" in answer.json()["detail"]
    assert (
        client.post("/models/cls_hierarchical", content=iter([small[:9], small[9:]]), headers=kind).status_code == 200
    )
    assert service_of(client).held == 0


def test_types(serve):
    client, body = serve(), '{"data":{"text":"足球"}}'
    for headers, status in (
        ({"Content-Type": "application/json"}, 200),
        ({"Content-Type": "Application/JSON; charset=UTF-8"}, 200),
        ({"Content-Type": 'application/json; charset="utf8"'}, 200),
        ({"Content-Type": "application/json; charset=gbk"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({}, 415),
    ):
        answer = client.post("/models/cls_hierarchical", content=body.encode(), headers=headers)
        assert answer.status_code == status, headers


def test_the_api_key(serve):
    client, asked = serve("news", key=KEY), {"json": {"data": {"text": "足球"}}}
    for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {KEY}"}):
        assert client.post("/models/cls_hierarchical", headers=headers, **asked).status_code == 200
    for headers in (
        {},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": ""},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
    ):
        answer = client.post("/models/cls_hierarchical", headers=headers, **asked)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer" and KEY not in answer.text
    statuses = {
        path: client.get(path).status_code for path in ("/", "/docs", "/openapi.json", "/health/live", "/health/ready")
    }
    assert set(statuses.values()) == {200}, statuses
    assert [client.get(path).status_code for path in ("/info", "/metrics", "/nothing")] == [401] * 3
    assert client.get("/metrics", headers={"X-API-Key": KEY}).status_code == 200


def test_full_and_busy(serve):
    client = serve("news", "--queue_tokens", 40, "--max_requests", 3)
    held = Held(client)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, client, "好" * 20)
        assert held.begun.wait(10)
        refused = ask(client, "好" * 20)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["detail"] == f"too much to do; try again in {refused.headers['retry-after']} s"
        others = [pool.submit(ask, client, "a") for _ in range(2)]
        while service_of(client).requests < 3:
            pass
        assert ask(client, "a").status_code == 503
        held.go.set()
        assert [answer.result().status_code for answer in (first, *others)] == [200] * 3
    assert ask(client, "好" * 20).status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_bodies_in_memory_are_bounded(serve, monkeypatch):
    import service

    client = serve("news", "--max_body_bytes", 100)
    monkeypatch.setattr(service, "BODIES", 2)
    service_of(client).held = 190
    assert ask(client, "足球").status_code == 503
    service_of(client).held = 0
    assert ask(client, "足球").status_code == 200 and service_of(client).held == 0


def test_the_deadline(serve):
    client = serve("news", "--deadline_seconds", 0.3)
    held = Held(client)
    answer = ask(client, "足球")
    assert answer.status_code == 504 and answer.json()["detail"].startswith("no answer within 0.3 s; send fewer texts")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(client, ["夺冠"] * 7), range(2)))
    assert [answer.status_code for answer in answers] == [504] * 2
    held.go.set()
    wait_until(lambda: ask(client, "足球").status_code == 200)  # what was held is run first
    assert 7 not in held.rows and 14 not in held.rows  # they never reached the model


def test_a_client_that_left_costs_no_run(serve, bundles):
    client = serve()
    held, app = Held(client), client.app
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, "足球")
        assert held.begun.wait(10)
        sent = leave(app, {"data": {"text": ["夺冠"] * 7}})
        assert sent == [499]
        held.go.set()
        assert first.result().status_code == 200
    assert 7 not in held.rows and service_of(client).requests == 0 and service_of(client).batcher.tokens == 0
    assert 'status="499"' in client.get("/metrics").text


def leave(app, value):
    """The statuses answered to a client that goes away once it has sent its request."""
    events = [{"type": "http.request", "body": json.dumps(value).encode(), "more_body": False}]
    sent = []

    async def receive():
        if events:
            return events.pop()
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message.get("status"))

    headers = [(b"content-type", b"application/json")]
    path = "/models/cls_hierarchical"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
    asyncio.run(app(scope | {"http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send))
    return [status for status in sent if status]


def test_a_fault_of_the_model_is_told_without_the_text(serve, caplog, monkeypatch):
    client, secret = serve(), "绝密文本"
    real = service_of(client).batcher.run
    monkeypatch.setattr("text_cls.cli.logger.propagate", True)

    def run(rows):
        if any(len(ids) > 20 for ids in rows):
            raise ValueError(secret)
        return real(rows)

    service_of(client).batcher.run = run
    answer = ask(client, secret * 10)
    assert answer.status_code == 500 and secret not in answer.text and secret not in caplog.text
    assert answer.headers["x-request-id"] in caplog.text and "failed: ValueError" in caplog.text
    assert ask(client, "足球").status_code == 200
    assert "text_cls_errors_total 1.0" in client.get("/metrics").text


def test_stopping(serve):
    client = serve()
    assert client.get("/health/ready").json() == {"status": "ready"}
    service_of(client).draining = True
    answer = client.get("/health/ready")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert ask(client, "足球").status_code == 503 and client.get("/health/live").status_code == 200


def test_without_the_models_thread_it_is_not_ready(serve):
    client = serve()
    service_of(client).batcher.close(10)
    answer = client.get("/health/ready")
    assert answer.status_code == 503 and "its model has failed" in answer.json()["detail"]
    assert ask(client, "足球").status_code == 503 and client.get("/health/live").status_code == 200


# ------------------------------------------------------------------------------------------------ pages, log, figures


def test_nothing_of_a_text_is_logged(serve, caplog, monkeypatch):
    monkeypatch.setattr("text_cls.cli.logger.propagate", True)
    caplog.set_level(logging.DEBUG)
    client, secret = serve(), "绝密secret"
    ask(client, secret)
    ask(client, [secret, 1])
    client.post("/models/cls_hierarchical", json={"data": {"text": "a"}, secret: secret})
    client.post("/models/cls_hierarchical", content=secret.encode(), headers={"Content-Type": "secret"})
    client.get(f"/{secret}?{secret}", headers={"X-Request-ID": "secret x"})
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx")
    assert secret not in ours and "secret" not in ours
    assert re.search(r"[0-9a-f]{12} POST /models/cls_hierarchical 200 [\d.]+ ms texts=1 characters=8 tokens=\d+", ours)


def test_ids(serve):
    client = serve()
    assert client.get("/health/live", headers={"X-Request-ID": "order-66"}).headers["x-request-id"] == "order-66"
    first, second = (client.get("/health/live").headers["x-request-id"] for _ in range(2))
    assert first != second


def test_info(serve, bundles):
    info = serve("reviews", "--max_texts", 7).get("/info").json()
    assert info["task"] == "multi_label" and info["route"] == "/models/cls_multi_label" and len(info["labels"]) == 19
    assert info["max_seq_len"] == 48 and info["limits"]["max_texts"] == 7 and len(info["bundle"]) == 64


def test_pages_need_no_network(serve):
    client = serve()
    page, docs = client.get("/"), client.get("/docs")
    assert page.text == (ROOT / "deploy" / "simple_serving" / "index.html").read_text(encoding="utf-8")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("'sha256-") == 2
    for name in ("POST /models/cls_hierarchical", "Question", "413"):
        assert name in docs.text
    for text in (page.text, docs.text):
        assert not re.search(r"(src|href)=.?(https?:)?//", text)


def test_figures(serve):
    client = serve()
    ask(client, TEXTS)
    ask(client, [])
    text = client.get("/metrics").text
    for line in (
        'text_cls_requests_total{route="/models/cls_hierarchical",status="200"} 1.0',
        'text_cls_requests_total{route="/models/cls_hierarchical",status="422"} 1.0',
        'text_cls_request_seconds_count{route="/models/cls_hierarchical"} 2.0',
        "text_cls_texts_total 7.0",
        "text_cls_queue_tokens 0.0",
        "text_cls_queue_texts 0.0",
        "text_cls_errors_total 0.0",
        "text_cls_batch_texts_sum 7.0",
        "text_cls_requests_under_way 1.0",
    ):
        assert line in text, line
    assert serve().get("/metrics").text.count("text_cls_texts_total 0.0") == 1  # each server counts for itself


def test_the_event_loop_goes_on_while_a_large_request_is_tokenised(serve, monkeypatch):
    """/health/live answers between two parts of 256 texts, though one thread tokenises them all."""
    client = serve("news", "--max_texts", 256)
    tokenizer, seen = service_of(client).predictor.tokenizer, []
    real, step = tokenizer.encode, threading.Event()

    def encode(texts, length):
        seen.append(len(texts))
        assert step.wait(10)
        return real(texts, length)

    monkeypatch.setattr(tokenizer, "encode", encode)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, client, ["好" * 1000] * 64)
        while not seen:
            pass
        assert client.get("/health/live").status_code == 200 and not answer.done()
        step.set()
        assert answer.result().status_code == 200
    assert len(seen) > 5 and sum(seen) == 64


# ------------------------------------------------------------------------------------------------------------ settings


def test_settings(run, caplog, monkeypatch):
    monkeypatch.setattr("text_cls.cli.logger.propagate", True)
    environ = {
        "TEXT_CLS_PORT": "1",
        "TEXT_CLS_MAX_TEXTS": "5",
        "TEXT_CLS_BATCHING": "false",
        "TEXT_CLS_API_KEY": KEY,
        "TEXT_CLS_MAX_TEXT": "3",
        "OTHER": "x",
    }
    chosen = settings.parse_args(["--port", "2"], environ=environ)
    assert (chosen.port, chosen.max_texts, chosen.batching, chosen.api_key) == (2, 5, False, KEY)
    assert "TEXT_CLS_MAX_TEXT is no setting; did you mean 'max_texts'?" in caplog.text
    shown = "\n".join(settings.describe(chosen))
    assert "max_texts=5" in shown and "batching=False" in shown and KEY not in shown
    chosen = settings.parse_args(["--shutdown_seconds", "12"], environ={})
    assert (chosen.host, chosen.shutdown_seconds, chosen.deadline_seconds) == ("127.0.0.1", 12, 10)
    assert chosen.api_key is None


@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--max_texts", "0"], {}, "argument --max_texts: must be 1 or more, not 0"),
        ([], {"TEXT_CLS_PORT": "tcp://10.0.0.1:80"}, "argument --port: invalid"),
        ([], {"TEXT_CLS_BATCHING": "nein"}, "TEXT_CLS_BATCHING must be true or false, not 'nein'"),
        (["--shutdown_seconds", "11.5"], {}, "11.5 must be at least 2 more than --deadline_seconds 10"),
        (["--deadline_seconds", "0"], {}, "argument --deadline_seconds: must be more than 0"),
        ([], {"TEXT_CLS_API_KEY": "密钥"}, "TEXT_CLS_API_KEY holds characters that a header cannot carry"),
        ([], {"TEXT_CLS_API_KEY": "s3cret\n"}, "use ASCII, with no line break, and no blank at its ends"),
        ([], {"TEXT_CLS_API_KEY": " s3cret"}, "use ASCII, with no line break, and no blank at its ends"),
        ([], {"TEXT_CLS_API_KEY": "s3\0cret"}, "TEXT_CLS_API_KEY holds characters that a header cannot carry"),
        ([], {"TEXT_CLS_API_KEY": ""}, "TEXT_CLS_API_KEY is empty: give it a key, or unset it"),
        ([], {"TEXT_CLS_API_KEY": " \n"}, "TEXT_CLS_API_KEY is empty: give it a key, or unset it"),
        (["--bundel", "x"], {}, "--bundel"),
    ],
)
def test_settings_that_cannot_be(argv, environ, message):
    with pytest.raises(settings.UserError) as error:
        settings.parse_args(argv, environ=environ)
    assert message in str(error.value)


def test_a_start_that_fails_is_told_in_a_sentence(run, tmp_path):
    status, log = run(server.main, "--max_texts", "x")
    assert status == 2 and "argument --max_texts: invalid" in log and "--help" in log
    words = ("server.py", "--bundle", tmp_path, "--port", 0)
    answer = subprocess.run(
        command_line(*words), cwd=ROOT / "deploy" / "simple_serving", capture_output=True, text=True, encoding="utf-8"
    )
    assert answer.returncode == 2 and "name a folder that export_model.py or prune.py wrote" in answer.stderr
    assert "Traceback" not in answer.stderr and answer.stderr.count("name a folder") == 1


def test_a_package_that_is_missing_is_named(bundles):
    code = "import sys; sys.modules['onnxruntime'] = None; import server; sys.exit(server.main(sys.argv[1:]))"
    answer = subprocess.run(
        command_line("-c", code, "--bundle", bundles["news"], "--port", 0),
        cwd=ROOT / "deploy" / "simple_serving",
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr
    assert "onnxruntime" in answer.stderr and "pip install -r deploy/predictor/requirements-cpu.txt" in answer.stderr


@pytest.mark.parametrize("error", [ValueError("current limit exceeds maximum limit"), OSError("not permitted")])
def test_a_system_that_allows_no_more_connections(monkeypatch, error):
    import resource

    def refuse(*_):
        raise error

    monkeypatch.setattr(resource, "setrlimit", refuse)
    server.allow_connections()


def test_a_port_that_is_taken(run, bundles):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, log = run(server.main, "--bundle", bundles["news"], "--port", taken.getsockname()[1])
    assert status == 2 and "give another, or stop the program that has it" in log
