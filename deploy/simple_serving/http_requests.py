"""h11's parser of requests, with limits: on what a request may cost to parse, and on its head.

A part of a request costs the parser about as much whether it has one byte or a thousand: a chunk, a header, a TCP
segment. httptools is 50 times as fast, but uvicorn's protocol for it limits neither heads nor pipelined requests.
"""

import time

import h11

from text_cls.language import N_, tr

HEAD_BYTES = 16384  # of a request's head, or of what follows the last chunk
HEAD_LINES = 100
FREE_PIECES = 1000  # chunks and reads of a request that may be as small as they like; the others must average
PIECE_BYTES = 64  # bytes or more
SHORT_REST = 65536  # bytes of a body that are read after an answer that did not need them
DETAILS = {
    400: N_("this is not a valid HTTP request"),
    408: N_("the head of the request did not arrive in time; send it faster"),
    414: N_("the address is too long; a request's head may have {bytes} bytes"),
    431: N_("the headers are too large; a request's head may have {bytes} bytes and {lines} lines"),
    501: N_("send the body with Content-Length, or with Transfer-Encoding: chunked and no other"),
}
ENDED_EARLY = N_("the request ended before the end of its head, or of its body; check Content-Length")
SMALL_PIECES = N_(
    "the request arrived in too many small pieces; send its body in larger chunks, or with Content-Length"
)
NO_REQUEST = h11.Request(method="-", target="/", headers=[("host", "-")])  # what was sent instead has no method


class Requests(h11.Connection):
    """The requests of one connection. What is refused becomes `NO_REQUEST`, with `refusal` for the application.

    `refusal`: (status, detail) once something has been refused; nothing is parsed afterwards. `left`: bytes that the
    body still lacks, if its length was announced. `ended`: when the last byte of the request arrived, or None.
    """

    def __init__(self):
        super().__init__(h11.SERVER, HEAD_BYTES)
        self.refusal, self.overdue = None, False
        self._begin()

    def _begin(self):
        self.left, self.ended, self._pieces, self._bytes = 0, None, 0, 0

    @property
    def has_part(self):
        """Whether the client has sent something that is not a whole request, and may send more."""
        data, at_end = self.trailing_data
        return not at_end and (bool(data) or self.their_state in (h11.SEND_BODY, h11.ERROR))

    def start_next_cycle(self):
        super().start_next_cycle()
        self._begin()

    def next_event(self):
        if self.refusal:
            return h11.NEED_DATA
        in_head = self.their_state is h11.IDLE
        try:
            event = self._next_within_limits()
        except h11.RemoteProtocolError as error:
            if self.ended:  # whatever follows the last request of a connection
                return h11.PAUSED
            self.refusal = self._refusal_of(error, in_head)
            return NO_REQUEST if in_head else h11.NEED_DATA
        return h11.NEED_DATA if type(event) is h11.ConnectionClosed else event  # uvicorn does not know that one

    def _refusal_of(self, error, in_head):
        """(status, detail), without h11's own messages, which quote the request."""
        data, at_end = self.trailing_data
        if error.args[0] == tr(SMALL_PIECES) or at_end:
            return 400, tr(ENDED_EARLY) if at_end else tr(SMALL_PIECES)
        status = error.error_status_hint
        if status == 431 and in_head and b"\n" not in data:
            status = 414
        return status, tr(DETAILS[status], bytes=HEAD_BYTES, lines=HEAD_LINES)

    def _next_within_limits(self):
        if self.overdue:
            raise h11.RemoteProtocolError("", 408)
        event = super().next_event()
        self._pieces += 1
        kind = type(event)  # isinstance takes ten times as long with h11's classes
        if kind is h11.Request:
            headers = dict(event.headers)
            self.left = 0 if b"transfer-encoding" in headers else int(headers.get(b"content-length", 0))
        elif kind is h11.Data:
            self._bytes += len(event.data)
            self.left = max(0, self.left - len(event.data))
        elif kind is h11.EndOfMessage:
            self.ended = time.monotonic()
        elif event is h11.NEED_DATA and self.trailing_data[0].count(b"\n") > HEAD_LINES:
            raise h11.RemoteProtocolError("", 431)
        if self._pieces > FREE_PIECES + self._bytes // PIECE_BYTES and not self.ended:
            raise h11.RemoteProtocolError(tr(SMALL_PIECES))
        return event

    def send(self, event):
        """As h11's, but an answer to a request that is not read to its end says that the connection will be closed.

        A short rest of a body is read, unless the client waits for permission to send it.
        """
        if type(event) is h11.Response and (
            self.refusal
            or self.they_are_waiting_for_100_continue
            or (self.their_state is h11.SEND_BODY and not 0 < self.left <= SHORT_REST)
        ):
            headers = [*event.headers, (b"connection", b"close")]
            event = h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)
        return super().send(event)
