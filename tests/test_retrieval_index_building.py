"""index.py build: corpora, labels, and moves into Milvus and out of it."""

import json
import shutil

import numpy as np
import pytest
from conftest import lines_of, write_lines
from index_commands import entries_of, manifest_of, needs_milvus, script

from bundle_changes import memory_problem
from text_cls.bundle import open_bundle, replace_decision
from text_cls.decision import Decision
from text_cls.search.open_index import open_index


def test_from_label_texts_to_rows_and_back(indexed_bundle, run_index, retrieval, trained):
    folder, train = indexed_bundle("news"), trained["news"][0] / "train.txt"
    log = run_index("build", folder, "--corpus", "rows", "--corpus_file", train)
    manifest, counts = manifest_of(folder), entries_of(folder)
    assert manifest["corpus"] == "rows" and manifest["search"] == {"vote": True, "neighbours": 20}
    assert (
        counts == entries_of(retrieval["news", "rows"]) and f"{len(open_index(str(folder), manifest))} entries" in log
    )
    run_index("build", folder, "--corpus", "rows", "--corpus_file", train, "--no-vote", "--neighbours", 7)
    assert manifest_of(folder)["search"] == {"vote": False, "neighbours": 7}
    run_index("build", folder)
    manifest = manifest_of(folder)
    assert manifest["corpus"] == "labels" and manifest["search"] == {"vote": False, "neighbours": 7}
    assert entries_of(folder) == entries_of(retrieval["news", "labels"])
    open_bundle(str(folder))  # every file matches the manifest


def test_inner_labels_with_an_entry_keep_it_and_texts_of_labels_do_not(indexed_bundle, run_index):
    folder = indexed_bundle()
    run_index("add", folder, "--label", "灾害事故")
    run_index("add", folder, "--label", "新", "--text", "一句话")
    log = run_index("build", folder)
    counts = entries_of(folder)
    assert counts["灾害事故"] == counts["新"] == 1
    assert "1 label had texts of their own (add --text), which are not kept" in log


def test_a_label_file_replaces_the_labels(indexed_bundle, run_index, refused_index, tmp_path):
    folder = indexed_bundle("reviews")
    old = lines_of(folder / "label.txt")
    replace_decision(open_bundle(str(folder)), Decision(tuple(np.linspace(0.1, 0.6, len(old)).tolist())))
    write_lines(tmp_path / "labels.txt", ["上级", "上级##下级", old[2]])
    run_index("build", folder, "--corpus_file", tmp_path / "labels.txt")
    assert lines_of(folder / "label.txt") == ["上级", "上级##下级", old[2]]
    assert list(entries_of(folder)) == sorted(["上级##下级", old[2]])
    assert manifest_of(folder)["hierarchical"] and open_bundle(str(folder)).decision.threshold[2] == pytest.approx(
        np.linspace(0.1, 0.6, len(old))[2]
    )
    write_lines(tmp_path / "labels.txt", ["上级##下级", "a,b"])
    log = refused_index("build", folder, "--corpus_file", tmp_path / "labels.txt")
    assert "has no parent here" in log and "contains a comma" in log


@needs_milvus
def test_into_milvus_and_out_of_it(indexed_bundle, run_index, milvus_file, monkeypatch):
    from text_cls.search.milvus_index import _connect

    monkeypatch.setenv("MILVUS_TOKEN", "root:s3cret")
    folder = indexed_bundle()
    counts, names = entries_of(folder), {path.name for path in folder.iterdir()}
    log = run_index("build", folder, "--milvus_uri", milvus_file, "--index_type", "FLAT")
    where = manifest_of(folder)["index"]
    made = {"uri": str(milvus_file), "collection": where["collection"], "bundle": str(folder)}
    assert where == {"kind": "milvus", **made}
    assert {path.name for path in folder.iterdir()} == names - {"vectors.npy", "entries.json", "index.hnsw"}
    assert "s3cret" not in log + (folder / "manifest.json").read_text(encoding="utf-8")
    assert entries_of(folder) == counts
    run_index("build", folder, "--milvus_uri", milvus_file)
    client, collection = _connect(str(milvus_file), 10), manifest_of(folder)["index"]["collection"]
    assert client.has_collection(collection) and not client.has_collection(where["collection"])
    run_index("build", folder)
    assert not client.has_collection(collection)
    assert manifest_of(folder)["index"] == {"kind": "embedded"} and entries_of(folder) == counts


@needs_milvus
def test_out_of_a_milvus_that_is_gone(indexed_bundle, run_index, run):
    folder = indexed_bundle()
    manifest = manifest_of(folder)
    manifest["index"] = {"kind": "milvus", "uri": "http://127.0.0.1:9", "collection": "c"}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for command, flags in (("add", ("--label", "新")), ("remove", ("--label", "灾害事故")), ("list", ())):
        status, log = run(script.main, command, "--bundle", folder, *flags)
        assert status == 2 and "Milvus at http://127.0.0.1:9 does not answer" in log and "Traceback" not in log
    log = run_index("build", folder)
    assert "labels with children get no entry" in log and "stays in http://127.0.0.1:9" in log
    assert f"If their Milvus is gone for good, delete {folder}.collections.json" in log
    assert manifest_of(folder)["index"] == {"kind": "embedded"} and len(entries_of(folder)) > 10


def test_a_bundle_without_an_index(retrieval, run, run_index, tmp_path):
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
    run_index("build", folder)
    assert entries_of(folder) == entries_of(retrieval["news", "labels"])


def test_more_vectors_than_the_memory_holds_are_refused_before_they_are_made():
    assert memory_problem(100_000, 768) is None
    problem = memory_problem(10**9, 768)
    assert "5722 GiB" in problem and "--milvus_uri" in problem
