import collections
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import ROOT, command_line, write_lines

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
    (tmp_path / "disk" / "real").rename(tmp_path / "disk" / "real.0123456789abcdef.old")  # killed between two renames
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


@pytest.mark.parametrize("name", ["checkpoint.old", "checkpoint.0123456789abcdef.old"])  # of 0.1.0, and of today
def test_a_replacement_cut_off_between_two_renames_is_recovered(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").touch()
    recover_folder(tmp_path / "checkpoint")
    assert os.listdir(tmp_path / "checkpoint") == ["weights"] and os.listdir(tmp_path) == ["checkpoint"]


def test_the_newest_of_several_replaced_folders_is_recovered(tmp_path):
    for when, name in ((1, "checkpoint.0123456789abcdef.old"), (3, "checkpoint.1"), (2, "checkpoint.old")):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / f"weights{when}", [])
        os.utime(tmp_path / name, (when, when))
    recover_folder(tmp_path / "checkpoint")
    assert os.listdir(tmp_path / "checkpoint") == ["weights2"]


FILES = ["config.json", "label.txt", "run.json", "vocab.txt", "weights"]
MANY = """
import sys
from text_cls.files import atomic_folder
path, tag, *names = sys.argv[1:]
for _ in range(50):
    with atomic_folder(path) as folder:
        for name in names:
            with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
                for _ in range(10):
                    file.write(tag * 100)
                    file.flush()
"""
HELD = """
import os, sys
from text_cls.files import atomic_folder, atomic_write
kind, path = sys.argv[1:]
with {"folder": atomic_folder, "file": atomic_write}[kind](path) as opened:
    file = opened if kind == "file" else open(f"{opened}/half", "w", encoding="utf-8")
    print("half written", file=file, flush=True)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start(code, *words):
    pipe = subprocess.PIPE
    return subprocess.Popen(command_line("-c", code, *words), stdin=pipe, stdout=pipe, text=True, cwd=ROOT)


def look(path):
    """What a reader finds in a folder: whole, mixed, incomplete, or nothing."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return "nothing"
    try:
        contents = []
        for name in os.listdir(handle):
            with open(name, encoding="utf-8", opener=lambda name, flags: os.open(name, flags, dir_fd=handle)) as file:
                contents.append(file.read())
    except FileNotFoundError:
        contents = []
    finally:
        same = os.path.exists(path) and os.path.samestat(os.fstat(handle), os.stat(path))
        os.close(handle)
    if not same:
        return "replaced meanwhile"
    if len({content[:1] for content in contents}) > 1:
        return "mixed"
    return "whole" if [*map(len, contents)] == [1000] * len(FILES) else "incomplete"


def test_two_processes_that_write_one_folder_never_mix_their_files(tmp_path):
    seen = []
    writers = [start(MANY, tmp_path / "x", tag, *FILES) for tag in "AB"]
    while any(writer.poll() is None for writer in writers):
        seen.append(look(tmp_path / "x"))
    assert [writer.wait() for writer in writers] == [0, 0]
    once_there = collections.Counter(seen[seen.index("whole") :])
    assert set(once_there) <= {"whole", "replaced meanwhile"} and not {"mixed", "incomplete"} & set(seen), once_there
    assert look(tmp_path / "x") == "whole" and os.listdir(tmp_path) == ["x"]


def test_writers_that_replace_by_two_renames_leave_one_whole_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files.ctypes, "CDLL", lambda *_, **__: object())
    errors = []

    def write(tag):
        try:
            for _ in range(50):
                with atomic_folder(tmp_path / "x") as folder:
                    for name in FILES:
                        Path(folder, name).write_text(tag * 1000, encoding="utf-8")
        except Exception as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=tag) for tag in "AB"]
    [writer.start() for writer in writers]
    [writer.join() for writer in writers]
    assert not errors and look(tmp_path / "x") == "whole" and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_temporary_is_removed_once_its_writer_was_killed(tmp_path, kind):
    """Until then, the next writer leaves it alone, and both write all of theirs."""
    path, write = tmp_path / "x", {"folder": atomic_folder, "file": atomic_write}[kind]
    with start(HELD, kind, path) as killed, start(HELD, kind, path) as living:
        assert killed.stdout.readline() == living.stdout.readline() == "ready\n"
        temporaries = set(tmp_path.glob("x.*.tmp"))
        with write(path):
            assert set(tmp_path.glob("x.*.tmp")) > temporaries
        killed.kill()
        killed.wait()
        with write(path):
            pass
        (left,) = tmp_path.glob("x.*.tmp")
        assert left in temporaries
        living.communicate("end\n")
        assert living.returncode == 0 and os.listdir(tmp_path) == ["x"]
    assert (path / "half" if kind == "folder" else path).read_text(encoding="utf-8") == "half written\n"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_temporary_of_another_computer_is_kept_for_a_week(tmp_path, kind):
    """A network folder may lock on each computer separately, so that its writer may be alive."""
    path, write = tmp_path / "x", {"folder": atomic_folder, "file": atomic_write}[kind]
    with start(f"import platform\nplatform.node = lambda: 'other'\n{HELD}", kind, path) as killed:
        assert killed.stdout.readline() == "ready\n"
        killed.kill()
    left = {*tmp_path.glob("x.*")}
    with write(path):
        pass
    assert {*tmp_path.glob("x.*")} == left
    for one in left:
        os.utime(one, (0, 0))
    with write(path):
        pass
    assert os.listdir(tmp_path) == ["x"]


def test_the_folders_mode_is_that_of_any_new_folder(tmp_path):
    with atomic_folder(tmp_path / "x"):
        pass
    (tmp_path / "y").mkdir()
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_a_folder_does_not_replace_a_file(tmp_path):
    write_lines(tmp_path / "x", ["kept"])
    with pytest.raises(UserError, match="x is a file; name a folder"), atomic_folder(tmp_path / "x"):
        pass
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_text(encoding="utf-8") == "kept\n"


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
