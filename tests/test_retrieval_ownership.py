"""Who may change a bundle and its collection in Milvus, and what an interrupted run leaves."""

import shutil

import pytest
from conftest import lines_of
from index_commands import entries_of, manifest_of, needs_milvus, script

import index_building
from text_cls.bundle import open_bundle, replace_decision
from text_cls.decision import Decision
from text_cls.locks import write_lock
from text_cls.serving import open_predictor


def test_only_one_index_py_at_a_time(indexed_bundle, refused_index, run_index):
    folder = indexed_bundle()
    with write_lock(folder):
        for _ in range(2):  # being refused does not remove the lock
            assert f"is writing to {folder}; wait until it has ended" in refused_index("add", folder, "--label", "a")
        replace_decision(open_bundle(str(folder)), Decision(0.77))  # this replaces the folder
        assert f"is writing to {folder}; wait until it has ended" in refused_index("add", folder, "--label", "a")
    run_index("add", folder, "--label", "a")
    assert not list(folder.parent.glob(f"{folder.name}.*"))


def test_a_change_by_another_process_is_not_overwritten(indexed_bundle, run, monkeypatch):
    folder = indexed_bundle()
    write_changes = script.write_changes

    def late(*args):
        replace_decision(open_bundle(str(folder)), Decision(0.77))
        write_changes(*args)

    monkeypatch.setattr(script, "write_changes", late)
    status, log = run(script.main, "add", "--bundle", folder, "--label", "新")
    assert status == 2 and "changed by another process; nothing was done, run it again" in log
    assert open_bundle(str(folder)).decision.threshold == 0.77 and "新" not in lines_of(folder / "label.txt")


@needs_milvus
def test_a_copy_does_not_change_what_the_bundle_finds(indexed_bundle, run_index, refused_index, tmp_path, milvus_file):
    folder = indexed_bundle("reviews", "labels", "milvus")
    copy, counts, where = shutil.copytree(folder, tmp_path / "copy"), entries_of(folder), manifest_of(folder)["index"]
    name = lines_of(folder / "label.txt")[0]
    for command, flags in (("remove", ("--label", name)), ("add", ("--label", "新"))):
        log = refused_index(command, copy, *flags)
        assert f"is a copy of {folder}" in log and "index.py build --milvus_uri" in log and "--moved" in log
    assert entries_of(copy) == entries_of(folder) == counts  # searching a copy changes nothing
    run_index("build", copy, "--milvus_uri", milvus_file)
    run_index("remove", copy, "--label", name)
    assert name not in entries_of(copy) and entries_of(folder) == counts and manifest_of(folder)["index"] == where
    run_index("build", shutil.copytree(folder, tmp_path / "other"))
    assert entries_of(folder) == counts
    moved = folder.rename(tmp_path / "moved")
    run_index("add", moved, "--label", "新", "--moved")
    run_index("remove", moved, "--label", name)
    assert manifest_of(moved)["index"] == {**where, "bundle": str(moved)}
    counts["新"] = counts.pop(name)
    assert entries_of(moved) == dict(sorted(counts.items()))


@needs_milvus
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_killed_build_left_is_deleted_by_the_next(
    indexed_bundle, run_index, milvus_file, monkeypatch, run, when
):
    """A build killed before it replaces the bundle leaves the new collection; one killed after that, the old one."""
    from text_cls.search.milvus_index import _connect

    folder, write_changes = indexed_bundle("news", "labels", "milvus"), index_building.write_changes
    client, old = _connect(str(milvus_file), 10), manifest_of(folder)["index"]["collection"]
    client.create_collection("foreign", dimension=3)
    others = set(client.list_collections()) - {old}
    delete = index_building.delete_old_collections

    def killed(*args):
        if when == "after":
            write_changes(*args)
        monkeypatch.setattr(index_building, "delete_old_collections", lambda *args: [])  # killed before it deletes
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_building, "write_changes", killed)
        assert run(script.main, "build", "--bundle", folder, "--milvus_uri", milvus_file)[0] == 130
    monkeypatch.setattr(index_building, "delete_old_collections", delete)
    assert len(set(client.list_collections()) - others) == 2
    copy = shutil.copytree(folder.parent, folder.parent.with_name(f"{folder.parent.name}-copy")) / folder.name
    run_index("build", copy)  # the file beside a copy lists collections of the original, which stay
    assert len(set(client.list_collections()) - others) == 2
    run_index("build", folder, "--milvus_uri", milvus_file)
    assert set(client.list_collections()) - others == {manifest_of(folder)["index"]["collection"]}
    assert not folder.with_name(f"{folder.name}.collections.json").exists()
    client.drop_collection("foreign")


@needs_milvus
def test_a_milvus_that_is_down_leaves_nothing_beside_the_bundle(indexed_bundle, refused_index):
    folder = indexed_bundle()
    beside = set(folder.parent.iterdir())
    assert "does not answer" in refused_index("build", folder, "--milvus_uri", "http://127.0.0.1:9")
    assert set(folder.parent.iterdir()) == beside


@needs_milvus
def test_a_build_that_fails_leaves_the_bundle_and_no_collection(indexed_bundle, milvus_file, monkeypatch, run):
    from text_cls.search.milvus_index import _connect

    folder = indexed_bundle()
    before = (folder / "manifest.json").read_bytes()
    client = _connect(str(milvus_file), 10)
    collections = set(client.list_collections())

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(index_building, "write_changes", interrupted)
    status, _ = run(script.main, "build", "--bundle", folder, "--milvus_uri", milvus_file)
    assert status == 130 and set(client.list_collections()) == collections
    assert (folder / "manifest.json").read_bytes() == before


@needs_milvus
def test_what_an_interrupted_run_left_in_milvus_can_be_removed(indexed_bundle, run_index, monkeypatch, run):
    """remove changes label.txt first: from then on the label is not predicted, even if the run is interrupted."""
    from text_cls.search.milvus_index import MilvusIndex

    folder = indexed_bundle("reviews", "labels", "milvus")
    name = lines_of(folder / "label.txt")[0]

    def interrupted(self, label):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "remove", interrupted)
        assert run(script.main, "remove", "--bundle", folder, "--label", name)[0] == 130
    assert name not in lines_of(folder / "label.txt") and name in entries_of(folder)
    predictor = open_predictor(str(folder), num_threads=1)
    assert name not in {one for names, _ in predictor.predict([name]) for one in names}
    run_index("remove", folder, "--label", name)
    assert name not in entries_of(folder)


@needs_milvus
def test_an_add_that_was_interrupted_after_the_insert_can_be_run_again(indexed_bundle, run_index, monkeypatch, run):
    folder = indexed_bundle("reviews", "labels", "milvus")

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "write_changes", interrupted)
        assert run(script.main, "add", "--bundle", folder, "--label", "新")[0] == 130
    assert entries_of(folder)["新"] == 1 and "新" not in lines_of(folder / "label.txt")
    run_index("add", folder, "--label", "新")
    assert entries_of(folder)["新"] == 1 and lines_of(folder / "label.txt")[-1] == "新"


@needs_milvus
def test_a_build_that_is_interrupted_after_replacing_the_bundle_keeps_the_index(
    indexed_bundle, milvus_file, monkeypatch, run
):
    folder, write_changes = indexed_bundle(), index_building.write_changes

    def late(*args):
        write_changes(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(index_building, "write_changes", late)
    assert run(script.main, "build", "--bundle", folder, "--milvus_uri", milvus_file)[0] == 130
    assert manifest_of(folder)["index"]["kind"] == "milvus" and len(entries_of(folder)) > 10
