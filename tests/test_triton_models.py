"""The Python models of a Triton repository: a fault of one request fails that request alone.

A stand-in plays Triton, so that it is certain which requests share a run. tests/test_triton.py asks a real server.
"""

import json
import re
import runpy
import shutil
import sys
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT, lines_of
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_bundles import put_index

import build_repository as script
from text_cls.search.embedded_index import EmbeddedIndex
from text_cls.serving import open_predictor

IDS, TYPES = "input_ids", "token_type_ids"


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, np.asarray(array)

    def as_numpy(self):
        return self.array


class TritonError:
    def __init__(self, text):
        self.message = lambda: text


class Response:
    def __init__(self, tensors, error=None):
        self.tensors, self.has_error, self.error = tensors, lambda: error is not None, lambda: error


class Request:
    """A client's request; `exec` is there for those of models to the graph."""

    session = runs = None

    def __init__(self, inputs, **_):
        self.tensors = inputs

    def exec(self):
        Request.runs.append(len(self.tensors[0].array))
        try:
            (logits,) = Request.session.run(None, {tensor.name: tensor.array for tensor in self.tensors})
        except Exception as error:
            return Response([], TritonError(str(error)))
        return Response([Tensor("logits", logits)])


class Metric:
    """A counter. Also plays the family of it."""

    COUNTER = "counter"

    def __init__(self, *_):
        self.value = 0.0

    def Metric(self, tags):
        return Metric(tags)

    def increment(self, count):
        self.value += count


def named(message, name):
    return next((tensor for tensor in message.tensors if tensor.name == name), None)


@pytest.fixture(scope="module")
def repository(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    assert script.main(["--bundle", str(bundles["news"]), "--output", str(folder / "models")]) == 0
    return folder / "models"


def loader(repository, patch):
    """load(model, left_out=()): a model of the repository, without some of its parameters."""
    fake = ModuleType("triton_python_backend_utils")
    fake.Tensor, fake.TritonError, fake.InferenceResponse, fake.InferenceRequest = (
        Tensor,
        TritonError,
        Response,
        Request,
    )
    fake.get_input_tensor_by_name = fake.get_output_tensor_by_name = named
    fake.MetricFamily = Metric
    fake.PreferredMemory, fake.TRITONSERVER_MEMORY_CPU = (lambda *_: None), 0
    patch.setitem(sys.modules, fake.__name__, fake)
    patch.setattr(sys, "path", list(sys.path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    Request.session = onnxruntime.InferenceSession(str(repository / "seqcls_model" / "1" / "model.onnx"), options)
    Request.runs = []

    def make(name, left_out=()):
        config = (repository / name / "config.pbtxt").read_text(encoding="utf-8")
        found = dict(re.findall(r'key: "(\w+)" value: { string_value: "([^"]*)"', config))
        parameters = {key: {"string_value": value} for key, value in found.items() if key not in left_out}
        tensors = {
            field: [
                {"name": name, "dims": json.loads(dims)}
                for name, dims in re.findall(r'name: "(\w+)" data_type: \w+ dims: (\[.*?\])', part)
            ]
            for field, part in re.findall(r"^(input|output) \[\n(.*?)^\]", config, re.M | re.S)
        }
        model = runpy.run_path(str(repository / name / "1" / "model.py"))["TritonPythonModel"]()
        model.initialize({"model_config": json.dumps({"parameters": parameters, **tensors}), "model_version": "1"})
        return model

    return make


@pytest.fixture
def load(repository, monkeypatch):
    return loader(repository, monkeypatch)


def ids(*rows, types=None):
    rows = np.array(rows, dtype=np.int64)
    return Request([Tensor(IDS, rows), Tensor(TYPES, np.zeros_like(rows) if types is None else np.array(types))])


ROW = [1, 9, 10, 2]
FAULTS = {
    "input_ids has 1000000; the model takes 0 to ": lambda: ids([1, 10**6, 10, 2]),
    f"input_ids has {2**62}; the model takes 0 to ": lambda: ids([1, 2**62, 10, 2]),
    "input_ids has -5; the model takes 0 to ": lambda: ids(ROW, [1, -5, 10, 2]),
    "token_type_ids has 99; the model takes 0 to ": lambda: ids(ROW, types=[[0, 99, 0, 0]]),
    "token_type_ids has -1; the model takes 0 to ": lambda: ids(ROW, types=[[0, 0, 0, -1]]),
    "a row has 3000 tokens; the model takes at most 2048": lambda: ids([1] + 2998 * [9] + [2]),
    "no rows, or inputs of different shapes": lambda: Request([Tensor(IDS, [ROW])]),
}


@pytest.mark.parametrize("message", FAULTS)
def test_ids_that_the_model_does_not_have(load, message):
    batcher = load("seqcls_batcher")
    ((alone,),) = (response.tensors for response in batcher.execute([ids(ROW)]))
    before = len(Request.runs)
    good, bad, other = batcher.execute([ids(ROW), FAULTS[message](), ids(ROW[::-1])])
    assert message in bad.error().message() and not other.has_error()
    assert good.tensors[0].array == pytest.approx(alone.array, abs=1e-5)
    assert Request.runs[before:] == [2]  # the graph did not see the request


def test_the_first_and_the_last_ids_are_valid(load):
    batcher = load("seqcls_batcher")
    words, types = (batcher.highest[name] for name in (IDS, TYPES))
    request = ids([1, 0, words, 2], types=[[types, 0, types, 0]])
    assert not batcher.execute([request])[0].has_error()
    for wrong in (ids([1, words + 1]), ids([1, 2], types=[[0, types + 1]])):
        assert "the model takes 0 to" in batcher.execute([wrong])[0].error().message()


@pytest.mark.parametrize("wrong", [ids([1, 10**6, 10, 2]), ids(ROW, types=[[0, 99, 0, 0]])], ids=["token", "type"])
def test_what_only_the_graph_finds_is_found_row_by_row(load, wrong):
    """As with older bundles, and with every other fault of a row."""
    batcher = load("seqcls_batcher", ("vocab_size", "type_vocab_size", "longest_input"))
    ((alone,),) = (response.tensors for response in batcher.execute([ids(ROW, ROW)]))
    first, bad, last = batcher.execute([ids(ROW, ROW), wrong, ids(ROW)])
    assert "ONNXRuntimeError" in bad.error().message()
    assert first.tensors[0].array == pytest.approx(alone.array, abs=1e-5)
    assert last.tensors[0].array == pytest.approx(alone.array[:1], abs=1e-5)
    assert (
        "input_ids has -1;" in batcher.execute([ids([1, -1])])[0].error().message()
    )  # the graph takes it for the last


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_requests_get_what_they_get_alone(loaded_batchers, data):
    """Rows of any lengths, and among them ids, token types and lengths of any size."""
    batcher = loaded_batchers[data.draw(st.sampled_from(sorted(loaded_batchers)))]
    numbers = st.integers(1, 50) | st.sampled_from([-(2**63), -1, 2599, 10**6, 2**63 - 1])
    types = st.integers(0, 1) | st.sampled_from([-7, 99])
    requests = []
    for _ in range(data.draw(st.integers(1, 5))):
        shape = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 3, 4, 60]))
        draw = st.lists(st.lists(numbers, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0])
        rows = data.draw(draw)
        kinds = np.full(shape, data.draw(types), dtype=np.int64) if data.draw(st.booleans()) else None
        requests.append(ids(*rows, types=kinds))
    for request, together in zip(requests, batcher.execute(requests), strict=True):
        (alone,) = batcher.execute([request])
        assert together.has_error() == alone.has_error()
        if not alone.has_error():
            assert together.tensors[0].array == pytest.approx(alone.tensors[0].array, abs=1e-4)


@pytest.fixture(scope="module")
def loaded_batchers(repository):
    """{"checked": a batcher, "unchecked": one of an older bundle}."""
    with pytest.MonkeyPatch.context() as patch:
        make = loader(repository, patch)
        yield {
            "checked": make("seqcls_batcher"),
            "unchecked": make("seqcls_batcher", ("vocab_size", "type_vocab_size")),
        }


def text(*rows):
    return Request([Tensor("INPUT_0", np.array([[row] for row in rows], dtype=object))])


SHAPES = [
    np.array([b"a"], object),
    np.array([[b"a", b"b"]], object),
    np.zeros((2, 0), object),
    np.zeros((0, 1), object),
]


@pytest.mark.parametrize("wrong", [Request([]), *(Request([Tensor("INPUT_0", array)]) for array in SHAPES)])
def test_texts_of_a_wrong_shape(load, wrong):
    tokenizer = load("tokenizer")
    first, bad, last = tokenizer.execute([text(b"ok"), wrong, text(b"ok", b"\xff")])
    assert "INPUT is [n, 1]" in bad.error().message()
    assert [len(named(response, "error").array) for response in (first, last)] == [1, 2]


def logits(shape, errors):
    return Request(
        [Tensor("POST_INPUT", np.zeros(shape, np.float32)), Tensor("POST_error", np.full(errors, b"", object))]
    )


@pytest.mark.parametrize(
    "wrong",
    [
        logits((0, 55), (0, 1)),
        logits((1, 54), (1, 1)),
        logits((1, 55), (2, 1)),
        logits((1, 55), (1, 0)),
        logits(55, 55),
    ],
)
def test_logits_of_a_wrong_shape(load, wrong):
    postprocess = load("seqcls_postprocess")
    good, bad = postprocess.execute([logits((2, 55), (2, 1)), wrong])
    assert "POST_INPUT must be [n, 55]" in bad.error().message() and len(named(good, "POST_label").array) == 2


@pytest.mark.parametrize("corpus", ["labels", "rows", "calibrated"])
def test_a_retrieval_bundle_gets_the_predictors_labels(retrieval, monkeypatch, tmp_path, corpus):
    """The bundle's vectors and its index: names and scores are those of the bundle's own predictor."""
    bundle = retrieval["news", "rows" if corpus == "rows" else "labels"]
    if corpus == "calibrated":
        bundle = shutil.copytree(bundle, tmp_path / "bundle")
        search = {"vote": False, "neighbours": 50, "calibration": {"slope": 20.0, "offset": -8.0}}
        put_index(bundle, EmbeddedIndex.open(str(bundle)), search=search)
    assert script.main(["--bundle", str(bundle), "--output", str(tmp_path / "models")]) == 0
    load, ours = loader(tmp_path / "models", monkeypatch), open_predictor(str(bundle), num_threads=1)
    texts = [line.partition("\t")[0] for line in lines_of(ROOT / "data/dev.txt")[:20]]
    vectors = ours.embed(texts)
    none = np.full((len(texts), 1), b"", object)
    request = Request([Tensor("POST_INPUT", vectors), Tensor("POST_error", none)])
    (answer,) = load("seqcls_postprocess").execute([request])
    found = [set(row) - {b""} for row in named(answer, "POST_label_name").array]
    scores = named(answer, "POST_confidence").array
    for row, confidence, (names, wanted) in zip(found, scores, ours.predict(texts), strict=True):
        assert row == {name.encode("utf-8") for name in names}
        assert confidence[: len(wanted)] == pytest.approx(wanted, abs=1e-6)
    assert any(found)
    malformed = Request([Tensor("POST_INPUT", vectors[:, 1:]), Tensor("POST_error", none)])
    (refused,) = load("seqcls_postprocess").execute([malformed])
    assert f"POST_INPUT must be [n, {ours.columns}]" in refused.error().message()


def test_vectors_that_padding_changes_are_refused(retrieval, monkeypatch, tmp_path):
    assert script.main(["--bundle", str(retrieval["news", "labels"]), "--output", str(tmp_path / "models")]) == 0
    batcher = loader(tmp_path / "models", monkeypatch)("seqcls_batcher")
    assert batcher.output == "embedding"
    monkeypatch.setattr(batcher, "difference_by_padding", lambda: 0.02)
    assert "computes rows with padding wrongly" in batcher.execute([ids(ROW)])[0].error().message()
