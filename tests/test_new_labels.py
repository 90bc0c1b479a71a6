import subprocess
import time

import pytest
from conftest import lines_of, write_lines

from text_cls.cli import Problems
from text_cls.label_tree import paths_to
from text_cls.new_labels import check_new_labels, joined_names, near_names, replace_command


def messages_of(*names):
    problems = Problems()
    check_new_labels(dict.fromkeys(names, 1), {name: f"all.txt:{i}" for i, name in enumerate(names, 1)}, problems, str)
    return problems.messages


@pytest.mark.parametrize("sign", ["；", ";", "|", "，", "、", " "])
@pytest.mark.parametrize("names", [["甲", "乙", "丙"], ["甲##一", "乙##二", "乙##三"]])
def test_labels_joined_by_a_sign_are_recognised(names, sign):
    pairs = [sign.join(pair) for pair in (names[:2], names[1:], names[::2])]
    for given in (names + pairs, pairs + names, names[:2] + pairs[:1]):
        found = joined_names(dict.fromkeys(given, 1))
        assert list(found) == [sign] and pairs[0] in found[sign], given
    (message,) = messages_of(*names, *pairs)
    assert message.startswith(f"all.txt:4: label {pairs[0]!r} and 2 other names seem to be several labels with ")


@pytest.mark.parametrize(
    "names",
    [
        ["New York", "New Jersey", "York"],
        ["Data", "Science", "Data Science"],
        ["Men Shoes", "Women Shoes", "Men Shirts", "Women Shirts"],
        ["衣、食", "住、行", "衣"],
        ["服装、鞋帽", "服装、箱包", "服装"],
        ["TV|Radio", "A;B", "甲；乙"],
        ["US##New York##Upper East", "US##New York##Upper West", "US##New York"],
    ],
)
def test_names_that_contain_a_sign_are_names(names):
    assert joined_names(dict.fromkeys(names, 1)) == {} and messages_of(*names) == []


def test_paths_joined_by_spaces_without_a_row_of_one_label():
    names = ["A##B C##D", "A##B E##F", "C##D E##F"]
    assert joined_names(dict.fromkeys(names, 1)) == {" ": {name: name.split(" ") for name in names}}


@pytest.mark.parametrize("sign", ["；", ";", "|", "、", " "])
def test_the_command_replaces_the_sign_in_the_labels_alone(tmp_path, sign):
    path = tmp_path / "all rows.txt"
    write_lines(path, [f"一{sign}二\t甲{sign}乙{sign}丙", f"一{sign}二", "一\t甲"])
    command = replace_command(path, sign).removeprefix("replace it: ")
    subprocess.run(["sh", "-c", command], check=True)
    assert lines_of(path) == [f"一{sign}二\t甲,乙,丙", f"一{sign}二", "一\t甲"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["IT", "it"], "all.txt:2: label 'it' differs from 'IT' only in letter case or full width (all.txt:1)"),
        (["IT##a", "it##b", "it##c"], "all.txt:2: label 'it' differs from 'IT'"),
        (["a##IT", "b##it", "a##ＩＴ"], "all.txt:3: label 'a##ＩＴ' differs from 'a##IT'"),
        (
            ["语言##C", "语言##C###1"],
            "all.txt:2: label '语言##C###1' is read as one below '语言##C#', which no row names",
        ),
        (["语言", "语言###1"], "is read as one below '语言#'"),
    ],
)
def test_names_that_are_unclear_are_reported_once(names, message):
    (found,) = messages_of(*names)
    assert message in found


@pytest.mark.parametrize(
    "names", [["语言##C###框架"], ["语言##C", "语言##C#", "语言##C###框架"], ["a##x", "b##X", "#1", "C#", "F#"]]
)
def test_names_that_are_clear(names):
    assert messages_of(*names) == []


@pytest.mark.parametrize(
    ("rare", "frequent"),
    [("延时", "延迟"), ("a##b##延时", "a##b##延迟"), ("sprot", "sport"), ("xport", "sport"), ("sports", "sport")],
)
def test_a_rare_label_beside_a_nearly_identical_one(rare, frequent):
    counts = {rare: 9, frequent: 80, "退款": 70}
    assert near_names({**dict.fromkeys(paths_to(rare), 200), **counts}) == [(rare, frequent)]


@pytest.mark.parametrize(
    "pair",
    [
        ("一月", "二月"),
        ("第1类", "第2类"),
        ("男", "女"),
        ("A类", "B类"),
        ("甲类", "乙类"),
        ("x10", "x1"),
        ("a##延时", "b##延迟"),
    ],
)
def test_names_that_count_or_have_other_parents_are_not_near(pair):
    assert near_names({"a": 300, "b": 300, pair[0]: 9, pair[1]: 80}) == []


def test_names_with_as_many_rows_are_not_near():
    assert near_names({"结婚": 294, "离婚": 268, "订婚": 62}) == []
    assert near_names({"婚后个人财产": 185, "婚前个人财产": 345}) == []


def test_ten_thousand_labels_take_no_comparison_of_all_pairs():
    names = [chr(0x4E00 + i % 200) + chr(0x4F00 + i // 200) * 2 for i in range(10_000)]
    started = time.process_time()
    near_names({name: i for i, name in enumerate(names)})
    joined_names(dict.fromkeys(names, 1))
    assert time.process_time() - started < 10
