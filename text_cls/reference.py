"""What a model predicts on its dev rows, kept with it as `reference.json`: what later texts are compared with.

It has counts only: no text, and no word of one. `analysis/drift.py` compares files and a server's metrics with it. The
counts of rows add up, so that a file of any size and a server count in the same way. Needs only numpy.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from text_cls.batching import Encoded
from text_cls.cli import UserError
from text_cls.decision import Decision
from text_cls.files import write_json
from text_cls.language import N_, tr
from text_cls.long_texts import Windows
from text_cls.rows import Labels
from text_cls.schema import NAME, SHA256, TEXT, fields, list_of, number, read_json, whole
from text_cls.scores import scores

REFERENCE, VERSION = "reference.json", 1
# Upper ends of the bins of probabilities, each included. They are narrow at both ends, where most probabilities are.
BINS = (
    *(0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4),
    *(0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0),
)
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # the same of tokens per text; longer ones have a last bin
REMEDY = N_("write it again: python analysis/drift.py --write_reference")
DAMAGED = N_("delete it, then write it again: python analysis/drift.py --write_reference")
REST, PREDICTED = 0, 1  # the two halves of the histograms: labels that a row has not got, and those that it has

# A server's metrics of these counts. Each series has the labels bundle and version.
TEXTS_METRIC, WITHOUT_METRIC = "text_cls_counted_texts", "text_cls_texts_without_label"
LABELS_METRIC = "text_cls_label_texts"  # and label
SCORES_METRIC = "text_cls_label_scores"  # a histogram, and decided: one of `DECIDED`
LENGTHS_METRIC = "text_cls_text_tokens"  # a histogram
TOKENS_METRIC, UNKNOWN_METRIC = "text_cls_tokens", "text_cls_unknown_tokens"
DECIDED = ("rest", "predicted")
OTHER = "(other)"  # the labels beyond a server's limit, together
VERSION_DIGITS = 12  # of the SHA-256 of manifest.json

_COUNTS = list_of(whole(0))
_LABEL = fields({"label": TEXT, "gold": whole(0), "predicted": whole(0), "rest_scores": _COUNTS, "scores": _COUNTS})
_FIELDS = fields(
    {
        "version": whole(VERSION, VERSION),
        "file": NAME,
        "rows": whole(1),
        "decision": SHA256,
        "bins": list_of(number(0, 1)),
        "labels": list_of(_LABEL, least=1),
        "gold_of_rest": _COUNTS,
        "gold_of_predicted": _COUNTS,
        "without_label": whole(0),
        "length_bins": list_of(whole(1)),
        "lengths": _COUNTS,
        "tokens": whole(0),
        "unknown_tokens": whole(0),
        "micro_f1": number(0, 1),
        "macro_f1": number(0, 1),
    }
)


@dataclass
class Counts:
    """What is counted of the predictions for some rows.

    rows, without_label: rows, and those of them without a label. labels: int64 [labels], rows with each. scores: int64
    [2, bins, labels], labels of rows by the bin of their calibrated probability, `REST` and `PREDICTED`; for all labels
    together, [2, bins, 1]. lengths: int64 [bins], texts by their number of tokens. tokens, unknown: of these texts.
    """

    rows: int
    without_label: int
    labels: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray
    tokens: int
    unknown: int

    @classmethod
    def none(cls, labels: int, by_label: bool = True) -> "Counts":
        """Counts of no rows. by_label: whether each label has a histogram of its own."""
        shape = 2, len(BINS), labels if by_label else 1
        zeros = (np.zeros(size, dtype=np.int64) for size in (labels, shape, len(LENGTHS) + 1))
        return cls(0, 0, *zeros, 0, 0)

    def add(self, others: "Counts") -> None:
        """Adds the counts of other rows, which have the same labels and shapes."""
        for name, value in vars(others).items():
            setattr(self, name, getattr(self, name) + value)

    def add_predictions(self, calibrated: np.ndarray, predicted: np.ndarray) -> None:
        """Counts rows. calibrated: probabilities, float [rows, labels]. predicted: label sets, bool of this shape."""
        self.rows += len(predicted)
        self.without_label += int((~predicted.any(axis=1)).sum())
        self.labels += predicted.sum(axis=0)
        width = self.scores.shape[2]
        place = (bins_of(calibrated) + len(BINS) * predicted) * width
        place += np.arange(width)
        self.scores += np.bincount(place.ravel(), minlength=self.scores.size).reshape(self.scores.shape)

    def add_tokens(self, lengths: np.ndarray, tokens: int, unknown: int) -> None:
        """Counts the tokens of texts. lengths: int [texts]. tokens, unknown: in all, and those unknown to the model."""
        place = np.searchsorted(LENGTHS, lengths)
        self.lengths += np.bincount(place, minlength=len(self.lengths))
        self.tokens += int(tokens)
        self.unknown += int(unknown)


def bins_of(probabilities: np.ndarray) -> np.ndarray:
    """Number of the bin of `BINS` of each probability: int64 of the same shape."""
    return np.minimum(np.searchsorted(BINS, probabilities), len(BINS) - 1)


def token_counts(tokens: Encoded | Windows, unk_id: int | None) -> tuple[np.ndarray, int, int]:
    """What `Counts.add_tokens` takes, of tokens of texts. unk_id: of unknown tokens; None if the model has none.

    Of a text in windows, the tokens are those of all its windows.
    """
    ids = (tokens.tokens if isinstance(tokens, Windows) else tokens).columns["input_ids"]
    return tokens.lengths, len(ids), 0 if unk_id is None else int((ids == unk_id).sum())


def decision_digest(decision: Decision) -> str:
    """SHA-256 of a decision, in hexadecimal: the counts hold for this one alone."""
    content = json.dumps(asdict(decision), sort_keys=True, default=float)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


@dataclass
class Reference:
    """A `reference.json`.

    file: name of the labelled rows, without its folder. labels: names. decision: of `decision_digest`. counts:
    `Counts` by label. gold: int64 [labels], rows with each. gold_scores: int64 [2, bins], how many of the counted
    scores of all labels together are of gold labels: what a score is worth. micro_f1, macro_f1: of these rows, 0 to 1.
    """

    file: str
    labels: list[str]
    decision: str
    counts: Counts
    gold: np.ndarray
    gold_scores: np.ndarray
    micro_f1: float
    macro_f1: float

    def record(self) -> dict[str, Any]:
        """The content of the file."""
        counts = self.counts
        return {
            "version": VERSION,
            "file": self.file,
            "rows": counts.rows,
            "decision": self.decision,
            "bins": list(BINS),
            "labels": [
                {
                    "label": name,
                    "gold": int(self.gold[i]),
                    "predicted": int(counts.labels[i]),
                    "rest_scores": counts.scores[REST, :, i].tolist(),
                    "scores": counts.scores[PREDICTED, :, i].tolist(),
                }
                for i, name in enumerate(self.labels)
            ],
            "gold_of_rest": self.gold_scores[REST].tolist(),
            "gold_of_predicted": self.gold_scores[PREDICTED].tolist(),
            "without_label": counts.without_label,
            "length_bins": list(LENGTHS),
            "lengths": counts.lengths.tolist(),
            "tokens": counts.tokens,
            "unknown_tokens": counts.unknown,
            "micro_f1": round(self.micro_f1, 5),
            "macro_f1": round(self.macro_f1, 5),
        }

    def write(self, folder: str) -> None:
        """Writes `reference.json` in the folder of a checkpoint or a bundle, whole or not at all."""
        write_json(os.path.join(folder, REFERENCE), self.record())

    def problem(self, names: Sequence[str], decision: Decision) -> str | None:
        """Why it is not that of a model with these labels and this decision, or None."""
        if self.labels != list(names):
            return tr("is for other labels")
        if self.decision != decision_digest(decision):
            return tr("was written before decision.json changed")
        return None


def make_reference(
    file: str,
    labels: Labels,
    decision: Decision,
    probabilities: np.ndarray,
    gold: np.ndarray,
    tokens: tuple[np.ndarray, int, int],
) -> Reference:
    """The `Reference` of a model that predicts labelled rows.

    Args:
        file: their file; its folder is left out.
        probabilities: before the decision's temperature, float [rows, labels]. gold: bool of this shape.
        tokens: of `token_counts`.
    """
    predicted, calibrated = decision.decide(probabilities, labels.parents), decision.calibrated(probabilities)
    counts = Counts.none(len(labels))
    counts.add_predictions(calibrated, predicted)
    counts.add_tokens(*tokens)
    place = (bins_of(calibrated) + len(BINS) * predicted)[gold]
    gold_scores = np.bincount(place, minlength=2 * len(BINS)).reshape(2, -1)
    found = scores(gold, predicted)
    names = list(labels.names)
    return Reference(
        os.path.basename(file),
        names,
        decision_digest(decision),
        counts,
        gold.sum(axis=0),
        gold_scores,
        found["micro_f1"],
        found["macro_f1"],
    )


def read_reference(folder: str) -> Reference | None:
    """The `Reference` in a folder; None if it has none.

    Raises:
        UserError: the file is damaged, or its counts contradict each other.
    """
    path = os.path.join(folder, REFERENCE)
    if not os.path.exists(path):
        return None
    content = read_json(path, _FIELDS, tr(DAMAGED), (VERSION,))
    if problem := _contradiction(content):
        raise UserError(f"{path}: {problem}; {tr(DAMAGED)}")
    labels = content["labels"]
    by_label = [[label[half] for label in labels] for half in ("rest_scores", "scores")]
    counts = Counts(
        content["rows"],
        content["without_label"],
        np.array([label["predicted"] for label in labels], dtype=np.int64),
        np.array(by_label, dtype=np.int64).transpose(0, 2, 1),
        np.array(content["lengths"], dtype=np.int64),
        content["tokens"],
        content["unknown_tokens"],
    )
    return Reference(
        content["file"],
        [label["label"] for label in labels],
        content["decision"],
        counts,
        np.array([label["gold"] for label in labels], dtype=np.int64),
        np.array([content["gold_of_rest"], content["gold_of_predicted"]], dtype=np.int64),
        content["micro_f1"],
        content["macro_f1"],
    )


def _contradiction(content):
    """What does not fit together in a file whose fields are right one by one, or None."""
    rows, bins = content["rows"], len(BINS)
    if content["bins"] != list(BINS) or content["length_bins"] != list(LENGTHS):
        return tr("its bins are not those of this code")
    sizes = {len(content["gold_of_rest"]), len(content["gold_of_predicted"])}
    for label in content["labels"]:
        sizes |= {len(label["rest_scores"]), len(label["scores"])}
        if sum(label["rest_scores"]) + sum(label["scores"]) != rows or sum(label["scores"]) != label["predicted"]:
            return tr("the scores of {label} are not those of {rows} rows", label=label["label"], rows=rows)
    if sizes != {bins} or len(content["lengths"]) != len(LENGTHS) + 1:
        return tr("a histogram has another number of bins")
    if sum(content["lengths"]) != rows or content["without_label"] > rows:
        return tr("lengths and without_label are not those of {rows} rows", rows=rows)
    if content["unknown_tokens"] > content["tokens"]:
        return tr("more tokens are unknown than there are")
    for half, gold in (("rest_scores", "gold_of_rest"), ("scores", "gold_of_predicted")):
        counted = np.sum([label[half] for label in content["labels"]], axis=0)
        if (np.array(content[gold]) > counted).any():
            return tr("{gold} has more than there are scores", gold=gold)
    gold = [label["gold"] for label in content["labels"]]
    if max(gold, default=0) > rows or sum(gold) != sum(content["gold_of_rest"] + content["gold_of_predicted"]):
        return tr("the gold labels are not those of {rows} rows", rows=rows)
    return None
