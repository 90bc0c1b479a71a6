"""Memory of predict.py on a short and a long file: it must not grow with the file.

    python benchmarks/predict_memory.py          # after make quickstart-tiny: 2,000 and 200,000 rows
    python benchmarks/predict_memory.py --params_path checkpoint --rows 2000 20000 --rounds 1

The texts are those of the examples, each with a different number at its end. The script runs as a user runs it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import ROOT
from text_cls.cli import positive_int


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    checkpoint = str(ROOT / "quickstart" / "checkpoint")
    parser.add_argument("--params_path", default=checkpoint, help="checkpoint of train.py (%(default)s)")
    parser.add_argument(
        "--rows", type=positive_int, nargs="+", default=[2_000, 200_000], help="rows of each file (2000 200000)"
    )
    parser.add_argument("--rounds", type=positive_int, default=3, help="runs on each file (%(default)s)")
    return parser.parse_args(argv)


def run(folder, rows, texts, params_path):
    """Peak memory in MiB and seconds of predict.py on this many rows."""
    with open(folder / "data.txt", "w", encoding="utf-8") as file:
        file.writelines(f"{texts[i % len(texts)]}{i}\n" for i in range(rows))
    command = [sys.executable, ROOT / "predict.py", "--dataset_dir", folder, "--device", "cpu"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--params_path", params_path, "--output_file", folder / "out.txt"], stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"predict.py failed; to see why, run it by hand: {' '.join(map(str, command))}")
    with open(folder / "out.txt", encoding="utf-8") as file:
        assert sum(1 for _ in file) == rows
    return usage.ru_maxrss / 1024, time.perf_counter() - started


def main(argv=None):
    args = parse_args(argv)
    lines = (ROOT / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[0] for line in lines]
    peaks = {rows: [] for rows in args.rows}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for rows in args.rows:
                peak, seconds = run(Path(folder), rows, texts, args.params_path)
                peaks[rows].append(peak)
                print(f"{rows:8} rows: {peak:8.1f} MiB, {rows / seconds:7.1f} rows/s, including the start", flush=True)
    first, *others = (sorted(peaks[rows])[len(peaks[rows]) // 2] for rows in args.rows)
    for rows, peak in zip(args.rows[1:], others):
        print(f"median peak: {rows} rows take {peak / first:.3f} times the memory of {args.rows[0]} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
