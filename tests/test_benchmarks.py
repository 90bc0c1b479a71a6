"""Modules of benchmarks/: load.py, project.py and random_model.py."""

import asyncio
import sys

import numpy as np
import pytest
from conftest import ROOT, load_script

# By path: benchmarks/ is not on sys.path, since some of its scripts have the names of scripts of other folders.
PROJECT = sys.modules["project"] = load_script("benchmarks/project.py")
LOAD, RANDOM_MODEL = PROJECT.load("benchmarks/load.py"), PROJECT.load("benchmarks/random_model.py")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_the_end_of_an_abandoned_connection_does_not_reach_its_successor(monkeypatch):
    first = []

    async def serve(reader, writer):
        if not first:
            first.append(writer)  # reads nothing, so that the client's end stays open with unsent data
            return
        await reader.readuntil(b"\r\n\r\n")
        first[0].transport.abort()
        await asyncio.sleep(0.3)  # the client notices before it has its answer
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def ask_twice():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        connection = LOAD.Connection(server.sockets[0].getsockname()[1])
        monkeypatch.setattr(LOAD, "GIVE_UP", 0.2)
        statuses = [await LOAD.attempt(connection, b"x" * (1 << 25))]
        monkeypatch.setattr(LOAD, "GIVE_UP", 60)
        statuses.append(await LOAD.attempt(connection, b"GET / HTTP/1.1\r\n\r\n"))
        connection.close()
        server.close()
        return statuses

    assert asyncio.run(ask_twice()) == ["no answer: TimeoutError", 200]


def test_the_weights_are_the_same_each_time(tmp_path, monkeypatch):
    from paddlenlp.transformers import ErnieModel

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = ErnieModel.pretrained_init_configuration["ernie-3.0-nano-zh"] | size
    monkeypatch.setitem(ErnieModel.pretrained_init_configuration, "small", config)
    monkeypatch.setattr(RANDOM_MODEL, "DATA", ROOT / "data")
    first, second = (RANDOM_MODEL.random_checkpoint(tmp_path, "small", ["multi_label"], 16) for _ in range(2))
    weights = second.model.state_dict()
    for name, value in first.model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name].numpy(), err_msg=name)


def test_a_loaded_file_is_found_by_its_siblings_under_its_own_name():
    words = PROJECT.load("analysis/words.py")
    assert PROJECT.load("analysis/words.py") is words is sys.modules["words"]
    assert PROJECT.load("analysis/augmentation.py").split_words is words.split_words


def test_two_files_with_the_same_name_are_not_confused(monkeypatch):
    monkeypatch.setitem(sys.modules, "words", LOAD)
    with pytest.raises(ImportError, match="load.py is already loaded as 'words'"):
        PROJECT.load("analysis/words.py")


def test_every_figure_has_a_command(capsys, tmp_path, monkeypatch):
    figures = PROJECT.load("benchmarks/figures.py")
    assert figures.main() == 0, capsys.readouterr().err
    output = capsys.readouterr().out
    assert "memory-of-predictpy" in output and "benchmarks/predict_memory.py" in output
    (tmp_path / "benchmarks").mkdir()
    row = "| what | result |\n| --- | --- |\n| speed | [2 times](benchmarks/RESULTS.md#no-speed) |\n"
    (tmp_path / "README.md").write_text(f"## Figures\n\n{row}", encoding="utf-8")
    results = f"## Speed\n\n    python benchmarks/gone.py\n\n{row}\n## Size\n\n{row}"
    (tmp_path / "benchmarks" / "RESULTS.md").write_text(results, encoding="utf-8")
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    assert figures.main() == 1
    problems = ["RESULTS.md, Size: a table without", "README.md, speed: no section", "benchmarks/gone.py is not there"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(problem) for line, problem in zip(lines, problems, strict=True)] == [True] * 3
