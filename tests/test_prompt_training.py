"""few-shot/prompt_training.py: scores, losses, optimiser, the best model, early stopping."""

from types import SimpleNamespace

import numpy as np
import pytest
from prompts import LABELS, PROMPTS, make_task, weights_of

import prompt_training
from text_cls.decision import Decision
from text_cls.rows import Labels


@pytest.mark.parametrize("metric", ["macro_f1_score", "micro_f1_score"])
def test_the_best_model_is_kept_and_patience_ends(train_prompt, tmp_path, monkeypatch, metric):
    """A score of 0 never ends the run: nothing has been learnt yet."""
    scores, seen = [0, 0, 0, 0.2, 0.5, 0.5, 0.1, 0.4, 0.9, 0.9], []

    def score(task, *_):
        seen.append(task.model.verbalizer.head.decoder.weight.numpy().copy())
        value, other = scores[len(seen) - 1], 0.3
        both = {"macro_f1_score": other, "micro_f1_score": other, metric: value}
        return {**both, "loss": {6: 0.1, 7: float("nan")}.get(len(seen), 0.2), "accuracy": 0.0}

    monkeypatch.setattr(prompt_training, "score", score)
    flags = ("--num_train_epochs", 10, "--early_stopping_patience", 2, "--metric_for_best_model", metric)
    status, log = train_prompt("--do_train", *flags)
    assert status == 0 and len(seen) == 8 and "Early stop!" in log and f"Final best {metric}: 0.50000" in log
    kept = weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"]
    assert np.array_equal(kept, seen[5]) and not np.array_equal(kept, seen[4])  # equal scores: the lower loss


def test_the_same_seed_gives_the_same_model(train_prompt, tmp_path):
    models = []
    for seed in (3, 3, 4):
        assert train_prompt("--do_train", "--seed", seed, "--prompt", PROMPTS["lstm"])[0] == 0
        models.append(weights_of(tmp_path / "out"))
    equal = [all(np.array_equal(models[0][name], other[name]) for name in models[0]) for other in models[1:]]
    assert equal == [True, False]


def test_the_model_can_be_frozen(train_prompt, masked, tmp_path):
    assert train_prompt("--do_train", "--freeze_dropout", "--prompt", PROMPTS["soft"])[0] == 0
    before, after = weights_of(masked), weights_of(tmp_path / "out")
    encoder = [name for name in before if name.startswith("ernie.")]
    assert encoder and all(np.array_equal(before[name], after[f"plm.{name}"]) for name in encoder)
    start = make_task(masked, PROMPTS["soft"], Labels(["a"]), [["一"]]).model.template.soft_embeddings.weight.numpy()
    assert np.abs(after["template.soft_embeddings.weight"][1:] - start[1:]).max() > 1e-5


@pytest.mark.parametrize("frozen", [(), ("--freeze_plm",)])
def test_every_option_of_the_optimiser_has_an_effect(train_prompt, tmp_path, frozen):
    same = ("--do_train", "--prompt", PROMPTS["soft"], "--load_best_model_at_end", "false", *frozen)

    def learnt(*flags):
        assert train_prompt(*same, *flags)[0] == 0
        return np.concatenate([value.ravel() for value in weights_of(tmp_path / "out").values()])

    plain = learnt()
    assert np.array_equal(learnt("--max_grad_norm", "0"), learnt("--max_grad_norm", "1e9"))  # off
    for flags in (
        ("--max_grad_norm", "1e-2"),
        ("--ppt_learning_rate", "1e-3"),
        ("--ppt_weight_decay", "0.5"),
        ("--ppt_adam_beta1", "0.5"),
        ("--ppt_adam_beta2", "0.5"),
        ("--ppt_adam_epsilon", "1e-2"),
        ("--warmup_steps", 2),
        ("--warmup_ratio", "0.5"),
        ("--lr_scheduler_type", "constant"),
    ):
        assert not np.array_equal(learnt(*flags), plain), flags
    for flags in (("--learning_rate", "1e-3"), ("--weight_decay", "0.5")):  # of the model
        assert np.array_equal(learnt(*flags), plain) == bool(frozen), flags


@pytest.mark.parametrize(("kind", "term"), [("rdrop", "divergence"), ("rgl", "consistency")])
def test_regularisers_change_what_is_learnt(train_prompt, tmp_path, monkeypatch, kind, term):
    real, calls, models = getattr(prompt_training, term), [], []
    monkeypatch.setattr(prompt_training, term, lambda *args: calls.append(args) or real(*args))
    for flags in ((), (f"--use_{kind}", f"--alpha_{kind}", "0"), (f"--use_{kind}",)):
        assert not calls and train_prompt("--do_train", *flags)[0] == 0
        models.append(weights_of(tmp_path / "out")["verbalizer.head.decoder.weight"])
    assert len(calls) == 6 and np.array_equal(models[0], models[1]) and not np.array_equal(models[0], models[2])


def test_rdrop_is_the_divergence_of_two_passes():
    import paddle

    one, two = np.random.default_rng(3).normal(size=(2, 4, 5)).astype(np.float32)
    p, q = (1 / (1 + np.exp(-x.astype(np.float64))) for x in (one, two))
    kl = [a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b)) for a, b in ((p, q), (q, p))]
    found = float(prompt_training.divergence(paddle.to_tensor(one), paddle.to_tensor(two)))
    assert found == pytest.approx(np.mean(kl), rel=1e-4)


def test_rgl_is_the_loss_of_pairs():
    """PaddleNLP's sum over pairs, with label arrays compared as arrays."""
    import paddle
    import paddle.nn.functional as F

    vectors = paddle.to_tensor(np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32))
    labels = paddle.to_tensor(np.array([[1, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32))
    wanted = 0
    for i in range(4):
        for j in range(4):
            score = F.cosine_similarity(vectors[i], vectors[j], axis=0).unsqueeze(0)
            same = int((labels[i].numpy() == labels[j].numpy()).all())
            pair = paddle.concat([(1 - score) * 50, (1 + score) * 50], axis=-1).reshape([1, 2])
            wanted += float(F.cross_entropy(pair, paddle.to_tensor([[same]])))
    found = float(prompt_training.consistency(vectors, labels))
    assert found == pytest.approx(wanted / 12 / 100, rel=1e-3)
    assert float(prompt_training.consistency(vectors[:1], labels[:1])) == pytest.approx(0, abs=1e-6)


def test_scores():
    logits = np.array([[3, -2, 1], [-1, -1, -1]], dtype=np.float32)
    task = SimpleNamespace(logits=lambda encoded, batch_size: logits)
    gold = np.array([[1, 0, 0], [0, 0, 0]], dtype=bool)
    rows = SimpleNamespace(multi_hot=lambda labels: gold)
    found = prompt_training.score(task, None, rows, LABELS, 4, Decision())
    p = 1 / (1 + np.exp(-logits))
    assert found["loss"] == pytest.approx(-np.log(np.where(gold, p, 1 - p)).mean(), rel=1e-5)
    assert (found["micro_f1_score"], found["accuracy"]) == (pytest.approx(2 / 3), 0.5)
    assert found["macro_f1_score"] == pytest.approx(1 / 3)
    assert prompt_training.score(task, None, rows, LABELS, 4, Decision(0.9))["accuracy"] == 1


def test_a_run_shorter_than_the_steps_between_scores_is_scored(train_prompt):
    status, log = train_prompt("--do_train", "--eval_steps", 100)
    assert status == 0 and log.count("eval loss") == 1 and "Final best" in log, log


def test_saved_models_need_not_be_scored(train_prompt):
    flags = ("--load_best_model_at_end", "false", "--save_strategy", "steps", "--save_steps", 2)
    status, log = train_prompt("--do_train", *flags)
    assert status == 0 and log.count("eval loss") == 2 and "Save last prompt model in" in log, log


def test_running_out_of_memory_is_reported(train_prompt, monkeypatch):
    monkeypatch.setattr(prompt_training, "score", lambda *_: (_ for _ in ()).throw(MemoryError("no more")))
    status, log = train_prompt("--do_train")
    assert status == 2 and "Traceback" not in log
    assert "out of memory with --per_device_train_batch_size 8 and --max_seq_length 40; halve one of them" in log
