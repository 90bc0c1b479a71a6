"""Dynamic batching: texts of requests that wait at the same time share runs of the model.

One thread runs the model. What arrives while a run is under way forms the next one; an idle model waits for nothing.
Which texts share a run follows from what runs cost on this machine, measured at the start: where one text keeps the
cores busy, padding a short one to a long one costs more than it saves. Nothing of HTTP, of a model or of asyncio is
known here.
"""

import heapq
import itertools
import math
import threading
import time
from concurrent.futures import Future

import numpy as np

from text_cls.batching import cheapest_batches

WINDOW = 128  # waiting texts that a run is chosen from: the more, the more of the same length; planning takes 0.4 ms
MEMORY = 2.0  # seconds of running after which a measured speed counts for 1/e


class Full(Exception):
    """The queue takes no more now. `retry_after`: whole seconds after which it should."""

    def __init__(self, retry_after):
        super().__init__(f"the queue is full for about {retry_after} s")
        self.retry_after = retry_after


class Closed(Exception):
    """The batcher finishes what it has and takes nothing new."""


class _Job:
    """One request: its rows, and their outputs as they come."""

    def __init__(self, rows, batch_size, columns):
        self.rows, self.batch_size = rows, batch_size or len(rows)
        self.outputs = np.zeros((len(rows), columns), dtype=np.float32)
        self.waiting = self.left = len(rows)  # rows not yet in a run; rows without an answer
        self.future = Future()


class Batcher:
    """Runs a model on the rows of many requests.

    Args:
        run: takes a list of int arrays, the token ids of the rows, and returns a float32 array [rows, columns].
        columns: of that array.
        batch_tokens: tokens of one run, padding included.
        queue_tokens: tokens that may wait.
        patience: seconds that a request may be expected to wait; where the measured speed says longer, it is refused.
        batching: False to run each request for itself.
        observe: called after each run with its number of rows, tokens (padding left out) and seconds.
    """

    def __init__(self, run, columns, batch_tokens=1024, queue_tokens=65536, patience=5.0, batching=True, observe=None):
        self.run, self.columns, self.batch_tokens, self.queue_tokens = run, columns, batch_tokens, queue_tokens
        self.patience, self.batching, self.observe = patience, batching, observe or (lambda *_: None)
        self.tokens = self.texts = 0  # accepted and not yet through the model
        self._clock = 0  # tokens run so far
        self._cost = 100.0 + np.arange(batch_tokens + 1)  # of a run by its tokens, until `warm_up` has measured it
        self._speed = 0.0, 0.0  # tokens and seconds of runs, the older the lighter
        self._heap, self._number = [], itertools.count()  # (turn, number, job, row)
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self):
        """Whether the thread runs that runs the model."""
        return self._thread.is_alive()

    def warm_up(self, row, rounds=5):
        """Measures what runs cost, of few tokens to a full batch, on copies and pieces of a row.

        Returns:
            {tokens of a run: seconds}.
        """
        sizes = sorted({*(2**k for k in range(3, self.batch_tokens.bit_length())), self.batch_tokens})
        samples = [[row[:size]] if size <= len(row) else [row] * (size // len(row)) for size in sizes]
        tokens = np.array([sum(map(len, rows)) for rows in samples])
        seconds = np.full(len(sizes), np.inf)
        for _ in range(rounds):  # each round through all sizes, so that a disturbance meets them alike
            for k, rows in enumerate(samples):
                start = time.perf_counter()
                self.run(rows)
                seconds[k] = min(seconds[k], time.perf_counter() - start)
        # A token is never dearer in a larger run, nor a run cheaper with more tokens; what looks so was disturbed.
        seconds = np.maximum.accumulate(np.minimum.accumulate(seconds / tokens) * tokens)
        self._cost = np.interp(np.arange(self.batch_tokens + 1), tokens, seconds)
        self._speed = tokens[-1], seconds[-1]
        return dict(zip(tokens.tolist(), seconds.tolist()))

    def submit(self, rows, batch_size=None):
        """Accepts the rows of one request.

        Args:
            rows: list of int arrays, the token ids of each text.
            batch_size: rows of this request in one run at most.
        Returns:
            concurrent.futures.Future of the outputs, float32 [rows, columns]. It holds the model's exception where
            there was one. Cancelled, its rows do not reach the model any more.
        Raises:
            Full, Closed.
        """
        job, tokens = _Job(rows, batch_size, self.columns), sum(map(len, rows))
        with self._change:
            self.check(tokens)
            # A row's turn comes when the model has run as many tokens since its request arrived as stand before it in
            # that request. So each waits for its own rows, not for those of a bigger one that came before.
            turn = self._clock
            for i, ids in enumerate(rows):
                heapq.heappush(self._heap, (turn, next(self._number), job, i))
                turn += len(ids)
            self.tokens += tokens
            self.texts += len(rows)
            self._change.notify()
        job.future.add_done_callback(lambda future: future.cancelled() and self._drop(job))
        if not rows:
            job.future.set_result(job.outputs)
        return job.future

    def check(self, tokens=0):
        """Raises Full or Closed where so many tokens would not be accepted now."""
        if self._closed:
            raise Closed
        if not self.tokens:
            return
        ran, seconds = self._speed
        second = ran / seconds if ran and seconds else math.inf  # tokens of one
        late = max((self.tokens + tokens) / second - self.patience, (self.tokens + tokens - self.queue_tokens) / second)
        if late > 0 or self.tokens + tokens > self.queue_tokens:
            raise Full(max(1, math.ceil(late)))

    def close(self, seconds):
        """Takes nothing new; returns when all that was accepted is answered, or after so many seconds."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(seconds)

    def _drop(self, job):
        with self._change:
            kept = [entry for entry in self._heap if entry[2] is not job]
            if len(kept) < len(self._heap):
                self.tokens -= sum(len(job.rows[i]) for _, _, other, i in self._heap if other is job)
                self.texts -= len(self._heap) - len(kept)
                job.waiting = 0
                heapq.heapify(kept)
                self._heap = kept

    def _work(self):
        while True:
            with self._change:
                self._change.wait_for(lambda: self._heap or self._closed)
                if not self._heap:
                    return
                entries = self._take()
            tokens, start = sum(len(job.rows[i]) for job, i in entries), time.perf_counter()
            self._run(entries)
            seconds = time.perf_counter() - start
            with self._change:
                self._clock += tokens
                self.tokens -= tokens
                self.texts -= len(entries)
                # Runs that nothing waited behind are small, and say little of the speed under load, but that it is no
                # less than theirs. Without them a speed measured while the machine stood still would stay: so few would
                # be accepted that nothing ever waits.
                faster = tokens * self._speed[1] > seconds * self._speed[0]
                if self.tokens >= self.batch_tokens or not self.batching or faster:
                    fade = math.exp(-seconds / MEMORY)
                    self._speed = self._speed[0] * fade + tokens, self._speed[1] * fade + seconds
            self.observe(len(entries), tokens, seconds)

    def _take(self):
        """The rows of the next run, [(job, row)]: the one whose turn it is, and others about as long as it."""
        window, passed, first = [], [], self._heap[0][2]
        while self._heap and len(window) < WINDOW:
            if not self.batching and len(window) == first.waiting:
                break
            entry = heapq.heappop(self._heap)
            if self.batching or entry[2] is first:
                window.append(entry)
            else:
                passed.append(entry)
        lengths = np.array([len(job.rows[i]) for _, _, job, i in window])
        batch = next(rows for rows in cheapest_batches(lengths, self._cost) if 0 in rows)
        members, chosen, counts = set(batch.tolist()), [], {}
        for k, entry in enumerate(window):
            job = entry[2]
            if k in members and counts.get(job, 0) < job.batch_size:
                counts[job] = counts.get(job, 0) + 1
                job.waiting -= 1
                chosen.append((job, entry[3]))
            else:
                passed.append(entry)
        for entry in passed:
            heapq.heappush(self._heap, entry)
        return chosen

    def _run(self, entries):
        try:
            outputs = self.run([job.rows[i] for job, i in entries])
        except Exception as error:
            jobs = list(dict.fromkeys(job for job, _ in entries))
            if len(jobs) > 1:  # one of them is to blame: the others shall not suffer
                for one in jobs:
                    self._run([(job, i) for job, i in entries if job is one])
            else:
                self._drop(jobs[0])
                if jobs[0].future.set_running_or_notify_cancel():  # from here on it cannot be cancelled
                    jobs[0].future.set_exception(error)
            return
        for (job, i), row in zip(entries, outputs):
            job.outputs[i] = row
            job.left -= 1
            if not job.left and job.future.set_running_or_notify_cancel():
                job.future.set_result(job.outputs)
