"""The example data are what data/README.md says they are."""

import re

import pytest
from conftest import ROOT, lines_of

import make_examples
from text_cls.cli import Problems
from text_cls.label_tree import depths
from text_cls.rows import read_labels, read_rows
from utils import describe_pair

DATA = {"hierarchical": ROOT / "data", "multi_label": ROOT / "data" / "multi_label"}


def load(task):
    problems = Problems()
    labels = read_labels(str(DATA[task] / "label.txt"), problems)
    rows = {split: read_rows(str(DATA[task] / f"{split}.txt"), labels, problems) for split in ("train", "dev", "test")}
    assert problems.messages == []
    return labels, rows


def leaves(labels):
    return [i for i in range(len(labels)) if i not in set(labels.parents.tolist())]


def test_hierarchical_labels():
    labels, rows = load("hierarchical")
    level = depths(labels.parents)
    assert (level == 1).sum() >= 8 and len(leaves(labels)) >= 30 and level.max() == 3
    for part in rows.values():
        paths = [len([i for i in leaves(labels) if i in part.labels_of(row)]) for row in range(len(part))]
        assert sum(count > 1 for count in paths) >= len(part) / 10  # one row in ten has more than one path


@pytest.mark.parametrize("task", DATA)
def test_sizes_lengths_and_labels(task):
    labels, rows = load(task)
    assert len(rows["train"]) == 2000 and len(rows["dev"]) >= 250 and len(rows["test"]) >= 250
    assert task == "hierarchical" or len(labels) >= 15
    for part in rows.values():
        assert all(8 <= len(text) <= 120 for text in part.texts) and part.completed == 0 and part.blank == 0
        assert (part.support(len(labels)) > 0).all()
        assert len(set(part.texts)) == len(part)
    texts = lines_of(DATA[task] / "data.txt")
    assert len(texts) >= 50 and not any("\t" in text for text in texts)


@pytest.mark.parametrize("task", DATA)
def test_dev_and_test_share_no_template_with_train(task):
    """No row is made by a template, and none has 14 characters in a row that a template has."""
    labels, rows = load(task)
    _, templates = make_examples.read_templates(ROOT / "data" / "templates" / f"{task}.txt")
    pieces, patterns = set(), []
    for template in (t for group in templates.values() for t in group):
        literal = re.split(r"\{[^{}]*\}|[()|]", template)
        pieces.update(piece[i : i + 14] for piece in literal for i in range(len(piece) - 13))
        if len("".join(literal)) >= 8:
            parts = (re.escape(part) for part in re.split(r"\{[^{}]*\}|\([^()]*\)", template))
            patterns.append(re.compile(".{0,30}".join(parts)))
    for split in ("dev", "test"):
        for text in rows[split].texts:
            assert not any(text[i : i + 14] in pieces for i in range(len(text))), text
            assert not any(pattern.fullmatch(text) for pattern in patterns), text
    assert not list(describe_pair(rows["train"], rows["dev"], labels))
    assert not set(rows["dev"].texts) & set(rows["test"].texts)


def test_training_rows_are_what_the_generator_makes(run, tmp_path):
    assert run(make_examples.main, "--output_dir", tmp_path)[0] == 0
    for name in ("train.txt", "multi_label/train.txt"):
        assert (tmp_path / name).read_bytes() == (ROOT / "data" / name).read_bytes()
