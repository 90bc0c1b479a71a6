import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines

import sent_interpret as script

HEADS = ["text: ", "predict label: ", "label: ", "examples with positive influence"]
SUPPORT = re.compile(r"support(\d+) text: ([^\t]+)\tlabel: ([^\t]*)\tscore: (-?\d\.\d{5})")


@pytest.fixture
def interpret(run_on_copy):
    """interpret(task, *flags) -> (status, log, data set, blocks of the result)."""

    def call(task, *flags, edit=None, result="sent_interpret.txt"):
        status, log, copy = run_on_copy(script.main, task, *flags, edit=edit)
        return status, log, copy, blocks_of(copy / result) if (copy / result).exists() else None

    return call


def blocks_of(path):
    """[(text, prediction, labels, [(text, labels, score) of each support])], each line checked."""
    blocks = []
    for line in lines_of(path):
        if line.startswith(HEADS[0]):
            blocks.append([line])
        else:
            blocks[-1].append(line)
    result = []
    for block in blocks:
        assert [line[: len(head)] for line, head in zip(block, HEADS)] == HEADS and block[3] == HEADS[3]
        supports = [SUPPORT.fullmatch(line).groups() for line in block[4:]]
        assert [int(rank) for rank, *_ in supports] == list(range(1, len(supports) + 1))
        scores = [float(score) for *_, score in supports]
        assert scores == sorted(scores, reverse=True)
        result.append((*(line[len(head) :] for line, head in zip(block[:3], HEADS)), [s[1:] for s in supports]))
    return result


def evaluated(dataset):
    """Stands in for evaluate.py: two wrong rows."""
    rows = [line.split("\t") for line in lines_of(dataset / "dev.txt")]
    names = lines_of(dataset / "label.txt")
    cases = [f"{text}\t{labels}\t{names[0]}" for text, labels in [row for row in rows if len(row) == 2][:2]]
    write_lines(dataset / "bad_case.txt", ["Text\tLabel\tPrediction", *cases])


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_guides_block_for_each_bad_case(interpret, task):
    status, log, dataset, blocks = interpret(task, edit=evaluated)
    assert status == 0, log
    labels_of = dict(line.partition("\t")[::2] for line in lines_of(dataset / "train.txt"))
    cases = [line.split("\t") for line in lines_of(dataset / "bad_case.txt")[1:]]
    assert len(blocks) == 2
    for (text, prediction, labels, supports), case in zip(blocks, cases):
        assert (text, prediction) == (case[0], case[2]) and set(labels.split(",")) == set(case[1].split(","))
        assert len(supports) == 3
        for support, names, _ in supports:
            assert sorted(names.split(",")) == sorted(labels_of[support].split(","))
    assert f"Supports of 2 texts saved in {dataset / 'sent_interpret.txt'}" in log


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_supports_are_the_training_rows_with_the_highest_cosine(interpret, trained, task):
    """Computed another way: features of one text at a time, and every cosine."""
    from text_cls.cli import Problems
    from text_cls.neural.checkpoint import load_checkpoint, load_model
    from text_cls.neural.model import encode, predict_features

    def edit(dataset):
        evaluated(dataset)
        write_lines(dataset / "train.txt", lines_of(dataset / "train.txt")[:80])

    status, log, dataset, blocks = interpret(task, "--top_k", 5, "--batch_size", 7, edit=edit)
    assert status == 0, log
    model = str(trained[task][1])
    checkpoint = load_checkpoint(model, None, Problems())
    load_model(checkpoint, "cpu")

    def features(texts):
        encoded = [encode([text], checkpoint.tokenizer, checkpoint.model, 48) for text in texts]
        return np.concatenate([predict_features(checkpoint.model, one, 1) for one in encoded])

    train = [line.partition("\t")[0] for line in lines_of(dataset / "train.txt")]
    corpus, queries = features(train), features([block[0] for block in blocks])
    for query, (_, _, _, supports) in zip(queries, blocks):
        cosines = corpus @ query / np.linalg.norm(corpus, axis=1) / np.linalg.norm(query)
        best = np.sort(cosines)[::-1][:5]
        assert np.abs(best - [float(score) for *_, score in supports]).max() < 2e-5
        for text, _, score in supports:
            assert abs(cosines[train.index(text)] - float(score)) < 2e-5


def test_texts_without_a_prediction_are_predicted_by_the_model(interpret, run, trained, tmp_path):
    import predict

    def edit(dataset):
        write_lines(
            dataset / "mixed.txt", [*lines_of(dataset / "data.txt")[:5], "没有预测的一行\t体育赛事", "有的\t\t"]
        )

    flags = ("--interpret_input_file", "mixed.txt", "--interpret_result_file", "out.txt", "--top_k", 1)
    status, log, dataset, blocks = interpret("news", *flags, edit=edit, result="out.txt")
    assert status == 0, log
    assert not (dataset / "sent_interpret.txt").exists()
    where = ("--dataset_dir", dataset, "--params_path", trained["news"][1], "--device", "cpu")
    output = tmp_path / "predicted.txt"
    write_lines(dataset / "texts.txt", [block[0] for block in blocks])
    assert run(predict.main, *where, "--data_file", "texts.txt", "--output_file", output)[0] == 0
    predicted = [line.partition("\t")[2] for line in lines_of(output)]
    assert [block[1] for block in blocks[:6]] == predicted[:6] and any(predicted)
    assert [block[2] for block in blocks] == [""] * 5 + ["体育赛事", ""]
    assert blocks[6][1] == ""  # the file says that nothing was predicted


def hostile_rows(dataset):
    """Rows of every odd kind, in train and among the texts."""
    names = lines_of(dataset / "label.txt")
    texts = ["没有标签的一行", "很长" * 1000, "😀", '<script>alert("1")</script> & "引号"', "二十个标签"]
    labels = ["", names[0], names[0], names[1], ",".join(names[:20])]
    rows = [f"{text}\t{label}" if label else text for text, label in zip(texts, labels)]
    write_lines(dataset / "train.txt", [*rows, *lines_of(dataset / "train.txt")[:40]])
    write_lines(dataset / "bad_case.txt", [*rows, "没有的\t\t"])


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_odd_rows_and_rows_that_are_in_train_too(interpret, task):
    status, log, dataset, blocks = interpret(task, "--top_k", 100, edit=hostile_rows)
    assert status == 0, log
    assert len(blocks) == 6 and all(len(block[3]) == 45 for block in blocks)  # there are no more
    for text, _, labels, supports in blocks[:5]:
        itself = [support for support in supports if support[0] == text]
        assert itself and itself[0][2] == supports[0][2] == "1.00000" and set(itself[0][1]) == set(labels)
    assert "5 texts are also training rows (first: line 1)" in log


def test_missed_labels_that_no_support_has_are_counted(interpret):
    def edit(dataset):
        names = lines_of(dataset / "label.txt")
        write_lines(dataset / "train.txt", [f"某一行文字\t{names[0]}"] * 3)
        cases = [f"甲\t{names[0]}\t", f"乙\t{names[0]},{names[1]}\t{names[0]}", f"丙\t{names[0]}\t{names[0]}"]
        write_lines(dataset / "bad_case.txt", cases)

    status, log, _, _ = interpret("reviews", edit=edit)
    assert status == 0 and "The model missed labels of 2 texts; for 1 of these, a missed label is in no" in log


def test_the_page_has_the_rows_of_the_file(interpret, tmp_path):
    page = tmp_path / "page.html"
    status, log, dataset, blocks = interpret("news", "--html", page, edit=evaluated)
    assert status == 0 and f"Page saved in {page}" in log, log
    data = json.loads(re.search(r"^const DATA = (.*);$", page.read_text(encoding="utf-8"), re.M)[1])
    rows = {int(i): text for i, (_, text, _) in data["rows"].items()}
    shown = [(text, [rows[i] for i, _ in supports]) for _, text, _, supports, _ in data["cases"]]
    assert shown == [(text, [support for support, *_ in supports]) for text, _, _, supports in blocks]
    status, log, _, _ = interpret("news", "--html", tmp_path, edit=evaluated)
    assert status == 2 and f"{tmp_path} is a folder; name a file" in log


def test_from_the_root_and_from_inside(trained, tmp_path):
    dataset, model = trained["news"]
    shutil.copytree(dataset, tmp_path / "data")
    evaluated(tmp_path / "data")
    where = ["--dataset_dir", tmp_path / "data", "--params_path", model, "--device", "cpu"]
    for folder, command in (
        (".", ["analysis/sent_interpret.py", "--help"]),
        ("analysis", ["sent_interpret.py", *where]),
    ):
        answer = subprocess.run(
            command_line(*command), cwd=ROOT / folder, capture_output=True, text=True, encoding="utf-8"
        )
        assert answer.returncode == 0, answer.stderr
    assert len(blocks_of(tmp_path / "data" / "sent_interpret.txt")) == 2
    assert script.parse_args(["--dataset_dir", "data"]).params_path == str(ROOT / "checkpoint")


def test_all_problems_are_listed_together(interpret):
    def edit(dataset):
        write_lines(dataset / "train.txt", ["一\t体育赛事##夺官"])

    status, log, dataset, _ = interpret("news", "--device", "gpu", edit=edit)
    assert status == 2 and "4 problems" in log and "did you mean '体育赛事##夺冠'?" in log
    assert "use --device cpu" in log and "bad_case.txt: No such file" in log
    assert "run evaluate.py, which writes wrong rows to bad_case.txt" in log
    assert not (dataset / "sent_interpret.txt").exists()


def test_a_result_never_overwrites_an_input(interpret):
    status, log, dataset, _ = interpret("news", "--interpret_result_file", "train.txt", edit=evaluated)
    assert status == 2 and len(lines_of(dataset / "train.txt")) == 600
    assert "--interpret_result_file train.txt: this is also an input file and would be lost; name another" in log
