"""A linear and a pretrained model together: the cascade and the blend of export_model.py, on the two public sets.

    python benchmarks/cascade.py                                 # the runs of pretrained.py that are on this machine
    python benchmarks/cascade.py --list                          # what is finished
    python benchmarks/cascade.py --only cascade-duee-6-seed3     # one run

Each run takes the checkpoint of a run of benchmarks/pretrained.py (in .cache/benchmarks), which was trained on nine
tenths of train.txt. The linear model, in the table "alone", is trained on the same rows. Limit and weight are fitted to
the other tenth, as export_model.py does; dev.txt is only scored. "expected" is the share of rows that the linear model
answers by the held-out rows, "answered" that of dev. Speed is that of the predictor from texts to probabilities on ONNX
Runtime with one thread, on the first 256 rows of dev: five rounds in which the models take turns; the median, and the
median of the ratios round by round. Minutes per run.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import kept_runs
import pretrained
from kept_runs import Run
from project import DATA, run_script
from public_sets import hold_out, micro_macro, read_set
from small_model import open_trained
from text_cls.cli import non_negative_int

ROUNDS, TIMED = 5, 256
TOGETHER = {"cascade": (True, False), "blend": (False, True), "both": (True, True)}  # whether with cascade, with blend
FITTED = ("cascade", "blend")  # fields of a manifest


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


def bundles(folder, trained, linear, held):
    """{way: predictor} of both models, trained, alone and together. linear: folder of that model. held: fitted to."""
    from text_cls.neural.compat import prepare_environment
    from text_cls.serving.predictor import Predictor

    prepare_environment()  # before Paddle is imported
    from text_cls.neural import two_models
    from text_cls.neural.export import bundle_folder

    run_script("export_model.py", "--params_path", linear, "--output_path", folder / "alone")
    trained, linear = open_trained(trained), open_trained(linear)
    length = trained.run["arguments"]["max_seq_length"]
    with bundle_folder(str(folder / "neural"), trained, "float32", length) as plain:
        neural = Predictor(plain.folder, num_threads=1)
        for way, joined in TOGETHER.items():
            two = two_models.fit(trained, linear, neural, held, *joined)
            with two.folder(str(folder / way), trained, plain, held, "held.txt"):
                pass
    return {way: Predictor(str(folder / way), num_threads=1) for way in ("neural", *TOGETHER, "alone")}


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
    """What is measured of the two models of a run, which is `trained`."""
    name, seed = run.settings["set"], run.settings["seed"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        hold_out(DATA / name, pretrained.HELD, seed, folder)
        linear = folder / "linear"
        run_script("train.py", "--dataset_dir", folder, "--model_name", "linear", "--save_dir", linear)
        labels, held, dev = read_set(folder, "held.txt", "dev.txt")
        predictors = bundles(folder, trained.folder / "checkpoint", linear, held)
        texts, gold, found = list(dev.texts), dev.multi_hot(len(labels)), {}
        for way, predictor in predictors.items():
            predicted = predictor.decision.decide(predictor.probabilities(texts), labels.parents)
            fitted = {part: record for part in FITTED if (record := predictor.bundle.manifest.get(part))}
            found[way] = {"f1": micro_macro(gold, predicted, labels.parents), "fitted": fitted}
            if predictor.bundle.cascade:
                found[way]["answered"] = answered(predictor, predictors["alone"], texts)
        seconds = seconds_of(predictors, texts[:TIMED])
    for way, rounds in seconds.items():
        found[way]["texts_per_second"] = min(TIMED, len(texts)) / statistics.median(rounds)
        found[way]["speed"] = statistics.median(base / own for base, own in zip(seconds["neural"], rounds))
    return {"ways": found}


def line(run, way, found, neural):
    """A line of the table. found, neural: of this way, and of the neural model alone."""
    scores = "".join(f"{score:9.2f}{score - base:+7.2f}" for score, base in zip(found["f1"], neural["f1"]))
    share = f"{found['answered']:9.0%}" if "answered" in found else " " * 9
    fitted = found["fitted"]
    expected = f"{fitted['cascade']['share']:9.0%}" if "cascade" in fitted else " " * 9
    weight = f"{fitted['blend']['weight']:8.2f}" if "blend" in fitted else " " * 8
    speed = f"{found['texts_per_second']:9.0f}{found['speed']:7.2f}x"
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
