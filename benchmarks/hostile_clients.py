"""How long /health/live takes while other clients send what is expensive to read. RESULTS.md has the figures.

python deploy/simple_serving/server.py --bundle export &
python benchmarks/hostile_clients.py --port 8189 --connections 1 4
"""

import argparse
import multiprocessing
import socket
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.cli import finite_number, positive_int

HEAD = b"POST /models/cls_hierarchical HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PROBE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ATTACKS = {  # what a connection sends first, and then until it is closed
    "nothing": (b"", b""),
    "chunks of one byte": (CHUNKED, b"1\r\n \r\n" * 10000),
    "the same, no such route": (CHUNKED.replace(b"/models", b"/no"), b"1\r\n \r\n" * 10000),
    "chunks of 16 bytes": (CHUNKED, (b"10\r\n" + b" " * 16 + b"\r\n") * 4000),
    "chunk extensions": (CHUNKED, b"1;%s\r\n \r\n" % (b"a" * 60) * 2000),
    "headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a:b\r\n" * 10000),
    "trailers": (CHUNKED + b"1\r\n \r\n0\r\n", b"a:b\r\n" * 10000),
    "TCP segments of one byte": (HEAD + b"Content-Length: 1000000\r\n\r\n", b" "),
    "an endless body, no such route": (CHUNKED.replace(b"/models", b"/no"), b"10000\r\n%s\r\n" % (b" " * 65536)),
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--port", type=positive_int, default=8189, help="port of the server on this machine (%(default)s)"
    )
    parser.add_argument(
        "--connections", type=positive_int, nargs="+", default=[1, 4], help="attacking connections (1 4)"
    )
    parser.add_argument("--seconds", type=finite_number, default=5, help="seconds of each attack (%(default)s)")
    return parser.parse_args(argv)


def attack(port, first, rest):
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(first)
                while True:
                    connection.sendall(rest)
        except OSError:  # closed by the server
            continue


def probe(port, seconds):
    """The times of requests one after the other, in milliseconds."""
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(PROBE)
            while connection.recv(1000):
                pass
        times.append(1000 * (time.perf_counter() - start))
        time.sleep(0.02)
    return times


def main(argv=None):
    args = parse_args(argv)
    print("| sent by others | connections | median | 99% | longest |\n| --- | --- | --- | --- | --- |")
    for name, (first, rest) in ATTACKS.items():
        for count in args.connections if rest else [0]:
            others = [multiprocessing.Process(target=attack, args=(args.port, first, rest)) for _ in range(count)]
            for one in others:
                one.start()
            time.sleep(0.5)
            times = probe(args.port, args.seconds)
            for one in others:
                one.terminate()
                one.join()
            late = statistics.quantiles(times, n=100, method="inclusive")[-1] if len(times) > 1 else times[0]
            print(f"| {name} | {count} | {statistics.median(times):.1f} | {late:.1f} | {max(times):.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
