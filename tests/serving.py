"""The HTTP server in tests: as a process on a free port, which always ends; and helpers for one in this process."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from conftest import ROOT, command_line

from connections import protocol_of

HERE = ROOT / "deploy" / "simple_serving"
JSON = {"Content-Type": "application/json"}
TEXTS = [
    "台风登陆，学校停课一天",
    "足球",
    "公司裁员三成，股价当日大跌",
    "😀 Café <b>\"'&</b> [CLS]",
    "好" * 2000,
    "足球",
]
# A server whose warm model takes a fixed number of seconds per run, whatever the machine: for tests of overload.
SLOW = """
import sys, time
sys.path.insert(0, {here!r})
import server
from batcher import Batcher, Speed
real = Batcher.warm_up

def warm_up(self, model, row, rounds):
    costs, run = real(self, model, row, rounds), model.run
    model.run = lambda rows: (time.sleep({seconds}), run(rows))[1]
    model.speed = Speed(self.batch_tokens, {seconds})
    return costs

Batcher.warm_up = warm_up
sys.exit(server.main(sys.argv[1:]))
"""


def wait_until(condition, seconds=60):
    """Waits. The time limit only ends a test that hangs; it is not what is tested."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Process:
    def __init__(self, process, log):
        self.process, self.log = process, log
        self.port = int(self.wait_for(r"Ready: POST http://127\.0\.0\.1:(\d+)")[1])

    def text(self):
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def wait_for(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := re.search(pattern, self.text()):
                return found
            assert self.process.poll() is None, self.text()
            time.sleep(0.02)
        raise AssertionError(f"no {pattern!r} in:\n{self.text()}")

    def connect(self, timeout=30):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method="GET", path="/health/live", value=None, timeout=30):
        """(status, headers, JSON value) of one request on a new connection."""
        with contextlib.closing(self.connect(timeout)) as connection:
            body = None if value is None else json.dumps(value)
            connection.request(method, path, body, JSON)
            answer = connection.getresponse()
            return answer.status, answer.headers, json.loads(answer.read())

    def post(self, texts, timeout=30, **parameters):
        value = {"data": {"text": texts}, "parameters": parameters}
        return self.ask("POST", "/models/cls_hierarchical", value, timeout)

    def stop(self, number=signal.SIGTERM, seconds=30):
        """Sends a signal and returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextlib.contextmanager
def serving(bundle, log, *flags, seconds=None, **environment):
    """A running server.py as `Process`; with `seconds`, its model takes that long per run."""
    words = ["--bundle", bundle, "--port", 0, "--num_threads", 1, *flags]
    if seconds is None:
        command = command_line("server.py", *words)
    else:
        code = SLOW.format(here=str(HERE), seconds=seconds)
        command = command_line("-c", code, *words)
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=HERE, stdout=file, stderr=file, env={**os.environ, **environment})
    try:
        yield Process(process, log)
    finally:
        process.kill()
        process.wait(30)


def metric(server, name):
    """The value of one of the metrics of a `Process`."""
    with contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return float(re.search(rf"^text_cls_{name} (\S+)$", text, re.M)[1])


def raw(server, data, timeout=20):
    """A connection on which these bytes have been sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout)
    connection.sendall(data)
    return connection


def read_all(connection):
    with connection, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: connection.recv(65536), b""))


@contextlib.contextmanager
def connections_of(app, seconds):
    """An ASGI application on the server's connections, in a thread: (its address, the set of its connections)."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(
            app, http=protocol_of(seconds), lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([bound],))
        thread.start()
        try:
            yield bound.getsockname(), running.server_state.connections
        finally:
            running.should_exit = True
            thread.join(20)


@contextlib.contextmanager
def asking(server, route, text):
    """Yields a list that 4 clients fill with (status, value) of the answers to texts, until the block ends."""
    stop, answers = threading.Event(), []

    def ask_on():
        while not stop.is_set():
            status, _, value = server.ask("POST", route, {"data": {"text": text}})
            answers.append((status, value))

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(ask_on) for _ in range(4)]
        try:
            yield answers
        finally:
            stop.set()
    for task in tasks:
        task.result()


# -------------------------------------------------------------- a server in this process, by the TestClient of `serve`


def service_of(client):
    return client.app.state.server.service


def predictor_of(client):
    return service_of(client).first.version.predictor


def model_of(client):
    """The `batcher.Model` that answers."""
    return service_of(client).first.version.model


def ask(client, text, task="cls_hierarchical", **parameters):
    return client.post(f"/models/{task}", json={"data": {"text": text}, "parameters": parameters})


class PausedModel:
    """Pauses the model of a service until `go` is set."""

    def __init__(self, client):
        self.model, self.rows = model_of(client), []
        self.go, self.begun = threading.Event(), threading.Event()
        self.real, self.model.run = self.model.run, self.run

    def run(self, rows):
        self.rows.append(len(rows))
        self.begun.set()
        assert self.go.wait(30)
        return self.real(rows)
