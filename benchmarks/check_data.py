"""analysis/check_data.py on the two public sets: its time, and its linear baseline beside the sets' own notes.

    python benchmarks/check_data.py
    python benchmarks/check_data.py --sets duee --rounds 1

The script runs as a user runs it. The sets are read from ../shared/data or from the folder in
TEXT_CLASSIFICATION_DATA.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import DATA, run_script
from public_sets import LINEAR, percent
from text_cls.cli import non_negative_int, positive_int


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), help="public sets (both)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="timed runs on each set (%(default)s)")
    parser.add_argument("--seed", type=non_negative_int, default=3, help="seed of folds and samples (%(default)s)")
    return parser.parse_args(argv)


def one_run(dataset, seed):
    """Wall-clock seconds, CPU seconds, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--dataset_dir", dataset, "--output_dir", folder, "--seed", seed)
        seconds, cpu_seconds, _ = run_script("analysis/check_data.py", *flags)
        report = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    return seconds, cpu_seconds, report


def main(argv=None):
    args = parse_args(argv)
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, seed {args.seed}, {args.rounds} rounds\n")
    print("| set | seconds | CPU seconds | micro / macro F1 on dev | the notes' | with one threshold per label |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in args.sets:
        clock, used, reports = zip(*(one_run(DATA / name, args.seed) for _ in range(args.rounds)))
        plain, with_thresholds = (
            " / ".join(f"{score:.2f}" for score in percent(reports[0]["baseline"][kind]))
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
