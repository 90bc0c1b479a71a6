"""--init_from_ckpt: weights from a file, a checkpoint, or a Hugging Face folder."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from training_runs import weights

from text_cls.neural import hugging_face, safe_weights

NOTHING = ("--learning_rate", 0)  # trains nothing, so that the weights stay those of the start


@pytest.fixture
def start(news, train, tmp_path):
    """start(path) -> (status, log, checkpoint) of a run that starts from the weights at a path and keeps them."""
    return lambda path: train(news, "--init_from_ckpt", path, *NOTHING, save_dir=tmp_path / "second")


@pytest.fixture
def first(news, train, tmp_path):
    """A checkpoint of the same model."""
    status, log, folder = train(news, save_dir=tmp_path / "first")
    assert status == 0, log
    return folder


def same(folder, other):
    found, expected = weights(folder), weights(other)
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("name", ["", "model.safetensors", "model_state.pdparams"])
def test_a_checkpoint_and_its_files(start, first, name):
    status, log, second = start(first / name)
    assert status == 0 and same(second, first), log


def test_a_folder_is_read_without_its_pickle(start, first, monkeypatch):
    monkeypatch.setattr(safe_weights, "load", None)
    (first / "model_state.pdparams").write_bytes(b"no weights")
    (first / "run.json").unlink()
    status, log, second = start(first)
    assert status == 0 and same(second, first), log


def test_a_folder_with_a_pickle_alone(start, first):
    expected = weights(first)
    (first / "model.safetensors").unlink()
    status, log, second = start(first)
    assert status == 0 and all(np.array_equal(weights(second)[name], expected[name]) for name in expected), log


def as_hugging_face(folder):
    """Gives a checkpoint's model.safetensors Hugging Face's names, and removes what a Hugging Face folder lacks."""
    found = {}
    for name, value in load_file(folder / "model.safetensors").items():
        name = name.replace("encoder.layers.", "encoder.layer.").replace("layer_norm", "LayerNorm")
        for ours, theirs in hugging_face.LAYER.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        turned = value.ndim == 2 and "embeddings" not in name
        found[name] = np.ascontiguousarray(value.T) if turned else value
    save_file(found, folder / "model.safetensors")
    for name in ("model_state.pdparams", "run.json"):
        (folder / name).unlink()


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_a_hugging_face_folder(start, first, tmp_path, name):
    theirs = shutil.copytree(first, tmp_path / "theirs")
    as_hugging_face(theirs)
    assert hugging_face.find(str(theirs))
    status, log, second = start(theirs / name)
    assert status == 0 and same(second, first), log


def test_damage_is_one_message(start, first):
    file = first / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    for path in (first, file):
        status, log, _ = start(path)
        assert status == 2 and "is damaged (model.safetensors: its SHA-256 differs)" in log, log
    (first / "run.json").unlink()
    status, log, _ = start(first)
    assert status == 2 and f"{file} cannot be read" in log and "Traceback" not in log, log


def test_a_folder_without_weights(start, tmp_path):
    os.mkdir(tmp_path / "empty")
    status, log, _ = start(tmp_path / "empty")
    where = f"--init_from_ckpt {tmp_path / 'empty'}"
    assert status == 2 and f"{where}: the folder has no model.safetensors and no model_state.pdparams" in log


def test_labels_of_a_folder_are_compared(start, first, news):
    """With those of id2label, also if the folder has no label.txt."""
    (first / "label.txt").unlink()
    as_hugging_face(first)
    names = (news / "label.txt").read_text(encoding="utf-8").splitlines(True)
    (news / "label.txt").write_text("".join(names[::-1]), encoding="utf-8")
    status, log, _ = start(first)
    assert status == 2 and "is not the model's label file (the same labels in another order)" in log


def test_label_numbers_are_no_names(news, train, first):
    """Some Hugging Face folders have numbers in id2label."""
    as_hugging_face(first)
    config = json.loads((first / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "bert", "id2label": {"0": 0, "1": 1}}
    (first / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (first / "label.txt").unlink()
    status, log, _ = train(news, "--model_name", first)
    assert status == 0, log
