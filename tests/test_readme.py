"""The READMEs tell the truth: flags, commands, links. And make quickstart does what they say it does."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, lines_of

FOLDERS = (
    "", "data/", "analysis/", "deploy/predictor/", "deploy/simple_serving/", "deploy/triton_serving/",
    "deploy/paddle_serving/",
)  # fmt: skip
TWINS = [(f"{folder}README.md", f"{folder}README_zh.md") for folder in FOLDERS] + [("doccano.md", "doccano_zh.md")]
READMES = [name for pair in TWINS for name in pair]
# Where the flags of a script are told: (file without .md, heading, module).
SECTIONS = [
    *(("README", f"{name}.py", name) for name in ("train", "predict", "export_model", "prune")),
    ("README", "analysis/evaluate.py", "evaluate"),
    *(
        ("analysis/README", f"{name}.py", name)
        for name in ("check_data", "split", "word_interpret", "sent_interpret", "sparse", "dirty", "aug", "threshold")
    ),
    ("doccano", "doccano.py", "doccano"),
    ("deploy/predictor/README", "infer.py", "infer"),
    ("deploy/simple_serving/README", "server.py", "server"),
    ("deploy/simple_serving/README", "client.py", "client"),
    ("deploy/triton_serving/README", "build_repository.py", "build_repository"),
    ("deploy/triton_serving/README", "seqcls_grpc_client.py", "seqcls_grpc_client"),
    ("deploy/triton_serving/README", "seqcls_http_client.py", "seqcls_http_client"),
]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def flags_of(run, module):
    _, help_text = run(importlib.import_module(module).parse_args, "--help")
    return set(re.findall(r"--[a-z_0-9]+", help_text.partition("options:")[2]))


@pytest.mark.parametrize("language", ["", "_zh"])
@pytest.mark.parametrize(("readme", "heading", "module"), SECTIONS)
def test_every_flag_is_told(run, readme, heading, module, language):
    section = text_of(f"{readme}{language}.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(--[a-z_0-9]+)`", section))
    flags = flags_of(run, module) - {"--help", "--no"}  # --no: of --no-early_stop and its like
    assert flags and flags <= told, flags - told


@pytest.mark.parametrize("readme", READMES)
def test_every_command_is_understood(readme):
    """Each `python X.py ...` of a README parses, X.py lies where it says, and each `make X` is there."""
    folder, found = (ROOT / readme).parent, 0
    for block in re.findall(r"```shell\n(.*?)```", text_of(readme), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            script = next((word for word in words if word.endswith(".py")), None)
            if words[:1] == ["python"] and script:
                path = next((place / script for place in (folder, ROOT) if (place / script).exists()), None)
                assert path, f"{script} is neither in {folder} nor in the project's root"
                importlib.import_module(path.stem).parse_args(words[words.index(script) + 1 :])
                found += 1
            if words[:1] == ["make"]:
                assert f"\n{words[1]}:" in text_of("Makefile")
                found += 1
    assert found or readme.startswith("deploy/paddle_serving/")


@pytest.mark.parametrize("readme", READMES)
def test_links_lead_somewhere(readme):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text_of(readme)):
        assert (ROOT / readme).parent.joinpath(target).exists(), target


def test_twins_have_the_same_parts():
    for english, chinese in TWINS:
        for pattern in (r"^#+ ", r"^```", r"^\| "):
            counts = [len(re.findall(pattern, text_of(name), re.M)) for name in (english, chinese)]
            assert counts[0] == counts[1], (english, pattern)


def test_quickstart(tmp_path):
    """As a user types it, in a copy of the project, with the environment these tests run in."""
    project = tmp_path / "project"
    leave_out = shutil.ignore_patterns(".*", "quickstart", "tiny-ernie", "checkpoint", "checkpoint_last", "__pycache__")
    shutil.copytree(ROOT, project, ignore=leave_out)
    answer = subprocess.run(
        ["make", "--old-file=setup", "quickstart", f"VENV={sys.prefix}"], cwd=project, capture_output=True, text=True,
        encoding="utf-8",
    )  # fmt: skip
    log = answer.stdout + answer.stderr
    assert answer.returncode == 0, log
    micro = re.findall(r"Micro avg in dev dataset: precision: [\d.]+ \| recall: [\d.]+ \| F1 score ([\d.]+)", log)
    assert float(micro[0]) > 40  # it has learnt something from the templates that holds for hand-written rows
    assert len(lines_of(project / "quickstart" / "predicted.txt")) == 60
    assert len(lines_of(project / "data" / "bad_case.txt")) > 1
    assert (project / "quickstart" / "checkpoint" / "model_state.pdparams").exists()
    commands = [line.split() for line in answer.stdout.splitlines() if line.startswith("  ")]
    scripts = ["train.py", "evaluate.py", "predict.py", "export_model.py", "infer.py"]
    assert [Path(words[1]).name for words in commands] == scripts
    for words in commands:
        importlib.import_module(Path(words[1]).stem).parse_args(words[2:])
