"""Does analysis/dirty.py find wrong labels, and does fixing them help? A controlled test on the two public sets.

    python benchmarks/dirty.py                                       # both sets, both methods, 3 seeds
    python benchmarks/dirty.py --sets duee --methods confident --seeds 6

Of 2,000 training rows drawn by seed, 200 get wrong labels in one of two ways:
  swapped  the row gets the label set of another random row with a different set
  flipped  one random label is removed with the labels below it if the row has it, else added with the labels above it
dirty.py then names 200 rows. `found` is the share of the wrong rows that are among them. The macro F1 on dev is that of
the linear baseline (text_cls/linear_model.py) trained on the true labels, on the wrong ones, without the 200 rows,
and with the true labels restored in the 200 rows. `representer` examines a small ERNIE, trained from random weights on
the wrong labels.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import csv
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA, load, run_script
from public_sets import LINEAR, linear_predictions, micro_macro, read_set
from small_model import MODEL, TRAINING, make_model, train_model
from text_cls.cli import non_negative_int

corrected = load("analysis/label_errors.py").corrected

ROWS, WRONG = 2000, 200
FAULTS = ("swapped", "flipped")
KINDS = ("removed", "relabelled")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="public sets (both)")
    parser.add_argument("--faults", nargs="+", default=FAULTS, choices=FAULTS, help="kinds of wrong labels (both)")
    parser.add_argument("--methods", nargs="+", default=["confident", "representer"], help="methods of dirty.py (both)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[6, 7, 8], help="one run for each (6 7 8)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    parser.add_argument("--training", default=TRAINING, help="flags of train.py (%(default)s)")
    return parser.parse_args(argv)


def with_faults(targets, fault, random, parents):
    """Targets with 200 rows changed, and the numbers of these rows."""
    wrong, rows = targets.copy(), np.sort(random.choice(len(targets), WRONG, replace=False))
    for row in rows:
        if fault == "swapped":
            others = np.flatnonzero((targets != targets[row]).any(axis=1))
            wrong[row] = targets[random.choice(others)]
        else:
            flags = np.zeros(targets.shape[1], dtype=bool)
            flags[random.integers(targets.shape[1])] = True
            wrong[row] = corrected(targets[row], flags, parents)
    return wrong, rows


def named_rows(dataset, method, seed, args, folder):
    """Row numbers that dirty.py names; row i is line i + 1 of train.txt."""
    flags = ["--dataset_dir", dataset, "--method", method, "--dirty_num", WRONG, "--seed", seed, "--device", "cpu"]
    checkpoint = folder / "checkpoint"
    if method == "representer":
        model = folder / "model"
        make_model(model, dataset / "train.txt", seed, args.model)
        train_model(dataset, model, checkpoint, seed, args.training)
        flags += ["--params_path", checkpoint]
    run_script("analysis/dirty.py", *flags)
    with open(dataset / "train_dirty_report.tsv", encoding="utf-8") as file:
        return sorted(
            {int(line["line"]) - 1 for line in csv.DictReader(file, dialect="excel-tab", quoting=csv.QUOTE_NONE)}
        )


def macro_f1(texts, targets, dev, labels):
    """In percent, on dev."""
    predicted = linear_predictions(texts, targets, dev.texts)
    return micro_macro(dev.multi_hot(len(labels)), predicted, labels.parents)[1]


def one_run(name, fault, seed, args):
    """{method: {found, clean, dirty, removed, relabelled}}, found in percent, the others macro F1 in percent."""
    source = DATA / name
    labels, train, dev = read_set(source, "train.txt", "dev.txt")
    train = train.sample(ROWS, seed)
    texts, truth = list(train.texts), train.multi_hot(len(labels))
    given, wrong = with_faults(truth, fault, np.random.default_rng(seed), labels.parents)
    clean, dirty = (macro_f1(texts, targets, dev, labels) for targets in (truth, given))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder, "data")
        dataset.mkdir()
        for file in ("label.txt", "dev.txt"):
            shutil.copy(source / file, dataset)
        lines = [f"{text}\t{labels.join(row)}\n" for text, row in zip(texts, given)]
        (dataset / "train.txt").write_text("".join(lines), encoding="utf-8")
        for method in args.methods:
            named = named_rows(dataset, method, seed, args, Path(folder))
            assert len(named) <= WRONG
            kept, fixed = np.setdiff1d(np.arange(ROWS), named), given.copy()
            fixed[named] = truth[named]
            results[method] = {
                "found": 100 * len(np.intersect1d(named, wrong)) / WRONG,
                "clean": clean,
                "dirty": dirty,
                "removed": macro_f1([texts[i] for i in kept], given[kept], dev, labels),
                "relabelled": macro_f1(texts, fixed, dev, labels),
            }
    return results


def spread(values):
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main(argv=None):
    args = parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{ROWS} rows, {WRONG} wrong, seeds {args.seeds}; model: {args.model}; training: {args.training}")
    for fault in args.faults:
        for name in args.sets:
            runs = []
            for seed in args.seeds:
                runs.append(one_run(name, fault, seed, args))
                for method, values in runs[-1].items():
                    figures = ", ".join(f"{key} {value:.2f}" for key, value in values.items())
                    print(f"{name}, {fault}, seed {seed}, {method}: {figures}", flush=True)
            for method in args.methods:
                of = [run[method] for run in runs]
                lost = [run["clean"] - run["dirty"] for run in of]
                parts = [f"found {spread([run['found'] for run in of])} %", f"macro F1 lost {spread(lost)}"]
                for kind in KINDS:
                    back = [run[kind] - run["dirty"] for run in of]
                    share = f", {100 * sum(back) / sum(lost):.0f} % of the loss" if min(lost) > 0 else ""
                    parts.append(f"{kind}: {spread(back)} back{share}")
                print(f"{name}, {fault}, {method}, mean (least to most): {'; '.join(parts)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
