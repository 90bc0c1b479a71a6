"""A trained linear model as a checkpoint keeps it: n-grams as numbers and their weights, without scikit-learn.

The logits are those of `linear_model.LinearModel`, computed from code points (`tokenization.CodePoints`). An n-gram of
characters is a whole number, 21 bits for each of them, so that finding it is a search among numbers.
"""

import os
from dataclasses import dataclass, fields

import numpy as np

from text_cls.batching import Encoded
from text_cls.cli import UserError
from text_cls.files import write_json
from text_cls.language import tr
from text_cls.linear_model import LONGEST_NGRAM, LinearModel
from text_cls.schema import OBJECT, read_json
from text_cls.tokenization import CodePoints

LINEAR = "linear"  # as --model_name of train.py, and as model_type of config.json and manifest.json
WEIGHTS = "model.safetensors"
LONGEST = 20_000  # characters of a text that are read, and one more: what the servers accept by default
BITS = 21  # of a character; the highest id is below 2 ** 21
AT_ONCE = 1 << 19  # tokens whose n-grams are in memory at a time


def ngram_keys(ids: np.ndarray, n: int) -> np.ndarray:
    """The number of each run of n ids: int64 array [len(ids) - n + 1]. ids: int array, each below 2 ** 21."""
    keys = np.zeros(max(0, len(ids) - n + 1), np.int64)
    for i in range(n):
        keys = (keys << BITS) | ids[i : i + len(keys)]
    return keys


def pack(rows: list[np.ndarray]) -> Encoded:
    """Rows of ids as `Encoded`."""
    ids = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    padding = {"input_ids": CodePoints.pad_id}
    return Encoded({"input_ids": ids}, offsets, padding, pad_left=False, with_mask=False, truncated=0)


def encode(texts, max_length: int = LONGEST) -> Encoded:
    """The code points of texts, cut at `max_length`, the end included."""
    rows = CodePoints().encode(texts, max_length + 1)
    truncated = sum(len(row) > max_length for row in rows)
    encoded = pack([row if len(row) <= max_length else np.append(row[: max_length - 1], row[-1:]) for row in rows])
    encoded.truncated = truncated
    return encoded


@dataclass
class LinearClassifier:
    """keys: int64 [n-grams], ascending, of `ngram_keys`. idf: float32 [n-grams]. weight: float32 [n-grams, labels].

    bias: float32 [labels]. Weight and bias contain the calibration: the sigmoid of a logit is the label's probability.
    """

    keys: np.ndarray
    idf: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, model: LinearModel) -> "LinearClassifier":
        """The same model. It must have been calibrated."""
        slope, offset = model.calibration
        vocabulary = model.vectorizer.vocabulary_  # {n-gram: its column}
        rows = CodePoints().encode_exactly(sorted(vocabulary, key=vocabulary.get))
        keys = np.array([ngram_keys(row[:-1], len(row) - 1)[0] for row in rows], np.int64)  # the last id is the end
        order = np.argsort(keys)
        weight = (slope * model.coef.T[order]).astype(np.float32)
        bias = (slope * model.intercept + offset).astype(np.float32)
        return cls(keys[order], model.vectorizer.idf_[order].astype(np.float32), np.ascontiguousarray(weight), bias)

    def logits(self, encoded: Encoded) -> np.ndarray:
        """The logits of rows of code points: float32 array [rows, labels]."""
        found, first = [np.zeros((0, len(self.bias)), np.float32)], 0
        while first < len(encoded):
            last = int(np.searchsorted(encoded.offsets, encoded.offsets[first] + AT_ONCE, side="right")) - 1
            last = max(first + 1, last)
            found.append(self.features(encoded, first, last) @ self.weight + self.bias)
            first = last
        return np.concatenate(found)

    def features(self, encoded: Encoded, first: int, last: int):
        """TF-IDF of the rows from `first` to `last`: float32 CSR [rows, n-grams].

        Rows stand end to end, but an n-gram that reaches into the next row has an end in it, so that none is known.
        """
        from scipy import sparse

        offsets = encoded.offsets[first : last + 1] - encoded.offsets[first]
        ids = encoded.columns["input_ids"][encoded.offsets[first] : encoded.offsets[last]]
        row_of = np.repeat(np.arange(last - first), np.diff(offsets))
        rows, columns = [], []
        for n in range(1, LONGEST_NGRAM + 1):
            keys = ngram_keys(ids, n)
            place = np.minimum(np.searchsorted(self.keys, keys), max(0, len(self.keys) - 1))
            known = self.keys[place] == keys
            rows.append(row_of[: len(keys)][known])
            columns.append(place[known])
        rows, columns = np.concatenate(rows), np.concatenate(columns)
        counts = np.ones(len(rows), np.float32)
        matrix = sparse.csr_matrix((counts, (rows, columns)), shape=(last - first, len(self.keys)))
        matrix.sum_duplicates()
        matrix.data = (1 + np.log(matrix.data)) * self.idf[matrix.indices]
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(norms, np.diff(matrix.indptr))
        return matrix

    def save(self, folder: str, names: list[str]) -> None:
        """Writes weights, configuration and tokenizer. names: of the labels."""
        from safetensors.numpy import save

        config = {"model_type": LINEAR, "max_position_embeddings": LONGEST, "id2label": dict(enumerate(names))}
        write_json(os.path.join(folder, "config.json"), config)
        with open(os.path.join(folder, WEIGHTS), "wb") as file:
            file.write(save({field.name: getattr(self, field.name) for field in fields(self)}))
        save_tokenizer(folder)


def save_tokenizer(folder: str) -> None:
    """Writes the tokenizer of a linear model, which `load_tokenizer` reads."""
    write_json(os.path.join(folder, "tokenizer_config.json"), {"tokenizer_class": "CodePoints"})


def is_linear(folder: str) -> bool:
    """Whether a folder is the checkpoint of a linear model."""
    path = os.path.join(folder, "config.json")
    return (
        os.path.exists(path) and read_json(path, OBJECT, tr("copy the whole folder again")).get("model_type") == LINEAR
    )


def load(folder: str, num_labels: int) -> LinearClassifier:
    """What `LinearClassifier.save` wrote. Raises UserError if the file is damaged, or for another number of labels."""
    from safetensors.numpy import load_file

    path = os.path.join(folder, WEIGHTS)
    remedy = tr("train again, or restore the folder from a backup")
    try:
        arrays = load_file(path)
    except Exception as error:  # safetensors has an error of its own
        raise UserError(
            tr("{path} cannot be read ({error}); {remedy}", path=path, error=error, remedy=remedy)
        ) from error
    count = len(arrays["keys"]) if "keys" in arrays else 0
    shapes = {
        "keys": (np.int64, (count,)),
        "idf": (np.float32, (count,)),
        "weight": (np.float32, (count, num_labels)),
        "bias": (np.float32, (num_labels,)),
    }
    if {name: (array.dtype.type, array.shape) for name, array in arrays.items()} != shapes or not count:
        raise UserError(
            tr(
                "{path} does not have the weights of a linear model with {num_labels} labels; {remedy}",
                path=path,
                num_labels=num_labels,
                remedy=remedy,
            )
        )
    if (np.diff(arrays["keys"]) <= 0).any() or not all(np.isfinite(array).all() for array in arrays.values()):
        raise UserError(
            tr("{path}: its n-grams are out of order, or a weight is no number; {remedy}", path=path, remedy=remedy)
        )
    return LinearClassifier(**arrays)
