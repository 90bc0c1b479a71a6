"""Prometheus metrics of one server, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
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
            "renewals", "Changes of the index that were loaded (done) or not (failed)", ["result"], **own
        )

    def watch(self, batcher):
        self.queue_texts.set_function(lambda: batcher.texts)
        self.queue_tokens.set_function(lambda: batcher.tokens)

    def observe_run(self, texts, tokens, seconds):
        self.batch_texts.observe(texts)
        self.batch_tokens.observe(tokens)
        self.run_seconds.observe(seconds)

    def page(self):
        return generate_latest(self.registry)
