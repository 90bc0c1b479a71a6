import argparse
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path

import pytest
from conftest import ROOT, command_line

from text_cls.cli import (
    Problems,
    UserError,
    command,
    finite_number,
    non_negative_float,
    non_negative_int,
    positive_int,
    stop_signals,
    whole_number,
)


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


NUMBER_FLAGS = (positive_int, non_negative_int, whole_number, non_negative_float, finite_number)


@pytest.mark.parametrize("kind", NUMBER_FLAGS)
@pytest.mark.parametrize("text", ["x", "", "nan", "inf", "-inf", "1e999"])
def test_what_is_no_number(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match="^must be a (whole )?number.*, not "):
        kind(text)


def test_numbers():
    assert [whole_number("-1"), finite_number("-0.5"), finite_number("1e3"), non_negative_int("0")] == [
        -1,
        -0.5,
        1000,
        0,
    ]


def test_no_flag_has_a_plain_type():
    """argparse would answer "invalid int value"."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    sources = [ROOT / path for path in paths if path.parts[0] != "tests" and not path.parts[0].startswith(".")]
    plain = [str(path) for path in sources if re.search(r"\btype=(int|float)[,)]", path.read_text(encoding="utf-8"))]
    assert len(sources) > 100 and plain == []


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
SCRIPTS += tuple(
    f"deploy/paddle_serving/{name}.py" for name in ("build_service", "service", "rpc_client", "http_client")
)
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
from text_cls.cli import logger, set_up_log
from text_cls.terminal import progress_bar
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


BAD_PATH = os.fsdecode("数据".encode("gbk"))


@pytest.mark.parametrize(
    ("body", "status", "out", "err"),
    [
        ("print(sys.argv[1])", 0, "数据".encode("gbk"), b""),
        ("sys.argv[1].encode()", 2, b"", rb"error: '\udc"),  # as a library does with a path
        ("cli.logger.warning(sys.argv[1])", 0, b"", rb"\udc"),
        ("raise cli.UserError(sys.argv[1])", 2, b"", rb"error: \udc"),
    ],
)
def test_a_path_that_is_not_utf_8(body, status, out, err):
    code = f"import sys; from text_cls import cli\ndef main(argv):\n    {body}\nsys.exit(cli.command(main)())"
    answer = subprocess.run(command_line("-c", code, BAD_PATH), cwd=ROOT, capture_output=True)
    assert answer.returncode == status and out in answer.stdout and err in answer.stderr
    assert b"Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("body", "status", "out"),
    [
        ("cli.logger.warning('w')\n    with terminal.progress_bar(3, 'rows') as bar: print(bar.total)", 0, "3\n"),
        ("raise cli.UserError('e')", 2, ""),
        ("argparse.ArgumentParser().error('e')", 2, ""),
    ],
)
def test_standard_error_may_be_closed(body, status, out):
    imports = "import argparse, sys; from text_cls import cli, terminal"
    code = f"{imports}\ndef main(argv):\n    {body}\nsys.exit(cli.command(main)())"
    words = ["sh", "-c", '"$@" 2>&-', "sh", *command_line("-c", code)]
    answer = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    assert (answer.returncode, answer.stdout) == (status, out)


def test_a_signal_that_nohup_ignores_stays_ignored():
    assert signal.SIGHUP in stop_signals()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_signals() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def all_scripts():
    """Paths from the root of the scripts that users run."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    kept = (p for p in paths if not p.parts[0].startswith(".") and p.parts[0] not in ("tests", "benchmarks", "docs"))
    return sorted(str(p) for p in kept if 'if __name__ == "__main__":' in (ROOT / p).read_text(encoding="utf-8"))


def test_every_script_says_its_version(run):
    from conftest import load_script

    from text_cls import __version__

    assert len(all_scripts()) > 30
    for path in all_scripts():
        status, printed = run(load_script(path).main, "--version")
        assert (status, printed.strip()) == (0, f"text-cls {__version__}"), path
