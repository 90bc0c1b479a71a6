"""The checkpoint: a folder with everything that prediction needs, written whole or not at all.

config.json, model_state.pdparams, tokenizer files, label.txt, decision.json, run.json. The folder `<save_dir>_last`
holds the same for the latest step, and also the optimiser's state: `--resume` continues from it.
"""

import contextlib
import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np

from text_cls.cli import Problems, UserError, logger
from text_cls.decision import Decision
from text_cls.files import atomic_folder, overwrite_problem, recover_folder, sha256, write_json
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import load_pretrained, longest_input, paddle_device_problem, set_device
from text_cls.rows import Labels, read_labels

STATE_FILE, SCALER = "training_state.npz", "scaler/"
CHECKPOINT_SCRIPTS = {  # kind of checkpoint: the script that writes it
    "classification": "train.py",
    "retrieval": "retrieval_based/train.py",
    "prompt": "few-shot/train.py",
}


@dataclass
class Checkpoint:
    """A checkpoint in memory. Model and tokenizer are None until `load_model` has loaded them."""

    model: Any
    tokenizer: Any
    labels: Labels
    decision: Decision
    run: dict  # the contents of run.json
    longest: int | None = None  # maximum tokens of the model
    path: str | None = None  # the folder it was read from


def last_folder(save_dir):
    """The folder of a run's latest state, beside that of its best checkpoint."""
    return f"{os.path.normpath(save_dir)}_last"


def save_checkpoint(path: str, checkpoint: Checkpoint, state: dict[str, np.ndarray] | None = None) -> None:
    """Writes the folder, replacing an older one. state: what `training_state` returns, for a run to be resumed."""
    with atomic_folder(path) as folder:
        checkpoint.model.config.id2label = dict(enumerate(checkpoint.labels.names))
        checkpoint.model.config.label2id = dict(checkpoint.labels.index)
        checkpoint.model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)
        checkpoint.labels.write(os.path.join(folder, "label.txt"))
        checkpoint.decision.save(os.path.join(folder, "decision.json"), checkpoint.labels.names)
        if state is not None:
            np.savez(os.path.join(folder, STATE_FILE), **state)
        files = sorted([*os.listdir(folder), "run.json"])
        write_json(os.path.join(folder, "run.json"), {**checkpoint.run, "files": files})


def read_run(path):
    """`run.json` of a checkpoint as a dict; empty if the folder has none."""
    recover_folder(path)
    return _read_json(os.path.join(path, "run.json")) if os.path.exists(os.path.join(path, "run.json")) else {}


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); train again, or restore the folder from a backup") from error


def checkpoint_kind(run):
    """The kind of a checkpoint, a key of `CHECKPOINT_SCRIPTS`. run: its `run.json`, empty if it has none."""
    return run.get("kind", "classification")


def checkpoint_folder_problem(path, kind="classification", flag="--save_dir"):
    """Why writing a checkpoint of a kind to the folder `path` would destroy something, or None."""
    run = read_run(path)
    if run and checkpoint_kind(run) != kind:
        return f"{flag} {path}: the folder holds a {checkpoint_kind(run)} model, which would be lost; name a new folder"
    found, ours = set(os.listdir(path)) if os.path.isdir(path) else set(), set(run.get("files", ()))
    if not _is_of_paddlenlp(found):
        # A run that was killed may leave temporary files (files.py).
        found = {name for name in found if re.sub(r"(\.\d+)?\.tmp$", "", name) in ours}
    return overwrite_problem(path, found, flag)


def _is_of_paddlenlp(files):
    """Whether PaddleNLP's application wrote these files. It replaces them without a warning, and so do we."""
    return {"model_state.pdparams", "tokenizer_config.json"} <= files and not {"run.json", "label.txt"} & files


def load_checkpoint(
    path: str, label_file: str | None, problems: Problems, flag: str = "--params_path", kind: str = "classification"
) -> Checkpoint:
    """Reads and checks the small files of a checkpoint; `load_model` then loads model and tokenizer.

    Args:
        path: the folder.
        label_file: the data set's own label file, or None. If it exists, it must agree with the checkpoint's.
        problems: gets the problems after which the check can continue.
        flag: the flag that gave the path, for messages.
        kind: a key of `CHECKPOINT_SCRIPTS`; a checkpoint of another kind is refused.
    Raises:
        UserError: the folder is no checkpoint of this kind, or a file of it cannot be read.
    """
    recover_folder(path)
    if not os.path.exists(os.path.join(path, "model_state.pdparams")):
        what = "holds no model_state.pdparams" if os.path.isdir(path) else "does not exist"
        raise UserError(
            f"{flag} {path} {what}; train first (python {CHECKPOINT_SCRIPTS[kind]} ...) or name the folder it wrote"
        )
    run, own = read_run(path), os.path.join(path, "label.txt")
    if checkpoint_kind(run) != kind:
        what, otherwise = f"a {checkpoint_kind(run)} model", f", or use the scripts for {checkpoint_kind(run)}"
        if not run:  # a model of PaddleNLP's application, or what its trainer saves during training
            what, otherwise = "no run.json", ""
        raise UserError(f"{flag} {path} holds {what}; name a folder that {CHECKPOINT_SCRIPTS[kind]} wrote{otherwise}")
    has_label_file = label_file is not None and os.path.exists(label_file)
    if not os.path.exists(own) and not has_label_file:
        missing = f"neither {own} nor {label_file} exists" if label_file else f"{own} does not exist"
        raise UserError(f"{missing}; put the label file the model was trained with there")
    labels = read_labels(own if os.path.exists(own) else label_file, problems)
    if has_label_file and os.path.exists(own):
        theirs = read_labels(label_file, problems)
        if theirs.names != labels.names:
            problems.add(_disagreement, label_file, theirs, own, labels)
    outputs = _read_json(os.path.join(path, "config.json")) if os.path.exists(os.path.join(path, "config.json")) else {}
    if len(outputs.get("id2label", labels.names)) != len(labels):
        problems.add(f"{path}: the model has {len(outputs['id2label'])} outputs, the label file {len(labels)} labels")
    longest = longest_input(SimpleNamespace(**{"model_type": None, **outputs}))
    return Checkpoint(None, None, labels, _load_decision(path, labels.names), run, longest, path)


def _disagreement(label_file, theirs, own, labels):
    extra = [name for name in theirs.names if name not in labels.index]
    missing = [name for name in labels.names if name not in theirs.index]
    if not extra and not missing:
        what = "the same labels in another order"
    else:
        parts = [f"{sign} {', '.join(names[:5])}" for sign, names in (("also", extra), ("not", missing)) if names]
        what = "; ".join(parts)
    return f"{label_file} is not the model's label file ({what}). To use the model's: cp {own} {label_file}"


def _load_decision(path, names):
    file = os.path.join(path, "decision.json")
    if not os.path.exists(file):  # PaddleNLP's application, whose threshold is always 0.5
        return Decision()
    return Decision.load(file, names)


def load_model(checkpoint: Checkpoint, device: str, flag: str = "--params_path") -> None:
    """Loads model and tokenizer of a checkpoint from `load_checkpoint`, on the device, in evaluation mode."""
    set_device(device)
    checkpoint.model, checkpoint.tokenizer = load_pretrained(checkpoint.path, len(checkpoint.labels), flag=flag)
    checkpoint.model.eval()


def open_checkpoint(
    path: str,
    label_file: str | None,
    device: str,
    max_seq_length: int | None = None,
    problems: Problems | None = None,
) -> tuple[Checkpoint, int]:
    """Reads the checkpoint in the folder `path`, and reports all problems with it and with the device together.

    Args:
        label_file: as in `load_checkpoint`.
        max_seq_length: maximum tokens per text; None for the length the model was trained with.
        problems: gets the problems; without it, they are raised as one UserError.
    Returns:
        the checkpoint, not yet with its model, and the maximum tokens per text.
    """
    found = Problems() if problems is None else problems
    checkpoint = load_checkpoint(path, label_file, found)
    if problem := paddle_device_problem(device):
        found.add(problem)
    trained_with = checkpoint.run.get("arguments", {}).get("max_seq_length", 128)
    if checkpoint.longest and (max_seq_length or 0) > checkpoint.longest:
        found.add(f"--max_seq_length {max_seq_length}: this model takes at most {checkpoint.longest} tokens")
    if max_seq_length not in (None, trained_with):
        logger.warning("--max_seq_length %d, while the model was trained with %d", max_seq_length, trained_with)
    if problems is None:
        found.stop_if_any()
    return checkpoint, max_seq_length or trained_with


# ----------------------------------------------------------------------------------------------------------- the run


def describe_run(arguments, files):
    """What `run.json` says about the origin of a checkpoint. files: {name: path} of the data."""
    return {
        "arguments": arguments,
        "data": {name: sha256(path) for name, path in files.items()},
        "packages": versions(("paddlepaddle", "paddlepaddle-gpu", "paddlenlp", "numpy")),
        "python": platform.python_version(),
        "commit": _commit(),
    }


def versions(packages):
    """{package: version} of the installed ones."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit():
    """Commit of this code, with `+` if files differ from it; None without git or outside a repository."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def training_state(optimizer, scaler):
    """The optimiser's moments and the loss scaler's state as {name: array}. The rate follows from the step."""
    moments = {name: value.numpy() for name, value in optimizer.state_dict().items() if name != "LR_Scheduler"}
    scale = {SCALER + name: np.asarray(value) for name, value in scaler.state_dict().items()}
    return {**moments, **scale}


def load_training_state(path, optimizer, scaler):
    """Loads what `training_state` returned, saved in the folder `path`, into a new optimiser and scaler."""
    paddle = import_paddle()
    with np.load(os.path.join(path, STATE_FILE), allow_pickle=False) as arrays:
        moments = {name: paddle.to_tensor(arrays[name]) for name in arrays.files if not name.startswith(SCALER)}
        scale = {name.removeprefix(SCALER): arrays[name] for name in arrays.files if name.startswith(SCALER)}
    optimizer.set_state_dict(moments)
    if scale:
        scaler.load_state_dict({name: value if value.ndim else value.item() for name, value in scale.items()})
