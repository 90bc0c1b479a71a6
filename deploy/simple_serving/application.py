"""The FastAPI application: routes, statuses, and the OpenAPI schema that describes them."""

import asyncio
import base64
import hashlib
import logging
import re
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

HERE = Path(__file__).resolve().parent

from admin import ADMIN, add_admin
from batcher import Closed, Full
from docs import render
from gate import CLIENT_LEFT, OPEN, Gate
from metrics import Metrics
from schemas import Answer, Info, Invalid, refine, share_errors
from served import ROUTES
from service import Service, TooSlow
from settings import parse_args
from studio_backend import add_label_studio
from text_cls.bundle import RETRIEVAL
from text_cls.cli import PACKAGES, UserError
from text_cls.language import LANGUAGES, N_, tr
from text_cls.long_texts import WINDOWS
from tracing import NO_FASTAPI

LATE_SECONDS = 1  # by which an answer may be late that only has to be written: to lose it would help nobody
NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STATUSES = {  # the errors that the routes may answer with
    400: N_("this is not valid HTTP, or it arrived in too many small pieces"),
    401: N_("the API key is missing or wrong"),
    403: N_("the server was started without an API key, which this route needs"),
    404: N_("no such route, or not the route of this bundle"),
    405: N_("the route does not accept this method"),
    408: N_("the request did not arrive in time"),
    409: N_("nothing was changed; the answer says why"),
    413: N_("the request is too large"),
    414: N_("the address is too long"),
    415: N_("the body is not application/json in UTF-8"),
    421: N_("the header Host names no host of this server"),
    422: N_("the request is not valid"),
    431: N_("the headers are too large"),
    500: N_("the server failed"),
    501: N_("the Transfer-Encoding is unknown"),
    503: N_("busy, stopping, or the index is unavailable: try again after Retry-After seconds"),
    504: N_("no answer within the deadline"),
}
EVERYWHERE = 400, 401, 404, 405, 408, 414, 421, 431, 501  # on every route


class TooLarge(Exception):
    """The body of a request is larger than allowed."""


STATUS_OF = {TooSlow: 408, TooLarge: 413, Invalid: 422, Full: 503, Closed: 503}  # errors that end a labelling request


def answers(*statuses):
    return {status: {"description": STATUSES[status]} for status in (*EVERYWHERE, *statuses)}


def create_app(settings=None):
    """The application. It loads the bundle at startup. If `settings` is None, they then come from the environment."""
    # A caller that passes settings (server.py) reports a startup error itself.
    state = SimpleNamespace(service=None, start_error=None, caller_reports_errors=settings is not None)

    @asynccontextmanager
    async def lifespan(app):
        logging.raiseExceptions = False  # a log on a full disk must neither fail nor add a message for every line
        try:
            state.service = Service(settings or parse_args([]))
            await asyncio.to_thread(state.service.load)
            if state.service.settings.label_studio:
                add_label_studio(app, state, label)
            state.page = (HERE / "index.html").read_text(encoding="utf-8")
        except UserError as error:
            state.start_error = error
            raise
        except ModuleNotFoundError as error:
            if error.name not in PACKAGES:
                raise
            state.start_error = UserError(f"{error}. {tr(PACKAGES[error.name])}")
            raise state.start_error from error
        state.service.heed_signals()
        yield
        await asyncio.to_thread(state.service.close)

    app = FastAPI(
        title=tr("Text classification"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # a redirect would lead to whatever the header Host says
        lifespan=lifespan,
        telemetry=NO_FASTAPI,
    )
    app.state.server = state
    app.add_middleware(Gate, state=state)
    for add in (add_pages, add_labels, add_health, add_metrics, add_documentation):
        add(app, state)
    add_admin(app, state, answers, error_response)
    app.add_exception_handler(HTTPException, explain)
    return app


def error_response(status, detail, headers=None):
    return JSONResponse({"detail": detail}, status, headers)


async def explain(request, error):
    """Starlette's own errors, in sentences."""
    details = {
        404: tr("no such route; see /docs"),
        405: tr("this route does not accept the method; see the header Allow"),
    }
    headers = error.headers
    if error.status_code == 405 and headers["Allow"] == "GET":
        headers = {"Allow": "GET, HEAD"}  # which the gate makes a GET
    return error_response(error.status_code, details.get(error.status_code, error.detail), headers)


def add_pages(app, state):
    @app.get("/", summary=N_("The web page"), response_class=HTMLResponse, responses=answers())
    async def page():
        return HTMLResponse(state.page, headers={"Content-Security-Policy": policy_of(state.page)})

    @app.get("/info", summary=N_("Labels, route and limits of the bundle"), response_model=Info, responses=answers(404))
    async def info(bundle: str | None = None):
        service = state.service
        served = service.first if bundle is None else service.bundles.get(bundle)
        if served is None:
            names = ", ".join(service.bundles)
            return error_response(404, tr("bundle: no bundle has this name; known are {names}", names=names))
        return JSONResponse(service.info_of(served))


def add_labels(app, state):
    for task in ROUTES:
        add_task(app, state, task)


def add_metrics(app, state):
    plain = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus metrics"}}

    @app.get("/metrics", summary=N_("Prometheus metrics"), response_class=Response, responses=plain | answers())
    async def metrics():
        return Response(state.service.metrics.page(), media_type=Metrics.CONTENT_TYPE)


def add_documentation(app, state):
    @app.get("/openapi.json", summary=N_("The OpenAPI schema"), responses=answers())
    async def openapi() -> dict:
        return JSONResponse(schema_of(app, state.service))

    @app.get("/docs", summary=N_("The API documentation"), response_class=HTMLResponse, responses=answers())
    async def docs(request: Request):
        code = request.query_params.get("lang")
        headers = {"Content-Security-Policy": f"{NOTHING_ELSE}; style-src 'unsafe-inline'; img-src data:"}
        page = render(schema_of(app, state.service), state.service.first.route, code if code in LANGUAGES else None)
        return HTMLResponse(page, headers=headers)


def add_task(app, state, task):
    question = {"application/json": {"schema": {"$ref": "#/components/schemas/Question"}}}
    extra = {"requestBody": {"required": True, "content": question}}

    @app.post(
        ROUTES[task],
        summary=N_("Labels of texts"),
        response_model=Answer,
        responses=answers(413, 415, 422, 500, 503, 504),
        openapi_extra=extra,
        operation_id=ROUTES[task].removeprefix("/models/"),
    )
    async def classify(request: Request):
        return await label(request, state.service, task)


def add_health(app, state):
    @app.get("/health/live", summary=N_("Whether the process runs"), responses=answers())
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", summary=N_("Whether texts are accepted"), responses=answers(503))
    async def ready() -> dict[str, str]:
        try:
            state.service.check_alive()
        except Closed as error:
            return error_response(503, tr("not ready: {error}", error=error), {"Retry-After": str(error.retry_after)})
        return {"status": "ready"}


def schema_of(app, service):
    """The OpenAPI schema of the routes that work with the served bundles, in the versions that answer now."""
    versions = [served.version for served in service.bundles.values()]
    if getattr(app.state, "described", None) != versions:
        app.openapi_schema = None  # of other versions, whose limits and example may differ
        app.openapi_schema = _schema_of(app, service)
        app.state.described = versions
    return app.openapi_schema


def _schema_of(app, service):
    first, tasks = service.first, service.by_task
    versions = [served.version for served in service.bundles.values()]
    windows = any(version.predictor.long_texts.mode == WINDOWS for version in versions)
    longest = max(version.longest for version in versions)
    schema = refine(app.openapi(), service.limits, longest, windows, list(service.bundles))
    for task in ROUTES.keys() - tasks.keys():
        del schema["paths"][ROUTES[task]]
    for path in OPEN:
        for operation in schema["paths"][path].values():
            operation["security"] = []
            del operation["responses"]["401"]
    for path in ADMIN:
        (parameter,) = schema["paths"][path]["post"]["parameters"]
        parameter.update(required=len(versions) > 1, schema={"type": "string", "enum": list(service.bundles)})
        if not service.settings.api_key:  # they only answer with a key
            del schema["paths"][path]
    share_errors(schema, STATUSES)
    kinds = tr(" and ").join(kind_of(task) for task in tasks)
    schema["info"]["description"] = tr(
        "Labels of texts, from {number} whose labels are {kinds}.", number=_number(len(versions)), kinds=kinds
    )
    schema["info"]["version"] = first.version.name
    for served in tasks.values():
        question, answer = served.version.example
        classify = schema["paths"][served.route]["post"]
        classify["requestBody"]["content"]["application/json"]["example"] = question
        classify["responses"]["200"]["content"]["application/json"]["example"] = answer
    if service.settings.api_key:
        keys = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        schema["components"]["securitySchemes"] = keys
        schema["security"] = [{name: []} for name in keys]
    return schema


def _number(bundles):
    return tr("a bundle") if bundles == 1 else tr("{count} bundles", count=bundles)


def kind_of(task):
    """How the labels of a bundle are, to follow "labels are"."""
    kinds = {"hierarchical": N_("hierarchical"), RETRIEVAL: N_("found by an index")}
    return tr(kinds.get(task, N_("flat")))


def policy_of(page):
    """A policy that allows the page's own script and style, by their SHA-256, and nothing else."""

    def hashes(tag):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digests = (base64.b64encode(hashlib.sha256(part.encode("utf-8")).digest()).decode() for part in parts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    allowed = f"script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; img-src data:"
    return f"{NOTHING_ELSE}; {allowed}"


# ---------------------------------------------------------------------------------------------- one labelling request


async def label(request, service, task, translate=None):
    """The response to a POST of texts, whatever it contains and however slowly it arrives.

    translate: coroutine function for a request of another form: from its body, and a function that asks the service as
        this route does, to the answer.
    """
    if task not in service.by_task:
        first = service.first
        return error_response(
            404,
            tr("this bundle's labels are {kind_of}; POST to {route}", kind_of=kind_of(first.task), route=first.route),
        )
    if problem := type_problem(request.headers):
        return error_response(415, problem)
    try:
        pieces = pieces_of(request, service.settings.max_body_bytes)
        async with service.admit(pieces, lambda: service.check_task(task)) as body:
            ran = asyncio.Event()

            def ask(body):
                return service.answer(task, body, request.scope["record"], ran)

            work = translate(body, ask) if translate else ask(body)
            return await in_time(request, work, ran, service.settings.deadline_seconds)
    except tuple(STATUS_OF) as error:
        return refusal(error)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


def refusal(error):
    """The response to a request that ended with one of the errors in `STATUS_OF`."""
    status = next(status for kind, status in STATUS_OF.items() if isinstance(error, kind))
    if status == 503:
        seconds = str(error.retry_after)
        return error_response(
            503, tr("{error}; try again in {seconds} s", error=error, seconds=seconds), {"Retry-After": seconds}
        )
    return error_response(status, str(error), {"Connection": "close"} if status == 408 else None)


def type_problem(headers):
    kind, _, options = headers.get("content-type", "").partition(";")
    charset = re.search(r"charset=\"?([^\s;\"]+)", options, re.I)
    if kind.strip().lower() != "application/json":
        return tr("send JSON, with the header Content-Type: application/json")
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        return tr("send JSON in UTF-8")
    if headers.get("content-encoding", "identity").lower() != "identity":
        return tr("send the body uncompressed, without Content-Encoding")
    return None


async def pieces_of(request, most):
    """Yields the request's body in pieces. Raises TooLarge if the header announces, or the client sends, too much."""
    too_large = TooLarge(tr("more than {most} bytes; send fewer texts per request, or shorten them", most=most))
    length, size = request.headers.get("content-length", ""), 0
    if length.isdecimal() and int(length) > most:
        raise too_large
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise too_large
        yield piece


async def in_time(request, coroutine, ran, seconds):
    """The response made of a coroutine's result; cancels it when time is up or the client has left.

    Args:
        ran: asyncio.Event; once it is set, the coroutine has `LATE_SECONDS` more.
    """
    work, gone = asyncio.ensure_future(coroutine), asyncio.ensure_future(departure(request.receive))
    try:
        done, _ = await asyncio.wait((work, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done and ran.is_set():
            done, _ = await asyncio.wait((work, gone), timeout=LATE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))
        if gone in done and work not in done:
            return Response(status_code=CLIENT_LEFT)
        if work.cancelled():
            text = tr(
                "no answer within {seconds:g} s; send fewer texts per request, or try again later", seconds=seconds
            )
            return error_response(504, text)
        return Response(work.result(), media_type="application/json")
    finally:
        gone.cancel()
        if not work.done():  # the server is stopping
            work.cancel()
            await asyncio.wait((work,))
        work.cancelled() or work.exception()  # retrieved, or asyncio logs it


async def departure(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
