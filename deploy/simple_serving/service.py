"""The served bundle: from the texts of a request to its answer. One thread tokenises, another runs the model."""

import asyncio
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np

from batcher import Batcher, Closed, Full
from lookup import Lookup
from metrics import Metrics
from schemas import LEAST_TOKENS, Invalid, parse
from settings import CLOSING_SECONDS, describe
from text_cls.bundle import RETRIEVAL
from text_cls.cli import logger, set_up_log, stop_signals
from text_cls.serving import open_predictor

HIERARCHICAL, MULTI_LABEL = "hierarchical", "multi_label"
ROUTES = {
    HIERARCHICAL: "/models/cls_hierarchical",
    MULTI_LABEL: "/models/cls_multi_label",
    RETRIEVAL: "/models/retrieval",
}
DEFAULT_LONGEST = 8192  # maximum tokens per text, for a model without a maximum of its own
ROWS_PER_SEARCH = 32  # small parts, so that a small request never waits for the whole search of a big one
CHARACTERS_PER_PART = 8192  # tokenised at a time, so that a small request never waits for the whole of a big one
MAX_BODIES = 64  # memory for request bodies, in bodies of the largest size
SMALL_WORK = 4096  # bytes of a request or numbers of an answer; less is done in place, as a thread would cost more


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
        self._tokeniser = ThreadPoolExecutor(1, "tokeniser")

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
            settings.deadline_seconds / 2,
            settings.batching,
            self.metrics.observe_run,
        )
        row = np.resize(predictor.tokenizer.encode(["预热"], LEAST_TOKENS)[0], min(64, predictor.max_seq_length))
        costs = batcher.warm_up(row)
        logger.info("Time per run, by tokens: %s", ", ".join(f"{n}: {1000 * s:.1f} ms" for n, s in costs.items()))
        self.metrics.watch(batcher)
        self.batcher, self._predictor = batcher, predictor
        if self.task == RETRIEVAL:
            self.lookup = Lookup(predictor, settings.deadline_seconds / 4, self.metrics)

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
        self._tokeniser.shutdown(wait=False, cancel_futures=True)
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
        self.batcher.check()
        if self.lookup:
            self.lookup.check()

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

    async def answer(self, body, record):
        """The answer to the body of a request, bytes of JSON.

        Args:
            record: dict that receives what may be logged about the request.
        Raises:
            Invalid, Full, Closed; whatever the model raises.
        """
        limits = self.limits["max_texts"], self.limits["max_characters"]
        texts, parameters = await self._work(len(body), parse, body, *limits)
        record.update(texts=len(texts), characters=sum(map(len, texts)))
        predictor = self.predictor  # kept to the end, even if the index changes meanwhile
        length = parameters.max_seq_len or predictor.max_seq_length
        if length > self.longest:
            raise Invalid(f"parameters.max_seq_len {length}: this model takes at most {self.longest} tokens")
        if length <= predictor.tokenizer.fixed:
            raise Invalid(
                f"parameters.max_seq_len {length}: {predictor.tokenizer.fixed} of them are special tokens; allow more"
            )
        rows = []
        for part in _parts(texts):
            # Awaited part by part: the tokeniser serves other requests in between, and a cancelled request ends here.
            rows += await self._work(SMALL_WORK, predictor.tokenizer.encode, part, length)
        record["tokens"] = tokens = sum(map(len, rows))
        if tokens > self.limits["queue_tokens"]:
            raise Invalid(
                f"{tokens} tokens, but at most {self.limits['queue_tokens']} may wait at a time; send the texts in "
                "several requests, or set a smaller parameters.max_seq_len"
            )
        outputs = await asyncio.wrap_future(self.batcher.submit(rows, parameters.batch_size))
        if self.lookup:
            found = []
            for start in range(0, len(outputs), ROWS_PER_SEARCH):
                part = outputs[start : start + ROWS_PER_SEARCH]
                found += await self.lookup.run(labels_of, predictor, part, parameters.prob_limit)
        else:
            found = await self._work(outputs.size, labels_of, predictor, outputs, parameters.prob_limit)
        self.metrics.texts.inc(len(texts))
        return await self._work(outputs.size, encode_answer, found, predictor.labels.names)

    async def _work(self, size, function, *args):
        """The result of a function: called here if the work is small, else in the tokeniser's thread."""
        if size < SMALL_WORK:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._tokeniser, function, *args)


def labels_of(predictor, outputs, prob_limit):
    """[(label numbers, their probabilities)] per row, from the model's outputs, an array [rows, columns]."""
    probabilities, decision = predictor.probabilities_of(outputs), predictor.decision
    if prob_limit is not None:
        decision = replace(decision, threshold=prob_limit)
    shown, found = decision.calibrated(probabilities), decision.decide(probabilities, predictor.labels.parents)
    numbers = [chosen.nonzero()[0] for chosen in found]
    return [(some.tolist(), row[some].tolist()) for row, some in zip(shown, numbers)]


def encode_answer(found, names):
    """The answer as bytes of JSON, from the result of `labels_of` and the names of all labels."""
    result = {
        "label": [numbers for numbers, _ in found],
        "confidence": [scores for _, scores in found],
        "label_name": [[names[i] for i in numbers] for numbers, _ in found],
    }
    return json.dumps({"result": result}, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _parts(texts):
    """Yields lists of consecutive texts with about `CHARACTERS_PER_PART` characters each."""
    part, characters = [], 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if characters >= CHARACTERS_PER_PART:
            yield part
            part, characters = [], 0
    if part:
        yield part
