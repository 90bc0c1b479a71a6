"""A linear and a neural model as one bundle, with one ONNX graph: a cascade, a blend, or both.

A row of ids has the neural model's tokens, then the characters that the linear model reads
(`tokenization.TokensAndCharacters`). The linear model scores all rows. In a cascade, the neural model scores only the
rows of which it is not sure, in a branch that is skipped if there are none; in a blend alone, that is all rows.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from text_cls import blend, cascade
from text_cls.blend import LEAST, Blend, blended, described
from text_cls.bundle import VARIANTS
from text_cls.card_facts import describe_scores, in_words
from text_cls.cascade import Cascade, threshold_logits
from text_cls.cli import UserError, logger
from text_cls.cross_fitting import draw_folds
from text_cls.files import write_json
from text_cls.language import tr
from text_cls.linear_classifier import LONGEST, LinearClassifier, pack
from text_cls.linear_classifier import encode as encode_characters
from text_cls.neural.checkpoint import Checkpoint
from text_cls.neural.export import OPSET, Draft, draft_folder, texts_to_compare, tolerance
from text_cls.neural.linear_export import LOOKUP_OPSET, Graph, add_linear
from text_cls.probabilities import sigmoid
from text_cls.reference import make_reference, token_counts
from text_cls.rows import Rows
from text_cls.serving.predictor import Predictor
from text_cls.tokenization import CHARACTERS_FILE, CodePoints, TokensAndCharacters, load_tokenizer

SEED = 3  # of folds and of the scores' intervals
ALMOST_ALL = 0.98  # of the rows
NEAR = 1e-3  # of distances that rounding may put on either side of the limit
LARGEST = (1 << 31) - (1 << 20)  # bytes of an ONNX file, less some for what is not a weight
INNER = "neural/"  # before all names of the neural model


@dataclass
class Parts:
    """What the graph is made of, besides the neural model.

    linear: the linear model. own, shared: the logits of its own thresholds and of the bundle's, float32 [labels].
    vocab_size, pad_id: number of the neural model's ids, and that of padding. longest: most tokens that it reads.
    limit: of `cascade.Cascade`; infinite without a cascade. weight: of `blend.Blend`; 0 without a blend.
    """

    linear: LinearClassifier
    own: np.ndarray
    shared: np.ndarray
    vocab_size: int
    pad_id: int
    longest: int
    limit: float = np.inf
    weight: float = 0.0


@dataclass
class Scored:
    """What the two models say of rows.

    sure: float32 [rows], of `cascade.distances`. linear, neural: logits, float32 [rows, labels]; those of the linear
    model are moved, so that for the bundle's thresholds they are what they were for its own.
    """

    sure: np.ndarray
    linear: np.ndarray
    neural: np.ndarray

    def unsure(self, weight: float) -> np.ndarray:
        """The logits of rows that the linear model does not answer alone: float32 [rows, labels]."""
        return blended(self.linear, self.neural, weight) if weight else self.neural

    def merged(self, parts: Parts) -> np.ndarray:
        """The logits of the graph: float32 [rows, labels]."""
        return np.where((self.sure >= parts.limit)[:, None], self.linear, self.unsure(parts.weight))


# --------------------------------------------------------------------------------------------------------------- graph


def add_split(graph: Graph, ids: str, parts: Parts) -> tuple[str, str]:
    """Adds what divides rows of ids, int64 [rows, length]: (number of tokens of each row, int64 [rows, 1]; characters).

    The characters are int64 [rows, at most length], with the end of a row (1) wherever there is none: an n-gram with
    a 0 before its characters would have the number of a shorter one. A row without characters is all tokens.
    """
    from onnx import TensorProto

    axis, zero, one = graph.constant([1]), graph.constant(0), graph.constant(1)
    above = graph.add("Cast", graph.add("GreaterOrEqual", ids, graph.constant(parts.vocab_size)), to=TensorProto.INT32)
    above = graph.add("Pad", above, graph.constant([0, 0, 0, 1]), graph.constant(1, np.int32))
    tokens = graph.add("ArgMax", above, axis=1, keepdims=1)
    length = graph.add("Squeeze", graph.add("Slice", graph.add("Shape", ids), axis, graph.constant([2])))
    most = graph.add("Max", graph.add("Sub", length, graph.add("ReduceMin", tokens, keepdims=0)), one)
    places = graph.add("Add", tokens, graph.add("Range", zero, most, one))
    ends = graph.add("Concat", graph.constant([0, 0, 0]), graph.add("Unsqueeze", most, graph.constant([0])), axis=0)
    found = graph.add("GatherElements", graph.add("Pad", ids, ends), places, axis=1)
    return tokens, graph.add("Max", graph.add("Sub", found, graph.constant(parts.vocab_size)), one)


def add_unsure(graph: Graph, logits: str, parts: Parts) -> str:
    """Adds the numbers of the rows that the linear model does not answer, int64 [rows]; see `cascade.distances`."""
    bias, own = (graph.constant(part, np.float32) for part in (parts.linear.bias, parts.own))
    nearest = graph.add("ReduceMin", graph.add("Abs", graph.add("Sub", logits, own)), axes=[1], keepdims=0)
    changed = graph.add("ReduceMax", graph.add("Abs", graph.add("Sub", logits, bias)), axes=[1], keepdims=0)
    near = graph.add("Less", nearest, graph.constant(parts.limit, np.float32))
    nothing = graph.add("LessOrEqual", changed, graph.constant(0, np.float32))
    return graph.add("Reshape", graph.add("NonZero", graph.add("Or", near, nothing)), graph.constant([-1]))


def add_blend(graph: Graph, linear: str, neural: str, weight: float) -> str:
    """Adds `blend.blended`. linear, neural: logits, float32 of one shape."""

    def log_of_mean(linear, neural):
        shares = ((linear, weight), (neural, 1 - weight))
        parts = [graph.add("Mul", graph.add("Sigmoid", name), graph.constant(w, np.float32)) for name, w in shares]
        return graph.add("Log", graph.add("Max", graph.add("Add", *parts), graph.constant(LEAST, np.float32)))

    below = log_of_mean(graph.add("Neg", linear), graph.add("Neg", neural))
    return graph.add("Sub", log_of_mean(linear, neural), below)


def neural_branch(model, parts: Parts, ids: str, tokens: str, rows: str, logits: str):
    """A graph, without inputs, of `logits` in which those of some rows are the neural model's.

    model: its `onnx.ModelProto`. ids, tokens, rows, logits: names in the outer graph, of `add_split` and `add_unsure`.
    """
    from onnx import compose, helper

    inner, graph = compose.add_prefix_graph(model.graph, INNER), Graph("branch_")
    axis, zero, one = graph.constant([1]), graph.constant(0), graph.constant(1)
    counts = graph.add("Gather", tokens, rows, axis=0)
    width = graph.add("Min", graph.add("ReduceMax", counts, keepdims=0), graph.constant(parts.longest))
    width = graph.add("Max", width, one)
    end = graph.add("Unsqueeze", width, graph.constant([0]))
    found = graph.add("Slice", graph.add("Gather", ids, rows, axis=0), graph.constant([0]), end, axis)
    is_token = graph.add("Less", graph.add("Range", zero, width, one), counts)
    values = {"input_ids": graph.add("Where", is_token, found, graph.constant(parts.pad_id))}
    values["token_type_ids"] = graph.add("Sub", found, found)  # zeros of this shape
    for tensor in inner.input:
        value = values[tensor.name.removeprefix(INNER)]
        graph.nodes.append(helper.make_node("Identity", [value], [tensor.name]))
    graph.nodes.extend(inner.node)
    places = graph.add("Unsqueeze", rows, axis)
    found = inner.output[0].name
    if parts.weight:
        found = add_blend(graph, graph.add("Gather", logits, rows, axis=0), found, parts.weight)
    merged = graph.add("ScatterND", logits, places, found)
    output = helper.make_tensor_value_info(merged, 1, ["rows", len(parts.own)])
    return helper.make_graph(graph.nodes, "neural", [], [output], [*graph.constants, *inner.initializer])


def joint_model(model, parts: Parts):
    """Both models as an `onnx.ModelProto` from input_ids, int64 [rows, length], to logits.

    model: the `onnx.ModelProto` of the neural model, with any precision inside.
    """
    from onnx import TensorProto, helper

    graph = Graph()
    tokens, characters = add_split(graph, "input_ids", parts)
    logits = add_linear(graph, characters, parts.linear)
    rows = add_unsure(graph, logits, parts)
    shifted = graph.add("Add", logits, graph.constant(parts.shared - parts.own, np.float32))
    any_row = graph.add("Greater", graph.add("Size", rows), graph.constant(0))
    same = helper.make_node("Identity", [shifted], ["unchanged"])
    shape = ["rows", len(parts.own)]
    skipped = helper.make_graph([same], "skipped", [], [helper.make_tensor_value_info("unchanged", 1, shape)])
    branch = neural_branch(model, parts, "input_ids", tokens, rows, shifted)
    graph.nodes.append(helper.make_node("If", [any_row], ["logits"], then_branch=branch, else_branch=skipped))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "length"])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    made = helper.make_graph(graph.nodes, "linear_and_neural", [ids], [output], graph.constants)
    domains = {entry.domain: entry.version for entry in model.opset_import} | {"": OPSET, "ai.onnx.ml": LOOKUP_OPSET}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(made, opset_imports=opsets, ir_version=8, producer_name="text_cls")


def write_graph(source: str, target: str, parts: Parts) -> None:
    """Writes the graph of both models to `target`. source: the neural model's ONNX file."""
    import onnx

    made = joint_model(onnx.load(source), parts)
    if (size := made.ByteSize()) > LARGEST:
        raise UserError(
            tr(
                "the linear and the neural model together have {size:.1f} GiB, an ONNX file has at most 2; use a "
                "smaller encoder, or leave --cascade and --blend out",
                size=size / 2**30,
            )
        )
    onnx.save(made, target)


# -------------------------------------------------------------------------------------------------------------- bundle


def score(parts: Parts, predictor: Predictor, texts: list[str]) -> Scored:
    """What each model says of texts. predictor: of the neural model's own bundle."""
    logits = parts.linear.logits(encode_characters(texts))
    sure = cascade.distances(logits, parts.own, parts.linear.bias)
    return Scored(sure, logits + (parts.shared - parts.own), predictor.run(predictor.encode(texts)))


@dataclass
class Fitted:
    """Two models whose cascade or blend was fitted to dev rows. scored: of these rows."""

    parts: Parts
    scored: Scored
    cascade: Cascade | None
    blend: Blend | None

    def folder(
        self, path: str, checkpoint: Checkpoint, plain: Draft, rows: Rows, file: str
    ) -> AbstractContextManager[Draft]:
        """What `export.draft_folder` yields: the `Draft` of a complete bundle, which replaces `path`.

        Args:
            plain: of the neural model's own bundle.
            rows, file: those that it was fitted to, for the card and `reference.json`.
        """
        labels, decision, parts = checkpoint.labels, checkpoint.decision, self.parts
        settings = {"vocab_size": parts.vocab_size, "longest_tokens": parts.longest, "longest_text": LONGEST}
        tokenizer = TokensAndCharacters(load_tokenizer(plain.folder), settings)
        length = plain.fields["max_seq_length"]
        gold, probabilities = rows.multi_hot(len(labels)), sigmoid(self.scored.merged(parts))
        facts = dict(plain.fields["card"])
        facts["data"] = {**facts.get("data", {}), "dev": {"file": os.path.basename(file), "rows": len(rows)}}
        facts["scores"] = {"dev": describe_scores(gold, decision.decide(probabilities, labels.parents), SEED)}
        facts["decided"] = in_words(decision)
        tokens = token_counts(pack(tokenizer.encode(rows.texts, length)), tokenizer.unk_id)
        reference = make_reference(file, labels, decision, probabilities, gold, tokens)

        def write(folder):
            checkpoint.tokenizer.save_pretrained(folder)
            write_json(os.path.join(folder, CHARACTERS_FILE), settings)
            write_graph(plain.file("float32"), os.path.join(folder, VARIANTS["float32"]), parts)
            return {
                **{name: plain.fields[name] for name in ("model", "model_type", "pad_token_id")},
                "static_graph": None,
                "inputs": ["input_ids"],
                "longest_input": parts.longest + LONGEST,
                "vocab_size": parts.vocab_size + CodePoints.size,
            }

        model = replace(checkpoint, reference=reference)
        fitted = {name: part.record() for name, part in (("cascade", self.cascade), ("blend", self.blend)) if part}
        return draft_folder(path, model, write, length, card=facts, **fitted)

    def check(self, predictor: Predictor, served: Predictor, texts: list[str]) -> float:
        """The largest difference of a logit between the bundle and its two models, on texts and pieces of them.

        Rows whose distance is the limit, but for rounding, are left out: either model may answer them.

        Args:
            predictor, served: of the neural model's own bundle, and of that of both.
        Raises:
            UserError: it is more than `export.tolerance`.
        """
        texts = texts_to_compare(texts, predictor.max_seq_length)
        scored = score(self.parts, predictor, texts)
        expected, clear = scored.merged(self.parts), np.abs(scored.sure - self.parts.limit) > NEAR
        difference = float(np.abs(served.run(served.encode(texts)) - expected)[clear].max(initial=0))
        if not difference <= tolerance(expected):
            raise UserError(
                tr(
                    "the bundle's logits differ from its two models' by {difference:.1e}; please report this",
                    difference=difference,
                )
            )
        return difference

    def write_variant(self, make: Callable[[], None], source: str, target: str) -> None:
        """Writes a variant of the graph. make: writes that of the neural model to `source`."""
        make()
        write_graph(source, target, self.parts)


def fit(
    checkpoint: Checkpoint, linear: Checkpoint, predictor: Predictor, rows: Rows, with_cascade: bool, with_blend: bool
) -> Fitted:
    """The two models of loaded checkpoints, with what joins them fitted to labelled rows.

    predictor: of the neural model's own bundle.
    Raises:
        UserError: no weight gains F1, or no limit keeps it.
    """
    labels, decision, manifest = checkpoint.labels, checkpoint.decision, predictor.bundle.manifest
    parts = Parts(
        linear.model,
        threshold_logits(linear.decision, len(labels)),
        threshold_logits(decision, len(labels)),
        manifest["vocab_size"],
        manifest["pad_token_id"],
        manifest["longest_input"] or manifest["max_seq_length"],
    )
    scored, gold = score(parts, predictor, list(rows.texts)), rows.multi_hot(len(labels))
    folds, found = draw_folds(gold, rows.texts, SEED), {"cascade": None, "blend": None}

    def decide(probabilities):
        return decision.decide(probabilities, labels.parents)

    if with_blend:
        found["blend"] = blend.fit(scored.linear, scored.neural, gold, decide, folds)
        if not found["blend"]:
            raise UserError(
                tr("--blend gains no F1 on these {count} dev rows; leave it out, or use more dev rows", count=len(rows))
            )
        parts.weight = found["blend"].weight
    if with_cascade:
        sets = [decide(sigmoid(logits)) for logits in (scored.linear, scored.unsure(parts.weight))]
        found["cascade"] = cascade.fit(scored.sure, gold, *sets, folds)
        if not found["cascade"]:
            raise UserError(
                tr(
                    "--cascade: by these {count} dev rows, F1 falls by more than {most_lost} points wherever the "
                    "linear model answers; train it on more rows, use more dev rows, or leave --cascade out",
                    count=len(rows),
                    most_lost=cascade.MOST_LOST,
                )
            )
        parts.limit = found["cascade"].limit
    fitted = Fitted(parts, scored, **found)
    for line in described(fitted.cascade, fitted.blend):
        logger.info(line)
    if fitted.cascade and fitted.cascade.share > ALMOST_ALL:
        logger.warning("The linear model alone does as well here: name it as --params_path, and leave --cascade out")
    return fitted
