"""Serving speed on a CPU: the HTTP server with and without batching, PaddleNLP's SimpleServer, and Triton.

    make triton-setup                                    # puts the Triton server into .venv-triton
    .venv/bin/python benchmarks/serving.py               # both models, all sides: about 20 minutes
    .venv/bin/python benchmarks/serving.py --models ernie-3.0-nano-zh --sides server "no batching" --clients 32
    .venv/bin/python benchmarks/serving.py --models ernie-3.0-nano-zh --soak 10

The models have true dimensions and random weights, maximum length 128. Each request has one dev text of duee. The
clients run on the same machine; each sends its next request when the last is answered. All servers run at the same
time, but only the measured one is busy; a round is each of them in turn. Prints the median texts per second and their
range, percentiles of the latency over all rounds, and the median of the ratios to "no batching" round by round.

  server        deploy/simple_serving/server.py with two threads for the model
  no batching   the same with --no-batching
  SimpleServer  PaddleNLP's, started as the guide of PaddleNLP's application does, on the static graph of the same
                bundle. It loads the graph only with FLAGS_enable_pir_api=0, answers only requests that have
                max_seq_len and batch_size (and ignores both), and would use half of the cores: it gets two threads
  triton        the repository of deploy/triton_serving/build_repository.py, JSON over HTTP

--soak measures the load the server can carry, then sends twice that for some minutes, whether or not it keeps up.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from load import Answers, Connection, attempt, closed_loop, open_loop, post
from project import ROOT, load, processor
from random_model import random_checkpoint, read_dev
from text_cls.cli import non_negative_float, positive_int

SIDES = ("server", "no batching", "SimpleServer", "triton")
LENGTH, THREADS, TEXTS = 128, 2, 512
ROUTE = "/models/cls_multi_label"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = ["ernie-3.0-medium-zh", "ernie-3.0-nano-zh"]
    parser.add_argument("--models", nargs="+", default=models, help="PaddleNLP models to imitate (medium and nano)")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="servers to measure (all)")
    parser.add_argument(
        "--clients", type=positive_int, nargs="+", default=[1, 8, 32, 128], help="numbers of clients (1 8 32 128)"
    )
    parser.add_argument("--rounds", type=positive_int, default=3, help="rounds of all servers (%(default)s)")
    parser.add_argument(
        "--seconds", type=non_negative_float, default=6, help="seconds of each server in a round (%(default)s)"
    )
    parser.add_argument(
        "--soak", type=non_negative_float, help="instead, minutes of twice the load the server can carry (off)"
    )
    return parser.parse_args(argv)


# ------------------------------------------------------------------------------------------------------------- servers
# Each is a context manager that yields (port, function: text -> request as bytes, function: JSON answer -> labels).


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def process(words, log, url, environment=(), cwd=None):
    """A server process that answers at `url`; it is stopped when the block ends."""
    with open(log, "w", encoding="utf-8") as file:
        server = subprocess.Popen(words, stdout=file, stderr=file, cwd=cwd, env={**os.environ, **dict(environment)})
    try:
        for _ in range(1200):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(url, timeout=10).close()
                break
            if server.poll() is not None:
                break
            time.sleep(0.1)
        else:
            server.kill()
            server.wait()
        if server.poll() is not None:
            raise SystemExit(f"{' '.join(map(str, words))} failed to start:\n{log.read_text(encoding='utf-8')[-3000:]}")
        yield server
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextlib.contextmanager
def our_server(folder, *flags):
    port, script = free_port(), ROOT / "deploy" / "simple_serving" / "server.py"
    words = [sys.executable, script, "--port", str(port), f"--num_threads={THREADS}"]
    words += [] if "--bundle" in flags else ["--bundle", folder / "export"]
    log = folder / f"server{port}.log"
    with process([*words, *flags], log, f"http://127.0.0.1:{port}/health/ready") as server:
        yield server, port


@contextlib.contextmanager
def our_side(folder, *flags):
    with our_server(folder, *flags) as (_, port):
        yield port, our_request, lambda answer: set(answer["result"]["label_name"][0])


def our_request(text):
    return post(ROUTE, {"data": {"text": text}, "parameters": {}})


SIMPLE_SERVER = """
import paddlenlp.server.predictor
from paddlenlp import SimpleServer
from paddlenlp.server import CustomModelHandler, MultiLabelClassificationPostHandler

paddlenlp.server.predictor.cpu_count = lambda: {cores}
app = SimpleServer()
app.register("{route}", {bundle!r}, {bundle!r}, CustomModelHandler, MultiLabelClassificationPostHandler)
"""


@contextlib.contextmanager
def simple_server(folder):
    port, bundle = free_port(), str(folder / "export")
    script = SIMPLE_SERVER.format(cores=2 * THREADS, route=ROUTE[1:], bundle=bundle)
    (folder / "simple_server.py").write_text(script, encoding="utf-8")
    names = (folder / "export" / "label.txt").read_text(encoding="utf-8").splitlines()
    command = [Path(sys.executable).parent / "paddlenlp", "server", "simple_server:app", "--port", str(port)]
    parameters = {"max_seq_len": LENGTH, "batch_size": 1, "prob_limit": 0.5}
    url = f"http://127.0.0.1:{port}/openapi.json"
    with process(command, folder / "simple_server.log", url, {"FLAGS_enable_pir_api": "0"}, cwd=folder):
        yield (
            port,
            lambda text: post(ROUTE, {"data": {"text": text}, "parameters": parameters}),
            lambda answer: {names[i] for i in answer["result"]["label"][0]},
        )


@contextlib.contextmanager
def triton(folder):
    build = load("deploy/triton_serving/build_repository.py").main
    if build(["--bundle", str(folder / "export"), "--output", str(folder / "models")]):
        raise SystemExit("build_repository.py failed")

    def request(text):
        tensor = {"name": "INPUT", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
        return post("/v2/models/seqcls/infer", {"inputs": [tensor], "outputs": [{"name": "label_name"}]})

    def labels(answer):
        return set(filter(None, answer["outputs"][0]["data"]))

    with load("tests/triton_server.py").triton_server(folder / "models", folder / "triton.log") as server:
        yield int(server.http_url.rpartition(":")[2]), request, labels


STARTS = {
    "server": our_side,
    "no batching": lambda folder: our_side(folder, "--no-batching"),
    "SimpleServer": simple_server,
    "triton": triton,
}


# -------------------------------------------------------------------------------------------------------------- driver


def prepare(model, folder):
    checkpoint = random_checkpoint(folder, model, ["duee"], LENGTH)
    from text_cls.neural.export import bundle_folder

    with bundle_folder(str(folder / "export"), checkpoint, "float32", LENGTH):
        pass


async def _label(port, requests):
    """The answers to some requests, one after the other."""
    connection, answers = Connection(port), []
    for request in requests:
        if await attempt(connection, request) != 200:
            raise SystemExit(f"a server refused the texts: {bytes(connection.data[-1000:])!r}")
        answers.append(connection.body())
    connection.close()
    return answers


def same_labels(sides, texts):
    """How many of the first 16 texts get the same labels from all sides, how many were sent, and labels per text."""
    answers = []
    for port, request, labels_of in sides.values():
        requests = [request(text) for text in texts[:16]]
        answers.append([labels_of(answer) for answer in asyncio.run(_label(port, requests))])
    same = sum(all(one == several[0] for one in several) for several in zip(*answers))
    return same, len(answers[0]), statistics.mean(map(len, answers[0]))


def measure(args, sides, texts):
    """{(clients, side): [Answers of each round]}, and the largest share of a core that the clients used."""
    requests = {side: [request(text) for text in texts] for side, (_, request, _) in sides.items()}
    answers, share = {}, 0.0
    for side, (port, _, _) in sides.items():
        closed_loop(port, requests[side], 32, 1)  # the first runs of each shape allocate memory
    for number in range(args.rounds):
        for clients in args.clients:
            order = list(sides.items())
            for side, (port, _, _) in order[number % len(order) :] + order[: number % len(order)]:
                cpu, start = time.process_time(), time.perf_counter()
                one = closed_loop(port, requests[side], clients, args.seconds)
                share = max(share, (time.process_time() - cpu) / (time.perf_counter() - start))
                answers.setdefault((clients, side), []).append(one)
    return answers, share


def speeds(rounds):
    return [one.statuses[200] / one.seconds for one in rounds]


def report(model, answers, share):
    head = f"{'clients':>7} {'side':13} {'texts/s':>8} {'range':>15} {'p50 ms':>8} {'p99 ms':>8} {'/ no batching':>14}"
    print(f"{head}  other answers")
    ratios = {}
    for (clients, side), rounds in answers.items():
        values, plain = speeds(rounds), answers.get((clients, "no batching"))
        ratio = statistics.median(a / b for a, b in zip(values, speeds(plain))) if plain else float("nan")
        ratios[clients, side] = ratio
        all_rounds = Answers()
        for one in rounds:
            all_rounds.latencies += one.latencies
            all_rounds.statuses += one.statuses
        others = {status: count for status, count in all_rounds.statuses.items() if status != 200}
        span = f"{min(values):.1f}-{max(values):.1f}"
        print(
            f"{clients:7} {side:13} {statistics.median(values):8.1f} {span:>15} {all_rounds.percentile(50):8.1f} "
            f"{all_rounds.percentile(99):8.1f} {ratio:13.2f}x  {others or 'none'}"
        )
    print(f"the clients used at most {100 * share:.0f}% of a core")
    ours = {clients: ratio for (clients, side), ratio in ratios.items() if side == "server" and ratio == ratio}
    if "nano" in model and 32 in ours:
        print(f"target: with 32 clients at least 2 times no batching; measured {ours[32]:.2f}")
    if "medium" in model and ours:
        print(f"target: never below 0.95 times no batching; measured at least {min(ours.values()):.2f}")


def resident_mib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def soak(minutes, folder, texts):
    """Sends twice the load the server can carry."""
    requests = [our_request(text) for text in texts]
    with our_server(folder) as (server, port):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=10) as answer:
            deadline = json.load(answer)["limits"]["deadline_seconds"]
        rate = speeds([closed_loop(port, requests, 32, 10)])[0]
        print(f"can carry {rate:.0f} texts/s with 32 clients; now {2 * rate:.0f}/s for {minutes:g} minutes")
        memory = [resident_mib(server.pid)]

        def each_minute(number, answers):
            memory.append(resident_mib(server.pid))
            print(
                f"minute {number}: {dict(sorted(answers.statuses.items(), key=str))}, accepted p50 "
                f"{answers.percentile(50):.0f} ms, p99 {answers.percentile(99):.0f} ms, memory {memory[-1]:.0f} MiB",
                flush=True,
            )

        cpu = time.process_time()
        answers = open_loop(port, requests, 2 * rate, 60 * minutes, each_minute)
        share = (time.process_time() - cpu) / answers.seconds
        memory.append(resident_mib(server.pid))
    count, accepted = sum(answers.statuses.values()), answers.statuses[200]
    strange = count - accepted - answers.statuses[503]
    print(
        f"{count} requests in {answers.seconds:.0f} s: {accepted} accepted ({accepted / answers.seconds:.0f}/s), "
        f"{answers.statuses[503]} refused with 503, {strange} with any other status\n"
        f"accepted p50 {answers.percentile(50):.0f} ms, p99 {answers.percentile(99):.0f} ms; deadline "
        f"{1000 * deadline:.0f} ms\nmemory {memory[0]:.0f} MiB before, {max(memory):.0f} at most, {memory[-1]:.0f} at "
        f"the end; the clients used {100 * share:.0f}% of a core"
    )


def main(argv=None):
    args = parse_args(argv)
    texts = read_dev("duee", TEXTS)
    print(f"{len(os.sched_getaffinity(0))} cores, {processor()}; {len(texts)} dev texts of duee")
    for model in args.models:
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            prepare(model, folder)
            # So that the servers are stopped, too. Set here, since Paddle sets its own handler when it is imported.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            if args.soak:
                print(f"\n{model}: ", end="")
                soak(args.soak, folder, texts)
                continue
            sides = {side: stack.enter_context(STARTS[side](folder)) for side in args.sides}
            same, of, labels = same_labels(sides, texts)
            print(f"\n{model}: {same} of {of} texts get the same labels from all sides, {labels:.1f} labels per text")
            report(model, *measure(args, sides, texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
