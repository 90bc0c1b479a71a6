"""What a server predicts, counted as `reference.json` counts it: metrics to watch, and for analysis/drift.py --metrics.

Bounded: one series for each label up to a limit, the others together, and only for the latest versions of the bundle.
"""

import threading
from itertools import accumulate

import numpy as np
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from text_cls.reference import (
    BINS,
    DECIDED,
    LABELS_METRIC,
    LENGTHS,
    LENGTHS_METRIC,
    OTHER,
    SCORES_METRIC,
    TEXTS_METRIC,
    TOKENS_METRIC,
    UNKNOWN_METRIC,
    VERSION_DIGITS,
    WITHOUT_METRIC,
    Counts,
)

VERSIONS = 3  # of a bundle, the latest; each index that index.py writes is one


class PredictionCounts:
    """Counts the predictions of each version of the served bundles; a collector of prometheus_client.

    labels: most labels that get a series of their own, those first in label.txt.
    """

    def __init__(self, labels):
        self._most, self._lock = labels, threading.Lock()
        self._versions = {}  # {name of a bundle: {version: (names of the labels, Counts)}}, the latest last

    def add(self, name, bundle, calibrated, predicted, tokens):
        """Counts texts.

        Args:
            name: of the bundle.
            bundle: the `Bundle` that predicted them.
            calibrated, predicted: as in `Counts.add_predictions`.
            tokens: of `reference.token_counts`.
        """
        version, names = bundle.digest[:VERSION_DIGITS], bundle.labels.names
        counts = Counts.none(len(names), by_label=False)  # outside the lock: this is the work
        counts.add_predictions(calibrated, predicted)
        counts.add_tokens(*tokens)
        with self._lock:
            versions = self._versions.setdefault(name, {})
            _, before = versions.setdefault(version, (names, Counts.none(len(names), by_label=False)))
            before.add(counts)
            while len(versions) > VERSIONS:
                del versions[next(iter(versions))]

    def collect(self):
        """The metric families, as prometheus_client asks for them."""
        tags = ["bundle", "version"]
        families = {
            TEXTS_METRIC: CounterMetricFamily(TEXTS_METRIC, "Texts whose predictions are counted below", labels=tags),
            WITHOUT_METRIC: CounterMetricFamily(WITHOUT_METRIC, "Those of them without a label", labels=tags),
            TOKENS_METRIC: CounterMetricFamily(TOKENS_METRIC, "Tokens read of them", labels=tags),
            UNKNOWN_METRIC: CounterMetricFamily(UNKNOWN_METRIC, "Tokens unknown to the model", labels=tags),
            LABELS_METRIC: CounterMetricFamily(LABELS_METRIC, "Texts with each label", labels=[*tags, "label"]),
            SCORES_METRIC: HistogramMetricFamily(
                SCORES_METRIC,
                "Probabilities of labels that are predicted, or not (rest)",
                labels=[*tags, "decided"],
            ),
            LENGTHS_METRIC: HistogramMetricFamily(LENGTHS_METRIC, "Tokens read of a text", labels=tags),
        }
        with self._lock:
            for name, versions in self._versions.items():
                for version, (names, counts) in versions.items():
                    self._fill(families, [name, version], names, counts)
        return families.values()

    def _fill(self, families, tags, names, counts):
        """Adds the samples of one version."""
        families[TEXTS_METRIC].add_metric(tags, counts.rows)
        families[WITHOUT_METRIC].add_metric(tags, counts.without_label)
        families[TOKENS_METRIC].add_metric(tags, counts.tokens)
        families[UNKNOWN_METRIC].add_metric(tags, counts.unknown)
        for name, count in zip(names[: self._most], counts.labels.tolist()):
            families[LABELS_METRIC].add_metric([*tags, name], count)
        if len(names) > self._most:
            rest = int(counts.labels[self._most :].sum())
            families[LABELS_METRIC].add_metric([*tags, OTHER], rest)
        for decided, scores in zip(DECIDED, counts.scores[:, :, 0].tolist()):
            ends = [*map(str, BINS), "+Inf"]
            buckets = [*zip(ends, accumulate([*scores, 0]))]
            families[SCORES_METRIC].add_metric([*tags, decided], buckets, sum_value=None)
        ends = [*(str(float(end)) for end in LENGTHS), "+Inf"]
        families[LENGTHS_METRIC].add_metric(tags, [*zip(ends, accumulate(counts.lengths.tolist()))], counts.tokens)


def tokens_of(rows, windows, unk_id):
    """What `Counts.add_tokens` takes, of the token ids of each text, or of each of the `Windows` of texts."""
    lengths = np.array([*map(len, rows)], dtype=np.int64)
    unknown = 0 if unk_id is None else sum(int((row == unk_id).sum()) for row in rows)
    return lengths if windows is None else windows.lengths, int(lengths.sum()), unknown
