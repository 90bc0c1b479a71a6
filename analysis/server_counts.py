"""The counts of a server, read from its metrics: from a file, or from the address that the user names."""

import os
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import numpy as np

from text_cls.cli import UserError, shorten
from text_cls.language import reason_of, tr
from text_cls.reference import (
    BINS,
    DECIDED,
    LABELS_METRIC,
    LENGTHS,
    LENGTHS_METRIC,
    SCORES_METRIC,
    TEXTS_METRIC,
    TOKENS_METRIC,
    UNKNOWN_METRIC,
    WITHOUT_METRIC,
    Counts,
)

LARGEST = 16 << 20  # bytes
SECONDS = 10
KEY = "TEXT_CLS_API_KEY"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to the host that the user named, and to no other."""

    def redirect_request(self, *_):
        return None


def is_address(place):
    return place.startswith(("http://", "https://"))


def read_metrics(place):
    """The text of a server's metrics. place: address, or path of a file. Raises UserError if there is none to read."""
    if not is_address(place):
        try:
            with open(place, "rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            raise UserError(
                tr(
                    "--metrics {place}: {error}; name a file, or http://HOST:PORT/metrics",
                    place=place,
                    error=reason_of(error),
                )
            ) from error
    else:
        content = _fetch(place)
    if len(content) > LARGEST:
        raise UserError(
            tr(
                "--metrics {place}: more than {largest} MiB; is this the metrics of server.py?",
                place=place,
                largest=LARGEST >> 20,
            )
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            tr("--metrics {place}: no text in UTF-8; is this the metrics of server.py?", place=place)
        ) from error


def _fetch(address):
    if urlsplit(address).path in ("", "/"):
        address = address.rstrip("/") + "/metrics"
    headers = {"X-API-Key": os.environ[KEY]} if os.environ.get(KEY) else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(urllib.request.Request(address, headers=headers), timeout=SECONDS) as answer:
            return answer.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        hint = tr("; set the server's key as {key}", key=KEY) if error.code == 401 else ""
        raise UserError(f"--metrics {address} answers {error.code}{hint}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise UserError(
            tr("--metrics {address}: {why}; is the server running there?", address=address, why=why)
        ) from error


def server_counts(text, place, version, labels):
    """(`Counts`, numbers of the labels counted one by one) of a bundle in the text of a server's metrics.

    Args:
        place: where the text is from, for messages.
        version: of the bundle. labels: names of all labels.
    Raises:
        UserError: the text is none of a server's, or the server has not answered with this bundle.
    """
    from prometheus_client.parser import text_string_to_metric_families

    samples, versions = [], set()
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                versions |= {sample.labels.get("version")} if sample.name == f"{TEXTS_METRIC}_total" else set()
                if sample.labels.get("version") == version:
                    samples.append(sample)
    except ValueError as error:
        raise UserError(
            tr("--metrics {place}: not in Prometheus's text format; name the /metrics of server.py", place=place)
        ) from error
    if version not in versions:
        found = (
            tr("only of {versions}", versions=", ".join(sorted(versions))) if versions else tr("of no bundle at all")
        )
        raise UserError(
            tr(
                "--metrics {place} has counts {found}, not of the bundle {version}; name the bundle that is served, "
                "--bundle, and wait for the first answers",
                place=place,
                found=found,
                version=version,
            )
        )
    return _counted(samples, place, labels)


def _counted(samples, place, labels):
    """What `server_counts` returns, of the samples of one bundle."""
    counts, index = Counts.none(len(labels), by_label=False), {name: i for i, name in enumerate(labels)}
    single = {f"{name}_total": 0 for name in (TEXTS_METRIC, WITHOUT_METRIC, TOKENS_METRIC, UNKNOWN_METRIC)}
    known, scores, lengths = [], {name: {} for name in DECIDED}, {}
    try:
        for name, tags, value, *_ in samples:
            if name in single:
                single[name] = int(value)
            elif name == f"{LABELS_METRIC}_total" and tags["label"] in index:
                known.append(index[tags["label"]])
                counts.labels[known[-1]] = int(value)
            elif name == f"{SCORES_METRIC}_bucket":
                scores[tags["decided"]][float(tags["le"])] = int(value)
            elif name == f"{LENGTHS_METRIC}_bucket":
                lengths[float(tags["le"])] = int(value)
        for half, decided in enumerate(DECIDED):
            counts.scores[half, :, 0] = _bins(scores[decided], BINS)
        counts.lengths[:] = _bins(lengths, (*LENGTHS, float("inf")))
    except (KeyError, ValueError, OverflowError) as error:
        what = shorten(str(error).strip("'"))
        raise UserError(
            tr("--metrics {place}: the counts are not those of this version's server ({what})", place=place, what=what)
        ) from error
    counts.rows, counts.without_label, counts.tokens, counts.unknown = single.values()
    if counts.without_label > counts.rows or counts.lengths.sum() != counts.rows or (counts.labels > counts.rows).any():
        raise UserError(tr("--metrics {place}: the counts contradict each other; fetch them again", place=place))
    return counts, sorted(known)


def _bins(cumulated, ends):
    """Counts of each bin, of {upper end: count up to there}."""
    counts = np.diff([0, *(cumulated[end] for end in ends)])
    if (counts < 0).any():
        raise ValueError(tr("a histogram falls"))
    return counts
