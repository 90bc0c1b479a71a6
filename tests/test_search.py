"""`analysis/search.py`: trials, what a kill leaves, several processes, and the results."""

import math
import os
import re
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import lines_of, write_lines
from search_scripts import SPACE, calls_in, start_search, write_stand_in

if not find_spec("optuna") and not os.environ.get("CI"):
    pytest.skip("optuna: pip install -r requirements/search.txt", allow_module_level=True)

from optuna.trial import Trial

import search as script
import search_runs
import search_trials
import train
from search_study import Trials, work_of
from text_cls.config_file import read_config


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    folder = write_stand_in(tmp_path / "stand_in")
    monkeypatch.setattr(search_trials, "ROOT", folder)
    monkeypatch.setattr(search_runs, "POLL", 0.05)
    return folder


@pytest.fixture
def flags(news, tmp_path):
    """The flags of every search here."""
    where = ("--dataset_dir", news, "--output_dir", tmp_path / "out", "--model_name", news, "--device", "cpu")
    fixed = ("--max_seq_length", 32, "--loss", "bce", "--layer_decay", 1, "--head_learning_rate", "1e-3")
    return (*where, *fixed, *SPACE)


@pytest.fixture
def search(run, stand_in, flags):
    """search(*flags) -> (status, log)."""
    return lambda *more: run(script.main, *flags, *more)


def trials_in(folder, name="trial"):
    """The trials of a search, as Optuna has them."""
    return Trials(Path(folder), name, {}, 3).all()


def wait_until(condition, process=None):
    """Waits until the condition holds; a minute is more than it ever takes."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until and (process is None or process.poll() is None), (
            process and process.stderr.read()
        )
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------------- a whole search


def test_a_search(search, stand_in, news, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, log = search("--trials", 8, "--seeds", 2, "--dataset_dir", news.name)
    assert status == 0, log
    calls = [call for call in calls_in(stand_in) if call["what"] == "start"]
    trials, compared = calls[:-4], calls[-4:]
    first = {"learning_rate": 3e-5, "epochs": 8, "batch_size": 32}  # the defaults, or what is nearest to them
    assert {name: trials[0][name] for name in first} == first
    # The report's rows are never seen by a trial.
    assert {call["test_file"] for call in trials} == {None}
    assert {call["dataset_dir"] for call in calls} == {str(tmp_path / "out" / "rows")}
    assert {call["test_file"] for call in compared} == {str(news / "dev.txt")}
    # The comparison has the same seeds on both sides.
    best = max(trials_in(tmp_path / "out"), key=lambda trial: trial.value if trial.value else 0)
    assert [call["seed"] for call in compared] == [3, 3, 4, 4]
    rates = [call["learning_rate"] for call in compared]
    assert rates == [3e-5, float(f"{best.params['learning_rate']:.3g}")] * 2
    gain = 100 * 0.2 * (abs(-3 - math.log10(rates[0])) - abs(-3 - math.log10(rates[1])))
    assert gain > 5 and f"gain {gain:+.2f} ({gain:+.2f} to {gain:+.2f})" in log
    assert "which no trial has seen, macro F1 with seeds 3, 4: defaults " in log
    assert "The gain is more than the spread over the seeds (0.10)" in log
    assert re.search(r"8 trials \(.*\) took \d\.\d\d hours", log)
    # Only logs are left of the trials.
    assert {path.name for path in (tmp_path / "out" / "trials").rglob("*") if path.is_file()} == {"log.txt"}


def test_best_yaml_is_a_config_of_train(search, tmp_path, news):
    status, log = search("--trials", 6, "--seeds", 0, "--early_stop")
    path = tmp_path / "out" / "best.yaml"
    assert status == 0 and f"python train.py --config {path}" in log
    args = vars(train.parse_args(["--config", str(path)]))
    best = max(trials_in(tmp_path / "out"), key=lambda trial: trial.value or 0)
    assert (
        args["learning_rate"] == float(f"{best.params['learning_rate']:.3g}")
        and args["epochs"] == best.params["epochs"]
    )
    assert args["early_stop"] and args["dataset_dir"] == str(news) and args["save_dir"] == "./checkpoint"
    assert {"resume", "test_file", "train_file"} & {*read_config(path)} == set()
    comments = [line for line in lines_of(path) if line.startswith("#")]
    assert "6 trials" in comments[0] and "held-out rows" in comments[1]


def test_rows_are_held_out_of_train_and_a_text_is_on_one_side(search, news, tmp_path):
    rows = lines_of(news / "train.txt")
    write_lines(news / "train.txt", [*rows, *rows[:40]])
    assert search("--trials", 1, "--held_out", 0.3)[0] == 0
    parts = [lines_of(tmp_path / "out" / "rows" / f"{split}.txt") for split in ("train", "dev")]
    assert sorted(parts[0] + parts[1]) == sorted([*rows, *rows[:40]])
    texts = [{line.split("\t")[0] for line in part} for part in parts]
    assert not texts[0] & texts[1] and 0.2 < len(texts[1]) / len(texts[0] | texts[1]) < 0.4
    assert lines_of(tmp_path / "out" / "rows" / "label.txt") == lines_of(news / "label.txt")


def test_unpromising_trials_are_stopped_early(search, stand_in, tmp_path, monkeypatch):
    """The ninth trial waits at half of its epochs, where its score is made up, so that only being stopped ends it."""
    assert search("--trials", 8, "--seeds", 0)[0] == 0
    (stand_in / "wait").touch()
    report = Trial.report
    monkeypatch.setattr(Trial, "report", lambda trial, value, step: report(trial, 0.0, step))
    status, log = search("--trials", 9, "--seeds", 0)
    assert status == 0 and "trial 8 is stopped early" in log
    assert trials_in(tmp_path / "out")[8].state.name == "PRUNED" and "9 trials (" in log and "stopped early" in log
    assert [call["what"] for call in calls_in(stand_in)][-1] == "start"  # it never came to its end


def test_a_trial_that_fails_takes_nothing_with_it(search, stand_in, tmp_path):
    status, log = search(
        "--trials", 6, "--seeds", 0, "--space", "learning_rate=1e-5..1e-1", "batch_size=32,64", "seed=3"
    )
    failed = [trial for trial in trials_in(tmp_path / "out") if trial.state.name == "FAIL"]
    assert status == 0 and failed and f"{len(failed)} failed" in log
    assert f"trial {failed[0].number} failed (status 1): out of memory, says the stand-in" in log


def test_a_comparison_that_failed_is_done_again(search, stand_in):
    text = (stand_in / "train.py").read_text(encoding="utf-8")
    (stand_in / "train.py").write_text(
        f"import sys\nif '--seed=4' in sys.argv: sys.exit('full')\n{text}", encoding="utf-8"
    )
    status, log = search("--trials", 6, "--seeds", 2)
    assert (
        status == 0
        and "comparison 2 (settings of trial 0) failed (status 1): full" in log
        and "with seed 3: defaults" in log
    ), log
    (stand_in / "train.py").write_text(text, encoding="utf-8")
    status, log = search("--trials", 6, "--seeds", 2)
    assert status == 0 and "with seeds 3, 4: defaults" in log


def test_defaults_that_fail_end_the_search_and_are_tried_again(search, stand_in):
    status, log = search("--space", "batch_size=64,32", "learning_rate=1e-5..1e-1", "--batch_size", 64)
    assert status == 2 and "trial 0 failed (status 1): out of memory, says the stand-in" in log
    text = (stand_in / "train.py").read_text(encoding="utf-8").replace("args.batch_size == 64", "False")
    (stand_in / "train.py").write_text(text, encoding="utf-8")
    flags = ("--trials", 3, "--seeds", 0, "--batch_size", 64)
    status, log = search("--space", "batch_size=64,32", "learning_rate=1e-5..1e-1", *flags)
    assert status == 0 and "3 trials (3 finished)" in log, log


def test_settings_are_not_run_twice(search, stand_in, tmp_path):
    assert search("--trials", 1, "--seeds", 0)[0] == 0
    [first] = trials_in(tmp_path / "out")
    Trials(tmp_path / "out", "trial", {}, 3).enqueue(first.params)
    status, log = search("--trials", 2, "--seeds", 0)
    assert status == 0 and "trial 1 would have the settings of 0, and is not run" in log, log
    assert trials_in(tmp_path / "out")[1].value == first.value and "2 trials (1 finished, 1 repeated)" in log
    assert sum(call["what"] == "start" for call in calls_in(stand_in)) == 1


def test_a_space_that_is_exhausted_ends_the_search(search, stand_in):
    few = ("--epochs", 4, "--learning_rate", "1e-3", "--space", "batch_size=16,32", "seed=3,4")
    status, log = search("--trials", 9, "--seeds", 0, *few)
    assert status == 0 and "- 4 trials (" in log


def test_minutes_end_a_search_and_more_continue_it(search, stand_in, tmp_path, monkeypatch):
    """The clock jumps once the third trial has begun, which goes on where it was with more time."""
    begun = tmp_path / "out" / "trials" / "trial-2" / "checkpoint_last" / "run.json"
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * begun.exists(), sleep=time.sleep)
    assert search("--trials", 2, "--seeds", 0)[0] == 0
    (stand_in / "wait").touch()
    with monkeypatch.context() as patch:
        patch.setattr(search_runs, "time", clock)
        status, log = search("--minutes", 30, "--seeds", 0)
    assert status == 0 and "30 minutes are over" in log
    waiting = trials_in(tmp_path / "out")[-1]
    assert waiting.state.name == "WAITING" and work_of(waiting) == 2 and "1 waiting" in log
    (stand_in / "wait").unlink()
    status, log = search("--minutes", 30, "--seeds", 0)  # they are over: the third trial took an hour
    assert status == 0 and "30 minutes are over" in log and len(trials_in(tmp_path / "out")) == 4
    status, log = search("--trials", 3, "--seeds", 0)
    assert status == 0 and "3 trials" in log
    last = [call for call in calls_in(stand_in) if call["what"] == "start"][-1]
    assert last["resumed"] and last["save_dir"].endswith("trial-2/checkpoint")


# ------------------------------------------------------------------------------------------------- kills, two processes


def is_alive(pid):
    return Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2]


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_search_that_is_killed_continues(search, flags, stand_in, tmp_path, number):
    """The trial that was running is marked as failed, and goes on in its folder. Nothing is done twice."""
    (stand_in / "wait").touch()
    process = start_search(stand_in, *flags, "--trials", 3, "--seeds", 0)
    wait_until(lambda: list((tmp_path / "out").glob("trials/trial-0/checkpoint_last/run.json")), process)
    [child] = children_of(process.pid)
    process.send_signal(number)
    process.wait()
    process.stderr.close()
    wait_until(lambda: not is_alive(child))  # the script does not go on alone
    state = trials_in(tmp_path / "out")[0].state.name
    assert state == ("RUNNING" if number == signal.SIGKILL else "FAIL")
    (stand_in / "wait").unlink()
    status, log = search("--trials", 3, "--seeds", 0)
    assert status == 0 and "3 trials (3 finished)" in log, log
    trials = trials_in(tmp_path / "out")
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params and work_of(trials[1]) == 0
    ends = [call["save_dir"] for call in calls_in(stand_in) if call["what"] == "end"]
    assert len(ends) == len(set(ends)) == 3
    assert [call["resumed"] for call in calls_in(stand_in) if call["what"] == "start"] == [False, True, False, False]


def test_two_processes_share_the_work(flags, stand_in, tmp_path):
    (stand_in / "wait").touch()
    both = [start_search(stand_in, *flags, "--trials", 6, "--seeds", 1) for _ in range(2)]
    wait_until(lambda: len(calls_in(stand_in)) == 2)  # each has begun a trial
    (stand_in / "wait").unlink()
    logs = [process.stderr.read() for process in both]
    assert [process.wait() for process in both] == [0, 0], logs
    for process in both:
        process.stderr.close()
    starts = [call["save_dir"] for call in calls_in(stand_in) if call["what"] == "start"]
    assert len(starts) == len(set(starts)) <= 8  # six trials, of which some may be stopped early, and the comparison
    assert {work_of(trial) for trial in trials_in(tmp_path / "out")} == {*range(6)}
    own = [set(re.findall(r"- ((?:trial|comparison) \d+: learning_rate)", log)) for log in logs]
    assert own[0] and own[1] and not own[0] & own[1]
    assert all("6 trials" in log and "which no trial has seen" in log for log in logs)


# --------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--save_dir", "x"), "--save_dir is for search.py to choose; leave it out"),
        (("--space", "learning_rat=1"), "there is no flag --learning_rat; did you mean 'learning_rate'?"),
        (("--space", "learning_rate"), "'learning_rate' is not of the form NAME=VALUES"),
        (("--space", "learning_rate=1e-3..1e-5"), "the first number of a range is the lower one"),
        (("--space", "loss=bce..focal"), "loss=bce..focal: this flag has no range"),
        (("--space", "loss=bce,focl"), "must be one of asymmetric, bce, "),
        (("--space", "seed=1", "seed=2"), "seed is given twice"),
        (("--space", "early_stop=yes"), "'yes' is neither true nor false"),
        (("--space", "train_file=a.txt,b.txt"), "train_file is for search.py to choose"),
        (("--learning_rat", "1"), "unrecognized arguments: --learning_rat 1"),
    ],
)
def test_a_flag_with_a_fault(search, stand_in, more, message):
    status, log = search(*more)
    assert status == 2 and message in log and not calls_in(stand_in)


def test_all_faults_of_the_data_at_once(search, stand_in, news, tmp_path):
    write_lines(news / "train.txt", ["一条文本\t没有的标签"])
    (news / "dev.txt").unlink()
    status, log = search()
    assert status == 2 and "没有的标签" in log and "dev.txt" in log and not (tmp_path / "out").exists()


def test_a_folder_of_another_search_is_refused(search, stand_in, news, tmp_path):
    assert search("--trials", 1)[0] == 0
    calls = len(calls_in(stand_in))
    write_lines(news / "dev.txt", lines_of(news / "dev.txt")[1:])
    status, log = search("--held_out", 0.3, "--early_stop", "--device", "gpu", "--trials", 2)
    assert status == 2 and "3 problems" in log and len(calls_in(stand_in)) == calls
    assert "a search in which --held_out was 0.2, now it is 0.3; name a new folder" in log
    assert "--early_stop was None, now it is True" in log and "in which dev.txt was" in log


def test_a_file_that_is_no_study(search, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "search.db").write_text("not a database, " * 100, encoding="utf-8")
    status, log = search()
    assert status == 2 and "search.db cannot be used (file is not a database)" in log and "Traceback" not in log


# --------------------------------------------------------------------------------------------------- the real scripts


def test_a_search_of_train(run, news, tiny_model, tmp_path):
    flags = ("--dataset_dir", news, "--output_dir", tmp_path / "out", "--device", "cpu", "--model_name", tiny_model)
    quick = ("--head_start", "random", "--max_seq_length", 32, "--epochs", 2)
    space = ("--space", "learning_rate=1e-3..1e-1", "batch_size=16", "loss=bce", "head_learning_rate=none", "seed=3")
    status, log = run(script.main, *flags, *quick, *space, "--layer_decay", 1, "--trials", 2, "--seeds", 1)
    assert status == 0 and "2 trials (2 finished)" in log, log
    values = [trial.value for trial in trials_in(tmp_path / "out")]
    assert all(0 <= value < 1 for value in values) and max(values) > 0
    for trial in trials_in(tmp_path / "out"):
        text = (tmp_path / "out" / "trials" / f"trial-{trial.number}" / "log.txt").read_text(encoding="utf-8")
        assert float(re.findall(r"Final best macro f1 score: ([\d.]+)", text)[0]) == pytest.approx(
            trial.value, abs=1e-5
        )
    for trial in trials_in(tmp_path / "out", "comparison"):
        assert 0 <= trial.value < 1


def test_a_search_of_prune(run, trained, tmp_path):
    dataset, checkpoint = trained["news"]
    where = ("--dataset_dir", dataset, "--output_dir", tmp_path / "out", "--params_dir", checkpoint)
    quick = ("--device", "cpu", "--max_seq_length", 32, "--num_train_epochs", 2, "--width_mult_list", "1/2")
    space = ("--space", "learning_rate=1e-4..1e-2", "per_device_train_batch_size=32", "seed=3")
    status, log = run(script.main, "--script", "prune", *where, *quick, *space, "--trials", 1, "--seeds", 0)
    assert status == 0 and "1 trial (1 finished)" in log, log
    assert "python prune.py --output_dir=prune " in log and not (tmp_path / "out" / "best.yaml").exists()
    [trial] = trials_in(tmp_path / "out")
    folder = tmp_path / "out" / "trials" / "trial-0"
    text = (folder / "log.txt").read_text(encoding="utf-8")
    assert 100 * trial.value == pytest.approx(float(re.findall(r"1/2 +\S+ +(\S+)", text)[0]), abs=0.01)
    assert len(search_trials.Pruning({}).history(folder, {"width_mult_list": ["1/2"]})) == 2  # one for each epoch
