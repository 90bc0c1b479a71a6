"""A small ERNIE with random weights: made, trained and evaluated by the project's scripts, on a CPU."""

import json
import tempfile
from pathlib import Path

from project import run_script
from public_sets import percent

MODEL = "--hidden_size 128 --num_hidden_layers 1 --num_attention_heads 4 --intermediate_size 256 --dropout 0.1"
TRAINING = "--max_seq_length 128 --batch_size 32 --learning_rate 1e-3 --epochs 20"


def make_model(folder, texts, seed, flags=MODEL, run=run_script):
    """Makes a model for the characters of the file `texts`. flags: of data/make_tiny_model.py."""
    run("data/make_tiny_model.py", "--output_dir", folder, "--texts", texts, "--seed", seed, *flags.split())


def train_model(dataset, model, checkpoint, seed, flags=TRAINING, run=run_script):
    """Trains the model in a folder with train.py. Returns what `run` returns."""
    paths = ("--dataset_dir", dataset, "--model_name", model, "--save_dir", checkpoint)
    return run("train.py", *paths, "--device", "cpu", "--seed", seed, *flags.split())


def evaluate(dataset, checkpoint, folder):
    """Micro and macro F1 in percent on dev, and the number of dev rows. Reports are written to `folder`."""
    files = ("--report_file", folder / "report.json", "--bad_case_file", folder / "bad_case.txt")
    run_script("analysis/evaluate.py", "--dataset_dir", dataset, "--device", "cpu", "--params_path", checkpoint, *files)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return percent(report), report["rows"]


def open_trained(checkpoint):
    """The `Checkpoint` in a folder, with its model on the CPU."""
    from text_cls.cli import Problems
    from text_cls.neural.checkpoint import load_checkpoint, load_model

    trained = load_checkpoint(str(checkpoint), None, Problems())
    load_model(trained, "cpu")
    return trained


def dev_probabilities(dataset, seed, dev, model=MODEL, training=TRAINING):
    """Trains a small model on a set. Returns its probabilities of the dev rows, float32 [rows, labels]."""
    from text_cls.neural.model import encode, predict_probabilities

    with tempfile.TemporaryDirectory() as folder:
        start, path = Path(folder, "model"), Path(folder, "checkpoint")
        make_model(start, dataset / "train.txt", seed, model)
        train_model(dataset, start, path, seed, training)
        trained = open_trained(path)
        length = trained.run["arguments"]["max_seq_length"]
        encoded = encode(dev.texts, trained.tokenizer, trained.model, length)
        return predict_probabilities(trained.model, encoded, 32)
