"""A blend: the average of the probabilities of a linear and a neural model, with a weight fitted to labelled rows.

Models that err on different rows are better together than the better one of them (a linear opinion pool: Stone 1961;
of classifiers: Kittler et al. 1998). Needs only numpy.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from text_cls.cascade import POINTS, Cascade, points_lost
from text_cls.cross_fitting import FEWEST, value_of
from text_cls.language import language, translated
from text_cls.probabilities import sigmoid
from text_cls.schema import fields, number

WEIGHTS = np.arange(1, 20) / 20  # of the linear model
LEAST = 1e-30  # probability, so that its logarithm is finite


@dataclass(frozen=True)
class Blend:
    """A fitted weight, and what to expect of it.

    weight: of the linear model's probabilities; the neural model has the rest. micro_f1_gained, macro_f1_gained: points
    against the neural model alone, on rows that the weight was not fitted to.
    """

    weight: float
    micro_f1_gained: float
    macro_f1_gained: float

    def record(self) -> dict[str, Any]:
        """What a manifest says, as `Blend(**record)` reads it."""
        return asdict(self)


RECORD = fields({"weight": number(0, 1), "micro_f1_gained": POINTS, "macro_f1_gained": POINTS})


def blended(linear: np.ndarray, neural: np.ndarray, weight: float) -> np.ndarray:
    """The logits of the weighted mean of two models' probabilities; all are logits, float32 of one shape."""
    above, below = (weight * sigmoid(s * linear) + (1 - weight) * sigmoid(s * neural) for s in (1, -1))
    return (np.log(np.maximum(above, LEAST)) - np.log(np.maximum(below, LEAST))).astype(np.float32)


def fit(
    linear: np.ndarray,
    neural: np.ndarray,
    gold: np.ndarray,
    decide: Callable[[np.ndarray], np.ndarray],
    folds: list[np.ndarray],
) -> Blend | None:
    """The weight with the highest micro plus macro F1; None if that gains nothing on rows that it was not fitted to.

    Args:
        linear, neural: logits, float32 [rows, labels]. gold: bool of this shape.
        decide: function of probabilities that returns label sets.
        folds: row numbers of each fold, as of `cross_fitting.draw_folds`.
    """
    if len(folds) < 2 or len(gold) < FEWEST:
        return None
    sets = [decide(sigmoid(blended(linear, neural, weight))) for weight in WEIGHTS]

    def best(rows):
        return int(np.argmax([value_of(gold[rows], some[rows], "both") for some in sets]))

    unseen = np.zeros_like(gold)
    for i, fold in enumerate(folds):
        unseen[fold] = sets[best(np.concatenate(folds[:i] + folds[i + 1 :]))][fold]
    micro, macro = (0 - points for points in points_lost(gold, decide(sigmoid(neural)), unseen))
    return Blend(float(WEIGHTS[best(np.arange(len(gold)))]), micro, macro) if micro + macro > 0 else None


def described(cascade: Cascade | None, blend: Blend | None, code: str | None = None) -> list[str]:
    """What to expect of a bundle of a linear and a neural model, as sentences in the language `code` (that of now)."""
    code, found = code or language(), []
    if blend:
        found.append(
            translated(
                "The probabilities are means of those of a linear model (weight {weight:.2f}) and the neural model: "
                "micro F1 {micro_f1_gained:+.2f} and macro F1 {macro_f1_gained:+.2f} points against the neural model "
                "alone, out of fold",
                code,
                weight=blend.weight,
                micro_f1_gained=blend.micro_f1_gained,
                macro_f1_gained=blend.macro_f1_gained,
            )
        )
    if cascade:
        micro, macro = (0 - points for points in (cascade.micro_f1_lost, cascade.macro_f1_lost))
        other = translated("the means", code) if blend else translated("the neural model", code)
        found.append(
            translated(
                "The linear model alone answers {share:.0%} of the rows, those that it is sure of: micro F1 "
                "{micro:+.2f} and macro F1 {macro:+.2f} points against {other} for all rows, out of fold",
                code,
                share=cascade.share,
                micro=micro,
                macro=macro,
                other=other,
            )
        )
    return found
