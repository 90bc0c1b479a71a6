"""Step 3 of the ensemble: logits to labels (numbers, probabilities and names), decided as predict.py does."""

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.bundle import open_bundle
from text_cls.probabilities import sigmoid

MALFORMED = "POST_INPUT must be [n, {}] and POST_error [n, 1], with n of at least 1"


class TritonPythonModel:
    def initialize(self, args):
        bundle = open_bundle(str(HERE / "bundle"))
        self.decision, self.parents = bundle.decision, bundle.labels.parents
        # The last one, of index -1, fills rows that have fewer labels than another.
        self.names = np.array([*(name.encode("utf-8") for name in bundle.labels.names), b""], dtype=np.object_)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in ("POST_INPUT", "POST_error")]
        logits, errors = (np.zeros(0) if tensor is None else tensor.as_numpy() for tensor in tensors)
        num_labels = len(self.names) - 1
        if not len(logits) or logits.shape != (len(logits), num_labels) or errors.shape != (len(logits), 1):
            return pb_utils.InferenceResponse([], pb_utils.TritonError(MALFORMED.format(num_labels)))
        probabilities, errors = sigmoid(logits), errors[:, 0]
        chosen = self.decision.decide(probabilities, self.parents)
        chosen[errors != b""] = False
        counts = chosen.sum(axis=1)
        is_filled = np.arange(max(1, counts.max())) < counts[:, None]  # [rows, most labels of any row]
        label = np.full(is_filled.shape, -1, dtype=np.int64)
        confidence = np.zeros(is_filled.shape, dtype=np.float32)
        label[is_filled], confidence[is_filled] = chosen.nonzero()[1], self.decision.calibrated(probabilities)[chosen]
        tensors = {"POST_label": label, "POST_confidence": confidence, "POST_label_name": self.names[label]}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])
