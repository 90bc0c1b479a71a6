"""few-shot/prompt_checkpoints.py: interrupted runs, and what they resume from."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import lines_of, write_lines
from prompts import PROMPTS, train, weights_of

import prompt_checkpoints
import prompt_training


def test_a_resumed_run_ends_as_if_never_interrupted(train_prompt, few, tmp_path, monkeypatch):
    steps = ("--do_train", "--eval_steps", "2", "--prompt", PROMPTS["soft"], "--logging_steps", "1")
    shuffle, drawn = prompt_training.shuffled_batches, []
    monkeypatch.setattr(prompt_training, "shuffled_batches", lambda *args: drawn.append(args[2]) or shuffle(*args))
    assert train_prompt(*steps)[0] == 0
    assert drawn == [[3, 0], [3, 1]]  # seed and epoch
    whole = weights_of(tmp_path / "out")
    (tmp_path / "out" / "run.json").rename(tmp_path / "run.json")
    shutil.rmtree(tmp_path / "out")

    real, calls = prompt_training.score, []

    def stop_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(prompt_training, "score", stop_at_the_third)
    status, log = train_prompt(*steps)
    last = tmp_path / "out_last"
    assert status == 130 and f"--resume_from_checkpoint {last}" in log and not (tmp_path / "out").exists()
    monkeypatch.setattr(prompt_training, "score", real)
    status, log = train_prompt(*steps, "--resume_from_checkpoint", last, "--learning_rate", "1e-2")
    assert status == 2 and "--learning_rate was 3e-05, now it is 0.01" in log
    rows = lines_of(few / "train.txt")
    write_lines(few / "train.txt", rows[1:])
    status, log = train_prompt(*steps, "--resume_from_checkpoint", last)
    assert status == 2 and "train.txt is not the file that run started with" in log
    write_lines(few / "train.txt", rows)
    drawn.clear()
    status, log = train_prompt(*steps, "--resume_from_checkpoint", last / "checkpoint-4")
    assert drawn == [[3, 1]]
    assert status == 0 and re.findall(r"global step (\d+),", log) == ["5", "6"], log
    again = weights_of(tmp_path / "out")
    assert whole.keys() == again.keys() and not last.exists()
    for name, value in whole.items():
        assert np.array_equal(value, again[name]), name
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "run.json", tmp_path / "out/run.json")]
    assert runs[0]["training"]["history"] == runs[1]["training"]["history"]


def test_the_best_model_before_the_interruption_is_kept(train_prompt, tmp_path, monkeypatch):
    scores, seen = [0.5, 0.2, KeyboardInterrupt, 0.1], []

    def score(task, *_):
        seen.append(task.model.verbalizer.head.decoder.weight.numpy().copy())
        if scores[len(seen) - 1] is KeyboardInterrupt:
            raise KeyboardInterrupt
        return {"macro_f1_score": scores[len(seen) - 1], "micro_f1_score": 0.3, "loss": 0.2, "accuracy": 0.0}

    monkeypatch.setattr(prompt_training, "score", score)
    assert train_prompt("--do_train", "--eval_steps", 2)[0] == 130
    last = tmp_path / "out_last"
    state = last / "checkpoint-4" / "trainer_state.json"
    moved = state.read_text(encoding="utf-8").replace(str(last), "elsewhere_last")  # as if it had been moved
    assert "elsewhere_last/checkpoint-2" in moved
    state.write_text(moved, encoding="utf-8")
    prompt_checkpoints.record_sums(last, prompt_checkpoints.checkpoints_in(last).values(), state.parent)
    status, log = train_prompt("--do_train", "--eval_steps", 2, "--resume_from_checkpoint", last)
    assert status == 0 and "Final best macro_f1_score: 0.50000" in log and len(seen) == 4, log
    assert np.array_equal(weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"], seen[0])


@pytest.mark.parametrize("end", ["patience", "steps"])
def test_a_run_killed_after_its_last_step_takes_no_further_step(train_prompt, tmp_path, monkeypatch, end):
    """Although another step would score better. 24 rows in batches of 8: the fourth step is in the middle of an epoch.
    If the last model is to be kept, patience does not end the run."""
    scores, seen = iter([0.5, 0.2, 0.1] + ([0.9] if end == "patience" else [0.4, 0.9])), []

    def score(task, *_):
        seen.append(task.model.verbalizer.head.decoder.weight.numpy().copy())
        return {"macro_f1_score": next(scores), "micro_f1_score": 0.3, "loss": 0.2, "accuracy": 0.0}

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prompt_training, "score", score)
    flags, count = {
        "patience": (("--eval_steps", 1), 3),
        "steps": (("--eval_steps", 1, "--max_steps", 4, "--load_best_model_at_end", 0), 4),
    }[end]
    flags = (*flags, "--early_stopping_patience", 2)
    with monkeypatch.context() as patch:
        patch.setattr(train, "save", killed)
        assert train_prompt("--do_train", *flags)[0] == 130 and len(seen) == count
    status, log = train_prompt("--do_train", *flags, "--resume_from_checkpoint", tmp_path / "out_last")
    assert status == 0 and len(seen) == count and "Final best macro_f1_score: 0.50000" in log, log
    kept = weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"]
    assert np.array_equal(kept, seen[0 if end == "patience" else -1])
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["training"]["steps"] == count


def test_patience_counts_across_an_interruption(train_prompt, tmp_path, monkeypatch):
    scores, calls = [0.5, 0.2, 0.1, 0.1, KeyboardInterrupt, 0.1, 0.9], []

    def score(*_):
        calls.append(scores[len(calls)])
        if calls[-1] is KeyboardInterrupt:
            raise KeyboardInterrupt
        return {"macro_f1_score": calls[-1], "micro_f1_score": 0.3, "loss": 0.2, "accuracy": 0.0}

    monkeypatch.setattr(prompt_training, "score", score)
    flags = ("--do_train", "--eval_steps", 1, "--early_stopping_patience", 4, "--save_total_limit", 2)
    assert train_prompt(*flags)[0] == 130
    last = tmp_path / "out_last"
    assert {path.name for path in last.iterdir()} == {"run.json", *(f"checkpoint-{step}" for step in (1, 3, 4))}
    shutil.copytree(last / "checkpoint-4", last / "checkpoint-9")
    for name in ("trainer_state.json", "rng_state.pth"):  # the trainer writes them last: a kill leaves this
        (last / "checkpoint-9" / name).unlink()
    (last / "checkpoint-of-mine").mkdir()
    status, log = train_prompt(*flags, "--resume_from_checkpoint", last)
    assert status == 0 and "resuming at step 4" in log and "Early stop!" in log and len(calls) == 6, log


def test_what_cannot_be_resumed(train_prompt, prompted, tmp_path):
    status, log = train_prompt("--do_train", "--resume_from_checkpoint", prompted["reviews"][1])
    assert status == 2 and "there is no checkpoint of an interrupted training" in log and "leave out --do_train" in log
    (tmp_path / "out_last").mkdir()
    status, log = train_prompt("--do_train", "--resume_from_checkpoint", f"{tmp_path}/out_last/")
    assert status == 2 and "nothing is saved there yet; leave the flag out to start from the beginning" in log
    other = tmp_path / "other_last" / "checkpoint-2"
    other.mkdir(parents=True)
    for name in prompt_checkpoints.STATE:
        (other / name).touch()
    for folder in (other, other.parent):
        status, log = train_prompt("--do_train", "--resume_from_checkpoint", folder)
        assert status == 2 and f"a run resumes in its own folder, which is {tmp_path / 'out_last'}" in log
    status, log = train_prompt("--do_eval", "--resume_from_checkpoint", other)
    assert status == 2 and f"{other} holds no run.json; name a folder that few-shot/train.py wrote\n" in log


def test_an_interrupted_run_leaves_the_old_model(train_prompt, tmp_path, monkeypatch):
    assert train_prompt("--do_train")[0] == 0
    before = (tmp_path / "out" / "model_state.pdparams").read_bytes()
    monkeypatch.setattr(prompt_training, "score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    status, log = train_prompt("--do_train", "--seed", "9")
    assert status == 130 and "Stopped before the first checkpoint" in log and "to resume" not in log
    assert (tmp_path / "out" / "model_state.pdparams").read_bytes() == before
    monkeypatch.undo()
    status, log = train_prompt("--do_train", "--seed", "9")
    assert status == 0 and "holds an interrupted run; this one replaces it" in log
    assert (tmp_path / "out" / "model_state.pdparams").read_bytes() != before


def stopped(train_prompt, monkeypatch, flags, evaluations):
    """Stops a run after this many evaluations, at each of which a checkpoint is saved."""
    done = []

    def score(*_):
        if len(done) == evaluations:
            raise KeyboardInterrupt
        done.append(0)
        return {"macro_f1_score": 0.5, "micro_f1_score": 0.3, "loss": 0.2 - 0.01 * len(done), "accuracy": 0.0}

    with monkeypatch.context() as patch:
        patch.setattr(prompt_training, "score", score)
        assert train_prompt(*flags)[0] == 130


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_not_resumed(train_prompt, tmp_path, monkeypatch):
    flags, last = ("--do_train", "--eval_steps", 1, "--save_total_limit", 3), tmp_path / "out_last"
    stopped(train_prompt, monkeypatch, flags, 3)
    resume, newest = (*flags, "--resume_from_checkpoint", last), last / "checkpoint-3"
    shutil.copytree(last, tmp_path / "copy")
    for name in ("model_state.pdparams", "optimizer.pdopt", "scheduler.pdparams", "trainer_state.json"):
        for harm in (flip, lambda path: path.write_bytes(path.read_bytes()[:-9])):
            harm(newest / name)
            status, log = train_prompt(*resume)
            assert status == 2 and "Traceback" not in log and "global step" not in log, log
            assert log.splitlines()[-1] == (
                f"error: {newest} is damaged ({name}: its SHA-256 differs); resume from an older one "
                f"(--resume_from_checkpoint {last}/checkpoint-2), or leave out --resume_from_checkpoint to start anew"
            )
            shutil.rmtree(last)
            shutil.copytree(tmp_path / "copy", last)
    for edit in (lambda text: text[:100], lambda text: "[]", lambda text: "[" * 200000, lambda text: '{"kind": 1}'):
        run = last / "run.json"
        before = run.read_text(encoding="utf-8")
        run.write_text(edit(before), encoding="utf-8")
        status, log = train_prompt(*resume)
        assert status == 2 and "leave out --resume_from_checkpoint to start anew" in log and "Traceback" not in log
        run.write_text(before, encoding="utf-8")
    (last / "run.json").unlink()
    assert "out_last is damaged (run.json: missing); leave out" in train_prompt(*resume)[1]
    assert train_prompt(*flags)[0] == 0  # starts anew


def test_a_checkpoint_whose_saving_was_killed_is_passed_over(train_prompt, tmp_path, monkeypatch):
    flags, last = ("--do_train", "--eval_steps", 1, "--save_total_limit", 3), tmp_path / "out_last"
    stopped(train_prompt, monkeypatch, flags, 2)
    shutil.copytree(last / "checkpoint-2", last / "checkpoint-3")
    (last / "checkpoint-3" / "rng_state.pth").write_bytes(b"")
    status, log = train_prompt(*flags, "--resume_from_checkpoint", last)
    assert status == 0 and "resuming at step 2" in log, log


def test_a_finished_run_is_recognised_before_anything_is_loaded(train_prompt, few, tmp_path, monkeypatch):
    flags, last = ("--do_train", "--eval_steps", 2), tmp_path / "out_last"
    assert train_prompt(*flags)[0] == 0
    again = (*flags, "--resume_from_checkpoint", last)
    with monkeypatch.context() as patch:
        patch.setattr(train, "read_all", lambda _: pytest.fail("the data was read"))
        status, log = train_prompt(*again)
    assert status == 0 and f"This run has finished already; its model is in {tmp_path / 'out'}" in log
    status, log = train_prompt(*again, "--do_eval")
    assert status == 0 and "Dev dataset size: 12" in log and "global step" not in log
    assert "nothing is saved there yet" in train_prompt(*again, "--seed", 9)[1]
    flip(tmp_path / "out" / "model_state.pdparams")
    status, log = train_prompt(*again, "--do_eval")
    assert status == 2 and "out is damaged (model_state.pdparams: its SHA-256 differs); train again, or" in log
