import json
import zipfile
from collections import Counter

import pytest
from conftest import ROOT, lines_of
from hypothesis import given, settings
from hypothesis import strategies as st

import annotation_exports
import doccano as script
from text_cls.cli import Problems
from text_cls.rows import read_labels, read_rows

FLAT = [(f"第{i}条评论，房间{'很' * (i % 5)}干净", ["卫生"] if i % 2 else ["卫生", "早餐"]) for i in range(40)]
TREE = [(f"第{i}条新闻", ["灾害##地震"] if i % 3 else ["体育##足球##转会", "灾害##地震"]) for i in range(40)]


def as_jsonl(rows, key="text"):
    return "".join(json.dumps({"id": i, key: text, "label": names}) + "\n" for i, (text, names) in enumerate(rows))


def as_array(rows):
    return json.dumps([{"id": i, "text": t, "label": names, "note": []} for i, (t, names) in enumerate(rows)], indent=1)


def as_label_studio(rows):
    """JSON export of Label Studio 1.x, as its documentation shows it; the second annotation was cancelled."""
    tasks = []
    for i, (text, names) in enumerate(rows):
        result = {"value": {"choices": names}, "id": f"r{i}", "from_name": "a", "to_name": "text", "type": "choices"}
        note = {"value": {"text": ["unsure"]}, "from_name": "note", "to_name": "text", "type": "textarea"}
        done = {
            "id": i,
            "was_cancelled": False,
            "ground_truth": False,
            "updated_at": "2026-01-01",
            "result": [result, note],
        }
        skipped = {"id": 1000 + i, "was_cancelled": True, "updated_at": "2026-02-01", "result": []}
        tasks.append({"id": i, "annotations": [done, skipped], "predictions": [], "data": {"text": text}, "meta": {}})
    return json.dumps(tasks, ensure_ascii=False)


def as_taxonomy(rows):
    tasks = []
    for text, names in rows:
        paths = [name.split("##") for name in names]
        result = {"value": {"taxonomy": paths}, "from_name": "t", "to_name": "x", "type": "taxonomy"}
        tasks.append({"annotations": [{"result": [result]}], "data": {"review": text, "number": 3}})
    return json.dumps(tasks)


def as_json_min(rows):
    """One choice is a text there, several are a dict."""
    return json.dumps(
        [
            {
                "text": text,
                "id": i,
                "topic": names[0] if len(names) == 1 else {"choices": names},
                "annotator": 1,
                "annotation_id": i,
                "created_at": "2026",
                "updated_at": "2026",
                "lead_time": 2.1,
            }
            for i, (text, names) in enumerate(rows)
        ]
    )


@pytest.fixture
def convert(run, tmp_path):
    """convert(content of the export, *flags) -> (status, output, folder)."""

    def call(content, *flags):
        if content is not None:
            (tmp_path / "export").write_text(content, encoding="utf-8")
        status, said = run(script.main, "--doccano_file", tmp_path / "export", "--save_dir", tmp_path / "out", *flags)
        return status, said, tmp_path / "out"

    return call


def pairs_of(path):
    return [(text, labels) for text, _, labels in (line.partition("\t") for line in lines_of(path))]


def closed(names):
    return ",".join(sorted({"##".join(n.split("##")[: i + 1]) for n in names for i in range(n.count("##") + 1)}))


@pytest.mark.parametrize(
    ("export", "rows"),
    [
        (as_jsonl(FLAT), FLAT),
        (as_jsonl(FLAT, "data"), FLAT),
        (as_array(FLAT), FLAT),
        (as_label_studio(FLAT), FLAT),
        (as_json_min(FLAT), FLAT),
        ("\ufeff" + as_array(FLAT), FLAT),
        ("\n\n" + as_jsonl(FLAT).replace("\n", "\r\n"), FLAT),
        (as_jsonl(TREE), TREE),
        (as_taxonomy(TREE), TREE),
    ],
)
def test_every_export_gives_the_same_data_set(convert, export, rows):
    """And train.py's reader accepts it."""
    task = "hierarchical" if rows is TREE else "multi_label"
    status, said, folder = convert(export, "--task_type", task, "--splits", "0.8", "0.1", "0.1")
    assert status == 0, said
    parts = [pairs_of(folder / name) for name in ("train.txt", "dev.txt", "test.txt")]
    assert [len(part) for part in parts] == [32, 4, 4]
    assert sorted(pair for part in parts for pair in part) == sorted((t, closed(names)) for t, names in rows)
    assert lines_of(folder / "data.txt") == [text for text, _ in parts[2]]
    names = lines_of(folder / "label.txt")
    assert names == sorted({n for _, labels in rows for n in closed(labels).split(",")})
    problems = Problems()
    labels = read_labels(folder / "label.txt", problems)
    assert [len(read_rows(folder / f"{n}.txt", labels, problems)) for n in ("train", "dev")] == [32, 4]
    assert not problems.count and labels.hierarchical == (rows is TREE)


def test_two_parts_and_one(convert):
    status, said, folder = convert(as_jsonl(FLAT))
    assert status == 0 and "python train.py --dataset_dir" in said
    assert (len(lines_of(folder / "train.txt")), len(lines_of(folder / "dev.txt"))) == (32, 8)
    assert lines_of(folder / "data.txt") == [text for text, _ in pairs_of(folder / "dev.txt")]
    assert not (folder / "test.txt").exists()
    status, said, folder = convert(as_jsonl(FLAT), "--splits", "1.0")
    assert status == 0 and len(lines_of(folder / "train.txt")) == 40 and len(lines_of(folder / "data.txt")) == 40
    assert "dev.txt is from an earlier run" in said


def test_shuffling_is_by_seed_and_can_be_off(convert):
    def trains(*flags):
        status, _, folder = convert(as_jsonl(FLAT), *flags)
        assert status == 0
        return [text for text, _ in pairs_of(folder / "train.txt")]

    texts = [text for text, _ in FLAT]
    for off in ("False", "false", "0"):
        assert trains("--is_shuffle", off) == texts[:32]
    first = trains()
    assert first == trains("--is_shuffle", "True", "--seed", "3") != trains("--seed", "4")
    assert first != sorted(first, key=texts.index) and trains("--splits", "1") != texts


def test_rare_labels_are_in_every_part(convert):
    """Three rows of a hundred have it: chance would leave one part without it in most runs."""
    rows = [(f"第{i}行", ["罕见"] if i < 3 else ["常见"]) for i in range(100)]
    for seed in range(5):
        _, _, folder = convert(as_jsonl(rows), "--splits", "0.8", "0.1", "0.1", "--seed", seed)
        for name in ("train.txt", "dev.txt", "test.txt"):
            assert Counter(labels for _, labels in pairs_of(folder / name))["罕见"] == 1


def test_texts_are_cleaned_and_counted(convert):
    rows = [
        ("一\t二\n三\r\n四", ["甲"]),
        ("  两端  ", ["甲"]),
        (" \n", ["乙"]),
        ("两端", ["甲"]),
        ("没有", []),
        ("😀<b>\"'&", ["乙"]),
        ("长" * 2000, [f"标签{i}" for i in range(20)]),
        ("两端", ["乙"]),
        ("空", None),
    ]
    status, said, folder = convert(as_jsonl(rows), "--splits", "1", "--is_shuffle", "False")
    assert status == 0
    assert pairs_of(folder / "train.txt") == [
        ("一 二 三 四", "甲"),
        ("两端", "甲"),
        ("没有", ""),
        ("😀<b>\"'&", "乙"),
        ("长" * 2000, ",".join(sorted(f"标签{i}" for i in range(20)))),
        ("两端", "乙"),
        ("空", ""),
    ]
    for line in (
        "1 texts contained tabs",
        "1 rows without a text",
        "1 rows with the same text",
        "2 rows have no label",
    ):
        assert line in said
    assert "Same text, different labels (乙 | 甲): 两端" in said


def test_separators_become_those_of_the_data_files(convert):
    rows = [("一", ["A>B > C"]), ("二", ["A"]), ("三", ["A>D"])]
    status, _, folder = convert(as_jsonl(rows), "--task_type", "hierarchical", "--separator", ">", "--splits", "1")
    assert status == 0 and lines_of(folder / "label.txt") == ["A", "A##B", "A##B##C", "A##D"]
    assert ("一", "A,A##B,A##B##C") in pairs_of(folder / "train.txt")


def test_relabelled_rows(convert):
    """The text of a row of train_dirty.txt, imported as a line, ends with a tab and its old labels."""
    _, _, folder = convert(as_jsonl(FLAT))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rows = [("错的一行\t卫生,早餐", ["早餐"]), ("没有旧标签", ["卫生"])]
    for flags in (("--dirty",), ("--dirty", "--splits", "1.0")):
        status, said, _ = convert(as_jsonl(rows), *flags, "--is_shuffle", "False")
        assert status == 0, said
        assert lines_of(folder / "train_dirty.txt") == ["错的一行\t早餐", "没有旧标签\t卫生"]
        assert "train_dirty_rest.txt" in said and "--train_file train_clean.txt" in said
    status, said, _ = convert(as_jsonl(rows[1:]), "--valid")
    assert status == 0 and lines_of(folder / "valid.txt") == ["没有旧标签\t卫生"]
    assert f"cat '{folder}/train.txt' '{folder}/valid.txt' > '{folder}/train_valid.txt'" in said
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    status, said, _ = convert(as_jsonl([("新的", ["早饭", "早餐餐"])]), "--valid")
    assert status == 2 and "no label '早饭', which 1 rows have; did you mean '早餐'?; otherwise add it there" in said
    status, said, _ = convert(as_jsonl(rows), "--valid", "--splits", "0.5", "0.5")
    assert status == 2 and "--valid writes one file" in said


def test_existing_files_are_kept(convert):
    _, _, folder = convert(as_jsonl(FLAT))
    first = (folder / "train.txt").read_bytes()
    _, said, _ = convert(as_jsonl(FLAT))
    assert "already existed" not in said and not list(folder.glob("*.bak*"))
    for count in (1, 2):
        _, said, _ = convert(as_jsonl(FLAT), "--seed", str(10 + count))
        assert f"{folder / 'train.txt'} already existed; its old contents are in" in said
        assert len(list(folder.glob("train.txt.bak*"))) == count
    assert (folder / "train.txt.bak").read_bytes() == first
    assert not list(folder.glob("*.new")) and not list(folder.glob("*.tmp"))


SPAN = "this labels a span, not the whole text"


@pytest.mark.parametrize(
    ("row", "flags", "message"),
    [
        ({"text": "一", "label": [[0, 3, "人名"]]}, (), SPAN),
        ({"text": "一", "entities": [{"id": 1, "label": "PER", "start_offset": 0}], "relations": []}, (), SPAN),
        (
            {
                "data": {"text": "一"},
                "annotations": [
                    {"result": [{"type": "labels", "value": {"start": 0, "end": 2, "text": "一", "labels": ["PER"]}}]}
                ],
            },
            (),
            SPAN,
        ),
        ({"text": "一", "annotations": [{"label": 3, "user": 1}]}, (), "export as JSONL with label names"),
        ({"text": "一", "label": [7]}, (), "label 7 is not a name"),
        ({"text": "一"}, (), "no field 'label', found 'text'"),
        ({"label": ["甲"]}, (), "no text; expected a field 'text' or 'data'"),
        ({"text": "一", "label": ["甲,乙"]}, (), "label '甲,乙' contains a comma"),
        ({"text": "一", "label": [""]}, (), "label '' is empty"),
        ({"text": "一", "label": ["甲\t乙"]}, (), "contains a tab or a line break"),
        ({"text": "一", "label": ["甲##乙"]}, (), "--task_type hierarchical"),
        ({"text": "一", "label": ["甲##"]}, ("--task_type", "hierarchical"), "has an empty level"),
        ({"text": "一", "label": ["甲", "乙"]}, ("--task_type", "multi_class"), "2 labels; --task_type multi_class"),
        ({"text": "一", "label": []}, ("--task_type", "multi_class"), "0 labels; --task_type multi_class"),
        ({"text": "一", "label": []}, (), "no row has a label"),
        ({"text": 5, "label": ["甲"]}, (), "no text"),
        ({"text": "\ud83d", "label": ["甲"]}, (), "surrogates not allowed"),
        ({"data": {"text": "一"}, "annotations": [7]}, (), "not a row of doccano or Label Studio"),
    ],
)
def test_invalid_rows(convert, row, flags, message):
    status, said, folder = convert(json.dumps(row), *flags, "--splits", "1")
    assert status == 2 and message in said and "export" in said and not folder.exists()
    if message != "no row has a label":
        assert f"{folder.parent / 'export'}:1:" in said
        status, said, _ = convert(json.dumps([{"text": "好", "label": ["甲"]}, row]), *flags, "--splits", "1")
        assert status == 2 and "row 2" in said and message in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "no rows"),
        ("[]", "no rows"),
        ("[" * 100_000, "unreadable JSON array"),
        ('{"text":' * 100_000, "export:1: not JSON"),
        ("下雨,天气\n" * 9, "export:1: not JSON; export as JSONL (doccano) or JSON (Label Studio). Rows of your own"),
        ("text,label\n下雨,天气\n", "export: this file is CSV"),
        ("内容\t标签\n下雨\t天气\n", "Another table: convert it with data/from_table.py"),
        ('{"内容": "下雨", "标签": "天气"}', "If this is a table of your own, convert it with data/from_table.py"),
        ("[1, 2]", "row 1: a row must be a JSON object"),
        ('[{"text": "一"', "unreadable JSON array"),
        ('{"text": "一", "label": ["甲"]}\n__label__甲 二\n', "export:2: not JSON"),
        ('[{"text": "一", "annotation_id": 1, "a": "x", "b": "y"}]', "it may be 'a', 'b'; export as JSON"),
        ('[{"text": "一", "annotation_id": 1}]', "there is none"),
    ],
)
def test_invalid_files(convert, content, message):
    status, said, folder = convert(content)
    assert status == 2 and message in said and not folder.exists() and "Traceback" not in said


@pytest.mark.parametrize("splits", ["0.5", "0.8 0.3", "0.7 0.1 0.1 0.1", "1.2 -0.2", "1 0"])
def test_invalid_splits(convert, splits):
    status, said, _ = convert(as_jsonl(FLAT), "--splits", *splits.split())
    assert status == 2 and f"--splits {splits}: must be 1, 2 or 3 numbers" in said


def test_other_invalid_flags(convert):
    for flags, message in (
        (("--is_shuffle", "maybe"), "expected true or false"),
        (("--dirty", "--valid"), "not allowed with"),
        (("--separator", ""), "must not be empty"),
    ):
        status, said, _ = convert(as_jsonl(FLAT), *flags)
        assert status == 2 and message in said
    for flags in ((), ("--is_shuffle", "False")):
        status, said, _ = convert(as_jsonl(FLAT[:1]), *flags)
        assert status == 2 and "1 rows cannot fill 2 files" in said
    status, said, _ = convert(json.dumps({"text": "一"}), "--splits", "0.5")
    assert status == 2 and "2 problems" in said and "--splits 0.5" in said and "no field 'label'" in said
    status, said, _ = convert(as_jsonl(FLAT[:2]), "--splits", "0.9", "0.1", "--is_shuffle", "False")
    assert status == 2 and "one file would be empty" in said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["一", "甲,乙", "", "choices"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "text",
                    "data",
                    "label",
                    "annotations",
                    "result",
                    "type",
                    "value",
                    "choices",
                    "taxonomy",
                    "annotation_id",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(JSON, max_size=3))
def test_any_json_is_read_or_refused(tmp_path_factory, records):
    path, problems = tmp_path_factory.getbasetemp() / "any.json", Problems()
    path.write_text(json.dumps(records), encoding="utf-8")
    rows = annotation_exports.read_annotations([str(path)], "##", problems, Counter())
    assert problems.count or len({row.where for row in rows}) == len(records)
    for row in rows:
        assert isinstance(row.text, str) and all(isinstance(name, str) for name in row.labels)


def test_example_data_survive_a_round_trip(convert):
    """Exports only leaves, as annotators name them; the rows come back with all ancestors."""
    rows = pairs_of(ROOT / "data" / "train.txt")[:300]
    leaves = []
    for text, labels in rows:
        names = labels.split(",") if labels else []
        leaves.append((text, [n for n in names if not any(other.startswith(f"{n}##") for other in names)]))
    status, said, folder = convert(as_jsonl(leaves), "--task_type", "hierarchical", "--splits", "1")
    assert status == 0 and {t: set(ls.split(",")) for t, ls in pairs_of(folder / "train.txt")} == {
        t: set(ls.split(",")) for t, ls in rows
    }


def test_an_archive_as_doccano_exports_it(tmp_path, run):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("all.jsonl", as_jsonl(FLAT))
    status, said = run(script.main, "--doccano_file", tmp_path / "all.zip", "--save_dir", tmp_path / "data")
    assert status == 2 and "a ZIP archive, not text; unpack it" in said and not (tmp_path / "data").exists()


def test_names_that_look_alike_are_one_label_or_an_error(convert):
    rows = [(f"第{i}条", [["Santé##a", "Sante\u0301 ## a\u200b"][i % 2]]) for i in range(10)]
    status, said, folder = convert(as_jsonl(rows), "--task_type", "hierarchical")
    assert status == 0 and lines_of(folder / "label.txt") == ["Santé", "Santé##a"]
    assert "5 labels had invisible characters or stray spaces, which are removed" in said
    assert {labels for _, labels in pairs_of(folder / "train.txt")} == {"Santé,Santé##a"}
    for other in ("santé##b", "Ｓanté##b"):
        status, said, _ = convert(as_jsonl([*rows, ("另一条", [other])]), "--task_type", "hierarchical")
        assert status == 2 and f"label '{other[:5]}' differs from 'Santé' only in letter case or full width" in said
        assert "problems" not in said
    status, said, _ = convert(as_jsonl([("新的", ["santé"]), ("旧的", ["Sante\u0301"])]), "--valid")
    assert status == 2 and "label 'santé' differs from 'Santé' only in letter case or full width, and 1 rows" in said


def test_labels_joined_by_a_sign(convert):
    rows = [("一", ["甲；乙"]), ("二", ["甲"]), ("三", ["乙"]), ("四", ["丙"]), ("五", ["丙；乙；甲"])]
    status, said, folder = convert(as_jsonl(rows))
    assert status == 2 and "label '甲；乙' and 1 other name seem to be several labels with '；' between them" in said
    status, said, folder = convert(as_jsonl(rows), "--split_joined", "--splits", "1")
    assert status == 0 and lines_of(folder / "label.txt") == ["丙", "乙", "甲"]
    assert "2 labels that look joined by # or ； are split" in said
    assert dict(pairs_of(folder / "train.txt"))["五"] == "丙,乙,甲"


def test_a_rare_label_nearly_the_same_as_another_is_listed(convert):
    rows = [(f"第{i}条", ["物流##延迟" if i % 10 else "物流##延时"]) for i in range(50)]
    status, said, _ = convert(as_jsonl(rows), "--task_type", "hierarchical")
    assert status == 0 and "Labels '物流##延时' (5 rows) and '物流##延迟' (45 rows) are nearly the same" in said
