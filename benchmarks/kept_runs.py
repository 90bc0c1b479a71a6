"""Runs that take long, kept on disk: a benchmark that was stopped goes on where it was, and knows what is done.

Each run has a folder in .cache/benchmarks, named after the run and a hash of its settings. Its result is a file of this
name in benchmarks/results, to be committed: RESULTS.md's tables are made of them, on any machine. Deleting both starts
the run anew.
"""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from project import ROOT, cpu_seconds, peak_mib, used
from text_cls.cli import UserError
from text_cls.files import write_json
from text_cls.locks import write_lock

HOME = ROOT / ".cache" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "results"
NOTED = 1  # seconds after which time and memory of a script are noted, in case this process is killed


class Run(NamedTuple):
    """A run.

    settings: all that its result depends on but for the code, as JSON values.
    local: whether others need the files in its folder; its result is then of no use on another machine.
    """

    name: str
    settings: dict
    local: bool = False

    @property
    def folder(self):
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return HOME / f"{self.name}-{digest[:8]}"

    @property
    def result_file(self):
        return self.folder / "result.json" if self.local else RESULTS / f"{self.folder.name}.json"

    def result(self):
        """What `execute` returned and what it took, with settings and code; None if it is not finished."""
        return _read(self.result_file)

    def script(self, *words, python=sys.executable):
        """Runs a script of the project as a user does, and adds its output to log.txt and its time to that of the run.

        If this process is asked to end, so is the script; train.py then saves its state.
        """
        log = self.folder / "log.txt"
        spent = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_mib": 0.0, **(_read(self.folder / "times.json") or {})}
        started, before, total = time.perf_counter(), cpu_seconds(), dict(spent)

        def note(cpu, mib=None):
            seconds = time.perf_counter() - started
            total.update(seconds=spent["seconds"] + seconds, cpu_seconds=spent["cpu_seconds"] + cpu)
            total["peak_mib"] = max(total["peak_mib"], mib or 0.0)
            write_json(self.folder / "times.json", total)

        with open(log, "a", encoding="utf-8") as file:
            # In a session of its own, or Ctrl-C would reach it twice.
            output = {"stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
            process = subprocess.Popen([str(python), *map(str, words)], cwd=ROOT, **output)
            try:
                while process.poll() is None:
                    note(used(process) or 0.0, peak_mib(process))
                    _wait(process)
            finally:
                process.terminate()
                process.wait()
                note(cpu_seconds() - before)
        if process.returncode:
            raise SystemExit(f"{words[0]} exited with status {process.returncode}; see {log}")


def _wait(process):
    try:
        process.wait(NOTED)
    except subprocess.TimeoutExpired:
        pass


def _read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def code():
    """A hash of the code that trains."""
    digest = hashlib.sha256()
    for file in (ROOT / "train.py", *sorted((ROOT / "text_cls").rglob("*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def add_flags(parser):
    parser.add_argument("--list", action="store_true", help="only say which runs are finished (off)")
    parser.add_argument("--only", nargs="+", metavar="RUN", help="do these runs, named as in --list (all)")


def finish(args, runs, execute):
    """Does the runs that are not finished, or with --list only names them. Returns [(run, result)] of the finished.

    Several processes may share the work: each leaves out a run that another one is at.

    Args:
        args: with the flags of `add_flags`.
        runs: [`Run`].
        execute: function that does a run, or what is left of it, and returns its results as a dict of JSON values.
    """
    if unknown := set(args.only or ()) - {run.name for run in runs}:
        raise SystemExit(f"--only: no run is named {', '.join(sorted(unknown))}; see --list")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for run in runs:
        if args.list:
            print(f"{run.name:28} {_state(run)}")
        elif run.result() is None and run.name in (args.only or [run.name]):
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(write_lock(run.folder))
                except UserError as error:
                    print(f"{run.name} is left out: {error}", flush=True)
                else:
                    if run.result() is None:  # another process may have finished it just now
                        _do(run, execute)
    return [(run, result) for run in runs if (result := run.result())]


def _do(run, execute):
    print(f"{run.name}: {run.folder}", flush=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    started, before = time.perf_counter(), cpu_seconds()
    result = execute(run)
    own = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - before}
    times = _read(run.folder / "times.json") or own  # those of its scripts, if it ran any
    run.result_file.parent.mkdir(exist_ok=True)
    write_json(run.result_file, {"settings": run.settings, **result, **times, "code": code()})


def _state(run):
    result = run.result()
    if result is None:
        return "begun" if run.folder.exists() else "missing"
    return "finished" if result["code"] == code() else "finished, with other code than today's"
