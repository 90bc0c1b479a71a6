"""F1 after so many steps, by where the classifier starts: `--head_start` of train.py, on duee.

    python benchmarks/head_start.py                              # 500 and 3,000 rows with 3 seeds, all rows with one
    python benchmarks/head_start.py --list                       # what is finished
    python benchmarks/head_start.py --rows 500 --ways linear random

multilingual-e5-small with 6 layers, as data/make_pretrained_model.py makes it. A seed draws the rows, their order and
dropout. F1 is that on 500 dev rows, the same for all runs, with a threshold of 0.5; nothing is chosen by it. Step 0 is
the classifier alone: one that was not fitted is not scored there. What is finished is kept in benchmarks/results.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from kept_runs import Run
from project import DATA
from public_sets import read_set, write_rows
from tables import cell
from text_cls.cli import non_negative_int

TRAINING = "--max_seq_length 48 --batch_size 16 --learning_rate 4e-4 --warmup --warmup_steps 0.1 --max_grad_norm 1"
WAYS = ("linear", "labels", "prior", "random")
EPOCHS = {"500": 4, "3000": 3, "all": 2}
DEV = 500  # rows


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--rows", nargs="+", default=[*EPOCHS], choices=[*EPOCHS], help="training rows (500 3000 all)")
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="--head_start (each)")
    seeds = "one run for each; on all rows, only for the first (3 4 5)"
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help=seeds)
    parser.add_argument("--training", default=TRAINING, help="flags of train.py (%(default)s)")
    e5_model.add_flag(parser)
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order."""
    for rows in args.rows:
        for seed in args.seeds[:1] if rows == "all" else args.seeds:
            for way in args.ways:
                training = f"{args.training} --epochs {EPOCHS[rows]}"
                yield Run(
                    f"head-{rows}-{way}-seed{seed}", {"rows": rows, "way": way, "seed": seed, "training": training}
                )


def fine_tune(run, wheel):
    """Trains. Returns the history: scores on the dev rows after each epoch."""
    rows, way, seed, training = run.settings.values()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        labels, dev = read_set(DATA / "duee", "dev.txt")
        chosen = np.sort(np.random.default_rng(3).permutation(len(dev))[:DEV])
        write_rows(folder / "dev.txt", dev, chosen, labels)
        for file in ("train.txt", "label.txt"):
            os.symlink(DATA / "duee" / file, folder / file)
        flags = [
            "--dataset_dir",
            folder,
            "--model_name",
            e5_model.make(6, wheel),
            "--device",
            "cpu",
            "--head_start",
            way,
        ]
        flags += ["--save_dir", run.folder / "checkpoint", "--resume", "--save_minutes", 3, "--logging_steps", 50]
        flags += [] if rows == "all" else ["--max_train_samples", rows]
        run.script("train.py", *flags, "--seed", seed, *training.split())
    progress = json.loads((run.folder / "checkpoint" / "run.json").read_text(encoding="utf-8"))["progress"]
    shutil.rmtree(run.folder / "checkpoint")
    return {"history": progress["history"]}


def table(rows, finished):
    """Lines of a table. finished: [(run, result)] of this number of rows."""
    at = {}  # {epoch: step}
    for _, result in finished:
        at |= {entry["epoch"]: entry["step"] for entry in result["history"]}
    yield f"| {rows} rows, F1 after the step | {' | '.join(f'{at[epoch]:,}' for epoch in sorted(at))} |"
    yield "| --- |" + " --- |" * len(at)
    for score in ("micro_f1", "macro_f1"):
        for way in dict.fromkeys(run.settings["way"] for run, _ in finished):
            cells = []
            for epoch in sorted(at):
                values = [
                    100 * entry[score]
                    for run, result in finished
                    for entry in result["history"]
                    if run.settings["way"] == way and entry["epoch"] == epoch
                ]
                cells.append(cell(values, ".1f"))
            yield f"| {way}, {score.removesuffix('_f1')} | {' | '.join(cells)} |"


def main(argv=None):
    args = parse_args(argv)
    finished = kept_runs.finish(args, [*planned(args)], lambda run: fine_tune(run, args.wheel))
    for rows in () if args.list else args.rows:
        of_rows = [(run, result) for run, result in finished if run.settings["rows"] == rows]
        if of_rows:
            hours = sum(result["cpu_seconds"] for _, result in of_rows) / 3600
            seeds = sorted({run.settings["seed"] for run, _ in of_rows})
            print(f"\n{of_rows[0][0].settings['training']}; seeds {seeds}; {hours:.2f} CPU hours\n")
            print("\n".join(table(rows, of_rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
