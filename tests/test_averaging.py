"""`train.py --average`: the average of the weights, kept if it is better on dev."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resume import stop_early
from training_runs import assert_same_weights, history, weights

from text_cls.neural.averaging import Average
from text_cls.neural.checkpoint import read_run
from text_cls.neural.compat import import_paddle
from text_cls.neural.evaluation import Evaluation
from text_cls.neural.steps import Optimization
from text_cls.neural.training_state import read_training_state
from text_cls.neural.used_vocabulary import all_vectors

paddle = import_paddle()


def expected_average(steps):
    """Shamir and Zhang's average with ETA 3, as a sum: step i, counted from 0, counts (i + 1)(i + 2)(i + 3) times."""
    numbers = np.arange(len(steps), dtype=np.float64)
    counts = (numbers + 1) * (numbers + 2) * (numbers + 3)
    return (counts[:, None] * steps).sum(axis=0) / counts.sum()


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 10))
def test_the_average_is_that_of_the_paper(count, seed):
    layer, steps = paddle.nn.Linear(2, 1), np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    average = Average(layer)
    for number, (*weight, bias) in enumerate(steps, 1):
        layer.weight.set_value(np.array(weight, np.float32)[:, None])
        layer.bias.set_value(np.array([bias], np.float32))
        average.update(number)
    with average.in_model():
        found = np.concatenate([layer.weight.numpy()[:, 0], layer.bias.numpy()])
    assert found == pytest.approx(expected_average(steps), abs=1e-4)
    assert np.array_equal(np.concatenate([layer.weight.numpy()[:, 0], layer.bias.numpy()]), steps[-1])


def test_a_state_of_another_model_is_refused():
    average, other = Average(paddle.nn.Linear(2, 1)), Average(paddle.nn.Linear(3, 1))
    average.update(1)
    with pytest.raises(ValueError, match="the average of weight"):
        other.load(average.state())


@pytest.mark.parametrize("better", [True, False])
def test_the_better_weights_are_kept(news, train, monkeypatch, better):
    """The scores are made up. The weights after each step give the average that the checkpoint must have."""
    seen, scored, update = [], [], Optimization.update

    def updated(self):
        update(self)
        with all_vectors(self.model):
            seen.append({name: value.numpy() for name, value in self.model.state_dict().items()})

    def evaluate(self, rows, tokens):
        if len(rows) <= 8:  # the rehearsal's
            seen.clear()
            return {}
        scored.append(len(seen))
        averaged = scored.count(len(seen)) == 2
        value = 0.1 * len(seen) + (0.05 if averaged == better else 0)
        return {"loss": 0.1, "micro_f1": 0.1, "macro_f1": value, "accuracy": 0.0}

    monkeypatch.setattr(Optimization, "update", updated)
    monkeypatch.setattr(Evaluation, "evaluate", evaluate)
    status, log, folder = train(news, "--average", "--epochs", 2)
    assert status == 0 and log.count("With the averaged weights, macro f1: ") == 2 and scored == [3, 3, 6, 6]
    assert [entry.get("averaged", False) for entry in history(folder)] == [better, better]
    assert read_run(str(folder))["progress"]["best_score"] == pytest.approx(0.65)
    for name, value in weights(folder).items():
        steps = np.stack([step[name].ravel() for step in seen])
        expected = expected_average(steps) if better else steps[-1]
        assert value.ravel() == pytest.approx(expected, abs=1e-5)


def test_without_average_nothing_changes(news, train, tmp_path):
    """The averaged run trains the same weights; only what it keeps may differ."""
    _, plain_log, plain = train(news, "--epochs", 2, save_dir=tmp_path / "plain")
    _, log, averaged = train(news, "--epochs", 2, "--average", save_dir=tmp_path / "averaged")

    def trained(text):
        return [line.split("INFO")[1] for line in text.splitlines() if "eval loss" in line]

    assert trained(log) == trained(plain_log) and "averaged" not in plain_log
    assert [entry["step"] for entry in history(averaged)] == [entry["step"] for entry in history(plain)]


def test_an_average_is_resumed(news, train, tmp_path):
    def averaged(data, **where):
        return train(data, "--average", "--epochs", 2, "--resume", **where)

    _, expected_log, expected = averaged(news, save_dir=tmp_path / "whole")
    folder = tmp_path / "stopped"
    stop_early(news, averaged, save_dir=folder)
    state = read_training_state(f"{folder}_last")
    assert sum(name.startswith("average/") for name in state) == len(weights(expected))
    status, log, _ = averaged(news, save_dir=folder)
    assert status == 0 and "resuming at step 1" in log
    lines = [
        [line.split("INFO")[1] for line in each.splitlines() if "averaged" in line] for each in (log, expected_log)
    ]
    assert lines[0] == lines[1] and len(lines[0]) == 2
    assert history(folder) == [pytest.approx(entry) for entry in history(expected)]
    assert_same_weights(folder, expected)
