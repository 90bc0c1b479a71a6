"""The page of `dirty.py --html` and `sparse.py --html`, as a person who decides by keyboard sees it."""

import json
import re
import shutil

import numpy as np
import pytest
from browser import assert_sound, chromium
from conftest import ROOT, lines_of, write_lines
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import dirty
import sparse
from correction_page import ANNOTATE, DIRTY, Entry, shown_labels, words, write_correction_page
from text_cls.cli import Problems
from text_cls.html_page import MOST_BYTES
from text_cls.label_tree import with_ancestors
from text_cls.rows import Labels, format_row, read_labels, read_rows

HOSTILE = (
    "</script><img src=x onerror=\"document.title='run'\">&'\" 😀 \u202eRTL\u202c \u05d0\u05d1 {label} <!-- \\u2028 \\t"
)
NAMES = ["甲", "甲##子", "甲##子##孙", "乙", "乙##</script>", '丙 "C#']
TRAIN = [
    "第一行\t甲,甲##子",
    f"第二行{HOSTILE}\t乙",
    "第三行\u2028之后\t甲,甲##子,甲##子##孙",
    "没有标签的第四行",
    "",
    "第六行\t乙,乙##</script>",
    '第七行\t丙 "C#',
]


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_lines(folder / "label.txt", NAMES)
    write_lines(folder / "train.txt", TRAIN)
    return folder


def read(path, dataset):
    """(labels, [(text, names)]) by the project's reader, which must find nothing wrong."""
    problems = Problems()
    labels = read_labels(str(dataset / "label.txt"), problems)
    rows = read_rows(str(path), labels, problems)
    problems.stop_if_any()
    return labels, [(rows.texts[i], labels.join_ids(rows.labels_of(i))) for i in range(len(rows))]


def make_page(dataset, path, kind=DIRTY, suggested=3, **changed):
    """A page of all rows of train.txt; every suggestion is one label and its parents."""
    problems = Problems()
    labels = read_labels(str(dataset / "label.txt"), problems)
    rows = read_rows(str(dataset / "train.txt"), labels, problems)
    problems.stop_if_any()
    entries = []
    for i in range(len(rows)):
        given = rows.labels_of(i).tolist() if kind == DIRTY else []
        hot = np.zeros((1, len(labels)), bool)
        hot[0, suggested] = True
        then = np.flatnonzero(with_ancestors(hot, labels.parents)[0]).tolist()
        scores = np.linspace(0.9, 0.1, len(labels))
        why = [["missing", suggested, 0.9, 0.8, 0.1]]
        if kind == ANNOTATE:
            why = [["like", 0.8123, 3, HOSTILE, given]]
        entries.append(Entry(int(rows.lines[i]), rows.texts[i], given, then, shown_labels(given, then, scores), why))
    files = {"rows": "corrected.txt", "all": "train_dirty.txt", "dev": "dev.txt", "rows_command": "awk 1 <b>"}
    if kind == DIRTY:
        files |= {"decisions": "decisions.tsv", "decisions_command": "python x"}
    write_correction_page(path, kind, entries, labels, files | changed, ["unseen"])
    return path


# What another tab with the same page does.
STORE = """
const [key, value] = arguments;
localStorage.setItem(key, value);
dispatchEvent(new StorageEvent('storage', { key, newValue: value }));
"""


class Desk:
    """A page in Chromium, whose downloads go to `folder`."""

    def __init__(self, driver, folder, path):
        self.driver, self.folder = driver, folder
        where = {"behavior": "allow", "downloadPath": str(folder)}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
        self.open(path)

    def open(self, path):
        self.driver.get(path.as_uri())

    def __getitem__(self, name):
        return self.driver.find_element("id", name)

    def press(self, *keys):
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def text(self, name):
        """Of an element, also what only a screen reader reads."""
        return self.driver.execute_script("return arguments[0].textContent", self[name])

    def wait(self, condition):
        return WebDriverWait(self.driver, 30, 0.05).until(lambda _: condition())

    def wait_for_reload(self, counts):
        """Reloads until the browser has what it was given: Chromium's storage lags behind on a busy machine."""
        self.wait(lambda: self.driver.refresh() or counts in self.text("counts"))

    def save(self, button, name):
        """Saves by keyboard; returns the path of the file."""
        self.driver.execute_script("arguments[0].focus()", self[button])
        self.press(Keys.ENTER)
        path = self.folder / name
        self.wait(lambda: path.exists() and f"as {name}" in self.text("said"))
        return path


@pytest.fixture
def desk(tmp_path):
    """desk(page) -> `Desk`, of one browser for the test."""
    with chromium() as driver:
        yield lambda path: Desk(driver, tmp_path / "downloads", path)


def test_what_a_person_decides_is_what_train_reads(run, dataset, desk, tmp_path):
    page = desk(make_page(dataset, tmp_path / "page.html", suggested=5))
    assert "0 of 6" in page.text("counts") and page.driver.title == "Check labels"
    assert page.text("text") == "第一行"
    page.press("a", "t")  # keep the first, take the suggestion for the second
    assert page.text("text") == "第三行 之后" and "Line 2: labels changed" in page.text("said")
    page.press("e", "<", "/", Keys.ENTER, Keys.ENTER)  # a child brings its parent; an empty field saves
    page.press("s", "x")  # skip the fourth, remove the fifth
    assert "Row 6 of 6 · line 7" in page.text("place") and "1 kept, 2 changed, 1 to remove; 1 skipped" in page.text(
        "counts"
    )
    page.press("x", "u")
    assert page.text("state") == "open" and "Line 7: undone" in page.text("said")
    assert_sound(page.driver)

    _, saved = read(page.save("save-rows", "corrected.txt"), dataset)
    hostile = format_row(f"第二行{HOSTILE}").rstrip("\n")
    assert saved == [
        ("第一行", "甲,甲##子"),
        (hostile, '丙 "C#'),
        ("第三行 之后", "甲,甲##子,甲##子##孙,乙,乙##</script>"),
        ("没有标签的第四行", ""),
        ("第七行", '丙 "C#'),
    ]

    decisions = page.save("save-decisions", "decisions.tsv")
    before = (dataset / "train.txt").read_bytes()
    status, log = run(dirty.main, "--dataset_dir", dataset, "--apply", decisions)
    assert status == 0 and "1 rows kept, 2 changed, 1 removed" in log and "5 rows saved" in log, log
    assert read(dataset / "train_corrected.txt", dataset)[1] == saved  # here the page has all rows, in their order
    assert (dataset / "train.txt").read_bytes() == before


def test_decisions_survive_a_reload_and_stay_with_their_page(dataset, desk, tmp_path):
    first = make_page(dataset, tmp_path / "page.html")
    page = desk(first)
    page.press("a", "x")
    page.wait_for_reload("2 of 6")
    assert "Row 3" in page.text("place")
    write_lines(dataset / "train.txt", [*TRAIN, "第八行\t乙"])
    page.open(make_page(dataset, tmp_path / "other.html"))
    assert "0 of 7" in page.text("counts")
    page.open(first)
    page.wait_for_reload("2 of 6")
    page.press("k", "k")
    assert page.text("state") == "labels kept"
    # What another program left there is not believed.
    key = json.loads(re.search(r"const DATA = (.*);$", first.read_text(encoding="utf-8"), re.M)[1])["key"]
    for kept in (
        "7",
        "{",
        '{"decisions":{"0":{"kind":"labels","labels":[99]},"1":{"kind":"skip"},"77":{"kind":"skip"}}}',
    ):
        page.driver.execute_script(STORE, key, kept)
        assert "0 of 6" in page.text("counts")
    assert "1 skipped" in page.text("counts")
    assert_sound(page.driver)


def test_a_browser_that_keeps_nothing(dataset, desk, tmp_path):
    path = make_page(dataset, tmp_path / "page.html")
    page = desk(path)
    refuse = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } })"
    )
    page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": refuse})
    page.open(path)
    page.press("a")
    assert page["not-kept"].is_displayed() and "1 of 6" in page.text("counts")
    assert len(read(page.save("save-rows", "corrected.txt"), dataset)[1]) == 6


def test_the_editor(dataset, desk, tmp_path):
    page = desk(make_page(dataset, tmp_path / "page.html"))

    def chosen():
        return [item.text.removesuffix(" ✕") for item in page.driver.find_elements("css selector", "#chosen button")]

    page.press("e")
    assert chosen() == ["甲##子"] and "甲##子 " in page["chosen"].text
    page.press(Keys.BACKSPACE)
    assert chosen() == []
    page.press("孙")
    assert page["find"].get_attribute("aria-activedescendant") == "option-0"
    page.press(Keys.ENTER)
    assert chosen() == ["甲##子##孙"] and "Added 甲##子##孙" in page.text("said")
    page.press("甲", Keys.ENTER)  # the parent takes what is below it along
    assert chosen() == []
    page.press("x", "C")  # keys of the page do not work in a field
    assert page["editor"].is_displayed() and "no label has this" in page["options"].text
    page.press(Keys.ENTER, Keys.ESCAPE, Keys.ESCAPE)
    assert not page["editor"].is_displayed() and "0 of 6" in page.text("counts")
    assert page.driver.switch_to.active_element == page["card"]
    page.press("e", Keys.BACKSPACE, Keys.CONTROL + Keys.ENTER)
    page.press("k")
    assert page.text("state") == "labels now: no label"


def test_texts_to_label(dataset, desk, tmp_path):
    """Rows that nobody labelled are not saved: they would be rows without labels."""
    page = desk(make_page(dataset, tmp_path / "page.html", ANNOTATE, suggested=2))
    assert not page["decisions-box"].is_displayed() and not page["order-box"].is_displayed()
    assert HOSTILE in page.text("why")
    page.press("a")
    assert "no labels yet" in page.text("said")
    page.driver.execute_script("document.getElementById('save-rows').click()")
    assert "There is nothing to save" in page.text("said")
    page.press("t", "e", Keys.BACKSPACE, "乙", Keys.ENTER, Keys.ENTER, "x", "s")
    saved = read(page.save("save-rows", "corrected.txt"), dataset)[1]
    assert [names for _, names in saved] == ["甲,甲##子,甲##子##孙", "乙"]


def test_the_queue(dataset, desk, tmp_path):
    page = desk(make_page(dataset, tmp_path / "page.html"))

    def queue():
        return [text.text for text in page.driver.find_elements("css selector", "#queue span")]

    page.press("/", "第", "六", Keys.ENTER)
    assert page.text("text") == "第六行" and queue() == ["第六行"]
    page.press("a")
    assert "No open row is left in this list" in page.text("said")
    page.press("/", Keys.BACKSPACE, Keys.BACKSPACE, Keys.ENTER, *"ssssss")
    assert "Only skipped rows are left" in page.text("said") and "6 skipped" in page.text("counts")
    page.driver.find_element("css selector", "#queue button").send_keys(Keys.ENTER)
    assert page.text("text") == "第一行"
    page["use-keys"].send_keys(Keys.SPACE)
    page.press("x")
    assert "0 to remove" in page.text("counts")


def test_the_language_can_be_changed(dataset, desk, tmp_path):
    page = desk(make_page(dataset, tmp_path / "page.html"))
    page.press("a")
    page["language"].send_keys(Keys.ENTER)
    assert page.driver.execute_script("return document.documentElement.lang") == "zh-CN"
    page.wait(lambda: page.driver.refresh() or page["language"].text == "English")
    page["language"].send_keys(Keys.ENTER)
    assert page.driver.title == "Check labels" and "1 of 6" in page.text("counts")


CONTRASTS = """
const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const color = rgb(getComputedStyle(element).backgroundColor);
    if (color.length < 4 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() &&
  [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
  const [one, other] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
  return [(one + .05) / (other + .05), e.id || e.className || e.tagName, e.textContent.slice(0, 30)];
}).filter(([ratio]) => ratio < 4.5);
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1600])
def test_it_can_be_read(dataset, tmp_path, width, scheme):
    """Contrast of at least 4.5 (WCAG AA), names of what takes the focus, nothing wider than the window."""
    path = make_page(dataset, tmp_path / "page.html")
    with chromium(width) as driver:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        page = Desk(driver, tmp_path, path)
        page.press("a", "s", "x", "t", "j", "e", "甲")
        for _ in range(2):
            assert driver.execute_script(CONTRASTS) == []
            assert_sound(driver)
            for element in driver.find_elements("css selector", "button, input, select, [role]"):
                assert not element.is_displayed() or element.accessible_name or element.aria_role == "status"
            page["language"].click()


def test_20000_rows_fit_into_5_mb(tmp_path, caplog):
    """The ones with the most space: what does not fit is counted, here and in the page."""
    labels = Labels([f"标签{i}" for i in range(200)])
    scores = np.linspace(0.9, 0.01, len(labels))
    shown = shown_labels([1], [2], scores)

    def entries(length):
        for i in range(20_000):
            yield Entry(i + 1, f"{i}{'字' * length}<", [1], [2], shown, [["wrong", 1, 0.1, 0.9, 0.01]])

    files = {"rows": "a", "decisions": "b", "all": "train_dirty.txt", "rows_command": "", "decisions_command": ""}
    path = tmp_path / "page.html"
    for length, whole in ((20, True), (200, False)):
        write_correction_page(path, DIRTY, entries(length), labels, files, ["unseen"])
        assert path.stat().st_size < MOST_BYTES
        data = json.loads(re.search(r"const DATA = (.*);$", path.read_text(encoding="utf-8"), re.M)[1])
        assert (data["left_out"] == 0) == whole and len(data["rows"]) + data["left_out"] == 20_000
    with chromium() as driver:
        page = Desk(driver, tmp_path, path)
        assert f"{data['left_out']} rows are not on this page" in page.text("left-out")
        assert "apply the decisions" in page.text("rows-note")
        page.press("a")
        assert f"1 of {len(data['rows'])}" in page.text("counts")
        assert_sound(driver)


def test_a_page_without_rows(dataset, desk, tmp_path):
    files = {"rows": "a", "decisions": "b", "all": "c", "rows_command": "", "decisions_command": ""}
    write_correction_page(tmp_path / "page.html", DIRTY, [], Labels(NAMES), files, ["unseen"])
    page = desk(tmp_path / "page.html")
    assert page["empty"].is_displayed() and not page["work"].is_displayed()
    page["language"].send_keys(Keys.ENTER)
    page.press("a")
    assert_sound(page.driver)


def test_every_word_is_used():
    files = ("correction_page.js", "correction_page.py", "dirty.py", "sparse.py")
    code = "".join((ROOT / "analysis" / name).read_text(encoding="utf-8") for name in files)
    made = {f"{start}_{end}" for start in ("show", "said") for end in ("open", "kept", "changed", "removed", "skipped")}
    made |= {"rows_note_dirty", "rows_note_annotate", "rows_note_augmented", "kept", "changed", "removed", "skipped"}
    assert [name for name in words() if name not in made and len(re.findall(f'"{name}"', code)) < 2] == []


# -------------------------------------------------------------------------------------------------------------- scripts


@pytest.fixture
def news_with_errors(tmp_path):
    folder = tmp_path / "news"
    folder.mkdir()
    shutil.copy(ROOT / "data" / "label.txt", folder)
    rows = [line.split("\t") for line in lines_of(ROOT / "data" / "train.txt") if "\t" in line][:300]
    for i in range(0, 300, 10):
        rows[i][1] = rows[(i + 7) % 300][1]
    write_lines(folder / "train.txt", ["\t".join(row) for row in rows])
    return folder


def test_dirty_to_corrected(run, news_with_errors, desk, tmp_path):
    """From the script to a train file in which the suggestions were taken: what the report calls `suggested`."""
    folder, path = news_with_errors, tmp_path / "dirty.html"
    status, log = run(dirty.main, "--dataset_dir", folder, "--device", "cpu", "--dirty_num", 8, "--html", path)
    assert status == 0 and "Page of 8 rows saved" in log, log
    report = [line.split("\t") for line in lines_of(folder / "train_dirty_report.tsv")][1:]
    expected = {int(columns[1]): columns[7] for columns in report}
    page = desk(path)
    assert re.search(r"models that have not seen the row give it 0\.\d\d", page.text("why"))
    page.press(*"tttttttt")
    decisions = page.save("save-decisions", "train_dirty_decisions.tsv")
    status, log = run(dirty.main, "--dataset_dir", folder, "--apply", decisions)
    assert status == 0, log
    before, after = read(folder / "train.txt", folder)[1], read(folder / "train_corrected.txt", folder)[1]
    for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
        assert new == (old[0], expected.get(number, old[1]))


def test_faults(run, dataset, tmp_path):
    decisions = tmp_path / "decisions.tsv"
    head = "line\tdecision\tgiven\tlabels\ttext"

    def answer(*lines):
        write_lines(decisions, lines)
        status, log = run(dirty.main, "--dataset_dir", dataset, "--apply", decisions)
        assert status == 2 and not (dataset / "train_corrected.txt").exists()
        return log

    assert "the first line is not that of a file of decisions" in answer("第一行\t甲")
    assert "no decisions; decide some rows" in answer(head)
    log = answer(
        head,
        "1\tkeep\t甲,甲##子\t甲,甲##子",
        "x\tkeep\t\t\t一",
        "2\tburn\t乙\t乙\t二",
        "1\tkeep\t甲,甲##子\t甲,甲##子\t第一行",
        "1\tremove\t甲,甲##子\t甲,甲##子\t第一行",
    )
    assert "4 problems" in log and "write keep, change or remove" in log and "a second decision for line 1" in log
    log = answer(
        head, "1\tkeep\t甲\t甲\t第一行", "5\tkeep\t\t\t五", '7\tchange\t丙 "C#\t丁\t第七行', "99\tremove\t\t\t九"
    )
    assert log.count("is not the row that was decided on") == 3 and "'丁' is not in the label file" in log
    status, log = run(dirty.main, "--dataset_dir", dataset, "--device", "cpu", "--html", dataset)
    assert status == 2 and "is a folder; name a file" in log
    status, log = run(dirty.main, "--dataset_dir", dataset, "--apply", decisions, "--corrected_file", "train.txt")
    assert status == 2 and "this is also an input file" in log


@pytest.mark.parametrize("flags", [("--annotate",), ("--aug_strategy", "delete")])
def test_sparse(run_on_copy, tmp_path, desk, flags):
    path = tmp_path / "sparse.html"
    few = ("--sparse_num", 10, "--support_num", 8, "--support_threshold", -1, "--html", path)
    status, log, dataset = run_on_copy(sparse.main, "news", *flags, *few)
    assert status == 0 and "saved in" in log, log
    supports = [line.partition("\t")[::2] for line in lines_of(dataset / "support.txt")]
    page = desk(path)
    assert page.text("text") == supports[0][0] and "similar (cosine 0." in page.text("why")
    page.press("x", "t", "s")
    name = "support_labelled.txt" if "--annotate" in flags else "support_corrected.txt"
    saved = read(page.save("save-rows", name), dataset)[1]
    if "--annotate" in flags:
        assert [text for text, _ in saved] == [supports[1][0]]
    else:
        assert [text for text, _ in saved] == [text for text, _ in supports[1:]]
        assert [names for _, names in saved[1:]] == [names for _, names in supports[2:]]
