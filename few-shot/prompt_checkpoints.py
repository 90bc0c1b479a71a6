"""Checkpoints of the prompt trainer, which one of them a run resumes from, and the trained model."""

import json
import os

from text_cls.cli import Problems, UserError
from text_cls.files import sha256, write_json
from text_cls.language import tr
from text_cls.neural.checkpoint import last_folder
from text_cls.neural.run_file import RUN_FILE, damage, read_run, sums_problem

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
    "tracker",
    "tracker_dir",
}
DEFAULTS = {"max_seq_length": 512, "truncate_mode": "tail"}  # without a trained model


def checkpoints_in(folder):
    """{step: path} of the checkpoints in a folder, in order of steps."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    steps = sorted(int(name[11:]) for name in names if name.startswith("checkpoint-") and name[11:].isdigit())
    return {step: os.path.join(folder, f"checkpoint-{step}") for step in steps}


def latest_checkpoint(folder):
    """The folder itself if it is a complete checkpoint, else the newest complete one in it, or None."""
    whole = [path for path in (folder, *checkpoints_in(folder).values()) if _is_complete(path)]
    return whole[-1] if whole else None


def _is_complete(path):
    """Whether saving a checkpoint came to its end, when `record_sums` adds it to run.json."""
    if not all(os.path.exists(os.path.join(path, name)) for name in STATE):
        return False
    try:
        sums = read_run(os.path.dirname(os.path.realpath(path))).get("checkpoints")
    except UserError:  # `checkpoint_to_resume` reports it
        return True
    return sums is None or os.path.basename(os.path.realpath(path)) in sums  # older versions recorded none


def record_sums(folder, kept, new):
    """Records in the run.json of `folder` the SHA-256 of the files of its checkpoints. new: the one just saved."""
    run = read_run(folder)
    sums = {os.path.basename(path): run.get("checkpoints", {}).get(os.path.basename(path)) for path in kept}
    sums[os.path.basename(new)] = {name: sha256(os.path.join(new, name)) for name in STATE}
    sums = {name: files for name, files in sums.items() if files}
    write_json(os.path.join(folder, RUN_FILE), {**run, "checkpoints": sums})


def load_trained(folder, with_prompt):
    """The `PromptTask` in a folder. with_prompt: function of model and tokenizer that returns one."""
    from paddlenlp.transformers import AutoTokenizer, ErnieConfig, ErnieForMaskedLM

    from text_cls.neural.model import pretrained_faults
    from text_cls.neural.weights import set_weights

    flag = "--resume_from_checkpoint"
    with pretrained_faults(folder, flag):
        plm = ErnieForMaskedLM(ErnieConfig.from_pretrained(folder))
        task = with_prompt(plm, AutoTokenizer.from_pretrained(folder))
    set_weights(task.model, os.path.join(folder, "model_state.pdparams"), flag)
    return task


def files_of(args):
    """{name: path} of the data files of a training."""
    return {name: os.path.join(args.data_dir, name) for name in ("label.txt", "train.txt", "dev.txt")}


def is_finished(args):
    """Whether the training that --resume_from_checkpoint should go on with has ended: its model is in output_dir."""
    last = os.path.realpath(last_folder(args.output_dir))
    asked = args.resume_from_checkpoint and os.path.realpath(args.resume_from_checkpoint)
    if not args.do_train or not asked or last not in (asked, os.path.dirname(asked)):
        return False
    run, files = read_run(args.output_dir), files_of(args)
    if "training" not in run or not all(map(os.path.isfile, files.values())):
        return False
    return not list(_differences(run, vars(args), {name: sha256(path) for name, path in files.items()}))


def _differences(saved, arguments, data):
    """What differs between a saved run and this one, as texts. data: {name: SHA-256}."""
    for name, now in arguments.items():
        then = saved.get("arguments", {}).get(name)
        filled_in = now is None and name in ("max_seq_length", "truncate_mode")  # by `read_all`
        if name not in FREE_ON_RESUME and then != (DEFAULTS[name] if filled_in else now):
            yield tr("--{name} was {then}, now it is {now}", name=name, then=then, now=now)
    for name, digest in data.items():
        if saved.get("data", {}).get(name) != digest:
            yield tr("{name} is not the file that run started with", name=name)


def checkpoint_to_resume(args, run):
    """The checkpoint that --resume_from_checkpoint names, and {name: sums} of those in its folder.

    Args:
        run: what `run.json` records of this run; the interrupted run must have the same arguments and data.
    Raises:
        UserError: there is no such checkpoint, or it is damaged, or from a different run.
    """
    flag = "--resume_from_checkpoint"
    folder, last = latest_checkpoint(args.resume_from_checkpoint), last_folder(args.output_dir)
    if folder is None and os.path.realpath(args.resume_from_checkpoint) == os.path.realpath(last):
        raise UserError(
            tr(
                "--resume_from_checkpoint {resume_from_checkpoint}: nothing is saved there yet; leave the flag out to "
                "start from the beginning",
                resume_from_checkpoint=args.resume_from_checkpoint,
            )
        )
    if folder is None:
        raise UserError(
            tr(
                "--resume_from_checkpoint {resume_from_checkpoint}: there is no checkpoint of an interrupted "
                "training; name the folder <output_dir>_last, or leave out --do_train to use a trained model",
                resume_from_checkpoint=args.resume_from_checkpoint,
            )
        )
    home = os.path.dirname(os.path.realpath(folder))
    if home != os.path.realpath(last):
        raise UserError(
            tr(
                "--resume_from_checkpoint {resume_from_checkpoint}: a run resumes in its own folder, which is {last} "
                "for --output_dir {output_dir}; use that run's --output_dir, or rename the folder",
                resume_from_checkpoint=args.resume_from_checkpoint,
                last=last,
                output_dir=args.output_dir,
            )
        )
    anew = tr("leave out {flag} to start anew", flag=flag)
    saved, problems = read_run(home, remedy=anew), Problems()
    if not saved:
        raise UserError(tr("{home} is damaged ({run_file}: missing); {anew}", home=home, run_file=RUN_FILE, anew=anew))
    for difference in _differences(saved, run["arguments"], run["data"]):
        problems.add(f"{flag}: {difference}")
    problems.stop_if_any()
    sums = saved.get("checkpoints")
    if sums is not None and (problem := _damage(folder, sums)):
        older = [path for path in checkpoints_in(home).values() if path != folder and not _damage(path, sums)]
        remedy = (
            tr("resume from an older one ({flag} {older}), or {anew}", flag=flag, older=older[-1], anew=anew)
            if older
            else anew
        )
        raise UserError(f"{problem}; {remedy}")
    return folder, sums or {}


def _damage(folder, sums):
    """Why a checkpoint cannot be resumed from, or None: a file of it or of the best one so far is damaged."""
    home, name = os.path.split(os.path.realpath(folder))
    if problem := sums_problem(sums.get(name), STATE) or damage(folder, sums.get(name)):
        return tr("{folder} is damaged ({problem})", folder=folder, problem=problem)
    with open(os.path.join(folder, "trainer_state.json"), encoding="utf-8") as file:
        best = os.path.basename(json.load(file).get("best_model_checkpoint") or name)
    problem = damage(os.path.join(home, best), sums.get(best))
    return tr("{path} is damaged ({problem})", path=os.path.join(home, best), problem=problem) if problem else None
