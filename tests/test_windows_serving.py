"""Bundles that read long texts in windows, over HTTP: answers, limits, the client and the page."""

import json
import re
from contextlib import ExitStack

import numpy as np
import pytest
from browser import Page, assert_sound, chromium
from conftest import lines_of, plain, write_lines
from selenium.webdriver.common.by import By

import client as script
import infer
from serving import PausedModel, ask, model_of, serving
from text_cls.serving.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(windows_bundle):
    return Predictor(str(windows_bundle), num_threads=1)


@pytest.fixture(scope="module")
def texts(trained):
    """A short text, long ones, and one with more than 6 windows."""
    rows = [line.partition("\t")[0] for line in lines_of(trained["news"][0] / "train.txt")]
    long = ["。".join(["😀", *rows[i : i + 5]]) for i in range(0, 40, 5)]
    return ["足球", *long, "。".join(rows[:20])]


def assert_predicted(result, wanted):
    """wanted: what `predict_with_evidence` yields."""
    for names, scores, passages, (their_names, their_scores, their_passages) in zip(
        result["label_name"], result["confidence"], result["evidence"], wanted, strict=True
    ):
        assert names == their_names and passages == their_passages
        np.testing.assert_allclose(scores, their_scores, atol=1e-5)


@pytest.mark.parametrize("characters", [100, 8192])
def test_answers_are_the_predictors(serve, windows_bundle, predictor, texts, characters, monkeypatch):
    """Whether the texts are read one by one or together."""
    monkeypatch.setattr("reading.CHARACTERS_PER_PART", characters)
    client = serve(windows_bundle)
    result = ask(client, texts, evidence=True).json()["result"]
    assert_predicted(result, list(predictor.predict_with_evidence(texts)))
    assert result["truncated"] == [False] * 9 + [True] and any(result["label_name"])
    assert any(passage != [0, len(text)] for text, row in zip(texts, result["evidence"]) for passage in row)
    shorter = ask(client, texts).json()["result"]
    assert list(shorter) == ["label", "confidence", "label_name", "truncated"] and shorter["label"] == result["label"]
    assert ask(client, texts, prob_limit=0.01, evidence=True).json()["result"]["evidence"] != result["evidence"]
    narrow = ask(client, texts, max_seq_len=20, prob_limit=0, evidence=True).json()["result"]  # smaller windows
    scores = predictor.probabilities(texts, 20)
    np.testing.assert_allclose(np.concatenate(narrow["confidence"]), scores.ravel(), atol=1e-5)


def test_short_texts_get_the_bytes_of_a_bundle_without_windows(serve, windows_bundle):
    short = ["足球", "台风登陆，学校停课一天", "😀 Café"]
    assert ask(serve(windows_bundle), short).content == ask(serve("news"), short).content
    result = ask(serve(windows_bundle), short, evidence=True, prob_limit=0).json()["result"]
    assert result["evidence"] == [[[0, len(text)]] * 55 for text in short] and "truncated" not in result


def test_metrics_and_the_log_count_windows(serve, windows_bundle, predictor, texts, caplog):
    client, windows = serve(windows_bundle), len(predictor.encode(texts).tokens)
    assert ask(client, texts).status_code == 200 and windows > len(texts) + 10
    page = client.get("/metrics").text
    for line in ("texts_total 10.0", f"windows_total {windows}.0", f"batch_texts_sum {windows}.0"):
        assert f"\ntext_cls_{line}\n" in page
    assert re.search(rf"texts=10 characters=\d+ tokens=\d+ windows={windows}", caplog.text)


def test_windows_wait_and_share_runs_like_short_texts(serve, windows_bundle, texts):
    """A text of 6 windows does not delay a short one, and batch_size limits its windows."""
    client = serve(windows_bundle)
    model = PausedModel(client)
    model.go.set()
    assert ask(client, texts[-1], batch_size=2).status_code == 200 and max(model.rows) == 2 and sum(model.rows) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--queue_tokens", 100), "tokens, but at most 100 may wait at a time; send the texts in several requests, or"),
        (("--max_characters", 50), "at most 50 are allowed; shorten it"),
    ],
)
def test_a_text_that_is_too_long_is_refused(serve, windows_bundle, texts, flags, message):
    client = serve(windows_bundle, *flags)
    answer = ask(client, ["足球", texts[-1]])
    assert answer.status_code == 422 and message in answer.json()["detail"]
    assert ask(client, "足球").status_code == 200


def test_a_request_that_cannot_be_in_time_is_refused_at_once(serve, windows_bundle, texts):
    """By the highest speed that was measured: a slow moment must not refuse it for good."""
    client = serve(windows_bundle)
    model = PausedModel(client)
    model.model.highest = 10.0
    answer = ask(client, texts[-1])
    assert answer.status_code == 422 and not model.rows
    assert re.fullmatch(
        r"\d+ tokens take this server at least \d\d\.\d s, but its limit is 10 s; send the texts in several requests, "
        "or shorten them",
        answer.json()["detail"],
    )
    model.go.set()
    assert ask(client, "足球").status_code == 200


def test_the_highest_speed_is_measured(serve, windows_bundle, texts):
    model = model_of(serve(windows_bundle))
    assert model.highest > 0 and model.least_seconds(1000) == pytest.approx(1000 / model.highest)


def test_too_many_windows_for_the_memory_are_refused(serve, windows_bundle, texts, monkeypatch):
    client = serve(windows_bundle, "--max_texts", 10)
    monkeypatch.setattr("reading.MAX_OUTPUTS", 20 * 55)
    answer = ask(client, texts, max_seq_len=9)
    assert answer.status_code == 422 and "windows, too many for 55 labels; send the" in answer.json()["detail"]
    assert ask(client, texts[1]).status_code == 200


def test_a_bundle_without_windows_has_no_evidence(serve, run, bundles, tmp_path):
    client = serve("news")
    answer = ask(client, "足球", evidence=True)
    assert answer.status_code == 422 and "parameters.evidence: the model reads no windows" in answer.json()["detail"]
    assert ask(client, "足球", evidence=False).content == ask(client, "足球").content
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    assert not {"evidence", "truncated"} & {*schema["Parameters"]["properties"], *schema["Result"]["properties"]}
    assert client.get("/info").json()["long_texts"]["mode"] == "cut"
    with serving(bundles["news"], tmp_path / "log") as server:
        status, log = run(script.main, "--url", f"http://127.0.0.1:{server.port}", "--evidence")
    assert (
        status == 2 and "--evidence: http://127.0.0.1:" in log and "train one with train.py --long_texts windows" in log
    )


def test_the_schema_describes_evidence(serve, windows_bundle):
    client = serve(windows_bundle)
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    assert "evidence" in schema["Parameters"]["properties"]
    assert {"evidence", "truncated"} <= set(schema["Result"]["properties"]) - set(schema["Result"]["required"])
    assert client.get("/info").json()["long_texts"] == {
        "mode": "windows",
        "stride": None,
        "max_windows": 6,
        "pooling": "max",
    }


# ----------------------------------------------------------------------------------------------- the client, the page


@pytest.fixture(scope="module")
def server(windows_bundle, tmp_path_factory):
    with serving(windows_bundle, tmp_path_factory.mktemp("server") / "log") as one:
        yield one


def test_the_file_of_the_client_is_the_one_of_infer(run, server, windows_bundle, texts, tmp_path):
    write_lines(tmp_path / "in.txt", texts)
    url, files = f"http://127.0.0.1:{server.port}", ("--input_file", tmp_path / "in.txt", "--output_file")
    status, log = run(script.main, "--url", url, *files, tmp_path / "client.txt", "--evidence", "--batch_size", 3)
    assert status == 0 and "1 texts have more windows than the 6 that the model reads" in log, log
    where = ("--device", "cpu", "--model_path_prefix", windows_bundle)
    assert run(infer.main, *where, *files, tmp_path / "infer.txt", "--evidence")[0] == 0
    found = (tmp_path / "client.txt").read_text(encoding="utf-8")
    assert found == (tmp_path / "infer.txt").read_text(encoding="utf-8")
    text, names, passages = found.splitlines()[1].split("\t")
    for name, passage in zip(names.split(","), passages.split(","), strict=True):
        start, end = map(int, passage.split(".."))
        assert any(name in line and line.endswith(f": {text[start:end]}") for line in plain(log) if "evidence" in line)
    status, log = run(script.main, "--url", url, "--evidence")
    assert status == 0 and len(json.loads(log)["result"]["evidence"]) == 2


EDGES = "return [...arguments].map(one => one.getBoundingClientRect()).map(box => [box.top, box.bottom])"
PRESSED = "return [...document.querySelectorAll('button.name')].map(one => one.getAttribute('aria-pressed'))"


def test_the_page_highlights_the_passage(server, predictor, texts):
    """The most probable label's at first, another's after a click; emoji before it do not shift it."""
    text = f"😀😀{texts[-1]}"
    windows = {text[start:end] for start, end in predictor.encode([text]).spans}
    with ExitStack() as stack:
        page = Page(stack.enter_context(chromium(390)), f"http://127.0.0.1:{server.port}/")
        assert page.ask(text)
        page.threshold(0.02)
        assert (
            "Only the first 6 windows of this text were read." in page.driver.find_element(By.TAG_NAME, "article").text
        )
        for chosen in page.driver.find_elements(By.CSS_SELECTOR, "button.name"):
            chosen.click()
            pressed = page.driver.execute_script(PRESSED)
            assert pressed.count("true") == 1 and chosen.get_attribute("aria-pressed") == "true"
            marked = page.driver.find_element(By.TAG_NAME, "mark")
            shown = page.driver.execute_script("return arguments[0].textContent", marked)
            assert shown in windows and shown != text
            box, mark = page.driver.execute_script(EDGES, page.driver.find_element(By.CLASS_NAME, "text"), marked)
            assert box[0] <= mark[0] < box[1]  # scrolled into view
        assert_sound(page.driver)
        assert page.ask("足球") and not page.driver.find_elements(By.TAG_NAME, "mark")
