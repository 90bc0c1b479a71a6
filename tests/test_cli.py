import argparse
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from conftest import ROOT, command_line

from text_cls.cli import Problems, UserError, command, parse_with_config, positive_int


def test_first_20_problems_and_a_count():
    problems, made = Problems(), []

    def message(number):
        made.append(number)
        return f"fault {number}"

    for number in range(30):
        problems.add(message, number)
    with pytest.raises(UserError) as error:
        problems.stop_if_any()
    text = str(error.value)
    assert text.startswith("30 problems, nothing was done:")
    assert "fault 19" in text and "fault 20" not in text and text.endswith("... and 10 more")
    assert len(made) == 20  # a message that is not shown is not built: it may search for the closest of many labels


def test_one_problem_is_one_line():
    problems = Problems()
    problems.add("only this")
    with pytest.raises(UserError, match="^only this$"):
        problems.stop_if_any()


def test_a_command_returns_a_status(capsys):
    def refuse(argv):
        raise UserError("do that")

    def stop(argv):
        raise KeyboardInterrupt

    def fail(argv):
        raise ValueError("ours")

    assert command(refuse)([]) == 2
    assert capsys.readouterr().err == "error: do that\n"
    assert command(stop)([]) == 130
    assert command(lambda argv: None)([]) == 0
    with pytest.raises(ValueError):  # a bug of ours ends with a traceback and status 1
        command(fail)([])


def parser():
    p = argparse.ArgumentParser()
    p.add_argument("--config")
    p.add_argument("--dataset_dir", required=True)
    p.add_argument("--batch_size", type=positive_int, default=32)
    p.add_argument("--learning_rate", type=float, default=1.0)
    p.add_argument("--early_stop", action=argparse.BooleanOptionalAction, default=False)
    return p


def test_config_sets_defaults_and_the_command_line_wins(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("dataset_dir: data\nbatch_size: 8\nlearning_rate: 3e-5\nearly_stop: true\n", encoding="utf-8")
    args = parse_with_config(parser(), ["--config", str(path), "--batch_size", "4"])
    assert (args.dataset_dir, args.batch_size, args.learning_rate, args.early_stop) == ("data", 4, 3e-5, True)
    assert parse_with_config(parser(), ["--config", str(path), "--no-early_stop"]).early_stop is False


def test_config_as_json(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"dataset_dir": "数据", "early_stop": False}), encoding="utf-8")
    args = parse_with_config(parser(), ["--config", str(path)])
    assert args.dataset_dir == "数据" and args.early_stop is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bach_size: 8", "there is no flag --bach_size; did you mean 'batch_size'?"),
        ("batch_size: many", "invalid positive_int value: 'many'"),
        ("batch_size: 0", "must be 1 or more, not 0"),
        ("early_stop: perhaps", "early_stop must be true or false"),
        ("- 1\n- 2", "expected lines of the form"),
        ("a: [", "not readable as JSON or YAML"),
    ],
)
def test_config_with_a_fault(tmp_path, capsys, content, message):
    path = tmp_path / "run.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as error:
        parse_with_config(parser(), ["--config", str(path), "--dataset_dir", "data"])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_config_file(capsys):
    with pytest.raises(SystemExit):
        parse_with_config(parser(), ["--config", "nowhere.yaml"])
    assert "--config nowhere.yaml: No such file or directory" in capsys.readouterr().err


SCRIPTS = (
    "train.py",
    "predict.py",
    "analysis/evaluate.py",
    "analysis/split.py",
    "data/make_tiny_model.py",
    "data/download.py",
)
SCRIPTS += ("export_model.py", "prune.py", "deploy/predictor/infer.py")
SCRIPTS += ("deploy/triton_serving/build_repository.py", "deploy/triton_serving/seqcls_grpc_client.py")
SCRIPTS += ("deploy/triton_serving/seqcls_http_client.py", "deploy/simple_serving/client.py")
SCRIPTS += ("few-shot/train.py", "few-shot/infer.py")
SCRIPTS += tuple(
    f"retrieval_based/{name}.py" for name in ("train", "recall", "evaluate", "predict", "export_model", "index")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    """--help must answer at once; Paddle alone takes seconds to import."""
    code = (
        "import runpy, sys\n"
        f"sys.argv, sys.path[0] = ['{script}', '--help'], {str(Path(script).parent)!r}\n"
        "try:\n"
        f"    runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'paddle', 'paddlenlp', 'sklearn', 'scipy', 'pandas', 'yaml', 'tqdm', 'requests'}\n"
        "heavy = (heavy | {'onnx', 'onnxruntime', 'tokenizers'}) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    answer = subprocess.run(command_line("-c", code), cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 0, answer.stderr
    assert "usage:" in answer.stdout


BAR_AND_LOG = """
from text_cls.cli import logger, progress_bar, set_up_log
set_up_log()
with progress_bar(2, "row") as bar:
    bar.update(1)
    logger.info("one is done")
    bar.update(1)
"""


def on_a_terminal(code, columns):
    """What Python writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    process = subprocess.Popen(command_line("-c", code), cwd=ROOT, stderr=theirs)
    os.close(theirs)
    output = b""
    try:
        while piece := os.read(ours, 4096):
            output += piece
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(ours)
    assert process.wait() == 0
    return output.decode("utf-8")


@pytest.mark.parametrize(("columns", "width"), [(0, 80), (60, 60)])
def test_a_bar_on_a_terminal_and_the_log_above_it(columns, width):
    lines = on_a_terminal(BAR_AND_LOG, columns).splitlines()
    bars = [line for line in lines if "%|" in line]
    assert "2/2" in bars[-1] and len(bars[-1]) in (width - 1, width)
    logged = [number for number, line in enumerate(lines) if "one is done" in line]
    assert len(logged) == 1 and "%|" not in lines[logged[0]]
    assert any("50%|" in line for line in lines[logged[0] :])  # drawn again below it


def test_no_bar_in_a_file():
    done = subprocess.run(command_line("-c", BAR_AND_LOG), cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "%|" not in done.stderr
