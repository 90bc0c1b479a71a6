"""A linear model as a bundle: an ONNX graph of ONNX Runtime's own operators on code points."""

import os

import numpy as np

from text_cls.bundle import VARIANTS
from text_cls.linear_classifier import BITS, LINEAR, LONGEST, LinearClassifier, encode, save_tokenizer
from text_cls.linear_model import LONGEST_NGRAM
from text_cls.neural.export import OPSET, compare, draft_folder, texts_to_compare
from text_cls.tokenization import CodePoints

LOOKUP_OPSET = 4  # of ai.onnx.ml: the first whose LabelEncoder takes and gives whole numbers as tensors
COMPARED = 128  # characters of the pieces of text on which graph and model are compared


class Graph:
    """Collects the nodes and constants of a graph; what `add` returns is the name of the node's output.

    prefix: of all names; those of a graph within a graph must not be those of the outer one.
    """

    def __init__(self, prefix=""):
        self.nodes, self.constants, self._prefix = [], [], prefix

    def constant(self, value, dtype=np.int64):
        """The name of a new constant."""
        from onnx import numpy_helper

        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator, *inputs, outputs=1, domain="", **attributes):
        """The name of the first output of a new node. inputs: names."""
        from onnx import helper

        names = [f"{self._prefix}{operator}_{len(self.nodes)}" + f"_{i}" * (i > 0) for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0]


def add_ngrams(graph: Graph, ids: str, keys: np.ndarray) -> str:
    """Adds what finds the n-grams of rows: int64 [rows, 3 * length], their places in `keys`, or len(keys).

    ids: int64 [rows, length]. n-grams that contain padding, or the end of a row, are not among the keys.
    """
    from onnx import numpy_helper

    axis, found, before = graph.constant([1]), [ids], ids
    ends = graph.constant([0, 0, 0, LONGEST_NGRAM - 1])
    padded = graph.add("Pad", ids, ends)
    for n in range(1, LONGEST_NGRAM):
        stop = graph.constant([n + 1 - LONGEST_NGRAM if n + 1 < LONGEST_NGRAM else np.iinfo(np.int64).max])
        shifted = graph.add("Slice", padded, graph.constant([n]), stop, axis)
        before = graph.add("Add", graph.add("Mul", before, graph.constant(1 << BITS)), shifted)
        found.append(before)
    places = {
        "keys_tensor": numpy_helper.from_array(keys),
        "values_tensor": numpy_helper.from_array(np.arange(len(keys), dtype=np.int64)),
        "default_tensor": numpy_helper.from_array(np.array([len(keys)], np.int64)),
    }
    return graph.add("LabelEncoder", graph.add("Concat", *found, axis=1), domain="ai.onnx.ml", **places)


def add_weights(graph: Graph, places: str, idf: np.ndarray) -> str:
    """Adds TF-IDF: float32 of the shape of `places`, which has to be sorted. Of equal places, all but the first get 0.

    Nothing is as wide as the vocabulary (as the output of ONNX's TfIdfVectorizer is), so that a text costs as much as
    its own n-grams do.
    """
    from onnx import TensorProto, numpy_helper

    flat, axis, zero, most = (graph.constant(v) for v in ([-1], [1], [0], [np.iinfo(np.int64).max]))
    shifted = graph.add("Pad", places, graph.constant([0, 1, 0, 0]), graph.constant(-1))
    same = graph.add("Equal", places, graph.add("Slice", shifted, zero, graph.constant([-1]), axis))
    is_first = graph.add("Reshape", graph.add("Not", same), flat)
    firsts = graph.add("Reshape", graph.add("NonZero", is_first), flat)
    end = graph.add("Shape", is_first)
    following = graph.add("Concat", graph.add("Slice", firsts, graph.constant([1]), most), end, axis=0)
    counts = graph.add("Cast", graph.add("Sub", following, firsts), to=TensorProto.FLOAT)
    frequency = graph.add("Add", graph.add("Log", counts), graph.constant(1, np.float32))
    ngrams = graph.add("Gather", graph.add("Reshape", places, flat), firsts)
    inverse = graph.add("Gather", graph.constant(np.append(idf, 0), np.float32), ngrams)
    nothing = graph.add("ConstantOfShape", end, value=numpy_helper.from_array(np.zeros(1, np.float32)))
    values = graph.add("ScatterElements", nothing, firsts, graph.add("Mul", frequency, inverse), axis=0)
    values = graph.add("Reshape", values, graph.add("Shape", places))
    norm = graph.add("Sqrt", graph.add("ReduceSum", graph.add("Mul", values, values), axis))
    return graph.add("Div", values, graph.add("Max", norm, graph.constant(1e-12, np.float32)))  # a row may have none


def add_linear(graph: Graph, ids: str, model: LinearClassifier) -> str:
    """Adds the logits of rows of code points: float32 [rows, labels]. ids: int64 [rows, length]."""
    axis = graph.constant([1])
    found = add_ngrams(graph, ids, model.keys)
    size = graph.add("Slice", graph.add("Shape", found), axis, graph.constant([2]))
    places = graph.add("TopK", found, size, outputs=2, axis=1, largest=0)
    row = graph.add("Unsqueeze", add_weights(graph, places, model.idf), axis)
    table = np.concatenate([model.weight, np.zeros((1, len(model.bias)), np.float32)])
    product = graph.add("MatMul", row, graph.add("Gather", graph.constant(table, np.float32), places, axis=0))
    return graph.add("Add", graph.add("Squeeze", product, axis), graph.constant(model.bias, np.float32))


def onnx_model(model: LinearClassifier):
    """The model as an `onnx.ModelProto` from input_ids, int64 [rows, length], to logits."""
    from onnx import TensorProto, helper

    graph = Graph()
    graph.nodes.append(helper.make_node("Identity", [add_linear(graph, "input_ids", model)], ["logits"]))
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "length"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", len(model.bias)])
    made = helper.make_graph(graph.nodes, LINEAR, [ids], [logits], graph.constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", LOOKUP_OPSET)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8, producer_name="text_cls")


def export_linear(path, checkpoint, texts):
    """Writes the bundle of a linear checkpoint, which is loaded.

    Returns:
        the largest difference between a logit of the graph and of the model, on the texts and pieces of them.
    Raises:
        UserError: it is more than `export.tolerance`.
    """
    from text_cls.serving.predictor import Predictor

    def write(folder):
        import onnx

        onnx.save(onnx_model(checkpoint.model), os.path.join(folder, VARIANTS["float32"]))
        save_tokenizer(folder)
        return {
            "model": type(checkpoint.model).__name__,
            "model_type": LINEAR,
            "static_graph": None,
            "inputs": ["input_ids"],
            "longest_input": LONGEST,
            "vocab_size": CodePoints.size,
            "pad_token_id": CodePoints.pad_id,
        }

    with draft_folder(path, checkpoint, write, LONGEST) as draft:
        texts = texts_to_compare(texts, COMPARED)
        expected = encode(texts)
        return compare(expected, checkpoint.model.logits(expected), Predictor(draft.folder), texts, LONGEST)
