"""A real service of deploy/paddle_serving on free ports of this machine. `make serving-setup` makes .venv-serving."""

import contextlib
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from triton_server import free_ports

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-serving"
PYTHON = VENV / "bin" / "python"
FOLDER = ROOT / "deploy" / "paddle_serving"
START_SECONDS, STOP_SECONDS = 120, 60


class Service:
    """rpc, http: addresses as the clients' --url. folder: its working directory, with its logs."""

    def __init__(self, rpc_port, http_port, folder):
        self.rpc, self.http = f"127.0.0.1:{rpc_port}", f"http://127.0.0.1:{http_port}/seq_cls/prediction"
        self.ports, self.folder, self.process = (rpc_port, http_port), folder, None

    def post(self, body, path=None):
        """(status, JSON of the answer) of an HTTP request with these bytes, or with this object as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode("utf-8")
        try:
            with urllib.request.urlopen(path or self.http, content, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            found = error.read()
            return error.code, json.loads(found) if found.startswith(b"{") else found

    def ask(self, value):
        """The JSON of the answer for a value of `sentence`."""
        status, answer = self.post({"key": ["sentence"], "value": [value]})
        assert status == 200
        return answer

    @property
    def log(self):
        """Everything that the service has printed and written to its logs."""
        paths = [self.folder / "log", *(self.folder / "PipelineServingLogs").glob("*")]
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)


@contextlib.contextmanager
def running_service(service, *flags):
    """Runs service.py in the folder of a `Service`, in which it finds serving/config.yml; it ends with the block."""
    with open(service.folder / "log", "w", encoding="utf-8") as log:
        words = [PYTHON, FOLDER / "service.py", "--config", "serving/config.yml", *flags]
        # A process group of its own, as Paddle Serving may end all of it.
        service.process = subprocess.Popen(
            [*map(str, words)], cwd=service.folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_listening(service.http):
            assert service.process.poll() is None and time.monotonic() < deadline, service.log
            time.sleep(0.1)
        yield service
    finally:
        if service.process.poll() is None:
            service.process.send_signal(signal.SIGTERM)
        try:
            service.process.wait(STOP_SECONDS)
        finally:
            service.process.kill()


def is_listening(url):
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def new_service(folder):
    """A `Service` on ports that are free now."""
    return Service(*free_ports(2), Path(folder))
