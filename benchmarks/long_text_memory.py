"""Peak memory of predict.py and infer.py on files of long texts, read in windows: it must not grow with the file.

    python benchmarks/long_text_memory.py               # 200 and 2,000 texts of 10,000 characters

The model is a tiny ERNIE of random weights with 65 labels; the texts are pieces of data/train.txt.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import ROOT, peak_mib
from small_model import make_model, train_model
from text_cls.cli import positive_int

READING = "--long_texts windows --max_windows 1000 --max_seq_length 128 --epochs 0 --head_start random"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=positive_int, nargs="+", default=[200, 2000], help="texts of a file (200 2000)")
    parser.add_argument("--characters", type=positive_int, default=10_000, help="of a text (%(default)s)")
    return parser.parse_args(argv)


def write_texts(path, rows, characters):
    lines = (ROOT / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    draw, source = random.Random(3), "".join(f"{line.partition(chr(9))[0]}。" for line in lines)
    starts = (draw.randrange(len(source) - characters) for _ in range(rows))
    path.write_text("".join(f"{source[start : start + characters]}\n" for start in starts), encoding="utf-8")


def watch(script, *flags):
    """Runs a script. Returns (most MiB it used, seconds)."""
    started, most = time.perf_counter(), 0.0
    words = [sys.executable, ROOT / script, *flags]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen([*map(str, words)], cwd=ROOT, stdout=log, stderr=log)
        while process.poll() is None:
            most = max(most, peak_mib(process) or 0.0)
            time.sleep(0.2)
        if process.returncode:
            log.seek(0)
            raise SystemExit(log.read())
    return most, time.perf_counter() - started


def main(argv=None):
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        folder, data = Path(folder), ROOT / "data"
        make_model(folder / "model", data / "train.txt", 3)
        train_model(data, folder / "model", folder / "checkpoint", 3, READING)
        watch("export_model.py", "--params_path", folder / "checkpoint", "--output_path", folder / "export")
        print("| texts | predict.py, MiB | seconds | infer.py, MiB | seconds |\n| --- | --- | --- | --- | --- |")
        for rows in args.rows:
            write_texts(folder / "texts.txt", rows, args.characters)
            files = ("--output_file", folder / "out.txt", "--device", "cpu")
            source = ("--dataset_dir", folder, "--data_file", "texts.txt", "--params_path", folder / "checkpoint")
            found = watch("predict.py", *source, *files)
            source = ("--model_path_prefix", folder / "export", "--input_file", folder / "texts.txt")
            found += watch("deploy/predictor/infer.py", *source, *files)
            print("| {:,} | {:,.0f} | {:.0f} | {:,.0f} | {:.0f} |".format(rows, *found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
