"""Does sparse.py choose well? 100 rows that it wants labelled against 100 at random, and rows it repeats or changes.

    python benchmarks/sparse.py                       # both sets, 5 seeds, linear baseline and small model
    python benchmarks/sparse.py --sets duee --models linear

A seed draws the rows to train on (700 of duee, 500 of cail-divorce), 4,000 other rows of train as the unlabelled pool
(whose labels an annotator would give back), the halves of dev, the 100 random rows, and the weights. A small ERNIE from
random weights, made as in benchmarks/real_data.py, is trained on them, and analysis/sparse.py's functions choose with
its features and the script's defaults. Every way is trained anew for as many steps, and scored on the half of dev that
had no part in choosing and on all of dev. "by all of dev" chooses by the rows it is scored on, as the older suite did.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from real_data import DATA, MODEL

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

ROWS = {"duee": 700, "cail-divorce": 500}
POOL, EPOCHS = 4000, 20
TRAINING = "--max_seq_length 128 --batch_size 16 --learning_rate 1e-3 --logging_steps 1000 --max_dev_samples 200"
AUGMENTED = ("duplicate", "delete", "swap")  # substitute and insert need dictionaries, which are downloaded
OTHER_HALF, ALL = "the half of dev that did not choose", "all of dev"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(ROWS), choices=list(ROWS), help="(both)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5, 6, 7], help="(3 4 5 6 7)")
    parser.add_argument("--models", nargs="+", default=["linear", "small"], choices=["linear", "small"], help="(both)")
    return parser.parse_args(argv)


def quietly(main, *flags):
    """Runs a script of the project in this process; shows what it said where it fails."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(said):
        status = main([str(flag) for flag in flags])
    if status:
        raise SystemExit(said.getvalue())


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class Experiment:
    """One seed of one set, in a folder of its own."""

    def __init__(self, name, seed, folder):
        from text_cls.cli import Problems
        from text_cls.rows import read_labels, read_rows

        self.folder, self.seed = folder, seed
        random = np.random.default_rng(seed)
        lines = (DATA / name / "train.txt").read_text(encoding="utf-8").splitlines()
        lines = [lines[i] for i in random.permutation(len(lines))]
        self.base, self.rest = lines[: ROWS[name]], lines[ROWS[name] : ROWS[name] + POOL]
        dev = (DATA / name / "dev.txt").read_text(encoding="utf-8").splitlines()
        order = random.permutation(len(dev))
        self.choosing, self.other = np.sort(order[: len(dev) // 2]), np.sort(order[len(dev) // 2 :])
        write(folder / "choosing.txt", [dev[i] for i in self.choosing])
        write(folder / "train.txt", self.base)
        write(folder / "pool.txt", self.rest)
        os.symlink(DATA / name / "dev.txt", folder / "dev.txt")
        os.symlink(DATA / name / "label.txt", folder / "label.txt")
        self.labels = read_labels(str(folder / "label.txt"), Problems())
        self.dev = read_rows(str(folder / "dev.txt"), self.labels, Problems())

    def train_small(self):
        """Trains the small model on train.txt. Returns the checkpoint."""
        import make_tiny_model
        import train
        from text_cls.cli import Problems
        from text_cls.neural.checkpoint import load_checkpoint, load_model

        model, checkpoint = self.folder / "model", str(self.folder / "checkpoint")
        if not model.exists():
            quietly(
                make_tiny_model.main,
                "--output_dir",
                model,
                "--texts",
                self.folder / "train.txt",
                "--seed",
                self.seed,
                *MODEL.split(),
            )
        rows = len((self.folder / "train.txt").read_text(encoding="utf-8").splitlines())
        quietly(
            train.main,
            "--dataset_dir",
            self.folder,
            "--dev_file",
            "choosing.txt",
            "--device",
            "cpu",
            "--model_name",
            model,
            "--save_dir",
            checkpoint,
            "--seed",
            self.seed,
            "--epochs",
            round(EPOCHS * len(self.base) / rows),
            *TRAINING.split(),
        )
        trained = load_checkpoint(checkpoint, None, Problems())
        load_model(trained, "cpu")
        return trained

    def choose(self):
        """{way: new lines for train.txt}, all by the features of the small model trained on the base rows."""
        from sparse import choose_supports, least_supported, read_new_texts
        from sparse import parse_args as defaults
        from text_cls.cli import Problems
        from text_cls.neural.model import encode, predict_features
        from text_cls.rows import read_rows
        from text_cls.search.neighbours import Neighbours

        args, checkpoint = defaults(["--dataset_dir", "."]), self.train_small()
        self.trained_on_base = checkpoint

        def features(texts):
            encoded = encode(texts, checkpoint.tokenizer, checkpoint.model, 128)
            return predict_features(checkpoint.model, encoded, 64)

        train = read_rows(str(self.folder / "train.txt"), self.labels, Problems())
        known = [*train.texts, *self.dev.texts]
        pool, _ = read_new_texts(str(self.folder / "pool.txt"), known, Problems())
        line_of = {line.partition("\t")[0].strip(): line for line in self.rest}
        corpora = {"train": Neighbours(features(train.texts)), "pool": Neighbours(features(pool))}
        queries = features(self.dev.texts)

        def supports(corpus, rows):
            scores, _ = corpora["train"].search(queries[rows], args.rationale_num_sparse)
            sparse = rows[least_supported(scores, args.sparse_num)[0]]
            found = corpora[corpus].search(queries[sparse], args.rationale_num_support)
            return choose_supports(*found, args.support_threshold, args.support_num)

        drawn = np.random.default_rng(self.seed + 1000).choice(len(pool), args.support_num, replace=False)
        everything = np.arange(len(self.dev))
        ways = {
            "none": [],
            "random": [line_of[pool[i]] for i in drawn],
            "annotate": [line_of[pool[i]] for i in supports("pool", self.choosing)],
            "annotate, by all of dev": [line_of[pool[i]] for i in supports("pool", everything)],
        }
        again = [self.base[i] for i in supports("train", self.choosing)]
        return {**ways, **{way: self.augmented(again, way) for way in AUGMENTED}}

    def augmented(self, lines, way):
        from augmentation import Augmenter

        if way == "duplicate":
            return lines
        augmenter, pairs = Augmenter(way, seed=self.seed), [line.partition("\t")[::2] for line in lines]
        return [f"{new}\t{names}" for text, names in pairs for new in augmenter.augment(text)]

    def score(self, kind, lines):
        """{what is scored on: (micro, macro F1 in percent)} of a model trained on the base rows and these."""
        from metric import classification_report

        write(self.folder / "train.txt", [*self.base, *lines])
        if kind == "linear":
            predicted = self.predict_linear()
        else:
            predicted = self.predict_small(self.train_small() if lines else self.trained_on_base)
        gold, scores = self.dev.multi_hot(len(self.labels)), {}
        for part, rows in ((OTHER_HALF, self.other), (ALL, np.arange(len(self.dev)))):
            report = classification_report(gold[rows], predicted[rows], self.labels.parents)
            scores[part] = 100 * report["micro"]["f1"], 100 * report["macro"]["f1"]
        return scores

    def predict_linear(self):
        import linear_baseline
        from text_cls.cli import Problems
        from text_cls.rows import read_rows

        train = read_rows(str(self.folder / "train.txt"), self.labels, Problems())
        model = linear_baseline.fit(list(train.texts), train.multi_hot(len(self.labels)), calibrate=False)
        return model.scores(list(self.dev.texts)) > 0

    def predict_small(self, trained):
        from text_cls.neural.model import encode, predict_probabilities

        encoded = encode(self.dev.texts, trained.tokenizer, trained.model, 128)
        return trained.decision.decide(predict_probabilities(trained.model, encoded, 64), self.labels.parents)


def table(name, kind, part, results):
    """Lines of mean and range by way, and the mean difference to 100 random rows. results: {way: [{part: scores}]}"""
    seeds = len(results["random"])
    yield f"{name}, {kind} model, {ROWS[name]} rows, {seeds} seeds; F1 in percent on {part}: mean (range)"
    yield f"{'new rows':24}{'micro F1':>22}{'- random':>10}{'macro F1':>22}{'- random':>10}{'ahead':>9}"
    for way, runs in results.items():
        line = f"{way:24}"
        for i in range(2):
            values = [run[part][i] for run in runs]
            gains = [run[part][i] - other[part][i] for run, other in zip(runs, results["random"])]
            line += f"{statistics.mean(values):9.2f} ({min(values):.2f}-{max(values):.2f})".rjust(22)
            line += f"{statistics.mean(gains):+10.2f}"
        yield line + f"{sum(gain > 0 for gain in gains)} of {seeds}".rjust(9)


def main(argv=None):
    args = parse_args(argv)
    for name in args.sets:
        results = {kind: {} for kind in args.models}
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                experiment = Experiment(name, seed, Path(folder))
                for way, lines in experiment.choose().items():
                    for kind in args.models:
                        scores = experiment.score(kind, lines)
                        results[kind].setdefault(way, []).append(scores)
                        told = "; ".join(
                            f"{micro:.2f} / {macro:.2f} on {part}" for part, (micro, macro) in scores.items()
                        )
                        print(f"{name}, seed {seed}, {way}, {len(lines)} rows, {kind}: {told}", flush=True)
        for kind in args.models:
            for part in (OTHER_HALF, ALL):
                print("\n".join(table(name, kind, part, results[kind])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
