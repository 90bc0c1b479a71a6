"""The served bundle: from the texts of a request to its answer.

A request passes through threads of their own for reading it (JSON, tokens), the model, the index if there is one, and
writing its answer. It is accepted only if what waits for all of them leaves it time.
"""

import asyncio
import json
import os
import signal
import threading
import time
from contextlib import asynccontextmanager

import numpy as np

from answers import decided, encode_answer, numbers_of, window_fields
from batcher import Batcher, Closed, Full
from lookup import Lookup
from metrics import Metrics
from prediction_counts import PredictionCounts, tokens_of
from reading import Reader
from schemas import LEAST_TOKENS
from settings import CLOSING_SECONDS, describe
from stage import Stage
from text_cls.bundle import RETRIEVAL
from text_cls.cli import logger, set_up_log, stop_signals
from text_cls.long_texts import pool
from text_cls.serving import open_predictor

HIERARCHICAL, MULTI_LABEL = "hierarchical", "multi_label"
ROUTES = {
    HIERARCHICAL: "/models/cls_hierarchical",
    MULTI_LABEL: "/models/cls_multi_label",
    RETRIEVAL: "/models/retrieval",
}
DEFAULT_LONGEST = 8192  # maximum tokens per text, for a model without a maximum of its own
ROWS_PER_SEARCH = 32  # small parts, so that a small request never waits for the whole search of a big one
EXAMPLE = ["台风登陆，学校停课一天", "今日大盘下跌2%，央行发布金融数据"]  # in the API documentation
MAX_BODIES = 64  # memory for request bodies, in bodies of the largest size


class TooSlow(Exception):
    """The body of a request did not arrive in time. The text says what to do."""


class Service:
    """One bundle with its model, its threads and its metrics.

    `draining`: SIGTERM has arrived, nothing new is accepted. `requests`: those accepted but not answered yet.
    `bytes_held`: total size of the request bodies in memory.
    """

    def __init__(self, settings):
        self.settings, self.metrics = settings, Metrics()
        self.draining, self.requests, self.bytes_held = False, 0, 0
        self.lookup = None  # for retrieval bundles only
        self.reading, self.writing = Stage("reading"), Stage("writing")  # in bytes, in numbers of the model's outputs

    # --------------------------------------------------------------------------------------------- from start to end

    def load(self):
        """Opens the bundle and measures the model. Raises UserError if the bundle cannot be served."""
        settings = self.settings
        set_up_log()
        for line in describe(settings):
            logger.info(line)
        # A search that outlasts its request would otherwise keep the process from ending in time.
        search_seconds = min(CLOSING_SECONDS, settings.deadline_seconds / 2)
        predictor = open_predictor(
            settings.bundle,
            settings.variant,
            settings.device,
            settings.device_id,
            settings.num_threads,
            spin=False,
            timeout=search_seconds,
        )
        predictor.log()
        self.longest = predictor.bundle.manifest["longest_input"] or DEFAULT_LONGEST
        if predictor.kind == RETRIEVAL:
            self.task = RETRIEVAL
        else:
            self.task = HIERARCHICAL if predictor.labels.hierarchical else MULTI_LABEL
        self.route = ROUTES[self.task]
        names = ("max_body_bytes", "max_texts", "max_characters", "max_requests", "queue_tokens", "deadline_seconds")
        self.limits = {name: getattr(settings, name) for name in names}
        batcher = Batcher(
            lambda rows: predictor.run(predictor.pack(rows), [np.arange(len(rows))]),
            predictor.columns,
            settings.batch_tokens,
            settings.queue_tokens,
            settings.batching,
            self.metrics.observe_run,
        )
        self.batcher, self._predictor = batcher, predictor
        self.reader = Reader(self.limits, self.longest, batcher, self._patience)
        self.counts = PredictionCounts(os.path.basename(os.path.abspath(settings.bundle)), settings.metric_labels)
        self.metrics.registry.register(self.counts)
        self.example = self._example()
        row = np.resize(predictor.tokenizer.encode(["预热"], LEAST_TOKENS)[0], min(64, predictor.max_seq_length))
        costs = batcher.warm_up(row)
        logger.info("Time per run, by tokens: %s", ", ".join(f"{n}: {1000 * s:.1f} ms" for n, s in costs.items()))
        self.metrics.watch(batcher)
        if self.task == RETRIEVAL:
            self.lookup = Lookup(predictor, settings.deadline_seconds / 4, self.metrics)

    def _example(self):
        """A request within the limits, and its answer by the served model, for the API documentation."""
        predictor, limits = self._predictor, self.limits
        texts = [text[: limits["max_characters"]] for text in EXAMPLE[: limits["max_texts"]]]
        outputs = predictor.run(predictor.encode(texts))
        answer = json.loads(encode_answer(numbers_of(*decided(predictor, outputs, None)), predictor.labels.names, {}))
        return {"data": {"text": texts}}, answer

    def heed_signals(self):
        """From the first SIGTERM, SIGINT or SIGHUP on, nothing new is accepted; then the previous handler runs."""
        if threading.current_thread() is not threading.main_thread():  # in a test; only the main thread gets signals
            return
        numbers = stop_signals()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def handle(number, frame):
            self.draining = True
            number = number if number in before else signal.SIGTERM  # uvicorn has no handler for SIGHUP
            if callable(before[number]):
                before[number](number, frame)

        for number in numbers:
            signal.signal(number, handle)

    def close(self):
        self.draining = True
        self.batcher.close(0.5)  # accepted requests are answered or expired by now; a run that hangs is abandoned
        self.reading.close()
        self.writing.close()
        if self.lookup:
            self.lookup.close()

    @property
    def predictor(self):
        """The predictor that answers now; for a retrieval bundle, the one with the current index."""
        return self.lookup.predictor if self.lookup else self._predictor

    @property
    def info(self):
        """The answer of `/info`."""
        predictor = self.predictor
        return {
            "task": self.task,
            "route": self.route,
            "labels": predictor.labels.names,
            "model": predictor.bundle.manifest["model"],
            "bundle": predictor.bundle.digest,
            "max_seq_len": predictor.max_seq_length,
            "long_texts": predictor.long_texts.record(),
            "limits": self.limits,
        }

    def check_alive(self):
        """Raises Closed if no request can be accepted, whatever the load."""
        if self.draining or not self.batcher.alive:
            raise Closed
        if self.lookup:
            self.lookup.check_alive()

    def check(self):
        """Raises Full or Closed if no request can be accepted now, whatever it contains."""
        self.check_alive()
        if self.requests >= self.settings.max_requests:
            raise Full(1)
        if self.lookup:
            self.lookup.check()
        self._check_wait()

    def _check_wait(self):
        """Raises Full or Closed if what waits already leaves a new request too little time."""
        self.batcher.check(patience=self.settings.deadline_seconds / 2 - self.reading.seconds - self.writing.seconds)

    def _patience(self, until):
        """Seconds that the model may take for a request whose answer is due at a time of `time.monotonic()`.

        The request may plan with half of the time it has left; the rest makes up for what the estimates do not know.
        """
        return (until - time.monotonic()) / 2 - self.writing.seconds

    @asynccontextmanager
    async def admit(self, pieces):
        """Receives a request and yields its body; within the block it counts as accepted.

        Args:
            pieces: async iterator of bytes.
        Raises:
            Full, Closed: before the body arrives, or once it has; TooSlow; whatever `pieces` raises.
        """
        self.check()
        body, seconds = bytearray(), self.settings.receive_seconds
        try:
            try:
                await asyncio.wait_for(self._receive(pieces, body), seconds)
            except asyncio.TimeoutError:
                text = f"the request did not arrive within {seconds:g} s; send it faster, or send less"
                raise TooSlow(text) from None
            self.check()  # again, since the body took its time
            self.requests += 1
            try:
                yield bytes(body)
            finally:
                self.requests -= 1
        finally:
            self.bytes_held -= len(body)

    async def _receive(self, pieces, body):
        """Appends the pieces to a body. Raises Full if all bodies together take too much memory."""
        async for piece in pieces:
            if self.bytes_held + len(piece) > MAX_BODIES * self.settings.max_body_bytes:
                raise Full(1)
            body += piece
            self.bytes_held += len(piece)

    # ------------------------------------------------------------------------------------------------ one request

    async def answer(self, body, record, ran):
        """The answer to the body of a request, bytes of JSON.

        Args:
            record: dict that receives what may be logged about the request.
            ran: asyncio.Event, set once the model has run all texts.
        Raises:
            Invalid, Full, Closed; whatever the model raises. CancelledError, or Full if the model did nothing for it.
        """
        job, seconds = None, self.settings.deadline_seconds
        until = time.monotonic() + seconds
        try:
            predictor = self.predictor  # kept to the end, even if the index changes meanwhile
            self._check_wait()  # again, as others may have come meanwhile; from here on its body counts
            with self.reading.work(len(body)) as do:
                asked = await self.reader.read(body, record, predictor, until, do)
            if time.monotonic() > until - seconds / 4:  # too late, even if nothing waits for the model
                raise Full(self.reading.seconds)
            job = self.batcher.submit(asked.rows, asked.parameters.batch_size, self._patience(until))
            with self.writing.work(len(asked.rows) * predictor.columns) as do:
                outputs = await asyncio.wrap_future(job)
                ran.set()
                return await self._write(outputs, asked, predictor, do)
        except asyncio.CancelledError:
            if job and job.begun:
                raise
            raise Full(self.reading.seconds) from None

    async def _write(self, outputs, asked, predictor, do):
        """The answer in JSON, from the model's outputs."""
        size, more = outputs.size, {}
        if self.lookup:
            found = []
            for start in range(0, len(outputs), ROWS_PER_SEARCH):
                rows = slice(start, start + ROWS_PER_SEARCH)
                found += await self.lookup.run(self._labels_of, predictor, outputs[rows], asked, rows)
        elif asked.windows is None:
            found = await do(size, self._labels_of, predictor, outputs, asked)
        else:
            pooled = await do(size, pool, outputs, asked.windows.counts, asked.windows.pooling)
            found = await do(size, self._labels_of, predictor, pooled, asked)
            more = await do(size, window_fields, outputs, asked, found)
        self.metrics.texts.inc(len(found))
        self.metrics.windows.inc(len(outputs))
        return await do(size, encode_answer, found, predictor.labels.names, more)

    def _labels_of(self, predictor, outputs, asked, rows=slice(None)):
        """What `numbers_of` returns for the texts of a request, or some of its rows, which are counted."""
        parameters = asked.parameters
        calibrated, predicted = decided(predictor, outputs, parameters.prob_limit)
        if parameters.prob_limit is None and parameters.max_seq_len is None:  # else they are those of another model
            counted = tokens_of(asked.rows[rows], asked.windows, getattr(predictor.tokenizer, "unk_id", None))
            self.counts.add(predictor.bundle, calibrated, predicted, counted)
        return numbers_of(calibrated, predicted)
