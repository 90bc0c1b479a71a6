"""Runs the trials of `search.py`, one after another, and watches each so that an unpromising one is stopped early."""

import contextlib
import math
import shutil
import subprocess
import time
from typing import NamedTuple

from search_results import described, words
from search_space import rounded, words_of
from search_study import ROWS, work_of
from search_trials import LOG, last_words, started
from text_cls.cli import UserError, logger
from text_cls.language import tr
from text_cls.neural.run_state import StopSignal

PARTS = 4  # of a trial's epochs, after each of which it may be stopped
POLL = 0.5  # seconds


class OutOfTime(Exception):
    """--minutes are over."""


class Limits(NamedTuple):
    """What ends a trial from outside: a time of `time.monotonic`, and a signal in a `StopSignal`."""

    deadline: float
    stop: StopSignal

    def check(self):
        """Raises here, and not within a transaction of the trials' file, which an interrupt would leave locked."""
        if self.stop.number:
            raise KeyboardInterrupt
        if time.monotonic() > self.deadline:
            raise OutOfTime


def run_trials(args, trials, most, stop, report=None):
    """Runs trials until there are `most`, or --minutes are over, and all of them have ended, also in other processes.

    Args:
        stop: `StopSignal`; when it has caught a signal, the running trial saves its state, and waits to be continued.
        report: path of rows that each trial scores at its end, without a limit of time; None to judge it by the
            held-out rows.
    """
    limit = math.inf if report or args.minutes is None else 60 * args.minutes
    while (left := limit - spent(trials)) > 0:
        with trials.next(most) as trial:
            if trial is not None:
                try:
                    run_trial(args, trials, trial, report, Limits(time.monotonic() + left, stop))
                except OutOfTime:
                    break
        if trial is None:
            if not trials.running():
                return
            Limits(math.inf, stop).check()
            time.sleep(POLL)
    logger.info(
        "%g minutes are over; trials that have not finished go on where they are if you give more", args.minutes
    )


def spent(trials):
    """Seconds that all trials have taken so far."""
    return sum(trial.user_attrs.get("seconds", 0.0) for trial in trials.latest().values())


def run_trial(args, trials, trial, report, limits):
    """Runs one trial, and tells the study how it ended. If that does not happen, it was interrupted."""
    name, study = f"{trials.name} {work_of(trial)}", trials.study
    settings = rounded({flag: trial.params[flag] for flag in trials.space})
    if report:
        name = tr("{name} (settings of trial {of})", name=name, of=trial.user_attrs["of"])
    elif twin := same_settings(trials, settings):
        logger.info("%s would have the settings of %d, and is not run", name, work_of(twin))
        trial.set_user_attr("same_as", work_of(twin))
        study.tell(trial, twin.value, state=twin.state)
        return
    logger.info("%s: %s", name, described(settings))
    folder = trials.folder_of(trial)
    folder.mkdir(parents=True, exist_ok=True)
    values = {**args.values, **settings}
    values |= args.kind.settings(folder, trials.folder / ROWS, report, values)
    with noted_seconds(trial) as note:
        with started(args.kind.script, words_of(args.flags, values), folder / LOG) as process:
            stopped = watch(args, trial, process, folder, values, limits, note, may_stop=report is None)
    if stopped:
        logger.info("%s is stopped early", name)
        study.tell(trial, state=trials.state.PRUNED)
    elif process.returncode == 0:
        value = args.kind.score(folder, trials.folder / ROWS) if report is None else args.kind.report(folder, report)
        study.tell(trial, value)
        logger.info("%s: %s %.2f", name, words(args.kind.report_metric if report else args.kind.metric), 100 * value)
    else:
        why = tr(
            "{name} failed (status {returncode}): {last_words}. Its log: {folder}",
            name=name,
            returncode=process.returncode,
            last_words=last_words(folder / LOG),
            folder=folder / LOG,
        )
        if trial.user_attrs.get("start"):
            raise UserError(why)
        logger.warning(why)
        study.tell(trial, state=trials.state.FAIL)
    clean(folder)


@contextlib.contextmanager
def noted_seconds(trial):
    """Yields a function that notes how long the trial has taken, in all processes; it is called at the end as well."""
    before, began = trial.user_attrs.get("seconds", 0.0), time.monotonic()

    def note():
        trial.set_user_attr("seconds", round(before + time.monotonic() - began, 1))

    try:
        yield note
    finally:
        note()


def clean(folder):
    """Leaves only the log of a trial."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOG:
            path.unlink()


def same_settings(trials, settings):
    """A trial with these settings that has finished or was stopped early; or None."""
    ended = (trials.state.COMPLETE, trials.state.PRUNED)
    same = (other for other in trials.latest().values() if other.state in ended and rounded(other.params) == settings)
    return next(same, None)


def watch(args, trial, process, folder, values, limits, note, may_stop):
    """Waits until a trial ends, or should be stopped early, and reports its scores. Returns whether it is stopped.

    Trials differ in their number of epochs. They are compared after the same share of them, since the learning rate
    falls to 0 over all epochs. note: function that notes the time.
    """
    epochs, part, running = values[args.kind.epochs], 0, True
    while running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL)
        running = process.poll() is None
        if running:
            limits.check()
        history = args.kind.history(folder, values)
        now = min(PARTS - 1, PARTS * len(history) // max(1, epochs))
        for each in range(part + 1, now + 1) if may_stop else ():
            part = each
            trial.report(max(history[: -(-each * epochs // PARTS)]), each)
            note()
            if running and trial.should_prune() and not trial.user_attrs.get("start"):
                process.kill()
                return True
    return False
