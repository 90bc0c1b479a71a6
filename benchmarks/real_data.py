"""The whole pipeline on the two public sets, on a CPU: a small ERNIE from random weights, beside a linear baseline.

    python benchmarks/real_data.py                    # both sets, 3 seeds
    python benchmarks/real_data.py --sets duee --seeds 3

For each set and seed: data/make_tiny_model.py on the set's characters, then train.py, analysis/evaluate.py and
predict.py as a user runs them. The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA, run_script
from public_sets import LINEAR
from small_model import MODEL, TRAINING, evaluate, make_model, train_model
from text_cls.cli import non_negative_int


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="public sets (both)")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[3, 4, 5], help="one run for each (3 4 5)")
    parser.add_argument("--model", default=MODEL, help="flags of data/make_tiny_model.py (%(default)s)")
    parser.add_argument("--training", default=TRAINING, help="flags of train.py (%(default)s)")
    return parser.parse_args(argv)


def one_run(dataset, seed, args, folder):
    """Micro and macro F1 in percent, seconds of training, and rows predicted."""
    model, checkpoint, output = folder / "model", folder / "checkpoint", folder / "predicted.txt"
    make_model(model, dataset / "train.txt", seed, args.model)
    seconds = train_model(dataset, model, checkpoint, seed, args.training).seconds
    scores, rows = evaluate(dataset, checkpoint, folder)
    paths = ("--dataset_dir", dataset, "--params_path", checkpoint, "--data_file", "dev.txt", "--output_file", output)
    run_script("predict.py", *paths, "--device", "cpu")
    assert len(output.read_text(encoding="utf-8").splitlines()) == rows
    return *scores, seconds, rows


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
