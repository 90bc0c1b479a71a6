"""A cascade: a linear model answers the rows that it is sure of, and a neural model the others.

How sure the linear model is of a row is the distance, in logits, of the label that is nearest to its threshold. It
answers the rows whose distance reaches a limit, which is fitted to labelled rows so that F1 stays close to that of the
neural model alone (cascades by confidence: Viola and Jones 2001; of models of texts: Varshney and Baral 2022,
arXiv:2210.05528). Needs only numpy.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from text_cls.cross_fitting import FEWEST
from text_cls.decision import Decision
from text_cls.probabilities import logit
from text_cls.schema import fields, number
from text_cls.scores import ratio

MOST_LOST = 0.2  # points of micro F1, and of macro F1
PARTS = (1.0, 0.75, 0.5, 0.25, 0.0)  # of MOST_LOST, that a limit may cost on the rows that it is fitted to
LEAST_SHARE = 0.05  # of the rows, that are answered; fewer save less time than the linear model takes
CANDIDATES = 200  # limits that are tried
NO_NGRAMS = -1.0  # the distance of a row without any n-gram that the linear model knows


@dataclass(frozen=True)
class Cascade:
    """A fitted limit, and what to expect of it.

    limit: least distance of an answered row, 0 or more. share: of the rows, that the linear model answers.
    micro_f1_lost, macro_f1_lost: points that the cascade loses against the neural model, below 0 if it gains. Share and
    points are those of rows that the limit was not fitted to.
    """

    limit: float
    share: float
    micro_f1_lost: float
    macro_f1_lost: float

    def record(self) -> dict[str, Any]:
        """What a manifest says, as `Cascade(**record)` reads it."""
        return asdict(self)


POINTS = number(-100, 100)
RECORD = fields({"limit": number(0, 1e6), "share": number(0, 1), "micro_f1_lost": POINTS, "macro_f1_lost": POINTS})


def threshold_logits(decision: Decision, num_labels: int) -> np.ndarray:
    """The logits that a decision's thresholds stand for, float32 [labels]; finite also for thresholds of 0 and 1."""
    raw = decision.raw_thresholds(decision.threshold, np.dtype(np.float64))
    return np.broadcast_to(logit(raw), num_labels).astype(np.float32)


def distances(logits: np.ndarray, thresholds: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """How sure a linear model is of each row: float32 [rows], `NO_NGRAMS` if there is nothing to be sure by.

    Args:
        logits: of the linear model, float32 [rows, labels].
        thresholds: of its own decision, as `threshold_logits` returns them.
        bias: float32 [labels], its logits of a row without n-grams.
    """
    nearest = np.abs(logits - thresholds).min(axis=1)
    return np.where((logits != bias).any(axis=1), nearest, np.float32(NO_NGRAMS))


def fit(
    sure: np.ndarray, gold: np.ndarray, linear: np.ndarray, neural: np.ndarray, folds: list[np.ndarray]
) -> Cascade | None:
    """The lowest limit that costs at most `MOST_LOST` points of F1 on rows that it was not fitted to.

    A limit that is just good enough on some rows costs more on others: it was chosen because there happen to be few
    errors above it. So limits are fitted for a part of `MOST_LOST`, the largest that keeps to `MOST_LOST` out of fold.

    Args:
        sure: float [rows], of `distances`.
        gold: bool [rows, labels]. linear, neural: the label sets by each model, of this shape.
        folds: row numbers of each fold, as of `cross_fitting.draw_folds`.
    Returns:
        None if the linear model would answer hardly any row, or there are too few rows to know.
    """
    if len(folds) < 2 or len(gold) < FEWEST:
        return None
    for part in PARTS:
        answered = np.zeros(len(gold), dtype=bool)
        for i, fold in enumerate(folds):
            others = np.concatenate(folds[:i] + folds[i + 1 :])
            limit = lowest_limit(sure[others], gold[others], linear[others], neural[others], part * MOST_LOST)
            answered[fold] = sure[fold] >= limit
        micro, macro = points_lost(gold, neural, np.where(answered[:, None], linear, neural))
        limit = lowest_limit(sure, gold, linear, neural, part * MOST_LOST)
        if max(micro, macro) <= MOST_LOST and answered.mean() >= LEAST_SHARE and np.isfinite(limit):
            return Cascade(limit, float(answered.mean()), micro, macro)
    return None


def points_lost(gold: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Points of (micro F1, macro F1) by which label sets are worse than those before; all bool [rows, labels]."""
    counts = [
        ((gold & sets).sum(axis=0)[None], (gold.sum(axis=0) + sets.sum(axis=0))[None]) for sets in (before, after)
    ]
    ((micro, macro),) = _f1(*counts[0]) - _f1(*counts[1])
    return float(micro), float(macro)


def lowest_limit(sure: np.ndarray, gold: np.ndarray, linear: np.ndarray, neural: np.ndarray, most: float) -> float:
    """The lowest limit such that it and every higher one cost at most `most` points on these rows; else infinity.

    Args: as of `fit`.
    """
    known = np.sort(sure[sure >= 0])[::-1]
    if not len(known):
        return np.inf
    limits = np.unique(known[np.linspace(0, len(known) - 1, CANDIDATES).astype(int)])[::-1]
    order = np.argsort(-sure, kind="stable")
    ends = np.searchsorted(-sure[order], -limits, side="right")  # how many rows are answered with each limit
    starts, answered = np.concatenate([[0], ends[:-1]]), order[: ends[-1]]
    right = (gold & linear)[answered].astype(np.int64) - (gold & neural)[answered]
    predicted = linear[answered].astype(np.int64) - neural[answered]
    right, predicted = (np.add.reduceat(part, starts, axis=0).cumsum(axis=0) for part in (right, predicted))
    hits, both = (gold & neural).sum(axis=0)[None], (gold.sum(axis=0) + neural.sum(axis=0))[None]
    lost = _f1(hits, both) - _f1(hits + right, both + predicted)
    too_much = np.append((lost > most).any(axis=1), True)
    good = int(np.argmax(too_much))
    return float(limits[good - 1]) if good else np.inf


def _f1(hits, both):
    """(micro F1, macro F1) in percent, [cases, 2], of right labels and of gold plus predicted ones, [cases, labels]."""
    hits, both = hits.astype(np.float64), both.astype(np.float64)
    micro = ratio(2 * hits.sum(axis=1), both.sum(axis=1))
    return 100 * np.stack([micro, ratio(2 * hits, both).mean(axis=1)], axis=1)
