import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from training_runs import assert_same_weights, history, losses, weights

import train as script
from text_cls.neural.checkpoint import read_run
from text_cls.neural.evaluation import Evaluation
from text_cls.neural.training_options import TrainingOptions
from text_cls.neural.used_vocabulary import all_vectors

CONTRACT = {  # flag: default, as in both guides
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


def test_defaults_are_the_guides():
    args = vars(script.parse_args(["--dataset_dir", "data"]))
    assert {name: args[name] for name in CONTRACT} == CONTRACT


def test_the_options_have_the_defaults_of_the_flags():
    args = vars(script.parse_args(["--dataset_dir", "data"]))
    options = vars(TrainingOptions())
    assert options.pop("early_stop_nums") == 4 and args["early_stop_nums"] is None  # by the label set
    assert {name: args[name] for name in options} == options


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
    assert not Path(f"{folder}_last").exists()  # nothing is left to resume


def test_run_json_says_where_a_checkpoint_comes_from(news, train):
    _, _, folder = train(news)
    run = read_run(str(folder))
    assert run["arguments"]["learning_rate"] == 1e-3 and run["arguments"]["early_stop_nums"] == 10
    assert set(run["data"]) == {"train.txt", "dev.txt", "label.txt"}
    assert run["packages"]["paddlenlp"] == "2.8.1" and run["processes"] == 1
    assert run["progress"]["finished"] and run["progress"]["step"] == 3
    assert run["progress"]["best_score"] == history(folder)[0]["macro_f1"]


def test_patience_depends_on_the_label_set(reviews, train):
    _, _, folder = train(reviews)
    assert read_run(str(folder))["arguments"]["early_stop_nums"] == 4


def test_a_checkpoint_is_saved_even_if_nothing_is_predicted(news, train):
    """Macro F1 stays 0; PaddleNLP's application then writes no checkpoint and says that it has."""
    with (news / "label.txt").open("a", encoding="utf-8") as file:
        file.write("其他\n")  # no training row has it
    write_lines(news / "dev.txt", ["今天的菜谱是番茄炒蛋\t其他", "窗外下着小雨\t其他"])
    status, log, folder = train(news, "--learning_rate", "1e-2")
    assert status == 0 and "macro f1 score: 0.00000" in log and (folder / "model_state.pdparams").exists()


def test_early_stop(news, train):
    status, log, folder = train(news, "--learning_rate", 0, "--epochs", 9, "--early_stop", "--early_stop_nums", 2)
    assert status == 0 and "Early stop!" in log
    assert [entry["epoch"] for entry in history(folder)] == [1, 2, 3]
    assert read_run(str(folder))["progress"]["best_score"] == history(folder)[0]["macro_f1"]


def test_metric_for_best_chooses_the_checkpoint(news, train):
    status, log, folder = train(news, "--epochs", 3, "--metric_for_best", "accuracy", "--learning_rate", "1e-2")
    assert status == 0 and "Current best accuracy score" in log and "Final best accuracy score" in log
    assert read_run(str(folder))["progress"]["best_score"] == max(entry["accuracy"] for entry in history(folder))


@pytest.mark.parametrize(("metric", "best"), [("micro_f1", 1), ("accuracy", 2), ("macro_f1", 3)])
def test_the_weights_kept_are_those_of_the_best_epoch(news, train, monkeypatch, metric, best):
    """The scores are made up: each metric is the highest after another epoch."""
    made_up = {"micro_f1": (0.3, 0.2, 0.1), "accuracy": (0.1, 0.3, 0.2), "macro_f1": (0.1, 0.2, 0.3)}
    seen = []  # the weights at each evaluation; the first is before the training

    def evaluate(self, *args, **kwargs):
        with all_vectors(self.checkpoint.model):
            seen.append({name: value.numpy().copy() for name, value in self.checkpoint.model.state_dict().items()})
        return {"loss": 0.5, **{name: values[len(seen) - 2] for name, values in made_up.items()}}

    monkeypatch.setattr(Evaluation, "evaluate", evaluate)
    status, log, folder = train(news, "--epochs", 3, "--metric_for_best", metric)
    assert status == 0 and len(seen) == 4
    kept = weights(folder)
    same = [all(np.array_equal(kept[name], value) for name, value in each.items()) for each in seen]
    assert same == [epoch == best for epoch in range(4)]


def test_the_rate_is_not_zero_with_warmup_steps_alone(news, train, tiny_model):
    """In PaddleNLP's application, --warmup_steps without --warmup leaves the rate at 0 for the whole run."""
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


def test_weight_decay_leaves_out_biases_and_norms(news, train, tmp_path):
    """Of two runs with different weight decay, only weights differ. (No flag turns off Adam's own part of a step.)"""
    runs = []
    for decay in (0, 10):
        _, _, folder = train(news, "--weight_decay", decay, "--batch_size", 90, save_dir=tmp_path / f"decay{decay}")
        runs.append(weights(folder))
    for name, value in runs[0].items():
        same = np.array_equal(value, runs[1][name])
        assert same == ("bias" in name or "norm" in name), name


def test_clipping_changes_training_only_below_the_norm_of_the_gradients(news, train, tmp_path):
    curves = []
    for norm in (0, 1e9, 1e-8):  # Adam ignores the scale until its epsilon outweighs the gradient
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


def test_the_same_run_twice_gives_the_same_result(news, train, tmp_path):
    first, second = (train(news, "--epochs", 2, save_dir=tmp_path / str(i)) for i in range(2))
    assert losses(first[1]) == pytest.approx(losses(second[1]), abs=1.1e-5)
    assert_same_weights(first[2], second[2])


@pytest.fixture
def still_model(run, tmp_path):
    """A model without dropout, whose losses do not depend on how a batch is split."""
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
    """90 rows in global batches of 28: the last has 6 rows. Of 29 rows, one process gets none in the last batch."""
    for rows, batch, rates in ((90, 14, ""), (29, 14, "--freeze_epochs 1 --layer_decay 0.9 --max_grad_norm 1")):
        folder = tmp_path / f"two{rows}"
        flags = ["--dataset_dir", news, "--model_name", still_model, "--device", "cpu", "--save_dir", folder]
        flags += "--max_seq_length 32 --epochs 2 --learning_rate 1e-3 --logging_steps 1 --head_start random".split()
        flags += ["--max_train_samples", rows, "--batch_size", batch, *rates.split()]
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
            *rates.split(),
            save_dir=tmp_path / f"one{rows}",
        )
        assert losses(logs) == pytest.approx(losses(log), abs=2e-5) and len(losses(log)) == 2 * -(-rows // (2 * batch))
        for here, there in zip(history(folder), history(one)):
            assert here == pytest.approx(there, abs=1e-5)
        assert_same_weights(folder, one, tolerance=1e-4)


def test_initial_weights_are_scored_before_they_are_trained(news, train, tmp_path):
    """A worse model never replaces the initial one, as it does in PaddleNLP's application."""
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


def test_warmup_without_steps_is_reported(news, train):
    status, log, _ = train(news, "--warmup")
    assert status == 0 and "--warmup does nothing without --warmup_steps" in log


def test_a_warmup_longer_than_training_is_reported(news, train):
    status, log, _ = train(news, "--warmup", "--warmup_steps", 1000)
    assert status == 0 and "--warmup_steps 1000: the rate never reaches --learning_rate" in log


def test_settings_from_a_file(news, train, tmp_path):
    (tmp_path / "run.yaml").write_text("epochs: 2\nbatch_size: 45\nlogging_steps: 2\n", encoding="utf-8")
    status, log, folder = train(news, "--config", tmp_path / "run.yaml")
    arguments = read_run(str(folder))["arguments"]
    assert status == 0 and (arguments["batch_size"], arguments["epochs"], arguments["logging_steps"]) == (45, 1, 1)
