import json
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, plain, write_lines

import predict as script
from text_cls import prediction
from text_cls.cli import Problems
from text_cls.neural.compat import import_paddle
from text_cls.rows import read_labels, read_rows

paddle = import_paddle()


@pytest.fixture
def predict(run, trained, tmp_path, monkeypatch):
    """predict(task, *flags) -> (status, log); in an empty folder, where output.txt would be written."""
    monkeypatch.chdir(tmp_path)

    def call(task, *flags):
        dataset, model = trained[task]
        return run(script.main, "--dataset_dir", dataset, "--params_path", model, "--device", "cpu", *flags)

    return call


def test_hierarchical_blocks(predict, trained, tmp_path):
    """As PaddleNLP's application logs them, and never a child without its parent."""
    status, log = predict("news")
    dataset, _ = trained["news"]
    assert status == 0 and list(tmp_path.iterdir()) == []
    lines, names = plain(log), set(lines_of(dataset / "label.txt"))
    texts = [line.removeprefix("text: ") for line in lines if line.startswith("text: ")]
    assert texts == lines_of(dataset / "data.txt")
    results = [line.removeprefix("prediction result: ") for line in lines if line.startswith("prediction result: ")]
    assert len(results) == len(texts) == lines.count("-" * 20) and any("##" in result for result in results)
    for result in results:
        labels = [name for name in result.split(",") if name]
        assert set(labels) <= names and all(name.rpartition("##")[0] in {*labels, ""} for name in labels)
    at = next(i for i, line in enumerate(lines) if line.startswith("prediction result: ") and line.count("##") == 1)
    leaf = next(name for name in lines[at].removeprefix("prediction result: ").split(",") if "##" in name)
    assert leaf.split("##")[0] in lines[at + 1] and lines[at + 1].startswith("level 1 : ")
    assert lines[at + 2] == f"level 2 : {leaf.split('##')[1]}"


def test_multi_label_writes_output_txt(predict, trained, tmp_path):
    status, log = predict("reviews")
    assert status == 0 and "Prediction results save in output.txt: 40 rows" in log
    dataset, _ = trained["reviews"]
    rows = [line.split("\t") for line in lines_of(tmp_path / "output.txt")]
    assert [row[0] for row in rows] == lines_of(dataset / "data.txt") and all(len(row) == 2 for row in rows)
    assert any(row[1] for row in rows)
    table = [line for line in plain(log) if " | " in line]
    assert len(table) == 10  # the rest is in the file
    assert [line.split(" | ", 1)[1] for line in table] == [row[0] for row in rows[:10]]


def test_the_texts_are_not_replaced_by_their_labels(predict, trained):
    data = trained["reviews"][0] / "data.txt"
    before = data.read_bytes()
    status, log = predict("reviews", "--output_file", data)
    assert status == 2 and "this is also an input file and would be lost; name another" in log
    assert data.read_bytes() == before


def test_rows_without_a_label_are_counted_with_a_remedy(predict):
    status, log = predict("reviews", "--threshold", 1)
    assert status == 0 and "40 of 40 rows have no label" in log and "--min_k 1 gives each row its best label" in log
    status, log = predict("reviews", "--threshold", 1, "--min_k", 1)
    assert status == 0 and "have no label" not in log


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_output_is_read_back_by_the_training_reader(predict, trained, tmp_path, task):
    output = tmp_path / "new" / "out.txt"
    status, _ = predict(task, "--output_file", output)
    dataset, _ = trained[task]
    problems = Problems()
    labels = read_labels(str(dataset / "label.txt"), problems)
    rows = read_rows(str(output), labels, problems)
    assert status == 0 and problems.count == 0 and len(rows) == 40 and rows.completed == 0
    assert len(rows.label_ids) > 0


def test_scores(predict, tmp_path):
    output = tmp_path / "out.txt"
    status, _ = predict("reviews", "--output_file", output, "--scores")
    rows = [line.split("\t") for line in lines_of(output)]
    assert status == 0 and all(len(row) == 3 for row in rows)
    for _, labels, scores in rows:
        assert labels.count(",") == scores.count(",") and bool(labels) == bool(scores)
        assert all(0.5 < float(score) <= 1 for score in scores.split(",") if score)


def test_rows_stay_in_order_across_windows_and_batches(predict, trained, tmp_path, monkeypatch):
    """Texts of every length, more than a window of them: each gets what it gets alone."""
    dataset, _ = trained["news"]
    texts = [text * (1 + i % 5) for i, text in enumerate(lines_of(dataset / "data.txt"))]
    write_lines(tmp_path / "many.txt", texts)
    monkeypatch.setattr(prediction, "WINDOW", 7)
    assert predict("news", "--data_file", tmp_path / "many.txt", "--output_file", "many.out", "--batch_size", 3)[0] == 0
    monkeypatch.setattr(prediction, "WINDOW", 1)
    assert predict("news", "--data_file", tmp_path / "many.txt", "--output_file", "alone.out")[0] == 0
    assert lines_of("many.out") == lines_of("alone.out")
    assert [line.partition("\t")[0] for line in lines_of("many.out")] == texts


def test_odd_texts(predict, tmp_path):
    """Emoji, control characters, 2,000 characters, special tokens as text; blank lines stay blank; labels ignored."""
    texts = ["😀🚀", "\x01\x02", "长" * 2000, "[SEP][PAD][MASK]", "ＡＢＣ１２３", "a" * 500]
    (tmp_path / "odd.txt").write_text("\n\n".join(texts) + "\n有标签的\t体育赛事\n", encoding="utf-8")
    status, log = predict("news", "--data_file", tmp_path / "odd.txt", "--output_file", "odd.out")
    assert status == 0, log
    rows = [line.split("\t") for line in lines_of("odd.out")]
    assert [row[0] for row in rows] == [word for text in texts for word in (text, "")][:-1] + ["有标签的"]
    assert rows[1:-1:2] == [["", ""]] * 5


def test_an_existing_output_is_replaced_whole_at_the_end(predict, tmp_path, monkeypatch):
    output = tmp_path / "out.txt"
    output.write_text("old\n", encoding="utf-8")
    real, calls = script.named_labels, []

    def fail_later(*args):
        calls.append(1)
        assert output.read_text(encoding="utf-8") == "old\n"
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(script, "named_labels", fail_later)
    monkeypatch.setattr(prediction, "WINDOW", 5)
    status, _ = predict("news", "--output_file", output)
    assert status == 130 and output.read_text(encoding="utf-8") == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
    monkeypatch.setattr(script, "named_labels", real)
    assert predict("news", "--output_file", output)[0] == 0 and len(lines_of(output)) == 40


def test_memory_does_not_grow_with_the_file(trained, tmp_path):
    """benchmarks/predict_memory.py does the same with 200,000 rows."""
    dataset, model = trained["news"]
    texts = lines_of(dataset / "train.txt")
    peaks = []
    for count in (2_000, 12_000):
        write_lines(tmp_path / "data.txt", [texts[i % 600].partition("\t")[0] + str(i) for i in range(count)])
        code = (
            "import resource, predict\n"
            f"status = predict.main(['--dataset_dir', {str(dataset)!r}, '--params_path', {str(model)!r}, '--device', "
            f"'cpu', '--data_file', {str(tmp_path / 'data.txt')!r}, '--output_file', {str(tmp_path / 'out')!r}])\n"
            "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        )
        answer = subprocess.run(command_line("-c", code), cwd=ROOT, capture_output=True, text=True, check=True)
        status, peak = map(int, answer.stdout.split())
        assert status == 0 and len(lines_of(tmp_path / "out")) == count
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0]


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.fixture
def copied(trained, tmp_path):
    """A data set and a checkpoint that a test may damage."""
    dataset, model = trained["news"]
    shutil.copytree(dataset, tmp_path / "data")
    shutil.copytree(model, tmp_path / "model")
    return tmp_path / "data", tmp_path / "model"


def on(run, copied, *flags):
    dataset, model = copied
    return run(script.main, "--dataset_dir", dataset, "--params_path", model, "--device", "cpu", *flags)


def test_all_faults_are_listed_together(run, copied):
    dataset, _ = copied
    write_lines(dataset / "label.txt", ["体育赛事", "新标签"])
    write_lines(dataset / "data.txt", ["一\t二\t三"])
    status, log = on(run, copied, "--device", "gpu")
    assert status == 2 and "3 problems, nothing was done:" in log and "use --device cpu" in log
    assert "is not the model's label file (also 新标签; not 灾害事故," in log and "To use the model's: cp " in log
    assert "data.txt:1: 2 tabs" in log


def test_labels_in_another_order(run, copied):
    dataset, model = copied
    write_lines(dataset / "label.txt", reversed(lines_of(dataset / "label.txt")))
    status, log = on(run, copied)
    assert status == 2 and "(the same labels in another order)" in log
    subprocess.run(["sh", "-c", log.strip().partition("To use the model's: ")[2]], check=True)
    assert on(run, copied)[0] == 0


def test_without_a_label_file_the_models_own_is_used(run, copied):
    dataset, _ = copied
    (dataset / "label.txt").unlink()
    assert on(run, copied)[0] == 0


def test_a_checkpoint_of_paddlenlps_application(run, copied, tmp_path):
    """Without label.txt, decision.json and run.json: the data set's labels, the threshold it always had, length 128."""
    dataset, model = copied
    on(run, copied, "--output_file", tmp_path / "new.txt", "--max_seq_length", 128)
    for name in ("label.txt", "decision.json", "run.json"):
        (model / name).unlink()
    status, log = on(run, copied, "--output_file", tmp_path / "old.txt")
    assert status == 0 and lines_of(tmp_path / "old.txt") == lines_of(tmp_path / "new.txt")
    write_lines(dataset / "label.txt", lines_of(dataset / "label.txt")[:-1])
    status, log = on(run, copied)
    assert status == 2 and "the model has 55 outputs, the label file 54 labels" in log
    (dataset / "label.txt").unlink()
    status, log = on(run, copied)
    assert status == 2 and "put the label file the model was trained with there" in log


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("decision.json", '{"version": 99}', "decision.json: version 99 is unknown"),
        ("decision.json", "half", "decision.json is damaged"),
        ("run.json", "half", "run.json is damaged"),
        ("config.json", "half", "config.json is damaged"),
        ("model_state.pdparams", "half", "is damaged (model_state.pdparams: its SHA-256 differs); train again, or"),
        ("vocab.txt", None, "is damaged (vocab.txt: missing); train again, or restore the folder from a backup"),
    ],
)
def test_a_damaged_checkpoint(run, copied, file, content, message):
    _, model = copied
    if content is None:
        (model / file).unlink()
    else:
        (model / file).write_text(content, encoding="utf-8")
    status, log = on(run, copied)
    assert status == 2 and message in log and "Traceback" not in log


def test_the_threshold_of_the_checkpoint_decides(run, copied, tmp_path):
    _, model = copied
    (model / "decision.json").write_text(json.dumps({"version": 1, "threshold": 0.0}), encoding="utf-8")
    status, _ = on(run, copied, "--output_file", tmp_path / "all.txt")
    assert status == 0 and all(row.count(",") == 54 for row in lines_of(tmp_path / "all.txt"))


def test_no_checkpoint(run, copied):
    shutil.rmtree(copied[1])
    status, log = on(run, copied)
    assert status == 2 and "does not exist; train first (python train.py ...)" in log


def test_no_texts(run, copied):
    write_lines(copied[0] / "data.txt", ["", "  "])
    status, log = on(run, copied)
    assert status == 2 and "data.txt: no texts; write one per line" in log
    (copied[0] / "data.txt").unlink()
    assert "data.txt: No such file or directory" in on(run, copied)[1]


def test_the_length_of_training_is_the_default_and_another_one_is_logged(predict, trained):
    _, model = trained["news"]
    assert "while the model was trained with" not in predict("news")[1]
    assert "--max_seq_length 16, while the model was trained with 48" in predict("news", "--max_seq_length", 16)[1]


def test_probabilities_are_the_dynamic_graphs(trained):
    """What is written is sigmoid of the model's logits, row by row without padding."""
    from text_cls.neural.checkpoint import load_model, open_checkpoint
    from text_cls.neural.model import encode, predict_probabilities

    dataset, model = trained["news"]
    checkpoint, length = open_checkpoint(str(model), str(dataset / "label.txt"), "cpu")
    load_model(checkpoint, "cpu")
    texts = lines_of(dataset / "data.txt")
    encoded = encode(texts, checkpoint.tokenizer, checkpoint.model, length)
    probabilities = predict_probabilities(checkpoint.model, encoded, 8)
    rows = prediction.named_labels(probabilities, checkpoint.labels, checkpoint.decision)
    for text, (names, scores) in zip(texts, rows, strict=True):
        tokens = checkpoint.tokenizer(text, max_length=length, truncation=True)
        logits = checkpoint.model(*(paddle.to_tensor([tokens[key]]) for key in ("input_ids", "token_type_ids")))
        p = 1 / (1 + np.exp(-logits.numpy()[0].astype(np.float64)))
        assert {checkpoint.labels.names[i] for i in np.flatnonzero(p > 0.5)} <= set(names)
        assert scores == pytest.approx([p[checkpoint.labels.index[name]] for name in names], abs=1e-5)


@pytest.mark.parametrize("script_name", ["predict.py", "infer.py"])
def test_flags_override_the_decision_and_the_log_says_so(run, trained, bundles, tmp_path, script_name):
    import infer

    dataset, model = trained["news"]

    def label(*flags):
        output = tmp_path / "out.txt"
        flags = ("--dataset_dir", dataset, "--device", "cpu", "--output_file", output, "--scores", *flags)
        if script_name == "predict.py":
            status, log = run(script.main, "--params_path", model, *flags)
        else:
            status, log = run(infer.main, "--model_path_prefix", bundles["news"], *flags)
        rows = [line.split("\t")[1:] for line in lines_of(output)] if status == 0 else []
        return status, log, [[names.split(",") if names else [] for names in row] for row in rows]

    status, log, plain_rows = label()
    assert status == 0 and "Decision:" not in log and any(not names for names, _ in plain_rows)
    status, log, rows = label("--min_k", "1")
    assert status == 0 and all(names for names, _ in rows)
    assert "Decision: min_k 1 by the command line (0 in decision.json)" in log
    assert all(row == plain_row for row, plain_row in zip(rows, plain_rows) if plain_row[0])
    _, log, rows = label("--threshold", "0.05", "--hierarchy", "one_per_level")
    assert "Decision: threshold 0.05" in log and "Decision: hierarchy one_per_level" in log
    for names, _ in rows:
        assert [name.count("##") for name in names] == list(range(len(names)))
        assert all(child.rpartition("##")[0] == parent for parent, child in zip(names, names[1:]))
    _, _, rows = label("--top_k", "3")
    assert all(len(names) == len(scores) == 3 for names, scores in rows)
    status, log, _ = label("--threshold", "7")
    assert status == 2 and "--threshold must be a number from 0 to 1, not 7.0" in log
