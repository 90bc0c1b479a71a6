import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, command_line, lines_of, plain, write_lines

import evaluate as script
from text_cls.decision import Decision

NUMBER = r"\d+\.\d\d"
HEAD = [
    r"-----Evaluate model-------",
    r"Dev dataset size: 60",
    rf"Accuracy in dev dataset: {NUMBER}%",
    rf"Macro avg in dev dataset: precision: {NUMBER} \| recall: {NUMBER} \| F1 score {NUMBER}",
    rf"Micro avg in dev dataset: precision: {NUMBER} \| recall: {NUMBER} \| F1 score {NUMBER}",
]
LEVEL = rf"Level {{}} Label Performance: Macro F1 score: {NUMBER} \| Micro F1 score: {NUMBER} \| Accuracy: {NUMBER}"

HIERARCHY = [
    rf"Hierarchical avg in dev dataset: precision: {NUMBER} \| recall: {NUMBER} \| F1 score {NUMBER}",
    rf"Complete paths in dev dataset: precision: {NUMBER} \| recall: {NUMBER} \| F1 score {NUMBER}",
    rf"\d+ missed paths, on average {NUMBER} edges from the nearest predicted one: \d+ at \d(, \d+ at \d)*",
    rf"\d+ wrong paths, on average {NUMBER} edges from the nearest gold one: \d+ at \d(, \d+ at \d)*",
    r"Rows with a label whose parent is missing: \d+ by thresholds only, 0 as decided",
]


@pytest.mark.parametrize(("task", "levels"), [("news", 3), ("reviews", 0)])
def test_the_guides_lines_in_the_guides_order(evaluate, task, levels):
    status, log, dataset = evaluate(task)
    assert status == 0
    lines = plain(log)
    lines = lines[lines.index("-----Evaluate model-------") :]
    expected = HEAD + [LEVEL.format(level) for level in range(1, levels + 1)]
    for name in lines_of(dataset / "label.txt"):
        expected.append(re.escape(f"Class name: {name}"))
        expected.append(
            rf"Evaluation examples in dev dataset: \d+\(\d+\.\d%\) \| precision: {NUMBER} \| recall: {NUMBER} \| "
            rf"F1 score {NUMBER}"
        )
        expected.append("-{28}")
    if levels:
        expected += HIERARCHY
    expected.append(re.escape(f"Bad case in dev dataset saved in {dataset / 'bad_case.txt'}"))
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected):
        assert re.fullmatch(pattern, line), (line, pattern)


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_report_and_bad_cases_agree_with_what_predict_writes(evaluate, run, trained, tmp_path, task):
    """Gold and prediction from elsewhere: the file itself, and predict.py on the same texts."""
    import predict

    report_file = tmp_path / "report.json"
    status, log, dataset = evaluate(task, "--report_file", report_file)
    assert status == 0 and f"Report saved in {report_file}" in log
    report = json.loads(report_file.read_text(encoding="utf-8"))
    _, model = trained[task]
    where = ("--dataset_dir", dataset, "--params_path", model, "--device", "cpu", "--data_file", "dev.txt")
    assert run(predict.main, *where, "--output_file", tmp_path / "predicted.txt")[0] == 0
    gold = [line.partition("\t")[2].split(",") for line in lines_of(dataset / "dev.txt")]
    predicted = [line.partition("\t")[2].split(",") for line in lines_of(tmp_path / "predicted.txt")]
    gold, predicted = ([{n for n in names if n} for names in rows] for rows in (gold, predicted))
    assert report["rows"] == len(gold) == len(predicted)
    assert report["accuracy"] == pytest.approx(sum(map(set.__eq__, gold, predicted)) / len(gold))
    shared, found, wanted = (sum(map(len, rows)) for rows in (map(set.__and__, gold, predicted), predicted, gold))
    assert report["micro"]["f1"] == pytest.approx(2 * shared / (found + wanted)) and shared > 0
    names = lines_of(dataset / "label.txt")
    assert [entry["label"] for entry in report["per_class"]] == names
    assert [entry["support"] for entry in report["per_class"]] == [sum(n in row for row in gold) for n in names]
    assert report["macro"]["f1"] == pytest.approx(sum(e["f1"] for e in report["per_class"]) / len(names))
    assert ("levels" in report) == ("paths" in report) == ("inconsistent_rows" in report) == (task == "news")
    if task == "news":
        ends = [
            [{n for n in row if not any(m.startswith(f"{n}##") for m in row)} for row in s] for s in (gold, predicted)
        ]
        paths, right = report["paths"], sum(len(g & p) for g, p in zip(*ends))
        sizes = [sum(map(len, side)) for side in ends]
        assert [paths["gold"], paths["predicted"], paths["right"]] == [*sizes, right] and right > 0
        assert [paths["missed"]["count"], paths["wrong"]["count"]] == [size - right for size in sizes]
        assert report["inconsistent_rows"]["as_decided"] == 0

    header, *rows = [line.split("\t") for line in lines_of(dataset / "bad_case.txt")]
    assert header == ["Text", "Label", "Prediction"]
    texts = [line.partition("\t")[0] for line in lines_of(dataset / "dev.txt")]
    wrong = [i for i in range(len(gold)) if gold[i] != predicted[i]]
    assert [row[0] for row in rows] == [texts[i] for i in wrong]
    for row, i in zip(rows, wrong):
        assert {n for n in row[1].split(",") if n} == gold[i] and {n for n in row[2].split(",") if n} == predicted[i]


def test_sets_that_the_thresholds_alone_leave_without_a_parent(evaluate, trained, tmp_path):
    """Parents that hardly ever pass and children that nearly always do; the decision adds all parents."""
    dataset, model = trained["news"]
    shutil.copytree(model, tmp_path / "model")
    names = lines_of(dataset / "label.txt")
    Decision(threshold=tuple(0.01 if "##" in name else 0.99 for name in names)).save(
        tmp_path / "model/decision.json", names
    )
    report_file = tmp_path / "report.json"
    status, log, _ = evaluate("news", "--params_path", tmp_path / "model", "--report_file", report_file)
    rows = json.loads(report_file.read_text(encoding="utf-8"))["inconsistent_rows"]
    assert status == 0 and rows["by_thresholds"] > 30 and rows["as_decided"] == 0
    assert f"parent is missing: {rows['by_thresholds']} by thresholds only, 0 as decided" in log


def test_any_labelled_file(evaluate):
    def edit(dataset):
        write_lines(dataset / "more.txt", lines_of(dataset / "train.txt")[:20])

    status, log, dataset = evaluate("news", "--dev_file", "more.txt", "--bad_case_file", "wrong.txt", edit=edit)
    assert status == 0 and "Dev dataset size: 20" in log and (dataset / "wrong.txt").exists()
    assert not (dataset / "bad_case.txt").exists()


def test_rows_without_labels(evaluate):
    """PaddleNLP's application crashes on them when it scores levels."""

    def edit(dataset):
        write_lines(dataset / "dev.txt", ["没有任何事件的一行", *lines_of(dataset / "dev.txt")[:5]])

    status, log, _ = evaluate("news", edit=edit)
    assert status == 0 and "Dev dataset size: 6" in log


@pytest.mark.parametrize("folder", [".", "analysis"])
def test_from_the_root_and_from_inside(trained, tmp_path, folder):
    """As a user types it, from either folder; --params_path by default is the project's checkpoint/ in both."""
    dataset, model = trained["news"]
    shutil.copytree(dataset, tmp_path / "data")
    name = "analysis/evaluate.py" if folder == "." else "evaluate.py"
    where = ["--dataset_dir", tmp_path / "data", "--params_path", model]
    answer = subprocess.run(
        command_line(name, *where, "--device", "cpu"),
        cwd=ROOT / folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert answer.returncode == 0 and "Micro avg in dev dataset" in answer.stderr
    assert script.parse_args(["--dataset_dir", "data"]).params_path == str(ROOT / "checkpoint")


def test_faults(evaluate):
    def edit(dataset):
        write_lines(dataset / "dev.txt", ["一\t体育赛事##夺官", "二\t三\t四"])

    status, log, _ = evaluate("news", "--device", "gpu", edit=edit)
    assert status == 2 and "3 problems" in log and "did you mean '体育赛事##夺冠'?" in log and "use --device cpu" in log
