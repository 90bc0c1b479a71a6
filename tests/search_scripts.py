"""A stand-in for train.py, which takes no time, and a search that runs it, in this process or in one of its own."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

# The score depends on the rate alone and is the highest at 1e-3; it rises over the epochs. batch_size 64 fails. What a
# run was told, and that it ended, is noted in calls.txt. It waits at half its epochs while a file named "wait" exists.
TRAIN = """
import json, math, sys, time
from pathlib import Path
from types import SimpleNamespace

told = {"learning_rate": 3e-5, "epochs": 10, "batch_size": 32, "seed": 3, "test_file": None}
for word in sys.argv[1:]:
    name, _, value = word.removeprefix("--").partition("=")
    told[name] = type(told.get(name) or "")(value)
args = SimpleNamespace(**told)
here, folder = Path(__file__).parent, Path(args.save_dir)

def note(what):
    with open(here / "calls.txt", "a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, "resumed": resumed, **told}) + "\\n")

last = Path(str(folder) + "_last")
resumed = (last / "run.json").exists()
note("start")
if args.batch_size == 64:
    sys.exit("out of memory, says the stand-in")
peak = 0.9 - 0.2 * abs(math.log10(args.learning_rate) + 3) - 0.001 * args.seed
history, until = [], time.monotonic() + 60  # so that a test that fails ends
for epoch in range(1, args.epochs + 1):
    history.append({"epoch": epoch, "macro_f1": peak * epoch / args.epochs})
    last.mkdir(parents=True, exist_ok=True)
    progress = {"progress": {"history": history, "best_score": history[-1]["macro_f1"]}}
    (last / "run.json").write_text(json.dumps(progress), encoding="utf-8")
    while (here / "wait").exists() and epoch == args.epochs // 2 and time.monotonic() < until:
        time.sleep(0.02)
folder.mkdir(exist_ok=True)
last.joinpath("run.json").rename(folder / "run.json")
if args.test_file:
    print(f"Test dataset size: 30, accuracy: 0.1, micro f1 score: 0.2, macro f1 score: {peak - 0.1:.5f}")
note("end")
"""
SEARCH = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {analysis!r}]
import search, search_runs, search_trials
search_trials.ROOT, search_runs.POLL = Path({folder!r}), 0.05
sys.exit(search.main(sys.argv[1:]))
"""
SPACE = ("--space", "learning_rate=1e-5..1e-1", "epochs=4..8", "batch_size=16,32", "seed=3")


def write_stand_in(folder):
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    return folder


def start_search(folder, *flags):
    """A search in a process of its own. folder: of the stand-in."""
    text = SEARCH.format(root=str(ROOT), analysis=str(ROOT / "analysis"), folder=str(folder))
    command = [sys.executable, "-c", text, *map(str, flags)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", cwd=ROOT)


def calls_in(folder):
    """What the stand-in was told, in order: [dict]."""
    path = Path(folder, "calls.txt")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
