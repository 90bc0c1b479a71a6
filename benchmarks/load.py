"""A cheap load generator for HTTP servers: keep-alive connections on asyncio, requests prepared as bytes.

closed_loop: each client sends its next request when the last is answered. open_loop: requests arrive at random at a
given rate, as from users, whether or not earlier ones have been answered.
"""

import asyncio
import collections
import itertools
import json
import time
from dataclasses import dataclass, field

import numpy as np

GIVE_UP = 120  # seconds for one answer


def post(path, value):
    """The bytes of a request with a JSON body."""
    body = json.dumps(value, ensure_ascii=False).encode("utf-8")
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


class _Wire(asyncio.Protocol):
    """One TCP connection. When a request is given up, its connection is too: late data cannot answer the next one."""

    def __init__(self):
        self.transport, self.answer = None, None
        self.data, self.size = bytearray(), None  # of an answer: the bytes so far, and how many it has

    def connection_made(self, transport):
        self.transport = transport

    def send(self, request):
        """Sends a request. Returns a future of the answer's status."""
        self.data, self.size, self.answer = bytearray(), None, asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data):
        self.data += data
        if self.size is None and (end := self.data.find(b"\r\n\r\n")) >= 0:
            self.size = end + 4 + int(self.header(b"content-length") or 0)
        if self.size is not None and len(self.data) >= self.size and not self.answer.done():
            self.answer.set_result(int(self.data[9:12]))

    def header(self, name):
        head = bytes(self.data[: self.data.find(b"\r\n\r\n")])
        values = (line.partition(b":") for line in head.split(b"\r\n"))
        return next((value.strip() for key, _, value in values if key.lower() == name), None)

    def connection_lost(self, error):
        if self.answer and not self.answer.done():
            self.answer.set_exception(error or ConnectionResetError("closed without an answer"))


class Connection:
    """Sends one request at a time; reconnects if the server has closed the connection."""

    def __init__(self, port):
        self.port, self.wire = port, None

    async def ask(self, request):
        """The status of the answer; `data`, `header` and `body` give the rest until the next request."""
        if self.wire is None or self.wire.transport.is_closing():
            loop = asyncio.get_running_loop()
            _, self.wire = await loop.create_connection(_Wire, "127.0.0.1", self.port)
        status = await asyncio.wait_for(self.wire.send(request), GIVE_UP)
        if self.header(b"connection") == b"close":  # a request sent on it now would get no answer
            self.close()
        return status

    @property
    def data(self):
        return self.wire.data

    def header(self, name):
        return self.wire.header(name)

    def body(self):
        return json.loads(self.data[self.data.find(b"\r\n\r\n") + 4 :])

    def close(self):
        if self.wire:
            self.wire.transport.close()


@dataclass
class Answers:
    """Seconds of each accepted request, and the number of answers by status ("no answer" is one)."""

    seconds: float = 0.0
    latencies: list = field(default_factory=list)
    statuses: collections.Counter = field(default_factory=collections.Counter)

    def add(self, status, latency):
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(latency)

    def percentile(self, share):
        """Milliseconds."""
        return 1000 * float(np.percentile(self.latencies, share)) if self.latencies else float("nan")


async def attempt(connection, request):
    try:
        return await connection.ask(request)
    except (OSError, asyncio.TimeoutError) as error:
        connection.close()
        return f"no answer: {type(error).__name__}"


async def _closed_loop(port, requests, clients, seconds):
    answers, begun, stop = Answers(), asyncio.Event(), asyncio.Event()
    turn, silent = itertools.count(), set(range(clients))

    async def client(number):
        connection = Connection(port)
        while not stop.is_set():
            start = time.perf_counter()
            status = await attempt(connection, requests[next(turn) % len(requests)])
            end = time.perf_counter()
            if begun.is_set() and not stop.is_set():
                answers.add(status, end - start)
            silent.discard(number)
            if not silent:
                begun.set()
            if status != 200:
                wait = float(connection.header(b"retry-after") or 0) if status == 503 else 0
                await asyncio.sleep(min(1, max(0.1, wait)))
        connection.close()

    tasks = [asyncio.create_task(client(number)) for number in range(clients)]
    await begun.wait()  # measured once each client has an answer
    start = time.perf_counter()
    await asyncio.sleep(seconds)
    stop.set()
    answers.seconds = time.perf_counter() - start
    await asyncio.gather(*tasks)
    return answers


def closed_loop(port, requests, clients, seconds):
    """`Answers` of a time in which each client always waits for an answer, or pauses after a refusal."""
    return asyncio.run(_closed_loop(port, requests, clients, seconds))


async def _open_loop(port, requests, rate, seconds, seed, each_minute):
    random, answers, idle, tasks = np.random.default_rng(seed), Answers(), [], set()
    minute, minutes = Answers(), 0

    async def one(request, due):
        connection = idle.pop() if idle else Connection(port)
        status = await attempt(connection, request)
        latency = time.perf_counter() - due  # delays of this generator count, too
        answers.add(status, latency)
        minute.add(status, latency)
        idle.append(connection)

    start = due = time.perf_counter()
    for number in itertools.count():
        due += random.exponential(1 / rate)
        if due - start > seconds:
            break
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        elif number % 64 == 0:
            await asyncio.sleep(0)  # behind schedule, but answers must be read all the same
        task = asyncio.create_task(one(requests[number % len(requests)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if due - start >= 60 * (minutes + 1):
            minutes += 1
            each_minute(minutes, minute)
            minute = Answers()
    answers.seconds = time.perf_counter() - start
    await asyncio.gather(*tasks)
    each_minute(minutes + 1, minute)
    for connection in idle:
        connection.close()
    return answers


def open_loop(port, requests, rate, seconds, each_minute, seed=3):
    """`Answers` at `rate` requests per second. Calls `each_minute(number, answers)` with those of each minute."""
    return asyncio.run(_open_loop(port, requests, rate, seconds, seed, each_minute))
