"""A linear and a pretrained model together: the cascade and the blend of export_model.py, on the two public sets.

    python benchmarks/cascade.py                                 # the runs of pretrained.py that are on this machine
    python benchmarks/cascade.py --list                          # what is finished
    python benchmarks/cascade.py --only cascade-duee-6-seed3     # one run

Each run takes the checkpoint of a run of benchmarks/pretrained.py (in .cache/benchmarks), which was trained on nine
tenths of train.txt. The linear model is trained on the same rows. export_model.py fits limit and weight to the other
tenth; dev.txt is only scored. Seconds are those of the predictor from texts to probabilities on ONNX Runtime with one
thread, on the first 256 rows of dev: five rounds in which the models take turns, and their median. Minutes per run.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import kept_runs
import pretrained
from kept_runs import Run
from project import DATA, run_script
from public_sets import hold_out, micro_macro, read_set
from text_cls.cli import non_negative_int

ROUNDS, TIMED = 5, 256
WAYS = {"neural": [], "cascade": ["--cascade"], "blend": ["--blend"], "both": ["--cascade", "--blend"]}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    sets = "public sets (both)"
    parser.add_argument("--sets", nargs="+", default=[*pretrained.SETS], choices=[*pretrained.SETS], help=sets)
    seeds = "of the runs of pretrained.py (3 4 5)"
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help=seeds)
    return parser.parse_args(argv)


def trained_runs(args):
    """{name: finished run of pretrained.py with 6 layers, whose checkpoint is on this machine}.

    Of runs with other settings but the same name, that with today's settings.
    """
    found = []
    for path in kept_runs.RESULTS.glob("*-6-seed*.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        run = Run(f"{settings['set']}-6-seed{settings['seed']}", settings)
        chosen = settings["set"] in args.sets and settings["seed"] in args.seeds
        if chosen and run.folder.name == path.stem and (run.folder / "checkpoint").is_dir():
            found.append(run)
    found.sort(key=lambda run: (run.settings["training"] == pretrained.SETS[run.settings["set"]], run.name))
    return {run.name: run for run in found}


def export(folder, checkpoint, linear, way):
    """Exports the bundle of a way, by its name. Returns its predictor."""
    from text_cls.serving.predictor import Predictor

    flags = [word for flag in WAYS[way] for word in (flag, linear)]
    flags += ["--dataset_dir", folder, "--dev_file", "held.txt"] if flags else []
    run_script("export_model.py", "--params_path", checkpoint, *flags, "--output_path", folder / way)
    return Predictor(str(folder / way), num_threads=1)


def seconds_of(predictors, texts):
    """{way: seconds of each round}; the first round warms up."""
    seconds = {way: [] for way in predictors}
    for _ in range(ROUNDS + 1):
        for way, predictor in predictors.items():
            started = time.perf_counter()
            predictor.probabilities(texts)
            seconds[way].append(time.perf_counter() - started)
    return {way: rounds[1:] for way, rounds in seconds.items()}


def answered(predictor, linear, texts):
    """The share of the texts that the linear model answers alone. linear: the predictor of its own bundle."""
    from text_cls.cascade import distances, threshold_logits

    logits, nothing = linear.run(linear.encode(texts)), linear.run(linear.encode([""]))[0]
    sure = distances(logits, threshold_logits(linear.decision, len(linear.labels)), nothing)
    return float((sure >= predictor.bundle.cascade.limit).mean())


def measure(run, trained):
    """What is measured of the two models of a run."""
    from text_cls.serving.predictor import Predictor

    name, seed = run.settings["set"], run.settings["seed"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        hold_out(DATA / name, pretrained.HELD, seed, folder)
        linear = folder / "linear"
        run_script("train.py", "--dataset_dir", folder, "--model_name", "linear", "--save_dir", linear)
        run_script("export_model.py", "--params_path", linear, "--output_path", folder / "alone")
        predictors = {way: export(folder, trained.folder / "checkpoint", linear, way) for way in WAYS}
        predictors["linear"] = Predictor(str(folder / "alone"), num_threads=1)
        labels, dev = read_set(folder, "dev.txt")
        texts, gold = list(dev.texts), dev.multi_hot(len(labels))
        seconds = seconds_of(predictors, texts[:TIMED])
        found = {}
        for way, predictor in predictors.items():
            predicted = predictor.decision.decide(predictor.probabilities(texts), labels.parents)
            speed = min(TIMED, len(texts)) / statistics.median(seconds[way])
            found[way] = {"f1": micro_macro(gold, predicted, labels.parents), "texts_per_second": speed}
            found[way]["fitted"] = {
                part: predictor.bundle.manifest[part]
                for part in ("cascade", "blend")
                if part in predictor.bundle.manifest
            }
            if predictor.bundle.cascade:
                found[way]["answered"] = answered(predictor, predictors["linear"], texts)
            ratios = np.array(seconds["neural"]) / np.array(seconds[way])
            found[way]["speedup"] = float(statistics.median(ratios))
    return {"ways": found}


def line(run, way, found, neural):
    """A line of the table. found, neural: of this way, and of the neural model alone."""
    scores = "".join(f"{score:9.2f}{score - base:+7.2f}" for score, base in zip(found["f1"], neural["f1"]))
    share = f"{found['answered']:9.0%}" if "answered" in found else " " * 9
    fitted = found["fitted"]
    expected = f"{fitted['cascade']['share']:9.0%}" if "cascade" in fitted else " " * 9
    weight = f"{fitted['blend']['weight']:8.2f}" if "blend" in fitted else " " * 8
    speed = f"{found['texts_per_second']:9.0f}{found['speedup']:7.2f}x"
    return f"{run.name.removeprefix('cascade-'):24}{way:9}{scores}{expected}{share}{weight}{speed}"


def main(argv=None):
    args = parse_args(argv)
    trained = {f"cascade-{name}": run for name, run in sorted(trained_runs(args).items())}
    runs = [Run(name, {**run.settings, "timed": TIMED}) for name, run in trained.items()]
    finished = kept_runs.finish(args, runs, lambda run: measure(run, trained[run.name]))
    if finished and not args.list:
        head = f"{'micro F1':>9}{'gain':>7}{'macro F1':>9}{'gain':>7}{'expected':>9}{'answered':>9}{'weight':>8}"
        print(f"{'run':24}{'model':9}{head}{'texts/s':>9}{'speed':>8}")
        for run, result in finished:
            for way, found in result["ways"].items():
                print(line(run, way, found, result["ways"]["neural"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
