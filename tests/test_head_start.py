"""`train.py --head_start` and `--epochs 0`: where the classifier starts, and a run that ends there."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, plain, write_lines
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from training_runs import assert_same_weights, history, weights

import evaluate
import export_model
import predict
import threshold
import train as script
from text_cls.cli import Problems, UserError
from text_cls.neural import head_start, training
from text_cls.neural.checkpoint import Checkpoint
from text_cls.neural.compat import import_paddle
from text_cls.neural.head_start import fit, label_rates, start_head
from text_cls.neural.model import encode, load_pretrained, predict_features, predict_logits
from text_cls.neural.steps import Steps
from text_cls.neural.training_options import TrainingOptions
from text_cls.probabilities import sigmoid
from text_cls.rows import Labels, read_labels, read_rows

paddle = import_paddle()


@pytest.fixture
def start(train):
    """start(dataset, head_start, *flags) -> (status, log, folder): a run that ends before the first epoch."""

    def call(dataset, how, *flags, **where):
        return train(dataset, "--epochs", 0, "--head_start", how, *flags, **where)

    return call


def rates_of(dataset):
    """Share of the training rows with each label, by Laplace's rule."""
    labels = read_labels(dataset / "label.txt", Problems())
    rows = read_rows(dataset / "train.txt", labels, Problems())
    return (rows.multi_hot(len(labels)).sum(axis=0) + 1) / (len(rows) + 2)


def test_prior_starts_at_the_frequencies_of_the_labels(news, start):
    status, _, folder = start(news, "prior")
    found, rates = weights(folder), rates_of(news)
    assert status == 0 and found["classifier.bias"] == pytest.approx(np.log(rates / (1 - rates)), abs=1e-5)
    assert 0 < np.abs(found["classifier.weight"]).max() < 0.1


def test_random_is_as_it_was(news, start, tiny_model):
    _, _, folder = start(news, "random")
    paddle.seed(3)
    model, _ = load_pretrained(str(tiny_model), 55)
    for name, value in model.state_dict().items():
        assert np.array_equal(weights(folder)[name], value.numpy())


def test_a_linear_start_predicts_before_the_first_epoch(news, start, tmp_path):
    """The scores are those of the saved classifier; with the bias alone they would be worse."""
    _, _, prior = start(news, "prior", "--dev_file", "train.txt", save_dir=tmp_path / "prior")
    status, log, folder = start(news, "linear", "--dev_file", "train.txt")
    assert status == 0 and "from the features of 90 training rows" in log
    assert history(folder)[0]["loss"] < history(prior)[0]["loss"]
    assert history(folder)[0]["micro_f1"] > history(prior)[0]["micro_f1"] == 0


@pytest.mark.parametrize("how", ["linear", "prior", "random"])
def test_no_epoch(news, start, run, how):
    """Dev is scored once, the test file too, and the log is in order."""
    flags = ("--test_file", "dev.txt", "--warmup_steps", 2)
    status, log, folder = start(news, how, *flags)
    assert status == 0 and "global step" not in log and "the rate never reaches" not in log
    words = ("Training: 0 steps", "Classifier: linear", "eval loss", "Current best", "Test dataset", "Final", "Save")
    words = [word for word in words if how == "linear" or word != "Classifier: linear"]
    lines = [line for line in plain(log) if line.startswith(tuple(words))]
    assert len(lines) == len(words) and all(map(str.startswith, lines, words))
    assert [(entry["epoch"], entry["step"]) for entry in history(folder)] == [(0, 0)]
    assert not os.path.exists(f"{folder}_last")
    status, log, _ = start(news, how, *flags, "--resume")
    assert status == 0 and "This run has finished already" in log


def test_every_script_accepts_a_model_of_no_epoch(news, start, run):
    shutil.copy(news / "train.txt", news / "dev.txt")
    _, _, folder = start(news, "linear")
    here = ("--dataset_dir", news, "--params_path", folder, "--device", "cpu")
    assert run(evaluate.main, *here)[0] == 0
    assert run(threshold.main, *here)[0] == 0
    assert run(predict.main, *here, "--output_file", news / "predicted.txt")[0] == 0
    assert run(export_model.main, "--params_path", folder, "--output_path", news / "export")[0] == 0


def test_no_epoch_with_fitted_thresholds(news, start):
    shutil.copy(news / "train.txt", news / "dev.txt")
    status, log, folder = start(news, "linear", "--metric_for_best", "tuned_macro_f1")
    assert status == 0 and "decision.json has one threshold per label" in log
    assert history(folder)[0]["tuned_macro_f1"] > 0


def test_a_negative_number_of_epochs(news, train):
    status, log, _ = train(news, "--epochs", -1)
    assert status == 2 and "--epochs: must be a whole number of at least 0, not '-1'" in log


def test_the_default(news, tiny_model, run, train, tmp_path):
    """A new classifier is fitted; a trained one is kept, unless the flag is given."""
    where = ("--dataset_dir", news, "--device", "cpu", "--max_seq_length", 32, "--epochs", 0, "--save_dir")
    status, log = run(script.main, *where, tmp_path / "new", "--model_name", tiny_model)
    assert status == 0 and "Classifier: linear" in log
    status, log = run(script.main, *where, tmp_path / "kept", "--model_name", tmp_path / "new")
    assert status == 0 and "Classifier: trained before, and kept as it is" in log and "linear" not in log
    assert_same_weights(tmp_path / "kept", tmp_path / "new", tolerance=0)
    _, _, other = train(news, "--learning_rate", "1e-2", save_dir=tmp_path / "other")
    status, log = run(script.main, *where, tmp_path / "again", "--model_name", other, "--head_start", "linear")
    assert status == 0 and "Classifier: linear" in log
    assert not np.allclose(weights(tmp_path / "again")["classifier.weight"], weights(other)["classifier.weight"])


def test_it_would_replace_the_classifier_of_init_from_ckpt(news, train, tmp_path):
    _, _, first = train(news, save_dir=tmp_path / "first")
    given = ("--init_from_ckpt", first / "model_state.pdparams")
    status, log, _ = train(news, *given, "--head_start", "linear")
    assert status == 2 and "--head_start linear replaces the classifier of --init_from_ckpt" in log


def test_the_start_is_no_epoch_for_early_stop(news, train):
    """No epoch is better than the start; the first epoch is the best of the epochs, and two follow."""
    flags = ("--epochs", 9, "--learning_rate", 0, "--early_stop", "--early_stop_nums", 2)
    status, log, folder = train(news, *flags, "--head_start", "linear")
    assert status == 0 and "Early stop!" in log and log.index("eval loss") < log.index("global step 1,")
    assert [entry["epoch"] for entry in history(folder)] == [0, 1, 2, 3]


def test_a_resumed_run_does_not_fit_again(news, train, tmp_path, monkeypatch):
    flags = ("--epochs", 2, "--head_start", "linear")
    _, _, whole = train(news, *flags, save_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "train_epoch", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            train(news, *flags)
    monkeypatch.setattr(head_start, "fit", lambda *_: pytest.fail("fitted again"))
    status, log, folder = train(news, *flags, "--resume")
    assert status == 0 and "Classifier: linear" not in log
    assert_same_weights(folder, whole)
    assert [entry["epoch"] for entry in history(folder)] == [0, 1, 2]


def test_a_lack_of_memory_shows_before_the_features_are_computed(news, train, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Steps, "backward", fail)
    monkeypatch.setattr(head_start, "features_of", lambda *_: pytest.fail("too early"))
    status, log, _ = train(news, "--head_start", "linear")
    assert status == 2 and "halve the batch" in log


def test_of_many_rows_some_are_drawn(news, start, monkeypatch):
    monkeypatch.setattr(head_start, "MOST_ROWS", 40)
    status, log, _ = start(news, "linear")
    assert status == 0 and "from the features of 40 training rows" in log


@pytest.mark.parametrize("loss", ["focal", "asymmetric", "distribution_balanced"])
def test_with_other_losses(news, train, loss):
    status, log, folder = train(news, "--head_start", "linear", "--loss", loss)
    assert status == 0 and len(history(folder)) == 2


# ------------------------------------------------------------------------------------------------- logistic regression


@pytest.mark.parametrize("rows", [30, 400])
def test_the_fit_is_scikit_learns(rows, monkeypatch):
    """Features of very different spread and mean; one label that no row has, and one that all have."""
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setattr(head_start, "MOST_LABELS", 3)
    monkeypatch.setattr(head_start, "MOST_CELLS", 100)
    random = np.random.default_rng(0)
    features = (random.normal(size=(rows, 20)) * random.uniform(0.5, 3, 20) + random.normal(size=20)).astype("float32")
    targets = features @ random.normal(size=(20, 8)) + random.normal(size=(rows, 8)) > random.normal(size=8)
    targets[:, 2], targets[:, 5] = False, True
    rates = label_rates(targets.sum(axis=0), rows)
    weight, bias = fit(features, targets, rates)
    probabilities, scaled = (
        sigmoid(features @ weight + bias),
        (features - features.mean(axis=0)) / features.var(axis=0).mean() ** 0.5,
    )
    for label in range(8):
        if label in (2, 5):
            assert probabilities[:, label] == pytest.approx(rates[label]) and rates[label] in (
                1 / (rows + 2),
                (rows + 1) / (rows + 2),
            )
        else:
            model = LogisticRegression(C=1 / head_start.STRENGTH, tol=1e-8).fit(scaled, targets[:, label])
            assert probabilities[:, label] == pytest.approx(model.predict_proba(scaled)[:, 1], abs=2e-3)


@given(st.integers(2, 60), st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**32), st.floats(0, 1))
def test_the_mean_probability_is_the_frequency(rows, width, labels, seed, constant):
    """The bias has no penalty, so the errors of a label sum to 0, also if features are constant."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, width)).astype(np.float32)
    features[:, random.random(width) < constant] = 3
    targets = random.random((rows, labels)) < random.random(labels)
    rates = label_rates(targets.sum(axis=0), rows)
    weight, bias = fit(features, targets, rates)
    varied = targets.any(axis=0) & ~targets.all(axis=0)
    expected = np.where(varied, targets.mean(axis=0), rates)
    assert sigmoid(features @ weight + bias).mean(axis=0) == pytest.approx(expected, abs=5e-3)


# ------------------------------------------------------------------------------------------------- the labels' texts


@pytest.fixture
def near_their_labels():
    """(features, targets, vectors): rows near the vector of their label. The labels' vectors are far from all rows.

    No row is labelled with the last label.
    """
    random = np.random.default_rng(1)
    vectors, of_row = random.normal(size=(6, 16)), random.choice(6, 300, p=(0.3, 0.2, 0.2, 0.1, 0.1, 0.1))
    features = 9 + vectors[of_row] + random.normal(size=(300, 16))
    targets = of_row[:, None] == np.arange(6)
    return features.astype(np.float32), targets, (vectors - 5).astype(np.float32)


def test_weights_of_the_labels_vectors(near_their_labels):
    """Every label is found, and its mean probability is its rate; without rows, the median of the others' rates."""
    features, truth, vectors = near_their_labels
    targets = truth & (np.arange(6) < 5)
    rates = label_rates(targets.sum(axis=0), 300)
    weight, bias = fit(features, targets, rates, vectors, regress=False)
    probabilities = sigmoid(features @ weight + bias)
    assert probabilities.mean(axis=0) == pytest.approx([*rates[:5], np.median(rates[:5])], abs=1e-3)
    for label in range(6):
        mine = truth[:, label]
        assert probabilities[mine, label].mean() > 3 * probabilities[~mine, label].mean()


def test_the_regression_is_drawn_to_the_labels_vectors(near_their_labels):
    """With two rows per label, other rows are predicted better. A label without any keeps the weights of its vector."""
    features, truth, vectors = near_their_labels
    rows = np.concatenate([np.flatnonzero(truth[:, label])[:2] for label in range(5)])
    some, rates = (features[rows], truth[rows]), label_rates(truth[rows].sum(axis=0), len(rows))
    losses = {}
    for name, drawn_to in (("linear", None), ("linear+labels", vectors)):
        weight, bias = fit(*some, rates, drawn_to)
        logits = np.delete(features, rows, axis=0) @ weight + bias
        losses[name] = np.logaddexp(0, np.where(np.delete(truth, rows, axis=0), -logits, logits)).mean()
    assert losses["linear+labels"] < losses["linear"]
    alone = fit(*some, rates, vectors, regress=False)
    assert weight[:, 5] == pytest.approx(alone[0][:, 5]) and bias[5] == pytest.approx(alone[1][5])
    assert not np.allclose(weight[:, 0], alone[0][:, 0], atol=1e-3)


@pytest.mark.parametrize("how", ["labels", "linear+labels"])
def test_a_start_from_the_names_of_the_labels(news, start, how):
    status, log, folder = start(news, how)
    assert status == 0 and f"Classifier: {how}, from the features" in log and len(history(folder)) == 1


def test_descriptions_replace_the_names(news, start, tmp_path):
    """Label by label; a label may have several."""
    names = (news / "label.txt").read_text(encoding="utf-8").splitlines()
    bias = {}
    for case, lines in (
        (
            "names",
            ["", *(f"{name}\t{text}" for name in names for text in (name.split("##")[-1], name.replace("##", " ")))],
        ),
        ("others", [f"{names[3]}\t选手破了世界纪录", f"{names[3]}\t又一项新纪录"]),
    ):
        write_lines(news / "label_descriptions.txt", lines)
        status, log, folder = start(news, "labels", save_dir=tmp_path / case)
        assert status == 0, log
        bias[case] = weights(folder)["classifier.bias"]
    (news / "label_descriptions.txt").unlink()
    bias["none"] = weights(start(news, "labels", save_dir=tmp_path / "none")[2])["classifier.bias"]
    assert bias["names"] == pytest.approx(bias["none"], abs=1e-4)
    assert bias["others"][3] != pytest.approx(bias["none"][3], abs=1e-3)


def test_faults_of_the_descriptions(news, train):
    lines = ["体育赛事##夺官\t描述", "只有标签", "体育赛事\t", "体育赛事\t一\t二"]
    write_lines(news / "label_descriptions.txt", lines)
    write_lines(news / "dev.txt", ["五\t没有的"])
    status, log, _ = train(news, "--head_start", "linear+labels")
    file = "label_descriptions.txt"
    assert status == 2 and "5 problems" in log and "dev.txt:1: label '没有的'" in log
    assert f"{file}:1: label '体育赛事##夺官' is not in the label file; did you mean '体育赛事##夺冠'?" in log
    for number in (2, 3, 4):
        assert f"{file}:{number}: a line is label<TAB>description" in log
    status, _, _ = train(news, "--head_start", "linear")
    assert status == 2  # dev.txt alone


def test_a_resumed_run_needs_the_same_descriptions(news, train, monkeypatch):
    write_lines(news / "label_descriptions.txt", ["体育赛事\t比赛"])
    monkeypatch.setattr(training.Trainer, "run_all", lambda *_: 1)
    train(news, "--head_start", "labels")
    write_lines(news / "label_descriptions.txt", ["体育赛事\t运动会"])
    status, log, _ = train(news, "--head_start", "labels", "--resume")
    assert status == 2 and "label_descriptions.txt is not the file that run started with" in log


# --------------------------------------------------------------------------------------------- models, and processes

TEXTS = ["足球队赢了", "台风登陆", "股价大跌", "球队输了", "台风停课", "公司裁员"]
NAMES = ["体育", "天气", "财经", "无", "全部"]


def some_rows(folder):
    write_lines(folder / "rows.txt", [f"{text}\t{NAMES[i % 3]},{NAMES[4]}" for i, text in enumerate(TEXTS)])
    return read_rows(folder / "rows.txt", Labels(NAMES), Problems())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, family_folders, tmp_path):
    model, tokenizer = load_pretrained(str(family_folders[family]), 5)
    rows = some_rows(tmp_path)
    tokens = encode(rows.texts, tokenizer, model, 32)
    features = predict_features(model, tokens, 2)
    checkpoint = Checkpoint(model, tokenizer, Labels(NAMES), None, {})
    assert start_head(TrainingOptions(head_start="linear", batch_size=4), checkpoint, rows, tokens)
    targets = rows.multi_hot(5)
    weight, bias = fit(features, targets, label_rates(targets.sum(axis=0), 6))
    assert predict_logits(model, tokens, 2) == pytest.approx(features @ weight + bias, abs=1e-3)


def test_a_model_whose_last_layer_is_no_classifier(tmp_path):
    """GPT's has no bias and predicts at every token."""
    from paddlenlp.transformers import GPTConfig, GPTForSequenceClassification

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = GPTForSequenceClassification(GPTConfig(vocab_size=9, num_labels=5, max_position_embeddings=8, **small))
    checkpoint, rows = Checkpoint(model, None, Labels(NAMES), None, {}), some_rows(tmp_path)
    assert not start_head(TrainingOptions(), checkpoint, rows, None)
    for how in ("linear", "prior"):
        with pytest.raises(
            UserError, match=f"--head_start {how}: GPTForSequenceClassification .* use --head_start random"
        ):
            start_head(TrainingOptions(head_start=how), checkpoint, rows, None)


def test_two_processes_fit_what_one_does(news, start, tiny_model, tmp_path):
    """Then each sets another classifier, as if rounding had made them differ: all get that of the first."""
    (tmp_path / "each.py").write_text(
        "import sys, paddle, train\n"
        "from text_cls.neural.head_start import _set\n"
        "assert train.main(sys.argv[1:]) == 0\n"
        "rank, layer = paddle.distributed.get_rank(), paddle.nn.Linear(2, 3)\n"
        "_set(layer, [[rank + 0.5] * 3] * 2, [rank + 7] * 3)\n"
        "print('weights', layer.weight.numpy().tolist(), layer.bias.numpy().tolist())\n",
        encoding="utf-8",
    )
    flags = ["--dataset_dir", news, "--model_name", tiny_model, "--device", "cpu", "--save_dir", tmp_path / "two"]
    flags += "--max_seq_length 32 --epochs 0 --head_start linear".split()
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--backend", "gloo", "--log_dir", tmp_path]
    done = subprocess.run(
        command_line(*launch, tmp_path / "each.py", *flags),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, one = start(news, "linear")
    assert_same_weights(tmp_path / "two", one, tolerance=5e-3)
    logs = [(tmp_path / f"workerlog.{rank}").read_text(encoding="utf-8") for rank in (0, 1)]
    expected = "weights [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]] [7.0, 7.0, 7.0]"
    assert all(re.findall("weights .*", log) == [expected] for log in logs)
