"""benchmarks/load.py: what it says of a server's answers."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import load

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
        connection = load.Connection(server.sockets[0].getsockname()[1])
        monkeypatch.setattr(load, "GIVE_UP", 0.2)
        statuses = [await load.attempt(connection, b"x" * (1 << 25))]
        monkeypatch.setattr(load, "GIVE_UP", 60)
        statuses.append(await load.attempt(connection, b"GET / HTTP/1.1\r\n\r\n"))
        connection.close()
        server.close()
        return statuses

    assert asyncio.run(ask_twice()) == ["no answer: TimeoutError", 200]
