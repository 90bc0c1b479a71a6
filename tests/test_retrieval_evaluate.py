import json
import re
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, load_script, write_lines
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from text_cls.cli import Problems
from text_cls.rows import Labels, read_labels, read_rows
from text_cls.search.index import MISSING, Found
from text_cls.search.label_scores import deepest

script = load_script("retrieval_based/evaluate.py")
recall = load_script("retrieval_based/recall.py")
predict = load_script("retrieval_based/predict.py")

CUTOFFS = (1, 5, 10, 20, 50)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working directory, in which result.tsv is written."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def figures(log):
    """{name: percent} of what evaluate.py prints."""
    found = {name: float(value) for name, value in re.findall(r"^(recall@\d+|M\w+ f1 score)[=:] ?([\d.]+)$", log, re.M)}
    assert list(found) == [*(f"recall@{n}" for n in CUTOFFS), "Micro f1 score", "Macro f1 score"], log
    return found


def sets_of(path):
    """The label sets of a file's rows."""
    return [set(filter(None, line.split("\t")[1].split(","))) if "\t" in line else set() for line in lines_of(path)]


def ends(names):
    return {name for name in names if not any(other.startswith(f"{name}##") for other in names)}


def f1_of(gold, predicted, names):
    """Micro and macro F1 by scikit-learn, in percent."""
    arrays = [np.array([[name in row for name in names] for row in rows]) for rows in (gold, predicted)]
    return [100 * f1_score(*arrays, average=average, zero_division=0) for average in ("micro", "macro")]


@pytest.mark.parametrize("corpus", ["labels", "rows"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_recall_evaluate_and_predict_agree(run, encoders, work, task, corpus):
    """Figures of recall.py's file, of a search, by counting in the file, and by scikit-learn on predict.py's labels."""
    dataset, model = encoders[task]
    dev = dataset / "dev.txt"
    where = ["--params_path", model, "--device", "cpu", "--recall_num", 20]
    where += ["--corpus_file", dataset / "train.txt"] if corpus == "rows" else []
    vote = ["--vote"] if corpus == "rows" else []
    status, log = run(recall.main, "--similar_text_pair_file", dev, *where)
    assert status == 0 and "60 texts" in log
    result = work / "recall_result" / "recall_result_file"
    direct = run(script.main, "--similar_text_pair", dev, *where, *vote)
    filed = run(script.main, "--similar_text_pair", dev, "--recall_result_file", result, "--params_path", model, *vote)
    assert direct[0] == filed[0] == 0 and figures(direct[1]) == figures(filed[1])

    gold, names = sets_of(dev), lines_of(dataset / "label.txt")
    entries = [line.split("\t") for line in lines_of(result)]
    texts = [line.partition("\t")[0] for line in lines_of(dev)]
    k = len(entries) // len(texts)
    assert [entry[0] for entry in entries] == [text for text in texts for _ in range(k)] and k in (19, 20)
    for cutoff in CUTOFFS:
        shares = []
        for i, row in enumerate(gold):
            near = [ends(set(entry[1].split(","))) for entry in entries[i * k : i * k + min(k, cutoff)]]
            if row:
                shares.append(len(ends(row) & set().union(*near)) / len(ends(row)))
        assert figures(direct[1])[f"recall@{cutoff}"] == pytest.approx(100 * np.mean(shares), abs=1e-3)

    status, _ = run(predict.main, "--data_file", dev, *where, *vote, "--output_file", work / "predicted.txt")
    micro, macro = f1_of(gold, sets_of(work / "predicted.txt"), names)
    assert status == 0 and micro > 0
    assert figures(direct[1])["Micro f1 score"] == pytest.approx(micro, abs=1e-3)
    assert figures(direct[1])["Macro f1 score"] == pytest.approx(macro, abs=1e-3)


def test_evaluate_gives_the_score_of_training(run, encoders, work):
    from text_cls.neural.checkpoint import read_run

    for dataset, model in encoders.values():
        status, log = run(
            script.main, "--similar_text_pair", dataset / "dev.txt", "--params_path", model, "--device", "cpu"
        )
        best = read_run(str(model))["progress"]["best_score"]
        assert status == 0 and figures(log)["Macro f1 score"] == pytest.approx(100 * best, abs=1e-3)


def test_bundle_and_checkpoint_score_the_same(run, encoders, encoder_bundles, work):
    for task, (dataset, model) in encoders.items():
        answers = [
            run(script.main, "--similar_text_pair", dataset / "dev.txt", "--params_path", path, "--device", "cpu")
            for path in (model, encoder_bundles[task])
        ]
        assert answers[0][0] == answers[1][0] == 0 and figures(answers[0][1]) == figures(answers[1][1])


LABELS = ["体育", "体育##足球", "体育##网球", "财经", "none & <b>\"'😀"]
ROWS = ["梅西\t体育,体育##足球", "大盘\t财经", "无\t", "梅西\t体育,体育##网球", "网球赛\t体育,体育##网球"]


def write_case(folder, rows, near, labels=LABELS):
    """dev.txt, label.txt and result.txt: near has the (label, cosine) pairs of each row."""
    write_lines(folder / "label.txt", labels)
    write_lines(folder / "dev.txt", rows)
    texts = [row.partition("\t")[0] for row in rows]
    lines = [f"{text}\t{names}\t{cosine}" for text, pairs in zip(texts, near) for names, cosine in pairs]
    write_lines(folder / "result.txt", lines)
    return ["--similar_text_pair", folder / "dev.txt", "--recall_result_file", folder / "result.txt"]


NEAR = [
    [("体育##足球", 0.9), ("财经", 0.6)],
    [("体育##网球", 0.7), ("财经", 0.4)],
    [("财经", 0.3), ("体育##网球", 0.2)],
    [("体育##足球", 0.9), ("财经", 0.6)],
    [("财经", 0.8837513923645020), ("体育##网球", 0.2)],
]


def test_figures_by_hand(run, work):
    """The text 梅西 occurs twice with different labels, and both rows count; so does the last row."""
    case = write_case(work, ROWS, NEAR)
    status, log = run(script.main, *case, "--hierarchy", "closure", "--min_k", "0")
    assert status == 0 and "1 rows have no label" in log
    found = figures(log)
    # Rows with a label: found first, found second, no label, never found, found second.
    assert found["recall@1"] == 25 and found["recall@5"] == found["recall@50"] == 75
    predicted = [{"体育", "体育##足球", "财经"}, {"体育", "体育##网球"}, set(), {"体育", "体育##足球", "财经"}]
    predicted.append({"财经"})
    micro, macro = f1_of(sets_of(work / "dev.txt"), predicted, LABELS)
    assert [found["Micro f1 score"], found["Macro f1 score"]] == pytest.approx([micro, macro], abs=1e-3)
    # One path per row, the nearest one: the decision without a model.
    status, log = run(script.main, *case)
    assert "one_per_level" in log
    predicted = [{"体育", "体育##足球"}, {"体育", "体育##网球"}, {"财经"}, {"体育", "体育##足球"}, {"财经"}]
    micro, macro = f1_of(sets_of(work / "dev.txt"), predicted, LABELS)
    assert [figures(log)["Micro f1 score"], figures(log)["Macro f1 score"]] == pytest.approx([micro, macro], abs=1e-3)


def test_threshold_and_recall_num(run, work):
    """In PaddleNLP's application, the metric's own 0.5 made any threshold below it useless."""
    case = write_case(work, ["a\tx,y", "b\tz"], [[("x", 0.45), ("z", 0.2)], [("z", 0.3), ("y", 0.1)]], ["x", "y", "z"])
    f1 = [figures(run(script.main, *case, "--threshold", t)[1])["Micro f1 score"] for t in (0.5, 0.25, 0.15)]
    assert f1 == pytest.approx([0, 80, 200 / 3], abs=1e-3)
    status, log = run(script.main, *case, "--threshold", "0.15", "--recall_num", "1")
    assert (
        status == 0 and figures(log)["Micro f1 score"] == 80 and figures(log)["recall@50"] == figures(log)["recall@1"]
    )
    assert "Only 1 entries per text are known" in log


def test_recall_never_exceeds_one_and_no_query_is_dropped(run, work):
    """Training rows repeat their labels: PaddleNLP's application counted each of them, and lost the last query."""
    case = write_case(work, ["a\tx", "b\ty"], [[("x", 0.9)] * 7, [("x", 0.9)] * 6 + [("y", 0.8)]], ["x", "y"])
    status, log = run(script.main, *case)
    assert status == 0
    assert [figures(log)[f"recall@{n}"] for n in CUTOFFS] == [50, 50, 100, 100, 100]


def test_rows_of_many_labels_vote(run, work):
    """Entries of training rows have several labels: they vote only with --vote, and the log says so."""
    near = [[("x,y", 0.9), ("y", 0.6), ("z", 0.5)]]
    case = write_case(work, ["a\ty"], near, ["x", "y", "z"])
    status, log = run(script.main, *case)
    assert "to have them vote: --vote" in log and figures(log)["Micro f1 score"] == pytest.approx(200 / 3, abs=1e-3)
    status, log = run(script.main, *case, "--vote")  # x 0.45, y 0.75, z 0.25
    assert status == 0 and "to have them vote" not in log and figures(log)["Micro f1 score"] == 100


def test_a_line_of_the_figures_is_added_each_time(run, work):
    case = write_case(work, ROWS, NEAR)
    for _ in range(2):
        status, log = run(script.main, *case)
    lines = [line.split("\t") for line in lines_of(work / "result.tsv")]
    assert len(lines) == 2 and all(re.fullmatch(r"\d{8}-\d{6}", line[0]) for line in lines)
    assert [float(cell) for cell in lines[1][1:]] == list(figures(log).values())


def test_long_texts_emoji_and_twenty_labels(run, encoders, work):
    """Through recall.py and back; the same text occurs in consecutive rows, and again later."""
    dataset, model = encoders["reviews"]
    names = lines_of(dataset / "label.txt")
    long, odd = "很长的评论" * 400, '😀 "引号" <b>&\'\x0b\u2028'
    written = odd.replace("\x0b\u2028", " ")  # one space for what other readers take for line breaks
    rows = [
        f"{long}\t{','.join(names)}",
        f"{odd}x\t{names[0]}",
        f"{odd}x\t{names[1]}",
        odd + "y",
        f"{long}\t{names[2]}",
    ]
    write_lines(work / "dev.txt", rows)
    write_lines(work / "label.txt", names)
    where = ["--params_path", model, "--device", "cpu"]
    assert run(recall.main, "--similar_text_pair_file", work / "dev.txt", *where)[0] == 0
    file = work / "recall_result" / "recall_result_file"
    assert Counter(line.split("\t")[0] for line in lines_of_bytes(file)) == {
        long: 2 * len(names),
        f"{written}x": 2 * len(names),
        f"{written}y": len(names),
    }
    answers = [
        run(script.main, "--similar_text_pair", work / "dev.txt", *where),
        run(script.main, "--similar_text_pair", work / "dev.txt", "--recall_result_file", file, *where),
    ]
    assert [status for status, _ in answers] == [0, 0] and figures(answers[0][1]) == figures(answers[1][1])
    assert figures(answers[0][1])["recall@50"] == 100


def lines_of_bytes(path):
    """Lines as the project reads them: only \\n ends a line."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


texts = st.lists(st.sampled_from(["a", "b", "c c"]), min_size=1, max_size=8)


@given(st.data())
def test_any_result_is_read_back_row_by_row(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("result")
    each = data.draw(st.integers(1, 3))
    rows = data.draw(texts)
    of_text = {}  # equal texts find equal entries
    for text in rows:
        pair = st.tuples(st.sampled_from(["x", "y", "x,y"]), st.floats(-1, 1, width=32))
        of_text.setdefault(text, data.draw(st.lists(pair, min_size=each, max_size=each)))
    write_case(folder, rows, [of_text[text] for text in rows], ["x", "y"])
    labels = read_labels(str(folder / "label.txt"), Problems())
    read = read_rows(str(folder / "dev.txt"), labels, Problems())
    found = script.read_result(str(folder / "result.txt"), read, labels, Problems())
    assert found.labels == [[tuple(names.split(",")) for names, _ in of_text[text]] for text in rows]
    assert found.cosines.tolist() == [[cosine for _, cosine in of_text[text]] for text in rows]


def test_ids_of_what_is_found():
    labels = Labels(["a", "a##b", "c"])
    found = Found(np.zeros((2, 2), np.float32), [[("a", "a##b"), ("c", "gone")], [("a", "a##b", "c"), ()]])
    ids = script.found_ids(found, labels)
    assert ids.tolist() == [[[1, -1], [2, -1]], [[1, 2], [-1, -1]]]
    assert deepest(np.array([0, 1]), labels.parents).tolist() == [1]
    assert script.found_ids(Found(np.zeros((0, 2), np.float32), []), labels).shape[:2] == (0, 2)


def test_windows_with_different_numbers_of_entries_are_joined():
    parts = [Found(np.array([[0.5]], np.float32), [[("a",)]]), Found(np.zeros((1, 2), np.float32), [[("b",), ("c",)]])]
    found = script.joined(parts)
    assert found.cosines.tolist() == [[0.5, MISSING], [0, 0]] and found.labels == [[("a",), ()], [("b",), ("c",)]]


def test_faults_of_the_result_file(run, work):
    case = write_case(work, ROWS, NEAR)

    def answer(lines):
        write_lines(work / "result.txt", lines)
        status, log = run(script.main, *case)
        assert status == 2 and "Traceback" not in log
        return log

    good = lines_of(work / "result.txt")
    assert "result.txt:2: a line must be text<TAB>label,label<TAB>cosine" in answer([good[0], "体育\t0.5", *good[2:]])
    assert "result.txt:1: a line must be" in answer(["梅西\t体育\tnear", *good[1:]])
    assert "result.txt:1: a line must be" in answer(["梅西\t体育\tnan", *good[1:]])
    assert "label '' is not in the label file" in answer(["梅西\t\t0.5", *good[1:]])
    log = answer([line.replace("体育##足球", "体育##足毬") for line in good])
    assert "label '体育##足毬' is not in the label file" in log and "--label_path" in log
    log = answer(good[2:])
    assert "'大盘', but the next of the rows is '梅西'" in log and "run recall.py --similar_text_pair_file" in log
    assert "not all texts of" in answer(good[:-2]) and "not all texts of" in answer([])
    assert "more texts than" in answer([*good, "西甲\t体育\t0.5"])
    twice = write_case(work, ["a\tx", "a\tx"], [[("x", 1), ("y", 1)], [("x", 1)]], ["x", "y"])
    status, log = run(script.main, *twice)
    assert status == 2 and "3 entries for 2 rows of 'a'" in log
    assert not (work / "result.tsv").exists()


def test_recall_does_not_overwrite_its_input(run, encoders, work):
    dataset, model = encoders["news"]
    shutil.copy(dataset / "dev.txt", work)
    where = ["--similar_text_pair", work / "dev.txt", "--params_path", model, "--device", "cpu"]
    status, log = run(recall.main, *where, "--recall_result_dir", work, "--recall_result_file", "dev.txt")
    assert status == 2 and "this is also an input file and would be lost" in log
    assert lines_of(work / "dev.txt") == lines_of(dataset / "dev.txt")
    ignored = "--model_name_or_path x --output_emb_size 0 --hnsw_m 100 --hnsw_ef 100 --hnsw_max_elements 9".split()
    status, log = run(recall.main, *where, *ignored, "--recall_num", "2")
    assert status == 0 and "120 nearest entries of 60 texts" in log


def test_positions_that_an_approximate_search_leaves_empty(run, encoders, work, monkeypatch):
    """They get no line, and do not count in the figures."""
    dataset, model = encoders["news"]
    write_lines(work / "dev.txt", ["a\t体育赛事##夺冠", "b\t体育赛事##伤病"])
    shutil.copy(dataset / "label.txt", work)
    found = Found(np.array([[0.9, 0.8], [0.7, MISSING]], np.float32), [[("体育赛事##伤病",), ("体育赛事##夺冠",)]])
    found.labels.append([("体育赛事##伤病",), ()])
    monkeypatch.setattr(recall.Search, "find", lambda *_: found)
    where = ["--similar_text_pair", work / "dev.txt", "--params_path", model, "--device", "cpu"]
    assert run(recall.main, *where)[0] == 0
    file = work / "recall_result" / "recall_result_file"
    assert [line.split("\t")[0] for line in lines_of(file)] == ["a", "a", "b"]
    answers = [run(script.main, *where), run(script.main, *where, "--recall_result_file", file)]
    assert [figures(log)["recall@1"] for _, log in answers] == [50, 50]
    assert [figures(log)["recall@5"] for _, log in answers] == [100, 100]


def test_faults_of_arguments_and_data_are_listed_together(run, encoders, work):
    dataset, model = encoders["news"]
    status, log = run(script.main, "--similar_text_pair", work / "dev.txt")
    assert status == 2 and "--recall_result_file, which recall.py wrote, or a model, --params_path" in log
    write_case(work, ROWS, NEAR)
    status, log = run(script.main, "--similar_text_pair", "dev.txt", "--recall_result_file", "x", "--corpus_file", "y")
    assert status == 2 and "--corpus_file: the result file already has a corpus" in log
    shutil.copy(work / "dev.txt", work / "result.tsv")
    status, log = run(script.main, "--similar_text_pair", "result.tsv", "--recall_result_file", "result.txt")
    assert status == 2 and "this is also an input file and would be lost" in log
    shutil.copy(dataset / "dev.txt", work)
    write_lines(work / "dev.txt", [*lines_of(work / "dev.txt"), "x\ty\tz", "x\t体育赛事##夺官"])
    flags = ("--device", "cpu", "--vote", "--top_k", "1", "--max_k", "2", "--label_path", work / "label.txt")
    status, log = run(script.main, "--similar_text_pair", "dev.txt", "--params_path", model, *flags)
    assert status == 2 and "5 problems" in log and "--vote counts labelled rows" in log
    assert "did you mean '体育赛事##夺冠'?" in log and "2 tabs" in log and "leave out --min_k and --max_k" in log
    assert "is not the label file of the model and corpus" in log
    status, log = run(script.main, "--similar_text_pair", dataset / "dev.txt", "--params_path", work)
    assert status == 2 and "retrieval_based/train.py" in log


def test_a_classifier_is_refused(run, encoders, work):
    dataset, model = encoders["news"]
    shutil.copytree(model, work / "classifier")
    fields = json.loads((model / "run.json").read_text(encoding="utf-8"))
    (work / "classifier" / "run.json").write_text(json.dumps({**fields, "kind": "classification"}), encoding="utf-8")
    where = ["--similar_text_pair", dataset / "dev.txt", "--params_path", work / "classifier", "--device", "cpu"]
    status, log = run(script.main, *where)
    assert status == 2 and "holds a classification model" in log


@pytest.mark.parametrize("folder", [".", "retrieval_based"])
def test_from_the_root_and_from_inside(encoder_bundles, encoders, tmp_path, folder):
    """As a user types it, from either folder; standard output holds only the figures."""
    dataset, _ = encoders["news"]
    name = ROOT / "retrieval_based" / "evaluate.py" if folder == "." else "evaluate.py"
    where = ["--similar_text_pair", dataset / "dev.txt", "--params_path", encoder_bundles["news"], "--device", "cpu"]
    before = (ROOT / "retrieval_based" / "result.tsv").exists()
    answer = subprocess.run(
        command_line(name, *where),
        cwd=tmp_path if folder == "." else ROOT / folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if folder != "." and not before:
        (ROOT / "retrieval_based" / "result.tsv").unlink()
    assert answer.returncode == 0 and len(answer.stdout.splitlines()) == 7
    assert figures(answer.stdout)["recall@50"] == 100
