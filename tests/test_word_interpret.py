import html
import json
import re
import shutil
import subprocess
import unicodedata

import nbformat
import numpy as np
import pytest
from browser import assert_sound, chromium
from conftest import ROOT, command_line, lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient
from texts import HARD

import word_interpret as script
from attribution import TOLERANCE, Attribution, Explainer
from text_cls.cli import UserError
from text_cls.decision import Decision
from token_spans import TokenSpans, word_spans, words_of_tokens
from word_interpret_page import write_interpretation_page

HOSTILE = '<script>alert("x")</script> & "quotes" 😀👨‍👩‍👧 </b>'


@pytest.fixture(scope="module")
def models(trained):
    """{task: (model, tokenizer)}"""
    from text_cls.cli import Problems
    from text_cls.neural.checkpoint import load_checkpoint, load_model

    loaded = {}
    for task, (_, folder) in trained.items():
        checkpoint = load_checkpoint(str(folder), None, Problems())
        load_model(checkpoint, "cpu")
        loaded[task] = checkpoint.model, checkpoint.tokenizer
    return loaded


@pytest.fixture
def interpret(run, trained, tmp_path):
    """interpret(task, lines, *flags) -> (status, log, records of the .jsonl file, data set's folder)"""

    def call(task, lines, *flags):
        dataset, model = trained[task]
        folder = tmp_path / task
        folder.mkdir(exist_ok=True)
        shutil.copy(dataset / "label.txt", folder)
        write_lines(folder / "bad_case.txt", lines)
        where = ("--dataset_dir", folder, "--params_path", model, "--device", "cpu")
        status, log = run(script.main, *where, *flags)
        file = folder / "word_interpret.jsonl"
        return status, log, [json.loads(line) for line in lines_of(file)] if file.exists() else [], folder

    return call


def cases_of(trained, task, count=6):
    """Rows of dev.txt as bad_case.txt has them; the prediction is that of the next row."""
    rows = [line.split("\t") for line in lines_of(trained[task][0] / "dev.txt")[: count + 1]]
    labels = [row[1] if len(row) > 1 else "" for row in rows]
    return ["Text\tLabel\tPrediction", *(f"{row[0]}\t{a}\t{b}" for row, a, b in zip(rows, labels, labels[1:]))]


# ------------------------------------------------------------------------------------------------------------ the sums


@pytest.mark.parametrize("task", ["news", "reviews"])
def test_integrated_gradients_sum_to_the_logit_difference(models, trained, task):
    model, tokenizer = models[task]
    explainer = Explainer(model, tokenizer, "ig", 48)
    for line in lines_of(trained[task][0] / "dev.txt")[:8]:
        found = explainer.explain(line.partition("\t")[0], [0, 3, 5, 7])
        difference = found.logits - found.base_logits
        assert np.abs(difference).max() > 0.1
        assert (np.abs(found.values.sum(axis=1) - difference) <= 0.05 * np.abs(difference)).all()
        assert (found.errors <= TOLERANCE).all()


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "bert", "roberta"])
def test_sums_hold_for_every_family(families, family):
    model, tokenizer = families[family]
    model.eval()
    found = Explainer(model, tokenizer, "ig", 32).explain("暴雨导致 3 条道路 closed，学校停课", [0, 4])
    assert (found.errors <= TOLERANCE).all() and len(found.spans) > 5 and found.values.any()


def test_gradients_are_those_of_the_model(models):
    """Against differences of the logits. Without compat.gradient, Paddle's LayerNorm gets them wrong on CPUs."""
    import paddle

    from text_cls.neural.compat import gradient

    model, tokenizer = models["news"]
    inputs = {name: paddle.to_tensor([ids]) for name, ids in tokenizer("地震后学校停课").items()}
    embeddings = model.get_input_embeddings()(inputs["input_ids"]).detach()
    step = paddle.to_tensor(np.random.default_rng(0).normal(size=embeddings.shape).astype(np.float32))

    def logit(values):
        hook = model.get_input_embeddings().register_forward_post_hook(lambda *_: values)
        try:
            return model(**inputs)[0, 3]
        finally:
            hook.remove()

    embeddings.stop_gradient = False
    slope = gradient(logit(embeddings), embeddings, model)
    difference = (logit(embeddings + 1e-3 * step) - logit(embeddings - 1e-3 * step)).item() / 2e-3
    assert (slope * step).sum().item() == pytest.approx(difference, rel=0.02)


def test_lime_finds_what_leaving_a_word_out_does(models):
    """On a text of few words LIME's weights and the differences made by each word alone must rank alike."""
    import paddle

    model, tokenizer = models["news"]
    text = "暴雨橙色预警，全市学校停课"
    found = Explainer(model, tokenizer, "lime", 48, seed=5).explain(text, [45])
    drops = []
    for start, end in found.spans:
        ids = tokenizer(text)["input_ids"]
        whole = model(paddle.to_tensor([ids]))[0, 45].item()
        changed = [tokenizer.unk_token_id if start + 1 <= i < end + 1 else token for i, token in enumerate(ids)]
        drops.append(whole - model(paddle.to_tensor([changed]))[0, 45].item())
    assert np.corrcoef(found.values[0], drops)[0, 1] > 0.6


@pytest.mark.parametrize("method", ["lime", "grad"])
def test_the_same_seed_gives_the_same_attributions(models, method):
    model, tokenizer = models["reviews"]
    explainers = [Explainer(model, tokenizer, method, 48, seed=seed) for seed in (3, 3, 4)]
    explainers[1].explain("别的文字", [0])  # what came before does not matter
    first, again, other = (one.explain("房间很干净，床也舒服", [0, 1]).values for one in explainers)
    assert (first == again).all() and not (first == other).all() and np.isfinite(first).all()


def test_gradient_shap_is_near_integrated_gradients(models):
    model, tokenizer = models["news"]
    text = "暴雨橙色预警，全市学校停课"
    exact, sampled = (Explainer(model, tokenizer, name, 48).explain(text, [45]).values[0] for name in ("ig", "grad"))
    assert np.corrcoef(exact, sampled)[0, 1] > 0.8


def test_errors():
    found = Attribution([(0, 1)], np.array([[2.0], [0.5], [0.0]]), np.array([3, 1, 0.0]), np.array([1, 1, 0.0]), 16)
    assert found.errors.tolist() == [0, np.inf, 0]


# ------------------------------------------------------------------------------------------------------------- aligning


@pytest.mark.parametrize("family", ["ernie", "ernie_m", "bert"])
def test_tokens_are_traced_to_their_characters(families, family):
    tokenizer = families[family][1]
    find = TokenSpans(tokenizer)

    @given(
        st.one_of(st.text(max_size=40), st.text("ab1, .Éé\u0301İΣ中文字😀\u200d\u200b\u3000한ﬁ㎏²…[CLS]'", max_size=30))
    )
    @settings(max_examples=150, deadline=None)
    def check(text):
        text = text.strip()
        spans = find(text)  # refuses what is not the tokenizer's own tokens
        assert len(spans) == len(tokenizer.tokenize(text))
        assert ((0 <= spans[:, 0]) & (spans[:, 0] < spans[:, 1]) & (spans[:, 1] <= len(text))).all()
        for token, (start, end) in zip(tokenizer.tokenize(text), spans):
            if len(token) == 1 and "\u4e00" <= token <= "\u9fff":
                # The tokenizers write a compatibility ideograph, as U+FA2A, as the character it stands for.
                assert token in unicodedata.normalize("NFKC", text[start:end])
        words, word_of = words_of_tokens(word_spans(text), spans)
        covered = "".join(text[start:end] for start, end in words)
        assert "".join(covered.split()) == "".join(text.split())  # the words tile the text, spaces aside
        assert all(first[1] <= second[0] for first, second in zip(words, words[1:]))
        for (start, end), i in zip(spans, word_of):
            assert words[i][0] <= start and end <= words[i][1]

    check()
    for text in HARD:
        find(text.strip())


def test_spans_by_hand(families):
    assert TokenSpans(families["ernie"][1])("龘 地震[SEP]é\u0301☃").tolist() == [
        [0, 1],
        [2, 3],
        [3, 4],
        [4, 9],
        [9, 10],
        [11, 12],
    ]
    assert words_of_tokens([(0, 2), (2, 3), (4, 6)], np.array([[1, 3], [4, 5], [5, 6]]))[0] == [(0, 3), (4, 6)]


def test_another_kind_of_tokenizer_is_refused(families, monkeypatch):
    tokenizer = families["ernie"][1]
    monkeypatch.setattr(type(tokenizer), "tokenize", lambda self, text: ["?"])
    with pytest.raises(UserError, match="cannot trace its tokens"):
        TokenSpans(tokenizer)("地震")


# ------------------------------------------------------------------------------------------------------------ the files


@pytest.mark.parametrize("method", ["ig", "lime", "grad"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_statuses_and_records(interpret, trained, task, method):
    lines = cases_of(trained, task, 2)
    status, log, records, folder = interpret(task, lines, "--interpreter", method, "--key_words_num", 3)
    assert status == 0, log
    names = lines_of(folder / "label.txt")
    by_line = {}
    for record in records:
        by_line.setdefault(record["line"], {})[record["label"]] = record
    for number, line in enumerate(lines[1:], 2):
        text, gold, predicted = (
            {*column.split(",")} - {""} if i else column for i, column in enumerate(line.split("\t"))
        )
        found = by_line.get(number, {})
        assert {label: record["status"] for label, record in found.items()} == {
            label: "missed" if label not in predicted else "right" if label in gold else "wrong"
            for label in gold | predicted
        }
        assert list(found) == [name for name in names if name in found]
        for record in found.values():
            assert record["text"] == text and record["method"] == method and set(record["gold"]) == gold
            assert all(text[word["start"] : word["end"]] == word["word"] for word in record["words"])
            strengths = sorted((abs(word["attribution"]) for word in record["words"]), reverse=True)
            assert [abs(value) for _, value in record["key_words"]] == strengths[:3]
            if method == "lime":
                assert record["base_logit"] is record["error"] is None
            if method == "ig":
                total = sum(word["attribution"] for word in record["words"])
                assert record["error"] <= 0.05 and total == pytest.approx(
                    record["logit"] - record["base_logit"], rel=0.06
                )
    assert f"Attributions of 2 texts saved in {folder / 'word_interpret.html'}" in log


def test_the_model_predicts_if_the_file_does_not(interpret, trained, run, tmp_path):
    import predict

    texts = [line.partition("\t")[0] for line in lines_of(trained["news"][0] / "dev.txt")[:5]]
    status, log, records, folder = interpret("news", texts)
    assert status == 0 and {record["status"] for record in records} == {"predicted"}
    write_lines(folder / "data.txt", texts)
    where = ("--dataset_dir", folder, "--params_path", trained["news"][1], "--device", "cpu")
    assert run(predict.main, *where, "--output_file", tmp_path / "out.txt")[0] == 0
    for number, line in enumerate(lines_of(tmp_path / "out.txt"), 1):
        wanted = [name for name in line.partition("\t")[2].split(",") if name]
        assert [record["label"] for record in records if record["line"] == number] == wanted
    assert all((record["probability"] > 0.5) == (record["logit"] > 0) for record in records if record["probability"])


@pytest.mark.parametrize("method", ["ig", "lime", "grad"])
def test_odd_rows(interpret, trained, method):
    names = lines_of(trained["reviews"][0] / "label.txt")
    lines = ["好", f"{'长文' * 1000}\t{names[0]}\t", f"{HOSTILE}\t{','.join(names[:20])}\t{names[1]}", "😀", "无\t\t"]
    status, log, records, _ = interpret("reviews", lines, "--interpreter", method)
    assert status == 0, log
    assert {record["line"] for record in records} >= {2, 3} and not [r for r in records if r["line"] == 5]
    assert "1 texts exceed the maximum length" in log and "have neither predicted nor gold labels" in log
    (long,) = [record for record in records if record["line"] == 2]
    assert long["read"] == 46  # 48 tokens less [CLS] and [SEP]
    assert all(word["attribution"] == 0 for word in long["words"] if word["start"] >= 46)
    assert any(word["attribution"] for word in long["words"] if word["start"] < 46)
    assert len([record for record in records if record["line"] == 3]) == min(20, len(names))


def test_logits_are_those_of_the_probabilities_shown(run, trained, tmp_path):
    """Also if the decision has a temperature."""
    dataset, model = (shutil.copytree(folder, tmp_path / folder.name) for folder in trained["news"])
    Decision(temperature=2.0).save(model / "decision.json")
    write_lines(dataset / "bad_case.txt", cases_of(trained, "news", 2))
    where = ("--dataset_dir", dataset, "--params_path", model, "--device", "cpu")
    status, log = run(script.main, *where)
    assert status == 0, log
    records = [json.loads(line) for line in lines_of(dataset / "word_interpret.jsonl")]
    for record in records:
        assert 1 / (1 + np.exp(-record["logit"])) == pytest.approx(record["probability"], abs=1e-5)
        total = sum(word["attribution"] for word in record["words"])
        assert total == pytest.approx(record["logit"] - record["base_logit"], rel=0.06)


def test_another_models_file_and_max_rows(interpret, trained):
    status, log, records, _ = interpret("news", cases_of(trained, "news"), "--max_rows", 2)
    assert status == 0 and {record["line"] for record in records} == {2, 3}
    assert "rows have a prediction that differs from this model's" in log


def test_faults(interpret, trained, run, tmp_path):
    status, log, *_ = interpret("news", ["文\t没有的标签\t", "a\tb\tc\td"], "--device", "gpu")
    assert status == 2 and "3 problems" in log and "use --device cpu" in log and "3 tabs" in log
    (tmp_path / "empty").mkdir()
    where = ("--dataset_dir", tmp_path / "empty", "--params_path", trained["news"][1], "--device", "cpu")
    status, log = run(script.main, *where)
    assert status == 2 and "run evaluate.py, which writes wrong rows to bad_case.txt" in log


# --------------------------------------------------------------------------------------------------------------- people


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page(interpret, trained, width):
    lines = [*cases_of(trained, "news", 4), f"{HOSTILE * 3}\t\t体育赛事", f"{'很长' * 1000}\t体育赛事\t"]
    status, _, records, folder = interpret("news", lines)
    assert status == 0
    with chromium(width) as driver:
        driver.get(f"file://{folder / 'word_interpret.html'}")
        assert_sound(driver)
        texts = [
            driver.execute_script("return arguments[0].textContent", line)
            for line in driver.find_elements("css selector", ".case p")
        ]
        assert texts == [line.split("\t")[0].strip() for line in lines[1:]]  # hostile text stays text, whole
        assert not driver.find_elements("css selector", ".case script, .case b")
        assert driver.find_elements("css selector", ".unread")
        marks = driver.find_elements("css selector", ".case mark")
        colours = {mark.value_of_css_property("background-color") for mark in marks[:200]}
        assert any("37, 99, 168" in colour for colour in colours) and any("214, 121, 20" in c for c in colours)
        driver.find_element("css selector", "#status option[value=missed]").click()
        missed = {record["line"] for record in records if record["status"] == "missed"}
        assert len(driver.find_elements("css selector", ".case")) == len(missed)
        assert driver.find_element("id", "count").text == f"{len(missed)} of 6 texts"
        pressed = driver.find_elements("css selector", ".chip[aria-pressed=true]")
        assert pressed and all(chip.text.startswith("missed") for chip in pressed)
        driver.find_element("css selector", "#label option[value=体育赛事]").click()
        pressed = driver.find_elements("css selector", ".chip[aria-pressed=true]")
        assert {chip.text for chip in pressed} == {"missed: 体育赛事"}
        assert_sound(driver)


def test_hundreds_of_rows(tmp_path):
    entry = {
        "label": "甲",
        "status": "right",
        "probability": 0.9,
        "logit": 2.0,
        "base_logit": -1.0,
        "error": 0.2,
        "attributions": [1.0, -2.0, 0.0],
        "key_words": [("乙", -2.0)],
    }
    rows = [
        {"line": i, "text": "甲乙丙", "unread": None, "spans": [(0, 1), (1, 2), (2, 3)], "labels": [entry] * (i % 3)}
        for i in range(700)
    ]
    write_interpretation_page(tmp_path / "page.html", rows, "integrated gradients", TOLERANCE)
    with chromium() as driver:
        driver.get(f"file://{tmp_path / 'page.html'}")
        assert len(driver.find_elements("css selector", ".case")) == 20
        back, forward = driver.find_elements("css selector", "#pager button")
        assert driver.find_element("css selector", "#pager span").text == "1–20 of 700"
        assert "Inexact" in driver.page_source and not back.is_enabled()
        forward.click()
        assert driver.find_element("css selector", ".case small").text == "line 20"
        assert_sound(driver)


def test_the_notebook_runs(trained, tmp_path, monkeypatch):
    """From top to bottom, by Jupyter's own client; the three pages are in it afterwards."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(ROOT / "analysis" / "word_interpret.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    dataset = shutil.copytree(trained["news"][0], tmp_path / "data")
    for name, value in (("DATASET_DIR", dataset), ("PARAM_PATH", trained["news"][1])):
        assert cells[0].source.count(f"{name} = ") == 1
        cells[0].source = cells[0].source.replace(f"{name} = ", f"{name} = {str(value)!r}  # ")
    client = NotebookClient(notebook, timeout=None, kernel_name="python3")
    client.execute(cwd=str(ROOT / "analysis"))
    shown = [output.data["text/html"] for cell in cells for output in cell.outputs if "data" in output]
    pages = [html.unescape(re.search(r'srcdoc="([^"]*)"', each)[1]) for each in shown]
    names = ("evaluation.html", "word_interpret.html", "sent_interpret.html")
    assert pages == [(dataset / name).read_text(encoding="utf-8") for name in names]
    assert "(0." in cells[4].outputs[0].text


def test_no_banner_from_the_libraries(trained, tmp_path):
    """TrustAI, jieba and IPython print and warn while they are imported."""
    dataset = shutil.copytree(trained["news"][0], tmp_path / "data")
    write_lines(dataset / "bad_case.txt", cases_of(trained, "news", 1))
    where = ("--dataset_dir", dataset, "--params_path", trained["news"][1], "--device", "cpu")
    answer = subprocess.run(
        command_line("analysis/word_interpret.py", *where), cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert answer.returncode == 0 and answer.stdout == ""
    strange = [line for line in answer.stderr.splitlines() if not line.startswith("[20")]
    assert not strange, strange
