"""Predictions for doccano and Label Studio: what is written comes back through their exports."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import ROOT, copy_dataset, lines_of, load_script, plain, write_lines
from hypothesis import given
from hypothesis import strategies as st
from labelling_exports import doccano_export, studio_export

import doccano
from text_cls.cli import Problems
from text_cls.inputs import one_run
from text_cls.labelling_tools import DOCCANO, LABEL_STUDIO, Control, Tool, deepest, studio_controls, studio_interface
from text_cls.prediction import check_files, predict_file
from text_cls.rows import Labels
from text_cls.table_flags import TableOptions

FLAT = Labels(["服务", '价格 & "税"', "<b>"])
TREE = Labels(["灾害", "灾害##地震", "灾害##地震##余震", "体育", "语言##C#", "语言"])
EXPORTS = {DOCCANO: doccano_export, LABEL_STUDIO: studio_export}


def read(path):
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def written(path, name, labels, answers, evidence=False, **options):
    """The rows that a tool imports, from a file whose texts with labels are answered in turn."""
    problems, output = Problems(), path.parent / ("next.json" if name == LABEL_STUDIO else "next.jsonl")
    answers = iter(answers)
    with one_run():
        tool, tables = Tool(name, labels, "model 0123456789ab"), TableOptions(**options)
        job = check_files(path, output, problems, labels, tables=tables, with_evidence=evidence, tool=tool)
        problems.stop_if_any()
        predict_file(job, lambda texts: [next(answers) for _ in texts], lambda text, names: None)
    return read(output)


@pytest.mark.parametrize("name", [DOCCANO, LABEL_STUDIO])
@given(
    sets=st.lists(st.sets(st.sampled_from(TREE.names)), min_size=1, max_size=5),
    breaks=st.sampled_from(["", "\u2028", "\r"]),
)
def test_labels_come_back(tmp_path_factory, name, sets, breaks):
    """Exported as they were imported, the rows have the labels that were predicted."""
    folder = tmp_path_factory.mktemp("tool")
    texts = [f"第{i}条{breaks}文本" for i in range(len(sets))]
    write_lines(folder / "texts.txt", texts)
    closed = [sorted({"##".join(each.split("##")[: i + 1]) for each in some for i in range(3)}) for some in sets]
    rows = written(folder / "texts.txt", name, TREE, [(names, [0.9] * len(names)) for names in closed])
    export = folder / "export.json"
    export.write_text(json.dumps(list(EXPORTS[name](rows))), encoding="utf-8")
    write_lines(folder / "label.txt", TREE.names)
    argv = ["--doccano_file", export, "--task_type", "hierarchical", "--save_dir", folder, "--valid"]
    argv += ["--is_shuffle", "False"]
    assert doccano.main([*map(str, argv)]) == (0 if any(sets) else 2)  # an export without any label is refused
    if any(sets):
        found = [line.split("\t") for line in lines_of(folder / "valid.txt")]
        assert [text for text, _ in found] == [text.replace(breaks or " ", " ") for text in texts]
        assert [sorted(filter(None, names.split(","))) for _, names in found] == closed


@pytest.mark.parametrize("name", [DOCCANO, LABEL_STUDIO])
def test_columns_and_scores_come_back(tmp_path, name):
    """The columns labels and scores, which tables must not have, are only those of the user's rows here."""
    path = tmp_path / "in.jsonl"
    rows = [
        {"id": 7, "text": "服务好", "labels": ["旧"], "scores": None},
        {"id": 8, "text": " "},
        {"id": 9, "text": "贵\n了"},
    ]
    write_lines(path, [json.dumps(row) for row in rows])
    answers = [(["服务"], [0.987654]), ([], [])]
    found = list(EXPORTS[name](written(path, name, FLAT, answers)))
    assert [row["meta"] for row in found] == [
        {
            "row": {"id": 7, "labels": ["旧"], "scores": None},
            "scores": {"服务": 0.98765},
            "model": "model 0123456789ab",
        },
        {"row": {"id": 9}, "scores": {}, "model": "model 0123456789ab"},
    ]
    texts = [row["text"] if name == DOCCANO else row["data"]["text"] for row in found]
    assert texts == ["服务好", "贵 了"]


def test_prediction_of_label_studio(tmp_path):
    write_lines(tmp_path / "texts.txt", ["一", "二", "三"])
    answers = [(["灾害", "灾害##地震"], [0.9, 0.6]), (["语言", "语言##C#"], [0.7, 0.8]), ([], [])]
    first, second, third = (
        row["predictions"][0] for row in written(tmp_path / "texts.txt", LABEL_STUDIO, TREE, answers)
    )
    assert first == {
        "model_version": "model 0123456789ab",
        "score": 0.6,
        "result": [
            {"from_name": "label", "to_name": "text", "type": "taxonomy", "value": {"taxonomy": [["灾害", "地震"]]}}
        ],
    }
    assert second["result"][0]["value"] == {"taxonomy": [["语言", "C#"]]}
    assert third["score"] == 0 and third["result"] == []
    flat = written(tmp_path / "texts.txt", LABEL_STUDIO, FLAT, [(["服务", "<b>"], [0.9, 0.8])] * 3)
    assert flat[0]["predictions"][0]["result"][0]["value"] == {"choices": ["服务", "<b>"]}


def test_evidence_of_the_text_as_it_is_imported(tmp_path):
    write_lines(tmp_path / "texts.txt", ["开头。房间很贵"])
    answers = [(["服务"], [0.9], [[3, 7]])]
    (row,) = written(tmp_path / "texts.txt", DOCCANO, FLAT, answers, evidence=True)
    start, end = row["meta"]["evidence"]["服务"]
    assert row["text"][start:end] == "房间很贵"


def test_the_deepest_labels():
    assert deepest(["a", "a##x", "b", "a##y", "a##x##1"]) == ["b", "a##y", "a##x##1"]
    assert deepest([]) == [] and deepest(["ab", "a"]) == ["ab", "a"]


def test_setup_files(tmp_path):
    write_lines(tmp_path / "texts.txt", ["一"])
    written(tmp_path / "texts.txt", LABEL_STUDIO, TREE, [([], [])])
    root = ElementTree.parse(tmp_path / "next_interface.xml").getroot()

    def paths(node, above=()):
        for each in node:
            yield (*above, each.get("value"))
            yield from paths(each, (*above, each.get("value")))

    assert {"##".join(path) for path in paths(root.find("Taxonomy"))} == set(TREE.names)
    written(tmp_path / "texts.txt", DOCCANO, FLAT, [([], [])])
    assert [row["text"] for row in read(tmp_path / "next_labels.json")] == FLAT.names


def test_the_interface_is_read_back():
    assert studio_controls(studio_interface(FLAT)) == [Control("choices", "label", "text", "text", {*FLAT.names})]
    assert [each.get("value") for each in ElementTree.fromstring(studio_interface(FLAT)).iter("Choice")] == FLAT.names
    assert studio_controls(studio_interface(TREE)) == [Control("taxonomy", "label", "text", "text", {*TREE.names})]
    config = """<View><!-- a comment --><Image name="i" value="$i"/><Choices name="x" toName="i"/>
        <Text name="t" value="$body"/><Choices name="topic" toName="t"><View><Choice value="a"/></View></Choices>
        <Choices name="given" toName="t" value="$choices"/>
        <Taxonomy name="tree" toName="t"><Choice value="甲" alias="A"><Choice value="乙"/></Choice></Taxonomy></View>"""
    topic, given, tree = studio_controls(config)
    assert topic == Control("choices", "topic", "t", "body", {"a"})
    assert given == Control("choices", "given", "t", "body", None) and tree.labels == {"A", "A##乙"}


@pytest.mark.parametrize("config", ["", "<View>", "no", '<!DOCTYPE x [<!ENTITY a "b">]><View/>'])
def test_an_interface_that_is_none(config):
    with pytest.raises(ValueError, match="the labelling interface"):
        studio_controls(config)


# ------------------------------------------------------------------------------------------------------------- scripts


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """{"news" and "reviews": (data set, checkpoint of a linear model)}."""
    import train

    made = {}
    for name, source in (("news", ROOT / "data"), ("reviews", ROOT / "data" / "multi_label")):
        folder = tmp_path_factory.mktemp(name)
        dataset = copy_dataset(source, folder / "data", 90, 30, 12)
        argv = ["--dataset_dir", dataset, "--model_name", "linear", "--device", "cpu", "--save_dir", folder / "model"]
        assert train.main([*map(str, argv)]) == 0
        made[name] = dataset, folder / "model"
    return made


@pytest.mark.parametrize(("name", "task"), [("news", "hierarchical"), ("reviews", "multi_label")])
@pytest.mark.parametrize("tool", [DOCCANO, LABEL_STUDIO])
def test_predict(run, linear, tmp_path, name, task, tool):
    import predict

    dataset, checkpoint = linear[name]
    output = tmp_path / ("next.json" if tool == LABEL_STUDIO else "next.jsonl")
    argv = ["--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu"]
    status, said = run(predict.main, *argv, "--for", tool, "--output_file", output)
    assert status == 0, said
    rows = read(output)
    assert len(rows) == 12
    said = "\n".join(plain(said))
    setup = "next_interface.xml" if tool == LABEL_STUDIO else "next_labels.json"
    assert str(tmp_path / setup) in said and (tmp_path / setup).exists()
    assert f"--task_type {task} --save_dir DATASET_DIR --valid" in said
    version = rows[0]["meta"]["model"]
    assert version.startswith("model ") and len(version) == len("model ") + 12
    status, _ = run(predict.main, *argv, "--output_file", tmp_path / "out.txt")
    for row, line in zip(EXPORTS[tool](rows), lines_of(tmp_path / "out.txt")):
        text, names = line.split("\t")
        assert text == (row["text"] if tool == DOCCANO else row["data"]["text"])
        assert list(row["meta"]["scores"]) == [*filter(None, names.split(","))]


def test_infer_writes_the_same_but_for_the_version(run, linear, tmp_path):
    import export_model
    import predict

    infer = load_script("deploy/predictor/infer.py")
    dataset, checkpoint = linear["reviews"]
    bundle = tmp_path / "bundle"
    assert run(export_model.main, "--params_path", checkpoint, "--output_path", bundle)[0] == 0
    flags = ["--for", LABEL_STUDIO, "--order", "diverse", "--count", 5, "--device", "cpu", "--dataset_dir", dataset]
    ours, theirs = tmp_path / "a.json", tmp_path / "b.json"
    assert run(predict.main, *flags, "--params_path", checkpoint, "--output_file", ours)[0] == 0
    status, said = run(infer.main, *flags, "--model_path_prefix", bundle, "--output_file", theirs)
    assert status == 0, said
    ours, theirs = read(ours), read(theirs)
    assert len(ours) == 5 and [row["data"] for row in ours] == [row["data"] for row in theirs]
    results = [[row["predictions"][0]["result"] for row in rows] for rows in (ours, theirs)]
    assert results[0] == results[1]
    assert {row["meta"]["model"].split()[0] for row in theirs} == {"bundle"}
    status, said = run(
        infer.main, *flags, "--model_path_prefix", bundle, "--output_file", tmp_path / "c.json", "--perf"
    )
    assert status == 2 and "--perf writes no file; leave out --for and --order" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--for doccano --output_file x.json",
            "--for doccano writes what doccano imports; name an --output_file with .jsonl",
        ),
        ("--for label_studio --output_file x.jsonl", "what Label Studio imports; name an --output_file with .json"),
        ("--for doccano", "--for doccano writes what doccano imports; name an"),
        ("--for doccano --output_file x.jsonl --excel_safe", "--excel_safe is for .csv and .tsv files"),
        ("--count 3 --output_file x.txt", "--count is for --order, which says what to label next: uncertain, rare"),
        ("--labelled_file a.txt --output_file x.txt", "--labelled_file is for --order"),
        ("--order random", "--order needs a file to write, --output_file"),
        ("--order rare --output_file x.txt --labelled_file missing.txt", "missing.txt: No such file"),
        ("--order uncertain --output_file x.txt --threshold 1", "no threshold of the model is between 0 and 1"),
    ],
)
def test_refusals(run, linear, tmp_path, monkeypatch, flags, message):
    import predict

    monkeypatch.chdir(tmp_path)
    dataset, checkpoint = linear["reviews"]
    argv = ["--dataset_dir", dataset, "--params_path", checkpoint, "--device", "cpu", *flags.split()]
    status, said = run(predict.main, *argv)
    assert status == 2 and message in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())
