"""The server's page, used as a person would: a text typed, labels read."""

import csv
import re
from contextlib import ExitStack

import pytest
from browser import CONTRAST, READ, Page, assert_sound, chromium
from conftest import lines_of
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from serving import serving
from text_cls.decision import Decision
from text_cls.prediction import named_labels
from text_cls.serving.predictor import Predictor

HOSTILE = "<img src=x onerror=document.title='run'><script>document.title='run'</script> {{1}} 😀 ' \" &amp;"


@pytest.fixture(scope="module")
def pages(bundles, tmp_path_factory):
    """{"news" and "reviews": address of the page of a running server.py}."""
    with ExitStack() as stack:
        log = tmp_path_factory.mktemp("logs")
        started = {name: stack.enter_context(serving(bundle, log / name)) for name, bundle in bundles.items()}
        yield {name: f"http://127.0.0.1:{one.port}/" for name, one in started.items()}


@pytest.fixture
def visit(pages):
    """visit(task or address, width=1280) -> Page."""
    with ExitStack() as stack:
        yield lambda url, width=1280: Page(stack.enter_context(chromium(width)), pages.get(url, url))


def wanted(bundle, texts, limit=None):
    predictor = Predictor(str(bundle), num_threads=1)
    decision = predictor.decision if limit is None else Decision(limit)
    rows = named_labels(predictor.probabilities(texts), predictor.labels, decision)
    return [dict(zip(names, map(float, scores))) for names, scores in rows]


def assert_shown(shown, rows):
    assert [{path for path, _, _ in one} for one in shown] == [set(row) for row in rows]
    for one, row in zip(shown, rows):
        for path, percent, _ in one:
            assert percent.endswith("%") and float(percent[:-1]) == pytest.approx(100 * row[path], abs=0.051)


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_labels_are_those_of_predict(visit, bundles, trained, task):
    texts = [*lines_of(trained[task][0] / "data.txt")[:8], HOSTILE]
    page = visit(task)
    shown = page.ask("\n".join([f"  {text} " for text in texts] + ["", "  "]))
    assert_shown(shown, wanted(bundles[task], texts))
    assert any(shown)
    assert [element.text for element in page.driver.find_elements(By.CSS_SELECTOR, ".text")] == texts
    assert re.fullmatch(r"9 texts in \d+ ms", page["status"].text)
    assert page.driver.title == "Text labels"
    assert_sound(page.driver)
    levels = {level for one in shown for _, _, level in one}
    assert levels == ({""} if task == "reviews" else {f"level {n}" for n in range(1, 1 + len(levels))})
    for one in shown:
        assert all(level in ("", f"level {path.count('##') + 1}") for path, _, level in one)


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_the_threshold(visit, bundles, trained, task):
    texts = lines_of(trained[task][0] / "data.txt")[:4]
    page = visit(task)
    first = page.ask("\n".join(texts))
    low = page.threshold(0.02)
    assert_shown(low, wanted(bundles[task], texts, 0.02))
    assert sum(map(len, low)) > sum(map(len, first)) and page["value"].text == "0.02"
    assert page.threshold(1) == [[]] * 4
    for one in low:
        roots = [float(percent[:-1]) for path, percent, _ in one if "##" not in path]
        assert len(roots) > 1 and roots == sorted(roots, reverse=True)
    cards = page.driver.find_elements(By.TAG_NAME, "article")
    assert cards[0].text.endswith("No label at a threshold of 1.")
    page["reset"].click()
    assert page.labels() == first and page["value"].text == "0.50 (default)" and not page["reset"].is_displayed()


def test_a_threshold_moved_during_a_request_counts(visit, trained):
    page = visit("news")
    assert any(page.ask("\n".join(lines_of(trained["news"][0] / "data.txt")[:4])))
    slow = "const real = fetch; fetch = async (...asked) => { await new Promise(go => setTimeout(go, 300)); "
    page.driver.execute_script(slow + "return real(...asked); };")
    twice = """
for (const value of [0.02, 1]) {
  arguments[0].value = value;
  for (const name of ["input", "change"]) arguments[0].dispatchEvent(new Event(name));
}"""
    page.driver.execute_script(twice, page["threshold"])
    assert page.labels() == [[]] * 4 and page["value"].text == "1.00"


def test_no_text(visit):
    page = visit("news")
    page["send"].click()
    assert (
        page["message"].text == "There is no text yet. Enter one above, or choose a file."
        and page["error"].get_attribute("role") == "alert"
    )
    assert page.driver.switch_to.active_element == page["texts"] and not page["again"].is_displayed()
    assert page.ask(" \n\n ") == [] and page["error"].is_displayed()
    assert page.ask("足球") != [] and not page["error"].is_displayed()
    assert_sound(page.driver)


def test_both_languages(visit):
    page = visit("news")
    shown = page.ask("台风登陆，学校停课一天，全省多地发布预警")
    assert page.driver.execute_script("return document.documentElement.lang") == "en"
    page["language"].click()
    assert page.driver.title == "文本分类" and page["send"].text == "预测标签"
    assert page.driver.execute_script("return document.documentElement.lang") == "zh-CN"
    assert "条文本，用时" in page["status"].text and "个标签，共 3 层" in page["about"].text
    again = page.driver.execute_script(READ)
    assert [[row[:2] for row in one] for one in again] == [[row[:2] for row in one] for one in shown]
    page.driver.refresh()
    assert page.wait(lambda: page["send"].text == "预测标签")  # remembered
    said = page.driver.execute_script("return [Object.keys(SAYS.en), Object.keys(SAYS.zh)].map(keys => keys.sort())")
    assert said[0] == said[1]


def test_a_key(visit, bundles, tmp_path):
    with serving(bundles["news"], tmp_path / "log", TEXT_CLS_API_KEY="s3cret") as server:
        page = visit(f"http://127.0.0.1:{server.port}/")
        assert page["message"].text == "The server requires an API key. Enter it above." and page["key"].is_displayed()
        page["key"].send_keys("wrong")
        assert page.ask("足球") == [] and page["error"].is_displayed()
        page["key"].clear()
        page["key"].send_keys("s3cret", Keys.ENTER)
        assert page.wait(lambda: page.driver.find_elements(By.TAG_NAME, "article"))
        assert not page["error"].is_displayed() and "55 labels on 3 levels" in page["about"].text
        assert "s3cret" not in page.driver.execute_script(
            "return JSON.stringify([localStorage, sessionStorage, document.cookie])"
        )
        page.driver.refresh()
        assert page.wait(lambda: page["key"].is_displayed()) and page["key"].get_attribute("value") == ""


def test_the_servers_limits(visit, bundles, tmp_path):
    with serving(bundles["news"], tmp_path / "log", "--max_characters", 20, "--max_texts", 3) as server:
        page = visit(f"http://127.0.0.1:{server.port}/")
        assert page.ask("字" * 21) == []
        assert page["message"].text.startswith("The server cannot process this: text 0 (from 0) has 21 characters")
        assert len(page.ask("一\n二\n三\n四")) == 4 and not page["error"].is_displayed()  # in two requests
        assert re.fullmatch(r"4 texts in \d+ ms", page["status"].text)


ANSWERS = {
    "full": (
        "new Response('{\"detail\": \"x\"}', {status: 503, headers: {'Retry-After': '7'}})",
        "The server is busy. Try again in 7 s.",
    ),
    "stopping": ("new Response('', {status: 503})", "The server is busy. Try again soon."),
    "late": ("new Response('{}', {status: 504})", "The server did not answer in time. Try again with fewer texts."),
    "large": ("new Response('{}', {status: 413})", "This is too much at once. Remove some lines."),
    "failed": (
        'new Response(\'{"detail": "<b>x</b>"}\', {status: 500})',
        "The server returned an error (500): <b>x</b>.",
    ),
    "a proxy's": ("new Response('<html>', {status: 502})", "The server returned an error (502)."),
    "gone": (
        "Promise.reject(new TypeError('Failed to fetch'))",
        "The server does not answer. Is it running, and is the network up?",
    ),
}


def test_errors_are_shown_and_trying_again_helps(visit):
    page = visit("news")
    page.driver.execute_script("window.real = window.fetch")
    for answer, message in ANSWERS.values():
        page.driver.execute_script(f"window.fetch = async () => {answer}")
        assert page.ask("足球") == [] and page["message"].text == message and page["status"].text == ""
        page.driver.execute_script("window.fetch = window.real")
        page["again"].click()
        assert len(page.labels()) == 1 and not page["error"].is_displayed()
    assert_sound(page.driver)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_fits_the_window(visit, task, width):
    page = visit(task, width)
    for texts in ("", "W" * 2000 + "\n" + "字" * 2000 + "\n足球"):
        page.ask(texts)
        page.threshold(0)  # all labels
        assert_sound(page.driver)
    page["language"].click()
    assert_sound(page.driver)
    unnamed = "return [...document.querySelectorAll('textarea, input')].filter(one => !one.labels.length).length"
    assert page.driver.execute_script(unnamed) == 0


def test_a_table_of_texts_and_its_result_as_csv(visit, bundles, trained, tmp_path):
    texts = [f"{text}{i}" for i, text in enumerate(lines_of(trained["news"][0] / "data.txt")[:5] * 60)]
    texts[:3] = [HOSTILE.replace('"', ""), "=1+1 足球", "一行\n两行"]
    with open(tmp_path / "texts.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["number", "内容"], *([i, text] for i, text in enumerate(texts))])
    page = visit("news")
    page.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page["file"].send_keys(str(tmp_path / "texts.csv"))
    page.wait(lambda: page["chosen"].text == "texts.csv: 300 texts. They are used instead of those typed.")
    page["send"].click()
    page.wait(lambda: page["csv"].is_displayed() and page["send"].is_enabled())
    assert len(page.driver.find_elements(By.TAG_NAME, "article")) == 100
    assert "The first 100 of 300 texts are shown." in page["answered"].text
    page["csv"].click()
    saved = tmp_path / "labels.csv"
    page.wait(saved.exists)
    assert saved.read_bytes().startswith(b"\xef\xbb\xbf")
    with open(saved, encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["text", "labels", "scores"]
    assert [row[0] for row in rows] == ["'=1+1 足球" if text.startswith("=") else text for text in texts]
    assert [set(filter(None, row[1].split(","))) for row in rows] == [
        set(row) for row in wanted(bundles["news"], texts)
    ]
    assert_sound(page.driver)
    page["drop"].click()
    assert page["chosen"].text == "" and len(page.ask("足球")) == 1


def test_a_file_in_another_encoding(visit, tmp_path):
    (tmp_path / "texts.txt").write_bytes("足球".encode("gb18030"))
    page = visit("news")
    page["file"].send_keys(str(tmp_path / "texts.txt"))
    page.wait(lambda: page["message"].text.startswith("This file is not UTF-8. Save it as UTF-8"))


def test_a_run_can_be_cancelled(visit, tmp_path):
    (tmp_path / "texts.txt").write_text("足球比赛\n" * 2000, encoding="utf-8")
    page = visit("news")
    page.driver.execute_script("""
        window.real = window.fetch;
        window.count = 0;
        window.fetch = (path, options) => options.method === "POST" && window.count++
          ? new Promise((_, fail) => options.signal.addEventListener("abort", () => fail(options.signal.reason)))
          : window.real(path, options);
    """)
    page["file"].send_keys(str(tmp_path / "texts.txt"))
    page.wait(lambda: page["chosen"].text)
    page["send"].click()
    page.wait(lambda: page["status"].text == "256 of 2000 texts")
    page["cancel"].click()
    page.wait(lambda: page["status"].text == "Cancelled: 256 of 2000 texts are below.")
    assert page["csv"].is_displayed() and page["send"].is_enabled()


def test_thresholds_of_labels_are_shown(visit, trained):
    page = visit("news")
    page.ask("\n".join(lines_of(trained["news"][0] / "data.txt")[:20]))
    least = [each.text for each in page.driver.find_elements(By.CSS_SELECTOR, ".least")]
    assert least and set(least) == {"> 50%"}
    page.threshold(0.01)
    assert {each.text for each in page.driver.find_elements(By.CSS_SELECTOR, ".least")} == {"> 1%"}


def test_one_of_several_bundles(visit, bundles, tmp_path):
    words = ("--bundle", f"second={bundles['reviews']}")
    with serving(f"first={bundles['news']}", tmp_path / "log", *words) as server:
        page = visit(f"http://127.0.0.1:{server.port}/")
        options = [each.text for each in page["bundle"].find_elements(By.TAG_NAME, "option")]
        assert options == ["the server's choice", "first", "second"]
        page.ask("足球")
        assert page["answered"].text.startswith("Answered by the bundle first, version ")
        page["bundle"].send_keys("second")
        page.wait(lambda: "multi_label" in page["about"].text)
        page.ask("电影")
        assert page["answered"].text.startswith("Answered by the bundle second, version ")


def test_dark_and_light(visit):
    page = visit("news")
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = page.driver.execute_script(colour)
    page["theme"].click()
    after = page.driver.execute_script(colour)
    page.driver.refresh()
    assert before != after == page.driver.execute_script(colour)
    page.ask("足球")
    ratio, text = page.driver.execute_script(CONTRAST)
    assert ratio >= 4.5, f"{ratio:.2f}: {text}"
