"""Batches of similar length beside plain random ones: the same small model, the same rows, three ways to draw batches.

    python benchmarks/batches.py                      # duee, 2,000 rows, 3 seeds, 20 epochs
    python benchmarks/batches.py --train_rows 500

  random         random batches (train.py --no-length_buckets)
  one stretch    up to 50 batches are sorted by length together, as train.py did before it took transformers' rule
  by length      train.py's batches

A one-layer ERNIE from random weights is trained on the rows drawn by the seed. Half of dev, drawn by the seed as well,
chooses the best epoch; F1 is that on the other half. "pairs" is the share of the pairs of rows in one batch that are in
one batch again in the next epoch. The set is read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import statistics
import sys
import tempfile
import time
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA
from public_sets import micro_macro, read_set
from small_model import make_model, open_trained, train_model
from sparse import run_here, write
from tables import gains_over
from text_cls.batching import shuffled_batches
from text_cls.cli import positive_int

WAYS = ("random", "one stretch", "by length")
TRAINING = "--max_seq_length 64 --batch_size 32 --learning_rate 1e-3 --logging_steps 100000"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="duee", help="public set (%(default)s)")
    parser.add_argument("--seeds", type=positive_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    parser.add_argument("--train_rows", type=positive_int, default=2000, help="rows to train on (%(default)s)")
    parser.add_argument("--epochs", type=positive_int, default=20, help="epochs to train (%(default)s)")
    return parser.parse_args(argv)


def one_stretch(lengths, batch_size, seed, by_length=True):
    """`shuffled_batches` as it was: stretches of 50 batches, however few rows there are."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(lengths))
    stretch = batch_size * 50
    parts = [order[i : i + stretch] for i in range(0, len(order), stretch)]
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


class Recorded:
    """A function that draws batches, and the pairs of rows that it put into one batch, by seed."""

    def __init__(self, draw):
        self.draw, self.pairs = draw, {}

    def __call__(self, lengths, batch_size, seed, by_length=True):
        batches = self.draw(lengths, batch_size, seed, by_length)
        self.pairs[tuple(seed)] = {pair for batch in batches for pair in combinations(sorted(batch.tolist()), 2)}
        return batches

    def repeated(self):
        """Percent of the pairs of an epoch that are pairs of the next as well."""
        return 100 * statistics.mean(len(one & other) / len(one) for one, other in pairwise(self.pairs.values()))


class Experiment:
    """One seed: the folder with the data and the model, and the half of dev that F1 is measured on."""

    def __init__(self, args, seed, folder):
        self.args, self.seed, self.folder = args, seed, folder
        dataset = DATA / args.set
        self.labels, self.dev = read_set(dataset, "dev.txt")
        order = np.random.default_rng(seed).permutation(len(self.dev))
        choosing, self.scored = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        lines = (dataset / "dev.txt").read_text(encoding="utf-8").splitlines()
        write(folder / "dev.txt", [lines[i] for i in choosing])
        for name in ("train.txt", "label.txt"):
            (folder / name).symlink_to(dataset / name)
        make_model(folder / "model", folder / "train.txt", seed, run=run_here)

    def run(self, way):
        """Trains a model. Returns its (micro, macro F1) in percent, the percentage of pairs, and seconds."""
        from text_cls.neural import training
        from text_cls.neural.model import encode, predict_probabilities

        draw = training.shuffled_batches = Recorded(one_stretch if way == "one stretch" else shuffled_batches)
        flags = f"--max_train_samples {self.args.train_rows} --epochs {self.args.epochs} {TRAINING}"
        flags += " --no-length_buckets" * (way == "random")
        started = time.perf_counter()
        train_model(self.folder, self.folder / "model", self.folder / way, self.seed, flags, run=run_here)
        seconds, trained = time.perf_counter() - started, open_trained(self.folder / way)
        probabilities = predict_probabilities(
            trained.model, encode(self.dev.texts, trained.tokenizer, trained.model, 64), 64
        )
        predicted = trained.decision.decide(probabilities[self.scored], self.labels.parents)
        gold = self.dev.multi_hot(len(self.labels), self.scored)
        return micro_macro(gold, predicted, self.labels.parents), draw.repeated(), seconds


def main(argv=None):
    args = parse_args(argv)
    scores, pairs, seconds = ({way: [] for way in WAYS} for _ in range(3))
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            experiment = Experiment(args, seed, Path(folder))
            for way in WAYS:
                for results, value in zip((scores, pairs, seconds), experiment.run(way)):
                    results[way].append(value)
                micro, macro = scores[way][-1]
                print(f"seed {seed}, {way}: micro F1 {micro:.2f}, macro F1 {macro:.2f}", flush=True)
    print(
        f"\n{args.set}: {args.train_rows} training rows, {args.epochs} epochs, half of {len(experiment.dev)} dev rows "
        f"scored, seeds {args.seeds}; percent, mean (lowest-highest)"
    )
    print(f"{'batches':24}{'micro F1':>23}{'gain':>8}{'macro F1':>23}{'gain':>8}{'up':>9}{'pairs':>8}{'seconds':>9}")
    for way, line in zip(WAYS, gains_over("random", scores, 8, 9)):
        print(f"{line}{statistics.mean(pairs[way]):8.1f}{statistics.mean(seconds[way]):9.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
