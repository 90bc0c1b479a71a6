"""deploy/nginx in front of a running server.py, by the nginx of Debian; and the unit of systemd."""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT

import settings
from serving import JSON, TEXTS, serving, wait_until

FOLDER, ROUTE = ROOT / "deploy" / "nginx", "/text-cls/models/cls_hierarchical"
DEFAULTS = settings.parse_args([], environ={})
MAIN = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; {user}
events {{ }}
http {{
    access_log off; default_type application/octet-stream;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    include {folder}/conf.d/*.conf;
}}
"""


def program(name, package):
    """The path of a program, without which the test is skipped, or fails on CI."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        message = f"{name} is not installed (apt-get install {package})"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return path


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def nginx(folder, server_port, **changes):
    """The port of an nginx with the project's files, but for ports and what `changes` says: {directive: value}."""
    path, port = program("nginx", "nginx-light"), free_port()
    (folder / "conf.d").mkdir(parents=True)
    text = (FOLDER / "text-cls.conf").read_text(encoding="utf-8")
    for name, value in {"listen": f"127.0.0.1:{port}", **changes}.items():
        text, count = re.subn(rf"(?<=\s){name} [^;]+;", f"{name} {value};", text)
        assert count == 1, name
    (folder / "conf.d" / "text-cls.conf").write_text(text, encoding="utf-8")
    upstream = (FOLDER / "upstream.conf").read_text(encoding="utf-8")
    upstream = upstream.replace("127.0.0.1:8189", f"127.0.0.1:{server_port}")
    (folder / "conf.d" / "upstream.conf").write_text(upstream, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""  # its workers must get at the folder of the test
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user), encoding="utf-8")
    process = subprocess.Popen([path, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"])
    try:
        wait_until(lambda: process.poll() is not None or is_open(port))
        assert process.poll() is None, (folder / "error.log").read_text(encoding="utf-8")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def is_open(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def behind(bundles, tmp_path_factory):
    """A server and an nginx before it, as `SimpleNamespace(server, port)`."""
    folder = tmp_path_factory.mktemp("nginx")
    with serving(bundles["news"], folder / "log") as server, nginx(folder / "nginx", server.port) as port:
        yield SimpleNamespace(server=server, port=port)


def ask(port, method, path, body=None, headers=JSON):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def posts(server):
    """The POSTs in a server's log so far. A line is written after its answer, so that this waits for one of its own."""
    _, headers, _ = ask(server.port, "GET", "/info")
    server.wait_for(f"{headers['X-Request-ID']} GET /info")
    return server.text().count("POST")


def question(texts):
    return json.dumps({"data": {"text": texts}}, ensure_ascii=False).encode()


def chunked(port, path, pieces, timeout=60):
    """The status of the answer to a body sent in these pieces, each a chunk of its own; None without an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head.encode())
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(ConnectionResetError):
            answer = connection.recv(4096)
            return int(answer.split()[1]) if answer else None


def small_chunks(body, at_a_time=1000):
    """A body as chunks of one byte, many of which are sent together."""
    for start in range(0, len(body), at_a_time):
        yield b"".join(b"1\r\n%c\r\n" % byte for byte in body[start : start + at_a_time])
    yield b"0\r\n\r\n"


def test_the_prefix_leads_to_the_server_and_nothing_else_does(behind):
    status, headers, body = ask(behind.port, "POST", ROUTE, question(TEXTS))
    direct = ask(behind.server.port, "POST", ROUTE.removeprefix("/text-cls"), question(TEXTS))
    assert status == 200 and body == direct[2]
    assert headers["X-Bundle"] == "news" and len(headers["X-Request-ID"]) == 32  # nginx's id, which the log has too
    assert f"{headers['X-Request-ID']} POST" in behind.server.text()
    for path in ("/", "/models/cls_hierarchical", "/text-cls/metrics", "/text-cls/admin/reload", "/text-clsx/info"):
        assert ask(behind.port, "GET", path)[0] == 404, path
    assert ask(behind.port, "GET", "/text-cls")[1]["Location"].endswith("/text-cls/")
    page = ask(behind.port, "GET", "/text-cls/")[2].decode()
    assert "<html" in page and not re.search(r"fetch\(\s*[\"'`]/", page)  # its requests keep the prefix


def test_the_clients_of_the_project_work_through_the_prefix(behind, run):
    import client

    status, log = run(client.main, "--url", f"http://127.0.0.1:{behind.port}/text-cls")
    assert status == 0 and '"result"' in log


def test_a_body_that_is_too_large_does_not_reach_the_server(behind):
    before = posts(behind.server)
    body = b" " * (DEFAULTS.max_body_bytes + 1)
    assert ask(behind.port, "POST", ROUTE, body)[0] == 413
    assert chunked(behind.port, ROUTE, [b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16))] * 20) == 413
    assert posts(behind.server) == before
    largest = question("足球")
    largest += b" " * (DEFAULTS.max_body_bytes - len(largest))
    assert ask(behind.port, "POST", ROUTE, largest)[0] == 200  # the same limit as the server's


def test_the_chunk_attack_is_stopped(behind):
    """20,000 chunks of one byte: refused by the server itself; through nginx, it gets one body with its length."""
    body = question("足球") + b" " * 20000
    assert chunked(behind.server.port, ROUTE.removeprefix("/text-cls"), small_chunks(body)) == 400
    assert chunked(behind.port, ROUTE, small_chunks(body)) == 200
    before = posts(behind.server)
    assert chunked(behind.port, ROUTE, small_chunks(b" " * (DEFAULTS.max_body_bytes + 100000))) == 413
    assert posts(behind.server) == before


def test_a_slow_client_does_not_reach_the_server(behind, tmp_path):
    """Its body is received by nginx, which ends a client that pauses."""
    with nginx(tmp_path, behind.server.port, client_body_timeout="1s", client_header_timeout="1s") as port:
        before = posts(behind.server)
        start = time.monotonic()
        assert chunked(port, ROUTE, [b"1\r\n{\r\n"]) in (408, None)
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(b"GET /text-cls/info HT")
            assert b"200" not in connection.recv(4096)  # it is closed
        assert time.monotonic() - start < 50
        assert posts(behind.server) == before
        assert ask(port, "GET", "/text-cls/health/ready")[0] == 200


def test_a_client_that_asks_too_often_is_refused(behind, tmp_path):
    with nginx(tmp_path, behind.server.port, limit_req="zone=text_cls_requests burst=2 nodelay") as port:
        statuses = [ask(port, "GET", "/text-cls/info")[0] for _ in range(60)]
    assert statuses[0] == 200 and set(statuses) == {200, 429}


def test_nginx_waits_longer_than_the_server_takes():
    text = (FOLDER / "text-cls.conf").read_text(encoding="utf-8")
    assert float(re.search(r"proxy_read_timeout (\d+)s;", text)[1]) > DEFAULTS.deadline_seconds
    assert re.search(r"client_max_body_size 1m;", text) and DEFAULTS.max_body_bytes == 1 << 20


# ------------------------------------------------------------------------------------------------------------- systemd


def test_systemd_accepts_the_unit(tmp_path):
    path = program("systemd-analyze", "systemd")
    text = (ROOT / "deploy" / "systemd" / "text-cls.service").read_text(encoding="utf-8")
    stop = float(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)[1])
    assert stop > DEFAULTS.shutdown_seconds
    command = re.search(r"^ExecStart=(\S+) (\S+)$", text, re.M)
    assert (ROOT / command[2].removeprefix("/opt/text-classification/")).is_file()
    words = dict(re.findall(r"(TEXT_CLS_\w+)=(\S+)", re.search(r"^Environment=(.*)$", text, re.M)[1]))
    assert settings.parse_args([], environ=words).bundle == [("news", "/opt/models/news")]
    unit = tmp_path / "text-cls.service"
    unit.write_text(text.replace(command[1], shutil.which("true")), encoding="utf-8")  # it must exist
    answer = subprocess.run([path, "verify", unit], capture_output=True, encoding="utf-8")
    assert answer.returncode == 0 and "text-cls" not in answer.stderr, answer.stderr
