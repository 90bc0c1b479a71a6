"""What uvicorn lacks: limits for connections, a close that loses no answer, and a stop that loses no request."""

import asyncio
import contextlib
import math
import socket
import time

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from http_requests import Requests
from settings import CLOSING_SECONDS
from text_cls.cli import logger

READ_BYTES = 1024  # read at a time of what has to be parsed: a turn of the event loop never parses more
BULK_BYTES = 65536  # of what is only copied
DISCARDED_BYTES = 1 << 28  # of a request that has been answered already
HALF_CLOSE_SECONDS = 1  # a client that ends its side this soon after its request (nc -N) waits for the answer
ACCEPTED_AT_A_TIME = 32  # connections
BACKLOG = 2048  # connections that the system accepts for the server meanwhile
PAUSE_SECONDS = 0.1
GRACE_SECONDS = 1  # for requests on open connections, after the port is closed


class _Transport:
    """The transport of a connection, with a `close` of its own."""

    def __init__(self, transport, close):
        self._transport, self.close = transport, close

    def __getattr__(self, name):
        return getattr(self._transport, name)


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, with limits, for `seconds`, which `protocol_of` sets, and for bytes.

    A connection is closed if its client sends no request or reads nothing for `seconds`: uvicorn itself waits forever
    for the first request, for the rest of a request's head, and for a client to read. A client that reads slowly gets
    its whole answer, however long that takes.

    If the request has not been read to its end, the connection is closed only when its client has had time to read the
    answer: closed at once, the system would reset it, and the client might never see the answer.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conn = Requests()
        self._timer, self._lingers, self._discarded = None, False, 0

    def connection_made(self, transport):
        self._socket_transport = transport
        super().connection_made(_Transport(transport, self._close))
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Otherwise a socket accepts megabytes at a time, and only once a third of what it holds is read. What is
            # left in the buffer would then not distinguish a slow reader from one that reads nothing.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1 << 16)
        transport.max_size = READ_BYTES
        self._watch()

    def data_received(self, data):
        if self._lingers or self.conn.refusal:
            self._discarded += len(data)
            if self._discarded > DISCARDED_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        self._socket_transport.max_size = min(BULK_BYTES, max(READ_BYTES, self.conn.left))

    def eof_received(self):
        """Returns whether the connection stays open, to answer a client that has only ended its own side."""
        has_left = self.conn.ended and time.monotonic() - self.conn.ended > HALF_CLOSE_SECONDS
        if self._lingers or has_left or not (self._is_answering or self.conn.has_part):
            return False
        self.conn.receive_data(b"")
        self.handle_events()
        return True

    def _should_upgrade(self):
        return False  # without uvicorn's two warnings, as clients often ask for HTTP/2 this way

    def handle_events(self):
        super().handle_events()
        if self.conn.refusal:
            if self._is_answering:
                self.cycle.scope["refusal"] = self.conn.refusal
                self.cycle.message_event.set()
            else:
                self.transport.close()

    @property
    def _is_answering(self):
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self):
        super().on_response_complete()
        if self.conn.has_part:
            self._unset_keepalive_if_required()  # that timer is for connections between two requests
        self._watch()

    def connection_lost(self, exc):
        self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self):
        if self._is_answering:
            self.cycle.keep_alive = False
        else:
            self._socket_transport.close()

    # --------------------------------------------------------------------------------------------- the ways to close

    def _close(self):
        """Closes the connection; if its client may still be sending, only the server's side at first."""
        if not self.conn.has_part or self._socket_transport.is_closing():
            self._socket_transport.close()
        elif not self._lingers:
            self._lingers = True
            try:
                self._socket_transport.write_eof()
            except OSError:  # its client has just reset it, which asyncio has not read yet
                self._socket_transport.abort()
                return
            self._socket_transport.max_size = BULK_BYTES
            self.flow.resume_reading()
            self._watch()

    def _watch(self):
        """Restarts the timer: no request is pending, and the unsent part of an answer may just have grown."""
        if self._timer:
            self._timer.cancel()
        self._look_again(math.inf)

    def _look_again(self, left):
        self._left = left  # unsent bytes of answers at the last look
        self._timer = self.loop.call_later(self.seconds, self._end)

    def _end(self):
        left = self.transport.get_write_buffer_size()
        if left >= self._left:  # the client reads nothing
            self.transport.abort()
        elif left or self._is_answering:
            self._look_again(left or math.inf)
        elif self.conn.their_state is h11.IDLE and self.conn.has_part and not self.conn.refusal:
            self.conn.overdue = True
            self.handle_events()
            self._watch()
        else:
            self.transport.abort()


def protocol_of(seconds):
    return type("Protocol", (Protocol,), {"seconds": seconds})


class Server(uvicorn.Server):
    """After SIGTERM keeps its port open, answering new requests with 503, until all accepted ones are answered."""

    def __init__(self, config, state, seconds):
        super().__init__(config)
        self._state, self._seconds, self._end = state, seconds, None

    async def startup(self, sockets=None):
        await super().startup(sockets)
        # asyncio accepts as many connections in one turn of its loop as it lets the system queue.
        sockets[0].listen(BACKLOG)
        host, port = sockets[0].getsockname()[:2]
        where = f"[{host}]" if ":" in host else host
        logger.info("Ready: POST http://%s:%d%s", where, port, self._state.service.first.route)

    async def on_tick(self, counter):
        if not await super().on_tick(counter):
            return False
        requests = self._state.service.requests
        if self._end is None:
            self._end = time.monotonic() + self._seconds
            logger.info("Stopping: %d accepted requests will be answered, new ones get 503", requests)
        return not requests or time.monotonic() > self._end

    async def shutdown(self, sockets=None):
        """Closes the port, but not on clients that have just connected; then leaves time for requests on their way.

        Clients that ask again and again would always be about to connect. So they are left waiting for a moment; then
        all are accepted at once, and nobody is likely to connect before the next line closes the port.
        """
        loop, waiting = asyncio.get_running_loop(), []
        with contextlib.suppress(NotImplementedError):  # on Windows
            loop.remove_reader(sockets[0])
            await asyncio.sleep(PAUSE_SECONDS)
        with contextlib.suppress(OSError):  # nobody is left, or no file descriptor
            while True:
                waiting.append(sockets[0].accept()[0])
        self.servers[0].close()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)
        end = time.monotonic() + GRACE_SECONDS
        while self.server_state.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _protocol(self):
        return self.config.http_protocol_class(self.config, self.server_state, self.lifespan.state)


def serve(app, bound, settings):
    """Serves on a bound socket until SIGTERM or SIGINT. Raises the UserError that prevented the start, if any."""
    config = uvicorn.Config(
        app,
        http=protocol_of(settings.receive_seconds),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=ACCEPTED_AT_A_TIME,
        timeout_graceful_shutdown=1,
    )
    state = app.state.server
    try:
        Server(config, state, settings.shutdown_seconds - CLOSING_SECONDS).run(sockets=[bound])
    except SystemExit:
        raise state.start_error or SystemExit(1) from None
    logger.info("Stopped")
