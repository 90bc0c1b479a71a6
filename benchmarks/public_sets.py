"""The public sets duee and cail-divorce: reading them, a linear baseline on their rows, and F1 in percent."""

import os

from metric import classification_report
from text_cls import linear_model
from text_cls.cli import Problems
from text_cls.rows import format_row, read_labels, read_rows
from text_cls.splitting import stratified_split

# Micro and macro F1 by the sets' own notes: TF-IDF of character 1-3-grams, one linear SVM per label, the same rows.
LINEAR = {"duee": (90.99, 81.75), "cail-divorce": (88.87, 72.54)}


def read_set(folder, *files):
    """The labels of a folder's label.txt, and the rows of each of its files."""
    problems = Problems()
    labels = read_labels(str(folder / "label.txt"), problems)
    rows = [read_rows(str(folder / file), labels, problems) for file in files]
    problems.stop_if_any()
    return labels, *rows


def hold_out(source, share, seed, folder):
    """Copies a set to a folder, with a share of its train.txt as held.txt; each label has that share in it."""
    labels, train = read_set(source, "train.txt")
    parts = stratified_split(train.multi_hot(len(labels)), train.texts, [1 - share, share], seed)
    for file, chosen in zip(("train.txt", "held.txt"), parts):
        write_rows(folder / file, train, chosen, labels)
    for file in ("dev.txt", "label.txt"):
        os.symlink(source / file, folder / file)


def write_rows(path, rows, chosen, labels):
    """Writes some of the rows, by their numbers, to a file."""
    lines = (format_row(rows.texts[i], labels.join_ids(rows.labels_of(i))) for i in chosen)
    path.write_text("".join(lines), encoding="utf-8")


def linear_predictions(texts, targets, new_texts):
    """bool array [new texts, labels]: what the linear baseline, trained on texts and targets, predicts by its SVMs."""
    model = linear_model.fit(list(texts), targets, calibrate=False)
    return model.scores(list(new_texts)) > 0


def micro_macro(gold, predicted, parents):
    """Micro and macro F1 in percent."""
    return percent(classification_report(gold, predicted, parents))


def percent(report):
    """Micro and macro F1 in percent of a report of metric.py."""
    return tuple(100 * report[average]["f1"] for average in ("micro", "macro"))
