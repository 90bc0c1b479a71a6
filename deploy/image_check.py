"""Check the files of the image without Docker: linters, then the steps of the Dockerfile in a bare folder.

    make image-check
    python deploy/image_check.py --bundle export
    python deploy/image_check.py --bundle export --python .venv/bin/python

The second part does what `docker build` and `docker run --read-only` would do, as far as that is possible without
them: it copies what the Dockerfile copies, installs the packages, starts the server in that folder without write
access, with no variable of this environment, runs the health check, asks for labels, and stops it. It proves nothing
about the base image.
"""

import argparse
import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import UserError, command
from text_cls.language import tr

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCKERFILE = HERE / "Dockerfile"
LINTERS = (  # run in deploy/
    ("hadolint", "Dockerfile"),
    ("yamllint", "-s", "-c", "yamllint.yaml", "compose.yaml", "kubernetes", "yamllint.yaml"),
    ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"),
    (
        "kubernetes-validate",
        "--strict",
        *(f"kubernetes/{name}.yaml" for name in ("deployment", "service", "disruption")),
    ),
)
READY_SECONDS, STOP_SECONDS = 60, 20
NO_RIGHTS = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")  # not even root may write then
TEXT = "台风登陆，学校停课一天"


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, help="folder that an export script wrote, to serve")
    parser.add_argument("--python", help="interpreter that has the packages, instead of installing them")
    return parser.parse_args(argv)


def lint():
    """Runs the linters. Raises UserError if one finds something, or is missing."""
    for program, *words in LINTERS:
        path = Path(sys.executable).parent / program
        if not path.exists():
            raise UserError(
                tr(
                    "{program} is not installed beside {executable}; make image-check installs it",
                    program=program,
                    executable=sys.executable,
                )
            )
        if subprocess.run([path, *words], cwd=HERE).returncode:
            raise UserError(
                tr("{program} finds fault with deploy/{words}; its lines are above", program=program, words=words[-1])
            )
        print(f"{program}: {' '.join(word for word in words if '.' in word or word == 'kubernetes')}", flush=True)


class Image:
    """The files of an image as it is built. Its stages are folders; paths of the image become paths in them.

    Args:
        folder: empty.
        python: interpreter with the packages, or None to install them.
    """

    def __init__(self, folder, python=None):
        self.folder, self.python = folder, python
        self.stages, self.root, self.workdir, self.env, self.last = {}, None, "/", {}, {}

    def path(self, path):
        """Where a path of the image is; a relative one is in its working folder."""
        return self.root / os.path.join(self.workdir, path).lstrip("/")

    def words(self, words):
        """The words of a command, with paths of the image in their places."""
        if self.python:
            words = [os.path.abspath(self.python) if word == "/venv/bin/python" else word for word in words]
        return [re.sub(r"^/(?=(app|venv|models)\b)", f"{self.root}/", word) for word in words]

    def build(self, steps):
        """Does the steps: dicts with `instruction` and `value`."""
        for step in steps:
            name, value = step["instruction"], step["value"]
            if name not in ("COMMENT", "EXPOSE", "STOPSIGNAL"):
                print(f"{name} {value if len(value) < 110 else value[:107] + '...'}", flush=True)
            if method := getattr(self, f"_{name.lower()}", None):
                method(value)
            elif name in ("HEALTHCHECK", "ENTRYPOINT", "USER"):
                self.last[name] = value
            elif name not in ("COMMENT", "EXPOSE", "STOPSIGNAL"):
                raise UserError(
                    tr("{dockerfile}: image_check.py does not know {name}; teach it", dockerfile=DOCKERFILE, name=name)
                )

    def _from(self, value):
        name = value.split()[-1] if " AS " in value else "image"
        self.stages[name] = self.root = self.folder / name
        self.root.mkdir()
        self.workdir, self.env = "/", {}

    def _workdir(self, value):
        self.workdir = value
        self.path(".").mkdir(parents=True, exist_ok=True)

    def _env(self, value):
        self.env.update(word.split("=", 1) for word in shlex.split(value))

    def _copy(self, value):
        *sources, target = value.split()
        if sources[0].startswith("--from="):
            stage = self.stages[sources.pop(0).removeprefix("--from=")]
            if not self.python:
                shutil.copytree(stage / sources[0].strip("/"), self.path(target), symlinks=True)
            return
        for source in sources:
            if source.endswith("/"):
                shutil.copytree(ROOT / source, self.path(target), ignore=ignored, dirs_exist_ok=True)
            else:
                self.path(target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, self.path(target))

    def _run(self, value):
        for one in value.split("&&"):
            words = self.words(shlex.split(one))
            if self.python and ("venv" in words or "install" in words):
                continue
            if words[0] == "python":
                words[0] = sys.executable
            environment = {**os.environ, **self.env} if "install" in words else self.environment()  # its index, proxies
            if subprocess.run(words, cwd=self.path("."), env=environment).returncode:
                raise UserError(
                    tr("this step of {dockerfile} failed: RUN {one}", dockerfile=DOCKERFILE, one=one.strip())
                )

    def environment(self):
        """The variables in the image, and no other."""
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", **dict(zip(self.env, self.words(self.env.values())))}

    def files(self):
        """{path: size and time} of all files and folders of the last stage."""
        return {path: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(self.root.rglob("*"))}


def ignored(folder, names):
    """The names of a folder that Dockerfile.dockerignore keeps out of the image, or git out of the project."""
    lines = (HERE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.removeprefix("**/") for line in lines if line and line[0] not in "#!*" or line.startswith("**/")]
    paths = {name: (Path(folder) / name).relative_to(ROOT).as_posix() for name in names}
    return [
        name for name, path in paths.items() if any(fnmatch.fnmatch(text, p) for p in patterns for text in (name, path))
    ]


def serve(image, bundle):
    """Starts the server of an image, asks it for labels, and stops it. Raises UserError if something goes wrong."""
    shutil.copytree(bundle, image.root / "models" / "export")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**image.environment(), "TEXT_CLS_PORT": str(port), "TEXT_CLS_HOST": "127.0.0.1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1" if image.python else ""  # of that interpreter's own folders
    before, words = image.files(), image.words(json.loads(image.last["ENTRYPOINT"]))
    check = image.words(json.loads(image.last["HEALTHCHECK"].partition("CMD ")[2]))
    subprocess.run(["chmod", "-R", "a-w", image.root], check=True)
    rights = NO_RIGHTS if shutil.which(NO_RIGHTS[0]) and os.geteuid() == 0 else ()
    server = subprocess.Popen(
        [*rights, *words], cwd=image.path("."), env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + READY_SECONDS
        while subprocess.run(check, env=environment, capture_output=True).returncode:
            if server.poll() is not None or time.monotonic() > end:
                server.kill()
                raise UserError(
                    tr("the server of the image did not become healthy:\n{read}", read=server.stderr.read())
                )
            time.sleep(0.2)
        print("HEALTHCHECK succeeds", flush=True)
        names = ask(port)
        server.send_signal(signal.SIGTERM)
        status = server.wait(STOP_SECONDS)
    finally:
        server.kill()
        server.wait()
        subprocess.run(["chmod", "-R", "u+w", image.root], check=True)
    if status:
        raise UserError(
            tr(
                "after SIGTERM the server exited with status {status}:\n{read}",
                status=status,
                read=server.stderr.read(),
            )
        )
    if strange := [path for path, stamp in image.files().items() if before.get(path) != stamp and not path.is_dir()]:
        raise UserError(
            tr("the server wrote to {strange}, but the root of its container may be read-only", strange=strange[0])
        )
    print(
        tr("{text}: {names}. Nothing was written; SIGTERM ended it with status 0", text=TEXT, names=names), flush=True
    )


def ask(port):
    """The names of a text's labels."""

    def answer(path, value=None):
        body = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.load(response)

    return answer(answer("/info")["route"], {"data": {"text": TEXT}})["result"]["label_name"]


@command
def main(argv=None):
    args = parse_args(argv)
    if not Path(args.bundle, "manifest.json").is_file():
        raise UserError(
            tr("--bundle {bundle}: not a bundle; name a folder that export_model.py wrote", bundle=args.bundle)
        )
    lint()
    from dockerfile_parse import DockerfileParser

    steps = DockerfileParser(path=str(DOCKERFILE)).structure
    with tempfile.TemporaryDirectory(prefix="text-cls-image-") as folder:
        image = Image(Path(folder), args.python)
        image.build(steps)
        serve(image, args.bundle)
    print(tr("Not checked: the base image, the image's user, docker build and docker run themselves"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
