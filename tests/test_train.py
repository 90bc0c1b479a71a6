import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from training_runs import assert_same_weights, assert_whole, compare, history, read_until, start, weights

import train as script
from text_cls.neural.checkpoint import read_run
from text_cls.neural.compat import import_paddle

paddle = import_paddle()

CONTRACT = {  # flag: default, as the two guides have them
    "device": "gpu",
    "save_dir": "./checkpoint",
    "max_seq_length": 128,
    "model_name": "ernie-3.0-medium-zh",
    "batch_size": 32,
    "learning_rate": 3e-5,
    "epochs": 10,
    "early_stop": False,
    "logging_steps": 5,
    "weight_decay": 0.0,
    "warmup": False,
    "warmup_steps": 0,
    "init_from_ckpt": None,
    "seed": 3,
    "train_file": "train.txt",
    "dev_file": "dev.txt",
    "label_file": "label.txt",
}


def losses(log):
    return [float(value) for value in re.findall(r"global step \d+, .* loss: ([\d.]+),", log)]


def test_defaults_are_the_guides():
    args = vars(script.parse_args(["--dataset_dir", "data"]))
    assert {name: args[name] for name in CONTRACT} == CONTRACT


# ------------------------------------------------------------------------------------------------------- a whole run


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_a_run(task, train, request):
    dataset = request.getfixturevalue(task)
    status, log, folder = train(dataset, "--epochs", 2, "--test_file", "dev.txt", "--warmup", "--warmup_steps", 2)
    assert status == 0, log
    assert re.search(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] \[    INFO\] - global step 1, epoch: 1, batch: 1, loss: \d\.\d{5}, "
        r"speed: [\d.]+ step/s, [\d.]+ text/s\n",
        log,
    )
    assert log.count("global step") == 6 and "global step 6, epoch: 2, batch: 3, loss: " in log
    assert len(re.findall(r"- eval loss: \d\.\d{5}, micro f1 score: \d\.\d{5}, macro f1 score: \d\.\d{5}\n", log)) == 2
    assert len(re.findall(r"- Current best macro f1 score: \d\.\d{5}\n", log)) == 2
    assert re.search(r"- Test dataset size: 30, accuracy: \d\.\d{5}, micro f1 score: ", log)
    assert re.search(r"- Final best macro f1 score: \d\.\d{5}\n", log)
    assert f"- Save best macro f1 text classification model in {folder}\n" in log
    found = set(os.listdir(folder))
    assert {"config.json", "model_state.pdparams", "tokenizer_config.json", "vocab.txt"} <= found  # the guides' list
    assert {"label.txt", "decision.json", "run.json"} <= found
    assert found == set(read_run(str(folder))["files"])
    assert lines_of(folder / "label.txt") == lines_of(dataset / "label.txt")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert list(config["id2label"].values()) == lines_of(dataset / "label.txt")
    assert not Path(f"{folder}_last").exists()  # nothing is left to go on with


def test_run_json_tells_where_a_checkpoint_comes_from(news, train):
    _, _, folder = train(news)
    run = read_run(str(folder))
    assert run["arguments"]["learning_rate"] == 1e-3 and run["arguments"]["early_stop_nums"] == 10
    assert set(run["data"]) == {"train.txt", "dev.txt", "label.txt"}
    assert run["packages"]["paddlenlp"] == "2.8.1" and run["processes"] == 1
    assert run["progress"]["finished"] and run["progress"]["step"] == 3
    assert run["progress"]["best_score"] == history(folder)[0]["macro_f1"]


def test_patience_is_the_label_sets(reviews, train):
    _, _, folder = train(reviews)
    assert read_run(str(folder))["arguments"]["early_stop_nums"] == 4


def test_a_checkpoint_is_saved_though_nothing_is_predicted(news, train):
    """Macro F1 stays 0; the older suite then wrote no checkpoint and said it had."""
    write_lines(news / "dev.txt", ["今天的菜谱是番茄炒蛋", "窗外下着小雨"])  # no label, so nothing to be found
    status, log, folder = train(news)
    assert status == 0 and "macro f1 score: 0.00000" in log and (folder / "model_state.pdparams").exists()


def test_early_stop(news, train):
    status, log, folder = train(news, "--learning_rate", 0, "--epochs", 9, "--early_stop", "--early_stop_nums", 2)
    assert status == 0 and "Early stop!" in log
    assert [entry["epoch"] for entry in history(folder)] == [1, 2, 3]
    assert read_run(str(folder))["progress"]["best_score"] == history(folder)[0]["macro_f1"]


def test_the_best_checkpoint_is_kept_by_the_metric_asked_for(news, train):
    status, log, folder = train(news, "--epochs", 3, "--metric_for_best", "accuracy", "--learning_rate", "1e-2")
    assert status == 0 and "Current best accuracy score" in log and "Final best accuracy score" in log
    assert read_run(str(folder))["progress"]["best_score"] == max(entry["accuracy"] for entry in history(folder))


def test_the_rate_is_not_zero_with_warmup_steps_alone(news, train, tiny_model):
    """--warmup_steps without --warmup left the older suite's rate at 0 for the whole run."""
    _, log, folder = train(news, "--warmup_steps", 2, "--epochs", 2)
    before, after = weights(tiny_model), weights(folder)
    assert any(np.abs(after[f"ernie.{name}"] - before[name]).max() > 1e-4 for name in before)


def test_the_rate_rises_and_falls_with_every_step(news, train, tmp_path):
    from visualdl import LogReader

    _, _, _ = train(news, "--epochs", 2, "--warmup_steps", 2, "--visualdl_dir", tmp_path / "curves")
    [file] = os.listdir(tmp_path / "curves")
    reader = LogReader(file_path=str(tmp_path / "curves" / file))
    rates = [item.value for item in reader.get_data("scalar", "train/learning_rate")]
    assert rates == pytest.approx([5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 0])  # after each of 6 steps
    assert len(reader.get_data("scalar", "train/loss")) == 6
    assert len(reader.get_data("scalar", "dev/macro_f1")) == 2


def test_weight_decay_spares_bias_and_norm(news, train, tmp_path):
    """With a gradient of nothing (rate 0 for Adam's part is not to be had), compare two runs: only weights differ."""
    runs = []
    for decay in (0, 10):
        _, _, folder = train(news, "--weight_decay", decay, "--batch_size", 90, save_dir=tmp_path / f"decay{decay}")
        runs.append(weights(folder))
    for name, value in runs[0].items():
        same = np.array_equal(value, runs[1][name])
        assert same == ("bias" in name or "norm" in name), name


def test_clipping_changes_what_is_learnt_only_where_it_bites(news, train, tmp_path):
    curves = []
    for norm in (0, 1e9, 1e-8):  # Adam does not mind the scale until its epsilon outweighs the gradient
        _, log, _ = train(news, "--max_grad_norm", norm, "--epochs", 2, save_dir=tmp_path / f"norm{norm}")
        curves.append(losses(log))
    assert curves[0] == pytest.approx(curves[1], abs=1.1e-5)
    assert curves[0] != pytest.approx(curves[2], abs=1e-3)


@pytest.mark.parametrize(
    "flags",
    [
        ("--num_workers", 2),
        ("--no-length_buckets",),
        ("--loss", "focal"),
        ("--loss", "distribution_balanced", "--label_smoothing", "0.1"),
    ],
)
def test_other_ways_to_train(news, train, flags):
    status, log, _ = train(news, *flags)
    assert status == 0 and len(losses(log)) == 3


def test_workers_change_nothing(news, train, tmp_path):
    one, two = (train(news, "--num_workers", n, save_dir=tmp_path / str(n))[1] for n in (0, 2))
    assert losses(one) == pytest.approx(losses(two), abs=1.1e-5)


def test_twice_the_same_run_is_the_same(news, train, tmp_path):
    first, second = (train(news, "--epochs", 2, save_dir=tmp_path / str(i)) for i in range(2))
    assert losses(first[1]) == pytest.approx(losses(second[1]), abs=1.1e-5)
    assert_same_weights(first[2], second[2])


@pytest.fixture
def still_model(run, tmp_path):
    """A model without dropout: its losses can be compared between ways of cutting the same batch."""
    import make_tiny_model

    folder = tmp_path / "still"
    small = "--hidden_size 32 --num_attention_heads 2 --intermediate_size 64 --dropout 0".split()
    assert run(make_tiny_model.main, "--output_dir", folder, *small)[0] == 0
    return folder


def test_accumulated_batches_are_one_larger_batch(news, train, still_model, tmp_path):
    """90 rows in steps of 32: the last step has 26 rows, in four batches of 8, 8, 8 and 2."""
    same = ("--epochs", 2, "--no-length_buckets", "--model_name", still_model)
    whole = train(news, "--batch_size", 32, *same, save_dir=tmp_path / "whole")
    parts = train(news, "--batch_size", 8, "--gradient_accumulation_steps", 4, *same, save_dir=tmp_path / "parts")
    assert losses(whole[1]) == pytest.approx(losses(parts[1]), abs=2e-5) and len(losses(whole[1])) == 6
    assert_same_weights(whole[2], parts[2], tolerance=1e-4)


def test_two_processes_are_one_with_twice_the_batch(news, train, still_model, tmp_path):
    """90 rows in global batches of 28: the last has 6 rows. A 29th would leave one process with none at all."""
    for rows, batch in ((90, 14), (29, 14)):
        folder = tmp_path / f"two{rows}"
        flags = ["--dataset_dir", news, "--model_name", still_model, "--device", "cpu", "--save_dir", folder]
        flags += "--max_seq_length 32 --epochs 2 --learning_rate 1e-3 --logging_steps 1".split()
        flags += ["--max_train_samples", rows, "--batch_size", batch]
        launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--backend", "gloo"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        two = subprocess.run(
            command_line(*launch, "--log_dir", tmp_path / f"log{rows}", ROOT / "train.py", *flags),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )
        assert two.returncode == 0, two.stdout + two.stderr
        logs = (tmp_path / f"log{rows}" / "workerlog.0").read_text(encoding="utf-8")
        silent = (tmp_path / f"log{rows}" / "workerlog.1").read_text(encoding="utf-8")
        assert "global step" not in silent and "eval loss" not in silent
        status, log, one = train(
            news,
            "--epochs",
            2,
            "--batch_size",
            2 * batch,
            "--max_train_samples",
            rows,
            "--model_name",
            still_model,
            save_dir=tmp_path / f"one{rows}",
        )
        assert losses(logs) == pytest.approx(losses(log), abs=2e-5) and len(losses(log)) == 2 * -(-rows // (2 * batch))
        for here, there in zip(history(folder), history(one)):
            assert here == pytest.approx(there, abs=1e-5)
        assert_same_weights(folder, one, tolerance=1e-4)


# ---------------------------------------------------------------------------------------------- stopping and going on


def test_killed_and_resumed_is_as_if_nothing_had_happened(news, train, tiny_model, tmp_path):
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
    assert status == 0 and "going on at step" in log
    compare(full_log + log, folder, expected)
    assert not Path(f"{folder}_last").exists()
    status, log, _ = train(news, *same, "--resume", save_dir=folder)
    assert status == 0 and "This run has ended already" in log and "global step" not in log


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves(news, train, tiny_model, tmp_path, number, status):
    """With accumulation and shuffled plainly, stopped within the first epochs."""
    same = ("--epochs", 15, "--batch_size", 8, "--gradient_accumulation_steps", 2, "--no-length_buckets")
    expected = train(news, *same, save_dir=tmp_path / "whole")
    folder = tmp_path / "stopped"
    process = start(news, tiny_model, folder, *same)
    log = read_until(process, "global step 2,")
    process.send_signal(number)
    log += process.stderr.read()
    assert process.wait() == status
    process.stderr.close()
    assert f"saved in {folder}_last; to go on: --resume" in log
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
        log = read_until(process, "going on at step")
        time.sleep(random.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    assert_whole(folder)
    assert_whole(f"{folder}_last")
    assert "Traceback" not in log


def stop_early(dataset, train, **kwargs):
    """A run that was stopped in its first epoch: its folder."""
    from text_cls.neural import training

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


def test_resume_refuses_another_run(news, train, tmp_path):
    folder = stop_early(news, train)
    write_lines(news / "train.txt", [*lines_of(news / "train.txt"), "多了一行"])
    write_lines(news / "label.txt", [*lines_of(news / "label.txt"), "新标签"])
    status, log, _ = train(news, "--resume", "--learning_rate", "5e-5", "--seed", 4, save_dir=folder)
    assert status == 2
    assert "4 problems" in log
    assert "--resume: --learning_rate was 0.001, is 5e-05" in log and "--seed was 3, is 4" in log
    assert "--resume: train.txt is not the file that run was started with" in log
    assert "--resume: label.txt is not the file that run was started with" in log


def test_resume_refuses_another_model(news, train, still_model):
    folder = stop_early(news, train)
    status, log, _ = train(news, "--resume", "--model_name", still_model, save_dir=folder)
    assert status == 2 and "--resume: --model_name was" in log


def test_resume_takes_what_does_not_matter(news, train, tmp_path):
    folder = stop_early(news, train)
    moved = tmp_path / "moved"
    shutil.copytree(news, moved)
    status, log, _ = train(moved, "--resume", "--logging_steps", 2, "--test_file", "dev.txt", save_dir=folder)
    assert status == 0 and "going on at step 1" in log and "Test dataset size" in log


def test_a_run_with_initial_weights_goes_on(news, train, tmp_path):
    """By the same command and --resume; and one stopped before its first step begins with those weights."""
    _, _, first = train(news, save_dir=tmp_path / "first")
    start = ("--init_from_ckpt", first / "model_state.pdparams")
    expected = train(news, *start, save_dir=tmp_path / "whole")
    folder = tmp_path / "stopped"
    stop_early(news, lambda data, **where: train(data, *start, **where), save_dir=folder)
    status, log, _ = train(news, *start, "--resume", save_dir=folder)
    assert status == 0 and "going on at step 1" in log, log
    assert_same_weights(folder, expected[2])
    assert history(folder) == history(expected[2])

    from text_cls.neural import training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, "run_all", lambda *_: 1)
        train(news, *start, save_dir=tmp_path / "early")
    assert not (tmp_path / "early").exists() and (tmp_path / "early_last").exists()
    assert train(news, *start, "--resume", save_dir=tmp_path / "early")[0] == 0
    assert_same_weights(tmp_path / "early", expected[2])


def test_patience_counts_on_after_a_stop(news, train, tmp_path, monkeypatch):
    from text_cls.neural import training

    scores = [0.5, 0.2, KeyboardInterrupt, 0.2, 0.9]
    done = []

    def evaluate(self, split):
        if len(self.rows[split]) <= 8:  # the rehearsal's
            return {}
        done.append(split)
        if scores[len(done) - 1] is KeyboardInterrupt:
            raise KeyboardInterrupt
        return {"loss": 0.1, "micro_f1": 0.1, "macro_f1": scores[len(done) - 1], "accuracy": 0.0}

    monkeypatch.setattr(training.Trainer, "evaluate", evaluate)
    flags = ("--epochs", 6, "--early_stop", "--early_stop_nums", 2)
    assert train(news, *flags, save_dir=tmp_path / "out")[0] == 130
    status, log, folder = train(news, *flags, "--resume", save_dir=tmp_path / "out")
    assert status == 0 and len(done) == 4 and "Early stop!" in log, log
    assert read_run(str(folder))["progress"]["best_score"] == 0.5


def test_resume_with_nothing_saved_starts(news, train):
    status, log, _ = train(news, "--resume")
    assert status == 0 and "--resume: nothing is saved yet, starting from the beginning" in log


def test_resume_of_a_run_whose_state_is_gone(news, train):
    folder = stop_early(news, train)
    shutil.move(f"{folder}_last", folder)
    status, log, _ = train(news, "--resume", save_dir=folder)
    assert status == 2 and f"--init_from_ckpt {folder}/model_state.pdparams" in log


def test_a_new_run_says_that_it_replaces_a_stopped_one(news, train):
    folder = stop_early(news, train)
    status, log, _ = train(news, save_dir=folder)
    assert status == 0 and "holds a run that was stopped; this one replaces it. To go on with it: --resume" in log


def test_initial_weights_are_scored_before_they_are_trained(news, train, tmp_path):
    """So that a worse model never takes the place of the one given, as it did in the older suite."""
    _, _, first = train(news, "--epochs", 12, "--learning_rate", "5e-3", save_dir=tmp_path / "first")
    best = read_run(str(first))["progress"]["best_score"]
    status, log, second = train(
        news, "--init_from_ckpt", first / "model_state.pdparams", "--learning_rate", 5, save_dir=tmp_path / "second"
    )
    assert status == 0 and log.index("eval loss") < log.index("global step 1,")
    assert history(second)[0]["macro_f1"] == pytest.approx(best) and best > 0
    assert history(second)[1]["macro_f1"] < best  # a rate of 5 destroys it
    for name, value in weights(first).items():
        assert np.array_equal(value, weights(second)[name])


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--device", "gpu"), "is built without gpu; use --device cpu"),
        (("--amp", "bf16"), "--amp bf16 is for --device gpu"),
        (("--init_from_ckpt", "nowhere.pdparams"), "--init_from_ckpt nowhere.pdparams: there is no such file"),
        (("--model_name", "./nowhere"), "--model_name ./nowhere: there is no such folder"),
        (("--max_seq_length", 2), "--max_seq_length: the special tokens alone take 2"),
        (("--max_seq_length", 4096), "--max_seq_length 4096: this model takes 2048 tokens at most"),
        (("--dev_file", "nothing.txt"), "nothing.txt: No such file or directory"),
    ],
)
def test_a_fault_is_one_line_and_status_2(news, train, flags, message):
    status, log, folder = train(news, *flags)
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and message in errors[0] and "Traceback" not in log
    assert log.splitlines()[-1] == errors[0] and not folder.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch_size", 0), "--batch_size: must be 1 or more, not 0"),
        (("--learning_rate", "-1"), "--learning_rate: must be 0 or more, not -1"),
        (("--learning_rate", "nan"), "--learning_rate: must be 0 or more, not nan"),
        (("--loss", "hinge"), "invalid choice: 'hinge'"),
        (("--metric_for_best", "f2"), "invalid choice: 'f2'"),
        (("--epoch", 3), "unrecognized arguments: --epoch"),
    ],
)
def test_a_flag_with_a_fault(news, train, flags, message):
    status, log, _ = train(news, *flags)
    assert status == 2 and message in log


def test_all_faults_of_arguments_and_data_at_once(news, train):
    write_lines(news / "train.txt", [*lines_of(news / "train.txt"), "一\t体育赛事##夺官", "二\t三\t四"])
    write_lines(news / "dev.txt", [*lines_of(news / "dev.txt"), "五\t没有的"])
    status, log, _ = train(news, "--device", "gpu", "--init_from_ckpt", "nowhere", "--test_file", "nothing.txt")
    assert status == 2 and "6 problems, nothing was done:" in log
    for message in (
        "use --device cpu",
        "--init_from_ckpt nowhere: there is no such file",
        "train.txt:91: label '体育赛事##夺官' is not in the label file; did you mean '体育赛事##夺冠'?",
        "train.txt:92: 2 tabs",
        "dev.txt:31: label '没有的' is not in the label file",
        "nothing.txt: No such file",
    ):
        assert message in log


def test_a_broken_label_file_is_told_alone(news, train):
    """Else every row would be called wrong."""
    write_lines(news / "label.txt", ["体育赛事", "体育赛事"])
    status, log, _ = train(news)
    assert status == 2 and "label '体育赛事' stands on line 1 already" in log and "train.txt" not in log


def test_summary_before_training(news, train):
    rows = lines_of(news / "train.txt")
    child = next(row for row in rows if row.count("##") == 1).partition("\t")[0]
    write_lines(news / "train.txt", [*rows, "", "无标签的一行", "只写了子标签\t体育赛事##夺冠", f"{child}\t文化娱乐"])
    write_lines(news / "dev.txt", [*lines_of(news / "dev.txt"), rows[0]])
    status, log, _ = train(news)
    assert status == 0
    assert "55 labels, hierarchical" in log and "93 rows" in log and "1 blank lines skipped" in log
    assert "1 rows name a child and not its parent; the parents were added" in log
    assert "1 rows repeat the text of another row" in log and "1 of them have other labels than that row" in log
    assert "1 rows have a text that is in" in log and "labels have no row and cannot be learnt" in log
    assert re.search(r"train: [\d.]+ tokens a row, [\d.]+% of the rows cut at 32", log)


def test_a_folder_with_other_files_is_not_replaced(news, train, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.docx").touch()
    status, log, _ = train(news, save_dir=folder)
    assert status == 2 and "the folder holds thesis.docx, which would be lost; name a new folder" in log
    shutil.move(folder, f"{folder}_last")
    assert "mine_last: the folder holds thesis.docx, which would be lost" in train(news, save_dir=folder)[1]
    shutil.move(f"{folder}_last", folder)
    status, log, _ = train(news, save_dir=folder / "thesis.docx")
    assert status == 2 and "this is a file; name a folder" in log


def test_a_checkpoint_is_replaced_but_not_what_was_put_beside_it(news, train):
    _, _, folder = train(news)
    assert train(news)[0] == 0
    (folder / "notes.txt").touch()
    status, log, _ = train(news)
    assert status == 2 and "the folder holds notes.txt, which would be lost" in log


def test_a_checkpoint_of_the_older_suite_is_replaced(news, train):
    _, _, folder = train(news)
    for name in ("run.json", "label.txt", "decision.json"):
        (folder / name).unlink()
    assert train(news)[0] == 0 and (folder / "run.json").exists()


def test_weights_that_do_not_fit(news, reviews, train, tmp_path):
    _, _, folder = train(reviews, save_dir=tmp_path / "other")
    status, log, _ = train(news, "--init_from_ckpt", folder / "model_state.pdparams")
    assert status == 2 and "classifier.weight is [32, 19], wanted [32, 55]" in log
    (tmp_path / "broken").write_bytes(b"no weights")
    status, log, _ = train(news, "--init_from_ckpt", tmp_path / "broken")
    assert status == 2 and "not a file of weights" in log


@pytest.mark.parametrize("where", ["evaluate", "save"])
def test_a_fault_in_evaluation_or_saving_shows_before_training(news, train, monkeypatch, where):
    from text_cls.neural import training

    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(training.Trainer, where, fail)
    monkeypatch.setattr(training.Trainer, "run_all", lambda self: pytest.fail("training began"))
    with pytest.raises(RuntimeError, match="broken"):
        train(news)


def test_the_rehearsal_leaves_no_trace(news, train, tiny_model, monkeypatch):
    """What is saved as step 0 are the weights of the model given, and moments of nothing."""
    from text_cls.neural import training

    monkeypatch.setattr(training.Trainer, "run_all", lambda self: 0)
    status, _, folder = train(news)
    before, after = weights(tiny_model), weights(f"{folder}_last")
    assert status == 0 and all(np.array_equal(after[f"ernie.{name}"], value) for name, value in before.items())
    with np.load(f"{folder}_last/training_state.npz") as state:
        assert state.files == []


def test_the_loss_scale_of_fp16_goes_on_too(tmp_path):
    """A GPU is not at hand: paddle's own scaler, with the check for one taken away."""
    from text_cls.neural.checkpoint import load_training_state, training_state

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
    load_training_state(tmp_path, optimizer, second)
    assert float(second._scale) == 1024 and second._incr_count == 7


def test_out_of_memory_names_the_remedy(news, train, monkeypatch):
    from text_cls.neural import training

    def fail(*_, **__):
        raise MemoryError("ResourceExhaustedError: Out of memory error on GPU 0")

    monkeypatch.setattr(training.Trainer, "backward", fail)
    status, log, _ = train(news)
    assert status == 2 and "halve the batch and give --gradient_accumulation_steps 2" in log


def test_warm_up_over_no_steps_is_told(news, train):
    status, log, _ = train(news, "--warmup")
    assert status == 0 and "--warmup does nothing without --warmup_steps" in log


def test_a_warm_up_longer_than_training_is_told(news, train):
    status, log, _ = train(news, "--warmup", "--warmup_steps", 1000)
    assert status == 0 and "--warmup_steps 1000: the rate never reaches --learning_rate" in log


def test_settings_from_a_file(news, train, tmp_path):
    (tmp_path / "run.yaml").write_text("epochs: 2\nbatch_size: 45\nlogging_steps: 2\n", encoding="utf-8")
    status, log, folder = train(news, "--config", tmp_path / "run.yaml")
    arguments = read_run(str(folder))["arguments"]
    assert status == 0 and (arguments["batch_size"], arguments["epochs"], arguments["logging_steps"]) == (45, 1, 1)
