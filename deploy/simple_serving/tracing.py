"""Traces of requests by OpenTelemetry, if its package is installed and something sets up where they go.

    pip install opentelemetry-distro opentelemetry-exporter-otlp
    export OTEL_SERVICE_NAME=text-cls OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317
    opentelemetry-instrument python server.py

A request has a span, in the trace of its header `traceparent`, and within it one for each step. None has a text, nor
the message of an exception, which may quote one.
"""

import contextlib

try:
    from opentelemetry import propagate, trace
except ImportError:
    trace = None

NO_FASTAPI = {"tracing": False, "metrics": False, "logs": False}  # FastAPI's own, which record messages of exceptions
QUIET = {"record_exception": False, "set_status_on_exception": False}


def step(name):
    """A context: the span of one step of a request."""
    if trace is None:
        return contextlib.nullcontext()
    return trace.get_tracer("text_cls").start_as_current_span(name, **QUIET)


def request(headers):
    """A context: the span of a request, or None. headers: its raw ones, {name: value} in bytes."""
    if trace is None:
        return contextlib.nullcontext()
    sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
    options = {"context": propagate.extract(sent), "kind": trace.SpanKind.SERVER, **QUIET}
    return trace.get_tracer("text_cls").start_as_current_span("request", **options)


def describe(span, method, route, status, record):
    """Says in the span of a request what its log line says. record: sizes, bundle and version."""
    if span is None or not span.is_recording():
        return
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    span.set_attributes({f"text_cls.{name}": value for name, value in record.items()})
    if status >= 500:
        span.set_status(trace.StatusCode.ERROR)
