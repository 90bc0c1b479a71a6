"""The READMEs tell the truth: flags, commands, links. And make quickstart does what they say it does."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, lines_of, load_script

FOLDERS = (
    "",
    "data/",
    "analysis/",
    "deploy/predictor/",
    "deploy/simple_serving/",
    "deploy/triton_serving/",
    "deploy/paddle_serving/",
    "few-shot/",
    "retrieval_based/",
)
TWINS = [(f"{folder}README.md", f"{folder}README_zh.md") for folder in FOLDERS] + [
    ("data/doccano.md", "data/doccano_zh.md")
]
READMES = [name for pair in TWINS for name in pair]
# Where the flags of a script are told: (file without .md, heading, script).
SECTIONS = [
    *(("README", name, name) for name in ("train.py", "predict.py", "export_model.py", "prune.py")),
    ("README", "analysis/evaluate.py", "analysis/evaluate.py"),
    *(
        ("analysis/README", f"{name}.py", f"analysis/{name}.py")
        for name in ("check_data", "split", "word_interpret", "sent_interpret", "sparse", "dirty", "aug", "threshold")
    ),
    ("data/doccano", "doccano.py", "data/doccano.py"),
    *(
        (f"{folder}/README", f"{name}.py", f"{folder}/{name}.py")
        for folder, names in (
            ("deploy/predictor", ("infer",)),
            ("deploy/simple_serving", ("server", "client")),
            ("deploy/triton_serving", ("build_repository", "seqcls_grpc_client", "seqcls_http_client")),
            ("retrieval_based", ("train", "recall", "evaluate", "predict", "export_model", "index")),
            ("few-shot", ("train", "infer")),
        )
        for name in names
    ),
]


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def script_at(path):
    """The module of a script, by its path from the root; the one that a test imports by name, if there is one."""
    name = Path(path).stem
    found = importlib.util.find_spec(name)
    same = found and Path(found.origin) == ROOT / path
    return importlib.import_module(name) if same else load_script(path)


def flags_of(run, path, *command):
    _, help_text = run(script_at(path).parse_args, *command, "--help")
    options = help_text.partition("options:")[2]
    inner = None if command else re.search(r"^ +(\w+(\|\w+)+)$", help_text, re.M)  # add|remove: each has its own
    inner = inner[1].split("|") if inner else ()
    return set(re.findall(r"--[a-z_0-9]+", options)).union(*(flags_of(run, path, name) for name in inner))


@pytest.mark.parametrize("language", ["", "_zh"])
@pytest.mark.parametrize(("readme", "heading", "script"), SECTIONS)
def test_every_flag_is_told(run, readme, heading, script, language):
    section = text_of(f"{readme}{language}.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(--[a-z_0-9]+)`", section))
    flags = flags_of(run, script) - {"--help", "--no"}  # --no: of --no-early_stop and its like
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
                script_at(str(path.resolve().relative_to(ROOT))).parse_args(words[words.index(script) + 1 :])
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
        ["make", "--old-file=setup", "quickstart", f"VENV={sys.prefix}"],
        cwd=project,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
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
        script_at(words[1]).parse_args(words[2:])
