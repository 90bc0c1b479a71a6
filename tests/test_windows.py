"""Long texts in the scripts: `--long_texts` of train.py, evaluate.py, predict.py and prune.py, and steps on windows."""

import json
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import lines_of
from long_documents import EVIDENCE, FAR, FILL, write_documents
from training_runs import assert_same_weights, compare, history, read_until, start, weights

import evaluate
import predict
import prune
import train as script
from text_cls.cli import Problems
from text_cls.long_texts import LSE, MAX, LongTexts, pool
from text_cls.neural.checkpoint import load_model, open_checkpoint, read_run
from text_cls.neural.compat import import_paddle
from text_cls.neural.head_start import fit, label_rates
from text_cls.neural.model import encode, load_pretrained, predict_features, predict_logits
from text_cls.neural.training_options import TrainingOptions
from text_cls.neural.windows import WindowSteps, encode_long, pooled
from text_cls.probabilities import sigmoid
from text_cls.rows import read_labels, read_rows
from utils import predict_texts, probabilities_of

paddle = import_paddle()
LENGTH = 32
QUICK = "--device cpu --learning_rate 2e-3 --batch_size 16 --epochs 5 --logging_steps 100 --seed 3".split()


def fine_tune(dataset, model, folder, *flags):
    where = ["--dataset_dir", dataset, "--model_name", model, "--save_dir", folder, "--max_seq_length", LENGTH]
    assert script.main([*map(str, [*where, *QUICK, *flags])]) == 0
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("long") / "documents")


@pytest.fixture(scope="module")
def reader(documents, learner, tmp_path_factory):
    """Folder of a checkpoint that reads windows, and has learnt from them."""
    return fine_tune(documents, learner, tmp_path_factory.mktemp("reader") / "model", "--long_texts", "windows")


@pytest.fixture(scope="module")
def opened(reader):
    checkpoint, length = open_checkpoint(str(reader), None, "cpu")
    load_model(checkpoint, "cpu")
    assert length == LENGTH
    return checkpoint


def test_windows_learn_what_cutting_hides(documents, learner, reader, tmp_path):
    cut = fine_tune(documents, learner, tmp_path / "cut")
    best = [max(entry["macro_f1"] for entry in history(folder)) for folder in (reader, cut)]
    assert best[0] > 0.9 > 0.8 > best[1], best


def test_the_log_counts_windows(documents, opened, run, learner, tmp_path):
    flags = ("--long_texts", "windows", "--max_windows", 3, "--batch_size", 2, "--epochs", 0, "--head_start", "random")
    where = ("--dataset_dir", documents, "--model_name", learner, "--save_dir", tmp_path / "model", "--device", "cpu")
    status, log = run(script.main, *where, "--max_seq_length", LENGTH, *flags)
    assert status == 0, log
    assert re.search(r"train: [\d.]+ tokens per row, in [\d.]+ windows of at most 32; ", log)
    share = float(re.search(r"dev: .*; ([\d.]+)% of the rows are not read after window 3", log)[1])
    texts = lines_of(documents / "data.txt")
    tokens = encode_long(texts, opened.tokenizer, opened.model, LENGTH, LongTexts("windows"))
    assert share == 100 * (tokens.counts > 3).mean() > 0
    assert re.search(r"\d+ of 160 training rows have more than 2 windows; each epoch draws 2 of them by seed", log)


def test_a_document_has_the_highest_logits_of_its_windows(documents, opened):
    """Each window predicted as a text of its own, by the way of short texts."""
    texts = lines_of(documents / "data.txt")
    found = probabilities_of(opened, texts, LENGTH, 8)
    tokens = encode_long(texts, opened.tokenizer, opened.model, LENGTH, opened.long_texts)
    assert tokens.counts.max() > 4 and (tokens.counts == 1).any()
    spans = np.split(tokens.spans, tokens.offsets[1:-1])
    for text, of_text, expected in zip(texts, spans, found):
        windows = [text[start:end] for start, end in of_text]
        assert "".join(windows) == text
        own = predict_logits(opened.model, encode(windows, opened.tokenizer, opened.model, LENGTH), 8)
        assert expected == pytest.approx(sigmoid(own.max(axis=0)), abs=1e-5)


def test_the_passage_shows_the_label(documents, opened):
    rows = read_rows(str(documents / "dev.txt"), opened.labels, Problems())
    probabilities, passages, unread, _ = predict_texts(opened, rows.texts, LENGTH, 8, with_passages=True)
    assert unread == 0
    gold, shown = rows.multi_hot(4), []
    for i, text in enumerate(rows.texts):
        for label in np.flatnonzero(gold[i] & (probabilities[i] > 0.5)):
            start, end = passages[i, label]
            assert 0 <= start < end <= len(text)
            shown.append(EVIDENCE[opened.labels.names[label]] in text[start:end])
    assert len(shown) > 40 and np.mean(shown) > 0.9


def test_short_texts_are_read_as_before(documents, opened):
    texts = [text for text in lines_of(documents / "data.txt") if len(text) < 28]
    before = encode(texts, opened.tokenizer, opened.model, LENGTH)
    for mode in ("head_tail", "windows"):
        tokens = encode_long(texts, opened.tokenizer, opened.model, LENGTH, LongTexts(mode))
        tokens = tokens.tokens if mode == "windows" else tokens
        assert np.array_equal(tokens.offsets, before.offsets)
        assert all(np.array_equal(tokens.columns[name], before.columns[name]) for name in before.columns)


@pytest.mark.parametrize("pooling", [MAX, LSE])
def test_short_texts_train_as_before(documents, learner, tmp_path, pooling):
    """Bit for bit: the same weights."""
    short = tmp_path / "short"
    write_documents(short)
    for file in ("train.txt", "dev.txt"):
        rows = [line for line in lines_of(short / file) if len(line) < 28]
        (short / file).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    flags = ("--epochs", 1, "--head_start", "linear")
    before = weights(fine_tune(short, learner, tmp_path / "cut", *flags))
    windows = ("--long_texts", "windows", "--window_pooling", pooling)
    after = weights(fine_tune(short, learner, tmp_path / "windows", *flags, *windows))
    assert before.keys() == after.keys()
    assert_same_weights(tmp_path / "cut", tmp_path / "windows")


# ------------------------------------------------------------------------------------------------------------ training


def test_the_gradient_of_pooled_logits():
    """As finite differences have it."""
    counts, random = np.array([1, 3, 2]), np.random.default_rng(0)
    values, slope = random.normal(0, 2, (6, 4)).astype(np.float32), random.normal(0, 1, (3, 4)).astype(np.float32)
    for pooling in (MAX, LSE):
        logits = paddle.to_tensor(values, stop_gradient=False)
        found = pooled(logits, paddle.to_tensor(counts), pooling)
        assert found.numpy() == pytest.approx(pool(values, counts, pooling), abs=1e-6)
        (found * paddle.to_tensor(slope)).sum().backward()
        for window, label in np.ndindex(6, 4):
            moved = [values.astype(np.float64).copy() for _ in range(2)]
            moved[0][window, label] += 1e-5
            moved[1][window, label] -= 1e-5
            high, low = ((pool(each, counts, pooling) * slope).sum() for each in moved)
            assert float(logits.grad[window, label]) == pytest.approx((high - low) / 2e-5, abs=1e-3)


def test_equal_windows_share_one_gradient():
    logits = paddle.to_tensor(np.ones((4, 1), np.float32), stop_gradient=False)
    pooled(logits, paddle.to_tensor([3, 1]), MAX).sum().backward()
    assert logits.grad.flatten().tolist() == [1, 0, 0, 1]


def make_steps(documents, model_folder, **options):
    labels = read_labels(str(documents / "label.txt"), Problems())
    rows = read_rows(str(documents / "train.txt"), labels, Problems())
    paddle.seed(0)  # of the classifier
    model, tokenizer = load_pretrained(str(model_folder), 4)
    options = TrainingOptions(device="cpu", max_seq_length=LENGTH, long_texts="windows", **options)
    tokens = encode_long(rows.texts, tokenizer, model, LENGTH, options.reading)
    from text_cls.neural.losses import make_loss

    checkpoint = SimpleNamespace(model=model, labels=labels)
    return WindowSteps(options, checkpoint, rows, tokens, make_loss("bce", rows.support(4), len(rows)))


def test_a_step_needs_no_more_memory_than_one_on_short_texts(documents, learner):
    steps = make_steps(documents, learner, batch_size=4)
    assert steps.tokens.counts.max() > 4
    batch = np.argsort(-steps.tokens.counts)[:20:3]
    parts = steps.parts_of(batch)
    assert all(1 <= part["input_ids"].shape[0] <= 4 and part["input_ids"].shape[1] <= LENGTH for part in parts)
    assert np.array_equal(np.concatenate([part["labels"] for part in parts]), steps.rows.multi_hot(4, batch))
    used = np.concatenate([part["counts"] for part in parts])
    assert np.array_equal(used, np.minimum(steps.tokens.counts[batch], 4))
    for part in parts:
        assert part["counts"].sum() == len(part["input_ids"]) and len(part["counts"]) == len(part["weight"])


def test_windows_are_drawn_by_seed_epoch_and_row(documents, learner):
    def drawn(epoch, **options):
        steps = make_steps(documents, learner, batch_size=3, **options)
        steps.epoch = epoch
        return [steps.windows_of(row).tolist() for row in range(len(steps.tokens))]

    first, second = drawn(0), drawn(1)
    assert first == drawn(0) != second and first != drawn(0, seed=4)
    steps = make_steps(documents, learner, batch_size=3)
    for row, count in enumerate(steps.tokens.counts):
        assert len(first[row]) == min(3, count) and first[row] == sorted(set(first[row]))
        assert set(first[row]) <= set(steps.tokens.of([row]))


def test_parts_of_a_batch_have_the_gradient_of_the_whole(documents, learner):
    """Two parts of at most 8 windows, and all windows at once."""
    gradients = []
    for size in (8, 64):
        steps = make_steps(documents, learner, batch_size=size)
        batch = np.flatnonzero(np.isin(steps.tokens.counts, (1, 3, 4)))[:6]
        parts = [{name: paddle.to_tensor(value) for name, value in part.items()} for part in steps.parts_of(batch)]
        assert (len(parts) > 1) == (size == 8)
        steps.model.eval()  # no dropout

        class Optimization:
            def backward(self, loss):
                loss.backward()

        share = steps.backward_parts(parts, steps.loss_count(batch), Optimization())
        gradients.append((float(share), {name: p.grad.numpy() for name, p in steps.model.named_parameters()}))
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-6)
    for name, value in gradients[0][1].items():
        assert value == pytest.approx(gradients[1][1][name], abs=1e-5), name


def test_a_run_killed_and_resumed(documents, tiny_model, train, tmp_path):
    """Windows are drawn, so that the epoch must be known again."""
    same = ("--epochs", 3, "--batch_size", 4, "--long_texts", "windows", "--max_train_samples", 24)
    expected = train(documents, *same, save_dir=tmp_path / "whole")
    assert "training rows have more than 4 windows" in expected[1]
    folder, often = tmp_path / "killed", ("--save_minutes", 1e-9)
    process = start(documents, tiny_model, folder, *same, *often)
    log = read_until(process, "global step 9,")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    status, rest, _ = train(documents, *same, *often, "--resume", save_dir=folder)
    assert status == 0 and "resuming at step" in rest
    compare(log + rest, folder, expected)


def test_a_run_of_an_older_version_is_resumed(news, train, monkeypatch):
    from text_cls.neural import training

    with monkeypatch.context() as stopped:
        stopped.setattr(training.Trainer, "run_all", lambda *_: 1)
        _, _, folder = train(news)
    path = folder.with_name(f"{folder.name}_last") / "run.json"
    run = json.loads(path.read_text(encoding="utf-8"))
    for name in ("long_texts", "stride", "max_windows", "window_pooling", "average", "seeds", "tracker", "tracker_dir"):
        del run["arguments"][name]
    path.write_text(json.dumps(run), encoding="utf-8")
    status, log, _ = train(news, "--resume", "--long_texts", "windows")
    assert status == 2 and "--long_texts was cut, now it is windows" in log
    status, log, _ = train(news, "--resume")
    assert status == 0, log


@pytest.mark.parametrize("pooling", [MAX, LSE])
def test_the_classifier_is_fitted_to_pooled_logits(documents, learner, pooling):
    """Weights for windows, from labels of documents; of windows taken for documents, none would be as good."""
    labels = read_labels(str(documents / "label.txt"), Problems())
    rows = read_rows(str(documents / "train.txt"), labels, Problems())
    random = np.random.default_rng(0)
    vectors = random.normal(0, 1, (5, 16)).astype(np.float32)  # of each label's evidence, and of other windows
    counts, features = random.integers(1, 9, len(rows)), []
    gold = rows.multi_hot(4)
    for row, count in zip(gold, counts):
        count = max(count, row.sum())
        kinds = [*np.flatnonzero(row), *[4] * (count - row.sum())]
        features.append(vectors[random.permutation(kinds)] + random.normal(0, 0.3, (len(kinds), 16)).astype(np.float32))
    counts = np.array([*map(len, features)])
    features, rates = np.concatenate(features), label_rates(gold.sum(axis=0), len(gold))
    weight, bias = fit(features, gold, rates, counts=counts, pooling=pooling)
    found = pool(features @ weight + bias, counts, pooling) > 0
    assert (found == gold).mean() > 0.97


# --------------------------------------------------------------------------------------------------- the other scripts


def test_the_scripts_follow_the_checkpoint(documents, reader, run, tmp_path):
    where = ("--dataset_dir", documents, "--params_path", reader, "--device", "cpu")
    report = tmp_path / "report.json"
    status, log = run(evaluate.main, *where, "--report_file", report, "--bad_case_file", tmp_path / "bad.txt")
    assert status == 0, log
    assert json.loads(report.read_text(encoding="utf-8"))["macro"]["f1"] > 0.9
    status, log = run(predict.main, *where, "--output_file", tmp_path / "out.txt", "--scores")
    assert status == 0, log
    predicted = [set(line.split("\t")[1].split(",")) for line in lines_of(tmp_path / "out.txt")]
    gold = [set(line.split("\t")[1].split(",")) for line in lines_of(documents / "dev.txt")]
    assert np.mean([a == b for a, b in zip(predicted, gold)]) > 0.8


def test_another_reading_is_a_warning(documents, reader, run, tmp_path):
    where = (
        "--dataset_dir",
        documents,
        "--params_path",
        reader,
        "--device",
        "cpu",
        "--output_file",
        tmp_path / "o.txt",
    )
    status, log = run(predict.main, *where, "--long_texts", "cut")
    assert status == 0 and "--long_texts cut, while the model was trained with windows" in log
    status, log = run(predict.main, *where, "--long_texts", "cut", "--stride", 9)
    assert status == 2 and "--stride is for --long_texts windows; add that, or leave --stride out" in log
    status, log = run(predict.main, *where, "--stride", 31)
    assert status == 2 and "--stride 31: a window has at most 30 tokens of the text" in log
    status, log = run(predict.main, *where, "--stride", 15)
    assert status == 0, log


def test_flags_that_do_not_fit_are_refused(documents, train):
    status, log, _ = train(documents, "--window_pooling", "lse", "--max_windows", 9)
    assert status == 2 and "2 problems" in log
    assert "--max_windows is for --long_texts windows" in log and "--window_pooling is for" in log


def test_both_ends(documents, run, learner, tmp_path):
    """Learnt from documents whose evidence is in the last sentence."""
    data = tmp_path / "data"
    write_documents(data)
    for file in ("train.txt", "dev.txt"):
        rows = [line.split("\t") for line in lines_of(data / file)]
        lines = [f"{FILL * FAR}{''.join(EVIDENCE[name] for name in names.split(','))}\t{names}\n" for _, names in rows]
        (data / file).write_text("".join(lines), encoding="utf-8")
    folder = fine_tune(data, learner, tmp_path / "model", "--long_texts", "head_tail")
    assert max(entry["macro_f1"] for entry in history(folder)) > 0.9
    assert read_run(str(folder))["arguments"]["long_texts"] == "head_tail"


def test_pruning(documents, reader, run, tmp_path):
    """Each window is an input; documents are scored."""
    where = ("--params_dir", reader, "--dataset_dir", documents, "--output_dir", tmp_path / "prune", "--device", "cpu")
    flags = ("--width_mult_list", "1/2", "--num_train_epochs", 2, "--learning_rate", 1e-3, "--max_seq_length", LENGTH)
    status, log = run(prune.main, *where, *flags)
    assert status == 0, log
    whole, *_ = re.findall(r"macro f1 score: ([\d.]+)", log)
    assert float(whole) == pytest.approx(max(entry["macro_f1"] for entry in history(reader)), abs=1e-5)
    kept = re.search(r"Width 0.5, F1 .*: \S+, (\S+) with the trained .*; \S+, (\S+) with a fitted", log)
    assert max(map(float, kept.groups())) > 80


def test_features_of_a_document_are_the_mean_of_its_windows(documents, opened):
    texts = lines_of(documents / "data.txt")[:6]
    tokens = encode_long(texts, opened.tokenizer, opened.model, LENGTH, opened.long_texts)
    windows = predict_features(opened.model, tokens.tokens, 4)
    for i, found in enumerate(predict_features(opened.model, tokens, 4)):
        assert found == pytest.approx(windows[tokens.of([i])].mean(axis=0), abs=1e-6)
