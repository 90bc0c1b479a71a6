"""The real doccano and Label Studio on free ports of this machine, and what a user does in them, through their APIs.

`make tools-setup` makes .venv-doccano and .venv-label-studio. Without them the tests are skipped, or fail in CI.
"""

import contextlib
import io
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import requests
from triton_server import free_ports

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS, ASK_SECONDS = 600, 120  # the first is for the tables of a new data base on a busy machine
TOKEN, USER, PASSWORD = "0123456789abcdef" * 2 + "01234567", "annotator@example.com", "Some-password-1"


def environment_of(name):
    """The folder of a tool's environment; without one the test is skipped, or fails in CI."""
    folder = ROOT / f".venv-{name}"
    if not list(folder.glob(".ready-*")):
        message = f"{folder} is not ready: make tools-setup"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return folder


def wait_for(condition, seconds, what):
    """What `condition()` returns, once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


@contextlib.contextmanager
def started(words, log, env):
    """A process and all that it starts, which end with the block."""
    with open(log, "ab") as file:
        output = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file, "start_new_session": True}
        process = subprocess.Popen([*map(str, words)], env=env, **output)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url):
    def ask():
        try:
            return requests.get(url, timeout=5).status_code == 200
        except requests.RequestException:
            return False

    return ask


def wait_until_ready(process, url, log):
    def ready():
        assert process.poll() is None, Path(log).read_text(encoding="utf-8", errors="replace")[-5000:]
        return answers(url)()

    wait_for(ready, START_SECONDS, f"no answer from {url}, see {log}")


class Api:
    """Requests to a tool whose status must say success."""

    def __init__(self, url):
        self.url, self.session = url, requests.Session()

    def ask(self, method, path, **options):
        response = self.session.request(method, f"{self.url}{path}", timeout=ASK_SECONDS, **options)
        assert response.ok, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response

    def post(self, path, json=None, **options):
        return self.ask("POST", path, json=json, **options)


# ------------------------------------------------------------------------------------------------------------- doccano


@contextlib.contextmanager
def doccano_server(folder):
    """Yields a `Doccano` with a user."""
    venv, home, log = environment_of("doccano"), folder / "doccano", folder / "doccano.log"
    (home / "media").mkdir(parents=True)
    env = {
        **os.environ,
        "DOCCANO_HOME": str(home),
        "DATABASE_URL": f"sqlite:///{home}/db.sqlite3",
        "STANDALONE": "True",
    }
    env |= {"MEDIA_ROOT": str(home / "media"), "DJANGO_SETTINGS_MODULE": "config.settings.production", "DEBUG": "False"}
    script, backend = venv / "bin" / "doccano", next(venv.glob("lib/python3.*/site-packages/backend"))
    for words in (["init"], ["createuser", "--username", USER, "--password", PASSWORD]):
        done = subprocess.run([script, *words], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr[-5000:]
    (port,) = free_ports(1)
    # `doccano webserver` listens on all addresses.
    web = [venv / "bin" / "gunicorn", "--chdir", backend, "--bind", f"127.0.0.1:{port}", "--workers", 2, "config.wsgi"]
    queue = [venv / "bin" / "celery", "--app=config", f"--workdir={backend}", "worker", "--pool=solo"]
    with started(web, log, env) as process, started(queue, log, env):
        wait_until_ready(process, f"http://127.0.0.1:{port}/v1/health/", log)
        yield Doccano(f"http://127.0.0.1:{port}")


class Doccano(Api):
    def __init__(self, url):
        super().__init__(url)
        self.post("/v1/auth/login/", {"username": USER, "password": PASSWORD})
        self.session.headers["X-CSRFToken"] = self.session.cookies["csrftoken"]

    def new_project(self, name, labels_file):
        """The number of a project with the labels of a file."""
        kind = {"project_type": "DocumentClassification", "resourcetype": "TextClassificationProject"}
        project = self.post("/v1/projects", {"name": name, "description": name, "guideline": "", **kind}).json()["id"]
        with open(labels_file, "rb") as file:
            self.post(f"/v1/projects/{project}/category-type-upload", files={"file": file})
        return project

    def import_rows(self, project, path):
        with open(path, "rb") as file:
            upload = self.post("/v1/fp/process/", files={"filepond": file}).text.strip('"')
        columns = {"column_data": "text", "column_label": "label", "encoding": "utf_8"}
        job = {"format": "JSONL", "uploadIds": [upload], "task": "DocumentClassification", **columns}
        result = self._wait(self.post(f"/v1/projects/{project}/upload", job).json()["task_id"])
        assert not result["error"], result

    def _wait(self, task):
        status = wait_for(
            lambda: (found := self.ask("GET", f"/v1/tasks/status/{task}").json())["ready"] and found,
            ASK_SECONDS,
            "doccano's task does not end",
        )
        return status["result"]

    def annotate(self, project, labels_of):
        """Changes the labels of each row to those that `labels_of(text, labels)` returns, and approves it."""
        types = self.ask("GET", f"/v1/projects/{project}/category-types").json()
        numbers = {one["text"]: one["id"] for one in types}
        for row in self.ask("GET", f"/v1/projects/{project}/examples?limit=1000").json()["results"]:
            path = f"/v1/projects/{project}/examples/{row['id']}"
            before = {one["label"]: one["id"] for one in self.ask("GET", f"{path}/categories").json()}
            wanted = {numbers[name] for name in labels_of(row["text"], {n for n in numbers if numbers[n] in before})}
            for label in before.keys() - wanted:
                self.ask("DELETE", f"{path}/categories/{before[label]}")
            for label in wanted - before.keys():
                self.post(f"{path}/categories", {"label": label})
            self.post(f"{path}/states", {})

    def export(self, project):
        """The JSONL file of an export, as bytes."""
        task = self.post(f"/v1/projects/{project}/download", {"format": "JSONL", "exportApproved": True}).json()[
            "task_id"
        ]
        self._wait(task)
        with zipfile.ZipFile(
            io.BytesIO(self.ask("GET", f"/v1/projects/{project}/download?taskId={task}").content)
        ) as file:
            return file.read(file.namelist()[0])


# -------------------------------------------------------------------------------------------------------- Label Studio


@contextlib.contextmanager
def label_studio_server(folder):
    """Yields a `LabelStudio` with a user, which reports nothing to its makers."""
    venv, log, (port,) = environment_of("label-studio"), folder / "label-studio.log", free_ports(1)
    off = dict.fromkeys(("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK"), "false")
    off |= dict.fromkeys(("SENTRY_DSN", "FRONTEND_SENTRY_DSN"), "")
    env = {**os.environ, **off, "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "label-studio")}
    # By default it talks to no server in a private network.
    env |= {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "USE_DEFAULT_BANNED_SUBNETS": "false"}
    words = [venv / "bin" / "label-studio", "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", port]
    words += ["--username", USER, "--password", PASSWORD, "--user-token", TOKEN]
    with started(words, log, env) as process:
        wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
        yield LabelStudio(f"http://127.0.0.1:{port}")


class LabelStudio(Api):
    def __init__(self, url):
        super().__init__(url)
        self.session.headers["Authorization"] = f"Token {TOKEN}"

    def new_project(self, name, interface):
        """The number of a project with this labelling interface."""
        return self.post("/api/projects", {"title": name, "label_config": interface}).json()["id"]

    def import_tasks(self, project, path):
        with open(path, "rb") as file:
            self.post(f"/api/projects/{project}/import", files={"file": (Path(path).name, file, "application/json")})

    def tasks(self, project):
        """Tasks with their predictions and annotations."""
        found = self.ask("GET", f"/api/tasks?project={project}&fields=all&page_size=1000").json()["tasks"]
        return sorted(found, key=lambda task: task["id"])

    def annotate(self, project, result_of):
        """Submits an annotation of each task: what `result_of(text, result of its prediction)` returns."""
        for task in self.tasks(project):
            result = result_of(task["data"]["text"], task["predictions"][0]["result"] if task["predictions"] else [])
            self.post(f"/api/tasks/{task['id']}/annotations/", {"result": result})

    def export(self, project, kind="JSON"):
        """The file of an export, as bytes."""
        return self.ask("GET", f"/api/projects/{project}/export?exportType={kind}").content

    def connect(self, project, url):
        """Connects an ML backend. Its answer says what state it is in."""
        return self.post("/api/ml", {"project": project, "url": url, "title": "suggestions"}).json()

    def ask_for_predictions(self, project):
        """The action "Retrieve Predictions" of the Data Manager, for all tasks."""
        chosen = {"selectedItems": {"all": True, "excluded": []}, "project": project}
        return self.post(f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", chosen).json()
