"""Step 3 of the ensemble: logits, or vectors, to labels (numbers, probabilities, names), decided as predict.py does.

What it predicts is counted in Triton's metrics, under the names that the HTTP server has for the same counts.
"""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.bundle import RETRIEVAL, open_bundle
from text_cls.probabilities import sigmoid
from text_cls.reference import LABELS_METRIC, OTHER, TEXTS_METRIC, WITHOUT_METRIC
from text_cls.search.label_scores import label_scores
from text_cls.search.open_index import open_index

ENSEMBLE = "seqcls"  # the model that clients ask
MALFORMED = "POST_INPUT must be [n, {}] and POST_error [n, 1], with n of at least 1"


class LabelCounts:
    """Custom metrics: texts, texts without a label, and texts with each label.

    They are never deleted: when the end of a model did this, Triton 2.51 hung while it loaded the same model again.
    So the series of a version stay until the server ends, and go on if the version is loaded again.

    Args:
        tags: labels of every series.
        names: of the labels. most: of those that get a series; the others are counted together.
    """

    def __init__(self, tags, names, most):
        self.most = most
        self.families = []  # those of the metrics below, which must not be deleted before them
        self.texts = self.family(TEXTS_METRIC, "Texts whose predictions are counted below").Metric(tags)
        self.without = self.family(WITHOUT_METRIC, "Those of them without a label").Metric(tags)
        labels = self.family(LABELS_METRIC, "Texts with each label")
        series = [*names[:most], *([OTHER] if len(names) > most else [])]
        self.labels = [labels.Metric({**tags, "label": name}) for name in series]

    def family(self, name, description):
        self.families.append(pb_utils.MetricFamily(f"{name}_total", description, pb_utils.MetricFamily.COUNTER))
        return self.families[-1]

    def add(self, chosen):
        """Counts texts. chosen: whether each has each label, bool [rows, labels]."""
        by_label = chosen.sum(axis=0)
        counts = [len(chosen), (~chosen.any(axis=1)).sum(), *by_label[: self.most], by_label[self.most :].sum()]
        for metric, count in zip((self.texts, self.without, *self.labels), counts):  # the last may have no metric
            if count:
                metric.increment(float(count))


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        bundle = open_bundle(str(HERE / "bundle"))
        self.decision, self.parents = bundle.decision, bundle.labels.parents
        self.columns, self.probabilities_of = bundle.manifest["outputs"][0]["shape"][1], sigmoid
        if bundle.kind == RETRIEVAL:
            self.labels, self.search = bundle.labels, bundle.manifest["search"]
            self.index, self.probabilities_of = open_index(bundle.folder, bundle.manifest), self.scores_of
        # The last one, of index -1, fills rows that have fewer labels than another.
        self.names = np.array([*(name.encode("utf-8") for name in bundle.labels.names), b""], dtype=np.object_)
        tags = {
            "bundle": ENSEMBLE,
            "model_version": args["model_version"],
            "version": parameters["bundle"]["string_value"],
        }
        most = int(parameters["metric_labels"]["string_value"])
        self.counts = LabelCounts(tags, bundle.labels.names, most)

    def scores_of(self, vectors):
        """The labels' scores by the index of a retrieval bundle, as `serving.RetrievalPredictor` computes them."""
        found = self.index.search(vectors, self.search["neighbours"])
        return label_scores(found, self.labels, self.search["vote"], self.search.get("calibration"))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in ("POST_INPUT", "POST_error")]
        outputs, errors = (np.zeros(0) if tensor is None else tensor.as_numpy() for tensor in tensors)
        if not len(outputs) or outputs.shape != (len(outputs), self.columns) or errors.shape != (len(outputs), 1):
            return pb_utils.InferenceResponse([], pb_utils.TritonError(MALFORMED.format(self.columns)))
        probabilities, errors = self.probabilities_of(outputs), errors[:, 0]
        chosen = self.decision.decide(probabilities, self.parents)
        chosen[errors != b""] = False
        self.counts.add(chosen[errors == b""])
        counts = chosen.sum(axis=1)
        is_filled = np.arange(max(1, counts.max())) < counts[:, None]  # [rows, most labels of any row]
        label = np.full(is_filled.shape, -1, dtype=np.int64)
        confidence = np.zeros(is_filled.shape, dtype=np.float32)
        label[is_filled], confidence[is_filled] = chosen.nonzero()[1], self.decision.calibrated(probabilities)[chosen]
        tensors = {"POST_label": label, "POST_confidence": confidence, "POST_label_name": self.names[label]}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
