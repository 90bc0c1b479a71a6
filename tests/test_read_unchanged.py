"""Changes that leave few traces, made while a reader is between its two files; it must not return a mixture."""

import os
import shutil
import time
from pathlib import Path

import pytest

from text_cls.cli import UserError
from text_cls.files import _exchange, read_unchanged


@pytest.fixture
def folders(tmp_path):
    """Folders a, b and c, each with the files 1 and 2 that contain its name."""
    for name in "abc":
        Path(tmp_path, name).mkdir()
        for file in "12":
            Path(tmp_path, name, file).write_text(name, encoding="utf-8")
    return tmp_path


def read_with(folder, *changes):
    """What a reader of a folder gets that makes these changes after the first file, and then after the second one."""
    left = list(changes)

    def read():
        found = ""
        for file in "12":
            found += Path(folder, file).read_text(encoding="utf-8")
            if left:
                left.pop(0)()
        return found

    return read_unchanged(folder, read)


def test_a_folder_that_was_replaced_and_put_back(folders):
    def swap():
        _exchange(str(folders / "b"), str(folders / "a"))

    assert read_with(folders / "a", swap, swap) == "aa"


def test_a_link_that_led_elsewhere_for_a_while(folders):
    link = folders / "current"
    link.symlink_to(folders / "a")

    def lead(target):
        (folders / "new").symlink_to(folders / target)
        os.replace(folders / "new", link)

    assert read_with(link, lambda: lead("b"), lambda: lead("a")) == "aa"
    assert read_with(link, lambda: lead("c")) == "cc"
    (folders / "parent").symlink_to(folders)
    assert read_with(folders / "parent" / "b", lambda: None) == "bb"


def test_a_file_that_was_written_in_place_with_its_size_and_time_kept(folders):
    path = folders / "a"

    def write():
        for file in "12":
            before = (path / file).stat()
            Path(path, file).write_text("x", encoding="utf-8")
            os.utime(path / file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert read_with(path, write) == "xx"


def test_a_change_in_the_tick_in_which_the_folder_was_written(tmp_path):
    """Both changes may get the same time, so that no stamp could tell them apart."""
    path, waits = tmp_path / "a", []
    path.mkdir()
    (path / "1").write_text("a", encoding="utf-8")
    start = time.time()

    def read():
        waits.append(time.time() - start)

    read_unchanged(path, read)
    assert len(waits) == 1 and waits[0] >= 0.01


def test_a_folder_that_is_gone_is_the_readers_own_error(folders):
    with pytest.raises(FileNotFoundError):
        read_with(folders / "d")
    with pytest.raises(FileNotFoundError):
        read_with(folders / "a", lambda: shutil.rmtree(folders / "a"))


def test_readers_of_readers_try_five_times_not_twenty_five(folders):
    path, calls = folders / "a", []

    def inner():
        calls.append(len(calls))
        (path / "1").write_text("x" * len(calls), encoding="utf-8")

    with pytest.raises(UserError, match="changes again and again"):
        read_unchanged(path, lambda: read_unchanged(path, inner))
    assert len(calls) == 5
