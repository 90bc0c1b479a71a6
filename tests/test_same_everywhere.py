"""A text gets the same labels on every path from checkpoint to served model, with a decision that uses every setting.

300 texts go through evaluate.py, predict.py, infer.py (ONNX Runtime), the HTTP server and Triton. The functions
`by_...` take a checkpoint or a bundle, and return a list of label names per row.
"""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REAL_DATA, lines_of, write_lines
from starlette.testclient import TestClient
from triton_server import names_and_scores, triton_server

import build_repository
import evaluate
import export_model
import infer
import predict
import settings
import train
from application import create_app
from metric import inconsistent_rows
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.rows import Labels, read_rows
from text_cls.serving.predictor import Predictor

ROWS, AT_ONCE = 300, 50


def succeed(main, *words):
    assert main([str(word) for word in words]) == 0


def label_lists(path):
    """The labels in a file of predict.py or infer.py."""
    return [[name for name in line.split("\t")[1].split(",") if name] for line in lines_of(path)]


def by_evaluate(checkpoint, dataset):
    """For the data set's dev file. Rows that are not in bad_case.txt were predicted as labelled."""
    succeed(evaluate.main, "--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu")
    wrong = {}
    for line in lines_of(dataset / "bad_case.txt")[1:]:
        text, _, predicted = line.split("\t")
        wrong[text] = predicted
    labels = Labels(lines_of(dataset / "label.txt"))
    rows = read_rows(str(dataset / "dev.txt"), labels, Problems())
    gold = map(labels.join, rows.multi_hot(len(labels)))
    return [[name for name in wrong.get(text, names).split(",") if name] for text, names in zip(rows.texts, gold)]


def by_predict(checkpoint, dataset, output):
    where = ("--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu", "--data_file", "dev.txt")
    succeed(predict.main, *where, "--output_file", output)
    return label_lists(output)


def by_infer(bundle, dataset, output):
    where = ("--model_path_prefix", bundle, "--input_file", dataset / "dev.txt", "--device", "cpu")
    succeed(infer.main, *where, "--output_file", output)
    return label_lists(output)


def by_http(bundle, texts):
    with TestClient(create_app(settings.parse_args(["--bundle", str(bundle), "--num_threads", "1"]))) as client:
        route = client.get("/info").json()["route"]
        answers = [
            client.post(route, json={"data": {"text": texts[start : start + AT_ONCE]}}).json()["result"]["label_name"]
            for start in range(0, len(texts), AT_ONCE)
        ]
    return [names for answer in answers for names in answer]


def by_triton(bundle, texts, folder):
    succeed(build_repository.main, "--bundle", bundle, "--output", folder / "models")
    with triton_server(folder / "models", folder / "log.txt") as server:
        return [
            names
            for start in range(0, len(texts), AT_ONCE)
            for names, _ in names_and_scores(server.infer("seqcls", texts[start : start + AT_ONCE]))
        ]


def everything(labels, hierarchy):
    """A decision whose every part matters; each label has its own threshold, from 0.1 to 0.5."""
    thresholds = np.random.default_rng(8).uniform(0.1, 0.5, labels).round(3)
    counts = {"min_k": 1, "max_k": 5, "none_below": 0.04}
    return Decision(tuple(thresholds.tolist()), **counts, temperature=1.7, hierarchy=hierarchy)


CASES = {
    "news": "best_set",
    "reviews": "closure",
    "duee": "top_down",
    "cail-divorce": "closure",  # texts of the public sets
    "linear": "best_set",  # train.py --model_name linear, on the data of "news"
}


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request, trained, learner, tmp_path_factory):
    """dataset (300 rows in dev.txt), texts, labels, checkpoint and bundle with one decision, labels by predict.py."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    dataset = folder / "data"
    if name == "linear":
        shutil.copytree(trained["news"][0], dataset)
        where = ("--dataset_dir", dataset, "--model_name", "linear", "--save_dir", folder / "checkpoint")
        succeed(train.main, *where)
        rows = [*lines_of(dataset / "dev.txt"), *lines_of(dataset / "train.txt")]
    elif name in trained:
        shutil.copytree(trained[name][0], dataset)
        shutil.copytree(trained[name][1], folder / "checkpoint")
        rows = [*lines_of(dataset / "dev.txt"), *lines_of(dataset / "train.txt")]
    else:
        if not (REAL_DATA / name).exists():
            pytest.skip(
                f"{REAL_DATA / name} does not exist; set TEXT_CLASSIFICATION_DATA to the folder of the public sets"
            )
        dataset.mkdir()
        shutil.copy(REAL_DATA / name / "label.txt", dataset)
        write_lines(dataset / "train.txt", lines_of(REAL_DATA / name / "train.txt")[:1000])
        rows = lines_of(REAL_DATA / name / "dev.txt")
        write_lines(dataset / "dev.txt", rows[:60])
        where = ("--dataset_dir", dataset, "--model_name", learner, "--save_dir", folder / "checkpoint")
        flags = "--device cpu --max_seq_length 64 --epochs 4 --learning_rate 5e-3 --batch_size 16 --logging_steps 1000"
        succeed(train.main, *where, *flags.split())
    labels = Labels(lines_of(dataset / "label.txt"))
    rows = [line.partition("\t") for line in rows[:ROWS]]
    write_lines(dataset / "dev.txt", [f"{text.strip()}\t{names}" for text, _, names in rows])
    everything(len(labels), CASES[name]).save(folder / "checkpoint" / "decision.json", labels.names)
    bundle = folder / "export"
    succeed(export_model.main, "--params_path", folder / "checkpoint", "--output_path", bundle)
    texts = [text.strip() for text, _, _ in rows]
    expected = by_predict(folder / "checkpoint", dataset, folder / "predicted.txt")
    return SimpleNamespace(
        dataset=dataset,
        texts=texts,
        labels=labels,
        checkpoint=folder / "checkpoint",
        bundle=bundle,
        expected=expected,
    )


def test_the_decision_shows(case):
    """Otherwise the other tests would show little: label sets differ from those by 0.5, and have several sizes."""
    predictor = Predictor(str(case.bundle), num_threads=1)
    predictor.decision = Decision()
    plain = [names for names, _ in predictor.predict(case.texts)]
    assert len(case.expected) == len(plain) == ROWS
    assert sum(ours != theirs for ours, theirs in zip(case.expected, plain)) > ROWS / 10
    sizes = {len(names) for names in case.expected}
    assert len(sizes) > 1 and max(sizes) <= 5
    predicted = np.array([[name in names for name in case.labels.names] for names in case.expected])
    assert inconsistent_rows(predicted, case.labels.parents) == 0


def test_files_and_http(case, tmp_path):
    assert by_evaluate(case.checkpoint, case.dataset) == case.expected
    assert by_infer(case.bundle, case.dataset, tmp_path / "onnx.txt") == case.expected
    assert by_http(case.bundle, case.texts) == case.expected


def test_triton(case, triton, tmp_path):
    assert by_triton(case.bundle, case.texts, tmp_path) == case.expected
