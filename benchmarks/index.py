"""Indexes for classification by retrieval: hnswlib in the bundle and Milvus Lite, beside exact search.

    python benchmarks/index.py                                   # 100,000 vectors of 768 numbers, random and clustered
    python benchmarks/index.py --count 1000000 --sets clustered
    python benchmarks/index.py --count 20000 --sides exact hnswlib "milvus HNSW" "milvus IVF_FLAT" "milvus FLAT"

Random vectors point in uniformly drawn directions, the worst case for an index. Clustered vectors lie around centres,
100 to each, at a cosine of 0.7 to it, like texts on the same subject. The sides run one after the other, each in its
own process, with the same vectors, queries and seed, and a different label for each entry. Each is used as
retrieval_based/index.py and the server use it. Recall is measured against "exact".

  build     seconds from the vectors to an index on disk that answers
  MiB       peak anonymous memory of the process, without pages of the vectors' file; disk MiB: files of the index
  one, 64   queries per second, one at a time and 64 at a time
  recall    share of the 10 nearest neighbours of exact search that are found
  change    seconds to add an entry with a new label, find it, remove the label, and not find it
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import processor
from text_cls.cli import non_negative_int, positive_int

SIDES = ("exact", "hnswlib", "milvus HNSW", "milvus IVF_FLAT", "milvus FLAT", "milvus AUTOINDEX")
SETS = ("random", "clustered")
K, ONE_BY_ONE = 10, 20  # neighbours; seconds of queries asked one at a time


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=positive_int, default=100_000, help="vectors in the index (%(default)s)")
    parser.add_argument("--width", type=positive_int, default=768, help="numbers in a vector (%(default)s)")
    parser.add_argument("--queries", type=positive_int, default=512, help="vectors to search for (%(default)s)")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, help="kinds of vectors (both)")
    parser.add_argument(
        "--sides", nargs="+", default=SIDES[:3], choices=SIDES, help="sides besides exact (first three)"
    )
    parser.add_argument("--seed", type=non_negative_int, default=3, help="seed of vectors and queries (%(default)s)")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def write_vectors(path, kind, count, width, centres, seed):
    """Writes vectors of length 1 to a file, piece by piece: they may be larger than the memory."""
    random = np.random.default_rng(seed)
    file = np.lib.format.open_memmap(path, "w+", np.float32, (count, width))
    for start in range(0, count, 10_000):
        piece = random.normal(size=(min(10_000, count - start), width)).astype(np.float32)
        piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        if kind == "clustered":
            piece += centres[random.integers(len(centres), size=len(piece))]
            piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        file[start : start + len(piece)] = piece
    file.flush()


# --------------------------------------------------------------------------------------------------------------- worker


def make_index(side, vectors, folder):
    """An index on disk of the vectors, each with its number as its label."""
    from text_cls.search.embedded_index import EmbeddedIndex
    from text_cls.search.milvus_index import MilvusIndex

    if side.startswith("milvus"):
        index = MilvusIndex.create(str(folder / "index.db"), "benchmark", vectors.shape[1], side.split()[1], 3600)
        for start in range(0, len(vectors), 4096):  # as retrieval_based/index.py adds them
            part = vectors[start : start + 4096]
            index.add(part, [(f"{start + i}",) for i in range(len(part))])
        index.save()
        return index
    index = EmbeddedIndex(vectors.shape[1], graph=side == "hnswlib")
    index.add(vectors, [(f"{i}",) for i in range(len(vectors))])
    (folder / "saved").mkdir()
    index.save(folder / "saved")
    return index


def change(index, vector):
    """Seconds to add a label, find it, remove it, and not find it."""
    started = time.perf_counter()
    index.add(vector[None], [("new",)])
    assert ("new",) in index.search(vector[None], K).labels[0]
    index.remove("new")
    assert ("new",) not in index.search(vector[None], K).labels[0]
    return time.perf_counter() - started


def worker(args):
    """Measures one side and prints the figures as JSON. The exact side saves what it finds, for the recall of all."""
    vectors, queries = (np.load(args.folder / name, mmap_mode="r") for name in ("vectors.npy", "queries.npy"))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = Path(folder)
        started = time.perf_counter()
        index = make_index(args.worker, vectors, folder)
        figures = {"build": time.perf_counter() - started}
        figures["disk"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
        index.search(queries[:1], K)
        started, asked = time.perf_counter(), 0
        while asked < len(queries) and time.perf_counter() - started < ONE_BY_ONE:
            index.search(queries[asked : asked + 1], K)
            asked += 1
        figures["one"] = asked / (time.perf_counter() - started)
        started = time.perf_counter()
        labels = [row for i in range(0, len(queries), 64) for row in index.search(queries[i : i + 64], K).labels]
        figures["64"] = len(queries) / (time.perf_counter() - started)
        found = np.array([[int(name) for (name,) in row] for row in labels])
        if args.worker == "exact":
            np.save(args.folder / "nearest.npy", found)
        nearest = np.load(args.folder / "nearest.npy")
        figures["recall"] = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), nearest.tolist())]))
        figures["change"] = change(index, -vectors[:1000].mean(axis=0))
    print(json.dumps(figures))


# ----------------------------------------------------------------------------------------------------------------- main


def anonymous_memory(pid):
    """MiB of a process that are not pages of a file."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def measure(side, folder):
    """The figures of a side, measured in its own process, or None if it fails; watches the memory of that process."""
    words = [sys.executable, __file__, "--worker", side, "--folder", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_memory(process.pid))
        time.sleep(0.05)
    output = process.stdout.read()
    if process.returncode:
        return None
    return {**json.loads(output.splitlines()[-1]), "memory": peak}


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        worker(args)
        return 0
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "hnswlib", "pymilvus", "milvus-lite"))
    print(f"{processor()}, {packages}")
    for kind in args.sets:
        print(f"{args.count:,} {kind} vectors of {args.width} numbers, {args.queries} queries, seed {args.seed}")
        print(
            f"{'side':18}{'build s':>9}{'MiB':>8}{'disk MiB':>10}{'one/s':>9}{'64/s':>9}{'recall':>8}{'change s':>10}"
        )
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            centres = np.random.default_rng(args.seed).normal(size=(max(1, args.count // 100), args.width))
            centres = (centres / np.linalg.norm(centres, axis=1, keepdims=True)).astype(np.float32)
            for name, count, seed in (("vectors", args.count, args.seed + 1), ("queries", args.queries, args.seed + 2)):
                write_vectors(folder / f"{name}.npy", kind, count, args.width, centres, seed)
            for side in dict.fromkeys(["exact", *args.sides]):
                if figures := measure(side, folder):
                    print(
                        f"{side:18}{figures['build']:9.1f}{figures['memory']:8.0f}{figures['disk']:10.0f}"
                        f"{figures['one']:9.1f}{figures['64']:9.1f}{figures['recall']:8.4f}{figures['change']:10.2f}",
                        flush=True,
                    )
                else:
                    print(f"{side:18} failed (see above)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
