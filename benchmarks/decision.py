"""What decisions other than a threshold of 0.5 gain on the two public sets, on rows that nothing was fitted to.

    python benchmarks/decision.py                                  # both sets, three models, 3 seeds
    python benchmarks/decision.py --models svm linear              # minutes

The model is trained on train. Thresholds are fitted to four fifths of dev and applied to the other fifth, in turns, so
that no dev row is decided by thresholds fitted to it. A seed draws these folds and the weights of the small model (a
one-layer ERNIE from random weights, as in benchmarks/real_data.py). `min_k 1` gives every row a label. `svm` is the
linear baseline without calibration, as sigmoids of its scores; `linear` has its calibrated probabilities.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA
from public_sets import LINEAR, read_set
from small_model import dev_probabilities
from tables import spread
from text_cls import cross_fitting, linear_model, thresholds
from text_cls.cli import non_negative_int
from text_cls.decision import HIERARCHY, Decision
from text_cls.probabilities import sigmoid
from text_cls.splitting import stratified_split

FOLDS = 5
TRAINING = "--max_seq_length 64 --batch_size 32 --learning_rate 1e-3 --epochs 6"  # of the small model
MODELS = ("svm", "linear", "small")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="public sets (both)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="models to use (all)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    return parser.parse_args(argv)


def linear_probabilities(train, dev, labels, dataset, seed):
    model = linear_model.fit(list(train.texts), train.multi_hot(len(labels)), seed=seed)
    return model.probabilities(list(dev.texts))


def svm_probabilities(train, dev, labels, dataset, seed):
    model = linear_model.fit(list(train.texts), train.multi_hot(len(labels)), seed=seed, calibrate=False)
    return sigmoid(model.scores(list(dev.texts)))


def small_probabilities(train, dev, labels, dataset, seed):
    return dev_probabilities(dataset, seed, dev, training=TRAINING)


def ways(hierarchical):
    """Of each way: name, fixed part of the decision, whether thresholds are fitted, whether one per label."""
    yield "0.5", Decision(), False, False
    yield "0.5, min_k 1", Decision(min_k=1), False, False
    yield "one threshold", Decision(), True, False
    yield "threshold per label", Decision(), True, True
    yield "threshold per label, min_k 1", Decision(min_k=1), True, True
    for name in HIERARCHY if hierarchical else ():
        if name != "closure":
            yield f"0.5, {name}", Decision(hierarchy=name), False, False
            yield f"threshold per label, {name}", Decision(hierarchy=name), True, True


def main(argv=None):
    args = parse_args(argv)
    models = dict(zip(MODELS, (svm_probabilities, linear_probabilities, small_probabilities)))
    print(f"small model: {TRAINING}")
    for name in args.sets:
        labels, train, dev = read_set(DATA / name, "train.txt", "dev.txt")
        gold, texts = dev.multi_hot(len(labels)), list(dev.texts)
        for kind in args.models:
            results = {}
            for seed in args.seeds:
                probabilities = models[kind](train, dev, labels, DATA / name, seed)
                parts = stratified_split(gold, texts, [1 / FOLDS] * FOLDS, seed)
                for way, decision, fitted, each in ways(labels.hierarchical):
                    fit = (
                        thresholds.fitter(decision, "both", each, False, labels.parents)
                        if fitted
                        else lambda p, g, d=decision: d
                    )
                    predicted = cross_fitting.cross_fitted(probabilities, gold, parts, fit, labels.parents)
                    scores = cross_fitting.figures(gold, predicted)[2:]
                    results.setdefault(way, []).append((*scores, 100 * (~predicted.any(axis=1)).mean()))
            print(f"{name}, {kind}: {len(dev)} dev rows, {len(args.seeds)} seeds; percent, mean (lowest-highest)")
            print(f"{'way':36}{'micro F1':>22}{'macro F1':>22}{'exact':>22}{'without a label':>17}")
            for way, runs in results.items():
                line = f"{way:36}"
                for values in list(zip(*runs))[:3]:
                    line += f"{spread(values):>22}"
                print(f"{line}{statistics.mean(run[3] for run in runs):17.2f}")
            print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
