"""Where the project and the public sets are, and how a benchmark loads and runs the project's scripts.

The public sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import importlib.util
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TEXT_CLASSIFICATION_DATA", ROOT.parent / "shared" / "data")).absolute()


def load(path):
    """The module in a file of the project; `path` starts at the root.

    It goes into sys.modules under its bare name, where files loaded later find it. So load first what a file imports
    from its own folder.
    """
    name, file = Path(path).stem, ROOT / path
    if name in sys.modules:
        loaded = Path(sys.modules[name].__file__).resolve()
        if loaded != file:
            raise ImportError(f"cannot load {file}: {loaded} is already loaded as {name!r}")
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


class Finished(NamedTuple):
    """A script's wall-clock seconds, CPU seconds of all cores together, and log."""

    seconds: float
    cpu_seconds: float
    log: str


def run_script(script, *flags):
    """Runs a script of the project as a user does. Returns `Finished`; exits with the script's log if it fails."""
    started, before = time.perf_counter(), cpu_seconds()
    answer = subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    if answer.returncode:
        raise SystemExit(f"{script} exited with status {answer.returncode}:\n{answer.stderr}")
    return Finished(time.perf_counter() - started, cpu_seconds() - before, answer.stderr)


def texts_per_second(predictor, texts, rounds=5):
    """Speed of a `Predictor` from texts to probabilities, the median of some passes."""
    seconds = []
    for _ in range(rounds + 1):  # the first warms up
        started = time.perf_counter()
        predictor.probabilities(texts)
        seconds.append(time.perf_counter() - started)
    return len(texts) / statistics.median(seconds[1:])


def cpu_seconds():
    """CPU seconds used so far by this process and by its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def used(process):
    """CPU seconds that a process has used; None if it has ended."""
    if process.poll() is not None:
        return None
    user, system = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_mib(process):
    """The most memory that a running process has used so far, in MiB; None if it has ended."""
    if process.poll() is not None:
        return None
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)


def processor():
    """The CPU's name."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
