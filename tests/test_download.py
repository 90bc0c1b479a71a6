import io
import shutil
import socket
import tarfile
import threading

import pytest
from conftest import ROOT, lines_of

import download

SIZES = (2000, 270, 55)  # of the example data, used instead of the public set


@pytest.fixture
def archive(tmp_path):
    """A .tar.gz of the example data in a folder of its own, with a file that no data set has."""
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("train.txt", "dev.txt", "label.txt", "data.txt"):
            tar.add(ROOT / "data" / name, f"inner/{name}")
        add(tar, "../../escaped.txt", b"x")
        add(tar, "inner/setup.py", b"x")
    return path


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def fetch(run, tmp_path, monkeypatch):
    """fetch(*flags) -> (status, output); the set is expected to have the size of the example data."""
    monkeypatch.setitem(download.SIZES, "divorce", SIZES)

    def call(*flags):
        return run(download.main, "divorce", "--output_dir", tmp_path / "out" / "divorce", *flags)

    return call


def left_behind(tmp_path):
    out = tmp_path / "out"
    return sorted(path.name for path in out.iterdir()) if out.exists() else []


def test_from_an_archive(fetch, archive, tmp_path):
    status, output = fetch("--archive", archive)
    assert status == 0 and "checked and complete" in output
    folder = tmp_path / "out" / "divorce"
    assert sorted(path.name for path in folder.iterdir()) == ["data.txt", "dev.txt", "label.txt", "train.txt"]
    assert lines_of(folder / "train.txt") == lines_of(ROOT / "data" / "train.txt")
    assert not list(tmp_path.rglob("escaped.txt")) and not list(tmp_path.parent.glob("escaped.txt"))
    status, output = fetch("--archive", archive)
    assert status == 2 and "already exists; remove it" in output


def test_over_the_network(fetch, archive, file_server, tmp_path):
    address, folder = file_server
    shutil.copy(archive, folder)
    status, output = fetch("--url", f"{address}/set.tar.gz")
    assert status == 0 and left_behind(tmp_path) == ["divorce"]


def test_a_missing_source(fetch, file_server, tmp_path):
    status, output = fetch("--url", f"{file_server[0]}/nothing.tar.gz")
    assert status == 2 and "ot found" in output and "then use --archive FILE" in output and left_behind(tmp_path) == []


def test_a_connection_that_breaks_off(fetch, archive, tmp_path):
    content = archive.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
                connection.sendall(content[: len(content) // 2])

        threading.Thread(target=answer, daemon=True).start()
        status, output = fetch("--url", f"http://127.0.0.1:{listener.getsockname()[1]}/set.tar.gz")
    assert status == 2 and "stopped after" in output and left_behind(tmp_path) == []


def test_half_an_archive(fetch, archive, tmp_path):
    half = tmp_path / "half.tar.gz"
    half.write_bytes(archive.read_bytes()[:20000])
    status, output = fetch("--archive", half)
    assert status == 2 and "not a complete .tar.gz archive" in output and left_behind(tmp_path) == []
    status, output = fetch("--archive", tmp_path / "nothing.tar.gz")
    assert status == 2 and "no such file" in output


def test_another_size_than_published(fetch, archive, tmp_path, monkeypatch):
    monkeypatch.setitem(download.SIZES, "divorce", (14377, 1611, 20))
    status, output = fetch("--archive", archive)
    assert status == 2 and "has 2000 + 270 rows and 55 labels, but 14377 + 1611 and 20 are published" in output
    assert left_behind(tmp_path) == []


def test_an_archive_without_the_files(fetch, tmp_path):
    path = tmp_path / "empty.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "inner/readme.md", b"nothing")
    status, output = fetch("--archive", path)
    assert status == 2 and "label.txt: No such file or directory" in output and left_behind(tmp_path) == []


def test_a_file_too_large_to_be_the_set(fetch, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 1000)
    status, output = fetch("--archive", archive)
    assert status == 2 and "so not the data set" in output and left_behind(tmp_path) == []
