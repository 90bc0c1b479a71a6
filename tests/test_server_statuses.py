"""The HTTP server in process: which status a request gets, and what the error says."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving import PausedModel, ask, model_of, service_of, wait_until

KEY = "s3cret"


def test_the_other_route_and_no_route(serve):
    client = serve("reviews")
    answer = ask(client, "足球", "cls_hierarchical")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "this bundle's labels are flat; POST to /models/cls_multi_label"}
    assert client.get("/nothing").json() == {"detail": "no such route; see /docs"}
    answer = client.get("/models/cls_multi_label")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"data": {"text": []}}, "data.text must be a text or a list of at least one text"),
        ({"data": {"text": "  "}}, "none of them blank"),
        ({"data": {"text": ["a", ""]}}, "none of them blank"),
        ({"data": {"text": ["a", 1]}}, "data.text must be a text or a list"),
        ({"data": {"text": None}}, "data.text must be a text or a list"),
        ({"data": {}}, "data.text: field required"),
        ({}, "data: field required"),
        ([], "the body: input should be an object"),
        ({"data": {"text": "a", "text_pair": "b"}}, "data.text_pair is unknown; known are text"),
        ({"data": {"text": "a"}, "parameters": {"topk": 1}}, "known are max_seq_len, batch_size, prob_limit"),
        ({"data": {"text": "a"}, "parametres": {}}, "parametres is unknown; known are data, parameters"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": "9"}}, "max_seq_len: input should be a valid integer"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": True}}, "max_seq_len: input should be a valid integer"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": 2}}, "greater than or equal to 3"),
        ({"data": {"text": "a"}, "parameters": {"max_seq_len": 4096}}, "this model takes at most 2048 tokens"),
        ({"data": {"text": "a"}, "parameters": {"batch_size": 0}}, "greater than or equal to 1"),
        ({"data": {"text": "a"}, "parameters": {"prob_limit": 1.5}}, "less than or equal to 1"),
        ({"data": {"text": ["a"] * 5}}, "5 texts, but a request may have at most 4; send them in several"),
        ({"data": {"text": ["a", "b" * 31]}}, "text 1 (from 0) has 31 characters; at most 30 are allowed; shorten it"),
        (
            {"data": {"text": ["好" * 30] * 4}},
            "128 tokens, but at most 100 may wait at a time; send the",
        ),
    ],
)
def test_invalid_requests(serve, value, message):
    client = serve("news", "--max_texts", 4, "--max_characters", 30, "--queue_tokens", 100)
    answer = client.post("/models/cls_hierarchical", json=value)
    assert answer.status_code == 422 and message in answer.json()["detail"]
    assert list(answer.json()) == ["detail"]
    assert ask(client, "b").status_code == 200


def test_a_whole_number_may_be_written_with_a_point(serve):
    client = serve()
    short = ask(client, "足球新闻", max_seq_len=3.0, batch_size=1e0)
    assert short.status_code == 200 and short.json() == ask(client, "足球新闻", max_seq_len=3).json()
    for value in (3.5, 1e400, 2.0, True):
        body = json.dumps({"data": {"text": "a"}, "parameters": {"max_seq_len": value}})
        answer = client.post("/models/cls_hierarchical", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422


@pytest.mark.parametrize(
    "body", [b"{", b"", b"\xff\xfe", b'{"data": {"text": "\\ud800"}}', b"[" * 100000, b'{"data":{"text":NaN}}']
)
def test_bodies_that_are_not_json(serve, body):
    client = serve()
    answer = client.post("/models/cls_hierarchical", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422 and len(answer.content) < 300


def test_only_the_first_of_many_errors_is_listed(serve):
    """Listing a million errors of one request would cost more than a million texts."""
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
    assert service_of(client).bytes_held == 0


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
    model = PausedModel(client)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, client, "好" * 20)
        assert model.begun.wait(60)
        refused = ask(client, "好" * 20)
        seconds = refused.headers["retry-after"]
        assert refused.status_code == 503 and int(seconds) >= 1
        assert refused.json()["detail"] == f"too many requests are waiting; try again in {seconds} s"
        others = [pool.submit(ask, client, "a") for _ in range(2)]
        while service_of(client).requests < 3:
            pass
        assert ask(client, "a").status_code == 503
        model.go.set()
        assert [answer.result().status_code for answer in (first, *others)] == [200] * 3
    assert ask(client, "好" * 20).status_code == 200
    assert client.get("/health/ready").status_code == 200


def test_bodies_in_memory_are_bounded(serve, monkeypatch):
    import service

    client = serve("news", "--max_body_bytes", 100)
    monkeypatch.setattr(service, "MAX_BODIES", 2)
    service_of(client).bytes_held = 190
    assert ask(client, "足球").status_code == 503
    service_of(client).bytes_held = 0
    assert ask(client, "足球").status_code == 200 and service_of(client).bytes_held == 0


def test_the_deadline(serve):
    client = serve("news", "--deadline_seconds", 0.3)
    model = PausedModel(client)
    answer = ask(client, "足球")
    assert answer.status_code == 504 and answer.json()["detail"].startswith("no answer within 0.3 s; send fewer texts")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: ask(client, ["夺冠"] * 7), range(2)))
    assert [answer.status_code for answer in answers] == [503] * 2  # the model did nothing for them
    assert all(answer.headers["retry-after"] == "1" for answer in answers)
    model.go.set()
    wait_until(lambda: ask(client, "足球").status_code == 200)  # what was paused is run first
    assert 7 not in model.rows and 14 not in model.rows  # they never reached the model


def test_a_client_that_left_costs_no_run(serve):
    client = serve()
    model, app = PausedModel(client), client.app
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, client, "足球")
        assert model.begun.wait(60)
        sent = leave(app, {"data": {"text": ["夺冠"] * 7}})
        assert sent == [499]
        model.go.set()
        assert first.result().status_code == 200
    assert 7 not in model.rows and service_of(client).requests == 0 and service_of(client).batcher.tokens == 0
    assert 'status="499"' in client.get("/metrics").text


def leave(app, value):
    """The statuses sent to a client that leaves after it has sent its request."""
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


def test_an_error_of_the_model_is_reported_without_the_text(serve, caplog, monkeypatch):
    client, secret = serve(), "绝密文本"
    real = model_of(client).run
    monkeypatch.setattr("text_cls.cli.logger.propagate", True)

    def run(rows):
        if any(len(ids) > 20 for ids in rows):
            raise ValueError(secret)
        return real(rows)

    model_of(client).run = run
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
    service_of(client).batcher.close(60)
    answer = client.get("/health/ready")
    assert answer.status_code == 503 and "its model has failed" in answer.json()["detail"]
    assert ask(client, "足球").status_code == 503 and client.get("/health/live").status_code == 200
