"""Bundles that read long texts in windows, in Triton: the labels of a text are those of all its windows."""

import json
import re

import numpy as np
import pytest
from conftest import lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from test_triton_models import Request, Tensor, loader, text
from triton_server import assert_same, client, triton_server

import build_repository as script
import predict
from text_cls.serving.predictor import Predictor


@pytest.fixture(scope="module")
def repository(windows_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    assert script.main(["--bundle", str(windows_bundle), "--output", str(folder / "models")]) == 0
    return folder / "models"


@pytest.fixture(scope="module")
def predictor(windows_bundle):
    return Predictor(str(windows_bundle), num_threads=1)


@pytest.fixture(scope="module")
def texts(trained):
    """From a word to more than 6 windows."""
    rows = [line.partition("\t")[0] for line in lines_of(trained["news"][0] / "train.txt")]
    return ["足球", "", *("。".join(rows[i : i + 1 + i % 15]) for i in range(34))]


# ------------------------------------------------------------------------------------------------------- a real server


def test_a_real_server_answers_as_the_predictor_and_predict(
    triton, run, repository, windows_bundle, predictor, trained, texts, tmp_path
):
    checkpoint = windows_bundle.parent / "checkpoint"
    filled = [one for one in texts if one]
    write_lines(tmp_path / "texts.txt", filled)
    flags = ("--device", "cpu", "--dataset_dir", tmp_path, "--data_file", "texts.txt", "--params_path", checkpoint)
    (tmp_path / "label.txt").write_bytes((trained["news"][0] / "label.txt").read_bytes())
    assert run(predict.main, *flags, "--output_file", tmp_path / "paddle.txt")[0] == 0
    assert len(predictor.encode(texts).tokens) > 3 * len(texts)
    with triton_server(repository, tmp_path / "log.txt") as server:
        assert_same(server.infer("seqcls", texts), predictor, texts)
        mixed = [texts[-1], b"\xff", "足球", "好" * 20_001]
        outputs = server.infer("seqcls", mixed)
        assert [bool(error) for (error,) in outputs["error"]] == [False, True, False, True]
        assert_same({name: array[::2] for name, array in outputs.items()}, predictor, mixed[::2])
        files = ("--input_file", tmp_path / "texts.txt", "--output_file", tmp_path / "triton.txt")
        status, _, log = client(triton, "grpc", "--url", server.grpc_url, *files, "--batch_size", 7)
        assert status == 0, log
    assert (tmp_path / "triton.txt").read_bytes() == (tmp_path / "paddle.txt").read_bytes()


# ----------------------------------------------------------------------------------------------------------- stand-ins


@pytest.fixture(scope="module")
def models(repository):
    """(tokenizer, batcher) of the repository, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        make = loader(repository, patch)
        yield make("tokenizer"), make("seqcls_batcher")


def tensor_of(response, name):
    return next(tensor.array for tensor in response.tensors if tensor.name == name)


def ids_of(response):
    """The request to the batcher with a tokenizer's answer."""
    names = {"OUTPUT_0": "input_ids", "OUTPUT_1": "token_type_ids", "windows": "windows"}
    return Request([Tensor(new, tensor_of(response, old)) for old, new in names.items()])


@settings(max_examples=30)
@given(
    requests=st.lists(
        st.lists(st.integers(1, 30).map("台风，好。[PAD]足球".__mul__) | st.just("\udcff"), min_size=1, max_size=3),
        min_size=1,
        max_size=4,
    )
)
def test_requests_of_any_texts_get_the_pooled_logits(models, predictor, requests):
    """A text that is no UTF-8 has no windows; those of the others are not mixed up."""
    tokenizer, batcher = models
    raw = [[one.encode("utf-8", "surrogateescape") for one in some] for some in requests]
    tokens = tokenizer.execute([text(*some) for some in raw])
    answers = batcher.execute([ids_of(response) for response in tokens])
    for some, response, answer in zip(requests, tokens, answers, strict=True):
        windows = predictor.encode([one for one in some if one != "\udcff"])
        sizes = tensor_of(response, "windows")
        assert [*sizes[sizes > 0]] == [*windows.tokens.lengths]
        (logits,) = (tensor.array for tensor in answer.tensors)
        good = np.array([one != "\udcff" for one in some])
        assert np.abs(logits[good] - predictor.run(windows)).max(initial=0) < 1e-4 and not logits[~good].any()


ROW = [1, 9, 10, 2, 1, 11, 2]


@pytest.mark.parametrize(
    "windows",
    [
        [[4, 2]],
        [[4, 4]],
        [[-4, 11]],
        [[2**62, 2**62, 2**62, 2**62, 7]],
        [[0]],
        [[7], [7]],
        [7],
        np.zeros((1, 0), dtype=np.int64),
        None,
    ],
)
def test_windows_that_do_not_match_the_ids(models, windows):
    def ask(sizes):
        tensors = [Tensor("input_ids", [ROW]), Tensor("token_type_ids", np.zeros((1, 7), dtype=np.int64))]
        return Request(tensors + ([] if sizes is None else [Tensor("windows", np.array(sizes, dtype=np.int64))]))

    _, batcher = models
    first, bad, last = batcher.execute([ask([[4, 3]]), ask(windows), ask([[0, 4, 0, 3]])])
    message = "different shapes" if windows is None else "windows must have, for each row, numbers of ids"
    assert message in bad.error().message()
    assert np.abs(first.tensors[0].array - last.tensors[0].array).max() < 1e-5


def test_a_window_may_not_be_longer_than_the_model_takes_but_a_text_may(models):
    _, batcher = models
    many = [1, *[9] * 998, 2] * 3
    tensors = [Tensor("input_ids", [many]), Tensor("token_type_ids", np.zeros((1, 3000), dtype=np.int64))]
    fine, wrong = (Request([*tensors, Tensor("windows", np.array(sizes))]) for sizes in ([[1000] * 3], [[3000]]))
    first, second = batcher.execute([fine, wrong])
    assert not first.has_error() and "a row has 3000 tokens; the model takes at most 2048" in second.error().message()


def test_a_repository_without_windows_has_no_trace_of_them(bundles, repository, run, tmp_path):
    status, log = run(script.main, "--bundle", bundles["news"], "--output", tmp_path / "models")
    assert status == 0 and "in windows" not in log
    for name in script.MODELS:
        config = (tmp_path / "models" / name / "config.pbtxt").read_text(encoding="utf-8")
        windowed = (repository / name / "config.pbtxt").read_text(encoding="utf-8")
        assert "windows" not in config and "pooling" not in config
        has = {"tokenizer": True, "seqcls_batcher": True, "seqcls": True}.get(name, False)
        config, windowed = (re.sub('key: "bundle" value: .*', "", each) for each in (config, windowed))
        assert ("windows" in windowed) == has and (windowed != config) == has
    assert re.search(
        'key: "pooling" value: { string_value: "max"', (repository / "seqcls_batcher/config.pbtxt").read_text()
    )
    manifest = json.loads((repository / "tokenizer/1/bundle/manifest.json").read_text(encoding="utf-8"))
    assert manifest["long_texts"]["mode"] == "windows"
