"""Bundles that read long texts in windows, in the predictor and infer.py."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from conftest import lines_of, plain, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

import infer
from text_cls.bundle import open_bundle
from text_cls.cli import UserError
from text_cls.long_texts import HEAD_TAIL, WINDOWS, LongTexts, texts_in_parts
from text_cls.rows import one_line, place_in
from text_cls.serving import predictor as module
from text_cls.serving.predictor import Predictor

PIECES = [
    "台风登陆，学校停课一天。",
    "足球！",
    "公司裁员三成，股价当日大跌；",
    "好" * 60,
    "Café ABC 123. ",
    "[SEP]😀",
    "\n",
    "1",
]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def reads(windows_bundle, bundles):
    """(the predictor with windows, and one of the same model without)."""
    return Predictor(str(windows_bundle), num_threads=1), Predictor(str(bundles["news"]), num_threads=1)


def long_texts(dataset, count=6, rows=12):
    """Texts of several rows each."""
    texts = [line.partition("\t")[0] for line in lines_of(dataset / "train.txt")]
    return ["。".join(texts[i * rows : (i + 1) * rows]) for i in range(count)]


@settings(max_examples=40)
@given(texts=TEXTS)
def test_a_text_has_the_highest_probabilities_of_its_windows(reads, texts):
    """Each predicted as a text of its own by the same model, whose bundle knows nothing of windows."""
    windowed, cut = reads
    windows, found = windowed.encode(texts), windowed.probabilities(texts)
    assert len(windows) == len(found) == len(texts)
    for i, text in enumerate(texts):
        spans = windows.spans[windows.offsets[i] : windows.offsets[i + 1]]
        assert spans[0][0] == 0 and (spans[1:, 0] == spans[:-1, 1]).all()
        assert len(spans) <= 6 and (spans[-1][1] == len(text) or len(spans) == 6)
        alone = cut.probabilities([text[start:end] for start, end in spans])
        assert np.abs(alone.max(axis=0) - found[i]).max() < 1e-5


@settings(max_examples=40)
@given(texts=TEXTS)
def test_a_passage_has_the_probability_of_its_label(reads, texts):
    windowed, cut = reads
    windowed.decision = cut.decision
    answers = list(windowed.predict_with_evidence(texts))
    assert [names for names, *_ in answers] == [names for names, _ in windowed.predict(texts)]
    for text, (names, scores, passages) in zip(texts, answers):
        assert len(names) == len(scores) == len(passages)
        alone = cut.probabilities([text[start:end] for start, end in passages])
        numbers = [cut.labels.index[name] for name in names]
        assert np.abs(alone[np.arange(len(names)), numbers] - scores).max(initial=0) < 1e-5


def test_texts_that_fit_one_window_get_the_same_bytes(run, reads, windows_bundle, bundles, trained, tmp_path):
    rows, files = [line.partition("\t")[0] for line in lines_of(trained["news"][0] / "train.txt")], []
    tokens = reads[1].tokenizer.encode(rows, 1 << 30)
    texts = [row for row, ids in zip(rows, tokens) if len(ids) <= 48]
    assert 100 < len(texts) < len(rows)
    write_lines(tmp_path / "data.txt", texts)
    for name, folder in (("windows", windows_bundle), ("cut", bundles["news"])):
        flags = ("--device", "cpu", "--model_path_prefix", folder, "--dataset_dir", tmp_path, "--scores")
        status, log = run(infer.main, *flags, "--output_file", tmp_path / name)
        assert status == 0 and ("are read in windows" in log) == (name == "windows"), log
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_memory_does_not_grow_with_the_texts(reads, trained, monkeypatch):
    """Few texts are tokenised at a time, few logits are held, and windows of several texts share a run."""
    windowed, _ = reads
    texts = long_texts(trained["news"][0], 20)
    wanted, whole = windowed.probabilities(texts), list(windowed.predict_with_evidence(texts))
    held, read, runs = [], [], []
    real, encode, batch = windowed._run, windowed.encode, windowed.session
    monkeypatch.setattr(module, "CHARACTERS", 3 * len(texts[0]))
    monkeypatch.setattr(module, "OUTPUTS", 15 * windowed.columns)
    monkeypatch.setattr(windowed, "_run", lambda *args: (held.append(args[3] - args[2]), real(*args))[1])
    monkeypatch.setattr(windowed, "encode", lambda some, *more: (read.append(len(some)), encode(some, *more))[1])

    class Session:
        def run(self, names, inputs):
            runs.append(len(inputs["input_ids"]))
            return batch.run(names, inputs)

    monkeypatch.setattr(windowed, "session", Session())
    assert np.abs(windowed.probabilities(texts) - wanted).max() < 1e-5
    parts = list(windowed.predict_with_evidence(texts))
    assert [(names, passages) for names, _, passages in parts] == [(names, passages) for names, _, passages in whole]
    assert max(held) <= 15 and max(read) <= 6 and sum(read) == 40 and max(runs) > 6


def test_texts_in_parts():
    assert list(texts_in_parts(["ab", "c", "defg", "", "h"], 3)) == [["ab", "c"], ["defg"], ["", "h"]]
    assert list(texts_in_parts([], 3)) == []


def test_no_texts(reads):
    windowed, _ = reads
    assert windowed.probabilities([]).shape == windowed.run(windowed.encode([])).shape == (0, 55)
    assert list(windowed.predict_with_evidence([])) == []


# --------------------------------------------------------------------------------------------------------- the manifest


def changed(bundle, target, record):
    """A copy of a bundle whose manifest has this record."""
    shutil.copytree(bundle, target)
    manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    (target / "manifest.json").write_text(json.dumps({**manifest, "long_texts": record}), encoding="utf-8")
    return target


def test_the_exporter_writes_how_texts_are_read(windows_bundle, bundles):
    record = json.loads((windows_bundle / "manifest.json").read_text(encoding="utf-8"))["long_texts"]
    assert record == {"mode": "windows", "stride": None, "max_windows": 6, "pooling": "max"}
    assert open_bundle(str(windows_bundle)).long_texts == LongTexts(WINDOWS, None, 6)
    assert "long_texts" not in json.loads((bundles["news"] / "manifest.json").read_text(encoding="utf-8"))
    assert open_bundle(str(bundles["news"])).long_texts == LongTexts()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "all"}, "long_texts.mode must be one of cut, head_tail, windows, not 'all'"),
        ({"max_windows": 0}, "long_texts.max_windows must be a whole number of at least 1, not 0"),
        ({"step": 3}, "the field 'step' of long_texts is unknown"),
    ],
)
def test_a_faulty_record_is_refused(bundles, tmp_path, changes, message):
    folder = changed(bundles["news"], tmp_path / "bundle", {**LongTexts().record(), **changes})
    with pytest.raises(UserError, match=message):
        open_bundle(str(folder))


def test_head_and_tail(bundles, reads, trained, tmp_path):
    """The first quarter of the tokens and the last ones of a long text, all of a short one."""
    folder = changed(bundles["news"], tmp_path / "bundle", LongTexts(HEAD_TAIL).record())
    predictor, text = Predictor(str(folder), num_threads=1), long_texts(trained["news"][0], 1)[0]
    whole = predictor.tokenizer.encode([text], 1 << 30)[0]
    rows = predictor.encode([text, "足球"])
    assert rows.columns["input_ids"].tolist() == [
        *[*whole[:12], *whole[-36:]],  # 48 tokens: [CLS] and 11 of the text; 35 and [SEP]
        *predictor.tokenizer.encode(["足球"], 48)[0],
    ]
    assert (predictor.probabilities(["足球"]) == reads[1].probabilities(["足球"])).all()


def test_log_sum_exp(windows_bundle, reads, trained, tmp_path):
    folder = changed(windows_bundle, tmp_path / "bundle", LongTexts(WINDOWS, None, 6, "lse").record())
    predictor, texts = Predictor(str(folder), num_threads=1), long_texts(trained["news"][0], 2)
    windows = predictor.encode(texts)
    logits = reads[1].run(windows.tokens).astype(np.float64)
    wanted = [np.log(np.exp(part).sum(axis=0)) for part in np.split(logits, windows.offsets[1:-1])]
    assert np.abs(predictor.run(windows) - wanted).max() < 1e-4


# ------------------------------------------------------------------------------------------------------------- infer.py


@pytest.fixture
def files(trained, tmp_path):
    """Rows: long ones, one without a text, one that is too long, and one with line breaks."""
    texts = long_texts(trained["news"][0], 3, 5)
    rows = [texts[0], "", texts[1] * 3, texts[2].replace("。", "\r\n\n") + "\n\t", f" \n\n{texts[2]}"]
    write_lines(tmp_path / "in.jsonl", [json.dumps({"id": i, "text": row}) for i, row in enumerate(rows)])
    return tmp_path, rows


def test_evidence_in_files(run, reads, windows_bundle, files):
    folder, rows = files
    where = ("--device", "cpu", "--model_path_prefix", windows_bundle, "--input_file", folder / "in.jsonl")
    logs = {}
    for name in ("out.jsonl", "out.csv", "out.parquet", "out.txt"):
        status, logs[name] = run(infer.main, *where, "--output_file", folder / name, "--evidence", "--top_k", 3)
        assert status == 0, logs[name]
        logs[name] = plain(logs[name])
    found = [json.loads(line) for line in lines_of(folder / "out.jsonl")]
    windowed, cut = reads
    assert [list(row) for row in found] == [["id", "text", "labels", "scores", "evidence"]] * 5
    assert [len(row["labels"]) for row in found] == [len(row["evidence"]) for row in found] == [3, 0, 3, 3, 3]
    for row in found:
        for name, score, (start, end) in zip(row["labels"], row["scores"], row["evidence"]):
            passage = one_line(row["text"][start:end])
            assert cut.probabilities([passage])[0, cut.labels.index[name]] == pytest.approx(score, abs=2e-5)
            assert any(line.startswith("evidence for ") and passage.strip() in line for line in logs["out.jsonl"])
    joined = [",".join(f"{start}..{end}" for start, end in row["evidence"]) for row in found]
    with open(folder / "out.csv", encoding="utf-8-sig", newline="") as file:
        assert [row["evidence"] for row in csv.DictReader(file)] == joined
    table = pyarrow.parquet.read_table(folder / "out.parquet")
    assert table["evidence"].to_pylist() == [row["evidence"] for row in found]
    lines = [line.split("\t") for line in lines_of(folder / "out.txt")]
    assert [line[2] for line in lines[:3]] == joined[:3] and lines[3][2] != joined[3]
    for row, (text, _, passages) in zip(found, lines):  # places in the text as this file has it
        for (start, end), passage in zip(row["evidence"], passages.split(",")):
            assert text[slice(*map(int, passage.split("..")))].strip() == one_line(row["text"][start:end]).strip()
    unread = "1 texts have more windows than the 6 that the model reads; their ends were not read"
    assert any(line.startswith(unread) for line in logs["out.csv"])


@given(text=st.text(st.sampled_from("a\n\r\t ")), place=st.integers(0, 30))
def test_a_place_in_a_text_with_line_breaks(text, place):
    written = one_line(text)
    if place <= len(written):
        assert one_line(text[: place_in(text, place)]) == written[:place]


def test_perf_counts_texts_that_are_not_read_to_their_end(run, windows_bundle, trained, tmp_path):
    """Of all texts, not of those of the warm-up."""
    name, texts = (
        lines_of(trained["news"][0] / "label.txt")[0],
        [text * 3 for text in long_texts(trained["news"][0], 3)],
    )
    write_lines(tmp_path / "dev.txt", [f"{text}\t{name}" for text in [texts[0], *["足球"] * 255, *texts[1:]]])
    where = ("--device", "cpu", "--model_path_prefix", windows_bundle, "--dataset_dir", tmp_path, "--perf")
    status, log = run(infer.main, *where)
    assert status == 0 and "3 texts have more windows than the 6" in log and "sample nums: 258" in log, log


def test_a_bundle_without_windows_has_no_evidence(run, bundles, reads, trained, tmp_path):
    where = ("--device", "cpu", "--model_path_prefix", bundles["news"], "--dataset_dir", trained["news"][0])
    status, log = run(infer.main, *where, "--output_file", tmp_path / "out.txt", "--evidence")
    assert status == 2 and "--evidence: the model reads no windows of long texts" in log
    assert "train.py --long_texts windows" in log and not (tmp_path / "out.txt").exists()
    with pytest.raises(UserError, match="reads no windows of long texts"):
        next(reads[1].predict_with_evidence(["足球"]))
