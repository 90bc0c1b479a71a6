"""The graph in 8 bits: a text's logits are the same in any company, and weights fit processors without VNNI."""

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT
from families import save_as_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import export_model
from text_cls.neural.int8_graph import LARGEST_WEIGHT, SMALLEST, to_int8
from text_cls.neural.model import load_pretrained
from text_cls.serving.predictor import Predictor

TEXTS = [text for text in (ROOT / "data" / "data.txt").read_text(encoding="utf-8").splitlines()[:30]]
TEXTS += ["", "足球", "好" * 300, "台风登陆，学校停课一天" * 3, "😀 Café ABC123"]
POOLING = {"first": None, "mean": "mean"}


@pytest.fixture(scope="module", params=sorted(POOLING))
def int8(request, bundles, family_folders, tmp_path_factory):
    """(session of a graph in 8 bits, its path, float32 predictor) of a model that pools the first token or the mean."""
    folder = tmp_path_factory.mktemp(request.param)
    bundle = bundles["news"]
    if request.param == "mean":
        loaded = {"ernie": load_pretrained(str(family_folders["ernie"]), 5, pooling="mean")}
        checkpoint, bundle = save_as_checkpoint(loaded, "ernie", folder / "checkpoint"), folder / "export"
        assert export_model.main(["--params_path", str(checkpoint), "--output_path", str(bundle)]) == 0
    path = folder / "int8.onnx"
    to_int8(str(bundle / "model.onnx"), str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session, path, Predictor(str(bundle))


def logits_of(session, encoded, rows, padded=0):
    """Logits of a batch of rows, with some more columns of padding."""
    batch = encoded.batch(np.array(rows))
    for name, values in batch.items():
        batch[name] = np.pad(values, ((0, 0), (0, padded)), constant_values=encoded.padding[name])
    return session.run(None, batch)[0]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_texts_result_does_not_depend_on_its_company(int8, data):
    session, _, predictor = int8
    encoded = predictor.encode(TEXTS)
    rows = data.draw(st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=20))
    padded = data.draw(st.integers(0, 16))  # the model takes 64 tokens
    together = logits_of(session, encoded, rows, padded)
    for row, found in zip(rows, together):
        np.testing.assert_array_equal(found, logits_of(session, encoded, [row])[0])


def test_the_result_is_close_to_that_of_float32(int8):
    session, _, predictor = int8
    encoded = predictor.encode(TEXTS)
    exact = predictor.run(encoded)
    found = np.concatenate([logits_of(session, encoded, [row]) for row in range(len(TEXTS))])
    difference, span = np.abs(found - exact), np.ptp(exact)
    assert 0 < difference.mean() < 0.02 * span and difference.max() < 0.1 * span


def test_products_of_layers_are_in_8_bits_and_fit_16_bits_in_pairs(int8):
    _, path, _ = int8
    graph = onnx.load(path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 6 * kinds.count("MultiHeadAttention") > 0
    floats = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(floats) == kinds.count("Split")  # pooler, classifier, and the mean
    whole = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == tensor.INT8]
    assert whole and all(np.abs(weights.astype(int)).max() == LARGEST_WEIGHT for weights in whole)
    assert 2 * 255 * LARGEST_WEIGHT < 1 << 15
    unused = {tensor.name for tensor in graph.initializer} - {name for node in graph.node for name in node.input}
    assert not unused


def graph_of_one_product(path, weights, bias=None, transposed=False):
    """A graph of a product with constant weights, and two more after it, which stay in float32."""
    from onnx import TensorProto, helper

    width = len(weights.T if transposed else weights)
    inputs = ["x", "w"] + (["b"] if bias is not None else [])
    kind, attributes = ("MatMul", {}) if bias is None else ("Gemm", {"transB": int(transposed)})
    nodes = [
        helper.make_node(kind, inputs, ["y"], name="first", **attributes),
        helper.make_node("MatMul", ["y", "i"], ["z"], name="second"),
        helper.make_node("MatMul", ["z", "i"], ["out"], name="third"),
    ]
    columns = weights.shape[0 if transposed else 1]
    constants = {"w": weights, "i": np.eye(columns, dtype=np.float32)} | ({} if bias is None else {"b": bias})
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, columns])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def by_hand(x, weights, bias):
    """The product in whole numbers, one scale per row of x and per column of the weights."""
    scale = np.maximum(np.abs(weights).max(0) / LARGEST_WEIGHT, SMALLEST).astype(np.float32)
    row = np.maximum(np.abs(x).max(1, keepdims=True) * np.float32(1 / 127), np.float32(SMALLEST))
    whole = np.rint(x / row).astype(np.int64) @ np.rint(weights / scale).astype(np.int64)
    return whole * scale * row + bias


@pytest.mark.parametrize("kind", ["product", "with a bias", "with transposed weights"])
def test_a_product_is_that_of_whole_numbers(kind, tmp_path):
    random = np.random.default_rng(3)
    x = random.normal(size=(9, 32)).astype(np.float32) * 10.0 ** np.arange(-4, 5)[:, None].astype(np.float32)
    x[4] = 0
    weights, bias = random.normal(size=(32, 12)).astype(np.float32), None
    weights[:, 5] = 0
    if kind != "product":
        bias = random.normal(size=12).astype(np.float32)
    stored = np.ascontiguousarray(weights.T) if kind == "with transposed weights" else weights
    graph_of_one_product(tmp_path / "float.onnx", stored, bias, stored is not weights)
    to_int8(str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    expected = by_hand(x, weights, 0 if bias is None else bias)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-5)
