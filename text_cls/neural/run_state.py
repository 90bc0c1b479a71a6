"""The state of a training run: its progress, how a signal stops it, and whether a saved run can be resumed."""

import json
import os
import signal
from dataclasses import asdict, dataclass, field

import numpy as np

from text_cls.card_facts import changed_arguments
from text_cls.cli import Problems, UserError, logger, stop_signals
from text_cls.files import read_unchanged, sha256
from text_cls.language import tr
from text_cls.linear_classifier import is_linear
from text_cls.long_texts import CUT, MAX, MOST
from text_cls.neural.checkpoint import checkpoint_folder_problem, checkpoint_kind, last_folder, load_verified
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import model_name_problem, paddle_device_problem, set_device
from text_cls.neural.run_file import (
    REMEDY,
    RESUMABLE,
    RUN_FILE,
    SAFETENSORS,
    WEIGHT_FILES,
    damage,
    describe_run,
    read_run,
    sums_problem,
    weight_files,
)
from text_cls.neural.training_state import STATE_FILE, read_training_state

# Flags that may differ when a run is resumed, since they do not change what is learnt.
FREE_ON_RESUME = {
    "config",
    "dataset_dir",
    "device",
    "logging_steps",
    "num_workers",
    "resume",
    "save_dir",
    "save_minutes",
    "seeds",
    "test_file",
    "teacher_cache",
    "tracker",
    "tracker_dir",
    "visualdl_dir",
    "log_steps",  # this and the next: of retrieval_based/train.py
    "save_steps",
}
# What a run had that is older than these flags.
BEFORE = {"long_texts": CUT, "max_windows": MOST, "window_pooling": MAX, "average": False}
PROGRESS = "progress"  # in the saved state: a second copy, which shows a change in that of run.json


@dataclass
class Progress:
    """How far a run has got. batch: batches done in this epoch, over all processes. step: updates of the weights."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float | None = None
    epochs_without_better: int = 0
    history: list = field(default_factory=list)
    finished: bool = False


class StopSignal:
    """While entered, Ctrl-C, SIGTERM and SIGHUP only record `number`; a second signal interrupts."""

    def __enter__(self):
        self.number = 0
        self.before = {number: signal.signal(number, self._catch) for number in stop_signals()}
        return self

    def _catch(self, number, frame):
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run_problems(model, flag, device, save_dir, init_from_ckpt, max_seq_length, kind="classification"):
    """Yields problems with the arguments that every training has, as texts, or None for an argument without one.

    Args:
        model: name or folder of the model to start from, as given by `flag`.
        kind: of the checkpoint.
    """
    yield paddle_device_problem(device)
    yield model_name_problem(model, flag)
    yield checkpoint_folder_problem(save_dir, kind)
    yield checkpoint_folder_problem(last_folder(save_dir), kind)
    if init_from_ckpt and is_linear(init_from_ckpt):
        yield tr(
            "--init_from_ckpt {init_from_ckpt}: a linear model, which no other training starts from",
            init_from_ckpt=init_from_ckpt,
        )
    elif init_from_ckpt and os.path.isdir(init_from_ckpt) and not weight_files(init_from_ckpt):
        yield tr(
            "--init_from_ckpt {init_from_ckpt}: the folder has no {weight_files}",
            init_from_ckpt=init_from_ckpt,
            weight_files=" and no ".join(WEIGHT_FILES),
        )
    elif init_from_ckpt and not os.path.exists(init_from_ckpt):
        yield tr("--init_from_ckpt {init_from_ckpt}: no such file", init_from_ckpt=init_from_ckpt)
    if max_seq_length < 3:
        yield tr("--max_seq_length: the special tokens alone take 2; use 3 or more")


def start_run(options, arguments, files, progress, kind="classification", defaults=None):
    """Sets up device, processes and seed.

    Args:
        options: `TrainingOptions`.
        arguments: all arguments of the script as given, as a dict. What was None and has a value in `options`, the
            script has chosen by the data.
        files: {name: path} of the data.
        progress: `Progress` of the run.
        kind: of the checkpoint.
        defaults: of the arguments, as a dict; None if they are unknown.
    Returns:
        the contents of `run.json`.
    """
    paddle = import_paddle()
    set_device(options.device)
    if paddle.distributed.get_world_size() > 1:
        paddle.distributed.init_parallel_env()
    chosen = {name: getattr(options, name, None) for name, value in arguments.items() if value is None}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    run = {"kind": kind, **describe_run(arguments | chosen, files), "chosen": [*chosen]}
    run["processes"] = paddle.distributed.get_world_size()
    last = last_folder(options.save_dir)
    run["card"] = {} if defaults is None else {"changed": changed_arguments(arguments, defaults)}
    if progress != Progress():
        run["card"]["seconds"] = read_run(last).get("card", {}).get("seconds", 0)
    if not options.resume and read_run(last) and not _is_leftover(options.save_dir):
        logger.warning("%s holds a run that was stopped; this one replaces it. To continue it: --resume", last)
    paddle.seed(options.seed)
    return run


# ------------------------------------------------------------------------------------------------------------ resuming


def saved_progress(save_dir, arguments, files, kind="classification"):
    """The `Progress` to resume from: that of the run in `<save_dir>_last`, or of the finished one in `save_dir`.

    It needs no Paddle, and reads none of the large files. Without a saved run, it returns a new `Progress`.

    Args:
        arguments: as in `start_run`. The saved run must have the same, but for `FREE_ON_RESUME`.
        files: {name: path} of the data, which must not have changed. `read_rows` reports missing ones.
        kind: of the checkpoint.
    Raises:
        UserError: the saved run is damaged, or lists everything in which the two runs differ.
    """
    best, last = read_run(save_dir), last_folder(save_dir)
    if best and checkpoint_kind(best) != kind:
        return Progress()  # `run_problems` reports it
    data = {name: sha256(path) for name, path in files.items() if os.path.isfile(path)}
    processes = int(os.environ.get("PADDLE_TRAINERS_NUM", 1))
    run = {"kind": kind, "arguments": arguments, "data": data, "processes": processes}
    finished, differences = _is_finished(best), _differences(best, run)
    if finished and not differences:
        logger.info("This run has finished already; its best checkpoint is in %s", save_dir)
        return Progress(**best["progress"])
    saved = {} if _is_leftover(save_dir) else _read_last(save_dir, run)
    if saved is None:
        return Progress()  # `run_problems` reports it
    if saved:
        problems = Problems()
        for difference in _differences(saved, run):
            problems.add(f"--resume: {difference}")
        problems.stop_if_any()
        return Progress(**saved["progress"])
    if best and not finished:
        raise UserError(
            tr(
                "--resume: no run is saved in {last}. To start from the best weights of that run, leave out --resume "
                "and use --init_from_ckpt {save_dir}",
                last=last,
                save_dir=save_dir,
            )
        )
    logger.info("--resume: nothing is saved yet; starting from the beginning")
    if finished:
        logger.warning(
            "%s holds an older run, which finished: %s. The first checkpoint of this one replaces it",
            save_dir,
            "; ".join(differences),
        )
    return Progress()


def load_start(options, run, progress, load):
    """Model and tokenizer that a run starts from, and what `read_training_state` returns: None at the beginning.

    Args:
        run: contents of a new `run.json`.
        load: function of a name or folder that returns model and tokenizer.
    Raises:
        UserError: they are damaged, or not those of `progress`.
    """
    name, last = options.model_name, last_folder(options.save_dir)
    if progress == Progress():
        is_checkpoint = os.path.exists(os.path.join(name, RUN_FILE))
        return *(load_verified(name, lambda: load(name)) if is_checkpoint else load(name)), None

    def read():
        files = _read_last(options.save_dir, run)["files"]
        if problem := damage(last, files):
            raise ValueError(problem)
        state = read_training_state(last)
        older = _as_array(progress) if isinstance(files, list) else None  # versions had no second copy
        if state.pop(PROGRESS, older) != _as_array(progress):
            raise ValueError(
                tr("{run_file}: its progress is not that of {state_file}", run_file=RUN_FILE, state_file=STATE_FILE)
            )
        try:
            return *load(last), state
        except UserError as error:
            raise ValueError(error) from error

    try:
        return read_unchanged(last, read)
    except ValueError as error:
        raise last_is_damaged(options.save_dir, run, error) from error


def saved_state(optimization, progress):
    """{name: array} of what `load_start` needs besides the checkpoint; nothing at the beginning."""
    return {**optimization.state(), PROGRESS: _as_array(progress)} if progress != Progress() else {}


def last_is_damaged(save_dir, run, problem):
    """A UserError that says how to continue without `<save_dir>_last`. run: contents of a new `run.json`."""
    last, best, remedy = last_folder(save_dir), {}, tr("start anew without --resume")
    try:
        best = read_run(save_dir)
    except UserError:
        pass
    if best and not _is_finished(best) and not _differences(best, run) and not damage(save_dir, best.get("files")):
        remedy = tr(
            "continue from the best weights, with --init_from_ckpt {save_dir}, or {remedy}",
            save_dir=save_dir,
            remedy=remedy,
        )
    return UserError(
        tr("{last} is damaged ({problem}). Delete it; then {remedy}", last=last, problem=problem, remedy=remedy)
    )


def _read_last(save_dir, run):
    """`run.json` of `<save_dir>_last`: empty if nothing is saved there, None if it is a model of another kind."""
    last = last_folder(save_dir)
    try:
        saved = read_run(last)
        if saved and checkpoint_kind(saved) != run["kind"]:
            return None
        saved = read_run(last, RESUMABLE)
    except UserError as error:
        problem = "; ".join(line.strip().removesuffix(f"; {tr(REMEDY)}") for line in str(error).splitlines())
        raise last_is_damaged(save_dir, run, problem) from error
    if not saved and os.path.exists(os.path.join(last, STATE_FILE)):
        raise last_is_damaged(save_dir, run, f"{RUN_FILE}: missing")
    if _is_finished(saved):
        raise last_is_damaged(
            save_dir, run, tr("{run_file}: a run that finished leaves no such folder", run_file=RUN_FILE)
        )
    if saved and (problem := sums_problem(saved["files"], (*(weight_files(last) or [SAFETENSORS]), STATE_FILE))):
        raise last_is_damaged(save_dir, run, problem)
    return saved


def _differences(saved, run):
    """What differs between a saved run and a new one, as texts: arguments, data, processes."""
    found = []
    for name, now in run["arguments"].items():
        then = saved.get("arguments", {}).get(name, BEFORE.get(name))
        by_the_data = now is None and name in saved.get("chosen", ("early_stop_nums", "metric_for_best"))
        if name not in FREE_ON_RESUME and then != now and not by_the_data:
            found.append(tr("--{name} was {then}, now it is {now}", name=name, then=then, now=now))
    for name, digest in run["data"].items():
        if saved.get("data", {}).get(name) != digest:
            found.append(tr("{name} is not the file that run started with", name=name))
    if saved.get("processes") != run["processes"]:
        found.append(
            tr(
                "that run had {before} processes, this one has {now}",
                before=saved.get("processes"),
                now=run["processes"],
            )
        )
    return found


def _is_finished(run):
    return run.get("progress", {}).get("finished", False)


def _is_leftover(save_dir):
    """Whether `<save_dir>_last` is of the run in `save_dir`, which was killed after it had finished."""
    try:
        best, saved = (read_run(folder, RESUMABLE) for folder in (save_dir, last_folder(save_dir)))
    except UserError:
        return False
    return _is_finished(best) and not _differences(saved, best)


def _as_array(progress):
    return np.array(json.dumps(asdict(progress)))
