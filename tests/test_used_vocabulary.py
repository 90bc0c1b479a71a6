"""Training only the word vectors in use gives the weights of training all of them."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from training_runs import assert_same_weights, weights

import text_cls.neural.training as training
from text_cls.batching import Encoded
from text_cls.neural.model import encode, load_pretrained, predict_logits
from text_cls.neural.steps import Optimization
from text_cls.neural.training_options import TrainingOptions
from text_cls.neural.used_vocabulary import all_vectors, fit_moments, restore, use_vocabulary

VECTORS = "ernie.embeddings.word_embeddings.weight"
OPTIONS = SimpleNamespace(weight_decay=0.0, average=False, amp=None)


def tokens_of(*ids, padding=0):
    """`Encoded` with these tokens."""
    return Encoded({"input_ids": np.array(ids)}, np.array([0, len(ids)]), {"input_ids": padding}, False, False, 0)


@pytest.fixture
def train_both(train, news, tmp_path, monkeypatch):
    """train_both(*flags) -> (log, checkpoint with the vocabulary in use, checkpoint with all of it) of one epoch."""

    def call(*flags):
        status, log, used = train(news, *flags, save_dir=tmp_path / "used")
        assert status == 0, log
        monkeypatch.setattr(training, "use_vocabulary", lambda *_: None)
        status, _, everything = train(news, *flags, save_dir=tmp_path / "all")
        assert status == 0
        return log, used, everything

    return call


@pytest.mark.parametrize(
    "flags",
    [
        ("--layer_decay", 0.5, "--warmup", "--warmup_steps", 2, "--gradient_accumulation_steps", 2),
        ("--average", "--head_start", "labels", "--max_grad_norm", 1, "--test_file", "dev.txt"),
        ("--long_texts", "windows", "--max_seq_length", 16),
    ],
)
def test_the_weights_are_the_same(train_both, flags):
    log, used, everything = train_both(*flags)
    assert "only their vectors are trained" in log
    assert_same_weights(used, everything)


def test_vectors_that_no_text_uses_decay_as_well(train_both, tiny_model):
    """One factor for all steps is not rounded as the steps are."""
    _, used, everything = train_both("--weight_decay", 0.5, "--batch_size", 8, "--layer_decay", 0.9)
    assert_same_weights(used, everything)
    model, _ = load_pretrained(str(tiny_model), 2)
    before, after = model.state_dict()[VECTORS].numpy(), weights(used)[VECTORS]
    shares = after[2000:] / before[2000:]  # rare characters
    constant = np.median(shares)
    assert 0.99 < constant < 0.9999 and (np.abs(shares / constant - 1) < 1e-5).mean() > 0.5


@pytest.mark.parametrize("way", [{"average": True}, {"amp": "fp16"}])
def test_what_is_no_product_of_factors_trains_all(tiny_model, way):
    model, _ = load_pretrained(str(tiny_model), 2)
    options = SimpleNamespace(**{**vars(OPTIONS), "weight_decay": 0.1, **way})
    assert use_vocabulary(model, options, [tokens_of(5, 6)]) is None
    assert use_vocabulary(model, OPTIONS, [tokens_of(*range(len(model.state_dict()[VECTORS])))]) is None


def embedding_model(rows=40, padding=0):
    """A model that is nothing but word vectors, so that no product of matrices rounds differently."""
    import paddle

    paddle.seed(5)
    model = paddle.nn.Layer()
    model.base_model_prefix = "base"
    model.base = model.base_model = paddle.nn.Layer()
    model.base.embeddings = paddle.nn.Layer()
    model.base.embeddings.word_embeddings = paddle.nn.Embedding(rows, 6, padding_idx=padding)
    return model


@pytest.mark.parametrize("padding", [0, 7, None])
def test_updates_are_the_same_bit_for_bit(padding):
    import paddle

    ids = np.array([[3, 9, 9, 31], [7, 3, 0, 0]])
    found = []
    for is_used in (True, False):
        model, options = embedding_model(padding=padding), TrainingOptions(device="cpu", learning_rate=0.01)
        if is_used:
            every = [tokens_of(*ids.ravel(), padding=0), tokens_of(12, padding=0)]
            assert use_vocabulary(model, options, every) == (6, 40)
        optimization = Optimization(model, options, 20)
        for step in range(12):
            vectors = model.base.embeddings.word_embeddings(paddle.to_tensor(ids[: 1 + step % 2]))
            optimization.backward(((vectors - 0.3) ** 3).abs().sum())
            optimization.update()
        restore(model)
        found.append(model.base.embeddings.word_embeddings(paddle.arange(40)).numpy())
        found.append(model.base.embeddings.word_embeddings.weight.numpy())
    for used, everything in zip(found[:2], found[2:]):
        np.testing.assert_array_equal(used, everything)


def test_the_state_of_a_run_that_trained_all_vectors_fits(tiny_model):
    model, _ = load_pretrained(str(tiny_model), 2)
    rows, width = model.state_dict()[VECTORS].shape
    name = model.state_dict()[VECTORS].name
    moments = np.random.default_rng(3).random((rows, width), dtype=np.float32)
    state = {f"{name}_moment1_0": moments, "other_moment1_0": moments}
    fit_moments(model, state)
    assert state[f"{name}_moment1_0"] is moments
    use_vocabulary(model, OPTIONS, [tokens_of(9, 5)])
    fit_moments(model, state)
    np.testing.assert_array_equal(state[f"{name}_moment1_0"], moments[[0, 5, 9]])
    assert state["other_moment1_0"] is moments


def test_other_tokens_are_refused_until_all_are_back(tiny_model):
    model, tokenizer = load_pretrained(str(tiny_model), 2)
    model.eval()
    known, other = "北京发生地震", "我要退货"
    tokens = {text: encode([text], tokenizer, model, 16) for text in (known, other)}
    before = {text: predict_logits(model, part, 1) for text, part in tokens.items()}
    whole = copy.deepcopy(model.state_dict()[VECTORS].numpy())
    use_vocabulary(model, OPTIONS, [tokens[known]])
    np.testing.assert_array_equal(predict_logits(model, tokens[known], 1), before[known])
    with pytest.raises(ValueError, match="a token that is in no text of this run"):
        predict_logits(model, tokens[other], 1)
    with all_vectors(model, kept=0.5):
        half = model.state_dict()[VECTORS].numpy()
    used = np.unique([*tokens[known].columns["input_ids"], 0])
    np.testing.assert_array_equal(half[used], whole[used])
    unused = np.setdiff1d(np.arange(len(whole)), used)
    np.testing.assert_array_equal(half[unused], whole[unused] / 2)
    assert len(model.state_dict()[VECTORS]) == len(used)
    restore(model)
    restore(model)
    np.testing.assert_array_equal(predict_logits(model, tokens[other], 1), before[other])
