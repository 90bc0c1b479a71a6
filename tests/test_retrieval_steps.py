"""What a step of retrieval_based/train.py computes: batches of texts and labels, and the loss of their pairs."""

import numpy as np
import pytest
from conftest import lines_of
from hypothesis import given
from hypothesis import strategies as st

import retrieval_training
from encoder import load_encoder
from retrieval_training import in_batch_losses, label_sets, rows_of
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.neural.checkpoint import Checkpoint
from text_cls.neural.compat import import_paddle
from text_cls.neural.model import encode
from text_cls.neural.steps import Optimization
from text_cls.rows import read_labels, read_rows

paddle = import_paddle()


def brute_force(texts, labels, row, target, against, margin, scale):
    result = []
    for pair in range(len(row)):
        scores = {}
        for column in range(len(labels)):
            if against[pair, column]:
                cosine = float(texts[row[pair]] @ labels[column])
                scores[column] = scale * (cosine - margin if column == target[pair] else cosine)
        highest = max(scores.values())
        total = sum(np.exp(value - highest) for value in scores.values())
        result.append(highest + np.log(total) - scores[target[pair]])
    return result


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 5), st.integers(1, 8))
def test_the_loss_is_cross_entropy_among_what_a_pair_is_compared_with(seed, texts, labels, pairs):
    random = np.random.default_rng(seed)
    vectors = [random.normal(size=(n, 4)) for n in (texts, labels)]
    vectors = [(v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in vectors]
    row, target = random.integers(0, texts, pairs), random.integers(0, labels, pairs)
    against = random.random((pairs, labels)) < 0.6
    against[np.arange(pairs), target] = True
    found = in_batch_losses(*map(paddle.to_tensor, (*vectors, row, target, against)), 0.2, 30.0)
    assert found.numpy() == pytest.approx(brute_force(*vectors, row, target, against, 0.2, 30.0), abs=1e-3)


def steps_of(dataset, model, rows=None):
    """The steps of a fresh encoder. rows: {text: names of its labels}, to use instead of the file's."""
    problems = Problems()
    labels = read_labels(str(dataset / "label.txt"), problems)
    train = read_rows(str(dataset / "train.txt"), labels, problems)
    if rows is not None:
        train = rows_of({text: {labels.index[name] for name in names} for text, names in rows.items()}, "rows")
    options = retrieval_training.RetrievalOptions(device="cpu", max_seq_length=32, learning_rate=3e-3)
    encoder, tokenizer = load_encoder(str(model), 16)
    checkpoint = Checkpoint(encoder, tokenizer, labels, Decision(), {"corpus": labels.names})
    train = rows_of(label_sets(train), "rows")
    tokens = encode(train.texts, tokenizer, encoder, 32)
    corpus = retrieval_training.make_corpus(checkpoint, 32)
    return retrieval_training.RetrievalSteps(options, checkpoint, train, tokens, corpus)


def test_labels_of_a_text_are_not_negatives(news, tiny_model):
    """Other labels of the text, the parents of its labels, and the same label of another row."""
    rows = {
        "a": ["灾害事故", "灾害事故##地震", "灾害事故##洪涝"],
        "b": ["灾害事故", "灾害事故##地震"],
        "c": ["灾害事故"],
    }
    steps = steps_of(news, tiny_model, rows)
    names = steps.checkpoint.labels.names
    inputs = steps.inputs_of(np.arange(3))
    columns = sorted(names.index(name) for name in rows["a"])  # each label of the batch once, in the label file's order
    assert [names[i] for i in columns] == ["灾害事故", "灾害事故##地震", "灾害事故##洪涝"]
    assert len(inputs["text/input_ids"]) == 3 and len(inputs["label/input_ids"]) == 3
    pairs = [(int(row), names[columns[target]]) for row, target in zip(inputs["row"], inputs["target"])]
    assert pairs == [(0, "灾害事故##地震"), (0, "灾害事故##洪涝"), (1, "灾害事故##地震"), (2, "灾害事故")]
    assert inputs["against"].tolist() == [
        [False, True, False],  # the text's other label and their parent are left out
        [False, False, True],
        [False, True, True],  # 洪涝 is a true negative of b
        [True, True, True],  # c stops at the parent: its children are negatives
    ]
    assert steps.loss_count(np.arange(3)) == 4 and inputs["weight"].tolist() == [1, 1, 1, 1]


def test_the_label_texts_of_a_batch_are_those_of_paddlenlps_application(news, tiny_model):
    steps = steps_of(news, tiny_model, {"a": ["灾害事故", "灾害事故##地震"]})
    vocabulary = lines_of(tiny_model / "vocab.txt")
    tokens = [vocabulary[i] for i in steps.inputs_of(np.arange(1))["label/input_ids"][0]]
    assert "".join(tokens) == "[CLS]灾害事故,地震[SEP]".replace(",", "," if "," in vocabulary else "[UNK]")


def test_a_process_without_a_row_takes_part_with_weight_0(news, tiny_model):
    steps = steps_of(news, tiny_model, {"a": ["灾害事故"], "b": ["灾害事故", "灾害事故##地震"]})
    steps.rank, steps.world = 2, 3
    assert steps.inputs_of(np.arange(2))["weight"].tolist() == [0]


def test_steps_bring_texts_nearer_to_their_labels(news, tiny_model):
    steps = steps_of(news, tiny_model)
    steps.model.eval()
    batch = np.arange(6)

    optimization = Optimization(steps.model, steps.options, steps.total)

    def loss():
        inputs = {name: paddle.to_tensor(value) for name, value in steps.inputs_of(batch).items()}
        return steps.backward(inputs, steps.loss_count(batch), optimization)

    before = float(loss())
    for _ in range(5):
        optimization.update()
        after = float(loss())
    assert after < 0.7 * before
