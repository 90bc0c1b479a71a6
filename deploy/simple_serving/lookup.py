"""The index of a served retrieval bundle, searched in its own threads.

Searching blocks neither the event loop nor the model. While an index in Milvus does not answer, requests are refused at
once.
"""

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from batcher import Closed, Full
from text_cls.cli import UserError, logger
from text_cls.language import N_, tr

THREADS = {"embedded": 1, "milvus": 8}  # a search in memory keeps a core busy; one in Milvus waits for a server
DOWN = N_("the index of labels does not answer")


class Unavailable(Closed):
    """The index does not answer. The message is for the client."""


class Lookup:
    """Searches for requests.

    `answers`: whether the index answered last time.

    Args:
        predictor: returns the `RetrievalPredictor` that answers now, whose index is open.
        patience: seconds; a request that would wait longer for its search is refused.
        metrics: `Metrics` that count searches.
    """

    def __init__(self, predictor, patience, metrics):
        self._predictor, self.answers = predictor, True
        self._patience, self._metrics = patience, metrics
        self._pools = {kind: ThreadPoolExecutor(count, kind) for kind, count in THREADS.items()}
        self._waiting, self._seconds = 0, 0.0  # requests waiting; time of a search, older searches counting less
        self._change = threading.Lock()

    def check_alive(self):
        """Raises Unavailable if the index did not answer last time."""
        if not self.answers:
            raise Unavailable(tr(DOWN))

    def check(self):
        """Raises Full if a request would wait too long for its search."""
        late = self._waiting * self._seconds / THREADS[self._kind] - self._patience
        if late > 0:
            raise Full(math.ceil(late))

    async def run(self, function, *args):
        """The result of a function that searches the index. Raises Unavailable if the index does not answer."""
        self._waiting += 1
        try:
            pool = self._pools[self._kind]
            return await asyncio.get_running_loop().run_in_executor(pool, self._timed, function, *args)
        finally:
            self._waiting -= 1

    def close(self):
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _kind(self):
        """The kind of the index that answers now; index.py may replace it with one of the other kind."""
        return self._predictor().bundle.manifest["index"]["kind"]

    def _timed(self, function, *args):
        self.check_alive()  # other searches may have failed while this one waited
        start = time.perf_counter()
        try:
            return function(*args)
        except UserError as error:
            self.set_answers(False, error)
            raise Unavailable(tr(DOWN)) from error
        finally:
            seconds = time.perf_counter() - start
            self._seconds += (seconds - self._seconds) / 8
            self._metrics.search_seconds.observe(seconds)

    # --------------------------------------------------------------------------------------------- the watching thread

    def look(self):
        """Asks an index that may be down or come back. Called every second."""
        if self._kind != "milvus" and self.answers:
            return
        try:
            self.try_out(self._predictor())
        except Exception as error:  # of any kind: the thread must keep watching
            self.set_answers(False, error)
        else:
            self.set_answers(True)

    def set_answers(self, answers, error=None):
        with self._change:  # several searches may fail at once
            changed, self.answers = answers != self.answers, answers
        if changed:
            if answers:
                logger.warning("The index answers again")
            else:
                logger.warning("The index does not answer: %s", error)

    @staticmethod
    def try_out(predictor):
        """Searches the index of a predictor once, so that an error shows."""
        predictor.probabilities_of(np.eye(1, predictor.columns, dtype=np.float32))
