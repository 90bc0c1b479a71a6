"""One server.py, asked by several threads: connections stay open, and a busy server is asked again."""

import email.utils
import json
import random
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from urllib.parse import quote, urlsplit

from settings import API_KEY
from text_cls.cli import UserError
from text_cls.label_tree import SEPARATOR
from text_cls.language import N_, tr
from text_cls.long_texts import LongTexts

LONGEST_WAIT = 30  # maximum seconds between two tries, even if the server asks for more
REMEDIES = {  # by status; None for all others
    401: N_("Set the server's key in the environment: TEXT_CLS_API_KEY=..."),
    403: N_("Set the server's key in the environment: TEXT_CLS_API_KEY=..."),
    404: N_("Check --url: it needs the host and port of server.py; a route, if any, must be the one of its bundle"),
    413: N_("Send fewer texts per request: use a smaller --batch_size"),
    422: N_("Fix what the message names; the server's limits are at /info"),
    500: N_("The server's log says what happened"),
    503: N_("It is starting, stopping, busy or without its index: try again later, or with a smaller --concurrency"),
    504: N_("It is busy: try again later, or with a smaller --concurrency or --batch_size"),
    None: N_("Check --url: is it server.py that answers there?"),
}
TRIED_AGAIN = (408, 429, 502, 503, 504)


class Server:
    """One server, used by several threads; each keeps its own connection open.

    Args:
        url: http(s)://host:port, optionally with a proxy's path and the route of the labels.
        key: the API key, or None.
        timeout: seconds without a byte of an answer.
        retry_seconds: how long a request to a busy or restarting server is retried.
    """

    def __init__(self, url, key=None, timeout=60, retry_seconds=120):
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname, parts.port
        except ValueError:
            parts = None
        if not parts or parts.scheme not in ("http", "https") or not self._host:
            raise UserError(tr("--url {url}: expected an address such as http://127.0.0.1:8189", url=url))
        if key and not (key.isascii() and key.isprintable()):
            raise UserError(
                tr(
                    "{api_key} contains a character that is not allowed in a key; letters and digits are safe",
                    api_key=API_KEY,
                )
            )
        self.url, self._connect = url, HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._path, route, name = parts.path.rstrip("/").partition("/models/")
        self.route = route + name  # empty: the one that /info names
        self._headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
        self._timeout, self._retry_seconds = timeout, retry_seconds
        self._own, self._connections, self._closed = threading.local(), [], threading.Event()

    def info(self, bundle=None):
        """The server's route, labels and limits, how it reads long texts, and whether the labels are a hierarchy.

        bundle: name of the one to describe; None: the server's first.
        """
        info = self.ask("GET", "/info" if bundle is None else f"/info?bundle={quote(bundle, safe='')}", patient=False)
        try:
            hierarchical = any(SEPARATOR in name for name in info["labels"])
            if {"max_texts", "max_characters", "max_body_bytes"} <= set(info["limits"]) and "route" in info:
                how = LongTexts(**info.get("long_texts", {}))
                return {**info, "hierarchical": hierarchical, "long_texts": how}
        except (KeyError, TypeError):
            pass
        raise UserError(
            tr("{url} does not list its labels at /info. {remedy}", url=self.url, remedy=tr(REMEDIES[None]))
        )

    def ask(self, method, path, value=None, patient=True):
        """The JSON of the answer. Retries if the server is busy or, with `patient`, if it does not answer."""
        body = None if value is None else encoded(value)
        started = time.monotonic()
        for tries in range(1, sys.maxsize):
            try:
                status, headers, data = self._send(method, path, body)
            except (OSError, HTTPException) as error:
                problem, again, wanted = self._no_answer(error), patient, 0
            else:
                if status == 200:
                    return self._parse(data)
                problem, again = self._error_answer(status, data), status in TRIED_AGAIN
                wanted = seconds_to_wait(headers.get("Retry-After"))
            if not again:
                raise UserError(problem)
            # As long as the server asks, up to LONGEST_WAIT; at random, so that clients do not return together.
            wait = min(max(wanted, 0.25 * 2 ** min(tries, 9)), LONGEST_WAIT) * random.uniform(1, 1.5)
            spent = time.monotonic() - started
            if spent + wait > self._retry_seconds:
                raise UserError(
                    tr(
                        "{problem}. Tried {tries} times in {spent:.0f} s; --retry_seconds allows more",
                        problem=problem,
                        tries=tries,
                        spent=spent,
                    )
                )
            self._closed.wait(wait)

    def _send(self, method, path, body):
        """One try: (status, headers, bytes of the body)."""
        self._stop_if_closed()
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._connect(self._host, self._port, timeout=self._timeout)
            self._connections.append(connection)
        reused = connection.sock is not None
        try:
            if not reused:
                connection.connect()
            self._stop_if_closed()  # again, now that `close` sees the socket: one of them ends this request
            try:
                connection.request(method, self._path + path, body, self._headers)
            except BrokenPipeError:  # it refused the body, and may have answered before it hung up
                pass
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except ConnectionError:
            connection.close()
            if not reused:
                raise
            return self._send(method, path, body)  # the server may close an idle connection
        except BaseException:
            connection.close()  # half an answer may be left on it
            raise

    def _no_answer(self, error):
        if isinstance(error, TimeoutError):
            return tr(
                "{url}: no answer within {timeout:g} s; use a larger --timeout or a smaller --batch_size",
                url=self.url,
                timeout=self._timeout,
            )
        if isinstance(error, ConnectionRefusedError):
            start = tr("Start it (python server.py --bundle ../../export) or check --url")
            return tr("{url}: no server is running there. {start}", url=self.url, start=start)
        return tr("{url}: {error}. Check --url and the server's log", url=self.url, error=error or type(error).__name__)

    def _error_answer(self, status, data):
        try:
            detail = json.loads(data)["detail"]
        except (ValueError, KeyError, TypeError):
            detail = tr("not an answer from server.py")
        remedy = tr(REMEDIES.get(status, REMEDIES[None]))
        return f"{self.url} answers {status}: {str(detail).rstrip('.')}. {remedy}"

    def _parse(self, data):
        try:
            return json.loads(data)
        except ValueError:
            raise UserError(
                tr("the answer from {url} is not JSON. {remedy}", url=self.url, remedy=tr(REMEDIES[None]))
            ) from None

    def _stop_if_closed(self):
        if self._closed.is_set():
            raise UserError("stopped")

    def close(self):
        """Ends the requests of all threads."""
        self._closed.set()
        for connection in list(self._connections):
            if sock := connection.sock:  # read once: its thread may close it at any time
                try:
                    sock.shutdown(SHUT_RDWR)  # wakes a thread that waits for an answer
                except OSError:  # already closed at the other end
                    pass


def encoded(value):
    """The bytes of a value's JSON, as they are sent."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8")


def seconds_to_wait(header):
    """Seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3); 0 if it is neither."""
    if not header:
        return 0
    try:
        if header.isdecimal():
            return int(header)
        return max(0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0
