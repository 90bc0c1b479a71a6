"""What uvicorn lacks: a time limit for silent connections, and a port that stays open until the last answer."""

import math
import socket
import time

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from settings import CLOSING_SECONDS
from text_cls.cli import logger


def protocol_of(seconds):
    """uvicorn's HTTP/1.1, but a connection is closed if its client sends no request or reads nothing for `seconds`.

    uvicorn itself waits forever for the first request, for the rest of a request's head, and for a client to read.
    A client that reads slowly gets its whole answer, however long that takes.
    """

    class Protocol(H11Protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                # Otherwise a socket accepts megabytes at a time, and only once a third of what it holds is read. What
                # is left in the buffer would then not distinguish a slow reader from one that reads nothing.
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 16)
            self._watch()

        def on_response_complete(self):
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc):
            self._timer.cancel()
            super().connection_lost(exc)

        def _watch(self):
            """Restarts the timer: no request is pending, and the unsent part of an answer may just have grown."""
            if getattr(self, "_timer", None):
                self._timer.cancel()
            self._look_again(math.inf)

        def _look_again(self, left):
            self._left = left  # unsent bytes of answers at the last look
            self._timer = self.loop.call_later(seconds, self._end)

        def _end(self):
            left = self.transport.get_write_buffer_size()
            idle = self.cycle is None or self.cycle.response_complete
            if left >= self._left or (idle and not left):  # the client reads nothing, or sends nothing
                self.transport.abort()
            else:
                self._look_again(left or math.inf)

    return Protocol


class Server(uvicorn.Server):
    """After SIGTERM keeps its port open, answering new requests with 503, until all accepted ones are answered."""

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
    """Serves on a bound socket until SIGTERM or SIGINT. Raises the UserError that prevented the start, if any."""
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
    state = app.state.server
    try:
        Server(config, state, settings.shutdown_seconds - CLOSING_SECONDS).run(sockets=[bound])
    except SystemExit:
        raise state.start_error or SystemExit(1) from None
