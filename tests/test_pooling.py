"""`--pooling mean`: the classifier gets the mean of a text's tokens, in training and in all that follows it."""

import copy
import json
import re
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ROOT, lines_of, load_script
from families import save_as_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

import export_model
import infer
import predict
import prune
from text_cls.cli import UserError
from text_cls.neural.compat import import_paddle
from text_cls.neural.int8_graph import to_int8
from text_cls.neural.model import encode, load_pretrained, predict_logits
from text_cls.neural.onnx_graph import to_fp16
from text_cls.neural.pooling import pooling_of, recorded_pooling, start_pooling

paddle = import_paddle()

TEXTS = [text for text in (ROOT / "data" / "data.txt").read_text(encoding="utf-8").splitlines()[:6]]
TEXTS += ["足球", "", "台风登陆，学校停课一天" * 4]
POOLED = ("ernie", "ernie_m", "bert")


@pytest.fixture(scope="module")
def mean_models(family_folders):
    """{family: (model, tokenizer)} of classifiers that pool the mean."""
    found = {}
    for family in POOLED:
        paddle.seed(1)
        model, tokenizer = load_pretrained(str(family_folders[family]), 5, pooling="mean")
        model.eval()
        found[family] = model, tokenizer
    return found


def logits(models, family, texts, batches=None):
    model, tokenizer = models[family]
    return predict_logits(model, encode(texts, tokenizer, model, 48), 32, batches)


def by_hand(model, hidden):
    """Logits of one text from the hidden states of its tokens, [tokens, width]."""
    dense, head = model.base_model.pooler.dense, model.classifier
    pooled = np.tanh(hidden.mean(0) @ dense.weight.numpy() + dense.bias.numpy())
    return pooled @ head.weight.numpy() + head.bias.numpy()


# ----------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("family", POOLED)
@pytest.mark.parametrize("with_mask", [True, False])
def test_the_classifier_gets_the_mean_of_the_tokens(mean_models, family, with_mask):
    """All tokens but padding, also where PaddleNLP makes the mask itself."""
    model, tokenizer = mean_models[family]
    encoded = encode(TEXTS, tokenizer, model, 48)
    batch = {name: paddle.to_tensor(value) for name, value in encoded.batch(np.arange(len(TEXTS))).items()}
    if not with_mask:
        del batch["attention_mask"]
    with paddle.no_grad():
        hidden, found = model.base_model(**batch)[0].numpy(), model(**batch).numpy()
    expected = [by_hand(model, states[:length]) for states, length in zip(hidden, encoded.lengths)]
    assert np.abs(found - expected).max() < 1e-5


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("family", POOLED)
def test_a_row_does_not_depend_on_its_batch(mean_models, family, data):
    """Whatever the rows beside it, and so the padding."""
    expected = logits(mean_models, family, TEXTS, [np.array([row]) for row in range(len(TEXTS))])
    order = data.draw(st.permutations(range(len(TEXTS))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(TEXTS) - 1))))
    found = logits(mean_models, family, TEXTS, [rows for rows in np.split(np.array(order), cuts) if len(rows)])
    assert np.abs(found - expected).max() < 1e-5


def test_the_other_weights_are_those_of_a_model_that_pools_the_first_token(mean_models, family_folders):
    first = load_pretrained(str(family_folders["ernie"]), 5)[0]
    assert list(first.state_dict()) == list(mean_models["ernie"][0].state_dict())
    assert pooling_of(first.config) == "first" and pooling_of(mean_models["ernie"][0].config) == "mean"
    assert pooling_of(SimpleNamespace()) == "first"  # a model of PaddleNLP


def test_a_copy_pools_by_itself(mean_models):
    """Export and pruning copy the model."""
    model, tokenizer = mean_models["ernie"]
    other = copy.deepcopy(model)
    encoded = encode(TEXTS, tokenizer, model, 48)
    model.base_model.register_forward_post_hook(lambda *_: pytest.fail("the copy ran the original"))
    try:
        assert np.isfinite(predict_logits(other, encoded, 8)).all()
    finally:
        model.base_model._forward_post_hooks.clear()
    assert np.abs(predict_logits(other, encoded, 8) - predict_logits(model, encoded, 8)).max() < 1e-6


def test_a_row_of_padding_is_a_number(mean_models):
    """A client of Triton can send one."""
    model, tokenizer = mean_models["ernie"]
    with paddle.no_grad():
        found = model(paddle.full([1, 4], tokenizer.pad_token_id, "int64"))
    assert np.isfinite(found.numpy()).all()


def test_a_classifier_without_such_a_pooler_is_refused(family_folders):
    with pytest.raises(UserError, match="type roberta cannot pool the mean .*; use --pooling first"):
        load_pretrained(str(family_folders["roberta"]), 5, pooling="mean")


# ------------------------------------------------------------------------------------------------ what a folder records


def old_flags(**flags):
    names = ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    return {f"pooling_mode_{name}": flags.get(name, False) for name in names}


@pytest.mark.parametrize(
    ("config", "pooling", "expected"),
    [
        ({}, None, "first"),
        ({"pooling": "mean"}, None, "mean"),
        ({"pooling": None}, {"pooling_mode": "mean"}, "mean"),
        ({"pooling": "first"}, {"pooling_mode": "mean"}, "first"),
        ({}, {"pooling_mode": "cls"}, "first"),
        ({}, {"pooling_mode": ["mean"]}, "mean"),
        ({}, old_flags(mean_tokens=True), "mean"),
        ({}, old_flags(cls_token=True), "first"),
        ({}, old_flags(), "mean"),  # sentence-transformers' default
    ],
)
def test_what_a_folder_records(tmp_path, caplog, config, pooling, expected):
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if pooling:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    assert recorded_pooling(str(tmp_path)) == expected and not caplog.records


@pytest.mark.parametrize(
    ("pooling", "what"),
    [
        (old_flags(max_tokens=True), "pooling_mode_max_tokens"),
        (old_flags(cls_token=True, mean_tokens=True), "pooling_mode_cls_token, pooling_mode_mean_tokens"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["cls", "mean"]}, "cls, mean"),
        ({"pooling_mode": 3}, "3"),
    ],
)
def test_other_poolings_are_named_and_the_first_token_is_used(tmp_path, caplog, pooling, what):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    assert recorded_pooling(str(tmp_path)) == "first"
    assert f"pooling by {what} is not supported; the first token is used" in caplog.text


def test_an_unknown_pooling_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"pooling": "max"}', encoding="utf-8")
    with pytest.raises(UserError, match="config.json: pooling .* one of first, mean"):
        recorded_pooling(str(tmp_path))


def test_a_name_records_nothing():
    assert recorded_pooling("ernie-3.0-medium-zh") is None


def test_where_the_pooling_of_a_run_comes_from(tmp_path, caplog):
    """The flag, else the weights to continue from, else the model's folder."""
    for name, config in (("mean", {"pooling": "mean"}), ("plain", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    mean, plain = str(tmp_path / "mean"), str(tmp_path / "plain")
    weights = {name: str(tmp_path / name / "model_state.pdparams") for name in ("mean", "plain", "nothing")}

    def start(model, pooling=None, init_from_ckpt=None):
        options = SimpleNamespace(model_name=model, pooling=pooling, init_from_ckpt=init_from_ckpt)
        return start_pooling(options, model)

    assert start("ernie-3.0-medium-zh") == "first" and start("ernie-3.0-medium-zh", "mean") == "mean"
    assert start(mean) == "mean" and start(mean, "mean") == "mean"
    assert start(plain, None, weights["mean"]) == "mean"
    assert start(plain, None, mean) == "mean"  # the folder itself
    assert start(mean, None, weights["plain"]) == "first"  # a checkpoint of an older version
    assert start(mean, None, weights["nothing"]) == "mean"  # weights alone
    assert "WARNING" not in caplog.text
    assert start(plain, "first", weights["mean"]) == "first"
    assert f"--pooling first: the weights in {mean} are for --pooling mean" in caplog.text
    assert start(plain, "mean") == "mean"
    assert f"--pooling mean: the weights in {plain} are for --pooling first" in caplog.text
    options = SimpleNamespace(model_name=plain, pooling="mean", init_from_ckpt=None)
    assert start_pooling(options, mean) is None  # a stopped run's state


# ------------------------------------------------------------------------------------------------------ train and after


@pytest.fixture(scope="module")
def trained_mean(learner, tmp_path_factory):
    """(data set, checkpoint) of a model that pools the mean."""
    from conftest import copy_dataset

    import train as script

    folder = tmp_path_factory.mktemp("mean")
    dataset = copy_dataset(ROOT / "data" / "multi_label", folder / "data", 200, 40, 40)
    flags = "--device cpu --max_seq_length 48 --epochs 3 --learning_rate 2e-3 --batch_size 16 --pooling mean".split()
    where = ["--dataset_dir", str(dataset), "--model_name", str(learner), "--save_dir", str(folder / "model")]
    assert script.main([*where, *flags]) == 0
    return dataset, folder / "model"


def test_predictions_of_the_checkpoint_and_of_its_bundle_are_the_same(trained_mean, run, tmp_path):
    dataset, checkpoint = trained_mean
    assert json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["pooling"] == "mean"
    status, log = run(export_model.main, "--params_path", checkpoint, "--output_path", tmp_path / "export")
    assert status == 0, log
    flags = ("--device", "cpu", "--dataset_dir", dataset, "--scores", "--top_k", 5, "--output_file")
    assert run(predict.main, *flags, tmp_path / "ours.txt", "--params_path", checkpoint)[0] == 0
    there = ("--model_path_prefix", tmp_path / "export" / "float32")
    assert run(infer.main, *flags, tmp_path / "theirs.txt", *there)[0] == 0
    ours, theirs = lines_of(tmp_path / "ours.txt"), lines_of(tmp_path / "theirs.txt")
    assert len(ours) == len(theirs) == 40
    for one, other in zip(ours, theirs):
        numbers = [[float(value) for value in re.findall(r"[01]\.\d+", line)] for line in (one, other)]
        assert len(numbers[0]) == 5
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)
        assert re.sub(r"[01]\.\d+", "", one) == re.sub(r"[01]\.\d+", "", other)


def logits_of_mean(onnx_file, weights, batch, tmp_path):
    """An ONNX model's logits, and those made by hand from its last hidden states, both [rows, labels]."""
    model = onnx.load(onnx_file)
    norms = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "SkipLayerNormalization")]
    model.graph.output.append(onnx.helper.make_tensor_value_info(norms[-1].output[0], onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "opened.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "opened.onnx", providers=["CPUExecutionProvider"])
    found, hidden = session.run(None, batch)
    weights = {name.removeprefix("ernie."): np.asarray(value) for name, value in weights.items()}
    pooled = np.stack([states[ids > 0].mean(0) for states, ids in zip(hidden, batch["input_ids"])])
    pooled = np.tanh(pooled @ weights["pooler.dense.weight"] + weights["pooler.dense.bias"])
    return found, pooled @ weights["classifier.weight"] + weights["classifier.bias"]


def served_batch(folder):
    from text_cls.serving.predictor import Predictor

    return Predictor(str(folder)).encode(TEXTS).batch(np.arange(len(TEXTS)))


def test_the_onnx_graph_is_as_fast_and_takes_the_mean(trained_mean, run, tmp_path):
    _, checkpoint = trained_mean
    folder = tmp_path / "export"
    assert run(export_model.main, "--params_path", checkpoint, "--output_path", folder)[0] == 0
    operators = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
    assert operators.count("MultiHeadAttention") == operators.count("BiasGelu") > 0 and "Softmax" not in operators
    weights, batch = paddle.load(str(checkpoint / "model_state.pdparams")), served_batch(folder)
    found, expected = logits_of_mean(folder / "model.onnx", weights, batch, tmp_path)
    assert np.abs(found - expected).max() < 1e-4
    to_int8(str(folder / "model.onnx"), str(tmp_path / "int8.onnx"))
    to_fp16(str(folder / "model.onnx"), str(tmp_path / "fp16.onnx"))
    for variant, tolerance in (("int8", 0.3), ("fp16", 0.03)):
        session = onnxruntime.InferenceSession(tmp_path / f"{variant}.onnx", providers=["CPUExecutionProvider"])
        assert np.abs(session.run(None, batch)[0] - found).max() < tolerance


def test_pruned_models_take_the_mean(trained_mean, run, tmp_path):
    dataset, checkpoint = trained_mean
    where = ("--dataset_dir", dataset, "--params_dir", checkpoint, "--output_dir", tmp_path / "prune")
    quick = "--device cpu --max_seq_length 32 --num_train_epochs 1 --width_mult_list 1/2".split()
    status, log = run(prune.main, *where, *quick)
    assert status == 0, log
    folder = tmp_path / "prune" / "width_mult_0.5"
    assert json.loads((folder / "model_config.json").read_text(encoding="utf-8"))["pooling"] == "mean"
    weights = paddle.load(str(folder / "model_state.pdparams"))
    found, expected = logits_of_mean(folder / "model.onnx", weights, served_batch(folder), tmp_path)
    assert np.abs(found - expected).max() < 1e-4


def test_a_run_follows_the_weights_that_it_starts_from(trained_mean, train, learner):
    dataset, checkpoint = trained_mean
    weights = ("--model_name", learner, "--init_from_ckpt", checkpoint / "model_state.pdparams")
    status, log, folder = train(dataset, *weights, "--max_dev_samples", 10, "--max_train_samples", 10)
    assert status == 0 and recorded_pooling(str(folder)) == "mean", log
    assert "Pooling: the mean of the tokens" in log


def test_retrieval_follows_the_folder(trained_mean):
    load_encoder = load_script("retrieval_based/encoder.py").load_encoder
    encoder, tokenizer = load_encoder(str(trained_mean[1]), 0)
    encoder.eval()
    batch = encode(TEXTS[:1], tokenizer, encoder, 48).batch(np.arange(1))
    batch = {name: paddle.to_tensor(value) for name, value in batch.items()}
    with paddle.no_grad():
        states, found = encoder.ernie(**batch)[0].numpy()[0], encoder(**batch).numpy()[0]
    dense = encoder.ernie.pooler.dense
    expected = np.tanh(states.mean(0) @ dense.weight.numpy() + dense.bias.numpy())
    assert np.abs(found - expected / np.linalg.norm(expected)).max() < 1e-5


@pytest.mark.parametrize("family", POOLED)
def test_each_family_is_exported(mean_models, run, family, tmp_path):
    checkpoint = save_as_checkpoint(mean_models, family, tmp_path / "checkpoint")
    flags = ["--multilingual"] if family == "ernie_m" else []
    status, log = run(export_model.main, "--params_path", checkpoint, "--output_path", tmp_path / "export", *flags)
    assert status == 0, log
    assert float(re.search(r"logits match the trained model's within (\S+),", log)[1]) < 1e-4
