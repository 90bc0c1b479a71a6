"""Exports of Label Studio with several controls, skipped tasks and results that are no labels, as JSON and JSON-MIN."""

import json

import pytest
from conftest import lines_of

import doccano as script

TREE = ("--task_type", "hierarchical")
JOIN = ("--join_controls", *TREE)


def choice(control, *names):
    return {"value": {"choices": list(names)}, "from_name": control, "to_name": "text", "type": "choices"}


def taxonomy(control, *paths):
    value = {"taxonomy": [path.split("##") for path in paths]}
    return {"value": value, "from_name": control, "to_name": "text", "type": "taxonomy"}


def annotation(*results, date="2026-01-01", **more):
    return {"result": list(results), "was_cancelled": False, "ground_truth": False, "updated_at": date, **more}


def task(i, *annotations):
    return {"id": i, "data": {"text": f"第{i}条"}, "annotations": list(annotations), "predictions": []}


def tasks(*results_of_tasks):
    return [task(i, annotation(*results)) for i, results in enumerate(results_of_tasks)]


def minimal(i, **columns):
    return {
        "text": f"第{i}条",
        "source": "网站",
        "id": i,
        **columns,
        "annotator": 1,
        "annotation_id": i,
        "created_at": "2026",
        "updated_at": "2026",
        "lead_time": 2.1,
    }


@pytest.fixture
def rows_of(run, tmp_path):
    """rows_of(tasks, *flags) -> (labels of each text in the export's order, None after an error; the log)."""

    def call(content, *flags):
        (tmp_path / "export.json").write_text(json.dumps(content), encoding="utf-8")
        argv = ("--doccano_file", tmp_path / "export.json", "--save_dir", tmp_path / "out", "--splits", "1")
        status, said = run(script.main, *argv, "--is_shuffle", "False", *flags)
        assert status in (0, 2) and "Traceback" not in said
        if status:
            return None, said
        return [line.partition("\t")[2] for line in lines_of(tmp_path / "out" / "train.txt")], said

    return call


RATED = tasks(
    [choice("service", "好"), choice("price", "差")],
    [choice("service", "差"), choice("price", "好")],
    [choice("service", "好"), choice("price", "好", "贵")],
)
RATED_MIN = [
    minimal(0, service="好", price={"choices": ["差", "贵"]}),
    minimal(1, service="差", price="好"),
    minimal(2, service="好", price="好"),
    minimal(3, service="好", price="好"),
]


@pytest.mark.parametrize("export", [RATED, RATED_MIN])
def test_several_controls_are_refused_by_name(rows_of, export):
    for flags in ((), TREE):
        rows, said = rows_of(export, *flags)
        assert rows is None and "labels of 2 controls: 'service' (好, 差), 'price' (差, " in said
        assert "--control service" in said and "--join_controls --task_type hierarchical" in said


def test_a_control_is_selected(rows_of):
    rows, said = rows_of(RATED, "--control", "price")
    assert rows == ["差", "好", "好,贵"] and "3 labels of the control 'service' ignored" in said
    assert rows_of(RATED_MIN, "--control", "price")[0] == ["差,贵", "好", "好", "好"]
    assert rows_of(RATED_MIN, "--control", "service", "--task_type", "multi_class")[0] == ["好", "差", "好", "好"]
    rows, said = rows_of(RATED, "--control", "prise")
    assert rows is None and "--control prise: no such control; the export has 'service', 'price'" in said
    rows, said = rows_of([{"text": "一", "label": ["甲"]}], "--control", "price")
    assert rows is None and "the export names no controls" in said


def test_controls_selected_together_must_not_share_a_label(rows_of):
    rows, said = rows_of(RATED, "--control", "price", "--control", "service")
    assert rows is None and "label '好' is in the controls 'service', 'price'" in said
    topics = tasks([choice("a", "甲"), choice("b", "乙"), choice("c", "丙")], [choice("b", "丁")])
    rows, _ = rows_of(topics, "--control", "a", "--control", "b")
    assert rows == ["乙,甲", "丁"]


def test_controls_become_branches(rows_of):
    rows, _ = rows_of(RATED, *JOIN)
    assert rows[0] == "price,price##差,service,service##好"
    assert rows[2] == "price,price##好,price##贵,service,service##好"
    assert rows_of(RATED_MIN, *JOIN)[0][0] == "price,price##差,price##贵,service,service##好"
    mixed = tasks([taxonomy("topic", "财经##股票"), choice("mood", "正面")], [choice("mood", "负面")])
    assert rows_of(mixed, *JOIN)[0] == ["mood,mood##正面,topic,topic##财经,topic##财经##股票", "mood,mood##负面"]
    rows, said = rows_of(RATED, "--join_controls")
    assert rows is None and "--join_controls makes a hierarchy; add --task_type hierarchical" in said


def test_one_control_gets_no_level_of_its_own(rows_of):
    assert rows_of(tasks([choice("a", "甲")], [choice("a", "乙")]), *JOIN)[0] == ["甲", "乙"]


THEMES = tasks(
    [choice("theme", "A"), choice("A_subtheme", "其他")],
    [choice("theme", "B"), choice("B_subtheme", "其他", "价格")],
    [choice("theme", "A"), choice("A_subtheme", "其他"), choice("detail", "x")],
    [choice("theme", "A", "B"), choice("A_subtheme", "服务"), choice("B_subtheme", "其他")],
    [choice("theme", "A"), choice("A_subtheme", "其他"), choice("detail", "y")],
    [choice("theme", "B")],
)


def test_choices_under_choices_become_paths(rows_of):
    """Label Studio shows a control only after a choice in another (visibleWhen), which its export does not say."""
    rows, said = rows_of(THEMES, *JOIN)
    assert rows == [
        "A,A##其他",
        "B,B##价格,B##其他",
        "A,A##其他,A##其他##x",
        "A,A##服务,B,B##其他",
        "A,A##其他,A##其他##y",
        "B",
    ]
    assert "control 'A_subtheme' is used only together with the label 'A': its labels are below" in said
    rows, _ = rows_of(THEMES, *JOIN, "--control", "A_subtheme=A##细类")
    assert rows[:2] == ["A,A##细类,A##细类##其他", "B,B##价格,B##其他"]
    assert rows[2] == "A,A##细类,A##细类##其他,A##细类##其他##x"
    rows, said = rows_of(THEMES, *TREE, "--control", "theme", "--control", "B_subtheme=B")
    assert rows[:2] == ["A", "B,B##价格,B##其他"] and "4 labels of the control 'A_subtheme' ignored" in said


def test_skipped_tasks_are_left_out_and_counted(rows_of):
    kept = task(1, annotation(choice("a", "甲")))
    skipped = annotation(was_cancelled=True)
    old = {"id": 2, "data": {"text": "旧"}, "completions": [{"result": [], "skipped": True}]}
    hidden = {**task(5), "cancelled_annotations": 1}
    rows, said = rows_of([task(0, skipped), kept, old, task(3, skipped, annotation(choice("a", "乙"))), hidden])
    assert rows == ["甲", "乙"] and "3 tasks that annotators skipped are left out" in said
    assert "have no label" not in said
    rows, said = rows_of([kept, task(4), task(6, annotation())])
    assert rows == ["甲", "", ""] and "2 rows have no label" in said and "tasks that annotators skipped" not in said
    rows, said = rows_of([task(0, skipped)])
    assert rows is None and "annotators skipped every task" in said


OTHERS = [
    {"value": {"datetime": "2026-01-01"}, "from_name": "when", "type": "datetime"},
    {"from_id": "a", "to_id": "b", "type": "relation", "direction": "right"},
    {"value": {"start": 0, "end": 1, "text": "第", "labels": ["X"]}, "from_name": "ner", "type": "labels"},
    {"value": {"start": 0, "end": 1, "choices": ["局部"]}, "from_name": "part", "type": "choices"},
    {"value": {"text": ["备注"]}, "from_name": "note", "type": "textarea"},
    {"value": {"rating": 3}, "from_name": "stars", "type": "rating"},
    {"value": {"pairwise": "left"}, "from_name": "pair", "type": "pairwise"},
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: other["type"])
def test_other_results_beside_choices_are_ignored_and_counted(rows_of, other):
    rows, said = rows_of(tasks([choice("a", "甲"), other], [other], [choice("a", "乙"), other]))
    name = f" ({other['from_name']})" if "from_name" in other else ""
    assert rows == ["甲", "", "乙"] and "3 results that are not labels of a whole text ignored: 3 of type " in said
    assert f"3 of type {other['type']}{name}" in said and "1 rows have no label" in said
    rows, said = rows_of(tasks([other], [other]))
    assert rows is None
    if other["type"] in ("labels", "choices"):
        assert "2 problems" in said and said.count("this labels a span, not the whole text") == 2
    elif other["type"] in ("datetime", "relation", "pairwise"):
        assert f"a result of type {other['type']} is no label; use <Choices> or <Taxonomy>" in said


def test_columns_of_json_min(rows_of):
    """Single choices look like data and notes there; columns whose values repeat after `id` are controls."""
    stars, note = [{"rating": 3}], "每条都不同"
    export = [minimal(i, topic={"choices": ["甲", "乙"]}, stars=stars, note=f"{note}{i}") for i in range(4)]
    rows, said = rows_of(export)
    assert rows == ["乙,甲"] * 4
    for name in ("source", "stars", "note"):
        assert f"column '{name}' ignored (4 rows); if it contains labels, add --control {name}" in said
    moods = [{**row, "mood": "正面" if i % 2 else "负面"} for i, row in enumerate(export)]
    rows, said = rows_of(moods)
    assert rows is None and "labels of 2 controls: 'topic' (甲, 乙), 'mood' (负面, 正面)" in said
    rows, said = rows_of(moods, "--control", "mood")
    assert rows == ["负面", "正面"] * 2 and "column 'topic' ignored" in said
    single = [minimal(i, mood="正面") for i in range(4)]
    rows, said = rows_of(single)
    assert rows is None and "it may be 'source', 'mood'" in said and "name the column with --control" in said
    assert rows_of(single, "--control", "mood")[0] == ["正面"] * 4


def test_levels_that_contain_the_sign_of_the_separator(rows_of):
    """Readers of label paths split at the last ##, so a level may end with # but not begin with it."""
    for export in ([{"text": "一", "label": ["语言##C###框架"]}], tasks([taxonomy("a", "语言##C###框架")])):
        export[0] = json.loads(json.dumps(export[0]).replace('"C", "#', '"C#", "'))
        assert rows_of(export, *TREE)[0] == ["语言,语言##C#,语言##C###框架"]
    rows, said = rows_of([{"text": "一", "label": ["语言>#1"]}], *TREE, "--separator", ">")
    assert rows is None and "has a level that begins with #" in said
    export = tasks([{**taxonomy("a"), "value": {"taxonomy": [["语言", "#1"]]}}])
    rows, said = rows_of(export, *TREE)
    assert rows is None and "label '语言###1' has a level that begins with #" in said
