"""text_cls/model_card.py and text_cls/card_facts.py"""

import re

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from text_cls.batching import Encoded
from text_cls.card_facts import CARD, changed_arguments, describe_data, describe_scores, facts_of, last_part, writing
from text_cls.card_usage import bundle_usage, checkpoint_usage
from text_cls.cross_fitting import intervals
from text_cls.decision import Decision
from text_cls.long_texts import LongTexts
from text_cls.model_card import ENCODER, MODEL, model_card
from text_cls.rows import Labels, Rows, Texts
from text_cls.scores import scores

OLD_RUN = {  # what versions without cards recorded
    "arguments": {"model_name": "/home/someone/models/bge", "metric_for_best": "macro_f1"},
    "data": {"train.txt": "ab" * 32},
    "progress": {
        "best_score": 0.5,
        "history": [
            {"macro_f1": 0.4, "micro_f1": 0.61, "accuracy": 0.2},
            {"macro_f1": 0.5, "micro_f1": 0.625, "accuracy": 0.25, "tuned_macro_f1": 0.55},
            {"macro_f1": 0.5, "micro_f1": 0.7, "accuracy": 0.3},
        ],
    },
}
FACTS = {
    "base_model": "BAAI/bge-small-zh",
    "changed": {"epochs": 3, "learning_rate": 1e-4, "early_stop": True, "warmup": False, "widths": ["3/4", "1/2"]},
    "data": {
        "train": {"file": "train.txt", "rows": 1200, "tokens": 38.4, "cut": 0.052},
        "dev": {"file": "no: it is | odd.txt", "rows": 30, "tokens": 40.0, "cut": 0.0},
    },
    "files": {"train.txt": "ab" * 32, "label.txt": "cd" * 32},
    "writing": {"CJK": 0.97, "LATIN": 0.03},
    "few": {"below": 2, "none": 1, "fewest": {"b`": 0, "a": 9}},
    "scores": {"dev": {"micro_f1": [0.5, 0.4, 0.6], "tuned_macro_f1": [0.25, 0.2, 0.3], "accuracy": [1.0, 1.0, 1.0]}},
    "decided": "the threshold 0.5; closure: labels above their threshold and all their ancestors",
    "seconds": 5400.0,
    "packages": {"paddlenlp": "2.8.1"},
    "python": "3.11.7",
    "commit": "abc+",
}


def card(names=("a", "a##b"), decision=None, facts=FACTS, computes=MODEL, how=None):
    header = {"library_name": "transformers", "tags": ["x", "y"]}
    labels, how = Labels(list(names)), how or LongTexts()
    return model_card(facts, labels, decision or Decision(), 48, how, header, "USAGE", computes, ["NOTE"])


def metadata(text):
    """The header of a card, as a reader of YAML finds it."""
    return yaml.safe_load(re.match("---\n(.*?\n)---\n", text, re.DOTALL)[1])


def test_the_metadata_is_hugging_faces():
    found = metadata(card())
    assert found["language"] == ["zh"] and found["pipeline_tag"] == "text-classification" and "license" not in found
    assert found["tags"] == ["x", "y", "multi-label-classification", "hierarchical-classification"]
    assert found["base_model"] == "BAAI/bge-small-zh" and found["metrics"] == ["f1", "accuracy"]
    (index,) = found["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {"type": "unknown", "name": "no: it is | odd.txt", "split": "validation"}
    values = [(metric["type"], metric["name"], metric["value"]) for metric in result["metrics"]]
    assert values == [
        ("f1", "micro F1", 0.5),
        ("f1", "macro F1, fitted thresholds", 0.25),
        ("accuracy", "accuracy", 1.0),
    ]


def test_hugging_faces_own_reader_finds_the_results():
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card()).data
    assert data.language == ["zh"] and data.base_model == "BAAI/bge-small-zh" and data.library_name == "transformers"
    found = [(result.dataset_split, result.metric_type, result.metric_value) for result in data.eval_results]
    assert found == [("validation", "f1", 0.5), ("validation", "f1", 0.25), ("validation", "accuracy", 1.0)]
    assert hub.ModelCard(card(facts={})).data.eval_results is None


@example("no")
@example("1.5")
@example("e5: 'x' #")
@example("\x7f\ufeff\u2028😀")
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_survives_yaml(name):
    data = {"dev": {"file": name, "rows": 1}}
    found = metadata(card(facts={"data": data, "scores": {"dev": {"micro_f1": [0.5]}}}))
    assert found["model-index"][0]["results"][0]["dataset"]["name"] == name


def test_the_text():
    text = card(("a", "a##b", "b`"))
    assert "It knows 3 labels in 2 levels: `a`, `a##b`, `` b` `` (all" in text and "at most 48 tokens" in text
    assert f"| `train.txt` | training | 1,200 | 38.4 | 5.2% | `{'ab' * 32}` |" in text
    assert "| `no: it is \\| odd.txt` | choosing the checkpoint | 30 | 40.0 | 0.0% | `unknown` |" in text
    assert f"| `label.txt` | the labels | | | | `{'cd' * 32}` |" in text
    assert "`--epochs 3 --learning_rate 0.0001 --early_stop --no-warmup --widths 3/4 1/2`; its other" in text
    assert "evaluation: 1.5 hours." in text and "paddlenlp 2.8.1, Python 3.11.7" in text
    assert "code: `abc` with changes that were not committed." in text
    assert "\n| rows | micro F1 | macro F1, fitted thresholds | accuracy |\n| --- |" in text
    assert "30 rows | 50.00 (40.00 to 60.00) | 25.00 (20.00 to 30.00) | 100.00 (100.00 to 100.00) |" in text
    assert (
        "2 of 3 labels have fewer than 10 training rows, 1 of them none. Expect little of them: `` b` `` (0), `a` (9)."
        in text
    )
    assert (
        "Chinese characters 97%, Latin letters 3%" in text and "that cuts 5.2% of the rows of `train.txt`, 0.0%" in text
    )
    assert "\nUSAGE\n" in text and "\n- NOTE\n" in text
    chinese = text[text.index("## 中文摘要") :]
    assert (
        "汉字 97%、拉丁字母 3%" in chinese and "40.00～60.00" in chinese and "2 个标签的训练样本少于 10 条" in chinese
    )
    assert "nearest vectors" in card(computes=ENCODER) and "nearest vectors" not in text


def test_how_long_texts_are_read():
    texts = [card(how=LongTexts(mode, max_windows=9, pooling="lse")) for mode in ("cut", "head_tail", "windows")]
    inputs = [re.search("- Input: (.*)", text)[1] for text in texts]
    assert inputs == [
        "a text of at most 48 tokens; what follows them is cut off.",
        "a text of at most 48 tokens; of a longer one, its beginning and its end.",
        "a text, read in windows of at most 48 tokens, whose logits are pooled (lse); at most 9 windows.",
    ]
    assert [re.search("Length: (.*) of a text", text)[1] for text in texts] == [
        "it reads 48 tokens",
        "it reads 48 tokens",
        "it reads 9 windows of 48 tokens",
    ]
    assert "超出部分被截断" in texts[0] and "只读开头和结尾" in texts[1] and "最多 9 个窗口" in texts[2]


def test_a_card_of_nothing_known():
    text = card(facts=facts_of({}))
    for line in (
        "Unknown.",
        "Base model: unknown.",
        "its arguments are unknown",
        "Versions: unknown.",
        "None are recorded.",
    ):
        assert line in text
    assert "Rows per label: unknown" in text and "how many rows that cuts is unknown" in text
    assert {"model-index", "metrics", "language", "base_model"}.isdisjoint(metadata(text))


def test_a_card_of_an_older_checkpoint():
    text = card(facts=facts_of(OLD_RUN))
    assert "\n| rows | micro F1 | macro F1 | accuracy | macro F1, fitted thresholds |\n" in text
    assert "| dev rows | 62.50 | 50.00 | 25.00 | 55.00 |" in text  # of the first with the best score: that was saved
    assert "bootstrap" not in text and f"| `train.txt` | unknown | | | | `{'ab' * 32}` |" in text
    assert "Base model: `bge`." in text and "someone" not in text and "base_model" not in metadata(text)


def test_scores_of_another_decision_are_named_as_such():
    assert "has changed since" not in card()
    text = card(decision=Decision((0.25, 0.75)))
    assert "The decision has changed since. These are the scores with the one before: the threshold 0.5;" in text


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
def test_of_a_path_the_last_part_is_shown(name, shown):
    assert last_part(name) == shown
    arguments = {"init_from_ckpt": name, "save_dir": name, "epochs": 3, "seed": 3}
    assert changed_arguments(arguments, {"init_from_ckpt": None, "save_dir": ".", "epochs": 10, "seed": 3}) == {
        "init_from_ckpt": shown,
        "epochs": 3,
    }


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (Decision(), "the threshold 0.5; closure: labels above"),
        (Decision((0.25, 0.75)), "a threshold per label, from 0.25 to 0.75"),
        (Decision(min_k=1, max_k=3), "the threshold 0.5; at least 1 label; at most 3 labels"),
        (Decision(none_below=0.1, temperature=2.0), "are below 0.1; logits divided by the temperature 2"),
        (Decision(hierarchy="one_per_level"), "one_per_level: a single path"),
    ],
)
def test_the_decision_in_words(decision, words):
    assert words in card(decision=decision)
    assert ("not calibrated" in card(decision=decision)) == (decision.temperature == 1)


@pytest.mark.parametrize(
    ("texts", "found", "languages"),
    [
        (["台风登陆，停课 2 天"], {"CJK": 1.0}, ["zh"]),
        (["Storm"], {"LATIN": 1.0}, None),
        (["台風が上陸した"], {"CJK": 0.57, "HIRAGANA": 0.43}, ["ja"]),
        (["123 …"], {}, None),
    ],
)
def test_the_writing_of_the_texts(texts, found, languages):
    assert writing(texts) == found
    assert metadata(card(facts={"writing": found})).get("language") == languages


def test_facts_about_the_rows_hold_none_of_their_texts():
    texts = Texts()
    for text in ("秘密一", "secret two", "third"):
        texts.append(text)
    texts.freeze()
    rows = Rows("x", texts, np.arange(3, dtype=np.int32), np.array([0, 1, 1], np.int32), np.array([0, 1, 2, 3]), 0, 0)
    tokens = Encoded({"input_ids": np.arange(9)}, np.array([0, 2, 5, 9]), {}, False, False, truncated=1)
    facts = describe_data(Labels(["a", "b", "c"]), {"train": rows}, {"train": tokens}, {"train": "/home/me/train.txt"})
    assert facts["data"] == {"train": {"file": "train.txt", "rows": 3, "tokens": 3.0, "cut": 0.3333}}
    assert facts["few"] == {"below": 3, "none": 1, "fewest": {"c": 0, "a": 1, "b": 2}}
    assert not list(CARD("card", facts))
    assert not re.search("秘密|secret|third|home", str(facts) + card(facts=facts))


def test_intervals_hold_the_score_of_labels_with_one_row():
    """Drawn rows lack a third of such labels; counted as 0, they would put the whole interval below the score."""
    gold = np.eye(40, dtype=bool)
    assert intervals(gold, gold, 3) == {"micro_f1": (1.0, 1.0), "macro_f1": (1.0, 1.0), "accuracy": (1.0, 1.0)}
    half = np.column_stack([gold, np.zeros((40, 40), bool)])  # as many labels again without a row, whose F1 is 0
    assert intervals(half, half, 3)["macro_f1"] == (0.5, 0.5)


def test_intervals_are_about_as_wide_as_theory_says():
    random = np.random.default_rng(1)
    gold = np.ones((400, 1), bool)
    predicted = random.random((400, 1)) < 0.7
    value, low, high = describe_scores(gold, predicted, 3)["accuracy"]
    error = 1.96 * np.sqrt(value * (1 - value) / 400)
    assert value == round(scores(gold, predicted)["accuracy"], 5)
    assert low == pytest.approx(value - error, abs=0.01) and high == pytest.approx(value + error, abs=0.01)


def test_the_commands_are_those_of_the_scripts(run):
    from conftest import load_script

    usages = [checkpoint_usage(kind, "ernie_m") for kind in ("classification", "retrieval", "prompt")]
    usages += [bundle_usage(kind) for kind in ("classification", "retrieval")]
    commands = re.findall(r"^python (\S+\.py) ?(.*)$", "\n".join(usages), re.MULTILINE)
    assert (
        len(commands) == 17
        and "--multilingual" in usages[0]
        and "--multilingual" not in checkpoint_usage("prompt", "ernie_m")
    )
    helps = {}
    for script, flags in commands:
        if script not in helps:
            verb = re.findall("^[a-z]+", flags)  # of index.py
            helps[script] = run(load_script(script).main, *verb, "--help")[1]
        assert set(re.findall(r"--\w+", flags)) <= set(re.findall(r"--\w+", helps[script])), script
