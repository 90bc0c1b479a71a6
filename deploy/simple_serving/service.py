"""The service: from the texts of a request to its answer.

A request passes through threads of their own for reading it (JSON, tokens), the model, the index if there is one, and
writing its answer. It is accepted only if what waits for all of them leaves it time.
"""

import asyncio
import signal
import threading
import time
from contextlib import asynccontextmanager

import json_log
from answers import decided, encode_answer, numbers_of, score_fields, window_fields
from batcher import Batcher, Closed, Full
from metrics import Metrics
from prediction_counts import PredictionCounts, tokens_of
from reading import Reader
from schemas import Invalid, parse
from served import Served
from settings import CLOSING_SECONDS, describe
from shares import Shares
from stage import Stage
from text_cls.cli import UserError, logger, set_up_log, stop_signals
from text_cls.language import tr
from text_cls.long_texts import pool
from text_cls.serving import open_predictor
from tracing import step

ROWS_PER_SEARCH = 32  # small parts, so that a small request never waits for the whole search of a big one
MAX_BODIES = 64  # memory for request bodies, in bodies of the largest size
LOOK_SECONDS = 1.0  # between two looks at the folders of the bundles, and at Milvus


class TooSlow(Exception):
    """The body of a request did not arrive in time. The text says what to do."""


class Service:
    """The served bundles with one queue, their threads and their metrics.

    `bundles`: {name: `Served`}. `first`: the one that `/info` describes. `by_task`: {task: the one that answers its
    route}. `draining`: SIGTERM has arrived, nothing new is accepted. `requests`: those accepted but not answered yet.
    `bytes_held`: total size of the request bodies in memory.
    """

    def __init__(self, settings):
        self.settings, self.metrics = settings, Metrics()
        self.draining, self.requests, self.bytes_held = False, 0, 0
        self.bundles, self._end = {}, threading.Event()
        self.reading, self.writing = Stage("reading"), Stage("writing")  # in bytes, in numbers of the model's outputs
        names = ("max_body_bytes", "max_texts", "max_characters", "max_requests", "queue_tokens", "deadline_seconds")
        self.limits = {name: getattr(settings, name) for name in names}

    # --------------------------------------------------------------------------------------------- from start to end

    def load(self):
        """Opens the bundles and measures their models. Raises UserError if one cannot be served."""
        settings = self.settings
        set_up_log()
        if settings.log_format == json_log.JSON:
            json_log.write_json()
        for line in describe(settings):
            logger.info(line)
        self.batcher = Batcher(
            settings.batch_tokens, settings.queue_tokens, settings.batching, self.metrics.observe_run
        )
        self.reader = Reader(self.limits, self.batcher, self._patience)
        self.counts = PredictionCounts(settings.metric_labels)
        for name, folder in settings.bundle:
            self._open(name, folder)
        self.first = next(iter(self.bundles.values()))
        self.by_task = {served.task: served for served in reversed(self.bundles.values())}
        self._take_shares()
        self.metrics.watch(self.batcher, self.bundles, self.counts)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def _open(self, name, folder):
        settings = self.settings
        # A search that outlasts its request would otherwise keep the process from ending in time.
        search_seconds = min(CLOSING_SECONDS, settings.deadline_seconds / 2)
        predictor = open_predictor(
            folder,
            settings.variant,
            settings.device,
            settings.device_id,
            settings.num_threads,
            spin=False,
            timeout=search_seconds,
        )
        predictor.log()
        self.bundles[name] = Served(name, predictor, self.batcher, self.limits, self.metrics, settings.keep_previous)

    def _take_shares(self):
        """Reads --split. Raises UserError if its bundles do not answer the same route."""
        split = self.settings.split
        routes = {self.bundles[name].route for name in split or ()}
        if len(routes) > 1:
            raise UserError(
                tr(
                    "--split {split}: these bundles answer different routes ({routes}); none can answer for another",
                    split=",".join(split),
                    routes=", ".join(sorted(routes)),
                )
            )
        self.shares = {self.bundles[name].task: Shares(split) for name in list(split or ())[:1]}

    def _watch(self):
        while not self._end.wait(LOOK_SECONDS):
            for served in self.bundles.values():
                served.look()

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
        self._end.set()
        self.batcher.close(0.5)  # accepted requests are answered or expired by now; a run that hangs is abandoned
        self.reading.close()
        self.writing.close()
        for served in self.bundles.values():
            served.close()

    def choose(self, task, parameters):
        """The `Served` that answers a request to the route of a task. Raises Invalid if it names another."""
        name = parameters.bundle
        if name is None and task in self.shares:
            name = self.shares[task].pick(parameters.split_id)
        served = self.by_task[task] if name is None else self.bundles.get(name)
        if served is None:
            raise Invalid(
                tr("parameters.bundle: no bundle has this name; known are {bundles}", bundles=", ".join(self.bundles))
            )
        if served.task != task:
            raise Invalid(tr("parameters.bundle: {name} answers at {route}; POST there", name=name, route=served.route))
        return served

    def info_of(self, served):
        """The answer of `/info` about a `Served`, with the versions of all."""
        bundles = [served.describe_versions() for served in self.bundles.values()]
        return {**served.describe(), "limits": self.limits, "bundles": bundles, "split": self.settings.split}

    def check_alive(self):
        """Raises Closed if no request can be accepted, whatever the load."""
        if self.draining or not self.batcher.alive:
            raise Closed
        _check_any(served.check_alive for served in self.bundles.values())

    def check_task(self, task):
        """Raises Full or Closed if no bundle of a task accepts a request now."""
        _check_any(served.check for served in self.bundles.values() if served.task == task)

    def check(self):
        """Raises Full or Closed if no request can be accepted now, whatever it contains."""
        if self.draining or not self.batcher.alive:
            raise Closed
        if self.requests >= self.settings.max_requests:
            raise Full(1)
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
    async def admit(self, pieces, check=lambda: None):
        """Receives a request and yields its body; within the block it counts as accepted.

        Args:
            pieces: async iterator of bytes.
            check: raises Full or Closed if no bundle that may answer accepts a request.
        Raises:
            Full, Closed: before the body arrives, or once it has; TooSlow; whatever `pieces` raises.
        """
        self.check()
        check()
        body, seconds = bytearray(), self.settings.receive_seconds
        try:
            try:
                await asyncio.wait_for(self._receive(pieces, body), seconds)
            except asyncio.TimeoutError:
                text = tr(
                    "the request did not arrive within {seconds:g} s; send it faster, or send less", seconds=seconds
                )
                raise TooSlow(text) from None
            self.check()  # again, since the body took its time
            check()
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

    async def answer(self, task, body, record, ran):
        """The answer to the body of a request, bytes of JSON.

        Args:
            task: of the route.
            record: dict that receives what may be logged about the request.
            ran: asyncio.Event, set once the model has run all texts.
        Raises:
            Invalid, Full, Closed; whatever the model raises. CancelledError, or Full if the model did nothing for it.
        """
        job, seconds = None, self.settings.deadline_seconds
        until = time.monotonic() + seconds
        try:
            self._check_wait()  # again, as others may have come meanwhile; from here on its body counts
            with step("read"), self.reading.work(len(body)) as do:
                most = self.limits["max_texts"], self.limits["max_characters"]
                texts, parameters = await do(len(body), parse, body, *most)
                record.update(texts=len(texts), characters=sum(map(len, texts)))
                served = self.choose(task, parameters)
                served.check()
                version = served.version  # kept to the end, even if the bundle changes meanwhile
                record.update(bundle=served.name, version=version.name)
                asked = await self.reader.read(texts, parameters, version, record, until, do)
            if time.monotonic() > until - seconds / 4:  # too late, even if nothing waits for the model
                raise Full(self.reading.seconds)
            job = self.batcher.submit(version.model, asked.rows, parameters.batch_size, self._patience(until))
            with self.writing.work(len(asked.rows) * version.model.columns) as do:
                with step("model"):
                    outputs = await asyncio.wrap_future(job)
                ran.set()
                with step("write"):
                    return await self._write(outputs, asked, served, version.predictor, do)
        except asyncio.CancelledError:
            if job and job.begun:
                raise
            raise Full(self.reading.seconds) from None

    async def _write(self, outputs, asked, served, predictor, do):
        """The answer in JSON, from the model's outputs."""
        size, windows = outputs.size, asked.windows
        if served.lookup:
            parts = []
            for start in range(0, len(outputs), ROWS_PER_SEARCH):
                rows = slice(start, start + ROWS_PER_SEARCH)
                searched = served.name, predictor, outputs[rows], asked, rows
                parts.append(await served.lookup.run(self._labels_of, *searched))
            found = [one for part, _ in parts for one in part]
            more = {name: [row for _, fields in parts for row in fields[name]] for name in parts[0][1]}
        elif windows is None:
            found, more = await do(size, self._labels_of, served.name, predictor, outputs, asked)
        else:
            pooled = await do(size, pool, outputs, windows.counts, windows.pooling)
            found, more = await do(size, self._labels_of, served.name, predictor, pooled, asked)
            more |= await do(size, window_fields, outputs, asked, found)
        self.metrics.texts.inc(len(found))
        self.metrics.windows.inc(len(outputs))
        return await do(size, encode_answer, found, predictor.labels.names, more)

    def _labels_of(self, name, predictor, outputs, asked, rows=slice(None)):
        """(`numbers_of`, `score_fields`) of the texts of a request, or of some of its rows, which are counted.

        name: of the bundle.
        """
        parameters = asked.parameters
        calibrated, predicted = decided(predictor, outputs, parameters.prob_limit)
        if parameters.prob_limit is None and parameters.max_seq_len is None:  # else they are those of another model
            counted = tokens_of(asked.rows[rows], asked.windows, getattr(predictor.tokenizer, "unk_id", None))
            self.counts.add(name, predictor.bundle, calibrated, predicted, counted)
        return numbers_of(calibrated, predicted), score_fields(calibrated, parameters, predictor.labels.names)


def _check_any(checks):
    """Calls functions until one does not raise Full or Closed; raises the last of their exceptions if all do."""
    problem = None
    for check in checks:
        try:
            return check()
        except (Full, Closed) as error:
            problem = error
    raise problem
