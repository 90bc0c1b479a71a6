"""deploy/bulk/ on a generated corpus: its rate beside infer.py's, its memory, kills, and the loss of a node.

    python benchmarks/bulk.py --bundle quickstart/export                  # 2,000,000 rows in 40 files: hours
    python benchmarks/bulk.py --bundle quickstart/export --rows 20000 --files 8 --kills 1

It needs requirements/bulk.txt. All outputs are compared with infer.py's, row by row. --work keeps the corpus and
infer.py's output for other --steps.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import ROOT, run_script
from text_cls.cli import positive_int
from text_cls.prediction import WINDOW

BULK, INFER = "deploy/bulk/bulk.py", "deploy/predictor/infer.py"
INFERRED = "inferred.parquet"
STEPS = ("rate", "kills", "cluster")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, help="folder of the bundle (required)")
    parser.add_argument("--rows", type=positive_int, default=2_000_000, help="rows of the corpus (%(default)s)")
    parser.add_argument("--files", type=positive_int, default=40, help="Parquet files, of one row group (%(default)s)")
    parser.add_argument("--actors", type=positive_int, default=2, help="actors; threads of infer.py (%(default)s)")
    parser.add_argument("--kills", type=positive_int, default=3, help="kills of an actor and the program (%(default)s)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="what to run (all)")
    parser.add_argument("--work", help="folder of the corpus and the outputs (a temporary one)")
    return parser.parse_args(argv)


def make_corpus(folder, rows, files):
    """Parquet files of rows (id, text): the texts of the examples, each with its number at its end.

    All but the last file have a multiple of the rows that are predicted together, so that infer.py, which reads all
    rows from the single file all.parquet, makes the same batches. Rounding depends on these.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if folder.exists():
        return
    lines = (ROOT / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[0] for line in lines]
    folder.mkdir(parents=True)
    step = -(-rows // files // WINDOW) * WINDOW
    with pq.ParquetWriter(folder.parent / "all.parquet", pa.schema({"id": pa.int64(), "text": pa.string()})) as whole:
        for k in range(-(-rows // step)):
            ids = range(step * k, min(step * (k + 1), rows))
            table = pa.table({"id": list(ids), "text": [f"{texts[i % len(texts)]}{i}" for i in ids]})
            pq.write_table(table, folder / f"part-{k:03d}.parquet", row_group_size=step)
            whole.write_table(table)


class Memory(threading.Thread):
    """Watches the resident memory of a program's actors: .seen is {process: MiB, a list in the order of time}."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.seen = process, {}
        self.start()

    def run(self):
        while self.process.poll() is None:
            for actor in actors_of(self.process):
                with contextlib.suppress(Exception):  # it ended
                    self.seen.setdefault(actor.pid, []).append(actor.memory_info().rss / 2**20)
            time.sleep(0.5)


def actors_of(process):
    """The processes of a program that label parts at this moment."""
    import psutil

    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "Labeller.label" in "".join(child.cmdline())]
    return []


def start_bulk(args, work, output, log, *flags, actors=None):
    where = ["--bundle", args.bundle, "--input", work / "corpus", "--output", work / output]
    flags = [*flags, "--actors", actors or args.actors, "--device", "cpu"]
    with open(log, "a", encoding="utf-8") as file:
        return subprocess.Popen([sys.executable, ROOT / BULK, *map(str, [*where, *flags])], stderr=file)


def finish(process, log):
    if process.wait():
        raise SystemExit(Path(log).read_text(encoding="utf-8"))


def label_with_infer(args, work):
    """Seconds of infer.py, with as many threads as there are actors."""
    where = ["--model_path_prefix", args.bundle, "--input_file", work / "all.parquet", "--output_file", work / INFERRED]
    return run_script(INFER, "--device", "cpu", "--num_threads", args.actors, *where).seconds


def check(work, output):
    """Exits unless each row of the corpus is in the output exactly once, with the labels of infer.py."""
    import pyarrow.parquet as pq

    expected, rows = pq.ParquetFile(work / INFERRED).iter_batches(WINDOW), 0
    for path in sorted(output.glob("*.parquet")):
        for found, wanted in zip(pq.ParquetFile(path).iter_batches(WINDOW), expected):
            for column in ("id", "text", "labels"):
                if not found.column(column).equals(wanted.column(column)):
                    raise SystemExit(f"{path}: column {column} differs from infer.py's, after row {rows}")
            rows += len(found)
    summary = json.loads((output / "_SUCCESS.json").read_text(encoding="utf-8"))
    if next(expected, None) or summary["rows"] != rows:
        raise SystemExit(f"{output}: rows are missing, or the summary is wrong")
    print(f"  {rows} rows, each once, labels equal to infer.py's", flush=True)


def measure_rate(args, work):
    """Rows per second of both, with their start, and the memory of the actors."""
    log = work / "rate.log"
    started = time.perf_counter()
    process = start_bulk(args, work, "rate", log)
    memory = Memory(process)
    finish(process, log)
    seconds = time.perf_counter() - started
    infer = label_with_infer(args, work)
    print(f"  bulk.py, {args.actors} actors of 1 thread: {args.rows / seconds:.1f} rows/s")
    print(f"  infer.py, {args.actors} threads: {args.rows / infer:.1f} rows/s")
    print(f"  bulk.py is {infer / seconds:.3f} times as fast, both with their start")
    for seen in memory.seen.values():
        tenth = -(-len(seen) // 10)
        print(f"  an actor: at most {max(seen[:tenth]):.0f} MiB in the first tenth, {max(seen):.0f} MiB in all")
    check(work, work / "rate")


def measure_kills(args, work):
    """Kills an actor, then the program, at random moments, and starts it again, `args.kills` times."""
    log, output, draw = work / "kills.log", work / "kills", random.Random(7)
    parts = len(list((work / "corpus").iterdir()))
    for k in range(args.kills):
        process = start_bulk(args, work, "kills", log)
        until = parts * (k + draw.random()) / (args.kills + 1)
        killed = None
        while process.poll() is None and (count := len(list(output.glob("*.parquet")))) <= until:
            if killed is None and count >= until / 2 and (found := actors_of(process)):
                killed = draw.choice(found)
                killed.kill()
            time.sleep(0.1)
        process.kill()
        process.wait()
        done = len(list(output.glob("*.parquet")))
        print(f"  killed {'an actor and ' if killed else ''}the program with {done} of {parts} parts", flush=True)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    finish(start_bulk(args, work, "kills", log), log)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "a part was labelled twice"
    check(work, output)


def measure_cluster(args, work):
    """Three nodes of Ray on this machine, of a core each; one is lost when a quarter of the parts is written."""
    from ray.cluster_utils import Cluster

    log, output, parts = work / "cluster.log", work / "cluster", len(list((work / "corpus").iterdir()))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    lost = [cluster.add_node(num_cpus=1) for _ in range(2)][-1]
    try:
        process = start_bulk(args, work, "cluster", log, "--address", cluster.address, actors=3)
        while process.poll() is None and 4 * len(list(output.glob("*.parquet"))) < parts:
            time.sleep(0.1)
        cluster.remove_node(lost, allow_graceful=False)
        print(f"  lost a node with {len(list(output.glob('*.parquet')))} of {parts} parts", flush=True)
        finish(process, log)
    finally:
        cluster.shutdown()
    told = [line.split(" - ")[1] for line in log.read_text(encoding="utf-8").splitlines() if "died" in line]
    print("\n".join(f"  {line}" for line in told))
    check(work, output)


def main(argv=None):
    args = parse_args(argv)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with contextlib.ExitStack() as stack:
        work = Path(args.work or stack.enter_context(tempfile.TemporaryDirectory())).absolute()
        make_corpus(work / "corpus", args.rows, args.files)
        for step in args.steps:
            print(f"{step}:", flush=True)
            if step != "rate" and not (work / INFERRED).exists():
                label_with_infer(args, work)
            {"rate": measure_rate, "kills": measure_kills, "cluster": measure_cluster}[step](args, work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
