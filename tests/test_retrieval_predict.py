import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, lines_of, load_script, write_lines

from text_cls import prediction
from text_cls.decision import Decision
from text_cls.label_tree import parent_ids, with_ancestors
from text_cls.search.label_scores import label_text

script = load_script("retrieval_based/predict.py")
encoder = load_script("retrieval_based/encoder.py")


@pytest.fixture
def predict(run, encoders, tmp_path):
    """predict(task, *flags) -> (status, log, lines of the output as lists of columns)."""

    def call(task, *flags, texts=None, model=None):
        dataset, checkpoint = encoders[task]
        output, path = tmp_path / "predicted.txt", dataset / "data.txt"
        output.unlink(missing_ok=True)
        if texts is not None:
            path = tmp_path / "texts.txt"
            write_lines(path, texts)
        where = ("--data_file", path, "--params_path", model or checkpoint, "--output_file", output, "--device", "cpu")
        status, log = run(script.main, *where, *flags)
        return status, log, [line.split("\t") for line in lines_of(output)] if output.exists() else None

    return call


def cosines(path, texts, others):
    embed = encoder.open_encoder(str(path), "cpu").embed
    return embed(texts) @ embed(others).T


def as_file(chosen, scores, names):
    """The two last columns of each row."""
    rows = zip(chosen, scores)
    return [
        [",".join(name for name, c in zip(names, row) if c), ",".join(f"{s:.5f}" for s in score[row])]
        for row, score in rows
    ]


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_labels_are_those_whose_text_is_near(predict, encoders, task):
    """By hand: labels whose cosine exceeds the threshold, and their ancestors; a parent scores as its best child."""
    dataset, model = encoders[task]
    names, texts = lines_of(dataset / "label.txt"), lines_of(dataset / "data.txt")
    status, log, rows = predict(task, "--scores", "--threshold", "0.6", "--min_k", "0", "--hierarchy", "closure")
    assert status == 0 and [row[0] for row in rows] == texts
    leaves = [name for name in names if not any(other.startswith(f"{name}##") for other in names)]
    near = cosines(model, texts, [label_text(name) for name in leaves])
    scores = np.stack(
        [near[:, [f"{leaf}##".startswith(f"{name}##") for leaf in leaves]].max(axis=1) for name in names], axis=1
    )
    chosen = with_ancestors(scores > 0.6, parent_ids(names))
    assert 0 < chosen.sum() < chosen.size
    for row, (labels, numbers) in zip(rows, as_file(chosen, scores, names)):
        assert row[1] == labels
        assert [float(x) for x in row[2].split(",") if x] == pytest.approx(
            [float(x) for x in numbers.split(",") if x], abs=2e-5
        )


def test_a_table_keeps_its_columns(predict, run, encoders, tmp_path):
    texts = lines_of(encoders["news"][0] / "data.txt")
    _, _, wanted = predict("news", "--scores")
    write_lines(tmp_path / "in.csv", ["id,text", *(f'00{i},"{text}"' for i, text in enumerate(texts))])
    files = ("--data_file", tmp_path / "in.csv", "--output_file", tmp_path / "out.tsv")
    status, log = run(script.main, *files, "--params_path", encoders["news"][1], "--device", "cpu")
    assert status == 0, log
    first, *rows = [line.split("\t") for line in lines_of(tmp_path / "out.tsv")]
    assert first == ["\ufeffid", "text", "labels", "scores"]
    assert rows == [[f"00{i}", *row] for i, row in enumerate(wanted)]


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_votes_of_training_rows(predict, encoders, task):
    """By hand: the share of each label's rows in the cosines of the 7 nearest rows with a label."""
    dataset, model = encoders[task]
    names, texts = lines_of(dataset / "label.txt"), lines_of(dataset / "data.txt")
    rows = [line.partition("\t") for line in lines_of(dataset / "train.txt")]
    rows = [(text, labels.split(",")) for text, _, labels in rows if labels]
    near = cosines(model, texts, [text for text, _ in rows])
    flags = ("--corpus_file", dataset / "train.txt", "--recall_num", "7", "--threshold", "0.3", "--min_k", "0")
    status, log, written = predict(task, *flags, "--hierarchy", "closure", "--scores")
    assert status == 0 and f"The 7 nearest of {len(rows)} entries ({dataset / 'train.txt'}) vote" in log
    for line, similar in zip(written, near):
        best = np.argsort(-similar, kind="stable")[:7]
        votes = {name: sum(similar[i] for i in best if name in rows[i][1]) / similar[best].sum() for name in names}
        assert line[1] == ",".join(name for name in names if votes[name] > 0.3)
        assert [float(x) for x in line[2].split(",") if x] == pytest.approx(
            [votes[name] for name in line[1].split(",") if name], abs=2e-5
        )
    assert predict(task, *flags, "--hierarchy", "closure", "--scores", "--vote")[2] == written
    status, log, rows = predict(task, *flags[:4], "--scores")  # without --threshold: more than half of the votes
    assert "a label needs more than half of the votes" in log
    assert rows == predict(task, *flags[:4], "--scores", "--threshold", "0.5")[2]
    assert "The 20 nearest of" in predict(task, *flags[:2])[1]
    _, log, nearest = predict(task, *flags, "--hierarchy", "closure", "--scores", "--no-vote")
    assert "are used" in log and nearest != written


def test_checkpoint_and_bundle_give_the_same_labels(predict, encoders, encoder_bundles):
    for task, (dataset, _) in encoders.items():
        for flags in ((), ("--corpus_file", dataset / "train.txt", "--vote"), ("--threshold", "0.4", "--top_k", "2")):
            status, _, trained = predict(task, *flags)
            assert status == 0 and predict(task, *flags, model=encoder_bundles[task])[2] == trained


def test_infer_gives_the_same_labels(predict, run, encoders, encoder_bundles, tmp_path):
    import infer

    for task, (dataset, _) in encoders.items():
        where = ["--model_path_prefix", encoder_bundles[task], "--input_file", dataset / "data.txt", "--device", "cpu"]
        assert run(infer.main, *where, "--output_file", tmp_path / "inferred.txt", "--scores")[0] == 0
        inferred = [line.split("\t") for line in lines_of(tmp_path / "inferred.txt")]
        assert inferred == predict(task, "--scores", model=encoder_bundles[task])[2]


def test_the_index_of_a_bundle_is_searched_with_its_own_settings(predict, run, encoders, encoder_bundles, tmp_path):
    """An index of training rows votes; a label that index.py added is predicted."""
    index = load_script("retrieval_based/index.py")
    dataset, _ = encoders["reviews"]
    bundle = tmp_path / "bundle"
    shutil.copytree(encoder_bundles["reviews"], bundle)
    train = dataset / "train.txt"
    flags = ("--corpus", "rows", "--corpus_file", train, "--neighbours", "9")
    assert run(index.main, "build", "--bundle", bundle, *flags)[0] == 0
    status, log, rows = predict("reviews", "--scores", model=bundle)
    wanted = predict("reviews", "--scores", "--corpus_file", train, "--recall_num", "9", model=bundle)
    assert status == 0 and "(the bundle's index) vote" in log and rows == wanted[2]

    assert run(index.main, "build", "--bundle", bundle, *flags, "--no-vote")[0] == 0
    assert "(the bundle's index) are used" in predict("reviews", model=bundle)[1]
    assert run(index.main, "build", "--bundle", bundle, *flags)[0] == 0

    text = "全新的一句话，谁也没见过"
    assert run(index.main, "add", "--bundle", bundle, "--label", "新标签", "--text", text)[0] == 0
    assert predict("reviews", "--recall_num", "1", texts=[text], model=bundle)[2] == [[text, "新标签"]]


def test_a_new_label_needs_no_training(predict, encoders, tmp_path):
    """With another label file, a new label is predicted for its own text, together with its parent."""
    dataset, model = encoders["news"]
    names = [*lines_of(dataset / "label.txt"), "天文", "天文##日食 & <月食>"]
    write_lines(tmp_path / "label.txt", names)
    flags = ("--corpus_file", tmp_path / "label.txt", "--recall_num", "1", "--hierarchy", "closure", "--min_k", "0")
    status, _, rows = predict("news", *flags, texts=["天文,日食 & <月食>"])
    assert status == 0 and rows == [["天文,日食 & <月食>", "天文,天文##日食 & <月食>"]]
    # Each threshold follows its label's name.
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    thresholds = np.linspace(0.1, 0.9, len(names) - 2)
    Decision(tuple(thresholds)).save(copy / "decision.json", names[:-2])
    write_lines(tmp_path / "label.txt", names[::-1][2:])  # in another order
    status, log, rows = predict("news", "--corpus_file", tmp_path / "label.txt", "--scores", model=copy)
    same = predict("news", "--scores", model=copy)[2]
    assert status == 0 and [sorted(row[1].split(",")) for row in rows] == [sorted(row[1].split(",")) for row in same]


def test_labels_with_children_have_entries_if_training_rows_end_at_them(predict, encoders, tmp_path):
    """Only the checkpoint knows them, whether the corpus is its own labels or a label file."""
    dataset, model = encoders["news"]
    names = lines_of(dataset / "label.txt")
    leaves = [name for name in names if not any(other.startswith(f"{name}##") for other in names)]
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    run = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    run["corpus"] = [*run["corpus"], "体育赛事"]
    (copy / "run.json").write_text(json.dumps(run), encoding="utf-8")
    for flags in ((), ("--corpus_file", dataset / "label.txt")):
        flags = (*flags, "--recall_num", "1", "--hierarchy", "closure", "--threshold", "0.99", "--min_k", "0")
        status, log, rows = predict("news", *flags, texts=["体育赛事"], model=copy)
        assert status == 0 and f"of {len(leaves) + 1} entries" in log and rows == [["体育赛事", "体育赛事"]]
        assert f"of {len(leaves)} entries" in predict("news", *flags, texts=["体育赛事"])[1]


def test_a_corpus_that_names_no_label_is_refused(predict, encoders, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(encoders["news"][1], copy)
    run = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    run["corpus"][3] = "体育赛跑"
    (copy / "run.json").write_text(json.dumps(run), encoding="utf-8")
    status, log, _ = predict("news", model=copy)
    assert status == 2 and f"{copy}/run.json: corpus names '体育赛跑', which label.txt does not; train again" in log


def test_the_size_of_a_window_makes_no_difference(predict, monkeypatch):
    whole = predict("news", "--scores")[2]
    monkeypatch.setattr(prediction, "WINDOW", 7)
    assert predict("news", "--scores")[2] == whole and len(whole) == 40


def test_any_text_is_labelled(predict):
    """Very long, emoji, HTML, one letter; blank lines stay blank, the labels of labelled rows are ignored."""
    texts = ["长" * 2000, "😀🚄", "<script>alert('x')</script> \"引号\"", "a", "", "带标签的行\t价格"]
    status, log, rows = predict("reviews", "--top_k", "2", texts=texts)
    assert status == 0 and [row[0] for row in rows] == [*texts[:5], "带标签的行"]
    assert [len(row[1].split(",")) for row in rows if row[0]] == [2] * 5 and rows[4] == ["", ""]
    assert predict("reviews", "--top_k", "2", "--skip_blank", texts=texts)[2] == rows[:4] + rows[5:]
    assert predict("reviews", "--threshold", "1", texts=texts[:1])[2] == [[texts[0], ""]]


def test_the_log_shows_the_predicted_labels(predict):
    log = predict("news", "--top_k", "3", texts=["上海地震"])[1]
    assert "text: 上海地震" in log and "level 2 : " in log and "3 labels" not in log
    log = predict("reviews", "--top_k", "3", texts=["房间很脏"])[1]
    assert "input data: 房间很脏" in log and "labels: " in log and "Prediction results save in" in log


def test_faults_are_listed_together(predict, run, encoders, tmp_path):
    dataset, model = encoders["reviews"]
    status, log, rows = predict("reviews", "--vote", "--top_k", "1", "--min_k", "1", texts=["a\tb\tc"])
    assert status == 2 and rows is None and "3 problems" in log and "--vote counts labelled rows" in log
    write_lines(tmp_path / "corpus.txt", ["没有标签\t"])
    status, log, _ = predict("reviews", "--corpus_file", tmp_path / "corpus.txt")
    assert status == 2 and "no row has a label" in log
    write_lines(tmp_path / "corpus.txt", ["x\t价客"])
    status, log, _ = predict("reviews", "--corpus_file", tmp_path / "corpus.txt")
    assert status == 2 and "corpus.txt:1: label '价客' is not in the label file" in log
    status, log, _ = predict("reviews", "--corpus_file", tmp_path / "none.txt")
    assert status == 2 and "No such file" in log and "Traceback" not in log
    status, log, _ = predict("reviews", model=tmp_path / "none")
    assert status == 2 and "retrieval_based/train.py" in log
    status, log = run(script.main, "--data_file", tmp_path / "none", "--params_path", model, "--device", "cpu")
    assert status == 2 and "No such file" in log
    status, log, _ = predict("reviews", "--max_seq_length", "5000")
    assert status == 2 and "5000" in log


def test_a_bundle_needs_no_paddle(encoder_bundles, tmp_path):
    """As a user types it, on a machine without PaddlePaddle and PaddleNLP."""
    write_lines(tmp_path / "texts.txt", ["房间很脏"])
    for name in ("paddle", "paddlenlp"):
        (tmp_path / "absent" / name).mkdir(parents=True)
        (tmp_path / "absent" / name / "__init__.py").write_text(
            f"raise ModuleNotFoundError('No module named {name}', name='{name}')", encoding="utf-8"
        )
    where = ["--params_path", encoder_bundles["reviews"], "--data_file", "texts.txt", "--output_file", "out.txt"]
    answer = subprocess.run(
        [sys.executable, ROOT / "retrieval_based" / "predict.py", *where, "--device", "cpu", "--top_k", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "absent")},
    )
    assert answer.returncode == 0, answer.stderr
    assert len(lines_of(tmp_path / "out.txt")[0].split("\t")) == 2


def test_scripts(learner, news, tmp_path):
    """The commands of scripts/, one after another, on the example data with a tiny model."""
    pytest.importorskip("milvus_lite", reason="Milvus Lite is not installed: pip install -r requirements/milvus.txt")
    (tmp_path / "work").mkdir()

    def sh(name, *flags, **variables):
        settings = {"PYTHON": sys.executable, "DATA": news, "DEVICE": "cpu", "MODEL": learner, **variables}
        answer = subprocess.run(
            ["sh", str(ROOT / "retrieval_based" / "scripts" / name), *flags],
            cwd=tmp_path / "work",
            env={**os.environ, **{key: str(value) for key, value in settings.items()}},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout + answer.stderr

    assert "The encoder is saved in checkpoint" in sh("train.sh", "--epochs", "1", "--max_seq_length", "32")
    sh("predict.sh", "--top_k", "2")
    assert len(lines_of(tmp_path / "work" / "predicted.txt")) == 12
    sh("export_model.sh")
    manifest = tmp_path / "work" / "output" / "manifest.json"
    assert json.loads(manifest.read_text(encoding="utf-8"))["corpus"] == "labels"
    bundle = {"CHECKPOINT": "output"}
    log = sh("run_build_index.sh", **bundle)
    assert "Recall result saved in recall_result_dir/recall_result.txt" in log
    assert "recall@50=100.000" in sh("evaluate.sh", **bundle) and (tmp_path / "work" / "result.tsv").exists()
    sh("run_build_index.sh", CORPUS=news / "train.txt", **bundle)
    assert "to have them vote" not in sh("evaluate.sh", "--vote", **bundle)
    sh("run.sh", CORPUS=news / "train.txt")
    assert json.loads(manifest.read_text(encoding="utf-8"))["corpus"] == "rows"
    sh("run.sh", MILVUS="milvus.db")
    assert json.loads(manifest.read_text(encoding="utf-8"))["index"]["kind"] == "milvus"
    sh("predict.sh", OUTPUT="again.txt", **bundle)
    assert len(lines_of(tmp_path / "work" / "again.txt")) == 12


def test_every_script_is_run_by_the_test_above():
    folder = ROOT / "retrieval_based" / "scripts"
    with open(__file__, encoding="utf-8") as file:
        source = file.read()
    names = [path.name for path in folder.iterdir()]
    assert names and all(f'sh("{name}"' in source for name in names)
    for path in folder.iterdir():
        assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n") and os.access(path, os.X_OK)
