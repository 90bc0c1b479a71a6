"""How long a decision takes: every mode of text_cls/decision.py on a large array of probabilities, in one thread.

    python benchmarks/deciding.py                                  # 10,000 rows x 10,000 labels, three kinds of rows
    python benchmarks/deciding.py --rows 1000 --labels 100000 --rounds 9

The labels are a tree of three levels. In `sparse` rows, two paths of the tree are above the threshold, some with a
parent missing, and all other probabilities are low; in every tenth row nothing passes. In `none` rows nothing passes,
so that min_k fills every row. In `dense` rows half of the labels pass. The ratio is to reading the array once,
`probabilities > 0.5`.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import non_negative_int, positive_int
from text_cls.decision import HIERARCHY, Decision

KINDS = ("sparse", "none", "dense")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive_int, default=10_000, help="rows of the array (%(default)s)")
    parser.add_argument("--labels", type=positive_int, default=10_000, help="labels of the tree (%(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="timed calls of each (%(default)s)")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="kinds of rows (all)")
    parser.add_argument(
        "--seed", type=non_negative_int, default=3, help="seed of the tree and the probabilities (%(default)s)"
    )
    return parser.parse_args(argv)


def tree(labels, random):
    """Parents in a tree of three levels: 1% of the labels are roots, 19% are below these, the rest below those."""
    roots, inner = max(1, labels // 100), max(2, labels // 5)
    parents = np.full(labels, -1)
    parents[roots:inner] = random.integers(0, roots, inner - roots)
    parents[inner:] = random.integers(roots, inner, labels - inner)
    return parents


def probabilities_of(kind, rows, parents, random):
    """float32 array [rows, labels]."""
    probabilities = random.random((rows, len(parents)), dtype=np.float32)
    if kind == "dense":
        return probabilities
    for start in range(0, rows, 256):  # in blocks, to save memory
        probabilities[start : start + 256] **= 8
        probabilities[start : start + 256] *= 0.4
    for _ in range(2 if kind == "sparse" else 0):
        row, label = np.arange(rows), random.integers(len(parents) // 5, len(parents), rows)
        while len(row):
            high = 0.3 + 0.69 * random.random(len(row)) ** 0.3
            probabilities[row, label] = np.where(row % 10, high, 0.45)
            label = parents[label]
            row, label = row[label >= 0], label[label >= 0]
    return probabilities


def ways(labels, random):
    """Name and Decision of each way that is timed."""
    thresholds = tuple(random.uniform(0.45, 0.55, labels).tolist())
    for hierarchy in HIERARCHY:
        yield f"{hierarchy}, 0.5", Decision(hierarchy=hierarchy)
    for hierarchy in HIERARCHY:
        yield f"{hierarchy}, 0.5, min_k 1", Decision(min_k=1, hierarchy=hierarchy)
    for hierarchy in HIERARCHY:
        every = {"min_k": 2, "max_k": 5, "none_below": 0.05, "temperature": 1.5}
        yield f"{hierarchy}, all", Decision(thresholds, hierarchy=hierarchy, **every)


def seconds_of(function, rounds):
    """Median wall-clock and CPU seconds, after one untimed call."""
    function()
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def main(argv=None):
    args = parse_args(argv)
    random = np.random.default_rng(args.seed)
    parents = tree(args.labels, random)
    print(f"numpy {np.__version__}, {args.rows} rows x {args.labels} labels, float32, medians of {args.rounds}")
    print("all: one threshold per label, min_k 2, max_k 5, none_below 0.05, temperature 1.5")
    for kind in args.kinds:
        probabilities = probabilities_of(kind, args.rows, parents, random)
        once, cpu = seconds_of(lambda p=probabilities: p > np.float32(0.5), args.rounds)
        print(f"\n{kind}: {'':30}seconds  CPU seconds   ratio to reading once")
        print(f"{'reading once':38}{once:7.3f}{cpu:13.3f}")
        for name, decision in ways(args.labels, random):
            wall, cpu = seconds_of(lambda d=decision, p=probabilities: d.decide(p, parents), args.rounds)
            print(f"{name:38}{wall:7.3f}{cpu:13.3f}{wall / once:10.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
