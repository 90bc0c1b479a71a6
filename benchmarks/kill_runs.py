"""Kills scripts at random moments, half of them beside a second writer of the same folder, and finishes their work.

    python benchmarks/kill_runs.py                        # 50 trainings, and 5 to 10 runs of each other script
    python benchmarks/kill_runs.py --runs 2 --scripts train.py export_model.py

A run starts the script, and every second time another one at once, with other data, for the same folder. Both are
killed (SIGKILL) at a random moment after the first third of the CPU time that the script takes, in which it imports
libraries. What is then in the folder must be whole and of one run. The script is run again, to its end: a training
resumes. Prints for each script

  refused     second writers that ended with status 2 because the first held the lock
  damaged     folders that were incomplete, or had weights, label.txt or run.json of different runs, after the kill
  finished    runs that ended well afterwards, with nothing left beside the folder
  equal       those whose result is, byte for byte, that of a run that was never killed; times may differ

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

from safetensors.numpy import load_file

from project import ROOT, run_script, used
from small_model import make_model
from text_cls.bundle import MANIFEST, open_bundle
from text_cls.cli import UserError, non_negative_int
from text_cls.neural.compat import import_paddle
from text_cls.neural.run_file import SAFETENSORS, damage, weight_files

SETS = (ROOT / "data" / "multi_label", ROOT / "data")  # of the first and of the second writer
SIZE = "--hidden_size 32 --num_attention_heads 2 --intermediate_size 64"
TRAIN = "--device cpu --max_seq_length 32 --epochs 3 --batch_size 8 --learning_rate 1e-3 --save_minutes 1e-6"
RETRIEVAL = "--device cpu --max_seq_length 32 --epochs 1 --learning_rate 1e-3"
PROMPT = "--device cpu --max_seq_length 48 --max_steps 6 --eval_steps 2 --save_steps 2 --do_train"
PRUNE = "--device cpu --max_seq_length 32 --num_train_epochs 1 --width_mult_list 1/2"
NEW_LABEL = "新标签"
COUNTS = ("refused", "damaged", "finished", "equal")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=non_negative_int, help="runs of each script (those in SCRIPTS)")
    names = list(SCRIPTS)
    parser.add_argument("--scripts", nargs="+", default=names, choices=names, metavar="SCRIPT", help="to kill (all)")
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


def build(home, side, folder, resume=False):
    return ["build", "--bundle", folder, "--corpus_file", home / f"data{side}" / "label.txt"]


def add(home, side, folder, resume=False):
    return ["add", "--bundle", folder, "--corpus_file", home / "new.txt"]


def remove(home, side, folder, resume=False):
    if resume and NEW_LABEL not in (folder / "label.txt").read_text(encoding="utf-8").splitlines():
        return ["list", "--bundle", folder]  # it was removed before the kill
    return ["remove", "--bundle", folder, "--label", NEW_LABEL]


INDEX = "retrieval_based/index.py"
SCRIPTS = {  # script: (function that returns its flags, runs)
    "train.py": (train, 50),
    "few-shot/train.py": (prompt, 5),
    "export_model.py": (export, 10),
    "prune.py": (prune, 5),
    f"{INDEX} build": (build, 10),
    f"{INDEX} add": (add, 10),
    f"{INDEX} remove": (remove, 10),
}


def prepare(home, scripts):
    """Makes data, models, and what the scripts need of each other."""
    for side, source in enumerate(SETS):
        (home / f"data{side}").mkdir()
        for name, rows in (("train", 32), ("dev", 8)):
            lines = (source / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            kept = "".join(f"{line}\n" for line in lines if "\t" in line[:-1])
            (home / f"data{side}" / f"{name}.txt").write_text("".join(kept.splitlines(True)[:rows]), encoding="utf-8")
        shutil.copy(source / "label.txt", home / f"data{side}")
    texts = home / "data0" / "train.txt"
    make_model(home / "model", texts, 3, SIZE)
    make_model(home / "masked", texts, 3, f"{SIZE} --masked_lm")
    for side in (0, 1):
        run_script("train.py", *train(home, side, home / f"checkpoint{side}"))
    if any(script.startswith(INDEX) for script in scripts):
        files = {"train_set_file": "train.txt", "corpus_file": "label.txt", "similar_text_pair_file": "dev.txt"}
        where = [word for flag, name in files.items() for word in (f"--{flag}", home / "data0" / name)]
        where += ["--model_name_or_path", home / "model", "--save_dir", home / "encoder", *RETRIEVAL.split()]
        run_script("retrieval_based/train.py", *where)
        where = ["--params_path", home / "encoder", "--output_path", home / "search"]
        run_script("retrieval_based/export_model.py", *where)
        (home / "new.txt").write_text(f"{NEW_LABEL}\n", encoding="utf-8")
        shutil.copytree(home / "search", home / "more")
        run_script(INDEX, *add(home, 0, home / "more"))


# --------------------------------------------------------------------------------------------------------------- result


def result_of(folder):
    """What must be the same for the same run: weights, labels, decision and history; of a bundle, all files."""
    if (folder / MANIFEST).exists():
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    names = (*weight_files(folder), "label.txt", "decision.json")
    return [(folder / name).read_bytes() for name in names], without_times(run.get("progress", run.get("training")))


def without_times(value):
    """A history without seconds and what follows from them."""
    if isinstance(value, list):
        return [without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    times = ("seconds", "runtime", "per_second")
    return {name: without_times(item) for name, item in value.items() if not name.endswith(times)}


def side_of(folder):
    """Which of the two writers a training belongs to: 0 or 1, its seed. 0 for what has none, such as a bundle."""
    file = folder / "run.json"
    return json.loads(file.read_text(encoding="utf-8"))["arguments"]["seed"] if file.exists() else 0


def is_damaged(folder):
    """Whether a folder, if it exists, lacks files, or has files of different runs."""
    if not folder.exists() or folder.name.endswith("_last") and not (folder / "config.json").exists():
        return False  # the second is the trainer's folder, of few-shot/train.py
    if (folder / MANIFEST).exists():
        try:
            open_bundle(str(folder))
        except UserError:
            return True
        return False
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"].values()
    labels = (folder / "label.txt").read_text(encoding="utf-8").splitlines()
    outputs = [weights.get("classifier.bias", labels) for weights in weights_in(folder)]
    return bool(damage(folder, run["files"])) or list(names) != labels or {*map(len, outputs)} != {len(labels)}


def weights_in(folder):
    """Yields {name: array} of each file of weights in a folder."""
    for name in weight_files(folder):
        yield (load_file if name == SAFETENSORS else import_paddle().load)(str(folder / name))


def start(home, script, side, folder, resume=False):
    """Starts a script."""
    words = [sys.executable, ROOT / script.split()[0], *SCRIPTS[script][0](home, side, folder, resume)]
    return subprocess.Popen([*map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)


def attack(home, script, folder, moment, second, expected):
    """Starts, kills and finishes a script. Returns the counts of this run, by the names in `COUNTS`.

    moment: CPU seconds of a process, after which it is killed. Wall-clock time would depend on the machine's load.
    """
    processes = [start(home, script, side, folder) for side in range(1 + second)]
    while (running := [now for process in processes if (now := used(process)) is not None]) and max(running) < moment:
        time.sleep(0.005)
    for process in processes:
        process.kill()
    logs = [process.communicate()[1].decode() for process in processes]
    folders = [Path(f"{folder}_last"), folder]
    refused = sum("is writing to" in log for log in logs)
    damaged = sum(is_damaged(one) for one in folders)
    side = side_of(folders[0] if folders[0].exists() else folder)
    process = start(home, script, side, folder, resume=True)
    log = process.communicate()[1].decode()
    finished = not process.returncode and os.listdir(folder.parent) == [folder.name]
    equal = finished and result_of(folder) == expected[side]
    if damaged or not equal:
        print(f"{script}, killed after {moment:.2f} s: {sorted(os.listdir(folder.parent))}\n{log}")
    return dict(zip(COUNTS, (refused, damaged, finished, equal)))


def measure(home, script, runs, draw):
    """The sums of the counts of all runs of a script."""
    name = "width_mult_0.5" if script == "prune.py" else "x"
    before, expected, seconds = None, {}, {}
    if script.startswith(INDEX):
        before = home / ("more" if script.endswith("remove") else "search")
    for side in (0, 1):
        folder = home / f"expected{side}" / script / name
        if before:
            shutil.copytree(before, folder)
        seconds[side] = run_script(script.split()[0], *SCRIPTS[script][0](home, side, folder)).cpu_seconds
        expected[side] = result_of(folder)
    if script in ("export_model.py", "prune.py"):
        before = folder  # the second's, so that the first writes something else
    totals = dict.fromkeys(COUNTS, 0)
    for number in range(runs):
        folder = home / "runs" / script / str(number) / name
        if before:
            shutil.copytree(before, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        moment = draw.uniform(1 / 3, 1) * min(seconds.values())
        counts = attack(home, script, folder, moment, number % 2 == 1, expected)
        totals = {key: totals[key] + counts[key] for key in COUNTS}
        shutil.rmtree(folder.parent)
    return totals


def main(argv=None):
    args = parse_args(argv)
    draw = random.Random(args.seed)
    print(f"{'script':32}{'runs':>6}{'second writers':>16}" + "".join(f"{name:>10}" for name in COUNTS))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home, args.scripts)
        for script in args.scripts:
            runs = SCRIPTS[script][1] if args.runs is None else args.runs
            totals = measure(home, script, runs, draw)
            counts = "".join(f"{totals[name]:>10}" for name in COUNTS)
            print(f"{script:32}{runs:>6}{runs // 2:>16}{counts}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
