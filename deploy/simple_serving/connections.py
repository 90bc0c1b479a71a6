"""uvicorn with what it lacks: an end to silent connections, and an open door while the last answers are made."""

import math
import socket
import time

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from settings import CLOSING_SECONDS
from text_cls.cli import logger


def protocol_of(seconds):
    """uvicorn's HTTP/1.1 that ends a connection without a request, or whose client reads nothing, for so many seconds.

    uvicorn itself waits for ever for the first request, for the rest of a request's head, and for a client to read.
    A client that reads slowly gets its whole answer, however long that takes.
    """

    class Protocol(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                # Else a socket takes megabytes more once a third of those it has is read, and none until then: to look
                # at what is left would not tell who reads slowly from who reads nothing.
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 16)
            self._watch()

        def on_response_complete(self):
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc):
            self._timer.cancel()
            super().connection_lost(exc)

        def _watch(self):
            """Starts anew: no request is there now, and what is left of an answer may just have grown."""
            if getattr(self, "_timer", None):
                self._timer.cancel()
            self._look_again(math.inf)

        def _look_again(self, left):
            self._left = left  # bytes of answers that were still to be sent when it was last looked
            self._timer = self.loop.call_later(seconds, self._end)

        def _end(self):
            left = self.transport.get_write_buffer_size()
            idle = self.cycle is None or self.cycle.response_complete
            if left >= self._left or (idle and not left):  # its client reads nothing, or asks nothing
                self.transport.abort()
            else:
                self._look_again(left or math.inf)

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
        app,
        http=protocol_of(settings.receive_seconds),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    state = app.state.own
    try:
        Server(config, state, settings.shutdown_seconds - CLOSING_SECONDS).run(sockets=[bound])
    except SystemExit:
        raise state.fault or SystemExit(1) from None
