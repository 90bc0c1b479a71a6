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

TWINS = [(f"{folder}README.md", f"{folder}README_zh.md") for folder in ("", "data/", "deploy/predictor/")]
READMES = [name for pair in TWINS for name in pair]
SCRIPTS = {
    "train.py": "train", "predict.py": "predict", "analysis/evaluate.py": "evaluate",
    "export_model.py": "export_model", "prune.py": "prune", "deploy/predictor/infer.py": "infer",
}  # fmt: skip
SECTIONS = [(script, module, "") for script, module in SCRIPTS.items() if module != "infer"]
SECTIONS.append(("infer.py", "infer", "deploy/predictor/"))


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def flags_of(run, module):
    _, help_text = run(importlib.import_module(module).parse_args, "--help")
    return set(re.findall(r"--[a-z_0-9]+", help_text.partition("options:")[2]))


@pytest.mark.parametrize("readme", ["README.md", "README_zh.md"])
def test_every_flag_is_told(run, readme):
    for script, module, folder in SECTIONS:
        section = text_of(folder + readme).partition(f"\n## {script}\n")[2].partition("\n## ")[0]
        told = set(re.findall(r"`(--[a-z_0-9]+)`", section))
        flags = flags_of(run, module) - {"--help", "--no"}  # --no: of --no-early_stop and its like
        assert flags and flags <= told, (script, flags - told)


@pytest.mark.parametrize("readme", READMES)
def test_every_command_is_understood(readme):
    modules = {
        **SCRIPTS,
        "data/make_tiny_model.py": "make_tiny_model",
        "data/download.py": "download",
        "infer.py": "infer",
    }
    found = 0
    for block in re.findall(r"```shell\n(.*?)```", text_of(readme), re.S):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            for script, module in modules.items():
                if script in words and words[0] == "python":
                    importlib.import_module(module).parse_args(words[words.index(script) + 1 :])
                    found += 1
            if words[:1] == ["make"]:
                assert f"\n{words[1]}:" in text_of("Makefile")
                found += 1
    assert found >= 3


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
