"""The FastAPI application: routes, statuses, and the OpenAPI schema they are described by."""

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

from batcher import Closed, Full
from docs import render
from gate import CLIENT_LEFT, OPEN, Gate
from metrics import Metrics
from schemas import Answer, Info, Invalid, refine
from service import RETRIEVAL, ROUTES, Service
from settings import parse_args
from text_cls.cli import PACKAGES, UserError

STOPS = "the server stops, or its model has failed"
NOTHING_ELSE = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
STATUSES = {  # what any route, or that of the texts, may answer but 200
    401: "the API key is missing or wrong",
    404: "no such route, or not the one that fits the bundle",
    405: "the route takes another method",
    408: "the request did not arrive whole in time",
    413: "the request is too large",
    415: "the body is of another type than application/json in UTF-8",
    422: "something in the request cannot be answered",
    500: "a fault of the server's",
    503: "full, stopping, or without its index: try again after Retry-After seconds",
    504: "no answer within the deadline",
}


def answers(*statuses):
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Fault"}}}
    return {status: {"description": STATUSES[status], "content": content} for status in (401, 404, 405, *statuses)}


def create_app(settings=None):
    """The application. It loads nothing before it is started; `settings` None: of the environment, at that time."""
    # told: who gives the settings tells of a fault at the start, too.
    state = SimpleNamespace(service=None, fault=None, told=settings is not None)

    @asynccontextmanager
    async def lifespan(app):
        logging.raiseExceptions = False  # a log on a full disk is no reason to fail, nor to say so at every line
        try:
            state.service = Service(settings or parse_args([]))
            await asyncio.to_thread(state.service.load)
            state.page = (HERE / "index.html").read_text(encoding="utf-8")
        except UserError as error:
            state.fault = error
            raise
        except ModuleNotFoundError as error:
            if error.name not in PACKAGES:
                raise
            state.fault = UserError(f"{error}. {PACKAGES[error.name]}")
            raise state.fault from error
        state.service.heed_signals()
        yield
        await asyncio.to_thread(state.service.close)

    app = FastAPI(
        title="Text classification",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        description="Multi-label and hierarchical labels of texts.",
    )
    app.state.own = state
    app.add_middleware(Gate, state=state)
    add_routes(app, state)
    app.add_exception_handler(HTTPException, explain)
    return app


class TooLarge(Exception):
    pass


def fault(status, detail, **headers):
    return JSONResponse({"detail": detail}, status, {name.replace("_", "-"): value for name, value in headers.items()})


async def explain(request, error):
    """Starlette's own refusals, in sentences."""
    details = {404: "no such route; /docs lists them", 405: "this route takes another method; see the header Allow"}
    return JSONResponse({"detail": details.get(error.status_code, error.detail)}, error.status_code, error.headers)


def add_routes(app, state):
    @app.get("/", summary="A page for people", response_class=HTMLResponse, responses=answers())
    async def page():
        return HTMLResponse(state.page, headers={"Content-Security-Policy": policy_of(state.page)})

    @app.get("/info", summary="Labels, route and limits of the bundle", response_model=Info, responses=answers())
    async def info():
        return JSONResponse(state.service.info)

    def add_task(task):
        question = {"application/json": {"schema": {"$ref": "#/components/schemas/Question"}}}
        extra = {"requestBody": {"required": True, "content": question}}
        faults = answers(408, 413, 415, 422, 500, 503, 504)

        fits = "they are found by an index" if task == RETRIEVAL else f"they are {task}"

        @app.post(
            ROUTES[task],
            summary=f"Labels of texts, where {fits}",
            response_model=Answer,
            responses=faults,
            openapi_extra=extra,
            operation_id=ROUTES[task].removeprefix("/models/"),
        )
        async def classify(request: Request):
            return await label(request, state.service, task)

    for task in ROUTES:
        add_task(task)

    @app.get("/health/live", summary="The process runs", responses=answers())
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", summary="Texts are accepted", responses=answers(503))
    async def ready() -> dict[str, str]:
        try:
            state.service.check_alive()
        except Closed as error:
            return fault(503, f"not ready: {str(error) or STOPS}", Retry_After="5")
        return {"status": "ready"}

    plain = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "figures for Prometheus"}}

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response, responses=plain | answers())
    async def metrics():
        return Response(state.service.metrics.page(), media_type=Metrics.CONTENT_TYPE)

    @app.get("/openapi.json", summary="This description, for programs", responses=answers())
    async def openapi() -> dict:
        return JSONResponse(schema_of(app, state.service))

    @app.get("/docs", summary="This description, for people", response_class=HTMLResponse, responses=answers())
    async def docs():
        headers = {"Content-Security-Policy": f"{NOTHING_ELSE}; style-src 'unsafe-inline'; img-src data:"}
        return HTMLResponse(render(schema_of(app, state.service)), headers=headers)


def schema_of(app, service):
    if app.openapi_schema is None:
        keys = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "bearer": {"type": "http", "scheme": "bearer"},
        }
        schema = refine(app.openapi(), service.limits, service.longest)
        for path in OPEN:
            for operation in schema["paths"][path].values():
                operation["security"] = []
                del operation["responses"]["401"]
        if service.settings.api_key:
            schema["components"]["securitySchemes"] = keys
            schema["security"] = [{name: []} for name in keys]
    return app.openapi_schema


def policy_of(page):
    """A policy under which the page's own script and style run, by their SHA-256, and nothing else."""

    def hashes(tag):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digests = (base64.b64encode(hashlib.sha256(part.encode("utf-8")).digest()).decode() for part in parts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    allowed = f"script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; img-src data:"
    return f"{NOTHING_ELSE}; {allowed}"


# ------------------------------------------------------------------------------------------------- one request of texts


async def label(request, service, task):
    """The answer to a POST of texts, whatever it holds and whenever it comes."""
    if task != service.task:
        what = "labels are found by an index" if service.task == RETRIEVAL else f"labels are {service.task}"
        return fault(404, f"this bundle's {what}; POST to {service.route}")
    if problem := type_problem(request.headers):
        return fault(415, problem)
    try:
        service.check()
        with service.hold() as body:
            await asyncio.wait_for(read_body(request, service, body), service.settings.receive_seconds)
            with service.accept():
                work = service.answer(bytes(body), request.scope["record"])
                return await in_time(request, work, service.settings.deadline_seconds)
    except TooLarge:
        most = service.settings.max_body_bytes
        return fault(413, f"more than {most} bytes; send fewer texts in a request, or cut them")
    except asyncio.TimeoutError:
        seconds = service.settings.receive_seconds
        detail = f"the request did not arrive whole within {seconds:g} s; send it faster, or less of it"
        return fault(408, detail, Connection="close")
    except Invalid as error:
        return fault(422, str(error))
    except Full as error:
        return fault(503, f"too much to do; try again in {error.retry_after} s", Retry_After=str(error.retry_after))
    except Closed as error:
        return fault(503, f"{str(error) or STOPS}; try again in 5 s", Retry_After="5")
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


def type_problem(headers):
    kind, _, options = headers.get("content-type", "").partition(";")
    charset = re.search(r"charset=\"?([^\s;\"]+)", options, re.I)
    if kind.strip().lower() != "application/json":
        return "send JSON, with the header Content-Type: application/json"
    if charset and charset[1].lower() not in ("utf-8", "utf8"):
        return "send JSON in UTF-8"
    if headers.get("content-encoding", "identity").lower() != "identity":
        return "send the body as it is, without Content-Encoding"
    return None


async def read_body(request, service, body):
    """Appends the request's body to the bytearray `body`. TooLarge by what it says of itself, or by what has come."""
    most, length = service.settings.max_body_bytes, request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise TooLarge
    async for piece in request.stream():
        if len(body) + len(piece) > most:
            raise TooLarge
        service.receive(body, piece)


async def in_time(request, coroutine, seconds):
    """The answer of a coroutine, unless time is up or the client gone; then it is cancelled."""
    work, gone = asyncio.ensure_future(coroutine), asyncio.ensure_future(departure(request.receive))
    try:
        done, _ = await asyncio.wait((work, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if work in done:
            return Response(work.result(), media_type="application/json")
        if gone in done:
            return Response(status_code=CLIENT_LEFT)
        return fault(504, f"no answer within {seconds:g} s; send fewer texts in a request, or try again later")
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))


async def departure(receive):
    while (await receive())["type"] != "http.disconnect":
        pass
