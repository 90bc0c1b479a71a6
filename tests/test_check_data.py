import json
import shutil
import subprocess

import numpy as np
import pytest
from browser import assert_sound, chromium
from conftest import REAL_DATA, ROOT, command_line, lines_of, write_lines

import check_data as script
import label_checks
import model_checks
from text_cls import linear_model
from text_cls.cli import Problems
from text_cls.rows import Labels, read_labels, read_rows
from text_cls.thresholds import fit_thresholds

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&amp;😀 $x_1$"


@pytest.fixture
def check(run, tmp_path):
    """check(folder, *flags) -> (status, log, report.json as a dict, path of report.html)."""

    def call(folder, *flags):
        out = tmp_path / "out"
        status, log = run(script.main, "--dataset_dir", folder, "--output_dir", out, *flags)
        report = json.loads((out / "report.json").read_text(encoding="utf-8")) if out.exists() else None
        return status, log, report, out / "report.html"

    return call


def dataset(tmp_path, labels, **files):
    """A folder of files with rows from (text, labels) pairs."""
    folder = tmp_path / "data"
    folder.mkdir()
    write_lines(folder / "label.txt", labels)
    for split, rows in files.items():
        write_lines(folder / f"{split}.txt", [f"{text}\t{','.join(names)}" for text, names in rows])
    return folder


def found(report, part):
    """The finding whose sentence contains the words."""
    matches = [finding for finding in report["findings"] if part in finding["what"]]
    assert len(matches) == 1, (part, [finding["what"] for finding in report["findings"]])
    return matches[0]


@pytest.mark.parametrize("name", ["news", "reviews"])
def test_a_sound_set(check, request, name):
    folder = request.getfixturevalue(name)
    status, log, report, page = check(folder)
    assert status == 0, log
    labels = lines_of(folder / "label.txt")
    rows = [line.partition("\t")[2].split(",") for line in lines_of(folder / "train.txt")]
    assert [entry["label"] for entry in report["labels"]["labels"]] == labels
    assert [entry["rows"]["train"] for entry in report["labels"]["labels"]] == [
        sum(label in row for row in rows) for label in labels
    ]
    assert report["problems"]["count"] == 0 and report["files"]["train"]["rows"] == 90
    baseline = report["baseline"]
    assert set(baseline["dev"]) >= {"micro", "macro", "per_class"} and baseline["rows"] == 90
    assert ("levels" in baseline["dev"]) == (name == "news")
    assert list(baseline["thresholds"]) == labels
    assert "Linear baseline on dev: micro F1" in log and str(page) in log
    assert f"micro F1 {100 * baseline['dev']['micro']['f1']:.2f}" in log
    assert log.index("WARNING") < log.index("] - Linear baseline on dev")
    assert all(finding["remedy"] for finding in report["findings"])


def test_one_warning_is_in_the_singular(check, tmp_path):
    rows = [(f"第{i}条{chr(0x4E00 + 37 * i) * 4}", ["甲"] if i % 2 else ["乙"]) for i in range(60)]
    _, log, report, _ = check(dataset(tmp_path, ["甲", "乙", "丙"], train=rows), "--no_baseline")
    assert len([each for each in report["findings"] if each["severity"] == "warning"]) == 1
    assert "1 error, 1 warning; report saved" in log  # dev.txt is missing


def test_rare_labels_nearly_the_same_as_others_are_listed(check, tmp_path):
    rows = [(f"第{i}条{chr(0x4E00 + 37 * i) * 4}", ["延时" if i % 10 == 0 else "延迟"]) for i in range(60)]
    folder = dataset(tmp_path, ["延时", "延迟"], train=rows, dev=rows[:10])
    _, log, report, page = check(folder, "--no_baseline")
    assert report["labels"]["near_identical"] == [{"延时": 7, "延迟": 63}]
    finding = found(report, "1 pair of labels nearly the same, one of them much rarer")
    assert finding["severity"] == "warning" and finding["examples"] == ["延时 (7), 延迟 (63)"]
    assert "延时 (7), 延迟 (63)" in log and "延时 (7), 延迟 (63)" in page.read_text(encoding="utf-8")


def test_another_spelling_is_counted_and_joined_labels_are_an_error(check, tmp_path):
    rows = [(f"第{i}条{chr(0x4E00 + 37 * i) * 4}", [["Santé", "Sante\u0301"][i % 2]]) for i in range(20)]
    folder = dataset(tmp_path, ["Santé"], train=rows, dev=rows)
    _, _, report, _ = check(folder, "--no_baseline")
    assert report["problems"]["count"] == 0 and report["files"]["train"]["respelled"] == 10
    finding = found(report, "Names with other invisible characters or spaces than the label: train.txt 10")
    assert finding["examples"] == ["'Sante\\u0301' for 'Sant\\xe9'"]
    (folder / "label.txt").unlink()
    write_lines(folder / "train.txt", ["一\t甲；乙", "二\t甲", "三\t乙"])
    _, _, report, _ = check(folder, "--no_baseline")
    assert any("'甲；乙' seems to be several labels" in message for message in report["problems"]["messages"])


def test_files_without_tabs(check, tmp_path):
    folder = dataset(tmp_path, ["a"], train=[], dev=[])
    for split in ("train", "dev"):
        write_lines(folder / f"{split}.txt", [f"第{i}条,a" for i in range(9)])
    status, log, report, _ = check(folder, "--no_baseline")
    assert status == 2 and report["problems"]["count"] == 2 and "Is the separator a comma?" in log


def test_thresholds_come_only_from_train(check, reviews):
    """Other labels on dev change its scores, and nothing that was fitted."""
    before = check(reviews)[2]["baseline"]
    lines = lines_of(reviews / "dev.txt")
    other = [line.partition("\t")[2] for line in lines]
    write_lines(reviews / "dev.txt", [f"{line.partition(chr(9))[0]}\t{o}" for line, o in zip(lines, other[::-1])])
    problems = Problems()
    labels = read_labels(str(reviews / "label.txt"), problems)
    train = read_rows(str(reviews / "train.txt"), labels, problems)
    targets = train.multi_hot(len(labels))
    unseen, _ = linear_model.out_of_fold(list(train.texts), targets, model_checks.FOLDS)
    assert list(before["thresholds"].values()) == fit_thresholds(unseen, targets).tolist()
    after = check(reviews)[2]["baseline"]
    assert after["thresholds"] == before["thresholds"] and after["out_of_fold"] == before["out_of_fold"]
    assert after["dev"]["micro"] != before["dev"]["micro"]


def test_duplicates_within_and_across(check, tmp_path):
    words = [
        f"这是第{i}个完全不同的句子，讲的是{chr(0x4E00 + 37 * i)}{chr(0x5E00 + 41 * i)}和别的事情" for i in range(30)
    ]
    rows = [(word * 2, ["甲"] if i % 2 else ["乙"]) for i, word in enumerate(words)]
    long = "从前有一座山，山里有一座庙，庙里有一个老和尚，正在给小和尚讲一个很长很长的故事"
    train = [*rows, (rows[3][0], ["乙"]), (long, ["甲"])]
    dev = [(f" {rows[4][0]}", ["乙"]), (rows[5][0], ["乙"]), (long + "。", ["甲"]), ("完全是新的一句话", ["甲"])]
    _, log, report, _ = check(dataset(tmp_path, ["甲", "乙"], train=train, dev=dev), "--no_baseline")
    same, nearly = report["duplicates"]["same"], report["duplicates"]["nearly"]
    assert same["train"] == {"rows": 1, "other_labels": 1}
    assert same["dev in train"] == {"rows": 2, "other_labels": 1}
    assert same["dev"]["rows"] == 0 and nearly["dev in train"]["rows"] == 1
    finding = found(report, "Rows with the same text as a row of another file: dev.txt 2 (50.0%) = train.txt")
    assert finding["severity"] == "warning" and "too high" in finding["remedy"]
    assert finding["examples"][0].startswith("dev.txt:1: ") and "= train.txt:5: " in finding["examples"][0]
    other = found(report, "Rows with the same text as another row but different labels: train.txt 1 (")
    assert other["examples"][0].startswith("train.txt:31: ")
    assert "analysis/split.py" in log


def test_leftovers_of_other_formats(check, tmp_path):
    texts = [
        '"他说""好""就走了"',
        "换行<br/>在这里",
        "空格&nbsp;在这里",
        "坏\ufffd字",
        "零\u200b宽",
        "一家👨\u200d👩\u200d👧人",
    ]
    rows = [(text, ["甲"]) for text in [*texts, '他说"好"', "平常的话", "1 < 2 & 3 > 2"]]
    report = check(dataset(tmp_path, ["甲", "乙"], train=rows, dev=rows[-2:]), "--no_baseline")[2]
    assert list(report["remains"].values()) == [1, 1, 2, 1]
    assert found(report, "wrapped in double quotes")["examples"] == [f"train.txt:1: {texts[0]}"]
    assert "(train.txt 2)" in found(report, "HTML")["what"]


def test_labels_that_appear_together(check, tmp_path):
    labels = ["a", "a##1", "a##2", "b", "c", "d", "e", "lonely"]
    rows = [("一", ["a", "a##1"])] * 5 + [("二", ["b", "c"])] * 6 + [("三", ["d", "e"])] * 5 + [("四", ["e"])] * 2
    rows += [("五", ["a", "a##1", "a##2"])]
    report = check(dataset(tmp_path, labels, train=rows, dev=rows[:3]), "--no_baseline")[2]
    figures = report["labels"]
    assert figures["always_together"] == [["b", "c"]] and figures["never_without"] == [["d", "e"]]
    assert {entry["label"]: entry["alone"] for entry in figures["labels"]} == {
        "a": 5,
        "a##1": 5,
        "a##2": 0,
        "b": 0,
        "c": 0,
        "d": 0,
        "e": 2,
        "lonely": 0,
    }
    assert found(report, "3 labels never alone")["examples"] == ["b (6 rows)", "c (6 rows)", "d (5 rows)"]
    assert figures["cooccurrence"][0] == {"labels": ["b", "c"], "rows": 6}
    assert ["a##1", "a##2"] in [pair["labels"] for pair in figures["cooccurrence"]]
    assert ["a", "a##1"] not in [pair["labels"] for pair in figures["cooccurrence"]]
    assert found(report, "1 of 8 labels without a row in train")["examples"] == ["lonely (0)"]
    assert found(report, "fewer than 10 rows")["examples"][0] == "a##2 (1)"
    untested = found(report, "5 of 8 labels without a row in dev")
    assert untested["examples"] == ["a##2 (1)", "d (5)", "b (6)", "c (6)", "e (7)"]


def test_lengths_and_what_is_cut(check, tmp_path):
    rows = [("字" * size, ["甲"]) for size in (2, 8, 28, 60, 2000)]
    report = check(
        dataset(tmp_path, ["甲"], train=rows, dev=rows[:1]), "--no_baseline", "--max_seq_length", 10, 30, 62
    )[2]
    train = report["lengths"]["files"]["train"]
    assert train["cut"] == {"10": 0.6, "30": 0.4, "62": 0.2}
    assert train["quantiles"]["50"] == 30 and train["quantiles"]["100"] == 2002
    assert "10: 60.0%, 30: 40.0%, 62: 20.0%" in found(report, "share of texts cut")["what"]


def test_estimated_lengths():
    assert model_checks.estimated_lengths(["你好", "GPT 4000，ok!", ""]).tolist() == [4, 7, 2]


def test_a_tokenizer_counts_what_it_does_not_know(check, tiny_model, tmp_path):
    """Lengths are those of the model's own tokens."""
    texts = ["服务很好", "龘龘服务", "服务 很好 😀"]
    path = dataset(tmp_path, ["甲"], train=[(text, ["甲"]) for text in texts], dev=[(texts[0], ["甲"])])
    status, log, report, _ = check(path, "--no_baseline", "--tokenizer", tiny_model, "--max_seq_length", 6)
    assert status == 0, log
    vocabulary = report["vocabulary"]
    assert vocabulary["unknown_characters"] == {"龘": 2, "😀": 1}
    assert vocabulary["unknown_share"] == pytest.approx(3 / (4 + 4 + 5 + 4))
    assert vocabulary["rows_with_unknown"] == {"train": 2, "dev": 0}
    assert report["lengths"]["files"]["train"]["cut"] == {"6": pytest.approx(1 / 3)}
    assert found(report, "are unknown to")["severity"] == "warning" and "[UNK]" in log


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_missing_tokenizer(check, reviews, tmp_path, monkeypatch, name):
    import paddlenlp.transformers

    def refuse(name):
        raise OSError("no network")

    monkeypatch.setattr(paddlenlp.transformers.AutoTokenizer, "from_pretrained", refuse)
    (tmp_path / "empty").mkdir()
    status, log, report, _ = check(reviews, "--tokenizer", tmp_path / "empty" if name == "empty" else name)
    assert status == 2 and "--tokenizer" in log and "Name the folder of a checkpoint" in log and report is None


def test_is_dev_like_train(check, tmp_path):
    random = np.random.default_rng(3)

    def rows(first, count):
        return [("".join(map(chr, random.integers(first, first + 300, 20))), ["甲"]) for _ in range(count)]

    report = check(dataset(tmp_path, ["甲"], train=rows(0x4E00, 120), dev=rows(0x4E00, 60)), "--no_baseline")[2]
    assert found(report, "dev looks like train")["severity"] == "note" and abs(report["similarity"]["auc"] - 0.5) < 0.15
    shutil.rmtree(tmp_path / "data")
    report = check(dataset(tmp_path, ["甲"], train=rows(0x4E00, 120), dev=rows(0x5E00, 60)), "--no_baseline")[2]
    finding = found(report, "dev is unlike train")
    assert finding["severity"] == "warning" and report["similarity"]["auc"] > 0.95
    assert finding["examples"][0].startswith("more in dev: ")


def test_label_shares_that_differ(check, tmp_path):
    def rows(share, count):
        return [(f"第{i}行的内容", ["甲"] if i < share * count else ["乙"]) for i in range(count)]

    report = check(dataset(tmp_path, ["甲", "乙"], train=rows(0.5, 200), dev=rows(0.9, 100)), "--no_baseline")[2]
    assert [entry["label"] for entry in report["similarity"]["label_shares_that_differ"]] == ["甲", "乙"]
    assert found(report, "2 labels whose share in dev differs")["examples"][0] == "甲: 50.0% of train, 90.0% of dev"


def test_problems_are_all_listed_and_the_rest_is_checked(check, news):
    """Problems in each file: all are listed, and all that can be checked is."""
    write_lines(news / "label.txt", [*lines_of(news / "label.txt"), "体育赛事", "孤儿##叶子"])
    write_lines(news / "train.txt", [*lines_of(news / "train.txt"), "一\t二\t三", "字\t体育赛事##夺官", "\t体育赛事"])
    (news / "dev.txt").write_bytes("这一行是国标编码的文字，不是统一码\t体育赛事\n".encode("gbk") * 20)
    status, log, report, page = check(news)
    assert status == 2 and report["problems"]["count"] == 6
    for part in (
        "label.txt:",
        "has no parent here",
        "did you mean '体育赛事##夺冠'",
        "2 tabs",
        "labels without a text",
        "iconv -f GB18030",
    ):
        assert part in log and any(part in message for message in report["problems"]["messages"]), part
    assert report["files"]["train"]["rows"] == 91 and "dev" not in report["files"]
    assert "Linear baseline on train, out of fold" in log and "6 errors" in log
    assert "rejects these files" in page.read_text(encoding="utf-8")


def test_more_problems_than_fit_on_a_screen(check, reviews):
    write_lines(reviews / "train.txt", [f"第{i}行\t没有的标签" for i in range(1500)])
    status, log, report, _ = check(reviews, "--no_baseline")
    assert status == 2 and report["problems"]["count"] == 1500 and len(report["problems"]["messages"]) == 1000
    assert log.count("is not in the label file") == 20 and "and 1480 more" in log


def test_without_dev_label_or_train(check, reviews):
    (reviews / "dev.txt").unlink()
    status, log, report, _ = check(reviews)
    assert status == 2 and "dev.txt: No such file" in log and "out of fold" in log and "similarity" not in report
    (reviews / "label.txt").unlink()
    status, log, report, _ = check(reviews)
    assert status == 2 and "label.txt: No such file" in log and report["labels"]["labels"] and "baseline" in report
    (reviews / "train.txt").unlink()
    status, log, report, page = check(reviews)
    assert status == 2 and report["problems"]["count"] == 3 and report["files"] == {} and page.exists()


def test_a_missing_folder(check, tmp_path):
    status, log, report, _ = check(tmp_path / "nowhere")
    assert status == 2 and "no such folder" in log and report is None


def test_a_folder_that_cannot_be_written(run, reviews, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, log = run(script.main, "--dataset_dir", reviews, "--output_dir", tmp_path / "file")
    assert status == 2 and "cannot write" in log and "baseline" not in log


def test_reports_go_to_the_data_set_by_default(run, reviews):
    assert run(script.main, "--dataset_dir", reviews, "--no_baseline")[0] == 0
    assert (reviews / "report.html").exists() and (reviews / "report.json").exists()


@pytest.mark.parametrize("hierarchical", [False, True])
def test_every_kind_of_row(check, tmp_path, hierarchical):
    """No label, 1 label, 20 labels, 2,000 characters, an emoji, markup; blank lines; a text repeated."""
    labels = [f"根{i}" for i in range(20)]
    if hierarchical:
        labels += [f"根{i}##叶" for i in range(20)]
    kinds = [
        ("没有标签的一行", []),
        ("一个标签", labels[:1]),
        ("二十个标签", labels[-20:]),
        ("长" * 2000, labels[1:2]),
        ("😀", labels[2:3]),
        (HOSTILE, labels[3:4]),
        ("一个标签", labels[:1]),
    ]
    status, log, report, page = check(dataset(tmp_path, labels, train=kinds * 3, dev=kinds))
    assert status == 0, log
    assert report["files"]["train"]["without_label"] == 3 and ("levels" in report["baseline"]["dev"]) == hierarchical
    assert report["files"]["train"]["completed"] == (3 if hierarchical else 0)
    assert "<img" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("texts", [["一样"] * 3, ["一"], ["好", "坏"]])
def test_next_to_nothing_to_learn(check, tmp_path, texts):
    rows = [(text, ["甲"]) for text in texts]
    status, log, report, _ = check(dataset(tmp_path, ["甲"], train=rows, dev=rows[:1]))
    assert status == 0, log
    assert ("baseline" in report) == (len(set(texts)) > 1)


def test_a_large_set_is_sampled(check, reviews, monkeypatch):
    monkeypatch.setattr(model_checks, "CELLS", 50 * len(lines_of(reviews / "label.txt")))
    report = check(reviews)[2]
    assert report["baseline"]["rows"] == 50
    assert "trained on a sample of 50 of 90 rows" in found(report, "Linear baseline")["what"]


def test_paths_per_row(tmp_path):
    labels = Labels(["a", "a##1", "a##1##x", "a##2", "b"])
    write_lines(tmp_path / "rows.txt", ["一\ta##1##x", "二\ta##1,a##2", "三\tb,a", "四", "五\ta##1##x,a##2,b"])
    rows = read_rows(str(tmp_path / "rows.txt"), labels, Problems())
    assert label_checks.paths_per_row(rows, labels.parents).tolist() == [1, 2, 2, 0, 3]


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page(check, tmp_path, width):
    """Hostile labels and texts stay texts, on a desktop and on a phone; hundreds of labels fit too."""
    labels = [f"{HOSTILE}{i}" for i in range(40)] + [f"标签{i}" for i in range(300)] + ["长" * 2000, "数学$\\frac$"]
    kinds = [(f"{HOSTILE} {i}", [labels[i % 40], labels[-1], labels[-2]]) for i in range(60)] * 2
    folder = dataset(tmp_path, [label.replace(",", "") for label in labels], train=kinds, dev=kinds[:5])
    with open(folder / "train.txt", "a", encoding="utf-8") as file:
        file.writelines(f"{HOSTILE}\t{HOSTILE}{i}x\n" for i in range(30))
    status, _, report, page = check(folder, "--no_baseline")
    assert status == 2 and report["problems"]["count"] == 30
    with chromium(width) as driver:
        driver.get(page.as_uri())
        assert_sound(driver)
        assert driver.title.startswith("Data check: ")
        for box in driver.find_elements("tag name", "details"):
            box.find_element("tag name", "summary").click()
        assert_sound(driver)
        text = driver.find_element("tag name", "body").text
        assert HOSTILE[:20] in text and "rejects these files" in text
        assert not driver.find_elements("tag name", "img")
        assert len(driver.find_elements("tag name", "svg")) == 3


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_of_a_sound_set(check, news, width):
    _, _, report, page = check(news)
    with chromium(width) as driver:
        driver.get(page.as_uri())
        assert_sound(driver)
        headings = [heading.text for heading in driver.find_elements("tag name", "h2")]
        assert headings == [
            "Findings",
            "Files",
            "At a glance",
            "Lengths",
            "Labels",
            "Labels that appear together",
            "Linear baseline",
            "Is dev like train?",
        ]
        tile = next(t.text for t in driver.find_elements("class name", "tile") if "threshold" in t.text)
        micro, macro = (100 * report["baseline"]["dev_with_thresholds"][kind]["f1"] for kind in ("micro", "macro"))
        assert f"{micro:.2f} / {macro:.2f}" in tile


@pytest.mark.parametrize("folder", [".", "analysis"])
def test_from_the_root_and_from_inside(reviews, folder):
    name = "analysis/check_data.py" if folder == "." else "check_data.py"
    answer = subprocess.run(
        command_line(name, "--dataset_dir", reviews),
        cwd=ROOT / folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert answer.returncode == 0 and "Linear baseline on dev" in answer.stderr, answer.stderr


EXPECTED = {  # the sets' own notes: texts of dev in train (those with other labels), CSV quotes, F1 on dev
    "duee": ((1, None), 122, 0.9099, 0.8175),
    "cail-divorce": ((34, 5), 0, 0.8887, 0.7254),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_public_sets(check, name):
    folder = REAL_DATA / name
    if not folder.exists():
        pytest.skip(f"{folder} does not exist; set TEXT_CLASSIFICATION_DATA to the folder of the public sets")
    (shared, disagreeing), quoted, micro, macro = EXPECTED[name]
    status, log, report, _ = check(folder)
    assert status == 0, log
    across = report["duplicates"]["same"]["dev in train"]
    assert across["rows"] == shared and disagreeing in (None, across["other_labels"])
    assert next(iter(report["remains"].values())) == quoted
    dev, better = report["baseline"]["dev"], report["baseline"]["dev_with_thresholds"]
    assert dev["micro"]["f1"] > micro - 5e-5 and dev["macro"]["f1"] > macro - 5e-5
    assert better["macro"]["f1"] > dev["macro"]["f1"] + 0.05 and better["micro"]["f1"] > dev["micro"]["f1"]


def test_a_label_that_begins_with_the_separator(check, tmp_path):
    """Without a label file its empty parent would be its own parent, and reading would never end."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.txt").write_text("字\t##地震\n词\t地震\n", encoding="utf-8")
    status, log, *_ = check(folder, "--no_baseline")
    assert status == 2 and "##地震" in log
