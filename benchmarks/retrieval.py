"""Classification by retrieval from random weights, on a CPU: recall, F1 with two corpora, training time.

    python benchmarks/retrieval.py                                  # duee and the examples, 3 seeds
    python benchmarks/retrieval.py --sets data --seeds 3 --epochs 10

For each set and seed: data/make_tiny_model.py on the set's characters, then retrieval_based/train.py. Its checkpoint
predicts labels in two ways: from the nearest label texts, with the decision that training fitted to dev, and by a
majority vote of the nearest training rows. For duee the scored rows are dev, which also chose the best epoch, as in
benchmarks/real_data.py; for the examples they are test. CPU seconds are those of training, all cores together.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA, ROOT, load, run_script
from public_sets import micro_macro
from small_model import MODEL, make_model
from text_cls.cli import non_negative_int, positive_int

SETS = {  # folder, the file that is scored, epochs
    "duee": (DATA / "duee", "dev.txt", 5),
    "data": (ROOT / "data", "test.txt", 10),
    "multi_label": (ROOT / "data" / "multi_label", "test.txt", 10),
}
TRAINING = "--max_seq_length 64 --batch_size 32 --learning_rate 1e-3 --output_emb_size 0"
CUTOFFS = (1, 5, 10, 20)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="duee or examples (all)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    parser.add_argument("--epochs", type=positive_int, help="epochs to train (5 for duee, 10 for the examples)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    parser.add_argument("--training", default=TRAINING, help="flags of retrieval_based/train.py (%(default)s)")
    return parser.parse_args(argv)


def one_run(dataset, file, epochs, seed, args, folder):
    """{name of a figure: value}."""
    model, checkpoint = folder / "model", folder / "checkpoint"
    make_model(model, dataset / "train.txt", seed, args.model)
    files = {"train_set_file": "train.txt", "corpus_file": "label.txt", "similar_text_pair_file": "dev.txt"}
    paths = [f"--{flag}={dataset / name}" for flag, name in files.items()]
    paths += ["--model_name_or_path", model, "--save_dir", checkpoint]
    flags = ("--device", "cpu", "--seed", seed, "--epochs", epochs, *args.training.split())
    trained = run_script("retrieval_based/train.py", *paths, *flags)
    figures = scores(dataset, file, checkpoint)
    return {**figures, "seconds": trained.seconds, "CPU seconds": trained.cpu_seconds}


def scores(dataset, file, checkpoint):
    from metric import recall_at
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

    encoder = load("retrieval_based/encoder.py").open_encoder(str(checkpoint), "cpu")
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
            cutoffs = [n for n in CUTOFFS if n < len(texts)]  # all entries contain every label
            figures |= {f"recall@{n}": 100 * value for n, value in recall_at(ends, ids, cutoffs).items()}
        predicted = decision.decide(label_scores(found, labels, vote=corpus == "rows"), labels.parents)
        names = (f"{corpus}, micro F1", f"{corpus}, macro F1")
        figures |= zip(names, micro_macro(gold, predicted, labels.parents))
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
