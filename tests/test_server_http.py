"""The server's HTTP on real sockets: refusals, hostile and half-closed connections, large bodies, the end."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import command_line

import connections
import http_requests
from serving import HERE, connections_of, raw, read_all, serving, wait_until

ROUTE = "/models/cls_hierarchical"
ASKED = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSED = ASKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
BODY = json.dumps({"data": {"text": "台风登陆"}}).encode()
POST = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
MALFORMED = [
    (b"s3cret\r\n\r\n", 400),
    (b"\x16\x03\x01s3cret\r\n\r\n", 400),
    (b"GET /s3cret HTTP/1.1\r\n\r\n", 400),
    (b"GET /s3cret HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\ns3cret\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: s3cret\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: x\r\ns3cret: " + b"x" * 50000, 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"s3cret:\r\n" * 5000, 431),
    (b"GET /s3cret" + b"x" * 50000, 414),
    (POST + b"Transfer-Encoding: s3cret\r\n\r\n", 501),
    (CHUNKED + b"s3cret\r\n", 400),
    (CHUNKED + b"2\r\nxs3cret\r\n", 400),
    (CHUNKED + b"0\r\ns3cret\r\n\r\n", 400),
    (CHUNKED + b"0\r\n" + b"s3cret:\r\n" * 5000, 431),
    (CHUNKED + b"1;" + b"s3cret" * 9000, 431),
    (CHUNKED + b"1\r\n \r\n" * 100000, 400),
    (CHUNKED + b"1;s3cret\r\n \r\n" * 100000, 400),
]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def status_of(answer):
    """The status of one raw answer, which is JSON with a `detail` if it is an error."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(re.match(rb"HTTP/1\.1 (\d+) ", head)[1])
    assert status == 200 or re.search(rb"content-type: application/json", head) and json.loads(body)["detail"]
    return status


def metric(server, route, status):
    """How many requests were answered so."""
    text = read_all(raw(server, CLOSED.replace(b"/health/live", b"/metrics"))).decode()
    found = re.search(rf'text_cls_requests_total{{route="{route}",status="{status}"}} (\d+)', text)
    return int(found[1]) if found else 0


# ------------------------------------------------------------------------------------------------------------ refusals


def test_what_is_not_http_is_refused_in_json(bundles, log):
    with serving(bundles["news"], log) as server:
        for sent, status in MALFORMED:
            answer = read_all(raw(server, sent))
            assert status_of(answer) == status, sent[:100]
            assert b"connection: close" in answer and b"s3cret" not in answer and answer.count(b"HTTP/1.1 ") == 1
        # A body that is refused is counted under its route, if that was known by then.
        for status in (400, 431):
            count = metric(server, "other", status) + metric(server, ROUTE, status)
            assert count == [known for _, known in MALFORMED].count(status)
        text = server.text()
        assert (
            "s3cret" not in text and "Traceback" not in text and "WARNING" not in text and " other other 400 " in text
        )
        assert server.post("足球")[0] == 200


def test_methods_and_addresses(bundles, log):
    with serving(bundles["news"], log) as server:
        for request_line, status, allow in (
            ("BREW / HTTP/1.1", 405, b"GET"),
            (f"DELETE {ROUTE} HTTP/1.1", 405, b"POST"),
            ("OPTIONS * HTTP/1.1", 404, None),
            ("CONNECT example.org:443 HTTP/1.1", 404, None),
            ("GET /docs/ HTTP/1.1", 404, None),
            ("GET http://evil.example/docs/ HTTP/1.1", 404, None),
            ("HEAD /health/live HTTP/1.1", 200, None),
            ("HEAD /health/ready HTTP/1.1", 200, None),
            (f"HEAD {ROUTE} HTTP/1.1", 405, b"POST"),
        ):
            sent = f"{request_line}\r\nHost: evil.example\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n"
            answer = read_all(raw(server, sent.encode()))
            head, _, body = answer.partition(b"\r\n\r\n")
            if request_line.startswith("HEAD"):
                assert body == b"" and head.startswith(b"HTTP/1.1 %d " % status) and b"content-length: 0" not in head
            else:
                assert status_of(answer) == status, request_line
            assert allow is None or b"allow: " + allow in head
            assert b"evil" not in answer and b"location" not in head
        assert "WARNING" not in server.text()


def test_what_follows_the_last_request_does_not_change_its_answer(bundles, log):
    sent = POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
    with serving(bundles["news"], log, seconds=0.3) as server:
        client = raw(server, sent)
        wait_until(lambda: b"under_way 2" in read_all(raw(server, CLOSED.replace(b"/health/live", b"/metrics"))))
        client.sendall(b"\r\n" * 1000)
        answer = read_all(client)
        assert status_of(answer) == 200 and answer.count(b"HTTP/1.1 ") == 1


def test_allowed_hosts(bundles, log):
    names = "Example.org, *.example.org 127.0.0.1,[::1]"
    with serving(bundles["news"], log, TEXT_CLS_ALLOWED_HOSTS=names) as server:
        for host, status in {
            "example.org": 200,
            "EXAMPLE.org.:8189": 200,
            "a.b.example.org": 200,
            "127.0.0.1:1": 200,
            "[0:0::1]:8189": 200,
            "evil.org": 421,
            "badexample.org": 421,
            "example.org.evil.org": 421,
            "": 421,
        }.items():
            answer = read_all(raw(server, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()))
            assert status_of(answer) == status, host
        assert status_of(read_all(raw(server, CLOSED))) == 200


# --------------------------------------------------------------------------------------------------------- large bodies


@pytest.mark.parametrize("megabytes", [5, 20])
def test_a_client_that_sends_a_large_body_gets_its_refusal(bundles, log, megabytes):
    """urllib reads the answer only once it has sent everything."""
    content = b"x" * (megabytes << 20)
    with serving(bundles["news"], log, TEXT_CLS_API_KEY="s3cret") as server:
        for path, kind, key, status in (
            (ROUTE, "application/json", "s3cret", 413),
            (ROUTE, "text/plain", "s3cret", 415),
            (ROUTE, "application/json", "wrong", 401),
            ("/nothing", "application/json", "s3cret", 404),
            ("/info", "application/json", "s3cret", 405),
        ):
            for chunked in (False, True):
                body = (content[:65536] for _ in range(megabytes * 16)) if chunked else content
                url, headers = f"http://127.0.0.1:{server.port}{path}", {"Content-Type": kind, "X-API-Key": key}
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30)
                assert error.value.code == status and json.loads(error.value.read())["detail"]


def test_permission_to_send_a_body_is_given_only_if_it_is_wanted(bundles, log):
    key = b"X-API-Key: s3cret\r\nContent-Length: "
    with serving(bundles["news"], log, TEXT_CLS_API_KEY="s3cret") as server:
        for head, status in (
            (POST + b"Content-Length: 10", 401),
            (POST + key + b"99999999", 413),
            (POST.replace(b"json", b"xml") + key + b"10", 415),
            (POST.replace(b"models", b"model") + key + b"10", 404),
        ):
            answer = read_all(raw(server, head + b"\r\nExpect: 100-continue\r\n\r\n"))
            assert status_of(answer) == status and b"connection: close" in answer and b" 100 " not in answer
        with raw(server, POST + key + b"%d\r\nExpect: 100-continue\r\n\r\n" % len(BODY)) as client:
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(BODY)
            assert b" 200 " in client.recv(1000)


# --------------------------------------------------------------------------------- work per connection, in this process


async def early(scope, receive, send):
    """An application that answers without reading the request; with `?read`, once it has read it."""
    more = scope["query_string"] == b"read"
    while more and "refusal" not in scope:
        more = (await receive()).get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize("path", [b"/", b"/?read"])
def test_one_turn_of_the_event_loop_parses_little(monkeypatch, path):
    """Whatever a client sends, and however much of it arrives at once."""
    count, turns = [0], []
    real_event, real_received = http_requests.Requests.next_event, connections.Protocol.data_received

    def next_event(self):
        count[0] += 1
        return real_event(self)

    def received(self, data):
        before = count[0]
        real_received(self, data)
        turns.append(count[0] - before)

    monkeypatch.setattr(http_requests.Requests, "next_event", next_event)
    monkeypatch.setattr(connections.Protocol, "data_received", received)
    chunked = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path
    with connections_of(early, 5) as (address, _):
        for sent in (
            chunked + b"1\r\n \r\n" * 50000,
            chunked + b"1;a\r\n \r\n" * 50000,
            chunked + b"14\r\n" + b" " * 20 + b"\r\n" * 20000,
            b"GET %s HTTP/1.1\r\nHost: x\r\n" % path + b"a:\n" * 50000,
            b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path * 1000,
        ):
            with socket.create_connection(address, 20) as client:
                client.sendall(sent)
                assert client.recv(1000).startswith(b"HTTP/1.1 ")
    assert max(turns) < 250 and max(count) < 10000


def test_the_end_of_a_body_is_not_read_together_with_much_of_the_next_request(monkeypatch):
    sizes, real = [], connections.Protocol.data_received

    def received(self, data):
        if not self.conn.refusal:
            sizes.append(len(data))
        real(self, data)

    monkeypatch.setattr(connections.Protocol, "data_received", received)
    with connections_of(early, 5) as (address, _), socket.create_connection(address, 20) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
        assert client.recv(1000).startswith(b"HTTP/1.1 ")
        client.sendall(b"12345GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\n" * 20000)
        assert b"connection: close" in read_all(client)
    assert max(sizes) <= connections.READ_BYTES


def test_an_endless_body_is_cut_off(monkeypatch):
    monkeypatch.setattr(connections, "DISCARDED_BYTES", 10**6)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connections_of(early, 60) as (address, open_ones), socket.create_connection(address, 20) as client:
        client.sendall(head)
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
        with pytest.raises(ConnectionError):
            for _ in range(10**5):
                client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        wait_until(lambda: not open_ones)


def test_the_rest_of_a_body_may_take_only_so_long():
    with connections_of(early, 0.3) as (address, open_ones), socket.create_connection(address, 20) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert read_all(client).endswith(b"ok")
        wait_until(lambda: not open_ones)


def test_a_connection_stays_open_after_an_answer_to_a_short_body_that_was_not_read():
    with connections_of(early, 5) as (address, _), socket.create_connection(address, 20) as client:
        for _ in range(3):
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
            answer = b""
            while not answer.endswith(b"ok"):
                answer += client.recv(1000)
            assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" not in answer
            client.sendall(b"x" * 100)


# ---------------------------------------------------------------------------------------------------------- half-closed


def test_a_client_that_ends_its_side_after_its_request_gets_the_answer(bundles, log):
    whole = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with serving(bundles["news"], log, seconds=0.3) as server:
        for sent, statuses in (
            (ASKED, [200]),
            (whole, [200]),
            (whole + ASKED + whole, [200] * 3),
            (whole[:-3], [400]),
            (whole[:30], [400]),
            (b"s3cret\r\n\r\n", [400]),
        ):
            client = raw(server, sent)
            client.shutdown(socket.SHUT_WR)
            found = [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", read_all(client))]
            assert found == statuses, sent


def test_a_client_that_ends_its_side_later_has_left(monkeypatch):
    monkeypatch.setattr(connections, "HALF_CLOSE_SECONDS", -1)
    events = []

    async def app(scope, receive, send):
        while not events or events[-1] != "http.disconnect":
            events.append((await receive())["type"])

    with connections_of(app, 5) as (address, _), socket.create_connection(address, 20) as client:
        client.sendall(ASKED)
        wait_until(lambda: events)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1000) == b""
        wait_until(lambda: events == ["http.request", "http.disconnect"])


# -------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_request_is_lost_when_the_server_stops(bundles, log, number):
    """16 clients go on asking, also on the connections that they have; none of them ever tries again."""
    request = POST + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    asked, statuses, after = itertools.count(), [], threading.Event()

    def ask_on(port):
        closed = True
        while True:
            if closed:
                try:
                    connection = socket.create_connection(("127.0.0.1", port), 30)
                except ConnectionRefusedError:
                    return
            next(asked)
            connection.sendall(request)
            data = b""
            while b"\r\n\r\n" not in data or len(data) < size_of(data):
                piece = connection.recv(65536)
                assert piece, data
                data += piece
            closed = b"connection: close" in data
            assert closed or not after.is_set()
            if closed:
                connection.close()
            statuses.append(int(data[9:12]))

    def size_of(data):
        return data.index(b"\r\n\r\n") + 4 + int(re.search(rb"content-length: (\d+)", data)[1])

    with serving(bundles["news"], log) as server, ThreadPoolExecutor(16) as pool:
        idle = raw(server, ASKED)
        clients = [pool.submit(ask_on, server.port) for _ in range(16)]
        wait_until(lambda: len(statuses) > 100)
        server.process.send_signal(number)
        wait_until(lambda: 503 in statuses)
        after.set()
        for client in clients:
            client.result()
        assert server.process.wait(30) == 0
        assert status_of(read_all(idle)) == 200
        text = server.text()
    assert set(statuses) == {200, 503} and len(statuses) == next(asked)
    assert "Stopping: " in text and text.rstrip().endswith("Stopped") and "Traceback" not in text


def test_a_bundle_that_is_missing_is_reported_once(tmp_path):
    nothing = tmp_path / "nothing"
    for words, status in (
        (("server.py", "--bundle", nothing, "--port", 0), 2),
        (("-m", "uvicorn", "server:app", "--port", 0), 3),  # uvicorn's own
    ):
        environment = {**os.environ, "TEXT_CLS_BUNDLE": str(nothing)}
        answer = subprocess.run(command_line(*words), cwd=HERE, capture_output=True, encoding="utf-8", env=environment)
        assert answer.returncode == status and answer.stderr.count("name a folder") == 1
        assert "startup failed" not in answer.stderr and "Traceback" not in answer.stderr
