"""What every request passes through: an id, the API key, metrics and one log line. None of them contains a text."""

import asyncio
import base64
import binascii
import hmac
import json
import logging
import re
import secrets
import time
import traceback
from urllib.parse import quote

import tracing
from settings import host_name
from text_cls.cli import UserError, logger
from text_cls.language import tr

HEALTH = frozenset(("/health/live", "/health/ready"))
OPEN = HEALTH | {"/", "/docs", "/openapi.json"}  # without the API key
QUIET = HEALTH | {"/metrics"}  # requested every few seconds: logged only when they fail
CLIENT_LEFT = 499  # nginx's number for it, seen only in the log and the metrics
ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


class Refused(Exception):
    """The connection refuses the rest of a request. The arguments are the status and what to do."""


class Gate:
    """ASGI middleware around the application of a `Service`."""

    def __init__(self, app, state):
        self.app, self.state = app, state

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._request(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lifespan(self, scope, receive, send):
        """Reports a UserError at startup in a sentence, without a traceback."""
        reported = False

        async def report(message):
            nonlocal reported
            if message["type"] == "lifespan.startup.failed" and (error := self.state.start_error):
                reported = True
                message = {**message, "message": "" if self.state.caller_reports_errors else str(error)}
            await send(message)
            if reported:  # uvicorn would add that the startup has failed
                logging.getLogger("uvicorn.error").addFilter(lambda record: False)

        try:
            await self.app(scope, receive, report)
        except UserError:
            if not reported:
                raise

    async def _request(self, scope, receive, send):
        with tracing.request(dict(scope["headers"])) as span:
            await self._traced_request(scope, receive, send, span)

    async def _traced_request(self, scope, receive, send, span):
        service, started, status = self.state.service, time.perf_counter(), None
        headers = dict(scope["headers"])
        sent = headers.get(b"x-request-id", b"")
        number = sent if ID.fullmatch(sent) else secrets.token_hex(6).encode()
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # uvicorn, whose scope is the other, sends no body
        record = scope["record"] = {}
        service.metrics.under_way.inc()

        async def answer(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = headers_of(number, record, service.draining)
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        async def take():
            message = await receive()
            if "refusal" in scope:
                raise Refused(*scope["refusal"])
            return message

        try:
            if "refusal" in scope:
                await send_error(answer, *scope["refusal"])
            elif not self._is_asked(scope, headers, service.settings.allowed_hosts):
                await send_error(
                    answer, 421, tr("this is not a host of this server; add it to --allowed_hosts if it should be")
                )
            elif service.settings.api_key and not self._may_pass(scope, headers, service.settings.api_key):
                await send_error(
                    answer,
                    401,
                    tr("send the API key in the header X-API-Key or Authorization: Bearer"),
                    [(b"www-authenticate", b"Bearer")],
                )
            else:
                await self.app(scope, take, answer)
        except Refused as error:
            await send_error(answer, *error.args)
        except asyncio.CancelledError:
            if not service.draining or status is not None:
                raise
            await send_error(answer, 503, tr("the server is stopping"), [(b"retry-after", b"5")])
        except Exception as error:
            log_failure(number, error)
            if status is None:
                await send_error(answer, 500, tr("the server failed; its log has details under the id in X-Request-ID"))
        finally:
            seconds, status = time.perf_counter() - started, status or CLIENT_LEFT
            self._account(scope, service, number, status, seconds, record)
            route = getattr(scope.get("route"), "path", "other")
            tracing.describe(span, method_of(scope), route, status, record)

    def _is_asked(self, scope, headers, hosts):
        """Whether the header Host names this server. Probes of its health, which say little, may use any address."""
        if not hosts or scope["path"] in HEALTH:
            return True
        host = host_name(re.sub(r":\d*$", "", headers.get(b"host", b"").decode("latin-1")))
        return any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in hosts)

    def _may_pass(self, scope, headers, key):
        sent = headers.get(b"x-api-key")
        if sent is None:
            kind, _, sent = headers.get(b"authorization", b"").partition(b" ")
            known = {b"bearer": bytes.strip, b"basic": _password}
            sent = known.get(kind.lower(), lambda _: b"")(sent)
        # Compared even if it is not needed, and in constant time.
        return hmac.compare_digest(sent, key.encode("ascii")) or scope["path"] in OPEN

    def _account(self, scope, service, number, status, seconds, record):
        route = getattr(scope.get("route"), "path", "other")
        service.metrics.under_way.dec()
        service.metrics.requests.labels(route, str(status)).inc()
        service.metrics.seconds.labels(route).observe(seconds)
        if "bundle" in record:
            service.metrics.observe_answer(record["bundle"], record["version"], status, seconds)
        if status == 500:
            service.metrics.errors.inc()
        if route not in QUIET or status >= 400:
            bundle = {name: quote(record[name]) for name in ("bundle", "version") if name in record}
            sizes = {**{name: value for name, value in record.items() if name not in bundle}, **bundle}
            shown = "".join(f" {name}={value}" for name, value in sizes.items())
            milliseconds, method = round(1000 * seconds, 1), method_of(scope)
            fields = {"id": number.decode(), "method": method, "route": route, "status": status, "ms": milliseconds}
            line = "%(id)s %(method)s %(route)s %(status)d %(ms).1f ms"
            logger.info(line + shown.replace("%", "%%"), fields, extra={"fields": {**fields, **sizes}})


def headers_of(number, record, draining):
    """The headers that every answer has: its id, and the bundle that gave it."""
    own = [(b"x-request-id", number), (b"x-content-type-options", b"nosniff")]
    if "bundle" in record:
        own += [(b"x-bundle", quote(record["bundle"]).encode()), (b"x-bundle-version", record["version"].encode())]
    return own + ([(b"connection", b"close")] if draining else [])


def method_of(scope):
    return scope["method"] if scope["method"] in ("GET", "POST") else "other"


def _password(sent):
    """The password of basic authentication, the only kind that Label Studio has for ML backends."""
    try:
        return base64.b64decode(sent, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


async def send_error(send, status, detail, headers=()):
    body = json.dumps({"detail": detail}).encode()
    kind = (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*kind, *headers]})
    await send({"type": "http.response.body", "body": body})


def log_failure(number, error):
    """Logs where an exception came from, without its message, which may quote a text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s\n%s", number.decode(), type(error).__name__, frames)
