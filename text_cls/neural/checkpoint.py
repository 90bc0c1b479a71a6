"""The checkpoint: a folder with everything that prediction needs, written whole or not at all.

config.json, the weights as model.safetensors and as model_state.pdparams, tokenizer files, label.txt, decision.json,
README.md (the model card), reference.json (what it predicts on dev), run.json. Both files of weights have PaddleNLP's
names. model.safetensors is the preferred one, since it is no pickle; PaddleNLP (2.8) prefers it, too. The guides'
commands name the other. A linear model (`train.py --model_name linear`) has only the first, and is opened without
Paddle. The folder `<save_dir>_last` holds the latest step and the optimiser's state, without model_state.pdparams:
`--resume` continues from it.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from text_cls.card_facts import facts_of
from text_cls.card_usage import checkpoint_usage
from text_cls.cli import Problems, UserError, logger
from text_cls.decision import Decision
from text_cls.files import (
    atomic_folder,
    atomic_write,
    overwrite_problem,
    read_unchanged,
    recover_folder,
    sha256,
    write_json,
)
from text_cls.label_names import tidy_name
from text_cls.language import tr
from text_cls.linear_classifier import LINEAR
from text_cls.linear_classifier import load as load_linear
from text_cls.long_text_flags import of_arguments
from text_cls.long_texts import LongTexts
from text_cls.model_card import CARD, ENCODER, MODEL, model_card
from text_cls.neural import hugging_face
from text_cls.neural.model import load_pretrained, longest_input, paddle_device_problem, set_device
from text_cls.neural.pooling import POOLING_FIELD
from text_cls.neural.run_file import (
    REMEDY,
    RUN_FILE,
    SAFETENSORS,
    WEIGHT_FILES,
    damage,
    file_sums,
    read_run,
    sums_problem,
    weight_files,
)
from text_cls.neural.training_state import STATE_FILE
from text_cls.reference import REFERENCE, Reference, read_reference
from text_cls.rows import Labels, read_labels
from text_cls.schema import TEXT, fields, map_of, or_null, read_json, whole
from text_cls.tokenization import CodePoints

DECISION = "decision.json"
CONFIG = fields({}, {"id2label": or_null(map_of(TEXT)), "max_position_embeddings": or_null(whole(1)), **POOLING_FIELD})
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
    long_texts: LongTexts = LongTexts()
    is_linear: bool = False  # a `LinearClassifier`, with `CodePoints`
    reference: Reference | None = None


def last_folder(save_dir):
    """The folder of a run's latest state, beside that of its best checkpoint."""
    return f"{os.path.normpath(save_dir)}_last"


def save_checkpoint(path: str, checkpoint: Checkpoint, state: dict[str, np.ndarray] | None = None) -> None:
    """Writes the folder, replacing an older one. state: what `training_state` returns, for a run to be resumed."""
    with atomic_folder(path) as folder:
        if checkpoint.is_linear:
            checkpoint.model.save(folder, checkpoint.labels.names)
        else:
            _save_pretrained(folder, checkpoint, for_paddlenlp=state is None)
        checkpoint.labels.write(os.path.join(folder, "label.txt"))
        checkpoint.decision.save(os.path.join(folder, "decision.json"), checkpoint.labels.names)
        if state is not None:
            np.savez(os.path.join(folder, STATE_FILE), **state)
        if state is None:
            write_card(folder, checkpoint.run, checkpoint.labels, checkpoint.decision)
            if checkpoint.reference:
                checkpoint.reference.write(folder)
        files = {**file_sums(folder), RUN_FILE: None}
        if state is None:  # a decision is fitted or chosen after training too, and is checked when it is read
            files |= {name: None for name in (DECISION, REFERENCE) if name in files}
        write_json(os.path.join(folder, RUN_FILE), {**checkpoint.run, "files": files})


def _save_pretrained(folder, checkpoint, for_paddlenlp):
    """Writes model and tokenizer. for_paddlenlp: also model_state.pdparams."""
    checkpoint.model.config.id2label = dict(enumerate(checkpoint.labels.names))
    checkpoint.model.config.label2id = dict(checkpoint.labels.index)
    checkpoint.model.save_pretrained(folder, safe_serialization=True)
    # safetensors makes a file that only its owner may read.
    shutil.copymode(os.path.join(folder, "config.json"), os.path.join(folder, SAFETENSORS))
    if for_paddlenlp:
        checkpoint.model.save_pretrained(folder)
    checkpoint.tokenizer.save_pretrained(folder)


def write_card(folder: str, run: dict, labels: Labels, decision: Decision) -> None:
    """Writes the model card of a checkpoint. run: contents of its `run.json`."""
    kind, model_type = checkpoint_kind(run), _read_config(folder).get("model_type")
    header = {"library_name": "paddlenlp", "tags": ["paddlepaddle"]}
    text = model_card(
        facts_of(run),
        labels,
        decision,
        run.get("arguments", {}).get("max_seq_length", 128),
        of_arguments(run.get("arguments", {})),
        {"tags": [LINEAR]} if model_type == LINEAR else header,
        checkpoint_usage(kind, model_type),
        LINEAR if model_type == LINEAR else ENCODER if kind == "retrieval" else MODEL,
    )
    with atomic_write(os.path.join(folder, CARD)) as file:
        file.write(text)


def update_checkpoint(
    path: str, run: dict, labels: Labels, decision: Decision, reference: Reference | None = None
) -> None:
    """Replaces run.json, the decision, the card and, if there is another, the reference of the checkpoint in `path`.

    The card has no sum in between: a process that is killed leaves a checkpoint that is whole.
    """
    file, files = os.path.join(path, RUN_FILE), run.get("files")
    unsummed = {**files, CARD: None} if isinstance(files, dict) else files
    if unsummed != files:
        write_json(file, {**read_run(path), "files": unsummed})
    decision.save(os.path.join(path, DECISION), labels.names)
    if reference:
        reference.write(path)
    write_card(path, run, labels, decision)
    if isinstance(files, dict):
        unsummed = {REFERENCE: None} if reference else {}
        files = {**files, **unsummed, CARD: sha256(os.path.join(path, CARD))}
    write_json(file, {**run, "files": files})


def checkpoint_kind(run):
    """The kind of a checkpoint, a key of `CHECKPOINT_SCRIPTS`. run: its `run.json`, empty if it has none."""
    return run.get("kind", "classification")


def checkpoint_folder_problem(path, kind="classification", flag="--save_dir"):
    """Why writing a checkpoint of a kind to the folder `path` would destroy something, or None."""
    run = read_run(path, remedy=tr("delete the folder {path}, or name another", path=path))
    if run and checkpoint_kind(run) != kind:
        return tr(
            "{flag} {path}: the folder holds a {checkpoint_kind} model, which would be lost; name a new folder",
            flag=flag,
            path=path,
            checkpoint_kind=checkpoint_kind(run),
        )
    found, ours = set(os.listdir(path)) if os.path.isdir(path) else set(), set(run.get("files", ()))
    if STATE_FILE in found and not run:
        return tr(
            "{path} is the state of a stopped run without {run_file}, which cannot be resumed; move or delete it",
            path=path,
            run_file=RUN_FILE,
        )
    if not _is_of_paddlenlp(found):
        # A run that was killed may leave temporaries (files.py) and the lock of a bundle in the folder (locks.py).
        ending = r"(\.[0-9a-f]+)?\.(tmp|old)(\.lock)?$|\.lock$"
        found = {name for name in found if re.sub(ending, "", name) in ours}
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

    def read():
        found = Problems()
        return _read_checkpoint(path, label_file, found, flag, kind), found

    checkpoint, found = read_unchanged(path, read)
    problems.extend(found)
    if DECISION in checkpoint.run.get("files", ()) and not os.path.exists(os.path.join(path, DECISION)):
        logger.warning("%s has no decision.json any more: the threshold is 0.5", path)
    return checkpoint


def _read_checkpoint(path, label_file, problems, flag, kind):
    """What `load_checkpoint` returns."""
    if not weight_files(path):
        what = (
            tr("holds no {weight_files}", weight_files=" and no ".join(WEIGHT_FILES))
            if os.path.isdir(path)
            else tr("does not exist")
        )
        raise UserError(
            tr(
                "{flag} {path} {what}; train first (python {checkpoint_scripts} ...) or name the folder it wrote",
                flag=flag,
                path=path,
                what=what,
                checkpoint_scripts=CHECKPOINT_SCRIPTS[kind],
            )
        )
    run = read_run(path)
    if checkpoint_kind(run) != kind:
        what, otherwise = (
            f"a {checkpoint_kind(run)} model",
            tr(", or use the scripts for {checkpoint_kind}", checkpoint_kind=checkpoint_kind(run)),
        )
        if not run:  # a model of PaddleNLP's application, or what its trainer saves during training
            what, otherwise = tr("no run.json"), ""
        raise UserError(
            tr(
                "{flag} {path} holds {what}; name a folder that {checkpoint_scripts} wrote{otherwise}",
                flag=flag,
                path=path,
                what=what,
                checkpoint_scripts=CHECKPOINT_SCRIPTS[kind],
                otherwise=otherwise,
            )
        )
    config = _read_config(path)
    labels = _read_labels(path, label_file, config.get("id2label") or {}, problems)
    longest = longest_input(SimpleNamespace(**{"model_type": None, **config}))
    how, is_linear = of_arguments(run.get("arguments", {})), config.get("model_type") == LINEAR
    decision, reference = _load_decision(path, labels.names), read_reference(path)
    return Checkpoint(None, None, labels, decision, run, longest, path, how, is_linear, reference)


def _read_config(path):
    file = os.path.join(path, "config.json")
    return read_json(file, CONFIG, tr(REMEDY)) if os.path.exists(file) else {}


def _read_labels(path, label_file, outputs, problems):
    """The labels of the checkpoint in the folder `path`, which must be those of its outputs, {number: name}."""
    own, has_label_file = os.path.join(path, "label.txt"), label_file is not None and os.path.exists(label_file)
    if not os.path.exists(own) and not has_label_file:
        missing = (
            tr("neither {own} nor {label_file} exists", own=own, label_file=label_file)
            if label_file
            else tr("{own} does not exist", own=own)
        )
        raise UserError(tr("{missing}; put the label file the model was trained with there", missing=missing))
    used = own if os.path.exists(own) else label_file
    labels = read_labels(used, problems, of_model=True)
    theirs = read_labels(label_file, problems, of_model=True) if has_label_file and used == own else labels
    names = _output_names(outputs)
    if len(outputs or labels) != len(labels):
        problems.add(
            tr(
                "{path}: the model has {outputs} outputs, the label file {labels} labels",
                path=path,
                outputs=len(outputs),
                labels=len(labels),
            )
        )
    elif names not in ([], labels.names):
        remedy = tr("The model's labels are in {path}/config.json, in their order", path=path)
        if theirs.names == names:
            remedy = tr("To use the model's: cp {label_file} {own}", label_file=label_file, own=own)
        problems.add(_disagreement, used, labels.names, names, remedy)
    elif not theirs.same_as(labels):
        remedy = tr("To use the model's: cp {own} {label_file}", own=own, label_file=label_file)
        problems.add(_disagreement, label_file, theirs.names, labels.names, remedy)
    return labels


def _output_names(outputs):
    """The names of a model's outputs, which are `id2label` of its config.json; empty if it does not name them."""
    names = [outputs.get(str(number)) for number in range(len(outputs))]
    return [] if names == [f"LABEL_{number}" for number in range(len(names))] else names


def start_labels_problem(flag: str, path: str, label_file: str, labels: Labels) -> str | None:
    """Why a run must not start from the model in the folder `path`, which `flag` names, or None.

    It has the labels of the run in another order: each output would start as that of another label. A model that has
    other labels is a warning, because its outputs may be meant to start from theirs.
    """
    own, problems = os.path.join(path, "label.txt"), Problems()
    outputs = hugging_face.label_names(path) if hugging_face.find(path) else _read_config(path).get("id2label") or {}
    names = [*map(str, _output_names(outputs))]  # numbers may be missing in id2label
    theirs = read_labels(own, problems, of_model=True).names if os.path.exists(own) else []
    names = names or theirs
    before, now = ([*map(tidy_name, each)] for each in (names, labels.names))
    if not names or before == now:
        return None
    if sorted(before) == sorted(now):
        remedy = tr("The model's labels are in {path}, in their order", path=os.path.join(path, "config.json"))
        if theirs == names:
            remedy = tr("To use the model's: cp {own} {label_file}", own=own, label_file=label_file)
        return f"{flag}: {_disagreement(label_file, labels.names, names, remedy)}"
    meaning = tr("Each output starts from the weights of the model's label in its place")
    logger.warning("%s: %s", flag, _disagreement(label_file, labels.names, names, meaning))
    return None


def _disagreement(label_file, theirs, names, remedy):
    known, found = set(names), set(theirs)
    extra = [name for name in theirs if name not in known]
    missing = [str(name) for name in names if name not in found]
    if not extra and not missing:
        what = tr("the same labels in another order")
    else:
        parts = [f"{sign} {', '.join(names[:5])}" for sign, names in (("also", extra), ("not", missing)) if names]
        what = "; ".join(parts)
    return tr(
        "{label_file} is not the model's label file ({what}). {remedy}", label_file=label_file, what=what, remedy=remedy
    )


def _load_decision(path, names):
    file = os.path.join(path, "decision.json")
    if not os.path.exists(file):  # PaddleNLP's application, whose threshold is always 0.5
        return Decision()
    return Decision.load(file, names)


def load_model(checkpoint: Checkpoint, device: str, flag: str = "--params_path") -> None:
    """Loads model and tokenizer of a checkpoint from `load_checkpoint`, on the device, in evaluation mode.

    A linear model is loaded without Paddle, and runs on the CPU.
    """
    if checkpoint.is_linear:
        checkpoint.model = load_rest(checkpoint, lambda: load_linear(checkpoint.path, len(checkpoint.labels)))
        checkpoint.tokenizer = CodePoints()
        return
    set_device(device)
    checkpoint.model, checkpoint.tokenizer = load_rest(
        checkpoint, lambda: load_pretrained(checkpoint.path, len(checkpoint.labels), flag=flag)
    )
    checkpoint.model.eval()


def load_rest(checkpoint: Checkpoint, load: Callable[[], Any]) -> Any:
    """What `load()` returns, which reads the rest of a checkpoint from `load_checkpoint`: its weights and tokenizer.

    A run that is still training may have saved a better state since; then that is loaded, and `checkpoint.run` changes.

    Raises:
        UserError: a file is damaged, or the folder now holds another model or decision.
    """
    path, before = checkpoint.path, checkpoint.run

    def read():
        run = read_run(path)
        names = {*run, *before} - {"progress", "files", "card"}
        same = all(run.get(name) == before.get(name) for name in names)
        if not same or _load_decision(path, checkpoint.labels.names) != checkpoint.decision:
            raise UserError(tr("{path} was replaced while this script read it; run it again", path=path))
        return run, load()

    checkpoint.run, loaded = load_verified(path, read)
    return loaded


def load_verified(folder: str, load: Callable[[], Any], name: str | None = None) -> Any:
    """What `load()` returns, which reads a folder: its files are those that its `run.json` records, if it has one.

    name: of the only file that it reads; None for all.
    """

    def read():
        files = read_run(folder).get("files")
        if name is not None and isinstance(files, dict):
            files = {name: files.get(name)}
        weights = [name] if name else weight_files(folder) or [SAFETENSORS]
        if problem := sums_problem(files, weights) or damage(folder, files):
            raise UserError(
                tr("{folder} is damaged ({problem}); {remedy}", folder=folder, problem=problem, remedy=tr(REMEDY))
            )
        return load()

    return read_unchanged(folder, read)


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
    if not checkpoint.is_linear and (problem := paddle_device_problem(device)):
        found.add(problem)
    trained_with = checkpoint.run.get("arguments", {}).get("max_seq_length", 128)
    if checkpoint.longest and (max_seq_length or 0) > checkpoint.longest:
        found.add(
            tr(
                "--max_seq_length {max_seq_length}: this model takes at most {longest} tokens",
                max_seq_length=max_seq_length,
                longest=checkpoint.longest,
            )
        )
    if max_seq_length not in (None, trained_with):
        logger.warning("--max_seq_length %d, while the model was trained with %d", max_seq_length, trained_with)
    if problems is None:
        found.stop_if_any()
    return checkpoint, max_seq_length or trained_with
