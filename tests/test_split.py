import os
import re
import subprocess
from collections import Counter

import numpy as np
import pytest
from conftest import REAL_DATA, ROOT, command_line, lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import split as script
from text_cls.label_tree import parent_ids, with_ancestors
from text_cls.splitting import _Parts, stratified_split

FILES = ("train.txt", "dev.txt", "test.txt")


@st.composite
def problems(draw, max_labels=2):
    """(targets, texts, fractions, seed); texts repeat."""
    rows, labels, parts = draw(st.integers(1, 40)), draw(st.integers(1, 8)), draw(st.integers(2, 4))
    chosen = st.lists(st.integers(0, labels - 1), max_size=max_labels)
    targets = np.zeros((rows, labels), dtype=bool)
    for row in range(rows):
        targets[row, draw(chosen)] = True
    texts = draw(st.lists(st.sampled_from([str(i) for i in range(30)]), min_size=rows, max_size=rows))
    weights = np.array(draw(st.lists(st.integers(1, 9), min_size=parts, max_size=parts)))
    return targets, texts, weights / weights.sum(), draw(st.integers(0, 9))


def grouped(targets, texts):
    """Targets by distinct text: bool [texts, labels], and the number of each row's text."""
    names = sorted(set(texts))
    has_label = np.array([targets[[t == name for t in texts]].any(axis=0) for name in names])
    return has_label, np.array([names.index(text) for text in texts])


@settings(max_examples=100, deadline=None)
@given(problems())
def test_a_partition_in_which_texts_stay_together(problem):
    targets, texts, fractions, seed = problem
    parts = stratified_split(targets, texts, fractions, seed)
    assert len(parts) == len(fractions) and all((np.diff(part) > 0).all() for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(texts)))
    of_text = [{texts[i] for i in part} for part in parts]
    assert sum(map(len, of_text)) == len(set(texts))
    assert all(map(len, parts)) or len(set(texts)) < len(parts)
    again = stratified_split(targets, texts, fractions, seed)
    assert all(map(np.array_equal, parts, again))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_with_one_path_per_row_each_label_with_enough_rows_is_in_every_part(data):
    names = ["a", "b", "a##c", "a##d", "a##c##e", "b##c", "f"]
    parents = parent_ids(names)
    leaves = data.draw(st.lists(st.integers(-1, len(names) - 1), min_size=3, max_size=40))
    targets = with_ancestors(np.array(leaves)[:, None] == np.arange(len(names)), parents)
    parts = stratified_split(targets, list(map(str, range(len(leaves)))), [0.8, 0.1, 0.1], data.draw(st.integers(0, 9)))
    counts = np.array([targets[part].sum(axis=0) for part in parts])
    enough = targets.sum(axis=0) >= 3
    assert (counts[:, enough] > 0).all()


def assert_no_gap_can_be_filled(targets, texts, parts):
    """Each text of a missing label is the last one of some label in its part."""
    has_label, group = grouped(targets, texts)
    has_label = np.column_stack([has_label, np.ones(len(has_label), dtype=bool)])
    part_of = np.empty(len(has_label), dtype=int)
    for k, part in enumerate(parts):
        part_of[group[part]] = k
    counts = np.array([has_label[part_of == k].sum(axis=0) for k in range(len(parts))])
    enough = has_label.sum(axis=0) >= len(parts)
    for k, label in zip(*np.nonzero((counts == 0) & enough)):
        for text in np.flatnonzero(has_label[:, label]):
            assert (counts[part_of[text], has_label[text] & enough] == 1).any(), (text, label, k)


@settings(max_examples=100, deadline=None)
@given(problems(max_labels=4))
def test_no_text_could_fill_a_gap(problem):
    targets, texts, fractions, seed = problem
    assert_no_gap_can_be_filled(targets, texts, stratified_split(targets, texts, fractions, seed))


def test_a_move_that_frees_another_text():
    """Found by search: one pass over the labels leaves a gap that a second one fills."""
    targets = np.random.default_rng(108).random((10, 10)) < 0.3
    texts = list(map(str, range(10)))
    assert_no_gap_can_be_filled(targets, texts, stratified_split(targets, texts, [0.4, 0.3, 0.3], 0))


def parts_of(part, fractions, *labels):
    """_Parts with the labels of each text, to which the one that all texts have is added."""
    names = sorted(set("".join(labels)))
    has_label = np.array([[name in text for name in names] + [True] for text in labels])
    return _Parts(sparse.csr_matrix(has_label), np.array(part), np.array(fractions))


def test_a_label_too_rare_for_every_part_stays_in_the_largest():
    """Label a is missing from the second part. Of its two texts, the one moved has more labels, but not the rare d."""
    parts = parts_of([0, 0, 0, 0, 1], [0.8, 0.2], "ad", "abc", "bc", "bc", "bc")
    parts.fill_gaps()
    assert parts.part.tolist() == [0, 1, 0, 0, 1]


def test_a_text_that_fills_two_gaps_is_moved_rather_than_one_that_fills_one():
    parts = parts_of([0, 0, 0, 0, 1], [0.8, 0.2], "a", "ab", "b", "b", "")
    parts.fill_gaps()
    assert parts.part.tolist() == [0, 1, 0, 0, 1]


def test_a_gap_is_filled_from_the_part_that_is_furthest_above_its_share():
    """Label a is missing from the last part; the first part is too small, although it has too many texts with b."""
    parts = parts_of([0] * 4 + [1] * 4 + [2] * 2, [0.6, 0.2, 0.2], "ab", "ab", "b", "b", "a", "a", "b", "", "b", "")
    parts.fill_gaps()
    assert parts.part.tolist() == [0, 0, 0, 0, 2, 1, 1, 1, 2, 2]


def test_texts_are_moved_whose_labels_the_smaller_part_lacks():
    parts = parts_of([0, 0, 0, 0, 0, 0, 1, 1], [0.5, 0.5], "a", "b", "a", "b", "b", "", "a", "a")
    parts.balance()
    assert parts.part.tolist() == [0, 1, 0, 1, 0, 0, 1, 1]
    assert parts.count.tolist() == [[2, 2], [1, 2], [4, 4]]  # of a, of b, and of all texts


def test_sizes_are_kept_if_many_labels_are_rare():
    """To have each in every part, texts leave train (422 of 600 would stay here); others are moved back."""
    random = np.random.default_rng(0)
    targets = np.zeros((600, 150), dtype=bool)
    shares = 1 / np.arange(1, 151)
    for _ in range(2):
        targets[np.arange(600), random.choice(150, 600, p=shares / shares.sum())] = True
    parts = stratified_split(targets, list(map(str, range(600))), [0.8, 0.1, 0.1], 3)
    assert [len(part) for part in parts] == pytest.approx([480, 60, 60], abs=10)


def test_as_even_as_the_library_alone():
    """On rows with several labels, the mean distance of a label's count from its share, beside a random split."""
    random = np.random.default_rng(0)
    targets = random.random((2000, 40)) < 0.5 / np.arange(1, 41)
    texts, fractions = [str(i) for i in range(2000)], np.array([0.8, 0.1, 0.1])

    def unevenness(parts):
        counts = np.array([targets[part].sum(axis=0) for part in parts]).T
        return np.abs(counts - targets.sum(axis=0)[:, None] * fractions).mean()

    from iterstrat.ml_stratifiers import IterativeStratification

    alone = IterativeStratification(targets, fractions, np.random.RandomState(3))
    library = unevenness([alone == k for k in range(3)])
    shuffled = np.split(random.permutation(2000), [1600, 1800])
    parts = stratified_split(targets, texts, fractions, 3)
    assert [len(part) for part in parts] == pytest.approx([1600, 200, 200], abs=1)
    assert unevenness(parts) < min(library + 0.5, unevenness(shuffled) / 3)


def test_many_labels_go_in_blocks(monkeypatch):
    """As with ten thousand labels: part sizes and rare labels, with the library working on parts of the rows."""
    from text_cls import splitting

    random = np.random.default_rng(1)
    targets = np.zeros((1500, 300), dtype=bool)
    targets[np.arange(1500), random.integers(0, 300, 1500)] = True
    monkeypatch.setattr(splitting, "WORK", 0)
    monkeypatch.setattr(splitting, "BLOCK", 200)
    parts = stratified_split(targets, list(map(str, range(1500))), [0.6, 0.2, 0.2], 3)
    assert [len(part) for part in parts] == pytest.approx([900, 300, 300], abs=60)
    counts = np.array([targets[part].sum(axis=0) for part in parts])
    assert (counts[:, targets.sum(axis=0) >= 3] > 0).all()


@pytest.mark.parametrize("fractions", [[1.0], [0.5, 0.6], [1.0, 0.0], [1.5, -0.5]])
def test_fractions(fractions):
    with pytest.raises(ValueError, match="together 1"):
        stratified_split(np.ones((4, 1), dtype=bool), list("abcd"), fractions, 0)


# --------------------------------------------------------------------------------------------------------- the script

TWENTY = ",".join(f"标签{i}" for i in range(20))
HOSTILE = [
    "没有标签",
    "没有标签的另一行\t",
    f"二十个\t{TWENTY}",
    "长" * 2000 + "\t标签1",
    "😀 <b>&\"'\t标签2,标签2",
    "重复\t标签1",
    "重复\t标签2",
    "重复",
    "\t".join(("空格 ", " 标签3 , 标签4")),
]


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_lines(folder / "all.txt", [*HOSTILE, *(f"第{i}行\t标签{i % 5}" for i in range(50))])
    return folder


def split(run, folder, *flags):
    return run(script.main, "--dataset_dir", folder, *flags)


def test_lines_are_copied_unchanged(run, dataset):
    status, log = split(run, dataset)
    assert status == 0, log
    written = {name: lines_of(dataset / name) for name in FILES}
    assert Counter(sum(written.values(), [])) == Counter(lines_of(dataset / "all.txt"))
    order = {line: i for i, line in enumerate(lines_of(dataset / "all.txt"))}
    assert all(sorted(lines, key=order.get) == lines for lines in written.values())
    homes = [name for name, lines in written.items() if any(line.startswith("重复") for line in lines)]
    assert len(homes) == 1
    assert lines_of(dataset / "label.txt") == sorted(f"标签{i}" for i in range(20))
    assert re.search(r"train\.txt +4[78] ", log)
    assert "标签19: not in dev.txt, test.txt; only 1 distinct text has it" in log
    assert "标签3: not in" not in log and "2 rows repeat the text" in log


@pytest.mark.parametrize("task", ["data", "data/multi_label"])
def test_both_kinds_of_labels_ready_to_train(run, tmp_path, task):
    """label.txt is checked and copied; the readers accept the files; a label is missing only for a reason."""
    from text_cls.cli import Problems
    from text_cls.rows import read_labels, read_rows

    source = tmp_path / "source"
    source.mkdir()
    write_lines(
        source / "all.txt", [line for name in ("train", "dev") for line in lines_of(ROOT / task / f"{name}.txt")]
    )
    write_lines(source / "label.txt", lines_of(ROOT / task / "label.txt"))
    out = tmp_path / "out"
    status, log = split(run, source, "--output_dir", out, "--splits", 0.7, 0.2, 0.1)
    assert status == 0, log
    assert lines_of(out / "label.txt") == lines_of(source / "label.txt")
    checks = Problems()
    labels = read_labels(out / "label.txt", checks)
    rows = [read_rows(out / name, labels, checks) for name in FILES]
    checks.stop_if_any()
    total = sum(map(len, rows))
    assert [len(part) / total for part in rows] == pytest.approx([0.7, 0.2, 0.1], abs=0.02)
    for i, name in enumerate(labels.names):
        counts = [int(part.support(len(labels))[i]) for part in rows]
        assert all(counts) or f"{name}: not in" in log, (name, counts)


def test_a_hierarchy_without_a_label_file_gets_all_ancestors(run, tmp_path):
    write_lines(tmp_path / "all.txt", [f"第{i}行\t甲##乙##{i % 3}" for i in range(30)])
    status, log = split(run, tmp_path, "--splits", 0.8, 0.2)
    assert status == 0 and "label.txt does not exist; made from the rows: 5 labels" in log
    assert lines_of(tmp_path / "label.txt") == ["甲", "甲##乙", "甲##乙##0", "甲##乙##1", "甲##乙##2"]
    assert not (tmp_path / "test.txt").exists() and "Every label is in every file" in log


def test_the_seed_alone_decides(dataset, tmp_path):
    """In processes with other hash seeds: sets of str would come in another order."""
    made = {}
    for name, hash_seed, seed in (("a", "1", 3), ("b", "2", 3), ("c", "1", 4)):
        command = command_line("split.py", "--dataset_dir", dataset, "--output_dir", tmp_path / name, "--seed", seed)
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        answer = subprocess.run(command, cwd=ROOT / "analysis", env=environment, capture_output=True)
        assert answer.returncode == 0, answer.stderr
        made[name] = [lines_of(tmp_path / name / file) for file in (*FILES, "label.txt")]
    assert made["a"] == made["b"] and made["a"][0] != made["c"][0]


def test_files_are_replaced_only_with_overwrite(run, dataset):
    write_lines(dataset / "dev.txt", ["mine"])
    status, log = split(run, dataset)
    assert status == 2 and "dev.txt already exists; use --overwrite" in log
    assert lines_of(dataset / "dev.txt") == ["mine"] and not (dataset / "train.txt").exists()
    assert split(run, dataset, "--overwrite")[0] == 0 and lines_of(dataset / "dev.txt") != ["mine"]
    status, log = split(run, dataset, "--overwrite", "--splits", 0.9, 0.1)
    assert status == 0 and "test.txt is from an older split" in log


def test_the_source_is_never_replaced(run, dataset):
    before = lines_of(dataset / "all.txt")
    (dataset / "all.txt").rename(dataset / "train.txt")
    status, log = split(run, dataset, "--input_file", "train.txt", "--overwrite")
    assert status == 2 and "is the file to split and would be replaced" in log
    assert lines_of(dataset / "train.txt") == before


def test_a_level_may_end_with_a_separators_character(run, tmp_path):
    names = ["语言##C###框架", "语言##C#", "语言##C###库"]
    write_lines(tmp_path / "all.txt", [f"第{i}行\t{names[i % 3]}" for i in range(30)])
    status, log = split(run, tmp_path)
    assert status == 0, log
    assert lines_of(tmp_path / "label.txt") == ["语言", "语言##C#", "语言##C###库", "语言##C###框架"]


def test_labels_joined_by_another_sign_are_an_error_with_the_command(run, tmp_path):
    path = tmp_path / "all.txt"
    names = ["售后##维修##慢", "咨询##活动##时间", "咨询##价格"]
    write_lines(path, [f"第{i}行；\t{'；'.join(names[: i % 3 + 1])}" for i in range(30)])
    status, log = split(run, tmp_path)
    assert (
        status == 2 and "'售后##维修##慢；咨询##活动##时间' and 1 other name seem to be several labels with '；'" in log
    )
    assert not (tmp_path / "label.txt").exists()
    command = log.partition("replace it: ")[2].partition(". If it is part of the name, write the labels")[0]
    subprocess.run(["sh", "-c", command], check=True)
    status, log = split(run, tmp_path)
    assert status == 0 and len(lines_of(tmp_path / "label.txt")) == 7, log
    assert lines_of(path)[2] == f"第2行；\t{','.join(names)}"


def test_names_that_differ_in_what_nobody_sees_are_one_label(run, tmp_path):
    names = ["Santé", "Sante\u0301", "San\u200bté", " Santé\u00a0"]
    write_lines(tmp_path / "all.txt", [f"第{i}行\t{names[i % 4]}" for i in range(40)])
    status, log = split(run, tmp_path)
    assert status == 0 and lines_of(tmp_path / "label.txt") == ["Santé"], log
    assert "20 names have other invisible characters or spaces than the label, which are ignored" in log
    write_lines(tmp_path / "all.txt", [f"第{i}行\t{['IT', 'it'][i % 2]}" for i in range(40)])
    (tmp_path / "label.txt").unlink()
    status, log = split(run, tmp_path, "--overwrite")
    assert status == 2 and "all.txt:2: label 'it' differs from 'IT' only in letter case or full width" in log


def test_problems_are_listed_together(run, tmp_path):
    write_lines(tmp_path / "label.txt", ["甲", "乙", "乙"])
    write_lines(tmp_path / "all.txt", ["一\t甲", "二\t丙", "一\t乙"])
    status, log = split(run, tmp_path)
    assert status == 2 and "3 problems, nothing was done" in log
    assert "'丙' is not in the label file" in log and "2 distinct texts cannot fill 3 files" in log
    (tmp_path / "label.txt").unlink()
    write_lines(tmp_path / "all.txt", ["一\t甲，乙", "二\t甲##", "三\t甲,", "四\t甲", "五\t##甲"])
    status, log = split(run, tmp_path)
    assert status == 2 and "full-width comma" in log and "empty level" in log and "empty label" in log
    write_lines(tmp_path / "all.txt", ["一", "二", "三"])
    status, log = split(run, tmp_path)
    assert status == 2 and "no row has a label" in log
    status, log = split(run, tmp_path, "--input_file", "none.txt")
    assert status == 2 and "none.txt: No such file" in log
    for wrong in (["1"], ["0.5", "0.6"], ["0.8", "0.2", "0"], ["0.4", "0.3", "0.2", "0.1"]):
        status, log = split(run, tmp_path, "--splits", *wrong)
        assert status == 2 and "two or three numbers above 0 that sum to 1" in log


@pytest.mark.skipif(not REAL_DATA.exists(), reason=f"{REAL_DATA} is not there")
def test_the_public_sets(run, tmp_path):
    for name in ("duee", "cail-divorce"):
        folder = tmp_path / name
        folder.mkdir()
        lines = [line for file in ("train", "dev") for line in lines_of(REAL_DATA / name / f"{file}.txt")]
        write_lines(folder / "all.txt", lines)
        status, log = split(run, folder)
        assert status == 0 and "Every label is in every file" in log
        assert " 80.0% " in log and log.count(" 10.0% ") == 2


@pytest.mark.parametrize("with_labels", [True, False])
def test_csv_without_quotes_is_named(run, tmp_path, with_labels):
    write_lines(tmp_path / "all.txt", [f"第{i}条文本，很短,{'ab'[i % 2]}" for i in range(40)])
    if with_labels:
        write_lines(tmp_path / "label.txt", ["a", "b"])
    status, log = run(script.main, "--dataset_dir", tmp_path)
    assert status == 2 and "all.txt: this file is CSV, but a row is text<TAB>label,label; convert it: python" in log
    assert not (tmp_path / "train.txt").exists()
