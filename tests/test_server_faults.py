"""Servers as processes under adverse conditions: signals, slow, silent or lost clients, overload, a full disk."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn
from conftest import command_line

from connections import protocol_of
from serving import HERE, JSON, connections_of, metric, raw, read_all, serving, wait_until

HEAD = (
    "POST /models/cls_hierarchical HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)
BODY = json.dumps({"data": {"text": "台风登陆"}}).encode()
ROUTE = "/models/cls_hierarchical"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


# ------------------------------------------------------------------------------------------------- other ways to start


@pytest.mark.parametrize("start", ["uvicorn", "paddlenlp"])
def test_other_ways_to_start(bundles, log, start):
    """`uvicorn server:app` without Paddle, and `paddlenlp server server:app` as in PaddleNLP's application."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if start == "uvicorn":
        absent = "import sys; sys.modules.update(dict.fromkeys(('paddle', 'paddlenlp', 'sklearn', 'onnx')));"
        words = ("-c", f"{absent} from uvicorn import main; main()", "server:app", "--port", port)
    else:
        script = Path(sys.executable).with_name("paddlenlp")
        words = (script, "server", "server:app", "--host", "127.0.0.1", "--port", port)
    environment = {"TEXT_CLS_BUNDLE": str(bundles["news"]), "TEXT_CLS_MAX_TEXTS": "2", "TEXT_CLS_NUM_THREADS": "1"}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command_line(*words), cwd=HERE, stdout=file, stderr=file, env={**os.environ, **environment}
        )
    try:
        for _ in range(600):
            if "running on" in log.read_text(encoding="utf-8"):
                break
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.1)
        for texts, status in ((["台风登陆", "足球"], 200), (["足球"] * 3, 422)):
            for _ in range(50):
                with contextlib.suppress(ConnectionRefusedError):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                    connection.request("POST", ROUTE, json.dumps({"data": {"text": texts}}), JSON)
                    break
                time.sleep(0.1)
            answer = connection.getresponse()
            assert answer.status == status and answer.read()
            connection.close()
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)  # uvicorn's own command ends by the signal
        assert "Traceback" not in log.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------------------------------- stopping


def test_sigterm_finishes_what_was_accepted(bundles, log):
    flags = ("--batch_tokens", 60, "--deadline_seconds", 50, "--shutdown_seconds", 60)
    with serving(bundles["news"], log, *flags, seconds=1.5) as server:
        first = server.ask(path="/health/ready")
        assert first[0] == 200
        with ThreadPoolExecutor(4) as pool:
            accepted = [pool.submit(server.post, ["好" * 40] * 2) for _ in range(3)]
            wait_until(
                lambda: metric(server, "queue_texts") >= 5
            )  # all three have arrived, whether or not one has been run
            start = time.monotonic()
            server.process.terminate()
            wait_until(lambda: server.ask(path="/health/ready")[0] == 503)
            assert server.ask(path="/health/live")[0] == 200
            assert server.post("足球")[0] == 503
            answers = [answer.result() for answer in accepted]
        assert [answer[0] for answer in answers] == [200] * 3
        assert all(len(answer[2]["result"]["label"]) == 2 for answer in answers)
        assert server.process.wait(60) == 0 and time.monotonic() - start < 50
        assert "Traceback" not in server.text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_idle_server_ends_at_once(bundles, log, number):
    limits = ("--deadline_seconds", 600, "--receive_seconds", 600, "--shutdown_seconds", 700)  # it waits for none
    with serving(bundles["news"], log, *limits) as server:
        connection = server.connect()
        connection.request("GET", "/health/live")
        connection.getresponse().read()  # and stays open
        assert server.stop(number, seconds=120) == 0
        assert "Traceback" not in server.text()


def test_half_a_request_does_not_keep_a_server_from_ending(bundles, log):
    flags = ("--deadline_seconds", 1, "--receive_seconds", 60, "--shutdown_seconds", 4)
    with serving(bundles["news"], log, *flags) as server:
        half = [raw(server, b"POST / HT"), raw(server, HEAD.format(100).encode() + b'{"data')]
        wait_until(lambda: metric(server, "requests_under_way") == 2)  # the second, and this one for the metrics
        assert server.stop(seconds=30) == 0
        for connection in half:
            connection.close()
        assert "Traceback" not in server.text()


def test_a_run_that_hangs_does_not_keep_a_server_from_ending(bundles, log):
    flags = ("--deadline_seconds", 1, "--shutdown_seconds", 3)
    with serving(bundles["news"], log, *flags, seconds=60) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "足球")
        wait_until(lambda: metric(server, "queue_texts") or answer.done())
        assert server.stop(seconds=30) == 0
        assert answer.result()[0] == 504


def test_after_sigkill_the_client_gets_an_error_without_waiting(bundles, log):
    with serving(bundles["news"], log, seconds=60) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "足球", 60)
        wait_until(lambda: metric(server, "requests_under_way") == 2)
        start = time.monotonic()
        server.process.kill()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            answer.result()
        assert time.monotonic() - start < 20


# ---------------------------------------------------------------------------------------------------- difficult clients


def test_slow_clients_get_an_error_and_are_disconnected(bundles, log):
    with serving(bundles["news"], log, "--receive_seconds", 3) as server:
        body = raw(server, HEAD.format(len(BODY)).encode() + BODY[:5])
        # No request, half a line, half a head; and one request with half of a second.
        silent = [raw(server, data) for data in (b"", b"POST /models", HEAD.format(5).encode()[:-2])]
        kept = raw(server, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        answer = read_all(body)
        assert b" 408 " in answer and b"did not arrive within 3 s" in answer and b"connection: close" in answer.lower()
        nothing, *halves = [read_all(connection) for connection in silent]
        assert nothing == b"" and all(half.startswith(b"HTTP/1.1 408 ") for half in halves)
        both = read_all(kept)
        assert both.count(b"HTTP/1.1 200") == 1 and both.count(b"HTTP/1.1 408") == 1
        # A client that sends its bytes one by one within the time is answered.
        drop = raw(server, HEAD.format(len(BODY)).encode())
        for i in range(len(BODY)):
            drop.sendall(BODY[i : i + 1])
        assert b" 200 " in drop.recv(65536)
        drop.close()
        assert server.post("足球")[0] == 200


@contextlib.contextmanager
def answering(size, seconds, delay=0):
    """An application that answers `size` bytes, on the server's connections: (a connection to it, all connections)."""

    async def app(scope, receive, send):
        await asyncio.sleep(delay)
        headers = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    with connections_of(app, seconds) as (address, connections), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # what is not read stays with the server
        client.settimeout(20)
        client.connect(address)
        yield client, connections


ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("requests", [1, 2])
def test_a_client_that_reads_nothing_is_disconnected(requests):
    """With one request, and with a second one whose answer waits until the first is read."""
    with answering(10**7, 0.3) as (client, connections):
        start = time.monotonic()
        client.sendall(ASKED * requests)
        wait_until(lambda: connections or time.monotonic() - start > 5)  # it may be closed before it is seen
        wait_until(lambda: not connections)
        assert time.monotonic() - start > 0.2


def test_a_client_that_reads_slowly_gets_everything():
    """Although reading, and also making the answer, take longer than a connection may be silent."""
    size = 4 * 10**6
    with answering(size, 2, delay=3) as (client, _):
        client.sendall(ASKED)
        start, read = time.monotonic(), 0
        while read < size:
            piece = client.recv(50_000)
            assert piece, f"cut off after {read} bytes"
            read += piece.count(b"x")
            time.sleep(0.04)
        assert time.monotonic() - start > 5


def test_a_client_that_leaves_costs_nothing(bundles, log):
    flags = ("--deadline_seconds", 50, "--shutdown_seconds", 60)
    with serving(bundles["news"], log, *flags, seconds=4) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, "足球", 60)
        wait_until(lambda: metric(server, "queue_texts") == 1)  # the model is busy
        for _ in range(8):
            for size in (len(BODY), 7):
                client = raw(server, HEAD.format(len(BODY)).encode() + BODY[:size])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
                client.close()
        wait_until(lambda: server.text().count(" 499 ") == 16)
        assert first.result()[0] == server.post("足球")[0] == 200
        wait_until(lambda: metric(server, "queue_tokens") == 0)
        assert metric(server, "batch_texts_sum") == 2
        assert "Traceback" not in server.text()


def test_a_reset_that_the_server_has_not_read_yet():
    """A client that resets its connection just when the server closes it, which asyncio reports as an OSError."""

    async def waits(scope, receive, send):
        await receive()

    async def run():
        config = uvicorn.Config(waits, http=protocol_of(10), lifespan="off", log_config=None)
        config.load()
        protocol = config.http_protocol_class(config, uvicorn.server.ServerState(), {})
        server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
        client = socket.create_connection(server.sockets[0].getsockname())
        client.sendall(HEAD.format(10).encode())
        while not protocol.conn.has_part:
            await asyncio.sleep(0.01)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        protocol.transport.close()  # before the loop has looked at the socket again
        server.close()
        return protocol.transport.is_closing()

    assert asyncio.run(run())


def test_bodies_that_are_too_large(bundles, log):
    """The client learns it before sending if it announces the length, and otherwise while sending."""
    with serving(bundles["news"], log, "--max_body_bytes", 100000) as server:
        announced = raw(server, HEAD.format(10**12).encode())
        assert b" 413 " in announced.recv(65536)
        announced.close()
        for content in (b"x" * 10**6, iter([b"x" * 10**5] * 10)):
            connection = server.connect()
            connection.request("POST", ROUTE, content, JSON, encode_chunked=True)
            assert connection.getresponse().status == 413
            connection.close()
        assert server.post("足球")[0] == 200


def test_a_thousand_idle_connections(bundles, log):
    with serving(bundles["news"], log) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
        try:
            assert [server.post("足球")[0] for _ in range(5)] == [200] * 5
            assert server.stop() == 0
        finally:
            for connection in idle:
                connection.close()


def test_a_big_request_does_not_delay_small_ones(bundles, log):
    flags = ("--batch_tokens", 400, "--deadline_seconds", 50, "--shutdown_seconds", 60)
    with serving(bundles["news"], log, *flags, seconds=0.3) as server, ThreadPoolExecutor(1) as pool:
        big = pool.submit(server.post, ["好" * 100] * 200, 60)  # 200 x 48 tokens: 25 runs
        wait_until(lambda: metric(server, "queue_texts") or big.done())
        for _ in range(3):
            assert server.post("足球")[0] == 200
            assert not big.done()
        assert big.result()[0] == 200


# ------------------------------------------------------------------------------------------------------------- overload


def memory(process):
    """Resident memory in MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_overload(bundles, log):
    """Twice the load it can carry, for some seconds: accepted requests are answered in time, others get 503 at once."""
    deadline, texts = 2.0, ["好" * 46] * 4  # 192 tokens; a run of 400 takes 0.1 s or more: 20 requests a second at most
    request = json.dumps({"data": {"text": texts}}).encode()
    statuses, times, marks = [], [], []

    async def ask(port):
        start = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD.format(len(request)).encode() + request)
        line = await reader.readline()
        data = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        statuses.append(int(line.split()[1]))
        if statuses[-1] == 200:
            times.append(time.monotonic() - start)
        if statuses[-1] == 503:
            wait = int(re.search(rb"retry-after: (\d+)", data.lower())[1])
            assert 1 <= wait <= 5 and time.monotonic() - start < 2 * deadline

    async def load(server):
        tasks = []
        for k in range(6 * 40):
            tasks.append(asyncio.create_task(ask(server.port)))
            await asyncio.sleep(1 / 40)
            if k % 40 == 39:
                marks.append(memory(server.process))
        await asyncio.gather(*tasks)

    with serving(bundles["news"], log, "--batch_tokens", 400, "--deadline_seconds", deadline, seconds=0.1) as server:
        asyncio.run(load(server))
        assert set(statuses) == {200, 503}, {status: statuses.count(status) for status in set(statuses)}
        assert statuses.count(200) > 60 and statuses.count(503) > 40
        assert (
            sorted(times)[int(0.99 * len(times))] < 2 * deadline
        )  # including the time this process takes to send and read
        assert marks[-1] - marks[1] < 10, marks
        assert server.post("足球")[0] == 200
        # An answer may arrive a moment before its tokens are subtracted.
        wait_until(lambda: not metric(server, "queue_tokens"))
        assert "Traceback" not in server.text()


# ---------------------------------------------------------------------------------------------- failures of the machine


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_for_the_log(bundles):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = subprocess.Popen(
            command_line("server.py", "--bundle", bundles["news"], "--port", port), cwd=HERE, stdout=full, stderr=full
        )
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(300):
            with contextlib.suppress(ConnectionRefusedError):
                connection.connect()
                break
            time.sleep(0.1)
        for _ in range(20):
            connection.request("POST", ROUTE, BODY, JSON)
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_bundle_that_changes_under_a_running_server(bundles, tmp_path, log):
    """It answers from memory as before; a start with the changed files fails."""
    bundle = shutil.copytree(bundles["news"], tmp_path / "bundle")
    with serving(bundle, log) as server:
        texts = ["台风登陆，学校停课一天", "足球"]
        before = server.post(texts, prob_limit=0)[2]
        for name in ("model.onnx", "vocab.txt", "label.txt", "decision.json"):
            (bundle / name).write_bytes(b"damaged")
        assert server.post(texts, prob_limit=0)[2] == before
        shutil.rmtree(bundle)
        assert server.post(texts, prob_limit=0)[2] == before and server.ask(path="/health/ready")[0] == 200
        assert server.stop() == 0
    shutil.copytree(bundles["news"], bundle)
    (bundle / "label.txt").write_text("甲\n", encoding="utf-8")
    answer = subprocess.run(
        command_line("server.py", "--bundle", bundle, "--port", 0), cwd=HERE, capture_output=True, encoding="utf-8"
    )
    assert answer.returncode == 2 and "label.txt is not the file of this bundle" in answer.stderr


def test_help_is_quick():
    """Nothing heavy is imported before it is needed."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run(command_line("server.py", "--help"), cwd=HERE, capture_output=True, encoding="utf-8")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.returncode == 0 and "--deadline_seconds" in answer.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
