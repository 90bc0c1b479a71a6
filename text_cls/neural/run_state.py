"""A run of training: where it stands, how a signal stops it, and whether it may go on from what an older one left."""

import os
import signal
from dataclasses import dataclass, field

from text_cls.cli import Problems, UserError, logger
from text_cls.neural.checkpoint import checkpoint_folder_problem, describe_run, last_folder, read_run
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import model_name_problem, paddle_device_problem, set_device

# Flags that may differ when a run goes on: they do not change what is learnt.
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
    "log_steps",
    "save_steps",  # of the retrieval road
}


@dataclass
class Progress:
    """Where a run stands. `batch`: batches of the epoch that are done, over all processes; `step`: updates."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_score: float | None = None
    epochs_without_better: int = 0
    history: list = field(default_factory=list)
    finished: bool = False


class StopSignal:
    """While entered, Ctrl-C and SIGTERM set `number` in place of stopping at once; a second one stops at once."""

    def __enter__(self):
        self.number = 0
        self.before = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _catch(self, number, frame):
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run_problems(args, model, flag, kind="classification"):
    """Faults of the arguments that every training has, as texts; None where there is none.

    Args:
        model: name or folder of the model to start from, given as `flag`.
        kind: of the checkpoint.
    """
    yield paddle_device_problem(args.device)
    yield model_name_problem(model, flag)
    yield checkpoint_folder_problem(args.save_dir, kind)
    yield checkpoint_folder_problem(last_folder(args.save_dir), kind)
    if args.init_from_ckpt and not os.path.isfile(args.init_from_ckpt):
        yield f"--init_from_ckpt {args.init_from_ckpt}: there is no such file"
    if args.max_seq_length < 3:
        yield "--max_seq_length: the special tokens alone take 2; give 3 or more"


def start_run(args, files, kind="classification"):
    """Device, processes, seed, and what an older run left.

    Args:
        files: {name: path} of the data, which `--resume` wants unchanged.
        kind: of the checkpoint.
    Returns:
        what `run.json` is to tell, and the `Progress` to go on from.
    """
    paddle = import_paddle()
    set_device(args.device)
    if paddle.distributed.get_world_size() > 1:
        paddle.distributed.init_parallel_env()
    run = {"kind": kind, **describe_run(vars(args), files), "processes": paddle.distributed.get_world_size()}
    last = last_folder(args.save_dir)
    progress = saved_progress(args, last, run) if args.resume else Progress()
    if progress.finished:
        logger.info("This run has ended already; its best checkpoint is in %s", args.save_dir)
    elif not args.resume and read_run(last):
        logger.warning("%s holds a run that was stopped; this one replaces it. To go on with it: --resume", last)
    paddle.seed(args.seed)
    return run, progress


def saved_progress(args, last, run):
    """Where the run in the folder `last` stands. A UserError lists what differs between that run and this one."""
    saved = read_run(last)
    if not saved:
        saved = read_run(args.save_dir)
        if saved and not saved["progress"]["finished"]:
            raise UserError(
                f"--resume: {last} is not there. To start from the best weights of that run, leave out --resume and "
                f"give --init_from_ckpt {os.path.join(args.save_dir, 'model_state.pdparams')}"
            )
        if not saved:
            logger.info("--resume: nothing is saved yet, starting from the beginning")
            return Progress()
    problems = Problems()
    for name, now in run["arguments"].items():
        then = saved["arguments"].get(name)
        if name not in FREE_ON_RESUME and then != now:
            problems.add(f"--resume: --{name} was {then}, is {now}")
    for name, digest in run["data"].items():
        if saved["data"].get(name) != digest:
            problems.add(f"--resume: {name} is not the file that run was started with")
    if saved["processes"] != run["processes"]:
        problems.add(f"--resume: that run had {saved['processes']} processes, this one {run['processes']}")
    problems.stop_if_any()
    return Progress(**saved["progress"])
