"""Runs of train.py as processes, and comparisons of the checkpoints they write."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, command_line

from text_cls.neural.checkpoint import read_run
from text_cls.neural.compat import import_paddle

paddle = import_paddle()


def losses(log):
    """The losses in the lines of a log."""
    return [float(value) for value in re.findall(r"global step \d+, .* loss: ([\d.]+),", log)]


def weights(folder):
    state = paddle.load(str(Path(folder, "model_state.pdparams")))
    return {name: value.numpy() for name, value in state.items()}


def assert_same_weights(folder, other, tolerance=1e-6):
    """Equal but for rounding: on some processors, it depends on where the arrays of a matrix product lie in memory.

    A key's bias adds the same to all scores of a query, which softmax ignores: its true gradient is 0, and Adam makes
    whole steps from the rounding errors there. So it is not compared.
    """
    expected = weights(other)
    for name, value in weights(folder).items():
        if not name.endswith("k_proj.bias"):
            assert value == pytest.approx(expected[name], abs=tolerance), name


def history(folder):
    return read_run(str(folder))["progress"]["history"]


def start(dataset, model, folder, *flags):
    quick = "--device cpu --max_seq_length 32 --learning_rate 1e-3 --logging_steps 1 --batch_size 16".split()
    quick += ["--head_start", "random"]
    where = ["--dataset_dir", dataset, "--model_name", model, "--save_dir", folder]
    return subprocess.Popen(
        command_line("-u", ROOT / "train.py", *where, *quick, *flags),
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
    )


def read_until(process, text):
    """The log up to the first line with the text."""
    log = ""
    for line in process.stderr:
        log += line
        if text in line:
            return log
    raise AssertionError(f"{text!r} never came:\n{log}")


def assert_whole(folder):
    """If the folder exists, it is complete and its weights load."""
    if Path(folder).exists():
        assert set(os.listdir(folder)) == set(read_run(str(folder))["files"])
        assert weights(folder)


def compare(log, folder, expected):
    """The losses in the log and the saved model are those of the uninterrupted run."""
    status, expected_log, expected_folder = expected
    assert status == 0
    of = dict(re.findall(r"global step (\d+), .* loss: ([\d.]+),", expected_log))
    steps = re.findall(r"global step (\d+), .* loss: ([\d.]+),", log)
    assert set(of) == {step for step, _ in steps}
    assert all(float(of[step]) == pytest.approx(float(loss), abs=1.1e-5) for step, loss in steps)  # 5 digits
    for here, there in zip(history(folder), history(expected_folder), strict=True):
        assert here == pytest.approx(there, abs=1e-6)
    assert_same_weights(folder, expected_folder)
