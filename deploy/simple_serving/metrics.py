"""Prometheus metrics of one server, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from prediction_counts import VERSIONS

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
VERSION = ["bundle", "version"]
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry, "namespace": "text_cls"}
        self.requests = Counter(
            "requests", "Requests by route and status (499: the client left)", ["route", "status"], **own
        )
        self.seconds = Histogram(
            "request_seconds", "From a request's head to its answer", ["route"], buckets=SECONDS, **own
        )
        self.errors = Counter("errors", "Errors of the server (status 500)", **own)
        self.texts = Counter("texts", "Texts answered with labels", **own)
        self.windows = Counter("windows", "Windows of those texts; 1 of a text that is not read in windows", **own)
        self.under_way = Gauge("requests_under_way", "Requests received but not answered yet", **own)
        self.queue_texts = Gauge(
            "queue_texts", "Texts, or windows of them, that wait for the model or are being run", **own
        )
        self.queue_tokens = Gauge("queue_tokens", "Tokens that wait for the model or are being run", **own)
        self.batch_texts = Histogram(
            "batch_texts", "Texts, or windows of them, of one run of the model", buckets=TEXTS, **own
        )
        self.batch_tokens = Histogram("batch_tokens", "Tokens of one run, without padding", buckets=TOKENS, **own)
        self.run_seconds = Histogram("run_seconds", "Time of one run of the model", buckets=SECONDS, **own)
        self.search_seconds = Histogram(
            "search_seconds", "Time of one search in the index, for up to 32 texts", buckets=SECONDS, **own
        )
        self.renewals = Counter(
            "renewals", "Changes of a bundle that were loaded (done) or not (failed)", ["bundle", "result"], **own
        )
        self._answers = Counter(
            "answers", "Answers of a bundle, by its version and their status", [*VERSION, "status"], **own
        )
        self._answer_seconds = Histogram(
            "answer_seconds", "From a request's head to such an answer", VERSION, buckets=SECONDS, **own
        )
        self._versions = {}  # {name of a bundle: its versions that have answers, the latest last}

    def watch(self, batcher, bundles, counts):
        """Shows what waits, which versions of {name: `Served`} answer, and the `PredictionCounts`."""
        self.registry.register(InUse(bundles))
        self.registry.register(counts)
        self.queue_texts.set_function(lambda: batcher.texts)
        self.queue_tokens.set_function(lambda: batcher.tokens)

    def observe_run(self, texts, tokens, seconds):
        self.batch_texts.observe(texts)
        self.batch_tokens.observe(tokens)
        self.run_seconds.observe(seconds)

    def observe_answer(self, bundle, version, status, seconds):
        """Counts an answer. Only the latest versions of a bundle are kept, as each makes series of its own."""
        self._answers.labels(bundle, version, str(status)).inc()
        self._answer_seconds.labels(bundle, version).observe(seconds)
        versions = self._versions.setdefault(bundle, {})
        versions[version] = None
        while len(versions) > VERSIONS:
            oldest = next(iter(versions))
            del versions[oldest]
            for metric in (self._answers, self._answer_seconds):
                metric.remove_by_labels({"bundle": bundle, "version": oldest})

    def page(self):
        return generate_latest(self.registry)


class InUse:
    """Which version of each bundle answers; a collector of prometheus_client."""

    def __init__(self, bundles):
        self._bundles = bundles

    def collect(self):
        family = GaugeMetricFamily("text_cls_bundle_in_use", "1 for the version that answers", labels=VERSION)
        for name, served in self._bundles.items():
            family.add_metric([name, served.version.name], 1)
        return [family]
