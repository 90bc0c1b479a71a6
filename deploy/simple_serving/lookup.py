"""The index of a served retrieval bundle: searched in its own threads, reloaded when index.py has changed it.

Neither searching nor reading files blocks the event loop or the model. While an index in Milvus does not answer,
requests are refused at once.
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

THREADS = {"embedded": 1, "milvus": 8}  # a search in memory keeps a core busy; one in Milvus waits for a server
LOOK_SECONDS = 1.0  # between two checks of the bundle's manifest and of Milvus
DOWN = "the index of labels does not answer"


class Unavailable(Closed):
    """The index does not answer. The message is for the client."""


class Lookup:
    """Searches for requests, and watches the bundle's folder.

    `predictor`: the `RetrievalPredictor` that answers now. `answers`: whether its index answered last time.

    Args:
        predictor: its index is open.
        patience: seconds; a request that would wait longer for its search is refused.
        metrics: `Metrics` that count searches and reloads.
    """

    def __init__(self, predictor, patience, metrics):
        self.predictor, self.answers = predictor, True
        self._patience, self._metrics = patience, metrics
        self._pools = {kind: ThreadPoolExecutor(count, kind) for kind, count in THREADS.items()}
        self._waiting, self._seconds = 0, 0.0  # requests waiting; time of a search, older searches counting less
        self._manifest = os.path.join(predictor.bundle.folder, MANIFEST)
        self._seen, self._reported = None, None  # stamps of the manifest: last read; last reported as faulty
        self._read = None, None  # stamp of a manifest and its predictor, while its Milvus does not answer
        self._end, self._change = threading.Event(), threading.Lock()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def check_alive(self):
        """Raises Unavailable if the index did not answer last time."""
        if not self.answers:
            raise Unavailable(DOWN)

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
        self._end.set()
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _kind(self):
        """The kind of the index that answers now; index.py may replace it with one of the other kind."""
        return self.predictor.bundle.manifest["index"]["kind"]

    def _timed(self, function, *args):
        self.check_alive()  # other searches may have failed while this one waited
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
        except Exception as error:  # of any kind: this thread must keep watching
            self._set_answers(False, error)
        else:
            self._set_answers(True)

    def _set_answers(self, answers, error=None):
        with self._change:  # several searches may fail at once
            changed, self.answers = answers != self.answers, answers
        if changed:
            logger.warning("The index answers again" if answers else f"The index does not answer: {error}")

    def _renew(self):
        """Loads what index.py has written. If that fails, logs it once and keeps what is in use."""
        stamp = _stamp(self._manifest)
        if stamp in (None, self._seen):  # None: the folder is being replaced
            return
        fresh = failure = None
        try:
            with open(self._manifest, encoding="utf-8") as file:
                changed = json.load(file) != self.predictor.bundle.manifest
            if changed:
                # Opening a bundle reads all its files; retrying its Milvus must not read them again.
                fresh = self._read[1] if self._read[0] == stamp else self.predictor.reopened()
                self._read = stamp, fresh
                _try(fresh)
        except Exception as error:  # of any kind: the server keeps using what it has
            failure = error
        if _stamp(self._manifest) != stamp:  # replaced while it was read, so that files may be mixed: next time
            return
        if not isinstance(failure, IndexUnavailable):  # which may end without another change of the manifest
            self._seen, self._read = stamp, (None, None)
        if failure:
            self._report(stamp, failure)
        elif fresh:
            self._use(fresh)

    def _report(self, stamp, failure):
        if stamp != self._reported:
            self._reported = stamp
            self._metrics.renewals.labels("failed").inc()
            what = failure if isinstance(failure, UserError) else f"{type(failure).__name__}: {failure}"
            logger.error("The changed bundle was not loaded; still serving the previous one: %s", what)

    def _use(self, fresh):
        before, after = set(self.predictor.labels.names), set(fresh.labels.names)
        self.predictor = fresh
        self._set_answers(True)
        self._metrics.renewals.labels("done").inc()
        logger.info(
            "Now serving the changed bundle: %d labels, %d added, %d removed",
            len(after),
            len(after - before),
            len(before - after),
        )


def _try(predictor):
    """Searches the index of a predictor once, so that an error shows."""
    predictor.probabilities_of(np.eye(1, predictor.columns, dtype=np.float32))


def _stamp(path):
    """Values that change when a file is replaced, or None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
