"""Memory of the HTTP server over many requests of every kind: it must not grow with their number, nor must /metrics.

    python benchmarks/server_memory.py                                 # after make quickstart: 20,000 requests
    python benchmarks/server_memory.py --bundle export --requests 1000 --step 100

Of ten requests, five have 1 to 128 texts; the others are invalid, too large, no HTTP, for a route that does not exist,
or of a client that leaves. With 16 clients and --max_requests 8 some get 503.
"""

import argparse
import asyncio
import collections
import itertools
import json
import sys
import tempfile
import urllib.request
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from load import Connection, attempt, post
from project import ROOT
from serving import free_port, process, resident_mib
from text_cls.cli import positive_int

CLIENTS, MOST, SIZES = 16, 8, (1, 1, 8, 32, 128)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default=str(ROOT / "quickstart" / "export"), help="bundle to serve (%(default)s)")
    parser.add_argument("--requests", type=positive_int, default=20_000, help="requests in all (%(default)s)")
    parser.add_argument("--step", type=positive_int, default=2_000, help="requests between two lines (%(default)s)")
    return parser.parse_args(argv)


def requests_of(route, texts):
    """Yields requests as (bytes, whether the client leaves without waiting for the answer), without end."""
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    too_large = f"{head}Content-Length: 99999999\r\n\r\n".encode()
    for number in itertools.count():
        for size in SIZES:
            some = [f"{texts[(number + k) % len(texts)]}{number}" for k in range(size)]  # no two requests are alike
            yield post(route, {"data": {"text": some}}), False
        whole = post(route, {"data": {"text": texts[number % len(texts)]}})
        yield post(route, {"data": {"text": []}}), False
        yield too_large, False
        yield (b"\x00\x01 no HTTP\r\n\r\n", post(f"/{number}", {}))[number % 2], False
        yield whole, True
        yield whole[:-5], True


async def send(port, requests, count):
    """Sends some of the requests with all clients. Returns the number of answers by status."""
    statuses, left = collections.Counter(), iter(range(count))

    async def client():
        connection = Connection(port)
        for _ in left:
            request, leaves = next(requests)
            if leaves:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                await writer.drain()
                writer.close()
                statuses["left"] += 1
            else:
                status = await attempt(connection, request)
                statuses[status] += 1
                if status in (400, 413):  # the server closes these connections
                    connection.close()
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return statuses


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return answer.read().decode()


def report(done, port, pid, statuses):
    series = sum(not line.startswith("#") for line in get(port, "/metrics").splitlines())
    counts = dict(sorted(statuses.items(), key=str))
    print(f"{done:7} requests: {resident_mib(pid):7.1f} MiB, {series:4} series in /metrics, {counts}", flush=True)


def main(argv=None):
    args = parse_args(argv)
    lines = (ROOT / "data" / "train.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[0] for line in lines]
    port, script = free_port(), ROOT / "deploy" / "simple_serving" / "server.py"
    words = [sys.executable, script, "--bundle", args.bundle, "--port", str(port), f"--max_requests={MOST}"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with process(words, log, f"http://127.0.0.1:{port}/health/ready") as server:
            requests = requests_of(json.loads(get(port, "/info"))["route"], texts)
            report(0, port, server.pid, {})
            for done in range(0, args.requests, args.step):
                count = min(args.step, args.requests - done)
                report(done + count, port, server.pid, asyncio.run(send(port, requests, count)))
            failed = log.read_text(encoding="utf-8").count("Traceback")
    print(f"{failed} tracebacks in the log")
    return 0


if __name__ == "__main__":
    sys.exit(main())
