"""Step 2 of the ensemble: token ids to logits, or to vectors. Rows of all waiting requests, whatever their lengths,
share runs of the graph: they are sorted into groups of similar length, and each group is padded to its longest
row. A fault of one request fails that request alone.

If the bundle reads long texts in windows, a row has the ids of all windows of its text, and these are the rows of the
graph; the logits of a text's windows are pooled.
"""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.batching import Encoded, budget_batches, token_budget
from text_cls.cli import UserError
from text_cls.files import sha256
from text_cls.long_texts import pool

ROWS = 32  # rows of full length per run of the graph, as in the predictor
# Difference of an output by padding. Of a logit, int8 causes less than 0.1, a wrong mask 2 to 7; vectors have length 1.
TOLERANCE, VECTOR_TOLERANCE = 1.0, 0.01
TOO_OLD = (
    "this server computes rows with padding wrongly, as every ONNX Runtime before 1.21 does with these graphs; "
    "use a newer container of Triton"
)
EMPTY = "the request has no rows, or inputs of different shapes"
WINDOWS = "windows"  # the input with the number of ids of each window
MISMATCH = "windows must have, for each row, numbers of ids whose sum is that of the row's ids"
SIZES = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}  # the parameters with the numbers of ids
UNKNOWN = np.iinfo(np.int64).max  # the highest id, if its parameter is missing: the graph finds the fault


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.inputs = [tensor["name"] for tensor in config["input"] if tensor["name"] != WINDOWS]
        self.pooling = parameters.get("pooling")  # None without windows
        self.output, (self.num_labels,) = config["output"][0]["name"], map(int, config["output"][0]["dims"])
        self.pad_id, self.max_seq_length = int(parameters["pad_token_id"]), int(parameters["max_seq_length"])
        self.longest_input = int(parameters.get("longest_input", 0)) or None
        self.highest = {name: int(parameters[size]) - 1 for name, size in SIZES.items() if size in parameters}
        self.graph, self.checked = parameters["graph"], False  # the name of its model
        # Repositories on S3 and similar stores are fetched model by model: then the graph is not beside this file.
        graph = HERE.parent.parent / self.graph / HERE.name / "model.onnx"
        if graph.exists() and sha256(graph) != parameters["sha256"]:
            raise UserError(f"{graph} is not the file this repository was built with; run build_repository.py again")

    def execute(self, requests):
        if not self.checked:  # here, since models cannot be called while they load
            difference = self.difference_by_padding()
            if difference > (VECTOR_TOLERANCE if self.output == "embedding" else TOLERANCE):
                return [pb_utils.InferenceResponse([], pb_utils.TritonError(TOO_OLD)) for _ in requests]
            self.checked = difference >= 0
        read, faults = zip(*map(self.arrays, requests))
        *columns, windows = zip(*read)
        is_token = [self.is_token(ids) for ids in columns[self.inputs.index("input_ids")]]
        lengths, counts = zip(*map(self.rows, is_token, windows))
        encoded = Encoded(
            {
                name: np.concatenate([a[mask] for a, mask in zip(arrays, is_token)])
                for name, arrays in zip(self.inputs, columns)
            },
            np.cumsum([0, *np.concatenate(lengths)]),
            {name: self.pad_id if name == "input_ids" else 0 for name in self.inputs},
            pad_left=False,
            with_mask=False,
            truncated=0,
        )
        logits, errors = self.run(encoded)
        ends = np.cumsum([len(one) for one in lengths])[:-1]
        return [self.response(*parts) for parts in zip(np.split(logits, ends), np.split(errors, ends), counts, faults)]

    def arrays(self, request):
        """(the inputs of a request, each [rows, longest], None), or (inputs without rows, why the request is invalid).

        The last one is `windows`, None if the model has no such input. The graph must not see an invalid request: it
        would fail for all rows of its run, or take a negative id as one from the end of the vocabulary.
        """
        names = [*self.inputs, *([WINDOWS] if self.pooling else [])]
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in names]
        arrays = {name: tensor.as_numpy() for name, tensor in zip(names, tensors) if tensor is not None}
        windows = arrays.pop(WINDOWS, None)
        fault = EMPTY if None in tensors else self.fault(arrays, windows)
        if fault:
            *values, windows = np.zeros((len(self.inputs) + 1, 0, 1), dtype=np.int64)
        else:
            values = arrays.values()
        return [*values, windows if self.pooling else None], fault

    def rows(self, is_token, windows):
        """The rows of the graph for the rows of a request: the ids of each, and how many of them each row has."""
        if windows is None:
            return is_token.sum(axis=1), np.ones(len(is_token), dtype=np.int64)
        is_window = windows > 0
        is_window[~is_window.any(axis=1), 0] = True  # of a text with an error
        return windows[is_window], is_window.sum(axis=1)

    def fault(self, arrays, windows):
        """Why the graph cannot take these inputs, {name: int64 array [rows, longest]}, or None."""
        ids = arrays["input_ids"]
        if ids.ndim != 2 or not len(ids) or any(array.shape != ids.shape for array in arrays.values()):
            return EMPTY
        is_token = self.is_token(ids)
        longest = is_token.sum(axis=1).max()
        if windows is not None:
            fits = windows.ndim == 2 and len(windows) == len(ids) and windows.size
            if not fits or ((windows < 0) | (windows > ids.shape[1])).any():
                return MISMATCH
            if (windows.sum(axis=1) != is_token.sum(axis=1)).any():
                return MISMATCH
            longest = windows.max()
        if self.longest_input and longest > self.longest_input:
            return f"a row has {longest} tokens; the model takes at most {self.longest_input}"
        for name, array in arrays.items():
            highest, values = self.highest.get(name, UNKNOWN), array[is_token]
            wrong = values[(values < 0) | (values > highest)]
            if len(wrong):
                return f"{name} has {wrong[0]}; the model takes 0 to {highest}"
        return None

    def run(self, encoded):
        """Logits [rows, labels] of all rows, and their errors [rows], each None or a message."""
        logits = np.zeros((len(encoded), self.num_labels), dtype=np.float32)
        errors = np.full(len(encoded), None, dtype=np.object_)
        filled = np.flatnonzero(encoded.lengths)  # rows without ids are those with an error
        most = token_budget(ROWS, self.max_seq_length)
        groups = [filled[group] for group in budget_batches(encoded.lengths[filled], most)]
        while groups:
            rows = groups.pop(0)
            response = self.infer(encoded.batch(rows))
            if not response.has_error():
                logits[rows] = pb_utils.get_output_tensor_by_name(response, self.output).as_numpy()
            elif len(rows) > 1:
                groups += np.split(rows, len(rows))  # again, one by one: the fault may be that of one row
            else:
                errors[rows] = response.error().message()
        return logits, errors

    def difference_by_padding(self):
        """How much padding changes the logits of a row (it must not); -1 if the graph fails."""
        ids = [number for number in range(6) if number != self.pad_id][: max(1, self.max_seq_length // 2)]
        logits = []
        for padding in (0, self.max_seq_length - len(ids)):
            row = np.array([ids + padding * [self.pad_id]], dtype=np.int64)
            answer = self.infer({name: row if name == "input_ids" else np.zeros_like(row) for name in self.inputs})
            if answer.has_error():
                return -1
            logits.append(pb_utils.get_output_tensor_by_name(answer, self.output).as_numpy())
        return np.abs(logits[0] - logits[1]).max()

    def is_token(self, ids):
        """bool [rows, longest]: False for padding. A text may contain the padding's id, but ends with another."""
        return np.cumsum((ids != self.pad_id)[:, ::-1], axis=1)[:, ::-1] > 0

    def infer(self, inputs):
        return pb_utils.InferenceRequest(
            model_name=self.graph,
            requested_output_names=[self.output],
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()

    def response(self, logits, errors, counts, fault):
        """The answer to one request: the logits of its rows, or its fault, or the first error of one of its rows.

        counts: rows of the graph for each of its rows.
        """
        if error := fault or next(filter(None, errors), None):
            return pb_utils.InferenceResponse([], pb_utils.TritonError(error))
        pooled = pool(logits, counts, self.pooling) if self.pooling else logits
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, pooled)])
