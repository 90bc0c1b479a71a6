"""Many rows on a CPU: the logits of the ONNX graph are the model's, and Paddle computes where there is no graph."""

import logging
import re
import shutil

import numpy as np
import pytest
from conftest import lines_of
from families import save_as_checkpoint
from training_runs import assert_same_weights, history

import evaluate
import predict
import threshold
from text_cls.neural import onnx_logits
from text_cls.neural.checkpoint import load_model, open_checkpoint
from text_cls.neural.model import encode, predict_features, predict_logits
from utils import probabilities_of

READY, SLOW = "ONNX Runtime computes the logits", "Paddle computes the logits"
TEXTS = ["北京一家银行增资", "", "亏损的公司被收购了，裁员很多", "ok"] * 3


@pytest.fixture
def few_are_many(monkeypatch):
    monkeypatch.setattr(onnx_logits, "ENOUGH", 10)


@pytest.fixture
def opened(trained):
    checkpoint, length = open_checkpoint(str(trained["news"][1]), None, "cpu")
    load_model(checkpoint, "cpu")
    return checkpoint, encode(TEXTS, checkpoint.tokenizer, checkpoint.model, length)


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_predict_writes_the_same_labels(run, trained, tmp_path, monkeypatch, task):
    dataset, checkpoint = trained[task]
    flags = ["--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu", "--data_file", "train.txt"]
    files = [tmp_path / "paddle.txt", tmp_path / "onnx.txt"]
    for file, enough in zip(files, (601, 600)):  # of 600 rows
        monkeypatch.setattr(onnx_logits, "ENOUGH", enough)
        status, log = run(predict.main, *flags, "--output_file", file)
        assert status == 0 and (READY in log) == (enough == 600) and SLOW not in log
    assert lines_of(files[0]) == lines_of(files[1]) and len(lines_of(files[0])) == 600


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "bert", "roberta"])
def test_logits_of_each_family(families, tmp_path, few_are_many, family):
    save_as_checkpoint(families, family, tmp_path / "checkpoint")
    checkpoint, length = open_checkpoint(str(tmp_path / "checkpoint"), None, "cpu")
    load_model(checkpoint, "cpu")
    tokens = encode(TEXTS, checkpoint.tokenizer, checkpoint.model, length)
    expected = predict_logits(checkpoint.model, tokens, 4)
    with onnx_logits.onnx_logits(checkpoint, len(TEXTS)):
        assert checkpoint.model.onnx_logits
        found = predict_logits(checkpoint.model, tokens, 4)
    assert not hasattr(checkpoint.model, "onnx_logits")
    assert found == pytest.approx(expected, abs=1e-5) and (found[4:] != expected[4:]).any()  # not Paddle's own bits


def test_features_are_paddles(opened, few_are_many):
    """The graph has no output for the input of the classifier."""
    checkpoint, tokens = opened
    expected = predict_features(checkpoint.model, tokens, 4)
    with onnx_logits.onnx_logits(checkpoint, len(TEXTS)):
        np.testing.assert_array_equal(predict_features(checkpoint.model, tokens, 4), expected)


@pytest.mark.parametrize("reading", [[], ["--long_texts", "windows", "--max_seq_length", 16]])
def test_training_is_the_same(train, news, tmp_path, monkeypatch, reading):
    """Dev is evaluated with the graph of the words in use; the weights and the seeds of later steps do not change."""
    flags = ["--epochs", 2, "--batch_size", 16, *reading]
    status, log, plain = train(news, *flags, save_dir=tmp_path / "plain")
    assert status == 0 and READY not in log
    monkeypatch.setattr(onnx_logits, "ENOUGH", 30)  # rows of dev
    status, log, fast = train(news, *flags, save_dir=tmp_path / "fast")
    assert status == 0 and log.count(READY) == 2 and SLOW not in log and "only their vectors are trained" in log
    assert_same_weights(fast, plain)
    for found, expected in zip(history(fast), history(plain), strict=True):
        assert found == pytest.approx(expected, abs=1e-6)


def test_paddle_computes_if_the_graph_cannot_be_made(opened, few_are_many, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no such operator")

    checkpoint, tokens = opened
    expected = predict_logits(checkpoint.model, tokens, 4)
    monkeypatch.setattr(onnx_logits, "write_onnx_graph", fail)
    with caplog.at_level(logging.INFO), onnx_logits.onnx_logits(checkpoint, len(TEXTS)):
        np.testing.assert_array_equal(predict_logits(checkpoint.model, tokens, 4), expected)
    assert f"{SLOW}: the model's ONNX graph, which is faster, cannot be made (no such operator)" in caplog.text


def test_paddle_computes_if_the_graph_is_wrong(opened, few_are_many, monkeypatch, caplog):
    import onnxruntime

    class Wrong(onnxruntime.InferenceSession):
        def run(self, *args):
            return [super().run(*args)[0] + 0.1]

    checkpoint, tokens = opened
    expected = predict_logits(checkpoint.model, tokens, 4)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Wrong)
    with caplog.at_level(logging.INFO), onnx_logits.onnx_logits(checkpoint, len(TEXTS)):
        np.testing.assert_array_equal(predict_logits(checkpoint.model, tokens, 4), expected)
    assert f"{SLOW}: ONNX Runtime's differ by 1.0e-01" in caplog.text


def test_scripts_that_score_a_file_gain(run, trained, monkeypatch, tmp_path):
    dataset, checkpoint = (shutil.copytree(path, tmp_path / path.name) for path in trained["news"])
    flags = ["--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu"]
    for script in (evaluate, threshold):
        reports = []
        for enough in (61, 60):  # of 60 rows
            monkeypatch.setattr(onnx_logits, "ENOUGH", enough)
            status, log = run(script.main, *flags)
            assert status == 0 and (READY in log) == (enough == 60), log
            reports.append(re.findall(r"(?:micro|macro) f1.*", log.lower()))
        assert reports[0] == reports[1] != []


def test_one_graph_for_all_parts_of_a_file(opened, few_are_many, caplog):
    checkpoint, _ = opened
    with caplog.at_level(logging.INFO), onnx_logits.onnx_logits(checkpoint, 100):
        found = [probabilities_of(checkpoint, TEXTS, 48, 4) for _ in range(2)]
    assert caplog.text.count(READY) == 1
    np.testing.assert_array_equal(*found)
