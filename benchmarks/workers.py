"""Sides of a benchmark as processes that take turns. Each answers a line of JSON with a line of JSON."""

import json
import shlex
import subprocess
import sys


def start(python, script, flags, environment):
    """The process of a script that calls `serve`."""
    return subprocess.Popen(
        [str(python), script, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def serve(answer):
    """In a worker: answers each request with `answer(request)` until the standard input ends."""
    for line in sys.stdin:
        tell(answer(json.loads(line)))


def tell(value):
    """In a worker: sends one value."""
    print(json.dumps(value), flush=True)


def ask(worker, request):
    """A worker's answer to a request."""
    worker.stdin.write(json.dumps(request) + "\n")
    worker.stdin.flush()
    return next_answer(worker)


def next_answer(worker):
    """The next value that a worker sends."""
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a worker has ended; to see why, run it by hand: {shlex.join(worker.args)}")
    return json.loads(line)


def end(workers):
    """Ends the workers, which wait for requests."""
    for worker in workers:
        worker.stdin.close()
        worker.wait()
