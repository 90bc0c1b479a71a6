"""What deploy/bulk/ would take for a billion rows: the rate of a core with models of true dimensions, and many parts.

    python benchmarks/billion_rows.py
    python benchmarks/billion_rows.py --steps parts --parts 2000

It needs requirements/bulk.txt. The rows are those of duee's train.txt, the models have random weights, and an actor has
one thread. Rates are per second of CPU time, so that other programs count less; a round is one part by each model in
turn. "parts" is a job of many parts with one row each: what the program takes for a part, beside the model.
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

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import workers
from project import DATA, ROOT, load, peak_mib, processor, used
from random_model import random_checkpoint
from text_cls.cli import non_negative_float, positive_int

MODELS = {"ernie-3.0-nano-zh": 2000, "ernie-3.0-medium-zh": 400}  # rows of a part
VARIANTS = ("float32", "int8")
LENGTH = 128
ROWS = 1_000_000_000
PART_ROWS = 50_000
STEPS = ("rates", "parts")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="what to measure (both)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], help="models to imitate (both)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="parts by each model (%(default)s)")
    parser.add_argument("--parts", type=positive_int, default=ROWS // PART_ROWS, help="parts of the job (%(default)s)")
    price = "price of a core for an hour, for the cost (%(default)s)"
    parser.add_argument("--core_hour", type=non_negative_float, default=0.04, help=price)
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "VARIANT"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# --------------------------------------------------------------------------------------------------------------- rates


def prepare(folder, model, rows):
    """Writes a bundle with int8, and a Parquet file of one row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from text_cls.neural.export import bundle_folder
    from text_cls.neural.int8_graph import to_int8
    from text_cls.rows import read_texts

    folder.mkdir()
    checkpoint = random_checkpoint(folder, model, ["duee"], LENGTH)
    with bundle_folder(str(folder / "export"), checkpoint, "float32", LENGTH) as draft:
        to_int8(f"{draft.folder}/model.onnx", f"{draft.folder}/int8_model.onnx")
    texts = [text for _, text in read_texts(str(DATA / "duee" / "train.txt"))][:rows]
    (folder / "corpus").mkdir()
    table = pa.table({"id": range(len(texts)), "text": texts})
    pq.write_table(table, folder / "corpus" / "part.parquet", row_group_size=rows)


def work(folder, variant):
    """Labels the part again and again, as an actor does."""
    _, _, labeller, bulk = (load(f"deploy/bulk/{name}.py") for name in ("storage", "parts", "labeller", "bulk"))
    where = ["--bundle", folder / "export", "--input", folder / "corpus", "--output", folder / variant]
    job, (part,), decision = bulk.open_job(bulk.parse_args([*map(str, where), "--variant", variant]))
    before = time.process_time()
    actor = labeller.Labeller(job, str(folder / "export"), decision, variant=variant, device="cpu", num_threads=1)
    actor.open()
    opened = time.process_time() - before

    def label(_):
        started = time.process_time()
        rows = actor.label(part)["rows"]
        memory = Path("/proc/self/status").read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]
        return {"rate": rows / (time.process_time() - started), "opened": opened, "mib": int(memory) / 1024}

    workers.serve(label)


def measure_rates(args, folder):
    """Prints the table of the models."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    sides = {}
    for model in args.models:
        prepare(folder / model, model, MODELS[model])
        for variant in VARIANTS:
            flags = ["--worker", str(folder / model), variant]
            sides[model, variant] = workers.start(sys.executable, __file__, flags, environment)
    found = {side: [] for side in sides}
    for round_number in range(args.rounds + 1):  # the first does not count
        for side, worker in sides.items():
            answer = workers.ask(worker, "part")
            if round_number:
                found[side].append(answer)
    workers.end(sides.values())
    print(f"{processor()}; {ROWS:,} rows, parts of {PART_ROWS:,}, {args.core_hour} per core and hour\n")
    print("| model | rows/s of a core | MiB of an actor | core hours | cores for a day | a part | cost |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (model, variant), answers in found.items():
        rates = [answer["rate"] for answer in answers]
        rate, memory = statistics.median(rates), max(answer["mib"] for answer in answers)
        hours = ROWS / rate / 3600
        cells = [f"{rate:,.0f} ({min(rates):,.0f}-{max(rates):,.0f})", f"{memory:.0f}", f"{hours:,.0f}"]
        cells += [f"{hours / 24:,.0f}", f"{PART_ROWS / rate / 60:.1f} min", f"{hours * args.core_hour:,.0f}"]
        print(f"| {model}, {variant} | {' | '.join(cells)} |")


# --------------------------------------------------------------------------------------------------------------- parts


def measure_parts(args, folder):
    """Prints what a job of many small parts takes, first as a whole, then started again when it is finished."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "small").mkdir()
    for k in range(args.parts):
        pq.write_table(pa.table({"id": [k], "text": [f"第{k}行"]}), folder / "small" / f"{k:06d}.parquet")
    for script, *words in (
        ["data/make_tiny_model.py", "--output_dir", folder / "tiny"],
        ["train.py", "--model_name", folder / "tiny", "--epochs", 0, "--save_dir", folder / "checkpoint"],
        ["export_model.py", "--params_path", folder / "checkpoint", "--output_path", folder / "bundle"],
    ):
        training = ["--dataset_dir", ROOT / "data", "--device", "cpu"] if script == "train.py" else []
        subprocess.run([sys.executable, ROOT / script, *map(str, [*words, *training])], check=True, capture_output=True)
    words = ["--bundle", folder / "bundle", "--input", folder / "small", "--output", folder / "out", "--actors", 2]
    command = [sys.executable, ROOT / "deploy/bulk/bulk.py", *map(str, words), "--device", "cpu"]
    summary = folder / "out" / "_SUCCESS.json"
    for what in ("first", "again, with one part missing"):
        started = time.perf_counter()
        process, cpu, memory = subprocess.Popen(command, stderr=subprocess.DEVNULL), 0.0, 0.0
        while process.poll() is None:  # until it ends; what it used is gone then
            cpu, memory = used(process) or cpu, peak_mib(process) or memory
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        parts = json.loads(summary.read_text(encoding="utf-8"))["parts"] if summary.exists() else 0
        if process.returncode or parts != args.parts:
            raise SystemExit(f"bulk.py failed; to see why, run it by hand: {' '.join(command)}")
        print(f"{args.parts:,} parts, {what}: {seconds:.0f} s; the program: {cpu:.0f} CPU s, {memory:.0f} MiB")
        min((folder / "out").glob("*.parquet")).unlink()
        summary.unlink()


def main(argv=None):
    args = parse_args(argv)
    if args.worker:
        work(Path(args.worker[0]), args.worker[1])
        return 0
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as name:
        for step in args.steps:
            {"rates": measure_rates, "parts": measure_parts}[step](args, Path(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
