"""The served bundle: texts of one request in, its answer out. Tokens in one thread, the model in another."""

import asyncio
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from batcher import Batcher, Closed, Full
from lookup import Lookup
from metrics import Metrics
from schemas import LEAST_TOKENS, Invalid, parse
from settings import CLOSING_SECONDS, describe
from text_cls.bundle import RETRIEVAL
from text_cls.cli import logger, set_up_log
from text_cls.serving import open_predictor

HIERARCHICAL, MULTI_LABEL = "hierarchical", "multi_label"
ROUTES = {
    HIERARCHICAL: "/models/cls_hierarchical",
    MULTI_LABEL: "/models/cls_multi_label",
    RETRIEVAL: "/models/retrieval",
}
ANY_LENGTH = 8192  # tokens of a text where the model knows no maximum
SEARCHED = 32  # rows searched for at a time, for the same reason as the next
PART = 8192  # characters tokenised at a time, so that a small request waits for a part of a big one only
BODIES = 64  # largest bodies that may be in memory at a time
SMALL = 4096  # bytes of a request or entries of an answer that are no work worth another thread


class Service:
    """One bundle with its model, its threads and its figures.

    `draining`: SIGTERM has come, nothing new is accepted. `requests`: those accepted and not answered yet. `held`:
    bytes of bodies in memory.
    """

    def __init__(self, settings):
        self.settings, self.metrics = settings, Metrics()
        self.draining, self.requests, self.held = False, 0, 0
        self.lookup = None  # of a retrieval bundle
        self._tokeniser = ThreadPoolExecutor(1, "tokeniser")

    # --------------------------------------------------------------------------------------------- from start to end

    def load(self):
        """Opens the bundle and runs the model once as under load. UserError where that cannot be."""
        settings = self.settings
        set_up_log()
        for line in describe(settings):
            logger.info(line)
        # A search that outlasts its request would else keep the process from ending in time.
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
        self.longest = predictor.bundle.manifest["longest_input"] or ANY_LENGTH
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
        logger.info("A run of so many tokens takes: %s", ", ".join(f"{n}: {1000 * s:.1f} ms" for n, s in costs.items()))
        self.metrics.watch(batcher)
        self.batcher, self._predictor = batcher, predictor
        if self.task == RETRIEVAL:
            self.lookup = Lookup(predictor, settings.deadline_seconds / 4, self.metrics)

    def heed_signals(self):
        """From the first SIGTERM or SIGINT on nothing new is accepted; then what was to happen happens."""
        if threading.current_thread() is not threading.main_thread():  # a test's; signals come to the main thread
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def handle(number, frame):
            self.draining = True
            if callable(before[number]):
                before[number](number, frame)

        for number in before:
            signal.signal(number, handle)

    def close(self):
        self.draining = True
        self.batcher.close(0.5)  # what was accepted is answered, or its time is up: a run that hangs is left behind
        self._tokeniser.shutdown(wait=False, cancel_futures=True)
        if self.lookup:
            self.lookup.close()

    @property
    def predictor(self):
        """What answers now: of a retrieval bundle, the one of the start or what index.py has made of it since."""
        return self.lookup.predictor if self.lookup else self._predictor

    @property
    def info(self):
        """What `/info` tells."""
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
        """Raises Closed where no request could be accepted now, however little there is to do."""
        if self.draining or not self.batcher.alive:
            raise Closed
        if self.lookup:
            self.lookup.check_alive()

    def check(self):
        """Raises Full or Closed where a request could not be accepted now, whatever is in it."""
        self.check_alive()
        if self.requests >= self.settings.max_requests:
            raise Full(1)
        self.batcher.check()
        if self.lookup:
            self.lookup.check()

    @contextmanager
    def hold(self):
        """A bytearray for the body of a request, to be filled by `receive`."""
        body = bytearray()
        try:
            yield body
        finally:
            self.held -= len(body)

    def receive(self, body, piece):
        """Appends a piece to a body of `hold`. Raises Full where all bodies together take too much memory."""
        if self.held + len(piece) > BODIES * self.settings.max_body_bytes:
            raise Full(1)
        body += piece
        self.held += len(piece)

    @contextmanager
    def accept(self):
        """Counts a request that is there as a whole. Raises as `check` does."""
        self.check()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    # ------------------------------------------------------------------------------------------------ one request

    async def answer(self, body, record):
        """The answer to the body of a request, bytes of JSON.

        Args:
            record: dict that is given what may be logged of the request.
        Raises:
            Invalid, Full, Closed; whatever the model raises.
        """
        limits = self.limits["max_texts"], self.limits["max_characters"]
        texts, parameters = await self._work(len(body), parse, body, *limits)
        record.update(texts=len(texts), characters=sum(map(len, texts)))
        predictor = self.predictor  # this one to the end, whatever comes in its place meanwhile
        length = parameters.max_seq_len or predictor.max_seq_length
        if length > self.longest:
            raise Invalid(f"parameters.max_seq_len {length}: this model takes {self.longest} tokens at most")
        if length <= predictor.tokenizer.fixed:
            raise Invalid(
                f"parameters.max_seq_len {length}: {predictor.tokenizer.fixed} tokens are not the text's; give more"
            )
        rows = []
        for part in _parts(texts):
            # Awaited part by part: the tokeniser serves other requests in between, and a cancelled one ends here.
            rows += await self._work(SMALL, predictor.tokenizer.encode, part, length)
        record["tokens"] = tokens = sum(map(len, rows))
        if tokens > self.limits["queue_tokens"]:
            raise Invalid(
                f"{tokens} tokens, while {self.limits['queue_tokens']} may wait at a time; send the texts in several "
                "requests, or give a smaller parameters.max_seq_len"
            )
        outputs = await asyncio.wrap_future(self.batcher.submit(rows, parameters.batch_size))
        if self.lookup:
            found = []
            for start in range(0, len(outputs), SEARCHED):  # part by part, as tokens are made
                part = outputs[start : start + SEARCHED]
                found += await self.lookup.run(labels_of, predictor, part, parameters.prob_limit)
        else:
            found = await self._work(outputs.size, labels_of, predictor, outputs, parameters.prob_limit)
        self.metrics.texts.inc(len(texts))
        return await self._work(outputs.size, encode_answer, found, predictor.labels.names)

    async def _work(self, size, function, *args):
        """A function of some work: here where it is small, else in the tokeniser's thread."""
        if size < SMALL:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._tokeniser, function, *args)


def labels_of(predictor, outputs, prob_limit):
    """[(label numbers, their probabilities)] of rows, by what the model gave for them, an array [rows, columns]."""
    probabilities, decision = predictor.probabilities_of(outputs), predictor.decision
    if prob_limit is not None:
        decision = replace(decision, threshold=prob_limit)
    shown, found = decision.calibrated(probabilities), decision.decide(probabilities, predictor.labels.parents)
    numbers = [chosen.nonzero()[0] for chosen in found]
    return [(some.tolist(), row[some].tolist()) for row, some in zip(shown, numbers)]


def encode_answer(found, names):
    """An answer as bytes of JSON, of what `labels_of` gave, with names."""
    result = {
        "label": [numbers for numbers, _ in found],
        "confidence": [scores for _, scores in found],
        "label_name": [[names[i] for i in numbers] for numbers, _ in found],
    }
    return json.dumps({"result": result}, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _parts(texts):
    """Lists of neighbouring texts of about `PART` characters."""
    part, characters = [], 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if characters >= PART:
            yield part
            part, characters = [], 0
    if part:
        yield part
