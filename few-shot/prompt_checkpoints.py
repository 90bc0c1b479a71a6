"""Checkpoints of the prompt trainer, and which one of them a run resumes from."""

import os

from text_cls.cli import Problems, UserError
from text_cls.neural.checkpoint import last_folder, read_run

STATE = ("model_state.pdparams", "optimizer.pdopt", "scheduler.pdparams", "trainer_state.json", "rng_state.pth")
# Flags that may differ when a run resumes: they do not change what is learnt.
FREE_ON_RESUME = {
    "data_dir",
    "device",
    "do_eval",
    "do_export",
    "do_predict",
    "early_stopping_patience",
    "export_type",
    "logging_steps",
    "output_dir",
    "per_device_eval_batch_size",
    "resume_from_checkpoint",
    "save_total_limit",
}


def checkpoints_in(folder):
    """{step: path} of the checkpoints in a folder, in order of steps."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted(int(name[11:]) for name in names if name.startswith("checkpoint-") and name[11:].isdigit())
    return {step: os.path.join(folder, f"checkpoint-{step}") for step in steps}


def latest_checkpoint(folder):
    """The folder itself if it is a complete checkpoint, else the newest complete one in it, or None."""
    folders = checkpoints_in(folder).values()
    whole = [path for path in (folder, *folders) if all(os.path.exists(os.path.join(path, name)) for name in STATE)]
    return whole[-1] if whole else None


def checkpoint_to_resume(args, run):
    """The checkpoint that --resume_from_checkpoint names.

    Args:
        run: what `run.json` records of this run; the interrupted run must have the same arguments and data.
    Raises:
        UserError: there is no such checkpoint, or it is from a different run.
    """
    folder, last = latest_checkpoint(args.resume_from_checkpoint), last_folder(args.output_dir)
    if folder is None and os.path.realpath(args.resume_from_checkpoint) == os.path.realpath(last):
        raise UserError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: nothing is saved there yet; leave the flag "
            "out to start from the beginning"
        )
    if folder is None:
        raise UserError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: there is no checkpoint of an interrupted "
            "training; name the folder <output_dir>_last, or leave out --do_train to use a trained model"
        )
    home = os.path.dirname(os.path.realpath(folder))
    if home != os.path.realpath(last):
        raise UserError(
            f"--resume_from_checkpoint {args.resume_from_checkpoint}: a run resumes in its own folder, which is {last} "
            f"for --output_dir {args.output_dir}; use that run's --output_dir, or rename the folder"
        )
    saved, problems = read_run(home), Problems()
    for name, now in run["arguments"].items():
        then = saved.get("arguments", {}).get(name)
        if name not in FREE_ON_RESUME and then != now:
            problems.add(f"--resume_from_checkpoint: --{name} was {then}, now it is {now}")
    for name, digest in run["data"].items():
        if saved.get("data", {}).get(name) != digest:
            problems.add(f"--resume_from_checkpoint: {name} is not the file that run started with")
    problems.stop_if_any()
    return folder
