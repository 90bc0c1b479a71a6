"""A machine that serves needs only deploy/ and text_cls/ without neural/: no other file, no Paddle, no scikit-learn."""

import json
import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, command_line, lines_of

from serving import Process

ABSENT = ("paddle", "paddlenlp", "paddle2onnx", "paddleslim", "onnx", "sklearn", "scipy", "trustai")
# Runs a script as python does, but without the packages above.
SCRIPT = f"""
import os, runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TEXTS = ["台风登陆，学校停课一天", "足球", "公司裁员三成，股价当日大跌"]


def copy_of_project(folder, *names):
    for name in names:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("neural", "__pycache__"))
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with the part of the project that serves."""
    return copy_of_project(tmp_path_factory.mktemp("alone"), "deploy", "text_cls")


def words_of(folder, script, *flags):
    return command_line("-c", SCRIPT, folder / script, *flags)


def run(folder, script, *flags):
    """Runs a script of a copy from a folder elsewhere, asserts that it succeeds, and returns its output."""
    elsewhere = folder.parent
    return finish(subprocess.run(words_of(folder, script, *flags), cwd=elsewhere, capture_output=True, text=True))


def finish(answer):
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


def test_onnx_runtime_reports_nothing(alone, bundles, trained, tmp_path):
    """Its telemetry would begin with a number for this machine, kept in the user's cache folder."""
    home = tmp_path / "home"
    home.mkdir()
    # It is also silent on CI, which it knows by such variables.
    known = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    flags = ("--device", "cpu", "--model_path_prefix", bundles["news"], "--dataset_dir", trained["news"][0])
    words = words_of(alone, "deploy/predictor/infer.py", *flags, "--output_file", tmp_path / "out.txt")
    finish(subprocess.run(words, env={**known, "HOME": str(home)}, capture_output=True, text=True))
    assert list(home.rglob("*")) == []


@pytest.mark.parametrize("kind", ["classification", "retrieval"])
def test_infer(alone, bundles, retrieval, trained, kind, tmp_path):
    bundle = bundles["news"] if kind == "classification" else retrieval["news", "rows"]
    (dataset, _), script = trained["news"], "deploy/predictor/infer.py"
    where = ("--device", "cpu", "--num_threads", 1, "--model_path_prefix", bundle, "--dataset_dir", dataset)
    run(alone, script, *where, "--output_file", tmp_path / "out.txt")
    rows = [line.split("\t") for line in lines_of(tmp_path / "out.txt")]
    assert [text for text, _ in rows] == lines_of(dataset / "data.txt") and any(names for _, names in rows)
    log = run(alone, script, *where, "--perf")
    assert re.search(r"micro f1: \d+\.\d\d, macro f1: \d+\.\d\d", log) and "sample nums: 60, time: " in log


@pytest.mark.parametrize("kind", ["classification", "retrieval"])
def test_the_http_server(alone, bundles, retrieval, kind, tmp_path):
    bundle = bundles["news"] if kind == "classification" else retrieval["news", "labels"]
    words = words_of(alone, "deploy/simple_serving/server.py", "--bundle", bundle, "--port", 0, "--num_threads", 1)
    with open(tmp_path / "log", "wb") as file:
        process = subprocess.Popen(words, cwd=tmp_path, stdout=file, stderr=file)
    try:
        server = Process(process, tmp_path / "log")
        route = server.ask(path="/info")[2]["route"]
        status, _, value = server.ask("POST", route, {"data": {"text": TEXTS}, "parameters": {"prob_limit": 0}})
        assert status == 200 and all(value["result"]["label_name"])
        assert server.stop() == 0
    finally:
        process.kill()
        process.wait(30)


# Loads a model as Triton does, and prints which files of the project that took.
LOAD = f"""
import json, runpy, sys, unittest.mock
sys.modules.update(dict.fromkeys({ABSENT!r}))
sys.modules["triton_python_backend_utils"] = unittest.mock.MagicMock()
model = runpy.run_path(sys.argv[1])["TritonPythonModel"]()
if sys.argv[2]:
    model.initialize({{"model_config": sys.argv[2], "model_version": "1"}})
files = {{name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "text_cls"}}
print(json.dumps(files))
"""
CONFIGS = {
    "tokenizer": {"parameters": {"max_characters": {"string_value": "9"}}, "output": [{"name": "OUTPUT_0"}]},
    "seqcls_batcher": None,  # its configuration needs a server
    "seqcls_postprocess": {"parameters": {"bundle": {"string_value": "0"}, "metric_labels": {"string_value": "0"}}},
}


def test_a_triton_repository(alone, bundles, tmp_path):
    run(
        alone, "deploy/triton_serving/build_repository.py", "--bundle", bundles["news"], "--output", tmp_path / "models"
    )
    files = (path.relative_to(ROOT) for path in (ROOT / "text_cls").rglob("*.py"))
    library = {path for path in files if not {"neural", "serving"} & set(path.parts)}
    for model, config in CONFIGS.items():
        version = tmp_path / "models" / model / "1"
        copies = {path.relative_to(version) for path in (version / "text_cls").rglob("*")}
        assert {path for path in copies if path.suffix == ".py"} == library
        assert {path.name for path in copies if not path.suffix} == {
            *("search", "locale", "zh_CN", "LC_MESSAGES")  # the other folders are not needed
        }
        words = command_line("-c", LOAD, version / "model.py", "" if config is None else json.dumps(config))
        files = json.loads(finish(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)))
        assert len(files) > 3 and all(name.startswith(f"{version}/") for name in files.values())


def test_the_library_needs_no_deploy(bundles, retrieval, tmp_path):
    """`from text_cls.serving import open_predictor` with nothing but the library."""
    copy_of_project(tmp_path, "text_cls")
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        "from text_cls.serving import open_predictor\n"
        "for folder in sys.argv[1:]:\n"
        f"    print(len([names for names, _ in open_predictor(folder).predict({TEXTS!r})]))\n"
    )
    words = command_line("-c", code, bundles["reviews"], retrieval["reviews", "rows"])
    assert finish(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)) == "3\n3\n"


def test_an_import_from_the_rest_of_the_project_is_noticed(tmp_path):
    """Otherwise the tests above would show nothing."""
    for number, line in enumerate(("import metric", "import utils", "import text_cls.neural.model", "import sklearn")):
        folder = copy_of_project(tmp_path / str(number), "deploy", "text_cls")
        script = folder / "deploy" / "predictor" / "infer.py"
        code = script.read_text(encoding="utf-8").replace("from text_cls.cli", f"{line}\nfrom text_cls.cli", 1)
        script.write_text(code, encoding="utf-8")
        with pytest.raises(AssertionError, match="ModuleNotFoundError"):
            run(folder, "deploy/predictor/infer.py", "--help")
