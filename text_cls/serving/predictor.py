"""A bundle on ONNX Runtime: texts in, labels out. No Paddle, no PaddleNLP.

from predictor import Predictor

predictor = Predictor("export")
for names, scores in predictor.predict(["今日大盘下跌2%", "央行发布金融数据"]):
    print(names, scores)
"""

import os
from importlib import metadata

import numpy as np

from text_cls.batching import Encoded, budget_batches
from text_cls.bundle import CLASSIFICATION, open_bundle
from text_cls.cli import UserError, logger
from text_cls.prediction import named_labels
from text_cls.probabilities import sigmoid
from text_cls.tokenization import load_tokenizer

GPU_PACKAGE = "onnxruntime-gpu"
# Before it, rows padded to share a batch get other logits than alone (by 0.9 to 7, seen with 1.18 to 1.20 on a CPU).
OLDEST = (1, 21)


def onnx_device_problem(device):
    """What keeps ONNX Runtime from computing on a device, with what to do, or None."""
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < OLDEST:
        return (
            f"ONNX Runtime {onnxruntime.__version__} computes padded rows wrongly; "
            f"pip install 'onnxruntime{'-gpu' if device == 'gpu' else ''}>={'.'.join(map(str, OLDEST))}'"
        )
    if device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    if {"onnxruntime", GPU_PACKAGE} <= installed:
        return (
            f"--device gpu: onnxruntime and {GPU_PACKAGE} are both installed, and the first hides the second; "
            f"pip uninstall -y onnxruntime {GPU_PACKAGE} && pip install {GPU_PACKAGE}"
        )
    if GPU_PACKAGE in installed:
        return f"--device gpu: {GPU_PACKAGE} finds no CUDA here; see that nvidia-smi works, or use --device cpu"
    return (
        f"--device gpu: this ONNX Runtime has no CUDA; use --device cpu, or on a machine with an NVIDIA GPU "
        f"pip uninstall -y onnxruntime && pip install {GPU_PACKAGE}"
    )


def bundle_of(prefix):
    """The bundle's folder, of itself or of the path of the static graph in it without its ending."""
    return prefix if os.path.isdir(prefix) else os.path.dirname(prefix) or "."


class Predictor:
    """Serves one bundle.

    Args:
        folder: what export_model.py or prune.py wrote. Its files must be those its manifest tells of.
        variant: "float32", or "int8" (for a CPU) or "fp16" (for a GPU) where the bundle holds it.
        device, device_id: "cpu", or "gpu" and its number.
        num_threads: threads of one run of the model; None for as many as there are cores.
        batch_size: rows a batch if all are of full length; shorter ones share the same number of tokens.
        max_seq_length: tokens of a text; None as in training.
        spin: threads wait busily for the next run: for runs without a pause between them. A server's other threads
            want the cores; there it doubled the CPU time of a text on two cores.
    Raises:
        UserError: the bundle is damaged, or the device is not to be had; the text says what to do.
    """

    kind = CLASSIFICATION  # of the bundles it serves

    def __init__(
        self,
        folder,
        variant="float32",
        device="cpu",
        device_id=0,
        num_threads=None,
        batch_size=32,
        max_seq_length=None,
        spin=True,
    ):
        import onnxruntime

        if problem := onnx_device_problem(device):
            raise UserError(problem)
        if variant == "fp16" and device == "cpu":
            raise UserError("fp16 is for --device gpu; on a CPU it is slower than float32: leave it out")
        if variant == "int8" and device == "gpu":
            raise UserError("int8 is for --device cpu; on a GPU, use fp16")
        self.take(open_bundle(folder, self.kind))
        manifest = self.bundle.manifest
        self.max_seq_length = max_seq_length or manifest["max_seq_length"]
        if manifest["longest_input"] and self.max_seq_length > manifest["longest_input"]:
            raise UserError(
                f"max_seq_length {max_seq_length}: this model takes {manifest['longest_input']} tokens at most"
            )
        self.batch_tokens = batch_size * self.max_seq_length
        try:
            self.tokenizer = load_tokenizer(folder)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: the tokenizer does not load: {error}") from error
        if self.max_seq_length <= self.tokenizer.fixed:
            raise UserError(
                f"max_seq_length {self.max_seq_length}: {self.tokenizer.fixed} tokens are not the text's; give more"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0  # 0: as many as there are cores
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        providers = ["CPUExecutionProvider"]
        if device == "gpu":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device_id}))
        self.session = onnxruntime.InferenceSession(self.bundle.onnx_file(variant), options, providers=providers)
        if device == "gpu" and self.session.get_providers()[0] != "CUDAExecutionProvider":
            raise UserError(f"--device gpu: CUDA does not start with device {device_id}; use --device cpu")
        self.inputs = [node.name for node in self.session.get_inputs()]
        width = self.session.get_outputs()[0].shape[-1]
        if isinstance(width, int) and width != self.columns:  # it may be a name, of a number that is known in a run
            raise UserError(
                f"{folder}: the model gives {width} numbers for a text, {self.columns} are wanted; export it again"
            )

    def take(self, bundle):
        """Answers with the bundle's labels and decision from here on."""
        self.bundle, self.labels, self.decision = bundle, bundle.labels, bundle.decision

    @property
    def columns(self):
        """Numbers that the graph gives for a row: a logit a label."""
        return len(self.labels)

    def encode(self, texts, max_seq_length=None):
        """Tokens of a list of texts as `Encoded`, cut at `max_seq_length` (by default as in training)."""
        return self.pack(self.tokenizer.encode(texts, max_seq_length or self.max_seq_length))

    def pack(self, rows):
        """Rows of token ids, a list of int32 arrays, as `Encoded`."""
        ids = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
        columns = {name: ids if name == "input_ids" else np.zeros_like(ids) for name in self.inputs}
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        padding = {name: self.tokenizer.pad_id if name == "input_ids" else 0 for name in self.inputs}
        return Encoded(columns, offsets, padding, pad_left=False, with_mask=False, truncated=0)

    def run(self, encoded, batches=None):
        """What the graph gives: float32 array [rows, columns], in their order; `batches` of row numbers, or its own."""
        outputs = np.zeros((len(encoded), self.columns), dtype=np.float32)
        for rows in budget_batches(encoded.lengths, self.batch_tokens) if batches is None else batches:
            outputs[rows] = self.session.run(None, encoded.batch(rows))[0]
        return outputs

    def probabilities_of(self, outputs):
        """One sigmoid a label: float32 array [rows, labels] of what `run` gave."""
        return sigmoid(outputs)

    def probabilities(self, texts, max_seq_length=None):
        """The same of texts: float32 array [texts, labels]."""
        return self.probabilities_of(self.run(self.encode(texts, max_seq_length)))

    def predict(self, texts, max_seq_length=None):
        """Yields (label names, their probabilities) of each text, in order."""
        return named_labels(self.probabilities(texts, max_seq_length), self.labels, self.decision)

    def log(self):
        manifest = self.bundle.manifest
        logger.info(
            "%s, %d labels, at most %d tokens, on %s (ONNX Runtime)",
            manifest["model"],
            len(self.labels),
            self.max_seq_length,
            self.session.get_providers()[0].removesuffix("ExecutionProvider"),
        )
