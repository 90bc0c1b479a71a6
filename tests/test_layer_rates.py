"""`--head_learning_rate`, `--layer_decay` and `--freeze_epochs` of train.py."""

import signal

import numpy as np
import pytest
from training_runs import assert_same_weights, compare, weights

from text_cls.neural import training
from text_cls.neural.compat import import_paddle
from text_cls.neural.layer_rates import layer_depths
from text_cls.neural.model import load_pretrained, logits_of
from text_cls.neural.steps import Optimization
from text_cls.neural.training_options import TrainingOptions

paddle = import_paddle()

RATE, HEAD, DECAY = 0.01, 0.03, 0.5


def options(**flags):
    return TrainingOptions(device="cpu", learning_rate=RATE, head_learning_rate=HEAD, layer_decay=DECAY, **flags)


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "bert", "roberta"])
def test_depths(family, families):
    """Of a model with two layers. RoBERTa has no pooler; its classifier is two linear layers."""
    depths = layer_depths(families[family][0])
    expected = {
        f"{family}.embeddings.word_embeddings.weight": 2,
        f"{family}.embeddings.layer_norm.bias": 2,
        f"{family}.encoder.layers.0.linear1.weight": 1,
        f"{family}.encoder.layers.1.self_attn.q_proj.bias": 0,
    }
    head = (
        ("classifier.dense", "classifier.out_proj") if family == "roberta" else (f"{family}.pooler.dense", "classifier")
    )
    expected |= {f"{layer}.{kind}": None for layer in head for kind in ("weight", "bias")}
    assert {name: depths[name] for name in expected} == expected
    assert {name for name, depth in depths.items() if depth is None} == {n for n in expected if expected[n] is None}


def test_depths_of_other_encoders():
    """Layers that share their weights, layers under another name, and a norm after the last layer."""
    from paddlenlp.transformers import (
        AlbertConfig,
        AlbertForSequenceClassification,
        MegatronBertConfig,
        MegatronBertForSequenceClassification,
    )

    size = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    depths = layer_depths(AlbertForSequenceClassification(AlbertConfig(**size)))
    assert depths["transformer.encoder.embedding_hidden_mapping_in.weight"] == 1
    assert depths["transformer.encoder.albert_layer_groups.0.albert_layers.0.ffn.weight"] == 0
    depths = layer_depths(MegatronBertForSequenceClassification(MegatronBertConfig(**size)))
    assert {depths[f"megatronbert.encoder.{part}"] for part in ("layer_norm.weight", "layer_norm.bias")} == {0}
    assert depths["megatronbert.embeddings.word_embeddings.weight"] == 3
    numbered = {name: depth for name, depth in depths.items() if ".layer." in name}
    assert all(depth == 2 - int(name.split(".layer.")[1].split(".")[0]) for name, depth in numbered.items())


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "roberta"])
def test_the_first_update_has_the_size_of_the_rate(family, family_folders):
    """Adam's first step is the rate times the sign of the gradient, plus the decay."""
    model, _ = load_pretrained(str(family_folders[family]), 5)
    optimization = Optimization(model, options(weight_decay=0.1), total_steps=10)
    model.eval()
    inputs = {"input_ids": paddle.to_tensor([[2, 7, 8, 9, 3]])}
    loss = (logits_of(model, inputs) * paddle.to_tensor([[1.0, -2.0, 3.0, -4.0, 5.0]])).sum()
    optimization.backward(loss)
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    gradients = {name: p.grad.numpy() / optimization.loss_scale for name, p in model.named_parameters()}
    optimization.update()
    depths, seen = layer_depths(model), set()
    for name, parameter in model.named_parameters():
        rate = HEAD if depths[name] is None else RATE * DECAY ** depths[name]
        large = np.abs(gradients[name]) > 1e-3  # beside it, Adam's epsilon is nothing
        decay = 0 if "bias" in name or "norm" in name else 0.1
        expected = -rate * (np.sign(gradients[name]) + decay * before[name])[large]
        assert (parameter.numpy() - before[name])[large] == pytest.approx(expected, rel=1e-3, abs=1e-6), name
        if large.any():
            seen.add(depths[name])
    assert seen == {None, 0, 1, 2}


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "roberta"])
def test_a_frozen_encoder_is_computed_without_gradients(family, family_folders):
    model, _ = load_pretrained(str(family_folders[family]), 5)
    optimization = Optimization(model, options(), total_steps=10)
    outputs = []
    encoder = getattr(model, family).encoder
    encoder.register_forward_post_hook(lambda layer, inputs, output: outputs.append(output.stop_gradient))
    for frozen in (False, True, False):
        optimization.freeze_encoder(frozen)
        model(paddle.to_tensor([[2, 7, 8, 9, 3]]))
    assert outputs == [False, True, False]


def test_only_the_head_is_trained_in_frozen_epochs(news, train, tiny_model, tmp_path):
    same = ("--epochs", 2, "--weight_decay", 0.1, "--metric_for_best", "micro_f1")
    status, log, folder = train(news, *same, "--freeze_epochs", 2)
    assert status == 0, log
    before, after = weights(tiny_model), weights(folder)
    assert set(before) == {name.removeprefix("ernie.") for name in after if not name.startswith("classifier")}
    for name, value in before.items():
        if "pooler" not in name:
            assert np.array_equal(after[f"ernie.{name}"], value), name
    assert not np.array_equal(after["ernie.pooler.dense.weight"], before["pooler.dense.weight"])


@pytest.mark.parametrize("stop", [3, 6, 10], ids=["frozen", "between", "after"])
def test_resuming_within_and_after_frozen_epochs(stop, news, train, tmp_path, monkeypatch):
    """Steps 1 to 6 are frozen, in two epochs of 3 steps; the last step of each has a single batch."""
    flags = "--epochs 4 --freeze_epochs 2 --layer_decay 0.8 --head_learning_rate 5e-3 --max_grad_norm 1".split()
    flags += "--batch_size 18 --gradient_accumulation_steps 2 --weight_decay 0.1 --warmup --warmup_steps 2".split()
    expected = train(news, *flags, save_dir=tmp_path / "whole")
    original = training.Trainer.stopped

    def stopped(self, shares, signals):
        signals.number = signal.SIGINT if self.progress.step == stop else 0
        return original(self, shares, signals)

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "stopped", stopped)
        status, log, _ = train(news, *flags, save_dir=folder)
    assert status == 130
    status, rest, _ = train(news, *flags, "--resume", save_dir=folder)
    assert status == 0 and f"resuming at step {stop}" in rest, rest
    compare(log + rest, folder, expected)


def test_defaults_change_nothing(news, train, tmp_path):
    _, _, plain = train(news, save_dir=tmp_path / "plain")
    same = ("--head_learning_rate", "1e-3", "--layer_decay", 1, "--freeze_epochs", 0)
    assert_same_weights(train(news, *same, save_dir=tmp_path / "same")[2], plain, tolerance=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--layer_decay", 0), "--layer_decay: must be a number above 0 and at most 1, not '0'"),
        (("--layer_decay", 1.1), "--layer_decay: must be a number above 0 and at most 1, not '1.1'"),
        (
            ("--freeze_epochs", 3, "--epochs", 2),
            "--freeze_epochs 3 is more than --epochs 2; with the same number, only the",
        ),
        (("--learning_rate", 0, "--head_learning_rate", 0.1), "needs a --learning_rate above 0; to train only"),
    ],
)
def test_refusals(flags, message, news, train):
    status, log, folder = train(news, *flags)
    assert status == 2 and message in log and not folder.exists()
