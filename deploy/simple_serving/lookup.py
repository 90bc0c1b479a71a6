"""The index of a served retrieval bundle: searched in threads of its own, renewed when index.py has changed it.

Neither a search nor a reading of files holds up the event loop or the model. Where the index is a Milvus that does not
answer, requests are refused at once until it does again.
"""

import asyncio
import json
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from batcher import Closed, Full
from text_cls.bundle import MANIFEST
from text_cls.cli import UserError, logger
from text_cls.search.index import IndexUnavailable

THREADS = {"embedded": 1, "milvus": 8}  # one keeps a core busy with an index in memory; others wait for a server
LOOK_SECONDS = 1.0  # between two looks at the bundle's manifest and at a Milvus
DOWN = "the index of labels does not answer"


class Unavailable(Closed):
    """The index does not answer. The text is for the client."""


class Lookup:
    """Searches for requests, and follows the bundle's folder.

    `predictor`: the `RetrievalPredictor` that answers now. `answers`: whether its index did when it was last asked.

    Args:
        predictor: its index is open.
        patience: seconds that a request may be expected to wait for its search; beyond, it is refused.
        metrics: `Metrics`, told of searches and of changes taken up.
    """

    def __init__(self, predictor, patience, metrics):
        self.predictor, self.answers = predictor, True
        self._patience, self._metrics = patience, metrics
        self._pools = {kind: ThreadPoolExecutor(count, kind) for kind, count in THREADS.items()}
        self._waiting, self._seconds = 0, 0.0  # requests here; of a search, the older ones counting less
        # Of the manifest: its path, as it was when it was last read, and when what is wrong with it was last told.
        self._manifest, self._seen, self._told = os.path.join(predictor.bundle.folder, MANIFEST), None, None
        self._read = None, None  # a manifest as it was, and its bundle, whose Milvus did not answer yet
        self._end, self._change = threading.Event(), threading.Lock()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def check_alive(self):
        """Raises Unavailable where the index did not answer when it was last asked."""
        if not self.answers:
            raise Unavailable(DOWN)

    def check(self):
        """Raises Full where a request would wait too long for its search."""
        late = self._waiting * self._seconds / THREADS[self._kind] - self._patience
        if late > 0:
            raise Full(math.ceil(late))

    async def run(self, function, *args):
        """What a function gives that searches the index. Raises Unavailable where the index did not answer it."""
        self._waiting += 1
        try:
            pool = self._pools[self._kind]
            return await asyncio.get_running_loop().run_in_executor(pool, self._timed, function, *args)
        finally:
            self._waiting -= 1

    def close(self):
        self._end.set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _kind(self):
        """Of the index that answers now: index.py may have built another."""
        return self.predictor.bundle.manifest["index"]["kind"]

    def _timed(self, function, *args):
        self.check_alive()  # it may have failed others while this one waited
        start = time.perf_counter()
        try:
            return function(*args)
        except UserError as error:
            self._set_answers(False, error)
            raise Unavailable(DOWN) from error
        finally:
            seconds = time.perf_counter() - start
            self._seconds += (seconds - self._seconds) / 8
            self._metrics.search_seconds.observe(seconds)

    # --------------------------------------------------------------------------------------------- the watching thread

    def _watch(self):
        while not self._end.wait(LOOK_SECONDS):
            self._renew()
            if self._kind == "milvus" or not self.answers:
                self._ask()

    def _ask(self):
        try:
            _try(self.predictor)
        except Exception as error:  # whatever it is, this thread goes on watching
            self._set_answers(False, error)
        else:
            self._set_answers(True)

    def _set_answers(self, answers, error=None):
        with self._change:  # several searches may fail at a time
            turned, self.answers = answers != self.answers, answers
        if turned:
            logger.warning("The index answers again" if answers else f"The index does not answer: {error}")

    def _renew(self):
        """Takes up what index.py has written. What cannot be read is told once, and what was there before goes on."""
        stamp = _stamp(self._manifest)
        if stamp in (None, self._seen):  # None: the folder is just being replaced
            return
        fresh = fault = None
        try:
            with open(self._manifest, encoding="utf-8") as file:
                changed = json.load(file) != self.predictor.bundle.manifest
            if changed:
                # Every file of a bundle is read to open it: not each time that its Milvus is asked anew.
                fresh = self._read[1] if self._read[0] == stamp else self.predictor.reopened()
                self._read = stamp, fresh
                _try(fresh)
        except Exception as error:  # whatever it is, the server goes on with what it has
            fault = error
        if _stamp(self._manifest) != stamp:  # replaced while it was read, perhaps a file of each: next time
            return
        if not isinstance(fault, IndexUnavailable):  # which may come back without another change
            self._seen, self._read = stamp, (None, None)
        if fault:
            self._tell(stamp, fault)
        elif fresh:
            self._take(fresh)

    def _tell(self, stamp, fault):
        if stamp != self._told:
            self._told = stamp
            self._metrics.renewals.labels("failed").inc()
            what = fault if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"
            logger.error("The changed bundle is not taken up, that of before serves on: %s", what)

    def _take(self, fresh):
        before, after = set(self.predictor.labels.names), set(fresh.labels.names)
        self.predictor = fresh
        self._set_answers(True)
        self._metrics.renewals.labels("done").inc()
        logger.info(
            "The changed bundle is taken up: %d labels, %d new and %d gone",
            len(after),
            len(after - before),
            len(before - after),
        )


def _try(predictor):
    """Raises what keeps the index of a predictor from being searched."""
    predictor.probabilities_of(np.eye(1, predictor.columns, dtype=np.float32))


def _stamp(path):
    """What changes when a file is replaced; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
