import json
import os
from pathlib import Path

import pytest
from conftest import write_lines

from text_cls import files
from text_cls.cli import UserError
from text_cls.files import atomic_folder, atomic_write, read_unchanged, recover_folder, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "out.txt"
    with atomic_write(path) as file:
        file.write("一\n")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "一\n"
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("二\n")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "一\n" and os.listdir(path.parent) == ["out.txt"]


def test_paths_that_are_not_utf_8_are_escaped(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + "/数据".encode("gbk"))
    write_json(os.path.join(folder, "run.json"), {"dataset_dir": folder, "text": "好 \U0001f600"})
    with open(os.path.join(folder, "run.json"), encoding="utf-8") as file:
        content = file.read()
    assert "\\udc" in content and "好 \U0001f600" in content
    assert json.loads(content) == {"dataset_dir": folder, "text": "好 \U0001f600"}


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="is a folder; name a file"), atomic_write(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), atomic_write(tmp_path / "file" / "out.txt"):
        pass
    os.mkfifo(tmp_path / "pipe")  # as /dev/null is: root would replace it
    with pytest.raises(UserError, match="is a device or a pipe"), atomic_write(tmp_path / "pipe"):
        pass
    assert not os.path.isfile(tmp_path / "pipe")


def test_a_link_to_a_file_stays_one(tmp_path):
    write_lines(tmp_path / "target", ["old"])
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with atomic_write(tmp_path / "link") as file:
        file.write("new\n")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text(encoding="utf-8") == "new\n"


@pytest.mark.parametrize("exchange", ["in one step", "by two renames"])
def test_a_folder_replaces_an_older_one(tmp_path, monkeypatch, exchange):
    if exchange == "by two renames":
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())  # a system without renameat2
    path = tmp_path / "checkpoint"
    for content in ("old", "new"):
        with atomic_folder(path) as folder:
            write_lines(os.path.join(folder, content), [content])
    assert os.listdir(path) == ["new"] and os.listdir(tmp_path) == ["checkpoint"]


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    path = tmp_path / "checkpoint"
    path.symlink_to(tmp_path / "disk" / "real", target_is_directory=True)
    for content in ("old", "new"):
        with atomic_folder(path) as folder:
            write_lines(os.path.join(folder, content), [content])
    assert path.is_symlink() and os.listdir(path) == ["new"] and os.listdir(tmp_path / "disk") == ["real"]
    (tmp_path / "disk" / "real").rename(tmp_path / "disk" / "real.old")  # killed between two renames
    recover_folder(path)
    assert os.listdir(path) == ["new"] and path.is_symlink()


def test_a_folder_whose_writing_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint"
    with atomic_folder(path) as folder:
        write_lines(os.path.join(folder, "old"), [])
    with pytest.raises(RuntimeError), atomic_folder(path) as folder:
        write_lines(os.path.join(folder, "half"), [])
        raise RuntimeError
    assert os.listdir(path) == ["old"] and os.listdir(tmp_path) == ["checkpoint"]


def test_a_replacement_cut_off_between_two_renames_is_recovered(tmp_path):
    (tmp_path / "checkpoint.old").mkdir()
    (tmp_path / "checkpoint.old" / "weights").touch()
    recover_folder(tmp_path / "checkpoint")
    assert os.listdir(tmp_path / "checkpoint") == ["weights"] and os.listdir(tmp_path) == ["checkpoint"]


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="cannot write .*: No space left on device"), atomic_write(tmp_path / "x"):
        pass
    with pytest.raises(UserError, match="cannot write .*: No space left on device"), atomic_folder(tmp_path / "y"):
        pass
    assert os.listdir(tmp_path) == []


def test_all_that_is_read_belongs_to_one_state_of_the_folder(tmp_path):
    """The folder is replaced between the reader's two files; a reader that is not called again returns "old", "new"."""
    path, calls = tmp_path / "x", []

    def write(words):
        with atomic_folder(path) as folder:
            for name in "ab":
                Path(folder, name).write_text(words, encoding="utf-8")

    def read():
        first = Path(path, "a").read_text(encoding="utf-8")
        if not calls:
            write("new")
        calls.append(first)
        return first, Path(path, "b").read_text(encoding="utf-8")

    write("old")
    assert read_unchanged(path, read) == ("new", "new") and calls == ["old", "new"]


def test_an_error_of_a_reader_is_raised_unless_the_folder_changed(tmp_path):
    calls = []

    def read():
        calls.append(len(calls))
        Path(tmp_path, "a").write_text("x" * len(calls), encoding="utf-8")
        raise ValueError

    with pytest.raises(UserError, match="changes again and again"):
        read_unchanged(tmp_path, read)
    assert len(calls) == 5
    with pytest.raises(ZeroDivisionError):
        read_unchanged(tmp_path, lambda: 1 / 0)
