"""Search the settings of train.py or prune.py that are best for a data set.

    python analysis/search.py --dataset_dir data --output_dir search --device cpu --model_name data/e5-zh --trials 20
    python analysis/search.py --dataset_dir data --output_dir search --minutes 60 --space learning_rate=1e-5..1e-3
    python analysis/search.py --dataset_dir data --output_dir search --script prune --params_dir checkpoint

Each trial is a run of the script, judged on rows that are held out of train.txt. At the end the best settings and the
defaults are compared on dev.txt, which no trial has seen. Run the same command again to continue a search, and in a
second terminal to share the work. All other flags are those of the script, for all trials; they are not searched.
"""

import argparse
import importlib
import math
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import search_results
from search_results import ENDS, Results, Trial
from search_runs import run_trials
from search_space import SYNTAX, given, nearest, read_space, rounded, size, split_texts
from search_study import ROWS, Trials, storage_errors
from search_trials import Pruning, Training
from split import split_rows, write_parts
from text_cls.argument_parser import ArgumentParser
from text_cls.cli import (
    Problems,
    UserError,
    command,
    fraction,
    logger,
    non_negative_float,
    non_negative_int,
    positive_int,
)
from text_cls.config_file import read_config
from text_cls.files import sha256
from text_cls.language import reason_of, tr
from text_cls.neural.head_start import DESCRIPTIONS
from text_cls.neural.run_state import StopSignal
from text_cls.rows import read_labels, read_rows

KINDS = {"train": Training, "prune": Pruning}
TRIALS = 20


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of the data files (required)")
    parser.add_argument("--output_dir", required=True, help="folder of the search and its results (required)")
    parser.add_argument("--script", choices=KINDS, default="train", help="whose settings to search (%(default)s)")
    trials = tr("trials, over all calls and processes ({trials}, or with --minutes no limit)", trials=TRIALS)
    parser.add_argument("--trials", type=positive_int, help=trials)
    minutes = tr("minutes of trials, over all calls and processes; the comparison comes on top (no limit)")
    parser.add_argument("--minutes", type=non_negative_float, help=minutes)
    space = tr("NAME=VALUES of flags to search; {syntax} (see the README)", syntax=tr(SYNTAX))
    parser.add_argument("--space", nargs="+", default=[], metavar="NAME=VALUES", help=space)
    held_out = tr("share of the training rows that judges the trials (%(default)s)")
    parser.add_argument("--held_out", type=fraction(zero=False), default=0.2, help=held_out)
    seeds = tr(
        "runs of the best settings, and of the defaults, to compare them on dev; 0 = no comparison (%(default)s)"
    )
    parser.add_argument("--seeds", type=non_negative_int, default=3, help=seeds)
    args, rest = parser.parse_known_args(argv)
    args.trials = args.trials or (None if args.minutes else TRIALS)
    read_script_flags(args, rest, parser)
    return args


def read_script_flags(args, rest, parser):
    """Adds what the script's own flags say: `kind`, `flags` (its parser), `values` of its flags, and what to search."""
    module = importlib.import_module(args.script)
    where = ["--dataset_dir", args.dataset_dir, *(["--output_dir", args.output_dir] if args.script == "prune" else [])]
    args.flags, args.values = module.make_parser(), vars(module.parse_args([*where, *rest]))
    args.kind = KINDS[args.script](args.values)
    named = {word.partition("=")[0].removeprefix("--").removeprefix("no-") for word in rest if word.startswith("--")}
    named |= {*read_config(args.values["config"])} if args.values.get("config") else set()
    if own := sorted(named & {*args.kind.own}):
        parser.error(tr("--{own} is for search.py to choose; leave it out", own=own[0]))
    try:
        texts = split_texts(args.space)
        if own := sorted({*texts} & {*args.kind.own, "dataset_dir", *(f"{split}_file" for split in args.kind.files)}):
            parser.error(tr("--space: {own} is for search.py to choose; leave it out", own=own[0]))
    except ValueError as error:
        parser.error(f"--space: {error}")
    args.space = {name: text for name, text in args.kind.space.items() if name not in named} | texts


def make_space(args):
    """Turns the texts in `args.space` into Optuna's distributions, and adds `start`.

    start: the settings of the first trial, the defaults, or what is nearest to them in the space.
    """
    try:
        args.space = read_space(args.flags, args.space)
    except ValueError as error:
        raise UserError(f"--space: {error}") from error
    args.start = {name: nearest(each, args.values[name]) for name, each in args.space.items()}


def path_of(args, split):
    return os.path.join(args.dataset_dir, args.kind.files[split])


# ---------------------------------------------------------------------------------------------------------- beginning


def prepare(args):
    """The search in --output_dir, begun now or before. Raises one UserError that lists every problem found."""
    problems, rows = Problems(), {}
    with problems.collect():
        labels = read_labels(path_of(args, "label"), problems)
        for split in ("train", "dev"):
            with problems.collect():
                rows[split] = read_rows(path_of(args, split), labels, problems)
        if "train" in rows and len({*rows["train"].texts}) < 2:
            problems.add(tr("{path_of}: no rows can be held out of a single text", path_of=path_of(args, "train")))
    problems.stop_if_any()
    folder = Path(args.output_dir)
    make_folder(folder)
    trials, settings = Trials(folder, "trial", args.space, args.values["seed"]), settings_of(args)
    with trials.locked():
        if not trials.all():
            hold_out(args, labels, rows["train"], folder / ROWS)
            trials.study.set_user_attr("settings", settings)
            trials.enqueue(args.start, start=True)
    before = trials.study.user_attrs["settings"]
    for name in sorted({*before, *settings}):
        if before.get(name) != settings.get(name):
            problems.add(
                tr(
                    "--output_dir {folder} holds a search in which {name} was {before}, now it is {now}; name a new "
                    "folder",
                    folder=folder,
                    name=name,
                    before=before.get(name),
                    now=settings.get(name),
                )
            )
    problems.stop_if_any()
    return trials


def make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {reason_of(error)}") from error


def settings_of(args):
    """What must stay the same in a search, {name: text}."""
    from text_cls.neural.run_state import FREE_ON_RESUME

    flags = {name: value for name, value in given(args.flags, args.values).items() if name not in args.space}
    flags = {f"--{name}": str(value) for name, value in flags.items() if name not in {*FREE_ON_RESUME, "output_dir"}}
    space = {f"--space {name}": str(each) for name, each in args.space.items()}
    data = {name: sha256(path_of(args, split), again=True) for split, name in args.kind.files.items()}
    return {"--script": args.script, "--held_out": str(args.held_out), **flags, **space, **data}


def hold_out(args, labels, rows, folder):
    """Writes the rows that the trials train on, and those that judge them: the same labels, no text on both sides."""
    shares = [1 - args.held_out, args.held_out]
    parts = split_rows(rows, len(labels), shares, args.values["seed"])
    write_parts([folder / "train.txt", folder / "dev.txt"], path_of(args, "train"), rows, parts)
    labels.write(folder / "label.txt")
    if os.path.exists(descriptions := os.path.join(args.dataset_dir, DESCRIPTIONS)):
        shutil.copy(descriptions, folder)
    logger.info("%d rows to train on, %d held out to judge the trials, in %s", *map(len, parts), folder)


# ------------------------------------------------------------------------------------------------------------- results


def results_of(args, trials):
    """The `Results` so far, without a comparison."""
    found = []
    for work, trial in sorted(trials.latest().items()):
        score, end = trial.value if trial.state == trials.state.COMPLETE else None, tr(ENDS[trial.state.name])
        if trial.state == trials.state.PRUNED:
            score = max(trial.intermediate_values.values(), default=None)
        params = {name: trial.params[name] for name in args.space if name in trial.params}
        seconds, same_as = trial.user_attrs.get("seconds", 0.0), trial.user_attrs.get("same_as")
        found.append(Trial(work, rounded(params), end, score, seconds, same_as))
    finished = [trial for trial in found if trial.end == "finished"]
    if not finished or found[0] is not finished[0]:
        raise UserError(tr("the trial with the default settings has not finished; give --minutes more"))
    with open(trials.folder / ROWS / "dev.txt", encoding="utf-8") as file:
        held_out = sum(1 for _ in file)
    best = max(finished, key=lambda trial: trial.score)
    return Results(args.kind.metric, args.kind.report_metric, found, best, found[0], held_out, path_of(args, "dev"))


def compare(args, trials, results, stop):
    """Runs the defaults and the best settings with the same seeds, and scores dev at the end of each run."""
    from optuna.distributions import IntDistribution

    first = args.values["seed"]
    space = {**args.space, "seed": IntDistribution(0, 2**31 - 1)}
    runs = Trials(trials.folder, "comparison", space, first)
    wanted = [(trial, seed) for seed in range(first, first + args.seeds) for trial in (results.start, results.best)]
    with runs.locked():
        latest = [run for run in runs.latest().values() if run.state != runs.state.FAIL]
        known = {(run.user_attrs["of"], run.user_attrs["seed"]) for run in latest}
        for trial, seed in wanted:
            if (trial.number, seed) not in known:
                runs.enqueue({**trial.settings, "seed": seed}, of=trial.number, seed=seed)
    run_trials(args, runs, 0, stop, report=path_of(args, "dev"))
    scores = {(run.user_attrs["of"], run.user_attrs["seed"]): run.value for run in runs.latest().values()}
    for seed in range(first, first + args.seeds):
        pair = [scores[trial.number, seed] for trial in (results.start, results.best)]
        if None not in pair:
            for each, value in zip(results.gains, (seed, *pair)):
                each.append(value)


def write_results(args, folder, results):
    """Writes best.yaml and search.html, and logs what was found."""
    from search_page import write_report

    config = folder / "best.yaml" if args.script == "train" else None
    if config:
        search_results.write_config(config, args, results)
    command = search_results.command_for(args, results.best, config)
    write_report(folder / "search.html", args.dataset_dir, results, command)
    search_results.log(results)
    logger.info("Saved in %s. To use the settings with all rows: %s", folder / "search.html", command)


@command
def main(argv=None):
    args = parse_args(argv)
    make_space(args)
    with StopSignal() as stop, storage_errors(Path(args.output_dir)):
        trials = prepare(args)
        run_trials(args, trials, min(args.trials or math.inf, size(args.space)), stop)
        results = results_of(args, trials)
        if args.seeds and results.best is not results.start:
            compare(args, trials, results, stop)
    write_results(args, trials.folder, results)


if __name__ == "__main__":
    sys.exit(main())
