"""Several annotators of one text, as doccano's files and Label Studio's JSON and JSON-MIN export them."""

import json

import pytest
from conftest import lines_of

import doccano as script

# What three annotators said about each text; None: not labelled yet.
TEXTS = {
    "都同意": [["甲"], ["甲"], ["甲"]],
    "多数": [["甲", "乙"], ["甲"], ["丙"]],
    "各说各的": [["甲"], ["乙"], ["丙"]],
    "顺序": [["乙", "甲"], ["甲", "乙"], ["甲", "乙"]],
}
POLICIES = {
    "newest": ["甲", "丙", "丙", "乙,甲"],
    "majority": ["甲", "甲", "乙,甲"],
    "union": ["甲", "丙,乙,甲", "丙,乙,甲", "乙,甲"],
}


def as_doccano(texts):
    """A file for each annotator, as projects export them whose annotators work apart."""
    return [
        "".join(
            json.dumps({"id": i, "text": text, "label": sets[k]}) + "\n" for i, (text, sets) in enumerate(texts.items())
        )
        for k in range(3)
    ]


def as_joined_doccano(texts):
    return ["".join(as_doccano(texts))]


def as_label_studio(texts, truth=None):
    """The newest annotation is neither first nor last in the file. truth: number of the one that is ground truth."""
    tasks = []
    for i, (text, sets) in enumerate(texts.items()):
        annotations = [
            {
                "completed_by": k,
                "updated_at": f"2026-01-0{k + 1}",
                "ground_truth": k == truth,
                "result": [{"type": "choices", "from_name": "a", "value": {"choices": labels}}],
            }
            for k, labels in enumerate(sets)
        ]
        tasks.append({"id": i, "data": {"text": text}, "annotations": [annotations[k] for k in (1, 2, 0)]})
    return [json.dumps(tasks)]


def as_json_min(texts):
    rows = [
        {"text": text, "id": i, "topic": {"choices": sets[k]}, "annotator": k, "annotation_id": 10 * i + k}
        | {"created_at": "2026", "updated_at": f"2026-01-0{k + 1}"}
        for i, (text, sets) in enumerate(texts.items())
        for k in (1, 2, 0)
    ]
    return [json.dumps(rows)]


EXPORTS = [as_doccano, as_joined_doccano, as_label_studio, as_json_min]


@pytest.fixture
def rows_of(run, tmp_path):
    """rows_of(contents of files, *flags) -> (list of (text, labels), None after an error; the log)."""

    def call(contents, *flags):
        paths = [tmp_path / f"annotator{i}.json" for i in range(len(contents))]
        for path, content in zip(paths, contents):
            path.write_text(content, encoding="utf-8")
        argv = ("--doccano_file", *paths, "--save_dir", tmp_path / "out", "--splits", "1", "--is_shuffle", "False")
        status, said = run(script.main, *argv, *flags)
        assert status in (0, 2) and "Traceback" not in said
        if status:
            return None, said
        return [tuple(line.split("\t")) for line in lines_of(tmp_path / "out" / "train.txt")], said

    return call


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_labels_of_annotators_who_disagree(rows_of, export, policy):
    rows, said = rows_of(export(TEXTS), "--disagreement", policy)
    texts = [text for text in TEXTS if policy != "majority" or text != "各说各的"]
    assert [text for text, _ in rows] == texts
    assert [set(labels.split(",")) for _, labels in rows] == [set(labels.split(",")) for labels in POLICIES[policy]]
    assert "4 texts have several annotations; annotators disagree about 2 of them" in said
    assert ("1 texts skipped: no majority" in said) == (policy == "majority")
    assert "Same text" not in said


@pytest.mark.parametrize("export", EXPORTS)
def test_disagreement_is_refused(rows_of, export):
    rows, said = rows_of(export(TEXTS), "--disagreement", "refuse")
    assert (
        rows is None and "2 problems" in said and "annotators disagree (丙 | 乙 | 甲): 各说各的; label it again" in said
    )
    agreed = {text: TEXTS[text] for text in ("都同意", "顺序")}
    rows, said = rows_of(export(agreed), "--disagreement", "refuse")
    assert [text for text, _ in rows] == list(agreed) and "disagree about 0 of them" in said


@pytest.mark.parametrize("export", [as_label_studio, as_json_min])
def test_the_newest_is_the_default_where_there_are_dates(rows_of, export):
    rows, said = rows_of(export(TEXTS))
    assert dict(rows)["多数"] == "丙" and len(rows) == 4
    assert "disagree about 2 of them: the ground truth or the newest annotation is used (see --disagreement)" in said


@pytest.mark.parametrize("export", [as_doccano, as_joined_doccano])
def test_rows_of_doccano_are_all_kept_and_counted_by_default(rows_of, export):
    rows, said = rows_of(export(TEXTS))
    assert len(rows) == 1 + 3 + 3 + 1 and "4 rows with the same text and labels as another skipped" in said
    assert "2 texts have rows with different labels, all kept; for one row each, add --disagreement newest" in said


def test_a_ground_truth_ends_the_dispute(rows_of):
    for policy in ("newest", "majority", "union", "refuse"):
        rows, said = rows_of(as_label_studio(TEXTS, truth=0), "--disagreement", policy)
        assert set(dict(rows)["多数"].split(",")) == {"甲", "乙"} and dict(rows)["各说各的"] == "甲"
        assert "disagree about 2 of them" in said


def test_texts_that_an_annotator_of_doccano_has_not_reached(rows_of):
    texts = {"一": [[], ["甲"], []], "二": [[], [], []], "三": [["甲"], ["甲"], None]}
    for policy in ("newest", "majority", "union", "refuse"):
        rows, said = rows_of(as_doccano(texts), "--disagreement", policy)
        assert rows == [("一", "甲"), ("二", ""), ("三", "甲")]
        assert "3 rows without a label skipped, because another annotator labelled their text" in said


def test_an_empty_annotation_of_label_studio_is_a_vote(rows_of):
    texts = {"一": [[], ["甲"], []], "二": [["甲"], ["甲"], []]}
    rows, said = rows_of(as_label_studio(texts), "--disagreement", "majority")
    assert rows == [("一", ""), ("二", "甲")] and "disagree about 2 of them" in said


def test_ancestors_have_a_majority_where_leaves_have_none(rows_of):
    texts = {"一": [["A##B"], ["A##C"], ["A##D"]], "二": [["A##B"], ["A##B"], ["C"]]}
    flags = ("--task_type", "hierarchical", "--disagreement")
    assert rows_of(as_doccano(texts), *flags, "majority")[0] == [("一", "A"), ("二", "A,A##B")]
    assert rows_of(as_doccano(texts), *flags, "union")[0][1] == ("二", "A,A##B,C")


def test_one_label_per_text(rows_of):
    texts = {"一": [["甲"], ["乙"], ["乙"]], "二": [["甲"], ["乙"], ["丙"]]}
    flags = ("--task_type", "multi_class", "--disagreement")
    rows, said = rows_of(as_json_min(texts), *flags, "majority")
    assert rows == [("一", "乙")] and "1 texts skipped: no majority of their annotators agrees" in said
    rows, said = rows_of(as_json_min(texts), *flags, "union")
    assert rows is None and "2 labels; --task_type multi_class takes one per row" in said


def test_labels_that_an_import_joined(rows_of):
    rows = [("一", ["甲#乙"]), ("二", ["甲"]), ("三", ["C#", "甲#丁#戊"]), ("四", ["F#G"])]
    export = ["".join(json.dumps({"text": text, "label": labels}) + "\n" for text, labels in rows)]
    found, said = rows_of(export)
    assert dict(found) == {"一": "甲#乙", "二": "甲", "三": "C#,甲#丁#戊", "四": "F#G"}
    assert "label '甲#乙' (1 rows) looks like '甲' and '乙'" in said
    assert "2 labels that look joined by # are kept; if an import joined several labels, add --split_joined" in said
    found, said = rows_of(export, "--split_joined")
    assert [set(labels.split(",")) for _, labels in found] == [{"甲", "乙"}, {"甲"}, {"C#", "甲", "丁", "戊"}, {"F#G"}]
    assert "2 labels that look joined by # are split" in said
