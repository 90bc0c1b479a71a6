"""text_cls/neural/checkpoint.py: what a checkpoint records of its files, and what is loaded of it."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from conftest import lines_of, write_lines
from safetensors.numpy import load_file, save_file

import predict
from text_cls.cli import Problems, UserError
from text_cls.decision import Decision
from text_cls.files import atomic_folder, sha256
from text_cls.neural import checkpoint as module
from text_cls.neural import run_file, safe_weights
from text_cls.neural.checkpoint import load_checkpoint, load_model, open_checkpoint
from text_cls.neural.compat import import_paddle
from text_cls.neural.run_file import SAFETENSORS, WEIGHT_FILES, describe_run, read_run


@pytest.fixture
def copied(trained, tmp_path):
    """(data set without its label file, copy of the trained checkpoint)."""
    dataset, model = trained["news"]
    shutil.copytree(dataset, tmp_path / "data")
    (tmp_path / "data" / "label.txt").unlink()
    return tmp_path / "data", shutil.copytree(model, tmp_path / "model")


@pytest.fixture
def predicted(run, copied):
    """predicted() -> (status, log) of predict.py with the copy."""
    dataset, model = copied
    return lambda: run(predict.main, "--dataset_dir", dataset, "--params_path", model, "--device", "cpu")


def swap_labels(model):
    names = lines_of(model / "label.txt")
    write_lines(model / "label.txt", [names[1], names[0], *names[2:]])
    return names


def rewrite_run(model, change):
    run = json.loads((model / "run.json").read_text(encoding="utf-8"))
    (model / "run.json").write_text(json.dumps(change(run)), encoding="utf-8")


def test_run_json_has_the_sum_of_every_file_but_itself_and_the_decision(trained):
    for _, model in trained.values():
        files = read_run(str(model))["files"]
        assert set(files) == set(os.listdir(model))
        changing = {"run.json", "decision.json", "reference.json"}
        assert {name for name, digest in files.items() if digest is None} == changing
        assert all(sha256(model / name) == digest for name, digest in files.items() if digest)


@pytest.mark.parametrize("harm", ["cut", "gone", "one bit"])
@pytest.mark.parametrize("name", [*WEIGHT_FILES, "config.json", "tokenizer_config.json", "vocab.txt"])
def test_a_damaged_file_is_one_message(predicted, copied, name, harm):
    if name in WEIGHT_FILES and harm == "gone":
        (copied[1] / ({*WEIGHT_FILES} - {name}).pop()).unlink()
    path = copied[1] / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink() if harm == "gone" else path.write_bytes(data[:-5] if harm == "cut" else data)
    status, log = predicted()
    assert status == 2 and log.count("error: ") == 1 and "Traceback" not in log and name in log, log
    if name in WEIGHT_FILES and harm == "gone":  # any folder without weights
        assert "holds no model.safetensors and no model_state.pdparams; train first" in log
    else:
        assert "is damaged" in log and "train again, or restore the folder from a backup" in log


def arrays_of(model):
    """The weights in the two files of a checkpoint: model.safetensors, model_state.pdparams."""
    pickled = import_paddle().load(str(model / "model_state.pdparams"))
    return load_file(model / "model.safetensors"), {name: value.numpy() for name, value in pickled.items()}


def test_both_files_have_the_same_weights(trained):
    first, second = arrays_of(trained["news"][1])
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_whoever_may_read_one_file_may_read_all(trained):
    """safetensors makes a file for its owner alone."""
    assert len({path.stat().st_mode for path in trained["news"][1].iterdir()}) == 1


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_one_file_of_weights_is_enough(predicted, copied, name):
    (copied[1] / name).unlink()
    status, log = predicted()
    assert status == 0, log


def test_no_pickle_is_opened(predicted, copied, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(safe_weights, "load", refuse)
    monkeypatch.setattr(import_paddle(), "load", refuse)
    assert predicted()[0] == 0


@pytest.mark.parametrize("aged", [False, True])
def test_a_file_of_weights_that_run_json_does_not_know_is_refused(predicted, copied, aged):
    """Added by hand to the checkpoint of an older version, or replaced: it would be the one that is loaded."""
    model = copied[1]
    if aged:
        rewrite_run(model, lambda run: {**run, "files": {n: s for n, s in run["files"].items() if n != SAFETENSORS}})
    weights = load_file(model / SAFETENSORS)
    save_file({name: value + 1 for name, value in weights.items()}, model / SAFETENSORS, {"format": "np"})
    status, log = predicted()
    why = "run.json: no SHA-256 of model.safetensors" if aged else "model.safetensors: its SHA-256 differs"
    assert status == 2 and f"is damaged ({why})" in log


def test_a_checkpoint_of_an_older_version_opens(predicted, copied):
    model = copied[1]
    (model / SAFETENSORS).unlink()
    rewrite_run(model, lambda run: {**run, "files": {n: s for n, s in run["files"].items() if n != SAFETENSORS}})
    assert predicted()[0] == 0


def test_exchanged_labels_are_refused(predicted, copied, trained):
    """Names and order are those of config.json, whatever the sums say."""
    dataset, model = copied
    names = swap_labels(model)
    rewrite_run(model, lambda run: {**run, "files": [*run["files"]]})  # as an older version: no sums
    status, log = predicted()
    assert status == 2 and f"{model}/label.txt is not the model's label file (the same labels in another order)" in log
    assert f"The model's labels are in {model}/config.json, in their order" in log
    write_lines(dataset / "label.txt", names)
    status, log = predicted()
    assert status == 2 and f"To use the model's: cp {dataset}/label.txt {model}/label.txt" in log
    write_lines(model / "label.txt", [*names[:-1], "别的"])
    assert f"is not the model's label file (also 别的; not {names[-1]})" in predicted()[1]
    shutil.copy(trained["news"][1] / "label.txt", model)
    assert predicted()[0] == 0


def test_a_model_without_names_is_only_counted(predicted, copied):
    """PaddleNLP's application saves LABEL_0, LABEL_1 ..."""
    dataset, model = copied
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["id2label"] = {number: f"LABEL_{number}" for number in config["id2label"]}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (model / "run.json").unlink()
    write_lines(model / "label.txt", swap_labels(model)[::-1])
    assert predicted()[0] == 0


@pytest.mark.parametrize("value", [5, "x", ["a"], {"0": 1}, {"x": "y"}])
def test_outputs_of_another_shape_are_a_message(predicted, copied, value):
    config = json.loads((copied[1] / "config.json").read_text(encoding="utf-8"))
    (copied[1] / "config.json").write_text(json.dumps({**config, "id2label": value}), encoding="utf-8")
    (copied[1] / "run.json").unlink()
    status, log = predicted()
    assert status == 2 and "Traceback" not in log, log


@pytest.mark.parametrize("files", [{}, dict.fromkeys(WEIGHT_FILES), {"vocab.txt": "0" * 64}])
def test_sums_that_are_gone_are_no_sums_of_an_older_version(predicted, copied, files):
    rewrite_run(copied[1], lambda run: {**run, "files": files})
    status, log = predicted()
    assert status == 2 and "is damaged (run.json: no SHA-256 of model.safetensors)" in log


def test_a_decision_may_be_changed_or_deleted(predicted, copied):
    model = copied[1]
    Decision(0.25).save(model / "decision.json")
    assert predicted()[0] == 0
    (model / "decision.json").unlink()
    status, log = predicted()
    assert status == 0 and f"{model} has no decision.json any more: the threshold is 0.5" in log


def replaced_while_loading(monkeypatch, model, change):
    """Makes the first loading of a model find that the folder was replaced by a changed copy. Returns the loadings."""
    original, calls = module.load_pretrained, []

    def load(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            with atomic_folder(model) as folder:
                shutil.copytree(model, folder, dirs_exist_ok=True)
                change(folder)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "load_pretrained", load)
    return calls


def test_a_better_state_of_the_same_run_is_loaded_whole(copied, monkeypatch):
    model = copied[1]
    checkpoint = load_checkpoint(str(model), None, Problems())

    def better(folder):
        path = os.path.join(folder, "run.json")
        with open(path, encoding="utf-8") as file:
            run = json.load(file)
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**run, "progress": {**run["progress"], "step": 9999}}, file)

    calls = replaced_while_loading(monkeypatch, model, better)
    load_model(checkpoint, "cpu")
    assert len(calls) == 2 and checkpoint.run["progress"]["step"] == 9999


@pytest.mark.parametrize("what", ["decision", "run"])
def test_another_model_in_the_folder_is_not_mixed_with_the_first(copied, monkeypatch, what):
    model = copied[1]
    checkpoint = load_checkpoint(str(model), None, Problems())

    def other(folder):
        if what == "decision":
            Decision(0.25).save(os.path.join(folder, "decision.json"))
            return
        with open(os.path.join(folder, "run.json"), encoding="utf-8") as file:
            run = json.load(file)
        with open(os.path.join(folder, "run.json"), "w", encoding="utf-8") as file:
            json.dump({**run, "arguments": {**run["arguments"], "seed": 99}}, file)

    replaced_while_loading(monkeypatch, model, other)
    with pytest.raises(UserError, match="was replaced while this script read it; run it again"):
        load_model(checkpoint, "cpu")


def test_labels_that_are_nowhere_are_named(copied):
    dataset, model = copied
    (model / "label.txt").unlink()
    own, theirs, remedy = (
        model / "label.txt",
        dataset / "label.txt",
        "put the label file the model was trained with there",
    )
    for label_file, missing in ((str(theirs), f"neither {own} nor {theirs} exists"), (None, f"{own} does not exist")):
        with pytest.raises(UserError) as error:
            load_checkpoint(str(model), label_file, Problems())
        assert str(error.value) == f"{missing}; {remedy}"


def test_texts_may_be_as_long_as_the_model_takes(copied):
    model = str(copied[1])
    longest = load_checkpoint(model, None, Problems()).longest
    assert open_checkpoint(model, None, "cpu", longest)[1] == longest
    with pytest.raises(UserError, match=f"--max_seq_length {longest + 1}: this model takes at most {longest} tokens"):
        open_checkpoint(model, None, "cpu", longest + 1)


def test_the_commit_of_the_code_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(run_file, "__file__", str(tmp_path / "module.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_run({}, {})["commit"] is None

    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init")
    (tmp_path / "module.py").write_text("a", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "a")
    commit = git("rev-parse", "HEAD").strip()
    assert describe_run({}, {})["commit"] == commit
    (tmp_path / "module.py").write_text("b", encoding="utf-8")
    assert describe_run({}, {})["commit"] == f"{commit}+"
