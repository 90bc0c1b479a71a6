"""Locks on what a run writes: a second writer is refused, and a lock that a killed run left is taken over."""

import errno
import json
import os
import signal
import subprocess

import pytest
from conftest import ROOT, command_line, load_script
from training_runs import assert_whole, read_until, start

from text_cls import locks
from text_cls.cli import UserError, set_up_log
from text_cls.locks import write_lock
from text_cls.neural.checkpoint import read_run

HOLD = """
import sys
from text_cls.locks import write_lock
from text_cls.neural.checkpoint import read_run
with write_lock(*sys.argv[1:]):
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def log():
    set_up_log()


@pytest.fixture
def hold():
    """hold(*paths) -> a process that holds their locks, until it reads a line."""
    processes = []

    def call(*paths):
        pipe = subprocess.PIPE
        words = command_line("-c", HOLD, *paths)
        processes.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT))
        assert processes[-1].stdout.readline() == "ready\n"
        return processes[-1]

    yield call
    for process in processes:
        process.kill()
        process.communicate()


def refusal(*paths):
    with pytest.raises(UserError) as error, write_lock(*paths):
        pass
    return str(error.value)


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path, hold):
    first = hold(tmp_path / "x")
    for _ in range(2):  # being refused does not remove the lock
        message = refusal(tmp_path / "x")
        assert message.startswith(f"-c (process {first.pid} on {os.uname().nodename}, since 20")
        assert message.endswith(
            f") is writing to {tmp_path / 'x'}; wait until it has ended, or write to another folder"
        )
    first.communicate("end\n")
    assert first.returncode == 0 and os.listdir(tmp_path) == []
    with write_lock(tmp_path / "x"):
        assert os.listdir(tmp_path) == ["x.lock"]
    assert os.listdir(tmp_path) == []


def test_a_lock_that_a_killed_run_left_is_taken_over(tmp_path, hold, capfd):
    first = hold(tmp_path / "x")
    first.kill()
    first.wait()
    assert os.listdir(tmp_path) == ["x.lock"]
    with write_lock(tmp_path / "x"):
        log = capfd.readouterr().err
        assert f"x.lock was left by -c (process {first.pid} on " in log and "stop one of the two" not in log
        assert f"process {os.getpid()} on" in refusal(tmp_path / "x")  # the holder, not the one that was killed
    assert os.listdir(tmp_path) == []


def test_a_lock_that_another_computer_left_may_be_of_a_run_that_lives(tmp_path, capfd):
    """Some network folders lock on each computer separately."""
    holder = {"script": "train.py", "process": 7, "host": "elsewhere", "since": "2026-01-02 03:04:05 +0000"}
    (tmp_path / "x.lock").write_text(f" {json.dumps(holder)}\n", encoding="utf-8")
    with write_lock(tmp_path / "x"):
        log = capfd.readouterr().err
    assert "x.lock was left by train.py (process 7 on elsewhere, since 2026-01-02 03:04:05 +0000)" in log
    assert "If it still runs there, stop one of the two" in log


def test_a_link_has_the_lock_of_the_folder_it_leads_to(tmp_path, hold):
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    hold(tmp_path / "disk")
    assert f"is writing to {tmp_path / 'link'}" in refusal(tmp_path / "link")


def test_all_locks_are_given_back_if_one_is_held(tmp_path, hold):
    hold(tmp_path / "y")
    assert f"is writing to {tmp_path / 'y'}" in refusal(tmp_path / "x", tmp_path / "y")
    with write_lock(tmp_path / "x", tmp_path / "x"):  # twice the same is one
        pass


def test_a_lock_removed_by_hand_does_not_remove_the_next_one(tmp_path, hold):
    first = hold(tmp_path / "x")
    (tmp_path / "x.lock").unlink()
    second = hold(tmp_path / "x")
    first.communicate("end\n")
    assert f"process {second.pid} on" in refusal(tmp_path / "x")


def test_many_writers_one_after_the_other(tmp_path):
    """A lock's file is removed while others wait for it: never do two hold the lock."""
    code = """
import os, sys
from text_cls.locks import try_lock, unlock
for _ in range(100):
    lock = try_lock(sys.argv[1] + ".lock", 60)
    os.mkdir(sys.argv[1])  # fails if another holds the lock
    os.rmdir(sys.argv[1])
    unlock(*lock)
"""
    writers = [subprocess.Popen(command_line("-c", code, tmp_path / "x"), cwd=ROOT) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4 and os.listdir(tmp_path) == []


def test_a_file_of_the_users_is_not_taken_for_a_lock(tmp_path):
    (tmp_path / "x.lock").write_text("[package]\n", encoding="utf-8")
    assert "x.lock is not a lock of these scripts; rename it, or write to another folder" in refusal(tmp_path / "x")
    assert (tmp_path / "x.lock").read_text(encoding="utf-8") == "[package]\n"


def test_a_folder_that_does_not_exist_yet(tmp_path):
    with write_lock(tmp_path / "a" / "b" / "x"):
        pass
    assert os.listdir(tmp_path) == []
    with write_lock(tmp_path / "a" / "b" / "x"):
        (tmp_path / "a" / "b" / "x").mkdir()
    assert os.listdir(tmp_path / "a" / "b") == ["x"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    assert "cannot write " in refusal(tmp_path / "file" / "x")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, capfd, number):
    import fcntl

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with write_lock(tmp_path / "x"):
        log = capfd.readouterr().err
    assert f"x cannot be locked ({os.strerror(number)}); make sure that no other process writes to it" in log
    assert os.listdir(tmp_path) == []


def test_a_folder_whose_parent_is_read_only_is_written_without_a_lock(tmp_path, monkeypatch, capfd):
    """A new threshold, for example, is written into the folder, not beside it."""

    def try_lock(file):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(locks, "try_lock", try_lock)
    assert refusal(tmp_path / "new") == f"cannot write {tmp_path / 'new'}.lock: Permission denied"
    (tmp_path / "x").mkdir()
    with write_lock(tmp_path / "x"):
        assert "x cannot be locked (Permission denied)" in capfd.readouterr().err


def test_only_the_main_process_of_a_run_takes_the_lock(tmp_path, hold, monkeypatch):
    hold(tmp_path / "x")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    with write_lock(tmp_path / "x"):
        pass
    monkeypatch.undo()


SCRIPTS = {  # script: (flags, what it writes)
    "train.py": ("--dataset_dir {data} --save_dir {out}", "{out}"),
    "retrieval_based/train.py": ("--save_dir {out}", "{out}_last"),
    "few-shot/train.py": ("--do_train --output_dir {out}", "{out}"),
    "prune.py": ("--dataset_dir {data} --output_dir {out} --width_mult_list 1/2 3/4", "{out}/width_mult_0.75"),
    "export_model.py": ("--output_path {out}", "{out}"),
    "retrieval_based/export_model.py": ("--output_path {out}", "{out}"),
    "retrieval_based/index.py": ("build --bundle {out}", "{out}"),
    "analysis/threshold.py": ("--dataset_dir {data} --bundle {out}", "{out}"),
    "analysis/split.py": ("--dataset_dir {out}", "{out}/train.txt"),
    "data/doccano.py": ("--save_dir {out}", "{out}/train.txt"),
    "data/download.py": ("divorce --output_dir {out}", "{out}"),
    "data/make_tiny_model.py": ("--output_dir {out}", "{out}"),
    "deploy/triton_serving/build_repository.py": ("--output {out}", "{out}"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_does_not_start_while_another_process_writes_there(script, run, tmp_path):
    """It does not even read its input, which is missing here."""
    flags, path = (text.format(data=tmp_path / "data", out=tmp_path / "out") for text in SCRIPTS[script])
    with write_lock(path):
        status, log = run(load_script(script).main, *flags.split())
    assert status == 2 and log.startswith("error: ") and log.count("\n") == 1
    assert f"(process {os.getpid()} on " in log and f"is writing to {path}; wait until it has ended" in log
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("flags", [["--do_export"], ["--do_predict"]])
def test_few_shot_locks_what_it_writes_without_training(flags, run, tmp_path):
    with write_lock(tmp_path / "out"):
        status, log = run(load_script("few-shot/train.py").main, *flags, "--output_dir", tmp_path / "out")
    assert status == 2 and f"is writing to {tmp_path / 'out'}; wait" in log


def test_a_dry_run_of_threshold_needs_no_lock(run, tmp_path):
    with write_lock(tmp_path / "out"):
        flags = ["--dry_run", "--dataset_dir", tmp_path, "--params_path", tmp_path / "out"]
        status, log = run(load_script("analysis/threshold.py").main, *flags)
    assert status == 2 and "is writing to" not in log


def test_two_trainings_of_one_folder(news, tiny_model, tmp_path):
    """The second is refused, also for the folder of the first one's latest state; the first ends well."""
    folder = tmp_path / "checkpoint"
    first = start(news, tiny_model, folder)
    read_until(first, "global step 1,")
    first.send_signal(signal.SIGSTOP)  # it must not end before the others begin
    for path in (folder, f"{folder}_last"):
        second = start(news, tiny_model, path, "--seed", 9)
        _, log = second.communicate()
        assert second.returncode == 2 and f"error: train.py (process {first.pid} on " in log and "step" not in log
    first.send_signal(signal.SIGCONT)
    first.stderr.read()
    assert first.wait() == 0 and read_run(str(folder))["arguments"]["seed"] == 3
    assert_whole(folder)
    assert [path.name for path in tmp_path.glob("checkpoint*")] == ["checkpoint"]


def test_all_processes_of_a_training_end_if_it_is_refused(news, tiny_model, tmp_path, hold):
    first = hold(tmp_path / "checkpoint")
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--backend", "gloo"]
    flags = ["--dataset_dir", news, "--model_name", tiny_model, "--device", "cpu"]
    answer = subprocess.run(
        command_line(*launch, "--log_dir", tmp_path / "log", ROOT / "train.py", *flags),
        cwd=tmp_path,  # the default --save_dir is ./checkpoint
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=300,
    )
    assert answer.returncode
    assert f"process {first.pid} on" in (tmp_path / "log" / "workerlog.0").read_text(encoding="utf-8")


def test_nothing_is_left_of_a_lock_whose_block_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), write_lock(tmp_path / "x"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []
