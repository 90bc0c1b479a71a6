import json
import os
import shutil
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
from conftest import ROOT, command_line, lines_of, load_script, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from text_cls.bundle import open_bundle, replace_decision
from text_cls.decision import Decision
from text_cls.search.open_index import open_index
from text_cls.serving import open_predictor

script = load_script("retrieval_based/index.py")
KINDS = [
    "embedded",
    pytest.param(
        "milvus",
        marks=pytest.mark.skipif(
            not (find_spec("pymilvus") and find_spec("milvus_lite")) and not os.environ.get("CI"),
            reason="pymilvus and milvus-lite: pip install -r requirements/milvus.txt",
        ),
    ),
]
HOSTILE = ["引\"号' or 1==1", "<script>alert(1)</script>", "😀", "100%\\n {x}", "长" * 2000]


@pytest.fixture(scope="module")
def milvus_file(tmp_path_factory):
    from milvus_lite import server_manager_instance

    path = tmp_path_factory.mktemp("milvus") / "index.db"
    yield path
    server_manager_instance.release_server(str(path))


@pytest.fixture
def bundle(run, retrieval, tmp_path, request):
    """bundle(task, corpus, kind) -> folder of a copy with an index of this kind."""

    def call(task="news", corpus="labels", kind="embedded"):
        folder = shutil.copytree(retrieval[task, corpus], tmp_path / f"{task}-{corpus}-{kind}")
        if kind == "milvus":
            uri = request.getfixturevalue("milvus_file")
            rows = ("--corpus_file", tmp_path / "all.txt") if corpus == "rows" else ()
            if rows:
                names = {line.partition("\t")[2] for line in lines_of(ROOT / DATA[task] / "train.txt")[:600]}
                write_lines(rows[1], [f"{i}\t{labels}" for i, labels in enumerate(sorted(names)[:50])])
            status, log = run(script.main, "build", "--bundle", folder, "--corpus", corpus, *rows, "--milvus_uri", uri)
            assert status == 0, log
        return folder

    return call


DATA = {"news": "data", "reviews": "data/multi_label"}


@pytest.fixture
def index(run):
    """index(command, bundle, *flags) -> log of a run that succeeds."""

    def call(command, folder, *flags):
        status, log = run(script.main, command, "--bundle", folder, *flags)
        assert status == 0, log
        return log

    return call


@pytest.fixture
def refused(run):
    """refused(command, bundle, *flags) -> message of a run that ends with status 2 and changes nothing."""

    def call(command, folder, *flags):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        status, log = run(script.main, command, "--bundle", folder, *flags)
        assert status == 2 and "Traceback" not in log, log
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert not folder.with_name(f"{folder.name}.tmp").exists()
        return log

    return call


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def entries_of(folder):
    return open_index(str(folder), manifest_of(folder)).labels()


def nearest(folder, text):
    """The names of the entry nearest to a text, its cosine, and the label of the highest score, of several the last."""
    predictor = open_predictor(str(folder), num_threads=1)
    found = predictor.index.search(predictor.embed([text]), 1)
    scores = predictor.probabilities([text])[0]
    return found.labels[0][0], found.cosines[0, 0], predictor.labels.names[len(scores) - 1 - scores[::-1].argmax()]


# ------------------------------------------------------------------------------------------------------- add and remove


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corpus", ["labels", "rows"])
@pytest.mark.parametrize("task", ["news", "reviews"])
def test_what_is_added_is_found_at_once_and_what_is_removed_never_again(bundle, index, task, corpus, kind):
    folder, text = bundle(task, corpus, kind), "量子纠缠态首次在太空验证"
    flags = ("--text", text, "好" * 2000) if corpus == "rows" else ()
    before = lines_of(folder / "label.txt")
    for name in ["量子", *HOSTILE]:
        index("add", folder, "--label", name, *flags)
        asked = name if corpus == "labels" else text
        names, cosine, highest = nearest(folder, asked)
        assert names == (name,) and cosine == pytest.approx(1, abs=1e-5) and (corpus == "rows" or highest == name)
        predictor = open_predictor(str(folder), num_threads=1)
        assert predictor.labels.names == [*before, name] == lines_of(folder / "label.txt")
        log = index("remove", folder, "--label", name)
        assert "Removed 1 label, which " in log
        predictor = open_predictor(str(folder), num_threads=1)
        assert predictor.labels.names == before and predictor.probabilities([asked]).shape == (1, len(before))
        found = predictor.index.search(predictor.embed([asked]), len(predictor.index))
        assert name not in {one for names in found.labels[0] for one in names}
        assert name not in predictor.index.labels()


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_adding_and_removing(bundle, index, tmp_path, kind):
    """The bundle's labels and its index' entries are those of a list that is kept beside it."""
    folder = bundle("news", "labels", kind)
    pieces = st.lists(st.sampled_from(["a", "b", "<i>", "😀 '\""]), min_size=1, max_size=3)

    @settings(max_examples=5, deadline=None)
    @given(st.lists(st.tuples(pieces, st.booleans()), min_size=1, max_size=5))
    def hold(steps):  # each on what the ones before have left
        labels, entries = lines_of(folder / "label.txt"), entries_of(folder)
        for parts, taken in steps:
            name, parent = "##".join(parts), "##".join(parts[:-1])
            if name in labels and taken:
                index("remove", folder, "--label", name, "--with_children")
                labels = [other for other in labels if not f"{other}##".startswith(f"{name}##")]
                entries = {other: count for other, count in entries.items() if other in labels}
                if parent and not any(other.startswith(f"{parent}##") for other in labels):
                    entries.setdefault(parent, 1)
            else:
                index("add", folder, "--label", name, "--text", "又一句")
                above = ["##".join(parts[: i + 1]) for i in range(len(parts))]
                labels += [path for path in above if path not in labels]
                entries[name] = entries.get(name, 1) + 1
            assert lines_of(folder / "label.txt") == labels and entries_of(folder) == dict(sorted(entries.items()))
            predictor = open_predictor(str(folder), num_threads=1)
            assert predictor.labels.names == labels and manifest_of(folder)["num_labels"] == len(labels)
            found = predictor.index.search(predictor.embed(["又一句"]), 1000).labels[0]
            assert {one for names in found for one in names} == set(entries)

    hold()


def test_missing_parents_are_added_and_said(bundle, index):
    folder = bundle()
    names = lines_of(folder / "label.txt")
    log = index("add", folder, "--label", "天文##行星##火星", "--text", "火星车着陆", "火星表面")
    assert "Added 3 entries and 3 labels: 天文, 天文##行星, 天文##行星##火星" in log
    assert "Parents that were not there, and are now: 天文, 天文##行星\n" in log
    assert lines_of(folder / "label.txt") == [*names, "天文", "天文##行星", "天文##行星##火星"]
    assert {name: count for name, count in entries_of(folder).items() if "天文" in name} == {"天文##行星##火星": 3}
    assert nearest(folder, "火星车着陆")[2] == "天文##行星##火星"
    ((found, _),) = open_predictor(str(folder), num_threads=1).predict(["火星车着陆"])
    assert {"天文", "天文##行星", "天文##行星##火星"} <= set(found)
    assert "Parents" not in index("add", folder, "--label", "天文##行星##木星")


def test_a_label_with_others_below_it_goes_only_with_them(bundle, index, refused):
    folder = bundle()
    for name in ("天文##行星##火星", "天文##行星##木星"):
        index("add", folder, "--label", name)
    log = refused("remove", folder, "--label", "天文##行星")
    assert "below it is 天文##行星##火星, 天文##行星##木星; --with_children removes that, too" in log
    refused("remove", folder, "--label", "天文##行星", "天文##行星##火星")
    log = index("remove", folder, "--label", "天文##行星", "--with_children")
    assert "Removed 3 labels, which 2 entries had" in log
    # its parent has no child any more, and is found by itself
    assert [name for name in entries_of(folder) if "天文" in name] == ["天文"]
    assert nearest(folder, "天文")[2] == "天文"
    index("add", folder, "--label", "天文##行星")
    index("remove", folder, "--label", "天文", "天文##行星")
    assert not [name for name in lines_of(folder / "label.txt") if "天文" in name]


def test_labels_are_removed_from_rows_and_rows_without_any_go(bundle, index):
    folder = bundle("reviews", "rows")
    before, counts = len(open_index(str(folder), manifest_of(folder))), entries_of(folder)
    name = max(counts, key=counts.get)
    log = index("remove", folder, "--label", name)
    after = open_index(str(folder), manifest_of(folder))
    assert f"which {counts[name]} entries had" in log and name not in after.labels()
    assert before - counts[name] <= len(after) < before
    assert {other: count for other, count in counts.items() if other != name} == after.labels()


def test_thresholds_go_with_the_names(bundle, index):
    folder = bundle("reviews")
    names = lines_of(folder / "label.txt")
    thresholds = [round(0.1 + 0.05 * i, 2) for i in range(len(names))]
    replace_decision(open_bundle(str(folder)), Decision(tuple(thresholds), none_below=0.2, none_label=1))
    index("add", folder, "--label", "新")
    index("remove", folder, "--label", names[0])
    decision = open_bundle(str(folder)).decision
    assert decision.threshold == (*thresholds[1:], float(np.median(thresholds)))
    assert decision.none_label == 0 and decision.none_below == 0.2
    index("remove", folder, "--label", names[1])
    assert open_bundle(str(folder)).decision.none_label is None


def test_labels_of_a_file(bundle, index, refused, tmp_path):
    folder, file = bundle(), tmp_path / "new.txt"
    write_lines(file, ["天文##行星", "", "天文", "生态气象##污染", *HOSTILE])
    log = index("add", folder, "--corpus_file", file)
    assert f"Added {2 + len(HOSTILE)} entries and {2 + len(HOSTILE)} labels" in log  # 污染 has an entry already
    assert [entries_of(folder)[name] for name in ("天文", "天文##行星", *HOSTILE)] == [1] * (2 + len(HOSTILE))
    assert "Added 0 entries and 0 labels" in index("add", folder, "--corpus_file", file)
    write_lines(file, ["a,b", "c\td", "e####f", "x" * 70_000])
    log = refused("add", folder, "--corpus_file", file)
    assert "4 problems" in log and "new.txt:1: label 'a,b' holds a comma" in log and "new.txt:4" in log
    write_lines(file, [""])
    assert "no labels; write one a line" in refused("add", folder, "--corpus_file", file)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_file(bundle, index, refused, tmp_path, kind):
    folder, file = bundle("news", "rows", kind), tmp_path / "new.txt"
    many = [f"天文##第{i}" for i in range(20)]
    write_lines(file, ["火星车着陆\t天文##行星", "没有标签", f"{'长' * 2000}\t{','.join(many)}", "😀\t生态气象##污染"])
    before = len(open_index(str(folder), manifest_of(folder)))
    log = index("add", folder, "--corpus_file", file)
    assert "Added 3 entries and 22 labels" in log and "天文" in log
    counts = entries_of(folder)
    assert counts["天文"] == 2 and counts["天文##行星"] == 1 and counts["天文##第19"] == 1
    assert len(open_index(str(folder), manifest_of(folder))) == before + 3
    found = open_predictor(str(folder), num_threads=1)
    nearest = found.index.search(found.embed(["长" * 2000]), 1).labels[0][0]
    assert set(nearest) == {"天文", *many}
    write_lines(file, ["a\tb\tc", "\t天文", "文\ta####b"])
    log = refused("add", folder, "--corpus_file", file)
    assert "new.txt:1: 2 tabs" in log and "empty piece" in log
    write_lines(file, ["没有标签"])
    assert "no row has a label" in refused("add", folder, "--corpus_file", file)


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    "name", ["a,b", "a\tb", "", "  ", "a\nb", "a\rb", "a####b", "##a", "a##", "x" * 70_000, "\udcff"]
)
def test_names_that_cannot_stand_in_a_label_file_are_refused(bundle, refused, name):
    assert "--label" in refused("add", bundle(), f"--label={name}")


def test_faults_say_what_to_do(bundle, refused, tmp_path):
    labels, rows = bundle("news", "labels"), bundle("news", "rows")
    first = lines_of(labels / "label.txt")[1]
    assert "it is there already; to add texts" in refused("add", labels, "--label", first)
    assert refused("add", labels).count("give one of --label and --corpus_file") == 1
    assert "give one of" in refused("add", labels, "--label", "a", "--corpus_file", "b")
    assert "--text goes with --label" in refused("add", labels, "--corpus_file", "b", "--text", "c")
    assert "an empty text" in refused("add", labels, "--label", "a", "--text", " ")
    assert "give --text with texts that have the label" in refused("add", rows, "--label", "a")
    assert "no such label; did you mean" in refused("remove", labels, "--label", f"{first}x")
    names = [name for name in lines_of(labels / "label.txt") if "##" not in name]
    assert "no label would be left" in refused("remove", labels, "--label", *names, "--with_children")
    assert "give the labelled rows, --corpus_file" in refused("build", labels, "--corpus", "rows")
    log = refused("build", labels, "--corpus_file", tmp_path / "no.txt", "--index_type", "FLAT")
    assert "2 problems" in log and "no.txt" in log and "--index_type is Milvus'" in log
    assert "--vote counts labelled rows" in refused("build", labels, "--vote")
    log = refused("build", labels, "--milvus_uri", "http://root:secret@h:1")
    assert "MILVUS_TOKEN" in log and "secret" not in log
    write_lines(tmp_path / "rows.txt", ["文\t没有这个标签"])
    log = refused("build", labels, "--corpus", "rows", "--corpus_file", tmp_path / "rows.txt")
    assert "'没有这个标签' is not in the label file" in log
    write_lines(tmp_path / "rows.txt", ["文"])
    assert "no row has a label" in refused("build", labels, "--corpus", "rows", "--corpus_file", tmp_path / "rows.txt")
    (labels / "mine.txt").write_text("x", encoding="utf-8")
    log = refused("remove", labels, "--label", "nothing")
    assert "2 problems" in log and "mine.txt, which would be lost" in log


def test_what_is_no_retrieval_bundle_is_refused(bundles, refused, run, tmp_path):
    for command, flags in (("build", ()), ("add", ("--label", "a")), ("remove", ("--label", "a")), ("list", ())):
        status, log = run(script.main, command, "--bundle", bundles["news"], *flags)
        assert status == 2 and "retrieval_based/export_model.py" in log
        status, log = run(script.main, command, "--bundle", tmp_path / "no", *flags)
        assert status == 2 and "manifest.json: No such file" in log


def test_a_bundle_without_an_index(retrieval, run, index, tmp_path):
    folder = shutil.copytree(retrieval["news", "labels"], tmp_path / "bundle")
    for name in ("vectors.npy", "entries.json"):
        (folder / name).unlink()
    manifest = manifest_of(folder)
    manifest["index"] = None
    manifest["files"] = {k: v for k, v in manifest["files"].items() if k not in ("vectors.npy", "entries.json")}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for command, flags in (("add", ("--label", "a")), ("remove", ("--label", "a")), ("list", ())):
        status, log = run(script.main, command, "--bundle", folder, *flags)
        assert status == 2 and "has no index yet; python retrieval_based/index.py build --bundle" in log
    index("build", folder)
    assert entries_of(folder) == entries_of(retrieval["news", "labels"])


def test_two_at_once(bundle, refused, index):
    folder = bundle()
    with script.alone(folder):
        for _ in range(2):  # who is refused takes the lock from nobody
            assert "another index.py is changing" in refused("add", folder, "--label", "a")
        replace_decision(open_bundle(str(folder)), Decision(0.77))  # the folder is another one from here on
        assert "another index.py is changing" in refused("add", folder, "--label", "a")
    index("add", folder, "--label", "a")
    assert sorted(path.name for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}.")) == []
    with script.alone(folder):
        folder.with_name(f"{folder.name}.lock").unlink()  # by hand: what is done is done all the same


def test_one_label_is_no_labels(bundle, index):
    folder = bundle()
    assert "Added 1 entry and 1 label: 新\n" in index("add", folder, "--label", "新")
    assert "Removed 1 label, which 1 entry had\n" in index("remove", folder, "--label", "新")


def test_an_add_beyond_the_memory_is_refused_before_texts_are_encoded(bundle, refused, monkeypatch):
    folder, asked = bundle(), []
    monkeypatch.setattr(script, "memory_problem", lambda *size: asked.append(size) or "too much")
    entries, width = len(open_index(str(folder), manifest_of(folder))), manifest_of(folder)["width"]
    assert "too much" in refused("add", folder, "--label", "新", "--text", "一", "二")
    assert asked == [(entries + 3, width)]


def test_a_change_by_somebody_else_is_not_overwritten(bundle, run, monkeypatch):
    folder = bundle()
    put = script.put

    def late(*args):
        replace_decision(open_bundle(str(folder)), Decision(0.77))
        put(*args)

    monkeypatch.setattr(script, "put", late)
    status, log = run(script.main, "add", "--bundle", folder, "--label", "新")
    assert status == 2 and "changed by another process meanwhile; nothing was done, run it again" in log
    assert open_bundle(str(folder)).decision.threshold == 0.77 and "新" not in lines_of(folder / "label.txt")


# --------------------------------------------------------------------------------------------------------------- build


def test_from_label_texts_to_rows_and_back(bundle, index, retrieval, trained):
    folder, train = bundle("news"), trained["news"][0] / "train.txt"
    log = index("build", folder, "--corpus", "rows", "--corpus_file", train)
    manifest, counts = manifest_of(folder), entries_of(folder)
    assert manifest["corpus"] == "rows" and manifest["search"] == {"vote": True, "neighbours": 20}
    assert (
        counts == entries_of(retrieval["news", "rows"]) and f"{len(open_index(str(folder), manifest))} entries" in log
    )
    index("build", folder, "--corpus", "rows", "--corpus_file", train, "--no-vote", "--neighbours", 7)
    assert manifest_of(folder)["search"] == {"vote": False, "neighbours": 7}
    index("build", folder)
    manifest = manifest_of(folder)
    assert manifest["corpus"] == "labels" and manifest["search"] == {"vote": False, "neighbours": 7}
    assert entries_of(folder) == entries_of(retrieval["news", "labels"])
    open_bundle(str(folder))  # every file is the manifest's


def test_inner_labels_with_an_entry_keep_it_and_texts_of_labels_do_not(bundle, index):
    folder = bundle()
    index("add", folder, "--label", "灾害事故")
    index("add", folder, "--label", "新", "--text", "一句话")
    log = index("build", folder)
    counts = entries_of(folder)
    assert counts["灾害事故"] == counts["新"] == 1
    assert "1 label had texts of their own (add --text), which are not kept" in log


def test_a_label_file_takes_the_place_of_the_labels(bundle, index, refused, tmp_path):
    folder = bundle("reviews")
    old = lines_of(folder / "label.txt")
    replace_decision(open_bundle(str(folder)), Decision(tuple(np.linspace(0.1, 0.6, len(old)).tolist())))
    write_lines(tmp_path / "labels.txt", ["上级", "上级##下级", old[2]])
    index("build", folder, "--corpus_file", tmp_path / "labels.txt")
    assert lines_of(folder / "label.txt") == ["上级", "上级##下级", old[2]]
    assert list(entries_of(folder)) == sorted(["上级##下级", old[2]])
    assert manifest_of(folder)["hierarchical"] and open_bundle(str(folder)).decision.threshold[2] == pytest.approx(
        np.linspace(0.1, 0.6, len(old))[2]
    )
    write_lines(tmp_path / "labels.txt", ["上级##下级", "a,b"])
    log = refused("build", folder, "--corpus_file", tmp_path / "labels.txt")
    assert "has no parent here" in log and "holds a comma" in log


@pytest.mark.parametrize("kind", KINDS[1:])
def test_into_milvus_and_out_of_it(bundle, index, milvus_file, kind, monkeypatch):
    from text_cls.search.milvus_index import _connect

    monkeypatch.setenv("MILVUS_TOKEN", "root:s3cret")
    folder = bundle()
    counts, names = entries_of(folder), {path.name for path in folder.iterdir()}
    log = index("build", folder, "--milvus_uri", milvus_file, "--index_type", "FLAT")
    where = manifest_of(folder)["index"]
    made = {"uri": str(milvus_file), "collection": where["collection"], "bundle": str(folder)}
    assert where == {"kind": "milvus", **made}
    assert {path.name for path in folder.iterdir()} == names - {"vectors.npy", "entries.json", "index.hnsw"}
    assert "s3cret" not in log + (folder / "manifest.json").read_text(encoding="utf-8")
    assert entries_of(folder) == counts
    index("build", folder, "--milvus_uri", milvus_file)
    client, collection = _connect(str(milvus_file), 10), manifest_of(folder)["index"]["collection"]
    assert client.has_collection(collection) and not client.has_collection(where["collection"])
    index("build", folder)
    assert not client.has_collection(collection)
    assert manifest_of(folder)["index"] == {"kind": "embedded"} and entries_of(folder) == counts


@pytest.mark.parametrize("kind", KINDS[1:])
def test_out_of_a_milvus_that_is_gone(bundle, index, run, kind, tmp_path, monkeypatch):
    folder = bundle()
    manifest = manifest_of(folder)
    manifest["index"] = {"kind": "milvus", "uri": "http://127.0.0.1:9", "collection": "c"}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for command, flags in (("add", ("--label", "新")), ("remove", ("--label", "灾害事故")), ("list", ())):
        status, log = run(script.main, command, "--bundle", folder, *flags)
        assert status == 2 and "Milvus at http://127.0.0.1:9 does not answer" in log and "Traceback" not in log
    log = index("build", folder)
    assert "labels above others get no entry" in log and "is left in http://127.0.0.1:9" in log
    assert f"If their Milvus is gone for good, delete {folder}.collections.json" in log
    assert manifest_of(folder)["index"] == {"kind": "embedded"} and len(entries_of(folder)) > 10


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_copy_does_not_change_what_the_bundle_finds(bundle, index, refused, kind, tmp_path, milvus_file):
    folder = bundle("reviews", "labels", "milvus")
    copy, counts, where = shutil.copytree(folder, tmp_path / "copy"), entries_of(folder), manifest_of(folder)["index"]
    name = lines_of(folder / "label.txt")[0]
    for command, flags in (("remove", ("--label", name)), ("add", ("--label", "新"))):
        log = refused(command, copy, *flags)
        assert f"is a copy of {folder}" in log and "index.py build --milvus_uri" in log and "--moved" in log
    assert entries_of(copy) == entries_of(folder) == counts  # to look is no change
    index("build", copy, "--milvus_uri", milvus_file)
    index("remove", copy, "--label", name)
    assert name not in entries_of(copy) and entries_of(folder) == counts and manifest_of(folder)["index"] == where
    index("build", shutil.copytree(folder, tmp_path / "other"))
    assert entries_of(folder) == counts
    moved = folder.rename(tmp_path / "moved")
    index("add", moved, "--label", "新", "--moved")
    index("remove", moved, "--label", name)
    assert manifest_of(moved)["index"] == {**where, "bundle": str(moved)}
    counts["新"] = counts.pop(name)
    assert entries_of(moved) == dict(sorted(counts.items()))


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("when", ["before", "behind"])
def test_what_a_killed_build_left_is_deleted_by_the_next(bundle, index, kind, milvus_file, monkeypatch, run, when):
    """Killed before the bundle is exchanged, the new collection is left; behind it, the old one."""
    from text_cls.search.milvus_index import _connect

    folder, put = bundle("news", "labels", "milvus"), script.put
    client, old = _connect(str(milvus_file), 10), manifest_of(folder)["index"]["collection"]
    client.create_collection("foreign", dimension=3)
    others = set(client.list_collections()) - {old}
    tidy = script.tidy

    def killed(*args):
        if when == "behind":
            put(*args)
        monkeypatch.setattr(script, "tidy", lambda *args: [])  # a killed process tidies nothing
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "put", killed)
        assert run(script.main, "build", "--bundle", folder, "--milvus_uri", milvus_file)[0] == 130
    monkeypatch.setattr(script, "tidy", tidy)
    assert len(set(client.list_collections()) - others) == 2
    copy = shutil.copytree(folder.parent, folder.parent.with_name(f"{folder.parent.name}-copy")) / folder.name
    index("build", copy)  # what stands beside a copy is not its own
    assert len(set(client.list_collections()) - others) == 2
    index("build", folder, "--milvus_uri", milvus_file)
    assert set(client.list_collections()) - others == {manifest_of(folder)["index"]["collection"]}
    assert not folder.with_name(f"{folder.name}.collections.json").exists()
    client.drop_collection("foreign")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_milvus_that_is_down_leaves_nothing_beside_the_bundle(bundle, refused, kind):
    folder = bundle()
    beside = set(folder.parent.iterdir())
    assert "does not answer" in refused("build", folder, "--milvus_uri", "http://127.0.0.1:9")
    assert set(folder.parent.iterdir()) == beside


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_build_that_fails_leaves_the_bundle_and_no_collection(bundle, milvus_file, kind, monkeypatch, run):
    from text_cls.search.milvus_index import _connect

    folder = bundle()
    before = (folder / "manifest.json").read_bytes()
    client = _connect(str(milvus_file), 10)
    collections = set(client.list_collections())

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "put", interrupted)
    status, _ = run(script.main, "build", "--bundle", folder, "--milvus_uri", milvus_file)
    assert status == 130 and set(client.list_collections()) == collections
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_a_run_that_was_cut_off_left_in_milvus_can_be_removed(bundle, index, kind, monkeypatch, run):
    """remove takes a label out of label.txt first: from then on it is not returned, whatever becomes of the rest."""
    from text_cls.search.milvus_index import MilvusIndex

    folder = bundle("reviews", "labels", "milvus")
    name = lines_of(folder / "label.txt")[0]

    def interrupted(self, label):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "remove", interrupted)
        assert run(script.main, "remove", "--bundle", folder, "--label", name)[0] == 130
    assert name not in lines_of(folder / "label.txt") and name in entries_of(folder)
    predictor = open_predictor(str(folder), num_threads=1)
    assert name not in {one for names, _ in predictor.predict([name]) for one in names}
    index("remove", folder, "--label", name)
    assert name not in entries_of(folder)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_an_add_that_was_cut_off_after_milvus_had_it_can_be_done_again(bundle, index, kind, monkeypatch, run):
    folder = bundle("reviews", "labels", "milvus")

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "put", interrupted)
        assert run(script.main, "add", "--bundle", folder, "--label", "新")[0] == 130
    assert entries_of(folder)["新"] == 1 and "新" not in lines_of(folder / "label.txt")
    index("add", folder, "--label", "新")
    assert entries_of(folder)["新"] == 1 and lines_of(folder / "label.txt")[-1] == "新"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_build_that_is_interrupted_behind_the_exchange_keeps_the_index(bundle, kind, milvus_file, monkeypatch, run):
    folder, put = bundle(), script.put

    def late(*args):
        put(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "put", late)
    assert run(script.main, "build", "--bundle", folder, "--milvus_uri", milvus_file)[0] == 130
    assert manifest_of(folder)["index"]["kind"] == "milvus" and len(entries_of(folder)) > 10


def test_more_vectors_than_the_memory_holds_are_refused_before_they_are_made():
    assert script.memory_problem(100_000, 768) is None
    problem = script.memory_problem(10**9, 768)
    assert "5722 GiB" in problem and "--milvus_uri" in problem


# ------------------------------------------------------------------------------------------------------- as users do it


def test_from_inside_the_folder_and_without_paddle(bundle):
    folder = bundle()
    code = (
        "import sys; sys.modules['paddle'] = sys.modules['paddlenlp'] = None; sys.argv[0] = 'index.py'; import index; "
        "sys.exit(index.main())"
    )
    for flags in (("add", "--bundle", folder, "--label", "新##<b>"), ("list", "--bundle", folder)):
        done = subprocess.run(
            command_line("-c", code, *flags), cwd=ROOT / "retrieval_based", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["新\t0", "新##<b>\t1"]
    assert done.stdout.splitlines() == [f"{n}\t{entries_of(folder).get(n, 0)}" for n in lines_of(folder / "label.txt")]


def test_a_reader_that_has_enough(bundle):
    folder = bundle()
    words = command_line(ROOT / "retrieval_based" / "index.py", "list", "--bundle", folder)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    _, error = process.communicate()
    assert process.returncode == 0 and "Traceback" not in error and "BrokenPipe" not in error
