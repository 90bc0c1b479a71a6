"""What the HTTP server tells besides labels: more scores, JSON log lines, and traces."""

import json

import numpy as np
import pytest

from serving import ask, serving
from text_cls.serving import open_predictor

TEXTS = ["台风登陆，学校停课一天", "足球", "公司裁员三成，股价当日大跌"]


@pytest.mark.parametrize("kind", ["classifier", "retrieval", "windows"])
def test_top_k_and_all_scores_are_the_predictors(serve, bundles, retrieval, windows_bundle, kind):
    """Of 40 texts, since an index is searched for 32 at a time."""
    folder = {"classifier": bundles["news"], "retrieval": retrieval["news", "labels"], "windows": windows_bundle}[kind]
    client, ours, texts = serve(folder), open_predictor(str(folder), num_threads=1), TEXTS * 13 + TEXTS[:1]
    scores, names = ours.decision.calibrated(ours.probabilities(texts)), ours.labels.names
    task = "retrieval" if kind == "retrieval" else "cls_hierarchical"
    plain = ask(client, texts, task).json()["result"]
    assert set(plain) == {"label", "confidence", "label_name"}
    result = ask(client, texts, task, top_k=3, all_scores=True).json()["result"]
    assert {name: result[name] for name in plain} == plain
    assert np.allclose(result["scores"], scores, atol=1e-5)
    for row, numbers, found, called in zip(
        scores, result["top_label"], result["top_confidence"], result["top_label_name"], strict=True
    ):
        assert len(numbers) == len(set(numbers)) == 3 and found == sorted(found, reverse=True)
        assert np.allclose(found, np.sort(row)[::-1][:3], atol=1e-5) and called == [names[i] for i in numbers]
        assert np.allclose(row[numbers], found, atol=1e-5)


def test_more_labels_than_there_are_is_all_of_them(serve):
    client = serve("reviews")
    result = ask(client, "足球", "cls_multi_label", top_k=10**6).json()["result"]
    assert len(result["top_label"][0]) == len(client.get("/info").json()["labels"])
    for wrong in (0, -1, 1.5, "3"):
        assert ask(client, "足球", "cls_multi_label", top_k=wrong).status_code == 422


def test_an_answer_with_too_many_scores_is_refused(serve, monkeypatch):
    monkeypatch.setattr("reading.MAX_SCORES", 60)
    client = serve("news")
    answer = ask(client, TEXTS, all_scores=True)
    assert answer.status_code == 422
    assert "3 texts with 55 scores each, but an answer may have at most 60; send the texts in several" in answer.text
    assert ask(client, TEXTS[:1], all_scores=True).status_code == 200
    assert ask(client, TEXTS, top_k=20).status_code == 200 and ask(client, TEXTS, top_k=21).status_code == 422


# -------------------------------------------------------------------------------------------------------------- the log


def test_every_line_of_a_json_log_is_an_object(bundles, tmp_path):
    with serving(bundles["news"], tmp_path / "log", "--log_format", "json") as one:
        _, headers, _ = one.post(TEXTS)
        one.ask(path="/nowhere%s")
        assert one.stop() == 0
        lines = [json.loads(line) for line in one.text().splitlines()]
    assert all(line["level"] == "INFO" and line["time"].endswith("+00:00") and line["message"] for line in lines)
    (request,) = (line for line in lines if line.get("route") == "/models/cls_hierarchical")
    expected = {"id": headers["X-Request-ID"], "method": "POST", "status": 200, "texts": 3, "bundle": "news"}
    assert expected.items() <= request.items() and request["version"] == headers["X-Bundle-Version"]
    assert request["ms"] > 0 and request["tokens"] > 0
    assert any(line.get("status") == 404 for line in lines)
    assert not any(text in one.text() for text in TEXTS)


# ----------------------------------------------------------------------------------------------------------- the traces


@pytest.fixture(scope="module")
def spans():
    """The finished spans of this process, by the SDK's own exporter."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the package opentelemetry-sdk is not installed")
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    import tracing

    real = trace.get_tracer
    tracing.trace.get_tracer = lambda name: provider.get_tracer(name)  # the global provider can be set only once
    yield exporter
    tracing.trace.get_tracer = real


def test_a_request_is_a_span_with_its_steps_in_the_trace_of_its_client(serve, spans):
    client = serve("news")
    spans.clear()
    parent = {"traceparent": f"00-{7:032x}-{9:016x}-01"}
    answer = client.post("/models/cls_hierarchical", json={"data": {"text": TEXTS}}, headers=parent)
    assert answer.status_code == 200
    found = {span.name: span for span in spans.get_finished_spans()}
    assert set(found) == {"read", "model", "write", "POST /models/cls_hierarchical"}
    request = found.pop("POST /models/cls_hierarchical")
    assert request.context.trace_id == 7 and request.parent.span_id == 9 and request.kind.name == "SERVER"
    assert all(span.parent.span_id == request.context.span_id for span in found.values())
    assert {
        "http.response.status_code": 200,
        "text_cls.bundle": "news",
        "text_cls.version": answer.headers["x-bundle-version"],
        "text_cls.texts": 3,
    }.items() <= dict(request.attributes).items()


def test_a_span_has_neither_a_text_nor_the_message_of_an_exception(serve, spans, monkeypatch):
    client = serve("news")
    spans.clear()

    def fail(*args):
        raise ValueError(f"cannot read {TEXTS[0]}")

    monkeypatch.setattr("service.encode_answer", fail)
    assert ask(client, TEXTS[0]).status_code == 500
    found = spans.get_finished_spans()
    assert {span.status.status_code.name for span in found if span.parent is None} == {"ERROR"}
    assert found and not any(TEXTS[0] in span.to_json() for span in found)


def test_without_the_package_requests_are_answered_all_the_same(serve, monkeypatch):
    monkeypatch.setattr("tracing.trace", None)
    assert ask(serve("news"), TEXTS).status_code == 200
