"""The scripts that `search.py` runs, each trial as a process of its own that is watched through the files it writes.

A trial that runs out of memory takes nothing else with it, and the next one finds all memory free.
"""

import contextlib
import ctypes
import json
import os
import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from text_cls.cli import Problems
from text_cls.language import tr
from text_cls.rows import read_rows

ROOT = Path(__file__).resolve().parent.parent
LOG = "log.txt"  # of a trial, in its folder
SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)


class Training:
    """Trials of train.py. They are resumed where they were stopped.

    Attributes:
        space: what is searched unless --space or a flag says otherwise, in the syntax of --space.
        epochs: the flag with the number of epochs.
        own: flags that the search sets itself.
        metric, report_metric: what the trials maximise on the held-out rows; what the comparison reports.
    """

    script, epochs = "train.py", "epochs"
    own = ("save_dir", "resume", "test_file", "seeds", "visualdl_dir")
    space = {
        "learning_rate": "1e-5..1e-3",
        "epochs": "3..20",
        "batch_size": "16,32,64",
        "max_seq_length": "64,128,256",
        "loss": "bce,focal,asymmetric,distribution_balanced",
        "layer_decay": "0.7..1",
        "head_learning_rate": "none,1e-4,3e-4,1e-3,3e-3",
        "seed": "3,4,5",
    }

    def __init__(self, values):
        self.metric = values["metric_for_best"]
        self.report_metric = self.metric.removeprefix("tuned_")  # the checkpoint has the fitted thresholds
        self.files = {split: values[f"{split}_file"] for split in ("train", "dev", "label")}

    def settings(self, folder, rows, report, values):
        """Flags that the search sets itself.

        Args:
            folder: of the trial.
            rows: folder of the data.
            report: path of rows to score once, at the end; or None.
            values: the trial's other flags.
        """
        names = {f"{split}_file": f"{split}.txt" for split in self.files}
        kept = {"save_dir": str(folder / "checkpoint"), "resume": True}
        # An absolute path, since train.py looks for the file in --dataset_dir.
        return {"dataset_dir": str(rows), **names, **kept, "test_file": report and os.path.abspath(report)}

    def history(self, folder, values):
        """The scores on the held-out rows after each epoch so far."""
        entries = _progress(folder).get("history", ())
        return [entry[self.metric] for entry in entries if entry["epoch"]]

    def score(self, folder, rows):
        """The score on the held-out rows, of the best epoch."""
        return _progress(folder)["best_score"]

    def report(self, folder, path):
        """The score on the rows of the report, those of the file `path`."""
        line = re.findall(r"Test dataset size: .*", (folder / LOG).read_text(encoding="utf-8"))[-1]
        return float(re.search(rf"{self.report_metric.replace('_f1', ' f1 score')}: ([\d.]+)", line)[1])


class Pruning:
    """Trials of prune.py, which start anew if they were stopped. Of several widths, the mean score counts."""

    script, epochs, metric, report_metric = "prune.py", "num_train_epochs", "macro_f1", "macro_f1"
    own = ("output_dir", "save_steps")
    space = {
        "learning_rate": "1e-5..1e-3",
        "num_train_epochs": "3..20",
        "per_device_train_batch_size": "16,32,64",
        "max_seq_length": "64,128,256",
        "seed": "3,4,5",
    }
    files = {"train": "train.txt", "dev": "dev.txt", "label": "label.txt"}

    def __init__(self, values):
        pass

    def settings(self, folder, rows, report, values):
        with open(rows / "train.txt", encoding="utf-8") as file:
            epoch = -(-sum(1 for _ in file) // values["per_device_train_batch_size"])
        return {"dataset_dir": str(rows), "output_dir": str(folder / "pruned"), "save_steps": epoch}

    def history(self, folder, values):
        log = folder / LOG
        scores = re.findall(r"macro f1 score: ([\d.]+)$", log.read_text(encoding="utf-8") if log.exists() else "", re.M)
        widths = len(values["width_mult_list"])
        scores = [*map(float, scores[1:])]  # the first is that of the whole model
        return [statistics.mean(scores[i : i + widths]) for i in range(0, len(scores) - widths + 1, widths)]

    def score(self, folder, rows):
        return _bundles_score(folder / "pruned", rows / "dev.txt")

    def report(self, folder, path):
        return _bundles_score(folder / "pruned", path)


def _progress(folder):
    """The progress that train.py saved last; empty if there is none yet."""
    for name in ("checkpoint_last", "checkpoint"):
        # The folder may be replaced, or removed at the end of the run, just now.
        with contextlib.suppress(OSError, ValueError):
            return json.loads((folder / name / "run.json").read_text(encoding="utf-8"))["progress"]
    return {}


def _bundles_score(folder, path):
    """Mean macro F1 of the bundles in a folder on the rows of a file."""
    from text_cls.scores import scores
    from text_cls.serving import open_predictor

    found = []
    for bundle in sorted(folder.glob("width_mult_*")):
        predictor = open_predictor(str(bundle))
        rows = read_rows(str(path), predictor.labels, Problems())
        predicted = predictor.decision.decide(predictor.probabilities(list(rows.texts)), predictor.labels.parents)
        found.append(scores(rows.multi_hot(len(predictor.labels)), predicted)["macro_f1"])
    return statistics.mean(found)


@contextlib.contextmanager
def started(script, words, log):
    """A script of the project as a process. At the end of the block it is asked to end; train.py saves its state then.

    log: path of the file that its output is added to.
    """
    # In a session of its own, or Ctrl-C would reach it twice.
    options = {"stderr": subprocess.STDOUT, "start_new_session": True}
    if sys.platform == "linux":
        options["preexec_fn"] = _end_with_parent
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, str(ROOT / script), *words], stdout=file, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def _end_with_parent():
    """Has Linux send SIGTERM to this process when its parent ends, even by a kill."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def last_words(log):
    """The last line of a log: why the script ended."""
    lines = [line for line in Path(log).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else tr("nothing in its log")
