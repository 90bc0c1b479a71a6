"""`train.py --seeds`: several runs, of which the best on dev is kept."""

import re
from pathlib import Path

import pytest
from test_resume import stop_early
from training_runs import assert_same_weights, assert_whole

import train as script
from text_cls.neural import seeds as module
from text_cls.neural.checkpoint import read_run

FLAGS = ("--epochs", 3, "--learning_rate", "5e-3")


@pytest.fixture
def single_runs(news, train, tmp_path):
    """{seed: folder} of runs with one seed each."""
    return {seed: train(news, *FLAGS, "--seed", seed, save_dir=tmp_path / f"single{seed}")[2] for seed in (3, 4, 5)}


def scores_of(single_runs):
    return {seed: read_run(str(folder))["progress"]["best_score"] for seed, folder in single_runs.items()}


def test_each_run_is_that_of_its_seed_alone_and_the_best_is_kept(news, train, single_runs):
    status, log, folder = train(news, *FLAGS, "--seeds", 3, "--test_file", "dev.txt")
    scores = scores_of(single_runs)
    best = max(scores, key=scores.get)
    assert status == 0 and len(set(scores.values())) == 3, scores
    run = read_run(str(folder))
    assert run["seeds"]["kept"] == run["arguments"]["seed"] == best
    assert run["seeds"]["scores"] == pytest.approx({str(seed): score for seed, score in scores.items()})
    assert run["arguments"]["save_dir"] == str(folder)
    assert_whole(folder)
    assert_same_weights(folder, single_runs[best])
    assert not [*folder.parent.glob(f"{folder.name}_*")]
    found = re.search(r"macro f1 score on dev with seeds 3 .*: mean ([\d.]+), range ([\d.]+) to ([\d.]+)", log)
    expected = [sum(scores.values()) / 3, min(scores.values()), max(scores.values())]
    assert [*map(float, found.groups())] == pytest.approx(expected, abs=1e-5)
    assert "The best of 3 flatters, as the same rows chose it" in log
    assert f"expect the mean rather than {scores[best]:.5f}" in log
    assert log.count("-----Seed") == 3 and log.count("Test dataset size") == 3


def test_seeds_are_resumed_where_they_stopped(news, train, tmp_path, single_runs, monkeypatch):
    """The first run has finished, and the second is stopped in its first epoch. Nothing is done twice."""
    folder, original = tmp_path / "seeds", script.run

    def only_first(args, environment):
        return original(args, environment) if args.seed == 3 else 130

    def resumed(data, **where):
        return train(data, *FLAGS, "--seeds", 3, "--resume", **where)

    with monkeypatch.context() as patch:
        patch.setattr(script, "run", only_first)
        assert train(news, *FLAGS, "--seeds", 3, save_dir=folder)[0] == 130
    stop_early(news, resumed, save_dir=folder)
    assert Path(f"{folder}_seed4_last").exists() and not folder.exists()
    status, log, _ = resumed(news, save_dir=folder)
    assert status == 0 and log.count("This run has finished already") == 1 and "resuming at step 1" in log, log
    scores = {str(seed): pytest.approx(score) for seed, score in scores_of(single_runs).items()}
    assert read_run(str(folder))["seeds"]["scores"] == scores


def test_a_kill_while_the_single_runs_are_removed(news, train, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_runs", killed)
        status, _, folder = train(news, "--seeds", 2)
    assert status == 130 and Path(f"{folder}_seed3").exists()
    status, log, _ = train(news, "--seeds", 2, "--resume")
    assert status == 0 and "This run has finished already" in log and "-----Seed" not in log
    assert not [*folder.parent.glob(f"{folder.name}_*")]
    status, log, _ = train(news, "--seeds", 2, "--resume", "--epochs", 2)
    assert status == 0 and log.count("-----Seed") == 2 and "--epochs was 1, now it is 2" in log


def test_other_files_are_not_replaced(news, train, tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "notes.txt").write_text("a year of work", encoding="utf-8")
    status, log, _ = train(news, "--seeds", 2, save_dir=folder)
    assert status == 2 and "notes.txt, which would be lost" in log and "-----Seed" not in log
