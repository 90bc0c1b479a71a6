"""From a trained model to a bundle: static graph, ONNX graph, a check that they agree, and all that serving needs."""

import contextlib
import copy
import inspect
import os
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from text_cls.batching import sorted_batches
from text_cls.bundle import VARIANTS, files_of_bundle, write_card, write_manifest
from text_cls.card_facts import facts_of
from text_cls.cli import UserError, logger
from text_cls.files import atomic_folder, overwrite_problem
from text_cls.language import tr
from text_cls.long_texts import CUT, Windows
from text_cls.neural.compat import PIR, import_paddle, quiet_output
from text_cls.neural.model import encode, logits_of, longest_input, predict_logits
from text_cls.neural.onnx_graph import optimise
from text_cls.neural.run_file import versions
from text_cls.reference import REMEDY
from text_cls.rows import read_texts
from text_cls.scores import scores
from text_cls.tokenization import load_tokenizer

TOLERANCE = 1e-4  # largest difference of a logit between the dynamic graph and the bundle, if logits are 1 or less
TIMED_ROWS, ROUNDS, BATCH_SIZE = 256, 5, 32
OPSET = 17  # the first that has LayerNormalization as one operator
# Files that PaddleNLP's application exports. It replaces them without a warning, and so do we.
_ENDS = ("pdmodel", "pdiparams", "pdiparams.info")
PADDLENLP_FILES = {f"{name}.{end}" for name in ("float32", "pruned_model", "model") for end in _ENDS}
PADDLENLP_FILES |= {*VARIANTS.values(), "model_state.pdparams", "model_config.json"}
PADDLENLP_FILES |= {"template_config.json", "verbalizer_config.json"}  # of few-shot/


def bundle_folder_problem(path, flag):
    """Why a bundle must not, or cannot, be written to the folder `path`, or None."""
    if re.search("[\ud800-\udfff]", os.path.realpath(path)):  # bytes that are not UTF-8
        return tr(
            "{flag} {path!a}: Paddle cannot write a graph to a path that is not UTF-8; rename the folder",
            flag=flag,
            path=path,
        )
    return overwrite_problem(path, PADDLENLP_FILES | files_of_bundle(path), flag)


def tokenizer_problem(tokenizer):
    """Why a server without PaddleNLP cannot tokenise for this model, or None."""
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        try:
            load_tokenizer(folder)
        except ValueError as error:
            return tr("this model cannot be served without PaddleNLP: its tokenizer {error}", error=error)
    return None


@dataclass
class Draft:
    """A bundle that is being made: files added to the folder belong to it once it is sealed."""

    folder: str
    fields: dict

    def file(self, variant):
        return os.path.join(self.folder, VARIANTS[variant])

    def seal(self):
        write_card(self.folder, self.fields)
        write_manifest(self.folder, self.fields)


@contextlib.contextmanager
def draft_folder(path, checkpoint, write, max_seq_length, output="logits", **more):
    """Yields the `Draft` of a complete bundle, which replaces `path` when the block ends without an error.

    Args:
        write: function of a folder that writes graph and tokenizer, and returns what of the manifest depends on them;
            "inputs" are the names.
        output, more: as in `bundle_folder`.
    """
    labels = checkpoint.labels
    with atomic_folder(path) as folder:
        fields = write(folder)
        labels.write(os.path.join(folder, "label.txt"))
        checkpoint.decision.save(os.path.join(folder, "decision.json"), labels.names)
        _write_reference(folder, checkpoint)
        packages = ("paddlepaddle", "paddlepaddle-gpu", "paddlenlp", "paddle2onnx", "onnx", "onnxruntime")
        fields |= {
            "inputs": [{"name": name, "dtype": "int64", "shape": [-1, -1]} for name in fields["inputs"]],
            "outputs": [{"name": output, "dtype": "float32", "shape": [-1, more.get("width", len(labels))]}],
            "num_labels": len(labels),
            "hierarchical": labels.hierarchical,
            "max_seq_length": max_seq_length,
            **_long_texts(checkpoint),
            "versions": versions(packages),
            "card": facts_of(checkpoint.run),
            **more,
        }
        draft = Draft(folder, fields)
        draft.seal()
        yield draft
        draft.seal()


def bundle_folder(path, checkpoint, prefix, max_seq_length, output="logits", **more):
    """What `draft_folder` yields, of a float32 bundle.

    Args:
        checkpoint: `Checkpoint` with model and tokenizer of Paddle, on a CPU.
        prefix: name of the static graph's files: float32 or pruned_model.
        output: name of the model's output, `width` numbers per row, by default one per label.
        more: further fields of the manifest.
    """
    model, tokenizer = checkpoint.model, checkpoint.tokenizer

    def write(folder):
        static_graph = os.path.join(folder, prefix)
        inputs = write_static_graph(model, tokenizer, static_graph)
        write_onnx_graph(static_graph, os.path.join(folder, VARIANTS["float32"]), tokenizer.pad_token_id, output)
        tokenizer.save_pretrained(folder)
        return {
            "model": type(model).__name__,
            "model_type": model.config.model_type,
            "static_graph": prefix,
            "inputs": inputs,
            "longest_input": longest_input(model.config),
            **_id_limits(model.config, inputs),
            "pad_token_id": tokenizer.pad_token_id,
        }

    return draft_folder(path, checkpoint, write, max_seq_length, output, **more)


def _write_reference(folder, checkpoint):
    """Writes the checkpoint's reference.json, unless its decision has changed since."""
    reference, decision = checkpoint.reference, checkpoint.decision
    problem = reference and reference.problem(checkpoint.labels.names, decision)
    if problem:
        logger.warning("The bundle has no reference.json: the checkpoint's %s. %s", problem, tr(REMEDY).capitalize())
    elif reference:
        reference.write(folder)


def _id_limits(config, inputs):
    """How many ids a model has for each of its inputs; servers refuse others before they reach the graph."""
    sizes = {"input_ids": "vocab_size", "token_type_ids": "type_vocab_size"}
    return {sizes[name]: getattr(config, sizes[name]) for name in inputs if hasattr(config, sizes[name])}


def _long_texts(checkpoint):
    """The manifest's record of how long texts are read; none if they are cut, as without it."""
    return {} if checkpoint.long_texts.mode == CUT else {"long_texts": checkpoint.long_texts.record()}


def write_static_graph(model, tokenizer, prefix):
    """Writes `prefix`.pdmodel, .pdiparams and .pdiparams.info. Returns the names of the inputs, each int64 [-1, -1]."""
    paddle = import_paddle()
    if paddle.get_flags(PIR)[PIR]:
        raise RuntimeError(tr("Paddle was imported before prepare_environment()"))
    accepted = inspect.signature(model.forward).parameters
    made = tokenizer("", return_token_type_ids=True)
    names = [name for name in ("input_ids", "token_type_ids") if name in accepted and name in made]
    pad = tokenizer.pad_token_id

    class Served(paddle.nn.Layer):
        """The model with a mask made from the id of padding: PaddleNLP's ERNIE-M (2.8) mistakes [CLS] for padding."""

        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(model)  # the conversion rewrites the methods of its model

        def forward(self, input_ids, token_type_ids=None):
            inputs = {"input_ids": input_ids, "attention_mask": (input_ids != pad).astype("int64")}
            if token_type_ids is not None:
                inputs["token_type_ids"] = token_type_ids
            return logits_of(self.model, inputs)

    specs = [paddle.static.InputSpec([None, None], "int64", name) for name in names]
    paddle.seed(0)  # the seed is written into the file, though nothing is drawn
    with quiet_output(), paddle.utils.unique_name.guard():
        static = paddle.jit.to_static(Served(), input_spec=specs, full_graph=True)
        static.eval()
        paddle.jit.save(static, prefix)
    _strip_call_stacks(f"{prefix}.pdmodel")
    return names


def _strip_call_stacks(path):
    """Removes each operator's Python call stack from a graph: it has paths of this machine, different in each clone."""
    from paddle.base.proto import framework_pb2

    program = framework_pb2.ProgramDesc()
    with open(path, "rb") as file:
        program.ParseFromString(file.read())
    for block in program.blocks:
        for op in block.ops:
            kept = [attribute for attribute in op.attrs if attribute.name != "op_callstack"]
            del op.attrs[:]
            op.attrs.extend(kept)
    with open(path, "wb") as file:
        file.write(program.SerializeToString(deterministic=True))


def write_onnx_graph(prefix, target, pad_token_id, output="logits"):
    """Writes the static graph of `prefix` as an ONNX model made fast for ONNX Runtime (onnx_graph.py)."""
    import onnx
    import paddle2onnx

    raw = f"{target}.raw"
    try:
        with quiet_output():
            paddle2onnx.export(f"{prefix}.pdmodel", f"{prefix}.pdiparams", raw, opset_version=OPSET, verbose=False)
        model = onnx.load(raw)
        _rename_output(model.graph, output)  # its own name contains a counter, which no server could rely on
        onnx.save(model, raw)
        optimise(raw, target, pad_token_id)
    finally:
        if os.path.exists(raw):
            os.remove(raw)


def _rename_output(graph, name):
    old = graph.output[0].name
    for node in graph.node:
        for names in (node.input, node.output):
            for i, value in enumerate(names):
                if value == old:
                    names[i] = name
    graph.output[0].name = name


def check(checkpoint, predictor, texts, max_seq_length):
    """Compares a predictor's logits with the dynamic graph's, on `texts_to_compare`.

    Returns:
        (largest difference, smallest and largest number of tokens of a row).
    Raises:
        UserError: they differ by more than `tolerance`, or the tokens differ.
    """
    texts = texts_to_compare(texts, max_seq_length)
    expected = encode(texts, checkpoint.tokenizer, checkpoint.model, max_seq_length)
    logits = predict_logits(checkpoint.model, expected, 32)
    difference = compare(expected, logits, predictor, texts, max_seq_length)
    return difference, int(expected.lengths.min()), int(expected.lengths.max())


def example_texts():
    """Texts to compare the graphs on if there are no others."""
    path = Path(__file__).resolve().parents[2] / "data" / "data.txt"
    return [text for _, text in read_texts(path)]


def texts_to_compare(texts, max_seq_length):
    """The texts, pieces of them from one character to more than the model takes, an empty one, and an unusual one."""
    joined = "。".join(texts)
    lengths = [1, 2, *range(8, 2 * max_seq_length, max(8, max_seq_length // 8))]
    return [*texts, *(joined[start : start + n] for start, n in enumerate(lengths)), "", "😀 Ａ１ café"]


def tolerance(logits):
    """How much logits may differ: float32 has 7 digits, so that larger logits differ by more."""
    return TOLERANCE * max(1.0, float(np.abs(logits).max()))


def compare(expected, logits, predictor, texts, max_seq_length):
    """The largest difference between logits and a predictor's.

    Args:
        expected: the texts' tokens by PaddleNLP, as `Encoded`.
        logits: the trained model's logits for them.
    Raises:
        UserError: the difference is above `tolerance`, or the tokens differ.
    """
    found = predictor.pack(predictor.tokenizer.encode(texts, max_seq_length))  # cut: the graph reads rows
    if not np.array_equal(expected.columns["input_ids"], found.columns["input_ids"]):
        raise UserError(tr("the server's tokens are not PaddleNLP's; this model cannot be served without PaddleNLP"))
    difference = float(np.abs(logits - predictor.run(found)).max())
    if not difference <= tolerance(logits):
        raise UserError(
            tr(
                "the exported model's logits differ from the trained one's by {difference:.1e}; please report this",
                difference=difference,
            )
        )
    return difference


def measure(predictors, rows):
    """Scores and speed of predictors with the same labels, timed in turns on up to 256 of the rows.

    Args:
        predictors: {name: `Predictor`}.
        rows: labelled `Rows`.
    Returns:
        {name: {"micro_f1", "macro_f1" in percent, "texts_per_second"}}; the speed is that of the model without
        tokenising, in batches of 32, the median of 5 rounds.
    """
    results, labels = {}, next(iter(predictors.values())).labels
    texts = list(rows.texts)
    gold = rows.multi_hot(len(labels))
    for name, predictor in predictors.items():
        probabilities = predictor.probabilities(texts)
        found = scores(gold, predictor.decision.decide(probabilities, labels.parents))
        results[name] = {kind: 100 * found[kind] for kind in ("micro_f1", "macro_f1")}
    seconds = {name: [] for name in predictors}
    encoded = {name: predictor.encode(texts[:TIMED_ROWS]) for name, predictor in predictors.items()}
    encoded = {name: one.tokens if isinstance(one, Windows) else one for name, one in encoded.items()}
    for _ in range(ROUNDS):
        for name, predictor in predictors.items():
            started = time.perf_counter()
            predictor.run(encoded[name], sorted_batches(encoded[name].lengths, BATCH_SIZE))
            seconds[name].append(time.perf_counter() - started)
    for name in predictors:
        results[name]["texts_per_second"] = min(TIMED_ROWS, len(texts)) / statistics.median(seconds[name])
    return results
