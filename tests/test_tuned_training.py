"""`train.py --metric_for_best tuned_...`: the best checkpoint by dev F1 with fitted thresholds, saved with it."""

import re
import signal

import numpy as np
import pytest
from conftest import lines_of, write_lines
from training_runs import compare, history, read_until, start

import threshold
from text_cls import cross_fitting
from text_cls.decision import Decision
from text_cls.neural.checkpoint import read_run

NUMBER = r"0\.\d{5}"


@pytest.fixture
def enough(news):
    """The data set with 60 dev rows."""
    rows = lines_of(news / "train.txt")
    write_lines(news / "dev.txt", rows[:60])
    write_lines(news / "train.txt", rows[30:])  # some rows are in both files, so that something is predicted
    return news


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_the_best_checkpoint_and_its_decision(enough, train, run, learner, average):
    flags = "--epochs 4 --learning_rate 1e-2 --batch_size 16 --test_file dev.txt --metric_for_best".split()
    status, log, folder = train(enough, *flags, f"tuned_{average}_f1", "--model_name", learner)
    assert status == 0
    scores = history(folder)
    tuned = re.findall(
        rf"one threshold per label, fitted to other dev rows: micro f1 score: ({NUMBER}), macro f1 score: ({NUMBER})",
        log,
    )
    assert tuned == [(f"{s['tuned_micro_f1']:.5f}", f"{s['tuned_macro_f1']:.5f}") for s in scores] and len(tuned) == 4
    assert f"Final best tuned {average} f1 score" in log and "decision.json has one threshold per label" in log
    best = max(scores, key=lambda s: s[f"tuned_{average}_f1"])
    saved = read_run(str(folder))["progress"]
    assert saved["best_score"] == best[f"tuned_{average}_f1"] > 0
    decision = Decision.load(folder / "decision.json")
    assert len(decision.threshold) == len(lines_of(enough / "label.txt")) and len(set(decision.threshold)) > 1

    # The same figures computed another way: thresholds fitted again to the same folds, and the decided test file.
    fit = ("--dataset_dir", enough, "--params_path", folder, "--device", "cpu", "--dry_run", "--mode", "per_label")
    status, words = run(threshold.main, *fit, "--objective", average)
    micro, macro = re.search(r"one threshold per label +\S+ +\S+ +(\S+) +(\S+)", words).groups()
    assert status == 0
    assert [float(micro), float(macro)] == pytest.approx(
        [100 * best["tuned_micro_f1"], 100 * best["tuned_macro_f1"]], abs=0.006
    )
    plain, _ = re.search(r" 0\.5 +\S+ +\S+ +(\S+) +(\S+)", words).groups()
    assert float(plain) == pytest.approx(100 * best["micro_f1"], abs=0.006)  # the score without "tuned"
    test_score = float(re.search(rf"Test dataset size: 60, accuracy: {NUMBER}, micro f1 score: ({NUMBER})", log)[1])
    assert test_score != pytest.approx(best["micro_f1"], abs=1e-4)  # decided by the thresholds, not by 0.5


def test_test_rows_are_decided_by_the_best_epochs_thresholds(enough, train, learner, tmp_path):
    """If an epoch ruins the model, neither its weights nor its thresholds are used."""
    tuned = ("--metric_for_best", "tuned_macro_f1", "--test_file", "dev.txt", "--model_name", learner, "--epochs")
    _, good, folder = train(enough, *tuned, 4, "--learning_rate", "1e-2", "--batch_size", 16)
    best = ("--init_from_ckpt", folder / "model_state.pdparams")
    status, log, other = train(enough, *tuned, 1, *best, "--learning_rate", 1, save_dir=tmp_path / "ruined")
    assert status == 0 and history(other)[1]["tuned_macro_f1"] < history(other)[0]["tuned_macro_f1"]
    line = r"Test dataset size: .*"
    assert re.search(line, log)[0] == re.search(line, good)[0]


def test_killed_and_resumed(enough, train, tiny_model, tmp_path):
    same = ("--epochs", 3, "--batch_size", 16, "--metric_for_best", "tuned_macro_f1")
    expected = train(enough, *same, save_dir=tmp_path / "whole")
    folder = tmp_path / "killed"
    process = start(enough, tiny_model, folder, *same, "--save_minutes", 1e-9)
    first = read_until(process, "global step 6,")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    status, log, _ = train(enough, *same, "--resume", save_dir=folder)
    assert status == 0 and "resuming at step" in log
    compare(first + log, folder, expected)
    decisions = [Decision.load(path / "decision.json").threshold for path in (folder, tmp_path / "whole")]
    assert decisions[0] == pytest.approx(decisions[1], abs=1e-5)


def test_too_few_rows_are_reported_before_training(news, enough, train):
    wanted = ("--metric_for_best", "tuned_micro_f1")
    status, log, _ = train(enough, *wanted, "--max_dev_samples", 49)
    assert status == 2 and "49 dev rows are too few to fit thresholds to; use 50 or more" in log
    assert "--metric_for_best micro_f1" in log and "global step" not in log
    label = lines_of(news / "label.txt")[0]
    write_lines(news / "dev.txt", [f"六十行都是这一条\t{label}"] * 60)  # one text: no other fold to fit to
    status, log, folder = train(news, *wanted)
    assert status == 0 and len(Decision.load(folder / "decision.json").threshold) == len(lines_of(news / "label.txt"))


def test_folds_keep_a_text_together_and_every_row_once():
    texts = [f"第{i // 2}行" for i in range(40)]
    gold = np.eye(4, dtype=bool)[np.arange(40) // 2 % 4]
    folds = cross_fitting.draw_folds(gold, texts, 3)
    assert sorted(np.concatenate(folds)) == list(range(40)) and len(folds) == 5
    assert all(
        {texts[i] for i in one}.isdisjoint({texts[i] for i in other})
        for one in folds
        for other in folds
        if one is not other
    )
    assert [fold.tolist() for fold in cross_fitting.draw_folds(gold[:2], ["一", "一"], 3)] == [[0, 1]]
