"""text_cls/neural/model_card.py"""

import pytest

from text_cls.decision import Decision
from text_cls.neural.model_card import model_card
from text_cls.rows import Labels

RUN = {
    "arguments": {"model_name": "/home/someone/models/bge", "metric_for_best": "macro_f1"},
    "progress": {
        "best_score": 0.5,
        "history": [
            {"macro_f1": 0.4, "micro_f1": 0.61, "accuracy": 0.2},
            {"macro_f1": 0.5, "micro_f1": 0.625, "accuracy": 0.25, "tuned_macro_f1": 0.55},
            {"macro_f1": 0.5, "micro_f1": 0.7, "accuracy": 0.3},
        ],
    },
}


def card(names=("a", "a##b"), decision=None, run=RUN):
    header = {"library_name": "transformers", "tags": ["x", "y"]}
    return model_card(header, Labels(list(names)), decision or Decision(), run, 48, "USAGE", ["NOTE"])


def test_a_card():
    text = card()
    assert text.startswith("---\nlibrary_name: transformers\ntags:\n- x\n- y\n---\n\n# Hierarchical text classifier\n")
    assert "a set of 2 labels in 2 levels: `a`, `a##b` (all" in text and "at most 48 tokens" in text
    assert "\n| micro F1 | macro F1 | accuracy | macro F1, fitted thresholds |\n| --- |" in text
    assert "\n| 62.50 | 50.00 | 25.00 | 55.00 |\n" in text  # of the first with the best score: that was saved
    assert "\nUSAGE\n" in text and "\n- NOTE\n" in text
    assert "Fine-tuned from: `bge`." in text and "someone" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("ernie-3.0-medium-zh", "ernie-3.0-medium-zh"),
        ("BAAI/bge-small-zh", "BAAI/bge-small-zh"),
        ("./models/mine/", "mine"),
        (r"C:\models\mine", "mine"),
        ("models/secret/mine", "mine"),
    ],
)
def test_the_model_it_comes_from(name, shown):
    assert f"Fine-tuned from: `{shown}`." in card(run={"arguments": {"model_name": name}})


def test_a_card_without_a_run():
    text = card(run={})
    assert "None are recorded." in text and "Fine-tuned from" not in text


def test_the_language_is_stated_if_it_is_sure():
    assert "language" not in card(["a", "b"]) and "\nlanguage: zh\n" in card(["好", "b"])
    assert "# Multi-label text classifier\n\nIt assigns a text a set of 2 labels: `a`, `b` (all" in card(["a", "b"])


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision(), "the threshold 0.5; closure: labels above"),
        (Decision((0.25, 0.75)), "a threshold per label, from 0.25 to 0.75"),
        (Decision(min_k=1, max_k=3), "the threshold 0.5; at least 1 labels; at most 3 labels"),
        (Decision(none_below=0.1, temperature=2.0), "are below 0.1; logits divided by the temperature 2"),
        (Decision(hierarchy="one_per_level"), "one_per_level: a single path"),
    ],
)
def test_the_decision_in_words(decision, words):
    assert words in card(decision=decision)
