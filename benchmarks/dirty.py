"""Does analysis/dirty.py find wrong labels, and does mending them help? A controlled test on the two public sets.

    python benchmarks/dirty.py                                       # both sets, both methods, 3 seeds
    python benchmarks/dirty.py --sets duee --methods confident --seeds 6

Of 2,000 training rows drawn by seed, 10 percent get wrong labels, in one of two ways:
  swapped  the row's label set is replaced by that of another row drawn at random whose set differs;
  flipped  one label drawn at random of all is taken away where the row has it, with those below it, and added where it
           does not, with those above it.
dirty.py names 200 rows. `found` is the share of the wrong rows among them. The macro F1 on dev is that of the linear
baseline (linear.py) trained on the true rows, on the wrong ones, with the 200 removed, and with the truth put back for
the 200. `representer` looks at a small ERNIE trained from random weights on the wrong rows.
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

from real_data import DATA, LINEAR, MODEL, TRAINING, call

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import linear_baseline
from label_errors import corrected
from metric import classification_report
from text_cls.cli import Problems
from text_cls.rows import read_labels, read_rows

ROWS, WRONG = 2000, 200
KINDS = ("removed", "relabelled")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="(both)")
    parser.add_argument("--faults", nargs="+", default=["swapped", "flipped"], choices=("swapped", "flipped"))
    parser.add_argument("--methods", nargs="+", default=["confident", "representer"], help="of dirty.py (both)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[6, 7, 8], help="(6 7 8)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    parser.add_argument("--training", default=TRAINING, help="flags of train.py (%(default)s)")
    return parser.parse_args(argv)


def with_faults(targets, fault, random, parents):
    """(targets with 200 rows changed, their numbers)."""
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
    """Row numbers that dirty.py names, on a train.txt of which line i + 1 is row i."""
    flags = ["--dataset_dir", dataset, "--method", method, "--dirty_num", WRONG, "--seed", seed, "--device", "cpu"]
    checkpoint = folder / "checkpoint"
    if method == "representer":
        model = folder / "model"
        call(
            "data/make_tiny_model.py",
            "--output_dir",
            model,
            "--texts",
            dataset / "train.txt",
            "--seed",
            seed,
            *args.model.split(),
        )
        call(
            "train.py",
            "--dataset_dir",
            dataset,
            "--device",
            "cpu",
            "--model_name",
            model,
            "--save_dir",
            checkpoint,
            "--seed",
            seed,
            *args.training.split(),
        )
        flags += ["--params_path", checkpoint]
    call("analysis/dirty.py", *flags)
    with open(dataset / "train_dirty_report.tsv", encoding="utf-8") as file:
        return sorted(
            {int(line["line"]) - 1 for line in csv.DictReader(file, dialect="excel-tab", quoting=csv.QUOTE_NONE)}
        )


def macro_f1(texts, targets, dev, labels):
    """In percent, on dev."""
    predicted = linear_baseline.fit(texts, targets, calibrate=False).scores(list(dev.texts)) > 0
    return 100 * classification_report(dev.multi_hot(len(labels)), predicted, labels.parents)["macro"]["f1"]


def one_run(name, fault, seed, args):
    """{method: {found, clean, dirty, removed, relabelled}}, found in percent, the others macro F1 in percent."""
    problems, source = Problems(), DATA / name
    labels = read_labels(str(source / "label.txt"), problems)
    train, dev = (read_rows(str(source / f"{split}.txt"), labels, problems) for split in ("train", "dev"))
    problems.stop_if_any()
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
            kept, mended = np.setdiff1d(np.arange(ROWS), named), given.copy()
            mended[named] = truth[named]
            results[method] = {
                "found": 100 * len(np.intersect1d(named, wrong)) / WRONG,
                "clean": clean,
                "dirty": dirty,
                "removed": macro_f1([texts[i] for i in kept], given[kept], dev, labels),
                "relabelled": macro_f1(texts, mended, dev, labels),
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
