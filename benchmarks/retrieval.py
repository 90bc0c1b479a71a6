"""Classification by retrieval from random weights, on a CPU: recall, F1 of two ways to find labels, training time.

    python benchmarks/retrieval.py                                  # duee and the examples, 3 seeds
    python benchmarks/retrieval.py --sets data --seeds 3 --epochs 10

Per set and seed: data/make_tiny_model.py on the set's characters, then retrieval_based/train.py. Its checkpoint labels
rows by the nearest label texts, with the decision that training fitted to dev, and by the votes of the nearest training
rows, a label then holding where most of the votes are for it. The rows are dev for duee, whose best epoch was chosen by
them, as in benchmarks/real_data.py, and test for the examples. CPU seconds are those of training, all cores together.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TEXT_CLASSIFICATION_DATA", ROOT.parent / "shared" / "data"))
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

SETS = {  # folder, the file that is scored, epochs
    "duee": (DATA / "duee", "dev.txt", 5),
    "data": (ROOT / "data", "test.txt", 10),
    "multi_label": (ROOT / "data" / "multi_label", "test.txt", 10),
}
MODEL = "--hidden_size 128 --num_hidden_layers 1 --num_attention_heads 4 --intermediate_size 256 --dropout 0.1"
TRAINING = "--max_seq_length 64 --batch_size 32 --learning_rate 1e-3 --output_emb_size 0"
CUTOFFS = (1, 5, 10, 20)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="(all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5], help="(3 4 5)")
    parser.add_argument("--epochs", type=int, help="(5 for duee, 10 for the examples)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    parser.add_argument("--training", default=TRAINING, help="flags of retrieval_based/train.py (%(default)s)")
    return parser.parse_args(argv)


def call(script, *flags):
    """Runs a script of the project. Returns the seconds, and the CPU seconds, that it took."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    if answer.returncode:
        raise SystemExit(f"{script} ended with {answer.returncode}:\n{answer.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - started, cpu


def one_run(dataset, file, epochs, seed, args, folder):
    """{name of a figure: value}."""
    files = {"train_set_file": "train.txt", "corpus_file": "label.txt", "similar_text_pair_file": "dev.txt"}
    model, checkpoint = folder / "model", folder / "checkpoint"
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
    where = [f"--{flag}={dataset / name}" for flag, name in files.items()]
    seconds, cpu = call(
        "retrieval_based/train.py",
        *where,
        "--device",
        "cpu",
        "--model_name_or_path",
        model,
        "--save_dir",
        checkpoint,
        "--seed",
        seed,
        "--epochs",
        epochs,
        *args.training.split(),
    )
    return {**scores(dataset, file, checkpoint), "seconds": seconds, "CPU seconds": cpu}


def scores(dataset, file, checkpoint):
    from encoder import open_encoder
    from metric import classification_report, recall_at
    from text_cls.cli import Problems
    from text_cls.rows import read_rows
    from text_cls.search.embedded_index import EmbeddedIndex
    from text_cls.search.label_scores import (
        NEIGHBOURS,
        VOTERS,
        deepest_gold,
        label_entries,
        label_scores,
        row_entries,
        vote_decision,
    )

    encoder = open_encoder(str(checkpoint), "cpu")
    labels, problems = encoder.labels, Problems()
    train, rows = (read_rows(str(dataset / name), labels, problems) for name in ("train.txt", file))
    problems.stop_if_any()
    gold, ends = rows.multi_hot(len(labels)), deepest_gold(rows, labels)
    corpora = {
        "labels": (*label_entries(labels, encoder.corpus), encoder.decision, NEIGHBOURS),
        "rows": (*row_entries(train, labels), vote_decision(encoder.decision), VOTERS),
    }
    queries, figures = encoder.embed(rows.texts), {}
    for corpus, (texts, names, decision, k) in corpora.items():
        vectors = encoder.embed(texts)
        index = EmbeddedIndex(vectors.shape[1])
        index.add(vectors, names)
        found = index.search(queries, k)
        if corpus == "labels":
            ids = np.array([[labels.index[name] for (name,) in row] for row in found.labels])
            figures |= {f"recall@{n}": 100 * value for n, value in recall_at(ends, ids, CUTOFFS).items()}
        predicted = decision.decide(label_scores(found, labels, vote=corpus == "rows"), labels.parents)
        report = classification_report(gold, predicted, labels.parents)
        figures |= {f"{corpus}, {kind} F1": 100 * report[kind]["f1"] for kind in ("micro", "macro")}
    return figures


def main(argv=None):
    args = parse_args(argv)
    print(f"model: {args.model}\ntraining: {args.training}")
    for name in args.sets:
        dataset, file, epochs = SETS[name]
        epochs, runs = args.epochs or epochs, []
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(one_run(dataset, file, epochs, seed, args, Path(folder)))
            print(f"{name}, seed {seed}:", ", ".join(f"{k} {v:.2f}" for k, v in runs[-1].items()), flush=True)
        print(f"{name}, {file}, {epochs} epochs, median and range over {len(runs)} seeds:")
        for figure in runs[0]:
            values = [run[figure] for run in runs]
            print(f"  {figure:18} {statistics.median(values):8.2f}  {min(values):.2f}-{max(values):.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
