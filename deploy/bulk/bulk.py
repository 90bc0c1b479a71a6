"""Labels a corpus of any size with a bundle, on one machine or a Ray cluster. Killed and started again, it continues.

    python bulk.py --bundle ../../export/float32 --input 'corpus/*.parquet' --output labelled --text_column text
    python bulk.py --bundle ../../export/float32 --input s3://bucket/corpus --output s3://bucket/labelled --actors 4
    python bulk.py --bundle ../../export/float32 --input texts.txt --output labelled --actors 2 --threads 4
    python bulk.py --bundle /models/export --input /corpus --output /labelled --actors 64 --address auto

Each row group of a Parquet file, or byte range of a file with a text or a JSON object per line, becomes a file with the
columns of the input, labels, scores and error. The labels are those of deploy/predictor/infer.py.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import sys
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.argument_parser import ArgumentParser
from text_cls.cli import UserError, command, logger, non_negative_int, positive_int
from text_cls.decision_flags import add_decision_flags, decision_options, overridden
from text_cls.language import N_, tr
from text_cls.locks import write_lock
from text_cls.terminal import progress_bar

JOB, SUCCESS = "_job.json", "_SUCCESS.json"
TRIES = 4  # of a part whose actor dies, and of actors that die while they open the bundle
LOG_SECONDS = 60
OBJECT_STORE = 100 << 20  # bytes; no rows are sent between processes, and Ray would take 30% of the memory


def parse_args(argv=None):
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--bundle", required=True, help="folder of the bundle, the same on all nodes (required)")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input",
        required=True,
        help="file, folder or pattern: .parquet, .jsonl or .txt, on disk, s3:// or gs:// (required)",
    )
    files.add_argument("--output", required=True, help="folder to write, on disk, s3:// or gs:// (required)")
    files.add_argument("--text_column", default="text", help="column of the text (%(default)s)")
    files.add_argument(
        "--format", choices=("parquet", "jsonl"), help="of the output (jsonl for .jsonl files, otherwise parquet)"
    )
    files.add_argument(
        "--part_bytes", type=positive_int, default=4 << 20, help="length of the parts of .jsonl and .txt files (4 MiB)"
    )
    files.add_argument(
        "--max_errors", type=non_negative_int, default=100, help="rows that may be impossible to label (%(default)s)"
    )
    run = parser.add_argument_group("processes")
    run.add_argument(
        "--actors", type=positive_int, help="processes that label (one per GPU, or as many as the cores allow)"
    )
    run.add_argument("--threads", type=positive_int, default=1, help="threads of each actor (%(default)s)")
    run.add_argument(
        "--address", help="address of a Ray cluster; auto: the one this machine belongs to (this machine alone)"
    )
    run.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "gpu"), help="auto: GPUs if there are any (%(default)s)"
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--variant", default="float32", choices=("float32", "fp16", "int8"), help="graph of the bundle (%(default)s)"
    )
    model.add_argument(
        "--batch_size", type=positive_int, default=32, help="rows of full length per batch (%(default)s)"
    )
    model.add_argument("--max_seq_length", type=positive_int, help="maximum tokens per text (as in training)")
    add_decision_flags(parser)
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------------------------- the job


def open_job(args):
    """The `Job`, its parts, and the decision. Nothing is written yet."""
    from labeller import Job
    from parts import kind_of, plan
    from storage import find_files, open_folder
    from text_cls.bundle import open_bundle

    folder, files = find_files(args.input)
    kind = kind_of(files)
    chosen = args.format or ("jsonl" if kind == ".jsonl" else "parquet")
    if (kind, chosen) == (".jsonl", "parquet"):
        raise UserError(
            tr("--format parquet: the rows of .jsonl files may differ in their columns; leave --format out")
        )
    output = open_folder(args.output)
    if f"{output.root}/".startswith(f"{folder.root.rstrip('/')}/") and len(files) > 1:
        raise UserError(
            tr("--output {output} is inside the folder of the input; name another folder", output=args.output)
        )
    bundle = open_bundle(args.bundle)
    bundle.onnx_file(args.variant)
    decision = overridden(bundle.decision, **decision_options(args))
    settings = {name: getattr(args, name) for name in ("variant", "max_seq_length", "text_column")}
    settings |= {"format": chosen} | ({} if kind == ".parquet" else {"part_bytes": args.part_bytes})
    digest = hashlib.sha256(json.dumps(asdict(decision)).encode()).hexdigest()
    job = Job(folder, output, bundle.digest, digest, settings, f".{chosen}", args.text_column, args.max_errors)
    return job, plan(folder, files, args.text_column, args.part_bytes), decision


def take_output(job, parts, totals):
    """Makes the output folder this job's. Adds what an earlier run has written to `totals`.

    Returns:
        The parts that are missing.
    Raises:
        UserError: the folder has parts of another bundle, decision or input, or other files.
    """
    from labeller import read_report
    from parts import READERS

    inputs = {part.path: [part.size, part.modified] for part in parts}
    own = {"bundle": job.bundle, "decision": job.decision, "settings": job.settings, "inputs": inputs}
    before, files = job.output.read_json(JOB), job.output.files()
    where = f"--output {job.output.root}"
    if before is None and files:
        raise UserError(
            tr(
                "{where}: the folder has files that are not of a job, such as {files}; name a new folder",
                where=where,
                files=min(files),
            )
        )
    if before is None:
        before = own | {"started": now()}
        job.output.write_json(JOB, before)
    if others := [name for name, value in own.items() if before.get(name) != value]:
        shown = ", ".join(_difference(name, before.get(name), own[name]) for name in others)
        raise UserError(
            tr("{where}: the folder has parts of another job ({shown}); name a new folder", where=where, shown=shown)
        )
    totals.started = before["started"]
    written = {job.file(part): part for part in parts if job.file(part) in files}
    strange = (name for name in files if not name.startswith("_") and not name.endswith(".tmp") and name not in written)
    if name := min(strange, default=None):
        raise UserError(tr("{where}: {name} is not a part of this job; move it elsewhere", where=where, name=name))
    with ThreadPoolExecutor(READERS) as pool:
        for report in pool.map(functools.partial(read_report, job), written.values()):
            totals.add(report)
    return [part for part in parts if job.file(part) not in written]


def finish_output(job, parts, totals):
    """Writes _SUCCESS.json, if all parts are there."""
    if absent := {job.file(part) for part in parts} - set(job.output.files()):
        raise UserError(
            tr(
                "--output {root}: {count} parts are not there, such as {absent}; on a cluster, it must be an object "
                "store or a folder that all nodes share",
                root=job.output.root,
                count=len(absent),
                absent=min(absent),
            )
        )
    job.output.write_json(SUCCESS, totals.summary(job))


def _difference(name, before, now):
    """What differs between two jobs in one of the fields of _job.json, for a message."""
    if not isinstance(before, dict):
        return f"another {name}"
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if name == "settings":
        return ", ".join(f"--{key} {before.get(key)}" for key in changed)
    return tr(
        "input files that changed, were added or are missing: {changed}{more}",
        changed=", ".join(changed[:3]),
        more=" ..." * (len(changed) > 3),
    )


def now():
    """The time as ISO 8601 has it, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Totals:
    """Sums over the reports of parts; the reports of a large job would not fit into memory."""

    def __init__(self):
        self.started, self.parts, self.seconds = None, 0, 0.0
        self.counts, self.labels, self.errors = Counter(), Counter(), []

    def add(self, report):
        self.parts += 1
        self.seconds += report["seconds"]
        self.counts.update({name: report[name] for name in ("rows", "blank", "without_labels")})
        self.labels.update(report["labels"])
        self.errors += report["errors"]

    def summary(self, job):
        """The content of _SUCCESS.json."""
        return {
            **self.counts,
            "label_counts": dict(self.labels.most_common()),
            "errors": self.errors,
            "parts": self.parts,
            "started": self.started,
            "finished": now(),
            "actor_seconds": round(self.seconds, 1),
            "bundle": job.bundle,
            "decision": job.decision,
            "settings": job.settings,
        }


# ----------------------------------------------------------------------------------------------------------------- Ray


def connect(args):
    """Connects to a Ray cluster, or starts Ray on this machine. Returns (device, number of actors)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    root, own = Path(__file__).resolve().parents[2], Path(__file__).resolve().parent
    paths = os.pathsep.join(filter(None, [str(root), str(own), os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": paths, "RAYON_NUM_THREADS": str(args.threads)}  # the second: of the tokenizer
    options = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": {"env_vars": variables}}
    if not args.address:
        cores = max(os.cpu_count(), (args.actors or 1) * args.threads)
        options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        ray.init(args.address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {args.address}: {error}") from error
    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    device = args.device if args.device != "auto" else "gpu" if gpus else "cpu"
    fit = gpus if device == "gpu" else cores // args.threads
    actors = args.actors or max(fit, 1)
    logger.info("Ray: %d cores, %d GPUs; %d actors with %d threads on %s", cores, gpus, actors, args.threads, device)
    if actors > fit:
        logger.warning("Only %d actors fit now; the others start when Ray finds room for them", fit)
    return device, actors


def label_all(parts, start, actors):
    """Yields the report of each part, as they are done, in any order.

    An actor gets a part only once it has opened the bundle. So no part waits for an actor for which the cluster has no
    room, perhaps since it lost a node; Ray's ActorPool would let it wait.

    Args:
        start: function that returns a new actor of `Labeller`.
        actors: how many of them at the same time.
    Raises:
        UserError: that of an actor; or actors die again and again.
    """
    import ray

    waiting, running, deaths = deque(parts), {}, Counter()

    def launch():
        actor = start()
        running[actor.open.remote()] = actor, None

    for _ in range(min(actors, len(waiting))):
        launch()
    while waiting or any(part for _, part in running.values()):
        (reference,), _ = ray.wait(list(running), num_returns=1)
        actor, part = running.pop(reference)
        try:
            report = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, UserError) else error) from None
        except ray.exceptions.RayActorError as error:
            deaths[part] += 1
            what = f"labelling {part.name}" if part else tr("opening the bundle")
            if deaths[part] == TRIES:
                raise UserError(
                    tr(
                        "{tries} processes died while {what}; do they need more memory? ({error})",
                        tries=TRIES,
                        what=what,
                        error=error,
                    )
                ) from error
            logger.warning("A process died while %s; another takes over", what)
            waiting.extendleft([part] if part else [])
            launch()
            continue
        if part:
            yield report
        else:
            deaths[None] = 0
        if waiting:
            part = waiting.popleft()
            running[actor.label.remote(part)] = actor, part


def run_job(args, job, missing, decision, totals):
    """Labels the missing parts, and adds their reports to `totals`."""
    import ray

    from labeller import Labeller, check_errors

    device, actors = connect(args)
    remote = ray.remote(Labeller).options(num_cpus=args.threads, num_gpus=int(device == "gpu"))
    options = {"variant": args.variant, "device": device, "num_threads": args.threads}
    options |= {"batch_size": args.batch_size, "max_seq_length": args.max_seq_length}
    start = functools.partial(remote.remote, job, os.path.abspath(args.bundle), decision, **options)
    started = logged = time.time()
    before, total = totals.counts["rows"], totals.parts + len(missing)
    with progress_bar(total, N_("parts"), totals.parts) as bar:
        for report in label_all(missing, start, actors):
            totals.add(report)
            check_errors(totals.errors, args.max_errors)
            rate = (totals.counts["rows"] - before) / (time.time() - started)
            bar.set_postfix_str(f"{rate:.1f} rows/s")
            bar.update(1)
            if time.time() - logged > LOG_SECONDS or totals.parts == total:
                logged = time.time()
                logger.info("%d of %d parts; %.1f rows/s", totals.parts, total, rate)


def lock(output):
    """Holds the lock of an output folder on disk; object stores have none."""
    return write_lock(output.root) if output.is_local else contextlib.nullcontext()


@command
def main(argv=None):
    args = parse_args(argv)
    job, parts, decision = open_job(args)
    totals = Totals()
    with lock(job.output):
        missing = take_output(job, parts, totals)
        logger.info("%d parts, %d of them to label", len(parts), len(missing))
        if not missing and job.output.read_json(SUCCESS):
            logger.info("Nothing to do: %s is complete", args.output)
            return 0
        if missing:
            import ray

            try:
                run_job(args, job, missing, decision, totals)
            finally:
                ray.shutdown()
        finish_output(job, parts, totals)
    counts = totals.counts["rows"], totals.counts["without_labels"], totals.counts["blank"], len(totals.errors)
    logger.info("%s: %d rows; %d without a label, %d blank, %d with an error", args.output, *counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
