"""What the benchmarks share: load.py and random_model.py."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


def benchmark(name):
    """A module of benchmarks/. That folder is not to be on sys.path: some of its scripts are named as rooms are."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOAD, RANDOM_MODEL = benchmark("load"), benchmark("random_model")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def test_the_end_of_a_connection_that_was_given_up_is_not_its_successors(monkeypatch):
    first = []

    async def serve(reader, writer):
        if not first:
            first.append(writer)  # reads nothing, so that the client's end of it stays open with what is unsent
            return
        await reader.readuntil(b"\r\n\r\n")
        first[0].transport.abort()
        await asyncio.sleep(0.3)  # the client learns of that before it has its answer
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
    monkeypatch.setattr(sys, "path", list(sys.path))
    first, second = (RANDOM_MODEL.random_checkpoint(tmp_path, "small", ["multi_label"], 16) for _ in range(2))
    weights = second.model.state_dict()
    for name, value in first.model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name].numpy(), err_msg=name)
