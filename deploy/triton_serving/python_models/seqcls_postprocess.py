"""Step 3 of the ensemble: logits, or vectors, to labels (numbers, probabilities, names), decided as predict.py does."""

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.bundle import RETRIEVAL, open_bundle
from text_cls.probabilities import sigmoid
from text_cls.search.label_scores import label_scores
from text_cls.search.open_index import open_index

MALFORMED = "POST_INPUT must be [n, {}] and POST_error [n, 1], with n of at least 1"


class TritonPythonModel:
    def initialize(self, args):
        bundle = open_bundle(str(HERE / "bundle"))
        self.decision, self.parents = bundle.decision, bundle.labels.parents
        self.columns, self.probabilities_of = bundle.manifest["outputs"][0]["shape"][1], sigmoid
        if bundle.kind == RETRIEVAL:
            self.labels, self.search = bundle.labels, bundle.manifest["search"]
            self.index, self.probabilities_of = open_index(bundle.folder, bundle.manifest), self.scores_of
        # The last one, of index -1, fills rows that have fewer labels than another.
        self.names = np.array([*(name.encode("utf-8") for name in bundle.labels.names), b""], dtype=np.object_)

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
        counts = chosen.sum(axis=1)
        is_filled = np.arange(max(1, counts.max())) < counts[:, None]  # [rows, most labels of any row]
        label = np.full(is_filled.shape, -1, dtype=np.int64)
        confidence = np.zeros(is_filled.shape, dtype=np.float32)
        label[is_filled], confidence[is_filled] = chosen.nonzero()[1], self.decision.calibrated(probabilities)[chosen]
        tensors = {"POST_label": label, "POST_confidence": confidence, "POST_label_name": self.names[label]}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
