"""The HTTP server in process: what it answers, its pages, its log and its metrics."""

import logging
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT
from starlette.testclient import TestClient

import serving
import settings
from application import create_app
from serving import PausedModel, ask, predictor_of, service_of
from text_cls.bundle import open_bundle, replace_decision
from text_cls.decision import Decision
from text_cls.serving.predictor import Predictor

TEXTS = [*serving.TEXTS, "a\nb\tc\x00"]


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(("name", "task"), [("news", "cls_hierarchical"), ("reviews", "cls_multi_label")])
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


def test_the_bundles_decision_applies_and_prob_limit_changes_only_its_threshold(serve, bundles, tmp_path):
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


def test_prob_limit_replaces_thresholds_per_label_and_nothing_else(serve, bundles, tmp_path):
    folder = tmp_path / "fitted"
    shutil.copytree(bundles["news"], folder)
    best = Predictor(str(folder), num_threads=1).probabilities(TEXTS).max(axis=1)
    ranked = np.sort(best)
    widest = np.diff(ranked).argmax()
    none_below = float(ranked[widest : widest + 2].mean())  # some texts lie below it, some above, none near
    thresholds = [0.0, *np.ones(54)]  # so that only the first label, which has no parent, is ever predicted
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
    model = PausedModel(client)
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = [pool.submit(ask, client, [text] * 2, **parameters) for text, parameters in asked]
        assert model.begun.wait(60)
        while service_of(client).batcher.texts < 48:
            pass
        model.go.set()
        for wanted, answer in zip(alone, answers):
            result = answer.result().json()["result"]
            assert np.abs(np.array(result["confidence"]) - [wanted, wanted]).max() < 1e-5
    assert max(model.rows) > 4 and len(model.rows) < 24


def test_ernie_m(families, run, tmp_path):
    """SentencePiece makes its tokens and its graph has a single input; the server treats it like any other."""
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
        result = ask(client, texts, "cls_multi_label", prob_limit=0).json()["result"]
    assert np.abs(np.array(result["confidence"]) - ours.probabilities(texts)).max() < 1e-5
    assert np.ptp(result["confidence"], axis=0).max() > 0.01


# ------------------------------------------------------------------------------------------------ pages, log, metrics


def test_texts_are_not_logged(serve, caplog, monkeypatch):
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


def test_info(serve):
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


def test_metrics(serve):
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
    assert serve().get("/metrics").text.count("text_cls_texts_total 0.0") == 1  # each server has its own counts


def test_the_event_loop_is_not_blocked_while_a_large_request_is_tokenised(serve, monkeypatch):
    """/health/live answers between two parts of 256 texts, although one thread tokenises them all."""
    client = serve("news", "--max_texts", 256)
    tokenizer, seen = predictor_of(client).tokenizer, []
    real, step = tokenizer.encode, threading.Event()

    def encode(texts, length):
        seen.append(len(texts))
        assert step.wait(60)
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
