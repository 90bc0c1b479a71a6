"""The HTTP server while its bundle is replaced again and again, and with two bundles that share the requests.

    .venv/bin/python benchmarks/swaps.py --list     # which runs are finished
    .venv/bin/python benchmarks/swaps.py            # does the rest (about 4 minutes, 2 cores), and prints the table

The model has the dimensions of ERNIE 3.0 nano and random weights; the other version has other labels and another bias.
8 clients on this machine each send a dev text of duee when the last is answered. After 2,000 requests without a swap,
the folder is replaced, 50 times in all; the next swap comes 200 requests after the new version has answered. An error
is any status but 200, or no answer. A wrong answer has labels of another version than its header X-Bundle-Version says.
The run "split" has both versions in one server, --split old=90,new=10, and no swaps: it shows the shares, and what a
second model in the queue costs, beside a server with one.
The sets are read from ../shared/data or from the folder in TEXT_CLASSIFICATION_DATA.
"""

import argparse
import asyncio
import collections
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from kept_runs import Run, add_flags, finish
from load import Answers, Connection, attempt
from project import peak_mib
from random_model import random_checkpoint, read_dev
from serving import LENGTH, our_request, our_server
from text_cls.cli import positive_int

MODEL, CLIENTS = "ernie-3.0-nano-zh", 8
SPLIT = {"old": 90, "new": 10}
ROUNDS = 5  # of the two servers of "split", in turn
WARM, BETWEEN = 2000, 200  # requests before the first swap, and after each
LONGEST = 600  # seconds of a run, whatever happens


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=positive_int, default=20000, help="at least (%(default)s)")
    parser.add_argument("--swaps", type=positive_int, default=50, help="(%(default)s)")
    add_flags(parser)
    return parser.parse_args(argv)


def other_version(folder, target):
    """A copy of a bundle with other label names and another bias in its graph."""
    import onnx

    from text_cls.bundle import open_bundle, write_manifest

    shutil.copytree(folder, target)
    fields, names = open_bundle(str(folder)).manifest, (target / "label.txt").read_text(encoding="utf-8").split("\n")
    (target / "label.txt").write_text("\n".join(name and f"new {name}" for name in names), encoding="utf-8")
    model = onnx.load(str(target / "model.onnx"))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.shape == (fields["num_labels"],):
            tensor.CopyFrom(onnx.numpy_helper.from_array(values + values.dtype.type(0.01), tensor.name))
    onnx.save(model, str(target / "model.onnx"))
    made = ("version", "variants", "files")
    write_manifest(str(target), {name: value for name, value in fields.items() if name not in made})
    return target


def make_bundles(run):
    """The two versions, in folders of the run: "export", which is served, and "other"."""
    for name in ("checkpoint", "export", "other"):
        shutil.rmtree(run.folder / name, ignore_errors=True)
    random_checkpoint(run.folder, MODEL, ["duee"], LENGTH)
    words = ("--params_path", run.folder / "checkpoint", "--output_path", run.folder / "export")
    run.script("export_model.py", *words)
    return run.folder / "export", other_version(run.folder / "export", run.folder / "other")


class Clients:
    """Clients that ask until `stop` is set, each on a connection of its own.

    `quiet`, `swapping`: `Answers` before the first swap, and from then on. `wrong`: answers with labels of another
    version than their header says. `latest`: version of the last answer. `versions`: answers by version.
    """

    def __init__(self, port, requests, prefixes):
        self._port, self._requests, self._prefixes = port, requests, prefixes
        self.quiet, self.swapping = Answers(), Answers()
        self.current, self.wrong, self.latest, self.count, self.stop = self.quiet, 0, None, 0, asyncio.Event()
        self.versions = collections.Counter()

    async def ask_on(self):
        connection = Connection(self._port)
        while not self.stop.is_set():
            self.count += 1
            start = time.perf_counter()
            status = await attempt(connection, self._requests[self.count % len(self._requests)])
            self.current.add(status, time.perf_counter() - start)
            if status == 200:
                self.latest = connection.header(b"x-bundle-version").decode()
                self.versions[self.latest] += 1
                names = connection.body()["result"]["label_name"][0]
                self.wrong += any(name.startswith("new ") != self._prefixes[self.latest] for name in names)
            else:
                await asyncio.sleep(0.1)
        connection.close()

    async def until(self, condition, end):
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"not finished within {LONGEST} s")
            await asyncio.sleep(0.005)


async def swap_on(clients, swaps, requests, exchange, warm=WARM):
    """Replaces the bundle under the clients. Returns the seconds from each replacement to the first new answer.

    requests: in all, of which the first `warm` come before the first swap.
    """
    end, waits = time.monotonic() + LONGEST, []
    tasks = [asyncio.create_task(clients.ask_on()) for _ in range(CLIENTS)]
    start = time.perf_counter()
    await clients.until(lambda: clients.count >= warm, end)
    clients.quiet.seconds, clients.current = time.perf_counter() - start, clients.swapping
    start = time.perf_counter()
    for _ in range(swaps):
        before, asked = clients.latest, time.perf_counter()
        exchange()
        await clients.until(lambda before=before: clients.latest != before, end)
        waits.append(time.perf_counter() - asked)
        count = clients.count
        await clients.until(lambda count=count: clients.count >= count + BETWEEN, end)
    await clients.until(lambda: clients.count >= requests, end)
    clients.swapping.seconds = time.perf_counter() - start
    clients.stop.set()
    await asyncio.gather(*tasks)
    return waits


def execute(run):
    from text_cls.bundle import open_bundle
    from text_cls.files import _exchange
    from text_cls.reference import VERSION_DIGITS

    export, other = make_bundles(run)
    prefixes = {open_bundle(str(path)).digest[:VERSION_DIGITS]: path is other for path in (export, other)}
    requests = [our_request(text) for text in read_dev("duee", 512)]
    with our_server(run.folder) as (server, port):
        clients, before = Clients(port, requests, prefixes), peak_mib(server)
        swapping = swap_on(
            clients, run.settings["swaps"], run.settings["requests"], lambda: _exchange(str(other), str(export))
        )
        waits, peak = asyncio.run(swapping), peak_mib(server)
    both = clients.quiet.statuses + clients.swapping.statuses
    return {
        "answers": both.total(),
        "errors": both.total() - both[200],
        "wrong": clients.wrong,
        "wait_median": sorted(waits)[len(waits) // 2],
        "wait_longest": max(waits),
        "mib_before": before,
        "mib_peak": peak,
        **{name: figures(getattr(clients, name)) for name in ("quiet", "swapping")},
    }


def execute_split(run):
    """The same clients on a server with both versions, and on one with the first alone."""
    from text_cls.bundle import open_bundle
    from text_cls.reference import VERSION_DIGITS

    export, other = make_bundles(run)
    prefixes = {open_bundle(str(path)).digest[:VERSION_DIGITS]: path is other for path in (export, other)}
    requests = [our_request(text) for text in read_dev("duee", 512)]
    each = run.settings["requests"] // (2 * ROUNDS)
    shares = ",".join(f"{name}={share}" for name, share in SPLIT.items())
    flags = ("--bundle", f"old={export}", "--bundle", f"new={other}", "--split", shares)
    found, seen, versions = {"one": Answers(), "two": Answers()}, collections.Counter(), collections.Counter()
    with our_server(run.folder) as (_, one), our_server(run.folder, *flags) as (_, two):
        for _ in range(ROUNDS):  # in turn, so that what else the machine does affects both
            for name, port in (("one", one), ("two", two)):
                clients = Clients(port, requests, prefixes)
                asyncio.run(swap_on(clients, 0, each, None, warm=0))
                answers, total = clients.swapping, found[name]
                total.seconds += answers.seconds
                total.latencies += answers.latencies
                total.statuses += answers.statuses
                versions.update(clients.versions if name == "two" else ())
                wrong = answers.statuses.total() - answers.statuses[200]
                seen.update(answers=answers.statuses.total(), errors=wrong, wrong=clients.wrong)
    share = sum(count for version, count in versions.items() if prefixes[version]) / versions.total()
    return {**seen, "share": share, **{name: figures(answers) for name, answers in found.items()}}


def print_split(result):
    print(f"{result['answers']} requests of {CLIENTS} clients")
    print(f"errors {result['errors']}, answers of another version than their header's {result['wrong']}")
    print(f"answered by the new version: {100 * result['share']:.1f}% (--split says {SPLIT['new']}%)")
    print_figures(result, {"one": "one bundle", "two": "two bundles"})


def figures(answers):
    return {
        "requests_per_second": answers.statuses[200] / answers.seconds,
        "p50": answers.percentile(50),
        "p99": answers.percentile(99),
        "longest": answers.percentile(100),
    }


def print_table(settings, result):
    print(f"{settings['swaps']} swaps, {result['answers']} requests of {CLIENTS} clients")
    print(f"errors {result['errors']}, answers of another version than their header's {result['wrong']}")
    print_figures(result, {"quiet": "without swaps", "swapping": "with swaps"})
    wait, longest = result["wait_median"], result["wait_longest"]
    print(f"from the replacement to the first new answer: median {wait:.1f} s, longest {longest:.1f} s")
    print(f"memory: {result['mib_before']:.0f} MiB at the start, at most {result['mib_peak']:.0f} MiB")


def print_figures(result, titles):
    print(f"{'':16} {'requests/s':>10} {'p50':>8} {'p99':>8} {'longest':>9}")
    for name, title in titles.items():
        row = result[name]
        rest = f"{row['p50']:5.1f} ms {row['p99']:5.1f} ms {row['longest']:6.1f} ms"
        print(f"{title:16} {row['requests_per_second']:10.0f} {rest}")


def main(argv=None):
    args = parse_args(argv)
    settings = {"requests": args.requests, "clients": CLIENTS}
    runs = [Run(f"swaps-{args.swaps}", {**settings, "swaps": args.swaps}), Run("split", {**settings, "split": SPLIT})]
    for run, result in finish(args, runs, lambda run: (execute if "swaps" in run.settings else execute_split)(run)):
        if not args.list and "swaps" in run.settings:
            print_table(run.settings, result)
        elif not args.list:
            print_split(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
