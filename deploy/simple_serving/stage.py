"""One thread that does a part of the work on every request, and how long new work would wait for it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from batcher import Speed

SMALL = 4096  # less work is done in place, as handing it to a thread would cost more


class Stage:
    """`waiting`: the work that waits for the thread or is being done, in any unit of about the same cost."""

    def __init__(self, name):
        self.waiting = 0
        self._speed, self._pool = Speed(), ThreadPoolExecutor(1, name)

    @property
    def seconds(self):
        """How long new work would wait, by the speed of the work so far."""
        return self.waiting / self._speed.per_second

    @contextmanager
    def work(self, amount):
        """Counts some work as waiting until the block ends. Yields a function that does a part of it.

        `await do(size, function, *args)` returns the result of a function, called here if `size` is small, else in the
        thread.
        """
        seconds = 0.0

        def timed(function, *args):
            nonlocal seconds
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                seconds += time.perf_counter() - start

        async def do(size, function, *args):
            if size < SMALL:
                return timed(function, *args)
            return await asyncio.get_running_loop().run_in_executor(self._pool, timed, function, *args)

        self.waiting += amount
        try:
            yield do
            self._speed = self._speed.add(amount, seconds)
        finally:
            self.waiting -= amount

    def close(self):
        self._pool.shutdown(wait=False, cancel_futures=True)
