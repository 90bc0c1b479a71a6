"""The package that `pip install .` installs: built in a copy, installed in a fresh environment, used from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT, lines_of

from text_cls.serving import open_predictor

CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
# pip's words when there is no index to install from, or it cannot be reached.
NO_INDEX = "No matching distribution found|ConnectionError|Failed to establish|Temporary failure in name resolution"
PREDICT = """
import json, sys
import text_cls
from text_cls.serving import open_predictor

predictor = open_predictor(sys.argv[1])
labels = [names for names, _ in predictor.predict(json.loads(sys.argv[2]))]
print(json.dumps({"package": text_cls.__file__, "paddle": "paddle" in sys.modules, "labels": labels}))
"""


def check_call(*words, cwd=None):
    """Runs a command without the variables that would let it find the checkout; returns what it printed."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    answer = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=variables, capture_output=True, text=True, encoding="utf-8"
    )
    if answer.returncode and not os.environ.get("CI") and re.search(NO_INDEX, answer.stdout + answer.stderr):
        pytest.skip("the package index cannot be reached")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy of the checkout because setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "project"
    for name in ("text_cls", "requirements", "analysis", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", *(path.name for path in ROOT.glob("*.py"))):
        shutil.copy(ROOT / name, copy)
    check_call(sys.executable, "-m", "pip", "wheel", copy, "--no-deps", "--no-build-isolation", "-w", folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    """The lines of the wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode("utf-8").splitlines()


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    wanted = [path for ending in ("*.py", "*.mo") for path in (ROOT / "text_cls").rglob(ending)]
    assert names == {str(path.relative_to(ROOT)) for path in wanted}
    assert len(licences) == 1


def test_metadata(metadata):
    assert "Name: text-cls" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: <3.13,>=3.10" in metadata


@pytest.mark.parametrize(
    ("extra", "files"),
    [
        ("serve", ["serve"]),
        ("train", ["train", "cpu", "tables"]),
        ("tables", ["tables"]),
        ("index", ["index"]),
        ("milvus", ["milvus"]),
        ("bulk", ["bulk"]),
        ("trackers", ["trackers"]),
        ("search", ["search"]),
    ],
)
def test_extras_are_the_requirement_files(metadata, extra, files):
    required = [line for line in metadata if line.startswith("Requires-Dist:") and line.endswith(f'extra == "{extra}"')]
    lines = [line for name in files for line in lines_of(ROOT / "requirements" / "extras" / f"{name}.txt")]
    listed = [line.partition("#")[0].strip() for line in lines]
    assert [re.split("[ ;]+", line)[1] for line in required] == [line for line in listed if line]


def test_a_fresh_environment_predicts_without_the_checkout(wheel, bundles, trained, tmp_path):
    """As a user's own program does it: `pip install 'text-cls[serve]'`, another folder, no Paddle."""
    check_call(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    check_call(python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, f"{wheel}[serve]")
    check_call(python, "-m", "pip", "check")
    for task, bundle in bundles.items():
        texts = lines_of(trained[task][0] / "data.txt")[:8]
        found = json.loads(check_call(python, "-c", PREDICT, bundle, json.dumps(texts), cwd=tmp_path))
        assert found["package"].startswith(str(tmp_path / "venv"))
        assert not found["paddle"]
        assert found["labels"] == [names for names, _ in open_predictor(str(bundle)).predict(texts)]
        assert any(found["labels"])
