"""What each loss for rare labels, and label smoothing, does on the two public sets with a small model.

    python benchmarks/losses.py
    python benchmarks/losses.py --sets duee --seeds 3 --train_rows 100000 --epochs 20        # all rows, hours

An ERNIE of one layer from random weights (as in benchmarks/real_data.py) is trained on the same rows with each loss,
and scored on dev by 0.5 and by a threshold a label: a loss that weighs absent labels less gives higher probabilities,
and 0.5 means another thing to each. Thresholds are fitted to four fifths of dev and applied to the fifth, in turns. A
seed draws the rows, the weights and the folds. "rare" is the mean F1 of the quarter of the labels with the fewest rows.
The best epoch is chosen by macro F1 at 0.5 on 300 of the dev rows: a little in favour of losses that 0.5 suits.
The sets are read from ../shared/data or TEXT_CLASSIFICATION_DATA.
"""

import argparse
import statistics
import sys
from pathlib import Path

from real_data import DATA, LINEAR, dev_probabilities

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from metric import classification_report
from text_cls import cross_fitting, thresholds
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.rows import read_labels, read_rows
from text_cls.splitting import stratified_split

FOLDS = 5
RARE = 1 / 4  # of the labels
CHOOSING = 300  # dev rows that choose the best epoch; all of them are scored in the end
WAYS = {
    "bce": "--loss bce",
    "bce, smoothing 0.1": "--loss bce --label_smoothing 0.1",
    "focal": "--loss focal",
    "asymmetric": "--loss asymmetric",
    "distribution_balanced": "--loss distribution_balanced",
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="(both)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="(3 4 5)")
    parser.add_argument("--train_rows", type=int, default=2000, help="rows to train on (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="passes over them (%(default)s)")
    parser.add_argument("--max_seq_length", type=int, default=64, help="tokens of a text (%(default)s)")
    return parser.parse_args(argv)


def scores(gold, decided, labels, rare):
    """Micro F1, macro F1 and the mean F1 of the rare labels, in percent."""
    report = classification_report(gold, decided, labels.parents)
    of_rare = [report["per_class"][i]["f1"] for i in rare]
    return tuple(100 * value for value in (report["micro"]["f1"], report["macro"]["f1"], statistics.mean(of_rare)))


def main(argv=None):
    args = parse_args(argv)
    for name in args.sets:
        labels = read_labels(str(DATA / name / "label.txt"), Problems())
        train, dev = (read_rows(str(DATA / name / f"{split}.txt"), labels, Problems()) for split in ("train", "dev"))
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
                both = (scores(gold, decided, labels, rare) for decided in (plain, tuned))
                results[way].append([value for three in both for value in three])
                print(f"{name} seed {seed} {way}: " + " ".join(f"{v:.2f}" for v in results[way][-1]), flush=True)
        print(
            f"\n{name}: {min(args.train_rows, len(train))} rows to train, {args.epochs} epochs, "
            f"{args.max_seq_length} tokens, "
            f"{len(dev)} dev rows, "
            f"{len(rare)} of {len(labels)} labels rare (at most {train.support(len(labels))[rare[-1]]} rows in all of "
            f"train); seeds {args.seeds}; percent, "
            "mean (lowest-highest)"
        )
        columns = ("0.5: micro", "macro", "rare", "a threshold a label: micro", "macro", "rare")
        print(f"{'loss':24}" + "".join(f"{column:>27}" for column in columns))
        for way, runs in results.items():
            cells = (f"{statistics.mean(v):.2f} ({min(v):.2f}-{max(v):.2f})" for v in zip(*runs))
            print(f"{way:24}" + "".join(f"{cell:>27}" for cell in cells))
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
