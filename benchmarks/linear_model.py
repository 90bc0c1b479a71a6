"""The linear model on the public sets: F1, time of training, texts per second beside an ERNIE 3.0 nano, and how close
its bundle's scores are to scikit-learn's.

    python benchmarks/linear_model.py                            # both sets; a minute or two
    python benchmarks/linear_model.py --list                     # what is finished
    python benchmarks/linear_model.py --only linear-duee

`train.py --model_name linear` and `export_model.py`, as a user runs them, on train.txt; F1 is that of the bundle on
all of dev.txt, which chose nothing. Speed is that of the predictor from texts to probabilities, on ONNX Runtime and
all cores: the median of 5 passes over dev.txt. The nano has its true dimensions and random weights, and reads at most
128 tokens, which cuts few of these texts. What is finished is kept in benchmarks/results.
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
from project import DATA, run_script, texts_per_second
from public_sets import LINEAR, micro_macro, read_set
from random_model import random_checkpoint

LENGTH, NANO = 128, "ernie-3.0-nano-zh"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="public sets (both)")
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order."""
    for name in args.sets:
        yield Run(f"linear-{name}", {"set": name, "model": "linear"})
        yield Run(f"linear-nano-{name}", {"set": name, "model": NANO})


def difference(predictor, train, labels, texts):
    """The largest difference of a logit from that of scikit-learn's model, trained again on the same rows."""
    from text_cls import linear_model

    model = linear_model.fit(list(train.texts), train.multi_hot(len(labels)), seed=3)
    slope, offset = model.calibration
    return float(np.abs(predictor.run(predictor.encode(texts)) - (slope * model.scores(texts) + offset)).max())


def linear(name, folder):
    """What is measured of a linear model."""
    from text_cls.serving.predictor import Predictor

    checkpoint, bundle = folder / "checkpoint", folder / "export"
    training = run_script("train.py", "--dataset_dir", DATA / name, "--model_name", "linear", "--save_dir", checkpoint)
    run_script("export_model.py", "--params_path", checkpoint, "--output_path", bundle)
    labels, train, dev = read_set(DATA / name, "train.txt", "dev.txt")
    predictor, texts = Predictor(str(bundle)), list(dev.texts)
    predicted = predictor.decision.decide(predictor.probabilities(texts), labels.parents)
    return {
        "training_seconds": training.seconds,
        "f1": micro_macro(dev.multi_hot(len(labels)), predicted, labels.parents),
        "mib": (bundle / "model.onnx").stat().st_size / 2**20,
        "difference": difference(predictor, train, labels, texts),
        "texts_per_second": texts_per_second(predictor, texts),
    }


def nano(name, folder):
    """What is measured of an ERNIE 3.0 nano with random weights."""
    from text_cls.neural.export import bundle_folder
    from text_cls.serving.predictor import Predictor

    checkpoint = random_checkpoint(folder, NANO, [name], LENGTH)
    with bundle_folder(str(folder / "export"), checkpoint, "float32", LENGTH):
        pass
    _, dev = read_set(DATA / name, "dev.txt")
    predictor = Predictor(str(folder / "export"))
    return {"texts_per_second": texts_per_second(predictor, list(dev.texts))}


def execute(run):
    """Does a run."""
    with tempfile.TemporaryDirectory() as folder:
        measure = linear if run.settings["model"] == "linear" else nano
        return measure(run.settings["set"], Path(folder))


def show(finished):
    """Prints the table."""
    print(f"{'set':14}{'model':20}{'micro / macro F1':>18}{'trained in s':>14}{'texts/s':>10}{'from scikit-learn':>19}")
    for run, result in finished:
        f1 = "{:.2f} / {:.2f}".format(*result["f1"]) if "f1" in result else ""
        seconds = f"{result['training_seconds']:.1f}" if "training_seconds" in result else ""
        apart = f"{result['difference']:.1e}" if "difference" in result else ""
        speed = result["texts_per_second"]
        print(f"{run.settings['set']:14}{run.settings['model']:20}{f1:>18}{seconds:>14}{speed:10.0f}{apart:>19}")


def main(argv=None):
    args = parse_args(argv)
    finished = kept_runs.finish(args, list(planned(args)), execute)
    if finished and not args.list:
        show(finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
