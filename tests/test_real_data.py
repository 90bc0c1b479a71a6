"""The pipeline on the two public sets of the guides. Their terms forbid passing them on, so they are not here."""

import pytest
from conftest import REAL_DATA, lines_of

import evaluate
import predict
from text_cls.cli import Problems
from text_cls.rows import read_labels, read_rows
from utils import describe_pair

SETS = {  # rows of train and dev, labels, and dev texts that are in train too
    "duee": (11958, 1498, 74, 1),
    "cail-divorce": (14377, 1611, 20, None),
}


@pytest.fixture(params=SETS)
def dataset(request):
    folder = REAL_DATA / request.param
    if not folder.exists():
        pytest.skip(f"{folder} does not exist; set TEXT_CLASSIFICATION_DATA to the folder of the public sets")
    return folder


def test_reading(dataset):
    train_size, dev_size, num_labels, shared = SETS[dataset.name]
    problems = Problems()
    labels = read_labels(str(dataset / "label.txt"), problems)
    train, dev = (read_rows(str(dataset / f"{split}.txt"), labels, problems) for split in ("train", "dev"))
    assert problems.messages == []
    assert (len(train), len(dev), len(labels)) == (train_size, dev_size, num_labels)
    assert labels.hierarchical == (dataset.name == "duee") and train.completed == dev.completed == 0
    if shared:
        assert f": {shared} rows have a text that is also in" in next(describe_pair(train, dev, labels))
    for part in (train, dev):  # the compact arrays give the file back
        for line, text, i in zip(lines_of(part.path), part.texts, range(len(part))):
            names = [labels.names[label] for label in part.labels_of(i)]
            assert line.partition("\t")[0].strip() == text
            assert sorted(line.partition("\t")[2].split(",")) == sorted(names)


def test_the_pipeline(dataset, run, train, tmp_path):
    status, log, checkpoint = train(dataset, "--max_train_samples", 640, "--max_seq_length", 64, "--logging_steps", 5)
    assert status == 0, log
    where = ("--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu")
    status, log = run(evaluate.main, *where, "--bad_case_file", tmp_path / "bad_case.txt")
    assert status == 0 and f"Dev dataset size: {SETS[dataset.name][1]}" in log
    assert ("Level 2 Label Performance" in log) == (dataset.name == "duee")
    status, log = run(predict.main, *where, "--data_file", "dev.txt", "--output_file", tmp_path / "out.txt")
    assert status == 0 and len(lines_of(tmp_path / "out.txt")) == SETS[dataset.name][1]
