"""The warning of train.py that a model has learnt nothing from the texts."""

import itertools
import signal

import numpy as np
import pytest
from conftest import lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from text_cls.cli import logger
from text_cls.neural import training
from text_cls.neural.compat import import_paddle
from text_cls.neural.losses import LOSSES, make_loss, smoothed
from text_cls.neural.plateau import Plateau, best_constant, best_constant_f1
from text_cls.neural.training_options import TrainingOptions
from text_cls.scores import scores

paddle = import_paddle()

NOTHING = "the model has learnt nothing from the texts yet"


def cells(share, rows=400):
    """Labels of one column, whose share is as near as possible."""
    return (np.arange(rows) < max(1, round(share * rows))).astype(np.float32)


# --------------------------------------------------------------------------------------------- the constant prediction


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.005, 0.97), min_size=1, max_size=5))
def test_with_cross_entropy_it_is_the_entropy_of_the_frequencies(shares):
    targets = np.stack([cells(share) for share in shares], axis=1)
    p = targets.mean(axis=0)
    found = best_constant(make_loss("bce", targets.sum(axis=0), 400), paddle.to_tensor(targets)).numpy()
    logits = np.tile(found, (400, 1))
    loss = np.logaddexp(0, logits) - targets * logits
    assert loss.mean(axis=0) == pytest.approx(-p * np.log(p) - (1 - p) * np.log(1 - p), rel=0.01)


@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
def test_with_any_loss_no_other_constant_is_better(name, smoothing):
    gold = np.random.default_rng(0).permuted(np.stack([cells(p) for p in (0.005, 0.05, 0.4, 0.9)], axis=1), axis=0)
    loss, targets = make_loss(name, gold.sum(axis=0), len(gold)), smoothed(paddle.to_tensor(gold), smoothing)

    def mean(*logits):
        tiled = paddle.to_tensor(np.tile(np.asarray(logits, np.float32), (len(gold), 1)))
        return loss(tiled, targets).mean(axis=0).numpy()

    found = mean(*best_constant(loss, targets).numpy())
    grid = [mean(*[logit] * 4) for logit in np.arange(-11, 5, 0.05)]
    assert found == pytest.approx(np.min(grid, axis=0), rel=0.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=8))
def test_no_same_labels_for_all_rows_have_a_larger_f1(rows):
    gold = np.array([[label in row for label in range(4)] for row in rows])
    chosen = itertools.product([False, True], repeat=4)
    best = max(scores(gold, np.tile(np.array(labels), (len(rows), 1)))["micro_f1"] for labels in chosen)
    assert best_constant_f1(gold) == pytest.approx(best if gold.any() else 0.0)


# ---------------------------------------------------------------------------------------------------------- the warning


@pytest.fixture
def shuffled(news):
    """Texts that say nothing about their labels."""
    rows = [line.partition("\t") for line in lines_of(news / "train.txt")]
    labels = np.random.default_rng(0).permutation([row[2] for row in rows])
    write_lines(news / "train.txt", [f"{row[0]}\t{label}" for row, label in zip(rows, labels)])
    return news


@pytest.mark.parametrize("flags", ["", "--label_smoothing 0.2", "--loss focal", "--loss distribution_balanced"])
def test_a_run_that_learns_nothing_is_told_once(flags, shuffled, train):
    status, log, _ = train(shuffled, "--epochs", 4, "--batch_size", 8, "--learning_rate", "5e-3", *flags.split())
    assert status == 0 and log.count(NOTHING) == 1, log
    assert "another --learning_rate (now 0.005; 3e-5 is usual for a pretrained model); more --epochs" in log


def test_a_resumed_run_is_not_told_again(shuffled, train, monkeypatch):
    original = training.Trainer.stopped

    def stopped(self, shares, signals):
        signals.number = signal.SIGINT if self.progress.step == 10 else 0  # in the fourth epoch
        return original(self, shares, signals)

    flags = ("--epochs", 5, "--learning_rate", "5e-3")
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "stopped", stopped)
        status, log, _ = train(shuffled, *flags)
    assert status == 130 and log.count(NOTHING) == 1
    status, log, _ = train(shuffled, *flags, "--resume")
    assert status == 0 and log.count("eval loss") == 2 and NOTHING not in log


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_a_run_that_learns_is_not_told(task, trained, learner, run, tmp_path):
    """From the weights of a model that has learnt something."""
    import train as script

    dataset, checkpoint = trained[task]
    flags = "--device cpu --max_seq_length 48 --epochs 1 --learning_rate 1e-3".split()
    where = ["--dataset_dir", dataset, "--model_name", checkpoint, "--save_dir", tmp_path / "out"]
    status, log = run(script.main, *where, *flags)
    assert status == 0 and "WARNING" not in log, log


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        ("--learning_rate 1e-6", "a higher --learning_rate (now 1e-06, which is very low; 3e-5 is usual)"),
        ("--learning_rate 3e-5", "a higher --learning_rate (now 3e-05); more --epochs"),
        (
            "--learning_rate 3e-5 --freeze_epochs 1",
            "a higher --head_learning_rate (now 3e-05; only the head is trained)",
        ),
    ],
)
def test_the_remedy_depends_on_the_run(flags, remedy, news, train):
    """With such rates, not even the frequencies of the labels are learnt in an epoch."""
    status, log, _ = train(news, *flags.split())
    assert status == 0 and log.count(NOTHING) == 1 and remedy in log, log


def test_a_run_that_diverges_is_told_once(news, train):
    status, log, _ = train(news, "--learning_rate", "1e30", "--epochs", 2)
    assert status == 0 and log.count("The loss is nan: the training has diverged") == 1 and NOTHING not in log, log


def test_each_fault_is_told_the_first_time(monkeypatch):
    """The scores are made up. Scores before the training do not count."""
    entries = [
        (0, 0.7, 0.0),
        (1, 0.05, 0.1),
        (2, 0.7, 0.0),
        (3, 0.05, 0.9),
        (4, 0.7, 0.0),
        (5, np.nan, 0.0),
        (6, np.inf, 0.0),
    ]
    history = [{"epoch": epoch, "loss": loss, "micro_f1": f1} for epoch, loss, f1 in entries]
    plateau = Plateau(TrainingOptions(), rows=None, evaluation=None)
    plateau.constant = {"loss": 0.1, "micro_f1": 0.2}
    told = []
    for count in range(1, len(history) + 1):
        monkeypatch.setattr(logger, "warning", lambda *_, epoch=history[count - 1]["epoch"]: told.append(epoch))
        plateau.warn(history[:count])
    assert told == [2, 5]
    plateau.warn([{"epoch": 1, "micro_f1": 0.0}])  # of a retrieval model
