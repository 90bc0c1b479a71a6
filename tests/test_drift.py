import json
import shutil

import numpy as np
import pytest
from browser import assert_sound, chromium
from conftest import lines_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reference import reference_of

import drift as script
from drift_measures import estimated_f1, gold_rates, holm, newcombe, wilson
from text_cls.decision import Decision
from text_cls.reference import PREDICTED, REFERENCE, Counts, make_reference

# ----------------------------------------------------------------------------------------------------------- measures


def test_intervals_are_those_of_newcombe_1998():
    """Newcombe 1998, "Interval estimation for the difference between independent proportions", table II, method 10."""
    cases = {(56, 70, 48, 80): (0.0524, 0.3339), (9, 10, 3, 10): (0.1705, 0.8090), (10, 10, 0, 20): (0.6791, 1.0)}
    for (a, m, b, n), (low, high) in cases.items():
        assert newcombe(b, n, a, m) == pytest.approx((low, high), abs=6e-5)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=6e-5)  # Newcombe 1998, table I, method 3


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).tolist() == [] and holm([0.9, 0.8]).tolist() == [1, 1]


@given(st.integers(0, 50), st.sampled_from([0.1, 0.5, 0.9]))
@settings(deadline=None, max_examples=20)
def test_the_estimate_for_dev_itself_is_the_f1_of_dev(seed, threshold):
    reference, *_ = reference_of(60, 4, seed, Decision(threshold=threshold))
    found = estimated_f1(reference, reference.counts, 3)
    assert found["micro_f1"][0] == pytest.approx(reference.micro_f1, abs=1e-6)
    assert found["macro_f1"][0] == pytest.approx(reference.macro_f1, abs=1e-6)
    assert found["micro_f1_drop"][1] <= 0 <= found["micro_f1_drop"][2]


def test_a_bin_without_scores_on_dev_is_worth_what_its_neighbours_are():
    reference, *_ = reference_of(2, 1)
    reference.counts.scores[:] = 0
    reference.counts.scores[PREDICTED, [4, 8], 0] = 10, 20
    reference.gold_scores[:] = 0
    reference.gold_scores[PREDICTED, [4, 8]] = 2, 12
    assert gold_rates(reference)[PREDICTED, 4:9] == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])
    assert gold_rates(reference)[PREDICTED, [0, -1]] == pytest.approx([0.2, 0.6])
    assert (gold_rates(reference)[1 - PREDICTED] == 0).all()


def test_the_estimate_falls_with_the_scores_as_the_f1_does():
    """Rows drawn from dev with other weights: every score still means what it meant."""
    random, labels = np.random.default_rng(5), 5
    probabilities = random.beta(0.3, 0.3, (4000, labels)).astype(np.float32)
    gold = random.random(probabilities.shape) < probabilities
    from text_cls.rows import Labels
    from text_cls.scores import scores

    names, tokens = Labels([*"abcde"]), (np.ones(2000, dtype=int), 1, 0)
    reference = make_reference("dev.txt", names, Decision(), probabilities[:2000], gold[:2000], tokens)
    unsure = np.abs(probabilities[2000:] - 0.5).mean(axis=1).argsort()[:600] + 2000
    counts, predicted = Counts.none(labels), probabilities[unsure] > 0.5
    counts.add_predictions(probabilities[unsure], predicted)
    found, true = estimated_f1(reference, counts, 3), scores(gold[unsure], predicted)
    assert true["micro_f1"] < reference.micro_f1 - 0.05
    assert found["micro_f1"][1] <= true["micro_f1"] <= found["micro_f1"][2]
    assert found["macro_f1"][0] == pytest.approx(true["macro_f1"], abs=0.03)
    assert found["micro_f1_drop"][1] > 0


# ------------------------------------------------------------------------------------------------------------- script


@pytest.fixture
def compare(run, trained, bundles):
    """compare(*flags, bundle=True) -> (status, log) of drift.py with the hierarchical model."""

    def call(*flags, folder=None, dataset=None):
        where = (
            ("--bundle", folder or bundles["news"]) if folder != "checkpoint" else ("--params_path", trained["news"][1])
        )
        return run(script.main, "--dataset_dir", dataset or trained["news"][0], "--device", "cpu", *where, *flags)

    return call


@pytest.mark.parametrize("folder", [None, "checkpoint"])
def test_dev_does_not_drift_from_dev(compare, folder, tmp_path):
    limits = ("--max_changed_labels", 0, "--max_without_label", 0, "--max_unknown_tokens", 0, "--max_f1_drop", 0)
    flags = ("--data_file", "dev.txt", "--report_file", tmp_path / "r.json", *limits)
    status, log = compare(*flags, folder=folder)
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert status == 0, log
    assert report["rows"] == {"before": 60, "after": 60} and report["changed_labels"] == 0 and not report["beyond"]
    assert report["f1"]["micro_f1"][0] == pytest.approx(report["f1"]["reference"]["micro_f1"], abs=1e-4)
    assert report["scores"]["distance"] < 0.001 and report["lengths"]["distance"] == 0


@pytest.fixture
def shifted(trained, tmp_path):
    """A data set whose new.txt has 200 texts of one kind, and characters that no model knows."""
    dataset = shutil.copytree(trained["news"][0], tmp_path / "data")
    texts = [line.split("\t")[0] for line in lines_of(dataset / "train.txt") if "灾害事故" in line][:40]
    write_lines(dataset / "new.txt", [f"{text} 𠮷𠮷𠮷 {i}" for i in range(5) for text in texts])
    return dataset


def test_what_drifted_is_named_and_ends_with_status_3(compare, shifted, tmp_path):
    limits = ("--max_changed_labels", 0, "--max_unknown_tokens", 1, "--max_auc", 0.7)
    page, report_file = tmp_path / "drift.html", tmp_path / "r.json"
    flags = ("--data_file", "new.txt", "--html", page, "--report_file", report_file)
    status, log = compare(*flags, *limits, dataset=shifted)
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert status == 3, log
    assert [line.split()[0] for line in report["beyond"]] == [
        "--max_changed_labels",
        "--max_unknown_tokens",
        "--max_auc",
    ]
    first = report["labels"][0]
    assert (
        first["label"].startswith("灾害事故")
        and first["changed"]
        and 0 < first["low"] < first["after"] - first["before"]
    )
    assert (
        "灾害事故 rises:" in log
        and "𠮷" in "".join(report["domain"]["more_in_second"])
        and report["domain"]["auc"] > 0.9
    )
    shown = page.read_text(encoding="utf-8") + report_file.read_text(encoding="utf-8") + log
    assert not any(line[:12] in shown for line in lines_of(shifted / "new.txt"))  # no text leaves
    assert compare(*flags, dataset=shifted)[0] == 0  # without a limit


def test_the_page_on_a_desktop_and_on_a_phone(compare, shifted, tmp_path):
    page = tmp_path / "drift.html"
    assert compare("--data_file", "new.txt", "--html", page, dataset=shifted)[0] == 0
    for width in (1280, 390):
        with chromium(width) as driver:
            driver.get(page.as_uri())
            assert_sound(driver)
            body = driver.find_element("tag name", "body").text
            assert "灾害事故" in body and "No limit was given" in body and "F1 without labels" in body


def test_few_texts_say_nothing(compare, shifted):
    write_lines(shifted / "few.txt", lines_of(shifted / "new.txt")[:10])
    status, log = compare("--data_file", "few.txt", "--max_changed_labels", 0, dataset=shifted)
    assert status == 0 and "with fewer than 50, nothing can be said, and no limit is checked" in log


def test_tables_and_blank_lines(compare, shifted):
    lines = [f'"{line}",1' for line in lines_of(shifted / "new.txt")[:60]]
    write_lines(shifted / "new.csv", ["内容,number", *lines, ",2", ",3"])
    status, log = compare("--data_file", "new.csv", "--text_column", "内容", dataset=shifted)
    assert status == 0 and "new.csv: 60 texts, 2 rows without one" in log


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name what to compare with the reference: --data_file, or --metrics"),
        (["--data_file", "dev.txt", "--metrics", "m.txt"], "name what to compare"),
        (["--data_file", "none.txt"], "none.txt"),
        (["--metrics", "none.txt"], "none.txt: No such file"),
        (["--metrics", "http://127.0.0.1:9/metrics"], "is the server running there?"),
        (["--metrics", "m.txt", "--max_auc", "0.8"], "a server's counts have no texts"),
        (["--data_file", "dev.txt", "--max_auc", "1.5"], "must be a number at least 0 and at most 1"),
        (
            ["--data_file", "dev.txt", "--max_auc", "0.8", "--dev_file", "x.txt"],
            "--max_auc needs the texts of --dev_file",
        ),
        (["--write_reference", "--data_file", "dev.txt"], "leave out --data_file and --metrics"),
    ],
)
def test_faults(compare, flags, message):
    status, log = compare(*flags)
    assert status == 2 and message in log and "Traceback" not in log


def test_a_reference_is_written_again(compare, bundle, trained):
    """After a decision that was edited, for a bundle without one, or with other rows."""
    from text_cls.bundle import open_bundle, write_manifest

    opened = open_bundle(str(bundle))
    fields = {name: value for name, value in opened.manifest.items() if name not in ("version", "files", "variants")}
    Decision(threshold=0.2).save(bundle / "decision.json")
    write_manifest(str(bundle), fields)
    status, log = compare("--data_file", "dev.txt", folder=bundle)
    assert status == 2 and "was written before decision.json changed; write it again" in log
    (bundle / REFERENCE).unlink()
    write_manifest(str(bundle), fields)
    status, log = compare("--data_file", "dev.txt", folder=bundle)
    assert status == 2 and f"{bundle} has no reference.json; write it again" in log
    status, log = compare("--write_reference", folder=bundle)
    assert status == 0 and "reference.json is written, of 60 rows" in log
    assert open_bundle(str(bundle)).decision.threshold == 0.2
    assert compare("--data_file", "dev.txt", folder=bundle)[0] == 0


def test_threshold_writes_the_reference_of_its_decision(run, trained, bundles, tmp_path):
    import threshold
    from text_cls.bundle import open_bundle
    from text_cls.reference import read_reference

    for flag, source in (("--bundle", bundles["news"]), ("--params_path", trained["news"][1])):
        folder = shutil.copytree(source, tmp_path / flag)
        where = ("--dataset_dir", trained["news"][0], "--device", "cpu", flag, folder)
        assert run(threshold.main, *where, "--force")[0] == 0
        decision, reference = Decision.load(folder / "decision.json"), read_reference(str(folder))
        assert decision != Decision() and reference.problem(reference.labels, decision) is None
    open_bundle(str(tmp_path / "--bundle"))


# ------------------------------------------------------------------------------------------------------------- server


@pytest.fixture
def answered(serve, trained):
    """answered(*flags) -> metrics of a server that has answered the dev rows, and again with parameters."""

    def call(*flags):
        client = serve("news", *flags)
        texts = [line.split("\t")[0] for line in lines_of(trained["news"][0] / "dev.txt")]
        for parameters in ({}, {"prob_limit": 0.1}, {"max_seq_len": 16}):
            body = {"data": {"text": texts}, "parameters": parameters}
            assert client.post("/models/cls_hierarchical", json=body).status_code == 200
        return client.get("/metrics").text

    return call


def test_a_servers_counts_are_those_of_the_reference(answered, compare, tmp_path):
    (tmp_path / "metrics.txt").write_text(answered(), encoding="utf-8")
    report_file = tmp_path / "r.json"
    status, log = compare("--metrics", tmp_path / "metrics.txt", "--report_file", report_file, "--max_f1_drop", 0)
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert status == 0 and "60 texts since the server's start" in log
    for name in ("scores", "lengths"):
        assert report[name]["distance"] < 0.001
    assert all(label["before"] == label["after"] for label in report["labels"]) and report["not_compared"] == 0
    assert report["unknown_tokens"]["before"] == report["unknown_tokens"]["after"]
    assert report["f1"]["micro_f1"][0] == pytest.approx(report["f1"]["reference"]["micro_f1"], abs=1e-3)


def test_the_number_of_series_is_bounded(answered, compare, tmp_path):
    text = answered("--metric_labels", "4")
    assert text.count("text_cls_label_texts_total{") == 5 and 'label="(other)"' in text
    (tmp_path / "metrics.txt").write_text(text, encoding="utf-8")
    status, log = compare("--metrics", tmp_path / "metrics.txt")
    assert status == 0 and "51 labels are not compared: the server counts them together" in log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello world {", "Prometheus's text format"),
        ("", "has counts of no bundle at all"),
        ('text_cls_counted_texts_total{bundle="b",version="0123"} 5\n', "has counts only of 0123, not of the bundle"),
    ],
)
def test_metrics_of_something_else(compare, tmp_path, text, message):
    (tmp_path / "metrics.txt").write_text(text, encoding="utf-8")
    status, log = compare("--metrics", tmp_path / "metrics.txt")
    assert status == 2 and message in log and "Traceback" not in log


def test_counts_that_were_cut_off(answered, compare, tmp_path):
    text = answered().splitlines()
    kept = [line for line in text if 'le="0.5"' not in line or "label_scores" not in line]
    write_lines(tmp_path / "metrics.txt", kept)
    status, log = compare("--metrics", tmp_path / "metrics.txt")
    assert status == 2 and "the counts are not those of this version's server ('0.5')" in log


def test_old_versions_are_dropped():
    from types import SimpleNamespace

    from prediction_counts import VERSIONS, PredictionCounts

    counts = PredictionCounts(10)
    for i in range(VERSIONS + 2):
        bundle = SimpleNamespace(digest=f"{i:064}", labels=SimpleNamespace(names=["x"]))
        bundle.digest = bundle.digest[::-1]
        counts.add("b", bundle, np.array([[0.7]]), np.array([[True]]), (np.array([5]), 5, 1))
    series = [sample for family in counts.collect() for sample in family.samples if "counted_texts" in sample.name]
    assert len(series) == VERSIONS and {sample.value for sample in series} == {1}


def test_a_redirect_is_not_followed(compare, tmp_path):
    import http.server
    import threading

    asked = []

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status, log = compare("--metrics", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert status == 2 and "answers 302" in log and asked == ["/metrics"]
