"""From the outputs of the model to an answer: the decision, the passages of windows, and JSON."""

import json
from dataclasses import replace

import numpy as np

from text_cls.long_texts import passages


def decided(predictor, outputs, prob_limit):
    """(calibrated probabilities, label sets), both [rows, labels], of the model's outputs, an array [rows, columns]."""
    probabilities, decision = predictor.probabilities_of(outputs), predictor.decision
    if prob_limit is not None:
        decision = replace(decision, threshold=prob_limit)
    return decision.calibrated(probabilities), decision.decide(probabilities, predictor.labels.parents)


def numbers_of(calibrated, predicted):
    """[(label numbers, their probabilities)] per row, from arrays [rows, labels]."""
    numbers = [chosen.nonzero()[0] for chosen in predicted]
    return [(some.tolist(), row[some].tolist()) for row, some in zip(calibrated, numbers)]


def score_fields(calibrated, parameters, names):
    """Further fields of the result that a request asks for, each with a list per text.

    Args:
        calibrated: probabilities, [rows, labels].
        names: of the labels.
    """
    more = {}
    if parameters.top_k:
        best = np.argsort(-calibrated, axis=1, kind="stable")[:, : parameters.top_k]
        more["top_label"] = best.tolist()
        more["top_confidence"] = np.take_along_axis(calibrated, best, axis=1).tolist()
        more["top_label_name"] = [[names[number] for number in row] for row in more["top_label"]]
    if parameters.all_scores:
        more["scores"] = calibrated.tolist()
    return more


def window_fields(outputs, asked, found):
    """Further fields of the result of texts in windows: the passages that decided, and which texts were not all read.

    Args:
        outputs: of the model, float32 [windows, columns].
        asked: the `Asked`, with `windows`.
        found: what `numbers_of` returns.
    """
    windows, more = asked.windows, {}
    if asked.parameters.evidence:
        places = passages(windows, outputs)
        more["evidence"] = [places[i, numbers].tolist() for i, (numbers, _) in enumerate(found)]
    if windows.truncated:
        more["truncated"] = (windows.spans[windows.offsets[1:] - 1, 1] < asked.characters).tolist()
    return more


def encode_answer(found, names, more):
    """The answer as bytes of JSON, from the result of `numbers_of`, the names of all labels, and further fields."""
    result = {
        "label": [numbers for numbers, _ in found],
        "confidence": [scores for _, scores in found],
        "label_name": [[names[i] for i in numbers] for numbers, _ in found],
        **more,
    }
    return json.dumps({"result": result}, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
