"""A served bundle: the version that answers, the one before, and what its folder holds by now.

A bundle that changes on disk is verified, opened and warmed up beside the one in use, and then answers all requests
that arrive from then on. Those that have been accepted end with the version they began with, whose memory is freed
after the last of them. A bundle that cannot be loaded is logged and ignored.
"""

import json
import os
import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from answers import decided, encode_answer, numbers_of
from batcher import Closed, Model
from lookup import Lookup
from text_cls.bundle import MANIFEST, RETRIEVAL
from text_cls.cli import UserError, logger
from text_cls.files import folder_stamp
from text_cls.language import tr
from text_cls.reference import VERSION_DIGITS
from text_cls.search.index import IndexUnavailable
from text_cls.serving.predictor import Predictor

HIERARCHICAL, MULTI_LABEL = "hierarchical", "multi_label"
ROUTES = {
    HIERARCHICAL: "/models/cls_hierarchical",
    MULTI_LABEL: "/models/cls_multi_label",
    RETRIEVAL: "/models/retrieval",
}
DEFAULT_LONGEST = 8192  # maximum tokens per text, for a model without a maximum of its own
EXAMPLE = ["台风登陆，学校停课一天", "今日大盘下跌2%，央行发布金融数据"]  # in the API documentation
WARM_UP_TOKENS = 64  # of the row on which runs are measured
ATTEMPTS = 5  # to load a folder that changes while it is read
ROUNDS = 2  # of measurements of a model that is loaded while others serve; 5 at the start


@dataclass(eq=False)
class Version:
    """One state of a bundle, ready to answer."""

    predictor: Predictor
    model: Model
    example: tuple[dict, dict] = None  # a request and its answer, for the API documentation

    @property
    def name(self):
        return self.predictor.bundle.digest[:VERSION_DIGITS]

    @property
    def longest(self):
        """Maximum tokens per text."""
        return self.predictor.longest or DEFAULT_LONGEST

    @cached_property
    def task(self):
        if self.predictor.kind == RETRIEVAL:
            return RETRIEVAL
        return HIERARCHICAL if self.predictor.labels.hierarchical else MULTI_LABEL


class Served:
    """A bundle under its name.

    `version`: the `Version` that answers. `previous`: the one before, or None. `task`, `route`: they never change.

    Args:
        predictor: open.
        batcher: runs its model.
        limits: of a request, as in `/info`.
        metrics: counts changes and searches.
        keep_previous: whether `rollback` is possible; two versions are then in memory.
    """

    def __init__(self, name, predictor, batcher, limits, metrics, keep_previous=True):
        self.name, self._batcher, self._limits, self._metrics = name, batcher, limits, metrics
        self._keep_previous, self.previous = keep_previous, None
        self.version = self._ready(predictor, rounds=5, log=True)
        self.task, self.route = self.version.task, ROUTES[self.version.task]
        self._folder = predictor.bundle.folder
        self._seen, self._reported = None, None  # stamps of the folder: last read; last reported as faulty
        self._read = None, None  # stamp of a folder and its version, while its Milvus does not answer
        self._left = None  # manifest that `rollback` left, which a change of nothing but times must not bring back
        self._change = threading.Lock()
        self.lookup = None  # for retrieval bundles only
        if self.task == RETRIEVAL:
            self.lookup = Lookup(lambda: self.version.predictor, limits["deadline_seconds"] / 4, metrics)

    def check_alive(self):
        """Raises Closed if its index did not answer last time."""
        if self.lookup:
            self.lookup.check_alive()

    def check(self):
        """Raises Full or Closed if no request can be accepted now."""
        if self.lookup:
            self.lookup.check_alive()
            self.lookup.check()

    def close(self):
        if self.lookup:
            self.lookup.close()

    def describe_versions(self):
        """Its name and route, and the versions in memory, by the first digits of the SHA-256 of their manifests."""
        previous = self.previous.name if self.previous else None
        return {"name": self.name, "version": self.version.name, "previous": previous, "route": self.route}

    def describe(self):
        """What `/info` says about it."""
        predictor = self.version.predictor
        return {
            **self.describe_versions(),
            "task": self.task,
            "labels": predictor.labels.names,
            "model": predictor.bundle.manifest["model"],
            "bundle": predictor.bundle.digest,
            "thresholds": np.broadcast_to(predictor.decision.threshold, len(predictor.labels)).tolist(),
            "max_seq_len": predictor.max_seq_length,
            "long_texts": predictor.long_texts.record(),
        }

    # ------------------------------------------------------------------------------------------------ its versions

    def look(self):
        """Loads the folder if it has changed, and asks an index that may be down. Called every second."""
        with self._change:
            if self._stamp() not in ((), self._seen):  # (): the folder is being replaced
                self._renew()
        if self.lookup:
            self.lookup.look()

    def reload(self):
        """Loads what is in the folder, even if it was read before. Returns whether it differs from what was served.

        Raises:
            UserError: it could not be loaded; the previous version still answers.
            Closed: the server is stopping.
        """
        with self._change:
            before, self._left = self.version, None
            for _ in range(ATTEMPTS):
                done, failure = self._renew()
                if isinstance(failure, UserError | Closed):
                    raise failure
                if failure:
                    raise UserError(_described(failure))
                if done:
                    return self.version is not before
        raise UserError(
            tr("{folder} changes again and again while it is read; wait until it has been written", folder=self._folder)
        )

    def rollback(self):
        """Puts the previous version back; what is in the folder is not loaded again until it is another bundle.

        Raises:
            UserError: there is none, or its index has no earlier state.
        """
        with self._change:
            if self.previous is None:
                raise UserError(
                    tr("bundle {name} has no previous version in memory; nothing was changed", name=self.name)
                )
            if (self.previous.predictor.bundle.manifest.get("index") or {}).get("kind") == "milvus":
                raise UserError(
                    tr("the index of bundle {name} is in Milvus, which keeps no earlier state of it", name=self.name)
                )
            left = self.version.predictor.bundle.manifest
            self._use(self.previous)
            self._left = left

    def _stamp(self):
        try:
            return folder_stamp(self._folder)
        except OSError:  # a folder above it cannot be read at present
            return ()

    def _renew(self):
        """Loads what the folder holds if it is not served. Logs a failure once, and keeps what is in use.

        Returns:
            (whether the folder has been read in one state, the exception that kept it from being loaded or None).
        """
        stamp, fresh, failure = self._stamp(), None, None
        try:
            with open(os.path.join(self._folder, MANIFEST), encoding="utf-8") as file:
                manifest = json.load(file)
            if manifest not in (self.version.predictor.bundle.manifest, self._left):
                # Opening a bundle reads all its files; retrying its Milvus must not read them again.
                fresh = self._read[1] if self._read[0] == stamp else self._opened()
                self._read = stamp, fresh
                if self.lookup:
                    self.lookup.try_out(fresh.predictor)
        except Exception as error:  # of any kind: the server keeps using what it has
            failure = error
        if self._stamp() != stamp:  # written to while it was read, so that files may be mixed: next time
            return False, None
        if not isinstance(failure, IndexUnavailable):  # which may end without another change of the folder
            self._seen, self._read = stamp, (None, None)
        if failure:
            self._report(stamp, failure)
        elif fresh:
            self._use(fresh)
        return True, failure

    def _opened(self):
        """A `Version` of what is in the folder, ready to answer."""
        fresh = self._ready(self.version.predictor.reopened(self._forget_previous), ROUNDS)
        if fresh.task != self.task:
            raise UserError(
                tr(
                    "{folder} has labels of another kind ({now}, not {before}), for which clients would need another "
                    "route; restart to serve it",
                    folder=self._folder,
                    now=fresh.task,
                    before=self.task,
                )
            )
        return fresh

    def _forget_previous(self):
        """Frees the memory of the previous version: no more than two are ever in memory, besides requests' own."""
        self.previous = None

    def _ready(self, predictor, rounds, log=False):
        """A `Version` of a predictor, whose model has run."""
        model = Model(lambda rows: predictor.run(predictor.pack(rows), [np.arange(len(rows))]), predictor.columns)
        used = getattr(self, "version", None)
        if used and predictor.session is used.predictor.session:
            model.take_speed(used.model)
        else:
            length = min(WARM_UP_TOKENS, predictor.max_seq_length)
            row = predictor.tokenizer.encode(["预热" * WARM_UP_TOKENS], length)[0]
            costs = self._batcher.warm_up(model, row, rounds)
            if log:
                shown = ", ".join(f"{n}: {1000 * s:.1f} ms" for n, s in costs.items())
                logger.info("Time per run, by tokens: %s", shown)
        return Version(predictor, model, self._batcher.between_runs(self._example, predictor))

    def _example(self, predictor):
        """A request within the limits, and its answer by a predictor."""
        texts = [text[: self._limits["max_characters"]] for text in EXAMPLE[: self._limits["max_texts"]]]
        outputs = predictor.run(predictor.encode(texts))
        answer = json.loads(encode_answer(numbers_of(*decided(predictor, outputs, None)), predictor.labels.names, {}))
        return {"data": {"text": texts}}, answer

    def _report(self, stamp, failure):
        if stamp != self._reported:
            self._reported = stamp
            self._metrics.renewals.labels(self.name, "failed").inc()
            logger.error(
                "The changed bundle was not loaded; still serving the previous one: %s (bundle %s)",
                _described(failure),
                self.name,
            )

    def _use(self, fresh):
        before, after = set(self.version.predictor.labels.names), set(fresh.predictor.labels.names)
        self.previous = self.version if self._keep_previous else None
        self.version, self._left = fresh, None
        if self.lookup:
            self.lookup.set_answers(True)
        self._metrics.renewals.labels(self.name, "done").inc()
        logger.info(
            "Now serving the changed bundle: %d labels, %d added, %d removed (bundle %s, version %s)",
            len(after),
            len(after - before),
            len(before - after),
            self.name,
            fresh.name,
        )


def _described(failure):
    return str(failure) if isinstance(failure, UserError) else f"{type(failure).__name__}: {failure}"
