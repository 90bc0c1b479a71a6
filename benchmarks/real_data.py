"""The whole pipeline on the two public sets, on a CPU: a small ERNIE from random weights, beside a linear baseline.

    python benchmarks/real_data.py                    # both sets, 3 seeds
    python benchmarks/real_data.py --sets duee --seeds 3

Per set and seed: data/make_tiny_model.py on the set's characters, then train.py, analysis/evaluate.py and predict.py as
a user types them. The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TEXT_CLASSIFICATION_DATA", ROOT.parent / "shared" / "data"))
MODEL = "--hidden_size 128 --num_hidden_layers 1 --num_attention_heads 4 --intermediate_size 256 --dropout 0.1"
TRAINING = "--max_seq_length 128 --batch_size 32 --learning_rate 1e-3 --epochs 20"
# TF-IDF of character 1-3-grams and a linear SVM a label, on the same rows; from the sets' own notes.
LINEAR = {"duee": (90.99, 81.75), "cail-divorce": (88.87, 72.54)}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="(both)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="(3 4 5)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    parser.add_argument("--training", default=TRAINING, help="flags of train.py (%(default)s)")
    return parser.parse_args(argv)


def call(script, *flags):
    """Runs a script of the project. Returns the seconds it took."""
    return call_and_read(script, *flags)[0]


def call_and_read(script, *flags):
    """The same: (seconds, its log). Shows what it said where it fails."""
    started = time.perf_counter()
    answer = subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    if answer.returncode:
        raise SystemExit(f"{script} ended with {answer.returncode}:\n{answer.stderr}")
    return time.perf_counter() - started, answer.stderr


def one_run(dataset, seed, args, folder):
    """Micro and macro F1 in percent, seconds of training, and rows predicted."""
    model, checkpoint, output = folder / "model", folder / "checkpoint", folder / "predicted.txt"
    call(
        "data/make_tiny_model.py",
        "--output_dir",
        model,
        "--texts",
        dataset / "train.txt",
        "--seed",
        seed,
        *args.model.split(),
    )
    where = ("--dataset_dir", dataset, "--device", "cpu")
    seconds = call(
        "train.py", *where, "--model_name", model, "--save_dir", checkpoint, "--seed", seed, *args.training.split()
    )
    report = folder / "report.json"
    call(
        "analysis/evaluate.py",
        *where,
        "--params_path",
        checkpoint,
        "--report_file",
        report,
        "--bad_case_file",
        folder / "bad_case.txt",
    )
    call("predict.py", *where, "--params_path", checkpoint, "--data_file", "dev.txt", "--output_file", output)
    scores = json.loads(report.read_text(encoding="utf-8"))
    rows = len(output.read_text(encoding="utf-8").splitlines())
    assert rows == scores["rows"]
    return 100 * scores["micro"]["f1"], 100 * scores["macro"]["f1"], seconds, rows


def dev_probabilities(dataset, seed, dev, model=MODEL, training=TRAINING):
    """Trains a small model on a set, and gives its probabilities of the dev rows: float32 array [rows, labels]."""
    from text_cls.cli import Problems
    from text_cls.neural.checkpoint import load_checkpoint, load_model
    from text_cls.neural.model import encode, predict_probabilities

    with tempfile.TemporaryDirectory() as folder:
        start, path = Path(folder, "model"), str(Path(folder, "checkpoint"))
        texts = ("--texts", dataset / "train.txt", "--seed", seed)
        call("data/make_tiny_model.py", "--output_dir", start, *texts, *model.split())
        where = ("--dataset_dir", dataset, "--device", "cpu", "--model_name", start, "--save_dir", path)
        call("train.py", *where, "--seed", seed, *training.split())
        checkpoint = load_checkpoint(path, None, Problems())
        load_model(checkpoint, "cpu")
        length = checkpoint.run["arguments"]["max_seq_length"]
        encoded = encode(dev.texts, checkpoint.tokenizer, checkpoint.model, length)
        return predict_probabilities(checkpoint.model, encoded, 32)


def main(argv=None):
    args = parse_args(argv)
    print(f"model: {args.model}\ntraining: {args.training}")
    for name in args.sets:
        results = []
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                results.append(one_run(DATA / name, seed, args, Path(folder)))
            micro, macro, seconds, rows = results[-1]
            print(
                f"{name} seed {seed}: micro F1 {micro:.2f}, macro F1 {macro:.2f}, trained in {seconds:.0f} s",
                flush=True,
            )
        for kind, values, linear in zip(("micro", "macro"), zip(*results), LINEAR[name]):
            print(
                f"{name}, dev {rows} rows, {kind} F1: median {statistics.median(values):.2f}, "
                f"{min(values):.2f}-{max(values):.2f} over {len(values)} seeds; linear baseline {linear:.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
