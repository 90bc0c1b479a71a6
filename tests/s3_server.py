"""A server that speaks S3 on a free port, for the tests: make s3-setup puts it into .venv-s3."""

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

VENV = Path(__file__).resolve().parent.parent / ".venv-s3"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server(log):
    """Yields the address of a server. Without .venv-s3, the test is skipped, or fails in CI."""
    if not list(VENV.glob(".ready-*")):
        message = f"{VENV} is not ready: make s3-setup"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(log, "wb") as file:
        command = [VENV / "bin" / "python", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen([*map(str, command)], stdout=file, stderr=file)
    try:
        _wait(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait(process, port, log):
    for _ in range(600):
        assert process.poll() is None, Path(log).read_text(encoding="utf-8", errors="replace")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the S3 server does not answer")
