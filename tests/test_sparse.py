import functools
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, write_lines
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import augmentation
import sparse as script
from sparse import choose_supports, least_supported
from text_cls.cli import UserError

FEW = ("--sparse_num", 10, "--support_num", 8)


@pytest.fixture
def sparse(run_on_copy):
    """sparse(task, *flags) -> (status, log, data set)."""
    return functools.partial(run_on_copy, script.main)


def pairs(path):
    return [line.partition("\t")[::2] for line in lines_of(path)]


def label_sets(path):
    return [(text, set(names.split(",")) - {""}) for text, names in pairs(path)]


def features_of(trained, task, texts):
    """Features computed another way: one text at a time."""
    from text_cls.cli import Problems
    from text_cls.neural.checkpoint import load_checkpoint, load_model
    from text_cls.neural.model import encode, predict_features

    model = str(trained[task][1])
    checkpoint = load_checkpoint(model, None, Problems())
    load_model(checkpoint, "cpu")
    encoded = [encode([text], checkpoint.tokenizer, checkpoint.model, 48) for text in texts]
    features = np.concatenate([predict_features(checkpoint.model, one, 1) for one in encoded])
    return features / np.linalg.norm(features, axis=1, keepdims=True)


# -------------------------------------------------------------------------------------------------------------- choice


def test_least_supported_are_those_of_the_lowest_mean():
    scores = np.array([[0.9, 0.8], [0.5, 0.3], [0.6, 0.2], [0.9, 0.9]])
    rows, means = least_supported(scores, 3)
    assert rows.tolist() == [1, 2, 0] and np.allclose(means, [0.85, 0.4, 0.4, 0.9])


def test_supports_are_taken_rank_by_rank():
    scores = np.array([[0.99, 0.90, 0.6], [0.95, 0.94, 0.93]])
    rows = np.array([[4, 7, 1], [4, 8, 9]])
    assert choose_supports(scores, rows, 0.7, 10) == {4: 0.99, 7: 0.90, 8: 0.94, 9: 0.93}
    assert list(choose_supports(scores, rows, 0.7, 2)) == [4, 7]
    assert choose_supports(scores, rows, 0.99, 10) == {}  # exceeded, not met


@given(st.data())
def test_supports_are_chosen_as_in_paddlenlps_application(data):
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 5)))
    scores = -np.sort(-data.draw(arrays.arrays(float, shape, elements=st.sampled_from([0.1, 0.6, 0.7, 0.8, 0.9]))))
    rows = data.draw(arrays.arrays(int, shape, elements=st.integers(0, 9)))
    count = data.draw(st.integers(1, 12))
    expected = []
    for rank in range(shape[1]):
        for i in range(shape[0]):
            if scores[i, rank] > 0.65 and rows[i, rank] not in expected and len(expected) < count:
                expected.append(rows[i, rank])
    assert list(choose_supports(scores, rows, 0.65, count)) == expected


# ------------------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_duplicates_are_the_training_rows_nearest_to_the_sparse_ones(sparse, trained, task):
    def edit(dataset):
        write_lines(dataset / "train.txt", lines_of(dataset / "train.txt")[:80])
        write_lines(dataset / "dev.txt", lines_of(dataset / "dev.txt")[:30])

    flags = ("--aug_strategy", "duplicate", "--support_threshold", -1, "--sparse_num", 5, "--support_num", 12)
    status, log, dataset = sparse(task, *flags, edit=edit)
    assert status == 0, log
    train, dev = label_sets(dataset / "train.txt"), label_sets(dataset / "dev.txt")
    corpus, queries = (features_of(trained, task, [text for text, _ in rows]) for rows in (train, dev))
    cosines = queries @ corpus.T
    means = np.sort(cosines, axis=1)[:, -3:].mean(axis=1)
    found = label_sets(dataset / "sparse.txt")
    assert len(found) == 5 and all(row in dev for row in found)
    places = [dev.index(row) for row in found]
    assert np.abs(means[places] - np.sort(means)[:5]).max() < 1e-5
    supports = label_sets(dataset / "support.txt")
    assert len(supports) == 12 and all(row in train for row in supports)
    for i, place in enumerate(places):  # the nearest row of each comes first, less those that came before
        nearest = train[cosines[place].argmax()]
        assert nearest in supports[: i + 1]
    assert f"{np.mean(means[places]):.4f}; in all dev rows: {means.mean():.4f}" in log
    assert f"Sparse data saved in {dataset / 'sparse.txt'}: 5 of 30 dev rows" in log
    assert f"Support data saved in {dataset / 'support.txt'}: 12 rows" in log


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_changed_rows_keep_their_labels(sparse, task):
    status, log, dataset = sparse(task, "--aug_strategy", "delete", *FEW, "--support_threshold", -1)
    assert status == 0, log
    train = label_sets(dataset / "train.txt")
    texts = {text for text, _ in train}
    supports = label_sets(dataset / "support.txt")
    assert 0 < len(supports) <= 8
    for text, names in supports:
        assert text not in texts
        # Deleting leaves the characters of one training row in their order.
        assert any(names == theirs and is_part(text, whole) for whole, theirs in train), text
    first = (dataset / "support.txt").read_bytes()
    assert sparse(task, "--aug_strategy", "delete", *FEW, "--support_threshold", -1)[0] == 0
    assert (dataset / "support.txt").read_bytes() == first


def is_part(text, whole):
    rest = iter(whole)
    return all(character in rest for character in text)


def test_annotate_chooses_only_new_texts(sparse):
    """A text in train or dev already has labels, and one that appears twice is labelled once."""

    def edit(dataset):
        new = [text for text, _ in pairs(dataset / "data.txt")]
        known = [pairs(dataset / name)[0][0] for name in ("train.txt", "dev.txt")]
        write_lines(dataset / "data.txt", [*new[:6], *known, new[0], "", *new[6:]])

    flags = ("--annotate", "--support_threshold", -1, "--support_num", 1000, "--rationale_num_support", 1000)
    status, log, dataset = sparse("news", *flags, edit=edit)
    assert status == 0, log
    texts = [text for text, _ in pairs(dataset / "data.txt") if text]
    assert sorted(lines_of(dataset / "support.txt")) == sorted(set(texts[:6] + texts[9:]))
    assert f"{dataset / 'data.txt'}: 40 texts; 3 duplicates or texts of train or dev skipped" in log
    assert "add the labels to the rows of" in log and "train_sparse_annotate.txt" in log


def test_with_too_few_supports_the_log_says_how_to_get_more(sparse):
    _, log, dataset = sparse("news", "--aug_strategy", "duplicate", "--support_threshold", 0.9999999)
    assert "Found 0 support rows of 100" in log and "lower --support_threshold (0.9999999; the best score is " in log
    assert lines_of(dataset / "support.txt") == [] and "Next" not in log and "nan" not in log

    flags = ("--aug_strategy", "duplicate", "--support_threshold", -1, "--sparse_num", 2)
    status, log, dataset = sparse("news", *flags)
    found = len(lines_of(dataset / "support.txt"))
    assert status == 0 and 6 <= found <= 12 and f"Found {found} support rows of 100" in log
    assert "For more, raise --rationale_num_support (6) or --sparse_num (2)" in log and "lower" not in log

    _, log, _ = sparse("news", "--annotate", "--support_threshold", -1, "--rationale_num_support", 40)
    assert "Found 40 support rows of 100 (--support_num). For more, add rows to data.txt, which has 40" in log


def hostile(dataset):
    names = lines_of(dataset / "label.txt")
    texts = ["没有标签的一行", "很长" * 1000, "😀", '<script>alert("1")</script> & "引号"', "二十个标签"]
    labels = ["", names[0], names[0], names[1], ",".join(names[:20])]
    rows = [f"{text}\t{label}" if label else text for text, label in zip(texts, labels)]
    for name in ("train.txt", "dev.txt"):
        write_lines(dataset / name, [f"{name}{row}" for row in rows])
    write_lines(dataset / "data.txt", texts)


@pytest.mark.parametrize("task", ["news", "reviews"])
@pytest.mark.parametrize("mode", [["--annotate"], ["--aug_strategy", "duplicate"], ["--aug_strategy", "swap"]])
def test_odd_rows(sparse, task, mode):
    status, log, dataset = sparse(task, *mode, "--support_threshold", -1, edit=hostile)
    assert status == 0, log
    dev, found = label_sets(dataset / "dev.txt"), label_sets(dataset / "sparse.txt")
    assert sorted(text for text, _ in found) == sorted(text for text, _ in dev)
    assert all(set(names) <= set(dict(found)[text]) for text, names in dev)
    supports = label_sets(dataset / "support.txt")
    if mode == ["--annotate"]:
        assert sorted(text for text, _ in supports) == sorted(lines_of(dataset / "data.txt"))
    elif "duplicate" in mode:
        assert sorted(text for text, _ in supports) == sorted(text for text, _ in label_sets(dataset / "train.txt"))
    else:
        assert "with too few words to change" in log and 0 < len(supports) < 5


def test_the_rows_found_train_a_model(sparse, train):
    """The commands that the script prints, on a train.txt whose last row has no line break."""

    def edit(dataset):
        write_lines(dataset / "train.txt", lines_of(dataset / "train.txt")[:40])
        (dataset / "train.txt").write_bytes((dataset / "train.txt").read_bytes().rstrip())

    status, log, dataset = sparse("news", "--aug_strategy", "duplicate", *FEW, edit=edit)
    assert status == 0, log
    command = next(line.partition(" - ")[2] for line in log.splitlines() if "awk 1" in line)
    subprocess.run(command, shell=True, check=True)
    added = lines_of(dataset / "support.txt")
    assert lines_of(dataset / "train_sparse_aug.txt") == lines_of(dataset / "train.txt") + added and added
    assert f"python train.py --dataset_dir '{dataset}' --train_file train_sparse_aug.txt" in log
    assert train(dataset, "--train_file", "train_sparse_aug.txt")[0] == 0


def test_from_the_root_and_from_inside(trained, tmp_path):
    dataset, model = trained["news"]
    shutil.copytree(dataset, tmp_path / "data")
    where = ["--dataset_dir", tmp_path / "data", "--params_path", model, "--device", "cpu", "--annotate"]
    for folder, command in ((".", ["analysis/sparse.py", "--help"]), ("analysis", ["sparse.py", *where])):
        answer = subprocess.run(
            command_line(*command), cwd=ROOT / folder, capture_output=True, text=True, encoding="utf-8"
        )
        assert answer.returncode == 0, answer.stderr
    assert len(lines_of(tmp_path / "data" / "sparse.txt")) == 60
    assert script.parse_args(["--dataset_dir", "data"]).params_path == str(ROOT / "checkpoint")


def test_all_problems_are_listed_together_and_before_the_model_loads(sparse, monkeypatch):
    def nowhere(*_, **__):
        raise UserError("--aug_type synonym needs files of PaddleNLP")

    monkeypatch.setattr(augmentation, "dataaug_files", nowhere)

    def edit(dataset):
        write_lines(dataset / "dev.txt", ["一\t体育赛事##夺官"])

    flags = ("--device", "gpu", "--support_threshold", 1, "--sparse_file", "train.txt")
    status, log, dataset = sparse("news", *flags, edit=edit)
    assert status == 2 and "5 problems" in log and "did you mean '体育赛事##夺冠'?" in log and "use --device cpu" in log
    assert "--support_threshold 1.0: must be a cosine, at least -1 and below 1" in log
    assert "--sparse_file train.txt: this is also an input file and would be lost" in log
    assert "--aug_type synonym needs files" in log and "--aug_strategy duplicate, which needs no file" in log
    assert len(lines_of(dataset / "train.txt")) == 600 and not (dataset / "support.txt").exists()


def test_nothing_new_to_annotate(sparse):
    def edit(dataset):
        shutil.copy(dataset / "train.txt", dataset / "data.txt")

    status, log, _ = sparse("news", "--annotate", edit=edit)
    assert status == 2 and "data.txt: all texts are already in train or dev" in log
