"""The data doctor on the two public sets: time, and what its linear baseline reaches, beside the sets' own notes.

    python benchmarks/check_data.py
    python benchmarks/check_data.py --sets duee --rounds 1

Runs analysis/check_data.py as a user does. The sets are read from ../shared/data or from the folder in
TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

from real_data import DATA, LINEAR, ROOT


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="(both)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for the time (%(default)s)")
    parser.add_argument("--seed", type=int, default=3, help="of folds and samples (%(default)s)")
    return parser.parse_args(argv)


def one_run(dataset, seed):
    """Seconds by the clock, seconds of processors, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--dataset_dir", dataset, "--output_dir", folder, "--seed", str(seed)]
        started, before = time.perf_counter(), os.times()
        answer = subprocess.run(
            [sys.executable, ROOT / "analysis" / "check_data.py", *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        seconds, after = time.perf_counter() - started, os.times()
        if answer.returncode:
            raise SystemExit(f"check_data.py ended with {answer.returncode}:\n{answer.stderr}")
        with open(os.path.join(folder, "report.json"), encoding="utf-8") as file:
            report = json.load(file)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used, report


def main(argv=None):
    args = parse_args(argv)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, seed {args.seed}, {args.rounds} rounds\n")
    print("| set | seconds | of processors | micro / macro F1 on dev | the notes' | with a threshold a label |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in args.sets:
        runs = [one_run(DATA / name, args.seed) for _ in range(args.rounds)]
        clock, used = ([run[i] for run in runs] for i in (0, 1))
        plain, with_thresholds = (
            " / ".join(f"{100 * runs[0][2]['baseline'][kind][average]['f1']:.2f}" for average in ("micro", "macro"))
            for kind in ("dev", "dev_with_thresholds")
        )
        print(
            f"| {name} | {statistics.median(clock):.1f} ({min(clock):.1f}-{max(clock):.1f}) "
            f"| {statistics.median(used):.1f} | {plain} | {LINEAR[name][0]} / {LINEAR[name][1]} | {with_thresholds} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
