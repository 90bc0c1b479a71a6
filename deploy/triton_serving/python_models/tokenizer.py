"""Step 1 of the ensemble: texts to token ids. A row that cannot be read gets an error and no ids.

If the bundle reads long texts in windows, a row has the ids of all windows of its text, end to end, and the output
`windows` has the number of ids of each of them.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(next(p for p in Path(__file__).resolve().parents if Path(p, "text_cls").is_dir())))

from text_cls.batching import Encoded
from text_cls.bundle import open_bundle
from text_cls.files import read_unchanged
from text_cls.long_texts import Windows, encode_as
from text_cls.tokenization import load_tokenizer

EMPTY = "the request has no rows; INPUT is [n, 1], with n of at least 1"


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = str(HERE / "bundle")
        self.bundle, self.tokenizer = read_unchanged(folder, lambda: (open_bundle(folder), load_tokenizer(folder)))
        self.max_characters = int(config["parameters"]["max_characters"]["string_value"])
        self.outputs = [output["name"] for output in config["output"] if output["name"] != "error"]

    def read(self, raw):
        """(text, "") for the bytes of a row, or ("", error message)."""
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return "", f"the text is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}"
        if len(text) > self.max_characters:
            return "", f"the text has {len(text)} characters; at most {self.max_characters} are allowed"
        return text, ""

    def rows(self, request):
        """The bytes of each row; none if malformed. A request of shape [0, 1] with data for one row arrives as [1]."""
        tensor = pb_utils.get_input_tensor_by_name(request, "INPUT_0")
        array = np.zeros(0) if tensor is None else tensor.as_numpy()
        return array[:, 0] if array.shape == (len(array), 1) else []

    def execute(self, requests):
        batches = [self.rows(request) for request in requests]
        read = [self.read(raw) for batch in batches for raw in batch]
        good, nothing = self.encode([text for text, error in read if not error]), np.zeros(0, dtype=np.int64)
        rows = [(nothing, nothing) if error else next(good) for _, error in read]
        responses, start = [], 0
        for batch in batches:
            if not len(batch):
                responses.append(pb_utils.InferenceResponse([], pb_utils.TritonError(EMPTY)))
                continue
            mine = slice(start, start + len(batch))
            start += len(batch)
            errors = np.array([[error.encode("utf-8")] for _, error in read[mine]], dtype=np.object_)
            tensors = self.padded(rows[mine])
            responses.append(pb_utils.InferenceResponse([*tensors, pb_utils.Tensor("error", errors)]))
        return responses

    def encode(self, texts):
        """Yields (ids, number of ids of each window) of each text; without windows, there is one of all its ids."""
        how, most = self.bundle.long_texts, self.bundle.manifest["max_seq_length"]
        encoded = encode_as(how, self.tokenizer, self.pack, texts, most)
        tokens, ends = encoded, np.arange(len(encoded) + 1)
        if isinstance(encoded, Windows):
            tokens, ends = encoded.tokens, encoded.offsets
        for first, last in itertools.pairwise(ends):
            ids = tokens.columns["input_ids"][tokens.offsets[first] : tokens.offsets[last]]
            yield ids, np.diff(tokens.offsets[first : last + 1])

    def pack(self, rows):
        ids = np.concatenate([np.zeros(0, dtype=np.int32), *rows])
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        padding = {"input_ids": self.tokenizer.pad_id}
        return Encoded({"input_ids": ids}, offsets, padding, pad_left=False, with_mask=False, truncated=0)

    def padded(self, rows):
        """The rows of one request as tensors [rows, longest]: OUTPUT_0 has the ids, OUTPUT_1 zeros, windows sizes."""
        ids, windows = (filled(arrays, fill) for arrays, fill in zip(zip(*rows), (self.tokenizer.pad_id, 0)))
        made = {"OUTPUT_0": ids, "OUTPUT_1": np.zeros_like(ids), "windows": windows}
        return [pb_utils.Tensor(name, made[name]) for name in self.outputs]


def filled(arrays, fill):
    """Arrays of any lengths as the rows of one, int64 [rows, longest], of at least one column."""
    rows = np.full((len(arrays), max(1, *map(len, arrays))), fill, dtype=np.int64)
    for row, values in zip(rows, arrays):
        row[: len(values)] = values
    return rows
