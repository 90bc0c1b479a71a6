"""What it gains to choose the rows to label next: F1 after 200 more labelled rows, by each order of predict.py.

    OMP_NUM_THREADS=1 python benchmarks/next_rows.py                         # minutes
    OMP_NUM_THREADS=1 python benchmarks/next_rows.py --first 1000            # a model that knows more chooses
    python benchmarks/next_rows.py --list                                    # what is finished

A linear model, as train.py --model_name linear makes it, of `--first` random rows scores the rest of the training set,
from which each order chooses `--more` rows, as predict.py --order does. F1 is that on dev of a model of both. The seed
draws the first rows. What is finished is kept in benchmarks/results.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import kept_runs
from kept_runs import Run
from project import DATA
from public_sets import micro_macro, read_set
from tables import gains_over
from text_cls.cli import non_negative_int, positive_int
from text_cls.linear_classifier import encode
from text_cls.neural.linear_training import fit
from text_cls.next_rows import ORDERS, RANDOM, Scorer, choose, ngram_vectors
from text_cls.probabilities import sigmoid
from text_cls.rows import format_row
from text_cls.table_texts import TextFile

SETS = ("duee", "cail-divorce")
FIRST = "no more rows"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, help="data sets (all)")
    parser.add_argument("--first", type=positive_int, default=200, help="rows of the model that chooses (%(default)s)")
    parser.add_argument("--more", type=positive_int, default=200, help="rows that each order adds (%(default)s)")
    parser.add_argument(
        "--seeds", nargs="+", type=non_negative_int, default=[1, 2, 3, 4, 5], help="random seeds (1 2 3 4 5)"
    )
    kept_runs.add_flags(parser)
    return parser.parse_args(argv)


def planned(args):
    """[`Run`], one for each set and seed, of all orders."""
    for name in args.sets:
        for seed in args.seeds:
            settings = {"set": name, "first": args.first, "more": args.more, "seed": seed}
            yield Run(f"next-rows-{name}-{args.first}-seed{seed}", settings)


def execute(run):
    """{"scores": {order: (micro F1, macro F1) in percent}, "labels": {order: labels with a row}}"""
    name, first, more, seed = run.settings.values()
    labels, train, dev = read_set(DATA / name, "train.txt", "dev.txt")
    gold, tokens = dev.multi_hot(len(labels)), encode(list(dev.texts))
    rows = np.random.default_rng(seed).permutation(len(train))
    known, rest = train.take(np.sort(rows[:first])), np.sort(rows[first:])

    def scored(part):
        model, decision = fit(part, labels, seed)
        predicted = decision.decide(sigmoid(model.logits(tokens)), labels.parents)
        return model, decision, micro_macro(gold, predicted, labels.parents)

    model, decision, scores = scored(known)
    found = {"scores": {FIRST: scores}, "labels": {FIRST: int((known.support(len(labels)) > 0).sum())}}
    scorer = Scorer(labels, decision, lambda texts: sigmoid(model.logits(encode(texts))), ngram_vectors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rest.txt"
        path.write_text("".join(format_row(train.texts[i]) for i in rest), encoding="utf-8")
        for order in ORDERS:
            chosen = choose(TextFile(str(path), len(rest)), order, more, scorer, [known], seed).numbers
            part = train.take(np.sort(np.concatenate([rows[:first], rest[chosen]])))
            found["scores"][order] = scored(part)[2]
            found["labels"][order] = int((part.support(len(labels)) > 0).sum())
    return found


def main(argv=None):
    args = parse_args(argv)
    finished = kept_runs.finish(args, [*planned(args)], execute)
    for name in () if args.list else args.sets:
        of_set = [result for run, result in finished if run.settings["set"] == name]
        if not of_set:
            continue
        print(f"\n{name}, {args.first} and {args.more} rows, {len(of_set)} seeds: micro and macro F1, and over random")
        results = {way: [tuple(each["scores"][way]) for each in of_set] for way in (FIRST, *ORDERS)}
        labels = {way: np.mean([each["labels"][way] for each in of_set]) for way in results}
        for way, line in zip(results, gains_over(RANDOM, results, 8, 8)):
            print(f"{line}  labels {labels[way]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
