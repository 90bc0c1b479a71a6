"""Start-up: seconds until predict.py, evaluate.py and infer.py have answered one text, and until the server is ready.

    python benchmarks/start_up.py                                # this code beside the commit HEAD~1
    python benchmarks/start_up.py --before v0.1.0 --rounds 9
    python benchmarks/start_up.py --breakdown                    # also which imports take the time

Both are run in turn, each from a checkout of its own, with a model of the dimensions of ernie-3.0-nano-zh, random
weights, one thread, and files that are in the cache of the disk. Prints medians and the median ratio of the rounds; CPU
seconds say more than seconds where others use the machine. What is finished is kept in benchmarks/results.
"""

import argparse
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

import kept_runs
from kept_runs import Run
from project import ROOT, used
from random_model import random_checkpoint
from text_cls.cli import positive_int

KINDS = ("predict.py", "evaluate.py", "infer.py", "server")
LONGEST = 300  # seconds until a server must be ready


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kept_runs.add_flags(parser)
    parser.add_argument("--before", default="HEAD~1", help="commit to compare with (%(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=5, help="timed runs of each (%(default)s)")
    parser.add_argument("--breakdown", action="store_true", help="print the slowest imports of predict.py (off)")
    return parser.parse_args(argv)


def commit(name):
    """The full name of a commit."""
    words = ["git", "-C", str(ROOT), "rev-parse", "--verify", f"{name}^{{commit}}"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def words_of(kind, root, folder, port):
    """The command line of a script in a checkout."""
    script = {"evaluate.py": "analysis/evaluate.py", "infer.py": "deploy/predictor/infer.py"}.get(kind, kind)
    python = [sys.executable, str(root / ("deploy/simple_serving/server.py" if kind == "server" else script))]
    data, checkpoint = ["--dataset_dir", str(folder)], ["--params_path", str(folder / "checkpoint"), "--device", "cpu"]
    output = ["--output_file", str(folder / "output.txt")]
    return (
        python
        + {
            "predict.py": [*data, *checkpoint, "--data_file", "data.txt", *output],
            "evaluate.py": [*data, *checkpoint],
            "infer.py": ["--model_path_prefix", str(folder / "export"), "--device", "cpu"]
            + ["--input_file", str(folder / "data.txt"), *output],
            "server": ["--bundle", str(folder / "export"), "--port", str(port), "--num_threads", "1"],
        }[kind]
    )


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def seconds_of(kind, root, folder):
    """Seconds and CPU seconds until the script has ended, or the server has answered that it is ready."""
    port, started = free_port(), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(words_of(kind, root, folder, port), cwd=root, env=environment, **silent)
    try:
        if kind == "server":
            wait_until_ready(process, f"http://127.0.0.1:{port}/health/ready", started)
            return time.perf_counter() - started, used(process)
        if process.wait():
            raise SystemExit(f"{kind} exited with status {process.returncode}")
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(process, url, started):
    while time.perf_counter() - started < LONGEST and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("the server did not start")


def prepare(folder):
    """A checkpoint, its bundle, and files of one row."""
    from text_cls.neural.export import bundle_folder

    checkpoint = random_checkpoint(folder, "ernie-3.0-nano-zh", ["duee"], 128)
    with bundle_folder(str(folder / "export"), checkpoint, "float32", 128):
        pass
    checkpoint.labels.write(folder / "label.txt")
    (folder / "data.txt").write_text("台风登陆，学校停课一天\n", encoding="utf-8")
    (folder / "dev.txt").write_text("台风登陆，学校停课一天\tlabel 1\n", encoding="utf-8")


def measure(settings):
    """{kind: {"before" and "after": [[seconds, CPU seconds] of each round]}}."""
    with tempfile.TemporaryDirectory() as name:
        folder, old = Path(name), Path(name) / "before"
        prepare(folder)
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "-q", "--detach", str(old), settings["before"]], check=True)
        try:
            results = {kind: {"before": [], "after": []} for kind in KINDS}
            for number in range(settings["rounds"] + 1):  # the first fills the cache of the disk
                for kind in KINDS:
                    for side, root in (("before", old), ("after", ROOT)):
                        found = seconds_of(kind, root, folder)
                        if number:
                            results[kind][side].append(found)
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], check=True)
    return {"kinds": results}


def breakdown():
    """Prints the imports of compat.import_paddle that take longest, without what they import themselves."""
    code = "from text_cls.neural.compat import import_paddle; import_paddle()"
    words = [sys.executable, "-X", "importtime", "-c", code]
    lines = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stderr.splitlines()
    found = [re.match(r"import time:\s+(\d+) \|\s+(\d+) \|( +)(\S+)", line) for line in lines]
    rows = sorted(((int(one[2]), int(one[1]), one[4]) for one in found if one), reverse=True)[:20]
    print(f"{'module':50}{'seconds':>10}{'of its own':>12}")
    for whole, own, name in rows:
        print(f"{name:50}{whole / 1e6:10.2f}{own / 1e6:12.2f}")


def show(finished):
    """Prints the table."""
    for run, result in finished:
        print(f"\nbefore: {run.settings['before'][:12]}, {run.settings['rounds']} rounds; medians")
        head = f"{'seconds before':>16}{'after':>8}{'CPU s before':>14}{'after':>8}{'after / before':>16}{'range':>12}"
        print(f"{'':14}{head}")
        for kind, sides in result["kinds"].items():
            middle = [statistics.median(row[i] for row in sides[side]) for i in (0, 1) for side in ("before", "after")]
            ratios = [after[1] / before[1] for before, after in zip(sides["before"], sides["after"])]
            span = f"{min(ratios):.2f}-{max(ratios):.2f}"
            print(f"{kind:14}{middle[0]:16.2f}{middle[1]:8.2f}{middle[2]:14.2f}{middle[3]:8.2f}", end="")
            print(f"{statistics.median(ratios):16.2f}{span:>12}")


def main(argv=None):
    args = parse_args(argv)
    settings = {"before": commit(args.before), "after": commit("HEAD"), "rounds": args.rounds}
    finished = kept_runs.finish(args, [Run("start-up", settings)], lambda run: measure(run.settings))
    if finished and not args.list:
        show(finished)
    if args.breakdown:
        breakdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
