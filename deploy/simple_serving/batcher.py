"""Dynamic batching: texts of requests that wait at the same time share runs of the model.

One thread runs the model. What arrives during a run forms the next one; an idle model never waits. Which texts share a
run depends on what runs cost on this machine, measured at the start: if one text keeps the cores busy, padding a short
text to a long one costs more than it saves. This module knows nothing about HTTP, the model or asyncio.
"""

import heapq
import itertools
import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from text_cls.batching import cheapest_batches

WINDOW = 128  # waiting texts to choose a run from: the more, the more similar their lengths; planning takes 0.4 ms
MEMORY = 2.0  # seconds of running after which a measured speed counts 1/e as much


class Full(Exception):
    """Too much is waiting. `retry_after`: whole seconds after which there should be room again.

    Args:
        late: by how many seconds the answer would be late.
    """

    def __init__(self, late):
        super().__init__("too many requests are waiting")
        self.retry_after = max(1, math.ceil(late))


class Closed(Exception):
    """No new requests are accepted; those accepted before are finished. `retry_after`: seconds to wait."""

    retry_after = 5

    def __init__(self, reason="the server is stopping, or its model has failed"):
        super().__init__(reason)


class Job(Future):
    """The outputs of one request, float32 [rows, columns], or the model's exception.

    Once it has ended, by a failure or because it is cancelled, its waiting rows are not run. `end`: when it is due, by
    `time.monotonic()`.
    """

    def __init__(self, rows, batch_size, columns, end):
        super().__init__()
        self.rows, self.batch_size = rows, batch_size or len(rows)
        self.outputs = np.zeros((len(rows), columns), dtype=np.float32)
        self.waiting = self.left = len(rows)  # rows not yet in a run; rows without an answer
        self.begun, self.end = False, end  # whether a row is or has been in a run


@dataclass(frozen=True)
class Speed:
    """Tokens and seconds of the runs so far, older runs counting less."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens, seconds):
        share = MEMORY / max(seconds, MEMORY)  # no run counts for more, so that a stall is soon forgotten
        fade = math.exp(-seconds / MEMORY)
        return Speed(self.tokens * fade + tokens * share, self.seconds * fade + seconds * share)

    @property
    def per_second(self):
        """Tokens per second; infinite before the first run."""
        return self.tokens / self.seconds if self.tokens and self.seconds else math.inf


class Batcher:
    """Runs a model on the rows of many requests.

    Args:
        run: takes a list of int arrays, the token ids of the rows, and returns a float32 array [rows, columns].
        columns: number of columns of that array.
        batch_tokens: maximum tokens per run, including padding.
        queue_tokens: maximum tokens waiting.
        batching: False to run each request separately.
        observe: called after each run with its number of rows, tokens (without padding) and seconds.
    """

    def __init__(self, run, columns, batch_tokens=1024, queue_tokens=65536, batching=True, observe=None):
        self.run, self.columns, self.batch_tokens, self.queue_tokens = run, columns, batch_tokens, queue_tokens
        self.batching, self.observe = batching, observe or (lambda *_: None)
        self.tokens = self.texts = 0  # accepted but not yet run
        self._clock = 0  # tokens run so far
        self._cost = 100.0 + np.arange(batch_tokens + 1)  # of a run by its tokens; a guess until `warm_up` measures it
        self._speed, self._highest = Speed(), 0.0  # the second: tokens per second
        self._heap, self._number = [], itertools.count()  # (turn, number, job, row)
        self._jobs = {}  # those not answered yet, in the order in which they came: a set with an order
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self):
        """Whether the thread that runs the model is alive."""
        return self._thread.is_alive()

    def warm_up(self, row, rounds=5):
        """Measures what runs cost, from a few tokens to a full batch, on copies and pieces of a row.

        Returns:
            {tokens of a run: seconds}.
        """
        sizes = sorted({*(2**k for k in range(3, self.batch_tokens.bit_length())), self.batch_tokens})
        samples = [[row[:size]] if size <= len(row) else [row] * (size // len(row)) for size in sizes]
        tokens = np.array([sum(map(len, rows)) for rows in samples])
        seconds = np.full(len(sizes), np.inf)
        for _ in range(rounds):  # all sizes in every round, so that a disturbance affects them alike
            for k, rows in enumerate(samples):
                start = time.perf_counter()
                self.run(rows)
                seconds[k] = min(seconds[k], time.perf_counter() - start)
        # Larger runs never cost more per token, nor less in total; measurements that say otherwise were disturbed.
        seconds = np.maximum.accumulate(np.minimum.accumulate(seconds / tokens) * tokens)
        self._cost = np.interp(np.arange(self.batch_tokens + 1), tokens, seconds)
        self._speed = Speed(tokens[-1], seconds[-1])
        self._highest = self._speed.per_second
        return dict(zip(tokens.tolist(), seconds.tolist()))

    def submit(self, rows, batch_size=None, patience=math.inf):
        """Accepts the rows of one request and returns its `Job`.

        Args:
            rows: list of int arrays, the token ids of each text.
            batch_size: maximum rows of this request in one run.
            patience: see `check`. If it turns out that the model takes twice as long, the job fails with Full.
        Raises:
            Full, Closed.
        """
        job, tokens = Job(rows, batch_size, self.columns, time.monotonic() + 2 * patience), sum(map(len, rows))
        with self._change:
            self.check(tokens, patience)
            # A row's turn comes when the model has run, since the request arrived, as many tokens as precede the row in
            # its request. So a request waits for its own rows, not for those of a bigger one that came before.
            turn = self._clock
            for i, ids in enumerate(rows):
                heapq.heappush(self._heap, (turn, next(self._number), job, i))
                turn += len(ids)
            self.tokens += tokens
            self.texts += len(rows)
            self._jobs[job] = None
            self._change.notify()
        job.add_done_callback(self._drop)
        if not rows:
            job.set_result(job.outputs)
        return job

    def check(self, tokens=0, patience=math.inf):
        """Raises Full or Closed if this many tokens would not be accepted now.

        Args:
            patience: seconds; a request that would take longer, by the measured speed, is refused.
        """
        if self._closed:
            raise Closed
        speed = self._speed.per_second
        total = self.tokens + tokens if self.tokens else 0  # behind nothing, any number of tokens is accepted
        late = max(total / speed - patience, (total - self.queue_tokens) / speed)
        if late > 0 or total > self.queue_tokens:
            raise Full(late)

    def least_seconds(self, tokens):
        """How long the model runs for these tokens if nothing else does, by its highest speed so far."""
        return tokens / self._highest if self._highest else 0.0

    def close(self, seconds):
        """Accepts nothing new; returns when all accepted requests are answered, or after `seconds`."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(seconds)

    def _drop(self, job):
        with self._change:
            self._jobs.pop(job)
            if job.waiting:
                kept = [entry for entry in self._heap if entry[2] is not job]
                self.tokens -= sum(len(job.rows[i]) for _, _, other, i in self._heap if other is job)
                self.texts -= len(self._heap) - len(kept)
                heapq.heapify(kept)
                self._heap = kept

    def _refuse_late(self):
        """Refuses the newest requests if the model has become too slow for all: otherwise all might be late."""
        while len(self._jobs) > 1:
            newest = next(reversed(self._jobs))
            late = time.monotonic() + self.tokens / self._speed.per_second - newest.end
            if late <= 0 or not newest.set_running_or_notify_cancel():
                return
            newest.set_exception(Full(late))

    def _work(self):
        while True:
            with self._change:
                self._change.wait_for(lambda: self._heap or self._closed)
                if not self._heap:
                    return
                begin = time.perf_counter()
                entries = self._take()
            tokens, start = sum(len(job.rows[i]) for job, i in entries), time.perf_counter()
            self._run(entries)
            end = time.perf_counter()
            with self._change:
                self._clock += tokens
                self.tokens -= tokens
                self.texts -= len(entries)
                # Runs with nothing waiting behind them are small and only show that the speed under load is no less
                # than theirs. They must still count: otherwise a speed measured during a stall would stay, since so
                # few requests would be accepted that nothing ever waits.
                faster = tokens > (end - begin) * self._speed.per_second
                if self.tokens >= self.batch_tokens or not self.batching or faster:
                    self._speed = self._speed.add(tokens, end - begin)
                    self._highest = max(self._highest, self._speed.per_second)
                self._refuse_late()
            self.observe(len(entries), tokens, end - start)

    def _take(self):
        """The rows of the next run, [(job, row)]: the one whose turn it is, and others of similar length."""
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
                job.begun = True
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
            if len(jobs) > 1:  # one request is at fault: rerun each alone
                for one in jobs:
                    self._run([(job, i) for job, i in entries if job is one])
            else:
                if jobs[0].set_running_or_notify_cancel():  # it cannot be cancelled after this
                    jobs[0].set_exception(error)
            return
        for (job, i), row in zip(entries, outputs):
            job.outputs[i] = row
            job.left -= 1
            if not job.left and job.set_running_or_notify_cancel():
                job.set_result(job.outputs)
