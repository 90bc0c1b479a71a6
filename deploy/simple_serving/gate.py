"""What every request passes through: an id, the API key, figures, one line of log; and no text in any of them."""

import asyncio
import hmac
import json
import re
import secrets
import time
import traceback

from text_cls.cli import UserError, logger

OPEN = frozenset(("/", "/docs", "/openapi.json", "/health/live", "/health/ready"))  # without the API key
QUIET = frozenset(("/health/live", "/health/ready", "/metrics"))  # asked every few seconds: logged when they fail only
CLIENT_LEFT = 499  # nginx's number for it; nobody sees it but the log and the figures
ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


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
        """A fault of the user's at the start is told in a sentence, not by a traceback."""
        fault = None

        async def tell(message):
            if message["type"] == "lifespan.startup.failed" and self.state.fault:
                nonlocal fault
                fault = self.state.fault
                message = {**message, "message": "" if self.state.told else f"error: {fault}"}
            await send(message)

        try:
            await self.app(scope, receive, tell)
        except UserError:
            if not fault:
                raise

    async def _request(self, scope, receive, send):
        service, started, status = self.state.service, time.perf_counter(), None
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        number = given if ID.fullmatch(given) else secrets.token_hex(6).encode()
        record = scope["record"] = {}
        service.metrics.under_way.inc()

        async def answer(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = ((b"x-request-id", number), (b"x-content-type-options", b"nosniff"))
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        try:
            if service.settings.api_key and not self._may_pass(scope, headers, service.settings.api_key):
                await refuse(
                    answer,
                    401,
                    "an API key is wanted in the header X-API-Key or Authorization: Bearer",
                    [(b"www-authenticate", b"Bearer")],
                )
            else:
                await self.app(scope, receive, answer)
        except asyncio.CancelledError:
            if not service.draining or status is not None:
                raise
            await refuse(answer, 503, "stopping", [(b"retry-after", b"5")])
        except Exception as error:
            log_failure(number, error)
            if status is None:
                await refuse(answer, 500, "the server failed; its log tells more under the id in X-Request-ID")
        finally:
            self._account(scope, service, number, status or CLIENT_LEFT, time.perf_counter() - started, record)

    def _may_pass(self, scope, headers, key):
        given = headers.get(b"x-api-key")
        if given is None:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            given = given.strip() if kind.lower() == b"bearer" else b""
        # Compared even where it is not needed, and in the same time whatever it is.
        return hmac.compare_digest(given, key.encode("ascii")) or scope["path"] in OPEN

    def _account(self, scope, service, number, status, seconds, record):
        route = getattr(scope.get("route"), "path", "other")
        service.metrics.under_way.dec()
        service.metrics.requests.labels(route, str(status)).inc()
        service.metrics.seconds.labels(route).observe(seconds)
        if status == 500:
            service.metrics.errors.inc()
        if route not in QUIET or status >= 400:
            told = "".join(f" {name}={value}" for name, value in record.items())
            method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
            logger.info("%s %s %s %d %.1f ms%s", number.decode(), method, route, status, 1000 * seconds, told)


async def refuse(send, status, detail, headers=()):
    body = json.dumps({"detail": detail}).encode()
    kind = (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*kind, *headers]})
    await send({"type": "http.response.body", "body": body})


def log_failure(number, error):
    """Where an exception came from. Its message is left out: it may quote a text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s\n%s", number.decode(), type(error).__name__, frames)
