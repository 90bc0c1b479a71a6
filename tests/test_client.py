"""The client with the real server, and with one that does anything a server or a proxy might do."""

import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import ExitStack
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from hypothesis import given
from hypothesis import strategies as st

import client as script
import infer
import one_server
from serving import serving
from text_cls.bundle import open_bundle
from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.prediction import named_labels
from text_cls.serving.predictor import Predictor

TASKS = {"news": "cls_hierarchical", "reviews": "cls_multi_label"}


@pytest.fixture(scope="module")
def servers(bundles, tmp_path_factory):
    """{"news" and "reviews": address of a running server.py}."""
    with ExitStack() as stack:
        log = tmp_path_factory.mktemp("logs")
        started = {name: stack.enter_context(serving(bundle, log / name)) for name, bundle in bundles.items()}
        yield {name: f"http://127.0.0.1:{one.port}" for name, one in started.items()}


class Silent(ThreadingHTTPServer):
    """Does not report clients that hang up."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Fake:
    """A server that answers a POST by a function: (texts, number of the request) -> (status, headers, bytes).

    If the answer is None, it hangs up; if it is an Event, it waits for that first.
    """

    LIMITS = {"max_texts": 256, "max_characters": 50, "max_body_bytes": 50_000}
    INFO = {"labels": ["甲"], "route": "/models/cls_multi_label", "limits": LIMITS}

    def __init__(self, answer, info=None):
        fake, self.times, self.under_way, self.most, self.largest = self, [], 0, 0, 0
        self.lock, self.end = threading.Lock(), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                self.reply(200, {}, json.dumps(info or fake.INFO).encode())

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                if len(body := self.rfile.read(size)) < size:  # the client has left
                    return
                with fake.lock:
                    fake.largest = max(fake.largest, size)
                    number = len(fake.times)
                    fake.times.append(time.monotonic())
                    fake.under_way += 1
                    fake.most = max(fake.most, fake.under_way)
                try:
                    made = answer(json.loads(body)["data"]["text"], number)
                finally:
                    with fake.lock:
                        fake.under_way -= 1
                if isinstance(made, threading.Event):
                    made.wait(30)
                if isinstance(made, tuple):
                    self.reply(*made)
                else:
                    self.close_connection = True

            def reply(self, status, headers, body):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(body)}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        self.server = Silent(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.end.set()
        self.server.shutdown()
        self.server.server_close()


def labels_of(texts):
    """An answer with one label per text, its length, so that mixed-up rows show."""
    result = {"label": [[0] for _ in texts], "confidence": [[0.75] for _ in texts]}
    result["label_name"] = [[f"{len(text)} characters"] for text in texts]
    return 200, {}, json.dumps({"result": result}).encode()


def refusal(status, detail="too bad", **headers):
    return (
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
        json.dumps({"detail": detail}).encode(),
    )


@pytest.fixture
def fake():
    """fake(answer, info=None) -> a running `Fake`."""
    started = []

    def call(*args):
        started.append(Fake(*args))
        return started[-1]

    yield call
    for one in started:
        one.close()


@pytest.fixture
def texts(tmp_path):
    """A file of 40 texts."""
    write_lines(tmp_path / "texts.txt", ["字" * (1 + i % 37) for i in range(40)])
    return tmp_path / "texts.txt"


# ------------------------------------------------------------------------------------------------------ the real server


@pytest.mark.parametrize("task", TASKS)
def test_sample_texts(run, servers, bundles, task):
    status, log = run(script.main, "--url", servers[task], "--prob_limit", 0.2, "--max_seq_len", 16)
    assert status == 0
    result = json.loads(log)["result"]
    predictor = Predictor(str(bundles[task]), num_threads=1)
    probabilities = predictor.probabilities(script.SAMPLES[predictor.labels.hierarchical], 16)
    wanted = list(named_labels(probabilities, predictor.labels, Decision(0.2)))
    assert result["label_name"] == [names for names, _ in wanted] and any(result["label_name"])
    np.testing.assert_allclose(np.concatenate(result["confidence"]), np.concatenate([s for _, s in wanted]), atol=1e-5)
    assert [[predictor.labels.names[i] for i in ids] for ids in result["label"]] == result["label_name"]


@pytest.mark.parametrize("task", TASKS)
def test_a_file_gets_the_labels_of_infer_py(run, servers, bundles, trained, tmp_path, task):
    """Byte order mark, CRLF, blank lines, labelled rows, emoji, markup and a long text, in requests of 5."""
    dataset, _ = trained[task]
    label = lines_of(dataset / "label.txt")[0]
    odd = ["", "  ", "😀 <b>\"'&</b>", "好" * 2000, f"夺冠\t{label}", *lines_of(dataset / "data.txt")]
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(odd).encode("utf-8"))
    more = ("--input_file", path, "--scores", "--output_file")
    flags = ("--url", servers[task], "--batch_size", 5, "--concurrency", 3)
    status, log = run(script.main, *flags, *more, tmp_path / "labels.txt")
    assert status == 0 and f"Prediction results save in {tmp_path / 'labels.txt'}: 45 rows" in log
    where = ("--device", "cpu", "--num_threads", 1, "--model_path_prefix", bundles[task])
    assert run(infer.main, *where, *more, tmp_path / "wanted.txt")[0] == 0
    ours, theirs = ([line.split("\t") for line in lines_of(tmp_path / name)] for name in ("labels.txt", "wanted.txt"))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs] and any(row[1] for row in ours)
    scores = [[float(s) for row in rows for s in row[2].split(",") if s] for rows in (ours, theirs)]
    np.testing.assert_allclose(*scores, atol=2e-5)


def test_a_table_keeps_its_columns(run, servers, trained, tmp_path):
    texts = lines_of(trained["reviews"][0] / "data.txt")
    write_lines(tmp_path / "in.csv", ["id,text", *(f'00{i},"{text}"' for i, text in enumerate(texts)), "x,"])
    write_lines(tmp_path / "in.txt", texts)
    for source, target in (("in.txt", "out.txt"), ("in.csv", "out.jsonl")):
        files = ("--input_file", tmp_path / source, "--output_file", tmp_path / target)
        status, log = run(script.main, "--url", servers["reviews"], *files, "--scores")
        assert status == 0, log
    rows = [json.loads(line) for line in lines_of(tmp_path / "out.jsonl")]
    assert rows.pop() == {"id": "x", "text": "", "labels": [], "scores": []}
    assert [row["id"] for row in rows] == [f"00{i}" for i in range(len(texts))]
    wanted = [line.split("\t") for line in lines_of(tmp_path / "out.txt")]
    assert [[row["text"], ",".join(row["labels"])] for row in rows] == [row[:2] for row in wanted]


@pytest.mark.parametrize(("task", "block"), [("news", "prediction result: "), ("reviews", "labels: ")])
def test_without_a_file_to_write_the_log_shows_each_row(run, servers, texts, task, block):
    status, log = run(script.main, "--url", servers[task], "--input_file", texts)
    assert status == 0 and log.count(block) == 40


def test_one_of_several_bundles(run, bundles, texts, tmp_path):
    """--bundle: its labels, at its route, whether the server names it first or not."""
    both = [f"{name}={bundles[name]}" for name in ("reviews", "news")]
    with serving(both[0], tmp_path / "log", "--bundle", both[1]) as server:
        url = f"http://127.0.0.1:{server.port}"
        for name in ("news", "reviews"):
            target = tmp_path / f"{name}.txt"
            files = ("--input_file", texts, "--output_file", target)
            assert run(script.main, "--url", url, "--bundle", name, *files, "--prob_limit", 0)[0] == 0
            wanted = ",".join(open_bundle(str(bundles[name])).labels.names)
            assert all(line.endswith(f"\t{wanted}") for line in lines_of(target))
        assert "bundle=news" in server.text()
        status, log = run(script.main, "--url", url, "--bundle", "?")
        assert status == 2 and "--bundle ?: the server has only reviews, news" in log


def test_scores_of_labels_that_are_not_predicted(run, servers, bundles, texts):
    status, log = run(script.main, "--url", servers["reviews"], "--top_k", 3, "--all_scores")
    result, names = json.loads(log)["result"], open_bundle(str(bundles["reviews"])).labels.names
    assert status == 0 and [len(row) for row in result["scores"]] == [len(names)] * 2
    for scores, top, confidence in zip(result["scores"], result["top_label_name"], result["top_confidence"]):
        best = sorted(range(len(names)), key=lambda i: -scores[i])[:3]
        assert top == [names[i] for i in best] and confidence == [scores[i] for i in best]
    for flags in (["--top_k", 3], ["--all_scores"]):
        status, log = run(script.main, "--url", servers["reviews"], "--input_file", texts, *flags)
        assert status == 2 and "--top_k and --all_scores are for the sample texts" in log


def test_a_key(run, bundles, tmp_path, monkeypatch):
    with serving(bundles["reviews"], tmp_path / "log", TEXT_CLS_API_KEY="s3cret") as server:
        url = f"http://127.0.0.1:{server.port}"
        monkeypatch.delenv("TEXT_CLS_API_KEY", raising=False)
        status, log = run(script.main, "--url", url)
        assert (
            status == 2 and "answers 401" in log and "Set the server's key in the environment: TEXT_CLS_API_KEY" in log
        )
        monkeypatch.setenv("TEXT_CLS_API_KEY", "s3cret")
        assert run(script.main, "--url", url)[0] == 0
        assert "s3cret" not in server.text()
    monkeypatch.setenv("TEXT_CLS_API_KEY", "schlüssel")
    status, log = run(script.main, "--url", url)
    assert status == 2 and "a character that is not allowed in a key" in log


def test_another_servers_route(run, servers):
    status, log = run(script.main, "--url", f"{servers['news']}/models/cls_multi_label")
    assert status == 2 and "answers 404" in log and "/models/cls_hierarchical" in log
    assert run(script.main, "--url", f"{servers['news']}/models/cls_hierarchical/")[0] == 0


def test_limits_of_the_server_are_checked_before_anything_is_sent(run, fake, texts):
    one = fake(lambda texts, number: labels_of(texts))
    write_lines(texts, ["字" * 51, "短", "字" * 2000])
    status, log = run(script.main, "--url", one.url, "--input_file", texts, "--batch_size", 257)
    assert status == 2 and "3 problems" in log and not one.times
    assert f"{texts}:1: 51 characters; shorten the text to at most 50" in log and f"{texts}:3: 2000 characters" in log
    assert "--batch_size 257: the server takes at most 256 texts per request" in log


def test_a_server_that_is_full(run, bundles, texts, tmp_path):
    """More requests at a time than its queue takes: some are refused, and all are answered in the end."""
    flags = ("--queue_tokens", 64, "--deadline_seconds", 2)
    with serving(bundles["news"], tmp_path / "log", *flags, seconds=0.1) as server:
        where = (
            "--url",
            f"http://127.0.0.1:{server.port}",
            "--input_file",
            texts,
            "--output_file",
            tmp_path / "out.txt",
        )
        status, log = run(script.main, *where, "--batch_size", 1, "--concurrency", 8, "--retry_seconds", 60)
        assert status == 0, log
        assert [line.partition("\t")[0] for line in lines_of(tmp_path / "out.txt")] == lines_of(texts)
        assert " 503 " in server.text()


# --------------------------------------------------------------------------------------------- a server that misbehaves


def test_answers_are_in_order_and_concurrency_limits_the_requests(run, fake, tmp_path):
    together = threading.Barrier(5)

    def answer(texts, number):
        if number < 5:
            together.wait(60)  # none is answered before five have arrived
        time.sleep(random.random() / 50)
        return labels_of(texts)

    one, rows = fake(answer), ["字" * (1 + i % 49) for i in range(600)]
    write_lines(tmp_path / "texts.txt", rows)
    where = ("--url", one.url, "--input_file", tmp_path / "texts.txt", "--output_file", tmp_path / "out.txt")
    assert run(script.main, *where, "--batch_size", 7, "--concurrency", 5)[0] == 0
    assert lines_of(tmp_path / "out.txt") == [f"{row}\t{len(row)} characters" for row in rows]
    assert one.most == 5 and len(one.times) == -(-600 // 7)


def test_requests_are_no_larger_than_the_server_takes(run, fake, tmp_path):
    one = fake(lambda texts, number: labels_of(texts), {**Fake.INFO, "limits": {**Fake.LIMITS, "max_body_bytes": 1000}})
    rows = ["😀" * 49, *['"' * 50] * 30, *["a"] * 70, "字" * 50]
    write_lines(tmp_path / "texts.txt", rows)
    where = ("--url", one.url, "--input_file", tmp_path / "texts.txt", "--output_file", tmp_path / "out.txt")
    assert run(script.main, *where, "--prob_limit", 0.123456789, "--max_seq_len", 123456, "--batch_size", 50)[0] == 0
    assert [line.partition("\t")[0] for line in lines_of(tmp_path / "out.txt")] == rows
    assert 800 < one.largest <= 1000


def test_retry_after_is_honoured(run, fake, texts):
    one = fake(lambda texts, number: labels_of(texts) if number > 1 else refusal(503, Retry_After="1"))
    status, log = run(script.main, "--url", one.url)
    assert status == 0 and "characters" in log
    gaps = np.diff(one.times)
    assert len(gaps) == 2 and (gaps >= 1).all() and (gaps < 25).all()


def test_retry_after_is_bounded(run, fake, monkeypatch):
    monkeypatch.setattr(one_server, "LONGEST_WAIT", 0.2)
    one = fake(lambda texts, number: labels_of(texts) if number else refusal(503, Retry_After="99999"))
    assert run(script.main, "--url", one.url)[0] == 0
    assert 0.2 <= np.diff(one.times)[0] < 25


def test_a_server_that_stays_full(run, fake):
    one = fake(lambda texts, number: refusal(503, "too much to do", Retry_After="10"))
    status, log = run(script.main, "--url", one.url, "--retry_seconds", 5)
    assert status == 2 and len(one.times) == 1  # it does not wait for a try that would come too late
    assert "answers 503: too much to do." in log
    assert re.search(r"Tried 1 times in \d+ s; --retry_seconds allows more", log)


@given(st.text() | st.integers().map(str) | st.datetimes().map(lambda date: date.strftime("%a, %d %b %Y %H:%M:%S GMT")))
def test_any_retry_after(header):
    assert one_server.seconds_to_wait(header) >= 0


def test_retry_after_as_a_date():
    assert 50 < one_server.seconds_to_wait(formatdate(time.time() + 60, usegmt=True)) <= 61
    assert one_server.seconds_to_wait(formatdate(time.time() - 60, usegmt=True)) == 0
    assert one_server.seconds_to_wait(None) == 0 and one_server.seconds_to_wait("7") == 7
    assert one_server.seconds_to_wait("9" * 5000) == 0  # more digits than Python reads


def test_a_broken_connection_is_opened_again(run, fake, texts, tmp_path):
    one = fake(lambda texts, number: None if number % 3 == 0 else labels_of(texts))
    where = ("--url", one.url, "--input_file", texts, "--output_file", tmp_path / "out.txt")
    assert run(script.main, *where, "--batch_size", 4, "--concurrency", 2)[0] == 0
    assert len(lines_of(tmp_path / "out.txt")) == 40 and len(one.times) > 10


ERRORS = {
    "refused": (refusal(401, "a key is wanted"), ["answers 401: a key is wanted. Set the server's key"]),
    "too large": (refusal(413, "more than 9 bytes"), ["answers 413", "Send fewer texts per request"]),
    "not valid": (
        refusal(422, "text 3 has too many."),
        ["answers 422: text 3 has too many. Fix what the message names"],
    ),
    "failed": (refusal(500), ["answers 500", "The server's log says what happened"]),
    "a proxy's": (
        (418, {}, b"<html>"),
        ["answers 418: not an answer from server.py", "is it server.py that answers"],
    ),
    "no JSON": ((200, {}, b'{"result": {'), ["is not JSON"]),
    "no labels": ((200, {}, b'{"result": {"label": []}}'), ["does not have labels for each text"]),
    "too few": ((200, {}, b'{"result": {"label_name": [], "confidence": []}}'), ["does not have labels for each text"]),
    "a list": ((200, {}, b"[]"), ["does not have labels for each text"]),
}


@pytest.mark.parametrize("error", ERRORS)
def test_errors_say_what_to_do_and_leave_an_existing_file(run, fake, texts, tmp_path, error):
    answer, messages = ERRORS[error]
    one = fake(lambda texts, number: labels_of(texts) if number < 3 else answer)
    write_lines(tmp_path / "out.txt", ["before"])
    where = ("--url", one.url, "--input_file", texts, "--output_file", tmp_path / "out.txt")
    status, log = run(script.main, *where, "--batch_size", 2, "--concurrency", 2)
    assert status == 2 and log.count("error:") == 1 and "Traceback" not in log
    for message in messages:
        assert message in log
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "texts.txt"]
    assert lines_of(tmp_path / "out.txt") == ["before"]
    assert len(one.times) < 8  # it stops


def test_a_server_that_hangs(run, fake):
    one = fake(lambda texts, number: one.end)
    started = time.monotonic()
    status, log = run(script.main, "--url", one.url, "--timeout", 0.3, "--retry_seconds", 1)
    assert status == 2 and time.monotonic() - started < 20
    assert "no answer within 0.3 s; use a larger --timeout or a smaller --batch_size" in log


def test_an_error_does_not_wait_for_the_other_requests(run, fake, texts):
    one = fake(lambda texts, number: refusal(422) if number == 1 else one.end)
    started = time.monotonic()
    status, log = run(script.main, "--url", one.url, "--input_file", texts, "--batch_size", 4, "--concurrency", 3)
    assert status == 2 and "answers 422" in log and time.monotonic() - started < 20  # they take 30


def test_closed_while_a_request_connects(fake, monkeypatch):
    """`close` finds no socket to shut down yet, so the request must notice it."""
    one = fake(lambda texts, number: one.end)
    server = one_server.Server(one.url)

    class Connection(one_server.HTTPConnection):
        def connect(self):
            server.close()
            super().connect()

    monkeypatch.setattr(server, "_connect", Connection)
    started = time.monotonic()
    with pytest.raises(script.UserError, match="stopped"):
        server.ask("POST", "/models/x", {"data": {"text": ["字"]}})
    assert time.monotonic() - started < 20 and not one.times


def test_no_server(run):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        status, log = run(script.main, "--url", url)
    assert status == 2 and f"{url}: no server is running there. Start it" in log


def test_a_server_of_another_kind(run, fake):
    status, log = run(script.main, "--url", fake(None, {"title": "something else"}).url)
    assert status == 2 and "does not list its labels at /info" in log


@pytest.mark.parametrize("url", ["localhost:8189", "ftp://a/b", "http://", "http://a:port", "http://[::1"])
def test_invalid_addresses(run, url):
    status, log = run(script.main, "--url", url)
    assert status == 2 and f"--url {url}: expected an address such as http://127.0.0.1:8189" in log


def test_incomplete_flags(run, fake, tmp_path):
    status, log = run(script.main, "--output_file", "out.txt")
    assert status == 2 and "--input_file" in log
    url = fake(lambda texts, number: labels_of(texts)).url
    status, log = run(script.main, "--url", url, "--input_file", tmp_path / "nowhere.txt")
    assert status == 2 and "nowhere.txt: No such file" in log


def test_memory_does_not_grow_with_the_file(fake, tmp_path):
    url, peaks = fake(lambda texts, number: labels_of(texts)).url, []
    for rows in (2048, 2048, 16384):  # the first warms up
        write_lines(tmp_path / "texts.txt", ["字" * 40] * rows)
        tracemalloc.start()
        where = ["--url", url, "--input_file", str(tmp_path / "texts.txt"), "--output_file", str(tmp_path / "out.txt")]
        assert script.main([*where, "--batch_size", "256"]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.5 * peaks[1], peaks


def test_neither_paddle_nor_onnxruntime_is_needed(fake):
    one = fake(lambda texts, number: labels_of(texts))
    code = (
        "import sys\n"
        "for name in ('paddle', 'paddlenlp', 'onnxruntime', 'tokenizers', 'sentencepiece', 'fastapi', 'requests'):\n"
        "    sys.modules[name] = None\n"
        f"import client; sys.exit(client.main(['--url', '{one.url}']))\n"
    )
    folder = ROOT / "deploy" / "simple_serving"
    answer = subprocess.run(command_line("-c", code), cwd=folder, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 0 and "characters" in answer.stdout, answer.stderr


def test_a_connection_that_its_thread_closes_meanwhile():
    server, shut = one_server.Server("http://127.0.0.1:1"), []

    class Connection:
        sockets = [SimpleNamespace(shutdown=shut.append)]
        sock = property(lambda self: self.sockets.pop() if self.sockets else None)

    server._connections.append(Connection())
    server.close()
    assert shut == [socket.SHUT_RDWR]


def test_a_closed_client_sends_no_more_requests(fake):
    one = fake(lambda texts, number: labels_of(texts))
    server = one_server.Server(one.url)
    server.close()
    with pytest.raises(UserError, match="stopped"):
        server.ask("GET", "/info")
