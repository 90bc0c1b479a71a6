"""A real Triton server on free ports of this machine, for the tests and the benchmarks. No Docker, no GPU.

    with triton_server("models", "server.log") as server:
        server.infer("seqcls", ["a text", "another"])        # {output: array [rows, ...]}
        server.statistics("seqcls_model"), server.grpc_url   # as Triton reports; "127.0.0.1:41234"

`make triton-setup` makes .venv-triton with the server: NVIDIA's wheel nvidia-pytriton.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-triton"
PYTHON = VENV / "bin" / "python"
BACKENDS = ROOT / "tests" / "triton_backends"
START_SECONDS, STOP_SECONDS = 120, 30
TEXTS = [
    "台风登陆，学校停课一天",
    "",
    "足球",
    "公司裁员三成，股价当日大跌",
    "公司裁员[PAD]三成，股价[SEP]当日大跌",
    "😀 Café ABC123",
    "好" * 2000,
    "\x00\n",
]


class NotReady(RuntimeError):
    """The server is missing, has ended, or did not become ready; the message says what to do, or ends with its log."""


class TritonServer:
    def __init__(self, ports, process, log):
        self.http_url, self.grpc_url, self.metrics_url = (f"127.0.0.1:{port}" for port in ports)
        self.process, self.log = process, Path(log)

    def get(self, path, body=None, headers=()):
        """(status, headers, bytes) of an HTTP request; POST if there is a body."""
        request = urllib.request.Request(f"http://{self.http_url}/v2/{path}", body, dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def ready(self):
        try:
            return self.get("health/ready")[0] == 200
        except OSError:
            return False

    def infer(self, model, texts):
        """{name of an output: array} for texts (str or any bytes). Raises ValueError with Triton's message."""
        raw = [text if isinstance(text, bytes) else text.encode("utf-8") for text in texts]
        data = b"".join(struct.pack("<I", len(one)) + one for one in raw)
        head = {
            "inputs": [
                {
                    "name": "INPUT",
                    "datatype": "BYTES",
                    "shape": [len(raw), 1],
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
        head = json.dumps(head).encode("utf-8")
        length = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        status, headers, body = self.get(f"models/{model}/infer", head + data, length)
        if status != 200:
            raise ValueError(f"{status} {json.loads(body)['error']}")
        size = int(headers["Inference-Header-Content-Length"])
        outputs, start = {}, size
        for output in json.loads(body[:size])["outputs"]:
            end = start + output["parameters"]["binary_data_size"]
            outputs[output["name"]] = array_of(output, body[start:end])
            start = end
        return outputs

    def statistics(self, model):
        """{"inference_count": rows, "execution_count": runs, "batch_stats": [...], ...} since the start."""
        return json.loads(self.get(f"models/{model}/stats")[2])["model_stats"][0]


def array_of(output, data):
    kind, shape = output["datatype"], output["shape"]
    if kind != "BYTES":
        return np.frombuffer(data, {"INT64": np.int64, "FP32": np.float32}[kind]).reshape(shape)
    values, start = [], 0
    while start < len(data):
        (size,) = struct.unpack_from("<I", data, start)
        values.append(data[start + 4 : start + 4 + size].decode("utf-8"))
        start += 4 + size
    return np.array(values, dtype=object).reshape(shape)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def make_backends(folder, prelude):
    """Makes one folder of the wheel's Python backend, its stub process, and the tests' own onnxruntime backend.

    Copies, since Triton refuses a library behind a link out of the folder.
    """
    if not PYTHON.exists():
        raise NotReady(f"{VENV} is missing: make triton-setup")
    package = next(VENV.glob("lib/python3.*/site-packages")) / "pytriton" / "tritonserver"
    version = package.parent.parent.parent.name.removeprefix("python")
    shutil.copytree(package / "backends" / "python", folder / "python")
    shutil.copy(package / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "python")
    shutil.copytree(BACKENDS / "onnxruntime", folder / "onnxruntime")
    first = folder / "python" / "triton_python_backend_utils.py"  # the server's Python ignores PYTHONPATH
    first.write_text(prelude + first.read_text(encoding="utf-8"), encoding="utf-8")
    return package


@contextlib.contextmanager
def triton_server(repository, log, *flags, prelude=""):
    """Yields a `TritonServer` that is ready; it ends with the block.

    Args:
        repository: folder of models, as build_repository.py writes it.
        log: file for the server's output.
        flags: further flags of tritonserver.
        prelude: Python that runs in the processes of models when they import triton_python_backend_utils.
    """
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        package = make_backends(Path(folder, "backends"), prelude)
        for _ in range(3):  # another process may take a free port before Triton does
            ports = free_ports(3)
            words = [str(package / "bin" / "tritonserver"), f"--model-repository={repository}"]
            words += [f"--backend-directory={folder}/backends", *flags]
            for kind, port in zip(("http", "grpc", "metrics"), ports):
                words += [f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}"]
            with open(log, "w", encoding="utf-8") as file:
                process = subprocess.Popen(
                    words,
                    env=environment(package),
                    stdout=file,
                    stderr=file,
                    cwd=folder,
                    start_new_session=True,
                )
            try:
                server = TritonServer(ports, process, log)
                if wait_until_ready(server):
                    yield server
                    return
            finally:
                stop(process)
            if "already in use" not in server.log.read_text(encoding="utf-8", errors="replace"):
                break
        raise NotReady(f"Triton is not ready:\n{server.log.read_text(encoding='utf-8', errors='replace')[-5000:]}")


def environment(package):
    values = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    libraries = [str(package.parent.parent / "nvidia_pytriton.libs"), library_folder(), values.get("LD_LIBRARY_PATH")]
    values["LD_LIBRARY_PATH"] = ":".join(filter(None, libraries))
    values["PATH"] = f"{VENV / 'bin'}:{values['PATH']}"  # Python models run in the first python3 of PATH
    return values


def library_folder():
    """The folder of libpython for .venv-triton's Python, in case the system does not find it."""
    code = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    return subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def wait_until_ready(server):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        if server.ready():
            return True
        time.sleep(0.1)
    return False


def missing_library():
    """Why the server cannot run Python models with the Python of this process, or None."""
    name = f"libpython{sysconfig.get_python_version()}.so.1.0"
    if os.path.exists(os.path.join(sysconfig.get_config_var("LIBDIR"), name)):
        return None
    try:
        ctypes.CDLL(name)
    except OSError:
        return f"{name} is missing, and Triton needs it: apt-get install libpython{sysconfig.get_python_version()}"
    return None


def stop(process):
    """Ends the server and all processes it has started: by SIGTERM first, then by SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":  # of make triton-setup
    sys.exit(missing_library())


def client(triton, kind, *flags, **variables):
    """(exit status, standard output, standard error) of a client, run by the Python `triton`."""
    words = [str(word) for word in (triton, ROOT / "deploy" / "triton_serving" / f"seqcls_{kind}_client.py", *flags)]
    environment = {**os.environ, **variables}
    answer = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", env=environment)
    return answer.returncode, answer.stdout, answer.stderr


def names_and_scores(outputs):
    """(label names, probabilities) or the error for each row; asserts that the outputs agree."""
    rows = []
    for label, confidence, names, (error,) in zip(
        *(outputs[name] for name in ("label", "confidence", "label_name", "error"))
    ):
        is_filled = label >= 0
        count = is_filled.sum()
        assert is_filled[:count].all() and not any(names[count:]) and not confidence[count:].any()
        assert not (error and count)
        rows.append(error or (list(names[:count]), confidence[:count]))
    return rows


def assert_same(outputs, predictor, texts):
    wanted = list(predictor.predict(texts))
    rows = names_and_scores(outputs)
    assert [row[0] for row in rows] == [names for names, _ in wanted]
    for (names, scores), (_, theirs), label in zip(rows, wanted, outputs["label"]):
        assert np.abs(scores - theirs).max(initial=0) < 1e-5
        assert [predictor.labels.names[i] for i in label if i >= 0] == names
