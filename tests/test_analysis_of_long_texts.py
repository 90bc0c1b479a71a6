"""The analysis scripts on texts that the model reads in windows, or at both ends."""

import importlib
import json
import re
import shutil

import numpy as np
import pytest
from browser import assert_sound, chromium
from conftest import lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate as evaluate_script
import threshold as threshold_script
import word_interpret as script
from attribution import TOLERANCE, Explainer
from text_cls.decision import Decision
from text_cls.long_texts import LongTexts
from text_cls.neural.model import encode, predict_logits
from text_cls.neural.windows import encode_long
from text_cls.probabilities import sigmoid
from text_cls.thresholds import fit_one

LENGTH = 48  # tokens, as the models were trained
WINDOWS = ("--long_texts", "windows")


@pytest.fixture(scope="module")
def checkpoint(trained):
    from text_cls.cli import Problems
    from text_cls.neural.checkpoint import load_checkpoint, load_model

    found = load_checkpoint(str(trained["news"][1]), None, Problems())
    load_model(found, "cpu")
    return found


@pytest.fixture
def long_rows(trained):
    """long_rows(count, parts) -> [(text, label names)]: each several rows of dev in one, the first a single one."""
    rows = [line.split("\t") for line in lines_of(trained["news"][0] / "dev.txt")]
    rows = [(row[0], row[1].split(",")) for row in rows if len(row) > 1]

    def make(count, parts=6):
        made = [next(row for row in rows if len(row[0]) < LENGTH - 8)]
        for i in range(1, count):
            some = [rows[(i * 7 + k * 3) % len(rows)] for k in range(parts)]
            names = sorted({name for _, of_row in some for name in of_row})
            made.append(("😀".join(f"{text}。" for text, _ in some), names))
        return made

    return make


@pytest.fixture
def run_on(run, trained, tmp_path):
    """run_on(main, file, lines, *flags) -> (log, folder) of a script that succeeds, with the model of news."""

    def call(main, file, lines, *flags):
        dataset, model = trained["news"]
        write_lines(tmp_path / "label.txt", lines_of(dataset / "label.txt"))
        write_lines(tmp_path / file, lines)
        where = ("--dataset_dir", tmp_path, "--params_path", model, "--device", "cpu")
        status, log = run(main, *where, *flags)
        assert status == 0, log
        return log, tmp_path

    return call


def windows_by_hand(checkpoint, text, **how):
    """[(start, end)] of a text's windows, and the logits [windows, labels] of each as a text of its own."""
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    spans = encode_long([text], tokenizer, model, LENGTH, LongTexts("windows", **how)).spans.tolist()
    alone = [predict_logits(model, encode([text[a:b]], tokenizer, model, LENGTH), 1)[0] for a, b in spans]
    return spans, np.stack(alone)


def as_lines(rows):
    return [f"{text}\t{','.join(names)}" for text, names in rows]


def records_of(folder):
    return [json.loads(line) for line in lines_of(folder / "word_interpret.jsonl")]


def data_of(path):
    return json.loads(re.search(r"const DATA = (.*);$", path.read_text(encoding="utf-8"), re.M)[1])


# --------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(("method", "stride"), [("ig", None), ("ig", 30), ("lime", 30), ("grad", None)])
def test_each_label_is_explained_in_the_window_that_decided_it(run_on, checkpoint, long_rows, method, stride):
    """Also a label that was missed. The oracle explains every window as a text of its own."""
    flags = ("--stride", stride) if stride else ()
    rows = long_rows(2 if method == "lime" else 3)
    log, folder = run_on(script.main, "bad_case.txt", as_lines(rows), *WINDOWS, *flags, "--interpreter", method)
    records, names, compared = records_of(folder), checkpoint.labels.names, 0
    explainer = Explainer(checkpoint.model, checkpoint.tokenizer, method, LENGTH)
    assert {"missed"} < {record["status"] for record in records} and "exceed" not in log
    for line, (text, _) in enumerate(rows, 1):
        spans, logits = windows_by_hand(checkpoint, text, stride=stride)
        found = [record for record in records if record["line"] == line]
        assert found and {record["read"] for record in found} == {len(text)}
        if line == 1:
            assert not any("passage" in record for record in found) and len(spans) == 1
            continue
        assert len({tuple(record["passage"]) for record in found}) > 1
        for record in found:
            label = names.index(record["label"])
            start, end = spans[logits[:, label].argmax()]
            assert record["passage"] == [start, end]
            assert record["logit"] == pytest.approx(logits[:, label].max(), abs=1e-4)
            assert record["probability"] == pytest.approx(sigmoid(logits[:, label].max()), abs=1e-5)
            inside = [word for word in record["words"] if word["end"] > start and word["start"] < end]
            assert not any(word["attribution"] for word in record["words"] if word not in inside)
            assert "".join(word["word"] for word in record["words"]) == "".join(text.split())
            assert all(text[word["start"] : word["end"]] == word["word"] for word in record["words"])
            alone = explainer.explain(text[start:end], [label])
            if method != "lime":
                assert record["base_logit"] == pytest.approx(alone.base_logits[0], abs=1e-4)
            if method == "ig":
                assert record["error"] <= TOLERANCE
            values = {(a + start, b + start): value for (a, b), value in zip(alone.spans, alone.values[0])}
            both = [word for word in inside if (word["start"], word["end"]) in values]
            assert len(both) > 0.7 * len(inside)  # others are cut by the end of a window
            for word in both if len(both) == len(inside) == len(values) else ():
                expected = values[word["start"], word["end"]]
                assert word["attribution"] == pytest.approx(expected, abs=0.05 * np.abs(alone.values).max())
                compared += 1
            place = "characters {} to {}: ".format(*record["passage"])
            assert f"{record['status']} {record['label']} ({record['probability']:.3f}): {place}" in log
    assert compared > 10


def test_what_follows_the_last_window_is_not_read(run_on, checkpoint, long_rows):
    text, names = long_rows(2, 20)[1]
    log, folder = run_on(script.main, "bad_case.txt", as_lines([(text, names)]), *WINDOWS, "--max_windows", 2)
    spans, _ = windows_by_hand(checkpoint, text, max_windows=2)
    assert len(spans) == 2 and "1 texts exceed the maximum length" in log
    assert len(text) > 600 and f"text: {text[:600]} ...\n" in log
    for record in records_of(folder):
        assert record["passage"] in spans and record["read"] in range(spans[1][1], spans[1][1] + 4)  # a word may go on
        assert not any(word["attribution"] for word in record["words"] if word["start"] >= record["read"])
    (row,) = data_of(folder / "word_interpret.html")
    assert row["unread"] == [records_of(folder)[0]["read"], len(text)]


def test_both_ends_are_explained_if_the_model_reads_both(run_on, checkpoint, long_rows):
    rows = long_rows(2)[1:]
    log, folder = run_on(script.main, "bad_case.txt", as_lines(rows), "--long_texts", "head_tail")
    how, names = LongTexts("head_tail"), checkpoint.labels.names
    assert "1 texts exceed the maximum length" in log
    for record in records_of(folder):
        text, (start, end) = record["text"], record["unread"]
        tokens = encode_long([text], checkpoint.tokenizer, checkpoint.model, LENGTH, how)
        logit = predict_logits(checkpoint.model, tokens, 1)[0, names.index(record["label"])]
        assert record["logit"] == pytest.approx(logit, abs=1e-4) and record["error"] <= TOLERANCE
        total = sum(word["attribution"] for word in record["words"])
        assert total == pytest.approx(record["logit"] - record["base_logit"], rel=0.06)
        assert record["read"] == len(text) - (end - start) and 0 < start < end < len(text)
        # 11 tokens at the beginning and 35 at the end, of which a word may lie across the place where reading stops
        assert len(checkpoint.tokenizer.tokenize(text[:start])) in range(11, 15)
        assert len(checkpoint.tokenizer.tokenize(text[end:])) in range(35, 39)
        strong = [word for word in record["words"] if word["attribution"]]
        assert all(word["end"] <= start or word["start"] >= end for word in strong)
        assert strong[0]["start"] < start and strong[-1]["end"] > end


def test_a_text_that_fits_has_the_same_explanation(run_on, long_rows):
    lines, made = as_lines(long_rows(1)), []
    for mode in ("cut", "head_tail", "windows"):
        _, folder = run_on(script.main, "bad_case.txt", lines, "--long_texts", mode)
        made.append([(folder / f"word_interpret.{kind}").read_bytes() for kind in ("jsonl", "html")])
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "bert"])
def test_words_of_windows(families, family):
    """Whatever the text has at the ends of its windows, tokens stay in their words, and words in their windows."""
    model, tokenizer = families[family]
    model.eval()
    explainer = Explainer(model, tokenizer, "grad", 12, long_texts=LongTexts("windows", stride=7, max_windows=5))

    @given(st.text("ab1, .。！\n\t\u3000\u200bÉİ中文字雨😀ﬁ[SEP]'", max_size=60))
    @settings(max_examples=25, deadline=None)
    def check(text):
        text = text.strip()
        found = explainer.explain(text, [0, 2])
        assert "".join(text[start:end] for start, end in found.spans).split() == "".join(text.split()).split()
        assert np.isfinite(found.values).all()
        for (start, end), values in zip(found.passages if found.passages is not None else (), found.values):
            assert not any(values[i] for i, (a, b) in enumerate(found.spans) if b <= start or a >= end)

    check()


# -------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_those_of_windows_predicted_alone(run_on, checkpoint, long_rows, tmp_path):
    """The oracle predicts every window as a text of its own, and takes the highest logit of each label."""
    rows, names, f1 = long_rows(12), checkpoint.labels.names, {}
    for mode in ("windows", "cut"):
        flags = ("--long_texts", mode, "--report_file", tmp_path / "report.json", "--html", tmp_path / "page.html")
        run_on(evaluate_script.main, "dev.txt", as_lines(rows), *flags)
        f1[mode] = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["micro"]["f1"]
        labels = [label for case in data_of(tmp_path / "page.html")["cases"] for label in case[2]]
        assert {len(label) for label in labels} == ({3, 5} if mode == "windows" else {3})  # with and without a passage
    pooled = np.stack([windows_by_hand(checkpoint, text)[1].max(axis=0) for text, _ in rows])
    predicted = checkpoint.decision.decide(sigmoid(pooled), checkpoint.labels.parents)
    gold = np.array([[name in of_row for name in names] for _, of_row in rows])
    assert f1["windows"] == pytest.approx(2 * (gold & predicted).sum() / (gold.sum() + predicted.sum()))
    assert f1["windows"] > f1["cut"] + 0.05


@pytest.mark.parametrize("mode", ["windows", "cut"])
def test_thresholds_are_fitted_to_the_pooled_probabilities(run, trained, checkpoint, long_rows, tmp_path, mode):
    rows, names = long_rows(60), checkpoint.labels.names
    write_lines(tmp_path / "label.txt", lines_of(trained["news"][0] / "label.txt"))
    write_lines(tmp_path / "dev.txt", as_lines(rows))
    model = shutil.copytree(trained["news"][1], tmp_path / "model")
    where = ("--dataset_dir", tmp_path, "--params_path", model, "--device", "cpu", "--long_texts", mode)
    status, log = run(threshold_script.main, *where, "--mode", "single", "--force")
    assert status == 0, log
    logits = [windows_by_hand(checkpoint, text)[1] for text, _ in rows]
    pooled = np.stack([each.max(axis=0) if mode == "windows" else each[0] for each in logits])
    gold = np.array([[name in of_row for name in names] for _, of_row in rows])
    fitted = Decision.load(model / "decision.json").threshold
    assert fitted == fit_one(sigmoid(pooled), gold, "both")


@pytest.mark.parametrize(
    ("name", "flags", "output"),
    [
        ("sent_interpret", ("--interpret_input_file", "dev.txt"), "sent_interpret.txt"),
        ("sparse", ("--aug_strategy", "duplicate", "--sparse_num", "4", "--support_threshold", "0"), "sparse.txt"),
        ("dirty", ("--method", "representer"), "train_dirty_report.tsv"),
    ],
)
def test_the_other_scripts_read_windows(run_on, long_rows, tmp_path, monkeypatch, name, flags, output):
    """sent_interpret, sparse and dirty compare texts by the means of their windows' features."""
    from text_cls.neural import model

    seen, original = [], model.predict_features

    def predict_features(network, tokens, *more):
        seen.append((type(tokens).__name__, original(network, tokens, *more)))
        return seen[-1][1]

    monkeypatch.setattr(model, "predict_features", predict_features)
    rows = long_rows(20, 3)
    write_lines(tmp_path / "dev.txt", as_lines(rows[:5]))
    _, folder = run_on(importlib.import_module(name).main, "train.txt", as_lines(rows), *WINDOWS, *flags)
    assert lines_of(folder / output)
    assert ("Windows", len(rows)) in [(kind, len(features)) for kind, features in seen]


# --------------------------------------------------------------------------------------------------------------- pages


@pytest.fixture(scope="module")
def report(trained, checkpoint, tmp_path_factory):
    """Folder of the pages of evaluate.py and word_interpret.py, on texts of up to 8,000 characters."""
    dataset, model = trained["news"]
    folder = tmp_path_factory.mktemp("pages")
    rows = [line.split("\t")[0] for line in lines_of(dataset / "train.txt")]
    names = checkpoint.labels.names
    texts = ["短", "😀".join(rows[:4]), "😀".join(rows)[:8000]]
    write_lines(folder / "dev.txt", [f"{text}\t{names[3]},{names[40]}" for text in texts])
    write_lines(folder / "label.txt", names)
    where = ["--dataset_dir", str(folder), "--params_path", str(model), "--device", "cpu", *WINDOWS]
    assert evaluate_script.main([*where, "--html", str(folder / "report.html")]) == 0
    assert script.main([*where, "--interpreter", "grad"]) == 0
    return folder


@pytest.mark.parametrize("width", [1280, 390])
def test_a_pressed_label_marks_its_passage(report, checkpoint, width):
    cases = data_of(report / "report.html")["cases"]
    with chromium(width) as driver:
        driver.get((report / "report.html").as_uri())
        assert "read in windows" in driver.find_element("css selector", "#cases + .note").text
        for case, (_, text, labels) in zip(driver.find_elements("css selector", ".case"), cases, strict=True):
            chips, whole = case.find_elements("css selector", ".chip"), case.find_element("css selector", ".text")
            if text == "短":
                assert {chip.tag_name for chip in chips} == {"span"} and not case.find_elements("css selector", ".box")
                continue
            spans, logits = windows_by_hand(checkpoint, text)
            top = chips[0].rect["y"]
            assert len(chips) == len(labels) > 1
            for chip, (label, _, _, start, end) in [*zip(chips, labels)][:5]:
                assert [start, end] == [*spans[logits[:, label].argmax()]]
                driver.execute_script("arguments[0].focus({preventScroll: true})", chip)
                (passage,) = case.find_elements("css selector", ".passage")
                content = "return arguments[0].textContent"
                assert driver.execute_script(content, passage) == text[start:end]
                assert driver.execute_script(content, whole) == text
                place = f"characters {start + 1:,} to {end:,} of {len(text):,}"
                assert case.find_element("css selector", "[role=status]").text.endswith(place)
                pressed = [chip.get_attribute("aria-pressed") == "true" for chip in chips]
                assert sum(pressed) == 1 and pressed[chips.index(chip)] and chips[0].rect["y"] == top
                for box in case.find_elements("css selector", ".box"):
                    inside = passage.rect["y"] - box.rect["y"]
                    assert 0 <= inside < box.rect["height"]
            assert bool(case.find_elements("css selector", ".box")) == (len(text) > 600)
        assert_sound(driver)


@pytest.mark.parametrize("page", ["report.html", "word_interpret.html"])
def test_long_texts_are_collapsed_and_open(report, page):
    with chromium(1280) as driver:
        driver.get((report / page).as_uri())
        (box,) = driver.find_elements("css selector", ".box")
        (button,) = driver.find_elements("css selector", "button.open")
        assert box.rect["height"] < 300 and button.text == "Show all 8,000 characters"
        assert box.get_attribute("tabindex") == "0"
        button.send_keys("\n")
        assert box.rect["height"] > 1000 and button.get_attribute("aria-expanded") == "true"
        button.send_keys("\n")
        assert box.rect["height"] < 300 and button.get_attribute("aria-expanded") == "false"
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert box.rect["height"] > 1000 and not button.is_displayed()  # paper does not scroll
        assert_sound(driver)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_words_shows_the_passage_of_the_chosen_label(report, width):
    records, rows = records_of(report), data_of(report / "word_interpret.html")
    with chromium(width) as driver:
        driver.get((report / "word_interpret.html").as_uri())
        for case, row in zip(driver.find_elements("css selector", ".case"), rows, strict=True):
            for chip in case.find_elements("css selector", ".chip")[:5]:
                driver.execute_script("arguments[0].click()", chip)
                (record,) = (
                    r for r in records if r["line"] == row["line"] and chip.text == f"{r['status']}: {r['label']}"
                )
                content = "return arguments[0].textContent"
                paragraph = case.find_element("css selector", "p")
                assert driver.execute_script(content, paragraph) == row["text"]
                marked = [driver.execute_script(content, p) for p in case.find_elements("css selector", ".passage")]
                note = case.find_elements("css selector", "small")[-1].text
                if "passage" not in record:
                    assert not marked and "characters" not in note
                    continue
                start, end = record["passage"]
                assert marked == [row["text"][start:end]]
                assert f"Passage: characters {start + 1:,} to {end:,} of {len(row['text']):,}." in note
                marks = case.find_elements("css selector", "mark")
                strengths = [w for w in record["words"] if w["end"] > start and w["start"] < end]
                assert len(marks) == len(case.find_elements("css selector", ".passage mark")) == len(strengths)
                first = driver.execute_script("return arguments[0].title", marks[0]).replace("−", "-")
                assert float(first) == pytest.approx(strengths[0]["attribution"], rel=0.01, abs=1e-9)
        assert_sound(driver)
