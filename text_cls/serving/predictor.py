"""A bundle on ONNX Runtime: texts in, labels out. Neither Paddle nor PaddleNLP is needed.

from text_cls.serving.predictor import Predictor

predictor = Predictor("export")
for names, scores in predictor.predict(["今日大盘下跌2%", "央行发布金融数据"]):
    print(names, scores)
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata

import numpy as np

from text_cls.batching import Encoded, budget_batches, token_budget
from text_cls.blend import described
from text_cls.bundle import CLASSIFICATION, DECISION, REMEDIES, Bundle, open_bundle
from text_cls.cli import UserError, logger
from text_cls.files import read_unchanged
from text_cls.language import tr
from text_cls.long_texts import CUT, Windows, description, encode_as, evidence_problem, passages, pool, texts_in_parts
from text_cls.model_card import CARD
from text_cls.prediction import named_labels
from text_cls.probabilities import sigmoid
from text_cls.reference import REFERENCE, token_counts
from text_cls.tokenization import load_tokenizer

GPU_PACKAGE = "onnxruntime-gpu"
# Older ones compute padded rows wrongly: with 1.18 to 1.20 on a CPU, logits are off by 0.9 to 7.
OLDEST = (1, 21)
# Limits of memory for long texts: characters that are tokenised together, and outputs of windows that are held.
CHARACTERS, OUTPUTS = 1 << 22, 1 << 22


def onnx_device_problem(device):
    """Why ONNX Runtime cannot compute on a device, and what to do; None if it can."""
    import onnxruntime

    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < OLDEST:
        return tr(
            "ONNX Runtime {version} computes padded rows wrongly; pip install 'onnxruntime{kind}>={oldest}'",
            version=onnxruntime.__version__,
            kind="-gpu" if device == "gpu" else "",
            oldest=".".join(map(str, OLDEST)),
        )
    if device == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}
    if {"onnxruntime", GPU_PACKAGE} <= installed:
        return tr(
            "--device gpu: onnxruntime and {gpu_package} are both installed, and the first hides the second; pip "
            "uninstall -y onnxruntime {gpu_package} && pip install {gpu_package}",
            gpu_package=GPU_PACKAGE,
        )
    if GPU_PACKAGE in installed:
        return tr(
            "--device gpu: {gpu_package} finds no CUDA; check that nvidia-smi works, or use --device cpu",
            gpu_package=GPU_PACKAGE,
        )
    return tr(
        "--device gpu: this ONNX Runtime has no CUDA; use --device cpu, or on a machine with an NVIDIA GPU pip "
        "uninstall -y onnxruntime && pip install {gpu_package}",
        gpu_package=GPU_PACKAGE,
    )


def bundle_of(prefix):
    """The folder of a bundle, from that folder or from the path of its static graph without the ending."""
    return prefix if os.path.isdir(prefix) else os.path.dirname(prefix) or "."


class Predictor:
    """Predicts labels with one bundle.

    `long_texts`: a `LongTexts`, how the bundle reads texts of more than `max_seq_length` tokens. `longest`: the most
    that `max_seq_length` may be, or None. `unread`: number of texts so far that had more windows than it allows.

    Args:
        folder: what export_model.py or prune.py wrote. Every file must match manifest.json.
        variant: "float32", or "int8" (CPU) or "fp16" (GPU) if the bundle has it.
        device, device_id: "cpu", or "gpu" and its number.
        num_threads: threads of one run of the model; None for one per core.
        batch_size: rows per batch if all have full length; of shorter rows, as many as have the same number of tokens.
        max_seq_length: maximum tokens per text, or window of a text; None for the value of training.
        spin: threads busy-wait for the next run, which pays off if runs follow each other without a pause. In a server,
            whose other threads need the cores, it doubled the CPU time per text on two cores.
    Raises:
        UserError: the bundle is damaged, or the device is unavailable; the message says what to do.
    """

    kind = CLASSIFICATION  # of the bundles that this class opens
    changing = frozenset((DECISION, REFERENCE, CARD))  # files that may change while the model stays as it is

    def __init__(
        self,
        folder: str,
        variant: str = "float32",
        device: str = "cpu",
        device_id: int = 0,
        num_threads: int | None = None,
        batch_size: int = 32,
        max_seq_length: int | None = None,
        spin: bool = True,
    ) -> None:
        self.check_device(device)
        if variant == "fp16" and device == "cpu":
            raise UserError(tr("fp16 is for --device gpu; on a CPU it is slower than float32: use that"))
        if variant == "int8" and device == "gpu":
            raise UserError(tr("int8 is for --device cpu; on a GPU use fp16"))

        self._length, self._batch_size = max_seq_length, batch_size
        self._options = variant, device, device_id, num_threads, spin
        read_unchanged(folder, lambda: self._load(open_bundle(folder, self.kind)))  # what was verified is loaded

    def _load(self, bundle):
        """Loads the model and the tokenizer of a bundle, and uses them from now on."""
        self.session = None  # of an earlier attempt: a second model may not fit into memory beside it
        self.take(bundle)
        self._load_tokenizer(self._length)
        self._open_session(*self._options)
        self.batch_tokens, self.unread = token_budget(self._batch_size, self.max_seq_length), 0

    def _load_tokenizer(self, max_seq_length):
        folder, manifest = self.bundle.folder, self.bundle.manifest
        self.max_seq_length = max_seq_length or manifest["max_seq_length"]
        try:
            self.tokenizer = load_tokenizer(folder)
        except (UserError, ImportError):
            raise
        except Exception as error:  # the libraries raise several kinds for a file that is none
            raise UserError(
                tr("{folder}: the tokenizer cannot be loaded: {error}", folder=folder, error=error)
            ) from error
        self.longest = getattr(self.tokenizer, "longest", manifest["longest_input"])
        if self.longest and self.max_seq_length > self.longest:
            raise UserError(
                tr(
                    "max_seq_length {max_seq_length}: this model takes at most {longest} tokens",
                    max_seq_length=max_seq_length,
                    longest=self.longest,
                )
            )
        if self.max_seq_length <= self.tokenizer.fixed:
            raise UserError(
                tr(
                    "{folder}: max_seq_length {max_seq_length}: {fixed} of them are special tokens; allow more",
                    folder=folder,
                    max_seq_length=self.max_seq_length,
                    fixed=self.tokenizer.fixed,
                )
            )

    def check_device(self, device: str) -> None:
        """Raises UserError if the graph cannot run on a device."""
        if problem := onnx_device_problem(device):
            raise UserError(problem)

    def _open_session(self, variant, device, device_id, num_threads, spin):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads or 0  # 0: one per core
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        providers = ["CPUExecutionProvider"]
        if device == "gpu":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device_id}))
        path, remedy = self.bundle.onnx_file(variant), tr(REMEDIES[self.kind])
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise UserError(
                tr(
                    "{path} does not load in ONNX Runtime; {remedy} ({error})",
                    path=path,
                    remedy=remedy,
                    error=str(error).strip(),
                )
            ) from error
        if device == "gpu" and self.session.get_providers()[0] != "CUDAExecutionProvider":
            raise UserError(
                tr("--device gpu: CUDA does not start with device {device_id}; use --device cpu", device_id=device_id)
            )
        self.inputs = [node.name for node in self.session.get_inputs()]
        wanted = [tensor["name"] for tensor in self.bundle.manifest["inputs"]]
        if sorted(self.inputs) != sorted(wanted):
            raise UserError(
                tr(
                    "{path}: its inputs are {inputs}, not {wanted}; {remedy}",
                    path=path,
                    inputs=", ".join(self.inputs),
                    wanted=", ".join(wanted),
                    remedy=remedy,
                )
            )
        width = (self.session.get_outputs()[0].shape or [0])[-1]
        if isinstance(width, int) and width != self.columns:  # it may be a name, for a number known only in a run
            raise UserError(
                tr(
                    "{path}: it outputs {width} numbers per text, not {columns}; {remedy}",
                    path=path,
                    width=width,
                    columns=self.columns,
                    remedy=remedy,
                )
            )

    def take(self, bundle: Bundle) -> None:
        """Uses the labels and the decision of another bundle from now on."""
        self.bundle, self.labels, self.decision = bundle, bundle.labels, bundle.decision
        self.long_texts = bundle.long_texts

    def reopened(self, verified: Callable[[], object] = lambda: None) -> "Predictor":
        """Another predictor, of what is in the bundle's folder now; this one does not change.

        It shares the model and the tokenizer if their files are the same.

        Args:
            verified: called when all files are those of the manifest, before any model is loaded. Memory that is freed
                then has room for it.
        Raises:
            UserError: the bundle is damaged, or of another kind.
        """
        return read_unchanged(self.bundle.folder, lambda: self._reopened(verified))

    def _reopened(self, verified):
        bundle = open_bundle(self.bundle.folder, self.kind)
        verified()
        other = copy.copy(self)
        if self._model_of(bundle) == self._model_of(self.bundle):
            other.take(bundle)
        else:
            other._load(bundle)
        return other

    def _model_of(self, bundle):
        """What the model and the tokenizer depend on: files, except for `changing`, and fields of the manifest."""
        files = {name: digest for name, digest in bundle.manifest["files"].items() if name not in self.changing}
        fields = "width", "inputs", "outputs", "max_seq_length", "longest_input", "pad_token_id"
        return files, [bundle.manifest.get(name) for name in fields]

    @property
    def columns(self) -> int:
        """Outputs of the graph per row: one logit per label."""
        return len(self.labels)

    def encode(self, texts: Sequence[str], max_seq_length: int | None = None) -> Encoded | Windows:
        """The tokens of texts: `Windows` if the bundle reads texts in windows, else `Encoded`.

        max_seq_length: most tokens of a text, or of a window (by default as in training).
        """
        length = max_seq_length or self.max_seq_length
        return encode_as(self.long_texts, self.tokenizer, self.pack, texts, length)

    def pack(self, rows: Sequence[np.ndarray]) -> Encoded:
        """Rows of token ids, int32 arrays, as `Encoded`."""
        ids = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
        columns = {name: ids if name == "input_ids" else np.zeros_like(ids) for name in self.inputs}
        offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        padding = {name: self.tokenizer.pad_id if name == "input_ids" else 0 for name in self.inputs}
        return Encoded(columns, offsets, padding, pad_left=False, with_mask=False, truncated=0)

    def run(self, encoded: Encoded | Windows, batches: Iterable[np.ndarray] | None = None) -> np.ndarray:
        """The outputs of the graph: float32 array [rows, columns]; of `Windows`, pooled: [texts, columns].

        Args:
            batches: row numbers of each batch; None, as for `Windows`, to batch by length.
        """
        if isinstance(encoded, Windows):
            none = np.zeros((0, self.columns), dtype=np.float32)
            return np.concatenate([none, *(pooled for pooled, _ in self._pooled(encoded))])
        return self._run(encoded, budget_batches(encoded.lengths, self.batch_tokens) if batches is None else batches)

    def _run(self, encoded, batches, first=0, last=None):
        """The outputs of the rows from `first` to `last`; the batches count from `first`."""
        outputs = np.zeros(((len(encoded) if last is None else last) - first, self.columns), dtype=np.float32)
        for rows in batches:
            try:
                outputs[rows] = self.session.run(None, encoded.batch(first + rows))[0]
            except Exception as error:  # as ONNX Runtime's, if the manifest names a length that the graph does not take
                raise UserError(
                    tr(
                        "{folder}: the graph fails on rows of {lengths} tokens; check longest_input of manifest.json, "
                        "or {remedy} ({error})",
                        folder=self.bundle.folder,
                        lengths=encoded.lengths[first + rows].max(),
                        remedy=tr(REMEDIES[self.kind]),
                        error=str(error).strip(),
                    )
                ) from error
        return outputs

    def _pooled(self, windows, with_passages=False):
        """Yields (outputs [texts, columns], passages [texts, columns, 2] or None) of consecutive texts.

        Texts without long ones among them are one part, and so share batches as if there were no windows.
        """
        tokens, offsets, first = windows.tokens, windows.offsets, 0
        most = len(tokens) if len(tokens) == len(windows) else max(1, OUTPUTS // self.columns)
        while first < len(windows):
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + most, side="right")) - 1)
            start, end = offsets[first], offsets[last]
            batches = budget_batches(tokens.lengths[start:end], self.batch_tokens)
            logits = self._run(tokens, batches, start, end)
            pooled = pool(logits, windows.counts[first:last], windows.pooling)
            yield pooled, passages(windows, logits, first) if with_passages else None
            first = last

    def probabilities_of(self, outputs: np.ndarray) -> np.ndarray:
        """The probability of each label: float32 array [rows, labels], the sigmoid of the outputs of `run`."""
        return sigmoid(outputs)

    def probabilities(self, texts: Sequence[str], max_seq_length: int | None = None) -> np.ndarray:
        """The probability of each label: float32 array [texts, labels]."""
        parts = [self.probabilities_of(self.run(encoded)) for encoded in self._encoded(texts, max_seq_length)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def probabilities_and_tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, tuple[np.ndarray, int, int]]:
        """What `probabilities` returns, and the tokens that were read as `reference.token_counts` counts them."""
        found, counted = [], []
        for encoded in self._encoded(texts, None):
            found.append(self.probabilities_of(self.run(encoded)))
            counted.append(token_counts(encoded, getattr(self.tokenizer, "unk_id", None)))
        lengths, tokens, unknown = zip(*counted)
        return np.concatenate(found), (np.concatenate(lengths), sum(tokens), sum(unknown))

    def _encoded(self, texts, max_seq_length):
        """Yields the tokens of consecutive texts, of which few are held if they are long."""
        whole = self.long_texts.mode == CUT or not len(texts)
        for part in [texts] if whole else texts_in_parts(texts, CHARACTERS):
            encoded = self.encode(part, max_seq_length)
            if isinstance(encoded, Windows):
                self.unread += encoded.truncated
            yield encoded

    def predict(
        self, texts: Sequence[str], max_seq_length: int | None = None
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields (label names, their probabilities) for each text, in order."""
        return named_labels(self.probabilities(texts, max_seq_length), self.labels, self.decision)

    def predict_with_evidence(
        self, texts: Sequence[str], max_seq_length: int | None = None
    ) -> Iterator[tuple[list[str], np.ndarray, list[list[int]]]]:
        """Yields (label names, their probabilities, passages) for each text, in order.

        A passage is the [start, end] in the text, in characters, of the window in which its label has the highest
        logit; of equal ones, the first.

        Raises:
            UserError: the bundle does not read texts in windows.
        """
        if problem := evidence_problem(self.long_texts):
            raise UserError(f"{self.bundle.folder}: {problem}")
        for windows in self._encoded(texts, max_seq_length):
            for outputs, found in self._pooled(windows, with_passages=True):
                yield from named_labels(self.probabilities_of(outputs), self.labels, self.decision, found)

    def log(self) -> None:
        """Logs the model, the number of labels, the maximum length and the device."""
        manifest = self.bundle.manifest
        logger.info(
            "%s, %d labels, at most %d tokens, on %s (ONNX Runtime)",
            manifest["model"],
            len(self.labels),
            self.max_seq_length,
            self.session.get_providers()[0].removesuffix("ExecutionProvider"),
        )
        for line in described(self.bundle.cascade, self.bundle.blend):
            logger.info(line)
        if line := description(self.long_texts):
            logger.info(line)
