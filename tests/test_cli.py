import argparse
import json
import subprocess

import pytest
from conftest import ROOT, command_line

from cli import Problems, UserError, command, parse_with_config, positive_int


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
    assert len(made) == 20  # a message that is not shown is not made: it may look for the closest of many labels


def test_one_problem_is_one_line():
    problems = Problems()
    problems.add("only this")
    with pytest.raises(UserError, match="^only this$"):
        problems.stop_if_any()


def test_command_answers_with_a_status(capsys):
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
    with pytest.raises(ValueError):  # Python ends with 1 and a traceback: a fault of ours is not dressed up
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


def test_config_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        parse_with_config(parser(), ["--config", "nowhere.yaml"])
    assert "--config nowhere.yaml: No such file or directory" in capsys.readouterr().err


SCRIPTS = ("train.py", "predict.py", "analysis/evaluate.py", "data/make_tiny_model.py", "data/download.py")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_nothing_heavy(script):
    """--help must answer at once; Paddle alone takes seconds to import."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}', '--help']\n"
        "try:\n"
        f"    runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "heavy = {'paddle', 'paddlenlp', 'sklearn', 'scipy', 'pandas', 'yaml', 'tqdm', 'requests'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    answer = subprocess.run(command_line("-c", code), cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 0, answer.stderr
    assert "usage:" in answer.stdout
