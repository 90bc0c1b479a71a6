import csv
import shutil
import subprocess

import numpy as np
import pytest
from conftest import REAL_DATA, ROOT, command_line, lines_of, write_lines
from hypothesis import given
from hypothesis import strategies as st

import dirty as script
from label_errors import calibrated_by_label, confident_learning, corrected, deepest, representer_values
from text_cls.cli import Problems
from text_cls.label_tree import parent_ids
from text_cls.rows import read_labels, read_rows


def report_of(dataset):
    with open(dataset / "train_dirty_report.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.fixture
def dirty(run):
    """dirty(dataset, *flags) -> (status, log); without a checkpoint unless the flags name one."""

    def call(dataset, *flags):
        return run(script.main, "--dataset_dir", dataset, "--device", "cpu", *flags)

    return call


@pytest.fixture
def broken(tmp_path):
    """300 rows of the news of which 30 have the labels of another row: (data set, their lines)."""
    dataset = tmp_path / "broken"
    dataset.mkdir()
    shutil.copy(ROOT / "data" / "label.txt", dataset)
    rows = [line.split("\t") for line in lines_of(ROOT / "data" / "train.txt") if "\t" in line][:300]
    random = np.random.default_rng(1)
    lines = np.sort(random.choice(300, 30, replace=False))
    truth = [row[1] for row in rows]
    for i in lines:
        rows[i][1] = random.choice([labels for labels in truth if labels.split(",")[0] != truth[i].split(",")[0]])
    write_lines(dataset / "train.txt", ["\t".join(row) for row in rows])
    return dataset, set((lines + 1).tolist())


def test_wrong_rows_are_found_without_a_model(dirty, broken):
    dataset, wrong = broken
    status, log = dirty(dataset, "--dirty_num", 30)
    assert status == 0, log
    found = {int(line["line"]) for line in report_of(dataset)}
    assert len(found & wrong) >= 18, (len(found), len(found & wrong))
    assert "Suspect rows:" in log and "append the other rows to it" in log


def test_files_contain_each_row_once_and_unchanged(dirty, broken):
    dataset, _ = broken
    before = lines_of(dataset / "train.txt")
    before[3:3] = ["", "只有文字，没有标签"]
    write_lines(dataset / "train.txt", before)
    assert dirty(dataset, "--dirty_num", 12)[0] == 0
    suspects, rest = lines_of(dataset / "train_dirty.txt"), lines_of(dataset / "train_dirty_rest.txt")
    assert len(suspects) == 12 and sorted(suspects + rest) == sorted(line for line in before if line)
    assert rest == [line for line in before if line and line not in suspects]  # in the file's order
    report = report_of(dataset)
    assert [int(line["rank"]) for line in report] == sorted(int(line["rank"]) for line in report)
    assert {line["rank"] for line in report} == {str(rank) for rank in range(1, 13)}
    for line in report:
        assert before[int(line["line"]) - 1] == suspects[int(line["rank"]) - 1] and line["model"] == ""
        assert 0 <= float(line["out_of_fold"]) <= 1 and "models that have not seen the row" in line["why"]
        has = line["label"] in line["given"].split(",")
        assert (line["fault"] == "wrong") == has and (line["label"] in line["suggested"].split(",")) != has
    problems = Problems()
    labels = read_labels(str(dataset / "label.txt"), problems)
    assert len(read_rows(str(dataset / "train_dirty.txt"), labels, problems)) == 12 and not problems.count


def test_a_path_is_reported_once(dirty, broken):
    dataset, _ = broken
    assert dirty(dataset)[0] == 0
    reported = {}
    for line in report_of(dataset):
        reported.setdefault((line["rank"], line["fault"]), []).append(line["label"])
    assert any("##" in label for labels in reported.values() for label in labels)
    for labels in reported.values():
        assert not any(other.startswith(f"{label}##") for label in labels for other in labels)
    for line in report_of(dataset):
        suggested = line["suggested"].split(",")
        assert all(label.rpartition("##")[0] in suggested for label in suggested if "##" in label)


@pytest.mark.parametrize("method", ["confident", "representer"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_with_a_model_the_report_has_its_probabilities(run, trained, tmp_path, task, method):
    source, model = trained[task]
    dataset = shutil.copytree(source, tmp_path / "data")
    lines = lines_of(dataset / "train.txt")[:150]
    names = lines_of(dataset / "label.txt")
    write_lines(dataset / "train.txt", [*lines, f"二十个标签😀\t{','.join(names[:20])}", "没有标签的一行", "长" * 2000])
    where = ("--dataset_dir", dataset, "--params_path", model, "--device", "cpu")
    status, log = run(script.main, *where, "--method", method, "--dirty_num", 8, "--dirty_threshold", 1)
    assert status == 0, log
    report = report_of(dataset)
    assert len(lines_of(dataset / "train_dirty.txt")) == len({line["rank"] for line in report}) > 0
    assert all(0 <= float(line["model"]) <= 1 for line in report)


def test_representer_reports_labels_that_the_other_rows_contradict(run, trained, tmp_path):
    """At the default threshold: not every label of every row."""
    source, model = trained["reviews"]
    dataset = shutil.copytree(source, tmp_path / "data")
    where = ("--dataset_dir", dataset, "--params_path", model, "--device", "cpu", "--dirty_num", 100_000)
    status, log = run(script.main, *where, "--method", "representer")
    assert status == 0, log
    report, rows = report_of(dataset), len(lines_of(dataset / "train.txt"))
    assert 0 < len({line["line"] for line in report}) < rows
    assert len(report) < 2 * rows and all(line["suggested"] != line["given"] for line in report)


def test_the_same_seed_gives_the_same_answer(dirty, broken):
    dataset, _ = broken
    answers = []
    for _ in range(2):
        assert dirty(dataset)[0] == 0
        answers.append([(dataset / name).read_bytes() for name in ("train_dirty.txt", "train_dirty_report.tsv")])
    assert answers[0] == answers[1]


def test_threshold_and_one_label(dirty, tmp_path, broken):
    dataset, _ = broken
    assert dirty(dataset, "--dirty_threshold", 1e9)[0] == 0
    assert lines_of(dataset / "train_dirty.txt") == [] and len(lines_of(dataset / "train_dirty_rest.txt")) == 300
    single = tmp_path / "single"
    single.mkdir()
    write_lines(single / "label.txt", ["好"])
    write_lines(
        single / "train.txt", [f"这件东西很好用{i}\t好" for i in range(20)] + [f"坏了要退货{i}" for i in range(20)]
    )
    assert dirty(single)[0] == 0
    write_lines(single / "train.txt", ["很好\t好", "不错\t好"])  # every row has it
    status, log = dirty(single)
    assert status == 0 and "Suspect rows: 0 of 2" in log


def test_faults(dirty, news, tmp_path):
    status, log = dirty(news, "--method", "representer", "--params_path", tmp_path)
    assert status == 2 and "train first" in log
    status, log = dirty(news, "--rest_file", "./train.txt")
    assert status == 2 and "--rest_file ./train.txt: this is also an input file" in log
    status, log = dirty(news, "--report_file", "label.txt", "--rest_file", "train_dirty.txt")
    assert status == 2 and "--report_file label.txt: this is also an input file" in log
    assert "another output already has this name" in log
    write_lines(news / "train.txt", ["一样\t体育赛事", "一样\t体育赛事##夺官"])
    status, log = dirty(news)
    assert status == 2 and "2 problems" in log and "did you mean" in log and "all texts are the same" in log
    assert not (news / "train_dirty.txt").exists()


def test_from_inside_the_folder(broken):
    dataset, _ = broken
    words = command_line("dirty.py", "--dataset_dir", dataset, "--device", "cpu")
    answer = subprocess.run(words, cwd=ROOT / "analysis", capture_output=True, text=True, encoding="utf-8")
    assert answer.returncode == 0, answer.stderr


# ------------------------------------------------------------------------------------------------------------- methods


def test_confident_learning_is_cleanlabs():
    """The definition, by hand: the opposite is as probable as in rows with the opposite on average."""
    random = np.random.default_rng(0)
    targets = random.random((200, 3)) < 0.4
    probabilities = np.clip(
        0.15 + 0.7 * (targets ^ (random.random((200, 3)) < 0.1)) + random.normal(0, 0.08, (200, 3)), 0.01, 0.99
    )
    flags = confident_learning(probabilities, targets).flags
    for k in range(3):
        p, gold = probabilities[:, k], targets[:, k]
        sure, unsure = p[gold].mean(), (1 - p[~gold]).mean()
        missing = ~gold & (p >= sure) & ~((1 - p >= unsure) & (1 - p > p))
        wrong = gold & (1 - p >= unsure) & ~((p >= sure) & (p > 1 - p))
        assert (flags[:, k] == (missing | wrong)).all()
    assert 30 < flags.sum() < 90


def test_confident_learning_leaves_labels_without_a_choice_alone():
    targets = np.array([[True, False, True], [True, False, False]] * 5)
    found = confident_learning(np.full(targets.shape, 0.5), targets)
    assert not found.flags[:, :2].any() and np.isfinite(found.strengths).all()
    assert not confident_learning(np.full((4, 2), 0.5), np.zeros((4, 2), bool)).flags.any()


def test_order_is_by_what_is_flagged():
    found = confident_learning(
        np.array([[0.9], [0.8], [0.05], [0.2], [0.1], [0.97]]), np.array([[1], [1], [1], [0], [0], [0]], bool)
    )
    assert found.flags[:, 0].tolist() == [False, False, True, False, False, True]
    assert found.order()[:2].tolist() == [5, 2] and found.scores()[[0, 1, 3, 4]].max() == 0


def test_representer_values_decompose_the_refitted_head():
    """The theorem: at the optimum the weights are the sum of the rows' features times their values."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    features = random.normal(size=(300, 5))
    targets = features[:, :1] + random.normal(0, 0.3, (300, 1)) > 0
    found = representer_values(features, targets, 0)
    wide = np.column_stack([features, np.ones(300)])
    head = LogisticRegression(C=1 / (0.06 * 300), fit_intercept=False, tol=1e-8).fit(wide, targets[:, 0])
    values = (targets[:, 0] - head.predict_proba(wide)[:, 1]) / (0.06 * 300)
    assert np.allclose(values @ wide, head.coef_[0], atol=1e-3)
    expected = np.abs(values) * (wide**2).sum(axis=1)
    assert np.allclose(found.strengths[:, 0], expected / expected.std(), atol=1e-2)


def test_probabilities_of_a_label_with_low_scores():
    """One sigmoid for all labels never predicts it; its own sigmoid does."""
    random = np.random.default_rng(0)
    targets = random.random((400, 2)) < 0.5
    scores = (targets - 0.5) * 2 + random.normal(0, 0.2, (400, 2)) - np.array([0, 2])
    pooled = 1 / (1 + np.exp(-4 * scores))
    calibrated = calibrated_by_label(scores, pooled, targets, seed=3)
    assert pooled[targets[:, 1], 1].mean() < 0.1 < 0.5 < calibrated[targets[:, 1], 1].mean()


NAMES = ["a", "a##b", "a##b##c", "a##d", "e", "e##f"]
SETS = st.lists(st.booleans(), min_size=6, max_size=6).map(np.array)


@given(SETS, SETS)
def test_a_corrected_row_has_all_ancestors_and_every_correction(some, flags):
    from text_cls.label_tree import with_ancestors

    parents = parent_ids(NAMES)
    before = with_ancestors(some[None], parents)[0]
    after = corrected(before, flags, parents)
    assert (with_ancestors(after[None], parents)[0] == after).all()
    assert after[flags & ~before].all()
    added = with_ancestors((flags & ~before)[None], parents)[0]
    assert not (after & flags & before & ~added).any()
    for label in np.flatnonzero(before & ~after):  # only flagged labels and their descendants are removed
        path = [label]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        assert (flags & before)[path].any()


def test_deepest():
    parents = parent_ids(NAMES)
    assert deepest(np.array([1, 1, 1, 1, 0, 1], bool), parents).tolist() == [2, 3, 5]
    assert deepest(np.array([1, 0, 1, 0, 1, 0], bool), parents).tolist() == [2, 4]


@pytest.mark.parametrize("name", ["duee", "cail-divorce"])
def test_on_the_public_sets(name, dirty, tmp_path):
    """A tenth of 1,000 rows with another row's labels: most of them are named. benchmarks/dirty.py measures more."""
    if not (REAL_DATA / name).exists():
        pytest.skip(f"{REAL_DATA / name} does not exist; set TEXT_CLASSIFICATION_DATA to the folder of the public sets")
    rows = [line.partition("\t")[::2] for line in lines_of(REAL_DATA / name / "train.txt")[::11][:1000]]
    random, wrong = np.random.default_rng(2), set()
    texts, label_sets = (list(column) for column in zip(*rows))
    for i in random.choice(len(rows), 100, replace=False):
        other = random.choice([labels for _, labels in rows if labels != rows[i][1]])
        label_sets[i] = other
        wrong.add(i + 1)
    shutil.copy(REAL_DATA / name / "label.txt", tmp_path)
    write_lines(tmp_path / "train.txt", [f"{text}\t{labels}" for text, labels in zip(texts, label_sets)])
    assert dirty(tmp_path, "--dirty_num", 100)[0] == 0
    found = {int(line["line"]) for line in report_of(tmp_path)}
    assert len(found & wrong) >= 55, len(found & wrong)
