"""`train.py --resume`: a run that was stopped or killed continues as if nothing had happened, or says why it cannot."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from training_runs import assert_same_weights, assert_whole, compare, history, read_until, start

import train as script
from text_cls.cli import UserError
from text_cls.neural import run_state, training
from text_cls.neural.checkpoint import read_run
from text_cls.neural.compat import import_paddle
from text_cls.neural.evaluation import Evaluation
from text_cls.neural.training_state import load_training_state, read_training_state, training_state

paddle = import_paddle()


def test_a_run_killed_and_resumed_ends_as_if_nothing_had_happened(news, train, tiny_model, tmp_path):
    """SIGKILL twice, within and between epochs, while the state is saved after every step."""
    same = ("--epochs", 5, "--batch_size", 16)
    expected = train(news, *same, save_dir=tmp_path / "whole")
    folder, often = tmp_path / "killed", ("--save_minutes", 1e-9)
    full_log = ""
    for last_words in ("global step 4,", "global step 9,"):
        process = start(news, tiny_model, folder, *same, *often, "--resume")
        full_log += read_until(process, last_words)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert_whole(folder)
        assert_whole(f"{folder}_last")
    status, log, _ = train(news, *same, *often, "--resume", save_dir=folder)
    assert status == 0 and "resuming at step" in log
    compare(full_log + log, folder, expected)
    assert not Path(f"{folder}_last").exists()
    status, log, _ = train(news, *same, "--resume", save_dir=folder)
    assert status == 0 and "This run has finished already" in log and "global step" not in log


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ctrl_c_saves(news, train, tiny_model, tmp_path, number, status):
    """With accumulation and without length buckets, stopped within the first epochs."""
    same = ("--epochs", 15, "--batch_size", 8, "--gradient_accumulation_steps", 2, "--no-length_buckets")
    expected = train(news, *same, save_dir=tmp_path / "whole")
    folder = tmp_path / "stopped"
    process = start(news, tiny_model, folder, *same)
    log = read_until(process, "global step 2,")
    process.send_signal(number)
    log += process.stderr.read()
    assert process.wait() == status
    process.stderr.close()
    assert f"saved in {folder}_last; to continue: --resume" in log
    assert_whole(f"{folder}_last")
    code, rest, _ = train(news, *same, "--resume", save_dir=folder)
    assert code == 0
    compare(log + rest, folder, expected)


def test_killed_at_any_moment_leaves_whole_folders(news, tiny_model, tmp_path):
    folder = tmp_path / "killed"
    process = start(news, tiny_model, folder, "--epochs", 99, "--save_minutes", 1e-9)
    log = read_until(process, "eval loss")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    random = np.random.default_rng(0)
    for _ in range(3):
        assert_whole(folder)
        assert_whole(f"{folder}_last")
        process = start(news, tiny_model, folder, "--epochs", 99, "--save_minutes", 1e-9, "--resume")
        log = read_until(process, "resuming at step")
        time.sleep(random.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert_whole(folder)
    assert_whole(f"{folder}_last")
    assert "Traceback" not in log


def stop_early(dataset, train, **kwargs):
    """Stops a run in its first epoch. Returns its folder."""

    class Stopped(training.StopSignal):
        def __enter__(self):
            entered = super().__enter__()
            self.number = signal.SIGINT
            return entered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "StopSignal", Stopped)
        status, log, folder = train(dataset, **kwargs)
    assert status == 130 and "Stopped at step 1" in log
    return folder


def test_resume_refuses_another_run(news, train):
    folder = stop_early(news, train)
    write_lines(news / "train.txt", [*lines_of(news / "train.txt"), "多了一行"])
    write_lines(news / "label.txt", [*lines_of(news / "label.txt"), "新标签"])
    status, log, _ = train(news, "--resume", "--learning_rate", "5e-5", "--seed", 4, save_dir=folder)
    assert status == 2
    assert "4 problems" in log
    assert "--resume: --learning_rate was 0.001, now it is 5e-05" in log and "--seed was 3, now it is 4" in log
    assert "--resume: train.txt is not the file that run started with" in log
    assert "--resume: label.txt is not the file that run started with" in log


def test_resume_refuses_another_model(news, train, learner):
    folder = stop_early(news, train)
    status, log, _ = train(news, "--resume", "--model_name", learner, save_dir=folder)
    assert status == 2 and "--resume: --model_name was" in log


def test_resume_allows_changes_that_do_not_matter(news, train, tmp_path):
    folder = stop_early(news, train)
    moved = tmp_path / "moved"
    shutil.copytree(news, moved)
    status, log, _ = train(moved, "--resume", "--logging_steps", 2, "--test_file", "dev.txt", save_dir=folder)
    assert status == 0 and "resuming at step 1" in log and "Test dataset size" in log


def test_a_run_with_initial_weights_is_resumed(news, train, tmp_path):
    """By the same command and --resume. One that was stopped before its first step starts from those weights."""
    _, _, first = train(news, save_dir=tmp_path / "first")
    start = ("--init_from_ckpt", first / "model_state.pdparams")
    expected = train(news, *start, save_dir=tmp_path / "whole")
    folder = tmp_path / "stopped"
    stop_early(news, lambda data, **where: train(data, *start, **where), save_dir=folder)
    status, log, _ = train(news, *start, "--resume", save_dir=folder)
    assert status == 0 and "resuming at step 1" in log, log
    assert_same_weights(folder, expected[2])
    assert history(folder) == history(expected[2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, "run_all", lambda *_: 1)
        train(news, *start, save_dir=tmp_path / "early")
    assert not (tmp_path / "early").exists() and (tmp_path / "early_last").exists()
    assert train(news, *start, "--resume", save_dir=tmp_path / "early")[0] == 0
    assert_same_weights(tmp_path / "early", expected[2])


def test_patience_continues_to_count_after_a_stop(news, train, tmp_path, monkeypatch):
    scores = [0.5, 0.2, KeyboardInterrupt, 0.2, 0.9]
    done = []

    def evaluate(self, rows, tokens):
        if len(rows) <= 8:  # the rehearsal's
            return {}
        done.append(rows)
        if scores[len(done) - 1] is KeyboardInterrupt:
            raise KeyboardInterrupt
        return {"loss": 0.1, "micro_f1": 0.1, "macro_f1": scores[len(done) - 1], "accuracy": 0.0}

    monkeypatch.setattr(Evaluation, "evaluate", evaluate)
    flags = ("--epochs", 6, "--early_stop", "--early_stop_nums", 2)
    assert train(news, *flags, save_dir=tmp_path / "out")[0] == 130
    status, log, folder = train(news, *flags, "--resume", save_dir=tmp_path / "out")
    assert status == 0 and len(done) == 4 and "Early stop!" in log, log
    assert read_run(str(folder))["progress"]["best_score"] == 0.5


def test_resume_without_a_saved_run_starts_one(news, train):
    status, log, _ = train(news, "--resume")
    assert status == 0 and "--resume: nothing is saved yet; starting from the beginning" in log


def test_resume_of_a_run_whose_state_is_gone(news, train):
    folder = stop_early(news, train)
    shutil.move(f"{folder}_last", folder)
    status, log, _ = train(news, "--resume", save_dir=folder)
    assert status == 2 and log.rstrip().endswith(f"use --init_from_ckpt {folder}")


def test_a_new_run_says_that_it_replaces_a_stopped_one(news, train):
    folder = stop_early(news, train)
    status, log, _ = train(news, save_dir=folder)
    assert status == 0 and "holds a run that was stopped; this one replaces it. To continue it: --resume" in log


@pytest.fixture
def finished(news, train):
    """Folder of a run that has finished."""
    assert train(news)[0] == 0
    return train(news, "--resume")[2]


def test_a_finished_run_is_recognised_before_anything_is_loaded(news, train, finished, monkeypatch):
    def loaded(*_):
        pytest.fail("the data was read")

    monkeypatch.setattr(script, "read_data", loaded)
    for flags in (("--resume",), ("--resume", "--logging_steps", 3)):
        status, log, _ = train(news, *flags, save_dir=finished)
        assert status == 0 and log.count("This run has finished already") == 1
    for flags in (("--early_stop_nums", 4), ("--seed", 9)):  # 10 was chosen for the hierarchy
        with pytest.raises(pytest.fail.Exception):
            train(news, "--resume", *flags, save_dir=finished)


def test_a_finished_run_needs_no_paddle(news, tiny_model, train, finished):
    """The same command as a process, in which Paddle cannot be imported."""
    flags = "--device cpu --max_seq_length 32 --epochs 1 --learning_rate 1e-3 --head_start random --resume".split()
    where = ["--dataset_dir", str(news), "--model_name", str(tiny_model), "--save_dir", str(finished)]
    code = "import sys; sys.modules['paddle'] = sys.modules['paddlenlp'] = None; import train; sys.exit(train.main())"
    done = subprocess.run(command_line("-c", code, *where, *flags), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "This run has finished already" in done.stderr, done.stderr


def test_resume_starts_a_run_over_an_older_finished_one(news, train, finished):
    """Also if it was killed before its first save, again and again."""
    before = (finished / "model_state.pdparams").read_bytes()
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.Trainer, "rehearse", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            status, log, _ = train(news, "--resume", "--seed", 9, save_dir=finished)
        assert status == 130 and "starting from the beginning" in log
        assert "an older run, which finished: --seed was 3, now it is 9. The first checkpoint of this one" in log
        assert (finished / "model_state.pdparams").read_bytes() == before
    assert train(news, "--resume", "--seed", 9, save_dir=finished)[0] == 0
    assert read_run(str(finished))["arguments"]["seed"] == 9


def test_a_kill_while_the_last_state_is_deleted_leaves_a_finished_run(news, train, finished, monkeypatch):
    """The state stays whole, or under a temporary name; a new run with other flags replaces it."""
    shutil.rmtree(finished)
    monkeypatch.setattr(training, "remove_folder", lambda _: None)
    assert train(news, save_dir=finished)[0] == 0 and Path(f"{finished}_last").exists()
    monkeypatch.undo()
    status, log, _ = train(news, "--resume", save_dir=finished)
    assert status == 0 and "This run has finished already" in log and "global step" not in log
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, "run_all", lambda _: 1)
        status, log, _ = train(news, "--resume", "--seed", 9, save_dir=finished)
    assert "--seed was 3, now it is 9. The first checkpoint of this one replaces it" in log
    assert read_run(f"{finished}_last")["arguments"]["seed"] == 9
    status, log, _ = train(news, "--resume", "--seed", 9, save_dir=finished)
    assert status == 0 and "global step 3," in log and not Path(f"{finished}_last").exists()


def test_a_half_deleted_state_of_a_finished_run(news, train, finished):
    """As older versions left it."""
    last = Path(f"{finished}_last")
    last.mkdir()
    shutil.copy(finished / "vocab.txt", last)
    assert "This run has finished already" in train(news, "--resume", save_dir=finished)[1]


def test_a_run_that_has_not_finished_is_not_replaced(news, train):
    folder = stop_early(news, train)
    with pytest.raises(UserError, match="--resume: --seed was 3, now it is 4"):
        run_state.saved_progress(str(folder), {**read_run(f"{folder}_last")["arguments"], "seed": 4}, {})


def test_the_loss_scale_of_fp16_is_resumed_too(tmp_path):
    """With Paddle's own scaler, whose check for a GPU is circumvented."""

    def scaler():
        made = paddle.amp.GradScaler(enable=False)
        made._enable = True
        made._incr_count = made._decr_count = 0
        made._incr_ratio, made._decr_ratio, made._incr_every_n_steps, made._decr_every_n_nan_or_inf = 2.0, 0.5, 1000, 2
        made._use_dynamic_loss_scaling, made._init_loss_scaling = True, 32768.0
        made._scale = paddle.to_tensor([32768.0])
        return made

    first, second = scaler(), scaler()
    first._scale, first._incr_count = paddle.to_tensor([1024.0]), 7
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=paddle.nn.Linear(2, 2).parameters())
    np.savez(tmp_path / "training_state.npz", **training_state(optimizer, first))
    load_training_state(read_training_state(tmp_path), optimizer, second)
    assert float(second._scale) == 1024 and second._incr_count == 7
