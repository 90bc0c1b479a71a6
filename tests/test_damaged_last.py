"""`--resume` over a damaged `<save_dir>_last`: one message that says how to continue, and nothing is trained."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, copy_dataset
from safetensors.numpy import load_file

import train as script
from text_cls.files import sha256
from text_cls.neural import training
from text_cls.neural.compat import import_paddle

FILES = ("config.json", "decision.json", "label.txt", "model.safetensors", "training_state.npz", "vocab.txt")


@pytest.fixture(scope="module")
def stopped(tiny_model, tmp_path_factory):
    """(arguments of a run that was stopped in its second epoch, its folder)."""
    folder = tmp_path_factory.mktemp("stopped")
    dataset = copy_dataset(ROOT / "data", folder / "data", 90, 30, 12)
    original = training.Trainer.stopped

    def stop(self, shares, stop):
        stop.number = signal.SIGINT if self.progress.step == 5 else 0
        return original(self, shares, stop)

    flags = "--device cpu --max_seq_length 32 --epochs 3 --learning_rate 1e-3".split()
    argv = ["--dataset_dir", str(dataset), "--model_name", str(tiny_model), *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Trainer, "stopped", stop)
        assert script.main([*argv, "--save_dir", str(folder / "model")]) == 130
    return argv, folder / "model"


@pytest.fixture
def resume(stopped, run, tmp_path):
    """resume(damage, *flags) -> (status, log): --resume on a copy whose `_last` was damaged by a function of it."""
    argv, model = stopped
    for end in ("", "_last"):
        shutil.copytree(f"{model}{end}", f"{tmp_path}/model{end}")

    def call(damage, *flags):
        damage(tmp_path / "model_last")
        return run(script.main, *argv, "--save_dir", tmp_path / "model", "--resume", *flags)

    return call


def flip(path):
    """Changes one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)


HARM = {
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "gone": os.remove,
    "one bit": flip,
}


def refused(status, log, folder, why):
    """Whether the only line about an error says what is wrong and how to continue, and no step was made."""
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    best = folder / "model"
    remedy = f"Delete it; then continue from the best weights, with --init_from_ckpt {best}, or start anew without"
    return (
        status == 2
        and len(errors) == 1
        and errors[0].startswith(f"error: {folder / 'model_last'} is damaged ({why}")
        and remedy in errors[0]
        and "Traceback" not in log
        and "global step" not in log
    )


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(resume, tmp_path, name, harm):
    status, log = resume(lambda last: HARM[harm](last / name))
    assert refused(status, log, tmp_path, f"{name}: {'missing' if harm == 'gone' else 'its SHA-256 differs'})"), log


def without(run, name):
    return {key: value for key, value in run.items() if key != name}


def progress(**changes):
    return lambda run: {**run, "progress": {**run["progress"], **changes}}


RUNS = {
    "cut": lambda run: json.dumps(run)[:100],
    "a list": lambda run: [],
    "deep": lambda run: "[" * 200000,
    "no progress": lambda run: without(run, "progress"),
    "no files": lambda run: without(run, "files"),
    "no processes": lambda run: without(run, "processes"),
    "arguments a list": lambda run: {**run, "arguments": [1]},
    "data a text": lambda run: {**run, "data": "x"},
    "files empty": lambda run: {**run, "files": {}},
    "files numbers": lambda run: {**run, "files": dict.fromkeys(run["files"], 1)},
    "sums of nothing": lambda run: {**run, "files": dict.fromkeys(run["files"])},
    "step a text": progress(step="x"),
    "step another": progress(step=4),
    "step 0": progress(step=0),
    "batch another": progress(batch=0),
    "another field": progress(foo=1),
    "a field less": lambda run: {**run, "progress": without(run["progress"], "epoch")},
    "best score": progress(best_score=float("nan")),
    "history": progress(history=[]),
    "finished": progress(finished=True),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_edited_run(resume, tmp_path, name):
    def edit(last):
        changed = RUNS[name](json.loads((last / "run.json").read_text(encoding="utf-8")))
        text = changed if isinstance(changed, str) else json.dumps(changed)
        (last / "run.json").write_text(text, encoding="utf-8")

    status, log = resume(edit)
    assert refused(status, log, tmp_path, ""), log
    assert "run.json" in log


def test_a_run_that_is_gone(resume, tmp_path):
    status, log = resume(lambda last: (last / "run.json").unlink())
    assert refused(status, log, tmp_path, "run.json: missing)"), log


def test_the_state_of_another_model(resume, tmp_path):
    """As an older version wrote it, without sums."""

    def harm(last):
        run = json.loads((last / "run.json").read_text(encoding="utf-8"))
        (last / "run.json").write_text(json.dumps({**run, "files": [*run["files"]]}), encoding="utf-8")
        with np.load(last / "training_state.npz") as arrays:
            state = {name: arrays[name] for name in arrays.files}
        state["linear_0.w_0_moment1_0"] = np.zeros((3, 3), np.float32)
        np.savez(last / "training_state.npz", **state)

    status, log = resume(harm)
    assert refused(status, log, tmp_path, "training_state.npz: linear_0.w_0_moment1_0 is (3, 3), expected ("), log


def test_a_damaged_best_checkpoint_is_no_way_to_continue(resume, tmp_path):
    def harm(last):
        flip(last / "model.safetensors")
        flip(tmp_path / "model" / "model.safetensors")

    status, log = resume(harm)
    assert status == 2 and "--init_from_ckpt" not in log and "Delete it; then start anew without --resume" in log


def test_the_remedy_works(resume, tmp_path):
    status, log = resume(lambda last: flip(last / "vocab.txt"))
    best = tmp_path / "model"
    assert status == 2 and f"--init_from_ckpt {best}, or" in log
    status, log = resume(shutil.rmtree, "--no-resume", "--init_from_ckpt", best)
    assert status == 0 and "global step 5," in log, log


def pickle_weights(last):
    """Replaces the weights by those that older versions wrote."""
    paddle = import_paddle()
    weights = load_file(last / "model.safetensors")
    paddle.save({name: paddle.to_tensor(value) for name, value in weights.items()}, str(last / "model_state.pdparams"))
    (last / "model.safetensors").unlink()


@pytest.mark.parametrize("added", [False, True])
def test_weights_of_an_older_version_are_resumed(resume, tmp_path, added):
    """They are a pickle. Weights that were added by hand would be preferred, so they are refused."""

    def age(last):
        weights = (last / "model.safetensors").read_bytes()
        pickle_weights(last)
        if added:
            (last / "model.safetensors").write_bytes(weights)
        run = json.loads((last / "run.json").read_text(encoding="utf-8"))
        files = without(run["files"], "model.safetensors")
        files["model_state.pdparams"] = sha256(last / "model_state.pdparams")
        (last / "run.json").write_text(json.dumps({**run, "files": files}), encoding="utf-8")

    status, log = resume(age)
    if added:
        assert refused(status, log, tmp_path, "run.json: no SHA-256 of model.safetensors)"), log
    else:
        assert status == 0 and "resuming at step 5" in log, log


def test_files_of_an_older_version_are_resumed(resume):
    """It recorded names without sums, and no second copy of the progress."""

    def age(last):
        run = json.loads((last / "run.json").read_text(encoding="utf-8"))
        older = {**without(run, "chosen"), "files": sorted(run["files"])}
        (last / "run.json").write_text(json.dumps(older), encoding="utf-8")
        with np.load(last / "training_state.npz") as arrays:
            state = {name: arrays[name] for name in arrays.files if name != "progress"}
        np.savez(last / "training_state.npz", **state)

    status, log = resume(age)
    assert status == 0 and "resuming at step 5" in log, log


def test_a_run_without_run_json_is_named_without_resume_too(resume, tmp_path):
    status, log = resume(lambda last: (last / "run.json").unlink(), "--no-resume")
    what = f"{tmp_path}/model_last is the state of a stopped run without run.json, which cannot be resumed"
    assert status == 2 and f"{what}; move or delete it" in log, log


def test_a_folder_of_something_else_is_not_called_damaged(resume, tmp_path):
    def replace(last):
        shutil.rmtree(last)
        Path(last).mkdir()
        (last / "thesis.docx").touch()

    status, log = resume(replace)
    assert status == 2 and "is damaged" not in log, log
