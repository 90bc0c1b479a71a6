"""Kills scripts at random moments, half of them beside a second writer of the same folder, and finishes their work.

    python benchmarks/kill_runs.py                        # 50 trainings, 5 runs of each other script
    python benchmarks/kill_runs.py --runs 5 --others 1 --scripts train.py export_model.py

A run starts the script, and every second time another one at once, with other data, for the same folder. Both are
killed (SIGKILL) after a random part of the time that the script takes. What is then in the folder must be whole and of
one run. The script is run again, to its end: a training resumes. Prints for each script

  refused     second writers that ended with status 2 because the first held the lock
  damaged     folders that were incomplete, or had weights, label.txt or run.json of different runs, after the kill
  finished    runs that ended well afterwards, with nothing left beside the folder
  equal       those whose result is, byte for byte, that of a run that was never killed

train.py saves after every step. The models are tiny, with random weights; all runs are on the CPU.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from project import ROOT, run_script
from small_model import make_model
from text_cls.bundle import MANIFEST, open_bundle
from text_cls.cli import UserError, non_negative_int
from text_cls.neural.compat import import_paddle

SETS = (ROOT / "data" / "multi_label", ROOT / "data")  # of the first and of the second writer
SIZE = "--hidden_size 32 --num_attention_heads 2 --intermediate_size 64"
TRAIN = "--device cpu --max_seq_length 32 --epochs 2 --batch_size 8 --learning_rate 1e-3 --save_minutes 1e-6"
RETRIEVAL = "--device cpu --max_seq_length 32 --epochs 1 --learning_rate 1e-3"
PROMPT = "--device cpu --max_seq_length 48 --max_steps 6 --eval_steps 2 --save_steps 2 --do_train"
PRUNE = "--device cpu --max_seq_length 32 --num_train_epochs 1 --width_mult_list 1/2"
COUNTS = ("refused", "damaged", "finished", "equal")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=non_negative_int, default=50, help="runs of train.py (%(default)s)")
    parser.add_argument("--others", type=non_negative_int, default=5, help="runs of each other script (%(default)s)")
    parser.add_argument("--scripts", nargs="+", default=list(WORDS), choices=list(WORDS), help="scripts to kill (all)")
    parser.add_argument("--seed", type=non_negative_int, default=3, help="seed of the moments (%(default)s)")
    return parser.parse_args(argv)


# -------------------------------------------------------------------------------------------------------------- scripts


def train(home, side, folder, resume=False):
    where = ["--dataset_dir", home / f"data{side}", "--model_name", home / "model", "--save_dir", folder]
    return [*where, "--seed", side, *TRAIN.split(), *(["--resume"] if resume else [])]


def prompt(home, side, folder, resume=False):
    where = ["--data_dir", home / f"data{side}", "--model_name_or_path", home / "masked", "--output_dir", folder]
    last = Path(f"{folder}_last")
    resumed = ["--resume_from_checkpoint", last] if resume and any(last.glob("checkpoint-*/rng_state.pth")) else []
    return [*where, "--seed", side, *PROMPT.split(), *resumed]


def export(home, side, folder, resume=False):
    return ["--params_path", home / f"checkpoint{side}", "--output_path", folder]


def prune(home, side, folder, resume=False):
    where = ["--params_dir", home / f"checkpoint{side}", "--dataset_dir", home / f"data{side}"]
    return [*where, "--output_dir", folder.parent, *PRUNE.split()]


def index(home, side, folder, resume=False):
    return ["build", "--bundle", folder]


WORDS = {  # script: function that returns its flags
    "train.py": train,
    "few-shot/train.py": prompt,
    "export_model.py": export,
    "prune.py": prune,
    "retrieval_based/index.py": index,
}


def prepare(home, scripts):
    """Makes data, models, and what the scripts need of each other."""
    for side, source in enumerate(SETS):
        (home / f"data{side}").mkdir()
        for name, rows in (("train", 64), ("dev", 16)):
            lines = (source / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            kept = "".join(f"{line}\n" for line in lines if "\t" in line[:-1])
            (home / f"data{side}" / f"{name}.txt").write_text("".join(kept.splitlines(True)[:rows]), encoding="utf-8")
        shutil.copy(source / "label.txt", home / f"data{side}")
    texts = home / "data0" / "train.txt"
    make_model(home / "model", texts, 3, SIZE)
    make_model(home / "masked", texts, 3, f"{SIZE} --masked_lm")
    for side in (0, 1):
        run_script("train.py", *train(home, side, home / f"checkpoint{side}"))
    if "retrieval_based/index.py" in scripts:
        files = {"train_set_file": "train.txt", "corpus_file": "label.txt", "similar_text_pair_file": "dev.txt"}
        where = [word for flag, name in files.items() for word in (f"--{flag}", home / "data0" / name)]
        where += ["--model_name_or_path", home / "model", "--save_dir", home / "encoder", *RETRIEVAL.split()]
        run_script("retrieval_based/train.py", *where)
        where = ["--params_path", home / "encoder", "--output_path", home / "search"]
        run_script("retrieval_based/export_model.py", *where)


# --------------------------------------------------------------------------------------------------------------- result


def result_of(folder):
    """What must be the same for the same run: weights, labels, decision and history; of a bundle, all files."""
    if (folder / MANIFEST).exists():
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    names = ("model_state.pdparams", "label.txt", "decision.json")
    return [(folder / name).read_bytes() for name in names], run.get("progress", run.get("training"))


def side_of(home, folder):
    """Whose labels a folder holds: 0 or 1."""
    label_file = (folder / "label.txt").read_bytes()
    return [(home / f"data{side}" / "label.txt").read_bytes() for side in (0, 1)].index(label_file)


def is_damaged(home, folder):
    """Whether a folder, if it exists, lacks files, or has files of different runs."""
    if not folder.exists() or (folder.name.endswith("_last") and not (folder / "label.txt").exists()):
        return False  # few-shot/train.py: the trainer's folder
    if (folder / MANIFEST).exists():
        try:
            open_bundle(str(folder))
        except UserError:
            return True
        return False
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"].values()
    weights = import_paddle().load(str(folder / "model_state.pdparams"))
    labels = (folder / "label.txt").read_text(encoding="utf-8").splitlines()
    outputs = weights.get("classifier.bias", labels)
    whole = set(run["files"]) - {"export", "predictions.txt"} <= set(os.listdir(folder)) and len(outputs) == len(labels)
    return not whole or list(names) != labels or run["arguments"]["seed"] != side_of(home, folder)


def attack(home, script, folder, wait, second, expected):
    """Starts, kills and finishes a script. Returns the counts of this run, by the names in `COUNTS`."""
    words = WORDS[script]
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / script, *map(str, words(home, side, folder))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        for side in range(1 + second)
    ]
    time.sleep(wait)
    for process in processes:
        process.kill()
    logs = [process.communicate()[1].decode() for process in processes]
    folders = [Path(f"{folder}_last"), folder]
    refused = sum("is writing to" in log for log in logs)
    damaged = sum(is_damaged(home, one) for one in folders)
    found = [one for one in folders if (one / "label.txt").exists()]
    side = side_of(home, found[0]) if found else 0
    answer = subprocess.run(
        [sys.executable, ROOT / script, *map(str, words(home, side, folder, resume=True))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    finished = not answer.returncode and [path.name for path in folder.parent.iterdir()] == [folder.name]
    if not finished or damaged:
        print(f"{script}, killed after {wait:.2f} s: {sorted(os.listdir(folder.parent))}\n{answer.stderr.decode()}")
    equal = finished and result_of(folder) == expected[side]
    return dict(zip(COUNTS, (refused, damaged, finished, equal)))


def measure(home, script, runs, draw):
    """The sums of the counts of all runs of a script."""
    name = "width_mult_0.5" if script == "prune.py" else "x"
    expected, seconds = {}, {}
    for side in (0, 1):
        folder = home / f"expected{side}" / script / name
        if script == "retrieval_based/index.py":
            shutil.copytree(home / "search", folder)
        seconds[side] = run_script(script, *WORDS[script](home, side, folder)).seconds
        expected[side] = result_of(folder)
    totals = dict.fromkeys(COUNTS, 0)
    for number in range(runs):
        folder = home / "runs" / script / str(number) / name
        if script in ("export_model.py", "prune.py", "retrieval_based/index.py"):  # there is an older one
            shutil.copytree(home / "expected0" / script / name, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        wait = draw.uniform(0, max(seconds.values()))
        counts = attack(home, script, folder, wait, number % 2 == 1, expected)
        totals = {key: totals[key] + counts[key] for key in COUNTS}
        shutil.rmtree(folder.parent)
    return totals


def main(argv=None):
    args = parse_args(argv)
    draw = random.Random(args.seed)
    print(f"{'script':26}{'runs':>6}{'second writers':>16}" + "".join(f"{name:>10}" for name in COUNTS))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home, args.scripts)
        for script in args.scripts:
            runs = args.runs if script == "train.py" else args.others
            totals = measure(home, script, runs, draw)
            counts = "".join(f"{totals[name]:>10}" for name in COUNTS)
            print(f"{script:26}{runs:>6}{runs // 2:>16}{counts}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
