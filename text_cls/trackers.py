"""Records of training runs for TensorBoard, MLflow and VisualDL: curves, arguments, best scores and the model card.

A tracker that fails while a run lasts is left out from then on, with a warning: the model matters more than its curves.
"""

import argparse
import importlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from text_cls.cli import PACKAGES, UserError, is_main_process, logger, shorten
from text_cls.language import tr

EXPERIMENT = "text-classification"
MLFLOW_ENVIRONMENT = {  # unless the user has set them
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # By default, MLflow tries for minutes to reach a server that is gone, and the training would wait.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class TensorBoard:
    """Event files, written by tensorboardX, which needs neither TensorFlow nor PyTorch."""

    package = "tensorboardX"

    def __init__(self, folder, root):
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(folder, flush_secs=10)

    def arguments(self, values):
        self.writer.add_text("arguments", _table(values))

    def scalar(self, tag, value, step):
        self.writer.add_scalar(tag, value, step)

    def card(self, text):
        self.writer.add_text(tr("model card"), text)

    def close(self, finished):
        self.writer.close()


class VisualDL:
    """VisualDL is no longer developed; it is here for those who have it."""

    package = "visualdl"

    def __init__(self, folder, root):
        from visualdl import LogWriter

        self.writer = LogWriter(folder)

    def arguments(self, values):
        self.writer.add_text("arguments", _table(values), 0)

    def scalar(self, tag, value, step):
        self.writer.add_scalar(tag=tag, value=value, step=step)

    def card(self, text):
        self.writer.add_text(tr("model card"), text, 0)

    def close(self, finished):
        self.writer.close()


class MLflow:
    """A run of the server that MLFLOW_TRACKING_URI names; without it, of a SQLite file in the trackers' folder."""

    package = "mlflow"

    def __init__(self, folder, root):
        for name, value in MLFLOW_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        root = Path(root).resolve()
        is_local = not os.environ.get("MLFLOW_TRACKING_URI")
        if is_local:
            root.mkdir(parents=True, exist_ok=True)
        self.client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}" if is_local else None)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self.client.get_experiment_by_name(name)
        files = (root / "mlflow").as_uri() if is_local else None
        experiment = found.experiment_id if found else self.client.create_experiment(name, files)
        self.run = self.client.create_run(experiment, run_name=os.path.basename(folder)).info.run_id

    def arguments(self, values):
        for name, value in values.items():
            self.client.log_param(self.run, name, str(value)[:500])  # older servers refuse longer ones

    def scalar(self, tag, value, step):
        self.client.log_metric(self.run, tag, value, step=step)

    def card(self, text):
        self.client.log_text(self.run, text, "README.md")

    def close(self, finished):
        self.client.set_terminated(self.run, "FINISHED" if finished else "KILLED")


KINDS = {"tensorboard": TensorBoard, "mlflow": MLflow, "visualdl": VisualDL}


def _table(values):
    """Arguments as a table in Markdown."""
    rows = (f"| {name} | {value} |" for name, value in values.items())
    return "\n".join(("| argument | value |", "| --- | --- |", *rows))


# ----------------------------------------------------------------------------------------------------------- the flags


def tracker_names(text: str) -> list[str]:
    """argparse type: names of trackers, joined by commas."""
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in KINDS]:
        known = ", ".join(KINDS)
        raise argparse.ArgumentTypeError(
            tr("must be of {known}, several joined by commas, not {unknown}", known=known, unknown=shorten(unknown[0]))
        )
    return list(dict.fromkeys(names))


def add_tracker_flags(group: argparse._ArgumentGroup) -> None:
    """Adds --tracker and --tracker_dir."""
    names = tr("record the run with tensorboard, mlflow, visualdl; several joined by commas (none)")
    group.add_argument("--tracker", type=tracker_names, default=[], help=names)
    group.add_argument("--tracker_dir", default="./runs", help="folder for the files of --tracker (%(default)s)")


def tracker_problems(names: Sequence[str]) -> Iterator[str]:
    """Yields which of the trackers cannot be imported, and the command to install it."""
    for name in names:
        try:
            importlib.import_module(KINDS[name].package)
        except ImportError as error:
            yield f"--tracker {name}: {error}. {tr(PACKAGES[KINDS[name].package])}"


# ------------------------------------------------------------------------------------------------------------- the run


class Trackers:
    """Those of one run. Without any, nothing happens. Each process has one, but only the main process records.

    Args:
        names: keys of `KINDS`.
        root: folder of all runs.
        run: name of this run; the time is added.
        visualdl_dir: folder of VisualDL's files, if it is another one.
    Raises:
        UserError: a tracker cannot be opened.
    """

    def __init__(self, names: Sequence[str], root: str, run: str, visualdl_dir: str | None = None) -> None:
        self.opened, self.finished = {}, False
        folder = os.path.join(root, f"{run}-{time.strftime('%Y%m%d-%H%M%S')}")
        folders = {name: folder for name in names} | ({"visualdl": visualdl_dir} if visualdl_dir else {})
        for name in folders if is_main_process() else ():
            try:
                self.opened[name] = KINDS[name](folders[name], root)
            except ImportError:
                raise
            except Exception as error:
                raise UserError(
                    tr("--tracker {name}: it cannot be opened: {first_line}", name=name, first_line=_first_line(error))
                ) from error

    def _each(self, method, *values):
        for name, tracker in [*self.opened.items()]:
            try:
                getattr(tracker, method)(*values)
            except Exception as error:
                del self.opened[name]
                logger.warning("--tracker %s failed, and the run continues without it: %s", name, _first_line(error))

    def arguments(self, values: dict[str, Any]) -> None:
        """Records all arguments of the run."""
        self._each("arguments", values)

    def scalar(self, tag: str, value: float, step: int) -> None:
        """Records a point of the curve `tag`. An @ becomes "_at_", since names in MLflow and TensorBoard have none."""
        self._each("scalar", tag.replace("@", "_at_"), float(value), step)

    def result(self, scores: dict[str, dict[str, list[float]]], card: str, step: int) -> None:
        """Records the scores of the best model, {split: {name: [score, ...]}}, and its card; the run has finished."""
        for split, found in scores.items():
            for name, values in found.items():
                self.scalar(f"best/{split}/{name}", values[0], step)
        self._each("card", card)
        self.finished = True

    def close(self) -> None:
        """Ends the record, also of a run that was stopped."""
        self._each("close", self.finished)
        self.opened = {}


def _first_line(error):
    """The kind of an error and the first line of its message."""
    message = str(error).strip()
    return f"{type(error).__name__}{f': {message.splitlines()[0][:200]}' if message else ''}"
