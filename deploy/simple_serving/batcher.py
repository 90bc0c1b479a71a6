"""Dynamic batching: texts of requests that wait at the same time share runs of a model.

One thread runs all models. What arrives during a run forms the next one; an idle model never waits. Which texts share a
run depends on what runs cost on this machine, measured before a model is used: if one text keeps the cores busy,
padding a short text to a long one costs more than it saves. This module knows nothing about HTTP or asyncio.
"""

import heapq
import itertools
import math
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

import numpy as np

from text_cls.batching import cheapest_batches
from text_cls.language import tr

WINDOW = 128  # waiting texts to choose a run from: the more, the more similar their lengths; planning takes 0.4 ms
MEMORY = 2.0  # seconds of running after which a measured speed counts 1/e as much


class Full(Exception):
    """Too much is waiting. `retry_after`: whole seconds after which there should be room again.

    Args:
        late: by how many seconds the answer would be late.
    """

    def __init__(self, late):
        super().__init__(tr("too many requests are waiting"))
        self.retry_after = max(1, math.ceil(late))


class Closed(Exception):
    """No new requests are accepted; those accepted before are finished. `retry_after`: seconds to wait."""

    retry_after = 5

    def __init__(self, reason=None):
        super().__init__(reason or tr("the server is stopping, or its model has failed"))


class Job(Future):
    """The outputs of one request, float32 [rows, columns], or the model's exception.

    Once it has ended, by a failure or because it is cancelled, its waiting rows are not run. `end`: when it is due, by
    `time.monotonic()`.
    """

    def __init__(self, model, rows, batch_size, end):
        super().__init__()
        self.model, self.rows, self.batch_size = model, rows, batch_size or len(rows)
        self.outputs = np.zeros((len(rows), model.columns), dtype=np.float32)
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


class Model:
    """A model that a `Batcher` runs, and what is known of its speed.

    `tokens`: accepted for it but not yet run.

    Args:
        run: takes a list of int arrays, the token ids of the rows, and returns a float32 array [rows, columns].
        columns: number of columns of that array.
    """

    def __init__(self, run, columns):
        self.run, self.columns, self.tokens = run, columns, 0
        self.cost = None  # seconds of a run by its tokens, [batch_tokens + 1]; None until it is measured
        self.speed, self.highest = Speed(), 0.0  # the second: tokens per second
        self.heap = []  # what waits: (turn, number, job, row)

    def take_speed(self, other):
        """Takes over what is known of the speed of another `Model`, which computes the same."""
        self.cost, self.speed, self.highest = other.cost, other.speed, other.highest

    def least_seconds(self, tokens):
        """How long it runs for these tokens if nothing else runs, by its highest speed so far."""
        return tokens / self.highest if self.highest else 0.0


class Batcher:
    """Runs models on the rows of many requests. A run has rows of one model.

    Args:
        batch_tokens: maximum tokens per run, including padding.
        queue_tokens: maximum tokens waiting, of all models together.
        batching: False to run each request separately.
        observe: called after each run with its number of rows, tokens (without padding) and seconds.
    """

    def __init__(self, batch_tokens=1024, queue_tokens=65536, batching=True, observe=None):
        self.batch_tokens, self.queue_tokens = batch_tokens, queue_tokens
        self.batching, self.observe = batching, observe or (lambda *_: None)
        self.tokens = self.texts = 0  # accepted but not yet run
        self._clock = 0  # tokens run so far
        self._busy = {}  # the models that have tokens: a set with an order
        self._number, self._errands = itertools.count(), deque()
        self._jobs = {}  # those not answered yet, in the order in which they came: a set with an order
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self):
        """Whether the thread that runs the model is alive."""
        return self._thread.is_alive()

    def between_runs(self, function, *args):
        """The result of a function that is called in the model's thread, between two runs. Raises Closed, too."""
        errand = Future()
        with self._change:
            if self._closed:
                raise Closed
            self._errands.append((errand, function, args))
            self._change.notify()
        try:
            return errand.result()
        except CancelledError:
            raise Closed from None

    def warm_up(self, model, row, rounds=5):
        """Measures what runs of a model cost, from a few tokens to a full batch, on copies and pieces of a row.

        Between two measurements, what waits for other models runs.

        Returns:
            {tokens of a run: seconds}.
        Raises:
            Closed; whatever the model raises.
        """
        sizes = sorted({*(2**k for k in range(3, self.batch_tokens.bit_length())), self.batch_tokens})
        samples = [[row[:size]] if size <= len(row) else [row] * (size // len(row)) for size in sizes]
        tokens = np.array([sum(map(len, rows)) for rows in samples])
        seconds = np.full(len(sizes), np.inf)
        for _ in range(rounds):  # all sizes in every round, so that a disturbance affects them alike
            for k, rows in enumerate(samples):
                seconds[k] = min(seconds[k], self.between_runs(_seconds_of, model, rows))
        # Larger runs never cost more per token, nor less in total; measurements that say otherwise were disturbed.
        seconds = np.maximum.accumulate(np.minimum.accumulate(seconds / tokens) * tokens)
        model.cost = np.interp(np.arange(self.batch_tokens + 1), tokens, seconds)
        model.speed = Speed(tokens[-1], seconds[-1])
        model.highest = model.speed.per_second
        return dict(zip(tokens.tolist(), seconds.tolist()))

    def submit(self, model, rows, batch_size=None, patience=math.inf):
        """Accepts the rows of one request and returns its `Job`.

        Args:
            model: the `Model` to run.
            rows: list of int arrays, the token ids of each text.
            batch_size: maximum rows of this request in one run.
            patience: see `check`. If it turns out that the model takes twice as long, the job fails with Full.
        Raises:
            Full, Closed.
        """
        job, tokens = Job(model, rows, batch_size, time.monotonic() + 2 * patience), sum(map(len, rows))
        with self._change:
            self.check(tokens, patience, model)
            # A row's turn comes when the model has run, since the request arrived, as many tokens as precede the row in
            # its request. So a request waits for its own rows, not for those of a bigger one that came before.
            turn = self._clock
            for i, ids in enumerate(rows):
                heapq.heappush(model.heap, (turn, next(self._number), job, i))
                turn += len(ids)
            self._add(model, len(rows), tokens)
            self._jobs[job] = None
            self._change.notify()
        job.add_done_callback(self._drop)
        if not rows:
            job.set_result(job.outputs)
        return job

    def check(self, tokens=0, patience=math.inf, model=None):
        """Raises Full or Closed if this many tokens would not be accepted now.

        Args:
            patience: seconds; a request that would take longer, by the measured speed, is refused.
            model: the one to run them; needed if there are tokens.
        """
        if self._closed:
            raise Closed
        seconds, total = self._seconds(), self.tokens
        if total:  # behind nothing, any number of tokens is accepted
            seconds, total = seconds + (tokens / model.speed.per_second if tokens else 0), total + tokens
        over = max(0, total - self.queue_tokens)
        late = max(seconds - patience, over * seconds / total if over else 0)
        if late > 0 or over:
            raise Full(late)

    def _seconds(self):
        """How long the models will run for what they have got."""
        return sum(model.tokens / model.speed.per_second for model in list(self._busy))

    def _add(self, model, rows, tokens):
        """Counts what waits: more of it, or less."""
        self.texts += rows
        self.tokens += tokens
        model.tokens += tokens
        if model.heap or model.tokens:
            self._busy[model] = None
        else:
            self._busy.pop(model, None)  # it may have been replaced, and its memory is needed

    def close(self, seconds):
        """Accepts nothing new; returns when all accepted requests are answered, or after `seconds`."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(seconds)
        with self._change:  # left only if a run hangs
            for errand, _, _ in self._errands:
                errand.cancel()

    def _drop(self, job):
        with self._change:
            self._jobs.pop(job)
            if job.waiting:
                heap = job.model.heap
                kept = [entry for entry in heap if entry[2] is not job]
                tokens = sum(len(job.rows[i]) for _, _, other, i in heap if other is job)
                heapq.heapify(kept)
                job.model.heap = kept
                self._add(job.model, len(kept) - len(heap), -tokens)

    def _refuse_late(self):
        """Refuses the newest requests if the model has become too slow for all: otherwise all might be late."""
        while len(self._jobs) > 1:
            newest = next(reversed(self._jobs))
            late = time.monotonic() + self._seconds() - newest.end
            if late <= 0 or not newest.set_running_or_notify_cancel():
                return
            newest.set_exception(Full(late))

    def _work(self):
        while True:
            with self._change:
                self._change.wait_for(lambda: self._busy or self._errands or self._closed)
                errand = self._errands.popleft() if self._errands else None
                if not (errand or self._busy):
                    return
            if errand:
                _do(*errand)
                errand = None  # the model that it measured may be replaced, and its memory is needed
            self._run_next()  # at most one errand before each run, so that requests do not wait for several

    def _run_next(self):
        """Runs what is next, if anything waits."""
        with self._change:
            waiting = [model for model in self._busy if model.heap]
            if not waiting:
                return
            begin = time.perf_counter()
            model = min(waiting, key=lambda one: one.heap[0])
            entries = self._take(model)
        tokens, start = sum(len(job.rows[i]) for job, i in entries), time.perf_counter()
        self._run(entries)
        end = time.perf_counter()
        with self._change:
            self._clock += tokens
            self._add(model, -len(entries), -tokens)
            # Runs with nothing waiting behind them are small and only show that the speed under load is no less than
            # theirs. They must still count: otherwise a speed measured during a stall would stay, since so few requests
            # would be accepted that nothing ever waits.
            faster = tokens > (end - begin) * model.speed.per_second
            if self.tokens >= self.batch_tokens or not self.batching or faster:
                model.speed = model.speed.add(tokens, end - begin)
                model.highest = max(model.highest, model.speed.per_second)
            self._refuse_late()
        self.observe(len(entries), tokens, end - start)

    def _take(self, model):
        """The rows of a model's next run, [(job, row)]: the one whose turn it is, and others of similar length."""
        heap = model.heap
        window, passed, first = [], [], heap[0][2]
        while heap and len(window) < WINDOW:
            if not self.batching and len(window) == first.waiting:
                break
            entry = heapq.heappop(heap)
            if self.batching or entry[2] is first:
                window.append(entry)
            else:
                passed.append(entry)
        lengths = np.array([len(job.rows[i]) for _, _, job, i in window])
        cost = model.cost if model.cost is not None else 100.0 + np.arange(self.batch_tokens + 1)  # a guess
        batch = next(rows for rows in cheapest_batches(lengths, cost) if 0 in rows)
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
            heapq.heappush(heap, entry)
        return chosen

    def _run(self, entries):
        try:
            outputs = entries[0][0].model.run([job.rows[i] for job, i in entries])
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


def _seconds_of(model, rows):
    """How long a model takes for one run."""
    start = time.perf_counter()
    model.run(rows)
    return time.perf_counter() - start


def _do(future, function, args):
    """Calls a function and puts its result, or its exception, into a future."""
    try:
        future.set_result(function(*args))
    except Exception as error:
        future.set_exception(error)
