"""uvicorn with what it lacks: an end to silent connections, and an open door while the last answers are made."""

import sys
import time
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from cli import logger  # noqa: E402


def protocol_of(seconds):
    """uvicorn's HTTP/1.1 that lets no connection be without a request for longer than so many seconds.

    uvicorn itself waits for ever for the first request, for the rest of a request's head, and for a client to read.
    """

    class Protocol(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            self._watch()

        def on_response_complete(self):
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc):
            self._timer.cancel()
            super().connection_lost(exc)

        def _watch(self):
            if getattr(self, "_timer", None):
                self._timer.cancel()
            self._timer = self.loop.call_later(seconds, self._end)

        def _end(self):
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    return Protocol


class Server(uvicorn.Server):
    """Answers on, with 503 to what is new, until what was accepted is done; only then it closes the door."""

    def __init__(self, config, state, seconds):
        super().__init__(config)
        self._state, self._seconds, self._end = state, seconds, None

    async def startup(self, sockets=None):
        await super().startup(sockets)
        host, port = sockets[0].getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        logger.info("Ready: POST http://%s:%d%s", where, port, self._state.service.route)

    async def on_tick(self, counter):
        if not await super().on_tick(counter):
            return False
        self._end = self._end or time.monotonic() + self._seconds
        return not self._state.service.requests or time.monotonic() > self._end


def serve(app, bound, settings):
    """Serves on a bound socket until SIGTERM or SIGINT. Raises the UserError that keeps it from starting."""
    config = uvicorn.Config(
        app, http=protocol_of(settings.receive_seconds), ws="none", lifespan="on", log_level="warning",
        access_log=False, server_header=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    state = app.state.own
    try:
        Server(config, state, settings.shutdown_seconds - 2).run(sockets=[bound])
    except SystemExit:
        raise state.fault or SystemExit(1) from None
