"""The losses for rare labels and label smoothing on the two public sets, with a small model.

    python benchmarks/losses.py
    python benchmarks/losses.py --sets duee --seeds 3 --train_rows 100000 --epochs 20        # all rows, hours

A one-layer ERNIE from random weights (as in benchmarks/real_data.py) is trained on the same rows with each loss, and
scored on dev with a threshold of 0.5 and with one threshold per label: a loss that gives absent labels less weight
raises the probabilities, so that 0.5 means something else for each loss. Thresholds are fitted to four fifths of dev
and applied to the other fifth, in turns. A seed draws the rows, the weights and the folds. "rare" is the mean F1 of the
quarter of the labels with the fewest rows. The best epoch is chosen by macro F1 at 0.5 on 300 dev rows, which slightly
favours losses that suit 0.5.
The sets are read from ../shared/data or TEXT_CLASSIFICATION_DATA.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from metric import classification_report
from project import DATA
from public_sets import LINEAR, percent, read_set
from small_model import dev_probabilities
from tables import spread
from text_cls import cross_fitting, thresholds
from text_cls.cli import non_negative_int, positive_int
from text_cls.decision import Decision
from text_cls.splitting import stratified_split

FOLDS = 5
RARE = 1 / 4  # of the labels
CHOOSING = 300  # dev rows that choose the best epoch; scores are of all of dev
WAYS = {
    "bce": "--loss bce",
    "bce, smoothing 0.1": "--loss bce --label_smoothing 0.1",
    "focal": "--loss focal",
    "asymmetric": "--loss asymmetric",
    "distribution_balanced": "--loss distribution_balanced",
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="public sets (both)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    parser.add_argument("--train_rows", type=positive_int, default=2000, help="rows to train on (%(default)s)")
    parser.add_argument("--epochs", type=positive_int, default=20, help="epochs to train (%(default)s)")
    parser.add_argument("--max_seq_length", type=positive_int, default=64, help="maximum tokens per text (%(default)s)")
    return parser.parse_args(argv)


def scores(gold, predicted, labels, rare):
    """Micro F1, macro F1 and the mean F1 of the rare labels, in percent."""
    report = classification_report(gold, predicted, labels.parents)
    return *percent(report), 100 * statistics.mean(report["per_class"][i]["f1"] for i in rare)


def main(argv=None):
    args = parse_args(argv)
    for name in args.sets:
        labels, train, dev = read_set(DATA / name, "train.txt", "dev.txt")
        gold, texts = dev.multi_hot(len(labels)), list(dev.texts)
        rare = train.support(len(labels)).argsort(kind="stable")[: round(RARE * len(labels))]
        shared = f"--batch_size 32 --learning_rate 1e-3 --max_train_samples {args.train_rows} --epochs {args.epochs}"
        shared += f" --max_seq_length {args.max_seq_length} --max_dev_samples {CHOOSING}"
        results = {way: [] for way in WAYS}
        for seed in args.seeds:
            parts = stratified_split(gold, texts, [1 / FOLDS] * FOLDS, seed)
            fit = thresholds.fitter(Decision(), "both", True, False, labels.parents)
            for way, flags in WAYS.items():
                probabilities = dev_probabilities(DATA / name, seed, dev, training=f"{shared} {flags}")
                plain = Decision().decide(probabilities, labels.parents)
                tuned = cross_fitting.cross_fitted(probabilities, gold, parts, fit, labels.parents)
                both = (scores(gold, predicted, labels, rare) for predicted in (plain, tuned))
                results[way].append([value for three in both for value in three])
                print(f"{name} seed {seed} {way}: " + " ".join(f"{v:.2f}" for v in results[way][-1]), flush=True)
        print(
            f"\n{name}: {min(args.train_rows, len(train))} training rows, {args.epochs} epochs, "
            f"{args.max_seq_length} tokens, {len(dev)} dev rows, {len(rare)} of {len(labels)} labels rare (at most "
            f"{train.support(len(labels))[rare[-1]]} rows in all of train); seeds {args.seeds}; percent, mean "
            "(lowest-highest)"
        )
        columns = ("0.5: micro", "macro", "rare", "threshold per label: micro", "macro", "rare")
        print(f"{'loss':24}" + "".join(f"{column:>27}" for column in columns))
        for way, runs in results.items():
            print(f"{way:24}" + "".join(f"{spread(values):>27}" for values in zip(*runs)))
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
