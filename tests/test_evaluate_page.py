"""The page of `evaluate.py --html`, as a person sees it."""

import json
import re
import shutil

import numpy as np
import pytest
from browser import assert_sound, chromium
from conftest import lines_of, write_lines

from evaluation_page import write_evaluation_page
from metric import classification_report
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.rows import Labels, read_rows

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">&'😀"
MANY = [f"第{i // 10}类" if i % 10 == 0 else f"第{i // 10}类##第{i}种" for i in range(1000)]


@pytest.fixture
def page(tmp_path):
    """page(names, lines, probabilities [rows, labels]) -> path of the page."""

    def make(names, lines, probabilities):
        labels, problems = Labels(names), Problems()
        write_lines(tmp_path / "dev.txt", lines)
        rows = read_rows(str(tmp_path / "dev.txt"), labels, problems)
        problems.stop_if_any()
        probabilities = np.asarray(probabilities, dtype=np.float32)
        gold, predicted = rows.multi_hot(len(labels)), Decision().decide(probabilities, labels.parents)
        report = classification_report(gold, predicted, labels.parents)
        path = tmp_path / "report.html"
        write_evaluation_page(path, HOSTILE, rows, labels, probabilities, gold, predicted, report)
        return path

    return make


def data_of(path):
    return json.loads(re.search(r"const DATA = (.*);$", path.read_text(encoding="utf-8"), re.M)[1])


def texts(driver, selector):
    return [found.text for found in driver.find_elements("css selector", selector)]


def choose(driver, identifier, value):
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", identifier)).select_by_value(value)


def find(driver, identifier, text):
    box = driver.find_element("id", identifier)
    box.clear()
    box.send_keys(text)


def press(driver, selector):
    """By keyboard: what is pressed must be reachable without a mouse."""
    driver.find_element("css selector", selector).send_keys("\n")


SMALL = (
    ["甲", "甲##子", "乙", "丙"],
    ["一\t甲,甲##子", "二\t乙", "三 Abc\t乙", "四", "五\t甲,乙,丙", f"六{HOSTILE}\t丙"],
    [
        [0.9, 0.8, 0.1, 0.1],
        [0.7, 0.2, 0.3, 0.1],
        [0.6, 0.1, 0.4, 0.2],
        [0.1, 0.1, 0.1, 0.1],
        [0.9, 0.2, 0.9, 0.3],
        [0.2, 0.1, 0.95, 0.04],
    ],
)


def test_numbers(page):
    """The data behind the page, by hand: 乙 missed and 甲 predicted in rows two and three."""
    data = data_of(page(*SMALL))
    assert data["labels"][2] == ["乙", 1, 40.0, 50.0, 33.33, 3, 2]
    assert data["pairs"] == [[2, 0, 2, 46.43], [3, 2, 1, 32.5]]
    assert [case[0] for case in data["cases"]] == [2, 3, 5, 6]
    assert data["cases"][0] == [2, "二", [[0, 2, 0.7], [2, 1, 0.3]]]
    assert data["curves"][4] == {"ap": 66.67, "points": [[0.5, 1.0], [1.0, 0.3333]]}  # first and last of six
    of_third = data["calibration"][3]["bins"]
    assert sum(count for _, _, count in of_third) == 6 and sum(share * count for _, share, count in of_third) == 3
    assert sum(count for _, _, count in data["calibration"][0]["bins"]) == 24


def test_what_a_person_sees_and_does(page):
    with chromium(1280) as driver:
        driver.get(page(*SMALL).as_uri())
        assert driver.title == "Evaluation" and HOSTILE in driver.find_element("css selector", ".note").text
        assert "4\nbad cases of 6 rows" in texts(driver, ".tile")

        names = "#label-rows .name"
        assert texts(driver, names) == ["丙", "乙", "甲", "甲 › 子"]  # 0, 40, 66.67 and 100
        choose(driver, "label-sort", "support")
        assert texts(driver, names)[0] == "乙"
        choose(driver, "label-level", "2")
        assert texts(driver, names) == ["甲 › 子"]
        choose(driver, "label-level", "")
        find(driver, "label-find", "甲##")
        assert texts(driver, names) == ["甲 › 子"]

        choose(driver, "focus", "2")
        assert "乙: AP" in driver.find_element("id", "curve-key").text
        assert "3 rows" in driver.find_element("id", "reliability-key").text
        assert len(driver.find_elements("css selector", "#curve path.one")) == 1

        assert len(texts(driver, ".case")) == 4
        press(driver, "#pair-rows button")
        assert [text.split()[2] for text in texts(driver, ".case p")] == ["二", "三"]
        press(
            driver, "#pair-rows tr:nth-child(2) button"
        )  # 丙 is missed in row five too, but not replaced by a wrong label
        assert [text.split()[1] for text in texts(driver, ".case p")] == ["6"]
        press(driver, "#case-pair")
        assert len(texts(driver, ".case")) == 4
        find(driver, "case-find", "ABC")
        assert texts(driver, ".case .chip") == ["甲 0.600", "乙 0.400"]
        find(driver, "case-find", "没有这样的行")
        assert not texts(driver, ".case") and "none" in driver.find_element("id", "case-pager").text
        find(driver, "case-find", " ")
        choose(driver, "case-label", "3")
        choose(driver, "case-kind", "1")
        assert len(texts(driver, ".case")) == 2
        choose(driver, "case-sort", "sure")
        assert HOSTILE in texts(driver, ".case p")[0]  # missed at 0.04 and wrong at 0.95
        assert texts(driver, ".case:first-child .chip.wrong") == ["乙 0.950"]
        assert_sound(driver)


def test_all_labels_are_printed(page):
    probabilities = np.zeros((2, len(MANY)))
    with chromium(1280) as driver:
        driver.get(page(MANY, ["一", f"二\t{MANY[0]}"], probabilities).as_uri())
        rows = "return document.querySelectorAll('#label-rows tr').length"
        assert driver.execute_script(rows) == 25
        driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        assert driver.execute_script(rows) == 1000
        driver.execute_script("window.dispatchEvent(new Event('afterprint'))")
        assert driver.execute_script(rows) == 25


TWENTY = [f"标签{i}" for i in range(20)]
LONG = [f"{'很长的名字' * 20}{i}" for i in range(3)]
CORNERS = {
    "one label": (["甲"], ["一\t甲", "二", "三\t甲"], [[0.9], [0.8], [0.1]]),
    "nothing wrong": (["甲", "乙"], ["一\t甲", "二"], [[0.9, 0.1], [0.2, 0.1]]),
    "twenty labels a row": (TWENTY, ["一\t" + ",".join(TWENTY)], [[0] * 20]),
    "long": (LONG, ["长" * 2000 + "\t" + LONG[0], "x" * 2000 + "\t" + LONG[1]], [[0, 1, 0], [1, 0, 1]]),
    "hostile": ([HOSTILE, "'\"<b>"], [f"{HOSTILE}\t{HOSTILE}"], [[0.1, 0.9]]),
    "a thousand labels, many rows": (
        MANY,
        [f"第{i}行\t{MANY[i % 1000]}" for i in range(3000)],
        np.random.default_rng(0).random((3000, 1000)) ** 200,
    ),
}


@pytest.mark.parametrize("width", [1280, 400])
def test_corner_cases_fit_the_window(page, width):
    with chromium(width) as driver:
        for name, case in CORNERS.items():
            path = page(*case)
            driver.get(path.as_uri())
            assert_sound(driver)
            assert driver.title == "Evaluation", name
            assert len(driver.find_elements("css selector", ".charts svg")) == 2, name
            expected = len(data_of(path)["cases"])
            assert len(driver.find_elements("css selector", ".case")) == min(20, expected), name
            if expected > 20:
                press(driver, "#case-pager button:last-child")
                assert f"21–40 of {expected}" in driver.find_element("id", "case-pager").text


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_page_of_a_real_run(evaluate, tmp_path, task):
    """The page's figures are those of the report, its bad cases those of bad_case.txt, and it says where it is."""
    path, report_file = tmp_path / "pages" / "report.html", tmp_path / "report.json"
    status, log, dataset = evaluate(task, "--html", path, "--report_file", report_file)
    assert status == 0 and f"Page saved in {path}" in log
    report, data = json.loads(report_file.read_text(encoding="utf-8")), data_of(path)
    for shown, scores in zip(data["labels"], report["per_class"]):
        assert [shown[0], *shown[5:]] == [scores["label"], scores["support"], scores["predicted"]]
        assert shown[2] == pytest.approx(100 * scores["f1"], abs=0.01)
    bad = lines_of(dataset / "bad_case.txt")[1:]
    names = [label[0] for label in data["labels"]]
    for line, (_, text, labels) in zip(bad, data["cases"], strict=True):
        gold = ",".join(names[i] for i, state, _ in labels if state != 2)
        predicted = ",".join(names[i] for i, state, _ in labels if state != 1)
        assert line == f"{text}\t{gold}\t{predicted}"
    assert data["hierarchical"] == ("levels" in report) == (task == "news")
    for width in (1280, 400):
        with chromium(width) as driver:
            driver.get(path.as_uri())
            assert_sound(driver)
            assert f"{100 * report['macro']['f1']:.2f}\nmacro F1" in texts(driver, ".tile")
            assert len(texts(driver, "#levels + .wide tbody tr")) == len(report.get("levels", ()))
            shown = [[int(cell) for cell in line.split()] for line in texts(driver, "#paths + .note + .wide tbody tr")]
            of = [report["paths"][kind]["distances"] for kind in ("missed", "wrong")] if task == "news" else [{}, {}]
            assert shown == [
                [edges, *(side.get(str(edges), 0) for side in of)] for edges in sorted({int(e) for d in of for e in d})
            ]
            assert len(texts(driver, "#label-rows tr")) == min(25, len(names))


def test_probabilities_are_those_that_predict_shows(evaluate, run, trained, tmp_path):
    """After the temperature of decision.json, if it has one."""
    import predict

    model, page_file, output = tmp_path / "model", tmp_path / "report.html", tmp_path / "predicted.txt"
    shutil.copytree(trained["reviews"][1], model)
    Decision(temperature=3.0).save(model / "decision.json")
    status, log, dataset = evaluate("reviews", "--params_path", model, "--html", page_file)
    assert status == 0, log
    where = ("--dataset_dir", dataset, "--params_path", model, "--device", "cpu", "--data_file", "dev.txt")
    assert run(predict.main, *where, "--output_file", output, "--scores")[0] == 0
    data, predicted = data_of(page_file), [line.split("\t") for line in lines_of(output)]
    compared = 0
    for line, _, labels in data["cases"]:
        _, names, scores = predicted[line - 1]
        shown = {data["labels"][i][0]: chance for i, state, chance in labels if state != 1}
        expected = {name: float(score) for name, score in zip(names.split(","), scores.split(",")) if name}
        assert shown == pytest.approx(expected, abs=0.0006)
        compared += len(shown)
    assert compared > 10


def test_the_page_cannot_be_a_folder(evaluate, tmp_path):
    status, log, _ = evaluate("reviews", "--html", tmp_path)
    assert status == 2 and f"{tmp_path} is a folder; name a file" in log and "parameters" not in log
