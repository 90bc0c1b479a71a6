"""Does analysis/sparse.py choose well? The 100 rows it wants labelled against 100 random ones, and augmented rows.

    python benchmarks/sparse.py                       # both sets, 5 seeds, linear baseline and small model
    python benchmarks/sparse.py --sets duee --models linear

A seed draws the rows to train on (700 of duee, 500 of cail-divorce), 4,000 other rows of train as the unlabelled pool
(an annotator would label them as train.txt does), the halves of dev, the 100 random rows, and the weights. A small
ERNIE from random weights, made as in benchmarks/real_data.py, is trained on them, and analysis/sparse.py's functions
choose with its features and the script's defaults. A model is then trained with each choice for the same number of
steps, and scored on the half of dev not used for choosing and on all of dev. "by all of dev" chooses by the same rows
it is scored on, as PaddleNLP's application did.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA, load
from public_sets import linear_predictions, micro_macro, read_set
from small_model import make_model, open_trained, train_model
from tables import gains_over
from text_cls.cli import non_negative_int

ROWS = {"duee": 700, "cail-divorce": 500}
POOL, EPOCHS = 4000, 20
TRAINING = "--max_seq_length 128 --batch_size 16 --learning_rate 1e-3 --logging_steps 1000 --max_dev_samples 200"
AUGMENTED = ("duplicate", "delete", "swap")  # substitute and insert need downloaded dictionaries
MODELS = ("linear", "small")
OTHER_HALF, ALL = "the half of dev that did not choose", "all of dev"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(ROWS), choices=list(ROWS), help="public sets (both)")
    parser.add_argument(
        "--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5, 6, 7], help="one run for each (3 4 5 6 7)"
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="models to score with (both)")
    return parser.parse_args(argv)


def run_here(script, *flags):
    """Runs a script of the project in this process, which has imported Paddle; exits with its output if it fails."""
    with contextlib.redirect_stderr(io.StringIO()) as output, contextlib.redirect_stdout(output):
        status = load(script).main([str(flag) for flag in flags])
    if status:
        raise SystemExit(output.getvalue())


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class Experiment:
    """One seed of one set, in its own folder."""

    def __init__(self, name, seed, folder):
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
        self.labels, self.dev = read_set(folder, "dev.txt")

    def train_small(self):
        """Trains the small model on train.txt. Returns the checkpoint."""
        model, checkpoint = self.folder / "model", self.folder / "checkpoint"
        if not model.exists():
            make_model(model, self.folder / "train.txt", self.seed, run=run_here)
        rows = len((self.folder / "train.txt").read_text(encoding="utf-8").splitlines())
        flags = f"--dev_file choosing.txt --epochs {round(EPOCHS * len(self.base) / rows)} {TRAINING}"
        train_model(self.folder, model, checkpoint, self.seed, flags, run=run_here)
        return open_trained(checkpoint)

    def choose(self):
        """{way: new lines for train.txt}, chosen by the features of the small model trained on the base rows."""
        from text_cls.cli import Problems
        from text_cls.neural.model import encode, predict_features
        from text_cls.search.neighbours import Neighbours

        for path in ("analysis/words.py", "analysis/augmentation.py"):
            load(path)
        sparse_script = load("analysis/sparse.py")
        args, checkpoint = sparse_script.parse_args(["--dataset_dir", "."]), self.train_small()
        self.trained_on_base = checkpoint

        def features(texts):
            encoded = encode(texts, checkpoint.tokenizer, checkpoint.model, 128)
            return predict_features(checkpoint.model, encoded, 64)

        _, train = read_set(self.folder, "train.txt")
        known = [*train.texts, *self.dev.texts]
        pool, _ = sparse_script.read_new_texts(str(self.folder / "pool.txt"), known, Problems())
        line_of = {line.partition("\t")[0].strip(): line for line in self.rest}
        corpora = {"train": Neighbours(features(train.texts)), "pool": Neighbours(features(pool))}
        queries = features(self.dev.texts)

        def supports(corpus, rows):
            scores, _ = corpora["train"].search(queries[rows], args.rationale_num_sparse)
            sparse = rows[sparse_script.least_supported(scores, args.sparse_num)[0]]
            found = corpora[corpus].search(queries[sparse], args.rationale_num_support)
            return sparse_script.choose_supports(*found, args.support_threshold, args.support_num)

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
        if way == "duplicate":
            return lines
        augmenter = load("analysis/augmentation.py").Augmenter(way, seed=self.seed)
        pairs = [line.partition("\t")[::2] for line in lines]
        return [f"{new}\t{names}" for text, names in pairs for new in augmenter.augment(text)]

    def score(self, kind, lines):
        """{rows scored: (micro, macro F1 in percent)} of a model trained on the base rows and these lines."""
        write(self.folder / "train.txt", [*self.base, *lines])
        if kind == "linear":
            predicted = self.predict_linear()
        else:
            predicted = self.predict_small(self.train_small() if lines else self.trained_on_base)
        gold, scores = self.dev.multi_hot(len(self.labels)), {}
        for part, rows in ((OTHER_HALF, self.other), (ALL, np.arange(len(self.dev)))):
            scores[part] = micro_macro(gold[rows], predicted[rows], self.labels.parents)
        return scores

    def predict_linear(self):
        _, train = read_set(self.folder, "train.txt")
        return linear_predictions(train.texts, train.multi_hot(len(self.labels)), self.dev.texts)

    def predict_small(self, trained):
        from text_cls.neural.model import encode, predict_probabilities

        encoded = encode(self.dev.texts, trained.tokenizer, trained.model, 128)
        return trained.decision.decide(predict_probabilities(trained.model, encoded, 64), self.labels.parents)


def table(name, kind, part, results):
    """Lines of mean and range of each way, and its mean gain over 100 random rows. results: {way: [{part: scores}]}"""
    seeds = len(results["random"])
    yield f"{name}, {kind} model, {ROWS[name]} rows, {seeds} seeds; F1 in percent on {part}: mean (range)"
    yield f"{'new rows':24}{'micro F1':>22}{'- random':>10}{'macro F1':>22}{'- random':>10}{'ahead':>9}"
    yield from gains_over("random", {way: [run[part] for run in runs] for way, runs in results.items()}, 10, 9)


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
                        figures = "; ".join(
                            f"{micro:.2f} / {macro:.2f} on {part}" for part, (micro, macro) in scores.items()
                        )
                        print(f"{name}, seed {seed}, {way}, {len(lines)} rows, {kind}: {figures}", flush=True)
        for kind in args.models:
            for part in (OTHER_HALF, ALL):
                print("\n".join(table(name, kind, part, results[kind])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
