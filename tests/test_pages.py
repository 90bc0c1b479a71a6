"""What all report pages have in common, seen in Chromium: two languages, dark and light, tables, contrast, names."""

import re

import numpy as np
import pytest
from browser import CONTRAST, assert_sound, chromium
from conftest import write_lines
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import check_data
import drift
import sent_interpret
import threshold
from correction_page import DIRTY, Entry, shown_labels, write_correction_page
from evaluation_page import write_evaluation_page
from metric import classification_report
from search_page import write_report
from search_results import Results, Trial
from sent_interpret_page import write_supports_page
from text_cls.cli import Problems
from text_cls.decision import Decision
from text_cls.rows import Case, Labels, read_rows
from threshold_page import write_threshold_page
from word_interpret_page import write_interpretation_page

NAMES = ["灾害事故", "灾害事故##地震", "灾害事故##洪涝", "企业动态", "企业动态##财报"]

NAMELESS = """
const name = (node) =>
  node.getAttribute("aria-label") || node.textContent.trim() || node.labels?.[0]?.textContent.trim();
return [...document.querySelectorAll("button, input, select, a, summary")]
  .filter((node) => node.checkVisibility() && !name(node)).map((node) => node.outerHTML)
  .concat([...document.querySelectorAll("table")].filter((t) => !t.caption || [...t.querySelectorAll("th")]
    .some((head) => !head.scope)).map((t) => t.outerHTML.slice(0, 200)))
  .concat([...document.querySelectorAll("svg")].filter((s) => !s.getAttribute("aria-label")).map((s) => s.id));
"""


def data(folder):
    rng, rows = np.random.default_rng(3), []
    for i in range(60):
        leaf = NAMES[rng.choice([1, 2, 4])]
        rows.append(f"第{i}条，{leaf[-2:]}的消息 {rng.integers(1000)}\t{leaf.partition('##')[0]},{leaf}")
    write_lines(folder / "label.txt", NAMES)
    write_lines(folder / "train.txt", rows)
    write_lines(folder / "dev.txt", rows[:30])
    return folder


def predictions(folder):
    labels = Labels(NAMES)
    rows = read_rows(str(folder / "dev.txt"), labels, Problems())
    gold = rows.multi_hot(len(labels))
    noise = np.random.default_rng(5).random(gold.shape)
    return labels, rows, gold, np.where(gold, 1 - noise**2, noise**2).astype(np.float32)


def evaluation(folder):
    labels, rows, gold, probabilities = predictions(folder)
    decision = Decision(threshold=0.4, min_k=1)
    predicted = decision.decide(probabilities, labels.parents)
    report = classification_report(gold, predicted, labels.parents)
    write_evaluation_page(
        folder / "page.html", "dev.txt", rows, labels, probabilities, gold, predicted, report, None, decision
    )


def words(folder, count=1):
    entry = {"label": NAMES[1], "status": "right", "probability": 0.9, "logit": 2.0, "base_logit": -1.0, "error": 0.01}
    entry |= {"attributions": [0.5, -0.25], "key_words": [["地震", 0.5]]}
    rows = [
        {"line": i + 1, "text": "地震消息" * 12, "unread": None, "spans": [[0, 2], [2, 4]], "labels": [entry]}
        for i in range(count)
    ]
    write_interpretation_page(folder / "page.html", rows, "LIME", 0.05)


def checked(folder):
    assert check_data.main(["--dataset_dir", str(folder), "--output_dir", str(folder)]) == 0
    (folder / "report.html").rename(folder / "page.html")


def drifted(folder):
    import train

    model, log = folder / "model", ["--dataset_dir", str(folder), "--device", "cpu"]
    assert train.main([*log, "--model_name", "linear", "--save_dir", str(model)]) == 0
    write_lines(folder / "new.txt", [f"第{i}条，洪涝又来了 {i}" for i in range(40)])
    found = drift.main(
        [*log, "--params_path", str(model), "--data_file", str(folder / "new.txt"), "--html", str(folder / "page.html")]
    )
    assert found in (0, drift.BEYOND)


def searched(folder):
    trials = [
        Trial(0, {"learning_rate": 3e-5, "loss": "bce"}, "finished", 0.5, 1800, None),
        Trial(1, {"learning_rate": 1e-3, "loss": "focal"}, "finished", 0.6, 1200, None),
        Trial(2, {"learning_rate": 1e-1, "loss": "bce"}, "stopped early", 0.1, 600, None),
    ]
    gains = [3, 4], [0.5, 0.52], [0.55, 0.56]
    found = Results("tuned_macro_f1", "macro_f1", trials, trials[1], trials[0], 24, "dev.txt", gains)
    write_report(folder / "page.html", "data", found, "python train.py --config best.yaml")


def fitted(folder):
    labels, rows, gold, chances = predictions(folder)
    args = threshold.parse_args(["--dataset_dir", str(folder)])
    outcome = threshold.choose(args, Decision(), chances, gold, rows.texts, labels)
    write_threshold_page(folder / "page.html", "checkpoint: dev.txt", labels, outcome)


def supported(folder, count=25):
    labels, rows, gold, chances = predictions(folder)
    cases = [
        Case(i + 1, rows.texts[i], rows.labels_of(i).tolist() if i else None, np.flatnonzero(chances[i] > 0.5).tolist())
        for i in range(count)
    ]
    nearest = np.arange(3 * count).reshape(count, 3) % len(rows)
    lacking = sent_interpret.labels_without_support(cases, rows, nearest)
    write_supports_page(
        folder / "page.html", "checkpoint: dev.txt", cases, rows, labels, np.full((count, 3), 0.9), nearest, lacking
    )


def corrected(folder):
    labels, rows, gold, chances = predictions(folder)
    scores = np.linspace(0.9, 0.1, len(labels))
    shown, why = shown_labels([1], [0, 2], scores), [["missing", 2, 0.9, 0.8, 0.1]]
    entries = [Entry(int(rows.lines[i]), rows.texts[i], [1], [0, 2], shown, why) for i in range(5)]
    files = {"rows": "rows.txt", "all": "all.txt", "dev": "dev.txt", "rows_command": "x", "decisions": "decisions.tsv"}
    files["decisions_command"] = "y"
    write_correction_page(folder / "page.html", DIRTY, entries, labels, files, [])


PAGES = {
    "evaluate": evaluation,
    "word_interpret": words,
    "sent_interpret": supported,
    "check_data": checked,
    "drift": drifted,
    "search": searched,
    "threshold": fitted,
    "dirty": corrected,
}


@pytest.fixture(scope="module", params=PAGES)
def page(request, tmp_path_factory):
    folder = data(tmp_path_factory.mktemp(request.param))
    PAGES[request.param](folder)
    return folder / "page.html"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_is_accessible_in_both_languages(page, width, theme):
    with chromium(width) as driver:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get(page.as_uri())
        for language in ("en", "zh-CN"):
            if driver.execute_script("return document.documentElement.lang") != language:
                driver.find_element("id", "language").click()
            assert driver.execute_script("return document.documentElement.lang") == language
            assert_sound(driver)
            ratio, text = driver.execute_script(CONTRAST)
            assert ratio >= 4.5, f"{ratio:.2f}: {text}"
            assert driver.execute_script(NAMELESS) == []
            said = [
                each.text
                for each in driver.find_elements(
                    "css selector", "main h2, main th, main label, main p:not(.text, :has(.gram))"
                )
            ]
            own = " ".join(said)
            for name in sorted(NAMES, key=len, reverse=True):  # user data
                own = own.replace(name.replace("##", " › "), "").replace(name, "")
            if language == "en":
                own = re.sub("第.*?[。0-9 ]+", "", own)
                assert "的" not in own and "标签" not in own, own
            else:
                assert not re.search(r"\b(the|of|rows|with|and)\b", own), own


def test_the_theme_can_be_chosen_and_is_kept(page):
    with chromium() as driver:
        features = [{"name": "prefers-color-scheme", "value": "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get(page.as_uri())
        colour = "return getComputedStyle(document.body).backgroundColor"
        before = driver.execute_script(colour)
        driver.find_element("id", "theme").click()
        after = driver.execute_script(colour)
        assert before != after

        def is_kept(_):  # a moment later: Chromium's process for files learns of it from that of the page
            driver.refresh()
            return driver.execute_script(colour) == after

        WebDriverWait(driver, 60).until(is_kept)


def test_a_table_sorts_and_is_searched_by_keyboard(tmp_path):
    checked(data(tmp_path))
    with chromium() as driver:
        driver.get((tmp_path / "page.html").as_uri())
        table = driver.find_element("css selector", ".tall table.sortable")
        head = table.find_elements("css selector", "th.number button.sort")[0]

        def column():
            return [int(cell.text) for cell in table.find_elements("css selector", "tbody tr td:nth-child(3)")]

        for way in ("descending", "ascending"):
            head.send_keys(Keys.ENTER)
            assert head.find_element("xpath", "..").get_attribute("aria-sort") == way
            assert column() == sorted(column(), reverse=way == "descending")


def test_another_threshold_is_saved_as_a_decision_that_scripts_read(tmp_path):
    evaluation(data(tmp_path))
    with chromium() as driver:
        driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        driver.get((tmp_path / "page.html").as_uri())
        before = driver.find_element("id", "threshold-effect").text
        slider = driver.find_element("id", "threshold-slider")
        slider.send_keys(*[Keys.ARROW_RIGHT] * 20)
        assert driver.find_element("id", "threshold-value").text == "0.60"
        said = driver.find_element("id", "threshold-effect").text
        assert said != before and "1 thresholds differ" in said
        label = driver.execute_script("return Number(document.getElementById('focus').value)")
        driver.find_element("id", "threshold-save").click()
        for _ in range(600):
            if (tmp_path / "decision.json").exists():
                break
            driver.implicitly_wait(0.1)
            driver.find_elements("id", "none")
    saved = Decision.load(tmp_path / "decision.json", NAMES)
    assert saved.threshold == tuple(0.6 if i == label else 0.4 for i in range(len(NAMES))) and saved.min_k == 1
    labels, rows, gold, chances = predictions(tmp_path)
    chances = chances[:, label]
    predicted, right = int((chances > 0.6).sum()), int((chances[gold[:, label]] > 0.6).sum())
    assert f"predicted for {predicted} rows, right in {right} of {gold[:, label].sum()}" in said


@pytest.mark.parametrize("make", [evaluation, supported, words], ids=["evaluate", "sent_interpret", "word_interpret"])
def test_a_page_of_20000_rows_is_below_5_megabytes(tmp_path, make):
    write_lines(tmp_path / "label.txt", NAMES)
    write_lines(tmp_path / "dev.txt", [f"{'一条中等长度的文本' * 6}{i}\t{NAMES[i % 2 * 3]}" for i in range(20000)])
    make(tmp_path, *[20000] * (make is not evaluation))
    assert (tmp_path / "page.html").stat().st_size < 5e6
