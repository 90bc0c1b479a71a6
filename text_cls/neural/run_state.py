"""The state of a training run: its progress, how a signal stops it, and whether a saved run can be resumed."""

import os
import signal
from dataclasses import dataclass, field

from text_cls.cli import Problems, UserError, logger, stop_signals
from text_cls.neural.checkpoint import checkpoint_folder_problem, describe_run, last_folder, read_run
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import model_name_problem, paddle_device_problem, set_device

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
    "test_file",
    "visualdl_dir",
    "log_steps",  # this and the next: of retrieval_based/train.py
    "save_steps",
}


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
    if init_from_ckpt and not os.path.isfile(init_from_ckpt):
        yield f"--init_from_ckpt {init_from_ckpt}: no such file"
    if max_seq_length < 3:
        yield "--max_seq_length: the special tokens alone take 2; use 3 or more"


def start_run(options, arguments, files, kind="classification"):
    """Sets up device, processes and seed, and finds what an earlier run left.

    Args:
        options: `TrainingOptions`.
        arguments: all arguments of the script as a dict. A resumed run must have the same, but for `FREE_ON_RESUME`.
        files: {name: path} of the data, which must not have changed when a run is resumed.
        kind: of the checkpoint.
    Returns:
        the contents of `run.json`, and the `Progress` to continue from.
    """
    paddle = import_paddle()
    set_device(options.device)
    if paddle.distributed.get_world_size() > 1:
        paddle.distributed.init_parallel_env()
    run = {"kind": kind, **describe_run(arguments, files), "processes": paddle.distributed.get_world_size()}
    last = last_folder(options.save_dir)
    progress = saved_progress(options.save_dir, run) if options.resume else Progress()
    if progress.finished:
        logger.info("This run has finished already; its best checkpoint is in %s", options.save_dir)
    elif not options.resume and read_run(last):
        logger.warning("%s holds a run that was stopped; this one replaces it. To continue it: --resume", last)
    paddle.seed(options.seed)
    return run, progress


def saved_progress(save_dir, run):
    """The `Progress` of the run saved beside `save_dir`, which must be the same run as `run`, a new `run.json`.

    Raises:
        UserError: lists everything in which the two runs differ.
    """
    last = last_folder(save_dir)
    saved = read_run(last)
    if not saved:
        saved = read_run(save_dir)
        if saved and not saved["progress"]["finished"]:
            raise UserError(
                f"--resume: {last} does not exist. To start from the best weights of that run, leave out --resume and "
                f"use --init_from_ckpt {os.path.join(save_dir, 'model_state.pdparams')}"
            )
        if not saved:
            logger.info("--resume: nothing is saved yet; starting from the beginning")
            return Progress()
    problems = Problems()
    for name, now in run["arguments"].items():
        then = saved["arguments"].get(name)
        if name not in FREE_ON_RESUME and then != now:
            problems.add(f"--resume: --{name} was {then}, now it is {now}")
    for name, digest in run["data"].items():
        if saved["data"].get(name) != digest:
            problems.add(f"--resume: {name} is not the file that run started with")
    if saved["processes"] != run["processes"]:
        problems.add(f"--resume: that run had {saved['processes']} processes, this one has {run['processes']}")
    problems.stop_if_any()
    return Progress(**saved["progress"])
