"""The encoder: a pretrained model whose pooled vector, scaled to length 1, represents a text or a label.

`open_encoder` opens what the scripts of this folder take as `--params_path`: a checkpoint of train.py or a bundle of
export_model.py. Only a checkpoint needs Paddle.
"""

import inspect
import os

import numpy as np

from text_cls.batching import sorted_batches
from text_cls.bundle import MANIFEST
from text_cls.cli import Problems, UserError
from text_cls.language import tr
from text_cls.neural import hugging_face
from text_cls.neural.checkpoint import load_checkpoint, load_rest
from text_cls.neural.compat import import_paddle
from text_cls.neural.hugging_face_tokenizers import open_tokenizer
from text_cls.neural.model import encode, forward_batches, paddle_device_problem, pretrained_faults, set_device
from text_cls.neural.pooling import FIRST, recorded_pooling, set_pooling
from text_cls.neural.run_file import PDPARAMS, REMEDY, SAFETENSORS, WEIGHT_FILES, weight_files
from text_cls.neural.weights import read_weights

KIND = "retrieval"


def make_encoder(backbone, output_emb_size):
    """A Paddle layer that returns unit vectors [rows, width] for the inputs of its backbone.

    As in PaddleNLP's application: the pooled vector, a linear layer to `output_emb_size` (0: no such layer), dropout,
    scaling to length 1. Its weights have the names of a classifier's, so that either can start from the other's.
    """
    import paddle
    from safetensors.numpy import save_file

    prefix = backbone.base_model_prefix

    class Encoder(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.config, self.base_model_prefix = backbone.config, prefix
            self.config.output_emb_size = output_emb_size
            self.width = output_emb_size or self.config.hidden_size
            setattr(self, prefix, backbone)
            self.projection = paddle.nn.Linear(self.config.hidden_size, output_emb_size) if output_emb_size else None
            self.dropout = paddle.nn.Dropout(self.config.hidden_dropout_prob)

        def forward(self, **inputs):
            vectors = getattr(self, prefix)(**inputs)[1]
            if self.projection is not None:
                vectors = self.projection(vectors)
            return paddle.nn.functional.normalize(self.dropout(vectors), axis=-1)

        def save_pretrained(self, folder, safe_serialization=False):
            self.config.architectures = [type(backbone).__name__]
            self.config.save_pretrained(folder)
            if safe_serialization:
                weights = {name: value.numpy() for name, value in self.state_dict().items()}
                save_file(weights, os.path.join(folder, SAFETENSORS), {"format": "np"})  # what PaddleNLP expects
            else:
                paddle.save(self.state_dict(), os.path.join(folder, PDPARAMS))

    # The code that makes inputs reads from this signature which ones the model takes.
    Encoder.forward.__signature__ = inspect.signature(type(backbone).forward)
    return Encoder()


def load_encoder(name, output_emb_size=None, flag="--model_name_or_path", pooling=None):
    """Encoder and tokenizer of a pretrained model (its name or local folder) or of a checkpoint of train.py.

    Args:
        output_emb_size: None keeps the checkpoint's; another value gets a new linear layer.
        pooling: first or mean; None for what the folder records.
    Raises:
        UserError: the model is not on this machine and cannot be downloaded; the message says how to get it.
    """
    paddle = import_paddle()
    from paddlenlp.transformers import AutoModel

    # Paddle numbers parameter names over the whole process, and the optimiser's saved state is looked up by name.
    with pretrained_faults(name, flag), paddle.utils.unique_name.guard():
        if folder := hugging_face.find(name):
            backbone, tokenizer = hugging_face.load_encoder(folder)
        else:
            tokenizer = open_tokenizer(name)
            backbone = hugging_face.with_epsilon(AutoModel.from_pretrained(name))
        set_pooling(backbone, pooling or recorded_pooling(folder or name) or FIRST, f"{flag} {name}")
        saved = getattr(backbone.config, "output_emb_size", 0)
        encoder = make_encoder(backbone, saved if output_emb_size is None else output_emb_size)
        if saved and saved == backbone.config.output_emb_size:
            file = weight_files(name)[0]
            weights = read_weights(encoder, os.path.join(name, file), flag)
            for part in ("weight", "bias"):
                if f"projection.{part}" not in weights:
                    raise ValueError(
                        tr(
                            "{file} has no projection.{part}, but config.json says that there is one",
                            file=file,
                            part=part,
                        )
                    )
                getattr(encoder.projection, part).set_value(weights[f"projection.{part}"])
    return encoder, tokenizer


def embed(encoder, encoded, batch_size, batches=None):
    """Unit vectors of the rows in the batches (by default, of all rows), without gradient or dropout.

    Returns:
        float32 array [rows, width], 0 for rows in no batch. The encoder keeps its mode (training or evaluation).
    """
    vectors = np.zeros((len(encoded), encoder.width), dtype=np.float32)
    batches = sorted_batches(encoded.lengths, batch_size) if batches is None else batches
    for rows, values in forward_batches(encoder, encoded, batches):
        vectors[rows] = values
    return vectors


def folder_of(path):
    """The folder of a checkpoint, which commands of PaddleNLP's application name by its model_state.pdparams."""
    return os.path.dirname(path) or "." if os.path.basename(path) in WEIGHT_FILES else path


class TrainedEncoder:
    """A checkpoint of train.py. Its small files are read at once, its weights when the first texts are encoded.

    labels, decision, max_seq_length: the checkpoint's. corpus: names of the labels that get an entry in an index of
    label texts. predictor: always None; an `ExportedEncoder` has one. calibration: of the scores of label texts, as in
    a bundle's manifest; always None.
    """

    predictor = calibration = None

    def __init__(self, path, device, batch_size=32, max_seq_length=None):
        problems = Problems()
        with problems.collect():
            self._checkpoint = load_checkpoint(path, None, problems, kind=KIND)
        if problem := paddle_device_problem(device):
            problems.add(problem)
        problems.stop_if_any()
        self.labels, self.decision, run = self._checkpoint.labels, self._checkpoint.decision, self._checkpoint.run
        self.corpus, self.max_seq_length = run["corpus"], max_seq_length or run["arguments"]["max_seq_length"]
        if unknown := [name for name in self.corpus or () if name not in self.labels.index]:
            raise UserError(
                tr(
                    "{path}/run.json: corpus names {unknown!r}, which label.txt does not; {remedy}",
                    path=path,
                    unknown=unknown[0],
                    remedy=tr(REMEDY),
                )
            )
        longest = self._checkpoint.longest
        if longest and self.max_seq_length > longest:
            raise UserError(
                tr(
                    "--max_seq_length {max_seq_length}: this model takes at most {longest} tokens",
                    max_seq_length=self.max_seq_length,
                    longest=longest,
                )
            )
        self._path, self._device, self._batch_size = path, device, batch_size

    def checkpoint(self):
        """The `Checkpoint` with its tokenizer and the encoder, in evaluation mode, as its model."""
        if self._checkpoint.model is None:
            set_device(self._device)
            self._checkpoint.model, self._checkpoint.tokenizer = load_rest(
                self._checkpoint, lambda: load_encoder(self._path, flag="--params_path")
            )
            self._checkpoint.model.eval()
        return self._checkpoint

    def embed(self, texts):
        """Unit vectors of a list of texts: float32 array [texts, width]."""
        checkpoint = self.checkpoint()
        encoded = encode(texts, checkpoint.tokenizer, checkpoint.model, self.max_seq_length)
        return embed(checkpoint.model, encoded, self._batch_size)


class ExportedEncoder:
    """A retrieval bundle on ONNX Runtime, with the attributes of `TrainedEncoder`; predictor: `RetrievalPredictor`."""

    def __init__(self, path, device, batch_size, max_seq_length):
        from text_cls.serving.retrieval_predictor import RetrievalPredictor

        kind, _, number = device.partition(":")
        self.predictor = RetrievalPredictor(
            path, device=kind, device_id=int(number or 0), batch_size=batch_size, max_seq_length=max_seq_length
        )
        self.labels, self.decision = self.predictor.labels, self.predictor.decision
        self.max_seq_length, self.embed = self.predictor.max_seq_length, self.predictor.embed
        self.corpus = None  # the bundle's index has the entries
        self.calibration = self.predictor.bundle.manifest["search"].get("calibration")


def open_encoder(path, device, batch_size=32, max_seq_length=None):
    """Opens a checkpoint as a `TrainedEncoder`, or a bundle as an `ExportedEncoder`.

    Args:
        path: the folder, or its file of weights.
        device: cpu, gpu, or one card: gpu:0.
        max_seq_length: maximum tokens per text; None: as in training.
    Raises:
        UserError: the folder is neither, it is damaged, or the device is unavailable; the message says what to do.
    """
    path = folder_of(path)
    opener = ExportedEncoder if os.path.exists(os.path.join(path, MANIFEST)) else TrainedEncoder
    return opener(path, device, batch_size, max_seq_length)
