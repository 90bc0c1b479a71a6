"""Servers as processes of their own, for tests: started on a free port, ended whatever happens."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time

from conftest import ROOT, command_line

HERE = ROOT / "deploy" / "simple_serving"
JSON = {"Content-Type": "application/json"}
# A model that takes so many seconds a run once it is warm, whatever the machine: what a test of overload needs.
SLOW = """
import sys, time
sys.path.insert(0, {here!r})
import server
from batcher import Batcher
real = Batcher.warm_up

def warm_up(self, row):
    costs, run = real(self, row), self.run
    self.run = lambda rows: (time.sleep({seconds}), run(rows))[1]
    self._speed = self.batch_tokens, {seconds}
    return costs

Batcher.warm_up = warm_up
sys.exit(server.main(sys.argv[1:]))
"""


def wait_until(condition, seconds=60):
    """The limit ends a test that hangs; it is not what is tested."""
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
        """(status, headers, value of the JSON) of one request on a connection of its own."""
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
    """A running server.py as `Process`; with `seconds`, its model takes so long a run."""
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
